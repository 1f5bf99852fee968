//! What CEL conditions cost: compiling one, and evaluating it on a request.
//!
//! `cargo bench -p kith-policy --bench cel`. Allocations are counted.

use divan::{AllocProfiler, Bencher, black_box};
use kith_policy::cel::{Env, Program};
use kith_policy::{Connection, Headers, Principal, Request, Token};
use serde_json::{Map, Value, json};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const EXPRESSIONS: [&str; 8] = [
    r#"request.method == "GET" && request.path.startsWith("/a/") && "admin" in request.auth.claims.groups"#,
    r#"source.principal == "spiffe://example.org/ns/shop/sa/web""#,
    r#"source.namespace in ["shop", "stock", "orders"] && destination.port == 8080"#,
    r#"source.ip.inCidr("10.0.0.0/8") || has(source.principal)"#,
    r#"request.headers["x-tenant"] == "acme""#,
    r#"request.host.endsWith(".shop") && "x-tenant" in request.headers"#,
    r#"request.auth.claims.groups.exists(g, g.startsWith("adm") || g == "root")"#,
    r#"request.auth.claims.missing == 1"#,
];

/// As much as the limit allows: nothing found in 1,000 × 20 comparisons.
const DEAREST: &str = r#"request.auth.claims.many.exists(x, x in ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s", "t"])"#;

struct OneHeader;

impl Headers for OneHeader {
    fn for_each(&self, lower_case_name: &str, visit: &mut dyn FnMut(&[u8])) {
        if lower_case_name == "x-tenant" {
            visit(b"acme");
        }
    }
}

fn with(look: impl FnOnce(&Env<'_>)) {
    let peer = Principal::parse("spiffe://example.org/ns/shop/sa/web").ok();
    let connection = Connection {
        peer: peer.as_ref(),
        source: [10, 1, 2, 3].into(),
        remote: Some([10, 1, 2, 3].into()),
        destination: ([10, 9, 9, 9], 8080).into(),
        sni: None,
    };
    let claims = json!({
        "iss": "https://issuer.example", "sub": "alice", "aud": "orders",
        "groups": ["staff", "buyers", "admin"],
        "many": vec!["another"; 1_000],
    });
    let none = Map::new();
    let claims = match &claims {
        Value::Object(claims) => claims,
        _ => &none,
    };
    let request = Request {
        method: "GET",
        host: "orders.shop",
        path: "/a/b",
        headers: &OneHeader,
        token: Some(Token {
            issuer: "https://issuer.example",
            subject: "alice",
            claims,
        }),
    };
    look(&Env {
        connection: &connection,
        request: Some(&request),
        peer_is_local: true,
    });
}

fn compiled(source: &str) -> Program {
    match Program::compile(source) {
        Ok(program) => program,
        Err(error) => panic!("{source}: {error}"),
    }
}

#[divan::bench(args = EXPRESSIONS)]
fn compile(bencher: Bencher<'_, '_>, source: &str) {
    bencher.bench_local(|| Program::compile(black_box(source)));
}

#[divan::bench(args = EXPRESSIONS)]
fn eval(bencher: Bencher<'_, '_>, source: &str) {
    let program = compiled(source);
    with(|env| bencher.bench_local(|| black_box(&program).eval(black_box(env))));
}

#[divan::bench]
fn dearest(bencher: Bencher<'_, '_>) {
    let program = compiled(DEAREST);
    with(|env| bencher.bench_local(|| black_box(&program).eval(black_box(env))));
}
