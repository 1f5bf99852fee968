//! Explanations: every policy, clause by clause, in words.

use kith_policy::{ExplainedClause, Explanation};

use super::*;

fn explain(policies: &[Arc<ValidPolicy>], call: &Call) -> Explanation {
    let set = set(policies);
    call.on(|connection, request| set.explain(connection, request))
}

/// `+` holds, `-` doesn't; then clause, what is wanted, what there is, and why.
fn line(clause: &ExplainedClause) -> String {
    let mark = if clause.holds { '+' } else { '-' };
    let actual = clause.actual.as_deref().unwrap_or("nothing");
    let why = clause
        .why
        .as_ref()
        .map_or(String::new(), |why| format!(" ({why})"));
    format!(
        "{mark} {}: {} | {actual}{why}",
        clause.clause,
        clause.wanted.join(", ")
    )
}

#[track_caller]
fn check_clause(rule: Rule, call: &Call, expected: &str) {
    let explanation = explain(&[policy(Action::Allow, "p", vec![rule])], call);
    let rule = &explanation.policies[0].rules[0];
    let lines: Vec<_> = (rule.from.iter().flatten())
        .chain(rule.to.iter().flatten())
        .chain(&rule.when)
        .map(line)
        .collect();
    assert_eq!(lines.join("\n"), expected);
}

#[test]
fn every_clause_tells_what_it_wants_and_what_there_is() {
    let rule = Rule {
        from: vec![Source {
            principals: strings(&[
                "cluster.local/ns/shop/*",
                "*",
                "spiffe://td/ns/a/sa/b",
                "*/ns/x/sa/y",
            ]),
            not_namespaces: strings(&["b*", "*c", "a"]),
            service_accounts: strings(&["web", "other/*"]),
            ip_blocks: strings(&["10.0.0.0/8", "10.1.0.0/16"]),
            ..Source::default()
        }],
        to: vec![Operation {
            hosts: strings(&["orders.shop:8080", "*.shop"]),
            ports: strings(&["8080", "80"]),
            methods: strings(&["POST"]),
            paths: strings(&["/a/{*}", "/b*"]),
            ..Operation::default()
        }],
        when: vec![],
    };
    check_clause(
        rule,
        &call(),
        "+ from.principals: *, cluster.local/ns/shop/*, td/ns/a/sa/b, */ns/x/sa/y | spiffe://example.org/ns/shop/sa/web\n\
         + from.notNamespaces: b*, *c, a | shop\n\
         + from.serviceAccounts: shop/web, other/* | shop/web\n\
         + from.ipBlocks: 10.0.0.0/8 | 10.1.2.3\n\
         + to.ports: 80, 8080 | 8080\n\
         + to.hosts: orders.shop:8080, *.shop | orders.shop\n\
         - to.paths: /b*, /a/{*} | /a\n\
         - to.methods: POST | GET",
    );
}

