//! One sidecar's stream: who it is, what it may have, and everything it is sent.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kith_certs::IdentitySource;
use kith_xds_client::Kind;
use kith_xds_client::api::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use tokio::sync::{mpsc, watch};
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};

use super::facts::Facts;
use super::peer::Peer;
use super::subscriptions::{Answer, Nack, Subscriptions};
use crate::catalog::{Catalog, REVOCATION_LIST};
use crate::problem::printable;
use crate::status::{Enforced, LastNack, Listed, Sidecar, State, Svid};

/// A stream says who it is in its first request, and has no reason to wait with it.
const FIRST_REQUEST: Duration = Duration::from_secs(10);

/// Of what a sidecar says, in bytes.
const MOST_WORDS: usize = 2000;

/// How long a client that doesn't read may keep a stream that is over.
const LAST_WORDS: Duration = Duration::from_secs(1);

pub(super) type Responses = mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>;

/// Serves one stream to its end, and tells the client why it ended.
pub(super) async fn run(
    peer: Peer,
    mut requests: Streaming<DeltaDiscoveryRequest>,
    responses: Responses,
    state: Arc<State>,
    identity: IdentitySource,
    mut stopping: watch::Receiver<bool>,
) {
    let end = tokio::select! {
        end = follow(&peer, &mut requests, &responses, &state) => end,
        reason = identity_lost(&peer, &identity) => Err(Status::unauthenticated(reason)),
        _ = stopping.wait_for(|stopping| *stopping) => {
            Err(Status::unavailable("this control plane is stopping: connect again"))
        }
    };
    let principal = peer.svid.as_str();
    match end {
        Ok(()) => debug!(principal, address = %peer.address, "stream ended by the sidecar"),
        Err(status) => {
            info!(principal, address = %peer.address, reason = printable(status.message(), MOST_WORDS), "stream ended");
            // The client may be gone or stuck already, and then needs no reason.
            _ = tokio::time::timeout(LAST_WORDS, responses.send(Err(status))).await;
        }
    }
}

/// A connection lives only as long as its peer's SVID and the trust in it (identity.md, X.509-SVID rule 6).
async fn identity_lost(peer: &Peer, identity: &IdentitySource) -> String {
    let mut snapshots = identity.subscribe();
    loop {
        let now = SystemTime::now();
        let lease = peer
            .svid
            .not_after()
            .duration_since(now)
            .unwrap_or(Duration::ZERO);
        if lease.is_zero() {
            return "the SVID that opened this stream has expired: connect with the current one"
                .into();
        }
        if let Some(snapshot) = snapshots.borrow_and_update().clone()
            && let Err(error) = snapshot.still_trusts(&peer.svid, now)
        {
            return format!("the SVID that opened this stream is no longer trusted: {error}");
        }
        tokio::select! {
            () = tokio::time::sleep(lease) => {}
            changed = snapshots.changed() => if changed.is_err() {
                // No source, no news: only time can end it now.
                tokio::time::sleep(lease).await;
            }
        }
    }
}

async fn follow(
    peer: &Peer,
    requests: &mut Streaming<DeltaDiscoveryRequest>,
    responses: &Responses,
    state: &Arc<State>,
) -> Result<(), Status> {
    let first = tokio::time::timeout(FIRST_REQUEST, requests.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no request came: say who you are"))?;
    let Some(first) = first? else { return Ok(()) };
    let node = first
        .node
        .as_ref()
        .map(|node| node.id.clone())
        .unwrap_or_default();

    // Until the folder has been good once nothing is known, and nothing is said: a removal would be a lie.
    let mut catalogs = state.catalog.subscribe();
    let known = catalogs.wait_for(Option::is_some).await.map(|_| ());
    known.map_err(|_| Status::unavailable("this control plane is stopping"))?;
    let mut catalog = current(&mut catalogs)?;
    authorize(&catalog, &node, peer)?;
    info!(node, principal = peer.svid.as_str(), address = %peer.address, "sidecar connected");

    let mut stream = Stream::new(node, peer, responses, state);
    let mut next = Some(first);
    loop {
        if let Some(request) = next.take() {
            stream.on_request(&catalog, request).await?;
        }
        tokio::select! {
            request = requests.message() => match request? {
                Some(request) => next = Some(request),
                None => return Ok(()),
            },
            changed = catalogs.changed() => {
                changed.map_err(|_| Status::unavailable("this control plane is stopping"))?;
                catalog = current(&mut catalogs)?;
                // A workload that is gone loses its resources; one that is somebody else's now, the stream.
                if catalog.node(&stream.node).is_some() {
                    authorize(&catalog, &stream.node, peer)?;
                }
                stream.on_change(&catalog).await?;
            }
        }
    }
}

fn current(catalogs: &mut watch::Receiver<Option<Arc<Catalog>>>) -> Result<Arc<Catalog>, Status> {
    let catalog = catalogs.borrow_and_update().clone();
    catalog.ok_or_else(|| Status::unavailable("nothing is loaded yet"))
}

/// A node's resources go to the principal that its Workload names, and to nobody else.
fn authorize(catalog: &Catalog, node: &str, peer: &Peer) -> Result<(), Status> {
    let principal = peer.svid.id();
    if node.is_empty() {
        return Err(Status::permission_denied(
            "the first request names no node: set `node.id` to `namespace/name`",
        ));
    }
    let Some(declared) = catalog.node(node) else {
        return Err(Status::permission_denied(format!(
            "no Workload `{node}` with a sidecar is declared here: declare it, or correct KITH_NODE_ID"
        )));
    };
    if declared.principal != *principal {
        return Err(Status::permission_denied(format!(
            "Workload `{node}` is {}, and your SVID says {principal}: correct KITH_NODE_ID, the Workload, \
             or the registration entry at the SPIFFE authority",
            declared.principal
        )));
    }
    Ok(())
}

/// The subscriptions of a stream, joined to the wire and to `/status`.
struct Stream<'a> {
    node: String,
    subscriptions: Subscriptions,
    responses: &'a Responses,
    state: &'a State,
    listed: Listed,
    /// The revision this sidecar should be at, and since when.
    wanted: Option<(String, Instant)>,
}

