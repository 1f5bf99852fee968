//! A policy is edited under open connections, and put back.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;

use super::lasting::Lasting;
use super::{Failure, Scene, Seen, describe, expect, is_connection};
use crate::demo::mesh::{AUDIT, Mesh, POLICIES, POLICY_FILE};
use crate::demo::screen::Step;

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
        opened
            .await
            .map_err(|_| "the audit feed could not be opened")?;
        let start = Instant::now();
        scene
            .mesh
            .lab
            .control()
            .write(POLICY_FILE, &without_audit())?;
        Result::<_, Failure>::Ok(start)
    };
    let limit = Duration::from_secs(10);
    let both = tokio::time::timeout(limit, async { tokio::join!(held, edit) }).await;
    let (closed, saved) = both.map_err(|_| {
        format!(
            "the audit feed is still open {} s after the edit",
            limit.as_secs()
        )
    })?;
    let milliseconds = closed??.saturating_duration_since(saved?).as_secs_f64() * 1000.0;
    let record = scene
        .mesh
        .orders
        .wait_record(|record| is_connection(record, AUDIT))
        .await?;
    expect(record["closed_by"] == "policy", || {
        format!("the record: {record}")
    })?;
    lasting.check_alive()?;
    Ok(format!(
        "closed {milliseconds:.0} ms after the file was saved, reason {}; the others go on",
        record["reason"].as_str().unwrap_or_default()
    ))
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
            BufReader::new(TcpStream::connect(address).await?)
                .read_line(&mut greeting)
                .await?;
            io::Result::Ok(greeting)
        })
        .await??;
    expect(greeting.starts_with("audit of orders"), || {
        format!("read {greeting:?}")
    })?;
    Ok(format!(
        "acknowledged by every sidecar after {took} ms; read {:?}",
        greeting.trim_end()
    ))
}

/// What somebody plans, to be tried on real traffic first.
const PLANNED: &str = "
apiVersion: kith.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: planned, annotations: {istio.io/dry-run: \"true\"}}
spec:
  selector: {matchLabels: {app: orders}}
  action: DENY
  rules:
  - to: [{operation: {ports: [\"8080\"], paths: [/orders/*]}}]
";

pub(crate) const DRY_RUN: Step = Step {
    name: "dry-run",
    title: "A policy is tried as a dry run: nobody may read single orders",
    expected: "web still gets its order; the record says which policy would deny it",
};

pub(crate) async fn dry_run(scene: &mut Scene) -> Seen {
    let Mesh {
        web, orders, lab, ..
    } = &scene.mesh;
    lab.apply("planned", PLANNED).await?;
    let reply = web.get("http://orders.shop:8080/orders/planned").await?;
    expect(reply.status == 200, || describe(&reply))?;
    let record = orders
        .wait_record(|record| record["http.path"] == "/orders/planned")
        .await?;
    expect(
        record["decision"] == "allow"
            && record["shadow.decision"] == "deny"
            && record["shadow"][0]["policy"] == "shop/planned",
        || format!("the record: {record}"),
    )?;
    lab.control().withdraw("planned").await?;
    Ok(format!(
        "200; the record says decision {}, shadow {}",
        record["decision"], record["shadow"]
    ))
}

/// The policies without the rule about the audit feed, the last one of `orders`.
fn without_audit() -> String {
    let start = POLICIES.find("  # 3: ").unwrap_or(POLICIES.len());
    let end = POLICIES[start..]
        .find("---")
        .map_or(POLICIES.len(), |length| start + length);
    format!("{}{}", &POLICIES[..start], &POLICIES[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edit_removes_one_rule_and_nothing_else() {
        let edited = without_audit();
        assert!(!edited.contains("7001") && edited.contains("7000"));
        assert_eq!(
            edited.matches("\n---\n").count(),
            POLICIES.matches("\n---\n").count()
        );
        assert_eq!(POLICIES.lines().count() - edited.lines().count(), 3);
    }
}
