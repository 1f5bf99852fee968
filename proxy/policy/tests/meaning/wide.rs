//! Stricter rules 1 and 8 where a match is against the caller: nobody escapes a DENY whom Istio's reading of it means.

use super::*;

/// In an ALLOW, in a DENY; then the same field negated, in an ALLOW, in a DENY.
type Holds = [bool; 4];

/// Both readings match.
const PLAIN: Holds = [true, true, false, false];
/// Only the wide one does: against the caller everywhere, but what a DENY excludes is only what is surely meant.
const UNCERTAIN: Holds = [false, true, false, true];
/// Neither does, and the peer has a name to compare.
const OTHER: Holds = [false, false, true, true];
/// Neither does, and it has none.
const NAMELESS: Holds = [false, false, false, true];

#[derive(Clone, Copy)]
enum Field {
    Principals,
    Namespaces,
    ServiceAccounts,
}

/// As a field of a source, and as a condition.
#[track_caller]
fn check_field(
    field: Field,
    value: &str,
    trust_domains: &[&str],
    peer: &'static str,
    holds: Holds,
) {
    let mut positive = Source::default();
    let mut negative = Source::default();
    let (values, not_values, key) = match field {
        Field::Principals => (
            &mut positive.principals,
            &mut negative.not_principals,
            "source.principal",
        ),
        Field::Namespaces => (
            &mut positive.namespaces,
            &mut negative.not_namespaces,
            "source.namespace",
        ),
        Field::ServiceAccounts => (
            &mut positive.service_accounts,
            &mut negative.not_service_accounts,
            "source.serviceAccount",
        ),
    };
    *values = strings(&[value]);
    *not_values = strings(&[value]);
    positive.trust_domains = strings(trust_domains);
    negative.trust_domains = strings(trust_domains);
    let domain = Source {
        trust_domains: strings(trust_domains),
        ..Source::default()
    };
    let from_domain = if trust_domains.is_empty() {
        vec![]
    } else {
        vec![domain]
    };
    let when = |values: &[&str], not_values: &[&str]| Rule {
        from: from_domain.clone(),
        ..condition(key, values, not_values)
    };
    let [allow, deny, not_allow, not_deny] = holds;
    for (rule, allow, deny) in [
        (source(positive), allow, deny),
        (when(&[value], &[]), allow, deny),
        (source(negative), not_allow, not_deny),
        (when(&[], &[value]), not_allow, not_deny),
    ] {
        check(&rule, &from(peer), allow, deny);
        // AUDIT reads like DENY.
        let audit = set(&[policy(Action::Audit, "p", vec![rule.clone()])]);
        let told = from(peer).on(|connection, request| audit.decide(connection, request));
        assert_eq!(told.shadow.len(), usize::from(deny), "{rule:?} {peer}");
    }
}

#[test]
fn rule_1_in_a_deny_a_namespace_means_foreign_trust_domains_too() {
    for (field, value, other) in [
        (Field::Namespaces, "shop", "pay"),
        (Field::Namespaces, "sho*", "pay*"),
        (Field::Namespaces, "*", "*pay"),
        (Field::ServiceAccounts, "shop/web", "shop/api"),
        (Field::ServiceAccounts, "web", "api"),
        (Field::ServiceAccounts, "shop/*", "pay/*"),
        (Field::ServiceAccounts, "*/web", "*/api"),
        (Field::ServiceAccounts, "*", "pay/*"),
    ] {
        for local in [WEB, ALIAS] {
            check_field(field, value, &[], local, PLAIN);
            check_field(field, other, &[], local, OTHER);
        }
        check_field(field, value, &[], FOREIGN, UNCERTAIN);
        check_field(field, other, &[], FOREIGN, NAMELESS);
        // trustDomains says which: then nothing is uncertain.
        check_field(field, value, &["partner.org"], FOREIGN, PLAIN);
        check_field(field, other, &["*"], FOREIGN, OTHER);
        check_field(field, value, &["example.org"], FOREIGN, [false; 4]);
    }
}

