//! One container: what its spec makes of a process.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use k8s_openapi::api::core::v1 as core;
use kith::lab::child::Birth;
use kith::lab::container::{Container as Surroundings, Mount};
use kith::lab::privileges;
use kith::lab::process::{Process, Recipe};

use super::Node;
use super::environment::{expand, variables};
use super::pod::Pod;

/// What a container may do that is told nothing else; containerd's and Docker's list.
const USUAL_POWERS: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "AUDIT_WRITE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// An image that this node has: a program of the workspace, at the path that the real image has it at.
pub struct Image {
    program: &'static str,
    entrypoint: &'static [&'static str],
    user: u32,
}

impl Image {
    /// By the last part of a reference, without tag and digest.
    fn find(reference: &str) -> Option<Self> {
        let name = reference.rsplit('/').next().unwrap_or_default();
        let name = name.split(['@', ':']).next().unwrap_or_default();
        let (program, entrypoint, user): (_, &'static [&'static str], _) = match name {
            "kith-proxy" => ("kith-proxy", &["/kith-proxy"], 1337),
            "kith-capture" => ("kith-proxy", &["/kith-proxy"], 0),
            "kith-control" => ("kith-control", &["/kith-control"], 65532),
            // The applications of the lab: `__app` and so on.
            "kith" => ("kith", &["/kith"], 65532),
            _ => return None,
        };
        Some(Self {
            program,
            entrypoint,
            user,
        })
    }
}

/// How far a container has come.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Not started, and why.
    Waiting(String),
    /// Since when.
    Running(String),
    /// Exit code, or 128 and the signal; when it began and ended.
    Ended(i32, String, String),
}

/// A container of a pod.
pub struct Container {
    /// As the API server has it.
    pub spec: core::Container,
    /// Whether it is an init container.
    pub init: bool,
    pub(super) state: RefCell<State>,
    pub(super) started: Cell<bool>,
    pub(super) ready: Cell<bool>,
    pub(super) restarts: Cell<i32>,
    pub(super) process: RefCell<Option<Rc<Process>>>,
}

impl Container {
    pub(super) fn new(spec: core::Container, init: bool) -> Self {
        Self {
            spec,
            init,
            state: RefCell::new(State::Waiting("PodInitializing".to_owned())),
            started: Cell::default(),
            ready: Cell::default(),
            restarts: Cell::default(),
            process: RefCell::default(),
        }
    }

    /// A native sidecar: an init container that goes on.
    #[must_use]
    pub fn is_sidecar(&self) -> bool {
        self.init && self.spec.restart_policy.as_deref() == Some("Always")
    }

    /// Its process, the last one if it was restarted.
    ///
    /// # Panics
    /// Before it was started.
    #[must_use]
    #[track_caller]
    pub fn process(&self) -> Rc<Process> {
        let process = self.process.borrow().clone();
        process.unwrap_or_else(|| panic!("container {} was never started", self.spec.name))
    }

    /// How often it was restarted.
    #[must_use]
    pub fn restarts(&self) -> i32 {
        self.restarts.get()
    }

    /// How far it has come.
    #[must_use]
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// How to start its process; `None` of `command`: the image's and the spec's own.
    pub(super) async fn recipe(
        &self,
        node: &Node,
        pod: &Pod,
        volumes: &BTreeMap<String, PathBuf>,
        command: Option<&[String]>,
    ) -> Result<Recipe, String> {
        let reference = self.spec.image.as_deref().unwrap_or_default();
        let image = Image::find(reference)
            .ok_or_else(|| format!("ErrImagePull: this node has no image {reference}"))?;
        let environment = variables(node, pod, &self.spec).await?;
        let known: BTreeMap<String, String> = environment.iter().cloned().collect();
        let number = fastrand::u32(..);
        let root = pod.directory().join(format!("root-{number:08x}"));
        std::fs::create_dir(&root).map_err(|e| e.to_string())?;
        let program = command.map_or_else(|| self.command(&image, &known), <[String]>::to_vec);
        let mounts = self.mounts(node, pod, &image, volumes)?;
        let container = self.surroundings(pod, &image, root, mounts)?;
        let name = match command {
            None => self.spec.name.clone(),
            Some(_) => format!("{}-exec-{number:08x}", self.spec.name),
        };
        Ok(Recipe {
            name,
            kith: privileges::kith_binary().map_err(|e| e.to_string())?,
            birth: Birth {
                net: Some(pod.workload.network().path()),
                container: Some(container),
                ..Birth::default()
            },
            program: program.into_iter().map(OsString::from).collect(),
            environment,
            logs: pod.directory().to_owned(),
        })
    }

