//! Why a peer's certificate was refused: who is at fault, and what to do next.

use std::fmt;
use std::time::SystemTime;

use webpki::Error as PathError;

use super::profile::Leaf;
use crate::{SpiffeId, SpiffeIdError};

/// Why a certificate chain authenticates nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SvidError {
    /// The peer's certificate breaks the X.509-SVID profile or isn't well-formed X.509.
    Malformed { fault: &'static str },
    /// The URI SAN is no canonical SPIFFE ID.
    Id { uri: String, fault: SpiffeIdError },
    /// Past its validity.
    Expired {
        id: SpiffeId,
        not_after: SystemTime,
        now: SystemTime,
    },
    /// Before its validity.
    NotYetValid {
        id: SpiffeId,
        not_before: SystemTime,
        now: SystemTime,
    },
    /// A certificate between the leaf and the bundle is outside its validity.
    SignerOutsideValidity { id: SpiffeId },
    /// We hold no bundle for the peer's trust domain.
    TrustDomainUnknown { id: SpiffeId },
    /// The bundle of the peer's trust domain has no authority that is valid now.
    NoAnchor { id: SpiffeId },
    /// No path to the bundle of the peer's own trust domain.
    Untrusted { id: SpiffeId, fault: &'static str },
    /// A path exists, but one of its signers breaks the X.509-SVID profile.
    Signer { id: SpiffeId, fault: &'static str },
    /// Its issuer has taken it, or a certificate above it, back by a CRL of the Workload API.
    Revoked {
        id: SpiffeId,
        /// Of the certificate that was revoked, in lower-case hex.
        serial: String,
        /// Not the SVID itself but an authority that signed it.
        signer: bool,
    },
    /// Our own SVID has expired: we authenticate nobody with it, and nobody to it.
    OwnExpired {
        id: SpiffeId,
        not_after: SystemTime,
        now: SystemTime,
    },
}

/// The reason code of a refused certificate, as records and metrics have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SvidReason {
    Untrusted,
    Expired,
    Revoked,
    Malformed,
    TrustDomainUnknown,
}

impl SvidReason {
    pub fn as_str(self) -> &'static str {
        match self {
            SvidReason::Untrusted => "svid-untrusted",
            SvidReason::Expired => "svid-expired",
            SvidReason::Revoked => "svid-revoked",
            SvidReason::Malformed => "svid-malformed",
            SvidReason::TrustDomainUnknown => "trust-domain-unknown",
        }
    }
}

impl SvidError {
    pub fn reason(&self) -> SvidReason {
        match self {
            SvidError::Malformed { .. } | SvidError::Id { .. } => SvidReason::Malformed,
            SvidError::Expired { .. }
            | SvidError::NotYetValid { .. }
            | SvidError::SignerOutsideValidity { .. }
            | SvidError::OwnExpired { .. } => SvidReason::Expired,
            SvidError::Revoked { .. } => SvidReason::Revoked,
            SvidError::TrustDomainUnknown { .. } => SvidReason::TrustDomainUnknown,
            SvidError::NoAnchor { .. } | SvidError::Untrusted { .. } | SvidError::Signer { .. } => {
                SvidReason::Untrusted
            }
        }
    }

    /// The SPIFFE ID that the peer *claimed*, for the log. It is not proved.
    pub fn claimed_id(&self) -> Option<&SpiffeId> {
        match self {
            SvidError::Expired { id, .. }
            | SvidError::NotYetValid { id, .. }
            | SvidError::SignerOutsideValidity { id }
            | SvidError::TrustDomainUnknown { id }
            | SvidError::NoAnchor { id }
            | SvidError::Untrusted { id, .. }
            | SvidError::Revoked { id, .. }
            | SvidError::Signer { id, .. } => Some(id),
            SvidError::Malformed { .. } | SvidError::Id { .. } | SvidError::OwnExpired { .. } => {
                None
            }
        }
    }

