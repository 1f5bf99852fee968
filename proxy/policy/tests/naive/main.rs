//! The engine against an evaluator written straight from resources.md, on inputs that collide often.

#![allow(clippy::unwrap_used)]

mod evaluator;
mod generate;

use std::collections::BTreeMap;
use std::sync::Arc;

use kith_policy::{
    Action, EncodedSlash, PolicySet, Reason, ValidPolicy, Verdict, normalise_target,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use generate::{Call, Caller};

fn compile(world: &generate::World) -> PolicySet {
    let policies: Vec<_> = world
        .policies
        .iter()
        .map(|policy| {
            Arc::new(ValidPolicy::new(policy.clone()).unwrap_or_else(|errors| panic!("{errors:?}")))
        })
        .collect();
    PolicySet::compile(&world.mesh, "7", &policies)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_decides_like_the_naive_evaluator(
        world in generate::world(),
        callers in prop::collection::vec(generate::caller(), 3),
        calls in prop::collection::vec(prop::option::weighted(0.8, generate::call()), 3),
    ) {
        let set = compile(&world);
        for caller in &callers {
            for call in &calls {
                let decision = set.decide(&caller.connection(), call.as_ref().map(Call::request).as_ref());
                let expected = evaluator::decide(&world.mesh, &world.policies, caller, call.as_ref());
                let got = (decision.reason, decision.policy.as_deref().map(str::to_owned), decision.rule);
                prop_assert_eq!(&got, &expected, "{:#?}\n{:?}\n{:?}", world, caller, call);
                prop_assert_eq!(
                    decision.allow,
                    matches!(decision.reason, Reason::AllowedByRule | Reason::AllowedByDefault)
                );
                prop_assert_eq!(
                    decision.nearest.is_some(),
                    matches!(decision.reason, Reason::NoAllowPolicyMatches | Reason::TokenMissing)
                );
                prop_assert_eq!(&*decision.revision, "7");
            }
        }
    }

    #[test]
    fn shadows_tell_what_the_naive_evaluator_tells(
        world in generate::world(),
        callers in prop::collection::vec(generate::caller(), 3),
        calls in prop::collection::vec(prop::option::weighted(0.8, generate::call()), 3),
    ) {
        let set = compile(&world);
        for (caller, call) in callers.iter().flat_map(|caller| calls.iter().map(move |call| (caller, call))) {
            let decision = set.decide(&caller.connection(), call.as_ref().map(Call::request).as_ref());
            let expected = evaluator::shadows(&world.mesh, &world.policies, caller, call.as_ref());
            let shown = format!("{world:#?}\n{caller:?}\n{call:?}\n{decision:?}");
            prop_assert_eq!(decision.would_allow, expected.would_allow, "{}", shown);
            let told: Vec<_> = decision
                .shadow
                .iter()
                .filter_map(|shadow| Some((shadow.policy.to_string(), shadow.rule?, shadow.verdict)))
                .collect();
            prop_assert_eq!(&told, &expected.told, "{}", shown);
            let missed: Vec<_> = decision.shadow.iter().filter(|shadow| shadow.rule.is_none()).collect();
            prop_assert_eq!(missed.len(), usize::from(!expected.missed.is_empty()), "{}", shown);
            for shadow in missed {
                prop_assert!(shadow.verdict == Verdict::Deny && expected.missed.contains(&shadow.policy.to_string()), "{}", shown);
            }
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_explanation_adds_up_to_the_decision(
        world in generate::world(),
        caller in generate::caller(),
        call in prop::option::weighted(0.8, generate::call()),
    ) {
        let set = compile(&world);
        let request = call.as_ref().map(Call::request);
        let explanation = set.explain(&caller.connection(), request.as_ref());
        prop_assert_eq!(&explanation.decision, &set.decide(&caller.connection(), request.as_ref()));
        prop_assert_eq!(explanation.policies.len(), world.policies.len());
        for policy in &explanation.policies {
            prop_assert_eq!(policy.matches, policy.rules.iter().any(|rule| rule.matches));
            for rule in &policy.rules {
                let any = |alternatives: &Vec<Vec<kith_policy::ExplainedClause>>| {
                    alternatives.is_empty() || alternatives.iter().any(|clauses| clauses.iter().all(|clause| clause.holds))
                };
                let adds_up = !rule.out_of_place
                    && any(&rule.from)
                    && any(&rule.to)
                    && rule.when.iter().all(|clause| clause.holds);
                prop_assert_eq!(rule.matches, adds_up, "{:#?}", rule);
            }
        }
        let matching = |action| {
            explanation
                .policies
                .iter()
                .find(|policy| policy.matches && policy.action == action && !policy.dry_run)
                .map(|policy| policy.policy.clone())
        };
        let expected = match explanation.decision.reason {
            Reason::DeniedByRule => matching(Action::Deny),
            Reason::AllowedByRule => matching(Action::Allow),
            _ => None,
        };
        prop_assert_eq!(&explanation.decision.policy, &expected);
    }

    #[test]
    fn what_is_said_never_to_match_never_matches(
        world in generate::world(),
        callers in prop::collection::vec(generate::caller(), 4),
        calls in prop::collection::vec(prop::option::weighted(0.8, generate::call()), 6),
    ) {
        for policy in &world.policies {
            let valid = ValidPolicy::new(policy.clone()).unwrap();
            for warning in valid.contradictions(&world.mesh) {
                for (caller, call) in callers.iter().flat_map(|caller| calls.iter().map(move |call| (caller, call))) {
                    let matched = evaluator::part_matches(&world.mesh, policy, &warning.field, caller, call.as_ref());
                    prop_assert!(!matched, "{:?}\n{:#?}\n{:?}\n{:?}", warning, policy, caller, call);
                }
            }
        }
    }

    #[test]
    fn an_allow_rule_said_to_be_shadowed_never_allows(
        world in generate::overlapping_world(),
        callers in prop::collection::vec(generate::caller(), 4),
        calls in prop::collection::vec(prop::option::weighted(0.8, generate::call()), 6),
    ) {
        let valid: Vec<_> = world.policies.iter().map(|policy| ValidPolicy::new(policy.clone()).unwrap()).collect();
        for (allow, stated) in valid.iter().zip(&world.policies) {
            for deny in &valid {
                for rule in 0..allow.rule_count() {
                    let Some(by) = allow.shadowed_by(rule, deny, &world.mesh) else { continue };
                    let denying = &world.policies[valid.iter().position(|policy| std::ptr::eq(policy, deny)).unwrap()];
                    for (caller, call) in callers.iter().flat_map(|caller| calls.iter().map(move |call| (caller, call))) {
                        let matches = |policy, rule| evaluator::rule_matches(&world.mesh, policy, rule, caller, call.as_ref());
                        prop_assert!(
                            !matches(stated, rule) || matches(denying, by),
                            "{:#?}\n{:#?}\n{:?}\n{:?}", stated.rules[rule], denying.rules[by], caller, call
                        );
                    }
                }
            }
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_connection_that_could_not_be_allowed_never_is(
        world in generate::world(),
        caller in generate::caller(),
        calls in prop::collection::vec(generate::call(), 12),
        remotes in prop::collection::vec(generate::address(), 4),
    ) {
        let set = compile(&world);
        if let Err(denial) = set.could_allow(&caller.connection()) {
            prop_assert!(!denial.allow);
            for call in &calls {
                for &remote in &remotes {
                    let caller = Caller { remote, ..caller.clone() };
                    let decision = set.decide(&caller.connection(), Some(&call.request()));
                    prop_assert!(!decision.allow, "{:#?}\n{:?}\n{:?}\n{:?}", world, caller, call, decision);
                }
            }
        }
    }

    #[test]
    fn stricter_03_identity_is_used_exactly_on_the_ports_where_such_a_rule_can_match(
        world in generate::world(),
    ) {
        let set = compile(&world);
        for port in generate::PORTS {
            prop_assert_eq!(set.uses_identity(port), evaluator::uses_identity(&world.policies, port), "{} {:#?}", port, world);
        }
    }

    #[test]
    fn row_01_normalisation_is_idempotent_and_leaves_no_tricks(
        target in generate::target(),
        slash in prop::sample::select(vec![EncodedSlash::Refuse, EncodedSlash::Keep, EncodedSlash::Decode]),
    ) {
        if let Ok(once) = normalise_target("GET", target.as_bytes(), slash) {
            let path = &*once.path;
            prop_assert!(path.starts_with('/'));
            for trick in ["//", "/./", "/../", "\\", "/.;", "/..;", "?", "#", "%00", "%2e", "%2E", "%2f", "%5c"] {
                prop_assert!(!path.contains(trick), "{} in {} from {}", trick, path, target);
            }
            prop_assert!(!path.ends_with("/.") && !path.ends_with("/.."), "{} from {}", path, target);
            let twice = normalise_target("GET", path.as_bytes(), slash);
            prop_assert_eq!(twice.as_ref().map(|twice| &*twice.path), Ok(path), "{}", target);
            let rest = target.split_once('?').map(|(_, query)| query);
            prop_assert_eq!(once.query, rest);
        }
    }

    #[test]
    fn any_bytes_are_normalised_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..40), method in "GET|OPTIONS|CONNECT") {
        if let Ok(target) = normalise_target(&method, &bytes, EncodedSlash::Decode) {
            prop_assert!(target.path.is_ascii());
        }
    }
}

/// What the comparison above is worth: nothing, if one outcome hid the others.
#[test]
fn the_generators_reach_every_outcome() {
    let mut runner = TestRunner::deterministic();
    let mut counts = BTreeMap::new();
    let (mut closable, total) = (0, 2_000);
    let (mut contradictions, mut shadowed) = (0, 0);
    for _ in 0..total {
        let (world, caller, call) = (
            generate::world(),
            generate::caller(),
            prop::option::weighted(0.8, generate::call()),
        )
            .new_tree(&mut runner)
            .unwrap()
            .current();
        let set = compile(&world);
        let decision = set.decide(
            &caller.connection(),
            call.as_ref().map(Call::request).as_ref(),
        );
        *counts.entry(decision.reason).or_insert(0) += 1;
        for policy in &world.policies {
            let valid = ValidPolicy::new(policy.clone()).unwrap();
            contradictions += valid.contradictions(&world.mesh).len();
        }
        let overlapping = generate::overlapping_world()
            .new_tree(&mut runner)
            .unwrap()
            .current();
        let (allow, deny) = (&overlapping.policies[0], &overlapping.policies[1]);
        let [allow, deny] = [allow, deny].map(|policy| ValidPolicy::new(policy.clone()).unwrap());
        shadowed += (0..allow.rule_count())
            .filter(|&rule| allow.shadowed_by(rule, &deny, &overlapping.mesh).is_some())
            .count();
        closable += i32::from(set.could_allow(&caller.connection()).is_err());
    }
    assert_eq!(counts.len(), 6, "{counts:?}");
    assert!(
        counts.values().all(|&count| count >= total / 100),
        "{counts:?}"
    );
    assert!(
        (total / 10..total * 9 / 10).contains(&closable),
        "{closable}"
    );
    println!(
        "{counts:?}, could not be allowed: {closable}, contradictions: {contradictions}, shadowed: {shadowed}"
    );
    assert!(contradictions > total as usize / 20 && shadowed > total as usize / 20);
}
