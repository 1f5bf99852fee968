//! Real rules in network namespaces of their own: each such test runs itself again inside one, as root of a user
//! namespace, so that it needs no privileges and touches nothing of the machine.

#![allow(
    clippy::disallowed_methods,
    reason = "tests may wait on their own threads"
)]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use expect_test::{Expect, expect};
use socket2::{Domain, SockRef, Socket, Type};

use super::*;

fn options(arguments: &[&str]) -> CaptureOptions {
    let all = ["kith-proxy", "capture"]
        .iter()
        .chain(arguments)
        .map(Into::into);
    match crate::config::command_line(all).unwrap() {
        crate::config::Command::Capture(options) => options,
        crate::config::Command::Run(_) => unreachable!("capture was asked for"),
    }
}

fn done(arguments: &[&str]) -> &'static str {
    match act(&options(arguments)).unwrap() {
        Outcome::Done(message) => message,
        Outcome::Differs(differences) => panic!("{differences:#?}"),
    }
}

fn differences(arguments: &[&str]) -> String {
    match act(&options(arguments)).unwrap() {
        Outcome::Done(message) => panic!("{message}"),
        Outcome::Differs(differences) => differences.join("\n"),
    }
}

#[track_caller]
fn check_script(arguments: &[&str], expected: &Expect) {
    expected.assert_eq(&Rules::new(&options(arguments)).script());
}

