//! A sidecar is told to stop: what is in flight ends well, nothing new begins, and it is gone in time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kith::lab::{LabOptions, Workload, WorkloadSpec};
use kith_tests::caller::Caller;
use kith_tests::lasting::{How, Lasting};
use kith_tests::shop::{Shop, WEB_MAY_ALL};
use kith_tests::wait::wait_for;
use kith_tests::wire::{self, End, until};
use rustix::process::Signal;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::sleep;

const ALL: &[(u16, &str)] = &[(8080, "HTTP"), (9090, "GRPC"), (7000, "TCP")];

async fn servers(workload: &Workload) -> Vec<kith::lab::Process> {
    vec![
        workload
            .app(&["http", "--listen", "[::]:8080"])
            .await
            .unwrap(),
        workload
            .app(&["http", "--listen", "[::]:9090"])
            .await
            .unwrap(),
        workload
            .app(&["tcp", "--listen", "[::]:7000"])
            .await
            .unwrap(),
    ]
}

async fn open(seconds: &str) -> Shop {
    let environment = vec![("KITH_DRAIN_SECONDS".to_owned(), seconds.to_owned())];
    Shop::with(
        LabOptions {
            environment,
            ..LabOptions::default()
        },
        ALL,
        WEB_MAY_ALL,
    )
    .await
}

#[tokio::test]
async fn an_idle_sidecar_ends_at_once_and_well() {
    let shop = open("30").await;
    let _servers = servers(&shop.orders).await;
    assert_eq!(shop.get("/", &[]).await.status, 200);
    let start = Instant::now();
    // Idle connections between the sidecars are nothing to wait for.
    for workload in [&shop.orders, &shop.web] {
        let status = workload
            .sidecar()
            .stop(Duration::from_secs(5))
            .await
            .unwrap();
        assert_eq!(status.code(), Some(0), "{}", workload.sidecar().stderr());
    }
    println!("two idle sidecars ended in {:?}", start.elapsed());
}

#[tokio::test]
async fn requests_in_flight_end_well_and_nothing_new_begins() {
    let shop = open("10").await;
    let _servers = servers(&shop.orders).await;
    // Straight to the server's sidecar, so that nothing is between it and what it says.
    let stranger = shop.stranger().await;
    let caller = Caller::new(&shop.lab, &shop.web.spiffe_id()).await;
    let to: SocketAddr = (shop.orders.addresses.v4, 8080).into();
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let talk = move || async move {
        let mut stream = caller.connect(to, &[b"http/1.1"]).await.unwrap();
        let request = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: orders.shop\r\n\r\n");
        stream
            .write_all(request("/bytes?n=1").as_bytes())
            .await
            .unwrap();
        stream.flush().await.unwrap();
        until(&mut stream, "\r\n\r\nk").await.unwrap();
        stream
            .write_all(request("/slow?ms=1500").as_bytes())
            .await
            .unwrap();
        stream.flush().await.unwrap();
        sleep(Duration::from_millis(200)).await;
        begun.send(()).unwrap();
        wire::listen(&mut stream, Duration::from_secs(5)).await
    };
    let direct = tokio::spawn(async move { stranger.enter(talk).await });
    has_begun.await.unwrap();
    let web = shop.web.clone();
    let slow = tokio::spawn(async move { web.get("http://orders.shop:8080/slow?ms=1000").await });
    let stream = Lasting::grpc(&shop.web, shop.service(9090)).await;
    sleep(Duration::from_millis(200)).await;

    let start = Instant::now();
    shop.orders.sidecar().signal(Signal::TERM).unwrap();
    sleep(Duration::from_millis(300)).await;
    let late = shop.web.get("http://orders.shop:8080/late").await.unwrap();
    assert_eq!(
        (late.status, late.header("x-kith-reason")),
        (503, Some("server-unreachable")),
        "{}",
        late.text()
    );

    let heard = direct.await.unwrap().unwrap();
    assert_eq!(
        (heard.statuses(), heard.end),
        (vec![200], End::Closed),
        "{}",
        heard.text()
    );
    assert!(
        heard
            .text()
            .to_ascii_lowercase()
            .contains("connection: close\r\n"),
        "{}",
        heard.text()
    );
    assert_eq!(slow.await.unwrap().unwrap().status, 200);
    // The stream's client has no end in mind: the stream goes on until it has, or until the deadline.
    assert!(stream.is_open());
    assert_eq!(stream.stop().await.how, How::Stopped);
    let status = shop
        .orders
        .sidecar()
        .wait(Duration::from_secs(3))
        .await
        .unwrap();
    assert_eq!(status.code(), Some(0));
    println!("ended {:?} after SIGTERM", start.elapsed());
}

