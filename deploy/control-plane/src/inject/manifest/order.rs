//! Writing YAML in the order in which its author wrote it: people read a document from its name down, and a difference
//! should show what is different.

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::Value;

use crate::yaml::Node;

/// `value` as YAML, with keys in the order of `like` and new ones behind them.
pub(super) fn yaml(value: &Value, like: &Node) -> Result<String, String> {
    // Texts that an older reader would take for something else (`yes`, `1_000`, `12:30`) are quoted by default.
    let options =
        serde_saphyr::ser_options! { prefer_block_scalars: true, folded_wrap_chars: usize::MAX };
    let ordered = Ordered {
        value,
        like: Some(like),
    };
    let mut text = serde_saphyr::to_string_with_options(&ordered, options)
        .map_err(|error| error.to_string())?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    // What kubectl gets must be what was meant.
    let read = crate::yaml::manifests(std::path::Path::new("written"), &text);
    match read.map(|nodes| nodes.first().map(Node::to_json)) {
        Ok(Some(read)) if read == *value => Ok(text),
        _ => Err("it reads differently when it is read back".into()),
    }
}

struct Ordered<'a> {
    value: &'a Value,
    like: Option<&'a Node>,
}

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.value {
            Value::Object(map) => {
                let mut serialized = serializer.serialize_map(Some(map.len()))?;
                let known = self.like.into_iter().flat_map(Node::keys);
                let known: Vec<&str> = known.filter(|key| map.contains_key(*key)).collect();
                let new = map
                    .keys()
                    .map(String::as_str)
                    .filter(|key| !known.contains(key));
                // A pod's identity first, in what is new too.
                let mut new: Vec<&str> = new.collect();
                new.sort_by_key(|key| (*key != "name", *key));
                for key in known.iter().copied().chain(new) {
                    let like = self.like.and_then(|node| node.get(key));
                    let value = &map[key];
                    serialized.serialize_entry(key, &Ordered { value, like })?;
                }
                serialized.end()
            }
            Value::Array(items) => {
                let mut serialized = serializer.serialize_seq(Some(items.len()))?;
                for (index, value) in items.iter().enumerate() {
                    let like = self
                        .like
                        .and_then(|node| counterpart(node.items(), index, value));
                    serialized.serialize_element(&Ordered { value, like })?;
                }
                serialized.end()
            }
            scalar => scalar.serialize(serializer),
        }
    }
}

/// The element that a new one stands for: that of the same name, or in the same place where there are no names.
fn counterpart<'a>(items: &'a [Node], index: usize, value: &Value) -> Option<&'a Node> {
    match value["name"].as_str() {
        Some(name) => {
            (items.iter()).find(|item| item.get("name").and_then(Node::as_str) == Some(name))
        }
        None => items.get(index),
    }
}