#[test]
fn by_default_all_tcp_is_captured_but_the_sidecars_own() {
    check_script(
        &[],
        &expect![[r#"
            add table inet kith
            delete table inet kith
            table inet kith {
            	chain prerouting {
            		type nat hook prerouting priority -100; policy accept;
            		iif "lo" return
            		fib daddr type != local return
            		tcp dport 15000 return
            		tcp dport 15001 return
            		tcp dport 15006 return
            		tcp dport 15021 return
            		meta l4proto tcp redirect to :15006
            	}
            	chain output {
            		type nat hook output priority -100; policy accept;
            		meta skuid 1337 return
            		oif "lo" return
            		meta l4proto tcp redirect to :15001
            	}
            }
        "#]],
    );
}

const EVERYTHING: [&str; 14] = [
    "--uid",
    "7",
    "--mark",
    "0x539",
    "--inbound-port",
    "9006",
    "--outbound-port",
    "9001",
    "--exclude-inbound-ports",
    "22,9100,22",
    "--exclude-outbound-ports",
    "25,3306",
    "--exclude-outbound-cidrs",
    "10.0.0.7/8,192.0.2.1,fd00::/8,::1/128,fe80::1",
];

#[test]
fn every_option_is_a_line() {
    check_script(
        &EVERYTHING,
        &expect![[r#"
            add table inet kith
            delete table inet kith
            table inet kith {
            	chain prerouting {
            		type nat hook prerouting priority -100; policy accept;
            		iif "lo" return
            		fib daddr type != local return
            		tcp dport 22 return
            		tcp dport 9001 return
            		tcp dport 9006 return
            		tcp dport 9100 return
            		tcp dport 15000 return
            		tcp dport 15021 return
            		meta l4proto tcp redirect to :9006
            	}
            	chain output {
            		type nat hook output priority -100; policy accept;
            		meta skuid 7 return
            		meta mark 0x00000539 return
            		oif "lo" return
            		tcp dport 25 return
            		tcp dport 3306 return
            		ip daddr 10.0.0.0/8 return
            		ip daddr 192.0.2.1 return
            		ip6 daddr ::1 return
            		ip6 daddr fd00::/8 return
            		ip6 daddr fe80::1 return
            		meta l4proto tcp redirect to :9001
            	}
            }
        "#]],
    );
}

#[test]
fn with_a_mark_alone_no_uid_is_exempt() {
    let script = Rules::new(&options(&["--mark", "1"])).script();
    assert!(
        !script.contains("skuid") && script.contains("meta mark 0x00000001 return"),
        "{script}"
    );
}

#[test]
fn mistakes_on_the_command_line_are_refused() {
    for (arguments, expected) in [
        (
            ["--exclude-inbound-ports", "80,http"],
            "invalid value 'http'",
        ),
        (
            ["--exclude-outbound-cidrs", "10.0.0.0/33"],
            "expected an address or a network such as 10.0.0.0/8",
        ),
        (["--outbound-port", "0"], "0 is not in 1..=65535"),
        (["--mark", "0"], "expected a number from 1 to 0xffffffff"),
        (["--remove", "--check"], "cannot be used with"),
    ] {
        let all = ["kith-proxy", "capture"]
            .iter()
            .chain(&arguments)
            .map(Into::into);
        let error = crate::config::command_line(all).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}

/// False in the test as it was started: it has then been run in a network of its own already, where it is true.
fn in_own_network(unshare: &str) -> bool {
    const INSIDE: &str = "INSIDE_OWN_NETWORK";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let test = thread::current().name().unwrap().to_owned();
    let output = Command::new("unshare")
        .arg(unshare)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &test, "--nocapture"])
        .env(INSIDE, "yes")
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "{test} inside: {}",
        String::from_utf8_lossy(&said)
    );
    false
}

fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(
        output.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn installing_is_idempotent_checked_and_undone_without_touching_other_tables() {
    if !in_own_network("-rn") {
        return;
    }
    let foreign = || sh("nft list table ip other");
    sh(
        "nft 'table ip other { chain c { type nat hook output priority -150; tcp dport 1 accept; }; }'",
    );
    let before = foreign();

    assert_eq!(
        differences(&["--check"]),
        "table inet kith does not exist: nothing is captured"
    );
    assert_eq!(done(&["--remove"]), "removed table inet kith");
    for arguments in [
        &[][..],
        &EVERYTHING,
        &[
            "--mark",
            "4294967295",
            "--exclude-outbound-cidrs",
            "0.0.0.0/0,::/0",
        ],
    ] {
        let check: Vec<&str> = arguments.iter().copied().chain(["--check"]).collect();
        for _ in 0..2 {
            assert_eq!(done(arguments), "installed table inet kith");
            assert_eq!(done(&check), "table inet kith is as expected");
        }
    }
    done(&[]);
    assert_eq!(
        differences(&["--uid", "7", "--check"]),
        "missing:    meta skuid 7 return\nunexpected: meta skuid 1337 return"
    );
    sh(
        "nft insert rule inet kith output tcp dport 443 accept; nft add set inet kith s '{ type ipv4_addr; }'",
    );
    let altered = differences(&["--check"]);
    assert!(
        altered.contains("unexpected: tcp dport 443 accept"),
        "{altered}"
    );
    assert!(altered.contains("unexpected: type ipv4_addr"), "{altered}");
    done(&[]);
    done(&["--check"]);

    assert_eq!(done(&["--remove"]), "removed table inet kith");
    assert_eq!(done(&["--remove"]), "removed table inet kith");
    assert_eq!(sh("nft list tables"), "table ip other\n");
    assert_eq!(foreign(), before);
}

#[test]
fn rules_in_another_order_are_not_as_expected() {
    let rules = Rules::new(&options(&[]));
    let swapped = rules
        .script()
        .replace("iif \"lo\" return\n", "")
        .replace("tcp dport 15000", "iif lo return\n tcp dport 15000");
    let listing = swapped.split_once("delete table inet kith\n").unwrap().1;
    assert_eq!(
        rules.differences(listing),
        ["the rules are there, but in another order"]
    );
}

#[test]
fn a_listing_from_where_protocols_have_no_names_is_as_expected() {
    let rules = Rules::new(&options(&[]));
    let script = rules.script();
    let listing = script.split_once("delete table inet kith\n").unwrap().1;
    let numbers = listing.replace("meta l4proto tcp", "meta l4proto 6");
    assert_ne!(numbers, listing);
    assert_eq!(rules.differences(&numbers), Vec::<String>::new());
    let other = listing.replace("meta l4proto tcp", "meta l4proto 17");
    assert_ne!(rules.differences(&other), Vec::<String>::new());
}

#[test]
fn without_net_admin_the_error_says_so() {
    // Root of a user namespace, but in the network of the machine, over which it has no power.
    if !in_own_network("-r") {
        return;
    }
    for arguments in [&[][..], &["--check"], &["--remove"]] {
        let error = act(&options(arguments)).err().unwrap().to_string();
        assert!(error.contains("needs the capability NET_ADMIN"), "{error}");
    }
}

/// Another network, connected to ours by 10.77.0.2 and fd77::2; ours are 10.77.0.1 and fd77::1.
struct Peer(Child);

impl Peer {
    fn new() -> Self {
        let child = Command::new("unshare")
            .args(["-n", "sleep", "60"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let peer = Peer(child);
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        while std::fs::read_link(peer.namespace()).unwrap() == own {
            assert!(Instant::now() < deadline, "no second namespace");
            thread::sleep(Duration::from_millis(5));
        }
        let setup = |dev: &str, host: u8| {
            format!(
                "ip link set lo up; ip addr add 10.77.0.{host}/24 dev {dev}; ip addr add fd77::{host}/64 dev {dev} nodad; \
                 ip link set {dev} up"
            )
        };
        let pid = peer.0.id();
        sh(&format!(
            "ip link add here type veth peer name there netns {pid}; {}",
            setup("here", 1)
        ));
        sh(&format!(
            "nsenter -t {pid} -n sh -ec '{}'",
            setup("there", 2)
        ));
        peer
    }

    fn namespace(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    /// A namespace belongs to a thread: what this one opens is in the other network.
    fn there<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let namespace = std::fs::File::open(self.namespace()).unwrap();
        let inside = move || {
            let network = rustix::thread::LinkNameSpaceType::Network;
            rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(network)).unwrap();
            act()
        };
        thread::scope(|scope| scope.spawn(inside).join().unwrap())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

fn connect(address: &str, mark: Option<u32>) -> io::Result<TcpStream> {
    let address = at(address);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    socket.connect_timeout(&address.into(), Duration::from_secs(2))?;
    Ok(socket.into())
}

/// Accepts one connection, and says where its client meant to go.
fn original_destination(listener: &TcpListener) -> SocketAddr {
    listener.set_nonblocking(true).unwrap();
    let deadline = Instant::now() + Duration::from_secs(2);
    let accepted = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                assert!(Instant::now() < deadline, "nobody came");
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
    };
    let socket = SockRef::from(&accepted);
    // A dual-stack listener has IPv4 clients with mapped addresses, and their destination at the IPv4 level.
    let found = match accepted.peer_addr().unwrap().ip().to_canonical() {
        std::net::IpAddr::V4(_) => socket.original_dst_v4(),
        std::net::IpAddr::V6(_) => socket.original_dst_v6(),
    };
    found.unwrap().as_socket().unwrap()
}

/// Greets whoever comes, so that a client knows whom it reached.
fn greet(listener: TcpListener, greeting: &'static str) {
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // The client may have left.
            let _ = stream.write_all(greeting.as_bytes());
        }
    });
}

fn greeting(address: &str, mark: Option<u32>) -> String {
    let mut stream = connect(address, mark).unwrap();
    let mut text = String::new();
    stream
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn outbound_connections_are_redirected_with_their_destination() {
    if !in_own_network("-rn") {
        return;
    }
    let peer = Peer::new();
    done(&[
        "--mark",
        "0x539",
        "--exclude-outbound-ports",
        "25",
        "--exclude-outbound-cidrs",
        "10.77.0.3,fd77::3/128",
    ]);
    let sidecar = TcpListener::bind("[::]:15001").unwrap();
    for destination in [
        "10.77.0.2:80",
        "[fd77::2]:80",
        "10.77.0.99:65535",
        "[fd77::99]:15006",
    ] {
        let _client = connect(destination, None).unwrap();
        assert_eq!(original_destination(&sidecar), at(destination));
    }

    greet(sidecar, "sidecar");
    sh(&format!(
        "nsenter -t {} -n sh -ec 'ip addr add 10.77.0.3/24 dev there; ip addr add fd77::3/64 dev there nodad'",
        peer.0.id()
    ));
    for port in [25, 80] {
        greet(
            peer.there(move || TcpListener::bind(("::", port)).unwrap()),
            "peer",
        );
    }
    greet(TcpListener::bind("[::]:8080").unwrap(), "app");
    for (address, mark, expected) in [
        ("10.77.0.2:80", None, "sidecar"),
        ("[fd77::2]:80", None, "sidecar"),
        // The sidecar itself.
        ("10.77.0.2:80", Some(0x539), "peer"),
        ("[fd77::2]:80", Some(0x539), "peer"),
        ("10.77.0.2:80", Some(0x53), "sidecar"),
        // Excluded.
        ("10.77.0.2:25", None, "peer"),
        ("[fd77::2]:25", None, "peer"),
        ("10.77.0.3:80", None, "peer"),
        ("[fd77::3]:80", None, "peer"),
        // The pod itself, by any of its addresses, whoever asks.
        ("127.0.0.1:8080", None, "app"),
        ("[::1]:8080", None, "app"),
        ("10.77.0.1:8080", None, "app"),
        ("[fd77::1]:8080", None, "app"),
        ("10.77.0.1:8080", Some(0x539), "app"),
    ] {
        assert_eq!(greeting(address, mark), expected, "{address} {mark:?}");
    }
}

#[test]
fn inbound_connections_are_redirected_with_their_destination() {
    if !in_own_network("-rn") {
        return;
    }
    let peer = Peer::new();
    done(&["--exclude-inbound-ports", "9100"]);
    let sidecar = TcpListener::bind("[::]:15006").unwrap();
    for destination in [
        "10.77.0.1:80",
        "[fd77::1]:80",
        "10.77.0.1:65535",
        "[fd77::1]:1",
    ] {
        let _client = peer.there(|| connect(destination, None).unwrap());
        assert_eq!(original_destination(&sidecar), at(destination));
    }

    greet(sidecar, "sidecar");
    greet(TcpListener::bind("[::]:8080").unwrap(), "app");
    greet(TcpListener::bind("[::]:9100").unwrap(), "app");
    greet(TcpListener::bind("[::]:15021").unwrap(), "health");
    for (address, expected) in [
        ("10.77.0.1:8080", "sidecar"),
        ("[fd77::1]:8080", "sidecar"),
        ("10.77.0.1:9100", "app"),
        ("[fd77::1]:9100", "app"),
        ("10.77.0.1:15021", "health"),
        ("[fd77::1]:15021", "health"),
    ] {
        assert_eq!(
            peer.there(|| greeting(address, None)),
            expected,
            "{address}"
        );
    }
}

#[test]
fn row_19_nothing_passes_while_the_sidecar_is_away() {
    if !in_own_network("-rn") {
        return;
    }
    let peer = Peer::new();
    done(&[]);
    greet(TcpListener::bind("[::]:8080").unwrap(), "app");
    greet(peer.there(|| TcpListener::bind("[::]:80").unwrap()), "peer");
    for address in ["10.77.0.2:80", "[fd77::2]:80"] {
        assert_eq!(
            connect(address, None).unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
    }
    for address in ["10.77.0.1:8080", "[fd77::1]:8080"] {
        let refused = peer.there(|| connect(address, None).unwrap_err().kind());
        assert_eq!(refused, io::ErrorKind::ConnectionRefused);
    }
}
