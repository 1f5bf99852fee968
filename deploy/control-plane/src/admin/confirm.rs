//! Who enforces the revocation list that is served now, and who does not.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::status::{Sidecar, State};

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
    principal: String,
    /// The version of the revocation list.
    revision: String,
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
        let confirmation = look(state, begun);
        let waiting = confirmation
            .not_confirmed
            .iter()
            .any(|sidecar| sidecar.why != NOT_CONNECTED);
        if !waiting {
            return confirmation;
        }
        // The sender lives as long as the state.
        if tokio::time::timeout_at(deadline.into(), moves.changed())
            .await
            .is_err()
        {
            return confirmation;
        }
    }
}

const NOT_CONNECTED: &str =
    "is not connected: it gets the list when it comes back, and enforces what it has until then";

fn look(state: &State, begun: Instant) -> Confirmation {
    let Some(catalog) = state.catalog.borrow().clone() else {
        return Confirmation::default();
    };
    let current = catalog.revocations.version();
    let mut confirmation = Confirmation::default();
    let mut connected = HashSet::new();
    for sidecar in state.sidecars() {
        connected.insert(sidecar.node.clone());
        // Revoked, lifted and revoked again is the same list with the same version: one that was confirmed before counts
        // only when nothing came in between.
        let seen = sidecar.catalog.as_ref();
        let settled =
            !sidecar.unanswered_list && seen.is_some_and(|seen| Arc::ptr_eq(seen, &catalog));
        match sidecar.revocations.as_ref() {
            Some(enforced) if settled && enforced.version == current => {
                let took = enforced.heard.saturating_duration_since(begun);
                confirmation.confirmed.push(Confirmed {
                    revision: enforced.version.clone(),
                    // What an earlier list closed is not this order's doing.
                    closed: if took > Duration::ZERO {
                        enforced.closed
                    } else {
                        Some(0)
                    },
                    ms: (took.as_secs_f64() * 1e4).round() / 10.0,
                    node: sidecar.node,
                    principal: sidecar.principal,
                });
            }
            _ => confirmation.not_confirmed.push(NotConfirmed {
                why: why(&sidecar),
                node: sidecar.node,
            }),
        }
    }
    for node in catalog
        .nodes
        .keys()
        .filter(|node| !connected.contains(*node))
    {
        confirmation.not_confirmed.push(NotConfirmed {
            node: node.clone(),
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

fn why(sidecar: &Sidecar) -> String {
    let refused = sidecar
        .last_nack
        .as_ref()
        .filter(|nack| nack.r#type == "RevocationList" && sidecar.refused > 0);
    match refused {
        Some(nack) => format!("refused the list: {}", nack.message),
        None if !sidecar.subscriptions.contains_key("RevocationList") => {
            "has not asked for revocations: its version is too old, or it is just starting"
                .to_owned()
        }
        None => "did not answer in time: look at its log and /ready".to_owned(),
    }
}
