//! What a client refused, and has not taken anything in place of.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use kith_xds_client::Kind;

#[derive(Debug, Default)]
pub(super) struct Refusals(HashMap<(Kind, Arc<str>), Refused>);

#[derive(Debug)]
struct Refused {
    /// When the oldest that was refused was sent.
    sent: Instant,
    /// The client's words, which may be about more than this name. None: the name is on its way again.
    why: Option<Arc<str>>,
}

impl Refusals {
    pub(super) fn add(&mut self, kind: Kind, name: &Arc<str>, sent: Instant, why: &Arc<str>) {
        let refused = self.0.entry((kind, Arc::clone(name)));
        let refused = refused.or_insert(Refused { sent, why: None });
        refused.why = Some(Arc::clone(why));
    }

    /// What is said of this name next is not known yet.
    pub(super) fn sent_again(&mut self, kind: Kind, name: &Arc<str>) {
        if self.0.is_empty() {
            return;
        }
        if let Some(refused) = self.0.get_mut(&(kind, Arc::clone(name))) {
            refused.why = None;
        }
    }

    pub(super) fn remove(&mut self, kind: Kind, name: Arc<str>) {
        self.0.remove(&(kind, name));
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// When the oldest was sent.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.0.values().map(|refused| refused.sent).min()
    }

    /// The words on the first name of these kinds that is not on its way again.
    pub(super) fn first(&self, kinds: &[Kind]) -> Option<(Kind, Arc<str>)> {
        let refused = self.0.iter().filter(|((kind, _), _)| kinds.contains(kind));
        let said = refused.filter_map(|(key, refused)| Some((key, refused.why.as_ref()?)));
        let first = said.min_by_key(|((kind, name), _)| (*kind as usize, name));
        first.map(|((kind, _), why)| (*kind, Arc::clone(why)))
    }
}
