//! What this replica tells the others: which of the sidecars that are connected here enforce what. The replica that
//! writes status asks, since no replica has all sidecars.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use kith_certs::IdentitySource;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tracing::{debug, info};

use super::peer::Peer;
use super::stream::identity_lost;
use crate::status::{Acknowledgement, State};

/// The messages between replicas, generated from `proto/`.
pub(crate) mod api {
    #![allow(clippy::all, unreachable_pub, unused_qualifications, missing_docs)]
    tonic::include_proto!("kith.control.v1");
}

use self::api::{AcknowledgementsRequest, AcknowledgementsResponse};

/// Acknowledgements come in bursts; what comes within this time goes out together.
const GATHER: Duration = Duration::from_millis(50);
/// Nodes in one message. Each takes less than 1,100 bytes, and a message may have 4 MiB.
const MOST_NODES: usize = 2048;
/// Messages waiting for a replica that reads slowly.
const WAITING: usize = 2;

/// What the sidecar of one node says is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    /// The revision of its configuration.
    pub(crate) revision: Option<String>,
    /// The version of the revocation list.
    pub(crate) revocations: Option<String>,
    /// What it refused of its configuration, and why.
    pub(crate) refused_configuration: Option<String>,
    /// Why it refused the revocation list.
    pub(crate) refused_revocations: Option<String>,
}

pub(crate) type ByNode = HashMap<Arc<str>, Said>;

impl Said {
    /// A node may have several connections: one that it left without a word, beside the one it has now. What they
    /// disagree on is not known to be in force.
    pub(crate) fn agree(&mut self, other: &Self) {
        if self.revision != other.revision {
            self.revision = None;
        }
        if self.revocations != other.revocations {
            self.revocations = None;
        }
        // Whichever comes first, so that it is the same whoever is asked first.
        for (own, other) in [
            (
                &mut self.refused_configuration,
                &other.refused_configuration,
            ),
            (&mut self.refused_revocations, &other.refused_revocations),
        ] {
            *own = [own.take(), other.clone()].into_iter().flatten().min();
        }
    }
}

pub(crate) fn by_node(acknowledgements: Vec<Acknowledgement>) -> ByNode {
    let mut nodes = ByNode::with_capacity(acknowledgements.len());
    for one in acknowledgements {
        let said = Said {
            revision: one.revision,
            revocations: one.revocations,
            refused_configuration: one.refused_configuration,
            refused_revocations: one.refused_revocations,
        };
        match nodes.entry(one.node) {
            Entry::Vacant(vacant) => _ = vacant.insert(said),
            Entry::Occupied(mut known) => known.get_mut().agree(&said),
        }
    }
    nodes
}

/// The gRPC service.
pub(super) struct Replica {
    pub(super) state: Arc<State>,
    pub(super) identity: IdentitySource,
    pub(super) stopping: watch::Receiver<bool>,
}

type Responses = mpsc::Sender<Result<AcknowledgementsResponse, Status>>;

#[tonic::async_trait]
impl api::replica_server::Replica for Replica {
    type AcknowledgementsStream = ReceiverStream<Result<AcknowledgementsResponse, Status>>;

