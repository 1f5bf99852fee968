//! Slow, silent and greedy clients, full queues, no descriptors: security.md, rows 26 to 30.

use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kith::lab::privileges::can_switch_users;
use kith::lab::{Lab, LabOptions, Workload, WorkloadSpec};
use kith_tests::caller::Caller;
use kith_tests::lasting::{How, Lasting};
use kith_tests::metrics::Metrics;
use kith_tests::shop::{Shop, WEB_MAY_ALL};
use kith_tests::wait::wait_for;
use kith_tests::wire::{End, Heard, listen};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::sleep;

const ALL: &[(u16, &str)] = &[(8080, "HTTP"), (7000, "TCP")];

/// Says a little, then nothing; how long until somebody has had enough of it?
async fn dawdle(
    from: Arc<Workload>,
    to: SocketAddr,
    bytes: &'static [u8],
    caller: Option<Caller>,
) -> (Duration, Heard) {
    let talk = move || async move {
        let start = Instant::now();
        let patience = Duration::from_secs(25);
        let heard = match caller {
            Some(caller) => {
                let mut stream = caller.connect(to, &[b"http/1.1"]).await.unwrap();
                stream.write_all(bytes).await.unwrap();
                stream.flush().await.unwrap();
                listen(&mut stream, patience).await
            }
            None => {
                let mut stream = TcpStream::connect(to).await.unwrap();
                stream.write_all(bytes).await.unwrap();
                listen(&mut stream, patience).await
            }
        };
        (start.elapsed(), heard)
    };
    from.enter(talk).await.unwrap()
}

#[tokio::test]
async fn row_28_slow_and_silent_clients_are_not_waited_for_beyond_their_deadlines() {
    let shop = Shop::open(ALL, WEB_MAY_ALL).await;
    let _app = shop
        .orders
        .app(&["http", "--listen", "[::]:8080"])
        .await
        .unwrap();
    let stranger = shop.stranger().await;
    let caller = Caller::new(&shop.lab, &shop.web.spiffe_id()).await;
    let (pod, service) = (shop.pod(8080), shop.service(8080));
    let head = b"GET / HTTP/1.1\r\nhost: orders.shop\r\nx-slow: ";
    let within = |what: &str, (took, heard): (Duration, Heard), seconds: u64| {
        println!("{what}: {:?} after {took:.1?}", heard.end);
        assert_ne!(heard.end, End::Open, "{what}");
        let deadline = Duration::from_secs(seconds);
        assert!(
            took >= deadline - Duration::from_millis(100)
                && took < deadline + Duration::from_secs(3),
            "{what}: {took:?}"
        );
    };
    let (silent, handshake, head_in, head_out) = tokio::join!(
        dawdle(stranger.clone(), pod, b"", None),
        dawdle(stranger.clone(), pod, b"\x16\x03\x01\x02\x00\x01", None),
        dawdle(stranger.clone(), pod, head, Some(caller)),
        dawdle(shop.web.clone(), service, head, None),
    );
    within(
        "a client that says nothing where only the mesh may speak",
        silent,
        10,
    );
    within("a handshake that begins and stops", handshake, 10);
    within("the head of a request, inbound", head_in, 15);
    within("the head of a request, outbound", head_out, 15);
    let denied = shop
        .orders
        .wait_records(2, |record| record["decision"] == "deny")
        .await
        .unwrap();
    for record in denied {
        assert!(
            ["peer-unauthenticated", "timeout"]
                .map(Value::from)
                .contains(&record["reason"]),
            "{record}"
        );
    }
    assert_eq!(shop.get("/", &[]).await.status, 200);
}

/// Opens connections one after the other: those that were served, and how many were not.
async fn open(from: &Arc<Workload>, to: SocketAddr, count: usize) -> (Vec<Lasting>, usize) {
    let mut open = Vec::new();
    for _ in 0..count {
        open.extend(Lasting::try_opaque(from, to).await);
    }
    let refused = count - open.len();
    (open, refused)
}

