//! The policies that are measured: like those of a large mesh, by principal, port, method and path.

use kith_policy::{Action, Condition, Mesh, Operation, Policy, Rule, Source};

pub(crate) const RULES: usize = 10;

/// Policy `n` lets ten accounts of namespace `n` read, and one in ten policies denies instead.
pub(crate) fn policy(number: usize) -> Policy {
    let rule = |rule: usize| Rule {
        from: vec![Source {
            principals: vec![format!("cluster.local/ns/team-{number}/sa/service-{rule}")],
            ..Source::default()
        }],
        to: vec![Operation {
            ports: vec!["8080".to_owned()],
            methods: vec!["GET".to_owned(), "HEAD".to_owned()],
            paths: vec![format!("/api/v{rule}/*"), "/health".to_owned()],
            ..Operation::default()
        }],
        when: match rule % 5 {
            0 => vec![Condition {
                key: "request.headers[x-tenant]".to_owned(),
                values: vec!["acme".to_owned()],
                ..Condition::default()
            }],
            _ => vec![],
        },
    };
    Policy {
        namespace: format!("team-{number}"),
        name: "access".to_owned(),
        action: if number % 10 == 9 {
            Action::Deny
        } else {
            Action::Allow
        },
        rules: (0..RULES).map(rule).collect(),
        dry_run: false,
    }
}

/// Denies what comes from namespace `n`.
#[allow(dead_code)]
pub(crate) fn against_namespace(number: usize) -> Policy {
    Policy {
        namespace: format!("team-{number}"),
        name: "against".to_owned(),
        action: Action::Deny,
        rules: vec![Rule {
            from: vec![Source {
                namespaces: vec![format!("against-{number}")],
                ..Source::default()
            }],
            ..Rule::default()
        }],
        ..Policy::default()
    }
}

/// Whoever comes by the gateway with a token of the identity provider that has the right scope.
#[allow(dead_code)]
pub(crate) fn by_token() -> Policy {
    Policy {
        namespace: "team-0".to_owned(),
        name: "by-token".to_owned(),
        rules: vec![Rule {
            from: vec![Source {
                principals: vec!["cluster.local/ns/gateway/sa/gateway".to_owned()],
                request_principals: vec!["https://idp.example/*".to_owned()],
                ..Source::default()
            }],
            to: vec![],
            when: vec![Condition {
                key: "request.auth.claims[scope]".to_owned(),
                values: vec!["orders.write".to_owned()],
                ..Condition::default()
            }],
        }],
        ..Policy::default()
    }
}

pub(crate) fn mesh() -> Mesh {
    Mesh {
        trust_domain: "example.org".to_owned(),
        ..Mesh::default()
    }
}
