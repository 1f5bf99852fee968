//! The keys of issuers: fetched over real http and TLS, pushed to sidecars, kept when the issuer is away.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use kith_control::jwks::Web;
use kith_xds_client::Kind;
use kith_xds_client::api::mesh as api;
use prost::Message;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::harness::{MESH, Mesh, Sidecar};

const ONE: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"one","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

/// An issuer of tokens. Answers by path: status, headers, body.
#[derive(Clone, Default)]
struct Issuer {
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

type Answer = (u16, Vec<(&'static str, String)>, String);

impl Issuer {
    fn say(&self, path: &str, status: u16, headers: &[(&'static str, &str)], body: &str) {
        let headers = headers
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()));
        let answer = (status, headers.collect(), body.to_owned());
        self.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    /// Serves http.
    async fn http(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let issuer = self.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(issuer.clone().talk(stream));
            }
        });
        address
    }

    /// Serves https as `localhost`, and says which CA to trust for it.
    async fn https(&self) -> (SocketAddr, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let chain = vec![CertificateDer::from(made.cert.der().to_vec())];
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let issuer = self.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, issuer) = (acceptor.clone(), issuer.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        issuer.talk(stream).await;
                    }
                });
            }
        });
        (address, made.cert.pem())
    }

    async fn talk(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let service = service_fn(move |request: Request<Incoming>| {
            let path = request.uri().path().to_owned();
            assert!(!request.headers().contains_key("authorization"));
            self.asked.lock().unwrap().push(path.clone());
            let answer = self.answers.lock().unwrap().get(&path).cloned();
            async move {
                let Some((status, headers, body)) = answer else {
                    // Nobody answers.
                    return std::future::pending::<Result<_, Infallible>>().await;
                };
                let mut response = Response::builder().status(status);
                for (name, value) in headers {
                    response = response.header(name, value);
                }
                let body = http_body_util::Full::new(Bytes::from(body));
                Ok::<_, Infallible>(response.body(body).unwrap())
            }
        });
        // The client ends it when it has what it wants.
        _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }
}

fn tokens(rule: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{namespace: shop, name: tokens}}
spec:
  selector: {{matchLabels: {{app: orders}}}}
  jwtRules:
  - {{{rule}}}
"
    )
}

/// The next configuration, acknowledged: the keys of its one rule.
async fn keys(orders: &mut Sidecar) -> String {
    let response = orders.next().await.unwrap().unwrap();
    orders.answer(&response, None).await;
    let resource = response.resources[0].resource.as_ref().unwrap();
    let config = api::WorkloadConfig::decode(resource.value.as_slice()).unwrap();
    config.request_authentication[0].rules[0].jwks.clone()
}

fn compact(json: &str) -> String {
    serde_json::from_str::<serde_json::Value>(json)
        .unwrap()
        .to_string()
}