    async fn acknowledgements(
        &self,
        request: Request<AcknowledgementsRequest>,
    ) -> Result<Response<Self::AcknowledgementsStream>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let peer = peer.ok_or_else(|| Status::unauthenticated("connect with an SVID"))?;
        let own = self.identity.current();
        let own = own.ok_or_else(|| Status::unavailable("this replica has no SVID yet"))?;
        if peer.svid.id() != own.principal() {
            info!(principal = peer.svid.as_str(), address = %peer.address, "asked for what only replicas may know: refused");
            return Err(Status::permission_denied(
                "only replicas of this control plane may ask",
            ));
        }
        let (responses, stream) = mpsc::channel(WAITING);
        let (state, identity) = (Arc::clone(&self.state), self.identity.clone());
        let mut stopping = self.stopping.clone();
        // Ends with the connection, the peer's SVID or the server, as a sidecar's stream does.
        tokio::spawn(async move {
            let reason = tokio::select! {
                () = tell(&state, &responses) => return,
                reason = identity_lost(&peer.svid, &identity) => Status::unauthenticated(reason),
                _ = stopping.wait_for(|stopping| *stopping) => {
                    Status::unavailable("this replica is stopping")
                }
            };
            debug!(address = %peer.address, reason = reason.message(), "a replica's stream ended");
            // When the peer reads nothing, the end of the stream has to do.
            _ = responses.try_send(Err(reason));
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Everything, and then what changes, until nobody listens.
async fn tell(state: &State, responses: &Responses) {
    let mut moves = state.moves.subscribe();
    let mut told: Option<ByNode> = None;
    loop {
        moves.borrow_and_update();
        let now = by_node(state.acknowledgements());
        for message in difference(told.as_ref(), &now) {
            if responses.send(Ok(message)).await.is_err() {
                return;
            }
        }
        told = Some(now);
        tokio::select! {
            changed = moves.changed() => if changed.is_err() { return },
            () = responses.closed() => return,
        }
        tokio::time::sleep(GATHER).await;
    }
}

/// The messages that bring someone who was told `before` (None: nothing yet) up to `now`.
fn difference(before: Option<&ByNode>, now: &ByNode) -> Vec<AcknowledgementsResponse> {
    let known = |node: &Arc<str>| before.and_then(|before| before.get(node));
    let changed = now.iter().filter(|(node, said)| known(node) != Some(said));
    let mut changed = changed.map(|(node, said)| api::Acknowledgement {
        node: node.to_string(),
        revision: said.revision.clone(),
        revocations: said.revocations.clone(),
        refused_configuration: said.refused_configuration.clone(),
        refused_revocations: said.refused_revocations.clone(),
    });
    let gone = before.into_iter().flatten().map(|(node, _)| node);
    let gone = gone.filter(|node| !now.contains_key(*node));
    let mut gone = gone.map(ToString::to_string);
    let mut messages = Vec::new();
    loop {
        let message = AcknowledgementsResponse {
            changed: changed.by_ref().take(MOST_NODES).collect(),
            gone: gone.by_ref().take(MOST_NODES).collect(),
            complete: false,
        };
        if message.changed.is_empty() && message.gone.is_empty() {
            break;
        }
        messages.push(message);
    }
    match messages.last_mut() {
        Some(last) => last.complete = true,
        // The first message says that there is nothing, which is something.
        None if before.is_none() => messages.push(AcknowledgementsResponse {
            complete: true,
            ..Default::default()
        }),
        None => {}
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(said: &[(&str, Option<&str>, Option<&str>)]) -> ByNode {
        by_node(
            said.iter()
                .map(|(node, revision, list)| Acknowledgement {
                    node: (*node).into(),
                    revision: revision.map(Into::into),
                    revocations: list.map(Into::into),
                    refused_configuration: None,
                    refused_revocations: None,
                })
                .collect(),
        )
    }

    #[test]
    fn connections_of_one_node_that_disagree_enforce_nothing_together() {
        let said = nodes(&[
            ("a/a", Some("1"), Some("x")),
            ("a/a", Some("2"), Some("x")),
            ("a/b", Some("1"), None),
            ("a/b", Some("1"), None),
        ]);
        assert_eq!(
            said,
            nodes(&[("a/a", None, Some("x")), ("a/b", Some("1"), None)])
        );
        // Nor does a third that agrees with one of them make it so.
        let again = nodes(&[
            ("a/a", Some("1"), None),
            ("a/a", Some("2"), None),
            ("a/a", None, None),
        ]);
        assert_eq!(again, nodes(&[("a/a", None, None)]));
    }

    /// Sorted, since what is behind it has no order.
    fn short(messages: &[AcknowledgementsResponse]) -> Vec<String> {
        let each = messages.iter().map(|message| {
            let changed = message.changed.iter();
            let changed = changed.map(|one| format!("+{}@{:?}", one.node, one.revision));
            let gone = message.gone.iter().map(|node| format!("-{node}"));
            let mut parts: Vec<String> = changed.chain(gone).collect();
            parts.sort();
            format!(
                "{}{}",
                parts.join(" "),
                if message.complete { "." } else { "" }
            )
        });
        each.collect()
    }

    #[test]
    fn only_what_changed_is_told_again() {
        let before = nodes(&[("a", Some("1"), None), ("b", Some("1"), None)]);
        let now = nodes(&[("b", Some("2"), None), ("c", None, None)]);
        assert_eq!(short(&difference(None, &ByNode::new())), ["."]);
        assert!(difference(Some(&before), &before).is_empty());
        assert_eq!(
            short(&difference(Some(&before), &now)),
            [r#"+b@Some("2") +c@None -a."#]
        );
    }

    #[test]
    fn a_large_state_is_told_in_parts_of_which_the_last_is_marked() {
        let many = |count: usize| {
            let names = (0..count).map(|number| number.to_string());
            let said = Said {
                revision: None,
                revocations: None,
                refused_configuration: None,
                refused_revocations: None,
            };
            names
                .map(|name| (Arc::from(name), said.clone()))
                .collect::<ByNode>()
        };
        let messages = difference(None, &many(MOST_NODES + 1));
        let parts = messages.iter();
        let parts: Vec<_> = parts
            .map(|part| (part.changed.len(), part.complete))
            .collect();
        assert_eq!(parts, [(MOST_NODES, false), (1, true)]);
        assert_eq!(difference(None, &many(MOST_NODES)).len(), 1);
    }
}
