//! What people write: policies in YAML, expressions in CEL; and the paths and hosts that they are compared with.

use std::net::IpAddr;
use std::path::Path;

use kith_control::yaml::load_str;
use kith_policy::cel::{Env, Program};
use kith_policy::{
    Connection, EncodedSlash, NoHeaders, Principal, Request, normalise_host, normalise_target,
};

/// Normalising twice is normalising once, so that no second reader of the path sees another one.
pub(crate) fn target(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else {
        return;
    };
    let slash = match choice % 3 {
        0 => EncodedSlash::Refuse,
        1 => EncodedSlash::Keep,
        _ => EncodedSlash::Decode,
    };
    if let Ok(once) = normalise_target("GET", data, slash) {
        assert!(once.path.starts_with('/'), "{:?}", once.path);
        assert!(
            !once.path.contains("//")
                && !once.path.contains('\\')
                && !once.path.contains(['?', '#'])
        );
        assert!(
            !once
                .path
                .split('/')
                .any(|segment| segment == ".." || segment == "."),
            "{:?}",
            once.path
        );
        let twice = normalise_target("GET", once.path.as_bytes(), slash);
        let twice = twice.unwrap_or_else(|error| panic!("{:?}: {error:?}", once.path));
        assert_eq!(twice.path, once.path);
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = normalise_host(text);
        let _ = Principal::parse(text);
    }
}

/// What the control plane accepts, a sidecar accepts.
pub(crate) fn yaml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(loaded) = load_str(Path::new("fuzz.yaml"), text) else {
        return;
    };
    let resolved = kith_control::resolve::resolve(&loaded, &Default::default());
    let Ok(resolved) = resolved else { return };
    for (id, node) in resolved.catalog.nodes() {
        super::resources::accepted("WorkloadConfig", id, node.config().content());
        for (name, policy) in node.policies() {
            super::resources::accepted("AuthorizationPolicy", name, policy.content());
        }
    }
}

/// Whatever is accepted ends, with a value or an error, on any request, within the cost that it said.
pub(crate) fn cel(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(program) = Program::compile(text) else {
        return;
    };
    assert_eq!(program.source(), text);
    let claims = serde_json::json!({"groups": ["a", "b"], "n": 1, "deep": {"a": {"b": [1, 2.5, null, "x"]}}});
    let Some(claims) = claims.as_object() else {
        return;
    };
    let Ok(peer) = Principal::parse("spiffe://example.org/ns/shop/sa/web") else {
        return;
    };
    let connection = Connection {
        peer: Some(&peer),
        source: IpAddr::from([10, 0, 0, 1]),
        remote: Some(IpAddr::from([10, 0, 0, 1])),
        destination: ([10, 0, 0, 2], 8080).into(),
        sni: Some("orders.shop"),
    };
    let token = kith_policy::Token {
        issuer: "https://issuer",
        subject: "alice",
        claims,
    };
    for token in [None, Some(token)] {
        let request = Request {
            method: "GET",
            host: "orders.shop",
            path: "/a/b",
            headers: &NoHeaders,
            token,
        };
        for request in [None, Some(&request)] {
            let env = Env {
                connection: &connection,
                request,
                peer_is_local: true,
            };
            let _ = program.eval(&env);
        }
    }
}
