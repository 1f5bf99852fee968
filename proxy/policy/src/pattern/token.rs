//! Request principals: issuer and subject of a token, compared apart, and claims.

use serde_json::Value;

use super::text::Pattern;
use crate::Token;
use crate::store::{Run, Store, StoreBuilder, Text, append};
use crate::words;

/// One request principal pattern, `issuer/subject`. Never compared as one text: a `/` may stand in both, and
/// then two tokens would have the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenPrincipal<T> {
    pub(crate) issuer: Pattern<T>,
    pub(crate) subject: Pattern<T>,
}

/// What to say of the principal of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenMatch {
    Yes,
    No,
    /// The token has no subject; the issuer is one of those meant, or not.
    WithoutSubject {
        of_issuer: bool,
    },
}

impl<'a> TokenPrincipal<&'a str> {
    /// Split at the last `/`, or at `/spiffe://`, for the subject of a JWT-SVID is a SPIFFE ID (JWT-SVID section
    /// 3.1). Without a slash, `foo*` is about the issuer and `*foo` about the subject.
    pub(crate) fn parse(value: &'a str) -> Result<Self, String> {
        let whole = Pattern::parse(value)?;
        let slash = value.rfind("/spiffe://").or_else(|| value.rfind('/'));
        let (issuer, subject) = match (slash, whole) {
            (Some(slash), _) => (&value[..slash], &value[slash + 1..]),
            (None, Pattern::Any | Pattern::Prefix(_)) => (value, "*"),
            (None, Pattern::Suffix(_)) => ("*", value),
            (None, _) => {
                return Err(format!("`{value}`{}", words::NO_SUBJECT));
            }
        };
        let never = |_| format!("`{value}` can never match: the issuer or the subject is empty");
        Ok(Self {
            issuer: Pattern::parse(issuer).map_err(never)?,
            subject: Pattern::parse(subject).map_err(never)?,
        })
    }

    /// As it is written in a policy.
    pub(crate) fn written(self) -> String {
        match (self.issuer, self.subject) {
            (Pattern::Any, Pattern::Any) => "*".to_owned(),
            (issuer, subject) => format!("{}/{}", issuer.written(), subject.written()),
        }
    }
}

impl Store {
    pub(crate) fn token_principal(&self, pattern: TokenPrincipal<Text>) -> TokenPrincipal<&str> {
        TokenPrincipal {
            issuer: self.pattern(pattern.issuer),
            subject: self.pattern(pattern.subject),
        }
    }

    /// Any of them.
    pub(crate) fn matches_token(
        &self,
        patterns: Run<TokenPrincipal<Text>>,
        token: &Token<'_>,
    ) -> TokenMatch {
        let mut of_issuer = patterns
            .of(&self.token_principals)
            .iter()
            .map(|&pattern| self.token_principal(pattern))
            .filter(|pattern| pattern.issuer.matches(token.issuer.as_bytes()));
        if token.subject.is_empty() {
            let of_issuer = of_issuer.next().is_some();
            return TokenMatch::WithoutSubject { of_issuer };
        }
        match of_issuer.any(|pattern| pattern.subject.matches(token.subject.as_bytes())) {
            true => TokenMatch::Yes,
            false => TokenMatch::No,
        }
    }
}

impl StoreBuilder {
    pub(crate) fn token_principals(
        &mut self,
        values: &[String],
        refuse: &mut dyn FnMut(usize, String),
    ) -> Run<TokenPrincipal<Text>> {
        let mut patterns = Vec::with_capacity(values.len());
        for (index, value) in values.iter().enumerate() {
            match TokenPrincipal::parse(value) {
                Err(message) => refuse(index, message),
                Ok(pattern) => patterns.push(TokenPrincipal {
                    issuer: pattern.issuer.map(|text| self.text(text)),
                    subject: pattern.subject.map(|text| self.text(text)),
                }),
            }
        }
        append(&mut self.token_principals, patterns)
    }
}

/// Between the names of a nested claim, as in the key `request.auth.claims[a][b]`.
const BETWEEN: &str = "][";

/// The names in `[a][b]`, as they are kept: joined by [`BETWEEN`].
pub(crate) fn claim_path(brackets: &str) -> Option<&str> {
    let path = brackets.strip_prefix('[')?.strip_suffix(']')?;
    path.split(BETWEEN)
        .all(|name| !name.is_empty() && !name.contains(['[', ']']))
        .then_some(path)
}

