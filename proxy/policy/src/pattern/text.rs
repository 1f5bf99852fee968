//! Plain strings: exact, `prefix*`, `*suffix`, `*` alone.

use std::collections::HashSet;
use std::sync::Arc;

/// One string of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pattern<'a> {
    Any,
    Exact(&'a str),
    Prefix(&'a str),
    Suffix(&'a str),
}

impl<'a> Pattern<'a> {
    /// A `*` anywhere but alone, first or last is refused, not taken literally (stricter rule 5).
    pub(crate) fn parse(value: &'a str) -> Result<Self, String> {
        let pattern = match value {
            "" => return Err("an empty string matches nothing; remove it".to_owned()),
            "*" => return Ok(Self::Any),
            _ => match (value.strip_prefix('*'), value.strip_suffix('*')) {
                (Some(suffix), _) => Self::Suffix(suffix),
                (None, Some(prefix)) => Self::Prefix(prefix),
                (None, None) => Self::Exact(value),
            },
        };
        if pattern.literal().contains('*') {
            return Err(format!(
                "`{value}` has a `*` in the wrong place: one may stand alone, first or last, and is never literal"
            ));
        }
        Ok(pattern)
    }

    /// What is written beside the `*`.
    pub(crate) fn literal(self) -> &'a str {
        match self {
            Self::Any => "",
            Self::Exact(text) | Self::Prefix(text) | Self::Suffix(text) => text,
        }
    }

    /// Like [`parse`](Self::parse), for values in which only some bytes occur: a pattern with another
    /// one would never match, which in a DENY is a hole.
    pub(crate) fn parse_of(
        value: &'a str,
        allowed: fn(u8) -> bool,
        what: &str,
    ) -> Result<Self, String> {
        let pattern = Self::parse(value)?;
        match pattern
            .literal()
            .chars()
            .find(|c| !u8::try_from(*c).is_ok_and(allowed))
        {
            Some(c) => Err(format!(
                "`{value}` can never match: {what} has no `{}`",
                c.escape_default()
            )),
            None => Ok(pattern),
        }
    }
}

/// The strings of one policy, each kept once.
#[derive(Default)]
pub(crate) struct Interner(HashSet<Arc<str>>);

impl Interner {
    pub(crate) fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return known.clone();
        }
        let text: Arc<str> = text.into();
        self.0.insert(text.clone());
        text
    }
}

/// Any of several patterns.
#[derive(Debug, Default)]
pub(crate) struct TextSet {
    any: bool,
    /// Sorted.
    exact: Box<[Arc<str>]>,
    affixes: Box<[Affix]>,
}

#[derive(Debug)]
enum Affix {
    Prefix(Arc<str>),
    Suffix(Arc<str>),
}

impl TextSet {
    pub(crate) fn new<'a>(
        patterns: impl IntoIterator<Item = Pattern<'a>>,
        interner: &mut Interner,
    ) -> Self {
        let (mut any, mut exact, mut affixes) = (false, Vec::new(), Vec::new());
        for pattern in patterns {
            match pattern {
                Pattern::Any => any = true,
                Pattern::Exact(text) => exact.push(interner.intern(text)),
                Pattern::Prefix(text) => affixes.push(Affix::Prefix(interner.intern(text))),
                Pattern::Suffix(text) => affixes.push(Affix::Suffix(interner.intern(text))),
            }
        }
        exact.sort_unstable();
        exact.dedup();
        Self {
            any,
            exact: exact.into(),
            affixes: affixes.into(),
        }
    }

    /// `*` means not empty.
    pub(crate) fn matches(&self, value: &[u8]) -> bool {
        (self.any && !value.is_empty()) || self.matches_text(value)
    }

    /// `*` means present, as it does for headers and methods.
    pub(crate) fn matches_present(&self, value: &[u8]) -> bool {
        self.any || self.matches_text(value)
    }

    fn matches_text(&self, value: &[u8]) -> bool {
        self.exact
            .binary_search_by(|exact| exact.as_bytes().cmp(value))
            .is_ok()
            || self.affixes.iter().any(|affix| match affix {
                Affix::Prefix(prefix) => value.starts_with(prefix.as_bytes()),
                Affix::Suffix(suffix) => value.ends_with(suffix.as_bytes()),
            })
    }

    /// All the values, if each of them is exact.
    pub(crate) fn exact_values(&self) -> Option<&[Arc<str>]> {
        (!self.any && self.affixes.is_empty()).then_some(&self.exact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(values: &[&str]) -> TextSet {
        TextSet::new(
            values.iter().map(|value| Pattern::parse(value).unwrap()),
            &mut Interner::default(),
        )
    }

    #[test]
    fn a_string_is_exact_a_prefix_a_suffix_or_anything() {
        for (pattern, matching, other) in [
            ("a", &["a"][..], &["", "A", "ab", "ba"][..]),
            ("a*", &["a", "ab"], &["", "b", "ba"]),
            ("*a", &["a", "ba"], &["", "b", "ab"]),
            ("*", &["a", "*"], &[""]),
        ] {
            for value in matching {
                assert!(
                    set(&[pattern]).matches(value.as_bytes()),
                    "{pattern} {value}"
                );
            }
            for value in other {
                assert!(
                    !set(&[pattern]).matches(value.as_bytes()),
                    "{pattern} {value}"
                );
            }
        }
        assert!(set(&["*"]).matches_present(b""));
        assert!(set(&["c", "a", "b", "x*"]).matches(b"b"));
    }

    #[test]
    fn stricter_05_star_in_the_middle_is_refused() {
        for value in ["a*b", "**", "*a*", "a**", "**a", "a*b*", "*a*b"] {
            assert!(Pattern::parse(value).is_err(), "{value}");
        }
        assert!(Pattern::parse("").is_err());
    }

    #[test]
    fn row_10_regex_metacharacters_are_literal() {
        for pattern in [".", "a.c", "[a-z]", "(a|b)", "^a$", "a+", "a\\d", ".*"] {
            if let Ok(parsed) = Pattern::parse(pattern) {
                let set = TextSet::new([parsed], &mut Interner::default());
                assert!(!set.matches(b"abc") && !set.matches(b"a"), "{pattern}");
            }
        }
        assert!(set(&["a.c"]).matches(b"a.c"));
        assert!(!set(&["a.c*"]).matches(b"abcd"));
    }
}
