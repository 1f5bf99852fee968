//! AUDIT and dry-run: they never decide, and what they would do is told.

use kith_policy::Verdict;

use super::*;

fn stated(action: Action, name: &str, dry_run: bool, rules: Vec<Rule>) -> Arc<ValidPolicy> {
    let policy = Policy {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        action,
        rules,
        dry_run,
    };
    Arc::new(ValidPolicy::new(policy).unwrap())
}

fn dry_run(action: Action, name: &str, rules: Vec<Rule>) -> Arc<ValidPolicy> {
    stated(action, name, true, rules)
}

fn methods(methods: &[&str]) -> Rule {
    operation(Operation {
        methods: strings(methods),
        ..Operation::default()
    })
}

/// The decision, the decision that would be, and `verdict policy rule` of each shadow.
#[track_caller]
fn check_shadow(
    policies: &[Arc<ValidPolicy>],
    expected: (Reason, Option<bool>, &[&str]),
) -> Decision {
    let decision = decide(policies, &call());
    let shadow: Vec<_> = decision
        .shadow
        .iter()
        .map(|shadow| {
            let rule = shadow.rule.map_or("-".to_owned(), |rule| rule.to_string());
            format!("{} {} {rule}", shadow.verdict.as_str(), shadow.policy)
        })
        .collect();
    assert_eq!(
        (decision.reason, decision.would_allow, shadow),
        (expected.0, expected.1, strings(expected.2)),
        "{decision:?}"
    );
    decision
}

#[test]
fn audit_never_decides_and_tells_every_policy_that_matches() {
    let audit = |name, rules| stated(Action::Audit, name, false, rules);
    let policies = [
        audit("miss", vec![methods(&["POST"])]),
        audit(
            "hit",
            vec![methods(&["POST"]), methods(&["GET"]), Rule::default()],
        ),
        audit("none", vec![]),
        audit("all", vec![Rule::default()]),
    ];
    let told = ["audit shop/hit 1", "audit shop/all 0"];
    check_shadow(&policies, (Reason::DeniedByDefault, None, &told));
    let allow = policy(Action::Allow, "allow", vec![Rule::default()]);
    let with_allow = [&policies[..], &[allow]].concat();
    check_shadow(&with_allow, (Reason::AllowedByRule, None, &told));
    let deny = policy(Action::Deny, "deny", vec![Rule::default()]);
    let with_deny = [&policies[..], &[deny]].concat();
    check_shadow(&with_deny, (Reason::DeniedByRule, None, &told));
}

#[test]
fn audit_reads_a_rule_like_deny() {
    let rule = methods(&["POST"]);
    let set = set(&[stated(Action::Audit, "p", false, vec![rule])]);
    let decision = tcp().on(|connection, request| set.decide(connection, request));
    assert_eq!(decision.shadow.len(), 1);
    assert_eq!(decision.shadow[0].verdict, Verdict::Audit);
}

#[test]
fn a_policy_that_is_both_audit_and_dry_run_is_like_audit() {
    let both = stated(Action::Audit, "both", true, vec![Rule::default()]);
    check_shadow(
        &[both],
        (Reason::DeniedByDefault, None, &["audit shop/both 0"]),
    );
}

#[test]
fn a_dry_run_deny_tells_what_it_would_deny() {
    let allow = policy(Action::Allow, "allow", vec![Rule::default()]);
    let hit = dry_run(
        Action::Deny,
        "hit",
        vec![methods(&["POST"]), methods(&["GET"])],
    );
    let miss = dry_run(Action::Deny, "miss", vec![methods(&["POST"])]);
    check_shadow(
        &[allow.clone(), miss.clone(), hit.clone()],
        (Reason::AllowedByRule, Some(false), &["deny shop/hit 1"]),
    );
    check_shadow(&[allow, miss], (Reason::AllowedByRule, Some(true), &[]));
    let deny = policy(Action::Deny, "deny", vec![Rule::default()]);
    check_shadow(
        &[hit, deny],
        (Reason::DeniedByRule, Some(false), &["deny shop/hit 1"]),
    );
}

