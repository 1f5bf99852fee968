//! A trust domain beside the mesh's, with an authority of its own in this process.

use std::path::PathBuf;

use kith::lab::Lab;
use kith_certs::authority::{Authority, AuthorityConfig, Entry};
use kith_certs::{Endpoint, IdentitySource, SourceConfig};
use serde_json::{Value, json};

use crate::caller::Caller;

/// A federated trust domain. Its authority stops when it is dropped.
#[derive(Debug)]
pub struct Foreign {
    control: PathBuf,
    directory: PathBuf,
    trust_domain: String,
    _authority: Running,
}

struct Running(#[allow(dead_code, reason = "held")] Authority);

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("authority")
    }
}

impl Foreign {
    /// Starts it; it trusts the lab's, and the lab's trusts it.
    pub async fn federated(lab: &Lab, trust_domain: &str) -> Self {
        let directory = lab.directory().join(trust_domain);
        std::fs::create_dir(&directory).unwrap();
        let control = directory.join("control.sock");
        let mut authority =
            Authority::start(AuthorityConfig::new(trust_domain.parse().unwrap())).unwrap();
        authority.serve_control(&control).unwrap();
        let foreign = Self {
            control,
            directory,
            trust_domain: trust_domain.to_owned(),
            _authority: Running(authority),
        };
        let ours = lab
            .authority()
            .command(&json!({"command": "bundle"}))
            .await
            .unwrap();
        foreign.command(&json!({"command": "federate", "trust_domain": "example.org", "bundle": ours["bundle"]})).await;
        let theirs = foreign.command(&json!({"command": "bundle"})).await;
        let federate = json!({"command": "federate", "trust_domain": trust_domain, "bundle": theirs["bundle"]});
        lab.authority().command(&federate).await.unwrap();
        foreign
    }

    /// A caller with an SVID of this domain, e.g. of `/partner`.
    pub async fn caller(&self, path: &str) -> Caller {
        let socket = self
            .directory
            .join(format!("{}.sock", path.replace('/', "-")));
        let id = format!("spiffe://{}{path}", self.trust_domain)
            .parse()
            .unwrap();
        let entry = Entry::for_socket(id, &socket);
        self.command(&json!({"command": "add-entry", "entry": entry}))
            .await;
        Caller::with(IdentitySource::start(SourceConfig::new(Endpoint::unix(
            &socket,
        ))))
        .await
    }

    async fn command(&self, command: &Value) -> Value {
        let answer = kith_certs::authority::command(&self.control, command)
            .await
            .unwrap();
        assert_eq!(answer["ok"], true, "{answer}");
        answer
    }
}
