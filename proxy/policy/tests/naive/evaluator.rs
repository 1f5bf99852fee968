//! resources.md, "AuthorizationPolicy: exact meaning", sentence by sentence, on plain strings and
//! without any thought for speed.

use std::net::IpAddr;

use ipnet::IpNet;
use kith_policy::{
    Action, Condition, DefaultAction, Mesh, Operation, Policy, Principal, Reason, Rule, Source,
    Verdict,
};
use serde_json::Value;

use crate::generate::{Call, Caller, Claims};

pub(crate) type Outcome = (Reason, Option<String>, Option<u32>);

/// One evaluation: what is asked, and of which policy.
struct Case<'a> {
    mesh: &'a Mesh,
    policy: &'a Policy,
    caller: &'a Caller,
    call: Option<&'a Call>,
    /// What is said of the token is left out.
    any_token: bool,
}

impl<'a> Case<'a> {
    fn new(mesh: &'a Mesh, policy: &'a Policy, caller: &'a Caller, call: Option<&'a Call>) -> Self {
        Self {
            mesh,
            policy,
            caller,
            call,
            any_token: false,
        }
    }

    fn first_match(&self) -> Option<usize> {
        self.policy.rules.iter().position(|rule| self.rule(rule))
    }
}

/// What AUDIT and dry-run policies say, and whether the call would be allowed with the latter in force.
pub(crate) struct Shadows {
    pub(crate) told: Vec<(String, u32, Verdict)>,
    /// No ALLOW would match, and these dry-run ones are among them.
    pub(crate) missed: Vec<String>,
    pub(crate) would_allow: Option<bool>,
}

pub(crate) fn shadows(
    mesh: &Mesh,
    policies: &[Policy],
    caller: &Caller,
    call: Option<&Call>,
) -> Shadows {
    let id = |policy: &Policy| format!("{}/{}", policy.namespace, policy.name);
    let mut told = Vec::new();
    for (action, verdict) in [
        (Action::Deny, Verdict::Deny),
        (Action::Allow, Verdict::Allow),
        (Action::Audit, Verdict::Audit),
    ] {
        for policy in policies {
            let shadow = policy.dry_run || policy.action == Action::Audit;
            let rule = Case::new(mesh, policy, caller, call).first_match();
            if let (true, true, Some(rule)) = (shadow, policy.action == action, rule) {
                told.push((id(policy), rule as u32, verdict));
            }
        }
    }
    let dry_run = |policy: &&Policy| policy.dry_run && policy.action != Action::Audit;
    if !policies.iter().any(|policy| dry_run(&policy)) {
        return Shadows {
            told,
            missed: vec![],
            would_allow: None,
        };
    }
    let in_force: Vec<_> = policies
        .iter()
        .map(|policy| Policy {
            dry_run: false,
            ..policy.clone()
        })
        .collect();
    let (reason, ..) = decide(mesh, &in_force, caller, call);
    // Stricter rule 3: with them in force, nobody without a name would get as far as a decision.
    let only_theirs: Vec<_> = policies
        .iter()
        .filter(dry_run)
        .map(|policy| Policy {
            dry_run: false,
            ..policy.clone()
        })
        .collect();
    let connection = caller.connection();
    let nameless =
        connection.peer.is_none() && uses_identity(&only_theirs, connection.destination.port());
    let missed = match reason {
        Reason::NoAllowPolicyMatches | Reason::TokenMissing if !nameless => policies
            .iter()
            .filter(|policy| policy.dry_run && policy.action == Action::Allow)
            .map(id)
            .collect(),
        _ => vec![],
    };
    Shadows {
        told,
        missed,
        would_allow: Some(
            !nameless && matches!(reason, Reason::AllowedByRule | Reason::AllowedByDefault),
        ),
    }
}

