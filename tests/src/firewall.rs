//! A network that loses packets: rules in a table of the test's own, beside the capture's.

use kith::lab::Workload;

/// Drops whatever `workload` sends that matches, e.g. `ip daddr 10.75.0.4 tcp flags & (syn|ack) == syn`.
pub async fn drop_sent(workload: &Workload, matching: &[String]) {
    let mut script = String::from(
        "table inet test { chain sent { type filter hook output priority 0; policy accept;\n",
    );
    for rule in matching {
        script += &format!("{rule} drop\n");
    }
    script += "}\n}\n";
    let output = workload
        .exec(&["sh", "-c", &format!("echo '{script}' | nft -f -")])
        .await
        .unwrap();
    assert!(output.status.success(), "{output:?}\n{script}");
}

/// Takes those rules away.
pub async fn lose_nothing(workload: &Workload) {
    let output = workload
        .exec(&["nft", "delete", "table", "inet", "test"])
        .await
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// From now on `workload` opens no connection to `server`; those that are open go on.
pub async fn no_new_connections(workload: &Workload, server: &Workload) {
    let addresses = server.addresses;
    let rules = [
        format!("ip daddr {}", addresses.v4),
        format!("ip6 daddr {}", addresses.v6),
    ];
    let rules = rules.map(|to| format!("{to} tcp flags & (syn | ack) == syn"));
    drop_sent(workload, &rules).await;
}
