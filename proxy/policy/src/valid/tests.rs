use super::*;
use crate::model::{self, Condition, Operation, Source};

fn strings(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

fn policy(action: Action, rules: Vec<model::Rule>) -> Policy {
    Policy {
        namespace: "shop".to_owned(),
        name: "orders".to_owned(),
        action,
        rules,
        dry_run: false,
    }
}

fn from(source: Source) -> model::Rule {
    model::Rule {
        from: vec![source],
        ..Default::default()
    }
}

fn to(operation: Operation) -> model::Rule {
    model::Rule {
        to: vec![operation],
        ..Default::default()
    }
}

fn when(key: &str, values: &[&str], not_values: &[&str]) -> model::Rule {
    let condition = Condition {
        key: key.to_owned(),
        values: strings(values),
        not_values: strings(not_values),
        cel: None,
    };
    model::Rule {
        when: vec![condition],
        ..Default::default()
    }
}

/// Exactly these fields are refused.
fn check_refused(policy: Policy, fields: &[&str]) {
    let shown = format!("{policy:?}");
    match ValidPolicy::new(policy) {
        Ok(_) => assert!(fields.is_empty(), "accepted: {shown}"),
        Err(errors) => assert_eq!(
            errors.iter().map(|error| &*error.field).collect::<Vec<_>>(),
            fields,
            "{errors:?}"
        ),
    }
}

#[test]
fn every_mistake_is_reported_at_once_with_the_path_of_its_field() {
    let source = Source {
        not_principals: strings(&["td/ns/a/sa/b", "no-path"]),
        ..Default::default()
    };
    let other = Source {
        ip_blocks: strings(&["10.0.0.0/33"]),
        namespaces: strings(&[""]),
        ..Default::default()
    };
    let operation = Operation {
        ports: strings(&["80", "http"]),
        paths: strings(&["/a*b"]),
        ..Default::default()
    };
    let rule = model::Rule {
        from: vec![source, other],
        to: vec![operation],
        when: vec![
            Condition {
                key: "nonsense".to_owned(),
                values: strings(&["x"]),
                ..Condition::default()
            },
            Condition {
                key: "destination.port".to_owned(),
                not_values: strings(&["0"]),
                ..Condition::default()
            },
        ],
    };
    check_refused(
        Policy {
            name: String::new(),
            ..policy(Action::Allow, vec![model::Rule::default(), rule])
        },
        &[
            "name",
            "rules[1].from[0].not_principals[1]",
            "rules[1].from[1].namespaces[0]",
            "rules[1].from[1].ip_blocks[0]",
            "rules[1].to[0].ports[1]",
            "rules[1].to[0].paths[0]",
            "rules[1].when[0].key",
            "rules[1].when[1].not_values[0]",
        ],
    );
}

#[test]
fn empty_parts_are_refused_where_they_would_say_nothing() {
    check_refused(policy(Action::Allow, vec![]), &[]);
    check_refused(policy(Action::Allow, vec![model::Rule::default()]), &[]);
    check_refused(policy(Action::Deny, vec![model::Rule::default()]), &[]);
    check_refused(policy(Action::Deny, vec![]), &["rules"]);
    check_refused(
        policy(Action::Allow, vec![from(Source::default())]),
        &["rules[0].from[0]"],
    );
    check_refused(
        policy(Action::Allow, vec![to(Operation::default())]),
        &["rules[0].to[0]"],
    );
    check_refused(
        policy(Action::Allow, vec![when("source.ip", &[], &[])]),
        &["rules[0].when[0]"],
    );
}

#[test]
fn stricter_05_a_star_in_the_middle_is_refused_in_every_field() {
    let bad = || strings(&["a*b"]);
    let source = Source {
        principals: strings(&["td/ns/*/sa/b"]),
        not_principals: strings(&["td/*/b"]),
        namespaces: bad(),
        not_namespaces: bad(),
        service_accounts: bad(),
        not_service_accounts: bad(),
        trust_domains: bad(),
        not_trust_domains: bad(),
        ip_blocks: strings(&["10.*.0.1"]),
        not_ip_blocks: strings(&["*"]),
        remote_ip_blocks: strings(&["*"]),
        not_remote_ip_blocks: strings(&["*"]),
        request_principals: strings(&["iss/a*b"]),
        not_request_principals: strings(&["a*b"]),
    };
    let operation = Operation {
        hosts: bad(),
        not_hosts: bad(),
        ports: strings(&["8*0"]),
        not_ports: strings(&["*"]),
        methods: bad(),
        not_methods: bad(),
        paths: bad(),
        not_paths: bad(),
    };
    let rule = model::Rule {
        from: vec![source],
        to: vec![operation],
        when: vec![],
    };
    let errors = ValidPolicy::new(policy(Action::Allow, vec![rule])).unwrap_err();
    assert_eq!(errors.len(), 22, "{errors:?}");
    for key in [
        "request.headers[x]",
        "source.principal",
        "source.namespace",
        "connection.sni",
        "destination.port",
    ] {
        check_refused(
            policy(Action::Allow, vec![when(key, &["a*b"], &[])]),
            &["rules[0].when[0].values[0]"],
        );
    }
}

#[test]
fn conditions_that_are_not_supported_are_refused_by_name() {
    for key in [
        "request.auth",
        "request.auth.issuer",
        "request.auth.claims",
        "request.auth.claims[]",
        "request.auth.claims[a",
        "request.auth.claims[a][]",
        "cel",
        "source.user",
        "request.headers",
        "request.headers[]",
        "request.headers[:path]",
        "request.headers[a b]",
        "request.headers[host]",
        "request.headers[Host]",
        "Source.ip",
        "",
    ] {
        let errors =
            ValidPolicy::new(policy(Action::Deny, vec![when(key, &["x"], &[])])).unwrap_err();
        assert_eq!(errors[0].field, "rules[0].when[0].key");
        let name = key
            .strip_prefix("request.headers[")
            .map_or(key, |rest| rest.trim_end_matches(']'));
        assert!(
            errors[0].message.contains(name),
            "{key}: {}",
            errors[0].message
        );
    }
}

#[test]
fn header_values_may_be_any_text() {
    check_refused(
        policy(
            Action::Allow,
            vec![when(
                "request.headers[x]",
                &["é", "日本*", "a b", "{x}"],
                &[],
            )],
        ),
        &[],
    );
}

#[test]
fn values_that_can_never_match_are_refused_where_a_deny_would_have_a_hole() {
    for source in [
        Source {
            namespaces: strings(&["a/b"]),
            ..Default::default()
        },
        Source {
            trust_domains: strings(&["spiffe://td"]),
            ..Default::default()
        },
        Source {
            trust_domains: strings(&["TD"]),
            ..Default::default()
        },
        Source {
            service_accounts: strings(&["a/b/c"]),
            ..Default::default()
        },
    ] {
        assert!(
            ValidPolicy::new(policy(Action::Deny, vec![from(source.clone())])).is_err(),
            "{source:?}"
        );
    }
    for operation in [
        Operation {
            hosts: strings(&["https://example.org"]),
            ..Default::default()
        },
        Operation {
            methods: strings(&["GET POST"]),
            ..Default::default()
        },
    ] {
        assert!(
            ValidPolicy::new(policy(Action::Deny, vec![to(operation.clone())])).is_err(),
            "{operation:?}"
        );
    }
    let paths = Operation {
        paths: strings(&["/a", "admin", "/a//b", "/a\\b", "/a%2fb", "/a/./b", "/a*b"]),
        ..Default::default()
    };
    for action in [Action::Deny, Action::Audit] {
        check_refused(
            policy(action, vec![to(paths.clone())]),
            &[
                // Malformed, so that nothing more is said of it.
                "rules[0].to[0].paths[6]",
                "rules[0].to[0].paths[1]",
                "rules[0].to[0].paths[2]",
                "rules[0].to[0].paths[3]",
                "rules[0].to[0].paths[4]",
                "rules[0].to[0].paths[5]",
            ],
        );
    }
    let one = Operation {
        paths: strings(&["admin//*"]),
        ..Default::default()
    };
    let errors = ValidPolicy::new(policy(Action::Deny, vec![to(one)])).unwrap_err();
    assert_eq!(
        errors[0].message,
        "`admin//*` matches no request: a path starts with `/`; write `/admin/*`"
    );
}

#[test]
fn what_is_probably_not_meant_is_warned_of() {
    let check = |action, rule, expected: &[&str]| {
        let valid = ValidPolicy::new(policy(action, vec![rule])).unwrap();
        let got: Vec<_> = valid
            .warnings()
            .iter()
            .map(|warning| &*warning.field)
            .collect();
        assert_eq!(got, expected, "{:?}", valid.warnings());
    };
    // resources.md, "Opaque TCP": loading such a DENY gives a warning.
    check(
        Action::Deny,
        to(Operation {
            paths: strings(&["/admin"]),
            ..Default::default()
        }),
        &["rules[0]"],
    );
    check(
        Action::Deny,
        when("request.headers[x]", &["1"], &[]),
        &["rules[0]"],
    );
    check(
        Action::Deny,
        to(Operation {
            ports: strings(&["80"]),
            ..Default::default()
        }),
        &[],
    );
    check(
        Action::Allow,
        to(Operation {
            paths: strings(&["/admin"]),
            ..Default::default()
        }),
        &[],
    );
    let paths = Operation {
        paths: strings(&["/a", "/a//b", "/a?b"]),
        ..Default::default()
    };
    check(
        Action::Allow,
        to(paths),
        &["rules[0].to[0].paths[1]", "rules[0].to[0].paths[2]"],
    );
    check(Action::Audit, model::Rule::default(), &[]);
    let no_rules = ValidPolicy::new(policy(Action::Audit, vec![])).unwrap();
    assert_eq!(no_rules.warnings()[0].field, "rules");
    let methods = Operation {
        methods: strings(&["GET", "get"]),
        ..Default::default()
    };
    check(Action::Allow, to(methods), &["rules[0].to[0].methods[1]"]);
}

#[test]
fn a_valid_policy_is_named_by_namespace_and_name() {
    let valid = ValidPolicy::new(policy(Action::Allow, vec![])).unwrap();
    assert_eq!((valid.id(), valid.action()), ("shop/orders", Action::Allow));
    for (namespace, name) in [("", "a"), ("a", ""), ("a/b", "c"), ("a", "b/c")] {
        let named = Policy {
            namespace: namespace.into(),
            name: name.into(),
            ..policy(Action::Allow, vec![])
        };
        assert_eq!(ValidPolicy::new(named).unwrap_err().len(), 1);
    }
}