impl<'a> Stream<'a> {
    fn new(node: String, peer: &Peer, responses: &'a Responses, state: &'a Arc<State>) -> Self {
        let listed = state.list(Sidecar {
            node: node.clone(),
            principal: peer.svid.as_str().to_owned(),
            address: peer.address,
            connected_since: SystemTime::now(),
            revision_wanted: None,
            behind_since: None,
            last_nack: None,
            subscriptions: Default::default(),
            refused: 0,
            svid: Svid {
                serial: peer.svid.serial().to_owned(),
                expires: Some(peer.svid.not_after()),
                lifetime: (peer.svid.not_after())
                    .duration_since(peer.svid.not_before())
                    .unwrap_or_default(),
            },
            plaintext: 0,
            revocations: None,
            unanswered_list: false,
            catalog: None,
        });
        Self {
            subscriptions: Subscriptions::new(node.clone()),
            node,
            responses,
            state,
            listed,
            wanted: None,
        }
    }

    async fn on_request(
        &mut self,
        catalog: &Arc<Catalog>,
        request: DeltaDiscoveryRequest,
    ) -> Result<(), Status> {
        let facts = Facts::of(&request);
        let Answer { responses, nack } =
            self.subscriptions
                .on_request(catalog, request, Instant::now())?;
        if let Some(nack) = nack {
            self.on_nack(nack);
        }
        self.on_facts(facts);
        self.report(catalog);
        self.subscriptions.check_answers()?;
        self.send(responses).await
    }

    fn on_facts(&self, facts: Facts) {
        let acknowledged = self
            .subscriptions
            .acknowledged(Kind::RevocationList, REVOCATION_LIST);
        let mut enforces = false;
        self.listed.update(|sidecar| {
            if let Some(serial) = facts.svid_serial {
                sidecar.svid.serial = serial;
            }
            if facts.svid_expires.is_some() {
                sidecar.svid.expires = facts.svid_expires;
            }
            if let Some(plaintext) = facts.plaintext {
                sidecar.plaintext = plaintext;
            }
            let known = sidecar.revocations.as_ref().map(|known| &*known.version);
            if let Some(version) = acknowledged
                && known != Some(version)
            {
                enforces = true;
                sidecar.revocations = Some(Enforced {
                    version: version.to_owned(),
                    closed: facts.closed,
                    enforced_ms: facts.enforced.map(|took| took.as_secs_f64() * 1000.0),
                    time: Some(SystemTime::now()),
                    heard: Instant::now(),
                });
            }
        });
        if enforces {
            self.state.moved();
        }
    }

    async fn on_change(&mut self, catalog: &Arc<Catalog>) -> Result<(), Status> {
        let responses = self.subscriptions.on_change(catalog, Instant::now());
        self.report(catalog);
        self.subscriptions.check_answers()?;
        self.send(responses).await
    }

    fn on_nack(&self, nack: Nack) {
        let Nack { kind, message } = nack;
        let message = printable(&message, MOST_WORDS);
        warn!(node = self.node, %kind, message, "the sidecar refused an update");
        let nack = LastNack {
            time: Some(SystemTime::now()),
            r#type: kind.name(),
            message,
        };
        self.listed.update(|sidecar| sidecar.last_nack = Some(nack));
    }

    fn report(&mut self, catalog: &Arc<Catalog>) {
        let wanted = catalog.node(&self.node).map(|node| node.revision.as_str());
        if self.wanted.as_ref().map(|(revision, _)| revision.as_str()) != wanted {
            self.wanted = wanted.map(|revision| (revision.to_owned(), Instant::now()));
        }
        let in_force = self.subscriptions.revision_in_force();
        if let Some(revision) = in_force {
            self.listed.acknowledged(revision);
        }
        // Behind as well: a sidecar that never asks for the policies its configuration names.
        let waited_for = self
            .wanted
            .as_ref()
            .filter(|(revision, _)| in_force != Some(revision.as_str()));
        let behind_since = waited_for
            .map(|(_, since)| *since)
            .into_iter()
            .chain(self.subscriptions.behind_since());
        let behind_since = behind_since.min();
        let (wanted, subscriptions) = (wanted.map(str::to_owned), self.subscriptions.counts());
        let refused = self.subscriptions.refused();
        let unanswered_list = self
            .subscriptions
            .awaits_answer(Kind::RevocationList, REVOCATION_LIST);
        let mut moved = false;
        self.listed.update(|sidecar| {
            let seen = sidecar.catalog.as_ref();
            moved = sidecar.unanswered_list != unanswered_list
                || seen.is_none_or(|seen| !Arc::ptr_eq(seen, catalog));
            sidecar.unanswered_list = unanswered_list;
            sidecar.catalog = Some(Arc::clone(catalog));
            sidecar.revision_wanted = wanted;
            sidecar.behind_since = behind_since;
            sidecar.subscriptions = subscriptions;
            sidecar.refused = refused;
        });
        if moved {
            self.state.moved();
        }
    }

    async fn send(&self, responses: Vec<DeltaDiscoveryResponse>) -> Result<(), Status> {
        for response in responses {
            let sent = self.responses.send(Ok(response)).await;
            sent.map_err(|_| Status::cancelled("the sidecar is gone"))?;
        }
        Ok(())
    }
}