pub(crate) fn decide(
    mesh: &Mesh,
    policies: &[Policy],
    caller: &Caller,
    call: Option<&Call>,
) -> Outcome {
    let policies: Vec<_> = policies.iter().filter(|policy| !policy.dry_run).collect();
    for (action, reason) in [
        (Action::Deny, Reason::DeniedByRule),
        (Action::Allow, Reason::AllowedByRule),
    ] {
        for policy in policies.iter().filter(|policy| policy.action == action) {
            if let Some(rule) = Case::new(mesh, policy, caller, call).first_match() {
                return (
                    reason,
                    Some(format!("{}/{}", policy.namespace, policy.name)),
                    Some(rule as u32),
                );
            }
        }
    }
    let allow = || {
        policies
            .iter()
            .filter(|policy| policy.action == Action::Allow)
    };
    if call.is_some_and(|call| call.token.is_none()) {
        let matches_with_token = |policy: &Policy| {
            let case = Case::new(mesh, policy, caller, call);
            let case = Case {
                any_token: true,
                ..case
            };
            case.first_match().is_some()
        };
        if allow().any(|policy| matches_with_token(policy)) {
            return (Reason::TokenMissing, None, None);
        }
    }
    if allow().next().is_some() {
        return (Reason::NoAllowPolicyMatches, None, None);
    }
    match mesh.default_action {
        DefaultAction::Allow => (Reason::AllowedByDefault, None, None),
        DefaultAction::Deny => (Reason::DeniedByDefault, None, None),
    }
}

pub(crate) fn uses_identity(policies: &[Policy], port: u16) -> bool {
    let named = |ports: &[String]| ports.iter().any(|named| *named == port.to_string());
    let fits = |ports: &[String], not: &[String]| (ports.is_empty() || named(ports)) && !named(not);
    policies
        .iter()
        .filter(|policy| !policy.dry_run && policy.action != Action::Audit)
        .flat_map(|policy| &policy.rules)
        .any(|rule| {
            let in_source = rule.from.iter().any(|s| {
                [
                    &s.principals,
                    &s.not_principals,
                    &s.namespaces,
                    &s.not_namespaces,
                    &s.service_accounts,
                    &s.not_service_accounts,
                    &s.trust_domains,
                    &s.not_trust_domains,
                ]
                .iter()
                .any(|field| !field.is_empty())
            });
            let in_condition = rule.when.iter().any(|c| {
                [
                    "source.principal",
                    "source.namespace",
                    "source.serviceAccount",
                    "source.trustDomain",
                ]
                .contains(&&*c.key)
            });
            let in_expression = rule.when.iter().any(|c| {
                c.cel
                    .as_ref()
                    .is_some_and(|expression| expression.starts_with("source."))
            });
            (in_source || in_condition || in_expression)
                && (rule.to.is_empty() || rule.to.iter().any(|o| fits(&o.ports, &o.not_ports)))
                && rule
                    .when
                    .iter()
                    .all(|c| c.key != "destination.port" || fits(&c.values, &c.not_values))
        })
}

/// `exact`, `prefix*`, `*suffix`; `*` is not empty.
fn text(pattern: &str, value: &str) -> bool {
    if pattern == "*" {
        !value.is_empty()
    } else if let Some(suffix) = pattern.strip_prefix('*') {
        value.ends_with(suffix)
    } else if let Some(prefix) = pattern.strip_suffix('*') {
        value.starts_with(prefix)
    } else {
        pattern == value
    }
}

/// `*` is any text, slashes too, wherever it stands.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        ([b'*', pattern @ ..], _) => (0..=text.len()).any(|taken| glob(pattern, &text[taken..])),
        ([wanted, pattern @ ..], [byte, text @ ..]) => wanted == byte && glob(pattern, text),
        _ => false,
    }
}

fn texts(patterns: &[String], value: &str) -> bool {
    patterns.iter().any(|pattern| text(pattern, value))
}

fn in_blocks(blocks: &[String], address: IpAddr) -> bool {
    blocks.iter().any(|block| match block.parse::<IpAddr>() {
        Ok(wanted) => wanted.to_canonical() == address.to_canonical(),
        Err(_) => block
            .parse::<IpNet>()
            .unwrap()
            .contains(&address.to_canonical()),
    })
}

