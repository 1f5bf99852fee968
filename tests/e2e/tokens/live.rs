//! What a token allowed ends with it: at its `exp`, when its key or its rule goes, when it is revoked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use kith::lab::{LabOptions, Workload};
use kith_tests::shop::{Shop, WEB_MAY_ALL};
use kith_tests::wait::wait_for;
use kith_tests::wire::{self, End};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::idp::{Idp, authentication, bearer, open, seconds};

const ENDLESS: &str = "/stream?ticks=0&ms=30";

/// When it ended, and whether by a reset or a cut.
type Ended = JoinHandle<(f64, bool)>;

/// A response over HTTP/1.1 that never ends by itself; begun on return.
async fn stream_http1(from: &Arc<Workload>, to: SocketAddr, header: &str) -> Ended {
    let request = format!("GET {ENDLESS} HTTP/1.1\r\nhost: orders.shop\r\n{header}\r\n\r\n");
    begin(from, to, request, "tick 2\n").await
}

/// An upgraded connection on which every byte comes back.
async fn tunnel(from: &Arc<Workload>, to: SocketAddr, header: &str) -> Ended {
    let request = format!(
        "GET /upgrade HTTP/1.1\r\nhost: orders.shop\r\nconnection: upgrade\r\nupgrade: websocket\r\n{header}\r\n\r\n\
         hello"
    );
    begin(from, to, request, "hello").await
}

async fn begin(
    from: &Arc<Workload>,
    to: SocketAddr,
    request: String,
    first: &'static str,
) -> Ended {
    let (begun, beginning) = tokio::sync::oneshot::channel();
    let from = Arc::clone(from);
    let ended = tokio::spawn(async move {
        let talk = move || async move {
            let mut stream = TcpStream::connect(to).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            wire::until(&mut stream, first).await.unwrap();
            let _ = begun.send(());
            let heard = wire::listen(&mut stream, Duration::from_secs(8)).await;
            (
                seconds(0.0),
                heard.end == End::Reset || !heard.text().ends_with("0\r\n\r\n"),
            )
        };
        from.enter(talk).await.unwrap()
    });
    beginning.await.unwrap();
    ended
}

/// Two such responses over one HTTP/2 connection: the first with a header, the second without.
async fn streams_http2(from: &Arc<Workload>, to: SocketAddr, header: &str) -> (Ended, Ended) {
    let (begun, beginning) = tokio::sync::oneshot::channel();
    let from = Arc::clone(from);
    let (name, value) = header.split_once(": ").unwrap();
    let (name, value) = (name.to_owned(), value.to_owned());
    let (first_ended, first) = tokio::sync::oneshot::channel();
    let (second_ended, second) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let talk = move || async move {
            let tcp = TcpStream::connect(to).await.unwrap();
            let (client, connection) = h2::client::handshake(tcp).await.unwrap();
            tokio::task::spawn_local(connection);
            let mut bodies = Vec::new();
            for header in [Some((name, value)), None] {
                let mut request = http::Request::get(format!("http://orders.shop:9090{ENDLESS}"));
                if let Some((name, value)) = header {
                    request = request.header(name, value);
                }
                let request = request.body(()).unwrap();
                let mut client = client.clone().ready().await.unwrap();
                let (response, _) = client.send_request(request, true).unwrap();
                let response = response.await.unwrap();
                assert_eq!(response.status(), 200);
                let mut body = response.into_body();
                assert!(!read(&mut body).await.unwrap().is_empty());
                bodies.push(body);
            }
            let _ = begun.send(());
            let ends = bodies.into_iter().zip([first_ended, second_ended]);
            let all: Vec<_> = ends
                .map(|(mut body, ended)| {
                    tokio::task::spawn_local(async move {
                        let until = tokio::time::Instant::now() + Duration::from_secs(8);
                        let cut = loop {
                            match tokio::time::timeout_at(until, read(&mut body)).await {
                                Ok(Ok(bytes)) if !bytes.is_empty() => {}
                                Ok(Err(_)) => break true,
                                Ok(Ok(_)) | Err(_) => break false,
                            }
                        };
                        let _ = ended.send((seconds(0.0), cut));
                    })
                })
                .collect();
            for one in all {
                one.await.unwrap();
            }
        };
        from.enter(talk).await.unwrap();
    });
    beginning.await.unwrap();
    let handle = |ended: tokio::sync::oneshot::Receiver<(f64, bool)>| {
        tokio::spawn(async move { ended.await.unwrap() })
    };
    (handle(first), handle(second))
}

