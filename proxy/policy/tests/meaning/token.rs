//! Tokens: request principals and claims (resources.md, "Sources", "Claims", stricter rules 6 and 7).

use super::*;

const ALICE: Option<&str> =
    Some(r#"{"iss": "idp", "sub": "alice", "aud": ["orders", "web"], "azp": "app"}"#);

fn with(token: impl Into<Option<&'static str>>) -> Call {
    http(Http {
        token: token.into(),
        ..GET
    })
}

fn request_principals(values: &[&str], not: &[&str]) -> Rule {
    source(Source {
        request_principals: strings(values),
        not_request_principals: strings(not),
        ..Source::default()
    })
}

#[test]
fn a_request_principal_is_compared_part_by_part() {
    for (value, issuer_and_subject, expected) in [
        ("foo/*", r#"{"iss": "foo", "sub": "x"}"#, true),
        ("foo/*", r#"{"iss": "foo/x", "sub": "y"}"#, false),
        ("foo/x/y", r#"{"iss": "foo/x", "sub": "y"}"#, true),
        ("foo/x/y", r#"{"iss": "foo", "sub": "x/y"}"#, false),
        ("foo*", r#"{"iss": "foobar", "sub": "x"}"#, true),
        ("*foo", r#"{"iss": "x", "sub": "afoo"}"#, true),
        ("*foo", r#"{"iss": "foo", "sub": "x"}"#, false),
        (
            "spiffe://td/spiffe://td/ns/a/sa/b",
            r#"{"iss": "spiffe://td", "sub": "spiffe://td/ns/a/sa/b"}"#,
            true,
        ),
        ("*", r#"{"iss": "any", "sub": "one"}"#, true),
    ] {
        check_both(
            &request_principals(&[value], &[]),
            &with(issuer_and_subject),
            expected,
        );
        let negative = request_principals(&[], &[value]);
        check_both(&negative, &with(issuer_and_subject), !expected);
        let key = condition("request.auth.principal", &[value], &[]);
        check_both(&key, &with(issuer_and_subject), expected);
    }
}

#[test]
fn a_token_without_a_subject_has_no_request_principal() {
    let nobody = || with(r#"{"iss": "idp"}"#);
    check(&request_principals(&["*"], &[]), &nobody(), false, true);
    check(&request_principals(&["idp/*"], &[]), &nobody(), false, true);
    check(
        &request_principals(&["other/*"], &[]),
        &nobody(),
        false,
        false,
    );
    check(
        &request_principals(&[], &["idp/bob"]),
        &nobody(),
        false,
        true,
    );
    check(
        &request_principals(&[], &["other/bob"]),
        &nobody(),
        false,
        true,
    );
}

#[test]
fn claims_are_strings_and_lists_of_strings() {
    let claims = r#"{"iss": "idp", "sub": "alice", "group": ["dev", "ops"], "level": "high", "scope": "read write",
        "permission": "a b", "words": "read write", "realm": {"roles": ["admin"], "name": "main"}}"#;
    for (key, value, expected) in [
        ("group", "dev", true),
        ("group", "op*", true),
        ("group", "*", true),
        ("group", "admin", false),
        ("level", "high", true),
        ("level", "hi", false),
        ("scope", "read", true),
        ("scope", "write", true),
        ("scope", "read write", false),
        ("permission", "b", true),
        ("words", "read", false),
        ("words", "read write", true),
        ("realm][roles", "admin", true),
        ("realm][name", "m*", true),
        ("realm][other", "*", false),
        ("missing", "*", false),
        ("sub", "alice", true),
    ] {
        let key = format!("request.auth.claims[{key}]");
        check_both(&condition(&key, &[value], &[]), &with(claims), expected);
        check_both(&condition(&key, &[], &[value]), &with(claims), !expected);
    }
}

#[test]
fn audiences_and_presenter_are_claims() {
    for (key, value, expected) in [
        ("request.auth.audiences", "orders", true),
        ("request.auth.audiences", "web", true),
        ("request.auth.audiences", "other", false),
        ("request.auth.presenter", "app", true),
        ("request.auth.presenter", "*", true),
        ("request.auth.presenter", "ap", false),
    ] {
        check_both(&condition(key, &[value], &[]), &with(ALICE), expected);
    }
    let one = with(r#"{"iss": "idp", "sub": "a", "aud": "orders"}"#);
    check_both(
        &condition("request.auth.audiences", &["orders"], &[]),
        &one,
        true,
    );
    check_both(
        &condition("request.auth.presenter", &["*"], &[]),
        &one,
        false,
    );
}

#[test]
fn stricter_06_a_claim_that_cannot_be_compared_satisfies_no_allow_and_escapes_no_deny() {
    let claims = r#"{"iss": "idp", "sub": "a", "n": 5, "b": true, "o": {"x": "y"}, "null": null, "mixed": ["x", 5],
        "text": "t"}"#;
    for key in ["n", "b", "o", "null", "text][inner", "n][inner"] {
        let key = format!("request.auth.claims[{key}]");
        check(&condition(&key, &["*"], &[]), &with(claims), false, true);
        check(&condition(&key, &["5"], &[]), &with(claims), false, true);
        check(
            &condition(&key, &[], &["other"]),
            &with(claims),
            false,
            true,
        );
    }
    // Of a list any element may match, whatever the others are.
    let mixed =
        |values: &[&str], not: &[&str]| condition("request.auth.claims[mixed]", values, not);
    check_both(&mixed(&["x"], &[]), &with(claims), true);
    check_both(&mixed(&[], &["x"]), &with(claims), false);
    check(&mixed(&["5"], &[]), &with(claims), false, true);
    check(&mixed(&[], &["y"]), &with(claims), false, true);
}

#[test]
fn stricter_07_no_token_never_satisfies_a_negative_token_field_of_an_allow() {
    for rule in [
        request_principals(&[], &["idp/bob"]),
        condition("request.auth.principal", &[], &["idp/bob"]),
        condition("request.auth.audiences", &[], &["other"]),
        condition("request.auth.presenter", &[], &["other"]),
        condition("request.auth.claims[group]", &[], &["other"]),
    ] {
        check(&rule, &with(None), false, true);
        check_both(&rule, &with(ALICE), true);
    }
    for rule in [
        request_principals(&["*"], &[]),
        condition("request.auth.principal", &["*"], &[]),
        condition("request.auth.audiences", &["*"], &[]),
    ] {
        check_both(&rule, &with(None), false);
        check_both(&rule, &with(ALICE), true);
    }
}

#[test]
fn the_claim_iss_is_the_issuer_whose_keys_verified_the_token() {
    let claims = serde_json::from_str(r#"{"iss": "https://idp.example"}"#).unwrap();
    let token = Token {
        issuer: "spiffe://example.org",
        subject: WEB,
        claims: &claims,
    };
    let headers = List(&[]);
    let request = Request {
        method: "GET",
        host: "h",
        path: "/",
        headers: &headers,
        token: Some(token),
    };
    for (value, expected) in [
        ("https://idp.example", false),
        ("spiffe://example.org", true),
    ] {
        let rule = condition("request.auth.claims[iss]", &[value], &[]);
        let set = set(&[policy(Action::Allow, "p", vec![rule])]);
        let decision = tcp().on(|connection, _| set.decide(connection, Some(&request)));
        assert_eq!(decision.allow, expected, "{value}");
    }
}

#[test]
fn on_opaque_tcp_tokens_are_http_attributes_like_others() {
    let rules = [
        request_principals(&["*"], &[]),
        request_principals(&[], &["idp/bob"]),
        condition("request.auth.claims[group]", &["dev"], &[]),
    ];
    for rule in rules {
        check(&rule, &tcp(), false, true);
    }
}

#[test]
fn a_missing_token_is_the_reason_when_a_rule_fails_by_that_alone() {
    let rule = |values: &[&str], methods: &[&str]| Rule {
        to: match methods {
            [] => vec![],
            methods => vec![Operation {
                methods: strings(methods),
                ..Operation::default()
            }],
        },
        ..request_principals(values, &[])
    };
    let check = |rules: Vec<Rule>, call: Call, reason, clause: &str| {
        let decision = decide(&[policy(Action::Allow, "p", rules)], &call);
        let nearest = decision
            .nearest
            .as_ref()
            .map(|nearest| nearest.clause.to_string());
        assert_eq!(
            (decision.allow, decision.reason),
            (false, reason),
            "{decision:?}"
        );
        assert_eq!(nearest.as_deref(), Some(clause));
    };
    use Reason::{NoAllowPolicyMatches, TokenMissing};
    let token = "from.requestPrincipals";
    check(
        vec![rule(&["idp/*"], &["GET"])],
        with(None),
        TokenMissing,
        token,
    );
    // Another rule that gets further without it doesn't hide it.
    let other = operation(Operation {
        paths: strings(&["/other"]),
        ..Operation::default()
    });
    check(
        vec![other, rule(&["*"], &[])],
        with(None),
        TokenMissing,
        token,
    );
    let group = condition("request.auth.claims[a][b]", &["x"], &[]);
    check(
        vec![group],
        with(None),
        TokenMissing,
        "when[request.auth.claims[a][b]]",
    );
    check(
        vec![cel("request.auth.claims.a == 'b'")],
        with(None),
        TokenMissing,
        "when[cel]",
    );
    // With the best of tokens it would still fail.
    check(
        vec![rule(&["*"], &["POST"])],
        with(None),
        NoAllowPolicyMatches,
        token,
    );
    check(
        vec![rule(&["other/*"], &[])],
        with(ALICE),
        NoAllowPolicyMatches,
        token,
    );
    check(vec![rule(&["*"], &[])], tcp(), NoAllowPolicyMatches, token);
}

#[test]
fn a_request_that_may_yet_bring_a_token_is_waited_for() {
    let set = set(&[policy(
        Action::Allow,
        "p",
        vec![request_principals(&["idp/*"], &["idp/bob"])],
    )]);
    assert!(
        call()
            .on(|connection, _| set.could_allow(connection))
            .is_ok()
    );
}
