//! What can be said of policies before anything is asked of them.

use super::*;

#[track_caller]
fn check_contradictions(action: Action, rule: Rule, expected: &[(&str, &str)]) {
    let warnings = policy(action, "p", vec![Rule::default(), rule]).contradictions(&mesh());
    let got: Vec<_> = warnings
        .iter()
        .map(|warning| (&*warning.field, &*warning.message))
        .collect();
    assert_eq!(got, expected);
}

fn both(from: Source, to: Operation) -> Rule {
    Rule {
        from: vec![from],
        to: vec![to],
        ..Rule::default()
    }
}

#[test]
fn fields_that_exclude_each_other_are_found() {
    let exclude_each_other =
        |a: &str, b: &str| format!("never matches: {a} and {b} contradict each other");
    for (from, a, b) in [
        (
            Source {
                principals: strings(&[
                    "cluster.local/ns/shop/sa/web",
                    "partner.org/ns/shop/sa/api",
                ]),
                not_principals: strings(&["*/ns/shop/sa/api", "cluster.local/ns/shop/*"]),
                ..Source::default()
            },
            "from.principals",
            "from.notPrincipals",
        ),
        (
            Source {
                ip_blocks: strings(&["10.1.0.0/16"]),
                not_ip_blocks: strings(&["10.0.0.0/8"]),
                ..Source::default()
            },
            "from.ipBlocks",
            "from.notIpBlocks",
        ),
    ] {
        for action in [Action::Allow, Action::Deny, Action::Audit] {
            let message = exclude_each_other(a, b);
            check_contradictions(
                action,
                source(from.clone()),
                &[("rules[1].from[0]", &message)],
            );
        }
    }
    let conditions = |a: Rule, b: Rule| Rule {
        when: [a.when, b.when].concat(),
        ..Rule::default()
    };
    check_contradictions(
        Action::Allow,
        conditions(
            condition("source.namespace", &["a"], &[]),
            condition("source.namespace", &["b", "c*"], &[]),
        ),
        &[(
            "rules[1].when",
            &exclude_each_other("when[source.namespace]", "when[source.namespace]"),
        )],
    );
    check_contradictions(
        Action::Allow,
        Rule {
            when: condition("destination.port", &["80"], &[]).when,
            ..both(
                Source {
                    ip_blocks: strings(&["10.0.0.0/8"]),
                    ..Source::default()
                },
                Operation {
                    ports: strings(&["8080"]),
                    ..Operation::default()
                },
            )
        },
        &[(
            "rules[1].to[0]",
            "never matches: its ports exclude each other",
        )],
    );
    check_contradictions(
        Action::Deny,
        operation(Operation {
            ports: strings(&["80", "81"]),
            not_ports: strings(&["81", "80", "82"]),
            ..Operation::default()
        }),
        &[(
            "rules[1].to[0]",
            "never matches: its ports exclude each other",
        )],
    );
}

#[test]
fn in_an_allow_http_fields_exclude_each_other_too_and_in_a_deny_opaque_tcp_still_matches() {
    for (rule, field, message) in [
        (
            operation(Operation {
                methods: strings(&["GET", "POST"]),
                not_methods: strings(&["*T"]),
                ..Operation::default()
            }),
            "rules[1].to[0]",
            "never matches: to.methods and to.notMethods contradict each other",
        ),
        (
            operation(Operation {
                paths: strings(&["/a/{*}/b", "/a/x"]),
                not_paths: strings(&["/a/*"]),
                ..Operation::default()
            }),
            "rules[1].to[0]",
            "never matches: to.paths and to.notPaths contradict each other",
        ),
        (
            operation(Operation {
                hosts: strings(&["A.shop:80"]),
                not_hosts: strings(&["*.shop"]),
                ..Operation::default()
            }),
            "rules[1].to[0]",
            "never matches: to.hosts and to.notHosts contradict each other",
        ),
        (
            condition("request.headers[x]", &["a"], &["a*"]),
            "rules[1].when",
            "never matches: when[request.headers[x]] and when[request.headers[x]] contradict each other",
        ),
        (
            source(Source {
                not_request_principals: strings(&["*"]),
                ..Source::default()
            }),
            "rules[1].from[0]",
            "never matches: from.notRequestPrincipals excludes every token, and a request without one never \
             satisfies it in an ALLOW",
        ),
        (
            source(Source {
                not_namespaces: strings(&["*"]),
                ..Source::default()
            }),
            "rules[1].from[0]",
            "never matches: from.notNamespaces excludes everything",
        ),
    ] {
        check_contradictions(Action::Allow, rule.clone(), &[(field, message)]);
        check_contradictions(Action::Deny, rule, &[]);
    }
}

