//! Bundles as tables; reviews over real TLS.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::stream::unfold;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::ByteString;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;

use super::bundle::{Wish, merged};
use super::certificate::{Certificate, Issue};
use super::review::Reviewer;
use super::{NamespaceLabels, http};
use crate::inject::Settings;

fn issue(replica: &str) -> Certificate {
    Issue {
        names: vec!["kith-control.kith-system.svc".into(), "127.0.0.1".into()],
        replica: replica.into(),
        lifetime: Duration::from_secs(7 * 24 * 3600),
    }
    .certificate()
    .unwrap()
}

fn pem(replica: &str) -> String {
    issue(replica).pem
}

/// What stands in a bundle, in its order.
fn check(current: &str, wish: &Wish<'_>, now: SystemTime, expected: Option<&[&String]>) {
    let merged = merged(current.as_bytes(), wish, now);
    let merged = merged.map(|merged| String::from_utf8(merged).unwrap());
    let expected = expected.map(|expected| {
        let lines = expected.iter().map(|pem| format!("{}\n", pem.trim()));
        lines.collect::<String>()
    });
    assert_eq!(merged, expected);
    // What was written is what is wanted: nobody writes it again.
    if let Some(written) = merged {
        assert_eq!(super::bundle::merged(written.as_bytes(), wish, now), None);
    }
}

#[test]
fn a_bundle_gets_what_is_missing_and_loses_what_is_of_no_use() {
    let (own, next, other, before) = (pem("a"), pem("a"), pem("b"), pem("a"));
    let foreign = {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["elsewhere".into()]).unwrap();
        params.self_signed(&key).unwrap().pem()
    };
    let now = SystemTime::now();
    let in_eight_days = now + Duration::from_secs(8 * 24 * 3600);
    let own_only = [own.clone()];
    let both = [own.clone(), next.clone()];
    let wish = |own, predecessor| Wish {
        own,
        retired: &[],
        predecessor,
    };
    check("", &wish(&own_only, Some("a")), now, Some(&[&own]));
    check("\n", &wish(&own_only, None), now, Some(&[&own]));
    check(&own, &wish(&own_only, Some("a")), now, None);
    check(&other, &wish(&own_only, None), now, Some(&[&other, &own]));
    check(
        &format!("{other}{own}{foreign}"),
        &wish(&both, None),
        now,
        Some(&[&other, &foreign, &own, &next]),
    );
    // The process that had this name before.
    check(
        &format!("{before}{other}"),
        &wish(&own_only, Some("a")),
        now,
        Some(&[&other, &own]),
    );
    check(&format!("{before}{own}"), &wish(&own_only, None), now, None);
    // After a rotation.
    let retired = Wish {
        own: std::slice::from_ref(&next),
        retired: &own_only,
        predecessor: None,
    };
    check(
        &format!("{own}{other}{next}"),
        &retired,
        now,
        Some(&[&other, &next]),
    );
    // Expired; and nothing that isn't a certificate.
    check(
        &format!("{other}{foreign}"),
        &wish(&own_only, None),
        in_eight_days,
        Some(&[&foreign, &own]),
    );
    check(
        "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n",
        &wish(&own_only, None),
        now,
        Some(&[&own]),
    );
}

#[test]
fn a_bundle_is_bounded_and_keeps_what_is_its_own() {
    let own = [pem("a")];
    let others: String = (0..150).map(|n| pem(&format!("gone-{n}"))).collect();
    let wish = Wish {
        own: &own,
        retired: &[],
        predecessor: None,
    };
    let bundle =
        String::from_utf8(merged(others.as_bytes(), &wish, SystemTime::now()).unwrap()).unwrap();
    // All of one second: as many as there is room for, and not none.
    assert_eq!(bundle.matches("BEGIN CERTIFICATE").count(), 128);
    assert!(bundle.contains(own[0].trim()));
    assert_eq!(merged(bundle.as_bytes(), &wish, SystemTime::now()), None);
}

/// Replicas that renew at the same time, as those do that were started together.
#[test]
fn sixty_replicas_with_two_certificates_each_come_to_an_end() {
    let replicas: Vec<[String; 2]> = (0..60)
        .map(|n| [pem(&format!("r-{n}")), pem(&format!("r-{n}"))])
        .collect();
    let mut bundle = Vec::new();
    let mut writes = 0;
    loop {
        let before = writes;
        for own in &replicas {
            let wish = Wish {
                own,
                retired: &[],
                predecessor: None,
            };
            if let Some(written) = merged(&bundle, &wish, SystemTime::now()) {
                bundle = written;
                writes += 1;
            }
        }
        if writes == before {
            break;
        }
        assert!(writes <= replicas.len(), "they write for ever");
    }
    for pem in replicas.iter().flatten() {
        assert!(super::bundle::contains(&bundle, pem));
    }
}

