//! How `kith demo exec` finds the demo that is running: a file that only its owner can read or replace.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::lab::Lab;
use crate::lab::child::Birth;
use crate::lab::privileges::real_uid;

/// What is said about a running demo.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pid: u32,
    /// When the process started, in clock ticks since boot: process ids are used again.
    started: u64,
    pub(crate) policies: PathBuf,
    hosts: PathBuf,
    pub(crate) workloads: Vec<Place>,
}

/// A workload of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) net: PathBuf,
    pub(crate) records: Option<PathBuf>,
}

impl State {
    pub(crate) fn new(policies: PathBuf, hosts: PathBuf, workloads: Vec<Place>) -> Self {
        let pid = std::process::id();
        Self {
            pid,
            started: started(pid).unwrap_or(0),
            policies,
            hosts,
            workloads,
        }
    }

    /// Lets other `kith` commands of the same user find this demo, until its lab goes.
    ///
    /// # Errors
    /// When another demo of this user runs, or the file cannot be written.
    pub(crate) fn publish(&self, lab: &Lab) -> io::Result<()> {
        let path = path();
        if let Ok(other) = Self::find() {
            let why = format!(
                "another demo of yours runs already (process {}): `kith demo exec` finds that one",
                other.pid
            );
            return Err(io::Error::other(why));
        }
        let _ = std::fs::remove_file(&path);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        lab.remove_at_end(&path).map_err(io::Error::other)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)
    }

    /// The demo that this user runs.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn find() -> io::Result<Self> {
        let path = path();
        let none = || {
            io::Error::new(
                io::ErrorKind::NotFound,
                "no demo runs: start one with `kith demo`",
            )
        };
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path)
            .map_err(|_| none())?;
        refuse_foreign(&file, &path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let state: Self = serde_json::from_slice(&text).map_err(|_| none())?;
        if started(state.pid) == Some(state.started) {
            Ok(state)
        } else {
            Err(none())
        }
    }

    /// What must be joined to run a command as a workload of the demo does.
    ///
    /// # Errors
    /// When it has no such workload: names those it has.
    pub(crate) fn birth(&self, workload: &str) -> io::Result<Birth> {
        let place = self.place(workload)?;
        let user = PathBuf::from(format!("/proc/{}/ns/user", self.pid));
        let inode = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.ino());
        let same = inode(&user)? == inode(Path::new("/proc/self/ns/user"))?;
        Ok(Birth {
            user: (!same).then_some(user),
            net: Some(place.net.clone()),
            hosts: Some(self.hosts.clone()),
            ..Birth::default()
        })
    }

    pub(crate) fn place(&self, workload: &str) -> io::Result<&Place> {
        self.workloads
            .iter()
            .find(|place| place.name == workload)
            .ok_or_else(|| {
                let names: Vec<&str> = self
                    .workloads
                    .iter()
                    .map(|place| place.name.as_str())
                    .collect();
                io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("the demo has no `{workload}`, only {}", names.join(", ")),
                )
            })
    }
}

fn path() -> PathBuf {
    let uid = real_uid();
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(folder) if !folder.is_empty() => PathBuf::from(folder).join("kith-demo.json"),
        _ => std::env::temp_dir().join(OsString::from(format!("kith-demo-{uid}.json"))),
    }
}

/// Another user's file in a shared folder must not decide which namespaces a command of ours joins.
fn refuse_foreign(file: &File, path: &Path) -> io::Result<()> {
    let metadata = file.metadata()?;
    if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & 0o077 != 0 {
        return Err(io::Error::other(format!(
            "{} is not this user's own: remove it",
            path.display()
        )));
    }
    Ok(())
}

/// Field 22 of `/proc/PID/stat` (proc_pid_stat(5)); the name before it may contain anything but its last `)`.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(19)?.parse().ok()
}
