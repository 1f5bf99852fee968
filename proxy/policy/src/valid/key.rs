//! The keys of conditions: which there are, and what to say of another.

use super::values::is_token_byte;
use crate::words;

/// More changes than these make another word of it.
const TYPING_MISTAKES: usize = 2;

/// `request.headers[x]`, and what to say of every other key.
pub(super) fn header_name(key: &str) -> Result<&str, String> {
    let Some(name) = key
        .strip_prefix("request.headers[")
        .and_then(|rest| rest.strip_suffix(']'))
    else {
        return Err(unknown(key));
    };
    if name.is_empty() || !name.bytes().all(is_token_byte) {
        return Err(format!("`{name}`{}", words::NOT_A_HEADER));
    }
    // It has no one place: HTTP/1.1 has a header, HTTP/2 a pseudo-header.
    if name.eq_ignore_ascii_case("host") {
        return Err(format!("`{key}`{}", words::HOST_HEADER));
    }
    Ok(name)
}

fn unknown(key: &str) -> String {
    let near = match near(key) {
        Some(near) => format!(", `{near}` is"),
        None => String::new(),
    };
    format!(
        "`{key}`{}{near}{}{}",
        words::NOT_A_CONDITION,
        words::conditions(),
        words::ELSEWHERE
    )
}

/// What was probably meant, with the name in brackets that was given.
fn near(key: &str) -> Option<String> {
    let stem = |key: &str| key.split('[').next().unwrap_or_default().to_owned();
    let written = stem(key);
    let folded = written.to_ascii_lowercase();
    let known = words::CONDITIONS.iter().map(|known| {
        let changes = changes(&folded, &stem(known).to_ascii_lowercase());
        (changes, *known)
    });
    let (_, known) = known
        .filter(|(changes, _)| *changes <= TYPING_MISTAKES)
        .min_by_key(|(changes, _)| *changes)?;
    let name = key[written.len()..]
        .strip_prefix('[')
        .and_then(|rest| rest.split(']').next())
        .filter(|name| !name.is_empty());
    Some(match name {
        Some(name) => known.replace("[name]", &format!("[{name}]")),
        None => known.to_owned(),
    })
}

/// Levenshtein's distance.
fn changes(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.chars().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[row.len() - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_key_is_answered_with_the_one_that_is_near() {
        for (key, expected) in [
            ("request.heeders[x-id]", Some("request.headers[x-id]")),
            ("request.header[x-id]", Some("request.headers[x-id]")),
            ("request.headers", Some("request.headers[name]")),
            ("Source.IP", Some("source.ip")),
            ("source.namespaces", Some("source.namespace")),
            ("source.service_account", Some("source.serviceAccount")),
            ("request.auth.claim[a][b]", Some("request.auth.claims[a]")),
            ("destination.ports", Some("destination.port")),
            ("request.path", None),
            ("request.size", None),
            ("cel", None),
            ("", None),
        ] {
            assert_eq!(near(key).as_deref(), expected, "{key}");
        }
    }
}
