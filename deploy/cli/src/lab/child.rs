//! `kith __child`: the last step before every program of the lab. It moves itself into the right namespaces, gives
//! up root where asked, ties its life to the lab's, and becomes the program, so that the process id stays the same.
//! A separate step, because code between fork and exec of a threaded process would have to be `unsafe`.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::{CommandExt, parent_id};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::process::{Gid, Signal, Uid, getgid, getuid, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::container::Container;

/// What the program is to be born into.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Birth {
    /// Process that must be the parent; the program is killed when it ends.
    pub parent: Option<u32>,
    /// User namespace to join first.
    pub user: Option<PathBuf>,
    /// Make a user namespace in which the caller is root.
    pub new_user: bool,
    /// Network namespace to join.
    pub net: Option<PathBuf>,
    /// File to be seen as `/etc/hosts`.
    pub hosts: Option<PathBuf>,
    /// User and group to become.
    pub uid: Option<u32>,
    /// What else makes it a container: its own root, user and powers, instead of `hosts` and `uid`.
    pub container: Option<Container>,
}

impl Birth {
    /// The command line that makes `program` through `kith`.
    #[must_use]
    pub fn command(&self, kith: &Path, program: &[OsString]) -> Command {
        let mut command = Command::new(kith);
        command.arg("__child");
        let mut flag = |name: &str, value: OsString| {
            command.arg(name).arg(value);
        };
        if let Some(parent) = self.parent {
            flag("--parent", parent.to_string().into());
        }
        if let Some(path) = &self.user {
            flag("--user", path.into());
        }
        if self.new_user {
            flag("--new-user", "yes".into());
        }
        if let Some(path) = &self.net {
            flag("--net", path.into());
        }
        if let Some(path) = &self.hosts {
            flag("--hosts", path.into());
        }
        if let Some(uid) = self.uid {
            flag("--uid", uid.to_string().into());
        }
        if let Some(container) = &self.container {
            // A struct of text and numbers: always JSON.
            let text = serde_json::to_string(container).unwrap_or_default();
            flag("--container", text.into());
        }
        command.arg("--").args(program);
        command
    }

    fn parse(arguments: &[OsString]) -> Result<(Self, &[OsString]), String> {
        let mut birth = Self::default();
        let mut rest = arguments;
        loop {
            match rest {
                [end, program @ ..] if end == "--" && !program.is_empty() => {
                    return Ok((birth, program));
                }
                [name, value, tail @ ..] => {
                    let number = || value.to_str().and_then(|text| text.parse().ok());
                    match name.to_str() {
                        Some("--parent") => birth.parent = number(),
                        Some("--user") => birth.user = Some(value.into()),
                        Some("--new-user") => birth.new_user = true,
                        Some("--net") => birth.net = Some(value.into()),
                        Some("--hosts") => birth.hosts = Some(value.into()),
                        Some("--uid") => birth.uid = number(),
                        Some("--container") => {
                            let text = value.to_str().unwrap_or_default();
                            let container = serde_json::from_str(text)
                                .map_err(|e| format!("--container cannot be read: {e}"))?;
                            birth.container = Some(container);
                        }
                        _ => return Err(format!("unknown argument {}", name.to_string_lossy())),
                    }
                    rest = tail;
                }
                _ => return Err("expected `--` and a program".to_owned()),
            }
        }
    }

    /// Becomes `program`. Returns only on failure.
    #[must_use]
    pub fn become_program(&self, program: &[OsString]) -> String {
        match self.enter(program) {
            Err(why) => why,
            Ok(never) => match never {},
        }
    }

