//! Policies and requests from small alphabets, so that values meet their patterns often. Everything follows from the seed.

use std::net::IpAddr;
use std::sync::Arc;

use fastrand::Rng;
use serde_json::{Map, Value, json};

use super::token::Token;

pub(crate) const TRUST_DOMAIN: &str = "example.org";
pub(crate) const ALIAS: &str = "old.example.org";

/// Everyone who calls: local, of the alias, foreign, and with paths that are not of the form `/ns/…/sa/…`.
pub(crate) const PEERS: &[&str] = &[
    "spiffe://example.org/ns/shop/sa/web",
    "spiffe://example.org/ns/shop/sa/api",
    "spiffe://example.org/ns/shop/sa/webapp",
    "spiffe://example.org/ns/pay/sa/web",
    "spiffe://example.org/ns/pay/sa/api",
    "spiffe://example.org/ns/shopping/sa/web",
    "spiffe://old.example.org/ns/shop/sa/web",
    "spiffe://other.test/ns/shop/sa/web",
    "spiffe://other.test/ns/pay/sa/api",
    "spiffe://cluster.local/ns/shop/sa/web",
    "spiffe://example.org/ns/shop/sa/web/extra",
    "spiffe://example.org/x/ns/shop/sa/web",
    "spiffe://other.test/x/ns/shop/sa/web",
    "spiffe://example.org/ns/shop/x/sa/web",
    "spiffe://example.org/ns/pay/ns/shop/sa/api/y",
    "spiffe://example.org/ns/shop",
    "spiffe://example.org/gateway",
];

pub(crate) const SOURCES: &[&str] = &["127.2.0.1", "127.2.0.2", "127.3.0.1"];
pub(crate) const SNIS: &[&str] = &["orders.shop", "pay.shop", "orders.test"];
const FORWARDED: &[&str] = &["10.9.0.1", "10.9.0.2", "192.0.2.7", "2001:db8::7"];

const PRINCIPALS: &[&str] = &[
    "*",
    "example.org/ns/shop/sa/web",
    "spiffe://example.org/ns/pay/sa/api",
    "cluster.local/ns/shop/sa/web",
    "cluster.local/ns/shop/*",
    "example.org/ns/shop*",
    "example.org/ns/pay/*",
    "example.org/*",
    "other.test/*",
    "old.example.org/ns/shop/sa/web",
    "*/ns/shop/sa/web",
    "*/sa/web",
    "example.org/gateway",
];
const NAMESPACES: &[&str] = &["shop", "pay", "shop*", "*ing", "*a", "*"];
const ACCOUNTS: &[&str] = &[
    "shop/web",
    "pay/api",
    "web",
    "shop/*",
    "shop/web*",
    "*/api",
    "*op/web",
    "we*",
    "*pi",
    "*",
];
const TRUST_DOMAINS: &[&str] = &[
    "example.org",
    "other.test",
    "old.example.org",
    "*.org",
    "example*",
    "cluster.local",
    "*",
];
const SOURCE_BLOCKS: &[&str] = &[
    "127.2.0.1",
    "127.2.0.0/24",
    "127.2.0.2/32",
    "127.3.0.0/16",
    "0.0.0.0/0",
    "::1",
    "::/0",
];
const REMOTE_BLOCKS: &[&str] = &[
    "127.2.0.1",
    "127.0.0.0/8",
    "10.9.0.0/24",
    "10.9.0.2",
    "192.0.2.0/25",
    "2001:db8::/32",
    "::1/128",
];
const DESTINATION_BLOCKS: &[&str] = &["127.0.0.0/8", "127.10.0.0/15", "127.12.0.0/15", "::1"];
const HOSTS: &[&str] = &[
    "orders.shop",
    "Orders.SHOP",
    "*.shop",
    "orders*",
    "pay.shop",
    "orders.shop:8080",
    "*.shop:9090",
    "*.shop:8080",
    "pay.shop:*",
    "*",
];
const PORTS: &[&str] = &["8080", "9090", "443"];
const METHODS: &[&str] = &["GET", "POST", "DELETE", "P*", "*T", "*"];
const PATHS: &[&str] = &[
    "/",
    "/orders",
    "/orders/*",
    "/orders*",
    "*/items",
    "*",
    "/admin",
    "/orders/{*}",
    "/orders/{**}",
    "/orders/{*}/items",
    "/orders/{**}/items",
    "/{*}/7",
    "/{*}/7/{**}",
];
const HEADERS: &[&str] = &["1", "2", "1*", "*2", "*"];
const SNI_PATTERNS: &[&str] = &["orders.shop", "*.shop", "orders*", "pay.shop", "*"];

