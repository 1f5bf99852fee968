//! Who enforces the revocation list that is served now, and who does not.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kith_xds_client::Kind;
use serde::Serialize;

use crate::catalog::Version;
use crate::status::{Enforced, Served, Sidecar, State};

/// What became of an order.
#[derive(Debug, Default, Serialize)]
pub(super) struct Confirmation {
    pub(super) confirmed: Vec<Confirmed>,
    pub(super) not_confirmed: Vec<NotConfirmed>,
}

/// A sidecar that enforces it: new connections refused, live ones closed.
#[derive(Debug, Serialize)]
pub(super) struct Confirmed {
    node: String,
    principal: Box<str>,
    /// The version of the revocation list.
    revision: Version,
    /// Live connections that it closed; absent when the sidecar does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    closed: Option<u64>,
    /// From the order until the sidecar's ACK was here.
    ms: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct NotConfirmed {
    node: String,
    why: String,
}

/// Waits until every connected sidecar enforces the current list, at most until `deadline`.
pub(super) async fn confirm(state: &State, begun: Instant, deadline: Instant) -> Confirmation {
    let mut moves = state.moves.subscribe();
    loop {
        moves.borrow_and_update();
        // With many sidecars each answer is one of many: the whole is told when there is nobody left to wait for.
        let waiting = state.served().is_some_and(|served| {
            state
                .look_at_sidecars(|mut sidecars| sidecars.any(|it| enforced(it, &served).is_none()))
        });
        // The sender lives as long as the state.
        if !waiting
            || tokio::time::timeout_at(deadline.into(), moves.changed())
                .await
                .is_err()
        {
            return look(state, begun);
        }
    }
}

const NOT_CONNECTED: &str =
    "is not connected: it gets the list when it comes back, and enforces what it has until then";

fn look(state: &State, begun: Instant) -> Confirmation {
    let Some(served) = state.served() else {
        return Confirmation::default();
    };
    let mut confirmation = Confirmation::default();
    let mut connected = HashSet::new();
    state.look_at_sidecars(|sidecars| {
        for sidecar in sidecars {
            connected.insert(Arc::clone(&sidecar.node));
            let Some(enforced) = enforced(sidecar, &served) else {
                confirmation.not_confirmed.push(NotConfirmed {
                    why: why(sidecar),
                    node: sidecar.node.to_string(),
                });
                continue;
            };
            let took = enforced.heard.saturating_duration_since(begun);
            confirmation.confirmed.push(Confirmed {
                revision: enforced.version,
                // What an earlier list closed is not this order's doing.
                closed: if took > Duration::ZERO {
                    enforced.closed
                } else {
                    Some(0)
                },
                ms: (took.as_secs_f64() * 1e4).round() / 10.0,
                node: sidecar.node.to_string(),
                principal: sidecar.principal.clone(),
            });
        }
    });
    let catalog = &served.catalog;
    for node in catalog
        .nodes
        .keys()
        .filter(|node| !connected.contains(&***node))
    {
        confirmation.not_confirmed.push(NotConfirmed {
            node: node.to_string(),
            why: NOT_CONNECTED.to_owned(),
        });
    }
    let by_node = |a: &str, b: &str| a.cmp(b);
    confirmation
        .confirmed
        .sort_by(|a, b| by_node(&a.node, &b.node));
    confirmation
        .not_confirmed
        .sort_by(|a, b| by_node(&a.node, &b.node));
    confirmation
}

/// Revoked, lifted and revoked again is the same list with the same version: one that was confirmed before counts only
/// when nothing came in between.
fn enforced<'s>(sidecar: &'s Sidecar, served: &Served) -> Option<&'s Enforced> {
    let settled = !sidecar.unanswered_list && sidecar.list_seen == Some(served.lists);
    let enforced = sidecar.revocations.as_ref()?;
    (settled && enforced.version == served.catalog.revocations.stamp()).then_some(enforced)
}

fn why(sidecar: &Sidecar) -> String {
    match &sidecar.refused_list {
        Some(why) => format!("refused the list: {why}"),
        None if sidecar.subscriptions.of(Kind::RevocationList).is_none() => {
            "has not asked for revocations: its version is too old, or it is just starting"
                .to_owned()
        }
        None => "did not answer in time: look at its log and /ready".to_owned(),
    }
}