    fn enter(&self, program: &[OsString]) -> Result<std::convert::Infallible, String> {
        let [name, arguments @ ..] = program else {
            return Err("no program given".to_owned());
        };
        if let Some(path) = &self.user {
            join(path, LinkNameSpaceType::User)
                .map_err(|e| format!("cannot join user namespace {}: {e}", path.display()))?;
        }
        if self.new_user {
            new_user_namespace().map_err(|e| {
                format!(
                    "cannot make a user namespace ({e}): run as root, or allow unprivileged user namespaces \
                     (sysctl user.max_user_namespaces above 0, kernel.unprivileged_userns_clone=1, \
                     kernel.apparmor_restrict_unprivileged_userns=0, as far as this system has them)"
                )
            })?;
        }
        if let Some(path) = &self.net {
            join(path, LinkNameSpaceType::Network)
                .map_err(|e| format!("cannot join network namespace {}: {e}", path.display()))?;
        }
        if let Some(path) = &self.hosts {
            replace_hosts(path)
                .map_err(|e| format!("cannot put {} over /etc/hosts: {e}", path.display()))?;
        }
        if let Some(container) = &self.container {
            container.enter_root()?;
            container.give_up_powers()?;
        }
        // Opened before root is given up: a checkout below a home directory may be closed to other users.
        let opened = self.uid.and_then(|_| File::open(name).ok());
        if let Some(uid) = self.uid {
            become_user(uid).map_err(|e| format!("cannot become user {uid}: {e}"))?;
        }
        // After every change of credentials, each of which clears it (prctl(2), PR_SET_PDEATHSIG).
        if let Some(parent) = self.parent {
            set_parent_process_death_signal(Some(Signal::KILL))
                .map_err(|e| format!("cannot tie to the lab: {e}"))?;
            if parent_id() != parent {
                return Err("the lab is gone".to_owned());
            }
        }
        let mut error = Command::new(name).args(arguments).exec();
        if let (io::ErrorKind::PermissionDenied, Some(file)) = (error.kind(), &opened) {
            let descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
            error = Command::new(descriptor).arg0(name).args(arguments).exec();
        }
        Err(format!("cannot run {}: {error}", name.to_string_lossy()))
    }
}

/// Entry point of `kith __child`. Exit code 127 when the program cannot be run, as shells have it; 2 when the lab itself
/// cannot begin, because the system gives no user namespace.
#[must_use]
pub fn main(arguments: &[OsString]) -> ExitCode {
    let (why, code) = match Birth::parse(arguments) {
        Ok((birth, program)) => (
            birth.become_program(program),
            if birth.new_user { 2 } else { 127 },
        ),
        Err(why) => (why, 127),
    };
    eprintln!("kith: {why}");
    ExitCode::from(code)
}

fn join(path: &Path, kind: LinkNameSpaceType) -> io::Result<()> {
    Ok(move_into_link_name_space(
        File::open(path)?.as_fd(),
        Some(kind),
    )?)
}

fn new_user_namespace() -> io::Result<()> {
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    unshare(UnshareFlags::NEWUSER)?;
    // user_namespaces(7): an unprivileged process may map its own group only after giving up setgroups.
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

fn replace_hosts(hosts: &Path) -> io::Result<()> {
    unshare(UnshareFlags::NEWNS)?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    Ok(mount_bind(hosts, "/etc/hosts")?)
}

fn become_user(uid: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid));
    // Per thread in the kernel; `kith __child` has one thread.
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    Ok(rustix::thread::set_thread_res_uid(uid, uid, uid)?)
}

#[expect(deprecated, reason = "the safe form; only its CLONE_FILES is unsound")]
pub(crate) fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    rustix::thread::unshare(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_birth_survives_its_command_line() {
        let birth = Birth {
            parent: Some(12),
            user: None,
            new_user: true,
            net: Some("/proc/1/fd/3".into()),
            hosts: Some("/tmp/hosts".into()),
            uid: Some(1337),
            container: Some(Container {
                root: "/tmp/root".into(),
                capabilities: vec!["NET_ADMIN".to_owned()],
                ..Container::default()
            }),
        };
        let program: Vec<OsString> = vec!["curl".into(), "--net".into(), "x".into()];
        let command = birth.command(Path::new("kith"), &program);
        let arguments: Vec<OsString> = command.get_args().map(Into::into).collect();
        assert_eq!(
            Birth::parse(&arguments[1..]).unwrap(),
            (birth, &program[..])
        );
    }
}
