//! Rotation of leaf and root under load, without one failed handshake.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use kith_certs::authority::Entry;
use kith_certs::tls::{ClientAuth, client_config, peer_svid, server_config, server_name};
use kith_certs::{IdentitySource, Usage};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{Lab, WEB, eventually, first_svid, id, source};

const ORDERS: &str = "spiffe://example.org/ns/shop/sa/orders";

#[tokio::test]
async fn leaf_and_root_rotate_under_load_without_a_failed_handshake() {
    let lab = Lab::new(4);
    lab.authority
        .add_entry(Entry::for_socket(id(ORDERS), lab.socket("orders.sock")))
        .unwrap();
    let (web, orders) = (lab.source(), source(lab.socket("orders.sock")));
    first_svid(&web).await;
    first_svid(&orders).await;
    let first_peer = orders.current().unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(server_config(&orders, &[b"kith-tcp"], ClientAuth::Required));
    let server = tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(socket).await.unwrap();
                let peer = peer_svid(stream.get_ref().1, Usage::Client).unwrap();
                assert_eq!(peer.as_str(), WEB);
                // Only a byte from the server tells the client that it was accepted.
                stream.write_all(b"x").await.unwrap();
                let _ = stream.read(&mut [0]).await;
            });
        }
    });

    let (done, handshakes) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let connector = TlsConnector::from(client_config(&web, &[b"kith-tcp"]));
            let (done, handshakes) = (done.clone(), handshakes.clone());
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    let socket = TcpStream::connect(address).await.unwrap();
                    let mut stream = connector.connect(server_name(), socket).await.unwrap();
                    stream.read_exact(&mut [0]).await.unwrap();
                    assert_eq!(
                        peer_svid(stream.get_ref().1, Usage::Server)
                            .unwrap()
                            .as_str(),
                        ORDERS
                    );
                    handshakes.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();

    for round in 0..6 {
        match round {
            0 | 3 => lab.authority.rotate_root().unwrap(),
            _ => lab.authority.rotate_leaf(),
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    done.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    server.abort();

    let count = handshakes.load(Ordering::Relaxed);
    assert!(count > 200, "only {count} handshakes");
    for source in [&web, &orders] {
        assert!(source.status().rotations >= 6, "{:#?}", source.status());
    }
    assert_ne!(orders.current().unwrap().serial(), first_peer.serial());
    old_roots_leave(&web).await;
}

/// When nothing that an old root signed is valid any more, it leaves the bundle.
async fn old_roots_leave(source: &IdentitySource) {
    let roots = |source: &IdentitySource| {
        source
            .current()
            .unwrap()
            .bundle("example.org")
            .unwrap()
            .len()
    };
    assert!(roots(source) > 1, "roots must overlap");
    eventually(source, "one root", |source, _| roots(source) == 1).await;
    assert!(
        source
            .current()
            .unwrap()
            .check_own_validity(SystemTime::now())
            .is_ok()
    );
}

#[tokio::test]
async fn a_peer_that_connected_before_is_refused_once_its_bundle_is_gone() {
    let (lab, other) = (
        Lab::new(60),
        Lab::with(|dir, config| {
            config.trust_domain = crate::domain("other.org");
            config.entries = vec![Entry::for_socket(
                id("spiffe://other.org/web"),
                dir.path().join("web.sock"),
            )];
        }),
    );
    let (ours, theirs) = (crate::domain("example.org"), crate::domain("other.org"));
    lab.authority
        .federate(&theirs, &other.authority.bundle_der(), None)
        .unwrap();
    other
        .authority
        .federate(&ours, &lab.authority.bundle_der(), None)
        .unwrap();
    let (local, foreign) = (lab.source(), other.source());
    first_svid(&local).await;
    first_svid(&foreign).await;
    let acceptor = TlsAcceptor::from(server_config(&local, &[], ClientAuth::Required));
    let connector = TlsConnector::from(client_config(&foreign, &[]));
    let handshake = async || {
        let (a, b) = tokio::io::duplex(16 * 1024);
        let (accepted, _connected) =
            tokio::join!(acceptor.accept(a), connector.connect(server_name(), b));
        accepted.map(|stream| peer_svid(stream.get_ref().1, Usage::Client).unwrap())
    };
    let mut peer = None;
    for _ in 0..3 {
        peer = Some(handshake().await.unwrap());
    }
    let peer = peer.unwrap();
    assert_eq!(peer.as_str(), "spiffe://other.org/web");
    let now = SystemTime::now();
    local.current().unwrap().still_trusts(&peer, now).unwrap();

    lab.authority.unfederate(&theirs);
    eventually(&local, "unfederated", |source, _| {
        source.current().unwrap().bundle("other.org").is_none()
    })
    .await;
    let refused = handshake().await.unwrap_err();
    let reason = kith_certs::svid_error_of_io(&refused).unwrap().reason();
    assert_eq!(reason.as_str(), "trust-domain-unknown");
    assert!(local.current().unwrap().still_trusts(&peer, now).is_err());
}
