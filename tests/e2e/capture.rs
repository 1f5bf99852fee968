//! The capture: what is redirected to the sidecar, what is not, and that nothing ever passes the sidecar by.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use kith::lab::privileges::{can_switch_users, kith_binary};
use kith::lab::{Lab, LabOptions, Output, Workload, WorkloadSpec};
use kith_tests::lasting::{How, Lasting};
use kith_tests::shop::{Shop, WEB_MAY_ALL};
use kith_tests::wire::{End, listen};
use tokio::net::TcpStream;

const PORTS: &[(u16, &str)] = &[(8080, "HTTP"), (7000, "TCP")];

/// `kith-proxy capture` with the arguments that the lab gives, and more.
async fn capture(workload: &Workload, arguments: &[&str]) -> Output {
    let kith = kith_binary().unwrap().display().to_string();
    let who = if can_switch_users() {
        ["--uid", "1337"]
    } else {
        ["--mark", "0x4b69"]
    };
    workload
        .exec(&[&[kith.as_str(), "__proxy", "capture"][..], &who, arguments].concat())
        .await
        .unwrap()
}

async fn nft(workload: &Workload, arguments: &[&str]) {
    let output = workload
        .exec(&[&["nft"], arguments].concat())
        .await
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

/// How a TCP connection fares: connected, or why not.
async fn dial(from: &Workload, to: SocketAddr) -> io::Result<()> {
    let connect = move || async move {
        tokio::time::timeout(Duration::from_secs(3), TcpStream::connect(to)).await
    };
    from.enter(connect)
        .await?
        .map_err(io::Error::from)?
        .map(drop)
}

async fn assert_refused(what: &str, from: &Workload, to: SocketAddr) {
    let error = dial(from, to).await.expect_err(what);
    assert_eq!(
        error.kind(),
        io::ErrorKind::ConnectionRefused,
        "{what}: {error}"
    );
}

#[tokio::test]
async fn both_families_are_captured_and_what_is_excluded_is_not() {
    let lab = Lab::new(LabOptions {
        mesh: serde_json::json!({"egress": "REFUSE"}),
        ..LabOptions::default()
    })
    .await
    .unwrap();
    lab.control().write("policies", WEB_MAY_ALL).unwrap();
    let outside = lab
        .workload(
            WorkloadSpec::new("shop", "outside")
                .without_sidecar()
                .unannounced(),
        )
        .await
        .unwrap();
    let near = lab
        .workload(
            WorkloadSpec::new("shop", "near")
                .without_sidecar()
                .unannounced(),
        )
        .await
        .unwrap();
    let web = WorkloadSpec::new("shop", "web")
        .capture("--exclude-outbound-ports=9000,9001")
        .capture(&format!(
            "--exclude-outbound-cidrs={}/32,{}/128",
            near.addresses.v4, near.addresses.v6
        ));
    let orders = WorkloadSpec::new("shop", "orders")
        .port(8080, "HTTP")
        .capture("--exclude-inbound-ports=9000");
    let [web, orders] = <[_; 2]>::try_from(lab.workloads([web, orders]).await.unwrap()).unwrap();
    let mut apps = Vec::new();
    for (workload, ports) in [
        (&outside, &[8080, 9000][..]),
        (&near, &[8080]),
        (&orders, &[8080, 9000]),
    ] {
        for port in ports {
            apps.push(
                workload
                    .app(&["http", "--listen", &format!("[::]:{port}")])
                    .await
                    .unwrap(),
            );
        }
    }
    let ask = |from: std::sync::Arc<Workload>, to: IpAddr, port: u16| async move {
        let to = SocketAddr::new(to, port);
        from.get(&format!("http://{to}/{port}"))
            .await
            .map(|reply| reply.status)
    };

    // Captured: both sidecars write it down, by both families, at the workload's addresses and the service's.
    let service = orders.service.unwrap();
    for to in [orders.addresses.both(), service.both()].concat() {
        assert_eq!(ask(web.clone(), to, 8080).await.unwrap(), 200, "{to}");
    }
    let records = web
        .wait_records(4, |record| record["http.status"] == 200)
        .await
        .unwrap();
    assert!(
        records.iter().all(|record| record["hop"].is_string()),
        "{records:?}"
    );
    let inbound = orders
        .wait_records(4, |record| record["direction"] == "inbound")
        .await
        .unwrap();
    let of = |address: IpAddr| {
        inbound
            .iter()
            .filter(|record| {
                record["source.address"]
                    .as_str()
                    .unwrap()
                    .contains(&address.to_string())
            })
            .count()
    };
    let [v4, v6] = web.addresses.both();
    assert!(
        of(v4) >= 1 && of(v6) >= 1 && of(v4) + of(v6) == 4,
        "{inbound:?}"
    );

    // Captured, and refused: nobody knows this machine.
    for to in outside.addresses.both() {
        assert_eq!(ask(web.clone(), to, 8080).await.unwrap(), 503, "{to}");
    }
    web.wait_records(2, |record| record["http.status"] == 503)
        .await
        .unwrap();
    // Straight there and back, past the sidecars.
    let before = (web.records().len(), orders.records().len());
    for to in [outside.addresses.both(), orders.addresses.both()].concat() {
        assert_eq!(ask(web.clone(), to, 9000).await.unwrap(), 200, "{to}");
    }
    for to in near.addresses.both() {
        assert_eq!(ask(web.clone(), to, 8080).await.unwrap(), 200, "{to}");
        assert_eq!(
            ask(
                near.clone(),
                orders.addresses.both()[usize::from(to.is_ipv6())],
                9000
            )
            .await
            .unwrap(),
            200
        );
    }
    // Only one port of `orders` is excluded.
    for to in orders.addresses.both() {
        assert_eq!(
            ask(near.clone(), to, 8080).await.unwrap(),
            403,
            "plaintext from nobody"
        );
    }
    orders
        .wait_records(2, |record| record["decision"] == "deny")
        .await
        .unwrap();
    assert_eq!(
        (web.records().len(), orders.records().len()),
        (before.0, before.1 + 2)
    );
}

#[tokio::test]
async fn rules_are_replaced_checked_and_removed_under_live_connections() {
    let shop = Shop::open(PORTS, WEB_MAY_ALL).await;
    let _app = shop
        .orders
        .app(&["http", "--listen", "[::]:8080"])
        .await
        .unwrap();
    let _feed = shop
        .orders
        .app(&["tcp", "--listen", "[::]:7000"])
        .await
        .unwrap();
    let web = &shop.web;
    let feed = Lasting::opaque(web, shop.service(7000)).await;

    // Installed twice is installed once.
    assert_eq!(code(&capture(web, &["--check"]).await), 0);
    for _ in 0..3 {
        let output = capture(web, &[]).await;
        assert_eq!(code(&output), 0, "{output:?}");
    }
    assert_eq!(code(&capture(web, &["--check"]).await), 0);
    assert_eq!(
        web.get("http://orders.shop:8080/").await.unwrap().status,
        200
    );

    // Somebody makes a hole, and a check with other options: both show.
    nft(
        web,
        &[
            "insert", "rule", "inet", "kith", "output", "tcp", "dport", "25", "return",
        ],
    )
    .await;
    let output = capture(web, &["--check"]).await;
    assert!(
        code(&output) == 1 && output.stderr.contains("unexpected: tcp dport 25 return"),
        "{output:?}"
    );
    assert_eq!(code(&capture(web, &[]).await), 0);
    assert_eq!(code(&capture(web, &["--check"]).await), 0);
    let output = capture(web, &["--check", "--exclude-outbound-ports", "25"]).await;
    assert!(
        code(&output) == 1 && output.stderr.contains("missing:"),
        "{output:?}"
    );

    // Other tables are nobody's business.
    nft(web, &["add", "table", "inet", "mine"]).await;
    for arguments in [&["--remove"][..], &["--remove"]] {
        let output = capture(web, arguments).await;
        assert_eq!(code(&output), 0, "{output:?}");
    }
    nft(web, &["list", "table", "inet", "mine"]).await;
    let output = capture(web, &["--check"]).await;
    assert!(
        code(&output) == 1 && output.stderr.contains("does not exist"),
        "{output:?}"
    );
    // Without rules the application is on its own: plaintext, which `orders` doesn't take.
    let pod = format!("http://{}/", shop.pod(8080));
    assert_eq!(web.get(&pod).await.unwrap().status, 403);
    assert_eq!(code(&capture(web, &[]).await), 0);
    assert_eq!(web.get(&pod).await.unwrap().status, 200);

    let feed = feed.stop().await;
    assert_eq!(
        feed.how,
        How::Stopped,
        "not a byte of the open connection was touched, in {} rounds",
        feed.rounds
    );
}

#[tokio::test]
async fn a_pod_speaks_to_itself_without_its_sidecar() {
    let shop = Shop::open(PORTS, WEB_MAY_ALL).await;
    let orders = &shop.orders;
    let _app = orders
        .app(&["http", "--listen", "[::]:8080"])
        .await
        .unwrap();
    let own = [
        orders.addresses.both().to_vec(),
        vec![
            Ipv4Addr::LOCALHOST.into(),
            std::net::Ipv6Addr::LOCALHOST.into(),
        ],
    ]
    .concat();
    let ask_itself = || async {
        for address in &own {
            let to = SocketAddr::new(*address, 8080);
            let reply = orders.get(&format!("http://{to}/")).await.unwrap();
            assert_eq!(reply.status, 200, "{to}");
            let headers = &reply.json()["headers"];
            assert!(
                headers.get("x-request-id").is_none() && headers.get("traceparent").is_none(),
                "as it was sent: {headers}"
            );
        }
    };
    ask_itself().await;
    assert_eq!(orders.records().len(), 0);
    orders.sidecar().kill();
    ask_itself().await;
}

#[tokio::test]
async fn row_19_while_a_sidecar_is_down_connections_are_refused_and_never_pass_it_by() {
    let shop = Shop::open(PORTS, WEB_MAY_ALL).await;
    let _app = shop
        .orders
        .app(&["http", "--listen", "[::]:8080"])
        .await
        .unwrap();
    let stranger = shop.stranger().await;
    let _other = stranger
        .app(&["http", "--listen", "[::]:8080"])
        .await
        .unwrap();
    let at = |workload: &Workload, v6: usize| SocketAddr::new(workload.addresses.both()[v6], 8080);

    shop.web.sidecar().kill();
    for family in [0, 1] {
        assert_refused(
            "outbound, into the mesh",
            &shop.web,
            at(&shop.orders, family),
        )
        .await;
        assert_refused(
            "outbound, out of the mesh",
            &shop.web,
            at(&stranger, family),
        )
        .await;
        // The capture of `orders` is up and so is its sidecar: no plaintext gets through.
        let to = at(&shop.orders, family);
        let heard = stranger.enter(move || async move {
            listen(
                &mut TcpStream::connect(to).await.unwrap(),
                Duration::from_millis(100),
            )
            .await
        });
        assert_ne!(heard.await.unwrap().end, End::Closed);
    }
    shop.orders.sidecar().kill();
    for family in [0, 1] {
        assert_refused("inbound", &stranger, at(&shop.orders, family)).await;
    }
    for workload in [&shop.orders, &shop.web] {
        workload.sidecar().restart().unwrap();
        workload.ready(Duration::from_secs(10)).await.unwrap();
    }
    assert_eq!(shop.get("/", &[]).await.status, 200);
}