#[test]
fn principals_that_cannot_have_the_identity_asked_for_are_found() {
    let message =
        "never matches: none of its principals has the identity that the other fields ask for";
    for from in [
        Source {
            principals: strings(&["partner.org/ns/shop/sa/web"]),
            namespaces: strings(&["other"]),
            ..Source::default()
        },
        Source {
            principals: strings(&["cluster.local/ns/shop/sa/web"]),
            namespaces: strings(&["other"]),
            ..Source::default()
        },
        Source {
            principals: strings(&["cluster.local/ns/shop/sa/web"]),
            trust_domains: strings(&["partner.org"]),
            ..Source::default()
        },
        Source {
            principals: strings(&["cluster.local/spire/agent"]),
            service_accounts: strings(&["*"]),
            ..Source::default()
        },
    ] {
        for action in [Action::Allow, Action::Deny, Action::Audit] {
            check_contradictions(
                action,
                source(from.clone()),
                &[("rules[1].from[0]", message)],
            );
        }
    }
    // Stricter rule 1: to an ALLOW the namespace is one of the local trust domain.
    let foreign = Source {
        principals: strings(&["partner.org/ns/shop/sa/web"]),
        namespaces: strings(&["shop"]),
        ..Source::default()
    };
    let found = [("rules[1].from[0]", message)];
    check_contradictions(Action::Allow, source(foreign.clone()), &found);
    check_contradictions(Action::Deny, source(foreign), &[]);
}

#[test]
fn in_a_deny_names_that_exclude_each_other_may_still_mean_somebody() {
    let both_named = |a: Source, key: &str, b: &str| Rule {
        from: vec![a],
        ..condition(key, &[b], &[])
    };
    for (rule, message) in [
        (
            source(Source {
                namespaces: strings(&["shop", "shopping"]),
                not_namespaces: strings(&["shop*"]),
                ..Source::default()
            }),
            "from.namespaces and from.notNamespaces",
        ),
        (
            source(Source {
                service_accounts: strings(&["web"]),
                not_service_accounts: strings(&["shop/*"]),
                ..Source::default()
            }),
            "from.serviceAccounts and from.notServiceAccounts",
        ),
        (
            both_named(
                Source {
                    namespaces: strings(&["shop"]),
                    ..Source::default()
                },
                "source.namespace",
                "pay",
            ),
            "from.namespaces and when source.namespace",
        ),
        (
            both_named(
                Source {
                    principals: strings(&["*/sa/web"]),
                    ..Source::default()
                },
                "source.principal",
                "cluster.local/ns/shop/*",
            ),
            "from.principals and when source.principal",
        ),
    ] {
        let valid = policy(Action::Allow, "p", vec![rule.clone()]);
        let warnings = valid.contradictions(&mesh());
        let said: Vec<_> = warnings.iter().map(|it| &*it.message).collect();
        assert_eq!(said.len(), 1, "{message}: {said:?}");
        let words = message
            .split(" and ")
            .map(|it| it.trim_start_matches("when "));
        for word in words {
            assert!(said[0].contains(word), "{said:?}");
        }
        check_contradictions(Action::Deny, rule.clone(), &[]);
        check_contradictions(Action::Audit, rule, &[]);
    }
}

#[test]
fn what_may_match_is_not_warned_of() {
    for from in [
        Source {
            principals: strings(&["cluster.local/ns/shop/*"]),
            not_principals: strings(&["cluster.local/ns/shop/sa/web"]),
            ..Source::default()
        },
        Source {
            principals: strings(&["old.org/ns/shop/sa/web"]),
            namespaces: strings(&["shop"]),
            ..Source::default()
        },
        Source {
            namespaces: strings(&["shop"]),
            trust_domains: strings(&["partner.org"]),
            ..Source::default()
        },
        Source {
            principals: strings(&["example.org/ns/shop/sa/web"]),
            not_principals: strings(&["partner.org/ns/shop/*"]),
            ..Source::default()
        },
        Source {
            ip_blocks: strings(&["10.0.0.0/8"]),
            not_ip_blocks: strings(&["10.1.0.0/16"]),
            ..Source::default()
        },
    ] {
        check_contradictions(Action::Allow, source(from), &[]);
    }
    // A list may have both.
    let mut groups = condition("request.auth.claims[group]", &["a"], &[]);
    groups
        .when
        .extend(condition("request.auth.claims[group]", &["b"], &["c"]).when);
    check_contradictions(Action::Allow, groups, &[]);
    let mut presenters = condition("request.auth.presenter", &["a"], &[]);
    presenters
        .when
        .extend(condition("request.auth.presenter", &["b"], &[]).when);
    check_contradictions(Action::Allow, presenters, &[]);
}