#[test]
fn rule_8_in_a_deny_a_namespace_is_read_anywhere_in_a_path() {
    for (value, peer, holds) in [
        ("shop", ODD, UNCERTAIN),
        ("sho*", ODD, UNCERTAIN),
        ("*op", ODD, UNCERTAIN),
        ("*", ODD, UNCERTAIN),
        ("pay", ODD, NAMELESS),
        ("shop", "spiffe://partner.org/x/ns/shop/y", UNCERTAIN),
        ("shop", "spiffe://example.org/ns/shop/pod/7", UNCERTAIN),
        (
            "pay",
            "spiffe://example.org/ns/shop/ns/pay/sa/web",
            UNCERTAIN,
        ),
        // Something follows a namespace, and it is a whole segment unless there is a `*`.
        ("shop", "spiffe://example.org/ns/shop", NAMELESS),
        ("shop", "spiffe://example.org/xns/shop/sa/web", NAMELESS),
        ("shop", "spiffe://example.org/ns/shopping/x", NAMELESS),
        ("shop", "spiffe://example.org/gateway", NAMELESS),
        // Istio's `*` takes in segments.
        ("*y", "spiffe://example.org/ns/shop/x/y/z", UNCERTAIN),
        ("*a", WEB, UNCERTAIN),
        ("*b", WEB, OTHER),
    ] {
        check_field(Field::Namespaces, value, &[], peer, holds);
    }
    // trustDomains lifts rule 1, not rule 8.
    check_field(Field::Namespaces, "shop", &["example.org"], ODD, UNCERTAIN);
}

#[test]
fn rule_8_in_a_deny_a_service_account_is_read_anywhere_in_a_path() {
    for (value, peer, holds) in [
        ("shop/web", ODD, UNCERTAIN),
        ("web", ODD, UNCERTAIN),
        ("shop/*", ODD, UNCERTAIN),
        ("shop/w*", ODD, UNCERTAIN),
        ("*eb", ODD, UNCERTAIN),
        ("*tra", ODD, UNCERTAIN),
        ("*/web", ODD, UNCERTAIN),
        ("*op/web", ODD, UNCERTAIN),
        ("*", ODD, UNCERTAIN),
        ("shop/api", ODD, NAMELESS),
        ("shop/we", ODD, NAMELESS),
        ("*/extra", ODD, NAMELESS),
        (
            "shop/web",
            "spiffe://partner.org/x/ns/shop/sa/web",
            UNCERTAIN,
        ),
        (
            "shop/web",
            "spiffe://example.org/ns/shop/x/sa/web",
            UNCERTAIN,
        ),
        ("*/web", "spiffe://example.org/ns/a/b/sa/web", UNCERTAIN),
        ("*b/web", "spiffe://example.org/ns/a/b/sa/web", UNCERTAIN),
        ("shop/web", "spiffe://example.org/sa/web/ns/shop", NAMELESS),
        ("*/web", "spiffe://example.org/ns/sa/web", NAMELESS),
        ("*", "spiffe://example.org/sa/web", NAMELESS),
    ] {
        check_field(Field::ServiceAccounts, value, &[], peer, holds);
    }
}

#[test]
fn rule_8_in_a_deny_a_leading_star_takes_in_segments() {
    for (value, peer, holds) in [
        ("*/ns/shop/sa/web", WEB, PLAIN),
        ("*/ns/shop/sa/web", FOREIGN, PLAIN),
        (
            "*/ns/shop/sa/web",
            "spiffe://partner.org/x/ns/shop/sa/web",
            UNCERTAIN,
        ),
        ("*/ns/shop/sa/web", ODD, OTHER),
        ("*/sa/web", "spiffe://example.org/sa/web", PLAIN),
        ("*/sa/web", WEB, UNCERTAIN),
        ("*/web", WEB, UNCERTAIN),
        ("*/eb", WEB, OTHER),
        ("*/ns/shop", WEB, OTHER),
        ("*/web", "spiffe://web/x", OTHER),
        // No other pattern has a second reading.
        ("example.org/ns/shop/*", FOREIGN, OTHER),
        ("cluster.local/ns/shop/sa/web", FOREIGN, OTHER),
        ("example.org/sa/web", WEB, OTHER),
        ("*", FOREIGN, PLAIN),
    ] {
        check_field(Field::Principals, value, &[], peer, holds);
    }
    // Among many, too.
    let many: Vec<_> = (0..20).map(|n| format!("*/sa/{n}")).collect();
    let mut many: Vec<_> = many.iter().map(String::as_str).collect();
    many.push("*/sa/web");
    let rule = |source_of: fn(Vec<String>) -> Source| source(source_of(strings(&many)));
    let named = rule(|principals| Source {
        principals,
        ..Source::default()
    });
    let excluded = rule(|not_principals| Source {
        not_principals,
        ..Source::default()
    });
    check(&named, &from(WEB), false, true);
    check(&excluded, &from(WEB), false, true);
    check(&excluded, &from(API), true, true);
}