const REQUEST_PRINCIPALS: &[&str] = &[
    "*",
    "https://issuer.test/alice",
    "https://issuer.test/*",
    "https://other.test/a/alice",
    "*/alice",
    "accounts/bob",
    "acc*",
    "*ice",
];
const AUDIENCES: &[&str] = &["shop", "pay", "sh*", "*"];
const GROUPS: &[&str] = &["admin", "dev*", "*ps", "*"];
const SCOPES: &[&str] = &["read", "write", "r*", "read write"];

/// One field of a source or operation, as YAML has it, and what may stand in it.
type Field = (&'static str, &'static str, &'static [&'static str]);

const SOURCE_FIELDS: &[Field] = &[
    ("principals", "notPrincipals", PRINCIPALS),
    ("namespaces", "notNamespaces", NAMESPACES),
    ("serviceAccounts", "notServiceAccounts", ACCOUNTS),
    ("trustDomains", "notTrustDomains", TRUST_DOMAINS),
    ("ipBlocks", "notIpBlocks", SOURCE_BLOCKS),
    ("remoteIpBlocks", "notRemoteIpBlocks", REMOTE_BLOCKS),
    (
        "requestPrincipals",
        "notRequestPrincipals",
        REQUEST_PRINCIPALS,
    ),
];
const OPERATION_FIELDS: &[Field] = &[
    ("hosts", "notHosts", HOSTS),
    ("ports", "notPorts", PORTS),
    ("methods", "notMethods", METHODS),
    ("paths", "notPaths", PATHS),
];
const CONDITIONS: &[(&str, &[&str])] = &[
    ("request.headers[x-id]", HEADERS),
    ("request.headers[X-Id]", HEADERS),
    ("request.headers[x-id]", HEADERS),
    ("request.headers[x-id]", HEADERS),
    ("source.ip", SOURCE_BLOCKS),
    ("remote.ip", REMOTE_BLOCKS),
    ("source.principal", PRINCIPALS),
    ("source.namespace", NAMESPACES),
    ("source.serviceAccount", ACCOUNTS),
    ("source.trustDomain", TRUST_DOMAINS),
    ("destination.ip", DESTINATION_BLOCKS),
    ("destination.port", PORTS),
    ("connection.sni", SNI_PATTERNS),
    ("request.auth.principal", REQUEST_PRINCIPALS),
    ("request.auth.audiences", AUDIENCES),
    ("request.auth.presenter", &["web", "api", "*"]),
    ("request.auth.claims[group]", GROUPS),
    ("request.auth.claims[scope]", SCOPES),
    ("request.auth.claims[nested][group]", GROUPS),
];

/// The names of all fields and keys that are generated, as [`super::fields`] reports those that decided.
pub(crate) fn all_fields() -> impl Iterator<Item = &'static str> {
    let fields = SOURCE_FIELDS.iter().chain(OPERATION_FIELDS);
    let keys = CONDITIONS.iter().map(|(key, _)| *key);
    fields
        .flat_map(|(positive, negative, _)| [*positive, *negative])
        .chain(keys.filter(|key| *key != "request.headers[X-Id]"))
}

/// One policy for each stricter rule, in which that rule alone makes the difference.
fn plain(rule: usize) -> Value {
    match rule % 7 {
        0 => json!({"rules": [{"from": [{"source": {"namespaces": ["shop"]}}]}]}),
        1 => json!({"rules": [{"from": [{"source": {"notPrincipals": ["other.test/*"]}}]}]}),
        2 => json!({"rules": [{"when": [{"key": "request.headers[x-id]", "values": ["1*"]}]}]}),
        3 => json!({"rules": [{"from": [{"source": {"principals": ["*/ns/shop/sa/web"]}}]}]}),
        4 => json!({"rules": [{"from": [{"source": {"notRequestPrincipals": ["*/alice"]}}]}]}),
        5 => {
            let group = json!({"key": "request.auth.claims[group]", "notValues": ["admin"]});
            json!({"rules": [{"when": [group]}]})
        }
        _ => json!({"rules": [{"to": [{"operation": {"notHosts": ["orders.shop:8080"]}}]}]}),
    }
}

