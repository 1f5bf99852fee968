use super::*;
use crate::token::tests::Issuer;

fn good() -> wire::JwtRule {
    wire::JwtRule {
        issuer: "https://idp.example".into(),
        jwks: Issuer::new().jwks(),
        ..Default::default()
    }
}

fn resource(rules: impl Into<Vec<wire::JwtRule>>) -> wire::RequestAuthentication {
    wire::RequestAuthentication {
        namespace: "shop".into(),
        name: "users".into(),
        rules: rules.into(),
    }
}

fn refused(described: impl Into<Vec<wire::JwtRule>>) -> Vec<String> {
    let mut errors = Vec::new();
    rules(&[resource(described)], &mut errors);
    errors
        .into_iter()
        .map(|error| format!("{}: {}", error.field, error.message))
        .collect()
}

/// Exactly one mistake, in this field of the first rule, and the message has `why`.
#[track_caller]
fn check(change: impl FnOnce(&mut wire::JwtRule), field: &str, why: &str) {
    let mut rule = good();
    change(&mut rule);
    let errors = refused([rule]);
    let at = format!("request_authentication[0].rules[0].{field}: ");
    match errors.as_slice() {
        [one] => assert!(one.starts_with(&at) && one.contains(why), "{one}"),
        _ => panic!("{errors:?}"),
    }
}

fn header(name: &str, prefix: &str) -> wire::JwtHeader {
    wire::JwtHeader {
        name: name.into(),
        prefix: prefix.into(),
    }
}

fn claim(header: &str, claim: &str) -> wire::ClaimToHeader {
    wire::ClaimToHeader {
        header: header.into(),
        claim: claim.into(),
    }
}

#[test]
fn every_field_arrives() {
    let mut errors = Vec::new();
    let rule = wire::JwtRule {
        audiences: vec!["a".into()],
        from_headers: vec![header("x-jwt", "")],
        from_params: vec!["t".into()],
        from_cookies: vec!["c".into()],
        forward_original_token: true,
        output_payload_to_header: "x-payload".into(),
        output_claim_to_headers: vec![claim("x-user", "sub")],
        clock_skew_seconds: 60,
        require_bound_tokens: true,
        ..good()
    };
    let svid = wire::JwtRule {
        spiffe_trust_domain: "example.org".into(),
        ..Default::default()
    };
    let rules = rules(&[resource([rule]), resource([svid])], &mut errors).unwrap();
    assert_eq!(errors, []);
    let first = rules.of(Some("https://idp.example"), None).unwrap();
    assert_eq!(first.audiences, ["a"]);
    assert_eq!(
        first.locations,
        [
            Location::Header {
                name: "x-jwt".into(),
                prefix: String::new()
            },
            Location::Param("t".into()),
            Location::Cookie("c".into()),
        ]
    );
    assert!(first.forward && first.bound);
    assert_eq!(first.skew, Duration::from_secs(60));
    assert_eq!(first.outputs().collect::<Vec<_>>(), ["x-payload", "x-user"]);
    let second = rules.of(None, Some("spiffe://example.org/x")).unwrap();
    assert_eq!(second.issuer(), "spiffe://example.org");
    assert_eq!(second.locations[0].to_string(), "header authorization");
    assert_eq!(
        second.locations[1].to_string(),
        "query parameter access_token"
    );
    assert_eq!(rules.locations().len(), 5);
}

#[test]
fn without_rules_tokens_are_not_looked_at() {
    let mut errors = Vec::new();
    assert!(rules(&[], &mut errors).is_none());
    assert_eq!(errors, []);
}

#[test]
fn keys_that_are_not_here_yet_are_accepted() {
    let rule = wire::JwtRule {
        jwks: String::new(),
        ..good()
    };
    assert_eq!(refused([rule]), [""; 0]);
}

#[test]
fn a_list_without_rules_is_refused() {
    assert_eq!(refused([]).len(), 1);
}

