//! All bookkeeping of the xDS session: what is wanted, what the server was told, what is held, and what
//! still has to be answered. No IO and no clock: requests come out, responses and answers go in.
//!
//! "xDS REST and gRPC protocol", incremental variant, is the standard referred to as "xDS" below.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::api::envoy::config::core::v3::Node;
use crate::api::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as WireResource,
};
use crate::api::google::rpc;
use crate::delivery::Rejection;
use crate::facts::{self, Enforced, Facts};
use crate::resource::{Kind, Versioned};

mod book;
mod held;
mod nack;
mod receive;

use book::Book;
pub(crate) use held::{Held, Revisions};
use nack::nack;

/// Between two requests that are sent for the facts alone.
const FACTS_INTERVAL: Duration = Duration::from_secs(10);

/// How many answers may wait for a server that sends but doesn't read.
const MAX_BACKLOG: usize = 1024;

/// The bookkeeping of one client, across all of its streams.
pub(crate) struct Ledger {
    node: Node,
    /// Whether the bytes of held resources are kept, to be written to disk.
    keep_content: bool,
    books: BTreeMap<Kind, Book>,
    /// Deliveries that the consumer has not answered, by sequence number.
    unanswered: BTreeMap<u64, Unanswered>,
    last_sequence: u64,
    stream: Stream,
    /// ACKs and NACKs that have yet to be sent on the current stream.
    answers: VecDeque<Answer>,
    facts: Facts,
    /// When a request was last sent for the facts alone.
    facts_sent: Option<Instant>,
    held: Revisions,
}

#[derive(Default)]
struct Stream {
    number: u64,
    open: bool,
    /// xDS: only the first request of a stream need carry the node.
    node_sent: bool,
    /// The facts that the server was told on this stream.
    told: Option<Facts>,
}

struct Answer {
    request: DeltaDiscoveryRequest,
    enforced: Option<Enforced>,
}

struct Unanswered {
    kind: Kind,
    origin: Origin,
    changed: Vec<WireResource>,
    removed: Vec<String>,
    refused: Vec<Rejection>,
}

impl Unanswered {
    fn is_about(&self, name: &str) -> bool {
        self.changed.iter().any(|resource| resource.name == name)
            || self.removed.iter().any(|removed| removed == name)
    }
}

enum Origin {
    Disk,
    Stream { number: u64, nonce: String },
}

/// What a delivery is made of.
pub(crate) struct Parcel {
    pub(crate) sequence: u64,
    pub(crate) kind: Kind,
    pub(crate) from_disk: bool,
    pub(crate) changed: Vec<Versioned>,
    pub(crate) removed: Vec<String>,
    pub(crate) refused: Vec<Rejection>,
}

/// How a response was answered, for status and log.
#[derive(Debug, PartialEq)]
pub(crate) struct Answered {
    /// None: of a type that is not known.
    pub(crate) kind: Option<Kind>,
    pub(crate) from_disk: bool,
    /// The message of the NACK.
    pub(crate) nack: Option<String>,
}

/// What came of a response.
pub(crate) enum Received {
    /// The consumer must answer.
    Deliver(Parcel),
    /// Nothing in it for the consumer.
    Answered(Answered),
}

impl Ledger {
    pub(crate) fn new(node: Node, keep_content: bool) -> Ledger {
        Ledger {
            node,
            keep_content,
            books: Kind::ALL
                .into_iter()
                .map(|kind| (kind, Book::default()))
                .collect(),
            unanswered: BTreeMap::new(),
            last_sequence: 0,
            stream: Stream::default(),
            answers: VecDeque::new(),
            facts: Facts::default(),
            facts_sent: None,
            held: Revisions::default(),
        }
    }

    pub(crate) fn subscribe(&mut self, kind: Kind, names: impl IntoIterator<Item = String>) {
        let book = self.book(kind);
        for name in names {
            book.want(name);
        }
    }

