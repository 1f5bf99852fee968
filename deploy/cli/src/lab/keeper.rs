//! The process that clears up after a lab. It outlives the lab by a moment: when the pipe from the lab ends, because the
//! lab was dropped or because it was killed, the keeper kills whatever still runs in the lab's namespaces,
//! grandchildren included, and removes its folder. One way down for every way out, so that it is always tested.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::error::{During, Error};
use super::namespace::Namespace;

/// The lab's end of the pipe.
#[derive(Debug)]
pub struct Keeper {
    process: Child,
    pipe: Mutex<Option<ChildStdin>>,
}

impl Keeper {
    /// Starts a keeper for a lab whose files are in `directory`.
    ///
    /// # Errors
    /// When `kith` cannot be run.
    pub fn start(kith: &Path, directory: &Path) -> Result<Self, Error> {
        let mut process = Command::new(kith)
            .arg("__keeper")
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // Away from the terminal's Ctrl-C, which is what it must outlive.
            .process_group(0)
            .spawn()
            .during(|| format!("run {}", kith.display()))?;
        let pipe = Mutex::new(process.stdin.take());
        Ok(Self { process, pipe })
    }

    /// Puts the members of a namespace under the keeper's care.
    ///
    /// # Errors
    /// When the keeper is gone.
    pub fn hold(&self, namespace: &Namespace) -> Result<(), Error> {
        self.say(&format!("hold {}", namespace.path().display()))
    }

    /// Lets the lab's folder stay, for a person to look at.
    pub fn keep_files(&self) {
        let _ = self.say("keep");
    }

    /// Removes a file outside the lab's folder as well.
    ///
    /// # Errors
    /// When the keeper is gone.
    pub fn remove(&self, path: &Path) -> Result<(), Error> {
        self.say(&format!("remove {}", path.display()))
    }

    fn say(&self, line: &str) -> Result<(), Error> {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        let pipe = pipe.as_mut().ok_or_else(|| Error::Refused {
            part: "the lab's keeper".to_owned(),
            why: "has ended".to_owned(),
        })?;
        writeln!(pipe, "{line}").during(|| "talk to the lab's keeper".to_owned())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(
            self.pipe
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let _ = self.process.wait();
    }
}

/// Entry point of `kith __keeper DIRECTORY`.
#[must_use]
pub fn main(arguments: &[OsString]) -> ExitCode {
    let mut namespaces = Vec::new();
    let mut files = Vec::new();
    let mut keep = false;
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        match line.split_once(' ') {
            // Held open, so that the kernel cannot give its number to another namespace.
            Some(("hold", path)) => namespaces.extend(File::open(path)),
            Some(("remove", path)) => files.push(PathBuf::from(path)),
            _ => keep |= line == "keep",
        }
    }
    let inodes = namespaces
        .iter()
        .filter_map(|file| Some(file.metadata().ok()?.ino()))
        .collect();
    kill_members(&inodes);
    for file in files {
        let _ = std::fs::remove_file(file);
    }
    if let (false, Some(directory)) = (keep, arguments.first()) {
        let _ = std::fs::remove_dir_all(PathBuf::from(directory));
    }
    ExitCode::SUCCESS
}

/// Kills, by process id, all that runs in the namespaces, until nothing does.
#[expect(
    clippy::disallowed_methods,
    reason = "a process without a runtime may sleep"
)]
fn kill_members(inodes: &BTreeSet<u64>) {
    let deadline = Instant::now() + Duration::from_secs(5);
    let own = std::process::id();
    while Instant::now() < deadline {
        let members: Vec<u32> = members(inodes).filter(|pid| *pid != own).collect();
        if members.is_empty() {
            return;
        }
        for pid in members
            .iter()
            .filter_map(|pid| Pid::from_raw(i32::try_from(*pid).ok()?))
        {
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The processes whose network namespace is one of these.
pub(crate) fn members(inodes: &BTreeSet<u64>) -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc")
        .ok()
        .into_iter()
        .flatten()
        .flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let inode = std::fs::metadata(entry.path().join("ns/net")).ok()?.ino();
        inodes.contains(&inode).then_some(pid)
    })
}
