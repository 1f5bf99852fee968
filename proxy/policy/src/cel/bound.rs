//! How large values are assumed to get, and what operations on them cost: the static bound.
//!
//! Assumed, not enforced: an input that is larger meets the [`Meter`](super::meter::Meter).

use super::attribute::Attribute;
use super::constant::Const;
use super::meter::steps;
use super::types::{Kind, Type};

/// Elements of all lists and maps in a claim together.
const CLAIM_ITEMS: u64 = 1_000;
/// Bytes of a string in a claim.
const CLAIM_TEXT: u64 = 256;
/// Bytes of a header's value, and of a path.
const HEADER_TEXT: u64 = 4_096;
/// SPIFFE-ID section 2.3.
const PRINCIPAL_TEXT: u64 = 2_048;
/// RFC 1035 section 2.3.4, and SPIFFE-ID section 2.1.
const NAME_TEXT: u64 = 255;
/// The longest IPv6 address.
const ADDRESS_TEXT: u64 = 39;

/// The size of a value and of all values in it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bound {
    /// Elements of lists and maps, on all levels together.
    pub(super) items: u64,
    /// Entries of maps that the expression itself makes: they are searched one by one.
    pub(super) entries: u64,
    /// Bytes of the longest string.
    pub(super) text: u64,
}

impl Bound {
    pub(super) fn text(text: u64) -> Self {
        Self {
            text,
            ..Self::default()
        }
    }

    pub(super) fn header() -> Self {
        Self::text(HEADER_TEXT)
    }

    pub(super) fn of_attribute(attribute: Attribute) -> Self {
        match attribute {
            Attribute::SourcePrincipal | Attribute::AuthPrincipal => Self::text(PRINCIPAL_TEXT),
            Attribute::SourceNamespace
            | Attribute::SourceServiceAccount
            | Attribute::SourceTrustDomain
            | Attribute::ConnectionSni
            | Attribute::RequestHost
            | Attribute::RequestMethod => Self::text(NAME_TEXT),
            Attribute::SourceIp | Attribute::RemoteIp | Attribute::DestinationIp => {
                Self::text(ADDRESS_TEXT)
            }
            Attribute::DestinationPort => Self::default(),
            Attribute::RequestPath | Attribute::RequestHeaders => Self::header(),
            Attribute::AuthAudiences | Attribute::AuthPresenter | Attribute::AuthClaims => Self {
                items: CLAIM_ITEMS,
                entries: 0,
                text: CLAIM_TEXT,
            },
        }
    }

    pub(super) fn of_const(constant: &Const) -> Self {
        match constant {
            Const::String(text) => Self::text(text.len() as u64),
            Const::Bytes(bytes) => Self::text(bytes.len() as u64),
            Const::List(elements) => Self::container(elements.iter().map(Self::of_const)),
            Const::Map(entries) => {
                let parts = entries
                    .iter()
                    .flat_map(|(key, value)| [Self::of_const(key), Self::of_const(value)]);
                Self::map(entries.len(), parts)
            }
            _ => Self::default(),
        }
    }

    /// A list of these elements.
    pub(super) fn container(elements: impl Iterator<Item = Self>) -> Self {
        elements.fold(Self::default(), |sum, element| Self {
            items: sum.items.saturating_add(1).saturating_add(element.items),
            entries: sum.entries.saturating_add(element.entries),
            text: sum.text.max(element.text),
        })
    }

    pub(super) fn map(entries: usize, parts: impl Iterator<Item = Self>) -> Self {
        let all = Self::container(parts);
        Self {
            entries: all.entries.saturating_add(entries as u64),
            ..all
        }
    }

    /// What a list of as many elements as `self` has, each of them an `element`, may be.
    pub(super) fn of_each(self, element: Self) -> Self {
        Self {
            items: self.items.saturating_mul(element.items.saturating_add(1)),
            entries: self.items.saturating_mul(element.entries),
            text: element.text,
        }
    }

    /// Either of both.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            items: self.items.max(other.items),
            entries: self.entries.max(other.entries),
            text: self.text.max(other.text),
        }
    }

    /// One joined to the other, which makes an `of`.
    pub(super) fn and(self, other: Self, of: &Type) -> Self {
        let sum = Self {
            items: self.items.saturating_add(other.items),
            entries: self.entries.saturating_add(other.entries),
            text: self.text.saturating_add(other.text),
        };
        match of.kind() {
            None => sum,
            Some(Kind::List) => Self {
                text: self.text.max(other.text),
                ..sum
            },
            Some(Kind::String | Kind::Bytes) => Self::text(sum.text),
            Some(_) => Self::default(),
        }
    }

    /// Finding a key in a map.
    pub(super) fn lookup(self, key: Self) -> u64 {
        let each = 1 + steps(self.text.min(key.text));
        steps(key.text).saturating_add(self.entries.saturating_mul(each))
    }

    /// Comparing values of these types.
    pub(super) fn equality(self, own: &Type, other: Self, others: &Type) -> u64 {
        let text = steps(self.text.min(other.text));
        let scalar = |kind: Kind| !matches!(kind, Kind::List | Kind::Map);
        if own.kind().is_some_and(scalar) || others.kind().is_some_and(scalar) {
            return text;
        }
        let lookups = self.lookup(other).saturating_add(other.lookup(self));
        let each = lookups.saturating_add(3 + text);
        text.saturating_add(self.items.min(other.items).saturating_mul(each))
    }

    /// Searching a list, or a map's keys.
    pub(super) fn membership(self, own: &Type, element: Self, others: &Type) -> u64 {
        let in_map = match own.kind() {
            Some(Kind::List) => 0,
            _ => self.lookup(element),
        };
        let in_list = match own {
            Type::Map(..) => 0,
            _ => {
                // Elements share the items of the list: all comparisons together look at each once.
                let one = match own {
                    Type::List(of) => self.equality_of_item(of, element, others),
                    _ => self.equality_of_item(&Type::Dyn, element, others),
                };
                self.items.saturating_mul(one.saturating_add(1))
            }
        };
        in_map.max(in_list)
    }

    fn equality_of_item(self, own: &Type, other: Self, others: &Type) -> u64 {
        let one = Self { items: 1, ..self };
        one.equality(own, other, others)
    }
}
