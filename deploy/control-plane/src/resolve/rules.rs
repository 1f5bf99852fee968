//! Everything that is not a workload, compiled once: what it means for one workload is then found by looking at what
//! can select it, and not at all there is.
//!
//! A cluster changes one pod at a time. Its rules change seldom, and are compiled anew as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use kith_certs::SpiffeId;
use kith_xds_client::Kind;
use kith_xds_client::api::mesh as api;

use super::authentication::Tokens;
use super::mtls::{Modes, Peers};
use super::select::Scope;
use super::selectors::Selectors;
use super::services::{self, DeclaredService};
use super::workload::{self, Mesh};
use super::{document_warnings, refuse_all_repeated, revocation, the_mesh_config};
use crate::catalog::{Counts, Encoded, Node};
use crate::jwks::KeySets;
use crate::problem::Problem;
use crate::yaml::schema::{Workload, WorkloadPort};
use crate::yaml::{Document, Documents, Loaded};

/// Compiled from documents and the keys known now; immutable.
#[derive(Debug)]
pub(crate) struct Rules {
    mesh: Mesh,
    /// Encoded once, however many workloads they select.
    policies: Selectors<Arc<Encoded>>,
    peers: Peers,
    tokens: Tokens,
    services: Selectors<DeclaredService>,
    revocations: Arc<Encoded>,
    counts: Counts,
    warnings: Vec<Problem>,
}

/// One workload, whoever describes it: a `Workload` document or a pod.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) labels: &'a BTreeMap<String, String>,
    pub(crate) service_account: &'a str,
    /// Canonical: IPv4-mapped IPv6 is IPv4.
    pub(crate) addresses: &'a [IpAddr],
    /// False: no sidecar, spoken to in plaintext.
    pub(crate) mesh: bool,
    /// Unless given, `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    pub(crate) spiffe_id: Option<&'a SpiffeId>,
    /// Declared ones.
    pub(crate) ports: &'a [WorkloadPort],
}

/// One workload as its own sidecar and as its clients see it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Placed {
    /// None: not in the mesh.
    pub(crate) principal: Option<SpiffeId>,
    /// Declared ports, and those that PeerAuthentication names.
    pub(crate) ports: Vec<api::Port>,
    /// None: not in the mesh, no sidecar.
    pub(crate) node: Option<Arc<Node>>,
}

/// Why a workload cannot be served: nothing of it may be guessed, so it gets nothing.
#[allow(
    dead_code,
    reason = "a folder is always read as a whole; what changes bit by bit needs it"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Misplaced {
    /// Its service account makes no SPIFFE ID.
    Principal(String),
    /// RequestAuthentications that contradict each other meet here; each names the file of one of them.
    Tokens(Arc<[Problem]>),
}

impl fmt::Display for Misplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Principal(message) => f.write_str(message),
            Self::Tokens(problems) => {
                let all: Vec<_> = problems.iter().map(ToString::to_string).collect();
                f.write_str(&all.join("; "))
            }
        }
    }
}

impl std::error::Error for Misplaced {}

