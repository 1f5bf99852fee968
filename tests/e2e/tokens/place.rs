//! Where tokens may be, and what the application sees instead of them.

use kith::lab::LabOptions;
use kith_tests::shop::{Shop, WEB_MAY_ALL};
use serde_json::{Value, json};

use super::idp::{Idp, Open, Protocol, ask, authentication, bearer, open};

const BOTH: [Protocol; 2] = [Protocol::Http1, Protocol::Http2];

/// What the application saw of a request that was allowed.
async fn seen(shop: &Shop, protocol: Protocol, path: &str, headers: &[&str]) -> Value {
    let reply = ask(shop, protocol, path, headers).await;
    assert_eq!(reply.status, 200, "{:?}", reply.header("x-kith-reason"));
    serde_json::from_slice(&reply.body).unwrap()
}

async fn shop(rule: Value) -> Open {
    let policies = format!("{WEB_MAY_ALL}---\n{}", authentication([rule]));
    open(LabOptions::default(), &policies).await
}

#[tokio::test]
async fn tokens_are_found_where_the_rule_says_and_taken_from_there() {
    let idp = Idp::new();
    let shop = shop(idp.rule(json!({
        "fromHeaders": [{"name": "x-jwt"}, {"name": "authorization", "prefix": "Token "}],
        "fromParams": ["t"], "fromCookies": ["jwt"],
        "outputClaimToHeaders": [{"header": "x-user", "claim": "sub"}],
    })))
    .await;
    let token = idp.token(json!({}));
    for protocol in BOTH {
        for (path, headers) in [
            ("/a?b=c", vec![format!("x-jwt: {token}")]),
            ("/a?b=c", vec![format!("authorization: token  {token}")]),
            (&*format!("/a?b=c&t={token}"), vec![]),
            (&*format!("/a?%74={token}&b=c"), vec![]),
            ("/a?b=c", vec![format!("cookie: jwt=\"{token}\"")]),
            (
                &*format!("/a?t={token}&b=c"),
                vec![
                    format!("x-jwt: {token}"),
                    format!("cookie: a=1; jwt={token}; b=2"),
                ],
            ),
        ] {
            let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
            let body = seen(&shop, protocol, path, &headers).await;
            assert_eq!(body["headers"]["x-user"], "ann", "{path} {headers:?}");
            assert_eq!(
                (&body["path"], &body["query"]),
                (&json!("/a"), &json!("b=c"))
            );
            assert!(!body.to_string().contains(&token), "{body}");
            let cookies = match headers.iter().any(|header| header.contains("a=1")) {
                true => json!("a=1; b=2"),
                false => Value::Null,
            };
            assert_eq!(body["headers"]["cookie"], cookies);
        }
        let only = seen(&shop, protocol, &format!("/a?t={token}"), &[]).await;
        assert_eq!(only["query"], Value::Null);

        // Elsewhere it is none, and what is no token there stays as it is.
        for header in ["authorization: Basic YTpi", "authorization: Bearer x"] {
            let body = seen(&shop, protocol, "/a?access_token=x", &[header]).await;
            let value = header.split_once(": ").unwrap().1;
            assert_eq!(body["headers"]["authorization"], value);
            assert_eq!(body["headers"]["x-user"], Value::Null);
            assert_eq!(body["query"], "access_token=x");
        }
    }
}

#[tokio::test]
async fn two_tokens_are_one_too_many() {
    let idp = Idp::new();
    let shop = shop(idp.rule(json!({}))).await;
    let (one, other) = (idp.token(json!({})), idp.token(json!({})));
    for protocol in BOTH {
        for (path, headers) in [
            (format!("/a?access_token={other}"), vec![bearer(&one)]),
            (format!("/a?access_token={one}&access_token={one}"), vec![]),
            ("/a".into(), vec![bearer(&one), bearer(&one)]),
            (
                "/a".into(),
                vec![bearer(&one), "authorization: Basic YTpi".into()],
            ),
            (
                "/a".into(),
                vec![format!("authorization: Bearer {one}, Bearer {one}")],
            ),
            ("/a?access_token=".into(), vec![bearer(&one)]),
            ("/a".into(), vec!["authorization: Bearer".into()]),
        ] {
            let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
            let reply = ask(&shop, protocol, &path, &headers).await;
            assert_eq!(reply.status, 401, "{path} {headers:?}");
            assert_eq!(reply.header("x-kith-reason"), Some("token-malformed"));
        }
        let path = format!("/a?access_token={one}");
        let body = seen(&shop, protocol, &path, &[&bearer(&one)]).await;
        assert_eq!(body["query"], Value::Null);
    }
}

