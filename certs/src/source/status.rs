//! How the identity stands, in facts and in one line for people.

use std::fmt;
use std::time::SystemTime;

use crate::trust::{RefusedBundle, RefusedCrl};
use crate::verify::profile::Leaf;
use crate::workload_api::proto::X509svid;
use crate::{SpiffeId, TrustSnapshot};

/// How the identity stands.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// The Workload API, as configured.
    pub endpoint: String,
    /// Whether its X.509 stream is up: a message arrived and no failure since.
    pub connected: bool,
    /// What went wrong last: a failed call, a refused update. Cleared by a good update.
    pub last_error: Option<String>,
    /// What went wrong last with the JWT bundles, which doesn't touch X.509.
    pub jwt_error: Option<String>,
    /// When the last usable message arrived, changed or not.
    pub last_update: Option<SystemTime>,
    /// Since when the Workload API answers PermissionDenied.
    pub denied_since: Option<SystemTime>,
    /// The SVID was withdrawn because the grace after PermissionDenied is over.
    pub withdrawn: bool,
    /// More than half of the SVID's remaining life has passed without a renewal.
    pub overdue: bool,
    /// Our SVID is past its end: every handshake is refused.
    pub expired: bool,
    /// A CRL says that our own SVID is revoked: peers who know that refuse us.
    pub revoked: bool,
    /// The Workload API told us not to ask again (InvalidArgument).
    pub gave_up: bool,
    /// How often our own SVID was replaced.
    pub rotations: u64,
    /// Updates that were refused whole; the last good one stayed in force.
    pub refused_updates: u64,
    pub generation: u64,
    /// All SVIDs that the last usable message offered.
    pub svids: Vec<SvidStatus>,
    /// The bundles in force.
    pub bundles: Vec<BundleStatus>,
    /// Bundles of the last usable message that were left out.
    pub refused_bundles: Vec<RefusedBundle>,
    /// The CRLs in force.
    pub crls: Vec<CrlStatus>,
    /// CRLs of the last usable message that were left out: what they revoke is in use.
    pub refused_crls: Vec<RefusedCrl>,
    /// JWT bundles of the last message about them that were left out.
    pub refused_jwt_bundles: Vec<RefusedBundle>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SvidStatus {
    pub id: SpiffeId,
    pub hint: String,
    pub serial: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// The one we present.
    pub in_use: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleStatus {
    pub trust_domain: String,
    pub authorities: usize,
    /// Of these, how many were valid when the snapshot was published.
    pub valid: usize,
    /// When the last of them expires.
    pub not_after: Option<SystemTime>,
    /// Why other certificates of the bundle are no authorities.
    pub ignored: Vec<&'static str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrlStatus {
    pub issuer: String,
    /// Whose authorities signed it. None: it counts only for peers that present an intermediate which did.
    pub trust_domains: Vec<String>,
    /// How many certificates it revokes.
    pub revoked: usize,
    pub next_update: SystemTime,
    /// The next one was overdue when the snapshot was published. It is honoured all the same.
    pub stale: bool,
}

impl Status {
    pub(super) fn starting(endpoint: String) -> Status {
        Status {
            endpoint,
            ..Status::default()
        }
    }

    pub(super) fn fixed(snapshot: &TrustSnapshot) -> Status {
        let mut status = Status {
            endpoint: "fixed".to_owned(),
            connected: true,
            ..Status::default()
        };
        status.adopt(snapshot, SystemTime::now());
        status.svids = vec![SvidStatus {
            id: snapshot.principal().clone(),
            hint: snapshot.hint().unwrap_or_default().to_owned(),
            serial: snapshot.serial().to_owned(),
            not_before: snapshot.not_before(),
            not_after: snapshot.not_after(),
            in_use: true,
        }];
        status
    }

    /// Whether handshakes can succeed: an SVID that is neither withdrawn nor expired.
    pub fn is_ready(&self) -> bool {
        self.generation > 0 && !self.withdrawn && !self.expired
    }

    pub(super) fn adopt(&mut self, snapshot: &TrustSnapshot, now: SystemTime) {
        self.generation = snapshot.generation();
        self.refused_bundles = snapshot.refused_bundles().to_vec();
        self.bundles = snapshot
            .bundles()
            .map(|(domain, bundle)| BundleStatus {
                trust_domain: domain.to_string(),
                authorities: bundle.len(),
                valid: bundle.valid_at(now),
                not_after: bundle.not_after(),
                ignored: bundle.ignored().to_vec(),
            })
            .collect();
        self.refused_crls = snapshot.crls().refused().to_vec();
        self.crls = snapshot
            .crls()
            .lists()
            .map(|crl| CrlStatus {
                issuer: crl.issuer().to_owned(),
                trust_domains: crl
                    .trust_domains()
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
                revoked: crl.len(),
                next_update: crl.next_update(),
                stale: crl.is_stale(now),
            })
            .collect();
        self.crls.sort_by(|a, b| a.issuer.cmp(&b.issuer));
        self.bundles
            .sort_by(|a, b| a.trust_domain.cmp(&b.trust_domain));
    }
}

impl SvidStatus {
    /// What can be said of an offered SVID; None of one that we couldn't use anyway.
    pub(super) fn of(svid: &X509svid, serial_in_use: &str) -> Option<SvidStatus> {
        let chain = crate::trust::split_der(&svid.x509_svid)?;
        let leaf = Leaf::parse(chain.first()?).ok()?;
        Some(SvidStatus {
            in_use: leaf.serial == serial_in_use,
            id: leaf.id,
            hint: svid.hint.clone(),
            serial: leaf.serial,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
        })
    }
}

/// One line for `/ready` and the log.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = self.svids.iter().find(|svid| svid.in_use);
        match own {
            _ if self.withdrawn => write!(f, "no SVID: {} denies us one", self.endpoint)?,
            Some(own) if self.expired => write!(f, "SVID {} expired", own.id)?,
            Some(own) if self.revoked => write!(f, "SVID {} was revoked by CRL", own.id)?,
            Some(own) if self.overdue => write!(f, "SVID {} is overdue for renewal", own.id)?,
            Some(own) => write!(f, "SVID {}", own.id)?,
            None => write!(f, "no SVID yet from {}", self.endpoint)?,
        }
        match (&self.last_error, self.connected) {
            (Some(error), _) => write!(f, " ({error})"),
            (None, true) => Ok(()),
            (None, false) => write!(f, " (waiting for the Workload API's first answer)"),
        }
    }
}