#[allow(
    dead_code,
    reason = "a folder is always read as a whole; what changes bit by bit needs it"
)]
impl Rules {
    /// An issuer whose keys are not among `keys` gets none, so that no token of it is trusted.
    ///
    /// # Errors
    /// All contradictions between documents, and what a sidecar would refuse; by file and line.
    pub(crate) fn new(loaded: &Loaded, keys: &KeySets) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let rules = Self::compile(loaded, keys, &mut problems);
        if let Some(rules) = &rules {
            problems.extend(rules.tokens.refused([]));
        }
        problems.sort();
        match rules {
            Some(rules) if problems.is_empty() => Ok(rules),
            _ => Err(problems),
        }
    }

    /// None: there is no mesh to speak of. What is wrong with tokens is not asked yet.
    pub(super) fn compile(
        loaded: &Loaded,
        keys: &KeySets,
        problems: &mut Vec<Problem>,
    ) -> Option<Self> {
        refuse_all_repeated(loaded, problems);
        let mesh = the_mesh_config(loaded);
        let mesh = mesh.map_err(|problem| problems.push(problem)).ok()?;
        let root = mesh.root_namespace.as_str();
        let policies = loaded.files().flat_map(|file| &file.authorization_policies);
        let policies = policies.map(|document| {
            let scope = Scope::of(&document.metadata.namespace, root);
            let message = document.spec.to_wire();
            let encoded = Encoded::new(Kind::AuthorizationPolicy, document.id(), &message);
            (scope, &document.spec.selector.match_labels.0, encoded)
        });
        let mut warnings: BTreeSet<Problem> = document_warnings(loaded).collect();
        Some(Self {
            mesh: Mesh::new(mesh),
            policies: Selectors::new(policies),
            peers: Peers::new(loaded, root, &mut warnings),
            tokens: Tokens::new(loaded, root, keys),
            services: services::declared(loaded),
            revocations: revocation::list([loaded]),
            counts: counts(loaded),
            warnings: warnings.into_iter().collect(),
        })
    }

    /// What is allowed and surely surprises someone, whatever workloads there are.
    pub(crate) fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// The one revocation list.
    pub(crate) fn revocations(&self) -> &Arc<Encoded> {
        &self.revocations
    }

    /// How many documents of each kind these were made from.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// What one workload's sidecar and its clients must know. Costs what selects it, not what there is.
    ///
    /// # Errors
    /// It can't be served, and why.
    pub(crate) fn workload(&self, subject: &Subject<'_>) -> Result<Placed, Misplaced> {
        let tokens = self.tokens.of(subject.namespace, subject.labels);
        if subject.mesh {
            let refused = self.tokens.refused_together(&tokens);
            if !refused.is_empty() {
                return Err(Misplaced::Tokens(refused));
            }
        }
        self.principal(subject)
            .map(|principal| self.place(subject, principal, &tokens))
    }

    /// The RequestAuthentications that hold for a workload, by number.
    pub(crate) fn tokens_of(&self, subject: &Subject<'_>) -> Vec<usize> {
        self.tokens.of(subject.namespace, subject.labels)
    }

    /// What is wrong with those that meet at some workload: the same, whatever the workloads are called.
    pub(crate) fn contradictions(&self, met: BTreeSet<Vec<usize>>) -> Vec<Problem> {
        self.tokens.refused(met)
    }

    /// PeerAuthentications that select this workload and have no effect, because another one that does comes first.
    pub(crate) fn overlapping(&self, subject: &Subject<'_>) -> Vec<Problem> {
        let found = self.peers.of(subject.namespace, subject.labels);
        found.without_effect().collect()
    }

    /// The `Service` documents that select a workload, by number.
    pub(crate) fn services_of(&self, subject: &Subject<'_>) -> Vec<usize> {
        self.services.positions(subject.namespace, subject.labels)
    }

    /// All `Service` documents, in the order of their numbers.
    pub(crate) fn services(&self) -> impl Iterator<Item = &DeclaredService> {
        self.services.all()
    }

    pub(super) fn declared_services(&self) -> &Selectors<DeclaredService> {
        &self.services
    }

    pub(super) fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    pub(super) fn principal(&self, subject: &Subject<'_>) -> Result<Option<SpiffeId>, Misplaced> {
        if !subject.mesh {
            return Ok(None);
        }
        if let Some(given) = subject.spiffe_id {
            return Ok(Some(given.clone()));
        }
        let text = format!(
            "{}/ns/{}/sa/{}",
            self.mesh.id, subject.namespace, subject.service_account
        );
        let parsed = SpiffeId::parse(&text);
        parsed
            .map(Some)
            .map_err(|error| Misplaced::Principal(format!("`{text}` {error}")))
    }

    /// `tokens` are the numbers of those that hold here.
    pub(super) fn place(
        &self,
        subject: &Subject<'_>,
        principal: Option<SpiffeId>,
        tokens: &[usize],
    ) -> Placed {
        let peers = self.peers.of(subject.namespace, subject.labels);
        // Without a sidecar nobody is there to speak mTLS, whatever PeerAuthentication says.
        let modes = if subject.mesh {
            peers.modes()
        } else {
            Modes::disabled()
        };
        let ports = workload::ports(subject.ports, &modes);
        let node = principal.clone().map(|principal| {
            let mut policies: Box<[Arc<Encoded>]> = self
                .policies
                .of(subject.namespace, subject.labels)
                .into_iter()
                .cloned()
                .collect();
            policies.sort_unstable_by(|one, other| one.name().cmp(other.name()));
            let tokens: Vec<_> = tokens
                .iter()
                .map(|number| self.tokens.get(*number))
                .collect();
            let peers = peers.names().map(|id| ("PeerAuthentication", id));
            let authentications = peers.chain(
                (tokens.iter()).map(|token| ("RequestAuthentication", Arc::clone(&token.id))),
            );
            let authentications = authentications.collect();
            Arc::new(workload::node(
                subject,
                &self.mesh,
                principal,
                &modes,
                ports.clone(),
                policies,
                tokens.into_iter().map(|token| token.wire.clone()).collect(),
                authentications,
            ))
        });
        Placed {
            principal,
            ports,
            node,
        }
    }
}

/// What a `Workload` document says; `addresses` are [`addresses_of`] it.
pub(crate) fn subject<'a>(
    document: &'a Document<Workload>,
    addresses: &'a [IpAddr],
) -> Subject<'a> {
    Subject {
        namespace: &document.metadata.namespace,
        name: &document.metadata.name,
        labels: &document.metadata.labels,
        service_account: &document.spec.service_account,
        addresses,
        mesh: document.spec.mesh,
        spiffe_id: document.spec.spiffe_id.as_ref().map(|given| &given.0),
        ports: &document.spec.ports,
    }
}

pub(crate) fn addresses_of(document: &Document<Workload>) -> Vec<IpAddr> {
    document.spec.addresses.iter().map(|it| it.0).collect()
}

fn counts(loaded: &Loaded) -> Counts {
    let count = |of: fn(&Documents) -> usize| loaded.files().map(of).sum();
    Counts {
        workloads: count(|file| file.workloads.len()),
        services: count(|file| file.services.len()),
        authorization_policies: count(|file| file.authorization_policies.len()),
        peer_authentications: count(|file| file.peer_authentications.len()),
        request_authentications: count(|file| file.request_authentications.len()),
        revocations: count(|file| file.revocations.len()),
    }
}

#[cfg(test)]
mod tests;
