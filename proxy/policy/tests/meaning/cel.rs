//! CEL conditions in rules; the language itself is tested beside its code.

use super::*;

#[test]
fn an_expression_is_a_condition_like_others() {
    for (expression, expected) in [
        (
            "request.method == 'GET' && request.path.startsWith('/a')",
            true,
        ),
        ("request.method == 'POST'", false),
        ("source.namespace == 'shop'", true),
        (
            "source.principal == 'spiffe://example.org/ns/shop/sa/api'",
            false,
        ),
        (
            "source.ip.inCidr('10.0.0.0/8') && destination.port == 8080",
            true,
        ),
    ] {
        check_both(&cel(expression), &call(), expected);
    }
    let mut both = cel("destination.port == 8080");
    both.when
        .extend(condition("source.namespace", &["other"], &[]).when);
    check_both(&both, &call(), false);
}

#[test]
fn stricter_06_an_expression_without_a_value_satisfies_no_allow_and_escapes_no_deny() {
    for expression in [
        "request.headers['x-id'] == '1'",
        "request.headers['x-id'] != '1'",
        "connection.sni == 'h'",
        "connection.sni != 'h'",
        "1 / (destination.port - 8080) == 1",
    ] {
        check(&cel(expression), &call(), false, true);
    }
    check(
        &cel("source.principal != 'spiffe://example.org/x'"),
        &from(None),
        false,
        true,
    );
    check(&cel("request.auth.claims.level > 3"), &call(), false, true);
    let level = http(Http {
        token: Some(r#"{"iss": "i", "sub": "s", "level": 4}"#),
        ..GET
    });
    check_both(&cel("request.auth.claims.level > 3"), &level, true);
    check_both(&cel("request.auth.claims.level > 4"), &level, false);
}

#[test]
fn on_opaque_tcp_an_expression_about_the_request_is_an_http_attribute() {
    check(&cel("request.method == 'GET'"), &tcp(), false, true);
    check(
        &cel("destination.port == 8080 || request.method == 'GET'"),
        &tcp(),
        false,
        true,
    );
    check_both(&cel("destination.port == 8080"), &tcp(), true);
    check_both(&cel("destination.port == 80"), &tcp(), false);
}

#[test]
fn an_expression_about_the_request_is_open_until_there_is_one() {
    let could = |expression| {
        let set = set(&[policy(Action::Allow, "p", vec![cel(expression)])]);
        call()
            .on(|connection, _| set.could_allow(connection))
            .is_ok()
    };
    assert!(could("request.method == 'POST'"));
    assert!(could("remote.ip == '10.0.0.1'"));
    assert!(could("destination.port == 8080"));
    assert!(!could("destination.port == 80"));
    assert!(!could("source.namespace == 'other'"));
}

#[test]
fn stricter_03_an_expression_may_use_identity() {
    let uses_identity =
        |expression| set(&[policy(Action::Allow, "p", vec![cel(expression)])]).uses_identity(8080);
    assert!(uses_identity("source.principal != ''"));
    assert!(!uses_identity("destination.port == 8080"));
}

#[test]
fn an_expression_that_cannot_be_honoured_is_refused_by_field() {
    let refused = |condition: Condition| {
        let rule = Rule {
            when: vec![condition],
            ..Rule::default()
        };
        let policy = Policy {
            namespace: "shop".to_owned(),
            name: "p".to_owned(),
            rules: vec![rule],
            ..Policy::default()
        };
        ValidPolicy::new(policy).unwrap_err()[0].field.clone()
    };
    let of = |cel: &str| Condition {
        cel: Some(cel.to_owned()),
        ..Condition::default()
    };
    for bad in [
        "",
        "1",
        "request.method ==",
        "nonsense == 1",
        "destination.port == '80'",
    ] {
        assert_eq!(refused(of(bad)), "rules[0].when[0].cel", "{bad}");
    }
    let both = Condition {
        key: "source.ip".to_owned(),
        values: strings(&["10.0.0.1"]),
        ..of("true")
    };
    assert_eq!(refused(both), "rules[0].when[0]");
}
