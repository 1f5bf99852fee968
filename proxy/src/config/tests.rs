use expect_test::{Expect, expect};

use super::variables::VARIABLES;
use super::*;

const REQUIRED: [(&str, &str); 4] = [
    ("SPIFFE_ENDPOINT_SOCKET", "unix:///run/spire/agent.sock"),
    ("KITH_XDS_ADDRESS", "https://control.kith-system:15010"),
    (
        "KITH_XDS_SPIFFE_ID",
        "spiffe://example.org/ns/kith-system/sa/control",
    ),
    ("KITH_NODE_ID", "shop/web-6b7f9"),
];

fn load(environment: &[(&str, &str)], arguments: &[&str]) -> Result<Config, Mistakes> {
    let all = ["kith-proxy", "run"]
        .iter()
        .chain(arguments)
        .map(Into::into);
    let Command::Run(flags) = command_line(all).unwrap() else {
        panic!("run was asked for")
    };
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Config::from_parts(environment.iter().map(owned), flags)
}

/// With everything that is required, and this.
fn with(name: &str, value: &str) -> Result<Config, Mistakes> {
    let mut environment = REQUIRED.to_vec();
    environment.retain(|(required, _)| *required != name);
    environment.push((name, value));
    load(&environment, &[])
}

#[track_caller]
fn check_mistakes(environment: &[(&str, &str)], arguments: &[&str], expected: &Expect) {
    expected.assert_eq(&format!("{}\n", load(environment, arguments).unwrap_err()));
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let config = load(&REQUIRED, &[]).unwrap();
    let expected = Config {
        spiffe_endpoint_socket: "unix:///run/spire/agent.sock".into(),
        xds_address: "https://control.kith-system:15010".into(),
        xds_spiffe_id: "spiffe://example.org/ns/kith-system/sa/control".into(),
        node_id: "shop/web-6b7f9".into(),
        inbound_listen: "[::]:15006".parse().unwrap(),
        outbound_listen: "[::]:15001".parse().unwrap(),
        admin_listen: AdminListen::Tcp("127.0.0.1:15000".parse().unwrap()),
        health_listen: "[::]:15021".parse().unwrap(),
        workers: 1,
        access_log: AccessLog::Stdout,
        records_when_full: WhenFull::Drop,
        log_query: false,
        log: "info".into(),
        state_dir: None,
        drain: Duration::from_secs(30),
        expiry_grace: Duration::from_secs(30),
        expiry_grace_foreign: Duration::from_secs(3600),
        svid_hint: None,
        socket_mark: None,
        max_connections: 65536,
        app_probes: AppProbes::new(),
        pod_ip: None,
    };
    assert_eq!(config, expected);
}