#[tokio::test]
async fn row_29_beyond_the_cap_connections_are_shed_and_counted_and_those_that_are_open_stay() {
    let lab = Lab::new(LabOptions::default()).await.unwrap();
    lab.control().write("policies", WEB_MAY_ALL).unwrap();
    let orders = WorkloadSpec::new("shop", "orders")
        .port(7000, "TCP")
        .env("KITH_MAX_CONNECTIONS", "10");
    let [web, orders] = <[_; 2]>::try_from(
        lab.workloads([WorkloadSpec::new("shop", "web"), orders])
            .await
            .unwrap(),
    )
    .unwrap();
    let _app = orders.app(&["tcp", "--listen", "[::]:7000"]).await.unwrap();
    let to = web.resolve("orders.shop:7000").unwrap();
    let (kept, refused) = open(&web, to, 10).await;
    assert_eq!((kept.len(), refused), (10, 0));
    let (more, refused) = open(&web, to, 3).await;
    assert_eq!((more.len(), refused), (0, 3));
    assert!(
        Metrics::of(&orders)
            .await
            .sum("kith_accept_pauses_total", &[])
            >= 3.0
    );
    assert_eq!(
        Metrics::of(&orders)
            .await
            .sum("kith_connections_open", &["direction=\"inbound\""]),
        10.0
    );
    for open in kept {
        assert_eq!(open.stop().await.how, How::Stopped);
    }
    wait_for("room", Duration::from_secs(5), || async {
        (Metrics::of(&orders)
            .await
            .sum("kith_connections_open", &["direction=\"inbound\""])
            == 0.0)
            .then_some(())
    })
    .await;
    let (kept, refused) = open(&web, to, 2).await;
    assert_eq!((kept.len(), refused), (2, 0));
}

/// How many descriptors a process may have: (now, at most).
fn limit_of_files(pid: u32) -> (String, String) {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    let mut words = line.split_whitespace().skip(3);
    (
        words.next().unwrap().to_owned(),
        words.next().unwrap().to_owned(),
    )
}

#[tokio::test]
async fn row_29_descriptors_are_raised_to_the_most_and_running_out_of_them_is_survived() {
    let shop = Shop::open(ALL, WEB_MAY_ALL).await;
    let _app = shop
        .orders
        .app(&["tcp", "--listen", "[::]:7000"])
        .await
        .unwrap();
    let pid = shop.orders.sidecar().pid();
    let (now, most) = limit_of_files(pid);
    assert_eq!(now, most, "as many as the system allows");
    let core = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    assert!(
        core.lines()
            .any(|line| line.starts_with("Max core file size        0 ")),
        "{core}"
    );

    let feed = Lasting::opaque(&shop.web, shop.service(7000)).await;
    let used = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count();
    let few = format!("--nofile={}:", used + 20);
    // As the sidecar's own user, who needs no capability for that.
    let as_it: &[&str] = if can_switch_users() {
        &["setpriv", "--reuid=1337", "--regid=1337", "--clear-groups"]
    } else {
        &[]
    };
    let output = shop
        .orders
        .exec(&[as_it, &["prlimit", &format!("--pid={pid}"), &few]].concat())
        .await
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let before = Metrics::of(&shop.orders).await;
    // Each takes two; opened at once, because one that waits must not hold up the others.
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let (web, to) = (shop.web.clone(), shop.service(7000));
        callers.spawn(async move {
            web.enter(move || async move {
                let mut stream = TcpStream::connect(to).await?;
                stream.write_all(b"ping").await?;
                let mut back = [0; 4];
                let answer = tokio::io::AsyncReadExt::read_exact(&mut stream, &mut back);
                let answered = tokio::time::timeout(Duration::from_secs(2), answer)
                    .await?
                    .map(drop);
                sleep(Duration::from_secs(1)).await;
                answered
            })
            .await
            .unwrap()
        });
    }
    let results: Vec<_> = callers.join_all().await;
    let answered = results.iter().filter(|result| result.is_ok()).count();
    println!("{answered} of 40 connections were answered with descriptors for few");
    assert!((1..40).contains(&answered), "{results:?}");
    assert!(feed.is_open(), "what is open stays");
    wait_for(
        "the sidecar to recover",
        Duration::from_secs(10),
        || async {
            let reply = shop.orders.health("/metrics").await.ok()?;
            (reply.status == 200).then_some(())
        },
    )
    .await;
    let pauses = "kith_accept_pauses_total";
    assert!(Metrics::of(&shop.orders).await.sum(pauses, &[]) > before.sum(pauses, &[]));
    assert_eq!(feed.stop().await.how, How::Stopped);
    let again = Lasting::opaque(&shop.web, shop.service(7000)).await;
    assert_eq!(again.stop().await.how, How::Stopped);
}

