//! What the demo shows, step by step. Each is told what to expect before it runs, and gives back what it saw.

use std::io;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;

use super::mesh::{AUDIT, EVENTS, Mesh, POLICIES, POLICY_FILE, SVID_TTL};
use super::screen::{Screen, Step};
use crate::app::client::{Call, Reply};
use crate::app::grpc;
use crate::lab::{Process, Workload};

/// What went otherwise.
pub(crate) type Failure = Box<dyn std::error::Error>;
/// What was seen.
pub(crate) type Seen = Result<String, Failure>;

/// Where the steps take place.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) mesh: Mesh,
    pub(crate) screen: Screen,
    /// Opened while the policy allows them; what follows must leave them alone.
    pub(crate) lasting: Option<Lasting>,
}

/// A gRPC stream and an opaque connection from `web` to `orders`.
#[derive(Debug)]
pub(crate) struct Lasting {
    stream: Process,
    feed: Process,
}

pub(crate) const START: Step = Step {
    name: "mesh-starts",
    title: "The mesh starts",
    expected: "authority, control plane and the sidecars of web, orders and payments become ready",
};

pub(crate) const HTTP_ALLOWED: Step = Step {
    name: "http-allowed",
    title: "web calls orders over HTTP",
    expected: "200; orders is told by its sidecar who called, as proved by mTLS",
};

pub(crate) async fn http_allowed(scene: &mut Scene) -> Seen {
    let reply = scene.mesh.web.get("http://orders.shop:8080/orders/1").await?;
    expect(reply.status == 200, || describe(&reply))?;
    let told = reply.json()["headers"]["x-forwarded-client-cert"].as_str().unwrap_or_default().to_owned();
    let web = scene.mesh.web.spiffe_id();
    expect(told.contains(&format!("URI={web}")), || format!("x-forwarded-client-cert: {told:?}"))?;
    Ok(format!("200; x-forwarded-client-cert has URI={web}"))
}

pub(crate) const CALL_FOLLOWED: Step = Step {
    name: "call-followed",
    title: "web calls orders, which calls payments",
    expected: "200 from both; the records of all three sidecars share one request id",
};

pub(crate) async fn call_followed(scene: &mut Scene) -> Seen {
    let Mesh { web, orders, payments, .. } = &scene.mesh;
    let reply = web.get("http://orders.shop:8080/call?url=http://payments.shop:8080/charges/1").await?;
    let inner = &reply.json()["status"];
    expect(reply.status == 200 && inner == 200, || describe(&reply))?;
    let charge = payments.wait_record(|record| record["http.path"] == "/charges/1").await?;
    let id = charge["request.id"].clone();
    expect(id.is_string(), || format!("the record of payments has no request.id: {charge}"))?;
    web.wait_record(|record| record["request.id"] == id && record["direction"] == "outbound").await?;
    orders.wait_record(|record| record["request.id"] == id && record["direction"] == "inbound").await?;
    orders.wait_record(|record| record["request.id"] == id && record["direction"] == "outbound").await?;
    Ok(format!("200 and 200; request.id {} in 4 records of 3 sidecars", id.as_str().unwrap_or_default()))
}

pub(crate) const GRPC_ALLOWED: Step = Step {
    name: "grpc-allowed",
    title: "web calls orders over gRPC",
    expected: "a unary call and a stream of 3 messages, both with status 0 in the trailers",
};

pub(crate) async fn grpc_allowed(scene: &mut Scene) -> Seen {
    let web = &scene.mesh.web;
    let address = web.resolve("orders.shop:9090")?;
    let (unary, orders, stream) = web
        .enter(move || async move {
            let (_, unary) = grpc::client::get(address, "orders.shop:9090", "1").await?;
            let first = grpc::WatchOrders { count: 3, interval_ms: 10 };
            let mut stream = grpc::client::Stream::open(address, "orders.shop:9090", "Watch", &first).await?;
            let mut orders = 0;
            while stream.next::<grpc::Order>().await?.is_some() {
                orders += 1;
            }
            io::Result::Ok((unary, orders, stream.status()))
        })
        .await??;
    expect((unary.code, orders, stream.code) == (0, 3, 0), || format!("{unary:?}, {orders} messages, {stream:?}"))?;
    Ok("Get: status 0; Watch: 3 messages, status 0".to_owned())
}

pub(crate) const NOT_ALLOWED: Step = Step {
    name: "not-allowed",
    title: "web calls payments, which only orders may",
    expected: "403, x-kith-reason: no-allow-policy-matches; the record names the policy that came nearest and what failed",
};

