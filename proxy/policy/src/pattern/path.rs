//! Paths: strings, and templates of whole segments.

use std::sync::Arc;

use super::text::{Interner, Pattern, TextSet};
use crate::path::{EncodedSlash, normalise_target};

/// Any of several path patterns.
#[derive(Debug, Default)]
pub(crate) struct PathSet {
    texts: TextSet,
    templates: Box<[Template]>,
}

/// `/a/{*}/b`, `/a/{**}/c`.
#[derive(Debug)]
struct Template {
    segments: Box<[Segment]>,
    /// With `{**}`: what must stand at the end, after it.
    rest: Option<Arc<str>>,
}

#[derive(Debug)]
enum Segment {
    Literal(Arc<str>),
    /// `{*}`: exactly one, not empty.
    One,
}

impl PathSet {
    pub(crate) fn matches(&self, path: &str) -> bool {
        self.texts.matches(path.as_bytes())
            || self.templates.iter().any(|template| template.matches(path))
    }

    pub(crate) fn parse(
        values: &[String],
        interner: &mut Interner,
        refuse: &mut dyn FnMut(usize, String),
    ) -> Self {
        let (mut texts, mut templates) = (Vec::new(), Vec::new());
        for (index, value) in values.iter().enumerate() {
            let parsed = if value.contains(['{', '}']) {
                Template::parse(value, interner).map(|template| templates.push(template))
            } else {
                Pattern::parse(value).map(|pattern| texts.push(pattern))
            };
            if let Err(message) = parsed {
                refuse(index, message);
            }
        }
        Self {
            texts: TextSet::new(texts, interner),
            templates: templates.into(),
        }
    }
}

impl Template {
    /// Whole segments only, `{**}` at most once and no template after it.
    fn parse(value: &str, interner: &mut Interner) -> Result<Self, String> {
        let refuse = |why: &str| Err(format!("`{value}`: {why}"));
        let Some(path) = value.strip_prefix('/') else {
            return refuse("a path template starts with `/`");
        };
        let mut segments = Vec::new();
        let mut parts = path.split('/');
        while let Some(part) = parts.next() {
            match part {
                "{*}" => segments.push(Segment::One),
                "{**}" => {
                    let rest: String = parts.flat_map(|part| ["/", part]).collect();
                    if rest.contains(['{', '}', '*']) {
                        return refuse("no template and no `*` may follow `{**}`");
                    }
                    return Ok(Self {
                        segments: segments.into(),
                        rest: Some(interner.intern(&rest)),
                    });
                }
                _ if part.contains(['{', '}', '*']) => {
                    return refuse(
                        "a template has whole segments `{*}` or `{**}` and no other `*`, `{` or `}`; \
                         a literal brace is `%7B` or `%7D`",
                    );
                }
                literal => segments.push(Segment::Literal(interner.intern(literal))),
            }
        }
        Ok(Self {
            segments: segments.into(),
            rest: None,
        })
    }

    fn matches(&self, path: &str) -> bool {
        let mut left = path;
        for segment in &self.segments {
            let Some(after_slash) = left.strip_prefix('/') else {
                return false;
            };
            let (part, after) =
                after_slash.split_at(after_slash.find('/').unwrap_or(after_slash.len()));
            match segment {
                Segment::Literal(literal) if **literal != *part => return false,
                Segment::One if part.is_empty() => return false,
                Segment::Literal(_) | Segment::One => left = after,
            }
        }
        match &self.rest {
            None => left.is_empty(),
            // The slash before `{**}` is required, and so is the one after it.
            Some(rest) => left
                .strip_prefix('/')
                .is_some_and(|left| left.ends_with(&**rest)),
        }
    }
}

