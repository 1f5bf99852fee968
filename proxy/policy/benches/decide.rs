//! One decision with 10, 1,000 and 10,000 policies of ten rules each; goals in performance.md.
//!
//! `cargo bench -p kith-policy`. Allocations are counted: on the allow path there must be none.

use std::sync::Arc;

use divan::{AllocProfiler, Bencher, black_box};
use kith_policy::{
    Connection, EncodedSlash, Headers, Policy, PolicySet, Principal, Request, Rule, Token,
    ValidPolicy, normalise_target,
};
use policies::{mesh, policy};

#[path = "policies/ten_rules.rs"]
mod policies;

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

const POLICIES: [usize; 3] = [10, 1_000, 10_000];

fn main() {
    divan::main();
}

struct OneHeader;

impl Headers for OneHeader {
    fn for_each(&self, lower_case_name: &str, visit: &mut dyn FnMut(&[u8])) {
        if lower_case_name == "x-tenant" {
            visit(b"acme");
        }
    }
}

fn valid(policies: usize) -> Vec<Arc<ValidPolicy>> {
    (0..policies)
        .map(|number| match ValidPolicy::new(policy(number)) {
            Ok(policy) => Arc::new(policy),
            Err(errors) => panic!("{errors:?}"),
        })
        .collect()
}

fn decide(bencher: Bencher, policies: usize, peer: &str, path: &str, allow: bool) {
    let set = PolicySet::compile(&mesh(), "1", &valid(policies));
    let Ok(peer) = Principal::parse(peer) else {
        panic!("{peer}")
    };
    let source = [10, 1, 2, 3].into();
    let connection = Connection {
        peer: Some(&peer),
        source,
        remote: Some(source),
        destination: ([10, 9, 9, 9], 8080).into(),
        sni: None,
    };
    let request = Request {
        method: "GET",
        host: "orders.shop.svc:8080",
        path,
        headers: &OneHeader,
        token: None,
    };
    assert_eq!(set.decide(&connection, Some(&request)).allow, allow);
    bencher.bench_local(|| set.decide(black_box(&connection), Some(black_box(&request))));
}

#[divan::bench(args = POLICIES)]
fn allowed_by_rule(bencher: Bencher, policies: usize) {
    decide(
        bencher,
        policies,
        "spiffe://example.org/ns/team-5/sa/service-7",
        "/api/v7/orders/42",
        true,
    );
}

#[divan::bench(args = POLICIES)]
fn allowed_by_rule_with_header(bencher: Bencher, policies: usize) {
    decide(
        bencher,
        policies,
        "spiffe://example.org/ns/team-5/sa/service-5",
        "/api/v5/orders/42",
        true,
    );
}

#[divan::bench(args = POLICIES)]
fn denied_by_rule(bencher: Bencher, policies: usize) {
    decide(
        bencher,
        policies,
        "spiffe://example.org/ns/team-9/sa/service-7",
        "/api/v7/orders/42",
        false,
    );
}

/// As many policies deny a namespace each, in its wide reading: of peers whose ID has one reading, and of one whose ID
/// has not.
#[divan::bench(args = POLICIES)]
fn denied_by_no_namespace(bencher: Bencher, policies: usize) {
    by_namespace(
        bencher,
        policies,
        "spiffe://example.org/ns/team-5/sa/service-7",
    );
}

#[divan::bench(args = POLICIES)]
fn denied_by_no_namespace_odd_peer(bencher: Bencher, policies: usize) {
    by_namespace(
        bencher,
        policies,
        "spiffe://partner.org/x/ns/team-5/sa/service-7",
    );
}

fn by_namespace(bencher: Bencher, policies: usize, peer: &str) {
    let everybody = Policy {
        rules: vec![Rule::default()],
        ..policy(0)
    };
    let policies: Vec<_> = (0..policies)
        .map(policies::against_namespace)
        .chain([everybody])
        .flat_map(|policy| ValidPolicy::new(policy).map(Arc::new))
        .collect();
    let set = PolicySet::compile(&mesh(), "1", &policies);
    let Ok(peer) = Principal::parse(peer) else {
        panic!("{peer}")
    };
    let source = [10, 1, 2, 3].into();
    let connection = Connection {
        peer: Some(&peer),
        source,
        remote: Some(source),
        destination: ([10, 9, 9, 9], 8080).into(),
        sni: None,
    };
    assert!(set.decide(&connection, None).allow);
    bencher.bench_local(|| set.decide(black_box(&connection), None));
}

