//! A whole mesh on one machine: for `kith demo`, end-to-end tests, interop tests and benchmarks alike.
//!
//! Every workload is a network namespace with addresses of its own (IPv4 and IPv6), connected to the others by a
//! switch. The dev authority, the control plane, each sidecar and each application are real processes in them;
//! sidecars sit behind a real capture. It works as root, where sidecars have a user of their own as in a pod,
//! and in an unprivileged user namespace, where they mark their packets instead.
//!
//! Nothing outlives a lab: not when it is dropped, not when its process is killed ([`keeper`]).
//!
//! ```no_run
//! use kith::lab::{Lab, LabOptions, WorkloadSpec};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let lab = Lab::new(LabOptions::default()).await?;
//! let web = lab.workload(WorkloadSpec::new("shop", "web")).await?;
//! let orders = lab.workload(WorkloadSpec::new("shop", "orders").port(8080, "HTTP")).await?;
//! let _app = orders.app(&["http", "--name", "orders"]).await?;
//! let reply = web.get("http://orders.shop:8080/").await?;
//! assert_eq!(reply.status, 403, "nothing is allowed that no policy allows");
//! let record = orders.wait_record(|record| record["decision"] == "deny").await?;
//! assert_eq!(record["source.principal"], web.spiffe_id());
//! # Ok(())
//! # }
//! ```

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use serde_json::json;

use error::During;
use keeper::Keeper;
use network::{Addresses, Network};

pub mod authority;
pub mod child;
pub mod container;
pub mod control;
mod directory;
pub mod error;
pub mod keeper;
pub mod machine;
pub mod namespace;
pub mod network;
pub mod options;
pub mod privileges;
pub mod process;
pub mod records;
pub mod sidecar;
pub mod spec;
pub mod workload;

pub use authority::Authority;
pub use control::Control;
pub use error::Error;
pub use options::LabOptions;
pub use process::Process;
pub use sidecar::Sidecar;
pub use spec::{Attested, WorkloadSpec};
pub use workload::{Output, Workload};

/// Port of the control plane.
const XDS_PORT: u16 = 15010;

/// How long a part may take to become ready; generous, for machines that do other things as well.
const START: Duration = Duration::from_secs(30);

/// A lab that is up. Dropping it takes everything down.
#[derive(Debug)]
pub struct Lab {
    kith: PathBuf,
    directory: PathBuf,
    options: LabOptions,
    network: Network,
    mesh: Option<MeshParts>,
    // The last one to be dropped: clears up behind all others.
    keeper: Keeper,
}

#[derive(Debug)]
struct MeshParts {
    /// None: SVIDs come from elsewhere.
    authority: Option<Authority>,
    control: Control,
    sidecars: sidecar::Mesh,
}

impl Lab {
    /// Builds the switch, starts the authority and the control plane, and waits until both are ready.
    ///
    /// An unprivileged process is started anew inside a user namespace, see [`privileges::ensure`].
    ///
    /// # Errors
    /// When a tool is missing, the system gives no namespaces, or a part doesn't become ready; logs are kept then.
    pub async fn new(options: LabOptions) -> Result<Self, Error> {
        privileges::tool("nft", "nftables")?;
        let mut lab = Self::bare(options)?;
        lab.open_mesh(None).await?;
        Ok(lab)
    }

    /// Gives a bare lab a mesh whose SVIDs come from elsewhere: the control plane's, `ns/kith-system/sa/control`, from this
    /// socket, where the lab's `kith` binary must be known, and each sidecar's as [`WorkloadSpec::attested`] says.
    ///
    /// # Errors
    /// When a tool is missing, or the control plane doesn't become ready; logs are kept then.
    pub async fn mesh_of(&mut self, workload_api: &Path) -> Result<(), Error> {
        privileges::tool("nft", "nftables")?;
        self.open_mesh(Some(workload_api)).await
    }

    async fn open_mesh(&mut self, elsewhere: Option<&Path>) -> Result<(), Error> {
        match self.start_mesh(elsewhere).await {
            Ok(mesh) => self.mesh = Some(mesh),
            Err(error) => return Err(self.kept(error)),
        }
        Ok(())
    }