const NO_SECRETS: &str = "---
apiVersion: kith.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: no-secrets}
spec:
  action: DENY
  rules:
  - to: [{operation: {ports: ['8080'], paths: [/secret/*]}}]
";

#[tokio::test]
async fn when_nobody_reads_the_records_traffic_goes_on_losses_are_counted_and_denials_are_kept() {
    const DENIED: usize = 50;
    let lab = Lab::new(LabOptions::default()).await.unwrap();
    lab.control()
        .write("policies", &format!("{WEB_MAY_ALL}{NO_SECRETS}"))
        .unwrap();
    let pipe = lab.directory().join("records.pipe");
    let web = lab
        .workload(WorkloadSpec::new("shop", "web"))
        .await
        .unwrap();
    let made = web
        .exec(&["mkfifo", "-m", "666", &pipe.display().to_string()])
        .await
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    // Open, and not read. For writing as well, so that it never seems to be over.
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap();
    let mut reader = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(nonblocking)
        .open(&pipe)
        .unwrap();
    let orders = WorkloadSpec::new("shop", "orders")
        .port(8080, "HTTP")
        .env("KITH_ACCESS_LOG", &pipe.display().to_string());
    let orders = lab.workload(orders).await.unwrap();
    let _app = orders
        .app(&["http", "--listen", "[::]:8080"])
        .await
        .unwrap();

    // Long paths make long records, which fill the queue soon.
    let url = format!("http://orders.shop:8080/{}", "p".repeat(7000));
    let load = web
        .app(&[
            "load",
            &url,
            "--connections",
            "4",
            "--seconds",
            "60",
            "--json",
        ])
        .await
        .unwrap();
    wait_for("records to be dropped", Duration::from_secs(50), || async {
        (Metrics::of(&orders)
            .await
            .sum("kith_records_dropped_total", &[])
            > 20.0)
            .then_some(())
    })
    .await;
    for number in 0..DENIED {
        let reply = web
            .get(&format!("http://orders.shop:8080/secret/{number}"))
            .await
            .unwrap();
        assert_eq!(reply.status, 403);
    }
    load.stop(Duration::from_secs(5)).await.unwrap();
    let report: Value = serde_json::from_str(&load.stdout()).unwrap();
    println!("{report}");
    assert_eq!(report["failed"], 0, "{report}");

    // Now somebody reads: all denials are there, and whatever else is not was counted.
    let (mut text, mut piece) = (Vec::new(), vec![0; 65536]);
    let mut last = Instant::now();
    while last.elapsed() < Duration::from_secs(1) {
        match reader.read(&mut piece) {
            Ok(count) => {
                text.extend_from_slice(&piece[..count]);
                last = Instant::now();
            }
            Err(_) => sleep(Duration::from_millis(5)).await,
        }
    }
    let text = String::from_utf8(text).unwrap();
    let records: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let denied = records
        .iter()
        .filter(|record| record["reason"] == "denied-by-rule")
        .count();
    assert_eq!(denied, DENIED);
    let dropped = Metrics::of(&orders)
        .await
        .sum("kith_records_dropped_total", &[]);
    let written = records.len() as f64;
    let happened = Metrics::of(&orders).await.sum("kith_requests_total", &[]);
    println!(
        "{happened} requests: {written} written, {dropped} dropped, all {denied} denials written"
    );
    assert_eq!(written + dropped, happened);
}
