//! Small alphabets, so that values meet their patterns often.

use std::net::{IpAddr, SocketAddr};

use kith_policy::{
    Action, Condition, Connection, DefaultAction, Headers, Mesh, Operation, Policy, Principal,
    Request, Rule, Source, Token,
};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

pub(crate) const PORTS: [u16; 4] = [80, 81, 8080, 9];

#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) mesh: Mesh,
    pub(crate) policies: Vec<Policy>,
}

#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) peer: Option<Principal>,
    pub(crate) source: IpAddr,
    pub(crate) remote: IpAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) sni: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) token: Option<Claims>,
}

#[derive(Debug, Clone)]
pub(crate) struct Claims {
    pub(crate) issuer: String,
    pub(crate) subject: String,
    pub(crate) claims: Map<String, Value>,
}

impl Caller {
    pub(crate) fn connection(&self) -> Connection<'_> {
        Connection {
            peer: self.peer.as_ref(),
            source: self.source,
            remote: Some(self.remote),
            destination: self.destination,
            sni: self.sni.as_deref(),
        }
    }
}

impl Call {
    pub(crate) fn request(&self) -> Request<'_> {
        Request {
            method: &self.method,
            host: &self.host,
            path: &self.path,
            headers: self,
            token: self.token.as_ref().map(|token| Token {
                issuer: &token.issuer,
                subject: &token.subject,
                claims: &token.claims,
            }),
        }
    }
}

impl Headers for Call {
    fn for_each(&self, lower_case_name: &str, visit: &mut dyn FnMut(&[u8])) {
        for (_, value) in self
            .headers
            .iter()
            .filter(|(name, _)| name == lower_case_name)
        {
            visit(value.as_bytes());
        }
    }
}

const PEERS: &[&str] = &[
    "spiffe://td/ns/a/sa/x",
    "spiffe://td/ns/a/sa/y",
    "spiffe://td/ns/b/sa/x",
    "spiffe://td/ns/ab/sa/xy",
    "spiffe://alias/ns/a/sa/x",
    "spiffe://other/ns/a/sa/x",
    "spiffe://cluster.local/ns/a/sa/x",
    "spiffe://td/ns/a/sa/x/more",
    "spiffe://td/more/ns/a/sa/x",
    "spiffe://td/ns/a",
    "spiffe://td/a",
    "spiffe://other/more/ns/a/sa/x",
    "spiffe://other/ns/b/ns/a/sa/y/sa/x",
    "spiffe://td/ns/ns/sa/xy",
    "spiffe://td/ns/a/b/sa/y",
    "spiffe://td/b/sa/x",
    "spiffe://ns/a/sa/x",
    "spiffe://ns/ns/b/sa/ns",
];
const PRINCIPALS: &[&str] = &[
    "*",
    "td/ns/a/sa/x",
    "td/ns/b/sa/x",
    "spiffe://td/ns/a/sa/y",
    "cluster.local/ns/a/sa/x",
    "cluster.local/ns/a/*",
    "cluster.local/*",
    "spiffe://cluster.local/ns/*",
    "other/ns/a/sa/x",
    "*/ns/a/sa/x",
    "*/sa/x",
    "*/sa/ns",
    "*/x",
    "td/*",
    "td/ns/a*",
    "td/ns/a/sa/x*",
    "td/ns/a",
    "td/a",
];
const NAMESPACES: &[&str] = &["a", "b", "ab", "a*", "*b", "*a", "s*", "ns", "sa", "*"];
const ACCOUNTS: &[&str] = &[
    "x", "a/x", "b/x", "a/*", "*/x", "*b/x", "a/x*", "x*", "*y", "*",
];
const TRUST_DOMAINS: &[&str] = &["td", "alias", "other", "cluster.local", "t*", "*r", "*"];
const ADDRESSES: &[&str] = &[
    "10.0.0.1",
    "10.0.0.2",
    "::ffff:10.0.0.1",
    "10.1.0.1",
    "11.0.0.1",
    "::1",
    "2001:db8::1",
    "::ffff:11.0.0.1",
];
const BLOCKS: &[&str] = &[
    "10.0.0.1",
    "10.0.0.0/24",
    "10.0.0.0/8",
    "::ffff:10.0.0.1",
    "0.0.0.0/0",
    "::/0",
    "::1",
    "2001:db8::/32",
    "11.0.0.0/8",
];
const HOSTS: &[&str] = &["h", "H", "h.", "h:80", "h:81", "g", "g.h", "G.H.:80", "gh"];
const HOST_PATTERNS: &[&str] = &[
    "h", "H.", "g", "*h", "*.h", "g*", "*", "h:80", "*:80", "h:*", "g.h",
];
const METHODS: &[&str] = &["GET", "POST", "get", "PUT"];
const METHOD_PATTERNS: &[&str] = &["GET", "POST", "P*", "*T", "*"];
const PATHS: &[&str] = &[
    "/", "/a", "/a/", "/a/b", "/a/b/c", "/a/b/", "/b", "/b;v=1", "/a//c", "*", "",
];
const PATH_PATTERNS: &[&str] = &[
    "/",
    "/a",
    "/a*",
    "/a/*",
    "*c",
    "*/b",
    "*",
    "/a/{*}",
    "/a/{**}",
    "/{*}/b",
    "/a/{**}/c",
    "/{**}",
    "/a/{*}/",
];
const HEADER_KEYS: &[&str] = &[
    "request.headers[x-id]",
    "request.headers[X-ID]",
    "request.headers[x-b]",
];
const HEADER_NAMES: &[&str] = &["x-id", "x-b"];
const HEADER_VALUES: &[&str] = &["1", "2", "12", "", "1,1"];
const HEADER_PATTERNS: &[&str] = &["1", "2", "1*", "*2", "*", "1,1", "1,2"];
const ISSUERS: &[&str] = &["i", "i/x", "j", "spiffe://td"];
const SUBJECTS: &[&str] = &["s", "x/s", "", "spiffe://td/ns/a/sa/x"];
const REQUEST_PRINCIPALS: &[&str] = &[
    "*",
    "i/s",
    "i/*",
    "i*",
    "*s",
    "*/s",
    "i/x/s",
    "j/*",
    "*x/s",
    "spiffe://td/spiffe://td/ns/a/sa/x",
    "spiffe://td/spiffe://td/ns/*",
    "spiffe://td/*",
];
const CLAIM_KEYS: &[&str] = &[
    "request.auth.audiences",
    "request.auth.presenter",
    "request.auth.claims[g]",
    "request.auth.claims[g][h]",
    "request.auth.claims[scope]",
];
const CLAIM_PATTERNS: &[&str] = &["a", "b", "a*", "*b", "*", "a b"];
/// Each is known to the naive evaluator by its text.
pub(crate) const EXPRESSIONS: &[&str] = &[
    "request.method == 'GET'",
    "source.namespace == 'a'",
    "source.principal != 'spiffe://td/ns/a/sa/x'",
    "request.headers['x-id'] == '1'",
    "destination.port == 80 || request.path == '/a'",
    "request.auth.claims.g == 'a'",
    "remote.ip.inCidr('10.0.0.0/24')",
];
const SNIS: &[&str] = &["h", "H", "g.h", ""];

