//! What attributes hold, and what reading one that is absent does.

use serde_json::{Map, json};

use super::{Case, Sent, check, check_all, claims};
use crate::Principal;
use crate::cel::Program;

#[test]
fn every_attribute_can_be_read() {
    check_all(
        "true",
        &[
            "source.principal == 'spiffe://example.org/ns/shop/sa/web'",
            "source.namespace == 'shop' && source.serviceAccount == 'web'",
            "source.trustDomain == 'example.org'",
            "source.ip == '10.1.2.3' && '10.1.2.3' == source.ip && source.ip != '10.1.2.4'",
            "source.ip in ['10.1.2.3'] && source.ip.startsWith('10.')",
            "source.ip.inCidr('10.0.0.0/8') && !source.ip.inCidr('11.0.0.0/8')",
            "remote.ip == '2001:db8::7' && remote.ip.inCidr('2001:db8::/32')",
            "destination.port == 8080 && destination.port in [80, 8080]",
            "connection.sni == 'api.example.org'",
            "request.method == 'GET' && request.path == '/a/b'",
            "request.auth.principal == 'https://issuer.example/alice'",
            "'orders' in request.auth.audiences && request.auth.audiences.size() == 2",
            "request.auth.presenter == 'web'",
        ],
    );
}

#[test]
fn rule_09_host_is_normalised() {
    check_all(
        "true",
        &["request.host == 'orders.shop'", "has(request.host)"],
    );
    let case = Case {
        host: "a b",
        ..Case::default()
    };
    case.check(
        "request.host != 'orders.shop'",
        "no such attribute: `request.host`",
    );
    case.check("has(request.host)", "false");
}

#[test]
fn row_18_mapped_addresses_are_ipv4() {
    check_all(
        "true",
        &[
            "destination.ip == '10.9.9.9'",
            "string(destination.ip) == '10.9.9.9'",
            "destination.ip.inCidr('10.0.0.0/8')",
            "request.headers['x-address'].inCidr('10.0.0.0/8')",
        ],
    );
}

#[test]
fn headers_are_read_by_name() {
    check_all(
        "true",
        &[
            "request.headers['x-id'] == '42'",
            "request.headers.x_under == 'u'",
            "request.headers.`x-id` == '42'",
            "'x-id' in request.headers && !('x-none' in request.headers)",
            "has(request.headers.x_under) && !has(request.headers.x_none) && has(request.headers)",
            "int(request.headers['x-id']) > 41",
            "request.headers['x-' + 'id'] == '42'",
            "['x-id', 'x_under'].all(h, h in request.headers)",
        ],
    );
    check("request.headers['x-none'] == ''", "no such key: \"x-none\"");
    check(
        "request.headers['x-binary'] == ''",
        "the header \"x-binary\" is not text",
    );
    check(
        "request.headers['X' + '-Id'] == ''",
        "\"X-Id\" is not the name of a header",
    );
    check(
        "'ho' + 'st' in request.headers",
        "\"host\" is not the name of a header",
    );
    check(
        "request.headers[dyn(1)] == ''",
        "`request.headers[]` is not defined for int",
    );
}

#[test]
fn row_05_a_repeated_header_has_no_single_value() {
    check(
        "request.headers['x-twice'] == 'a'",
        "the header \"x-twice\" is sent more than once, so it has no single value",
    );
    check(
        "request.headers['x-twice'] != 'a'",
        "the header \"x-twice\" is sent more than once",
    );
    check("'x-twice' in request.headers", "true");
}