#[test]
fn what_is_not_decided_by_comparing_is_said() {
    let namespaces = || {
        source(Source {
            namespaces: strings(&["shop"]),
            ..Source::default()
        })
    };
    let twice = http(Http {
        headers: &[("x-id", "1"), ("x-id", "2")],
        ..GET
    });
    let token = |claims| {
        http(Http {
            token: Some(claims),
            ..GET
        })
    };
    let host = |host| http(Http { host, ..GET });
    let hosts = || {
        operation(Operation {
            hosts: strings(&["h:80"]),
            ..Operation::default()
        })
    };
    let principals = || {
        source(Source {
            not_request_principals: strings(&["idp/bob"]),
            ..Source::default()
        })
    };
    for (rule, call, expected) in [
        (
            namespaces(),
            from(None),
            "- from.namespaces: shop | nothing (the peer proved no identity)",
        ),
        (
            namespaces(),
            from(FOREIGN),
            "- from.namespaces: shop | shop (without trustDomains it means the local trust domain, and the peer is of another)",
        ),
        (
            namespaces(),
            from(ODD),
            "- from.namespaces: shop | nothing (the path of the peer's SPIFFE ID is not /ns/<namespace>/sa/<account>)",
        ),
        (
            condition("request.headers[X-Id]", &["1"], &[]),
            twice,
            "- when[request.headers[x-id]]: 1 | 1, 2 (the header is repeated, and not all of its values agree)",
        ),
        (
            hosts(),
            host("h"),
            "- to.hosts: h:80 | h (the request's host has no port)",
        ),
        (
            hosts(),
            host("a b"),
            "- to.hosts: h:80 | a b (the request's host is malformed)",
        ),
        (
            hosts(),
            tcp(),
            "- to.hosts: h:80 | nothing (there is no HTTP request on opaque TCP)",
        ),
        (
            principals(),
            call(),
            "- from.notRequestPrincipals: idp/bob | nothing (the request carries no token)",
        ),
        (
            principals(),
            token(r#"{"iss": "idp"}"#),
            "- from.notRequestPrincipals: idp/bob | idp/ (the token has no subject)",
        ),
        (
            condition("request.auth.claims[n]", &["5"], &[]),
            token(r#"{"iss": "idp", "sub": "a", "n": 5}"#),
            "- when[request.auth.claims[n]]: 5 | 5 (the claim is neither a string nor a list of strings)",
        ),
        (
            cel("request.method == 'POST'"),
            call(),
            "- when[cel]: request.method == 'POST' | false",
        ),
        (
            cel("request.method == 'POST'"),
            tcp(),
            "- when[cel]: request.method == 'POST' | nothing (there is no HTTP request on opaque TCP)",
        ),
    ] {
        check_clause(rule, &call, expected);
    }
    let explanation = explain(
        &[policy(
            Action::Allow,
            "p",
            vec![cel("connection.sni == 'h'")],
        )],
        &call(),
    );
    let clause = &explanation.policies[0].rules[0].when[0];
    assert!(
        !clause.holds && line(clause).contains("(the expression has no value: "),
        "{clause:?}"
    );
}

#[test]
fn policies_come_in_the_order_in_which_they_are_asked() {
    let stated = |action, name: &str, dry_run| {
        Arc::new(
            ValidPolicy::new(Policy {
                namespace: "shop".to_owned(),
                name: name.to_owned(),
                action,
                rules: vec![Rule::default()],
                dry_run,
            })
            .unwrap(),
        )
    };
    let policies = [
        stated(Action::Allow, "dry", true),
        stated(Action::Audit, "audit", false),
        stated(Action::Allow, "allow", false),
        stated(Action::Deny, "deny", false),
        stated(Action::Deny, "deny-too", false),
    ];
    let explanation = explain(&policies, &call());
    let names: Vec<_> = explanation
        .policies
        .iter()
        .map(|policy| &*policy.policy)
        .collect();
    assert_eq!(
        names,
        [
            "shop/deny",
            "shop/deny-too",
            "shop/allow",
            "shop/audit",
            "shop/dry"
        ]
    );
    assert!(explanation.policies.iter().all(|policy| policy.matches));
    assert_eq!(explanation.decision, decide(&policies, &call()));
    assert_eq!(explanation.decision.policy.as_deref(), Some("shop/deny"));
}

#[test]
fn an_allow_rule_about_http_is_out_of_place_on_opaque_tcp() {
    let rule = Rule {
        to: vec![
            Operation {
                methods: strings(&["GET"]),
                ..Operation::default()
            },
            Operation {
                ports: strings(&["8080"]),
                ..Operation::default()
            },
        ],
        ..Rule::default()
    };
    let explanation = explain(&[policy(Action::Allow, "p", vec![rule])], &tcp());
    let rule = &explanation.policies[0].rules[0];
    assert!(
        rule.out_of_place && !rule.matches && rule.to[1][0].holds,
        "{rule:?}"
    );
}
