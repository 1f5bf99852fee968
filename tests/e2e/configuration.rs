//! What a sidecar and the control plane are told: mistakes are named, all at once, and what was good stays in force.

use std::time::Duration;

use kith::app::client::Call;
use kith::lab::{Lab, LabOptions, Workload, WorkloadSpec};
use kith_tests::caller::Caller;
use kith_tests::metrics::Metrics;
use kith_tests::shop::{Shop, WEB_MAY_ALL};
use kith_tests::wait::wait_for;
use kith_tests::wire;
use kith_tests::xds::{self, Xds};
use kith_xds_client::Kind;
use kith_xds_client::api::mesh;
use prost::Message;
use tokio::net::TcpStream;

const HTTP: &[(u16, &str)] = &[(8080, "HTTP")];

fn kith() -> String {
    kith::lab::privileges::kith_binary().unwrap().display().to_string()
}

/// A command line with variables in front of it, in a workload without a sidecar.
async fn run(workload: &Workload, environment: &[(&str, &str)], program: &[&str]) -> (Option<i32>, String, String) {
    let variables: Vec<String> = environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let command: Vec<&str> =
        ["timeout", "10", "env"].into_iter().chain(variables.iter().map(String::as_str)).chain(program.iter().copied()).collect();
    let output = workload.exec(&command).await.unwrap();
    (output.status.code(), output.stdout, output.stderr)
}

const COMPLETE: [(&str, &str); 4] = [
    ("SPIFFE_ENDPOINT_SOCKET", "unix:///nowhere/workload-api.sock"),
    ("KITH_XDS_ADDRESS", "https://127.0.0.1:15010"),
    ("KITH_XDS_SPIFFE_ID", "spiffe://example.org/control"),
    ("KITH_NODE_ID", "shop/web"),
];

#[tokio::test]
async fn a_start_that_cannot_succeed_says_everything_that_is_wrong_in_few_lines() {
    let lab = Lab::bare(LabOptions::default()).unwrap();
    let machine = lab.workload(WorkloadSpec::new("shop", "machine").without_sidecar()).await.unwrap();
    let proxy = [&kith(), "__proxy", "run"];

    // All mistakes at once, exit code 2.
    let wrong = [
        ("SPIFFE_ENDPOINT_SOCKET", "/run/spire.sock"),
        ("KITH_XDS_ADDRESS", "http://control:15010"),
        ("KITH_NODE_ID", "web"),
        ("KITH_WORKERS", "0"),
        ("KITH_EXPIRY_GRACE", "30"),
        ("KITH_ADMIN_LISTEN", "0.0.0.0:15000"),
        ("KITH_ACESS_LOG", "stdout"),
        ("KITH_OUTBOUND_LISTEN", "[::]:15006"),
    ];
    let (code, _, stderr) = run(&machine, &wrong, &proxy).await;
    assert_eq!(code, Some(2), "{stderr}");
    for name in wrong.map(|(name, _)| name).iter().chain(&["KITH_XDS_SPIFFE_ID", "KITH_ACCESS_LOG"]) {
        assert!(stderr.contains(name), "{name} is not in\n{stderr}");
    }
    assert_eq!(stderr.lines().count(), 10, "one line for each, and one before them:\n{stderr}");

    // Where there is nothing wrong with the words, but with the world: one line, exit code 1.
    let one_line = |what: &str, (code, stdout, stderr): (Option<i32>, String, String), parts: &[&str]| {
        println!("{what}: {}", stderr.trim_end());
        let last = stderr.lines().last().unwrap_or_default();
        assert_eq!(code, Some(1), "{what}: {stdout}{stderr}");
        assert!(parts.iter().all(|part| last.contains(part)), "{what}: {parts:?} in {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{what}: {stderr}");
    };
    let _taken = machine.app(&["tcp", "--listen", "[::]:15006"]).await.unwrap();
    let taken = run(&machine, &COMPLETE, &proxy).await;
    one_line("port in use", taken, &["KITH_INBOUND_LISTEN", "15006", "in use"]);
    let with = |more: &[(&'static str, &'static str)]| [&COMPLETE[..], &[("KITH_INBOUND_LISTEN", "[::]:16006")], more].concat();
    let health = run(&machine, &with(&[("KITH_HEALTH_LISTEN", "[::1]:15006")]), &proxy).await;
    one_line("health port in use", health, &["KITH_HEALTH_LISTEN", "15006", "in use"]);
    let log = run(&machine, &with(&[("KITH_ACCESS_LOG", "/nowhere/log")]), &proxy).await;
    one_line("no place for records", log, &["KITH_ACCESS_LOG", "/nowhere/log"]);

    // As nobody in particular: no capability.
    let nobody = ["setpriv", "--reuid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"];
    if kith::lab::privileges::can_switch_users() {
        let capture = run(&machine, &[], &[&nobody[..], &[&kith(), "__proxy", "capture", "--uid", "1337"]].concat()).await;
        one_line("capture without NET_ADMIN", capture, &["NET_ADMIN"]);
        let marked = with(&[("KITH_SOCKET_MARK", "1")]);
        let mark = run(&machine, &marked, &[&nobody[..], &proxy].concat()).await;
        one_line("mark without NET_ADMIN", mark, &["KITH_SOCKET_MARK", "NET_ADMIN"]);
    }
    // Hidden from this command alone, which has a mount namespace of its own.
    let hide = r#"mount -t tmpfs none "$(dirname "$(readlink -f "$(command -v nft)")")" && exec "$0" __proxy capture"#;
    let no_nft = run(&machine, &[], &["sh", "-c", hide, &kith()]).await;
    one_line("no nft", no_nft, &["nft", "nftables"]);
}