#[test]
fn claims_are_what_json_makes_them() {
    check_all(
        "true",
        &[
            "'admin' in request.auth.claims.groups",
            "!('root' in request.auth.claims.groups)",
            "!('x' in request.auth.claims.empty)",
            "request.auth.claims.groups.exists(g, g.startsWith('sta'))",
            "request.auth.claims.level == 3 && request.auth.claims.level == 3.0",
            "request.auth.claims.level + 1 == 4 && type(request.auth.claims.level) == int",
            "request.auth.claims.ratio < 1 && type(request.auth.claims.ratio) == double",
            "request.auth.claims.big == 18446744073709551615u",
            "request.auth.claims.exact == 9007199254740993",
            "request.auth.claims.exact != 9007199254740992",
            "request.auth.claims.admin == true && (request.auth.claims.admin || false)",
            "request.auth.claims.nothing == null && has(request.auth.claims.nothing)",
            "request.auth.claims.address.city == 'Bern'",
            "request.auth.claims['address']['lines'][1] == 'b'",
            "has(request.auth.claims.address.city) && !has(request.auth.claims.address.zip)",
            "!has(request.auth.claims.zip) && !('zip' in request.auth.claims)",
            "request.auth.claims.exists(name, name == 'azp')",
            "request.auth.claims.mixed == [dyn(1), '1', true, null]",
            "request.auth.claims.address == {'city': dyn('Bern'), 'lines': ['a', 'b']}",
            "request.auth.claims.size() == 14",
        ],
    );
    check("request.auth.claims.zip == 1", "no such key: \"zip\"");
    check(
        "request.auth.claims.address.zip == 1",
        "no such key: \"zip\"",
    );
    check(
        "request.auth.claims.level.x == 1",
        "`.` is not defined for int",
    );
    check(
        "'a' in request.auth.claims.level",
        "`in` is not defined for string and int",
    );
    check(
        "request.auth.claims.level && true",
        "a condition is a bool, this is int",
    );
    check(
        "request.auth.claims.level.startsWith('3')",
        "`startsWith` is not defined for int and string",
    );
}

#[test]
fn a_trust_domain_does_not_speak_for_another_issuer() {
    check_all(
        "true",
        &[
            "request.auth.claims.iss == 'https://issuer.example'",
            "request.auth.claims['i' + 'ss'] == 'https://issuer.example'",
        ],
    );
    let mut without = claims();
    without.remove("iss");
    let case = Case {
        token: Some(("spiffe://example.org", "spiffe://example.org/a", without)),
        ..Case::default()
    };
    case.check("has(request.auth.claims.iss)", "false");
    case.check(
        "request.auth.principal == 'spiffe://example.org/spiffe://example.org/a'",
        "true",
    );
}

#[test]
fn rule_06_a_joined_principal_that_could_be_another_has_no_value() {
    for (issuer, subject) in [("a", "b/c"), ("a", "b/spiffe://c"), ("a/spiffe://b", "c")] {
        let case = Case {
            token: Some((issuer, subject, Map::new())),
            ..Case::default()
        };
        let why = "the attribute `request.auth.principal` can't be read";
        case.check("request.auth.principal == 'a/b/c'", why);
        // Neither a DENY of those who have one nor an ALLOW of those who have none is open to it.
        case.check("has(request.auth.principal)", why);
        case.check("!has(request.auth.principal)", why);
    }
    let case = Case {
        token: Some(("a", "", Map::new())),
        ..Case::default()
    };
    let why = "no such attribute: `request.auth.principal`";
    case.check("request.auth.principal == 'a/b/c'", why);
    case.check("has(request.auth.principal)", "false");
    let case = Case {
        token: Some(("a/b", "c", Map::new())),
        ..Case::default()
    };
    case.check("request.auth.principal == 'a/b/c'", "true");
}

#[test]
fn audiences_are_strings() {
    let with = |audience| {
        let mut claims = Map::new();
        claims.insert("aud".to_owned(), audience);
        claims.insert("azp".to_owned(), json!(1));
        Case {
            token: Some(("i", "s", claims)),
            ..Case::default()
        }
    };
    with(json!("orders")).check("request.auth.audiences == ['orders']", "true");
    with(json!(["a", 1])).check("'a' in request.auth.audiences", "the attribute");
    with(json!(1)).check("'a' in request.auth.audiences", "the attribute");
    with(json!(1)).check("request.auth.presenter == 'a'", "the attribute");
    with(json!(1)).check("has(request.auth.audiences)", "the attribute");
    with(json!(1)).check("has(request.auth.presenter)", "the attribute");
}

#[test]
fn rule_02_without_identity_no_comparison_holds() {
    let case = Case {
        peer: None,
        ..Case::default()
    };
    for source in [
        "source.principal == 'spiffe://a/b'",
        "source.principal != 'spiffe://a/b'",
        "!source.principal.startsWith('spiffe://a/')",
        "source.namespace != 'a'",
        "source.serviceAccount != 'a'",
        "!(source.trustDomain in ['a'])",
    ] {
        case.check(source, "no such attribute: `source.");
    }
    case.check("has(source.principal) || has(source.namespace)", "false");
    case.check("!has(source.principal) && source.ip == '10.1.2.3'", "true");
}

