//! Names that nothing has: what was meant?

use super::super::attribute::Attribute;
use super::super::error::Fault;

/// A name is near if so many letters differ.
const NEAR: usize = 3;
/// Longer texts are nobody's typing error.
const MAX_LENGTH: usize = 64;

/// `path` is a dotted name of which no beginning is an attribute.
pub(super) fn unknown(at: usize, path: &str) -> Fault {
    if path == "now" {
        return Fault::new(
            at,
            "there is no clock here: a decision does not depend on the time",
        );
    }
    let below: Vec<&str> = attributes()
        .filter(|name| {
            name.strip_prefix(path)
                .is_some_and(|rest| rest.starts_with('.'))
        })
        .collect();
    if !below.is_empty() {
        return Fault::new(
            at,
            format!(
                "`{path}` is not a value by itself; there is {}",
                either(&below)
            ),
        );
    }
    let near = nearest(attributes(), |name| {
        // What follows the attribute may be fields of it.
        let segments = name.matches('.').count() + 1;
        let beginning: Vec<&str> = path.split('.').take(segments).collect();
        let rest = path.split('.').count() - beginning.len();
        distance(name, &beginning.join(".")).saturating_add(rest)
    });
    if !near.is_empty() {
        return Fault::new(
            at,
            format!("unknown name `{path}`: did you mean {}?", either(&near)),
        );
    }
    let root = path.split('.').next().unwrap_or(path);
    let siblings: Vec<&str> = attributes()
        .filter(|name| name.split('.').next() == Some(root))
        .collect();
    let message = if siblings.is_empty() {
        format!(
            "unknown name `{path}`: attributes begin with `source.`, `remote.`, `destination.`, \
             `connection.` or `request.`; text stands in quotes"
        )
    } else {
        format!("unknown name `{path}`: there is {}", either(&siblings))
    };
    Fault::new(at, message)
}

fn attributes() -> impl Iterator<Item = &'static str> {
    Attribute::ALL.into_iter().map(Attribute::as_str)
}

/// Why there is no such function, and which was meant.
pub(super) fn unknown_function(at: usize, name: &str) -> Fault {
    let message = match name {
        "matches" => {
            "`matches` is not supported: no regular expression is built from policy text; \
                      use startsWith, endsWith, contains or =="
                .to_owned()
        }
        "timestamp" | "duration" | "now" => {
            format!("`{name}` is not supported: a decision does not depend on the time")
        }
        _ => {
            let near = nearest(FUNCTIONS.into_iter(), |function| distance(function, name));
            let there_is = if near.is_empty() {
                format!("there is {}", either(&FUNCTIONS))
            } else {
                format!("did you mean {}?", either(&near))
            };
            format!("unknown function `{name}`: {there_is}")
        }
    };
    Fault::new(at, message)
}

const FUNCTIONS: [&str; 22] = [
    "has",
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "lowerAscii",
    "upperAscii",
    "inCidr",
    "all",
    "exists",
    "exists_one",
    "filter",
    "map",
    "int",
    "uint",
    "double",
    "string",
    "bytes",
    "bool",
    "dyn",
    "type",
    "in",
];

/// The names nearest by `distance`, at most three.
fn nearest(
    names: impl Iterator<Item = &'static str>,
    distance: impl Fn(&str) -> usize,
) -> Vec<&'static str> {
    let mut near: Vec<(usize, &str)> = names
        .map(|name| (distance(name), name))
        .filter(|(distance, name)| *distance <= NEAR && *distance * 2 < name.len())
        .collect();
    near.sort_by_key(|(distance, _)| *distance);
    let nearest = near.first().map_or(0, |(distance, _)| *distance);
    near.retain(|(distance, _)| *distance == nearest);
    near.into_iter().take(3).map(|(_, name)| name).collect()
}

pub(super) fn either(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [only] => format!("`{only}`"),
        [first @ .., last] => format!("`{}` or `{last}`", first.join("`, `")),
    }
}

/// How many letters to change, add or leave out. Case and `_` count for nothing: people come from
/// `service_account`.
fn distance(name: &str, written: &str) -> usize {
    let plain = |text: &str| -> Vec<char> {
        text.chars()
            .filter(|character| *character != '_')
            .map(|character| character.to_ascii_lowercase())
            .collect()
    };
    if written.len() > MAX_LENGTH {
        return usize::MAX / 2;
    }
    let (name, written) = (plain(name), plain(written));
    let mut row: Vec<usize> = (0..=written.len()).collect();
    for (above, letter) in name.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (position, other) in written.iter().enumerate() {
            let changed = diagonal + usize::from(letter != other);
            diagonal = row[position + 1];
            row[position + 1] = changed.min(diagonal + 1).min(row[position] + 1);
        }
    }
    row[written.len()]
}