#[test]
fn every_variable_is_read_and_a_flag_wins() {
    let mut environment = REQUIRED.to_vec();
    environment.extend([
        ("KITH_INBOUND_LISTEN", "0.0.0.0:1"),
        ("KITH_OUTBOUND_LISTEN", "0.0.0.0:2"),
        ("KITH_ADMIN_LISTEN", "unix:///run/kith/admin.sock"),
        ("KITH_HEALTH_LISTEN", "0.0.0.0:3"),
        ("KITH_WORKERS", "2"),
        ("KITH_ACCESS_LOG", "/var/log/kith/access.jsonl"),
        ("KITH_RECORDS_WHEN_FULL", "block"),
        ("KITH_LOG_QUERY", "true"),
        ("KITH_LOG", "warn,kith_certs=debug"),
        ("KITH_STATE_DIR", "/var/lib/kith"),
        ("KITH_DRAIN_SECONDS", "5"),
        ("KITH_EXPIRY_GRACE", "500ms"),
        ("KITH_EXPIRY_GRACE_FOREIGN", "0"),
        ("KITH_SVID_HINT", "internal"),
        ("KITH_SOCKET_MARK", "0x539"),
        ("KITH_MAX_CONNECTIONS", "100"),
        (
            "KITH_APP_PROBES",
            r#"{"app/startup": {"tcpSocket": {"port": 5432}, "timeoutSeconds": 2}}"#,
        ),
        ("KITH_POD_IP", "::ffff:10.0.0.5"),
        ("PATH", "/bin"),
        ("SPIFFE_SOMETHING", "else"),
    ]);
    let config = load(&environment, &["--workers", "4", "--node-id=a/b"]).unwrap();
    let expected = Config {
        spiffe_endpoint_socket: "unix:///run/spire/agent.sock".into(),
        xds_address: "https://control.kith-system:15010".into(),
        xds_spiffe_id: "spiffe://example.org/ns/kith-system/sa/control".into(),
        node_id: "a/b".into(),
        inbound_listen: "0.0.0.0:1".parse().unwrap(),
        outbound_listen: "0.0.0.0:2".parse().unwrap(),
        admin_listen: AdminListen::Unix("/run/kith/admin.sock".into()),
        health_listen: "0.0.0.0:3".parse().unwrap(),
        workers: 4,
        access_log: AccessLog::File("/var/log/kith/access.jsonl".into()),
        records_when_full: WhenFull::Block,
        log_query: true,
        log: "warn,kith_certs=debug".into(),
        state_dir: Some("/var/lib/kith".into()),
        drain: Duration::from_secs(5),
        expiry_grace: Duration::from_millis(500),
        expiry_grace_foreign: Duration::ZERO,
        svid_hint: Some("internal".into()),
        socket_mark: Some(0x539),
        max_connections: 100,
        app_probes: [(
            "app/startup".to_owned(),
            AppProbe {
                check: Check::Tcp { port: 5432 },
                timeout: Duration::from_secs(2),
                key: None,
            },
        )]
        .into(),
        pod_ip: Some("10.0.0.5".parse().unwrap()),
    };
    assert_eq!(config, expected);
}

