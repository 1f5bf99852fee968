//! `kith status`: who is connected, and what is not as it should be.

use std::process::ExitCode;
use std::time::Duration;

use http::Method;
use serde_json::Value;

use super::ask::{Failure, ask};
use super::{Socket, columns};

/// What of it there is in a cluster. Each replica knows its own sidecars' drift, and the statuses of objects count all.
const IN_A_CLUSTER: &str = "\
kubectl get -A authorizationpolicies.kith.dev,peerauthentications.kith.dev,requestauthentications.kith.dev
kubectl get meshconfigs.kith.dev,revocations.kith.dev     # ENFORCED: by how many of how many SIDECARS
kubectl -n kith-system port-forward POD 15014 &           # of every kith-control pod
curl -s http://127.0.0.1:15014/status";

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Print what the control plane says, as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: Socket,
}

/// 0: all is as it should be; 1: it is not; 2: the control plane cannot be asked.
pub fn main(arguments: &Arguments) -> ExitCode {
    let socket = arguments.socket.path(|| IN_A_CLUSTER.to_owned());
    let asked = socket.and_then(|socket| ask(socket, Method::GET, "/status", None, Duration::ZERO));
    match asked {
        Ok(status) => {
            let (lines, good) = describe(&status);
            if arguments.json {
                println!("{status:#}");
            } else {
                lines.iter().for_each(|line| println!("{line}"));
            }
            if good {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(Failure::Unreachable(why) | Failure::Refused(why)) => {
            eprintln!("kith status: {why}");
            ExitCode::from(2)
        }
    }
}

fn describe(status: &Value) -> (Vec<String>, bool) {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let mut lines = Vec::new();
    let mut good = status["ready"] == true;
    lines.push(
        if good {
            "Control plane: ready."
        } else {
            "Control plane: not ready."
        }
        .to_owned(),
    );
    lines.extend(
        list(&status["not_ready"])
            .iter()
            .map(|why| format!("  {}", text(why))),
    );
    let problems = list(&status["load"]["problems"]);
    if !problems.is_empty() {
        good = false;
        lines.push("The folder has problems; what is served is older than it:".to_owned());
        lines.extend(problems.iter().map(|problem| {
            format!(
                "  {}:{}: {}: {}",
                text(&problem["file"]),
                problem["line"],
                text(&problem["field"]),
                text(&problem["message"])
            )
        }));
    }
    let sidecars = list(&status["sidecars"]);
    if !sidecars.is_empty() {
        let headings = [
            "SIDECAR",
            "PRINCIPAL",
            "REVISION",
            "REVOCATIONS",
            "SVID UNTIL",
            "DRIFT",
        ];
        let mut rows = vec![headings.map(str::to_owned)];
        rows.extend(sidecars.iter().map(|sidecar| {
            let drift: Vec<String> = (list(&sidecar["drift"]).iter())
                .map(|drift| text(&drift["kind"]))
                .collect();
            [
                text(&sidecar["node"]),
                text(&sidecar["principal"]),
                text(&sidecar["revision_acknowledged"]),
                text(&sidecar["revocations"]["version"]),
                text(&sidecar["svid"]["expires"]).chars().take(19).collect(),
                if drift.is_empty() {
                    "none".to_owned()
                } else {
                    drift.join(", ")
                },
            ]
        }));
        lines.push(String::new());
        lines.extend(columns(&rows));
    }
    let drifts = sidecars.iter().flat_map(|sidecar| {
        let node = text(&sidecar["node"]);
        let drifts = list(&sidecar["drift"]);
        drifts
            .into_iter()
            .map(move |drift| format!("{node} {}", text(&drift["message"])))
    });
    let absent = list(&status["not_connected"]);
    let absent = absent
        .iter()
        .map(|node| format!("{} is not connected", text(node)));
    let told: Vec<String> = drifts.chain(absent).collect();
    if !told.is_empty() {
        good = false;
        lines.push(String::new());
        lines.extend(told);
    }
    (lines, good)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn drift_is_shown_by_sidecar_and_in_words() {
        let status = json!({
            "ready": true, "not_ready": [], "load": {"problems": []},
            "sidecars": [
                {"node": "shop/orders-1", "principal": "spiffe://e.org/ns/shop/sa/orders", "revision_acknowledged": "aa11",
                 "revocations": {"version": "bb22"}, "svid": {"expires": "2026-11-23T10:00:00.123Z"}, "drift": []},
                {"node": "shop/web-1", "principal": "spiffe://e.org/ns/shop/sa/web", "revision_acknowledged": "aa10",
                 "revocations": null, "svid": {"expires": "2026-11-23T10:00:00Z"},
                 "drift": [{"kind": "behind", "message": "has not acknowledged what was sent 9 s ago"}]},
            ],
            "not_connected": ["shop/old-1"],
        });
        let (lines, good) = describe(&status);
        assert!(!good);
        let expected = "Control plane: ready.

SIDECAR        PRINCIPAL                         REVISION  REVOCATIONS  SVID UNTIL           DRIFT
shop/orders-1  spiffe://e.org/ns/shop/sa/orders  aa11      bb22         2026-11-23T10:00:00  none
shop/web-1     spiffe://e.org/ns/shop/sa/web     aa10      -            2026-11-23T10:00:00  behind

shop/web-1 has not acknowledged what was sent 9 s ago
shop/old-1 is not connected";
        assert_eq!(lines.join("\n"), expected);
    }

    #[test]
    fn all_well_is_one_line_and_a_table() {
        let status = json!({"ready": true, "not_ready": [], "load": {"problems": []}, "sidecars": [], "not_connected": []});
        let (lines, good) = describe(&status);
        assert!(good);
        assert_eq!(lines, ["Control plane: ready."]);
    }
}
