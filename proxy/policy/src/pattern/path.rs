//! Paths: strings, and templates of whole segments.

use super::text::Pattern;
use crate::path::{EncodedSlash, normalise_target};

/// A string, or a template: whole segments only, `{**}` at most once and no template after it.
pub(crate) fn parse_path(value: &str) -> Result<Pattern<&str>, String> {
    if !value.contains(['{', '}']) {
        return Pattern::parse(value);
    }
    let refuse = |why: &str| Err(format!("`{value}`: {why}"));
    let Some(path) = value.strip_prefix('/') else {
        return refuse("a path template starts with `/`");
    };
    let mut segments = path.split('/');
    while let Some(segment) = segments.next() {
        match segment {
            "{*}" => {}
            "{**}" => {
                return match segments.any(|after| after.contains(['{', '}', '*'])) {
                    true => refuse("no template and no `*` may follow `{**}`"),
                    false => Ok(Pattern::Template(value)),
                };
            }
            _ if segment.contains(['{', '}', '*']) => {
                return refuse(
                    "a template has whole segments `{*}` or `{**}` and no other `*`, `{` or `}`; \
                     a literal brace is `%7B` or `%7D`",
                );
            }
            _ => {}
        }
    }
    Ok(Pattern::Template(value))
}

/// `template` is as [`parse_path`] accepts it.
pub(super) fn template_matches(template: &[u8], path: &[u8]) -> bool {
    let (mut template, mut path) = (template, path);
    loop {
        let (Some(wanted), Some(given)) = (template.strip_prefix(b"/"), path.strip_prefix(b"/"))
        else {
            return template.is_empty() && path.is_empty();
        };
        let (segment, after) = split_segment(wanted);
        // The slash before `{**}` is required, and so is the one after it.
        if segment == b"{**}" {
            return given.ends_with(after);
        }
        let (given, rest) = split_segment(given);
        let fits = match segment {
            b"{*}" => !given.is_empty(),
            literal => literal == given,
        };
        if !fits {
            return false;
        }
        (template, path) = (after, rest);
    }
}

fn split_segment(path: &[u8]) -> (&[u8], &[u8]) {
    path.split_at(memchr::memchr(b'/', path).unwrap_or(path.len()))
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
        parse_path(pattern).unwrap().matches(path.as_bytes())
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
            assert!(parse_path(value).is_err(), "{value}");
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