pub(crate) async fn not_allowed(scene: &mut Scene) -> Seen {
    let reply = scene.mesh.web.get("http://payments.shop:8080/charges/2").await?;
    denied(&reply, "no-allow-policy-matches")?;
    let record = scene.mesh.payments.wait_record(|record| record["http.path"] == "/charges/2").await?;
    let clause = |key: &str| record[key].as_str().unwrap_or("nothing").to_owned();
    expect(record["nearest.policy"] == "shop/payments", || format!("the record: {record}"))?;
    Ok(format!("403 no-allow-policy-matches; nearest: {}, {}", clause("nearest.policy"), clause("nearest.clause")))
}

pub(crate) const DENIED: Step = Step {
    name: "denied-by-rule",
    title: "web deletes an order, which nobody may",
    expected: "403, x-kith-reason: denied-by-rule; the record names policy shop/no-deletes",
};

pub(crate) async fn denied_by_rule(scene: &mut Scene) -> Seen {
    let mut call = Call::get("http://orders.shop:8080/orders/1".parse::<crate::app::client::Url>()?);
    call.method = Some("DELETE".to_owned());
    let reply = scene.mesh.web.call(call).await?;
    denied(&reply, "denied-by-rule")?;
    let record = scene.mesh.orders.wait_record(|record| record["http.method"] == "DELETE").await?;
    expect(record["policy"] == "shop/no-deletes", || format!("the record: {record}"))?;
    Ok(format!("403 denied-by-rule; policy shop/no-deletes, rule {}", record["rule"]))
}

pub(crate) const PLAINTEXT: Step = Step {
    name: "plaintext-denied",
    title: "stranger, without a sidecar, calls orders in plaintext",
    expected: "no answer of the application; a record with reason peer-unauthenticated",
};

pub(crate) async fn plaintext_denied(scene: &mut Scene) -> Seen {
    let Mesh { stranger, orders, .. } = &scene.mesh;
    let outcome = match stranger.get("http://orders.shop.pod:8080/orders/1").await {
        Ok(reply) if reply.status < 400 => return Err(format!("the application answered: {}", describe(&reply)).into()),
        Ok(reply) => describe(&reply),
        Err(error) => format!("the connection ended: {}", crate::app::client::root_cause(&error)),
    };
    let from = stranger.addresses.v4.to_string();
    let from_stranger = |record: &Value| record["source.address"].as_str().is_some_and(|source| source.contains(&from));
    let record = orders.wait_record(from_stranger).await?;
    expect(record["decision"] == "deny" && record["reason"] == "peer-unauthenticated", || format!("the record: {record}"))?;
    Ok(format!("{outcome}; the record says peer-unauthenticated"))
}

pub(crate) const POLICY_EDITED: Step = Step {
    name: "policy-edited",
    title: "The policy is edited: web may no longer read the audit feed, which it has open",
    expected: "that connection is closed, with closed_by: policy in its record; the event feed and the gRPC stream go on",
};

pub(crate) async fn policy_edited(scene: &mut Scene) -> Seen {
    let web = scene.mesh.web.clone();
    let lasting = scene.lasting.insert(Lasting::open(&web).await?);
    let address = web.resolve(&format!("orders.shop:{AUDIT}"))?;
    let (open, opened) = tokio::sync::oneshot::channel();
    let held = web.enter(move || async move {
        let mut stream = BufReader::new(TcpStream::connect(address).await?);
        let mut greeting = String::new();
        stream.read_line(&mut greeting).await?;
        let _ = open.send(());
        // Ends with the connection, in whichever way.
        let _ = stream.read(&mut [0]).await;
        io::Result::Ok(Instant::now())
    });
    let edit = async {
        opened.await.map_err(|_| "the audit feed could not be opened")?;
        let start = Instant::now();
        scene.mesh.lab.control().write(POLICY_FILE, &without_audit())?;
        Result::<_, Failure>::Ok(start)
    };
    let limit = Duration::from_secs(10);
    let both = tokio::time::timeout(limit, async { tokio::join!(held, edit) }).await;
    let (closed, saved) = both.map_err(|_| format!("the audit feed is still open {} s after the edit", limit.as_secs()))?;
    let milliseconds = closed??.saturating_duration_since(saved?).as_secs_f64() * 1000.0;
    let record = scene.mesh.orders.wait_record(|record| is_connection(record, AUDIT)).await?;
    expect(record["closed_by"] == "policy", || format!("the record: {record}"))?;
    lasting.check_alive()?;
    Ok(format!("closed {milliseconds:.0} ms after the file was saved, reason {}; the others go on", record["reason"].as_str().unwrap_or_default()))
}

pub(crate) const POLICY_RESTORED: Step = Step {
    name: "policy-restored",
    title: "The policy is put back",
    expected: "the audit feed can be opened again",
};

