//! Network namespaces without names: each lives as long as something holds its descriptor or runs in it, so that
//! nothing is left in `/run/netns` when the lab dies, however it dies.
//!
//! Architecture invariant: only this module and [`super::child`] change the namespace of a thread.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::thread;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// A network namespace, alive at least as long as this value.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// Makes an empty namespace: no address, loopback down.
    ///
    /// # Errors
    /// Without CAP_SYS_ADMIN over the process's user namespace; see [`super::privileges`].
    pub fn new() -> io::Result<Self> {
        // Namespaces belong to threads, so one that is thrown away makes it.
        on_fresh_thread(|| {
            unshare_net()?;
            Ok(Self {
                file: File::open("/proc/thread-self/ns/net")?,
            })
        })?
    }

    /// Where another process of this machine finds the namespace while this process holds it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.file.as_raw_fd()
        ))
    }

    /// The number that `/proc/PID/ns/net` shows for members of this namespace.
    ///
    /// # Errors
    /// When the descriptor cannot be looked at, which does not happen on Linux.
    pub fn inode(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.ino())
    }

    /// Moves the calling thread in, for good. Sockets that it opens and processes that it starts are inside.
    ///
    /// # Errors
    /// Without CAP_SYS_ADMIN.
    pub fn enter(&self) -> io::Result<()> {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(())
    }

    /// Runs `work` on a fresh thread inside and waits for it.
    ///
    /// # Errors
    /// When the thread cannot be made or moved in, or panicked.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_fresh_thread(|| {
            self.enter()?;
            Ok(work())
        })?
    }
}

fn on_fresh_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        thread::Builder::new()
            .name("lab-namespace".to_owned())
            .spawn_scoped(scope, work)?
            .join()
            .map_err(|_| io::Error::other("a thread in a network namespace panicked"))
    })
}

// rustix deprecates its safe form because of CLONE_FILES, which splits descriptor tables. A network namespace doesn't.
#[expect(deprecated, reason = "the safe form; only its CLONE_FILES is unsound")]
fn unshare_net() -> rustix::io::Result<()> {
    rustix::thread::unshare(UnshareFlags::NEWNET)
}
