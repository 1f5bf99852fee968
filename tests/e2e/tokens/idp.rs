//! Somebody who issues tokens, and the requests that bring them.

use std::time::{Duration, SystemTime};

use kith::app::client::{Call, Reply};
use kith::lab::{LabOptions, Process};
use kith_certs::authority::jwt::Issuer;
use kith_certs::jwt::Algorithm;
use kith_tests::shop::Shop;
use serde_json::{Value, json};

pub(super) const IDP: &str = "https://idp.example";

pub(super) struct Idp(Issuer);

impl Idp {
    pub(super) fn new() -> Self {
        Idp(Issuer::generate(Algorithm::Es256).unwrap())
    }

    /// A `jwtRule` for its tokens with its keys, and with more fields.
    pub(super) fn rule(&self, more: Value) -> Value {
        merge(json!({"issuer": IDP, "jwks": self.jwks()}), more)
    }

    pub(super) fn jwks(&self) -> String {
        self.0.jwks()
    }

    /// Of ann's for orders, ten minutes from now; changed by `changes`, where null takes a claim away.
    pub(super) fn claims(&self, changes: Value) -> Value {
        let claims = json!({"iss": IDP, "sub": "ann", "aud": ["orders"], "iat": seconds(0.0).floor(), "exp": seconds(600.0)});
        merge(claims, changes)
    }

    pub(super) fn token(&self, changes: Value) -> String {
        self.0.sign(&self.claims(changes)).unwrap()
    }

    pub(super) fn signed(&self, header: &Value, claims: &Value) -> String {
        self.0.sign_with_header(header, claims).unwrap()
    }
}

fn merge(mut object: Value, changes: Value) -> Value {
    if let (Some(fields), Value::Object(changes)) = (object.as_object_mut(), changes) {
        for (name, value) in changes {
            match value {
                Value::Null => fields.remove(&name),
                value => fields.insert(name, value),
            };
        }
    }
    object
}

/// Seconds since 1970, some from now.
pub(super) fn seconds(from_now: f64) -> f64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs_f64()
        + from_now
}

pub(super) fn authentication(rules: impl Into<Vec<Value>>) -> String {
    let document = json!({
        "apiVersion": "kith.dev/v1alpha1", "kind": "RequestAuthentication",
        "metadata": {"namespace": "shop", "name": "tokens"},
        "spec": {"selector": {"matchLabels": {"app": "orders"}}, "jwtRules": rules.into()},
    });
    format!("{document}\n")
}

pub(super) fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}")
}

/// `orders` serves HTTP/1.1 on 8080 and HTTP/2 on 9090.
pub(super) struct Open {
    _apps: Vec<Process>,
    shop: Shop,
}

impl std::ops::Deref for Open {
    type Target = Shop;
    fn deref(&self) -> &Shop {
        &self.shop
    }
}

pub(super) async fn open(options: LabOptions, policies: &str) -> Open {
    let shop = Shop::with(options, &[(8080, "HTTP"), (9090, "GRPC")], policies).await;
    let mut apps = Vec::new();
    for port in ["[::]:8080", "[::]:9090"] {
        apps.push(shop.orders.app(&["http", "--listen", port]).await.unwrap());
    }
    Open { _apps: apps, shop }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
    Grpc,
}

impl Protocol {
    pub(super) const ALL: [Protocol; 3] = [Protocol::Http1, Protocol::Http2, Protocol::Grpc];

    pub(super) fn name(self) -> &'static str {
        match self {
            Protocol::Http1 => "http1",
            Protocol::Http2 => "http2",
            Protocol::Grpc => "grpc",
        }
    }

    pub(super) fn port(self) -> u16 {
        match self {
            Protocol::Http1 => 8080,
            Protocol::Http2 | Protocol::Grpc => 9090,
        }
    }
}

/// One request of `web` to `orders`.
pub(super) async fn ask(shop: &Shop, protocol: Protocol, path: &str, headers: &[&str]) -> Reply {
    let url = format!("http://orders.shop:{}{path}", protocol.port());
    let mut call = Call::get(url.parse().unwrap());
    call.http2 = protocol != Protocol::Http1;
    call.limit = Duration::from_secs(10);
    call.headers = headers.iter().map(|&header| header.to_owned()).collect();
    if protocol == Protocol::Grpc {
        call.headers.push("content-type: application/grpc".into());
        call.headers.push("te: trailers".into());
        call.method = Some("POST".into());
    }
    shop.web.call(call).await.unwrap()
}