#[test]
fn an_allow_rule_that_a_deny_covers_is_found() {
    let check = |allow: &Rule, deny: Rule, expected: bool| {
        let allow = policy(Action::Allow, "allow", vec![allow.clone()]);
        let never = operation(Operation {
            ports: strings(&["9"]),
            ..Operation::default()
        });
        let deny = policy(Action::Deny, "deny", vec![never, deny]);
        assert_eq!(
            allow.shadowed_by(0, &deny, &mesh()),
            expected.then_some(1),
            "{deny:?}"
        );
        // The other way round is no question.
        assert_eq!(deny.shadowed_by(0, &allow, &mesh()), None);
    };
    let allow = both(
        Source {
            principals: strings(&["cluster.local/ns/shop/sa/web"]),
            ..Source::default()
        },
        Operation {
            ports: strings(&["8080"]),
            methods: strings(&["GET", "HEAD"]),
            paths: strings(&["/api/*"]),
            ..Operation::default()
        },
    );
    let namespaces = |namespaces: &[&str]| Source {
        namespaces: strings(namespaces),
        ..Source::default()
    };
    let paths = |paths: &[&str]| Operation {
        paths: strings(paths),
        ..Operation::default()
    };
    check(&allow, Rule::default(), true);
    check(&allow, source(namespaces(&["shop"])), true);
    check(&allow, source(namespaces(&["other"])), false);
    check(&allow, operation(paths(&["/a*"])), true);
    check(&allow, operation(paths(&["/api/v1/*"])), false);
    check(&allow, both(namespaces(&["sh*"]), paths(&["*"])), true);
    check(
        &allow,
        condition("source.principal", &["*/ns/shop/sa/web"], &[]),
        true,
    );
    check(
        &allow,
        condition("destination.port", &["80", "8080"], &[]),
        true,
    );
    check(&allow, condition("destination.port", &["80"], &[]), false);
    check(&allow, condition("request.headers[x]", &[], &["1"]), false);
    let but = |source_but: &[&str]| {
        source(Source {
            not_namespaces: strings(source_but),
            ..Source::default()
        })
    };
    check(&allow, but(&["other"]), true);
    check(&allow, but(&["shop"]), false);
    let expression = cel("source.namespace == 'shop'");
    check(&expression, expression.clone(), true);
    check(&expression, cel("source.namespace  == 'shop'"), false);
    let dry_run = ValidPolicy::new(Policy {
        namespace: "shop".to_owned(),
        name: "deny".to_owned(),
        action: Action::Deny,
        rules: vec![Rule::default()],
        dry_run: true,
    });
    let allow = policy(Action::Allow, "allow", vec![allow]);
    assert_eq!(allow.shadowed_by(0, &dry_run.unwrap(), &mesh()), None);
}

#[test]
fn rules_tell_their_ports_and_whether_they_need_http() {
    let rules = vec![
        Rule::default(),
        operation(Operation {
            ports: strings(&["80", "443"]),
            ..Operation::default()
        }),
        operation(Operation {
            not_ports: strings(&["80"]),
            methods: strings(&["GET"]),
            ..Operation::default()
        }),
        condition("request.auth.claims[a]", &["b"], &[]),
        cel("request.method == 'GET'"),
        cel("destination.port == 80"),
    ];
    let policy = policy(Action::Deny, "p", rules);
    assert_eq!(policy.rule_count(), 6);
    let http: Vec<_> = (0..6).map(|rule| policy.uses_http(rule)).collect();
    assert_eq!(http, [false, false, true, true, true, false]);
    let ports: Vec<_> = (0..3).map(|rule| policy.only_ports(rule)).collect();
    assert_eq!(ports, [None, Some(vec![80, 443]), None]);
    let on_80: Vec<_> = (0..3)
        .map(|rule| policy.can_match_on_port(rule, 80))
        .collect();
    assert_eq!(on_80, [true, true, false]);
}

#[test]
fn the_trust_domains_that_a_policy_names_are_told_with_their_field() {
    let rule = Rule {
        from: vec![
            Source {
                ip_blocks: strings(&["10.0.0.0/8"]),
                ..Source::default()
            },
            Source {
                principals: strings(&["a.org/x", "cluster.local/x", "*/x", "*"]),
                not_principals: strings(&["b.org/x*"]),
                trust_domains: strings(&["c.org", "d*"]),
                ..Source::default()
            },
        ],
        when: [
            condition("source.ip", &["10.0.0.0/8"], &["10.1.0.0/16"]).when,
            condition("source.trustDomain", &[], &["e.org"]).when,
        ]
        .concat(),
        ..Rule::default()
    };
    let named = policy(Action::Allow, "p", vec![rule]).named_trust_domains();
    let named: Vec<_> = named
        .iter()
        .map(|named| (&*named.field, &*named.trust_domain, &*named.value))
        .collect();
    assert_eq!(
        named,
        [
            ("rules[0].from[1].principals", "a.org", "a.org/x"),
            ("rules[0].from[1].not_principals", "b.org", "b.org/x*"),
            ("rules[0].from[1].trust_domains", "c.org", "c.org"),
            ("rules[0].when[1].not_values", "e.org", "e.org"),
        ]
    );
}
