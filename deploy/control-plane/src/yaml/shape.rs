//! From the tree to the typed document, with all that is wrong with its shape.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Path, Segment};

use super::document::Place;
use crate::problem::Problem;

/// As many mistakes of one document are told: who has more has another kind of document at hand.
const MAX_MISTAKES: usize = 32;

/// Serde stops at the first mistake. So the key that it is about is taken away, and what is left is read again: all is
/// told at once, but for what else is inside such a key, and what is missing beside other mistakes.
///
/// # Errors
/// Everything wrong with the shape, by line. Once something was taken away, nothing but an error can come of it.
pub(super) fn read<T: DeserializeOwned>(place: &Place) -> Result<T, Vec<Problem>> {
    let mut tree = place.to_json();
    let mut problems: Vec<Problem> = Vec::new();
    while problems.len() < MAX_MISTAKES {
        let error = match serde_path_to_error::deserialize::<_, T>(&tree) {
            Ok(read) if problems.is_empty() => return Ok(read),
            Ok(_) => break,
            Err(error) => error,
        };
        let path = error.path().to_string();
        let field = if path == "." { "" } else { &path };
        let message = error.inner().to_string();
        let missing = message.starts_with("missing field");
        // What was taken away is not missing; and nothing is left to take away from what misses something.
        if !missing || problems.is_empty() {
            problems.push(place.problem(field, in_our_words(&message)));
        }
        if missing || !take_away(&mut tree, error.path()) {
            break;
        }
    }
    problems.sort();
    Err(problems)
}

/// Removes the innermost key of the path with all that is behind it. False when there is none.
fn take_away(tree: &mut Value, path: &Path) -> bool {
    let segments: Vec<_> = path.iter().collect();
    let Some(last) = (segments.iter()).rposition(|it| matches!(it, Segment::Map { .. })) else {
        return false;
    };
    let mut at = tree;
    for segment in &segments[..last] {
        let next = match segment {
            Segment::Map { key } => at.get_mut(key),
            Segment::Seq { index } => at.get_mut(index),
            Segment::Enum { .. } | Segment::Unknown => None,
        };
        let Some(next) = next else { return false };
        at = next;
    }
    match (at, segments[last]) {
        (Value::Object(map), Segment::Map { key }) => map.remove(key).is_some(),
        _ => false,
    }
}

/// Keys that are known only to be refused with their own reason: nobody is told to write them instead of another.
const REFUSED: [&str; 4] = [
    "targetRef",
    "targetRefs",
    "provider",
    "spaceDelimitedClaims",
];

fn in_our_words(message: &str) -> String {
    if message.starts_with("unknown field ") {
        return REFUSED.iter().fold(message.to_owned(), |message, refused| {
            message.replace(&format!(", `{refused}`"), "")
        });
    }
    // The reader's own names for things are nobody's business.
    if let Some((found, _)) = message.split_once(", expected struct ") {
        return match found.strip_prefix("invalid type: ") {
            Some(found) => format!("{found} where a map is expected"),
            None => "a list where a map is expected".to_owned(),
        };
    }
    let quotable = ["integer ", "floating point ", "boolean "];
    match message
        .strip_prefix("invalid type: ")
        .and_then(|m| m.strip_suffix(", expected a string"))
    {
        Some(found) if quotable.iter().any(|kind| found.starts_with(kind)) => {
            format!("{found} where a string is expected: put it in quotes")
        }
        _ => message.to_owned(),
    }
}
