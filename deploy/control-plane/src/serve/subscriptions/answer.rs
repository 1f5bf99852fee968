//! How the client answers what it is sent.

use std::sync::Arc;
use std::time::Instant;

use kith_xds_client::Kind;
use kith_xds_client::api::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};

use super::{Push, Subscriptions};
use crate::catalog::Catalog;
use crate::problem::printable;

/// Of why something was refused, in bytes.
const MOST_WORDS: usize = 300;

/// What a request amounted to.
#[derive(Debug, Default)]
pub(in crate::serve) struct Answer {
    pub(in crate::serve) responses: Vec<DeltaDiscoveryResponse>,
    pub(in crate::serve) nack: Option<Nack>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::serve) struct Nack {
    pub(in crate::serve) kind: Kind,
    pub(in crate::serve) message: String,
}

impl Subscriptions {
    pub(super) fn on_answer(
        &mut self,
        catalog: &Catalog,
        request: &DeltaDiscoveryRequest,
        now: Instant,
    ) -> Answer {
        // Unknown nonces are none of ours: an answer to a stream before this one, at worst.
        let nonce = request.response_nonce.parse::<u64>().ok();
        let Some(push) = nonce.and_then(|nonce| self.outstanding.remove(&nonce)) else {
            return Answer::default();
        };
        match &request.error_detail {
            None => {
                self.on_ack(push);
                Answer::default()
            }
            Some(error) => {
                let nack = Nack {
                    kind: push.kind,
                    message: error.message.clone(),
                };
                let why = printable(&error.message, MOST_WORDS).into();
                Answer {
                    responses: self.on_nack(catalog, push, &why, now),
                    nack: Some(nack),
                }
            }
        }
    }

    fn on_ack(&mut self, push: Push) {
        let names = self.kinds.entry(push.kind).or_default();
        for (name, version) in push.names {
            if let Some(held) = names.get_mut(&name).filter(|held| held.nonce < push.nonce) {
                held.acknowledged = version;
                held.nonce = push.nonce;
                self.refused.remove(push.kind, name);
            }
        }
        let newer = self
            .config_acknowledged
            .as_ref()
            .is_none_or(|(nonce, _)| *nonce < push.nonce);
        if push.kind == Kind::WorkloadConfig && newer {
            self.config_acknowledged = push.node.map(|node| (push.nonce, node));
        }
    }

    fn on_nack(
        &mut self,
        catalog: &Catalog,
        push: Push,
        why: &Arc<str>,
        now: Instant,
    ) -> Vec<DeltaDiscoveryResponse> {
        let names = self.kinds.entry(push.kind).or_default();
        let several = push.names.len() > 1;
        let mut again = Vec::new();
        for (name, version) in push.names {
            // What has been acknowledged or sent anew since is not in question.
            let Some(held) = names.get(&name) else {
                continue;
            };
            if held.nonce > push.nonce || held.sent != version {
                continue;
            }
            self.refused.add(push.kind, &name, push.at, why);
            let found = catalog.find(&self.node, push.kind, &name);
            if several && found.map(|found| found.stamp()) == version {
                again.push(vec![(name, found.cloned())]);
            }
        }
        self.push(catalog, push.kind, again, now)
    }

    /// A client newer than this control plane: there are no such resources here, and it should know.
    pub(super) fn on_unknown_kind(&mut self, request: DeltaDiscoveryRequest) -> Answer {
        if request.resource_names_subscribe.is_empty() {
            return Answer::default();
        }
        let response = DeltaDiscoveryResponse {
            type_url: request.type_url,
            nonce: self.next_nonce().to_string(),
            removed_resources: request.resource_names_subscribe,
            ..Default::default()
        };
        Answer {
            responses: vec![response],
            nack: None,
        }
    }
}