pub(crate) async fn policy_restored(scene: &mut Scene) -> Seen {
    let start = Instant::now();
    scene.mesh.lab.apply(POLICY_FILE, POLICIES).await?;
    let took = start.elapsed().as_millis();
    let web = &scene.mesh.web;
    let address = web.resolve(&format!("orders.shop:{AUDIT}"))?;
    let greeting = web
        .enter(move || async move {
            let mut greeting = String::new();
            BufReader::new(TcpStream::connect(address).await?).read_line(&mut greeting).await?;
            io::Result::Ok(greeting)
        })
        .await??;
    expect(greeting.starts_with("audit of orders"), || format!("read {greeting:?}"))?;
    Ok(format!("acknowledged by every sidecar after {took} ms; read {:?}", greeting.trim_end()))
}

pub(crate) const ROTATION: Step = Step {
    name: "svids-rotate",
    title: "Every SVID is replaced twice under 200 requests a second",
    expected: "no request fails; the gRPC stream and the event feed go on, their leases renewed beyond the SVIDs they began with",
};

pub(crate) async fn svids_rotate(scene: &mut Scene) -> Seen {
    let Scene { mesh, screen, lasting } = scene;
    let lasting = lasting.take().ok_or("the gRPC stream and the event feed were not opened")?;
    let before = rotations(mesh).await?;
    let load = ["load", "http://orders.shop:8080/orders/2", "--rate", "200", "--connections", "4", "--seconds", "120", "--json"];
    let load = mesh.web.app(&load).await?;
    let start = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let done: Vec<u64> = rotations(mesh).await?.iter().zip(&before).map(|(now, then)| now.saturating_sub(*then)).collect();
        lasting.check_alive()?;
        screen.progress(&format!(
            "{:.0} s; SVIDs replaced: web {}, orders {}, payments {}",
            start.elapsed().as_secs_f32(),
            done[0],
            done[1],
            done[2]
        ));
        // Older than an SVID lives: without renewal, the leases would have run out.
        if done.iter().all(|count| *count >= 2) && start.elapsed() > SVID_TTL + Duration::from_secs(1) {
            break;
        }
        expect(start.elapsed() < SVID_TTL * 4, || format!("SVIDs replaced in {} s: {done:?}", start.elapsed().as_secs()))?;
    }
    load.stop(Duration::from_secs(5)).await?;
    let report: Value = serde_json::from_str(&load.stdout())?;
    expect(report["failed"] == 0 && report["ok"].as_u64() > Some(0), || format!("{report}"))?;
    lasting.close().await?;
    let feed = mesh.orders.wait_record(|record| is_connection(record, EVENTS)).await?;
    let renewed = feed["lease.renewed"].as_u64().unwrap_or(0);
    expect(renewed > 0, || format!("the lease of the event feed was not renewed: {feed}"))?;
    Ok(format!(
        "{} requests, 0 failed, p50 {:.1} ms; stream and feed ran on, lease renewed {renewed} times",
        report["requests"],
        report["p50_ms"].as_f64().unwrap_or_default()
    ))
}

pub(crate) const AUTHORITY_GONE: Step = Step {
    name: "authority-gone",
    title: "The authority is killed (kill -9)",
    expected: "calls succeed until the SVIDs expire, and are then denied with reason svid-expired",
};

