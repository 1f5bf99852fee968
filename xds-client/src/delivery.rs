//! What a consumer gets, and how it answers.

use std::fmt;
use std::sync::Arc;

use crate::client::Shared;
use crate::facts::Enforced;
use crate::ledger::Parcel;
use crate::resource::{Kind, Versioned};

/// What one response (or the disk, at start) said about one kind.
///
/// The consumer puts it in force and then answers with [`finish`](Delivery::finish). It need not answer
/// in order, nor soon: the stream goes on meanwhile. A delivery dropped without an answer is a NACK
/// "not applied", and what it carried does not count as held.
#[derive(Debug)]
#[must_use = "a delivery that is dropped is a NACK"]
pub struct Delivery {
    pub kind: Kind,
    /// From the last good resources on disk, before the control plane has been heard.
    pub from_disk: bool,
    pub changed: Vec<Versioned>,
    /// Names that are subscribed to and that, says the control plane, have no resource.
    pub removed: Vec<String>,
    /// What this client refused by itself because it could not be understood. These are part of the
    /// NACK already.
    pub refused: Vec<Rejection>,
    receipt: Receipt,
}

/// Why one resource of a delivery can't be honoured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The resource's name.
    pub name: String,
    /// The path of the field at fault, in the proto's names: `rules[0].from[1].principals[0]`. Empty when
    /// it is the resource as a whole.
    pub field: String,
    pub message: String,
}

impl Delivery {
    pub(crate) fn new(parcel: Parcel, shared: Arc<Shared>) -> Delivery {
        Delivery {
            kind: parcel.kind,
            from_disk: parcel.from_disk,
            changed: parcel.changed,
            removed: parcel.removed,
            refused: parcel.refused,
            receipt: Receipt {
                sequence: Some(parcel.sequence),
                shared,
            },
        }
    }

    /// Everything in this delivery but what `rejected` names is in force: sends the ACK or, if anything
    /// was refused, the NACK, and records what is held. Once the stream that brought it has ended it is
    /// only recorded; the next stream tells the control plane what is held.
    pub fn finish(self, rejected: Vec<Rejection>) {
        self.answer(rejected, None);
    }

    /// As [`finish`](Self::finish), and tells the control plane what it took to put it in force.
    pub fn finish_enforced(self, rejected: Vec<Rejection>, enforced: Enforced) {
        self.answer(rejected, Some(enforced));
    }

    fn answer(mut self, rejected: Vec<Rejection>, enforced: Option<Enforced>) {
        if let Some(sequence) = self.receipt.sequence.take() {
            let shared = &self.receipt.shared;
            shared.finish(sequence, Some(rejected), enforced);
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.as_str() {
            "" => write!(formatter, "{}: {}", self.name, self.message),
            field => write!(formatter, "{}: {field}: {}", self.name, self.message),
        }
    }
}

/// The duty to answer.
struct Receipt {
    /// None once answered.
    sequence: Option<u64>,
    shared: Arc<Shared>,
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if let Some(sequence) = self.sequence.take() {
            self.shared.finish(sequence, None, None);
        }
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("Receipt")
            .field(&self.sequence)
            .finish()
    }
}