#[test]
fn whom_a_rule_is_about_must_be_clear() {
    check(|rule| rule.issuer.clear(), "issuer", "must be given");
    check(
        |rule| rule.spiffe_trust_domain = "a".into(),
        "spiffe_trust_domain",
        "together with issuer",
    );
    check(
        |rule| {
            rule.issuer.clear();
            rule.spiffe_trust_domain = "a".into();
        },
        "jwks",
        "Workload API",
    );
    check(
        |rule| {
            rule.issuer.clear();
            rule.jwks.clear();
            rule.spiffe_trust_domain = "A".into();
        },
        "spiffe_trust_domain",
        "'A'",
    );
}

#[test]
fn two_rules_about_one_issuer_are_refused() {
    let errors = refused([good(), good()]);
    assert_eq!(errors.len(), 1);
    assert!(errors[0].starts_with("request_authentication[0].rules[1].issuer: "));
    // A trust domain's own name is taken by its JWT-SVIDs.
    let svid = wire::JwtRule {
        spiffe_trust_domain: "a".into(),
        ..Default::default()
    };
    let same = wire::JwtRule {
        issuer: "spiffe://a".into(),
        ..good()
    };
    assert_eq!(refused([svid, same]).len(), 1);
}

#[test]
fn row_16_keys_that_verify_nothing_are_refused() {
    check(|rule| rule.jwks = "x".into(), "jwks", "is no JWK Set");
    check(
        |rule| rule.jwks = r#"{"keys":[]}"#.into(),
        "jwks",
        "no key that",
    );
    check(
        |rule| rule.jwks = r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#.into(),
        "jwks",
        "key 0",
    );
}

#[test]
fn places_are_checked() {
    for name in [
        "",
        "X-Jwt",
        "x jwt",
        "x*",
        "host",
        "cookie",
        "te",
        "x-kith-a",
        "x-forwarded-for",
        "x_kith_a",
    ] {
        check(
            |rule| rule.from_headers = vec![header(name, "")],
            "from_headers[0].name",
            "",
        );
        if !name.is_empty() {
            check(
                |rule| rule.output_payload_to_header = name.into(),
                "output_payload_to_header",
                "",
            );
        }
        check(
            |rule| rule.output_claim_to_headers = vec![claim(name, "a")],
            "output_claim_to_headers[0].header",
            "",
        );
    }
    for prefix in [" Bearer", "a\r\nb", "é"] {
        check(
            |rule| rule.from_headers = vec![header("x", prefix)],
            "from_headers[0].prefix",
            "visible",
        );
    }
    check(
        |rule| rule.from_params = vec![String::new()],
        "from_params[0]",
        "empty",
    );
    check(
        |rule| rule.from_cookies = vec!["a;b".into()],
        "from_cookies[0]",
        "cookie",
    );
    check(
        |rule| rule.from_headers = vec![header("x-a", ""), header("x_a", "")],
        "from_headers[1]",
        "twice",
    );
}

#[test]
fn the_rest_is_checked() {
    check(
        |rule| rule.audiences = vec![String::new()],
        "audiences[0]",
        "empty",
    );
    check(
        |rule| rule.clock_skew_seconds = 61,
        "clock_skew_seconds",
        "60",
    );
    for name in ["", "a..b", ".a"] {
        check(
            |rule| rule.output_claim_to_headers = vec![claim("x", name)],
            "output_claim_to_headers[0].claim",
            "no name of a claim",
        );
    }
    check(
        |rule| {
            rule.output_payload_to_header = "x-a".into();
            rule.output_claim_to_headers = vec![claim("x_a", "b")];
        },
        "output_claim_to_headers[0].header",
        "twice",
    );
    let clash = wire::JwtRule {
        output_payload_to_header: "authorization".into(),
        ..good()
    };
    assert!(refused([clash])[0].contains("where tokens are expected"));
}

#[test]
fn all_mistakes_are_reported_together() {
    let rule = wire::JwtRule {
        jwks: "x".into(),
        audiences: vec![String::new()],
        clock_skew_seconds: 1000,
        ..good()
    };
    assert_eq!(refused([rule]).len(), 3);
}