/// The claim at a path that [`claim_path`] gave; `Err` when something on the way is not an object.
pub(crate) fn claim<'t>(token: &Token<'t>, path: &str) -> Result<Option<&'t Value>, ()> {
    let mut names = path.split(BETWEEN);
    let mut value = names.next().and_then(|name| token.claims.get(name));
    for name in names {
        value = match value {
            None => return Ok(None),
            Some(Value::Object(object)) => object.get(name),
            Some(_) => return Err(()),
        };
    }
    Ok(value)
}

/// RFC 8693 section 4.2 for `scope`; `permission` is treated alike by those whose policies are read here.
pub(crate) fn is_split_on_spaces(path: &str) -> bool {
    matches!(path, "scope" | "permission")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, issuer: &str, subject: &str) -> TokenMatch {
        let mut builder = StoreBuilder::default();
        let run = builder.token_principals(&[pattern.to_owned()], &mut |_, m| panic!("{m}"));
        let claims = serde_json::Map::new();
        let token = Token {
            issuer,
            subject,
            claims: &claims,
        };
        builder.finish().matches_token(run, &token)
    }

    #[test]
    fn request_principals_are_compared_part_by_part() {
        for (pattern, issuer, subject, expected) in [
            ("foo/*", "foo", "x", true),
            ("foo/*", "foo/x", "y", false),
            ("foo/bar", "foo", "bar", true),
            ("a/b/c", "a/b", "c", true),
            ("a/b/c", "a", "b/c", false),
            ("*", "any", "one", true),
            ("foo*", "foox", "x", true),
            ("foo*", "x", "foo", false),
            ("*foo", "x", "afoo", true),
            ("*foo", "foo", "x", false),
            ("*/bar", "any/thing", "bar", true),
            ("*x/bar", "ax", "bar", true),
            ("*x/bar", "a", "bar", false),
            ("foo/b*", "foo", "bar", true),
            ("foo/b*", "foo/b", "x", false),
            (
                "https://issuer.example/alice",
                "https://issuer.example",
                "alice",
                true,
            ),
            (
                "https://issuer.example//alice",
                "https://issuer.example/",
                "alice",
                true,
            ),
            (
                "spiffe://td/spiffe://td/ns/a/sa/b",
                "spiffe://td",
                "spiffe://td/ns/a/sa/b",
                true,
            ),
            (
                "spiffe://td/spiffe://td/ns/a/*",
                "spiffe://td",
                "spiffe://td/ns/a/sa/b",
                true,
            ),
            (
                "*/spiffe://td/ns/a/sa/b",
                "spiffe://td",
                "spiffe://td/ns/a/sa/b",
                true,
            ),
            (
                "spiffe://td/*",
                "spiffe://td",
                "spiffe://td/ns/a/sa/b",
                true,
            ),
            ("spiffe://td/*", "spiffe://td/ns", "x", false),
        ] {
            let expected = if expected {
                TokenMatch::Yes
            } else {
                TokenMatch::No
            };
            assert_eq!(
                matches(pattern, issuer, subject),
                expected,
                "{pattern} {issuer} {subject}"
            );
        }
        let without = |of_issuer| TokenMatch::WithoutSubject { of_issuer };
        assert_eq!(matches("foo*", "foo", ""), without(true));
        assert_eq!(matches("foo/bar", "bar", ""), without(false));
    }

    #[test]
    fn a_request_principal_that_can_never_match_is_refused() {
        for value in [
            "",
            "foo",
            "foo/",
            "/foo",
            "/",
            "a*b/c",
            "*/*",
            "a/*/b",
            "spiffe://td/*/spiffe://td/x",
        ] {
            assert!(TokenPrincipal::parse(value).is_err(), "{value}");
        }
    }

    #[test]
    fn claims_are_named_by_brackets() {
        for (brackets, expected) in [
            ("[a]", Some("a")),
            ("[a][b.c][d/e]", Some("a][b.c][d/e")),
            ("", None),
            ("[]", None),
            ("a", None),
            ("[a", None),
            ("[a][]", None),
            ("[a]b", None),
            ("[a]]", None),
            ("[a[b]]", None),
        ] {
            assert_eq!(claim_path(brackets), expected, "{brackets}");
        }
    }
}
