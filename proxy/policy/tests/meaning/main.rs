//! What policies mean, as tables: resources.md sentence by sentence, and the security rows that fall here.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use kith_policy::{
    Action, Clause, Condition, Connection, Decision, DefaultAction, EncodedSlash, Headers, Mesh,
    Operation, Policy, PolicySet, Principal, Reason, Request, Rule, Source, Token, ValidPolicy,
    normalise_target,
};

mod analysis;
mod cel;
mod explain;
mod shadow;
mod token;
mod wide;

const WEB: &str = "spiffe://example.org/ns/shop/sa/web";
const API: &str = "spiffe://example.org/ns/shop/sa/api";
const FOREIGN: &str = "spiffe://partner.org/ns/shop/sa/web";
const ALIAS: &str = "spiffe://old.org/ns/shop/sa/web";
const ODD: &str = "spiffe://example.org/ns/shop/sa/web/extra";

/// A caller and its request, to be varied with struct update.
#[derive(Clone)]
struct Call {
    peer: Option<&'static str>,
    source: &'static str,
    remote: &'static str,
    destination: &'static str,
    sni: Option<&'static str>,
    /// `None` is opaque TCP.
    http: Option<Http>,
}

#[derive(Clone, Copy)]
struct Http {
    method: &'static str,
    host: &'static str,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    /// The claims of a verified token, as JSON.
    token: Option<&'static str>,
}

const GET: Http = Http {
    method: "GET",
    host: "orders.shop",
    path: "/a",
    headers: &[],
    token: None,
};

fn call() -> Call {
    Call {
        peer: Some(WEB),
        source: "10.1.2.3",
        remote: "10.1.2.3",
        destination: "10.9.9.9:8080",
        sni: None,
        http: Some(GET),
    }
}

fn from(peer: impl Into<Option<&'static str>>) -> Call {
    Call {
        peer: peer.into(),
        ..call()
    }
}

fn http(http: Http) -> Call {
    Call {
        http: Some(http),
        ..call()
    }
}

fn tcp() -> Call {
    Call {
        http: None,
        ..call()
    }
}