impl Case<'_> {
    /// AUDIT reads like DENY.
    fn deny(&self) -> bool {
        self.policy.action != Action::Allow
    }

    fn rule(&self, rule: &Rule) -> bool {
        if self.call.is_none() && !self.deny() && uses_http(rule) {
            return false;
        }
        (rule.from.is_empty() || rule.from.iter().any(|source| self.source(source)))
            && (rule.to.is_empty() || rule.to.iter().any(|operation| self.operation(operation)))
            && rule
                .when
                .iter()
                .all(|condition| self.condition(condition, rule))
    }

    /// A field that compares a value which is always there.
    fn field(values: &[String], not: &[String], matches: impl Fn(&[String]) -> bool) -> bool {
        (values.is_empty() || matches(values)) && (not.is_empty() || !matches(not))
    }

    /// A field about the peer's identity, which may not be there.
    fn identity(
        &self,
        values: &[String],
        not: &[String],
        matches: impl Fn(&[String]) -> Option<bool>,
        widely: impl Fn(&str) -> Vec<String>,
    ) -> bool {
        // Where a match is against the caller, Istio's reading of a value is one, too.
        let means = |values: &[String]| {
            let id = self.caller.peer.as_ref().map(Principal::as_str);
            id.is_some_and(|id| {
                values
                    .iter()
                    .flat_map(|value| widely(value))
                    .any(|wide| glob(wide.as_bytes(), id.as_bytes()))
            })
        };
        let named = matches(values) == Some(true) || self.deny() && means(values);
        // Without identity nothing matches; a negative field of an ALLOW is never satisfied by it.
        let excluded = match matches(not) {
            Some(matched) => matched || !self.deny() && means(not),
            None => !self.deny(),
        };
        (values.is_empty() || named) && (not.is_empty() || !excluded)
    }

    /// What Istio's regular expressions of these fields say, with `*` for `.*`.
    fn wide_principal(&self, value: &str) -> Vec<String> {
        let value = value.strip_prefix("spiffe://").unwrap_or(value);
        match (value.strip_prefix('*'), value.split_once('/')) {
            (Some(path), _) => vec![format!("spiffe://*{path}")],
            (None, Some((domain, path))) if self.is_local(domain) && domain != "cluster.local" => {
                let names = self.local();
                names
                    .map(|name| format!("spiffe://{name}/{path}"))
                    .collect()
            }
            _ => vec![],
        }
    }

    /// Of the trust domain and all of its aliases, if the value means one of them.
    fn wide_trust_domain(&self, value: &str) -> Vec<String> {
        let means_local = self
            .local()
            .any(|name| glob(value.as_bytes(), name.as_bytes()));
        match means_local {
            true => self
                .local()
                .map(|name| format!("spiffe://{name}/*"))
                .collect(),
            false => vec![],
        }
    }

    fn local(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.mesh.trust_domain)
            .chain(&self.mesh.trust_domain_aliases)
            .map(String::as_str)
    }

    fn wide_namespace(value: &str) -> Vec<String> {
        vec![format!("*/ns/{value}/*")]
    }

    fn wide_account(&self, value: &str) -> Vec<String> {
        let account = match value.split_once('/') {
            _ if value == "*" => "*/sa/*".to_owned(),
            Some((namespace, account)) => format!("{namespace}/sa/{account}"),
            None => format!("{}/sa/{value}", self.policy.namespace),
        };
        // Something may stand before `sa` and behind the account.
        let spread = account.replacen("/sa/", "/*/sa/", 1);
        [account, spread]
            .into_iter()
            .flat_map(|account| [format!("*/ns/{account}"), format!("*/ns/{account}/*")])
            .collect()
    }

    fn source(&self, s: &Source) -> bool {
        let any_domain = !s.trust_domains.is_empty();
        self.identity(
            &s.principals,
            &s.not_principals,
            |values| self.principal(values),
            |value| self.wide_principal(value),
        ) && self.identity(
            &s.namespaces,
            &s.not_namespaces,
            |values| self.namespace(values, any_domain),
            Self::wide_namespace,
        ) && self.identity(
            &s.service_accounts,
            &s.not_service_accounts,
            |values| self.account(values, any_domain),
            |value| self.wide_account(value),
        ) && self.identity(
            &s.trust_domains,
            &s.not_trust_domains,
            |values| self.trust_domain(values),
            |value| self.wide_trust_domain(value),
        ) && Self::field(&s.ip_blocks, &s.not_ip_blocks, |values| {
            in_blocks(values, self.caller.source)
        }) && Self::field(&s.remote_ip_blocks, &s.not_remote_ip_blocks, |values| {
            in_blocks(values, self.caller.remote)
        }) && self.token(
            &s.request_principals,
            &s.not_request_principals,
            |v, token| request_principal(v, token, self.deny()),
        )
    }

    /// A field about the request's token, which may not be there. `matches` gives whether `values` and
    /// `not_values` are satisfied.
    fn token(
        &self,
        values: &[String],
        not: &[String],
        matches: impl Fn(&[String], &Claims) -> (bool, bool),
    ) -> bool {
        // Opaque TCP: an ALLOW with HTTP attributes was refused before, a DENY ignores them.
        let Some(call) = self.call else { return true };
        match &call.token {
            None if self.any_token => true,
            None => values.is_empty() && (not.is_empty() || self.deny()),
            Some(token) => {
                (values.is_empty() || matches(values, token).0)
                    && (not.is_empty() || matches(not, token).1)
            }
        }
    }

    fn claim(&self, c: &Condition, path: &[&str]) -> bool {
        self.token(&c.values, &c.not_values, |values, token| {
            match claim(values, &token.claims, path) {
                Some(matched) => (matched, !matched),
                None => (self.deny(), self.deny()),
            }
        })
    }

    /// The peer as (trust domain, path).
    fn peer(&self) -> Option<(&str, &str)> {
        let id = self
            .caller
            .peer
            .as_ref()?
            .as_str()
            .strip_prefix("spiffe://")?;
        Some(id.split_at(id.find('/')?))
    }

    fn is_local(&self, domain: &str) -> bool {
        self.mesh.trust_domain == domain
            || self
                .mesh
                .trust_domain_aliases
                .iter()
                .any(|alias| alias == domain)
    }

    fn principal(&self, values: &[String]) -> Option<bool> {
        let (domain, path) = self.peer()?;
        Some(values.iter().any(|value| {
            if value == "*" {
                return true;
            }
            let value = value.strip_prefix("spiffe://").unwrap_or(value);
            let (wanted, pattern) = value.split_at(value.find('/').unwrap());
            let domain_fits = match wanted {
                "cluster.local" => self.is_local(domain),
                "*" => true,
                wanted => wanted == domain,
            };
            domain_fits && text(pattern, path)
        }))
    }

    fn workload(&self, any_domain: bool) -> Option<(&str, &str)> {
        let (domain, path) = self.peer()?;
        let parts: Vec<_> = path.split('/').collect();
        match parts[..] {
            ["", "ns", namespace, "sa", account] if any_domain || self.is_local(domain) => {
                Some((namespace, account))
            }
            _ => None,
        }
    }

    fn namespace(&self, values: &[String], any_domain: bool) -> Option<bool> {
        self.workload(any_domain)
            .map(|(namespace, _)| texts(values, namespace))
    }

    fn account(&self, values: &[String], any_domain: bool) -> Option<bool> {
        let (namespace, account) = self.workload(any_domain)?;
        Some(values.iter().any(|value| match value.split_once('/') {
            _ if value == "*" => true,
            Some(_) => text(value, &format!("{namespace}/{account}")),
            None => namespace == self.policy.namespace && text(value, account),
        }))
    }

    fn trust_domain(&self, values: &[String]) -> Option<bool> {
        self.peer().map(|(domain, _)| texts(values, domain))
    }

    fn operation(&self, o: &Operation) -> bool {
        let port = self.caller.destination.port().to_string();
        if !Self::field(&o.ports, &o.not_ports, |values| values.contains(&port)) {
            return false;
        }
        // Opaque TCP: an ALLOW with HTTP attributes was refused above, a DENY ignores them.
        let Some(call) = self.call else { return true };
        Self::field(&o.methods, &o.not_methods, |values| {
            texts(values, &call.method)
        }) && Self::field(&o.paths, &o.not_paths, |values| {
            values.iter().any(|value| path(value, &call.path))
        }) && self.uncertain(&o.hosts, &o.not_hosts, |values| host(values, &call.host))
    }

    /// A field that may match in one reading and not in another: `None` there.
    fn uncertain(
        &self,
        values: &[String],
        not: &[String],
        matches: impl Fn(&[String]) -> Option<bool>,
    ) -> bool {
        (values.is_empty() || matches(values).unwrap_or(self.deny()))
            && (not.is_empty() || matches(not).map_or(self.deny(), |matched| !matched))
    }

    /// `None` is an expression that has no value.
    fn expression(&self, expression: &str) -> Option<bool> {
        Some(match expression {
            "request.method == 'GET'" => self.call?.method == "GET",
            "source.namespace == 'a'" => self.workload(false)?.0 == "a",
            "source.principal != 'spiffe://td/ns/a/sa/x'" => {
                self.caller.peer.as_ref()?.as_str() != "spiffe://td/ns/a/sa/x"
            }
            "request.headers['x-id'] == '1'" => {
                let headers = self.call?.headers.iter();
                let values: Vec<_> = headers.filter(|(name, _)| name == "x-id").collect();
                match values[..] {
                    [(_, value)] => value == "1",
                    _ => return None,
                }
            }
            // Ignored as a whole on opaque TCP, like every other field about the request.
            "destination.port == 80 || request.path == '/a'" => {
                let call = self.call?;
                self.caller.destination.port() == 80 || call.path == "/a"
            }
            "request.auth.claims.g == 'a'" => {
                self.call?.token.as_ref()?.claims.get("g")?.as_str() == Some("a")
            }
            "remote.ip.inCidr('10.0.0.0/24')" => {
                in_blocks(&["10.0.0.0/24".to_owned()], self.caller.remote)
            }
            other => panic!("{other}"),
        })
    }

    fn condition(&self, c: &Condition, rule: &Rule) -> bool {
        if let Some(expression) = &c.cel {
            let awaited = self.any_token
                && expression.contains("request.auth")
                && self.call.is_some_and(|call| call.token.is_none());
            return awaited || self.expression(expression).unwrap_or(self.deny());
        }
        let any_domain = rule
            .when
            .iter()
            .any(|c| c.key == "source.trustDomain" && !c.values.is_empty())
            || (!rule.from.is_empty()
                && rule
                    .from
                    .iter()
                    .all(|source| !source.trust_domains.is_empty()));
        match &*c.key {
            "source.ip" => Self::field(&c.values, &c.not_values, |v| {
                in_blocks(v, self.caller.source)
            }),
            "remote.ip" => Self::field(&c.values, &c.not_values, |v| {
                in_blocks(v, self.caller.remote)
            }),
            "destination.ip" => Self::field(&c.values, &c.not_values, |v| {
                in_blocks(v, self.caller.destination.ip())
            }),
            "destination.port" => Self::field(&c.values, &c.not_values, |v| {
                v.contains(&self.caller.destination.port().to_string())
            }),
            "connection.sni" => {
                let sni = self.caller.sni.as_deref().unwrap_or("").to_lowercase();
                Self::field(&c.values, &c.not_values, |v| {
                    v.iter().any(|value| text(&value.to_lowercase(), &sni))
                })
            }
            "source.principal" => self.identity(
                &c.values,
                &c.not_values,
                |v| self.principal(v),
                |value| self.wide_principal(value),
            ),
            "source.namespace" => self.identity(
                &c.values,
                &c.not_values,
                |v| self.namespace(v, any_domain),
                Self::wide_namespace,
            ),
            "source.serviceAccount" => self.identity(
                &c.values,
                &c.not_values,
                |v| self.account(v, any_domain),
                |value| self.wide_account(value),
            ),
            "source.trustDomain" => self.identity(
                &c.values,
                &c.not_values,
                |v| self.trust_domain(v),
                |value| self.wide_trust_domain(value),
            ),
            "request.auth.principal" => self.token(&c.values, &c.not_values, |v, token| {
                request_principal(v, token, self.deny())
            }),
            "request.auth.audiences" => self.claim(c, &["aud"]),
            "request.auth.presenter" => self.claim(c, &["azp"]),
            "request.auth.claims[g]" => self.claim(c, &["g"]),
            "request.auth.claims[g][h]" => self.claim(c, &["g", "h"]),
            "request.auth.claims[scope]" => self.claim(c, &["scope"]),
            key => {
                let name = key
                    .strip_prefix("request.headers[")
                    .unwrap()
                    .strip_suffix(']')
                    .unwrap()
                    .to_lowercase();
                let Some(call) = self.call else { return true };
                let mut values: Vec<_> = call
                    .headers
                    .iter()
                    .filter(|(known, _)| *known == name)
                    .map(|(_, value)| value.clone())
                    .collect();
                if values.len() > 1 {
                    values.push(values.join(","));
                }
                self.uncertain(&c.values, &c.not_values, |patterns| {
                    let matching = values
                        .iter()
                        .filter(|value| patterns.iter().any(|p| p == "*" || text(p, value)))
                        .count();
                    match matching {
                        0 => Some(false),
                        all if all == values.len() => Some(true),
                        _ => None,
                    }
                })
            }
        }
    }
}