#[tokio::test]
async fn an_http2_client_is_told_to_go_away_and_what_it_asked_for_is_answered() {
    let shop = open("10").await;
    let _servers = servers(&shop.orders).await;
    let stranger = shop.stranger().await;
    let caller = Caller::new(&shop.lab, &shop.web.spiffe_id()).await;
    let to: SocketAddr = (shop.orders.addresses.v4, 9090).into();
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let talk = move || async move {
        let tls = caller.connect(to, &[b"h2"]).await.unwrap();
        let (mut client, connection) = h2::client::handshake(tls).await.unwrap();
        let connection = tokio::task::spawn_local(connection);
        let request = http::Request::get("http://orders.shop:9090/slow?ms=1500")
            .body(())
            .unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        sleep(Duration::from_millis(200)).await;
        begun.send(()).unwrap();
        let start = Instant::now();
        let told = wait_for("GOAWAY", Duration::from_secs(1), || async {
            client.clone().ready().await.err()
        })
        .await;
        println!(
            "told to go away {:?} after SIGTERM: {told}",
            start.elapsed()
        );
        assert_eq!(told.reason(), Some(h2::Reason::NO_ERROR), "{told}");
        let mut response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        let mut body = 0;
        while let Some(piece) = response.body_mut().data().await {
            body += piece.unwrap().len();
        }
        assert!(body > 0);
        connection.await.unwrap().unwrap();
    };
    let talk = tokio::spawn(async move { stranger.enter(talk).await });
    has_begun.await.unwrap();
    shop.orders.sidecar().signal(Signal::TERM).unwrap();
    talk.await.unwrap().unwrap();
    let status = shop
        .orders
        .sidecar()
        .wait(Duration::from_secs(3))
        .await
        .unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn the_outbound_side_stays_while_the_application_needs_it_to_answer() {
    let shop = open("10").await;
    let payments = shop
        .lab
        .workload(WorkloadSpec::new("shop", "payments").port(8080, "HTTP"))
        .await
        .unwrap();
    shop.lab
        .apply(
            "payments",
            &WEB_MAY_ALL
                .replace("name: orders", "name: payments")
                .replace("app: orders", "app: payments")
                .replace("sa/web", "sa/orders"),
        )
        .await
        .unwrap();
    let _servers = servers(&shop.orders).await;
    let _payments = payments.app(&["http"]).await.unwrap();
    // An application that thinks for a second, and only then asks another one for the answer.
    let app = kith_tests::app::App::listen(&shop.orders, 8081, {
        let to = shop.orders.resolve("payments.shop:8080").unwrap();
        move |mut client, _| async move {
            let ask = async {
                until(&mut client, "\r\n\r\n").await?;
                sleep(Duration::from_millis(1000)).await;
                let mut server = TcpStream::connect(to).await?;
                server.write_all(b"GET /bytes?n=4 HTTP/1.1\r\nhost: payments.shop\r\nconnection: close\r\n\r\n").await?;
                until(&mut server, "\r\n\r\nkkkk").await
            };
            let status = if ask.await.is_ok() { "200 OK" } else { "502 Bad Gateway" };
            let _ = client.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes()).await;
        }
    })
    .await;
    let pod = shop.pod(8081);
    let web = shop.web.clone();
    let asked = tokio::spawn(async move {
        wire::raw(
            &web,
            pod,
            "GET / HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n",
        )
        .await
    });
    sleep(Duration::from_millis(300)).await;
    shop.orders.sidecar().signal(Signal::TERM).unwrap();
    let heard = asked.await.unwrap().unwrap();
    assert_eq!(heard.statuses(), [200], "{}", heard.text());
    let status = shop
        .orders
        .sidecar()
        .wait(Duration::from_secs(5))
        .await
        .unwrap();
    assert_eq!(status.code(), Some(0));
    drop(app);
}