/// The documents of one workload `shop/orders` and its policies, as YAML. Every tenth set is a [`plain`] one.
pub(crate) fn documents(rng: &mut Rng, set: u8) -> String {
    let mut documents = vec![
        json!({
            "apiVersion": "kith.dev/v1alpha1", "kind": "MeshConfig", "metadata": {"name": "mesh"},
            "spec": {
                "trustDomain": TRUST_DOMAIN, "trustDomainAliases": if rng.bool() { vec![ALIAS] } else { vec![] },
                "defaultAction": if rng.bool() { "ALLOW" } else { "DENY" },
                "trustedForwardedHops": rng.u32(0..=1),
            },
        }),
        json!({
            "apiVersion": "kith.dev/v1alpha1", "kind": "Workload",
            "metadata": {"namespace": "shop", "name": "orders", "labels": {"app": "orders"}},
            "spec": {"serviceAccount": "orders", "addresses": ["127.10.0.1"]},
        }),
    ];
    // More ALLOW than DENY, and few of either: what denies always would hide all the rest.
    let mut policies = rng.usize(1..=3);
    if set.is_multiple_of(10) {
        policies = 0;
        documents.push(json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"namespace": "shop", "name": "plain"}, "spec": plain(usize::from(set / 10)),
        }));
    }
    for number in 0..policies {
        let deny = rng.u32(0..10) < 4;
        let mut spec = json!({"action": if deny { "DENY" } else { "ALLOW" }});
        let rules = if deny {
            rng.usize(1..=2)
        } else {
            rng.usize(0..=4)
        };
        if rules > 0 {
            spec["rules"] = (0..rules).map(|_| rule(rng, deny)).collect();
        } else if rng.bool() {
            spec = json!({});
        }
        if rng.bool() {
            spec["selector"] = json!({"matchLabels": {"app": "orders"}});
        }
        let version = if rng.bool() { "v1" } else { "v1beta1" };
        documents.push(json!({
            "apiVersion": format!("security.istio.io/{version}"), "kind": "AuthorizationPolicy",
            "metadata": {"namespace": "shop", "name": format!("policy-{number}")}, "spec": spec,
        }));
    }
    let texts: Vec<String> = documents.iter().map(block).collect();
    texts.join("---\n")
}

fn rule(rng: &mut Rng, deny: bool) -> Value {
    let mut rule = Map::new();
    // What denies everybody, or allows everything, is rare.
    if rng.u32(0..60) == 0 {
        return Value::Object(rule);
    }
    let least = if deny { 2 } else { 1 };
    while rule.is_empty() {
        if rng.u32(0..10) < 7 {
            let sources = (0..rng.usize(1..=2)).map(|_| {
                let source = fields(rng, SOURCE_FIELDS, least);
                json!({"source": source})
            });
            rule.insert("from".into(), sources.collect());
        }
        if rng.u32(0..10) < 4 {
            let operations = (0..rng.usize(1..=2)).map(|_| {
                let operation = fields(rng, OPERATION_FIELDS, least);
                json!({"operation": operation})
            });
            rule.insert("to".into(), operations.collect());
        }
        if rng.u32(0..10) < 6 {
            let conditions = (0..rng.usize(1..=2)).map(|_| condition(rng));
            rule.insert("when".into(), conditions.collect());
        }
    }
    Value::Object(rule)
}

fn fields(rng: &mut Rng, of: &[Field], least: usize) -> Value {
    let mut chosen = Map::new();
    while chosen.len() < least || rng.u32(0..4) == 0 {
        let (positive, negative, values) = of[rng.usize(0..of.len())];
        let name = if rng.u32(0..3) == 0 {
            negative
        } else {
            positive
        };
        chosen.insert(name.into(), some(rng, values));
        if chosen.len() == of.len() {
            break;
        }
    }
    Value::Object(chosen)
}

fn condition(rng: &mut Rng) -> Value {
    let (key, values) = CONDITIONS[rng.usize(0..CONDITIONS.len())];
    let mut condition = json!({"key": key});
    let which = rng.u32(0..5);
    if which != 0 {
        condition["values"] = some(rng, values);
    }
    if which < 2 {
        condition["notValues"] = some(rng, values);
    }
    condition
}