/// The same policies, and one that is about tokens and claims.
#[divan::bench(args = POLICIES)]
fn allowed_by_token(bencher: Bencher, policies: usize) {
    let mut policies = valid(policies);
    policies.push(match ValidPolicy::new(policies::by_token()) {
        Ok(policy) => Arc::new(policy),
        Err(errors) => panic!("{errors:?}"),
    });
    let set = PolicySet::compile(&mesh(), "1", &policies);
    let Ok(peer) = Principal::parse("spiffe://example.org/ns/gateway/sa/gateway") else {
        panic!("the gateway")
    };
    let source = [10, 1, 2, 3].into();
    let connection = Connection {
        peer: Some(&peer),
        source,
        remote: Some(source),
        destination: ([10, 9, 9, 9], 8080).into(),
        sni: None,
    };
    let mut claims = serde_json::Map::new();
    claims.insert("scope".to_owned(), "orders.read orders.write".into());
    let request = Request {
        method: "GET",
        host: "orders.shop.svc:8080",
        path: "/api/v7/orders/42",
        headers: &OneHeader,
        token: Some(Token {
            issuer: "https://idp.example",
            subject: "alice",
            claims: &claims,
        }),
    };
    assert!(set.decide(&connection, Some(&request)).allow);
    bencher.bench_local(|| set.decide(black_box(&connection), Some(black_box(&request))));
}

/// A known peer asks for something else: the nearest policy is worked out.
#[divan::bench(args = POLICIES)]
fn no_allow_policy_matches_known_peer(bencher: Bencher, policies: usize) {
    decide(
        bencher,
        policies,
        "spiffe://example.org/ns/team-5/sa/service-7",
        "/other",
        false,
    );
}

#[divan::bench(args = POLICIES)]
fn no_allow_policy_matches_stranger(bencher: Bencher, policies: usize) {
    decide(
        bencher,
        policies,
        "spiffe://example.org/ns/nobody/sa/stranger",
        "/api/v7/orders/42",
        false,
    );
}

/// Another peer each time, so that caches do not help.
#[divan::bench(args = POLICIES)]
fn allowed_by_rule_changing_peers(bencher: Bencher, policies: usize) {
    let set = PolicySet::compile(&mesh(), "1", &valid(policies));
    let peers: Vec<_> = (0..policies)
        .filter(|number| number % 10 != 9)
        .flat_map(|number| {
            Principal::parse(&format!(
                "spiffe://example.org/ns/team-{number}/sa/service-7"
            ))
        })
        .collect();
    let source = [10, 1, 2, 3].into();
    let mut next = 0;
    bencher.bench_local(|| {
        next = (next + 7_919) % peers.len();
        let connection = Connection {
            peer: Some(&peers[next]),
            source,
            remote: Some(source),
            destination: ([10, 9, 9, 9], 8080).into(),
            sni: None,
        };
        let request = Request {
            method: "GET",
            host: "orders.shop.svc:8080",
            path: "/api/v7/orders/42",
            headers: &OneHeader,
            token: None,
        };
        set.decide(black_box(&connection), Some(black_box(&request)))
    });
}

#[divan::bench(args = POLICIES, sample_count = 10)]
fn validate(bencher: Bencher, policies: usize) {
    bencher
        .with_inputs(|| (0..policies).map(policy).collect::<Vec<_>>())
        .bench_local_values(|policies| {
            policies
                .into_iter()
                .map(ValidPolicy::new)
                .collect::<Vec<_>>()
        });
}

#[divan::bench(args = POLICIES, sample_count = 10)]
fn compile(bencher: Bencher, policies: usize) {
    let (mesh, valid) = (mesh(), valid(policies));
    bencher.bench_local(|| PolicySet::compile(&mesh, "1", black_box(&valid)));
}

#[divan::bench]
fn parse_principal() -> bool {
    Principal::parse(black_box("spiffe://example.org/ns/team-5/sa/service-7")).is_ok()
}

#[divan::bench(args = ["/api/v7/orders/42?page=2", "/.well-known/openid-configuration", "/api//v7/./orders/%7e42?page=2"])]
fn normalise(bencher: Bencher, target: &str) {
    bencher.bench_local(|| {
        normalise_target("GET", black_box(target).as_bytes(), EncodedSlash::Refuse).is_ok()
    });
}