#[tokio::test]
async fn row_17_the_application_is_told_claims_by_the_token_alone() {
    let idp = Idp::new();
    let shop = shop(idp.rule(json!({
        "forwardOriginalToken": true,
        "outputPayloadToHeader": "x-claims",
        "outputClaimToHeaders": [
            {"header": "x-user", "claim": "sub"}, {"header": "x-level", "claim": "level"},
            {"header": "x-admin", "claim": "admin"}, {"header": "x-team", "claim": "org.team"},
            {"header": "x-list", "claim": "aud"}, {"header": "x-evil", "claim": "evil"},
        ],
    })))
    .await;
    let token = idp.token(json!({
        "level": 3, "admin": false, "org": {"team": "blue"}, "evil": "a\r\nx-admin: true",
    }));
    let spoofed = [
        "x-user: root",
        "x_user: root",
        "x-evil: root",
        "x-admin: true",
        "x-claims: e30",
    ];
    for protocol in BOTH {
        let body = seen(&shop, protocol, "/a", &spoofed).await;
        for name in ["x-user", "x_user", "x-evil", "x-admin", "x-claims"] {
            assert_eq!(body["headers"][name], Value::Null, "{body}");
        }
        let authorization = bearer(&token);
        let headers = [&[&*authorization], &spoofed[..]].concat();
        let body = seen(&shop, protocol, "/a", &headers).await;
        let told = &body["headers"];
        assert_eq!(told["authorization"], format!("Bearer {token}"));
        assert_eq!(told["x-claims"], token.split('.').nth(1).unwrap());
        for (name, value) in [
            ("x-user", json!("ann")),
            ("x-level", json!("3")),
            ("x-admin", json!("false")),
            ("x-team", json!("blue")),
            ("x-list", Value::Null),
            ("x-evil", Value::Null),
            ("x_user", Value::Null),
        ] {
            assert_eq!(told[name], value, "{name}");
        }
    }
    // What `Connection` names is the caller's to take back, not the proxy's word (row 7).
    let request = format!(
        "GET /a HTTP/1.1\r\nhost: orders.shop\r\nauthorization: Bearer {token}\r\n\
         connection: close, x-user, x-claims\r\nx-user: root\r\n\r\n"
    );
    let heard = shop.say(request).await.text();
    assert!(heard.starts_with("HTTP/1.1 200"), "{heard}");
    assert!(heard.contains(r#""x-user":"ann""#), "{heard}");
    assert!(!heard.contains("root"), "{heard}");
}

#[tokio::test]
async fn policies_see_what_the_application_will_see() {
    let idp = Idp::new();
    let policy = "
apiVersion: kith.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: orders}
spec:
  rules:
  - when: [{key: 'request.headers[x-user]', values: [ann]}]
---
apiVersion: kith.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: no-bearer}
spec:
  action: DENY
  rules:
  - when: [{key: 'request.headers[authorization]', values: ['Bearer*']}]
";
    let rule = idp.rule(json!({"outputClaimToHeaders": [{"header": "x-user", "claim": "sub"}]}));
    let policies = format!("{policy}---\n{}", authentication([rule]));
    let shop = open(LabOptions::default(), &policies).await;
    for protocol in BOTH {
        let spoofed = ask(&shop, protocol, "/a", &["x-user: ann"]).await;
        assert_eq!(spoofed.status, 403);
        let told = ask(&shop, protocol, "/a", &[&bearer(&idp.token(json!({})))]).await;
        assert_eq!(told.status, 200);
    }
}

#[tokio::test]
async fn row_07_trailers_bring_neither_claims_nor_tokens() {
    let idp = Idp::new();
    let shop = shop(idp.rule(json!({
        "fromHeaders": [{"name": "x-jwt"}],
        "outputPayloadToHeader": "x-claims",
        "outputClaimToHeaders": [{"header": "x-user", "claim": "sub"}],
    })))
    .await;
    for (name, status) in [
        ("x-sum", "200"),
        ("x-user", "400"),
        ("X_User", "400"),
        ("x-claims", "400"),
        ("x-jwt", "400"),
    ] {
        let request = format!(
            "POST /{name} HTTP/1.1\r\nhost: orders.shop\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n\
             0\r\n{name}: root\r\n\r\n"
        );
        let heard = shop.say(request).await.text();
        assert!(
            heard.starts_with(&format!("HTTP/1.1 {status}")),
            "{name}: {heard}"
        );
        assert_eq!(heard.contains("root"), status == "200", "{heard}");
        if status == "400" {
            assert!(heard.contains("request-malformed"), "{heard}");
        }
    }
    let address = shop.service(9090);
    for (name, status) in [("x-sum", 200), ("x-user", 400), ("x-jwt", 400)] {
        let talk = move || async move {
            let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
            let (client, connection) = h2::client::handshake(tcp).await.unwrap();
            tokio::task::spawn_local(connection);
            let request = http::Request::post("http://orders.shop:9090/trailers");
            let request = request.body(()).unwrap();
            let mut client = client.ready().await.unwrap();
            let (response, mut body) = client.send_request(request, false).unwrap();
            let mut trailers = http::HeaderMap::new();
            trailers.insert(name, "root".parse().unwrap());
            body.send_trailers(trailers).unwrap();
            let answer = response.await.unwrap();
            let reason = answer.headers().get("x-kith-reason").cloned();
            (answer.status().as_u16(), reason)
        };
        let (answered, reason) = shop.web.enter(talk).await.unwrap();
        assert_eq!(answered, status, "{name}");
        let refused = http::HeaderValue::from_static("request-malformed");
        assert_eq!(reason, (status == 400).then_some(refused), "{name}");
    }
}