    /// Only the switch: workloads get namespaces and addresses, but there is no mesh and no sidecar.
    ///
    /// # Errors
    /// When a tool is missing, or the system gives no namespaces.
    pub fn bare(options: LabOptions) -> Result<Self, Error> {
        privileges::tool("ip", "iproute2")?;
        let kith = options
            .kith
            .clone()
            .map_or_else(privileges::kith_binary, Ok)?;
        privileges::ensure(&kith)?;
        let directory = directory::make()?;
        let keeper = Keeper::start(&kith, &directory)?;
        if std::env::var_os("KITH_LAB_KEEP").is_some() {
            keeper.keep_files();
        }
        let network = Network::new(&keeper)?;
        let lab = Self {
            kith,
            directory,
            options,
            network,
            mesh: None,
            keeper,
        };
        for folder in ["log", "config"] {
            let path = lab.directory.join(folder);
            std::fs::create_dir(&path).during(|| format!("make {}", path.display()))?;
        }
        lab.name("127.0.0.1", "localhost")?;
        lab.name("::1", "localhost")?;
        Ok(lab)
    }

    async fn start_mesh(&self, elsewhere: Option<&Path>) -> Result<MeshParts, Error> {
        let (namespace, addresses) = self.network.attach(&self.keeper, false)?;
        let namespace = Arc::new(namespace);
        let control_id = format!(
            "spiffe://{}/ns/kith-system/sa/control",
            self.options.trust_domain
        );
        let own_socket = self.directory.join("control-plane.sock");
        let authority = match elsewhere {
            Some(_) => None,
            None => {
                let own = json!({"id": control_id, "socket": own_socket});
                Some(self.start_authority(&namespace, &[own]).await?)
            }
        };

        let mut spec = self.options.mesh.clone();
        spec["trustDomain"] = self.options.trust_domain.clone().into();
        let mesh_config = json!({
            "apiVersion": "kith.dev/v1alpha1", "kind": "MeshConfig",
            "metadata": {"name": "mesh"}, "spec": spec,
        });
        let files = self.directory.join("config");
        let mesh_file = files.join("mesh.yaml");
        std::fs::write(&mesh_file, directory::yaml(&[mesh_config]))
            .during(|| format!("write {}", mesh_file.display()))?;
        let control = Control::start(control::Place {
            kith: &self.kith,
            program: self.part(self.options.control.as_deref(), "__control"),
            namespace,
            listen: format!("[::]:{XDS_PORT}"),
            socket: elsewhere.unwrap_or(&own_socket),
            files,
            logs: self.directory.join("log"),
        })?;
        control.ready(START).await?;
        let sidecars = sidecar::Mesh {
            proxy: self.part(self.options.proxy.as_deref(), "__proxy"),
            xds_address: format!("https://{}:{XDS_PORT}", addresses.v4),
            xds_spiffe_id: control_id,
            environment: self.options.environment.clone(),
        };
        Ok(MeshParts {
            authority,
            control,
            sidecars,
        })
    }

    /// A binary of its own, or the one inside `kith`.
    fn part(&self, own: Option<&Path>, inside: &str) -> Vec<OsString> {
        match own {
            Some(path) => vec![path.into()],
            None => vec![self.kith.clone().into(), inside.into()],
        }
    }

    /// Adds a workload and waits until its sidecar, if it is to have one, is ready.
    ///
    /// # Errors
    /// When a part can't be started or doesn't become ready; logs are kept then.
    pub async fn workload(&self, spec: WorkloadSpec) -> Result<Arc<Workload>, Error> {
        Ok(self.workloads([spec]).await?.remove(0))
    }

    /// Adds workloads, all starting at the same time, and waits until they are ready.
    ///
    /// # Errors
    /// As [`Lab::workload`].
    pub async fn workloads(
        &self,
        specs: impl IntoIterator<Item = WorkloadSpec>,
    ) -> Result<Vec<Arc<Workload>>, Error> {
        let start = async {
            let mut started = Vec::new();
            for spec in specs {
                started.push(self.start_workload(spec).await?);
            }
            for workload in started.iter().filter(|workload| workload.sidecar.is_some()) {
                workload.ready(START).await?;
            }
            Ok(started)
        };
        start.await.map_err(|error| self.kept(error))
    }