#[test]
fn a_dry_run_allow_does_not_switch_on_the_default_deny() {
    let hit = || dry_run(Action::Allow, "hit", vec![methods(&["GET"])]);
    let miss = || dry_run(Action::Allow, "miss", vec![methods(&["POST"])]);
    let decide_by_default = |default_action, policies: &[Arc<ValidPolicy>]| {
        let mesh = Mesh {
            default_action,
            ..mesh()
        };
        let set = PolicySet::compile(&mesh, "1", policies);
        let decision = call().on(|connection, request| set.decide(connection, request));
        (decision.reason, decision.would_allow, decision.shadow.len())
    };
    use DefaultAction::{Allow, Deny};
    let allowed = Reason::AllowedByDefault;
    assert_eq!(
        decide_by_default(Allow, &[miss()]),
        (allowed, Some(false), 1)
    );
    assert_eq!(decide_by_default(Allow, &[hit()]), (allowed, Some(true), 1));
    let denied = Reason::DeniedByDefault;
    assert_eq!(decide_by_default(Deny, &[miss()]), (denied, Some(false), 1));
    assert_eq!(decide_by_default(Deny, &[hit()]), (denied, Some(true), 1));
    let deny = dry_run(Action::Deny, "deny", vec![methods(&["POST"])]);
    assert_eq!(decide_by_default(Allow, &[deny]), (allowed, Some(true), 0));
}

#[test]
fn when_no_allow_would_match_the_nearest_dry_run_allow_is_named() {
    let far = dry_run(
        Action::Allow,
        "far",
        vec![source(Source {
            namespaces: strings(&["other"]),
            ..Source::default()
        })],
    );
    let near = dry_run(Action::Allow, "near", vec![methods(&["POST"])]);
    let hit = policy(Action::Allow, "hit", vec![methods(&["GET"])]);
    let miss = policy(Action::Allow, "miss", vec![methods(&["PUT"])]);
    let policies = [far.clone(), near.clone(), miss];
    let decision = check_shadow(
        &policies,
        (
            Reason::NoAllowPolicyMatches,
            Some(false),
            &["deny shop/near -"],
        ),
    );
    assert_eq!(&*decision.nearest.unwrap().policy, "shop/miss");
    check_shadow(
        &[far.clone(), near, hit],
        (Reason::AllowedByRule, Some(true), &[]),
    );
    let empty = dry_run(Action::Allow, "empty", vec![]);
    check_shadow(
        &[empty],
        (Reason::DeniedByDefault, Some(false), &["deny shop/empty -"]),
    );
}

#[test]
fn a_dry_run_allow_that_matches_tells_what_it_would_allow() {
    let hit = dry_run(Action::Allow, "hit", vec![methods(&["GET"])]);
    let miss = policy(Action::Allow, "miss", vec![methods(&["POST"])]);
    let told = ["allow shop/hit 0"];
    check_shadow(
        &[miss.clone(), hit.clone()],
        (Reason::NoAllowPolicyMatches, Some(true), &told),
    );
    let deny = dry_run(Action::Deny, "deny", vec![Rule::default()]);
    check_shadow(
        &[miss, hit, deny],
        (
            Reason::NoAllowPolicyMatches,
            Some(false),
            &["deny shop/deny 0", "allow shop/hit 0"],
        ),
    );
}

#[test]
fn what_never_decides_switches_nothing_on() {
    let identity = || {
        vec![source(Source {
            principals: strings(&["cluster.local/ns/shop/sa/web"]),
            ..Source::default()
        })]
    };
    let shadows = [
        dry_run(Action::Allow, "a", identity()),
        dry_run(Action::Deny, "d", vec![Rule::default()]),
        stated(Action::Audit, "u", false, identity()),
    ];
    let everything = policy(Action::Allow, "all", vec![Rule::default()]);
    let set = set(&[&shadows[..], &[everything]].concat());
    // Stricter rule 3: plaintext stays what it was.
    assert!(!set.uses_identity(8080));
    assert!(
        call()
            .on(|connection, _| set.could_allow(connection))
            .is_ok()
    );
}

#[test]
fn stricter_03_a_dry_run_policy_about_identity_would_deny_plaintext() {
    let nobody = source(Source {
        not_principals: strings(&["cluster.local/ns/shop/sa/web"]),
        ..Source::default()
    });
    let everything = policy(Action::Allow, "all", vec![Rule::default()]);
    let would_allow = |shadow, peer| {
        let set = set(&[everything.clone(), shadow]);
        let call = Call { peer, ..call() };
        call.on(|connection, request| set.decide(connection, request))
            .would_allow
    };
    let dry = |action| dry_run(action, "dry", vec![nobody.clone()]);
    let web = Some("spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(would_allow(dry(Action::Allow), web), Some(true));
    assert_eq!(would_allow(dry(Action::Allow), None), Some(false));
    let audit = stated(Action::Audit, "u", false, vec![nobody.clone()]);
    assert_eq!(would_allow(audit, None), None);
}
