//! Servers come and go: no request fails that nobody has acted on, and none is acted on twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kith::app::client::{Call, Reply};
use kith::lab::{Lab, LabOptions, Process, Workload, WorkloadSpec};
use kith_tests::app::{App, Log};
use kith_tests::caller::Caller;
use kith_tests::shop::WEB_MAY_ALL;
use kith_tests::wire::{self, until};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

/// A service with two endpoints, each with an application for HTTP/1.1 (8080) and HTTP/2 (9090).
struct Two {
    web: Arc<Workload>,
    endpoints: Vec<Arc<Workload>>,
    apps: Vec<Vec<Process>>,
    lab: Lab,
}

const SERVICE: &str = "10.96.50.1";

impl Two {
    async fn open() -> Self {
        let lab = Lab::new(LabOptions::default()).await.unwrap();
        lab.control().write("policies", WEB_MAY_ALL).unwrap();
        let endpoint = |name: &str| {
            WorkloadSpec::new("shop", name)
                .service_account("orders")
                .label("app", "orders")
                .port(8080, "HTTP")
                .port(9090, "GRPC")
                .without_service()
        };
        let specs = [
            WorkloadSpec::new("shop", "web"),
            endpoint("one"),
            endpoint("two"),
        ];
        let mut endpoints = lab.workloads(specs).await.unwrap();
        let web = endpoints.remove(0);
        let service = json!({
            "apiVersion": "kith.dev/v1alpha1", "kind": "Service", "metadata": {"namespace": "shop", "name": "orders"},
            "spec": {"addresses": [SERVICE], "selector": {"app": "orders"},
                     "ports": [{"port": 8080, "protocol": "HTTP"}, {"port": 9090, "protocol": "GRPC"}]},
        });
        lab.apply("service", &service.to_string()).await.unwrap();
        let mut apps = Vec::new();
        for endpoint in &endpoints {
            apps.push(applications(endpoint).await);
        }
        Self {
            web,
            endpoints,
            apps,
            lab,
        }
    }

    async fn call(&self, port: u16, path: &str, data: Option<String>, headers: &[&str]) -> Reply {
        let mut call = Call::get(format!("http://{SERVICE}:{port}{path}").parse().unwrap());
        call.http2 = port == 9090;
        call.data = data;
        call.headers = headers.iter().map(|&header| header.to_owned()).collect();
        self.web.call(call).await.unwrap()
    }
}

async fn applications(workload: &Workload) -> Vec<Process> {
    let mut apps = Vec::new();
    for listen in ["[::]:8080", "[::]:9090"] {
        let name = workload.spec.name.as_str();
        let app = ["http", "--listen", listen, "--name", name];
        apps.push(workload.app(&app).await.unwrap());
    }
    apps
}

#[tokio::test]
async fn a_server_whose_application_is_gone_says_so_and_another_is_asked_with_the_same_body() {
    let mut two = Two::open().await;
    two.apps.remove(0);
    let body: String = ('a'..='z').cycle().take(50_000).collect();
    for port in [8080, 9090] {
        // One of them finds out the hard way, and the next ones know. Which one that is, is left to chance.
        let twice = |record: &Value| record["attempts"] == 2 && record["destination.port"] == port;
        let mut number = 0;
        let record = loop {
            let reply = two
                .call(port, &format!("/{port}-{number}"), Some(body.clone()), &[])
                .await;
            assert_eq!(reply.status, 200, "{reply:?}");
            let said = reply.json();
            assert_eq!(
                (&said["app"], &said["bytes"]),
                (&"two".into(), &50_000.into())
            );
            assert_eq!(said["body"].as_str().map(str::len), Some(50_000));
            assert!(reply.header("x-kith-again").is_none());
            number += 1;
            let found = two.web.records().into_iter().find(twice);
            if let (Some(record), 6..) = (found, number) {
                break record;
            }
            assert!(number < 100, "the one that is gone was never asked");
        };
        let hops = record["hops"].as_array().unwrap();
        assert_eq!((hops.len(), &hops[1]), (2, &record["hop"]), "{record}");
        assert_eq!(record["decision"], "allow", "{record}");
        // The one that was given up has it on record as well.
        let given_up = |record: &Value| record["hop"] == hops[0];
        let refused = two.endpoints[0].wait_record(given_up).await.unwrap();
        assert_eq!(
            (&refused["reason"], &refused["http.status"]),
            (&"server-unreachable".into(), &503.into()),
            "{refused}"
        );
    }

    // gRPC, where a refusal is a status of its own.
    let json = ["content-type: application/grpc", "te: trailers"];
    two.apps.clear();
    for (port, headers) in [(8080, &[][..]), (9090, &[]), (9090, &json)] {
        let reply = two
            .call(port, "/nobody", Some("body".into()), headers)
            .await;
        let reason = reply.header("x-kith-reason");
        assert_eq!(reason, Some("server-unreachable"), "{reply:?}");
        assert!(reply.header("x-kith-again").is_none(), "{reply:?}");
    }
    // It is one Kith's word to another.
    let caller = Caller::new(&two.lab, &two.web.spiffe_id()).await;
    let stranger = WorkloadSpec::new("shop", "stranger")
        .without_sidecar()
        .unannounced();
    let stranger = two.lab.workload(stranger).await.unwrap();
    let pod = (two.endpoints[0].addresses.v4, 8080).into();
    let get = "GET / HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n";
    for (alpn, told) in [(&b"http/1.1"[..], false), (b"kith-h1", true)] {
        let heard = caller.raw(&stranger, pod, alpn, get).await.unwrap();
        assert_eq!(heard.statuses(), [503]);
        assert_eq!(
            heard.text().contains("x-kith-again"),
            told,
            "{}",
            heard.text()
        );
    }
}

