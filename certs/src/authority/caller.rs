//! Who is calling, by what the kernel says, and which entries that entitles to.

use std::fs;
use std::path::{Path, PathBuf};

use tokio::net::unix::UCred;

use super::Entry;

/// The other end of a Workload API connection.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) socket: PathBuf,
    pub(super) uid: Option<u32>,
    /// Unknown when the caller is gone, or in a process namespace that we can't see.
    pub(super) executable: Option<PathBuf>,
}

impl Caller {
    pub(super) fn new(socket: &Path, credentials: Option<UCred>) -> Caller {
        let pid = credentials.and_then(|c| c.pid()).filter(|pid| *pid > 0);
        Caller {
            socket: socket.to_owned(),
            uid: credentials.map(|c| c.uid()),
            executable: pid.and_then(|pid| fs::read_link(format!("/proc/{pid}/exe")).ok()),
        }
    }

    /// Unknown never matches: fail closed.
    pub(super) fn is_entitled_to(&self, entry: &Entry) -> bool {
        entry.uid.is_none_or(|uid| self.uid == Some(uid))
            && entry
                .path
                .as_ref()
                .is_none_or(|path| self.executable.as_ref() == Some(path))
            && entry
                .socket
                .as_ref()
                .is_none_or(|socket| self.socket == *socket)
    }
}