#[tokio::test]
async fn keys_are_fetched_before_the_first_answer_and_pushed_when_they_change() {
    let issuer = Issuer::default();
    issuer.say("/keys", 200, &[], ONE);
    let url = format!("http://{}/keys", issuer.http().await);
    let rule = format!("issuer: me, jwksUri: \"{url}\"");
    let mesh = Mesh::start(&[("mesh.yaml", MESH), ("tokens.yaml", &tokens(&rule))]).await;
    let mut orders = mesh.sidecar("orders", "shop/orders-1").await;
    orders
        .subscribe(Kind::WorkloadConfig, &["shop/orders-1"])
        .await;
    assert_eq!(keys(&mut orders).await, compact(ONE));
    let status = mesh.status_when(|s| s["key_sets"][0]["keys"] == 1).await;
    let mut set = status["key_sets"][0].clone();
    assert!(set["fetched"].take().is_string());
    assert_eq!(
        set,
        serde_json::json!({"source": url, "issuers": ["me"], "keys": 1, "skipped": [], "fetched": null, "error": null, "failures": 0})
    );

    // Another place: empty until it answers, and then pushed.
    issuer.say("/other", 503, &[], "");
    let other = tokens(&rule.replace("/keys", "/other"));
    mesh.write("tokens.yaml", &other);
    assert_eq!(keys(&mut orders).await, "");
    let status = mesh
        .status_when(|s| s["key_sets"][0]["failures"].as_u64() > Some(0))
        .await;
    let error = status["key_sets"][0]["error"].as_str().unwrap();
    assert!(
        error.ends_with("/other answered 503 Service Unavailable"),
        "{error}"
    );
    issuer.say(
        "/other",
        200,
        &[("cache-control", "max-age=0")],
        &ONE.replace("one", "two"),
    );
    assert_eq!(keys(&mut orders).await, compact(&ONE.replace("one", "two")));
    let status = mesh
        .status_when(|s| s["key_sets"][0]["failures"] == 0)
        .await;
    assert_eq!(status["key_sets"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_issuer_that_does_not_answer_holds_up_nobody_for_long() {
    let issuer = Issuer::default();
    let url = format!("http://{}/silent", issuer.http().await);
    let rule = format!("issuer: me, jwksUri: \"{url}\", timeout: 200ms");
    let mesh = Mesh::start(&[("mesh.yaml", MESH), ("tokens.yaml", &tokens(&rule))]).await;
    let mut orders = mesh.sidecar("orders", "shop/orders-1").await;
    orders
        .subscribe(Kind::WorkloadConfig, &["shop/orders-1"])
        .await;
    assert_eq!(keys(&mut orders).await, "");
    let status = mesh
        .status_when(|s| s["key_sets"][0]["failures"].as_u64() > Some(0))
        .await;
    let error = status["key_sets"][0]["error"].as_str().unwrap();
    assert!(
        error.ends_with("/silent: no answer within 200ms"),
        "{error}"
    );
}

#[tokio::test]
async fn keys_are_discovered_at_the_issuer_over_tls_with_a_ca_that_was_given() {
    let issuer = Issuer::default();
    let (address, ca) = issuer.https().await;
    let name = format!("https://localhost:{}/tenant/", address.port());
    let metadata = |issuer: &str, uri: &str| {
        serde_json::json!({"issuer": issuer, "jwks_uri": uri}).to_string()
    };
    let place = "/tenant/.well-known/openid-configuration";
    issuer.say(place, 200, &[], &metadata(&name, &format!("{name}keys")));
    issuer.say("/tenant/keys", 307, &[("location", "moved?x=1")], "");
    issuer.say("/tenant/moved", 200, &[], ONE);
    let rule = tokens(&format!("issuer: \"{name}\""));

    // A CA that nobody named is not trusted.
    let mut mesh = Mesh::start(&[("mesh.yaml", MESH), ("tokens.yaml", &rule)]).await;
    let status = mesh
        .status_when(|s| s["key_sets"][0]["failures"].as_u64() > Some(0))
        .await;
    let error = status["key_sets"][0]["error"].to_string();
    assert!(
        error.contains("TLS with") || error.contains("--jwks-ca"),
        "{error}"
    );
    mesh.stop_server().await;
    let file = mesh.dir.path().join("ca.pem");
    std::fs::write(&file, ca).unwrap();
    mesh.web = Web::new(Some(&file)).unwrap();
    mesh.start_server().await;
    let mut orders = mesh.sidecar("orders", "shop/orders-1").await;
    orders
        .subscribe(Kind::WorkloadConfig, &["shop/orders-1"])
        .await;
    assert_eq!(keys(&mut orders).await, compact(ONE));
    assert_eq!(
        *issuer.asked.lock().unwrap(),
        [place, "/tenant/keys", "/tenant/moved"]
    );
}

#[tokio::test]
async fn what_is_no_key_set_or_leads_astray_is_refused_with_the_reason() {
    let plain = Issuer::default();
    let address = plain.http().await;
    plain.say("/keys", 200, &[], ONE);
    let secure = Issuer::default();
    let (secure_address, ca) = secure.https().await;
    let (http, https) = (
        format!("http://{address}"),
        format!("https://localhost:{}", secure_address.port()),
    );
    plain.say("/html", 200, &[], "<html>");
    plain.say("/empty", 200, &[], r#"{"keys":[]}"#);
    plain.say(
        "/shared",
        200,
        &[],
        r#"{"keys":[{"kty":"oct","k":"c2VjcmV0","kid":"s"}]}"#,
    );
    plain.say("/loop", 302, &[("location", "/loop")], "");
    plain.say("/file", 302, &[("location", "file:///etc/passwd")], "");
    plain.say("/long", 200, &[], &" ".repeat(300_000));
    plain.say(
        "/cloud",
        302,
        &[("location", "http://169.254.169.254/latest")],
        "",
    );
    secure.say("/down", 302, &[("location", &format!("{http}/keys"))], "");
    secure.say(
        "/.well-known/openid-configuration",
        200,
        &[],
        &serde_json::json!({"issuer": https, "jwks_uri": format!("{http}/keys")}).to_string(),
    );
    plain.say(
        "/.well-known/openid-configuration",
        200,
        &[],
        r#"{"issuer": "https://somebody.else", "jwks_uri": "https://somebody.else/keys"}"#,
    );
    let mut mesh = Mesh::start(&[("mesh.yaml", MESH)]).await;
    mesh.stop_server().await;
    let file = mesh.dir.path().join("ca.pem");
    std::fs::write(&file, ca).unwrap();
    mesh.web = Web::new(Some(&file)).unwrap();
    mesh.start_server().await;
    for (rule, expected) in [
        (
            format!("issuer: me, jwksUri: \"{http}/html\""),
            "is not a JWK Set (RFC 7517)",
        ),
        (
            format!("issuer: me, jwksUri: \"{http}/empty\""),
            "has no key that can be used: it is empty",
        ),
        (
            format!("issuer: me, jwksUri: \"{http}/shared\""),
            "has no key that can be used: key `s` ",
        ),
        (
            format!("issuer: me, jwksUri: \"{http}/loop\""),
            "more than 3 redirects",
        ),
        (
            format!("issuer: me, jwksUri: \"{http}/file\""),
            "neither an https nor an http URL",
        ),
        (
            format!("issuer: me, jwksUri: \"{http}/long\""),
            "length limit exceeded",
        ),
        (
            format!("issuer: me, jwksUri: \"{http}/cloud\""),
            "hand out a machine's own credentials: never asked",
        ),
        (
            format!("issuer: me, jwksUri: \"{https}/down\""),
            "from https to http",
        ),
        (format!("issuer: \"{https}\""), "is not https"),
        (
            format!("issuer: \"{http}\""),
            "is the metadata of `https://somebody.else`",
        ),
        (
            "issuer: me, jwksUri: \"http://127.0.0.1:1/\"".into(),
            "cannot connect to 127.0.0.1:1",
        ),
    ] {
        mesh.write("tokens.yaml", &tokens(&rule));
        let status = mesh
            .status_when(|s| s["key_sets"][0]["error"].to_string().contains(expected))
            .await;
        assert_eq!(status["key_sets"][0]["keys"], 0);
    }
    // Asked by nobody, for nobody wants it.
    mesh.write("tokens.yaml", "# nothing\n");
    mesh.status_when(|s| s["key_sets"].as_array().unwrap().is_empty())
        .await;
}

#[test]
fn a_file_of_cas_must_hold_some() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    let refused = |web: Result<Web, _>| {
        let error: kith_control::jwks::RootsError = web.unwrap_err();
        error
            .to_string()
            .replace(&dir.path().display().to_string(), "DIR")
    };
    let missing = refused(Web::new(Some(&file)));
    assert!(
        missing.starts_with("DIR/ca.pem: ") && missing.contains("No such file"),
        "{missing}"
    );
    std::fs::write(&file, "nothing").unwrap();
    assert_eq!(
        refused(Web::new(Some(&file))),
        "DIR/ca.pem: holds no certificate in PEM"
    );
}

#[tokio::test]
async fn keys_stay_in_force_when_the_issuer_goes_away() {
    let issuer = Issuer::default();
    issuer.say("/keys", 200, &[("cache-control", "max-age=0")], ONE);
    let url = format!("http://{}/keys", issuer.http().await);
    let rule = format!("issuer: me, jwksUri: \"{url}\"");
    let mesh = Mesh::start(&[("mesh.yaml", MESH), ("tokens.yaml", &tokens(&rule))]).await;
    let mut orders = mesh.sidecar("orders", "shop/orders-1").await;
    orders
        .subscribe(Kind::WorkloadConfig, &["shop/orders-1"])
        .await;
    assert_eq!(keys(&mut orders).await, compact(ONE));
    issuer.say("/keys", 500, &[], "");
    // An edit elsewhere does not take them away.
    let more = format!("issuer: me, jwksUri: \"{url}\", audiences: [orders]");
    mesh.write("tokens.yaml", &tokens(&more));
    assert_eq!(keys(&mut orders).await, compact(ONE));
    orders.silent(Duration::from_millis(100)).await;
}

/// The keys of what is served are kept, whatever the folder that isn't served wants.
#[tokio::test]
async fn a_bad_folder_does_not_take_away_the_keys_of_what_is_served() {
    let issuer = Issuer::default();
    issuer.say("/keys", 200, &[], ONE);
    issuer.say("/other", 503, &[], "");
    let url = format!("http://{}/keys", issuer.http().await);
    let rule = format!("issuer: me, jwksUri: \"{url}\"");
    let mesh = Mesh::start(&[("mesh.yaml", MESH), ("tokens.yaml", &tokens(&rule))]).await;
    let mut orders = mesh.sidecar("orders", "shop/orders-1").await;
    orders
        .subscribe(Kind::WorkloadConfig, &["shop/orders-1"])
        .await;
    assert_eq!(keys(&mut orders).await, compact(ONE));
    let moved = tokens(&rule.replace("/keys", "/other"));
    // The same rule twice: each file is good, the folder is not.
    mesh.write("tokens.yaml", &format!("{moved}---\n{moved}"));
    let status = mesh
        .status_when(|s| s["load"]["problems"] != serde_json::json!([]))
        .await;
    orders.silent(Duration::from_millis(300)).await;
    assert_eq!(status["key_sets"][0]["source"], url, "{status:#}");
}