#[tokio::test]
async fn an_application_can_not_have_its_requests_sent_elsewhere() {
    let mut two = Two::open().await;
    two.apps.clear();
    let answer =
        "HTTP/1.1 503 No\r\nx-kith-again: 1\r\nx_kith_again: 1\r\ncontent-length: 0\r\n\r\n";
    let one = App::answering(&two.endpoints[0], 8080, answer).await;
    let other = App::answering(&two.endpoints[1], 8080, answer).await;
    for number in 0..4 {
        let reply = two.call(8080, &format!("/{number}"), None, &[]).await;
        assert_eq!((reply.status, reply.header("x-kith-again")), (503, None));
    }
    let count = |app: &App| app.heard().concat().matches("GET /").count();
    assert_eq!(count(&one) + count(&other), 4);
}

#[tokio::test]
async fn an_application_goes_under_load_and_comes_back_and_no_request_fails() {
    let mut two = Two::open().await;
    let mut loads = Vec::new();
    for (port, version) in [(8080, &[][..]), (9090, &["--http2"][..])] {
        let url = format!("http://{SERVICE}:{port}/load");
        let load = [
            "load",
            &url,
            "--rate",
            "100",
            "--connections",
            "8",
            "--seconds",
            "60",
            "--json",
        ];
        loads.push(two.web.app(&[&load[..], version].concat()).await.unwrap());
    }
    let served = |endpoint: Arc<Workload>| async move {
        endpoint
            .wait_records(100, |record| record["http.path"] == "/load")
            .await
            .unwrap();
    };
    tokio::join!(
        served(two.endpoints[0].clone()),
        served(two.endpoints[1].clone())
    );
    for index in 0..2 {
        for app in &two.apps[index] {
            app.stop(Duration::from_secs(5)).await.unwrap();
        }
        sleep(Duration::from_millis(1500)).await;
        two.apps[index] = applications(&two.endpoints[index]).await;
        let seen = two.endpoints[index].records().len();
        // It is given requests again.
        kith_tests::wait::wait_for("new requests", Duration::from_secs(10), || async {
            (two.endpoints[index].records().len() > seen + 50).then_some(())
        })
        .await;
    }
    for load in loads {
        load.stop(Duration::from_secs(5)).await.unwrap();
        let report: Value = serde_json::from_str(&load.stdout()).unwrap();
        println!("{report}");
        assert_eq!(report["failed"], 0, "{report}");
    }
    let again = |record: &Value| record["attempts"].as_u64() >= Some(2);
    two.web.wait_record(again).await.unwrap();
}

/// How a server that a test plays ends the connection under its second request.
#[derive(Clone, Copy, PartialEq)]
enum Ends {
    /// As a Kith does between requests: with close_notify.
    WithGoodbye,
    /// As one that was killed.
    Cut,
    /// After it has begun to answer.
    Midway,
}