    pub(super) fn from_webpki(error: &PathError, leaf: &Leaf, now: SystemTime) -> SvidError {
        let id = leaf.id.clone();
        let untrusted = |fault| SvidError::Untrusted {
            id: id.clone(),
            fault,
        };
        match error {
            // The leaf's own validity was checked before.
            PathError::CertExpired { .. } | PathError::CertNotValidYet { .. } => {
                if now > leaf.not_after || now < leaf.not_before {
                    leaf.outside_validity(now)
                } else {
                    SvidError::SignerOutsideValidity { id }
                }
            }
            PathError::UnknownIssuer => untrusted("no signer leads to the bundle"),
            PathError::InvalidSignatureForPublicKey => {
                untrusted("a signature doesn't match its signer's key")
            }
            PathError::EndEntityUsedAsCa => {
                untrusted("a certificate that is no authority was used to sign")
            }
            PathError::PathLenConstraintViolated => {
                untrusted("a signer allows fewer intermediates (RFC 5280 4.2.1.9)")
            }
            PathError::NameConstraintViolation => {
                untrusted("a signer's name constraints exclude it (RFC 5280 4.2.1.10)")
            }
            PathError::MaximumSignatureChecksExceeded
            | PathError::MaximumPathBuildCallsExceeded
            | PathError::MaximumPathDepthExceeded
            | PathError::MaximumNameConstraintComparisonsExceeded => {
                untrusted("too many intermediates to find a path in bounded time")
            }
            PathError::RequiredEkuNotFoundContext(_) => {
                untrusted("a signer's extended key usage doesn't cover this end of a connection")
            }
            PathError::UnsupportedSignatureAlgorithmContext(_)
            | PathError::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
                untrusted("signed with an algorithm that isn't accepted")
            }
            PathError::UnsupportedCriticalExtension => SvidError::Malformed {
                fault: "has a critical extension that isn't understood (RFC 5280 4.2)",
            },
            PathError::TrailingData(_) => SvidError::Malformed {
                fault: "has data after its end",
            },
            _ => SvidError::Malformed {
                fault: "is no well-formed X.509 v3 certificate, or one of its signers isn't",
            },
        }
    }
}

impl fmt::Display for SvidError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SvidError::Malformed { fault } => {
                write!(
                    f,
                    "the peer's certificate {fault}; it is no X.509-SVID, have its authority issue a proper one"
                )
            }
            SvidError::Id { uri, fault } => {
                write!(
                    f,
                    "the URI in the peer's certificate, {:?}, {fault}; have its authority issue a proper SVID",
                    Short(uri)
                )
            }
            SvidError::Expired { id, not_after, now } => write!(
                f,
                "the SVID of {id} expired {} s ago; its workload or agent doesn't renew it, or the clocks differ",
                seconds(*now, *not_after)
            ),
            SvidError::NotYetValid {
                id,
                not_before,
                now,
            } => write!(
                f,
                "the SVID of {id} becomes valid in {} s; compare the clocks of both hosts",
                seconds(*not_before, *now)
            ),
            SvidError::SignerOutsideValidity { id } => {
                write!(
                    f,
                    "an authority that signed the SVID of {id} is outside its validity; renew the authority"
                )
            }
            SvidError::TrustDomainUnknown { id } => write!(
                f,
                "the peer claims {id}, but the Workload API gave no bundle for trust domain {}; federate with it or refuse it",
                id.trust_domain()
            ),
            SvidError::NoAnchor { id } => write!(
                f,
                "the peer claims {id}, but no authority in the bundle of trust domain {} is valid now; renew that bundle",
                id.trust_domain()
            ),
            SvidError::Untrusted { id, fault } | SvidError::Signer { id, fault } => write!(
                f,
                "the peer claims {id}, but its chain isn't trusted by the bundle of trust domain {}: {fault}; \
                 check who issued it and that the bundle is current",
                id.trust_domain()
            ),
            SvidError::Revoked { id, serial, signer } => {
                let what = match signer {
                    false => "the SVID of",
                    true => "an authority that signed the SVID of",
                };
                write!(
                    f,
                    "{what} {id}, serial {serial}, was revoked by its issuer's CRL; \
                     if that is wrong, have the authority issue another"
                )
            }
            SvidError::OwnExpired { id, not_after, now } => write!(
                f,
                "our own SVID {id} expired {} s ago; look at the Workload API, which no longer renews it",
                seconds(*now, *not_after)
            ),
        }
    }
}

impl std::error::Error for SvidError {}

/// A URI from an attacker, cut to what a log line can bear.
struct Short<'a>(&'a str);

impl fmt::Debug for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LIMIT: usize = 120;
        match self.0.char_indices().nth(LIMIT) {
            Some((end, _)) => write!(f, "{:?}…", &self.0[..end]),
            None => write!(f, "{:?}", self.0),
        }
    }
}

fn seconds(later: SystemTime, earlier: SystemTime) -> u64 {
    later.duration_since(earlier).unwrap_or_default().as_secs()
}