/// A webhook that listens, and an API server that is not there.
struct Webhook {
    address: std::net::SocketAddr,
    tls: Arc<ClientConfig>,
    task: JoinHandle<()>,
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Webhook {
    async fn start() -> Self {
        let certificate = issue("a");
        let mut roots = RootCertStore::empty();
        let der = CertificateDer::from_pem_slice(certificate.pem.as_bytes()).unwrap();
        roots.add(der).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nowhere = nobody.local_addr().unwrap();
        drop(nobody);
        // The client's own TLS asks for the process's provider.
        _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let api = kube::Config::new(format!("http://{nowhere}").parse().unwrap());
        let labels: NamespaceLabels = Arc::new(|namespace| {
            let value = match namespace {
                "shop" => "enabled",
                "apart" => "disabled",
                _ => return None,
            };
            Some(BTreeMap::from([(
                "kith.dev/injection".to_owned(),
                value.to_owned(),
            )]))
        });
        let text = "{image: proxy, captureImage: capture, trustDomain: example.org}";
        let reviewer = Reviewer {
            settings: Arc::new(Settings::parse(Path::new("injection.yaml"), text).unwrap()),
            namespaces: labels,
            client: kube::Client::try_from(api).unwrap(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, serving) = watch::channel(certificate.tls);
        let task = tokio::spawn(async move {
            http::serve(listener, serving, Arc::new(reviewer)).await;
            drop(sender);
        });
        Self {
            address,
            tls: Arc::new(tls),
            task,
        }
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("kith-control.kith-system.svc").unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.tls));
        connector.connect(name, stream).await.unwrap()
    }

    async fn speak(&self) -> SendRequest<UnsyncBoxBody<Bytes, Infallible>> {
        let stream = TokioIo::new(self.connect().await);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream)
            .await
            .unwrap();
        tokio::spawn(connection);
        sender
    }

    async fn post(&self, path: &str, content_type: &str, body: Vec<u8>) -> (StatusCode, Value) {
        let mut sender = self.speak().await;
        let request = Request::post(format!("https://kith-control{path}"))
            .header("content-type", content_type)
            .body(Full::new(Bytes::from(body)).boxed_unsync())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    /// The response to a request with these changes to one for a pod in namespace `shop`.
    async fn review(&self, path: &str, changes: Value) -> Value {
        let mut request = json!({
            "uid": "u-1",
            "kind": { "group": "", "version": "v1", "kind": "Pod" },
            "namespace": "shop",
            "operation": "CREATE",
            "object": { "metadata": { "generateName": "web-" }, "spec": { "containers": [{ "name": "web", "image": "i" }] } },
            "aFieldOfTomorrow": true,
        });
        json_patch::merge(&mut request, &changes);
        let review = json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request });
        let (status, mut review) = self
            .post(path, "application/json", review.to_string().into_bytes())
            .await;
        assert_eq!(
            (status, &review["kind"]),
            (StatusCode::OK, &json!("AdmissionReview"))
        );
        assert_eq!(review["response"]["uid"], "u-1");
        review["response"].take()
    }
}

#[tokio::test]
async fn a_pod_that_asks_is_injected_by_patch() {
    let webhook = Webhook::start().await;
    let response = webhook.review("/inject", json!({})).await;
    assert_eq!(
        (&response["allowed"], &response["patchType"]),
        (&json!(true), &json!("JSONPatch"))
    );
    let ByteString(patch) = serde_json::from_value(response["patch"].clone()).unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
    let mut pod = json!({ "metadata": { "generateName": "web-" }, "spec": { "containers": [{ "name": "web", "image": "i" }] } });
    json_patch::patch(&mut pod, &patch).unwrap();
    assert_eq!(pod["spec"]["initContainers"][1]["name"], "kith-proxy");
    assert_eq!(
        pod["metadata"]["annotations"]["kith.dev/status"],
        "injected"
    );
}

#[tokio::test]
async fn what_is_not_to_be_injected_is_allowed_as_it_is() {
    let webhook = Webhook::start().await;
    for changes in [
        json!({ "object": { "metadata": { "labels": { "kith.dev/inject": "false" } } } }),
        json!({ "namespace": "kube-system" }),
        json!({ "operation": "UPDATE" }),
        json!({ "subResource": "ephemeralcontainers" }),
        json!({ "kind": { "group": "apps", "kind": "Deployment" } }),
        // Odd, and no business of ours.
        json!({ "object": { "metadata": { "labels": { "kith.dev/inject": "false" } }, "spec": 7 } }),
    ] {
        let response = webhook.review("/inject", changes.clone()).await;
        assert_eq!(
            response,
            json!({ "uid": "u-1", "allowed": true }),
            "{changes}"
        );
    }
}

