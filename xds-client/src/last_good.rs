//! The last good resources on disk, so that a restarted container need not wait for the control plane to
//! start enforcing.
//!
//! One file, replaced whole, so that it always holds what was in force together. It is only a copy of what
//! the control plane said: damaged, of another version or not ours, it is ignored with a warning.
//!
//! ```text
//! kith last good resources 1\n      format and its version
//! <checksum, 16 hex digits>\n       of everything below
//! <node id> <authority>\n           whose they are
//! <length><DeltaDiscoveryResponse>  the resources as they came, a few hundred of one kind in each
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost::Message as _;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::api::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use crate::client::Shared;
use crate::ledger::{Held, Revisions};
use crate::resource::Kind;

const HEADER: &str = "kith last good resources 1\n";
const FILE_NAME: &str = "last-good";
/// A larger file is not read.
const MAX_FILE: u64 = 64 << 20;
/// At most one write in this time, however often addresses come and go.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) struct LastGood {
    dir: PathBuf,
    /// Resources of another workload, or of another control plane whose versions mean something else,
    /// are not ours.
    owner: String,
    disk: Mutex<OnDisk>,
}

/// What this process knows about the file; the lock also makes writes take turns.
#[derive(Default)]
struct OnDisk {
    revisions: Revisions,
    checksum: Option<u64>,
}

/// What the disk remembers; nothing if it can't be used.
pub(crate) async fn load(store: Arc<LastGood>) -> Vec<DeltaDiscoveryResponse> {
    let path = store.path();
    match spawn_blocking(move || store.read()).await {
        Ok(Ok(remembered)) => {
            info!(path = %path.display(), "last good resources read");
            remembered
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Ok(Err(error)) => {
            warn!(path = %path.display(), %error, "last good resources ignored; waiting for the control plane instead");
            Vec::new()
        }
        Err(_) => Vec::new(),
    }
}

/// Writes whenever what is held has changed. Never returns.
pub(crate) async fn keep(store: Option<Arc<LastGood>>, shared: &Shared) {
    let Some(store) = store else {
        return std::future::pending().await;
    };
    loop {
        shared.recorded.notified().await;
        if save_now(store.clone(), shared).await {
            sleep(WRITE_INTERVAL).await;
        }
    }
}

/// Writes what is held if it has changed; false if there was nothing to do.
pub(crate) async fn save_now(store: Arc<LastGood>, shared: &Shared) -> bool {
    let seen = store.disk().revisions;
    let Some(held) = shared.ledger().held_since(seen) else {
        return false;
    };
    let path = store.path();
    let written = spawn_blocking(move || store.write(&held)).await;
    if let Ok(Err(error)) = written {
        warn!(
            path = %path.display(),
            %error,
            "last good resources not written; a restart will have to wait for the control plane"
        );
    }
    true
}

impl LastGood {
    /// Makes the folder: now, since one that somebody takes away later is not wanted any more.
    pub(crate) fn new(dir: &Path, node_id: &str, authority: &str) -> LastGood {
        // Whether it can be written to is found out, and said, when there is something to write.
        _ = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        LastGood {
            dir: dir.to_owned(),
            owner: format!("{node_id} {authority}\n"),
            disk: Mutex::default(),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.join(FILE_NAME)
    }

    fn disk(&self) -> std::sync::MutexGuard<'_, OnDisk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> io::Result<Vec<DeltaDiscoveryResponse>> {
        let file = File::from(rustix::fs::open(
            self.path(),
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?);
        // These resources decide who may call: nobody else may have had a hand in them.
        let metadata = file.metadata()?;
        if !metadata.is_file()
            || metadata.uid() != rustix::process::geteuid().as_raw()
            || metadata.mode() & 0o022 != 0
        {
            return Err(invalid(
                "others may write to it, or it is not a file of this user",
            ));
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(invalid("too large"));
        }
        self.parse(&bytes)
    }

    fn parse(&self, bytes: &[u8]) -> io::Result<Vec<DeltaDiscoveryResponse>> {
        let rest = bytes
            .strip_prefix(HEADER.as_bytes())
            .ok_or_else(|| invalid("not of a format that this version reads"))?;
        let (sum, body) = rest
            .split_at_checked(17)
            .ok_or_else(|| invalid("cut short"))?;
        let checksum = fnv1a(body);
        if sum != format!("{checksum:016x}\n").as_bytes() {
            return Err(invalid("damaged"));
        }
        let mut rest = body
            .strip_prefix(self.owner.as_bytes())
            .ok_or_else(|| invalid("of another node or control plane"))?;
        let mut remembered = Vec::new();
        while !rest.is_empty() {
            let response = DeltaDiscoveryResponse::decode_length_delimited(&mut rest);
            remembered.push(response.map_err(|error| invalid(&error.to_string()))?);
        }
        self.disk().checksum = Some(checksum);
        Ok(remembered)
    }

    fn write(&self, held: &Held) -> io::Result<()> {
        // What can't be read is not used either.
        let kept = match held.revocations_only {
            true => self.read().unwrap_or_default(),
            false => Vec::new(),
        };
        let mut disk = self.disk();
        let mut body = self.owner.clone().into_bytes();
        body.extend_from_slice(&held.encoded);
        for response in kept {
            if response.type_url != Kind::RevocationList.type_url() {
                body.extend(response.encode_length_delimited_to_vec());
            }
        }
        let checksum = fnv1a(&body);
        if disk.checksum != Some(checksum) {
            self.replace(checksum, &body)?;
        }
        *disk = OnDisk {
            revisions: held.revisions,
            checksum: Some(checksum),
        };
        Ok(())
    }

    fn replace(&self, checksum: u64, body: &[u8]) -> io::Result<()> {
        let temporary = self.dir.join(format!("{FILE_NAME}.new"));
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        writeln!(file, "{HEADER}{checksum:016x}")?;
        file.write_all(body)?;
        file.sync_all()?;
        fs::rename(&temporary, self.path())?;
        File::open(&self.dir)?.sync_all()
    }
}

/// FNV-1a, 64 bits: finds damage, not malice; against that there is the file's mode.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