#[test]
fn rule_8_an_expression_about_an_odd_path_escapes_no_deny() {
    for peer in [FOREIGN, ODD, "spiffe://example.org/gateway"] {
        check(&cel("source.namespace == 'shop'"), &from(peer), false, true);
        check(
            &cel("source.serviceAccount != 'web'"),
            &from(peer),
            false,
            true,
        );
    }
}

#[test]
fn rule_1_no_connection_is_kept_that_a_deny_refuses_by_its_wide_reading() {
    let everything = policy(Action::Allow, "everything", vec![Rule::default()]);
    let shop = source(Source {
        namespaces: strings(&["shop"]),
        ..Source::default()
    });
    let set = set(&[policy(Action::Deny, "p", vec![shop]), everything]);
    for (peer, expected) in [
        (FOREIGN, false),
        (ODD, false),
        ("spiffe://partner.org/ns/pay/sa/x", true),
    ] {
        let could = from(peer).on(|connection, _| set.could_allow(connection).is_ok());
        assert_eq!(could, expected, "{peer}");
    }
}

#[test]
fn rule_1_a_deny_of_a_namespace_shadows_an_allow_of_it_in_another_trust_domain() {
    let deny = policy(
        Action::Deny,
        "deny",
        vec![source(Source {
            namespaces: strings(&["shop"]),
            ..Source::default()
        })],
    );
    for from in [
        Source {
            namespaces: strings(&["shop"]),
            trust_domains: strings(&["partner.org"]),
            ..Source::default()
        },
        Source {
            principals: strings(&["partner.org/ns/shop/sa/web", "example.org/x/ns/shop/y"]),
            ..Source::default()
        },
    ] {
        let allow = policy(Action::Allow, "allow", vec![source(from)]);
        assert_eq!(allow.shadowed_by(0, &deny, &mesh()), Some(0));
    }
}

#[test]
fn rule_8_the_wide_reading_is_explained() {
    let shop = source(Source {
        namespaces: strings(&["shop"]),
        ..Source::default()
    });
    let web = source(Source {
        not_principals: strings(&["*/sa/web"]),
        ..Source::default()
    });
    let why = |action, rule: &Rule, peer| {
        let set = set(&[policy(action, "p", vec![rule.clone()])]);
        let explanation = from(peer).on(|connection, request| set.explain(connection, request));
        let clause = &explanation.policies[0].rules[0].from[0][0];
        (clause.holds, clause.why.clone().map(|why| why.to_string()))
    };
    let wide = Some(
        "read widely, it means the peer's SPIFFE ID; that doubt is decided against the caller"
            .to_owned(),
    );
    assert_eq!(why(Action::Deny, &shop, FOREIGN), (true, wide.clone()));
    assert_eq!(why(Action::Deny, &shop, ODD), (true, wide.clone()));
    assert_eq!(why(Action::Allow, &web, WEB), (false, wide));
    assert_eq!(why(Action::Deny, &shop, WEB), (true, None));
    let narrow = "without trustDomains it means the local trust domain, and the peer is of another";
    assert_eq!(
        why(Action::Allow, &shop, FOREIGN),
        (false, Some(narrow.to_owned()))
    );
}

/// Istio writes a policy anew for each name of the local trust domain.
#[test]
fn rule_1_one_name_of_the_local_trust_domain_stands_for_all_in_a_deny_and_for_itself_in_an_allow() {
    for (principal, peer, allow, deny) in [
        ("example.org/ns/shop/sa/web", ALIAS, false, true),
        ("example.org/ns/shop/*", ALIAS, false, true),
        ("example.org/*", ALIAS, false, true),
        ("example.org/ns/shop/sa/web", FOREIGN, false, false),
        ("partner.example/ns/shop/sa/web", ALIAS, false, false),
    ] {
        let named = Source {
            principals: strings(&[principal]),
            ..Source::default()
        };
        check(&source(named), &from(peer), allow, deny);
    }
    for (domain, peer, allow, deny) in [
        ("example.org", ALIAS, false, true),
        ("example.*", ALIAS, false, true),
        ("example.org", FOREIGN, false, false),
    ] {
        let named = Source {
            trust_domains: strings(&[domain]),
            ..Source::default()
        };
        check(&source(named), &from(peer), allow, deny);
    }
}
