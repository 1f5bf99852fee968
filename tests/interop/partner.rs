//! Workloads without a sidecar that have an SVID all the same: what a partner's proxy or a machine outside the mesh is.

use kith::lab::{Lab, Workload};
use serde_json::json;

/// Files of an SVID, as other programs take them.
pub(crate) struct Svid {
    pub(crate) id: String,
    pub(crate) certificate: String,
    pub(crate) key: String,
    /// The roots of the trust domain.
    pub(crate) bundle: String,
}

impl Svid {
    /// Has one issued by the lab's authority for `ns/NAMESPACE/sa/ACCOUNT`, valid for an hour.
    pub(crate) async fn issue(lab: &Lab, holder: &Workload, path: &str) -> Self {
        let id = format!("spiffe://example.org/{path}");
        let directory = holder.directory().join(path.replace('/', "-"));
        let command = json!({"command": "issue", "id": id, "dir": directory, "ttl_seconds": 3600});
        lab.authority().command(&command).await.unwrap();
        let file = |name: &str| directory.join(name).to_str().unwrap().to_owned();
        Self {
            id,
            certificate: file("svid.pem"),
            key: file("key.pem"),
            bundle: file("bundle.pem"),
        }
    }
}

/// A policy that lets `principals` do everything with the workloads labelled `app`.
pub(crate) fn allow(app: &str, principals: &[&str]) -> String {
    let principals: Vec<&str> = principals
        .iter()
        .map(|id| id.trim_start_matches("spiffe://"))
        .collect();
    let policy = json!({
        "apiVersion": "kith.dev/v1alpha1", "kind": "AuthorizationPolicy",
        "metadata": {"namespace": "shop", "name": format!("to-{app}")},
        "spec": {
            "selector": {"matchLabels": {"app": app}}, "action": "ALLOW",
            "rules": [{"from": [{"source": {"principals": principals}}]}],
        },
    });
    format!("{policy:#}\n")
}
