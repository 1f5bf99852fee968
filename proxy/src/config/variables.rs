//! The variables there are. Help text, flags and the search for the nearest name all come from this table.

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Variable {
    pub(super) name: &'static str,
    /// Without the `--`.
    pub(super) flag: &'static str,
    /// How a value looks, for the help text.
    pub(super) shape: &'static str,
    pub(super) default: Option<&'static str>,
    pub(super) required: bool,
    pub(super) help: &'static str,
}

const fn required(
    name: &'static str,
    flag: &'static str,
    shape: &'static str,
    help: &'static str,
) -> Variable {
    Variable {
        name,
        flag,
        shape,
        default: None,
        required: true,
        help,
    }
}

const fn optional(
    name: &'static str,
    flag: &'static str,
    shape: &'static str,
    help: &'static str,
) -> Variable {
    Variable {
        name,
        flag,
        shape,
        default: None,
        required: false,
        help,
    }
}

const fn default(
    name: &'static str,
    flag: &'static str,
    shape: &'static str,
    default: &'static str,
    help: &'static str,
) -> Variable {
    Variable {
        name,
        flag,
        shape,
        default: Some(default),
        required: false,
        help,
    }
}

pub(super) const VARIABLES: &[Variable] = &[
    required(
        "SPIFFE_ENDPOINT_SOCKET",
        "spiffe-endpoint-socket",
        "SOCKET",
        "Workload API: unix:///path or tcp://ip:port",
    ),
    required(
        "KITH_XDS_ADDRESS",
        "xds-address",
        "URL",
        "Control plane: https://host:port",
    ),
    required(
        "KITH_XDS_SPIFFE_ID",
        "xds-spiffe-id",
        "SPIFFE_ID",
        "The control plane's principal; any other is refused",
    ),
    required(
        "KITH_NODE_ID",
        "node-id",
        "NAMESPACE/NAME",
        "This workload instance",
    ),
    default(
        "KITH_INBOUND_LISTEN",
        "inbound-listen",
        "IP:PORT",
        "[::]:15006",
        "Where redirected inbound connections arrive",
    ),
    default(
        "KITH_OUTBOUND_LISTEN",
        "outbound-listen",
        "IP:PORT",
        "[::]:15001",
        "Where redirected outbound connections arrive",
    ),
    default(
        "KITH_ADMIN_LISTEN",
        "admin-listen",
        "IP:PORT",
        "127.0.0.1:15000",
        "Admin (/config /certs /connections /logging /drain): a loopback address or unix:///path",
    ),
    default(
        "KITH_HEALTH_LISTEN",
        "health-listen",
        "IP:PORT",
        "[::]:15021",
        "/ready, /live, /metrics and /app-health/…",
    ),
    default(
        "KITH_WORKERS",
        "workers",
        "NUMBER",
        "1",
        "Data workers, one thread each",
    ),
    default(
        "KITH_ACCESS_LOG",
        "access-log",
        "WHERE",
        "stdout",
        "Access log: stdout, a file's path (opened anew on SIGHUP), or off",
    ),
    default(
        "KITH_RECORDS_WHEN_FULL",
        "records-when-full",
        "drop|block",
        "drop",
        "When the access log can't keep up: drop records, allowed requests' first, and count them; or block traffic",
    ),
    default(
        "KITH_LOG_QUERY",
        "log-query",
        "true|false",
        "false",
        "Keep the query in http.path of records; queries often hold secrets",
    ),
    default(
        "KITH_LOG",
        "log",
        "FILTER",
        "info",
        "Diagnostics on stderr: error, warn, info, debug, trace, or target=level,…",
    ),
    optional(
        "KITH_STATE_DIR",
        "state-dir",
        "DIRECTORY",
        "Where the last good configuration is kept, for starts without the control plane",
    ),
    default(
        "KITH_DRAIN_SECONDS",
        "drain-seconds",
        "SECONDS",
        "30",
        "How long requests may take to end once the proxy is told to stop",
    ),
    default(
        "KITH_EXPIRY_GRACE",
        "expiry-grace",
        "DURATION",
        "30s",
        "How long what is in flight may go on after its SVID has expired",
    ),
    default(
        "KITH_EXPIRY_GRACE_FOREIGN",
        "expiry-grace-foreign",
        "DURATION",
        "1h",
        "The same for open streams of peers that can't renew a lease; 0: none",
    ),
    optional(
        "KITH_SVID_HINT",
        "svid-hint",
        "HINT",
        "Which SVID to use when the Workload API offers several; else the first",
    ),
    optional(
        "KITH_SOCKET_MARK",
        "socket-mark",
        "MARK",
        "Firewall mark of every socket that the proxy opens (needs NET_ADMIN), for where it can't have a uid of its own; see capture --mark",
    ),
    default(
        "KITH_MAX_CONNECTIONS",
        "max-connections",
        "NUMBER",
        "65536",
        "Connections open at once; beyond it, new ones are reset and counted",
    ),
    optional(
        "KITH_APP_PROBES",
        "app-probes",
        "JSON",
        "The application's probes, made in the kubelet's place: {\"<container>/<probe>\": {\"httpGet\": …}}, served at /app-health/<container>/<probe> beside /ready; prestop and poststart have a key, and are served at …/<probe>/<key>",
    ),
    optional(
        "KITH_POD_IP",
        "pod-ip",
        "IP",
        "The pod's address, at which KITH_APP_PROBES are made",
    ),
];

/// The known name that is closest to a mistyped one, if any is close.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let nearest = VARIABLES
        .iter()
        .map(|variable| variable.name)
        .min_by_key(|known| distance(name, known))?;
    (distance(name, nearest) <= name.len() / 3).then_some(nearest)
}

/// Levenshtein.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, b) in other.bytes().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}
