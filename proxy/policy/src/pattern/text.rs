//! Plain strings: exact, `prefix*`, `*suffix`, `*` alone.

use super::path::template_matches;
use crate::store::{Run, Store, StoreBuilder, Text, append};
use crate::words;

/// So many are compared one by one; of more, the exact ones are searched.
const FEW: usize = 8;

/// One string of a policy. `T` is what it is written in: the policy as stated, or its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pattern<T> {
    Any,
    Prefix(T),
    Suffix(T),
    /// Of paths only: whole segments, see [`path`](super::path).
    Template(T),
    /// Last in this order, so that those of a run stand together, sorted.
    Exact(T),
}

impl<'a> Pattern<&'a str> {
    /// A `*` anywhere but alone, first or last is refused, not taken literally (stricter rule 5).
    pub(crate) fn parse(value: &'a str) -> Result<Self, String> {
        let pattern = match value {
            "" => return Err(words::EMPTY_STRING.to_owned()),
            "*" => return Ok(Self::Any),
            _ => match (value.strip_prefix('*'), value.strip_suffix('*')) {
                (Some(suffix), _) => Self::Suffix(suffix),
                (None, Some(prefix)) => Self::Prefix(prefix),
                (None, None) => Self::Exact(value),
            },
        };
        if pattern.literal().contains('*') {
            return Err(format!("`{value}`{}", words::MISPLACED_STAR));
        }
        Ok(pattern)
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

    /// What is written beside the `*`.
    pub(crate) fn literal(self) -> &'a str {
        match self {
            Self::Any => "",
            Self::Exact(text) | Self::Prefix(text) | Self::Suffix(text) | Self::Template(text) => {
                text
            }
        }
    }

    /// As it is written in a policy.
    pub(crate) fn written(self) -> String {
        match self {
            Self::Any => "*".to_owned(),
            Self::Exact(text) | Self::Template(text) => text.to_owned(),
            Self::Prefix(prefix) => format!("{prefix}*"),
            Self::Suffix(suffix) => format!("*{suffix}"),
        }
    }
}

impl<T: AsRef<[u8]>> Pattern<T> {
    /// `*` means not empty.
    pub(crate) fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Any => !value.is_empty(),
            Self::Exact(text) => *text.as_ref() == *value,
            Self::Prefix(prefix) => value.starts_with(prefix.as_ref()),
            Self::Suffix(suffix) => value.ends_with(suffix.as_ref()),
            Self::Template(template) => template_matches(template.as_ref(), value),
        }
    }
}

impl<T: Copy> Pattern<T> {
    pub(crate) fn map<U>(self, mut map: impl FnMut(T) -> U) -> Pattern<U> {
        match self {
            Self::Any => Pattern::Any,
            Self::Exact(text) => Pattern::Exact(map(text)),
            Self::Prefix(text) => Pattern::Prefix(map(text)),
            Self::Suffix(text) => Pattern::Suffix(map(text)),
            Self::Template(text) => Pattern::Template(map(text)),
        }
    }
}

impl StoreBuilder {
    pub(crate) fn patterns(&mut self, mut patterns: Vec<Pattern<&str>>) -> Run<Pattern<Text>> {
        patterns.sort_unstable();
        patterns.dedup();
        let start = self.patterns.len();
        for pattern in patterns {
            let pattern = pattern.map(|text| self.text(text));
            self.patterns.push(pattern);
        }
        let new = self.patterns.split_off(start);
        append(&mut self.patterns, new)
    }
}

impl Store {
    pub(crate) fn pattern(&self, pattern: Pattern<Text>) -> Pattern<&str> {
        pattern.map(|text| self.text(text))
    }

    /// Any of them; `*` means not empty.
    pub(crate) fn matches(&self, patterns: Run<Pattern<Text>>, value: &[u8]) -> bool {
        let mut patterns = patterns.of(&self.patterns);
        if patterns.len() > FEW {
            let exact = patterns.partition_point(|pattern| !matches!(pattern, Pattern::Exact(_)));
            let (others, exact) = patterns.split_at(exact);
            let compare =
                |pattern: &Pattern<Text>| self.pattern(*pattern).literal().as_bytes().cmp(value);
            if exact.binary_search_by(compare).is_ok() {
                return true;
            }
            patterns = others;
        }
        patterns
            .iter()
            .any(|pattern| pattern.map(|text| self.bytes(text)).matches(value))
    }

    /// Any of them; `*` means present, as it does for headers and methods.
    pub(crate) fn matches_present(&self, patterns: Run<Pattern<Text>>, value: &[u8]) -> bool {
        patterns.of(&self.patterns).first() == Some(&Pattern::Any) || self.matches(patterns, value)
    }

    /// All the strings, if each of them is exact.
    pub(crate) fn exact_only(
        &self,
        patterns: Run<Pattern<Text>>,
    ) -> Option<impl Iterator<Item = &str> + Clone> {
        let patterns = patterns.of(&self.patterns);
        // They are sorted: when the first is exact, all are.
        matches!(patterns.first(), Some(Pattern::Exact(_))).then(|| {
            patterns
                .iter()
                .map(|&pattern| self.pattern(pattern).literal())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As header values and methods, and as everything else.
    fn matches(patterns: &[&str], value: &str) -> (bool, bool) {
        let mut builder = StoreBuilder::default();
        let patterns = patterns.iter().map(|value| Pattern::parse(value).unwrap());
        let run = builder.patterns(patterns.collect());
        let store = builder.finish();
        (
            store.matches_present(run, value.as_bytes()),
            store.matches(run, value.as_bytes()),
        )
    }

    #[test]
    fn a_string_is_exact_a_prefix_a_suffix_or_anything() {
        for (pattern, matching, other) in [
            ("a", &["a"][..], &["", "A", "ab", "ba"][..]),
            ("a*", &["a", "ab"], &["", "b", "ba"]),
            ("*a", &["a", "ba"], &["", "b", "ab"]),
            ("*", &["a", "*"], &[]),
        ] {
            for value in matching {
                assert_eq!(
                    matches(&[pattern], value),
                    (true, true),
                    "{pattern} {value}"
                );
            }
            for value in other {
                assert_eq!(
                    matches(&[pattern], value),
                    (false, false),
                    "{pattern} {value}"
                );
            }
        }
        assert_eq!(matches(&["*"], ""), (true, false));
        let many = ["m0", "m1", "m2", "m3", "m4", "m5", "m6", "x*", "*z", "m3"];
        for (value, expected) in [
            ("m0", true),
            ("m6", true),
            ("m7", false),
            ("xy", true),
            ("az", true),
            ("", false),
        ] {
            assert_eq!(matches(&many, value).1, expected, "{value}");
        }
        for (value, expected) in [
            ("b", true),
            ("xy", true),
            ("d", false),
            ("", false),
            ("zz", true),
        ] {
            assert_eq!(
                matches(&["c", "a", "b", "x*", "*z", "a"], value).1,
                expected,
                "{value}"
            );
        }
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
            assert_eq!(matches(&[pattern], "abc"), (false, false), "{pattern}");
            assert_eq!(matches(&[pattern], "a"), (false, false), "{pattern}");
        }
        assert_eq!(matches(&["a.c"], "a.c"), (true, true));
        assert_eq!(matches(&["a.c*"], "abcd"), (false, false));
    }
}
