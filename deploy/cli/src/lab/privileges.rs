//! What the lab needs of the system: namespaces, as root or through a user namespace, and two tools.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use rustix::thread::{CapabilitySet, capabilities};

use super::child::Birth;
use super::error::{During, Error};

/// Set in a process that already is inside a user namespace of its own, to the user id it had outside.
const INSIDE: &str = "KITH_LAB_USER_NAMESPACE";

/// The user that sidecars run as, where the lab may switch users.
pub const SIDECAR_UID: u32 = 1337;

/// Gives this process the right to make network namespaces. An unprivileged process is started anew, from its first
/// line, inside a user namespace in which it is root, because a process with threads cannot move into one: call it
/// before anything whose repetition would be noticed.
///
/// # Errors
/// When the system allows unprivileged users no namespaces.
pub fn ensure(kith: &Path) -> Result<(), Error> {
    let held = capabilities(None)
        .during(|| "read this process's capabilities".to_owned())?
        .effective;
    if held.contains(CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN) {
        return Ok(());
    }
    if std::env::var_os(INSIDE).is_some() {
        return Err(Error::Refused {
            part: "user namespace".to_owned(),
            why: "it gives no right to make network namespaces (a security module forbids it); run as root".to_owned(),
        });
    }
    let exe = std::env::current_exe().during(|| "find the path of this program".to_owned())?;
    let program: Vec<OsString> = std::iter::once(exe.into())
        .chain(std::env::args_os().skip(1))
        .collect();
    let error = Birth {
        new_user: true,
        ..Birth::default()
    }
    .command(kith, &program)
    .env(INSIDE, real_uid().to_string())
    .exec();
    Err(error).during(|| format!("run {}", kith.display()))
}

/// The user id of the person who started this, outside of any user namespace that [`ensure`] made.
#[must_use]
pub fn real_uid() -> u32 {
    let outside = std::env::var(INSIDE)
        .ok()
        .and_then(|text| text.parse().ok());
    outside.unwrap_or_else(|| rustix::process::getuid().as_raw())
}

/// Whether sidecars can have a user of their own, as they have in a pod.
#[must_use]
pub fn can_switch_users() -> bool {
    let covers = |map: &str| {
        map.lines().any(|line| {
            let mut fields = line
                .split_whitespace()
                .filter_map(|field| field.parse::<u64>().ok());
            let (Some(first), Some(_), Some(count)) = (fields.next(), fields.next(), fields.next())
            else {
                return false;
            };
            (first..first + count).contains(&u64::from(SIDECAR_UID))
        })
    };
    let held = capabilities(None)
        .map(|sets| sets.effective)
        .unwrap_or(CapabilitySet::empty());
    held.contains(CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::CHOWN)
        && ["/proc/self/uid_map", "/proc/self/gid_map"]
            .iter()
            .all(|path| std::fs::read_to_string(path).is_ok_and(|map| covers(&map)))
}

/// The path of a system tool. Looks into the `sbin`s too, which an ordinary user's PATH often lacks.
///
/// # Errors
/// When it is not installed: names the Debian package that has it.
pub fn tool(name: &'static str, package: &'static str) -> Result<PathBuf, Error> {
    std::env::split_paths(&search_path())
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .ok_or(Error::MissingTool {
            tool: name,
            package,
        })
}

/// PATH with the `sbin`s.
pub(crate) fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    path.push(":/usr/sbin:/sbin");
    path
}

/// The `kith` binary: this program itself, KITH_BIN, or the one that cargo put beside this test or benchmark.
///
/// # Errors
/// When there is none.
pub fn kith_binary() -> Result<PathBuf, Error> {
    if let Some(path) = std::env::var_os("KITH_BIN") {
        return Ok(path.into());
    }
    let exe = std::env::current_exe().during(|| "find the path of this program".to_owned())?;
    if exe.file_name().is_some_and(|name| name == "kith") {
        return Ok(exe);
    }
    // target/debug/deps/NAME-HASH → target/debug/kith
    let candidates: Vec<PathBuf> = exe
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("kith"))
        .collect();
    candidates
        .iter()
        .find(|path| path.is_file())
        .cloned()
        .ok_or_else(|| Error::MissingBinary {
            looked: candidates
                .iter()
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
                .join(", "),
        })
}