#[tokio::test]
async fn a_sidecar_that_reaches_nobody_says_so_keeps_trying_and_becomes_ready() {
    let lab = Lab::new(LabOptions::default()).await.unwrap();
    let later = lab.directory().join("later.sock");
    let no_api = WorkloadSpec::new("shop", "no-api").env("SPIFFE_ENDPOINT_SOCKET", &format!("unix://{}", later.display()));
    let no_api = lab.start_workload(no_api).await.unwrap();
    let why = wait_for("the reason", Duration::from_secs(10), || async {
        let reply = no_api.health("/ready").await.ok()?;
        (reply.status == 503 && reply.text().contains("No such file")).then(|| reply.text())
    })
    .await;
    println!("{why}");
    assert!(why.contains("waiting svid: no SVID yet") && why.contains("later.sock"), "{why}");
    assert!(no_api.sidecar().stderr().contains("later.sock"), "{}", no_api.sidecar().stderr());
    // Before it knows who it is, it lets nobody through.
    // It waits a little for that.
    let denied = no_api.enter(|| async {
        let mut stream = TcpStream::connect("10.75.0.1:80").await.unwrap();
        wire::say(&mut stream, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", Duration::from_secs(8)).await
    });
    lab.control().kill();
    let no_control = lab.start_workload(WorkloadSpec::new("shop", "no-control")).await.unwrap();
    let denied = denied.await.unwrap();
    assert_eq!(denied.statuses(), [503], "{denied:?}");
    assert!(denied.text().contains("x-kith-reason: no-configuration"), "{}", denied.text());
    no_api.wait_record(|record| record["reason"] == "no-configuration" && record["decision"] == "deny").await.unwrap();
    let why = wait_for("the reason", Duration::from_secs(10), || async {
        let reply = no_control.health("/ready").await.ok()?;
        (reply.status == 503 && reply.text().contains("refused")).then(|| reply.text())
    })
    .await;
    println!("{why}");
    assert!(why.contains("ok      svid:") && why.contains("not connected to https://"), "{why}");

    lab.authority().add_entry(&no_api.spiffe_id(), &later).await.unwrap();
    lab.control().restart().unwrap();
    tokio::join!(async { no_api.ready(Duration::from_secs(20)).await.unwrap() }, async {
        no_control.ready(Duration::from_secs(20)).await.unwrap();
    });
}

#[tokio::test]
async fn who_is_not_who_was_expected_gets_nothing() {
    let lab = Lab::new(LabOptions::default()).await.unwrap();
    let wrong_control =
        lab.start_workload(WorkloadSpec::new("shop", "web").env("KITH_XDS_SPIFFE_ID", "spiffe://example.org/ns/kith-system/sa/other")).await.unwrap();
    let thief = lab.start_workload(WorkloadSpec::new("shop", "thief").env("KITH_NODE_ID", "shop/web")).await.unwrap();
    let reason = |workload: std::sync::Arc<Workload>, part: &'static str| async move {
        wait_for(part, Duration::from_secs(10), || async {
            let reply = workload.health("/ready").await.ok()?;
            (reply.status == 503 && reply.text().contains(part)).then(|| println!("{}", reply.text()))
        })
        .await;
    };
    tokio::join!(reason(wrong_control, "sa/control"), reason(thief, "shop/web"));
    let status = lab.control().status().await.unwrap();
    assert_eq!(status["sidecars"], serde_json::json!([]), "{status:#}");
}

