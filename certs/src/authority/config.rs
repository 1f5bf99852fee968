//! What the authority is told: its configuration and its commands, both JSON.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::{SpiffeId, TrustDomain};

/// An authority of one trust domain.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorityConfig {
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub trust_domain: TrustDomain,
    /// Sockets to serve besides those that entries name.
    #[serde(default)]
    pub sockets: Vec<PathBuf>,
    #[serde(default)]
    pub entries: Vec<Entry>,
    /// The life of an SVID. It is renewed at half of it.
    #[serde(default = "default_ttl")]
    pub ttl_seconds: u64,
    /// The life of a root.
    #[serde(default = "default_root_ttl")]
    pub root_ttl_seconds: u64,
    /// How long a new root is published before it signs.
    #[serde(default = "default_overlap")]
    pub overlap_milliseconds: u64,
    /// Where roots and keys are kept (0600), so that a restarted authority is the same one.
    #[serde(default)]
    pub state_dir: Option<PathBuf>,
    #[serde(default)]
    pub federated: Vec<FederatedBundle>,
}

/// Who gets an identity. All selectors that are given must match; without any, everyone does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub id: SpiffeId,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
    /// The caller's user id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The caller's executable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The socket that the caller came through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
}

/// The roots of a foreign trust domain.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FederatedBundle {
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub trust_domain: TrustDomain,
    /// A file of PEM or concatenated DER certificates.
    pub bundle: PathBuf,
    /// A file with the domain's JWKS.
    #[serde(default)]
    pub jwks: Option<PathBuf>,
}

/// One way in which X.509 answers can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Malformed {
    NoSvids,
    EmptySvid,
    EmptyKey,
    EmptyBundle,
    /// A key that belongs to another certificate.
    WrongKey,
    /// A certificate for another SPIFFE ID than the message says.
    WrongId,
    /// Bytes instead of a chain.
    GarbageChain,
    /// One foreign bundle that is no DER, beside good ones.
    BadFederatedBundle,
    /// A federated bundle, of a stranger, for our own trust domain.
    FederatedOwnDomain,
    /// One CRL that is no DER, beside good ones.
    BadCrl,
    /// A message of more than 4 MiB.
    Oversized,
}

/// What can be asked of a running authority.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(
    tag = "command",
    rename_all = "kebab-case",
    rename_all_fields = "snake_case",
    deny_unknown_fields
)]
pub enum Command {
    RotateRoot,
    /// Takes out of the bundle, at once, every root that signs no more, whatever it signed: as after a compromise.
    RevokeOldRoots,
    RotateLeaf,
    Deny {
        on: bool,
    },
    Freeze {
        on: bool,
    },
    Malformed {
        kind: Option<Malformed>,
    },
    SetTtl {
        seconds: u64,
    },
    AddEntry {
        entry: Entry,
    },
    RemoveEntry {
        #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
        id: SpiffeId,
    },
    Federate {
        #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
        trust_domain: TrustDomain,
        /// PEM.
        bundle: String,
        /// Its JWKS document.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        jwks: Option<Value>,
    },
    Unfederate {
        #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
        trust_domain: TrustDomain,
    },
    /// Writes `svid.pem`, `key.pem` and `bundle.pem` into a directory.
    Issue {
        #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
        id: SpiffeId,
        dir: PathBuf,
        #[serde(default)]
        ttl_seconds: Option<u64>,
    },
    /// Gives out a JWT-SVID, `token` in the reply.
    IssueJwt {
        #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
        id: SpiffeId,
        audience: Vec<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ttl_seconds: Option<u64>,
        /// Added to the usual ones, and instead of those of the same name.
        #[serde(default, skip_serializing_if = "Map::is_empty")]
        claims: Map<String, Value>,
    },
    /// Revokes a certificate by CRL; its serial number in hex, as records have it.
    Revoke {
        serial: String,
    },
    /// Takes a revocation back.
    Unrevoke {
        serial: String,
    },
    /// The roots in force, as PEM in the reply.
    Bundle,
    /// Our JWKS document, in the reply.
    Jwks,
    Status,
}

impl AuthorityConfig {
    pub fn new(trust_domain: TrustDomain) -> AuthorityConfig {
        AuthorityConfig {
            trust_domain,
            sockets: Vec::new(),
            entries: Vec::new(),
            ttl_seconds: default_ttl(),
            root_ttl_seconds: default_root_ttl(),
            overlap_milliseconds: default_overlap(),
            state_dir: None,
            federated: Vec::new(),
        }
    }

    pub(super) fn overlap(&self) -> Duration {
        Duration::from_millis(self.overlap_milliseconds)
    }
}

impl Entry {
    /// An identity for everyone who comes through `socket`.
    pub fn for_socket(id: SpiffeId, socket: impl Into<PathBuf>) -> Entry {
        Entry {
            id,
            hint: String::new(),
            uid: None,
            path: None,
            socket: Some(socket.into()),
        }
    }
}

fn default_ttl() -> u64 {
    60
}

fn default_root_ttl() -> u64 {
    30 * 24 * 3600
}

fn default_overlap() -> u64 {
    1000
}

fn as_text<T: ToString, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}

fn from_text<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: std::str::FromStr<Err = crate::SpiffeIdError>,
    D: Deserializer<'de>,
{
    let text = String::deserialize(deserializer)?;
    text.parse()
        .map_err(|fault| serde::de::Error::custom(format!("{text:?} {fault}")))
}