fn uses_http(rule: &Rule) -> bool {
    rule.when.iter().any(|condition| {
        let text = condition.cel.as_ref().unwrap_or(&condition.key);
        text.contains("request.")
    }) || rule.from.iter().any(|source| {
        !source.request_principals.is_empty() || !source.not_request_principals.is_empty()
    }) || rule.to.iter().any(|o| {
        [
            &o.hosts,
            &o.not_hosts,
            &o.methods,
            &o.not_methods,
            &o.paths,
            &o.not_paths,
        ]
        .iter()
        .any(|field| !field.is_empty())
    })
}

/// Are `values` satisfied, are `not_values`?
fn request_principal(values: &[String], token: &Claims, deny: bool) -> (bool, bool) {
    let parts = |value: &str| match (value.rfind("/spiffe://"), value.rfind('/')) {
        (Some(at), _) | (None, Some(at)) => (value[..at].to_owned(), value[at + 1..].to_owned()),
        _ if value == "*" => ("*".to_owned(), "*".to_owned()),
        _ if value.starts_with('*') => ("*".to_owned(), value.to_owned()),
        _ => (value.to_owned(), "*".to_owned()),
    };
    let issued: Vec<_> = values
        .iter()
        .map(|value| parts(value))
        .filter(|(issuer, _)| text(issuer, &token.issuer))
        .collect();
    match (token.subject.is_empty(), issued.is_empty()) {
        (true, true) => (false, deny),
        (true, false) => (deny, deny),
        (false, _) => {
            let matched = issued
                .iter()
                .any(|(_, subject)| text(subject, &token.subject));
            (matched, !matched)
        }
    }
}