fn values(from: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(select(from).prop_map(str::to_owned), 1..=2)
}

/// A field that is mostly left out.
fn field(from: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    prop::option::weighted(0.15, values(from)).prop_map(Option::unwrap_or_default)
}

fn port_values() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(select(&PORTS[..3]).prop_map(|port| port.to_string()), 1..=2)
}

fn port_field() -> impl Strategy<Value = Vec<String>> {
    prop::option::weighted(0.2, port_values()).prop_map(Option::unwrap_or_default)
}

fn source() -> impl Strategy<Value = Source> {
    let with_token = values(REQUEST_PRINCIPALS).prop_map(|request_principals| Source {
        request_principals,
        ..Source::default()
    });
    prop_oneof![5 => source_of_fields(), 1 => with_token]
}

fn source_of_fields() -> impl Strategy<Value = Source> {
    let identity = (
        field(PRINCIPALS),
        field(PRINCIPALS),
        field(NAMESPACES),
        field(NAMESPACES),
        field(ACCOUNTS),
        field(ACCOUNTS),
        field(TRUST_DOMAINS),
        field(TRUST_DOMAINS),
    );
    let address = (field(BLOCKS), field(BLOCKS), field(BLOCKS), field(BLOCKS));
    let token = (field(REQUEST_PRINCIPALS), field(REQUEST_PRINCIPALS));
    (identity, address, token, values(PRINCIPALS)).prop_map(|(i, a, t, fallback)| {
        let source = Source {
            principals: i.0,
            not_principals: i.1,
            namespaces: i.2,
            not_namespaces: i.3,
            service_accounts: i.4,
            not_service_accounts: i.5,
            trust_domains: i.6,
            not_trust_domains: i.7,
            ip_blocks: a.0,
            not_ip_blocks: a.1,
            remote_ip_blocks: a.2,
            not_remote_ip_blocks: a.3,
            request_principals: t.0,
            not_request_principals: t.1,
        };
        if source == Source::default() {
            Source {
                principals: fallback,
                ..source
            }
        } else {
            source
        }
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    let fields = (
        field(HOST_PATTERNS),
        field(HOST_PATTERNS),
        port_field(),
        port_field(),
        field(METHOD_PATTERNS),
        field(METHOD_PATTERNS),
        field(PATH_PATTERNS),
        field(PATH_PATTERNS),
    );
    (fields, port_values()).prop_map(|(f, fallback)| {
        let operation = Operation {
            hosts: f.0,
            not_hosts: f.1,
            ports: f.2,
            not_ports: f.3,
            methods: f.4,
            not_methods: f.5,
            paths: f.6,
            not_paths: f.7,
        };
        if operation == Operation::default() {
            Operation {
                ports: fallback,
                ..operation
            }
        } else {
            operation
        }
    })
}

fn condition() -> impl Strategy<Value = Condition> {
    let of = |keys: &'static [&'static str], from: &'static [&'static str]| {
        (select(keys), values(from), values(from), 0..3).prop_map(condition_of)
    };
    prop_oneof![
        4 => of(HEADER_KEYS, HEADER_PATTERNS),
        1 => of(&["source.ip", "remote.ip", "destination.ip"], BLOCKS),
        1 => of(&["source.principal"], PRINCIPALS),
        1 => of(&["source.namespace"], NAMESPACES),
        1 => of(&["source.serviceAccount"], ACCOUNTS),
        1 => of(&["source.trustDomain"], TRUST_DOMAINS),
        1 => of(&["request.auth.principal"], REQUEST_PRINCIPALS),
        2 => of(CLAIM_KEYS, CLAIM_PATTERNS),
        2 => select(EXPRESSIONS).prop_map(|expression| Condition {
            cel: Some(expression.to_owned()),
            ..Condition::default()
        }),
        1 => of(&["connection.sni"], &["h", "H", "*h", "g*", "*"]),
        1 => (Just("destination.port"), port_values(), port_values(), 0..3).prop_map(condition_of),
    ]
}