    fn command(&self, image: &Image, known: &BTreeMap<String, String>) -> Vec<String> {
        let given = |list: &Option<Vec<String>>| -> Vec<String> {
            let list = list.iter().flatten();
            list.map(|text| expand(text, known)).collect()
        };
        let (command, arguments) = (given(&self.spec.command), given(&self.spec.args));
        let entrypoint = image.entrypoint.iter().map(|text| (*text).to_owned());
        if command.is_empty() {
            entrypoint.chain(arguments).collect()
        } else {
            command.into_iter().chain(arguments).collect()
        }
    }

    fn mounts(
        &self,
        node: &Node,
        pod: &Pod,
        image: &Image,
        volumes: &BTreeMap<String, PathBuf>,
    ) -> Result<Vec<Mount>, String> {
        let mut mounts = vec![
            Mount {
                source: node.programs().join(image.program),
                target: Path::new("/").join(image.program),
                read_only: true,
            },
            Mount {
                source: pod.hosts().to_owned(),
                target: "/etc/hosts".into(),
                read_only: true,
            },
        ];
        for mount in self.spec.volume_mounts.iter().flatten() {
            if mount.sub_path_expr.is_some() {
                return Err(format!(
                    "volumeMount {}: subPathExpr is more than this node can do",
                    mount.name
                ));
            }
            let folder = volumes
                .get(&mount.name)
                .ok_or_else(|| format!("there is no volume {}", mount.name))?;
            mounts.push(Mount {
                source: mount
                    .sub_path
                    .as_ref()
                    .map_or_else(|| folder.clone(), |path| folder.join(path)),
                target: PathBuf::from(&mount.mount_path),
                read_only: mount.read_only.unwrap_or(false),
            });
        }
        Ok(mounts)
    }

    fn surroundings(
        &self,
        pod: &Pod,
        image: &Image,
        root: PathBuf,
        mounts: Vec<Mount>,
    ) -> Result<Surroundings, String> {
        let object = pod.object();
        let whole = object
            .spec
            .as_ref()
            .and_then(|spec| spec.security_context.clone());
        let whole = whole.unwrap_or_default();
        let own = self.spec.security_context.clone().unwrap_or_default();
        if own.privileged == Some(true) {
            return Err("privileged is more than this node gives".to_owned());
        }
        let number = |id: i64| u32::try_from(id).map_err(|_| format!("{id} is no user or group"));
        let user = own
            .run_as_user
            .or(whole.run_as_user)
            .map_or(Ok(image.user), number)?;
        if user == 0 && own.run_as_non_root.or(whole.run_as_non_root) == Some(true) {
            return Err("runAsNonRoot, but the container would run as root".to_owned());
        }
        let group = own.run_as_group.or(whole.run_as_group);
        let groups = whole
            .fs_group
            .iter()
            .chain(whole.supplemental_groups.iter().flatten());
        let mut capabilities: Vec<String> = USUAL_POWERS.map(str::to_owned).into();
        if let Some(wanted) = own.capabilities {
            let dropped = wanted.drop.unwrap_or_default();
            capabilities.retain(|name| !dropped.iter().any(|drop| drop == "ALL" || drop == name));
            capabilities.extend(wanted.add.unwrap_or_default());
        }
        Ok(Surroundings {
            root,
            read_only: own.read_only_root_filesystem.unwrap_or(false),
            mounts,
            user,
            group: group.map_or(Ok(0), number)?,
            groups: groups.map(|id| number(*id)).collect::<Result<_, _>>()?,
            capabilities,
            no_new_privileges: own.allow_privilege_escalation == Some(false),
            directory: self.spec.working_dir.as_ref().map(PathBuf::from),
        })
    }
}
