//! From a response to a delivery: what in it is wanted, unambiguous, and understood.

use std::collections::BTreeSet;

use super::{
    DeltaDiscoveryResponse, Kind, Ledger, Origin, Parcel, Received, Rejection, Unanswered,
    Versioned, WireResource,
};

impl Ledger {
    pub(super) fn take(
        &mut self,
        kind: Kind,
        origin: Origin,
        mut response: DeltaDiscoveryResponse,
    ) -> Received {
        // xDS: a client must expect resources that it has unsubscribed from in the meantime.
        let wanted = self.book(kind).wanted();
        response
            .resources
            .retain(|resource| wanted.contains(&resource.name));
        response
            .removed_resources
            .retain(|name| wanted.contains(name));

        let mut refused = refuse_repeated(&mut response);
        let removed = response.removed_resources;
        let mut changed = Vec::new();
        let mut content = Vec::new();
        for mut resource in response.resources {
            match decode(kind, &resource) {
                Ok(versioned) => {
                    changed.push(versioned);
                    if !self.keep_content {
                        resource.resource = None;
                    }
                    content.push(resource);
                }
                Err(rejection) => refused.push(rejection),
            }
        }

        self.last_sequence += 1;
        let sequence = self.last_sequence;
        let from_disk = matches!(origin, Origin::Disk);
        let unanswered = Unanswered {
            kind,
            origin,
            changed: content,
            removed: removed.clone(),
            refused: refused.clone(),
        };
        self.unanswered.insert(sequence, unanswered);
        let nothing_to_say = changed.is_empty() && removed.is_empty() && refused.is_empty();
        if nothing_to_say && let Some(answered) = self.finish(sequence, Some(Vec::new()), None) {
            return Received::Answered(answered);
        }
        Received::Deliver(Parcel {
            sequence,
            kind,
            from_disk,
            changed,
            removed,
            refused,
        })
    }
}

/// Takes names out that occur more than once: which of the contradicting parts holds is anyone's guess.
fn refuse_repeated(response: &mut DeltaDiscoveryResponse) -> Vec<Rejection> {
    let resources = response.resources.iter().map(|resource| &resource.name);
    let mut seen = BTreeSet::new();
    let repeated: BTreeSet<String> = resources
        .chain(&response.removed_resources)
        .filter(|name| !seen.insert(*name))
        .cloned()
        .collect();
    response
        .resources
        .retain(|resource| !repeated.contains(&resource.name));
    response
        .removed_resources
        .retain(|name| !repeated.contains(name));
    let refuse = |name| Rejection {
        name,
        field: String::new(),
        message: "named more than once in one response".to_owned(),
    };
    repeated.into_iter().map(refuse).collect()
}

fn decode(kind: Kind, resource: &WireResource) -> Result<Versioned, Rejection> {
    let reject = |field: &str, message: String| Rejection {
        name: resource.name.clone(),
        field: field.to_owned(),
        message,
    };
    let Some(any) = &resource.resource else {
        return Err(reject("resource", "missing".to_owned()));
    };
    if any.type_url != kind.type_url() {
        let message = format!("expected {}, got {}", kind.type_url(), any.type_url);
        return Err(reject("resource.type_url", message));
    }
    match kind.decode(&any.value) {
        Ok(decoded) => Ok(Versioned {
            name: resource.name.clone(),
            version: resource.version.clone(),
            resource: decoded,
        }),
        Err(fault) => Err(reject(&fault.field, fault.message)),
    }
}