#[tokio::test]
async fn a_pod_is_refused_with_all_that_is_in_the_way() {
    let webhook = Webhook::start().await;
    let changes = json!({ "object": {
        "metadata": { "annotations": { "kith.dev/wrokers": "2" } },
        "spec": { "hostNetwork": true },
    } });
    let response = webhook.review("/inject", changes).await;
    assert_eq!(
        (&response["allowed"], &response["status"]["code"]),
        (&json!(false), &json!(422))
    );
    let message = response["status"]["message"].as_str().unwrap();
    assert!(
        message.contains("there is no annotation `kith.dev/wrokers`"),
        "{message}"
    );
    assert!(
        message.contains("spec.hostNetwork: this pod has its node's network"),
        "{message}"
    );
}

#[tokio::test]
async fn a_pod_of_a_namespace_that_cannot_be_read_is_refused_for_now() {
    let webhook = Webhook::start().await;
    let response = webhook
        .review("/inject", json!({ "namespace": "unknown" }))
        .await;
    assert_eq!(
        (&response["allowed"], &response["status"]["code"]),
        (&json!(false), &json!(503))
    );
    // The pod's own word needs nobody's. That the namespace is not disabled any more, the API server knows first.
    for namespace in ["unknown", "apart"] {
        let changes = json!({ "namespace": namespace, "object": { "metadata": { "labels": { "kith.dev/inject": "true" } } } });
        assert_eq!(
            webhook.review("/inject", changes).await["patchType"],
            "JSONPatch"
        );
    }
}

