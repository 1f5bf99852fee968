//! What the kubelet, who is not in the mesh, can ask of a pod: how the sidecar is, and through it how the application is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kith::app::client::{Call, Reply};
use kith::lab::{Lab, LabOptions, Workload, WorkloadSpec};
use kith_tests::app::App;
use kith_tests::caller::Caller;
use kith_tests::shop::WEB_MAY_ALL;
use kith_tests::wait::wait_for;
use kith_tests::wire::{self, End, until};
use tokio::io::AsyncWriteExt;

/// The first workload of a lab has it.
const POD_IP: &str = "10.75.0.3";

const PROBES: &str = r#"{
    "app/startup": {"tcpSocket": {"port": 8080}, "timeoutSeconds": 20},
    "app/readiness": {"httpGet": {"path": "/status/204", "port": 8080}, "timeoutSeconds": 20},
    "app/liveness": {"httpGet": {"path": "/status/418", "port": 8080}, "timeoutSeconds": 20},
    "app/prestop": {"httpGet": {"path": "/slow?ms=30000", "port": 8080}, "timeoutSeconds": 1, "key": "0123456789abcdef"},
    "slow/liveness": {"httpGet": {"path": "/slow?ms=30000", "port": 8080}, "timeoutSeconds": 20},
    "tls/readiness": {"httpGet": {"path": "/", "port": 8443, "scheme": "HTTPS"}, "timeoutSeconds": 20},
    "old/readiness": {"httpGet": {"path": "/", "port": 8080, "scheme": "HTTPS"}, "timeoutSeconds": 20}
}"#;

struct Pod {
    orders: Arc<Workload>,
    kubelet: Arc<Workload>,
    lab: Lab,
}

impl Pod {
    async fn open() -> Self {
        let lab = Lab::new(LabOptions::default()).await.unwrap();
        lab.control().write("policies", WEB_MAY_ALL).unwrap();
        let orders = WorkloadSpec::new("shop", "orders")
            .port(8080, "HTTP")
            .port(8443, "TLS")
            .env("KITH_POD_IP", POD_IP)
            .env("KITH_APP_PROBES", PROBES);
        let kubelet = WorkloadSpec::new("node", "kubelet")
            .without_sidecar()
            .unannounced();
        let [orders, kubelet] =
            <[_; 2]>::try_from(lab.workloads([orders, kubelet]).await.unwrap()).unwrap();
        assert_eq!(orders.addresses.v4.to_string(), POD_IP);
        Self {
            orders,
            kubelet,
            lab,
        }
    }

    /// As the kubelet asks: from outside the pod, in plaintext, at the pod's address.
    async fn ask(&self, port: u16, path: &str) -> std::io::Result<Reply> {
        let url = format!("http://{POD_IP}:{port}{path}");
        self.kubelet.call(Call::get(url.parse().unwrap())).await
    }

    async fn probe(&self, name: &str) -> (u16, String) {
        let reply = self.ask(15021, &format!("/app-health/{name}")).await;
        let reply = reply.unwrap();
        (reply.status, reply.text().trim_end().to_owned())
    }
}

