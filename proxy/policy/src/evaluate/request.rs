//! The attributes of a request: its head, and its token.

use serde_json::Value;

use super::{Facts, Matched};
use crate::constraint::Attribute;
use crate::pattern::{HostMatch, Pattern, TokenMatch, claim, is_split_on_spaces};
use crate::store::{Run, Store, Text};
use crate::{Headers, Request, Token};

type Patterns = Run<Pattern<Text>>;

impl Attribute {
    pub(super) fn compare_request<'a>(
        &self,
        store: &Store,
        facts: &Facts<'a>,
        request: &Request<'a>,
    ) -> Matched {
        match *self {
            Self::Host(patterns) => {
                let host = facts.host(request);
                match host.map(|host| store.matches_host(patterns, host)) {
                    Some(HostMatch::Yes) => Matched::Yes,
                    Some(HostMatch::No) => Matched::No,
                    Some(HostMatch::Unknown) | None => Matched::Unknown,
                }
            }
            Self::Method(patterns) => store
                .matches_present(patterns, request.method.as_bytes())
                .into(),
            Self::Path(patterns) => store.matches(patterns, request.path.as_bytes()).into(),
            Self::Header(name, patterns) => {
                header(request.headers, store.text(name), store, patterns)
            }
            _ => match &request.token {
                Some(token) => self.compare_token(store, token),
                None if facts.awaits_token(request) => Matched::Open,
                None => Matched::Absent,
            },
        }
    }

    fn compare_token(&self, store: &Store, token: &Token<'_>) -> Matched {
        match *self {
            Self::RequestPrincipal(patterns) => match store.matches_token(patterns, token) {
                TokenMatch::Yes => Matched::Yes,
                TokenMatch::No => Matched::No,
                // It has no request principal, and what it has is what was asked for.
                TokenMatch::WithoutSubject { of_issuer: true } => Matched::Unknown,
                TokenMatch::WithoutSubject { of_issuer: false } => Matched::Absent,
            },
            // RFC 7519 section 4.1.3: one string or a list of them.
            Self::Audiences(patterns) => claim_value(token, "aud", store, patterns),
            // OpenID Connect Core section 2.
            Self::Presenter(patterns) => claim_value(token, "azp", store, patterns),
            Self::Claim(path, patterns) => claim_value(token, store.text(path), store, patterns),
            _ => Matched::No,
        }
    }
}

/// Stricter rule 4: an ALLOW needs every value and their join to match, a DENY any.
fn header(headers: &dyn Headers, name: &str, store: &Store, patterns: Patterns) -> Matched {
    let (mut values, mut matching) = (0_usize, 0_usize);
    headers.for_each(name, &mut |value| {
        values += 1;
        matching += usize::from(store.matches_present(patterns, value));
    });
    if values > 1 {
        values += 1;
        matching += usize::from(store.matches_present(patterns, &joined(headers, name)));
    }
    match matching {
        0 => Matched::No,
        _ if matching == values => Matched::Yes,
        _ => Matched::Unknown,
    }
}

/// RFC 9110 section 5.3; RFC 9113 section 8.2.3 for cookies.
pub(crate) fn joined(headers: &dyn Headers, name: &str) -> Vec<u8> {
    let separator: &[u8] = if name == "cookie" { b"; " } else { b"," };
    let (mut joined, mut between) = (Vec::new(), &b""[..]);
    headers.for_each(name, &mut |value| {
        joined.extend_from_slice(between);
        joined.extend_from_slice(value);
        between = separator;
    });
    joined
}

/// Strings and lists of strings; of a list any element may match. A number, boolean or object can't be compared
/// (stricter rule 6): in an ALLOW it never matches, nor is it proof of not matching; in a DENY it does, and satisfies
/// `notValues` too. CEL reads it.
fn claim_value(token: &Token<'_>, path: &str, store: &Store, patterns: Patterns) -> Matched {
    let text = |text: &str| match is_split_on_spaces(path) {
        true => text
            .split(' ')
            .any(|word| !word.is_empty() && store.matches(patterns, word.as_bytes())),
        false => store.matches(patterns, text.as_bytes()),
    };
    // Whose keys verified the token, not what its claim says: no issuer may speak for another one.
    if path == "iss" {
        return text(token.issuer).into();
    }
    match claim(token, path) {
        // The issuer says nothing of it.
        Ok(None) => Matched::No,
        Ok(Some(Value::String(value))) => text(value).into(),
        Ok(Some(Value::Array(values))) => {
            if values.iter().filter_map(Value::as_str).any(text) {
                Matched::Yes
            } else if values.iter().all(Value::is_string) {
                Matched::No
            } else {
                Matched::Unknown
            }
        }
        Ok(Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_))) | Err(()) => {
            Matched::Unknown
        }
    }
}
