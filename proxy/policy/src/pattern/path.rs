//! Paths: strings, and templates of whole segments.

use super::text::Pattern;
use crate::path::{EncodedSlash, normalise_target};
use crate::words;

/// A string, or a template: whole segments only, `{**}` at most once and no template after it.
pub(crate) fn parse_path(value: &str) -> Result<Pattern<&str>, String> {
    if !value.contains(['{', '}']) {
        return Pattern::parse(value);
    }
    let refuse = |why: &str| Err(format!("`{value}`: {why}"));
    let Some(path) = value.strip_prefix('/') else {
        return refuse(words::TEMPLATE_WITHOUT_SLASH);
    };
    let mut segments = path.split('/');
    while let Some(segment) = segments.next() {
        match segment {
            "{*}" => {}
            "{**}" => {
                return match segments.any(|after| after.contains(['{', '}', '*'])) {
                    true => refuse(words::TEMPLATE_AFTER_ANY),
                    false => Ok(Pattern::Template(value)),
                };
            }
            _ if segment.contains(['{', '}', '*']) => {
                return refuse(words::TEMPLATE_SEGMENT);
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

/// Why a pattern that is well-formed can match no normalised path, and what to write, if that is so.
pub(crate) fn never_matches(value: &str) -> Option<String> {
    // A wildcard and braces are bytes of a path like others, and what they stand for changes nothing around them: so the
    // pattern itself is normalised. Of a suffix, only what is before it is missing.
    let sample = match value.strip_prefix('*') {
        Some(_) => format!("/{value}"),
        None => value.to_owned(),
    };
    let why = match normalise_target("GET", sample.as_bytes(), EncodedSlash::Keep) {
        _ if value.contains('?') => "the query is not part of the path".to_owned(),
        _ if !sample.starts_with('/') => "a path starts with `/`".to_owned(),
        Ok(target) if *target.path == *sample => return None,
        Ok(_) => "paths are normalised before they are compared".to_owned(),
        // It may end within an encoding.
        Err(_) if cuts_an_encoding(value) => return None,
        Err(refused) => format!("such a request is refused: {refused}"),
    };
    Some(match corrected(value) {
        Some(corrected) => format!("{why}; write `{corrected}`"),
        None => why,
    })
}

/// `/%*`, `/%C*`.
fn cuts_an_encoding(value: &str) -> bool {
    value
        .strip_suffix('*')
        .is_some_and(|prefix| prefix.bytes().rev().take(2).any(|byte| byte == b'%'))
}

/// The pattern as its author surely meant it, if there is such a one.
fn corrected(value: &str) -> Option<String> {
    // A whole URL, or nothing but a query.
    let path = value.split('?').next().filter(|path| !path.is_empty())?;
    if path.contains("://") {
        return None;
    }
    let mut sample = String::new();
    if !path.starts_with('/') {
        sample.push('/');
    }
    for byte in path.bytes() {
        match byte {
            b'#' => sample.push_str("%23"),
            0x21..=0x7e => sample.push(char::from(byte)),
            other => sample.push_str(&format!("%{other:02X}")),
        }
    }
    let normal = normalise_target("GET", sample.as_bytes(), EncodedSlash::Keep).ok()?;
    let corrected = match path.starts_with('*') {
        true => normal.path.strip_prefix('/')?.to_owned(),
        false => normal.path.into_owned(),
    };
    // What a wildcard ended with may have changed its meaning.
    let same_kind = corrected.starts_with('*') == value.starts_with('*')
        && parse_path(&corrected).is_ok()
        && never_matches(&corrected).is_none();
    same_kind.then_some(corrected)
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
    fn patterns_that_no_normalised_path_matches_are_found_with_what_to_write() {
        for (value, instead) in [
            ("a", Some("/a")),
            ("admin/*", Some("/admin/*")),
            ("x*", Some("/x*")),
            ("/a//b", Some("/a/b")),
            ("//*", Some("/*")),
            ("/a/../b", Some("/b")),
            ("/a/./{*}", Some("/a/{*}")),
            ("/a//{**}", Some("/a/{**}")),
            ("/%61", Some("/a")),
            ("/a%2fb", Some("/a%2Fb")),
            ("/a\\b", Some("/a/b")),
            ("/a?b", Some("/a")),
            ("/a#b", Some("/a%23b")),
            ("/a b", Some("/a%20b")),
            ("/straße", Some("/stra%C3%9Fe")),
            ("*//b", Some("*/b")),
            ("*%2fb", Some("*%2Fb")),
            ("*\\b", Some("*/b")),
            ("*/..", None),
            ("/a%zz", None),
            ("/..", None),
            ("https://orders.shop/a", None),
        ] {
            let why = never_matches(value).unwrap_or_else(|| panic!("{value}"));
            let told = why
                .split_once("; write `")
                .map(|(_, rest)| rest.trim_end_matches('`'));
            assert_eq!(told, instead, "{value}: {why}");
        }
        for value in [
            "/", "/a", "/a/", "/a/*", "*", "*/b", "*.html", "/a/{*}/b", "/a/{**}", "/a%2Fb",
            "/%C3*", "/a%*", "/a%2*", "/a/.*", "/a/..*", "*.", "*./a", "*2F", "*;a=b",
        ] {
            assert_eq!(never_matches(value), None, "{value}");
        }
    }
}
