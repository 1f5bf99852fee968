//! A YAML document as a tree that remembers its lines, so that a mistake found long after parsing still
//! names its line. Never knows what the document means.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::Spanned;

/// One document, or a part of one.
#[derive(Debug)]
pub struct Node {
    pub(crate) line: u64,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug)]
struct Entry {
    key: String,
    /// The key's own line: a block value begins below it, and people look for the key.
    line: u64,
    value: Node,
}

/// What `no`, `0755` and `1_000` are, without quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plain {
    /// Text, as they are written: nothing that has a meaning is made into something else.
    Text,
    /// A boolean, an octal and a decimal number, as kubectl reads them (YAML 1.1).
    Kubectl,
}

/// Reads all documents of a file; empty ones are skipped.
pub(crate) fn parse(text: &str, plain: Plain) -> Result<Vec<Node>, SyntaxError> {
    let as_written = plain == Plain::Text;
    let options = serde_saphyr::options! {
        strict_booleans: as_written,
        leading_zero_numbers_as_strings: as_written,
        underscored_numbers_as_strings: as_written,
        legacy_octal_numbers: !as_written,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 100_000 },
        budget: serde_saphyr::budget! {
            max_documents: 1_000_000,
            max_nodes: 20_000_000,
            max_events: 40_000_000,
        },
    };
    let documents = serde_saphyr::from_multiple_with_options::<Spanned<Raw>>(text, options)?;
    Ok(documents.into_iter().map(Node::from).collect())
}

/// The text is not YAML.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub(crate) line: u64,
    pub(crate) message: String,
}

impl From<serde_saphyr::Error> for SyntaxError {
    fn from(error: serde_saphyr::Error) -> Self {
        let line = error.location().map_or(0, |location| location.line());
        // The other formatter speaks to those who program against the library.
        let rendered = error
            .without_snippet()
            .render_with_formatter(&serde_saphyr::UserMessageFormatter);
        // It ends with the position, which ours gives already.
        let message = rendered.split(" at line ").next().unwrap_or_default();
        Self {
            line,
            message: format!("not valid YAML: {message}"),
        }
    }
}

impl Node {
    /// A document that never was text: it has no lines.
    pub(crate) fn of_json(value: &Value) -> Self {
        let kind = match value {
            Value::Array(items) => Kind::List(items.iter().map(Self::of_json).collect()),
            Value::Object(entries) => {
                let entries = entries.iter().map(|(key, value)| Entry {
                    key: key.clone(),
                    line: 0,
                    value: Self::of_json(value),
                });
                Kind::Map(entries.collect())
            }
            scalar => Kind::Scalar(scalar.clone()),
        };
        Self { line: 0, kind }
    }

    /// Where it begins, from 1; 0 when it was never text.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// The value at a key of a map.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.kind {
            Kind::Map(entries) => entries.iter().find(|e| e.key == key).map(|e| &e.value),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    pub fn is_map(&self) -> bool {
        matches!(self.kind, Kind::Map(_))
    }

    pub fn is_list(&self) -> bool {
        matches!(self.kind, Kind::List(_))
    }

    /// The elements of the list at `key`, which is empty then; none if there is no such list.
    pub fn take_list(&mut self, key: &str) -> Vec<Node> {
        let Kind::Map(entries) = &mut self.kind else {
            return Vec::new();
        };
        match entries.iter_mut().find(|e| e.key == key) {
            Some(Entry {
                value:
                    Node {
                        kind: Kind::List(items),
                        ..
                    },
                ..
            }) => std::mem::take(items),
            _ => Vec::new(),
        }
    }

    pub fn to_json(&self) -> Value {
        match &self.kind {
            Kind::Scalar(value) => value.clone(),
            Kind::List(items) => items.iter().map(Node::to_json).collect(),
            Kind::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|e| (e.key.clone(), e.value.to_json()))
                    .collect(),
            ),
        }
    }

    /// The paths below here, which is `at`, of everything that has a key or a place in a list, and no value.
    pub(crate) fn empties(&self, at: &str) -> Vec<String> {
        match &self.kind {
            Kind::Scalar(Value::Null) => vec![at.to_owned()],
            Kind::Scalar(_) => Vec::new(),
            Kind::List(items) => (items.iter().enumerate())
                .flat_map(|(index, item)| item.empties(&format!("{at}[{index}]")))
                .collect(),
            Kind::Map(entries) => (entries.iter())
                .flat_map(|entry| entry.value.empties(&format!("{at}.{}", entry.key)))
                .collect(),
        }
    }

    /// The line of `path` (`spec.rules[0].from`), or of the nearest thing above it that exists.
    pub fn line_of(&self, path: &str) -> u64 {
        let (mut node, mut line, mut rest) = (self, self.line, path);
        while !rest.is_empty() {
            let (next, next_line, next_rest) = match &node.kind {
                Kind::List(items) => {
                    let Some((index, after)) =
                        rest.strip_prefix('[').and_then(|r| r.split_once(']'))
                    else {
                        break;
                    };
                    let Some(item) = index.parse().ok().and_then(|i: usize| items.get(i)) else {
                        break;
                    };
                    (item, item.line, after)
                }
                Kind::Map(entries) => {
                    // Keys may hold dots (`app.kubernetes.io/name`): the longest that fits is meant.
                    let fitting = entries
                        .iter()
                        .filter_map(|e| Some((e, rest.strip_prefix(e.key.as_str())?)));
                    let fitting = fitting
                        .filter(|(_, after)| after.is_empty() || after.starts_with(['.', '[']));
                    let Some((entry, after)) = fitting.max_by_key(|(e, _)| e.key.len()) else {
                        break;
                    };
                    (&entry.value, entry.line, after)
                }
                Kind::Scalar(_) => break,
            };
            (node, line, rest) = (
                next,
                next_line,
                next_rest.strip_prefix('.').unwrap_or(next_rest),
            );
        }
        line
    }
}

impl Node {
    /// The keys of a map, as they were written; none if it isn't one.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        let entries = match &self.kind {
            Kind::Map(entries) => entries.as_slice(),
            _ => &[],
        };
        entries.iter().map(|entry| entry.key.as_str())
    }

    /// The elements of a list; none if it isn't one.
    pub(crate) fn items(&self) -> &[Node] {
        match &self.kind {
            Kind::List(items) => items,
            _ => &[],
        }
    }
}

/// What serde hands over before the lines are sorted into place.
enum Raw {
    Scalar(Value),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl From<Spanned<Raw>> for Node {
    fn from(raw: Spanned<Raw>) -> Self {
        let kind = match raw.value {
            Raw::Scalar(value) => Kind::Scalar(value),
            Raw::List(items) => Kind::List(items.into_iter().map(Node::from).collect()),
            Raw::Map(entries) => Kind::Map(
                entries
                    .into_iter()
                    .map(|(key, value)| Entry {
                        line: key.referenced.line(),
                        key: key.value,
                        value: Node::from(value),
                    })
                    .collect(),
            ),
        };
        Node {
            line: raw.referenced.line(),
            kind,
        }
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}
