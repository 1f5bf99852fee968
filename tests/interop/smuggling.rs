//! Request smuggling (security.md, row 8) with real servers behind the sidecar: what the server says it has seen is what
//! Kith recorded as allowed, whatever bytes came in, and every answer goes to the one who asked.

mod answers;
mod payloads;
mod servers;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use kith::lab::Workload;
use kith_tests::caller::Caller;
use kith_tests::shop::Shop;
use kith_tests::wire::{self, Heard};
use serde_json::Value;

use servers::Server;

/// `web` may do anything with `orders`, except for `/admin`.
const NO_ADMIN: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: orders}
spec:
  selector: {matchLabels: {app: orders}}
  rules:
  - from: [{source: {principals: [example.org/ns/shop/sa/web]}}]
    to: [{operation: {notPaths: ['/admin*']}}]
";

#[tokio::test]
async fn row_08_nginx_sees_only_what_kith_allowed() {
    let shop = Shop::open(&[(8080, "HTTP")], NO_ADMIN).await;
    let server = Server::nginx(&shop.orders).await;
    attack(&shop, &server).await;
}

#[tokio::test]
async fn row_08_pythons_http_server_sees_only_what_kith_allowed() {
    let shop = Shop::open(&[(8080, "HTTP")], NO_ADMIN).await;
    let server = Server::python(&shop.orders).await;
    attack(&shop, &server).await;
}

#[tokio::test]
async fn row_08_gunicorn_sees_only_what_kith_allowed() {
    let shop = Shop::open(&[(8080, "HTTP")], NO_ADMIN).await;
    let server = Server::gunicorn(&shop.orders).await;
    attack(&shop, &server).await;
}

/// Every payload, from a SPIFFE client without a sidecar and from behind the client's sidecar; then what was seen.
async fn attack(shop: &Shop, server: &Server) {
    let caller = Caller::new(&shop.lab, "spiffe://example.org/ns/shop/sa/web").await;
    let stranger = shop.stranger().await;
    let direct = send_all("direct", &stranger, Some(caller), shop.pod(8080)).await;
    let through = send_all("sidecar", &shop.web, None, shop.service(8080)).await;
    let mut sent = BTreeMap::new();
    for (path, payload, heard) in direct.into_iter().chain(through) {
        answers_are_for(&path, &payload, &heard);
        sent.insert(path, payload);
    }
    let last = shop.get("/last", &[]).await;
    assert_eq!(
        (last.status, last.text().trim_end()),
        (200, "answer to GET /last")
    );
    let seen = seen_is_recorded(shop, server).await;
    recorded_is_seen(shop, server).await;

    let mut once: BTreeMap<&str, usize> = BTreeMap::new();
    for request in &seen {
        *once.entry(request).or_default() += 1;
        let target = request.split_once(' ').map(|(_, target)| target);
        assert!(
            target.is_some_and(|target| !target.starts_with("/admin")),
            "{request:?} reached the application"
        );
    }
    once.retain(|_, times| *times > 1);
    // Those whose target can't be one of its own.
    once.retain(|request, _| request.contains("direct") || request.contains("sidecar"));
    assert!(once.is_empty(), "seen more often than sent: {once:?}");
    let refused = shop
        .orders
        .records()
        .iter()
        .filter(|record| record["decision"] == "deny")
        .count();
    println!(
        "{} payloads, {} requests seen, {refused} refused by the server's sidecar",
        sent.len(),
        seen.len()
    );
    // Not for want of trying.
    assert!(sent.len() > 500 && seen.len() > 50 && refused > 200);
}

/// Sends all payloads, each on a connection of its own, sixteen at a time.
async fn send_all(
    series: &'static str,
    from: &Arc<Workload>,
    caller: Option<Caller>,
    to: SocketAddr,
) -> Vec<(String, Vec<u8>, Heard)> {
    let mut waiting = payloads::all(series).into_iter();
    let mut talks = tokio::task::JoinSet::new();
    let mut heard = Vec::new();
    loop {
        while talks.len() < 16
            && let Some((path, payload)) = waiting.next()
        {
            let (from, caller) = (Arc::clone(from), caller.clone());
            talks.spawn(async move {
                let heard = match caller {
                    Some(caller) => caller.raw(&from, to, b"http/1.1", payload.clone()).await,
                    None => wire::raw(&from, to, payload.clone()).await,
                };
                (path, payload, heard.unwrap())
            });
        }
        match talks.join_next().await {
            Some(talk) => heard.push(talk.unwrap()),
            None => return heard,
        }
    }
}

/// Nobody hears the answer to a request that was not its own, or to the hidden one.
fn answers_are_for(path: &str, payload: &[u8], heard: &Heard) {
    let text = heard.text();
    for (at, start) in text.match_indices("answer to ") {
        let request = text[at + start.len()..].lines().next().unwrap_or_default();
        let target = request
            .split_once(' ')
            .map(|(_, target)| target)
            .unwrap_or_default();
        let own = target.split(['?', '%']).next() == Some(path) || target == "*" || target == "/";
        assert!(
            own,
            "{:?} heard the answer to {request:?}: {text:?}",
            String::from_utf8_lossy(payload)
        );
    }
}

/// Method and target, as the server's log has them; the query is not recorded.
fn request(record: &Value) -> Option<String> {
    let target = record["http.path"]
        .as_str()
        .or_else(|| record["http.authority"].as_str());
    Some(format!("{} {}", record["http.method"].as_str()?, target?))
}

/// All that the server has seen, each with a record of the server's sidecar that says it was allowed.
async fn seen_is_recorded(shop: &Shop, server: &Server) -> Vec<String> {
    let seen = server.seen();
    for line in &seen {
        let wanted = line.split('?').next().unwrap_or_default();
        let allowed = |record: &Value| {
            record["decision"] == "allow" && request(record).as_deref() == Some(wanted)
        };
        if let Err(error) = shop.orders.wait_record(allowed).await {
            panic!("the server has seen {line:?}, which Kith did not allow: {error}");
        }
    }
    seen
}

/// And the other way round: what was answered was seen.
async fn recorded_is_seen(shop: &Shop, server: &Server) {
    for record in shop.orders.records() {
        let answered = record["decision"] == "allow" && record["http.status"] == 200;
        let Some(wanted) = request(&record).filter(|_| answered) else {
            continue;
        };
        let seen = |line: &String| line.split('?').next() == Some(wanted.as_str());
        let mut patience = 500;
        while !server.seen().iter().any(seen) {
            assert!(patience > 0, "the server has not seen {wanted}: {record:#}");
            patience -= 1;
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}
