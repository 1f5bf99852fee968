//! What is served after each step, and what should be.

use super::*;

impl World {
    /// The same cluster, read by a control plane that starts now.
    fn read_at_once(&mut self) -> (Arc<Catalog>, Verdicts) {
        let mut changes: Vec<Change> = Vec::new();
        changes.extend(self.pods.iter().map(|(id, it)| pod(id, it)));
        changes.extend(self.services.iter().map(|(id, it)| service(id, it)));
        changes.extend(self.slices.iter().map(|(id, it)| slice(id, it)));
        changes.extend(self.accounts.iter().map(|(id, it)| account(id, it)));
        let documents = self.documents.iter();
        changes.extend(documents.map(|((kind, id), it)| document(*kind, id, it)));
        self.random.shuffle(&mut changes);
        let mut model = Model::new("cluster.local");
        for change in changes {
            model.take_in(change);
        }
        let outcome = model.settle(&KeySets::default());
        (outcome.catalog.unwrap().0, outcome.verdicts.unwrap())
    }

    pub(super) fn settle(&mut self) {
        let outcome = self.model.settle(&KeySets::default());
        if let Some(verdicts) = outcome.verdicts {
            self.said = verdicts;
        }
        let Some((catalog, changed)) = outcome.catalog else {
            return;
        };
        if let Some(before) = &self.served {
            let differing = Changed::between(before, &catalog);
            assert!(
                differing.nodes.is_subset(&changed.nodes),
                "{differing:?} {changed:?}"
            );
            assert!(
                differing.addresses.is_subset(&changed.addresses),
                "{differing:?} {changed:?}"
            );
            assert!(changed.revocations || !differing.revocations);
        }
        self.served = Some(catalog);
    }

    pub(super) fn compare(&mut self, step: usize) {
        let (expected, verdicts) = self.read_at_once();
        let served = self.served.clone().unwrap();
        let names = |it: &Catalog| -> Vec<_> {
            let mut names: Vec<_> = it.nodes().map(|(id, _)| id.to_owned()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&served), names(&expected), "step {step}");
        for (id, node) in served.nodes() {
            let other = expected.node(id).unwrap();
            if node != other {
                let of = |it: &Node| {
                    let config = api::WorkloadConfig::decode(it.config().content()).unwrap();
                    format!("{} {config:#?} {:?}", it.principal, it.authentications)
                };
                let (is, should) = (of(node), of(other));
                panic!("step {step}: {id} is {is} and should be {should}");
            }
        }
        let differing = Changed::between(&served, &expected);
        if let Some(name) = differing.addresses.iter().next() {
            let of = |it: &Catalog| {
                let content = it.addresses.get(name)?.content().to_vec();
                api::Address::decode(&*content).ok()
            };
            panic!(
                "step {step}: {name} is {:#?} and should be {:#?}",
                of(&served),
                of(&expected)
            );
        }
        assert_eq!(served.counts, expected.counts, "step {step}");
        assert!(*served == *expected, "step {step}");
        let problems = |it: &Verdicts| -> Vec<_> {
            let said = it.iter();
            said.map(|(key, verdict)| format!("{key}: {:?}", verdict.problems))
                .collect()
        };
        assert_eq!(problems(&self.said), problems(&verdicts), "step {step}");
    }
}
