//! Bearer tokens: absent, good or bad, told apart before any policy; what the application sees of them; and how
//! everything that they allow ends with them.

mod idp;
mod live;
mod place;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use expect_test::expect;
use kith::lab::LabOptions;
use kith_tests::shop::{Shop, WEB_MAY_ALL};
use serde_json::{Value, json};

use idp::{IDP, Idp, Protocol, ask, authentication, bearer, open, seconds};

/// Only who has a token of ann's may read `/private`.
const ANN_MAY_READ: &str = "
apiVersion: kith.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: orders}
spec:
  selector: {matchLabels: {app: orders}}
  rules:
  - from: [{source: {requestPrincipals: [https://idp.example/ann]}}]
    to: [{operation: {paths: [/private]}}]
  - to: [{operation: {paths: [/public]}}]
";

/// What the server's sidecar wrote about the request with this id.
async fn record(shop: &Shop, id: &str) -> Value {
    shop.orders
        .wait_record(|record| record["direction"] == "inbound" && record["request.id"] == id)
        .await
        .unwrap()
}

fn end_user(record: &Value) -> Vec<String> {
    let fields = record.as_object().unwrap().iter();
    fields
        .filter(|(name, _)| name.starts_with("end_user."))
        .map(|(name, value)| format!("{name} {value}"))
        .collect()
}

#[tokio::test]
async fn row_16_absent_good_and_bad_tokens_are_three_things() {
    let idp = Idp::new();
    let rule = json!({"audiences": ["orders"]});
    let policies = format!("{WEB_MAY_ALL}---\n{}", authentication([idp.rule(rule)]));
    let shop = open(LabOptions::default(), &policies).await;
    let good = idp.token(json!({}));
    let none = json!({"alg": "none"});
    let shared = json!({"alg": "HS256"});
    let claims = idp.claims(json!({}));
    let mut damaged = good.clone();
    damaged.replace_range(good.len() - 6.., "AAAAAA");
    let bad = [
        ("garbage", "token-malformed", "x".to_owned()),
        ("damaged", "token-untrusted", damaged),
        ("forged", "token-untrusted", Idp::new().token(json!({}))),
        ("alg-none", "token-untrusted", idp.signed(&none, &claims)),
        (
            "alg-shared",
            "token-untrusted",
            idp.signed(&shared, &claims),
        ),
        (
            "issuer",
            "token-untrusted",
            idp.token(json!({"iss": "https://other"})),
        ),
        (
            "no-issuer",
            "token-untrusted",
            idp.token(json!({"iss": null})),
        ),
        (
            "early",
            "token-untrusted",
            idp.token(json!({"nbf": seconds(60.0)})),
        ),
        (
            "expired",
            "token-expired",
            idp.token(json!({"exp": seconds(-1.0)})),
        ),
        (
            "endless",
            "token-malformed",
            idp.token(json!({"exp": null})),
        ),
        (
            "audience",
            "token-audience",
            idp.token(json!({"aud": "payments"})),
        ),
        (
            "no-audience",
            "token-audience",
            idp.token(json!({"aud": null})),
        ),
        (
            "foreign",
            "token-unbound",
            idp.token(json!({"cnf": {"x5t#S256": URL_SAFE_NO_PAD.encode([7; 32])}})),
        ),
    ];
    for protocol in Protocol::ALL {
        let id = format!("absent-{}", protocol.name());
        let reply = ask(&shop, protocol, "/a", &[&format!("x-request-id: {id}")]).await;
        assert_eq!(reply.status, 200);
        assert_eq!(end_user(&record(&shop, &id).await), [""; 0]);

        let id = format!("good-{}", protocol.name());
        let headers = [bearer(&good), format!("x-request-id: {id}")];
        let reply = ask(
            &shop,
            protocol,
            "/a",
            &headers.each_ref().map(String::as_str),
        )
        .await;
        assert_eq!(reply.status, 200);
        if protocol != Protocol::Grpc {
            let body: Value = serde_json::from_slice(&reply.body).unwrap();
            assert_eq!(body["headers"]["authorization"], Value::Null);
        }
        let record_of_good = record(&shop, &id).await;
        assert_eq!(record_of_good["end_user.issuer"], IDP);
        assert_eq!(record_of_good["end_user.subject"], "ann");
        assert_eq!(record_of_good["end_user.token"].as_str().unwrap().len(), 16);
        assert!(record_of_good["end_user.expires"].is_string());

        for (what, reason, token) in &bad {
            let id = format!("{what}-{}", protocol.name());
            let headers = [bearer(token), format!("x-request-id: {id}")];
            let reply = ask(
                &shop,
                protocol,
                "/a",
                &headers.each_ref().map(String::as_str),
            )
            .await;
            assert_eq!(reply.header("x-kith-reason"), Some(*reason), "{id}");
            if protocol == Protocol::Grpc {
                assert_eq!(
                    (reply.status, reply.header("grpc-status")),
                    (200, Some("16"))
                );
                assert!(reply.header("grpc-message").unwrap().starts_with(reason));
            } else {
                assert_eq!(reply.status, 401, "{id}");
                let challenge = reply.header("www-authenticate");
                assert_eq!(challenge, Some(r#"Bearer error="invalid_token""#));
            }
            let record = record(&shop, &id).await;
            assert_eq!(
                (&record["decision"], &record["reason"]),
                (&json!("deny"), &json!(reason))
            );
            let proved = matches!(
                *what,
                "expired" | "audience" | "no-audience" | "early" | "foreign" | "endless"
            );
            assert_eq!(record["end_user.subject"].is_string(), proved, "{record}");
        }
    }
}

#[tokio::test]
async fn row_16_an_issuer_without_keys_is_not_trusted() {
    let idp = Idp::new();
    // Its keys can't be fetched: nobody listens there.
    let rule = json!({"issuer": IDP, "jwksUri": "http://127.0.0.1:1/jwks"});
    let policies = format!("{WEB_MAY_ALL}---\n{}", authentication([rule]));
    let shop = open(LabOptions::default(), &policies).await;
    let reply = ask(
        &shop,
        Protocol::Http1,
        "/a",
        &[&bearer(&idp.token(json!({})))],
    )
    .await;
    assert_eq!(reply.status, 401);
    assert_eq!(reply.header("x-kith-reason"), Some("token-untrusted"));
    assert_eq!(ask(&shop, Protocol::Http1, "/a", &[]).await.status, 200);
}

#[tokio::test]
async fn a_policy_that_asks_for_a_token_tells_a_caller_without_one_so() {
    let idp = Idp::new();
    let policies = format!(
        "{ANN_MAY_READ}---\n{}",
        authentication([idp.rule(json!({}))])
    );
    let shop = open(LabOptions::default(), &policies).await;
    let ann = bearer(&idp.token(json!({})));
    let bob = bearer(&idp.token(json!({"sub": "bob"})));
    let mut seen = String::new();
    for protocol in Protocol::ALL {
        for (who, headers) in [
            ("nobody", vec![]),
            ("ann", vec![&*ann]),
            ("bob", vec![&*bob]),
        ] {
            for path in ["/private", "/public"] {
                let reply = ask(&shop, protocol, path, &headers).await;
                let grpc = reply
                    .header("grpc-status")
                    .filter(|_| reply.header("x-kith-reason").is_some());
                seen.push_str(&format!(
                    "{} {who} {path}: {} {} {}\n",
                    protocol.name(),
                    grpc.map_or_else(
                        || reply.status.to_string(),
                        |status| format!("grpc {status}")
                    ),
                    reply.header("x-kith-reason").unwrap_or("-"),
                    reply.header("www-authenticate").unwrap_or("-"),
                ));
            }
        }
    }
    expect![[r#"
        http1 nobody /private: 401 token-missing Bearer
        http1 nobody /public: 200 - -
        http1 ann /private: 200 - -
        http1 ann /public: 200 - -
        http1 bob /private: 403 no-allow-policy-matches -
        http1 bob /public: 200 - -
        http2 nobody /private: 401 token-missing Bearer
        http2 nobody /public: 200 - -
        http2 ann /private: 200 - -
        http2 ann /public: 200 - -
        http2 bob /private: 403 no-allow-policy-matches -
        http2 bob /public: 200 - -
        grpc nobody /private: grpc 16 token-missing -
        grpc nobody /public: 200 - -
        grpc ann /private: 200 - -
        grpc ann /public: 200 - -
        grpc bob /private: grpc 7 no-allow-policy-matches -
        grpc bob /public: 200 - -
    "#]]
    .assert_eq(&seen);
}

#[tokio::test]
async fn without_request_authentication_tokens_are_nobodys_business() {
    let shop = open(LabOptions::default(), WEB_MAY_ALL).await;
    let reply = ask(
        &shop,
        Protocol::Http1,
        "/a?access_token=x",
        &["authorization: Bearer x"],
    )
    .await;
    let body: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(body["headers"]["authorization"], "Bearer x");
    assert_eq!(body["query"], "access_token=x");
}

#[tokio::test]
async fn a_bound_token_is_good_from_its_own_client_only() {
    let idp = Idp::new();
    let rule = idp.rule(json!({"requireBoundTokens": true}));
    let policies = format!("{WEB_MAY_ALL}---\n{}", authentication([rule]));
    let shop = open(LabOptions::default(), &policies).await;
    let reply = ask(&shop, Protocol::Http1, "/a", &[]).await;
    let body: Value = serde_json::from_slice(&reply.body).unwrap();
    let client_cert = body["headers"]["x-forwarded-client-cert"].as_str().unwrap();
    let (_, hash) = client_cert.split_once("Hash=").unwrap();
    let thumbprint: Vec<u8> = (0..64)
        .step_by(2)
        .map(|at| u8::from_str_radix(&hash[at..at + 2], 16).unwrap())
        .collect();
    let bound =
        |to: &[u8]| bearer(&idp.token(json!({"cnf": {"x5t#S256": URL_SAFE_NO_PAD.encode(to)}})));
    for protocol in Protocol::ALL {
        let own = ask(&shop, protocol, "/a", &[&bound(&thumbprint)]).await;
        assert_eq!((own.status, own.header("x-kith-reason")), (200, None));
        for token in [bound(&[7; 32]), bearer(&idp.token(json!({})))] {
            let reply = ask(&shop, protocol, "/a", &[&token]).await;
            assert_eq!(reply.header("x-kith-reason"), Some("token-unbound"));
        }
    }
}

#[tokio::test]
async fn a_jwt_svid_of_one_workload_is_good_at_the_other() {
    let policy = "
apiVersion: kith.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: orders}
spec:
  rules:
  - from: [{source: {requestPrincipals: [spiffe://example.org/spiffe://example.org/ns/shop/sa/web]}}]
";
    let rule = json!({"spiffeTrustDomain": "example.org"});
    let policies = format!("{policy}---\n{}", authentication([rule]));
    let shop = open(LabOptions::default(), &policies).await;
    let (web, orders) = (shop.web.spiffe_id(), shop.orders.spiffe_id());
    let svid = |id: &str, audience: &str, claims: Value| {
        let command =
            json!({"command": "issue-jwt", "id": id, "audience": [audience], "claims": claims});
        let authority = shop.lab.authority();
        async move {
            let answer = authority.command(&command).await.unwrap();
            bearer(answer["token"].as_str().unwrap())
        }
    };
    let good = svid(&web, &orders, json!({})).await;
    // What it says of its issuer is not what its trust domain's keys can speak for.
    let pretender = svid(&web, &orders, json!({"iss": "https://idp.example"})).await;
    let elsewhere = svid(&web, &web, json!({})).await;
    let other = svid(&orders, &orders, json!({})).await;
    for protocol in Protocol::ALL {
        for (token, reason) in [
            (&good, None),
            (&pretender, None),
            (&elsewhere, Some("token-audience")),
            (&other, Some("no-allow-policy-matches")),
        ] {
            let reply = ask(&shop, protocol, "/a", &[token]).await;
            assert_eq!(reply.header("x-kith-reason"), reason);
        }
    }
    let record = shop
        .orders
        .wait_record(|record| record["decision"] == "allow" && record["direction"] == "inbound")
        .await
        .unwrap();
    assert_eq!(record["end_user.issuer"], "spiffe://example.org");
    assert_eq!(record["end_user.subject"], web);
}

/// Whatever is logged, and however much of it.
#[tokio::test]
async fn a_token_is_written_down_nowhere() {
    let idp = Idp::new();
    let rule = idp.rule(json!({
        "fromHeaders": [{"name": "authorization", "prefix": "Bearer "}],
        "fromParams": ["t", "access_token"], "fromCookies": ["jwt"],
        "forwardOriginalToken": true,
    }));
    let options = LabOptions {
        environment: [("KITH_LOG_QUERY", "true"), ("KITH_LOG", "trace")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        ..LabOptions::default()
    };
    let policies = format!("{WEB_MAY_ALL}---\n{}", authentication([rule]));
    let shop = open(options, &policies).await;
    let tokens = [
        idp.token(json!({})),
        idp.token(json!({"exp": seconds(-1.0)})),
        Idp::new().token(json!({})),
    ];
    for token in &tokens {
        for protocol in Protocol::ALL {
            let encoded = token.replace('.', "%2E");
            ask(&shop, protocol, "/a", &[&bearer(token)]).await;
            ask(&shop, protocol, "/a", &[&format!("cookie: jwt={token}")]).await;
            ask(&shop, protocol, &format!("/a?b=c&t={token}"), &[]).await;
            ask(&shop, protocol, &format!("/a?%74={encoded}&b=c"), &[]).await;
            ask(&shop, protocol, &format!("/a?access_token={token}"), &[]).await;
            ask(
                &shop,
                protocol,
                &format!("/a?t={token}&access_token=x"),
                &[],
            )
            .await;
        }
    }
    let records = shop
        .orders
        .wait_records(54, |record| record["direction"] == "inbound")
        .await
        .unwrap();
    assert!(
        records
            .iter()
            .any(|record| record["http.path"] == "/a?b=c&t=redacted")
    );
    for page in ["config", "connections"] {
        let page = shop
            .orders
            .get(&format!("http://127.0.0.1:15000/{page}"))
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&page.body).into_owned();
        assert_eq!(page.status, 200);
        assert!(tokens.iter().all(|token| !text.contains(token)));
    }
    let mut files = vec![shop.lab.directory().to_owned()];
    let (mut traced, mut recorded) = (false, false);
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(
                std::fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if let Ok(bytes) = std::fs::read(&path) {
            let text = String::from_utf8_lossy(&bytes);
            traced |= text.contains("TRACE");
            recorded |= text.contains("/a?b=c&t=redacted");
            for token in &tokens {
                let (signed, signature) = token.rsplit_once('.').unwrap();
                let (_, claims) = signed.split_once('.').unwrap();
                for part in [signature, claims] {
                    if let Some(at) = text.find(part) {
                        let line = text[..at].rsplit('\n').next().unwrap_or_default();
                        panic!("a token in {}, after {line}", path.display());
                    }
                }
            }
        }
    }
    assert!(
        traced && recorded,
        "this looks where things are written down"
    );
}
