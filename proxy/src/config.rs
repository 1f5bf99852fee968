//! The only reader of environment and flags. What comes out is plain and typed; what is wrong is said all at once.
//!
//! Every variable is also a flag of `kith-proxy run` (`KITH_XDS_ADDRESS` is `--xds-address`), and a flag wins.

mod command;
mod mistakes;
mod probes;
pub(crate) mod values;
mod variables;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use command::{Command, Flags, command_line};
use mistakes::Reader;
pub use mistakes::{Mistake, Mistakes};
pub use probes::{AppProbe, AppProbes, Check, HttpCheck, ProbeKey};

pub use crate::record::{Destination as AccessLog, WhenFull};

/// Everything that the sidecar is told at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `unix:///path` or `tcp://ip:port`.
    pub spiffe_endpoint_socket: String,
    /// `https://host:port`.
    pub xds_address: String,
    /// The control plane's principal.
    pub xds_spiffe_id: String,
    /// `namespace/name`.
    pub node_id: String,
    pub inbound_listen: SocketAddr,
    pub outbound_listen: SocketAddr,
    pub admin_listen: AdminListen,
    pub health_listen: SocketAddr,
    pub workers: usize,
    pub access_log: AccessLog,
    pub records_when_full: WhenFull,
    /// Records keep the query of a path.
    pub log_query: bool,
    /// A tracing filter, already checked.
    pub log: String,
    pub state_dir: Option<PathBuf>,
    /// How long requests may take to end once the proxy is told to stop.
    pub drain: Duration,
    pub expiry_grace: Duration,
    /// Zero: none.
    pub expiry_grace_foreign: Duration,
    pub svid_hint: Option<String>,
    /// SO_MARK of every socket that the proxy opens.
    pub socket_mark: Option<u32>,
    pub max_connections: usize,
    /// What the sidecar checks of the application in the kubelet's place.
    pub app_probes: AppProbes,
    /// Where it does.
    pub pod_ip: Option<IpAddr>,
}

/// Admin is for this pod only (security.md, row 21).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminListen {
    /// A loopback address.
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Config {
    /// Ports of the proxy itself, which nobody may reach through it.
    pub(crate) fn own_ports(&self) -> [u16; 4] {
        let admin = match &self.admin_listen {
            AdminListen::Tcp(address) => address.port(),
            AdminListen::Unix(_) => self.health_listen.port(),
        };
        [
            self.inbound_listen.port(),
            self.outbound_listen.port(),
            self.health_listen.port(),
            admin,
        ]
    }

    /// From this process's environment, and flags over it.
    ///
    /// # Errors
    /// Every mistake there is, not only the first.
    pub fn load(flags: Flags) -> Result<Config, Mistakes> {
        // What isn't UTF-8 gets replacement characters here, and no value with one is accepted.
        let environment = std::env::vars_os().map(|(name, value)| {
            (
                name.to_string_lossy().into_owned(),
                value.to_string_lossy().into_owned(),
            )
        });
        Config::from_parts(environment, flags)
    }

    /// # Errors
    /// Every mistake there is, not only the first.
    pub fn from_parts(
        environment: impl Iterator<Item = (String, String)>,
        flags: Flags,
    ) -> Result<Config, Mistakes> {
        let mut read = Reader::new(environment, flags);
        let spiffe_endpoint_socket =
            read.required("SPIFFE_ENDPOINT_SOCKET", values::endpoint_socket);
        let xds_address = read.required("KITH_XDS_ADDRESS", values::xds_address);
        let xds_spiffe_id = read.required("KITH_XDS_SPIFFE_ID", values::spiffe_id);
        let node_id = read.required("KITH_NODE_ID", values::node_id);
        let inbound_listen = read.required("KITH_INBOUND_LISTEN", values::listen);
        let outbound_listen = read.required("KITH_OUTBOUND_LISTEN", values::listen);
        let admin_listen = read.required("KITH_ADMIN_LISTEN", values::admin_listen);
        let health_listen = read.required("KITH_HEALTH_LISTEN", values::listen);
        let workers = read.required("KITH_WORKERS", values::workers);
        let access_log = read.required("KITH_ACCESS_LOG", values::access_log);
        let records_when_full = read.required("KITH_RECORDS_WHEN_FULL", values::when_full);
        let log_query = read.required("KITH_LOG_QUERY", values::boolean);
        let log = read.required("KITH_LOG", values::log_filter);
        let state_dir = read.optional("KITH_STATE_DIR", values::directory);
        let drain = read.required("KITH_DRAIN_SECONDS", values::seconds);
        let expiry_grace = read.required("KITH_EXPIRY_GRACE", values::duration);
        let expiry_grace_foreign = read.required("KITH_EXPIRY_GRACE_FOREIGN", values::duration);
        let svid_hint = read.optional("KITH_SVID_HINT", values::hint);
        let socket_mark = read.optional("KITH_SOCKET_MARK", values::mark);
        let max_connections = read.required("KITH_MAX_CONNECTIONS", values::max_connections);
        let app_probes = read.optional("KITH_APP_PROBES", probes::app_probes);
        let pod_ip = read.optional("KITH_POD_IP", values::pod_ip);

        let admin_tcp = match &admin_listen {
            Some(AdminListen::Tcp(address)) => Some(*address),
            _ => None,
        };
        read.refuse_clashes(&[
            ("KITH_INBOUND_LISTEN", inbound_listen),
            ("KITH_OUTBOUND_LISTEN", outbound_listen),
            ("KITH_ADMIN_LISTEN", admin_tcp),
            ("KITH_HEALTH_LISTEN", health_listen),
        ]);
        let app_probes = app_probes.unwrap_or_default();
        read.refuse_probes_without_address(&app_probes);
        let own = [inbound_listen, outbound_listen, admin_tcp, health_listen];
        read.refuse_own_ports(
            &app_probes,
            own.map(|listen| listen.map_or(0, |it| it.port())),
        );

        // A value that is missing here has been reported above, so that nothing is missing without a mistake.
        let config = || {
            Some(Config {
                spiffe_endpoint_socket: spiffe_endpoint_socket?,
                xds_address: xds_address?,
                xds_spiffe_id: xds_spiffe_id?,
                node_id: node_id?,
                inbound_listen: inbound_listen?,
                outbound_listen: outbound_listen?,
                admin_listen: admin_listen?,
                health_listen: health_listen?,
                workers: workers?,
                access_log: access_log?,
                records_when_full: records_when_full?,
                log_query: log_query?,
                log: log?,
                state_dir,
                drain: drain?,
                expiry_grace: expiry_grace?,
                expiry_grace_foreign: expiry_grace_foreign?,
                svid_hint,
                socket_mark,
                max_connections: max_connections?,
                app_probes,
                pod_ip,
            })
        };
        read.finish(config())
    }
}

#[cfg(test)]
mod tests;