/// Nothing at the end.
async fn read(body: &mut h2::RecvStream) -> Result<Bytes, h2::Error> {
    match body.data().await {
        Some(Ok(bytes)) => {
            let _ = body.flow_control().release_capacity(bytes.len());
            Ok(bytes)
        }
        Some(Err(error)) => Err(error),
        None => Ok(Bytes::new()),
    }
}

async fn record(shop: &Shop, path: &str, version: &str, reason: &str) -> Value {
    let wanted = |record: &Value| {
        record["direction"] == "inbound"
            && record["http.path"] == path
            && record["http.version"] == version
            && record["reason"] == reason
    };
    shop.orders.wait_record(wanted).await.unwrap()
}

#[tokio::test]
async fn whatever_a_token_allowed_ends_at_its_exp_and_nothing_else_does() {
    let idp = Idp::new();
    let policies = format!(
        "{WEB_MAY_ALL}---\n{}",
        authentication([idp.rule(json!({}))])
    );
    let shop = open(LabOptions::default(), &policies).await;
    let (http1, http2) = (shop.service(8080), shop.service(9090));
    let exp = seconds(3.0);
    let header = bearer(&idp.token(json!({"exp": exp})));
    let response = stream_http1(&shop.web, http1, &header).await;
    let upgraded = tunnel(&shop.web, http1, &header).await;
    let without = stream_http1(&shop.web, http1, "x-no: token").await;
    let (with_http2, without_http2) = streams_http2(&shop.web, http2, &header).await;
    assert!(seconds(0.0) < exp, "everything was open in time");

    for (what, ended) in [
        ("response", response),
        ("tunnel", upgraded),
        ("stream", with_http2),
    ] {
        let (at, cut) = ended.await.unwrap();
        assert!(cut, "{what}");
        assert!(
            (-0.01..0.5).contains(&(at - exp)),
            "{what}: {} s after",
            at - exp
        );
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!without.is_finished() && !without_http2.is_finished());
    without.abort();
    without_http2.abort();

    for (path, version) in [("/stream", "1.1"), ("/upgrade", "1.1"), ("/stream", "2")] {
        let record = record(&shop, path, version, "token-expired").await;
        assert_eq!(
            (&record["decision"], &record["closed_by"]),
            (&json!("deny"), &json!("expiry"))
        );
        assert_eq!(record["end_user.subject"], "ann");
        assert!(record["end_user.expires"].is_string());
    }
}

#[tokio::test]
async fn a_skew_that_is_configured_is_granted_and_no_more() {
    let idp = Idp::new();
    let rule = idp.rule(json!({"clockSkew": "3s"}));
    let policies = format!("{WEB_MAY_ALL}---\n{}", authentication([rule]));
    let shop = open(LabOptions::default(), &policies).await;
    let exp = seconds(-1.0);
    let header = bearer(&idp.token(json!({"exp": exp})));
    let response = stream_http1(&shop.web, shop.service(8080), &header).await;
    let (at, cut) = response.await.unwrap();
    assert!(cut && (2.99..3.5).contains(&(at - exp)), "{}", at - exp);
}

