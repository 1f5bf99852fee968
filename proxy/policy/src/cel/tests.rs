//! Expressions and what they say, as tables.

mod attributes;
mod generated;
mod language;
mod limits;
mod refused;

use std::net::{IpAddr, SocketAddr};

use serde_json::{Map, Value as Json, json};

use super::{Env, Program};
use crate::{Connection, Headers, Principal, Request, Token};

struct Sent(Vec<(&'static str, &'static [u8])>);

impl Headers for Sent {
    fn for_each(&self, lower_case_name: &str, visit: &mut dyn FnMut(&[u8])) {
        for (name, value) in &self.0 {
            if *name == lower_case_name {
                visit(value);
            }
        }
    }
}

/// One request of a web shop; tests change what they are about.
struct Case {
    peer: Option<Principal>,
    peer_is_local: bool,
    source: IpAddr,
    remote: IpAddr,
    destination: SocketAddr,
    sni: Option<&'static str>,
    is_http: bool,
    method: &'static str,
    host: &'static str,
    path: &'static str,
    headers: Sent,
    token: Option<(&'static str, &'static str, Map<String, Json>)>,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            peer: Some(Principal::parse("spiffe://example.org/ns/shop/sa/web").unwrap()),
            peer_is_local: true,
            source: "10.1.2.3".parse().unwrap(),
            remote: "2001:db8::7".parse().unwrap(),
            destination: "[::ffff:10.9.9.9]:8080".parse().unwrap(),
            sni: Some("API.example.org"),
            is_http: true,
            method: "GET",
            host: "Orders.Shop.:8080",
            path: "/a/b",
            headers: Sent(vec![
                ("x-id", b"42"),
                ("x-twice", b"a"),
                ("x-twice", b"a"),
                ("x-binary", b"\xff"),
                ("x-address", b"::ffff:10.0.0.9"),
                ("x_under", b"u"),
            ]),
            token: Some(("https://issuer.example", "alice", claims())),
        }
    }
}

fn claims() -> Map<String, Json> {
    let claims = json!({
        "iss": "someone else",
        "sub": "alice",
        "aud": ["orders", "stock"],
        "azp": "web",
        "groups": ["admin", "staff"],
        "empty": [],
        "level": 3,
        "ratio": 0.5,
        "big": 18446744073709551615_u64,
        "exact": 9007199254740993_i64,
        "admin": true,
        "nothing": null,
        "address": {"city": "Bern", "lines": ["a", "b"]},
        "mixed": [1, "1", true, null],
    });
    match claims {
        Json::Object(claims) => claims,
        _ => Map::new(),
    }
}

impl Case {
    fn with<T>(&self, look: impl FnOnce(&Env<'_>) -> T) -> T {
        let connection = Connection {
            peer: self.peer.as_ref(),
            source: self.source,
            remote: Some(self.remote),
            destination: self.destination,
            sni: self.sni,
        };
        let request = Request {
            method: self.method,
            host: self.host,
            path: self.path,
            headers: &self.headers,
            token: self.token.as_ref().map(|(issuer, subject, claims)| Token {
                issuer,
                subject,
                claims,
            }),
        };
        look(&Env {
            connection: &connection,
            request: self.is_http.then_some(&request),
            peer_is_local: self.peer_is_local,
        })
    }

    /// `expected` is `true`, `false`, or the start of an error's text.
    #[track_caller]
    fn check(&self, source: &str, expected: &str) {
        let program = match Program::compile(source) {
            Ok(program) => program,
            Err(error) => panic!("{source}\ndoes not compile: {error}"),
        };
        let got = self.with(|env| match program.eval(env) {
            Ok(value) => value.to_string(),
            Err(error) => error.to_string(),
        });
        match expected {
            "true" | "false" => assert_eq!(got, expected, "{source}"),
            _ => assert!(got.starts_with(expected), "{source}\n{got}\n{expected}"),
        }
    }
}

#[track_caller]
fn check(source: &str, expected: &str) {
    Case::default().check(source, expected);
}

#[track_caller]
fn check_all(expected: &str, sources: &[&str]) {
    for source in sources {
        check(source, expected);
    }
}