struct List(&'static [(&'static str, &'static str)]);

impl Headers for List {
    fn for_each(&self, lower_case_name: &str, visit: &mut dyn FnMut(&[u8])) {
        for (_, value) in self.0.iter().filter(|(name, _)| *name == lower_case_name) {
            visit(value.as_bytes());
        }
    }
}

impl Call {
    fn on<T>(&self, ask: impl FnOnce(&Connection<'_>, Option<&Request<'_>>) -> T) -> T {
        let peer = self.peer.map(|peer| Principal::parse(peer).unwrap());
        let connection = Connection {
            peer: peer.as_ref(),
            source: self.source.parse().unwrap(),
            remote: self.remote.parse().ok(),
            destination: self.destination.parse().unwrap(),
            sni: self.sni,
        };
        let claims: Option<serde_json::Map<_, _>> = self
            .http
            .and_then(|http| http.token)
            .map(|token| serde_json::from_str(token).unwrap());
        let claim = |claims: &serde_json::Map<String, serde_json::Value>, name: &str| {
            claims
                .get(name)
                .map_or(String::new(), |value| value.as_str().unwrap().to_owned())
        };
        let names = claims
            .as_ref()
            .map(|claims| (claim(claims, "iss"), claim(claims, "sub")));
        let headers = List(self.http.map_or(&[], |http| http.headers));
        let request = self.http.map(|http| Request {
            method: http.method,
            host: http.host,
            path: http.path,
            headers: &headers,
            token: claims
                .as_ref()
                .zip(names.as_ref())
                .map(|(claims, (issuer, subject))| Token {
                    issuer,
                    subject,
                    claims,
                }),
        });
        ask(&connection, request.as_ref())
    }
}

fn strings(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

fn mesh() -> Mesh {
    Mesh {
        trust_domain: "example.org".to_owned(),
        trust_domain_aliases: strings(&["old.org"]),
        default_action: DefaultAction::Deny,
    }
}

fn policy(action: Action, name: &str, rules: Vec<Rule>) -> Arc<ValidPolicy> {
    let policy = Policy {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        action,
        rules,
        dry_run: false,
    };
    Arc::new(ValidPolicy::new(policy).unwrap())
}

fn set(policies: &[Arc<ValidPolicy>]) -> PolicySet {
    PolicySet::compile(&mesh(), "42", policies)
}

fn source(source: Source) -> Rule {
    Rule {
        from: vec![source],
        ..Rule::default()
    }
}

fn operation(operation: Operation) -> Rule {
    Rule {
        to: vec![operation],
        ..Rule::default()
    }
}

fn condition(key: &str, values: &[&str], not_values: &[&str]) -> Rule {
    let condition = Condition {
        key: key.to_owned(),
        values: strings(values),
        not_values: strings(not_values),
        cel: None,
    };
    Rule {
        when: vec![condition],
        ..Rule::default()
    }
}

fn cel(expression: &str) -> Rule {
    let condition = Condition {
        cel: Some(expression.to_owned()),
        ..Condition::default()
    };
    Rule {
        when: vec![condition],
        ..Rule::default()
    }
}

fn decide(policies: &[Arc<ValidPolicy>], call: &Call) -> Decision {
    let set = set(policies);
    call.on(|connection, request| set.decide(connection, request))
}

/// Does the rule match, as the only rule of an ALLOW and as the only rule of a DENY?
#[track_caller]
fn check(rule: &Rule, call: &Call, in_allow: bool, in_deny: bool) {
    let allow = decide(&[policy(Action::Allow, "p", vec![rule.clone()])], call);
    assert_eq!(allow.allow, in_allow, "in an ALLOW: {rule:?} {allow:?}");
    let everything = policy(Action::Allow, "everything", vec![Rule::default()]);
    let deny = decide(
        &[policy(Action::Deny, "p", vec![rule.clone()]), everything],
        call,
    );
    // On opaque TCP, too, everything matches the empty rule.
    assert_eq!(!deny.allow, in_deny, "in a DENY: {rule:?} {deny:?}");
}

#[track_caller]
fn check_both(rule: &Rule, call: &Call, matches: bool) {
    check(rule, call, matches, matches);
}

#[test]
fn deny_goes_before_allow_and_allow_before_the_default() {
    let web = || Source {
        principals: strings(&["cluster.local/ns/shop/sa/web"]),
        ..Source::default()
    };
    let allow = policy(Action::Allow, "allow", vec![source(web())]);
    let deny = policy(
        Action::Deny,
        "deny",
        vec![operation(Operation {
            paths: strings(&["/admin"]),
            ..Default::default()
        })],
    );
    let admin = Call {
        http: Some(Http {
            path: "/admin",
            ..GET
        }),
        ..call()
    };

    let decision = decide(&[allow.clone(), deny.clone()], &admin);
    assert_eq!(decision.reason, Reason::DeniedByRule);
    assert_eq!(
        (decision.policy.as_deref(), decision.rule),
        (Some("shop/deny"), Some(0))
    );

    let decision = decide(&[allow.clone(), deny.clone()], &call());
    assert_eq!(
        (decision.allow, decision.reason),
        (true, Reason::AllowedByRule)
    );
    assert_eq!(
        (decision.policy.as_deref(), decision.rule),
        (Some("shop/allow"), Some(0))
    );
    assert_eq!(&*decision.revision, "42");

    let decision = decide(&[allow, deny.clone()], &from(API));
    assert_eq!(
        (decision.reason, decision.policy, decision.rule),
        (Reason::NoAllowPolicyMatches, None, None)
    );

    assert_eq!(
        decide(std::slice::from_ref(&deny), &call()).reason,
        Reason::DeniedByDefault
    );
    let open = Mesh {
        default_action: DefaultAction::Allow,
        ..mesh()
    };
    let decision = call().on(|c, r| PolicySet::compile(&open, "1", &[deny]).decide(c, r));
    assert_eq!(
        (decision.allow, decision.reason),
        (true, Reason::AllowedByDefault)
    );
}

#[test]
fn an_allow_without_rules_denies_everything_and_an_empty_rule_matches_everything() {
    let open = Mesh {
        default_action: DefaultAction::Allow,
        ..mesh()
    };
    let nothing = policy(Action::Allow, "nothing", vec![]);
    let decision = call()
        .on(|c, r| PolicySet::compile(&open, "1", std::slice::from_ref(&nothing)).decide(c, r));
    assert_eq!(decision.reason, Reason::NoAllowPolicyMatches);
    let nearest = decision.nearest.unwrap();
    assert_eq!(
        (&*nearest.policy, nearest.clause),
        ("shop/nothing", Clause::Rules)
    );
    // Another ALLOW may still match.
    let everything = policy(Action::Allow, "everything", vec![Rule::default()]);
    assert_eq!(
        decide(&[nothing, everything], &from(None))
            .policy
            .as_deref(),
        Some("shop/everything")
    );
}

#[test]
fn the_first_policy_and_rule_in_order_are_named() {
    let web = || {
        source(Source {
            principals: strings(&["example.org/ns/shop/sa/web"]),
            ..Source::default()
        })
    };
    let shop = || {
        source(Source {
            namespaces: strings(&["shop"]),
            ..Source::default()
        })
    };
    let port = || {
        operation(Operation {
            ports: strings(&["8080"]),
            ..Operation::default()
        })
    };
    // Each is filed elsewhere in the index; order must win over the place.
    for rules in [
        [web(), shop(), port()],
        [port(), web(), shop()],
        [shop(), port(), web()],
    ] {
        let never = source(Source {
            principals: strings(&["x/y"]),
            ..Source::default()
        });
        let first = policy(
            Action::Allow,
            "first",
            [vec![never], rules.to_vec()].concat(),
        );
        let second = policy(Action::Allow, "second", rules.to_vec());
        let decision = decide(&[first, second], &call());
        assert_eq!(
            (decision.policy.as_deref(), decision.rule),
            (Some("shop/first"), Some(1))
        );
    }
}

#[test]
fn fields_are_and_values_are_or_and_alternatives_are_or() {
    let of = |from: &[Source], to: &[Operation]| Rule {
        from: from.to_vec(),
        to: to.to_vec(),
        when: vec![],
    };
    let web = Source {
        principals: strings(&["x/y", "example.org/ns/shop/sa/web"]),
        ..Source::default()
    };
    let far = Source {
        ip_blocks: strings(&["192.168.0.0/16"]),
        ..web.clone()
    };
    let near = Source {
        ip_blocks: strings(&["192.168.0.0/16", "10.0.0.0/8"]),
        ..web
    };
    let post = Operation {
        methods: strings(&["POST"]),
        paths: strings(&["/a"]),
        ..Operation::default()
    };
    let get = Operation {
        methods: strings(&["POST", "GET"]),
        paths: strings(&["/a"]),
        ..Operation::default()
    };
    check_both(&of(std::slice::from_ref(&near), &[]), &call(), true);
    check_both(&of(std::slice::from_ref(&far), &[]), &call(), false);
    check_both(
        &of(&[far.clone(), near.clone()], std::slice::from_ref(&get)),
        &call(),
        true,
    );
    check_both(
        &of(&[far.clone(), near.clone()], std::slice::from_ref(&post)),
        &call(),
        false,
    );
    check_both(
        &of(std::slice::from_ref(&near), &[post, get.clone()]),
        &call(),
        true,
    );
    check_both(&of(&[far], &[get]), &call(), false);
    let not = Source {
        not_ip_blocks: strings(&["192.168.0.0/16", "10.0.0.0/8"]),
        ..near
    };
    check_both(&of(&[not], &[]), &call(), false);
}

#[test]
fn conditions_read_their_attribute() {
    let destined = Call {
        sni: Some("Orders.Shop"),
        remote: "172.16.0.1",
        ..call()
    };
    for (key, matching, other) in [
        ("source.ip", "10.0.0.0/8", "172.16.0.0/12"),
        ("remote.ip", "172.16.0.0/12", "10.0.0.0/8"),
        ("destination.ip", "10.9.9.9", "10.1.2.3"),
        ("destination.port", "8080", "80"),
        ("connection.sni", "orders.shop", "orders"),
        (
            "source.principal",
            "cluster.local/ns/shop/sa/web",
            "cluster.local/ns/shop/sa/api",
        ),
        ("source.namespace", "shop", "default"),
        ("source.serviceAccount", "shop/web", "shop/api"),
        ("source.serviceAccount", "web", "api"),
        ("source.trustDomain", "example.org", "cluster.local"),
        ("request.headers[X-Id]", "7", "8"),
    ] {
        let call = Call {
            http: Some(Http {
                headers: &[("x-id", "7")],
                ..GET
            }),
            ..destined.clone()
        };
        check_both(&condition(key, &[matching], &[]), &call, true);
        check_both(&condition(key, &[other], &[]), &call, false);
        check_both(&condition(key, &[], &[matching]), &call, false);
        check_both(&condition(key, &[], &[other]), &call, true);
        check_both(&condition(key, &[other, matching], &[other]), &call, true);
    }
}

#[test]
fn a_star_means_present_for_headers_hosts_and_methods_and_not_empty_elsewhere() {
    let present = condition("request.headers[x-id]", &["*"], &[]);
    check_both(
        &present,
        &http(Http {
            headers: &[("x-id", "")],
            ..GET
        }),
        true,
    );
    check_both(&present, &http(GET), false);
    check_both(
        &condition("request.headers[x-id]", &[], &["*"]),
        &http(GET),
        true,
    );
    check_both(
        &operation(Operation {
            methods: strings(&["*"]),
            ..Default::default()
        }),
        &call(),
        true,
    );
    check_both(
        &operation(Operation {
            hosts: strings(&["*"]),
            ..Default::default()
        }),
        &call(),
        true,
    );
    let path = operation(Operation {
        paths: strings(&["*"]),
        ..Default::default()
    });
    check_both(&path, &call(), true);
    check_both(
        &path,
        &http(Http {
            method: "CONNECT",
            path: "",
            ..GET
        }),
        false,
    );
    check_both(&condition("connection.sni", &["*"], &[]), &call(), false);
    check_both(
        &condition("connection.sni", &["*"], &[]),
        &Call {
            sni: Some("a"),
            ..call()
        },
        true,
    );
    check_both(
        &source(Source {
            principals: strings(&["*"]),
            ..Default::default()
        }),
        &from(FOREIGN),
        true,
    );
    check_both(
        &source(Source {
            principals: strings(&["*"]),
            ..Default::default()
        }),
        &from(None),
        false,
    );
}

#[test]
fn methods_are_case_sensitive() {
    let get = operation(Operation {
        methods: strings(&["GET"]),
        ..Default::default()
    });
    check_both(
        &get,
        &http(Http {
            method: "get",
            ..GET
        }),
        false,
    );
    check_both(&get, &call(), true);
}

#[test]
fn opaque_tcp_allow_with_any_http_attribute_never_matches_and_deny_ignores_them() {
    for http_only in [
        operation(Operation {
            paths: strings(&["/a"]),
            ..Default::default()
        }),
        operation(Operation {
            not_paths: strings(&["/x"]),
            ..Default::default()
        }),
        operation(Operation {
            hosts: strings(&["orders.shop"]),
            ..Default::default()
        }),
        operation(Operation {
            not_hosts: strings(&["x"]),
            ..Default::default()
        }),
        operation(Operation {
            methods: strings(&["*"]),
            ..Default::default()
        }),
        operation(Operation {
            not_methods: strings(&["POST"]),
            ..Default::default()
        }),
        condition("request.headers[x]", &["*"], &[]),
        condition("request.headers[x]", &[], &["1"]),
    ] {
        check(&http_only, &tcp(), false, true);
        // What is not HTTP still counts.
        let web = Source {
            namespaces: strings(&["shop"]),
            ..Default::default()
        };
        let bound = Rule {
            from: vec![web],
            ..http_only
        };
        check(&bound, &tcp(), false, true);
        check(
            &bound,
            &Call {
                http: None,
                ..from("spiffe://example.org/ns/other/sa/x")
            },
            false,
            false,
        );
    }
    // Even an operation without HTTP beside it does not help.
    let mixed = Rule {
        to: vec![
            Operation {
                ports: strings(&["8080"]),
                ..Default::default()
            },
            Operation {
                paths: strings(&["/a"]),
                ..Default::default()
            },
        ],
        ..Rule::default()
    };
    check(&mixed, &tcp(), false, true);
    check_both(&mixed, &call(), true);
    let decision = decide(&[policy(Action::Allow, "p", vec![mixed])], &tcp());
    assert_eq!(decision.nearest.unwrap().clause.to_string(), "to.paths");
    // Its port does.
    let port = Operation {
        ports: strings(&["80"]),
        paths: strings(&["/a"]),
        ..Default::default()
    };
    check(&operation(port), &tcp(), false, false);
    // Connection attributes alone work alike.
    check_both(
        &operation(Operation {
            ports: strings(&["8080"]),
            ..Default::default()
        }),
        &tcp(),
        true,
    );
}

#[test]
fn stricter_01_namespaces_and_service_accounts_mean_the_local_trust_domain() {
    for field in [
        Source {
            namespaces: strings(&["shop"]),
            ..Default::default()
        },
        Source {
            service_accounts: strings(&["shop/web"]),
            ..Default::default()
        },
        Source {
            service_accounts: strings(&["web"]),
            ..Default::default()
        },
    ] {
        check_both(&source(field.clone()), &from(WEB), true);
        check_both(&source(field.clone()), &from(ALIAS), true);
        check(&source(field.clone()), &from(FOREIGN), false, true);
        // Unless trustDomains says otherwise.
        let partner = Source {
            trust_domains: strings(&["partner.org"]),
            ..field.clone()
        };
        check_both(&source(partner.clone()), &from(FOREIGN), true);
        check_both(&source(partner), &from(WEB), false);
        check_both(
            &source(Source {
                trust_domains: strings(&["*"]),
                ..field
            }),
            &from(FOREIGN),
            true,
        );
    }
    // A peer whose namespace is out of reach is no proof of being outside it.
    let not_shop = source(Source {
        not_namespaces: strings(&["shop"]),
        ..Default::default()
    });
    check(&not_shop, &from(FOREIGN), false, true);
    check_both(&not_shop, &from("spiffe://example.org/ns/other/sa/x"), true);
    // The same for conditions.
    let shop = condition("source.namespace", &["shop"], &[]);
    check(&shop, &from(FOREIGN), false, true);
    let partner = Source {
        trust_domains: strings(&["partner.org"]),
        ..Default::default()
    };
    check_both(
        &Rule {
            from: vec![partner],
            ..shop.clone()
        },
        &from(FOREIGN),
        true,
    );
    let named = [
        shop.when,
        condition("source.trustDomain", &["partner.org"], &[]).when,
    ]
    .concat();
    check_both(
        &Rule {
            when: named,
            ..Rule::default()
        },
        &from(FOREIGN),
        true,
    );
}

#[test]
fn stricter_02_no_identity_never_satisfies_a_negative_identity_field_of_an_allow() {
    for rule in [
        source(Source {
            not_principals: strings(&["x/y"]),
            ..Default::default()
        }),
        source(Source {
            not_namespaces: strings(&["x"]),
            ..Default::default()
        }),
        source(Source {
            not_service_accounts: strings(&["x/y"]),
            ..Default::default()
        }),
        source(Source {
            not_trust_domains: strings(&["x"]),
            ..Default::default()
        }),
        condition("source.principal", &[], &["x/y"]),
        condition("source.namespace", &[], &["x"]),
        condition("source.serviceAccount", &[], &["x/y"]),
        condition("source.trustDomain", &[], &["x"]),
    ] {
        check(&rule, &from(None), false, true);
        check_both(&rule, &from(WEB), true);
    }
}

#[test]
fn stricter_03_ports_where_a_rule_uses_identity_are_known() {
    let web = Source {
        principals: strings(&["*"]),
        ..Default::default()
    };
    let on = |ports: &[&str], not: &[&str]| Operation {
        ports: strings(ports),
        not_ports: strings(not),
        ..Default::default()
    };
    let check = |rule: Rule, on_80: bool, on_81: bool| {
        for action in [Action::Allow, Action::Deny] {
            let set = set(&[policy(action, "p", vec![rule.clone()])]);
            assert_eq!(
                (set.uses_identity(80), set.uses_identity(81)),
                (on_80, on_81),
                "{rule:?}"
            );
        }
    };
    check(Rule::default(), false, false);
    check(operation(on(&["80"], &[])), false, false);
    check(
        source(Source {
            ip_blocks: strings(&["10.0.0.1"]),
            ..Default::default()
        }),
        false,
        false,
    );
    check(source(web.clone()), true, true);
    check(
        source(Source {
            not_namespaces: strings(&["x"]),
            ..Default::default()
        }),
        true,
        true,
    );
    check(condition("source.trustDomain", &[], &["x"]), true, true);
    check(
        Rule {
            from: vec![web.clone()],
            to: vec![on(&["80"], &[])],
            when: vec![],
        },
        true,
        false,
    );
    check(
        Rule {
            from: vec![web.clone()],
            to: vec![on(&[], &["80"])],
            when: vec![],
        },
        false,
        true,
    );
    check(
        Rule {
            from: vec![web.clone()],
            to: vec![on(&["80"], &[]), on(&["81"], &[])],
            when: vec![],
        },
        true,
        true,
    );
    check(
        Rule {
            from: vec![web.clone()],
            to: vec![on(&["80"], &["80"])],
            when: vec![],
        },
        false,
        false,
    );
    let when = condition("destination.port", &["81"], &[]).when;
    check(
        Rule {
            from: vec![web],
            to: vec![],
            when,
        },
        false,
        true,
    );
}

#[test]
fn stricter_04_row_05_repeated_headers_allow_needs_all_and_deny_any() {
    let admin = condition("request.headers[x-role]", &["admin"], &[]);
    let not_admin = condition("request.headers[x-role]", &[], &["admin"]);
    let prefixed = condition("request.headers[x-role]", &["admin*"], &[]);
    let either = condition(
        "request.headers[x-role]",
        &["admin", "guest", "guest,admin"],
        &[],
    );
    for (headers, rule, in_allow, in_deny) in [
        (&[("x-role", "admin")][..], &admin, true, true),
        (&[("x-role", "guest")], &admin, false, false),
        (
            &[("x-role", "guest"), ("x-role", "admin")],
            &admin,
            false,
            true,
        ),
        (
            &[("x-role", "admin"), ("x-role", "guest")],
            &admin,
            false,
            true,
        ),
        // Every value matches, their join does not.
        (
            &[("x-role", "admin"), ("x-role", "admin")],
            &admin,
            false,
            true,
        ),
        (
            &[("x-role", "admin"), ("x-role", "admin2")],
            &prefixed,
            true,
            true,
        ),
        (
            &[("x-role", "admin"), ("x-role", "guest")],
            &prefixed,
            false,
            true,
        ),
        (
            &[("x-role", "guest"), ("x-role", "admin")],
            &either,
            true,
            true,
        ),
        (
            &[("x-role", "admin"), ("x-role", "guest")],
            &either,
            false,
            true,
        ),
        (&[("x-role", "guest")], &not_admin, true, true),
        (&[("x-role", "admin")], &not_admin, false, false),
        (
            &[("x-role", "guest"), ("x-role", "admin")],
            &not_admin,
            false,
            true,
        ),
        (
            &[("x-role", "guest"), ("x-role", "guest")],
            &not_admin,
            true,
            true,
        ),
        (&[], &not_admin, true, true),
        (&[], &admin, false, false),
    ] {
        check(rule, &http(Http { headers, ..GET }), in_allow, in_deny);
    }
    // HTTP/2 splits cookies (RFC 9113 section 8.2.3).
    let cookies = condition("request.headers[cookie]", &["a=1*", "b=2"], &[]);
    check_both(
        &cookies,
        &http(Http {
            headers: &[("cookie", "a=1"), ("cookie", "b=2")],
            ..GET
        }),
        true,
    );
    let joined = condition("request.headers[cookie]", &["a=1; b=2"], &[]);
    check(
        &joined,
        &http(Http {
            headers: &[("cookie", "a=1"), ("cookie", "b=2")],
            ..GET
        }),
        false,
        true,
    );
}

#[test]
fn stricter_05_a_star_in_the_middle_is_refused_on_entry() {
    let rule = operation(Operation {
        paths: strings(&["/a/*/b"]),
        ..Default::default()
    });
    let policy = Policy {
        namespace: "shop".into(),
        name: "p".into(),
        action: Action::Allow,
        rules: vec![rule],
        dry_run: false,
    };
    assert_eq!(
        ValidPolicy::new(policy).unwrap_err()[0].field,
        "rules[0].to[0].paths[0]"
    );
}

#[test]
fn stricter_08_identities_are_read_only_from_exact_paths_and_wildcards_add_nothing_before() {
    let odd = source(Source {
        namespaces: strings(&["shop"]),
        ..Default::default()
    });
    check(&odd, &from(ODD), false, true);
    check(
        &source(Source {
            service_accounts: strings(&["shop/web"]),
            ..Default::default()
        }),
        &from(ODD),
        false,
        true,
    );
    // Nor does such a path prove that the peer is outside a namespace.
    check(
        &source(Source {
            not_namespaces: strings(&["shop"]),
            ..Default::default()
        }),
        &from(ODD),
        false,
        true,
    );
    let any_domain = source(Source {
        principals: strings(&["*/ns/shop/sa/web"]),
        ..Default::default()
    });
    check_both(&any_domain, &from(FOREIGN), true);
    check(
        &any_domain,
        &from("spiffe://partner.org/x/ns/shop/sa/web"),
        false,
        true,
    );
    check_both(&any_domain, &from(ODD), false);
}

#[test]
fn stricter_09_row_04_hosts_are_normalised_for_hosts_and_not_hosts_alike() {
    let hosts = operation(Operation {
        hosts: strings(&["Orders.Shop"]),
        ..Default::default()
    });
    let not_hosts = operation(Operation {
        not_hosts: strings(&["orders.shop."]),
        ..Default::default()
    });
    for host in [
        "orders.shop",
        "ORDERS.shop",
        "orders.shop.",
        "orders.shop:8080",
        "Orders.Shop.:80",
    ] {
        check_both(&hosts, &http(Http { host, ..GET }), true);
        check_both(&not_hosts, &http(Http { host, ..GET }), false);
    }
    check_both(
        &hosts,
        &http(Http {
            host: "orders.shop.evil",
            ..GET
        }),
        false,
    );
    // What is no host at all satisfies no ALLOW and escapes no DENY.
    for host in ["", "orders.shop/", "orders shop", "user@orders.shop"] {
        check(&hosts, &http(Http { host, ..GET }), false, true);
        check(&not_hosts, &http(Http { host, ..GET }), false, true);
    }
    // A pattern with a port also matches the port; a host without one may mean it.
    let port = operation(Operation {
        hosts: strings(&["orders.shop:8080"]),
        ..Default::default()
    });
    check_both(
        &port,
        &http(Http {
            host: "orders.shop:8080",
            ..GET
        }),
        true,
    );
    check_both(
        &port,
        &http(Http {
            host: "orders.shop:80",
            ..GET
        }),
        false,
    );
    check(&port, &call(), false, true);
}

#[test]
fn row_01_row_02_a_path_is_decided_on_in_its_normal_form() {
    let admin = policy(
        Action::Deny,
        "admin",
        vec![operation(Operation {
            paths: strings(&["/admin", "/admin/*"]),
            ..Default::default()
        })],
    );
    let everything = policy(Action::Allow, "everything", vec![Rule::default()]);
    let set = set(&[admin, everything]);
    for target in [
        "/admin",
        "/admin?x",
        "//admin",
        "/./admin",
        "/x/../admin",
        "/%61dmin",
        "/admin//",
        "/x/%2e%2e/admin",
        "/x/..;a=b/admin",
        "/\\admin",
        "/admin/?/..",
        "/x\\..\\admin",
        "http://h/admin",
    ] {
        let path = normalise_target("GET", target.as_bytes(), EncodedSlash::Refuse)
            .unwrap()
            .path;
        let decision = call().on(|connection, request| {
            set.decide(
                connection,
                Some(&Request {
                    path: &path,
                    ..*request.unwrap()
                }),
            )
        });
        assert_eq!(decision.reason, Reason::DeniedByRule, "{target:?}");
    }
    for target in [
        "\\admin",
        "admin",
        "/admin%2Fusers",
        "/admin%5c",
        "/admin#",
        "/x?/admin#",
        "/../admin",
        "/admin%00",
    ] {
        assert!(
            normalise_target("GET", target.as_bytes(), EncodedSlash::Refuse).is_err(),
            "{target:?}"
        );
    }
}

#[test]
fn row_10_policy_text_is_never_a_pattern_language() {
    let dotted = source(Source {
        principals: strings(&["example.org/ns/shop/sa/w.b"]),
        ..Default::default()
    });
    check_both(&dotted, &from(WEB), false);
    let classes = operation(Operation {
        paths: strings(&["/[a-z]", "/(a|b)", "/a+", "/^a$", "/a.", "/.+"]),
        ..Default::default()
    });
    check_both(&classes, &call(), false);
}

#[test]
fn row_11_wildcards_never_cross_trust_domains_unasked() {
    for (pattern, peer, expected) in [
        ("example.org/*", WEB, true),
        ("example.org/*", FOREIGN, false),
        ("cluster.local/*", FOREIGN, false),
        ("cluster.local/*", ALIAS, true),
        ("cluster.local/ns/shop/*", WEB, true),
        ("*", FOREIGN, true),
    ] {
        check_both(
            &source(Source {
                principals: strings(&[pattern]),
                ..Default::default()
            }),
            &from(peer),
            expected,
        );
    }
}

#[test]
fn row_18_ipv4_mapped_addresses_are_canonical() {
    let mapped = Call {
        source: "::ffff:10.1.2.3",
        remote: "::ffff:10.1.2.3",
        destination: "[::ffff:10.9.9.9]:8080",
        ..call()
    };
    for block in [
        "10.1.2.3",
        "10.0.0.0/8",
        "::ffff:10.1.2.3",
        "::ffff:10.0.0.0/104",
        "0.0.0.0/0",
    ] {
        for call in [call(), mapped.clone()] {
            check_both(
                &source(Source {
                    ip_blocks: strings(&[block]),
                    ..Default::default()
                }),
                &call,
                true,
            );
            check_both(
                &source(Source {
                    not_ip_blocks: strings(&[block]),
                    ..Default::default()
                }),
                &call,
                false,
            );
            check_both(
                &source(Source {
                    remote_ip_blocks: strings(&[block]),
                    ..Default::default()
                }),
                &call,
                true,
            );
            check_both(&condition("source.ip", &[block], &[]), &call, true);
        }
    }
    check_both(
        &condition("destination.ip", &["10.9.9.9"], &[]),
        &mapped,
        true,
    );
    check_both(&condition("source.ip", &["::/0"], &[]), &mapped, false);
}

#[test]
fn the_nearest_policy_is_the_one_whose_rule_got_furthest() {
    let web = || Source {
        principals: strings(&["example.org/ns/shop/sa/web"]),
        ..Default::default()
    };
    let api = || Source {
        principals: strings(&["example.org/ns/shop/sa/api"]),
        ..Default::default()
    };
    let post = || Operation {
        methods: strings(&["POST"]),
        ..Default::default()
    };
    let get = || Operation {
        methods: strings(&["GET"]),
        ..Default::default()
    };
    let rule = |from: Source, to: Operation| Rule {
        from: vec![from],
        to: vec![to],
        when: vec![],
    };
    let check = |policies: &[Arc<ValidPolicy>], call: &Call, policy: &str, clause: &str| {
        let decision = decide(policies, call);
        assert_eq!(decision.reason, Reason::NoAllowPolicyMatches);
        let nearest = decision.nearest.unwrap();
        assert_eq!(
            (&*nearest.policy, &*nearest.clause.to_string()),
            (policy, clause)
        );
    };
    let a = policy(Action::Allow, "a", vec![rule(api(), get())]);
    let b = policy(
        Action::Allow,
        "b",
        vec![rule(api(), post()), rule(web(), post())],
    );
    check(&[a.clone(), b.clone()], &call(), "shop/b", "to.methods");
    check(&[b.clone(), a.clone()], &call(), "shop/b", "to.methods");
    check(
        &[a.clone(), b.clone()],
        &from(FOREIGN),
        "shop/a",
        "from.principals",
    );

    let id = Condition {
        key: "request.headers[X-Id]".to_owned(),
        values: strings(&["1"]),
        ..Condition::default()
    };
    let c = policy(
        Action::Allow,
        "c",
        vec![Rule {
            when: vec![id],
            ..rule(web(), get())
        }],
    );
    check(
        &[a.clone(), b.clone(), c],
        &call(),
        "shop/c",
        "when[request.headers[x-id]]",
    );

    // Within a stage, the one that passed more; on another port, the policy is still found.
    let path = Operation {
        paths: strings(&["/a"]),
        methods: strings(&["PUT"]),
        ..Default::default()
    };
    let d = policy(Action::Allow, "d", vec![rule(web(), path)]);
    check(&[b, d], &call(), "shop/d", "to.methods");
    let elsewhere = Operation {
        ports: strings(&["9"]),
        ..Default::default()
    };
    let e = policy(Action::Allow, "e", vec![rule(web(), elsewhere)]);
    check(&[a, e], &call(), "shop/e", "to.ports");
    let f = policy(
        Action::Allow,
        "f",
        vec![source(Source {
            not_ip_blocks: strings(&["10.0.0.0/8"]),
            ..web()
        })],
    );
    check(
        std::slice::from_ref(&f),
        &call(),
        "shop/f",
        "from.notIpBlocks",
    );
    check(&[f], &from(None), "shop/f", "from.principals");
}

#[test]
fn the_nearest_policy_is_found_among_many_by_the_peer_that_it_names() {
    let rule = |account: &str, method: &str| Rule {
        from: vec![Source {
            principals: vec![format!("example.org/ns/shop/sa/{account}")],
            ..Default::default()
        }],
        to: vec![Operation {
            methods: strings(&[method]),
            ..Default::default()
        }],
        when: vec![],
    };
    let mut policies: Vec<_> = (0..500)
        .map(|number| {
            policy(
                Action::Allow,
                &format!("p{number}"),
                vec![rule(&format!("other{number}"), "GET")],
            )
        })
        .collect();
    policies.push(policy(Action::Allow, "web", vec![rule("web", "POST")]));
    let nearest = decide(&policies, &call()).nearest.unwrap();
    assert_eq!(
        (&*nearest.policy, &*nearest.clause.to_string()),
        ("shop/web", "to.methods")
    );
    // And on another port than the one it allows.
    let elsewhere = Rule {
        to: vec![Operation {
            ports: strings(&["9"]),
            ..Default::default()
        }],
        ..rule("web", "GET")
    };
    let last = policies.len() - 1;
    policies[last] = policy(Action::Allow, "web", vec![elsewhere]);
    let nearest = decide(&policies, &call()).nearest.unwrap();
    assert_eq!(
        (&*nearest.policy, &*nearest.clause.to_string()),
        ("shop/web", "to.ports")
    );
}

#[test]
fn could_allow_judges_by_the_connection_alone() {
    let shop = Source {
        namespaces: strings(&["shop"]),
        ..Default::default()
    };
    let post = Operation {
        methods: strings(&["POST"]),
        ..Default::default()
    };
    let allow = policy(
        Action::Allow,
        "allow",
        vec![Rule {
            from: vec![shop.clone()],
            to: vec![post.clone()],
            when: vec![],
        }],
    );
    let deny_web = source(Source {
        principals: strings(&["example.org/ns/shop/sa/web"]),
        ..Default::default()
    });
    let check = |policies: &[Arc<ValidPolicy>], call: &Call, expected: Result<(), Reason>| {
        let set = set(policies);
        let got = call.on(|connection, _| set.could_allow(connection));
        assert_eq!(got.map_err(|decision| decision.reason), expected);
    };
    check(&[], &call(), Err(Reason::DeniedByDefault));
    check(std::slice::from_ref(&allow), &call(), Ok(()));
    check(
        std::slice::from_ref(&allow),
        &from(FOREIGN),
        Err(Reason::NoAllowPolicyMatches),
    );
    let denied = policy(Action::Deny, "deny", vec![deny_web.clone()]);
    check(&[allow.clone(), denied], &call(), Err(Reason::DeniedByRule));
    // A DENY that asks for a request may spare the next one.
    let posts = policy(
        Action::Deny,
        "deny",
        vec![Rule {
            to: vec![post.clone()],
            ..deny_web.clone()
        }],
    );
    check(&[allow.clone(), posts], &call(), Ok(()));
    // One of its operations does not ask.
    let port = Operation {
        ports: strings(&["8080"]),
        ..Default::default()
    };
    let either = policy(
        Action::Deny,
        "deny",
        vec![Rule {
            to: vec![post, port],
            ..deny_web
        }],
    );
    check(&[allow, either], &call(), Err(Reason::DeniedByRule));
    // Behind trusted hops the remote address is the request's.
    let remote = policy(
        Action::Allow,
        "remote",
        vec![source(Source {
            remote_ip_blocks: strings(&["172.16.0.0/12"]),
            ..shop
        })],
    );
    check(&[remote], &call(), Ok(()));
}

#[test]
fn rules_that_name_many_ports_are_found_on_each() {
    let ports: Vec<_> = (1000..1040).map(|port: u16| port.to_string()).collect();
    let rule = operation(Operation {
        ports,
        ..Default::default()
    });
    check_both(
        &rule,
        &Call {
            destination: "10.0.0.1:1039",
            ..call()
        },
        true,
    );
    check_both(
        &rule,
        &Call {
            destination: "10.0.0.1:1040",
            ..call()
        },
        false,
    );
}
