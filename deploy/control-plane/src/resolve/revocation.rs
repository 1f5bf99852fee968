//! The one revocation list, for every sidecar.
//!
//! An entry whose time is over stays in: there is no clock here, a sidecar knows that it has no effect, and
//! the list does not change when nobody changed it.

use std::sync::Arc;

use kith_xds_client::Kind;
use kith_xds_client::api::mesh as api;
use prost::Message;

use crate::catalog::{Encoded, REVOCATION_LIST};
use crate::yaml::Loaded;

/// Everything that is revoked in any of `loaded`.
pub(crate) fn list<'a>(loaded: impl IntoIterator<Item = &'a Loaded>) -> Arc<Encoded> {
    let files = loaded.into_iter().flat_map(Loaded::files);
    let mut revocations: Vec<_> = files
        .flat_map(|file| &file.revocations)
        .map(|document| document.spec.to_wire())
        .collect();
    // The order of files is no content, and what is said twice holds once.
    revocations.sort_by_cached_key(Message::encode_to_vec);
    revocations.dedup();
    Encoded::new(
        Kind::RevocationList,
        REVOCATION_LIST,
        &api::RevocationList { revocations },
    )
}