    pub(crate) fn unsubscribe<'a>(&mut self, kind: Kind, names: impl IntoIterator<Item = &'a str>) {
        let last_sequence = self.last_sequence;
        let settle = self.has_unanswered(kind);
        let book = self.book(kind);
        let mut forgotten = false;
        for name in names {
            // What is still unanswered about this name must not come back as held: by then the consumer
            // may have thrown it away, and the server would not send it again.
            let settled_at = settle.then_some(last_sequence);
            forgotten |= book.forget(name, settled_at);
        }
        self.held.all += u64::from(forgotten);
    }

    /// Makes `names` the exact subscription.
    pub(crate) fn set_subscription(&mut self, kind: Kind, names: BTreeSet<String>) {
        let dropped: Vec<String> = self
            .book(kind)
            .wanted()
            .difference(&names)
            .cloned()
            .collect();
        self.unsubscribe(kind, dropped.iter().map(String::as_str));
        self.subscribe(kind, names);
    }

    /// Asks again for names that are subscribed to and not held: xDS makes the server answer even if
    /// nothing changed.
    pub(crate) fn ask_again(&mut self, kind: Kind, names: impl IntoIterator<Item = String>) {
        let book = self.book(kind);
        for name in names {
            book.ask_again(name);
        }
    }

    pub(crate) fn stream_started(&mut self) {
        self.stream = Stream {
            number: self.stream.number + 1,
            open: true,
            ..Stream::default()
        };
        self.answers.clear();
        self.books.values_mut().for_each(Book::stream_started);
    }

    pub(crate) fn stream_ended(&mut self) {
        self.stream.open = false;
        self.answers.clear();
    }

    /// Whether the server should first take what it is owed before more is read from it.
    pub(crate) fn is_backlogged(&self) -> bool {
        self.answers.len() >= MAX_BACKLOG
    }

    /// Whether there may be an answer or a subscription to send.
    pub(crate) fn has_request(&self) -> bool {
        self.stream.open && (!self.answers.is_empty() || self.books.values().any(Book::has_news))
    }

    /// What is to be sent next: answers first, then subscriptions, then facts that changed.
    pub(crate) fn request(&mut self, now: Instant) -> Option<DeltaDiscoveryRequest> {
        self.next_request().or_else(|| self.facts_request(now))
    }

    fn next_request(&mut self) -> Option<DeltaDiscoveryRequest> {
        if !self.stream.open {
            return None;
        }
        let Answer { request, enforced } = self.answers.pop_front().or_else(|| {
            let unanswered = &self.unanswered;
            let subscription = self.books.iter_mut().find_map(|(kind, book)| {
                // What the consumer is about to put in force is not what is held.
                let under_way = |name: &str| {
                    unanswered
                        .values()
                        .any(|delivery| delivery.kind == *kind && delivery.is_about(name))
                };
                book.next_request(kind.type_url(), under_way)
            });
            subscription.map(Answer::from)
        })?;
        let first = !std::mem::replace(&mut self.stream.node_sent, true);
        Some(if first || enforced.is_some() {
            self.with_facts(request, enforced)
        } else {
            request
        })
    }

    pub(crate) fn set_facts(&mut self, facts: Facts) {
        self.facts = facts;
    }

    /// From when on a request for the facts alone may be sent; none when the server knows them.
    pub(crate) fn facts_due(&self, now: Instant) -> Option<Instant> {
        // The first request of a stream takes them along.
        let news = self
            .stream
            .told
            .as_ref()
            .is_some_and(|told| *told != self.facts);
        let earliest = self.facts_sent.map_or(now, |sent| sent + FACTS_INTERVAL);
        (self.stream.open && news).then_some(earliest)
    }

    /// A request for the facts alone: of a type, so that it is a request, and about nothing.
    fn facts_request(&mut self, now: Instant) -> Option<DeltaDiscoveryRequest> {
        self.facts_due(now).filter(|due| *due <= now)?;
        self.facts_sent = Some(now);
        let request = DeltaDiscoveryRequest {
            type_url: Kind::WorkloadConfig.type_url().to_owned(),
            ..Default::default()
        };
        Some(self.with_facts(request, None))
    }

    fn with_facts(
        &mut self,
        mut request: DeltaDiscoveryRequest,
        enforced: Option<Enforced>,
    ) -> DeltaDiscoveryRequest {
        request.node = Some(Node {
            metadata: Some(facts::metadata(&self.facts, enforced)),
            ..self.node.clone()
        });
        self.stream.told = Some(self.facts.clone());
        request
    }

    /// Takes a response of the current stream.
    pub(crate) fn receive(&mut self, response: DeltaDiscoveryResponse) -> Received {
        let origin = Origin::Stream {
            number: self.stream.number,
            nonce: response.nonce.clone(),
        };
        let kind = Kind::from_type_url(&response.type_url);
        match kind {
            Some(kind) if self.book(kind).was_told() => self.take(kind, origin, response),
            _ => {
                let reason = match kind {
                    Some(_) => "nothing of this type was subscribed to on this stream",
                    None => "this type is not known to this client",
                };
                let reason = format!("{}: {reason}", response.type_url);
                let refusal = DeltaDiscoveryRequest {
                    type_url: response.type_url,
                    response_nonce: response.nonce,
                    error_detail: Some(nack(reason.clone())),
                    ..Default::default()
                };
                self.answers.push_back(refusal.into());
                Received::Answered(Answered {
                    kind,
                    from_disk: false,
                    nack: Some(reason),
                })
            }
        }
    }

    /// Takes what the disk remembers of one kind, and subscribes to it.
    pub(crate) fn restore(&mut self, remembered: DeltaDiscoveryResponse) -> Option<Received> {
        let kind = Kind::from_type_url(&remembered.type_url)?;
        let names = remembered
            .resources
            .iter()
            .map(|resource| resource.name.clone());
        self.subscribe(kind, names);
        Some(self.take(kind, Origin::Disk, remembered))
    }

    /// The consumer's answer; `rejected` is none if it dropped the delivery.
    pub(crate) fn finish(
        &mut self,
        sequence: u64,
        rejected: Option<Vec<Rejection>>,
        enforced: Option<Enforced>,
    ) -> Option<Answered> {
        let done = self.unanswered.remove(&sequence)?;
        let from_disk = matches!(done.origin, Origin::Disk);
        let mut refused = done.refused;
        let reason = match rejected {
            Some(rejected) => {
                refused.extend(rejected);
                self.record(sequence, done.kind, done.changed, &done.removed, &refused);
                nack::reason(&refused)
            }
            None => Some("not applied".to_owned()),
        };
        let oldest = self
            .unanswered
            .iter()
            .find(|(_, other)| other.kind == done.kind);
        let oldest = oldest.map(|(sequence, _)| *sequence);
        self.book(done.kind).prune(oldest);
        if let Origin::Stream { number, nonce } = done.origin
            && self.stream.open
            && self.stream.number == number
        {
            let request = DeltaDiscoveryRequest {
                type_url: done.kind.type_url().to_owned(),
                response_nonce: nonce,
                error_detail: reason.clone().map(nack),
                ..Default::default()
            };
            self.answers.push_back(Answer { request, enforced });
        }
        Some(Answered {
            kind: Some(done.kind),
            from_disk,
            nack: reason,
        })
    }

    /// Whether nothing of the server waits for an answer, nor an answer to be sent.
    pub(crate) fn is_settled(&self) -> bool {
        self.unanswered.is_empty() && self.answers.is_empty()
    }

    pub(crate) fn has_unanswered_from_disk(&self) -> bool {
        self.unanswered
            .values()
            .any(|delivery| matches!(delivery.origin, Origin::Disk))
    }

    fn record(
        &mut self,
        sequence: u64,
        kind: Kind,
        changed: Vec<WireResource>,
        removed: &[String],
        refused: &[Rejection],
    ) {
        let refused: BTreeSet<&str> = refused
            .iter()
            .map(|rejection| rejection.name.as_str())
            .collect();
        let book = self.book(kind);
        let mut news = false;
        for resource in changed {
            if !refused.contains(resource.name.as_str()) {
                news |= book.hold(resource, sequence);
            }
        }
        for name in removed {
            if !refused.contains(name.as_str()) {
                news |= book.remove(name, sequence);
            }
        }
        self.held.all += u64::from(news);
        self.held.revocations += u64::from(news && kind == Kind::RevocationList);
    }

    fn has_unanswered(&self, kind: Kind) -> bool {
        self.unanswered
            .values()
            .any(|delivery| delivery.kind == kind)
    }

    fn book(&mut self, kind: Kind) -> &mut Book {
        self.books.entry(kind).or_default()
    }
}

impl From<DeltaDiscoveryRequest> for Answer {
    fn from(request: DeltaDiscoveryRequest) -> Self {
        Answer {
            request,
            enforced: None,
        }
    }
}

#[cfg(test)]
mod tests;
