//! One sidecar's stream: who it is, what it may have, and everything it is sent.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kith_certs::{IdentitySource, PeerSvid};
use kith_xds_client::Kind;
use kith_xds_client::api::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use tokio::sync::{mpsc, watch};
use tonic::Status;
use tracing::{debug, info, warn};

use super::admit::{admit, current};
use super::facts::Facts;
use super::grpc::Requests;
use super::peer::Peer;
use super::subscriptions::{Answer, Nack, Subscriptions};
use crate::catalog::{Catalog, REVOCATION_LIST, Version};
use crate::interest::Listener;
use crate::problem::printable;
use crate::status::{Enforced, LastNack, Listed, Sidecar, State, Svid};

/// A stream says who it is in its first request, and has no reason to wait with it.
const FIRST_REQUEST: Duration = Duration::from_secs(10);

/// Of what a sidecar says, in bytes.
const MOST_WORDS: usize = 2000;

/// How long a client that doesn't read may keep a stream that is over.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Boxed: a channel makes room for 32 of them in advance, for each of many streams.
pub(super) type Responses = mpsc::Sender<Box<Result<DeltaDiscoveryResponse, Status>>>;

/// Serves one stream to its end, and tells the client why it ended.
pub(super) async fn run(
    peer: Peer,
    mut requests: Requests,
    responses: Responses,
    state: Arc<State>,
    identity: IdentitySource,
    mut stopping: watch::Receiver<bool>,
) {
    let end = tokio::select! {
        end = follow(&peer, &mut requests, &responses, &state) => end,
        reason = identity_lost(&peer.svid, &identity) => Err(Status::unauthenticated(reason)),
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
            _ = tokio::time::timeout(LAST_WORDS, responses.send(Box::new(Err(status)))).await;
        }
    }
}