/// `None` is a claim that can't be compared.
fn claim(
    values: &[String],
    claims: &serde_json::Map<String, Value>,
    path: &[&str],
) -> Option<bool> {
    let mut value = claims.get(path[0]);
    for name in &path[1..] {
        value = match value {
            None => None,
            Some(value) => value.as_object()?.get(*name),
        };
    }
    let matches = |value: &str| match path {
        ["scope"] => value.split_whitespace().any(|word| texts(values, word)),
        _ => texts(values, value),
    };
    match value {
        None => Some(false),
        Some(Value::String(value)) => Some(matches(value)),
        Some(Value::Array(list)) => {
            if list.iter().any(|value| value.as_str().is_some_and(matches)) {
                Some(true)
            } else {
                list.iter().all(Value::is_string).then_some(false)
            }
        }
        Some(_) => None,
    }
}

fn path(pattern: &str, path: &str) -> bool {
    if !pattern.contains('{') {
        return text(pattern, path);
    }
    let (pattern, path): (Vec<_>, Vec<_>) =
        (pattern.split('/').collect(), path.split('/').collect());
    template(&pattern, &path)
}

fn template(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern, path) {
        ([], []) => true,
        // Any number of segments; one that is empty is what stands between its required slashes.
        (["{**}", rest @ ..], [_, ..]) => {
            (1..=path.len()).any(|taken| template(rest, &path[taken..]))
        }
        (["{*}", pattern @ ..], [segment, path @ ..]) => {
            !segment.is_empty() && template(pattern, path)
        }
        ([literal, pattern @ ..], [segment, path @ ..]) => {
            literal == segment && template(pattern, path)
        }
        _ => false,
    }
}