#[tokio::test]
async fn a_key_that_is_withdrawn_and_a_token_that_is_revoked_cut_what_is_live() {
    let (idp, second) = (Idp::new(), Idp::new());
    let other = "https://second.example";
    let rules = |keys: &Idp| [keys.rule(json!({})), second.rule(json!({"issuer": other}))];
    let policies = format!("{WEB_MAY_ALL}---\n{}", authentication(rules(&idp)));
    let shop = open(LabOptions::default(), &policies).await;
    let (http1, http2) = (shop.service(8080), shop.service(9090));
    let first = bearer(&idp.token(json!({})));
    let kept = bearer(&second.token(json!({"iss": other, "jti": "seven"})));

    let losing = stream_http1(&shop.web, http1, &first).await;
    let losing_tunnel = tunnel(&shop.web, http1, &first).await;
    let (losing_http2, _anonymous) = streams_http2(&shop.web, http2, &first).await;
    let staying = stream_http1(&shop.web, http1, &kept).await;
    let (staying_http2, anonymous) = streams_http2(&shop.web, http2, &kept).await;

    // The same rules and keys again, in another revision: nobody notices.
    let same = format!("{}{policies}", ANOTHER);
    shop.lab.apply("policies", &same).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!losing.is_finished() && !losing_http2.is_finished() && !staying.is_finished());

    let changed = format!("{WEB_MAY_ALL}---\n{}", authentication(rules(&Idp::new())));
    shop.lab.apply("policies", &changed).await.unwrap();
    let applied = seconds(0.0);
    for ended in [losing, losing_tunnel, losing_http2] {
        let (at, cut) = ended.await.unwrap();
        assert!(cut && at < applied + 0.1, "{} s after", at - applied);
    }
    for version in ["1.1", "2"] {
        let record = record(&shop, "/stream", version, "token-untrusted").await;
        assert_eq!(
            (&record["decision"], &record["closed_by"]),
            (&json!("deny"), &json!("policy"))
        );
    }
    assert!(!staying.is_finished() && !staying_http2.is_finished());

    let revocation = json!({
        "apiVersion": "kith.dev/v1alpha1", "kind": "Revocation", "metadata": {"name": "stolen"},
        "spec": {"token": {"jti": "seven"}, "until": "2099-01-01T00:00:00Z", "reason": "stolen"},
    });
    shop.lab
        .apply("revoked", &format!("{revocation}\n"))
        .await
        .unwrap();
    for ended in [staying, staying_http2] {
        assert!(ended.await.unwrap().1);
    }
    for version in ["1.1", "2"] {
        record(&shop, "/stream", version, "token-revoked").await;
    }
    assert!(!anonymous.is_finished());
    anonymous.abort();
    let reply = super::ask(&shop, super::Protocol::Http1, "/a", &[&kept]).await;
    assert_eq!(reply.header("x-kith-reason"), Some("token-revoked"));
}

#[tokio::test]
async fn what_began_before_tokens_were_looked_at_ends_at_exp_all_the_same() {
    let idp = Idp::new();
    let shop = open(LabOptions::default(), WEB_MAY_ALL).await;
    let exp = seconds(4.0);
    let header = bearer(&idp.token(json!({"exp": exp})));
    let response = stream_http1(&shop.web, shop.service(8080), &header).await;
    let (stream, without) = streams_http2(&shop.web, shop.service(9090), &header).await;
    let policies = format!(
        "{WEB_MAY_ALL}---\n{}",
        authentication([idp.rule(json!({}))])
    );
    shop.lab.apply("policies", &policies).await.unwrap();
    assert!(seconds(0.0) < exp, "tokens were looked at in time");
    for ended in [response, stream] {
        let ended = tokio::time::timeout(Duration::from_secs(8), ended).await;
        let (at, cut) = ended.expect("it ends").unwrap();
        assert!(
            cut && (-0.01..0.5).contains(&(at - exp)),
            "{} s after",
            at - exp
        );
    }
    assert!(!without.is_finished());
    without.abort();
}