#[tokio::test]
async fn a_folder_with_a_mistake_is_refused_with_its_place_and_the_last_good_stays() {
    let shop = Shop::open(HTTP, WEB_MAY_ALL).await;
    let _app = shop.orders.app(&["http"]).await.unwrap();
    let folder = shop.lab.control().files().display().to_string();
    let check = || async { run(&shop.web, &[], &[&kith(), "__control", "check", &folder]).await };
    let (code, stdout, _) = check().await;
    assert_eq!(code, Some(0));
    assert!(stdout.contains("2 workloads, 1 service, 1 authorization policy"), "{stdout}");

    let broken = WEB_MAY_ALL.replace("principals: [", "principal: [");
    let error = shop.lab.apply("policies", &broken).await.unwrap_err().to_string();
    assert!(error.contains("policies.yaml") && error.contains("\"line\":8") && error.contains("principal"), "{error}");
    assert_eq!(shop.get("/", &[]).await.status, 200, "the last good state");
    let (code, _, stderr) = check().await;
    assert_eq!(code, Some(2));
    assert!(stderr.contains("policies.yaml:8") && stderr.contains("1 problem"), "{stderr}");
    let (code, _, stderr) = run(&shop.web, &[], &[&kith(), "__control", "check", "/nowhere"]).await;
    assert_eq!(code, Some(2), "{stderr}");

    shop.lab.apply("policies", WEB_MAY_ALL).await.unwrap();
    assert_eq!(check().await.0, Some(0));
}

/// What the control plane would say of a workload with HTTP on port 8080.
fn configuration(workload: &Workload, revision: &str, policies: &[&str]) -> Vec<u8> {
    mesh::WorkloadConfig {
        revision: revision.to_owned(),
        namespace: workload.spec.namespace.clone(),
        name: workload.spec.name.clone(),
        service_account: workload.spec.service_account.clone(),
        trust_domain: "example.org".to_owned(),
        addresses: workload.addresses.both().map(|address| address.to_string()).into(),
        default_mtls_mode: mesh::MtlsMode::Strict.into(),
        ports: vec![mesh::Port {
            number: 8080,
            protocol: mesh::Protocol::Http1.into(),
            mtls_mode: mesh::MtlsMode::Strict.into(),
            ..mesh::Port::default()
        }],
        default_action: mesh::DefaultAction::Deny.into(),
        policies: policies.iter().map(|&name| name.to_owned()).collect(),
        egress_mode: mesh::EgressMode::Allow.into(),
        ..mesh::WorkloadConfig::default()
    }
    .encode_to_vec()
}

/// `caller` may GET a path.
fn policy(name: &str, path: &str) -> mesh::AuthorizationPolicy {
    let source = mesh::Source { principals: vec!["example.org/caller".to_owned()], ..mesh::Source::default() };
    let operation = mesh::Operation { paths: vec![path.to_owned()], ..mesh::Operation::default() };
    mesh::AuthorizationPolicy {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        action: mesh::Action::Allow.into(),
        rules: vec![mesh::Rule { from: vec![source], to: vec![operation], when: Vec::new() }],
    }
}

