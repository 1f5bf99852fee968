//! What a bare lab offers to those who bring a control plane of their own: an authority, cables to pull.

use serde_json::Value;

use super::authority::Authority;
use super::error::Error;
use super::namespace::Namespace;
use super::workload::Workload;
use super::{Lab, START};

impl Lab {
    /// An authority of the lab's trust domain, whose entries come later ([`Authority::add_entry`]), for a lab whose
    /// control plane is not the lab's own.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn authority_in(&self, place: &Workload) -> Result<Authority, Error> {
        self.start_authority(place.network(), &[]).await
    }

    pub(super) async fn start_authority(
        &self,
        namespace: &Namespace,
        entries: &[Value],
    ) -> Result<Authority, Error> {
        let authority = Authority::start(
            &self.kith,
            namespace,
            &self.options,
            &self.directory,
            entries,
        )?;
        authority.ready(START).await?;
        Ok(authority)
    }

    /// Takes a workload off the network, as when a pod is gone: nobody answers at its addresses.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn disconnect(&self, workload: &Workload) -> Result<(), Error> {
        self.network.detach(workload.addresses)
    }
}