/// Whether requests that follow one another on a connection of `web` are answered, and how many came to the server.
async fn ending(ends: Ends, alpn: &'static [u8], methods: &[&str]) -> (Vec<u16>, usize) {
    let lab = Lab::new(LabOptions::default()).await.unwrap();
    let orders = WorkloadSpec::new("shop", "orders")
        .without_sidecar()
        .unannounced();
    let specs = [WorkloadSpec::new("shop", "web"), orders];
    let [web, orders] = <[_; 2]>::try_from(lab.workloads(specs).await.unwrap()).unwrap();
    let document = json!({
        "apiVersion": "kith.dev/v1alpha1", "kind": "Workload",
        "metadata": {"namespace": "shop", "name": "orders", "labels": {"app": "orders"}},
        "spec": {"serviceAccount": "orders", "addresses": orders.addresses.both(),
                 "ports": [{"port": 8080, "protocol": "HTTP"}]},
    });
    lab.apply("orders", &document.to_string()).await.unwrap();
    let identity = Caller::new(&lab, "spiffe://example.org/ns/shop/sa/orders").await;
    let acceptor = identity.acceptor(&[alpn]);
    let app = App::hearing(&orders, 8080, move |stream, log: Log| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await.unwrap();
            for number in 0.. {
                let Ok(heard) = until(&mut stream, "\r\n\r\nbody").await else {
                    return;
                };
                log.push(heard.as_bytes());
                if number == 1 {
                    match ends {
                        Ends::WithGoodbye => stream.shutdown().await.unwrap(),
                        Ends::Cut => {}
                        Ends::Midway => {
                            stream.write_all(b"HTTP/1.1 2").await.unwrap();
                            stream.shutdown().await.unwrap();
                        }
                    }
                    return;
                }
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
            }
        }
    })
    .await;
    let to = (orders.addresses.v4, 8080).into();
    // One after the other on one connection, so that the second finds the server's connection that the first has left.
    let request = |method: &&str| {
        format!("{method} / HTTP/1.1\r\nhost: orders\r\ncontent-length: 4\r\n\r\nbody")
    };
    let requests: String = methods.iter().map(request).collect();
    let statuses = wire::raw(&web, to, requests).await.unwrap().statuses();
    let came = app.heard().concat().matches("HTTP/1.1\r\n").count();
    (statuses, came)
}

#[tokio::test]
async fn a_connection_that_a_kith_ends_in_good_order_has_not_taken_the_request() {
    let (statuses, came) = ending(Ends::WithGoodbye, b"kith-h1", &["POST", "POST"]).await;
    assert_eq!((statuses, came), (vec![200, 200], 3));
    // Nobody else's goodbye says so.
    let (statuses, came) = ending(Ends::WithGoodbye, b"http/1.1", &["POST", "POST"]).await;
    assert_eq!((statuses, came), (vec![200, 503], 2));
}

#[tokio::test]
async fn a_connection_that_is_cut_may_have_taken_the_request_so_that_only_idempotent_ones_go_again()
{
    let (statuses, came) = ending(Ends::Cut, b"kith-h1", &["POST", "POST"]).await;
    assert_eq!((statuses, came), (vec![200, 503], 2));
    let (statuses, came) = ending(Ends::Cut, b"kith-h1", &["POST", "PUT"]).await;
    assert_eq!((statuses, came), (vec![200, 200], 3));
    // The first on its connection: no idle connection that had ended.
    let (statuses, came) = ending(Ends::Midway, b"kith-h1", &["PUT", "PUT"]).await;
    assert_eq!((statuses, came), (vec![200, 503], 2));
}