fn condition_of(
    (key, values, not_values, sides): (&str, Vec<String>, Vec<String>, i32),
) -> Condition {
    Condition {
        key: key.to_owned(),
        values: if sides == 1 { vec![] } else { values },
        not_values: if sides == 0 { vec![] } else { not_values },
        cel: None,
    }
}

fn rule() -> impl Strategy<Value = Rule> {
    let some = |most: usize| prop::collection::SizeRange::from(0..=most);
    (
        prop::collection::vec(source(), some(2)),
        prop::collection::vec(operation(), some(2)),
        prop_oneof![2 => Just(vec![]), 1 => prop::collection::vec(condition(), some(2))],
    )
        .prop_map(|(from, to, when)| Rule { from, to, when })
}

fn policy() -> impl Strategy<Value = Policy> {
    (
        select(&["a", "b"][..]),
        select(&["p", "q"][..]),
        prop_oneof![4 => Just(Action::Allow), 4 => Just(Action::Deny), 1 => Just(Action::Audit)],
        prop::bool::weighted(0.2),
        prop::collection::vec(rule(), 0..=3),
        rule(),
    )
        .prop_map(|(namespace, name, action, dry_run, mut rules, fallback)| {
            if action == Action::Deny && rules.is_empty() {
                rules.push(fallback);
            }
            Policy {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                action,
                rules,
                dry_run,
            }
        })
}

pub(crate) fn world() -> impl Strategy<Value = World> {
    let mesh = select(vec![
        (DefaultAction::Deny, "td", &["alias"][..]),
        (DefaultAction::Allow, "td", &["alias"]),
        (DefaultAction::Deny, "td", &[]),
        (DefaultAction::Allow, "cluster.local", &["td"]),
    ]);
    (mesh, prop::collection::vec(policy(), 0..=5)).prop_map(
        |((default_action, trust_domain, aliases), policies)| World {
            mesh: Mesh {
                trust_domain: trust_domain.to_owned(),
                trust_domain_aliases: aliases.iter().map(|&alias| alias.to_owned()).collect(),
                default_action,
            },
            policies,
        },
    )
}

