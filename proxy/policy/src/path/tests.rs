use super::*;

fn path_of(target: &str, slash: EncodedSlash) -> Result<String, PathRefused> {
    normalise_target("GET", target.as_bytes(), slash).map(|target| target.path.into_owned())
}

fn check(target: &str, expected: Result<&str, PathRefused>) {
    assert_eq!(
        path_of(target, EncodedSlash::Refuse),
        expected.map(str::to_owned),
        "{target}"
    );
}

#[test]
fn row_01_path_tricks_end_in_one_spelling() {
    for (target, expected) in [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a//b", "/a/b"),
        ("//a", "/a"),
        ("/a/", "/a/"),
        ("/a//", "/a/"),
        ("/./a", "/a"),
        ("/a/.", "/a/"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/b/..", "/a/"),
        ("/a/..", "/"),
        ("/a//../b", "/b"),
        ("/a/b/../../c", "/c"),
        ("/a\\b", "/a/b"),
        ("/a\\..\\b", "/b"),
        ("\\a", "\\a"),
        ("/%61dmin", "/admin"),
        ("/%2e/a", "/a"),
        ("/a/%2e%2E/b", "/b"),
        ("/a/.%2e/b", "/b"),
        ("/%c3%a9", "/%C3%A9"),
        ("/a%3bb", "/a%3Bb"),
        ("/%252e%252e/a", "/%252e%252e/a"),
        ("/a/...", "/a/..."),
        ("/.well-known/x", "/.well-known/x"),
        ("/a;v=1/b;w=2", "/a;v=1/b;w=2"),
        ("/a/..;/x", "/x"),
        ("/..;/x", "/x"),
        ("/a/..;v=1;w/x", "/x"),
        ("/a/.;v=1/x", "/a/x"),
        ("/a/%2e%2e;/x", "/x"),
        ("/a/..;v=1", "/"),
    ] {
        match target.strip_prefix('\\') {
            Some(_) => check(target, Err(PathRefused::NotOriginForm)),
            None => check(target, Ok(expected)),
        }
    }
}

#[test]
fn row_01_encoded_slashes_are_refused_unless_the_port_says_otherwise() {
    for target in ["/a%2fb", "/a%2Fb", "/a%5cb", "/a%5C"] {
        check(target, Err(PathRefused::EncodedSlash));
    }
    for (target, keep, decode) in [
        ("/a%2fb", "/a%2Fb", "/a/b"),
        ("/a%5cb", "/a%5Cb", "/a/b"),
        ("/a/..%2fb", "/a/..%2Fb", "/b"),
        ("/a%2f%2fb", "/a%2F%2Fb", "/a/b"),
        ("/a%2f..%2fb", "/a%2F..%2Fb", "/b"),
    ] {
        assert_eq!(
            path_of(target, EncodedSlash::Keep).as_deref(),
            Ok(keep),
            "{target}"
        );
        assert_eq!(
            path_of(target, EncodedSlash::Decode).as_deref(),
            Ok(decode),
            "{target}"
        );
    }
    assert_eq!(
        path_of("/..%2fa", EncodedSlash::Decode),
        Err(PathRefused::AboveRoot)
    );
}

#[test]
fn row_01_what_cannot_be_normalised_safely_is_refused() {
    for target in [
        "/..",
        "/../a",
        "/a/../../b",
        "//../a",
        "/%2e%2e/a",
        "/\\../a",
    ] {
        check(target, Err(PathRefused::AboveRoot));
    }
    for target in ["/%", "/%2", "/%zz", "/a%2", "/%%32F"] {
        check(target, Err(PathRefused::MalformedEncoding));
    }
    check("/a%00b", Err(PathRefused::EncodedNul));
    for target in ["/a b", "/a\tb", "/a\0", "/\u{7f}", "/é", "/a\r\n"] {
        check(target, Err(PathRefused::Character));
    }
}

#[test]
fn row_02_the_query_is_not_part_of_the_path_and_a_fragment_is_refused() {
    let target = normalise_target("GET", b"/a/../b?c=/../%2f//d?e", EncodedSlash::Refuse).unwrap();
    assert_eq!(
        (&*target.path, target.query),
        ("/b", Some("c=/../%2f//d?e"))
    );
    let target = normalise_target("GET", b"/a?", EncodedSlash::Refuse).unwrap();
    assert_eq!((&*target.path, target.query), ("/a", Some("")));
    for target in ["/a#b", "/#", "/a?b#c", "#"] {
        check(target, Err(PathRefused::Fragment));
    }
    // An encoded `?` is a byte of its segment, whatever follows.
    check("/a%3fb", Ok("/a%3Fb"));
}

#[test]
fn row_03_a_path_starts_with_a_slash() {
    for target in [
        "a",
        "admin/x",
        "%2Fa",
        "foo://bar/baz",
        "example.org:80",
        "?a=b",
        ";/a",
    ] {
        check(target, Err(PathRefused::NotOriginForm));
    }
    check("", Err(PathRefused::Empty));
}

#[test]
fn row_03_the_asterisk_is_for_options_only() {
    check("*", Err(PathRefused::AsteriskForm));
    assert_eq!(
        normalise_target("OPTIONS", b"*", EncodedSlash::Refuse)
            .unwrap()
            .path,
        "*"
    );
    assert!(normalise_target("OPTIONS", b"*/a", EncodedSlash::Refuse).is_err());
}

#[test]
fn row_03_connect_takes_an_authority_and_nothing_else() {
    let target = normalise_target("CONNECT", b"example.org:443", EncodedSlash::Refuse).unwrap();
    assert_eq!(
        (&*target.path, target.query, target.authority),
        ("", None, Some("example.org:443"))
    );
    for bad in [
        "/a",
        "example.org",
        "http://example.org:80/",
        "user@example.org:80",
        "example.org:80/a",
        "*",
        ":80",
    ] {
        assert_eq!(
            normalise_target("CONNECT", bad.as_bytes(), EncodedSlash::Refuse),
            Err(PathRefused::AuthorityForm),
            "{bad}"
        );
    }
}

#[test]
fn the_absolute_form_is_split_into_authority_and_path() {
    for (method, target, path, query, authority) in [
        (
            "GET",
            "http://example.org/a/../b?c",
            "/b",
            Some("c"),
            "example.org",
        ),
        (
            "GET",
            "HTTPS://Example.org:8443",
            "/",
            None,
            "Example.org:8443",
        ),
        ("GET", "http://example.org?c", "/", Some("c"), "example.org"),
        (
            "OPTIONS",
            "http://example.org:8001",
            "*",
            None,
            "example.org:8001",
        ),
        ("OPTIONS", "http://example.org/", "/", None, "example.org"),
    ] {
        let got = normalise_target(method, target.as_bytes(), EncodedSlash::Refuse).unwrap();
        assert_eq!(
            (&*got.path, got.query, got.authority),
            (path, query, Some(authority)),
            "{target}"
        );
    }
    for bad in [
        "http://",
        "http:///a",
        "http://user@example.org/",
        "http://a\\b/c",
        "http://a b/",
    ] {
        assert!(
            normalise_target("GET", bad.as_bytes(), EncodedSlash::Refuse).is_err(),
            "{bad}"
        );
    }
    // RFC 9110 section 4.2.4: userinfo is refused, not cut off.
    check("http://user@example.org/", Err(PathRefused::Authority));
}

#[test]
fn what_is_normal_already_is_borrowed() {
    for target in [
        "/",
        "/a/b",
        "/a/b/?x=%2F",
        "/.well-known/a",
        "/%C3%A9",
        "/a;b=c",
        "/a/...b",
    ] {
        let target = normalise_target("GET", target.as_bytes(), EncodedSlash::Refuse).unwrap();
        assert!(matches!(target.path, Cow::Borrowed(_)), "{target:?}");
    }
}
