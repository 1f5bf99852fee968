//! What is given out beside the Workload API, and what is taken back.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use super::{Inner, LONGEST_TTL, State};
use crate::SpiffeId;
use crate::authority::AuthorityError;
use crate::authority::ca::IssuedSvid;

impl State {
    pub(in crate::authority) fn issue(
        &self,
        id: &SpiffeId,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<IssuedSvid, AuthorityError> {
        let mut inner = self.lock();
        let svid = inner.ca.issue(id, ttl.min(LONGEST_TTL), now)?;
        inner.issued += 1;
        // A root must outlive what it signed, also across a restart.
        inner.ca.save(self.state_dir.as_deref())?;
        Ok(svid)
    }

    /// Revokes a serial number by CRL, or takes it back. Says whether that changed anything.
    pub(in crate::authority) fn revoke(
        &self,
        serial: &str,
        revoked: bool,
    ) -> Result<bool, AuthorityError> {
        let changed = {
            let mut inner = self.lock();
            let Inner {
                ca, revocations, ..
            } = &mut *inner;
            let now = SystemTime::now();
            revocations.set(serial, revoked, ca, now, self.state_dir.as_deref())?
        };
        self.changed();
        Ok(changed)
    }

    /// CRLs that are handed over beside our own, whatever they are.
    pub(in crate::authority) fn set_foreign_crls(&self, lists: Vec<Vec<u8>>) {
        self.lock().revocations.set_foreign(lists);
        self.changed();
    }

    pub(in crate::authority) fn own_crls(&self) -> Vec<Vec<u8>> {
        self.lock().revocations.own().to_vec()
    }

    /// A JWT-SVID outside of the Workload API; `claims` are added, and replace those of the same name.
    pub(in crate::authority) fn issue_jwt(
        &self,
        id: &SpiffeId,
        audience: &[String],
        ttl: Option<Duration>,
        claims: Map<String, Value>,
    ) -> Result<String, AuthorityError> {
        let now = SystemTime::now();
        let mut inner = self.lock();
        let ttl = ttl.unwrap_or(inner.ttl).min(LONGEST_TTL);
        let key = inner.ca.signing_jwt_key(now, now + ttl);
        let token = key.sign(id, audience, ttl, now, claims)?;
        // A key must outlive what it signed, also across a restart.
        inner.ca.save(self.state_dir.as_deref())?;
        Ok(token)
    }

    /// Our JWKS document.
    pub(in crate::authority) fn jwks(&self) -> Value {
        self.lock().jwks()
    }

    pub(in crate::authority) fn bundle_der(&self) -> Vec<u8> {
        self.lock().ca.bundle_der()
    }

    pub(in crate::authority) fn bundle_pem(&self) -> String {
        self.lock().ca.bundle_pem()
    }
}
