//! Parameters of a query (application/x-www-form-urlencoded, as the URL standard has it), so far as tokens are in them.

use std::borrow::Cow;

/// The parameter of RFC 6750 section 2.3. Whoever gets it by mistake keeps it out of records all the same.
const ACCESS_TOKEN: &str = "access_token";

/// What a token in a record is replaced by.
const REDACTED: &str = "redacted";

/// Names and values as they were sent.
pub(super) fn parameters(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query
        .split('&')
        .filter(|part| !part.is_empty())
        .map(|part| part.split_once('=').unwrap_or((part, "")))
}

/// Names behind a `;`, which was once recommended for `&` (HTML 4.01 appendix B.2.2) and still is one to some
/// applications.
pub(super) fn hidden(query: &str) -> impl Iterator<Item = &str> {
    query
        .split('&')
        .flat_map(|part| part.split(';').skip(1))
        .map(|part| part.split_once('=').map_or(part, |(name, _)| name))
}

/// `+` is a space, and a `%` that is none of two digits stands for itself.
pub(super) fn decode(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(text);
    }
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let mut ahead = bytes.clone();
        match (byte, ahead.next().and_then(hex), ahead.next().and_then(hex)) {
            (b'+', ..) => decoded.push(b' '),
            (b'%', Some(high), Some(low)) => {
                decoded.push(high * 16 + low);
                bytes = ahead;
            }
            _ => decoded.push(byte),
        }
    }
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}

fn hex(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

/// The query less some parameters, the others byte for byte; `None` when nothing is left.
pub(super) fn without(query: &str, doomed: impl Fn(&str) -> bool) -> Option<String> {
    let kept: Vec<&str> = query
        .split('&')
        .filter(|part| {
            let name = part.split_once('=').map_or(*part, |(name, _)| name);
            !doomed(&decode(name))
        })
        .collect();
    let kept = kept.join("&");
    (!kept.is_empty()).then_some(kept)
}

/// Has a JWS in it, whose header is a JSON object (RFC 7515 section 3.1). On the caller's side it is not known where tokens go.
fn holds_one(text: &str) -> bool {
    let text = decode(text);
    // Wherever: it may stand behind a scheme, or in a URL that is the value.
    text.find("eyJ")
        .is_some_and(|at| text[at..].bytes().filter(|byte| *byte == b'.').count() >= 2)
}

/// The query as it may be written down: no value of a parameter that tokens come in, nor one that looks like one. Some applications take `;` for
/// `&` too, so that it separates here.
pub(crate) fn redacted(query: &str, secret: impl Fn(&str) -> bool) -> Cow<'_, str> {
    let is_secret = |part: &str| match part.split_once('=') {
        Some((name, value)) => {
            let name = decode(name);
            holds_one(part) || !value.is_empty() && (name == ACCESS_TOKEN || secret(&name))
        }
        None => holds_one(part),
    };
    if !query.split(['&', ';']).any(is_secret) {
        return Cow::Borrowed(query);
    }
    let mut out = String::with_capacity(query.len());
    for part in query.split_inclusive(['&', ';']) {
        let end = part.trim_end_matches(['&', ';']);
        match end.split_once('=') {
            _ if !is_secret(end) => out.push_str(part),
            Some((name, _)) if !holds_one(name) => {
                out.push_str(name);
                out.push('=');
                out.push_str(REDACTED);
                out.push_str(&part[end.len()..]);
            }
            _ => {
                out.push_str(REDACTED);
                out.push_str(&part[end.len()..]);
            }
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn decodes_what_a_form_encodes() {
        for (text, expected) in [
            ("plain", "plain"),
            ("a+b%20c", "a b c"),
            ("access%5ftoken", "access_token"),
            ("%", "%"),
            ("%4", "%4"),
            ("%zz%41", "%zzA"),
            ("%ff", "\u{fffd}"),
        ] {
            assert_eq!(decode(text), expected, "{text}");
        }
    }

    #[test]
    fn takes_parameters_out_and_leaves_the_others_byte_for_byte() {
        let doomed = |name: &str| name == "t";
        for (query, expected) in [
            ("t=x", None),
            ("t", None),
            ("a=1&t=x&b=%2f", Some("a=1&b=%2f")),
            ("%74=x&a", Some("a")),
            ("tt=x&a=t", Some("tt=x&a=t")),
            ("t=x&t=y&&a", Some("&a")),
        ] {
            assert_eq!(without(query, doomed).as_deref(), expected, "{query}");
        }
    }

    #[test]
    fn a_query_that_is_written_down_has_no_token() {
        let secret = |name: &str| name == "jwt";
        for (query, expected) in [
            ("a=b", "a=b"),
            ("access_token=x", "access_token=redacted"),
            (
                "a=1&access%5Ftoken=x.y.z&b=2",
                "a=1&access%5Ftoken=redacted&b=2",
            ),
            ("a;jwt=x;b&jwt=y", "a;jwt=redacted;b&jwt=redacted"),
            ("jwt=&access_token", "jwt=&access_token"),
            ("x=eyJh.eyJi.c&y=eyJh%2EeyJi%2Ec", "x=redacted&y=redacted"),
            ("h=Bearer+eyJh.eyJi.c&eyJh.eyJi.c", "h=redacted&redacted"),
            (
                "eyJh.eyJi.c=1;u=%2Fa%3Ft%3DeyJh.eyJi.c",
                "redacted;u=redacted",
            ),
        ] {
            assert_eq!(redacted(query, secret), expected, "{query}");
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_out_or_redacted_is_gone_whatever_the_query(
            query in "([at%47+=&;.]|eyJ|secret){0,24}"
        ) {
            let doomed = |name: &str| name == "t";
            let left = without(&query, doomed).unwrap_or_default();
            prop_assert!(parameters(&left).all(|(name, _)| !doomed(&decode(name))));
            let written = redacted(&query, doomed);
            for part in written.split(['&', ';']) {
                if let Some((name, value)) = part.split_once('=') {
                    prop_assert!(
                        !doomed(&decode(name)) || value.is_empty() || value == REDACTED,
                        "{written}"
                    );
                }
            }
        }
    }
}