/// Gives the configuration another revision and changes nothing.
const ANOTHER: &str = "
apiVersion: kith.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: nothing}
spec:
  action: DENY
  rules: [{to: [{operation: {paths: [/never]}}]}]
---";

#[tokio::test]
async fn jwt_svids_end_with_the_keys_of_their_trust_domain() {
    let rule = json!({"spiffeTrustDomain": "example.org"});
    let policies = format!("{WEB_MAY_ALL}---\n{}", authentication([rule]));
    let shop = open(LabOptions::default(), &policies).await;
    let command = json!({"command": "issue-jwt", "id": shop.web.spiffe_id(),
        "audience": [shop.orders.spiffe_id()], "ttl_seconds": 3});
    let issued = SystemTime::now();
    let answer = shop.lab.authority().command(&command).await.unwrap();
    let header = bearer(answer["token"].as_str().unwrap());
    let response = stream_http1(&shop.web, shop.service(8080), &header).await;
    let (_, cut) = response.await.unwrap();
    let lived = issued.elapsed().unwrap();
    assert!(
        cut && lived > Duration::from_secs(1) && lived < Duration::from_millis(3500),
        "{lived:?}"
    );
    record(&shop, "/stream", "1.1", "token-expired").await;
}

/// Keys that the Workload API takes back verify nothing any more, live requests included.
#[tokio::test]
async fn a_jwt_bundle_that_is_withdrawn_cuts_what_its_tokens_allowed() {
    let foreign = Idp::new();
    let rules = [
        json!({"spiffeTrustDomain": "other.org"}),
        json!({"spiffeTrustDomain": "example.org"}),
    ];
    let policies = format!("{WEB_MAY_ALL}---\n{}", authentication(rules));
    let shop = open(LabOptions::default(), &policies).await;
    let authority = shop.lab.authority();
    let command = async |command: Value| authority.command(&command).await.unwrap();
    let bundle = command(json!({"command": "bundle"})).await["bundle"].clone();
    // JWT-SVID section 6.1: a key of a bundle is for `jwt-svid`, not for `sig`.
    let jwks = foreign
        .jwks()
        .replace(r#""use":"sig""#, r#""use":"jwt-svid""#);
    let jwks: Value = serde_json::from_str(&jwks).unwrap();
    let claims = json!({"iss": null, "sub": "spiffe://other.org/ns/a/sa/b", "aud": [shop.orders.spiffe_id()]});
    let header = bearer(&foreign.token(claims));
    let refused = super::ask(&shop, super::Protocol::Http1, "/a", &[&header]).await;
    assert_eq!(refused.header("x-kith-reason"), Some("token-untrusted"));

    command(
        json!({"command": "federate", "trust_domain": "other.org", "bundle": bundle, "jwks": jwks}),
    )
    .await;
    wait_for("the keys", Duration::from_secs(5), async || {
        let reply = super::ask(&shop, super::Protocol::Http1, "/a", &[&header]).await;
        (reply.status == 200).then_some(())
    })
    .await;
    let own = json!({"command": "issue-jwt", "id": shop.web.spiffe_id(), "audience": [shop.orders.spiffe_id()]});
    let own = bearer(command(own).await["token"].as_str().unwrap());
    let losing = stream_http1(&shop.web, shop.service(8080), &header).await;
    let (losing_http2, anonymous) = streams_http2(&shop.web, shop.service(9090), &header).await;
    let staying = stream_http1(&shop.web, shop.service(8080), &own).await;

    command(json!({"command": "unfederate", "trust_domain": "other.org"})).await;
    for ended in [losing, losing_http2] {
        assert!(ended.await.unwrap().1);
    }
    for version in ["1.1", "2"] {
        let record = record(&shop, "/stream", version, "token-untrusted").await;
        assert_eq!(record["closed_by"], "policy");
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!staying.is_finished() && !anonymous.is_finished());
    staying.abort();
    anonymous.abort();
}
