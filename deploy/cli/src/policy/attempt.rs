//! One connection and one request, as a person states them, and as the sidecar would receive them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use kith_policy::{Headers, Principal};
use kith_proxy::rehearse::{self, Outcome, Sidecar};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Addresses that RFC 5737 keeps for examples.
const SOURCE: &str = "192.0.2.1:40000";
const DESTINATION: &str = "192.0.2.2:8080";
pub(super) const DESTINATION_PORT: u16 = 8080;

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct ConnectionStated {
    pub(super) peer: Option<String>,
    pub(super) source: String,
    pub(super) destination: String,
    pub(super) sni: Option<String>,
    pub(super) protocol: Protocol,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Protocol {
    #[default]
    Http,
    Tcp,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct RequestStated {
    pub(super) method: String,
    pub(super) host: String,
    pub(super) path: String,
    pub(super) headers: BTreeMap<String, OneOrMore>,
    pub(super) jwt: Option<JwtStated>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JwtStated {
    iss: String,
    #[serde(default)]
    sub: String,
    aud: Option<OneOrMore>,
    #[serde(default)]
    claims: Map<String, Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
pub(super) enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    /// One more.
    pub(super) fn push(&mut self, value: String) {
        match self {
            Self::One(first) => *self = Self::More(vec![std::mem::take(first), value]),
            Self::More(values) => values.push(value),
        }
    }
}

impl Default for ConnectionStated {
    fn default() -> Self {
        Self {
            peer: None,
            source: SOURCE.to_owned(),
            destination: DESTINATION.to_owned(),
            sni: None,
            protocol: Protocol::Http,
        }
    }
}

impl Default for RequestStated {
    fn default() -> Self {
        Self {
            method: "GET".to_owned(),
            host: "localhost".to_owned(),
            path: "/".to_owned(),
            headers: BTreeMap::new(),
            jwt: None,
        }
    }
}

/// Something that a sidecar can be asked.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) peer: Option<Principal>,
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) sni: Option<String>,
    /// `None` is opaque TCP.
    pub(super) request: Option<Request>,
}

#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) host: String,
    pub(super) path: String,
    headers: HeaderList,
    pub(super) token: Option<Token>,
}

#[derive(Debug)]
pub(super) struct Token {
    pub(super) issuer: String,
    pub(super) subject: String,
    claims: Map<String, Value>,
}

/// By lower-case name.
#[derive(Debug)]
struct HeaderList(BTreeMap<String, Vec<String>>);

impl Headers for HeaderList {
    fn for_each(&self, lower_case_name: &str, visit: &mut dyn FnMut(&[u8])) {
        let values = self.0.get(lower_case_name).into_iter().flatten();
        values.for_each(|value| visit(value.as_bytes()));
    }
}

/// What is wrong with a field.
type Mistake = (String, String);

impl Attempt {
    /// # Errors
    /// Everything wrong with it, by field: `connection.peer`, `request.headers.x-id`.
    pub(super) fn new(
        connection: &ConnectionStated,
        request: Option<&RequestStated>,
    ) -> Result<Self, Vec<Mistake>> {
        let mut mistakes = Vec::new();
        let mut wrong = |field: &str, message: String| mistakes.push((field.to_owned(), message));
        let peer = connection.peer.as_deref().and_then(|peer| {
            Principal::parse(peer)
                .map_err(|error| wrong("connection.peer", format!("`{peer}`: {error}")))
                .ok()
        });
        let source = address(&connection.source, true)
            .map_err(|message| wrong("connection.source", message));
        let destination = address(&connection.destination, false)
            .map_err(|message| wrong("connection.destination", message));
        let request = match (connection.protocol, request) {
            (Protocol::Tcp, None) => None,
            (Protocol::Tcp, Some(_)) => {
                let message = "opaque TCP has no request: remove it, or `protocol: tcp`";
                wrong("request", message.to_owned());
                None
            }
            (Protocol::Http, Some(request)) => Some(Request::new(request, &mut wrong)),
            (Protocol::Http, None) => Some(Request::new(&RequestStated::default(), &mut wrong)),
        };
        match (source, destination) {
            (Ok(source), Ok(destination)) if mistakes.is_empty() => Ok(Self {
                peer,
                source,
                destination,
                sni: connection.sni.clone(),
                request,
            }),
            _ => Err(mistakes),
        }
    }

    pub(super) fn ask(&self, sidecar: &Sidecar) -> Outcome {
        let asked = self.request.as_ref().map(|request| rehearse::Asked {
            method: &request.method,
            host: &request.host,
            target: &request.path,
            headers: &request.headers,
            token: request.token.as_ref().map(|token| kith_policy::Token {
                issuer: &token.issuer,
                subject: &token.subject,
                claims: &token.claims,
            }),
        });
        sidecar.inbound(&rehearse::Attempt {
            peer: self.peer.as_ref(),
            source: self.source.ip(),
            destination: self.destination,
            sni: self.sni.as_deref(),
            request: asked,
        })
    }
}

impl Request {
    fn new(stated: &RequestStated, wrong: &mut impl FnMut(&str, String)) -> Self {
        let RequestStated {
            method,
            host,
            path,
            headers,
            jwt,
        } = stated;
        if method.is_empty() || !method.bytes().all(is_token_byte) {
            wrong("request.method", format!("`{method}` is not a method"));
        }
        let mut list: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, values) in headers {
            let field = format!("request.headers.{name}");
            let lower = name.to_ascii_lowercase();
            if name.is_empty() || !name.bytes().all(is_token_byte) {
                wrong(&field, format!("`{name}` is not a header name"));
            } else if lower == "host" {
                wrong(&field, "say `host` instead, beside `headers`".to_owned());
            } else if list.contains_key(&lower) {
                let message = "the same header in another spelling: give its values as one list";
                wrong(&field, message.to_owned());
            }
            let values = match values {
                OneOrMore::One(value) => vec![value.clone()],
                OneOrMore::More(values) => values.clone(),
            };
            list.insert(lower, values);
        }
        Self {
            method: method.clone(),
            host: host.clone(),
            path: path.clone(),
            headers: HeaderList(list),
            token: jwt.as_ref().map(|jwt| Token::new(jwt, wrong)),
        }
    }
}

impl Token {
    fn new(stated: &JwtStated, wrong: &mut impl FnMut(&str, String)) -> Self {
        let mut claims = stated.claims.clone();
        for name in ["iss", "sub", "aud"] {
            if claims.contains_key(name) {
                let message = format!("say `{name}` beside `claims`, not in it");
                wrong(&format!("request.jwt.claims.{name}"), message);
            }
        }
        claims.insert("iss".to_owned(), stated.iss.clone().into());
        if !stated.sub.is_empty() {
            claims.insert("sub".to_owned(), stated.sub.clone().into());
        }
        match &stated.aud {
            None => {}
            Some(OneOrMore::One(audience)) => {
                claims.insert("aud".to_owned(), audience.clone().into());
            }
            Some(OneOrMore::More(audiences)) => {
                claims.insert("aud".to_owned(), audiences.clone().into());
            }
        }
        Self {
            issuer: stated.iss.clone(),
            subject: stated.sub.clone(),
            claims,
        }
    }
}

/// `ip:port`; the port of a caller matters to nobody and may be left out.
fn address(text: &str, port_optional: bool) -> Result<SocketAddr, String> {
    if port_optional && let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, 0));
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 || port_optional => Ok(address),
        _ => Err(format!("`{text}` is not `ip:port`")),
    }
}

/// RFC 9110 section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
