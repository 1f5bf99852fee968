//! What 10,000 policies of ten rules each take to load, and to keep. `cargo bench -p kith-policy --bench load`.

use std::sync::Arc;
use std::time::Instant;

use kith_policy::{Policy, PolicySet, ValidPolicy};
use policies::{RULES, mesh, policy};

#[path = "policies/ten_rules.rs"]
mod policies;

const POLICIES: usize = 10_000;

fn main() {
    // As in a sidecar: one after the other, each from a message that is gone afterwards.
    let before = resident();
    let valid: Vec<_> = (0..POLICIES).map(|number| check(policy(number))).collect();
    let set = PolicySet::compile(&mesh(), "1", &valid);
    drop(valid);
    let after = resident();
    drop(set);

    let stated: Vec<_> = (0..POLICIES).map(policy).collect();
    let start = Instant::now();
    let valid: Vec<_> = stated.into_iter().map(check).collect();
    let validated = start.elapsed();
    let start = Instant::now();
    let set = PolicySet::compile(&mesh(), "1", &valid);
    let compiled = start.elapsed();
    drop(set);
    println!(
        "{POLICIES} policies of {RULES} rules: validated in {validated:.0?}, compiled in {compiled:.0?}; \
         {} KiB resident for them",
        after - before
    );
}

fn check(policy: Policy) -> Arc<ValidPolicy> {
    match ValidPolicy::new(policy) {
        Ok(policy) => Arc::new(policy),
        Err(errors) => panic!("{errors:?}"),
    }
}

/// KiB; 0 where the kernel does not tell.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().split(' ').next()?.parse().ok())
        .unwrap_or(0)
}