#[tokio::test]
async fn a_resource_that_cannot_be_honoured_is_refused_whole_with_its_field_and_the_rest_applies() {
    let lab = Lab::new(LabOptions::default()).await.unwrap();
    let stage = lab.workload(WorkloadSpec::new("shop", "stage").without_sidecar().unannounced()).await.unwrap();
    let raw = Caller::new(&lab, "spiffe://example.org/raw-control").await;
    let caller = Caller::new(&lab, "spiffe://example.org/caller").await;
    let mut control = Xds::listen(&stage, raw).await;
    let orders = WorkloadSpec::new("shop", "orders")
        .port(8080, "HTTP")
        .env("KITH_XDS_ADDRESS", &format!("https://{}:{}", stage.addresses.v4, xds::PORT))
        .env("KITH_XDS_SPIFFE_ID", "spiffe://example.org/raw-control");
    let orders = lab.start_workload(orders).await.unwrap();
    let _app = orders.app(&["http"]).await.unwrap();
    let ask = |path: &'static str| {
        let (caller, stage, to) = (caller.clone(), stage.clone(), (orders.addresses.v4, 8080).into());
        async move {
            let request = format!("GET {path} HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n");
            caller.raw(&stage, to, b"http/1.1", request).await.map(|heard| heard.statuses())
        }
    };
    let of = |paths: [&'static str; 3]| async move {
        let mut statuses = Vec::new();
        for path in paths {
            statuses.extend(ask(path).await.unwrap());
        }
        statuses
    };
    assert_eq!(control.subscription(Kind::WorkloadConfig).await, ["shop/orders"]);

    // A configuration that names a policy which is not there: nothing is in force, everything is denied.
    let first = control.say(Kind::WorkloadConfig, &[("shop/orders", configuration(&orders, "1", &["shop/a", "shop/b", "shop/c"]))]);
    let mut names = control.subscription(Kind::AuthorizationPolicy).await;
    names.sort();
    assert_eq!(names, ["shop/a", "shop/b", "shop/c"]);
    assert!(ask("/a").await.is_err(), "the handshake is refused");
    let record = orders.wait_record(|record| record["direction"] == "inbound").await.unwrap();
    assert_eq!((&record["decision"], &record["reason"]), (&"deny".into(), &"no-configuration".into()), "{record}");
    let why = orders.health("/ready").await.unwrap();
    assert!(why.status == 503 && why.text().contains("missing shop/a, shop/b, shop/c"), "{}", why.text());

    // An action from the future in one of them: that one is refused, whole, and the others are taken.
    let bad = mesh::AuthorizationPolicy { action: 77, ..policy("c", "/c") };
    let all = [("shop/a", policy("a", "/a")), ("shop/b", policy("b", "/b")), ("shop/c", bad)].map(|(name, it)| (name, it.encode_to_vec()));
    let nack = control.send(Kind::AuthorizationPolicy, &all).await.expect("a NACK");
    println!("{nack}");
    assert!(nack.contains("shop/c") && nack.contains("action") && nack.contains("77") && !nack.contains("shop/a"), "{nack}");
    let why = orders.health("/ready").await.unwrap();
    assert!(why.status == 503 && why.text().contains("missing shop/c"), "{}", why.text());
    let good = control.say(Kind::AuthorizationPolicy, &[("shop/c", policy("c", "/c").encode_to_vec())]);
    // In any order: the configuration takes effect with its last policy.
    assert_eq!(control.answer(&first).await, None);
    assert_eq!(control.answer(&good).await, None);
    orders.ready(Duration::from_secs(5)).await.unwrap();
    assert_eq!(of(["/a", "/b", "/c"]).await, [200, 200, 200]);

    // Of two changes one is no good: the other takes effect, and what was in force of the first stays.
    let empty = mesh::AuthorizationPolicy { rules: vec![mesh::Rule { from: vec![mesh::Source::default()], ..mesh::Rule::default() }], ..policy("a", "/a") };
    let both = [("shop/a", empty.encode_to_vec()), ("shop/b", policy("b", "/elsewhere").encode_to_vec())];
    let nack = control.send(Kind::AuthorizationPolicy, &both).await.expect("a NACK");
    println!("{nack}");
    assert!(nack.contains("shop/a: rules[0].from[0]: a source without any field"), "{nack}");
    assert_eq!(of(["/a", "/b", "/c"]).await, [200, 403, 200]);

    // A configuration that cannot be honoured; bytes that are none; a name that dangles: the old one stays in force.
    let mut config = mesh::WorkloadConfig::decode(&configuration(&orders, "2", &[])[..]).unwrap();
    config.ports[0].mtls_mode = 9;
    let nack = control.send(Kind::WorkloadConfig, &[("shop/orders", config.encode_to_vec())]).await.expect("a NACK");
    assert!(nack.contains("ports[0].mtls_mode"), "{nack}");
    let nack = control.send(Kind::WorkloadConfig, &[("shop/orders", vec![0xff; 20])]).await.expect("a NACK");
    assert!(nack.contains("shop/orders"), "{nack}");
    let dangling = control.say(Kind::WorkloadConfig, &[("shop/orders", configuration(&orders, "3", &["shop/a", "shop/ghost"]))]);
    assert_eq!(control.subscription(Kind::AuthorizationPolicy).await, ["shop/ghost"]);
    assert_eq!(of(["/a", "/b", "/c"]).await, [200, 403, 200]);
    let config = orders.admin("/config").await.unwrap().json();
    assert_eq!(config["in_force"]["revision"], "1", "{config}");
    control.say(Kind::AuthorizationPolicy, &[("shop/ghost", policy("ghost", "/ghost").encode_to_vec())]);
    assert_eq!(control.answer(&dangling).await, None);
    assert_eq!(of(["/a", "/ghost", "/c"]).await, [200, 200, 403]);
}