pub(crate) async fn authority_gone(scene: &mut Scene) -> Seen {
    let Scene { mesh, screen, .. } = scene;
    mesh.lab.authority().kill();
    let start = Instant::now();
    let mut served = 0;
    let mut last_served = Duration::ZERO;
    loop {
        let reply = mesh.web.get("http://orders.shop:8080/orders/3").await?;
        let elapsed = start.elapsed();
        screen.progress(&format!("{:.0} s without authority, {served} calls succeeded", elapsed.as_secs_f32()));
        match reply.header("x-kith-reason") {
            None if reply.status == 200 => (served, last_served) = (served + 1, elapsed),
            Some("svid-expired") => break,
            // The server's SVID may end a moment before the client's.
            Some(_) if reply.status >= 400 => {}
            _ => return Err(describe(&reply).into()),
        }
        expect(elapsed < SVID_TTL * 2, || format!("no svid-expired after {} s; last: {}", elapsed.as_secs(), describe(&reply)))?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    expect(served > 0, || "not one call succeeded after the authority was killed".to_owned())?;
    let why = mesh.web.health("/ready").await?;
    expect(why.status != 200, || format!("the sidecar of web says it is ready: {}", why.text()))?;
    Ok(format!("{served} calls succeeded for {:.1} s more, then svid-expired; /ready of web: {}", last_served.as_secs_f32(), why.text().trim()))
}

pub(crate) const AUTHORITY_BACK: Step = Step {
    name: "authority-back",
    title: "The authority is started again",
    expected: "calls succeed again, without anything else being restarted",
};

pub(crate) async fn authority_back(scene: &mut Scene) -> Seen {
    let Scene { mesh, screen, .. } = scene;
    mesh.lab.authority().restart()?;
    let start = Instant::now();
    loop {
        let reply = mesh.web.get("http://orders.shop:8080/orders/4").await;
        let elapsed = start.elapsed();
        let last = match reply {
            Ok(reply) if reply.status == 200 => return Ok(format!("200 after {:.1} s", elapsed.as_secs_f32())),
            Ok(reply) => describe(&reply),
            Err(error) => error.to_string(),
        };
        screen.progress(&format!("{:.0} s: {last}", elapsed.as_secs_f32()));
        expect(elapsed < Duration::from_secs(20), || format!("after {} s still {last}", elapsed.as_secs()))?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub(crate) const HOPS: Step = Step {
    name: "hops-join",
    title: "The records of both ends of a call are joined",
    expected: "the sidecars of web and orders wrote the same hop id, which neither sent to the other",
};

pub(crate) async fn hops_join(scene: &mut Scene) -> Seen {
    let (client, server) = hop(&scene.mesh).await?;
    expect(client["source.principal"] == server["source.principal"], || format!("{client}\n{server}"))?;
    Ok(format!("hop {} in both, shown below", client["hop"].as_str().unwrap_or_default()))
}

/// Both ends' records of the call that went on to `payments`.
pub(crate) async fn hop(mesh: &Mesh) -> Result<(Value, Value), Failure> {
    let outbound = |record: &Value| record["direction"] == "outbound" && record["http.path"] == "/call";
    let client = mesh.web.wait_record(outbound).await?;
    expect(client["hop"].is_string(), || format!("no hop id in {client}"))?;
    let server = mesh.orders.wait_record(|record| record["direction"] == "inbound" && record["hop"] == client["hop"]).await?;
    Ok((client, server))
}

impl Lasting {
    async fn open(web: &Workload) -> Result<Self, Failure> {
        let stream = web.app(&["grpc", "http://orders.shop:9090", "watch", "--count", "0", "--interval-ms", "200"]).await?;
        let target = format!("orders.shop:{EVENTS}");
        let feed = web.app(&["hold", &target, "--say", "hello", "--every-ms", "200"]).await?;
        stream.says("order").await?;
        feed.says("\"open\":1").await?;
        Ok(Self { stream, feed })
    }

    /// Neither has ended.
    fn check_alive(&self) -> Result<(), Failure> {
        for (name, process) in [("gRPC stream", &self.stream), ("event feed", &self.feed)] {
            expect(process.ended().is_none(), || format!("the {name} ended: {}{}", process.stdout(), process.stderr()))?;
        }
        Ok(())
    }

    async fn close(self) -> Result<(), Failure> {
        for process in [&self.stream, &self.feed] {
            process.signal(Signal::TERM)?;
            process.wait(Duration::from_secs(5)).await?;
        }
        Ok(())
    }
}

/// How often each sidecar has got a new SVID.
async fn rotations(mesh: &Mesh) -> Result<Vec<u64>, Failure> {
    let mut counts = Vec::new();
    for workload in mesh.sidecars() {
        let metrics = workload.health("/metrics").await?.text();
        let line = metrics.lines().find_map(|line| line.strip_prefix("kith_svid_rotations_total"));
        let count = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
        counts.push(count.ok_or("no kith_svid_rotations_total in the metrics")? as u64);
    }
    Ok(counts)
}

/// The policies without the rule about the audit feed, the last one of `orders`.
fn without_audit() -> String {
    let start = POLICIES.find("  # 3: ").unwrap_or(POLICIES.len());
    let end = POLICIES[start..].find("---").map_or(POLICIES.len(), |length| start + length);
    format!("{}{}", &POLICIES[..start], &POLICIES[end..])
}

fn is_connection(record: &Value, port: u16) -> bool {
    record["direction"] == "inbound" && record["record"] == "connection" && record["destination.port"] == port
}

fn denied(reply: &Reply, reason: &str) -> Result<(), Failure> {
    expect(reply.status == 403 && reply.header("x-kith-reason") == Some(reason), || describe(reply))
}

fn describe(reply: &Reply) -> String {
    let reason = reply.header("x-kith-reason").map(|reason| format!(" {reason}")).unwrap_or_default();
    let text = reply.text();
    format!("{}{reason} {}", reply.status, text.trim().chars().take(200).collect::<String>()).trim_end().to_owned()
}

fn expect(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(otherwise().into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edit_removes_one_rule_and_nothing_else() {
        let edited = without_audit();
        assert!(!edited.contains("7001") && edited.contains("7000"));
        assert_eq!(edited.matches("\n---\n").count(), POLICIES.matches("\n---\n").count());
        assert_eq!(POLICIES.lines().count() - edited.lines().count(), 3);
    }
}
