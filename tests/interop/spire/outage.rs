//! SPIRE's agent goes away, or stands still: traffic goes on, and everything is current again once it is back.

use std::time::Duration;

use kith::lab::Workload;
use kith_tests::wait::wait_for;
use rustix::process::Signal;

use super::{Load, Shop, rotations};

/// Waits until readiness says what is wrong with SVIDs, which isn't enough not to be ready.
async fn says(workload: &Workload, what: &str, limit: Duration) {
    wait_for(what, limit, || async {
        let ready = workload.health("/ready").await.unwrap();
        assert_eq!(ready.status, 200, "{}", ready.text());
        let svid = ready
            .text()
            .lines()
            .find(|line| line.contains(" svid: "))?
            .to_owned();
        svid.contains(", but: ").then_some(())
    })
    .await;
}

async fn goes_on(shop: &Shop) {
    for _ in 0..5 {
        assert_eq!(shop.get("/meanwhile").await.status, 200);
    }
}

#[tokio::test]
async fn traffic_goes_on_without_spires_agent_and_what_changed_meanwhile_arrives_after_its_return()
{
    let shop = Shop::open(0).await;
    let load: Load = shop.load().await;
    let both = [&shop.web, &shop.orders];

    shop.spire
        .agent
        .stop(Duration::from_secs(10))
        .await
        .unwrap();
    for workload in both {
        says(
            workload,
            "the loss of the agent to be seen",
            Duration::from_secs(5),
        )
        .await;
    }
    let authority = async |command: &[&str]| {
        shop.spire
            .server_json(&[&["localauthority", "x509"], command].concat())
            .await
    };
    let old = authority(&["show"]).await["active"]["authority_id"].clone();
    let new = authority(&["prepare"]).await["prepared_authority"]["authority_id"].clone();
    goes_on(&shop).await;
    assert_eq!(shop.roots().await, [1, 1]);
    shop.spire.agent.restart().unwrap();
    wait_for("the new root", Duration::from_secs(30), || async {
        (shop.roots().await == [2, 2]).then_some(())
    })
    .await;

    // An agent that says nothing is as good as none: noticed by keepalive, within 20 s (identity.md).
    let before = [rotations(both[0]).await, rotations(both[1]).await];
    shop.spire.agent.signal(Signal::STOP).unwrap();
    for workload in both {
        says(
            workload,
            "the silence of the agent to be seen",
            Duration::from_secs(22),
        )
        .await;
    }
    authority(&["activate", "-authorityID", new.as_str().unwrap()]).await;
    authority(&["taint", "-authorityID", old.as_str().unwrap()]).await;
    goes_on(&shop).await;
    shop.spire.agent.signal(Signal::CONT).unwrap();
    wait_for("SVIDs of the new root", Duration::from_secs(40), || async {
        let now = [rotations(both[0]).await, rotations(both[1]).await];
        (now[0] > before[0] && now[1] > before[1]).then_some(())
    })
    .await;
    for workload in both {
        workload.ready(Duration::from_secs(5)).await.unwrap();
    }
    goes_on(&shop).await;
    println!("{} requests, 0 failed", load.stop().await);
}