/// A connection lives only as long as its peer's SVID and the trust in it (identity.md, X.509-SVID rule 6).
pub(crate) async fn identity_lost(svid: &PeerSvid, identity: &IdentitySource) -> String {
    let mut snapshots = identity.subscribe();
    loop {
        let now = SystemTime::now();
        let lease = svid
            .not_after()
            .duration_since(now)
            .unwrap_or(Duration::ZERO);
        if lease.is_zero() {
            return "the SVID that opened this stream has expired: connect with the current one"
                .into();
        }
        if let Some(snapshot) = snapshots.borrow_and_update().clone()
            && let Err(error) = snapshot.still_trusts(svid, now)
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
    requests: &mut Requests,
    responses: &Responses,
    state: &Arc<State>,
) -> Result<(), Status> {
    // Boxed, as each step is: most streams have nothing to do most of the time, and then keep no room for it.
    let Some((listener, first)) = Box::pin(enter(peer, requests, state)).await? else {
        return Ok(());
    };
    let mut stream = Stream::new(listener, peer, responses, state);
    let mut request = Some(first);
    loop {
        Box::pin(stream.step(peer, request)).await?;
        request = tokio::select! {
            request = requests.message() => match request? {
                None => return Ok(()),
                Some(request) => Some(Box::new(request)),
            },
            () = stream.listener.woken() => None,
        };
    }
}

/// Who it is, by its first request. None: it went again without one.
async fn enter(
    peer: &Peer,
    requests: &mut Requests,
    state: &Arc<State>,
) -> Result<Option<(Listener, Box<DeltaDiscoveryRequest>)>, Status> {
    let first =
        tokio::time::timeout(FIRST_REQUEST, requests.message::<DeltaDiscoveryRequest>()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no request came: say who you are"))?;
    let Some(first) = first? else {
        return Ok(None);
    };
    let node = first
        .node
        .as_ref()
        .map(|node| node.id.clone())
        .unwrap_or_default();

    // Until there was something good to serve nothing is known, and nothing is said: a removal would be a lie.
    state.something_served().await;
    let listener = admit(state, &node, peer.svid.id()).await?;
    info!(node, principal = peer.svid.as_str(), address = %peer.address, "sidecar connected");
    Ok(Some((listener, Box::new(first))))
}

/// The subscriptions of a stream, joined to the wire and to `/status`.
struct Stream<'a> {
    node: Arc<str>,
    listener: Listener,
    subscriptions: Subscriptions,
    responses: &'a Responses,
    state: &'a State,
    listed: Listed,
    /// The revision this sidecar should be at, and since when.
    wanted: Option<(Version, Instant)>,
    /// The revocation list that was last compared with what was sent.
    list_seen: Option<u64>,
}

impl<'a> Stream<'a> {
    fn new(
        listener: Listener,
        peer: &Peer,
        responses: &'a Responses,
        state: &'a Arc<State>,
    ) -> Self {
        let node = Arc::clone(listener.node());
        let listed = state.list(Sidecar {
            node: Arc::clone(&node),
            principal: peer.svid.as_str().into(),
            address: peer.address,
            connected_since: SystemTime::now(),
            revision_wanted: None,
            revision_enforced: None,
            in_force: None,
            behind_since: None,
            last_nack: None,
            subscriptions: Default::default(),
            refused: 0,
            refused_configuration: None,
            refused_list: None,
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
            list_seen: None,
        });
        Self {
            subscriptions: Subscriptions::new(Arc::clone(&node)),
            node,
            listener,
            responses,
            state,
            listed,
            wanted: None,
            list_seen: None,
        }
    }

    /// What changed comes first: a request is answered with what is served now.
    async fn step(
        &mut self,
        peer: &Peer,
        request: Option<Box<DeltaDiscoveryRequest>>,
    ) -> Result<(), Status> {
        self.catch_up(peer).await?;
        match request {
            Some(request) => self.on_request(peer, *request).await,
            None => Ok(()),
        }
    }

    /// Looks at what changed since the last time, and at nothing else.
    async fn catch_up(&mut self, peer: &Peer) -> Result<(), Status> {
        let pending = self.listener.take();
        if pending.is_empty() {
            return Ok(());
        }
        let served = current(self.state, &self.node, peer.svid.id())?;
        if pending.revocations {
            self.list_seen = Some(served.lists);
        }
        let now = Instant::now();
        let responses = (self.subscriptions).on_change_of(&served.catalog, &pending, now);
        self.report(&served.catalog);
        drop(served);
        self.subscriptions.check_answers()?;
        self.send(responses).await
    }

    /// Before anything is looked up: what changes from now on is heard of.
    fn listen_for(&mut self, request: &DeltaDiscoveryRequest) {
        let (added, removed) = (
            &request.resource_names_subscribe,
            &request.resource_names_unsubscribe,
        );
        match Kind::from_type_url(&request.type_url) {
            Some(Kind::Address) => {
                self.listener
                    .remove_addresses(removed.iter().map(String::as_str));
                self.listener
                    .add_addresses(added.iter().map(String::as_str));
            }
            Some(Kind::RevocationList) => {
                let named = |names: &[String]| names.iter().any(|name| name == REVOCATION_LIST);
                if named(added) || named(removed) {
                    self.listener.set_revocations(named(added));
                }
            }
            // Its own node is listened for all the time.
            Some(Kind::WorkloadConfig | Kind::AuthorizationPolicy) | None => {}
        }
    }

    /// The catalog may be another one than a moment ago, when it was caught up with.
    async fn on_request(
        &mut self,
        peer: &Peer,
        request: DeltaDiscoveryRequest,
    ) -> Result<(), Status> {
        let facts = Facts::of(&request);
        self.listen_for(&request);
        let served = current(self.state, &self.node, peer.svid.id())?;
        let catalog = &served.catalog;
        let list_asked_for = Kind::from_type_url(&request.type_url) == Some(Kind::RevocationList)
            && !request.resource_names_subscribe.is_empty();
        let Answer { responses, nack } =
            self.subscriptions
                .on_request(catalog, request, Instant::now())?;
        if list_asked_for {
            self.list_seen = Some(served.lists);
        }
        if let Some(nack) = nack {
            self.on_nack(nack);
        }
        self.on_facts(facts);
        self.report(catalog);
        drop(served);
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
            let known = sidecar.revocations.as_ref().map(|known| known.version);
            if let Some(version) = acknowledged
                && known != Some(version)
            {
                enforces = true;
                sidecar.revocations = Some(Enforced {
                    version,
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

    fn on_nack(&self, nack: Nack) {
        let Nack { kind, message } = nack;
        let message = printable(&message, MOST_WORDS);
        warn!(node = &*self.node, %kind, message, "the sidecar refused an update");
        let nack = LastNack {
            time: Some(SystemTime::now()),
            r#type: kind.name(),
            message,
        };
        self.listed
            .update(|sidecar| sidecar.last_nack = Some(Box::new(nack)));
    }

    fn report(&mut self, catalog: &Catalog) {
        let wanted = catalog.node(&self.node).map(|node| node.revision);
        if self.wanted.map(|(revision, _)| revision) != wanted {
            self.wanted = wanted.map(|revision| (revision, Instant::now()));
        }
        let in_force = self.subscriptions.revision_in_force();
        if let Some(revision) = in_force {
            self.listed.acknowledged(revision);
        }
        // Behind as well: a sidecar that never asks for the policies its configuration names.
        let waited_for = self
            .wanted
            .as_ref()
            .filter(|(revision, _)| in_force != Some(*revision));
        let behind_since = waited_for
            .map(|(_, since)| *since)
            .into_iter()
            .chain(self.subscriptions.behind_since());
        let behind_since = behind_since.min();
        let settled = in_force.filter(|_| !self.subscriptions.configuration_awaits_answer());
        let subscriptions = self.subscriptions.counts();
        let list_seen = self.list_seen;
        let refused = self.subscriptions.refused();
        let configuration = [Kind::WorkloadConfig, Kind::AuthorizationPolicy];
        let refused_configuration = self.subscriptions.refusal(&configuration);
        let refused_list = self.subscriptions.refusal(&[Kind::RevocationList]);
        let refused_list = refused_list.map(|(_, why)| why);
        let unanswered_list = self
            .subscriptions
            .awaits_answer(Kind::RevocationList, REVOCATION_LIST);
        let mut moved = false;
        self.listed.update(|sidecar| {
            moved = sidecar.unanswered_list != unanswered_list
                || sidecar.list_seen != list_seen
                || sidecar.in_force != settled
                || sidecar.refused_configuration != refused_configuration
                || sidecar.refused_list != refused_list;
            sidecar.in_force = settled;
            sidecar.unanswered_list = unanswered_list;
            sidecar.list_seen = list_seen;
            sidecar.revision_wanted = wanted;
            sidecar.behind_since = behind_since;
            sidecar.subscriptions = subscriptions;
            sidecar.refused = refused;
            sidecar.refused_configuration = refused_configuration;
            sidecar.refused_list = refused_list;
        });
        if moved {
            self.state.moved();
        }
    }

    async fn send(&self, responses: Vec<DeltaDiscoveryResponse>) -> Result<(), Status> {
        for response in responses {
            let sent = self.responses.send(Box::new(Ok(response))).await;
            sent.map_err(|_| Status::cancelled("the sidecar is gone"))?;
        }
        Ok(())
    }
}