#[tokio::test]
async fn the_kubelet_gets_its_answers_under_strict_mtls_though_it_can_not_reach_the_application() {
    let pod = Pod::open().await;
    // Before the application is there.
    let nobody = "the application does not listen on port 8080 of the pod's address";
    assert_eq!(pod.probe("app/startup").await, (503, nobody.to_owned()));
    assert_eq!(pod.probe("app/readiness").await, (503, nobody.to_owned()));

    let app = pod.orders.app(&["http"]).await.unwrap();
    let caller = Caller::new(&pod.lab, "spiffe://example.org/ns/shop/sa/any").await;
    let https = caller.https();
    let tls = App::listen(&pod.orders, 8443, move |stream, _| {
        let https = https.clone();
        async move {
            let mut stream = https.accept(stream).await.unwrap();
            until(&mut stream, "\r\n\r\n").await.unwrap();
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
        }
    })
    .await;

    // The application's own port takes no plaintext.
    let get = "GET /status/204 HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n";
    let to = format!("{POD_IP}:8080").parse().unwrap();
    let heard = wire::raw(&pod.kubelet, to, get).await.unwrap();
    assert!(
        !heard.statuses().contains(&204) && heard.end != End::Open,
        "{heard:?}"
    );
    let denied = |record: &serde_json::Value| record["reason"] == "peer-unauthenticated";
    pod.orders.wait_record(denied).await.unwrap();

    assert_eq!(pod.ask(15021, "/ready").await.unwrap().status, 200);
    for (name, status, why) in [
        ("app/startup", 200, "the application accepts connections"),
        (
            "app/readiness",
            200,
            "the application answered 204 No Content",
        ),
        (
            "app/liveness",
            418,
            "the application answered 418 I'm a teapot",
        ),
        ("app/prestop/0123456789abcdef", 503, "no answer within 1 s"),
        ("tls/readiness", 200, "the application answered 200 OK"),
    ] {
        assert_eq!(pod.probe(name).await, (status, why.to_owned()), "{name}");
    }
    let (status, why) = pod.probe("old/readiness").await;
    assert!(
        status == 503 && why.contains("The sidecar has no TLS 1.2"),
        "{why}"
    );
    for name in ["app/poststart", "app/prestop", "app/prestop/0"] {
        let (status, why) = pod.probe(name).await;
        assert!(status == 404 && why.contains("KITH_APP_PROBES"), "{why}");
    }

    drop((app, tls));
    assert_eq!(pod.probe("app/readiness").await, (503, nobody.to_owned()));
    let log = pod.orders.sidecar().stderr();
    assert!(
        log.contains("the application passes its probe")
            && log.contains("the application fails its probe"),
        "{log}"
    );
}

#[tokio::test]
async fn no_number_of_probes_keeps_others_out_or_slows_traffic() {
    let pod = Pod::open().await;
    let _app = pod.orders.app(&["http"]).await.unwrap();
    let web = pod
        .lab
        .workload(WorkloadSpec::new("shop", "web"))
        .await
        .unwrap();
    assert_eq!(
        web.get("http://orders.shop:8080/").await.unwrap().status,
        200
    );
    // Each of these waits for the application, much longer than anybody else has to.
    let ended = Arc::new(AtomicUsize::new(0));
    let turned_away = Arc::clone(&ended);
    let flood = pod.kubelet.enter(move || async move {
        let call = || {
            let turned_away = Arc::clone(&turned_away);
            async move {
                let url = format!("http://{POD_IP}:15021/app-health/slow/liveness");
                let mut call = Call::get(url.parse().unwrap());
                call.limit = Duration::from_secs(10);
                let _ = call.run().await;
                turned_away.fetch_add(1, Ordering::Relaxed);
            }
        };
        let calls: Vec<_> = (0..200).map(|_| tokio::task::spawn_local(call())).collect();
        for call in calls {
            let _ = call.await;
        }
    });
    let measured = async {
        // All of them have come: there is room for 64, and whoever comes makes the oldest go.
        wait_for("the flood", Duration::from_secs(10), || async {
            (ended.load(Ordering::Relaxed) >= 200 - 64).then_some(())
        })
        .await;
        let start = Instant::now();
        assert_eq!(pod.probe("app/readiness").await.0, 200);
        assert_eq!(
            web.get("http://orders.shop:8080/").await.unwrap().status,
            200
        );
        start.elapsed()
    };
    let (flooded, took) = tokio::join!(flood, measured);
    flooded.unwrap();
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn a_sidecar_that_is_not_ready_ends_at_once_when_told_to() {
    let lab = Lab::new(LabOptions::default()).await.unwrap();
    // Its control plane is nobody.
    let waiting = WorkloadSpec::new("shop", "job").env("KITH_XDS_ADDRESS", "https://127.0.0.1:9");
    let waiting = lab.start_workload(waiting).await.unwrap();
    waiting.not_ready(Duration::from_secs(5)).await.unwrap();
    let start = Instant::now();
    let status = waiting
        .sidecar()
        .stop(Duration::from_secs(20))
        .await
        .unwrap();
    let took = start.elapsed();
    assert_eq!(status.code(), Some(0));
    // The time that it has to drain is half a minute.
    assert!(took < Duration::from_secs(10), "{took:?}");
}