#[tokio::test]
async fn admin_and_health_answer_whom_they_should_and_nothing_else() {
    let shop = Shop::open(HTTP, WEB_MAY_ALL).await;
    let _app = shop.orders.app(&["http"]).await.unwrap();
    let stranger = shop.stranger().await;
    assert_eq!(shop.get("/", &[]).await.status, 200);
    let orders = &shop.orders;
    let call = |method: &'static str, path: &'static str, host: &'static str, data: Option<&'static str>| async move {
        let mut call = Call::get(format!("http://127.0.0.1:15000{path}").parse().unwrap());
        call.method = Some(method.to_owned());
        call.headers = vec![format!("host: {host}")];
        call.data = data.map(str::to_owned);
        orders.call(call).await.unwrap()
    };
    let status = |method, path, host| async move { call(method, path, host, None).await.status };

    // What it tells.
    let config = call("GET", "/config", "localhost:15000", None).await.json();
    assert_eq!(config["in_force"]["policies"], serde_json::json!(["shop/orders"]), "{config}");
    let certs = call("GET", "/certs", "127.0.0.1", None).await;
    assert_eq!(certs.json()["svids"][0]["id"], orders.spiffe_id(), "{}", certs.text());
    assert!(!certs.text().contains("PRIVATE KEY"));
    let connections = call("GET", "/connections", "[::1]:15000", None).await.json();
    assert_eq!(connections[0]["peer"], shop.web.spiffe_id(), "{connections}");
    assert_eq!(call("PUT", "/logging", "localhost", Some("warn,kith_proxy=debug")).await.status, 200);
    assert_eq!(call("GET", "/logging", "localhost", None).await.text().trim(), "warn,kith_proxy=debug");
    assert_eq!(call("PUT", "/logging", "localhost", Some("=nonsense=")).await.status, 400);

    // To whom and how: a web page of another host is nobody.
    assert_eq!(status("GET", "/config", "evil.example").await, 403);
    assert_eq!(status("POST", "/config", "localhost").await, 405);
    assert_eq!(status("GET", "/drain", "localhost").await, 405);
    assert_eq!(status("GET", "/quitquitquit", "localhost").await, 404);

    // From where: not from other machines, not through the proxy, neither by its own ports nor by redirected ones.
    let get = |port: u16| format!("GET /config HTTP/1.1\r\nhost: localhost:{port}\r\nconnection: close\r\n\r\n");
    for port in [15000, 15001, 15006, 15021] {
        for from in [&stranger, &shop.web] {
            let heard = wire::raw(from, (orders.addresses.v4, port).into(), get(port)).await;
            let nothing = heard.as_ref().map_or(true, |heard| !heard.text().contains("in_force"));
            assert!(nothing, "port {port} from {}: {heard:?}", from.spec.name);
            if port != 15021 {
                let refused = heard.as_ref().map_or(true, |heard| heard.bytes.is_empty() || heard.statuses() == [503]);
                assert!(refused, "port {port} from {}: {heard:?}", from.spec.name);
            }
        }
    }
    // Health is for everybody who may reach the pod, and knows three paths.
    let health = |path: &'static str| async move { orders.health(path).await.unwrap() };
    assert_eq!(health("/ready").await.status, 200);
    assert_eq!(health("/live").await.text().trim(), "live");
    for path in ["/config", "/", "/ready/", "/drain"] {
        assert_eq!(health(path).await.status, 404, "{path}");
    }
    // One caller without identity, so that failures have something to count.
    wire::raw(&stranger, (orders.addresses.v4, 8080).into(), "GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await.unwrap();
    orders.wait_record(|record| record["decision"] == "deny" && record["destination.port"] == 8080).await.unwrap();
    let metrics = health("/metrics").await.text();
    let both = format!("{metrics}{}", shop.web.health("/metrics").await.unwrap().text());
    for name in [
        "kith_requests_total",
        "kith_request_duration_seconds",
        "kith_connections_open",
        "kith_connections_total",
        "kith_bytes_total",
        "kith_handshake_seconds",
        "kith_handshake_failures_total",
        "kith_svid_expiry_timestamp_seconds",
        "kith_svid_rotations_total",
        "kith_bundle_trust_domains",
        "kith_xds_connected",
        "kith_xds_last_update_timestamp_seconds",
        "kith_xds_updates_total",
        "kith_config_revision_info",
        "kith_detect_total",
        "kith_records_dropped_total",
        "kith_build_info",
    ] {
        assert!(both.contains(&format!("# TYPE {name} ")), "{name} in\n{both}");
    }
    let labelled = format!("source=\"{}\",destination=\"{}\"", shop.web.spiffe_id(), orders.spiffe_id());
    assert!(metrics.contains(&labelled), "{labelled} in\n{metrics}");

    // It can be asked to stop.
    assert_eq!(call("POST", "/drain", "localhost", None).await.status, 202);
    assert_eq!(orders.sidecar().wait(Duration::from_secs(10)).await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn callers_by_the_hundred_do_not_make_metrics_by_the_hundred() {
    const CALLERS: usize = 510;
    let shop = Shop::open(HTTP, &WEB_MAY_ALL.replace("example.org/ns/shop/sa/web", "example.org/*")).await;
    let _app = shop.orders.app(&["http"]).await.unwrap();
    let stranger = shop.stranger().await;
    let to = (shop.orders.addresses.v4, 8080).into();
    let mut callers = tokio::task::JoinSet::new();
    // One after the other on the wire, as the authority gives out one SVID for each.
    for number in 0..CALLERS {
        let caller = Caller::new(&shop.lab, &format!("spiffe://example.org/caller/{number}")).await;
        let stranger = stranger.clone();
        callers.spawn(async move {
            let heard = caller.raw(&stranger, to, b"http/1.1", "GET / HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n").await.unwrap();
            assert_eq!(heard.statuses(), [200]);
        });
        if callers.len() > 16 {
            callers.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(done) = callers.join_next().await {
        done.unwrap();
    }
    // An answer is on its way a moment before it is counted.
    let metrics = wait_for("all to be counted", Duration::from_secs(5), || async {
        let metrics = Metrics::of(&shop.orders).await;
        (metrics.sum("kith_requests_total", &[]) == CALLERS as f64).then_some(metrics)
    })
    .await;
    let series = metrics.text().lines().filter(|line| line.starts_with("kith_requests_total{") && line.contains("/caller/")).count();
    assert_eq!(series, 500, "as many pairs as get series of their own");
    assert_eq!(metrics.sum("kith_requests_total", &["source=\"other\""]), (CALLERS - 500) as f64);
    assert!(metrics.sum("kith_principal_pairs_capped_total", &[]) >= (CALLERS - 500) as f64);
}