#[tokio::test]
async fn documents_are_refused_with_the_words_of_the_control_plane() {
    let webhook = Webhook::start().await;
    let policy = |spec: Value| {
        let metadata = json!({ "generateName": "p-", "namespace": "shop" });
        let object = json!({ "apiVersion": "kith.dev/v1alpha1", "kind": "AuthorizationPolicy", "metadata": metadata, "spec": spec });
        json!({ "kind": { "group": "kith.dev", "kind": "AuthorizationPolicy" }, "object": object })
    };
    // Merging would keep what the pod says.
    let only = |mut changes: Value| {
        changes["object"]["spec"]["containers"] = Value::Null;
        changes
    };
    let good = policy(json!({ "rules": [{ "from": [{ "source": { "namespaces": ["web"] } }] }] }));
    let response = webhook.review("/validate", only(good)).await;
    assert_eq!(response, json!({ "uid": "u-1", "allowed": true }));

    let bad = policy(
        json!({ "rules": [{ "from": [], "to": [{ "operation": { "ports": ["99999"] } }] }] }),
    );
    let response = webhook.review("/validate", only(bad.clone())).await;
    assert_eq!(
        (&response["allowed"], &response["status"]["code"]),
        (&json!(false), &json!(422))
    );
    let message = response["status"]["message"].as_str().unwrap();
    assert!(message.contains("spec.rules[0].from"), "{message}");

    let mut gone = bad.clone();
    gone["operation"] = "DELETE".into();
    assert_eq!(
        webhook.review("/validate", only(gone)).await["allowed"],
        true
    );
    let mut leaving = bad;
    leaving["operation"] = "UPDATE".into();
    leaving["object"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    assert_eq!(
        webhook.review("/validate", only(leaving)).await["allowed"],
        true
    );

    let wide = policy(
        json!({ "action": "DENY", "rules": [{ "to": [{ "operation": { "methods": ["PUT"] } }] }] }),
    );
    let response = webhook.review("/validate", only(wide)).await;
    let warning = response["warnings"][0].as_str().unwrap();
    assert!(
        response["allowed"] == true && warning.starts_with("kith: spec.rules"),
        "{warning}"
    );

    for (until, warned) in [
        ("2026-01-01T00:00:00Z", true),
        ("2126-01-01T00:00:00Z", false),
    ] {
        let mut revocation = policy(json!({
            "principal": "spiffe://example.org/ns/shop/sa/web", "reason": "stolen", "until": until,
        }));
        revocation["kind"]["kind"] = "Revocation".into();
        revocation["object"]["kind"] = "Revocation".into();
        revocation["object"]["metadata"]["namespace"] = Value::Null;
        revocation["namespace"] = "".into();
        let response = webhook.review("/validate", only(revocation)).await;
        assert_eq!(response["allowed"], true, "{response:#}");
        let warnings = response["warnings"].to_string();
        assert_eq!(
            warnings.contains("spec.until: that time is over"),
            warned,
            "{warnings}"
        );
    }
}

#[tokio::test]
async fn what_is_added_to_a_pod_with_a_sidecar_is_looked_at() {
    let webhook = Webhook::start().await;
    let sidecar = json!([{ "name": "kith-proxy", "restartPolicy": "Always" }]);
    let debug = |user: i64| {
        let container = json!({ "name": "d", "securityContext": { "runAsUser": user } });
        let spec = json!({ "initContainers": sidecar, "ephemeralContainers": [container] });
        json!({ "operation": "UPDATE", "subResource": "ephemeralcontainers", "object": { "spec": spec }, "oldObject": {} })
    };
    let response = webhook.review("/validate", debug(1000)).await;
    assert_eq!(response, json!({ "uid": "u-1", "allowed": true }));
    let response = webhook.review("/validate", debug(1337)).await;
    assert_eq!(
        (&response["allowed"], &response["status"]["code"]),
        (&json!(false), &json!(422))
    );
    let message = response["status"]["message"].as_str().unwrap();
    assert!(
        message.contains("spec.ephemeralContainers[0].securityContext.runAsUser: 1337 is"),
        "{message}"
    );
    // It is there: the next one must not be refused for it.
    let mut there = debug(1337);
    there["oldObject"] = there["object"].clone();
    let response = webhook.review("/validate", there).await;
    assert_eq!(response, json!({ "uid": "u-1", "allowed": true }));
}

#[tokio::test]
async fn what_is_no_review_is_answered_with_what_is_expected() {
    let webhook = Webhook::start().await;
    let review = |body: &str| body.as_bytes().to_vec();
    for (path, content_type, body, status, expected) in [
        (
            "/",
            "application/json",
            review("{}"),
            404,
            "/inject and /validate",
        ),
        (
            "/inject",
            "text/plain",
            review("{}"),
            415,
            "expected application/json",
        ),
        (
            "/inject",
            "application/json",
            review("{"),
            400,
            "not an AdmissionReview",
        ),
        (
            "/inject",
            "application/json",
            review("{}"),
            400,
            "not an AdmissionReview",
        ),
        (
            "/inject",
            "application/json; charset=utf-8",
            review(
                r#"{"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "request": {"uid": "u", "kind": {"group": "", "kind": "Pod"}, "operation": "CREATE"}}"#,
            ),
            400,
            "expected admission.k8s.io/v1 AdmissionReview",
        ),
        (
            "/inject",
            "application/json",
            vec![b' '; (8 << 20) + 1],
            413,
            "at most 8 MiB",
        ),
    ] {
        let (got, answer) = webhook.post(path, content_type, body).await;
        let error = answer["error"].as_str().unwrap();
        assert_eq!(got.as_u16(), status, "{error}");
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn who_asks_nothing_keeps_nobody_out() {
    let webhook = Webhook::start().await;
    // Some never speak; some speak HTTP/2, and would answer its pings for ever.
    let mut silent = Vec::new();
    let mut idle = Vec::new();
    for _ in 0..150 {
        silent.push(webhook.connect().await);
        idle.push(webhook.speak().await);
    }
    let response = webhook.review("/inject", json!({})).await;
    assert_eq!(response["allowed"], true);
    // Those that came last are there still.
    let request = Request::post("https://kith-control/").body(Full::default().boxed_unsync());
    let response = idle[149].send_request(request.unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn all_bodies_together_have_a_bound() {
    let webhook = Webhook::start().await;
    let large = vec![b' '; 7 << 20];
    // Held: their ends are not sent.
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut sender = webhook.speak().await;
        let (body, parts) = mpsc::channel::<Bytes>(1);
        let parts = unfold(parts, async |mut parts| {
            let part = parts.recv().await?;
            Some((Ok::<_, Infallible>(Frame::data(part)), parts))
        });
        let request = Request::post("https://kith-control/inject")
            .header("content-type", "application/json")
            .body(StreamBody::new(parts).boxed_unsync())
            .unwrap();
        let answer = tokio::spawn(async move { sender.send_request(request).await.unwrap() });
        for part in large.chunks(1 << 16) {
            body.send(Bytes::copy_from_slice(part)).await.unwrap();
        }
        held.push((body, answer));
    }
    let (status, answer) = webhook.post("/inject", "application/json", large).await;
    assert_eq!(
        (status, &answer["error"]),
        (
            StatusCode::SERVICE_UNAVAILABLE,
            &json!("too much is asked at once; try again")
        )
    );
    // A pod is small, and there is room for it; and for the rest when the others are gone.
    assert_eq!(webhook.review("/inject", json!({})).await["allowed"], true);
    for (body, answer) in held {
        drop(body);
        assert_eq!(answer.await.unwrap().status(), StatusCode::BAD_REQUEST);
    }
    let (status, _) = webhook
        .post("/inject", "application/json", vec![b' '; 7 << 20])
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[test]
fn a_certificate_names_its_replica_shortly_and_is_renewed_in_time() {
    let long = "r".repeat(200);
    let certificate = issue(&long);
    let now = SystemTime::now();
    let days = |days: u64| Duration::from_secs(days * 24 * 3600);
    assert!(certificate.renew_at > now + days(3) && certificate.renew_at < now + days(4));
}