#[tokio::test]
async fn a_refused_http2_stream_goes_again_with_its_body_and_trailers() {
    let mut two = Two::open().await;
    two.apps.clear();
    let refused = Arc::new(AtomicBool::new(false));
    let app = App::hearing(&two.endpoints[0], 9090, move |stream, log: Log| {
        let refused = Arc::clone(&refused);
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((mut request, mut respond))) = connection.accept().await {
                let (log, refuse) = (log.clone(), !refused.swap(true, Ordering::SeqCst));
                tokio::task::spawn_local(async move {
                    let mut length = 0;
                    while let Some(piece) = request.body_mut().data().await {
                        let piece = piece.unwrap();
                        length += piece.len();
                        let _ = request
                            .body_mut()
                            .flow_control()
                            .release_capacity(piece.len());
                    }
                    let trailers = request.body_mut().trailers().await.unwrap();
                    let sum = trailers.unwrap()["x-sum"].to_str().unwrap().to_owned();
                    log.push(format!("{length} {sum};").as_bytes());
                    if refuse {
                        return respond.send_reset(h2::Reason::REFUSED_STREAM);
                    }
                    let _ = respond.send_response(http::Response::new(()), true);
                });
            }
        }
    })
    .await;
    let to = std::net::SocketAddr::from((two.endpoints[0].addresses.v4, 9090));
    let status = two.web.enter(move || async move {
        let stream = tokio::net::TcpStream::connect(to).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::task::spawn_local(connection);
        let request = http::Request::post("http://orders:9090/").body(()).unwrap();
        let mut client = client.ready().await.unwrap();
        let (response, mut body) = client.send_request(request, false).unwrap();
        for _ in 0..10 {
            body.send_data(vec![b'k'; 3000].into(), false).unwrap();
        }
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-sum", "30000".parse().unwrap());
        body.send_trailers(trailers).unwrap();
        response.await.unwrap().status()
    });
    assert_eq!(status.await.unwrap(), 200);
    let heard = app.heard().concat();
    assert_eq!(heard, "30000 30000;30000 30000;");
}

#[tokio::test]
async fn a_server_that_is_not_who_it_should_be_is_on_record_though_another_is_merely_away() {
    let lab = Lab::new(LabOptions::default()).await.unwrap();
    let bare = |name: &str| {
        WorkloadSpec::new("shop", name)
            .without_sidecar()
            .unannounced()
    };
    let specs = [WorkloadSpec::new("shop", "web"), bare("one"), bare("two")];
    let [web, one, two] = <[_; 3]>::try_from(lab.workloads(specs).await.unwrap()).unwrap();
    for (name, workload) in [("one", &one), ("two", &two)] {
        let document = json!({
            "apiVersion": "kith.dev/v1alpha1", "kind": "Workload",
            "metadata": {"namespace": "shop", "name": name, "labels": {"app": "orders"}},
            "spec": {"serviceAccount": "orders", "addresses": workload.addresses.both(),
                     "ports": [{"port": 8080, "protocol": "HTTP"}, {"port": 9090, "protocol": "GRPC"}]},
        });
        lab.apply(name, &document.to_string()).await.unwrap();
    }
    let service = json!({
        "apiVersion": "kith.dev/v1alpha1", "kind": "Service", "metadata": {"namespace": "shop", "name": "orders"},
        "spec": {"addresses": [SERVICE], "selector": {"app": "orders"},
                 "ports": [{"port": 8080, "protocol": "HTTP"}, {"port": 9090, "protocol": "GRPC"}]},
    });
    lab.apply("service", &service.to_string()).await.unwrap();
    // The first is somebody else, and at the second there is nobody.
    let thief = Caller::new(&lab, "spiffe://example.org/ns/shop/sa/thief").await;
    let mut apps = Vec::new();
    for port in [8080, 9090] {
        let acceptor = thief.acceptor(&[b"kith-h1", b"kith-h2"]);
        let serve = move |stream, _: Log| {
            let acceptor = acceptor.clone();
            async move { drop(acceptor.accept(stream).await) }
        };
        apps.push(App::hearing(&one, port, serve).await);
    }
    for port in [8080, 9090] {
        // Whichever is tried first.
        for number in 0..10 {
            let url = format!("http://{SERVICE}:{port}/{port}-{number}");
            let mut call = Call::get(url.parse().unwrap());
            call.http2 = port == 9090;
            let reply = web.call(call).await.unwrap();
            assert_eq!(reply.status, 503, "{reply:?}");
            assert_eq!(
                reply.header("x-kith-reason"),
                Some("server-identity-mismatch"),
                "{reply:?}"
            );
        }
    }
    let both = |record: &Value| record["attempts"] == 2;
    let record = web.wait_record(both).await.unwrap();
    assert_eq!(record["reason"], "server-identity-mismatch", "{record}");
    let error = record["tls.error"].as_str().unwrap();
    assert!(error.contains("thief"), "{record}");
}
