//! What the Workload API may do to us, and what the dev authority does for others: over real
//! Unix sockets, against the authority, against scripted servers, and with a foreign client.

#![allow(clippy::unwrap_used)]

#[path = "workload_api/authority.rs"]
mod authority;
#[path = "workload_api/misbehaving.rs"]
mod misbehaving;
#[path = "workload_api/revocation.rs"]
mod revocation;
#[path = "workload_api/rotation.rs"]
mod rotation;
#[path = "workload_api/scripted.rs"]
mod scripted;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use kith_certs::authority::{Authority, AuthorityConfig, Entry};
use kith_certs::{Endpoint, IdentitySource, SourceConfig, SpiffeId, Status, TrustDomain};
use tempfile::TempDir;

const WEB: &str = "spiffe://example.org/ns/shop/sa/web";

/// A directory of sockets, and an authority of example.org in it.
struct Lab {
    dir: TempDir,
    authority: Authority,
}

impl Lab {
    /// Whoever comes through `web.sock` is `web`.
    fn new(ttl_seconds: u64) -> Lab {
        Lab::with(|_, config| config.ttl_seconds = ttl_seconds)
    }

    fn with(change: impl FnOnce(&TempDir, &mut AuthorityConfig)) -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(&dir);
        change(&dir, &mut config);
        Lab {
            authority: Authority::start(config).unwrap(),
            dir,
        }
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn source(&self) -> IdentitySource {
        source(self.socket("web.sock"))
    }
}

fn config(dir: &TempDir) -> AuthorityConfig {
    let mut config = AuthorityConfig::new(domain("example.org"));
    config
        .entries
        .push(Entry::for_socket(id(WEB), dir.path().join("web.sock")));
    config.overlap_milliseconds = 300;
    config
}

/// Notices a frozen server within half a second instead of 20 s.
fn source(socket: PathBuf) -> IdentitySource {
    let mut config = SourceConfig::new(Endpoint::unix(socket));
    config.denied_grace = Duration::from_millis(400);
    IdentitySource::start_with_keepalive(config, Duration::from_millis(250))
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

fn domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

/// Waits for a state of affairs, and shows how things stand if it never comes.
async fn eventually(
    source: &IdentitySource,
    what: &str,
    holds: impl Fn(&IdentitySource, &Status) -> bool,
) {
    let started = Instant::now();
    while !holds(source, &source.status()) {
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "never {what}: {:#?}",
            source.status()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn first_svid(source: &IdentitySource) {
    eventually(source, "an SVID", |source, _| source.current().is_some()).await;
}