/// Lower case, no port, no trailing dot, on both sides.
fn host(patterns: &[String], host: &str) -> Option<bool> {
    let split = |text: &str| {
        let text = text.to_lowercase();
        let (name, port) = text
            .split_once(':')
            .map_or((&*text, None), |(name, port)| (name, Some(port)));
        (
            name.strip_suffix('.').unwrap_or(name).to_owned(),
            port.map(str::to_owned),
        )
    };
    let (name, port) = split(host);
    let mut matched = Some(false);
    for pattern in patterns {
        let (wanted, wanted_port) = split(pattern);
        if !(wanted == "*" || text(&wanted, &name)) {
            continue;
        }
        match (wanted_port, &port) {
            (None, _) => return Some(true),
            (Some(wanted), Some(port)) if wanted == "*" || wanted == *port => return Some(true),
            (Some(_), Some(_)) => {}
            (Some(_), None) => matched = None,
        }
    }
    matched
}

pub(crate) fn rule_matches(
    mesh: &Mesh,
    policy: &Policy,
    rule: usize,
    caller: &Caller,
    call: Option<&Call>,
) -> bool {
    Case::new(mesh, policy, caller, call).rule(&policy.rules[rule])
}

/// Does a rule match when it has only the part that is named, such as `rules[0].from[1]`, and its conditions?
pub(crate) fn part_matches(
    mesh: &Mesh,
    policy: &Policy,
    part: &str,
    caller: &Caller,
    call: Option<&Call>,
) -> bool {
    let numbers: Vec<usize> = part
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect();
    let mut rule = policy.rules[numbers[0]].clone();
    if part.contains(".from[") {
        rule.from = vec![rule.from[numbers[1]].clone()];
    } else if part.contains(".to[") {
        rule.to = vec![rule.to[numbers[1]].clone()];
    }
    Case::new(mesh, policy, caller, call).rule(&rule)
}
