//! SVIDs are replaced under traffic, run out when the authority is gone, and come back with it.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Failure, Scene, Seen, describe, expect, is_connection};
use crate::demo::mesh::{EVENTS, Mesh, SVID_TTL};
use crate::demo::screen::Step;

pub(crate) const ROTATION: Step = Step {
    name: "svids-rotate",
    title: "Every SVID is replaced twice under 200 requests a second",
    expected: "no request fails; the gRPC stream and the event feed go on, their leases renewed beyond the SVIDs they began with",
};

pub(crate) async fn svids_rotate(scene: &mut Scene) -> Seen {
    let Scene {
        mesh,
        screen,
        lasting,
    } = scene;
    let lasting = lasting
        .take()
        .ok_or("the gRPC stream and the event feed were not opened")?;
    let before = rotations(mesh).await?;
    let load = [
        "load",
        "http://orders.shop:8080/orders/2",
        "--rate",
        "200",
        "--connections",
        "4",
        "--seconds",
        "120",
        "--json",
    ];
    let load = mesh.web.app(&load).await?;
    let start = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let done: Vec<u64> = rotations(mesh)
            .await?
            .iter()
            .zip(&before)
            .map(|(now, then)| now.saturating_sub(*then))
            .collect();
        lasting.check_alive()?;
        screen.progress(&format!(
            "{:.0} s; SVIDs replaced: web {}, gateway {}, orders {}, payments {}",
            start.elapsed().as_secs_f32(),
            done[0],
            done[1],
            done[2],
            done[3]
        ));
        // Older than an SVID lives: without renewal, the leases would have run out.
        if done.iter().all(|count| *count >= 2)
            && start.elapsed() > SVID_TTL + Duration::from_secs(1)
        {
            break;
        }
        expect(start.elapsed() < SVID_TTL * 4, || {
            format!(
                "SVIDs replaced in {} s: {done:?}",
                start.elapsed().as_secs()
            )
        })?;
    }
    load.stop(Duration::from_secs(5)).await?;
    let report: Value = serde_json::from_str(&load.stdout())?;
    expect(
        report["failed"] == 0 && report["ok"].as_u64() > Some(0),
        || format!("{report}"),
    )?;
    lasting.close().await?;
    let feed = mesh
        .orders
        .wait_record(|record| {
            is_connection(record, EVENTS)
                && record["source.principal"] == *mesh.web.spiffe_id().to_string()
        })
        .await?;
    let renewed = feed["lease.renewed"].as_u64().unwrap_or(0);
    expect(renewed > 0, || {
        format!("the lease of the event feed was not renewed: {feed}")
    })?;
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
        screen.progress(&format!(
            "{:.0} s without authority, {served} calls succeeded",
            elapsed.as_secs_f32()
        ));
        match reply.header("x-kith-reason") {
            None if reply.status == 200 => (served, last_served) = (served + 1, elapsed),
            Some("svid-expired") => break,
            // The server's SVID may end a moment before the client's.
            Some(_) if reply.status >= 400 => {}
            _ => return Err(describe(&reply).into()),
        }
        expect(elapsed < SVID_TTL * 2, || {
            format!(
                "no svid-expired after {} s; last: {}",
                elapsed.as_secs(),
                describe(&reply)
            )
        })?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    expect(served > 0, || {
        "not one call succeeded after the authority was killed".to_owned()
    })?;
    // The SVID that expired first may have been the server's; web's own has a few seconds more at most.
    let why = loop {
        let why = mesh.web.health("/ready").await?;
        if why.status != 200 {
            break why;
        }
        expect(start.elapsed() < SVID_TTL * 2, || {
            format!("the sidecar of web says it is ready: {}", why.text())
        })?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    Ok(format!(
        "{served} calls succeeded for {:.1} s more, then svid-expired; /ready of web: {}",
        last_served.as_secs_f32(),
        why.text().trim()
    ))
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
            Ok(reply) if reply.status == 200 => {
                return Ok(format!("200 after {:.1} s", elapsed.as_secs_f32()));
            }
            Ok(reply) => describe(&reply),
            Err(error) => error.to_string(),
        };
        screen.progress(&format!("{:.0} s: {last}", elapsed.as_secs_f32()));
        expect(elapsed < Duration::from_secs(20), || {
            format!("after {} s still {last}", elapsed.as_secs())
        })?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// How often each sidecar has got a new SVID.
async fn rotations(mesh: &Mesh) -> Result<Vec<u64>, Failure> {
    let mut counts = Vec::new();
    for workload in mesh.sidecars() {
        let metrics = workload.health("/metrics").await?.text();
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("kith_svid_rotations_total"));
        let count = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small count"
        )]
        counts.push(count.ok_or("no kith_svid_rotations_total in the metrics")? as u64);
    }
    Ok(counts)
}