#[tokio::test]
async fn what_is_still_open_at_the_deadline_is_closed_and_recorded() {
    let shop = open("2").await;
    let _servers = servers(&shop.orders).await;
    let feed = Lasting::opaque(&shop.web, shop.service(7000)).await;
    let stream = Lasting::grpc(&shop.web, shop.service(9090)).await;
    let web = shop.web.clone();
    let endless = tokio::spawn(async move {
        web.get("http://orders.shop:8080/stream?ticks=0&ms=100")
            .await
    });
    wait_for("the endless request", Duration::from_secs(5), || async {
        let connections = shop.orders.admin("/connections").await.unwrap().json();
        let in_use = |it: &&Value| it["direction"] == "inbound" && it["in_use"] == true;
        (connections
            .as_array()
            .unwrap()
            .iter()
            .filter(in_use)
            .count()
            == 3)
            .then_some(())
    })
    .await;
    let start = Instant::now();
    let status = shop
        .orders
        .sidecar()
        .stop(Duration::from_secs(6))
        .await
        .unwrap();
    let took = start.elapsed();
    assert_eq!(status.code(), Some(0));
    assert!(
        (Duration::from_secs(2)..Duration::from_secs(4)).contains(&took),
        "{took:?}"
    );
    assert_eq!(feed.ended().await.how, How::Reset);
    assert_eq!(stream.ended().await.how, How::Reset);
    assert!(endless.await.unwrap().is_err());
    for (port, kind) in [(7000, "connection"), (9090, "request"), (8080, "request")] {
        let wanted = |record: &Value| {
            record["direction"] == "inbound"
                && record["destination.port"] == port
                && record["record"] == kind
        };
        let record = shop.orders.wait_record(wanted).await.unwrap();
        // It was allowed all the time.
        let last = (&record["closed_by"], &record["reason"], &record["decision"]);
        assert_eq!(
            last,
            (&"drain".into(), &"draining".into(), &"allow".into()),
            "{record}"
        );
    }
}

#[tokio::test]
async fn servers_are_replaced_one_after_the_other_under_load_and_no_request_fails() {
    let shop = Shop::open(&[(8080, "HTTP"), (9090, "HTTP2")], WEB_MAY_ALL).await;
    let second = WorkloadSpec::new("shop", "orders-2")
        .service_account("orders")
        .label("app", "orders")
        .without_service();
    let second = shop
        .lab
        .workload(second.port(8080, "HTTP").port(9090, "HTTP2"))
        .await
        .unwrap();
    let _apps = [servers(&shop.orders).await, servers(&second).await];
    let mut loads = Vec::new();
    for (port, version) in [(8080, &[][..]), (9090, &["--http2"][..])] {
        let url = format!("http://orders.shop:{port}/load");
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
        loads.push(shop.web.app(&[&load[..], version].concat()).await.unwrap());
    }
    let served = |workload: Arc<Workload>| async move {
        workload
            .wait_records(20, |record| record["http.path"] == "/load")
            .await
            .unwrap();
    };
    tokio::join!(served(shop.orders.clone()), served(second.clone()));
    for workload in [&shop.orders, &second] {
        let status = workload
            .sidecar()
            .stop(Duration::from_secs(20))
            .await
            .unwrap();
        assert_eq!(status.code(), Some(0));
        sleep(Duration::from_millis(300)).await;
        workload.sidecar().restart().unwrap();
        workload.ready(Duration::from_secs(10)).await.unwrap();
        sleep(Duration::from_millis(500)).await;
    }
    for load in loads {
        load.stop(Duration::from_secs(5)).await.unwrap();
        let report: Value = serde_json::from_str(&load.stdout()).unwrap();
        println!("{report}");
        assert_eq!(report["failed"], 0, "{report}");
    }
}