fn some(rng: &mut Rng, values: &[&str]) -> Value {
    (0..rng.usize(1..=2))
        .map(|_| values[rng.usize(0..values.len())])
        .collect()
}

/// One HTTP request in the bytes that are sent.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: &'static str,
    pub(crate) host: String,
    /// Origin form, its path in normal form already.
    pub(crate) target: String,
    /// Lower-case names.
    pub(crate) headers: Vec<(&'static str, String)>,
    /// The token in one of them.
    pub(crate) token: Option<Arc<Token>>,
}

pub(crate) fn call(rng: &mut Rng, tokens: &[Arc<Token>]) -> Call {
    let one = |rng: &mut Rng, of: &[&'static str]| of[rng.usize(0..of.len())];
    let mut target = one(
        rng,
        &[
            "/",
            "/orders",
            "/orders/",
            "/orders/7",
            "/orders/7/items",
            "/orders/7/8/items",
            "/orders/items",
            "/orders/7;v1/items",
            "/items",
            "/ordersx",
            "/admin",
            "/x/7",
            "/x/7/",
            "/x/7/y/z",
        ],
    )
    .to_owned();
    if rng.u32(0..4) == 0 {
        target.push_str(one(rng, &["?a=b", "?/orders", "?"]));
    }
    let mut headers = Vec::new();
    // Of those that send the header, half send it several times.
    let repeated = match rng.u32(0..4) {
        0 | 1 => 0,
        2 => 1,
        _ => rng.usize(2..=3),
    };
    for _ in 0..repeated {
        headers.push(("x-id", one(rng, &["1", "2", "12", "21", ""]).to_owned()));
    }
    if rng.u32(0..3) == 0 {
        let mut forwarded = one(rng, FORWARDED).to_owned();
        if rng.bool() {
            forwarded = format!("{}, {forwarded}", one(rng, FORWARDED));
        }
        headers.push(("x-forwarded-for", forwarded));
    }
    let host = one(
        rng,
        &[
            "orders.shop",
            "ORDERS.shop",
            "orders.shop:8080",
            "orders.shop:9090",
            "orders.shop.",
            "orders.shop.:8080",
            "pay.shop",
            "pay.shop:9090",
            "orders.test",
        ],
    );
    let token = rng
        .bool()
        .then(|| Arc::clone(&tokens[rng.usize(0..tokens.len())]));
    if let Some(token) = &token {
        headers.push(("authorization", format!("Bearer {}", token.signed)));
    }
    Call {
        token,
        method: one(rng, &["GET", "GET", "POST", "DELETE", "PUT"]),
        host: host.to_owned(),
        target,
        headers,
    }
}

/// Where a request comes from behind `hops` trusted proxies: the address that the last of them wrote down.
pub(crate) fn remote(call: &Call, hops: u32, peer: IpAddr) -> IpAddr {
    let header = call
        .headers
        .iter()
        .find(|(name, _)| *name == "x-forwarded-for");
    match header {
        Some((_, forwarded)) if hops == 1 => {
            let last = forwarded.rsplit(", ").next().unwrap_or_default();
            last.parse().unwrap_or(peer)
        }
        _ => peer,
    }
}

/// YAML in block style, as people write policies.
fn block(document: &Value) -> String {
    let mut text = String::new();
    write(document, 0, &mut text);
    text
}

fn write(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                // The first key stands beside the dash of its list.
                let lead = if text.ends_with("- ") { 0 } else { indent };
                text.push_str(&format!("{:lead$}{key}:", ""));
                nested(value, indent, text);
            }
        }
        Value::Array(list) => {
            for item in list {
                match item {
                    Value::Object(map) if !map.is_empty() => {
                        text.push_str(&format!("{:indent$}- ", ""));
                        write(item, indent + 2, text);
                    }
                    _ => text.push_str(&format!("{:indent$}- {item}\n", "")),
                }
            }
        }
        scalar => text.push_str(&format!("{:indent$}{scalar}\n", "")),
    }
}

fn nested(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            text.push('\n');
            write(value, indent + 2, text);
        }
        Value::Array(list) if !list.is_empty() && list.iter().all(Value::is_object) => {
            text.push('\n');
            write(value, indent, text);
        }
        short => text.push_str(&format!(" {short}\n")),
    }
}