/// An ALLOW and a DENY that have much in common: the DENY is made of the ALLOW, with parts left out.
pub(crate) fn overlapping_world() -> impl Strategy<Value = World> {
    let pruned = prop::collection::vec(any::<bool>(), 32);
    (world(), rule(), pruned).prop_map(|(world, rule, keep)| {
        let mut keep = keep.into_iter().cycle();
        let mut deny = rule.clone();
        let mut prune = |field: &mut Vec<String>| {
            if !keep.next().unwrap_or(true) {
                field.clear();
            }
        };
        for source in &mut deny.from {
            prune(&mut source.principals);
            prune(&mut source.not_principals);
            prune(&mut source.namespaces);
            prune(&mut source.not_namespaces);
            prune(&mut source.service_accounts);
            prune(&mut source.not_service_accounts);
            prune(&mut source.trust_domains);
            prune(&mut source.ip_blocks);
            prune(&mut source.request_principals);
            prune(&mut source.not_request_principals);
        }
        for operation in &mut deny.to {
            prune(&mut operation.hosts);
            prune(&mut operation.not_hosts);
            prune(&mut operation.ports);
            prune(&mut operation.not_ports);
            prune(&mut operation.methods);
            prune(&mut operation.paths);
            prune(&mut operation.not_paths);
        }
        // One that asks for nothing any more is no restriction.
        if deny.from.contains(&Source::default()) {
            deny.from.clear();
        }
        if deny.to.contains(&Operation::default()) {
            deny.to.clear();
        }
        let policy = |action, rule: Rule| Policy {
            namespace: "a".to_owned(),
            name: "p".to_owned(),
            action,
            rules: vec![rule],
            dry_run: false,
        };
        let overlapping = [policy(Action::Allow, rule), policy(Action::Deny, deny)];
        World {
            policies: overlapping.into_iter().chain(world.policies).collect(),
            ..world
        }
    })
}

pub(crate) fn address() -> impl Strategy<Value = IpAddr> {
    select(ADDRESSES).prop_map(|address| address.parse().unwrap())
}

pub(crate) fn caller() -> impl Strategy<Value = Caller> {
    (
        prop::option::weighted(0.85, select(PEERS)),
        address(),
        address(),
        address(),
        select(&PORTS[..]),
        prop::option::of(select(SNIS)),
    )
        .prop_map(|(peer, source, remote, destination, port, sni)| Caller {
            peer: peer.map(|peer| peer.parse().unwrap()),
            source,
            remote,
            destination: SocketAddr::new(destination, port),
            sni: sni.map(str::to_owned),
        })
}

pub(crate) fn call() -> impl Strategy<Value = Call> {
    let header = (select(HEADER_NAMES), select(HEADER_VALUES))
        .prop_map(|(n, v)| (n.to_owned(), v.to_owned()));
    (
        select(METHODS),
        select(HOSTS),
        select(PATHS),
        prop::collection::vec(header, 0..=4),
        prop::option::of(claims()),
    )
        .prop_map(|(method, host, path, headers, token)| Call {
            method: method.to_owned(),
            host: host.to_owned(),
            path: path.to_owned(),
            headers,
            token,
        })
}

fn claims() -> impl Strategy<Value = Claims> {
    let value = || {
        select(vec![
            json!("a"),
            json!("b"),
            json!("a b"),
            json!("ab"),
            json!(""),
            json!(["a", "c"]),
            json!(["c"]),
            json!([]),
            json!(["c", 1]),
            json!(["a", null]),
            json!(1),
            json!(true),
            json!(null),
            json!({"h": "a"}),
            json!({"h": ["b"]}),
            json!({"h": 1}),
            json!({}),
        ])
    };
    let claim = |name: &'static str| {
        prop::option::of(value()).prop_map(move |value| value.map(|value| (name.to_owned(), value)))
    };
    let claims = (claim("aud"), claim("azp"), claim("g"), claim("scope"));
    (select(ISSUERS), select(SUBJECTS), claims).prop_map(|(issuer, subject, claims)| {
        let (aud, azp, g, scope) = claims;
        Claims {
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
            claims: [aud, azp, g, scope].into_iter().flatten().collect(),
        }
    })
}

/// Paths made of everything that people try.
pub(crate) fn target() -> impl Strategy<Value = String> {
    const PIECES: &[&str] = &[
        "/", "//", ".", "..", "%2e", "%2E", "%2f", "%5C", "\\", ";", ";a=b", "a", "b", "%61",
        "%25", "2e", "%00", "?", "#", "%", "/../", "/./", "%3b", "é", " ", "{*}", "*",
    ];
    prop::collection::vec(select(PIECES), 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
}
