//! The kinds of resources, and one resource of any kind.

use std::fmt;

use prost::Message;

use crate::api::mesh;
use crate::schema;

/// What a resource is about. The order is the order in which kinds are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// First: nobody is dealt with before it is known who is no longer to be trusted.
    RevocationList,
    WorkloadConfig,
    AuthorizationPolicy,
    Address,
}

impl Kind {
    pub const ALL: [Kind; 4] = [
        Kind::RevocationList,
        Kind::WorkloadConfig,
        Kind::AuthorizationPolicy,
        Kind::Address,
    ];

    /// The message's name, e.g. `Address`; also the value of the label `type` in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Kind::WorkloadConfig => "WorkloadConfig",
            Kind::RevocationList => "RevocationList",
            Kind::AuthorizationPolicy => "AuthorizationPolicy",
            Kind::Address => "Address",
        }
    }

    /// The type URL of the xDS protocol.
    pub fn type_url(self) -> &'static str {
        match self {
            Kind::WorkloadConfig => "type.googleapis.com/kith.mesh.v1.WorkloadConfig",
            Kind::RevocationList => "type.googleapis.com/kith.mesh.v1.RevocationList",
            Kind::AuthorizationPolicy => "type.googleapis.com/kith.mesh.v1.AuthorizationPolicy",
            Kind::Address => "type.googleapis.com/kith.mesh.v1.Address",
        }
    }

    pub fn from_type_url(type_url: &str) -> Option<Kind> {
        Kind::ALL
            .into_iter()
            .find(|kind| kind.type_url() == type_url)
    }

    /// Decodes a resource, whole or not at all: a field or an enum value that this version does not
    /// know is an error, because skipping it could widen access.
    ///
    /// # Errors
    /// The field at fault, and why.
    pub fn decode(self, bytes: &[u8]) -> Result<Resource, schema::Fault> {
        schema::check(self.name(), bytes)?;
        let decoded = match self {
            Kind::WorkloadConfig => Message::decode(bytes).map(Resource::WorkloadConfig),
            Kind::RevocationList => Message::decode(bytes).map(Resource::RevocationList),
            Kind::AuthorizationPolicy => Message::decode(bytes).map(Resource::AuthorizationPolicy),
            Kind::Address => Message::decode(bytes).map(Resource::Address),
        };
        decoded.map_err(|error| schema::Fault::new("", error.to_string()))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A decoded resource. What its fields mean, and whether they make sense together, is the consumer's to say.
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    WorkloadConfig(mesh::WorkloadConfig),
    RevocationList(mesh::RevocationList),
    AuthorizationPolicy(mesh::AuthorizationPolicy),
    Address(mesh::Address),
}

/// A resource with the name and version under which the control plane sent it.
#[derive(Clone, Debug, PartialEq)]
pub struct Versioned {
    pub name: String,
    pub version: String,
    pub resource: Resource,
}