#[test]
fn probes_need_the_pods_address_and_stay_away_from_the_sidecars_ports_and_are_never_shown() {
    let probe = |port: u16| {
        format!(
            r#"{{"app/liveness": {{"httpGet": {{"port": {port}, "httpHeaders": [{{"name": "Authorization", "value": "s3cret"}}]}}}}}}"#
        )
    };
    let mut environment = REQUIRED.to_vec();
    let (own, broken) = (probe(15021), probe(0));
    environment.push(("KITH_APP_PROBES", &own));
    let expected = expect![[r#"
        mistakes in the configuration:
          KITH_POD_IP: is required with KITH_APP_PROBES: the pod's own IP address
          KITH_APP_PROBES: app/liveness: port 15021 is the sidecar's own, not the application's
    "#]];
    check_mistakes(&environment, &[], &expected);
    environment.extend([
        ("KITH_APP_PROBES", broken.as_str()),
        ("KITH_POD_IP", "127.0.0.1"),
    ]);
    let expected = expect![[r#"
        mistakes in the configuration:
          KITH_APP_PROBES: app/liveness.httpGet: port: expected a number from 1 to 65535
          KITH_POD_IP="127.0.0.1": expected the pod's own IP address
    "#]];
    check_mistakes(&environment, &[], &expected);
}

#[test]
fn all_mistakes_are_reported_together() {
    let environment = [
        ("SPIFFE_ENDPOINT_SOCKET", "/run/agent.sock"),
        ("KITH_XDS_ADDRESS", "http://control:15010"),
        ("KITH_NODE_ID", "web"),
        ("KITH_WORKER", "2"),
        ("KITH_COLOUR", "red"),
        ("KITH_ADMIN_LISTEN", "0.0.0.0:15000"),
        ("KITH_EXPIRY_GRACE", "30"),
        ("KITH_STATE_DIR", ""),
        ("KITH_LOG", "inof"),
        ("KITH_SVID_HINT", "a\u{fffd}"),
    ];
    check_mistakes(
        &environment,
        &["--workers", "zero", "--health-listen", "[::]:15001"],
        &expect![[r#"
            mistakes in the configuration:
              KITH_COLOUR="red": there is no such variable; kith-proxy run --help lists them
              KITH_WORKER="2": there is no such variable; did you mean KITH_WORKERS?
              SPIFFE_ENDPOINT_SOCKET="/run/agent.sock": expected unix:///path or tcp://ip:port
              KITH_XDS_ADDRESS="http://control:15010": expected https://host:port
              KITH_XDS_SPIFFE_ID: is required: the control plane's principal; any other is refused
              KITH_NODE_ID="web": expected namespace/name, of letters, digits, '-', '.' and '_'
              KITH_ADMIN_LISTEN="0.0.0.0:15000": expected a loopback address, such as 127.0.0.1:15000, or unix:///path
              --workers="zero": expected a whole number from 1 to 256
              KITH_LOG="inof": expected a level (error, warn, info, debug, trace) or target=level,…: "inof" is not a level
              KITH_STATE_DIR="": is empty; leave it out for the default
              KITH_EXPIRY_GRACE="30": expected a duration such as 500ms, 30s, 5m or 1h, or 0
              KITH_SVID_HINT="a�": is not UTF-8
              --health-listen="[::]:15001": KITH_HEALTH_LISTEN and KITH_OUTBOUND_LISTEN need different ports, both have 15001
        "#]],
    );
}

#[test]
fn variables_that_kubernetes_makes_of_a_service_named_kith_are_nobodys_mistake() {
    let mut environment = REQUIRED.to_vec();
    environment.extend([
        ("KITH_CONTROL_SERVICE_HOST", "10.0.0.7"),
        ("KITH_CONTROL_SERVICE_PORT", "15010"),
        ("KITH_CONTROL_SERVICE_PORT_XDS", "15010"),
        ("KITH_CONTROL_PORT", "tcp://10.0.0.7:15010"),
        ("KITH_CONTROL_PORT_15010_TCP_ADDR", "10.0.0.7"),
    ]);
    load(&environment, &[]).unwrap();
    environment.push(("KITH_CONTROL_PORTS", "1"));
    environment.push(("KITH_OTHER_SERVICE_PORT", "1"));
    assert_eq!(load(&environment, &[]).unwrap_err().0.len(), 2);
}

#[test]
fn bad_values_are_refused_one_by_one() {
    for (name, values) in [
        (
            "SPIFFE_ENDPOINT_SOCKET",
            &[
                "unix:run.sock",
                "unix://",
                "unix:///",
                "unix://run.sock",
                "tcp://host:1",
                "tcp://1.2.3.4",
            ][..],
        ),
        (
            "KITH_XDS_ADDRESS",
            &[
                "https://control",
                "https://:1",
                "https://a:0",
                "https://a:1/b",
                "https://a:1?b",
                "https://u@a:1",
                "a:1",
            ],
        ),
        (
            "KITH_XDS_SPIFFE_ID",
            &[
                "example.org/a",
                "spiffe://example.org",
                "spiffe://example.org/",
                "spiffe:///a",
            ],
        ),
        ("KITH_NODE_ID", &["a", "a/", "/b", "a/b/c", "a /b"]),
        (
            "KITH_INBOUND_LISTEN",
            &["15006", "localhost:15006", ":15006", "[::]"],
        ),
        (
            "KITH_ADMIN_LISTEN",
            &[
                "[::]:15000",
                "10.0.0.1:15000",
                "unix://a",
                "unix:///",
                "localhost:1",
                "[::ffff:10.0.0.1]:1",
            ],
        ),
        (
            "KITH_WORKERS",
            &[
                "0",
                "257",
                "-1",
                "+1",
                "1.5",
                " 1",
                "99999999999999999999999",
            ],
        ),
        ("KITH_ACCESS_LOG", &["stderr", "Off", "log", "/var/log/"]),
        ("KITH_RECORDS_WHEN_FULL", &["wait"]),
        ("KITH_LOG_QUERY", &["1", "yes", "TRUE"]),
        (
            "KITH_LOG",
            &["warning", "a=b=c", "info,kith=loud", "info,,debug"],
        ),
        ("KITH_STATE_DIR", &["state", "./state"]),
        ("KITH_DRAIN_SECONDS", &["-1", "1d", "soon", "99999999999"]),
        (
            "KITH_EXPIRY_GRACE",
            &[
                "30",
                "1.5s",
                "s",
                "1 s",
                "-1s",
                "99999999999999999999s",
                "18446744073709551615h",
                "9000h",
            ],
        ),
        (
            "KITH_SOCKET_MARK",
            &["0", "0x", "0x100000000", "x1", "+1", "0x+1"],
        ),
        ("KITH_MAX_CONNECTIONS", &["0", "10000001"]),
    ] {
        for value in values {
            let mistakes = with(name, value).expect_err(value).0;
            assert_eq!(mistakes.len(), 1, "{name}={value}: {mistakes:?}");
            assert_eq!(
                (mistakes[0].name.as_str(), mistakes[0].value.as_deref()),
                (name, Some(*value))
            );
        }
    }
}

#[test]
fn durations_have_units() {
    for (text, millis) in [
        ("0", 0),
        ("0s", 0),
        ("500ms", 500),
        ("30s", 30_000),
        ("5m", 300_000),
        ("1h", 3_600_000),
    ] {
        assert_eq!(
            with("KITH_EXPIRY_GRACE", text).unwrap().expiry_grace,
            Duration::from_millis(millis),
            "{text}"
        );
    }
    assert_eq!(
        with("KITH_DRAIN_SECONDS", "90").unwrap().drain,
        Duration::from_secs(90)
    );
    assert_eq!(
        with("KITH_DRAIN_SECONDS", "1m").unwrap().drain,
        Duration::from_secs(60)
    );
}

#[test]
fn row_21_admin_is_loopback_or_a_unix_socket() {
    for good in [
        "127.0.0.1:15000",
        "127.8.9.1:1",
        "[::1]:15000",
        "unix:///run/admin.sock",
    ] {
        with("KITH_ADMIN_LISTEN", good).unwrap();
    }
}

#[test]
fn listeners_on_different_addresses_may_share_a_port() {
    let mut environment = REQUIRED.to_vec();
    environment.extend([
        ("KITH_INBOUND_LISTEN", "10.0.0.1:7"),
        ("KITH_OUTBOUND_LISTEN", "127.0.0.1:7"),
    ]);
    load(&environment, &[]).unwrap();
}

#[test]
fn flags_are_named_after_their_variables_and_help_tells_of_both() {
    let help = command_line(["kith-proxy", "run", "--help"].map(Into::into)).unwrap_err();
    assert_eq!(help.exit_code(), 0);
    // Lines are broken where the terminal ends.
    let help = help
        .to_string()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    for variable in VARIABLES {
        let from_name = variable
            .name
            .strip_prefix("KITH_")
            .unwrap_or(variable.name)
            .to_lowercase()
            .replace('_', "-");
        assert_eq!(variable.flag, from_name);
        assert!(
            help.contains(&format!("--{} <{}>", variable.flag, variable.shape)),
            "{help}"
        );
        assert!(
            help.contains(&format!("[env: {}]", variable.name)),
            "{help}"
        );
    }
}

#[test]
fn the_command_line_itself_fails_with_2_and_answers_help_with_0() {
    for (arguments, code) in [
        (&["kith-proxy"][..], 2),
        (&["kith-proxy", "walk"], 2),
        (&["kith-proxy", "run", "--colour", "red"], 2),
        (&["kith-proxy", "run", "--workers"], 2),
        (&["kith-proxy", "--help"], 0),
        (&["kith-proxy", "--version"], 0),
        (&["kith-proxy", "capture", "--help"], 0),
    ] {
        let error = command_line(arguments.iter().map(Into::into)).unwrap_err();
        assert_eq!(error.exit_code(), code, "{arguments:?}");
    }
}
