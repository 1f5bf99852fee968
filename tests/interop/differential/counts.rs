//! What came of a run, in numbers, and whether it was worth anything.

use std::collections::BTreeMap;
use std::fmt;

use kith_policy::Rule;

use super::rbac::Reading;
use super::{Filter, Verdict, generate};

/// What a rule asks about, by the names of YAML.
pub(super) fn fields(rule: &Rule) -> Vec<&'static str> {
    let sources = rule.from.iter().flat_map(|s| {
        [
            ("principals", &s.principals),
            ("notPrincipals", &s.not_principals),
            ("namespaces", &s.namespaces),
            ("notNamespaces", &s.not_namespaces),
            ("serviceAccounts", &s.service_accounts),
            ("notServiceAccounts", &s.not_service_accounts),
            ("trustDomains", &s.trust_domains),
            ("notTrustDomains", &s.not_trust_domains),
            ("ipBlocks", &s.ip_blocks),
            ("notIpBlocks", &s.not_ip_blocks),
            ("remoteIpBlocks", &s.remote_ip_blocks),
            ("notRemoteIpBlocks", &s.not_remote_ip_blocks),
            ("requestPrincipals", &s.request_principals),
            ("notRequestPrincipals", &s.not_request_principals),
        ]
    });
    let operations = rule.to.iter().flat_map(|o| {
        [
            ("hosts", &o.hosts),
            ("notHosts", &o.not_hosts),
            ("ports", &o.ports),
            ("notPorts", &o.not_ports),
            ("methods", &o.methods),
            ("notMethods", &o.not_methods),
            ("paths", &o.paths),
            ("notPaths", &o.not_paths),
        ]
    });
    let said = sources
        .chain(operations)
        .filter(|(_, values)| !values.is_empty());
    let keys = rule.when.iter().filter_map(|condition| {
        generate::all_fields().find(|field| field.eq_ignore_ascii_case(&condition.key))
    });
    said.map(|(name, _)| name).chain(keys).collect()
}

/// What came of a run.
pub(super) struct Counts {
    filter: Filter,
    pub(super) decisions: usize,
    pub(super) allowed: usize,
    pub(super) denied: usize,
    /// In each reading: decisions, and differences.
    readings: [(usize, usize); 2],
    /// Differences that one rule alone explains, by its number; several rules together by all their numbers.
    by_rule: BTreeMap<String, usize>,
    /// Differences in which Kith allows: there must be none.
    pub(super) laxer: usize,
    fields: BTreeMap<&'static str, usize>,
}

impl Counts {
    pub(super) fn of(filter: Filter, verdicts: &[Verdict]) -> Self {
        let mut counts = Self {
            filter,
            decisions: verdicts.len(),
            allowed: verdicts.iter().filter(|verdict| verdict.kith).count(),
            denied: verdicts.iter().filter(|verdict| !verdict.kith).count(),
            readings: [(0, 0); 2],
            by_rule: BTreeMap::new(),
            laxer: verdicts.iter().filter(|verdict| verdict.is_laxer()).count(),
            fields: BTreeMap::new(),
        };
        for verdict in verdicts {
            let (asked, differ) =
                &mut counts.readings[usize::from(verdict.reading == Reading::Stricter)];
            *asked += 1;
            for field in &verdict.fields {
                *counts.fields.entry(field).or_default() += 1;
            }
            if verdict.kith != verdict.envoy {
                *differ += 1;
            }
            if verdict.envoy && !verdict.kith {
                let rules: Vec<_> = verdict.rules.iter().copied().collect();
                *counts.by_rule.entry(rules.join("+")).or_default() += 1;
            }
        }
        counts
    }
}

impl Counts {
    /// Every one of these rules was alone the cause of a difference, and every field decided at least `least` times.
    #[track_caller]
    pub(super) fn covers(&self, rules: &[&str], least: usize) {
        for rule in rules {
            assert!(
                self.by_rule.contains_key(*rule),
                "rule {rule} never mattered: {self}"
            );
        }
        let rare: Vec<_> = generate::all_fields()
            .filter(|field| self.fields.get(field).copied().unwrap_or_default() < least)
            .collect();
        assert!(rare.is_empty(), "{rare:?} hardly decided anything: {self}");
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [(istio, differ), (stricter, none)] = self.readings;
        writeln!(
            f,
            "{:?}: {} decisions, {} allowed, {} denied by Kith\n\
             as Istio reads them: {istio} decisions, {} alike, {differ} differ\n\
             with the stricter rules: {stricter} decisions, {} alike, {none} differ",
            self.filter,
            self.decisions,
            self.allowed,
            self.denied,
            istio - differ,
            stricter - none,
        )?;
        writeln!(
            f,
            "Kith denies, Istio's reading allows, by stricter rule: {:?}; the other way round: {}",
            self.by_rule, self.laxer
        )?;
        write!(f, "decided by rules that ask about: {:?}", self.fields)
    }
}