#[test]
fn rule_01_namespaces_are_those_of_the_local_trust_domain() {
    let case = Case {
        peer_is_local: false,
        ..Case::default()
    };
    case.check(
        "source.namespace == 'shop'",
        "no such attribute: `source.namespace`: the peer is of another",
    );
    case.check(
        "source.serviceAccount != 'web'",
        "no such attribute: `source.serviceAccount`",
    );
    case.check(
        "source.principal.startsWith('spiffe://example.org/ns/shop/')",
        "true",
    );
    let case = Case {
        peer: Some(Principal::parse("spiffe://example.org/ns/shop/sa/web/extra").unwrap()),
        ..Case::default()
    };
    case.check(
        "source.namespace == 'shop'",
        "no such attribute: `source.namespace`: the peer's path",
    );
}

#[test]
fn rule_07_without_a_token_no_test_of_it_holds() {
    let case = Case {
        token: None,
        ..Case::default()
    };
    for source in [
        "request.auth.principal != 'a'",
        "!('banned' in request.auth.claims)",
        "!has(request.auth.claims.banned)",
        "!('x' in request.auth.audiences)",
        "request.auth.presenter != 'a'",
        "request.auth.claims.all(c, true)",
    ] {
        case.check(source, "no such attribute: `request.auth.");
    }
    case.check("has(request.auth.claims)", "false");
    case.check(
        "has(request.auth.claims) && has(request.auth.claims.banned)",
        "false",
    );
    case.check("!has(request.auth.principal)", "true");
}

#[test]
fn without_http_everything_about_a_request_is_an_error() {
    let case = Case {
        is_http: false,
        ..Case::default()
    };
    for source in [
        "request.method == 'GET'",
        "has(request.method)",
        "!has(request.headers)",
        "!has(request.headers.a)",
        "!('a' in request.headers)",
        "request.headers['a'] == ''",
        "!has(request.auth.claims)",
        "request.path == '/' && source.namespace == 'shop'",
    ] {
        case.check(source, "`request.");
    }
    case.check(
        "request.method == 'GET' && source.namespace == 'other'",
        "false",
    );
    case.check("has(request.method) || source.namespace == 'shop'", "true");
    case.check("connection.sni == 'api.example.org'", "true");
}

#[test]
fn no_sni_is_absent() {
    let case = Case {
        sni: None,
        ..Case::default()
    };
    case.check(
        "connection.sni != 'a'",
        "no such attribute: `connection.sni`",
    );
    case.check("has(connection.sni)", "false");
}

#[test]
fn errors_show_names_from_callers_escaped_and_short() {
    let case = Case {
        headers: Sent(vec![(
            "x-key",
            b"\x1b[31m\"0123456789012345678901234567890123456789012345678901234567890123456789",
        )]),
        ..Case::default()
    };
    case.check(
        "request.auth.claims[request.headers['x-key']] == 1",
        "no such key: \"\\u{1b}[31m\\\"0123456789012345678901234567890123456789012345678901234567\"",
    );
}

#[test]
fn a_program_knows_what_it_reads() {
    let uses = |source| {
        let program = Program::compile(source).unwrap();
        [
            program.uses_request(),
            program.uses_token(),
            program.uses_identity(),
            program.uses_remote_ip(),
        ]
    };
    assert_eq!(uses("source.ip == '10.0.0.1'"), [false; 4]);
    assert_eq!(uses("request.path == '/'"), [true, false, false, false]);
    assert_eq!(uses("'a' in request.headers"), [true, false, false, false]);
    assert_eq!(
        uses("request.headers['a'] == ''"),
        [true, false, false, false]
    );
    assert_eq!(uses("has(request.headers.a)"), [true, false, false, false]);
    assert_eq!(uses("has(request.headers)"), [true, false, false, false]);
    assert_eq!(
        uses("request.auth.claims.a == 1"),
        [true, true, false, false]
    );
    assert_eq!(
        uses("has(request.auth.claims.a)"),
        [true, true, false, false]
    );
    assert_eq!(uses("has(source.principal)"), [false, false, true, false]);
    assert_eq!(uses("source.namespace == 'a'"), [false, false, true, false]);
    assert_eq!(
        uses("source.trustDomain == 'a'"),
        [false, false, true, false]
    );
    assert_eq!(
        uses("remote.ip.inCidr('10.0.0.0/8')"),
        [false, false, false, true]
    );
    assert_eq!(
        uses("true || [1].exists(x, source.serviceAccount == 'a')"),
        [false, false, true, false]
    );
}