    /// Adds a workload without waiting for its sidecar to be ready.
    ///
    /// # Errors
    /// When a part can't be started.
    pub async fn start_workload(&self, spec: WorkloadSpec) -> Result<Arc<Workload>, Error> {
        let (namespace, addresses) = self.network.attach(&self.keeper, spec.sidecar)?;
        // A service without a port is none.
        let service =
            (spec.service && !spec.ports.is_empty()).then(|| self.network.service_addresses());
        let directory = self
            .directory
            .join(format!("{}-{}", spec.namespace, spec.name));
        std::fs::create_dir(&directory).during(|| format!("make {}", directory.display()))?;
        self.name_workload(&spec, addresses, service)?;
        let mut workload = Workload {
            surroundings: workload::Surroundings {
                kith: self.kith.clone(),
                hosts: self.hosts(),
                directory: directory.clone(),
                trust_domain: self.options.trust_domain.clone(),
            },
            spec,
            addresses,
            service,
            sidecar: None,
            namespace: Arc::new(namespace),
            started: AtomicUsize::new(0),
        };
        if let Some(mesh) = &self.mesh {
            let documents = workload.spec.documents(addresses, service);
            if !documents.is_empty() {
                let file = format!(
                    "workload-{}-{}",
                    workload.spec.namespace, workload.spec.name
                );
                mesh.control.write(&file, &directory::yaml(&documents))?;
            }
            if workload.spec.sidecar {
                let socket = authority::socket(mesh.authority.as_ref(), &workload).await?;
                workload.sidecar = Some(Sidecar::start(&workload, &mesh.sidecars, &socket)?);
            }
        }
        Ok(Arc::new(workload))
    }

    /// The authority.
    ///
    /// # Panics
    /// In a lab without one.
    #[must_use]
    #[track_caller]
    pub fn authority(&self) -> &Authority {
        let authority = self.mesh().authority.as_ref();
        authority.unwrap_or_else(|| panic!("the SVIDs of this lab come from elsewhere"))
    }

    /// The control plane.
    ///
    /// # Panics
    /// In a bare lab.
    #[must_use]
    #[track_caller]
    pub fn control(&self) -> &Control {
        &self.mesh().control
    }

    #[track_caller]
    fn mesh(&self) -> &MeshParts {
        self.mesh
            .as_ref()
            .unwrap_or_else(|| panic!("a bare lab has no mesh"))
    }

    /// Writes a file of YAML documents, policies for instance, into the control plane's folder, and waits until
    /// they are in force everywhere. [`Control::write`] doesn't wait.
    ///
    /// # Errors
    /// As [`Control::apply`].
    ///
    /// # Panics
    /// In a bare lab.
    pub async fn apply(&self, name: &str, yaml: &str) -> Result<(), Error> {
        self.control().apply(name, yaml).await
    }

    /// Removes such a file, and waits likewise.
    ///
    /// # Errors
    /// As [`Control::apply`].
    ///
    /// # Panics
    /// In a bare lab.
    pub async fn withdraw(&self, name: &str) -> Result<(), Error> {
        self.control().withdraw(name).await
    }

    /// The folder with everything that the lab's processes write.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Has a file elsewhere removed when the lab goes, in whichever way.
    ///
    /// # Errors
    /// When the lab's keeper was killed.
    pub fn remove_at_end(&self, path: &Path) -> Result<(), Error> {
        self.keeper.remove(path)
    }

    /// Lets the folder stay when the lab goes. It also stays after a panic, and with `KITH_LAB_KEEP` set.
    pub fn keep_files(&self) {
        self.keeper.keep_files();
    }

    fn kept(&self, error: Error) -> Error {
        self.keep_files();
        Error::Kept {
            error: Box::new(error),
            directory: self.directory.clone(),
        }
    }

    fn hosts(&self) -> PathBuf {
        self.directory.join("hosts")
    }

    /// `orders` and `orders.shop` are the service, `orders.shop.pod` the workload itself; `v6.` before a name: by IPv6.
    fn name_workload(
        &self,
        spec: &WorkloadSpec,
        own: Addresses,
        service: Option<Addresses>,
    ) -> Result<(), Error> {
        let full = format!("{}.{}", spec.name, spec.namespace);
        self.name(&own.v4.to_string(), &format!("{full}.pod"))?;
        self.name(&own.v6.to_string(), &format!("v6.{full}.pod"))?;
        if let Some(service) = service {
            self.name(&service.v4.to_string(), &format!("{full} {}", spec.name))?;
            self.name(&service.v6.to_string(), &format!("v6.{full}"))?;
        }
        Ok(())
    }

    /// Appends, because every process of the lab sees this very file as its `/etc/hosts`.
    fn name(&self, address: &str, names: &str) -> Result<(), Error> {
        let path = self.hosts();
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path);
        file.and_then(|mut file| writeln!(file, "{address} {names}"))
            .during(|| format!("write {}", path.display()))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep_files();
            eprintln!("logs of the lab: {}", self.directory.display());
        }
    }
}
