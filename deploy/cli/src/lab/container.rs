//! What a container runtime gives a program, for tests that run the containers of a pod's spec: a root of its own with
//! the mounts of the spec, a user, and no more capabilities than asked for. Everything else of the container, its
//! network above all, is [`super::child`]'s.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change,
    mount_remount, unmount,
};
use rustix::process::{Gid, Uid, chdir, pivot_root};
use rustix::thread::{
    CapabilitySet, CapabilitySets, UnshareFlags, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use serde::{Deserialize, Serialize};

use super::child::unshare;

/// Where the machine's programs and libraries are: what an image would bring along. Read-only.
const SYSTEM: [&str; 5] = ["usr", "bin", "sbin", "lib", "lib64"];

/// What they look up; the rest of `/etc` is the container's own.
const LOOKED_UP: [&str; 10] = [
    "alternatives",
    "group",
    "host.conf",
    "hosts",
    "ld.so.cache",
    "nsswitch.conf",
    "passwd",
    "protocols",
    "services",
    "ssl",
];

/// Surroundings of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// An empty folder. The container's root is mounted there, where nobody else sees it.
    pub root: PathBuf,
    /// Whether the root, mounts aside, can be written to.
    pub read_only: bool,
    /// In this order.
    pub mounts: Vec<Mount>,
    /// User to become.
    pub user: u32,
    /// Group to become.
    pub group: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// Names without `CAP_`: what may be left of root's powers. Another user than root has none of them.
    pub capabilities: Vec<String>,
    /// Whether programs with set-user-ID give nothing either.
    pub no_new_privileges: bool,
    /// Working directory.
    pub directory: Option<PathBuf>,
}

/// A file or folder of the machine, seen inside a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// On the machine.
    pub source: PathBuf,
    /// In the container, absolute.
    pub target: PathBuf,
    /// Whether it can be written to.
    pub read_only: bool,
}

impl Container {
    /// Gives the calling process its root. Needs CAP_SYS_ADMIN.
    pub(crate) fn enter_root(&self) -> Result<(), String> {
        unshare(UnshareFlags::NEWNS).map_err(|e| format!("cannot get mounts of its own: {e}"))?;
        let whole = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", whole).map_err(|e| format!("cannot keep mounts to itself: {e}"))?;
        self.furnish()
            .map_err(|e| format!("cannot furnish {}: {e}", self.root.display()))?;
        for mount in &self.mounts {
            self.mount(mount).map_err(|e| {
                let (source, target) = (mount.source.display(), mount.target.display());
                format!("cannot show {source} at {target}: {e}")
            })?;
        }
        self.pivot()
            .map_err(|e| format!("cannot make {} the root: {e}", self.root.display()))?;
        let directory = self.directory.as_deref().unwrap_or(Path::new("/"));
        chdir(directory).map_err(|e| format!("cannot work in {}: {e}", directory.display()))
    }

    fn furnish(&self) -> io::Result<()> {
        mount(
            "tmpfs",
            &self.root,
            "tmpfs",
            MountFlags::NOSUID,
            c"mode=755",
        )?;
        for name in SYSTEM {
            let (source, target) = (Path::new("/").join(name), self.root.join(name));
            match fs::read_link(&source) {
                Ok(elsewhere) => std::os::unix::fs::symlink(elsewhere, target)?,
                Err(_) if source.is_dir() => show(&source, &target, true)?,
                Err(_) => {}
            }
        }
        fs::create_dir(self.root.join("etc"))?;
        for name in LOOKED_UP {
            let source = Path::new("/etc").join(name);
            if source.exists() {
                show(&source, &self.root.join("etc").join(name), true)?;
            }
        }
        for name in ["proc", "dev"] {
            show(&Path::new("/").join(name), &self.root.join(name), false)?;
        }
        let tmp = self.root.join("tmp");
        fs::create_dir(&tmp)?;
        fs::set_permissions(&tmp, fs::Permissions::from_mode(0o1777))
    }

    fn mount(&self, mount: &Mount) -> io::Result<()> {
        let inside = mount
            .target
            .strip_prefix("/")
            .map_err(|_| io::Error::other("the path in the container is not absolute"))?;
        let target = self.root.join(inside);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        show(&mount.source, &target, mount.read_only)
    }

    fn pivot(&self) -> io::Result<()> {
        chdir(&self.root)?;
        // pivot_root(2): with both the same, the old root lies on top of the new one, from where it is taken away.
        pivot_root(".", ".")?;
        unmount(".", UnmountFlags::DETACH)?;
        if self.read_only {
            mount_remount("/", MountFlags::BIND | MountFlags::RDONLY, c"")?;
        }
        Ok(())
    }

    /// Gives up every power that the container is not to have, root's user id last.
    pub(crate) fn give_up_powers(&self) -> Result<(), String> {
        let mut left = CapabilitySet::empty();
        for name in &self.capabilities {
            left |= CapabilitySet::from_name(name)
                .ok_or_else(|| format!("there is no capability {name}"))?;
        }
        for bit in 0..u64::BITS {
            let capability = CapabilitySet::from_bits_retain(1 << bit);
            if left.contains(capability) {
                continue;
            }
            match remove_capability_from_bounding_set(capability) {
                // More than this kernel knows.
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(e) => return Err(format!("cannot give up {capability:?}: {e}")),
            }
        }
        clear_ambient_capability_set().map_err(|e| format!("cannot clear ambient ones: {e}"))?;
        self.become_user()
            .map_err(|e| format!("cannot become user {}: {e}", self.user))?;
        // capabilities(7): what exec gives root is the bounding set; nothing else may be handed on beside it.
        if self.user == 0 {
            let sets = CapabilitySets {
                effective: left,
                permitted: left,
                inheritable: CapabilitySet::empty(),
            };
            set_capabilities(None, sets).map_err(|e| format!("cannot keep only {left:?}: {e}"))?;
        }
        if self.no_new_privileges {
            set_no_new_privs(true).map_err(|e| format!("cannot rule out new privileges: {e}"))?;
        }
        Ok(())
    }

    fn become_user(&self) -> io::Result<()> {
        let groups: Vec<Gid> = self.groups.iter().map(|id| Gid::from_raw(*id)).collect();
        let (user, group) = (Uid::from_raw(self.user), Gid::from_raw(self.group));
        // Per thread in the kernel; `kith __child` has one thread.
        rustix::thread::set_thread_groups(&groups)?;
        rustix::thread::set_thread_res_gid(group, group, group)?;
        Ok(rustix::thread::set_thread_res_uid(user, user, user)?)
    }
}

/// Binds `source` over `target`, which is made as what the source is.
fn show(source: &Path, target: &Path, read_only: bool) -> io::Result<()> {
    if fs::symlink_metadata(target).is_err() {
        if source.is_dir() {
            fs::create_dir(target)?;
        } else {
            fs::File::create(target)?;
        }
    }
    mount_bind_recursive(source, target)?;
    if read_only {
        mount_remount(target, MountFlags::BIND | MountFlags::RDONLY, c"")?;
    }
    Ok(())
}
