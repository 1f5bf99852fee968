//! Our own SVID out of an update: choosing it, parsing it, refusing an unusable one.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use super::bundle::split_der;
use crate::verify::profile::Leaf;
use crate::workload_api::proto::X509svid;
use crate::{SpiffeId, SpiffeIdError, SvidError};

/// Why an update of the Workload API can't be used. The last good one stays in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    #[error("it has no SVID (SPIFFE_Workload_API 5.2.1)")]
    NoSvid,
    #[error(
        "none of its {offered} SVIDs has the hint {hint:?}; give one that hint or change KITH_SVID_HINT"
    )]
    NoSuchHint { hint: String, offered: usize },
    #[error("the SVID's field `{0}` is empty (SPIFFE_Workload_API 4.5)")]
    EmptyField(&'static str),
    #[error("the SVID's SPIFFE ID {id:?} {fault}")]
    Id { id: String, fault: SpiffeIdError },
    #[error("the SVID's certificate chain is no concatenated DER")]
    Chain,
    #[error("our own SVID is unusable: {0}")]
    Leaf(SvidError),
    #[error("the SVID's certificate is for {certificate}, the message says {message}")]
    IdMismatch {
        certificate: SpiffeId,
        message: SpiffeId,
    },
    #[error("the SVID's private key is no PKCS#8 key of a supported type")]
    Key,
    #[error("the SVID's private key doesn't belong to its certificate")]
    KeyMismatch,
    #[error("the SVID expired before it arrived; compare this host's clock with the authority's")]
    Expired,
    #[error("the bundle of our own trust domain is unusable: {0}")]
    Bundle(String),
}

#[derive(Clone)]
pub(super) struct OwnSvid {
    pub(super) id: SpiffeId,
    pub(super) serial: String,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    pub(super) hint: Option<String>,
    pub(super) certified_key: Arc<CertifiedKey>,
}

/// SPIFFE_Workload_API 5.3: the first SVID is the default identity. 5.2.1: of several with
/// the same hint the first counts.
pub(super) fn choose<'a>(
    svids: &'a [X509svid],
    hint: Option<&str>,
) -> Result<&'a X509svid, UpdateError> {
    let first = svids.first().ok_or(UpdateError::NoSvid)?;
    match hint {
        None => Ok(first),
        Some(hint) => {
            svids
                .iter()
                .find(|svid| svid.hint == hint)
                .ok_or_else(|| UpdateError::NoSuchHint {
                    hint: hint.to_owned(),
                    offered: svids.len(),
                })
        }
    }
}

impl OwnSvid {
    pub(super) fn parse(svid: &X509svid, now: SystemTime) -> Result<OwnSvid, UpdateError> {
        // SPIFFE_Workload_API 4.5: a message whose mandatory fields are empty is discarded.
        for (field, empty) in [
            ("spiffe_id", svid.spiffe_id.is_empty()),
            ("x509_svid", svid.x509_svid.is_empty()),
            ("x509_svid_key", svid.x509_svid_key.is_empty()),
            ("bundle", svid.bundle.is_empty()),
        ] {
            if empty {
                return Err(UpdateError::EmptyField(field));
            }
        }
        let named = SpiffeId::parse(&svid.spiffe_id).map_err(|fault| UpdateError::Id {
            id: svid.spiffe_id.clone(),
            fault,
        })?;
        let chain = split_der(&svid.x509_svid).ok_or(UpdateError::Chain)?;
        let leaf =
            Leaf::parse(chain.first().ok_or(UpdateError::Chain)?).map_err(UpdateError::Leaf)?;
        if leaf.id != named {
            return Err(UpdateError::IdMismatch {
                certificate: leaf.id,
                message: named,
            });
        }
        if leaf.not_after < now {
            return Err(UpdateError::Expired);
        }
        Ok(OwnSvid {
            id: leaf.id,
            serial: leaf.serial,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            hint: Some(svid.hint.clone()).filter(|hint| !hint.is_empty()),
            certified_key: certified_key(&chain, &svid.x509_svid_key)?,
        })
    }
}

/// The key is borrowed from the message, which wipes it: no copy of ours outlives this call
/// except the parsed one, which AWS-LC wipes.
fn certified_key(chain: &[&[u8]], pkcs8: &[u8]) -> Result<Arc<CertifiedKey>, UpdateError> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8));
    let key = any_supported_type(&key).map_err(|_| UpdateError::Key)?;
    let chain = chain
        .iter()
        .map(|der| CertificateDer::from(der.to_vec()))
        .collect();
    let certified = CertifiedKey::new(chain, key);
    certified
        .keys_match()
        .map_err(|_| UpdateError::KeyMismatch)?;
    Ok(Arc::new(certified))
}