/// Why a pattern that is well-formed can match no normalised path, if that is so.
pub(crate) fn never_matches(value: &str) -> Option<String> {
    let literal = value.trim_matches('*');
    if literal.contains('?') {
        return Some("the query is not part of the path".to_owned());
    }
    if !value.starts_with(['/', '*']) {
        return Some("a path starts with `/`".to_owned());
    }
    // As it would look inside a path; what a wildcard cuts off is completed with a letter.
    let sample = match Pattern::parse(value) {
        Ok(Pattern::Prefix(prefix)) => format!("{prefix}x"),
        Ok(Pattern::Suffix(suffix)) => format!("/x{suffix}"),
        _ => value.replace("{**}", "x").replace("{*}", "x"),
    };
    // A prefix or suffix may cut an encoding in two: then nothing can be said.
    let cut = |value: &str| {
        value.ends_with('*')
            && value[..value.len() - 1]
                .bytes()
                .rev()
                .take(2)
                .any(|b| b == b'%')
    };
    if value.starts_with('*') || cut(value) {
        return None;
    }
    match normalise_target("GET", sample.as_bytes(), EncodedSlash::Keep) {
        Ok(target) if *target.path == *sample => None,
        Ok(target) => Some(format!(
            "paths are normalised before they are compared, and this one becomes like `{}`",
            target.path
        )),
        Err(refused) => Some(format!("such a request is refused: {refused}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        PathSet::parse(
            &[pattern.to_owned()],
            &mut Interner::default(),
            &mut |_, m| panic!("{m}"),
        )
        .matches(path)
    }

    #[test]
    fn templates_match_whole_segments() {
        for (pattern, matching, other) in [
            (
                "/a/{*}",
                &["/a/b", "/a/b;c=d"][..],
                &["/a", "/a/", "/a/b/", "/a/b/c", "/x/b"][..],
            ),
            (
                "/a/{*}/c",
                &["/a/b/c"],
                &["/a//c", "/a/c", "/a/b/d", "/a/b/b/c"],
            ),
            ("/{*}/{*}", &["/a/b"], &["/a", "/a/", "/a/b/c"]),
            ("/a/{*}/", &["/a/b/"], &["/a/b", "/a/b/c"]),
            (
                "/a/{**}",
                &["/a/", "/a/b", "/a/b/c", "/a/b/"],
                &["/a", "/ab", "/b/a/"],
            ),
            ("/{**}", &["/", "/a", "/a/b"], &["", "*"]),
            (
                "/s/{**}/c",
                &["/s//c", "/s/x/c", "/s/x/y/c", "/s/c/c"],
                &["/s/c", "/s/xc", "/s/x/c/d", "/x/s/x/c"],
            ),
            ("/s/{**}/c/d", &["/s/x/c/d"], &["/s/c/d", "/s/x/d"]),
            (
                "/{*}/b/{**}",
                &["/a/b/", "/a/b/c"],
                &["/b/c", "//b/c", "/a/b"],
            ),
            ("/a/{**}/", &["/a/b/", "/a//"], &["/a/", "/a/b"]),
        ] {
            for path in matching {
                assert!(matches(pattern, path), "{pattern} {path}");
            }
            for path in other {
                assert!(!matches(pattern, path), "{pattern} {path}");
            }
        }
    }

    #[test]
    fn templates_that_cannot_be_honoured_are_refused() {
        for value in [
            "/a/{id}",
            "/a/x{*}",
            "/a/{*}x",
            "/a/{**}/{*}",
            "/a/{**}/{**}",
            "/a/{*}/b*",
            "*/{*}",
            "{*}",
            "/a/{",
            "/a/}",
            "/{***}",
            "/{**}/b*",
            "/{**}x",
        ] {
            let mut refused = false;
            PathSet::parse(
                &[value.to_owned()],
                &mut Interner::default(),
                &mut |_, _| refused = true,
            );
            assert!(refused, "{value}");
        }
    }

    #[test]
    fn patterns_that_no_normalised_path_matches_are_found() {
        for value in [
            "a", "/a//b", "/a/../b", "/a?b", "/%61", "/a%2fb", "/a\\b", "/a/./{*}", "/a#b", "/a b",
            "//*", "/a%zz", "x*",
        ] {
            assert!(never_matches(value).is_some(), "{value}");
        }
        for value in [
            "/", "/a", "/a/", "/a/*", "*", "*/b", "*.html", "/a/{*}/b", "/a/{**}", "/a%2Fb",
            "/%C3*", "/a%*", "/a%2*", "/a/.*",
        ] {
            assert_eq!(never_matches(value), None, "{value}");
        }
    }
}
