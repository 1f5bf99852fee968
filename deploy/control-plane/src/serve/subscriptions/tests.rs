use std::path::Path;

use kith_xds_client::api::google::rpc;

use super::changes::MAX_RESPONSE_BYTES;
use super::*;
use crate::catalog::Changed;
use crate::interest::Interest;
use crate::jwks::KeySets;
use crate::resolve::resolve;
use crate::yaml::load_str;

const NODE: &str = "shop/orders-1";

/// A mesh of two workloads; `policies` are `name method`, all selecting `shop/orders-1`.
fn catalog(policies: &[(&str, &str)], addresses: &[&str]) -> Catalog {
    let mut text = "
apiVersion: kith.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {trustDomain: example.org}
---
apiVersion: kith.dev/v1alpha1
kind: Workload
metadata: {namespace: shop, name: orders-1, labels: {app: orders}}
spec: {serviceAccount: orders, addresses: [10.0.0.1]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: web}
spec: {selector: {matchLabels: {app: web}}}
"
    .to_owned();
    for (name, method) in policies {
        text += &format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{namespace: shop, name: {name}}}\nspec: {{selector: {{matchLabels: {{app: orders}}}}, rules: [{{to: [{{operation: {{methods: [{method}]}}}}]}}]}}\n"
        );
    }
    for (i, address) in addresses.iter().enumerate() {
        text += &format!(
            "---\napiVersion: kith.dev/v1alpha1\nkind: Workload\nmetadata: {{namespace: other, name: w{i}}}\nspec: {{mesh: false, addresses: [{address}]}}\n"
        );
    }
    resolve(
        &load_str(Path::new("f.yaml"), &text).unwrap(),
        &KeySets::default(),
    )
    .unwrap()
    .catalog
}

fn subscribe(kind: Kind, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.type_url().into(),
        resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

fn answer(kind: Kind, nonce: &str, nack: Option<&str>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.type_url().into(),
        response_nonce: nonce.into(),
        error_detail: nack.map(|message| rpc::Status {
            code: 3,
            message: message.into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A client as a test drives it: what it is sent, in short.
struct Client {
    subscriptions: Subscriptions,
    start: Instant,
}

impl Client {
    fn new() -> Self {
        Self {
            subscriptions: Subscriptions::new(NODE.into()),
            start: Instant::now(),
        }
    }

    fn asks(&mut self, catalog: &Catalog, request: DeltaDiscoveryRequest) -> String {
        let answer = self
            .subscriptions
            .on_request(catalog, request, self.start)
            .unwrap();
        short(&answer.responses)
    }

    fn sees(&mut self, catalog: &Catalog) -> String {
        // Everything it has: what a publication may name, and no more than that.
        let addresses = self.subscriptions.kinds.get(&Kind::Address);
        let pending = Pending {
            node: true,
            addresses: addresses
                .into_iter()
                .flat_map(HashMap::keys)
                .cloned()
                .collect(),
            revocations: true,
        };
        short(&(self.subscriptions).on_change_of(catalog, &pending, self.start))
    }

    fn in_force(&self) -> Option<Version> {
        self.subscriptions.revision_in_force()
    }
}

fn short(responses: &[DeltaDiscoveryResponse]) -> String {
    let one = |response: &DeltaDiscoveryResponse| {
        let kind = Kind::from_type_url(&response.type_url).map_or("?", Kind::name);
        let added = response
            .resources
            .iter()
            .map(|resource| format!(" +{}", resource.name));
        let removed = response
            .removed_resources
            .iter()
            .map(|name| format!(" -{name}"));
        format!(
            "{}:{kind}{}",
            response.nonce,
            added.chain(removed).collect::<String>()
        )
    };
    responses.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn revision(catalog: &Catalog) -> Version {
    catalog.node(NODE).unwrap().revision
}

#[test]
fn a_revision_is_in_force_once_its_configuration_and_all_its_policies_are_acknowledged() {
    let catalog = catalog(&[("a", "GET"), ("b", "GET")], &[]);
    let mut client = Client::new();
    assert_eq!(
        client.asks(&catalog, subscribe(Kind::WorkloadConfig, &[NODE])),
        "1:WorkloadConfig +shop/orders-1"
    );
    let policies = subscribe(Kind::AuthorizationPolicy, &["shop/a", "shop/b"]);
    assert_eq!(
        client.asks(&catalog, policies),
        "2:AuthorizationPolicy +shop/a +shop/b"
    );
    assert_eq!(
        client.asks(&catalog, answer(Kind::WorkloadConfig, "1", None)),
        ""
    );
    assert_eq!(client.in_force(), None);
    assert!(client.subscriptions.behind_since().is_some());
    assert_eq!(
        client.asks(&catalog, answer(Kind::AuthorizationPolicy, "2", None)),
        ""
    );
    assert_eq!(client.in_force(), Some(revision(&catalog)));
    assert!(client.subscriptions.behind_since().is_none());
}

#[test]
fn a_change_sends_policies_then_the_configuration_then_removals() {
    let before = catalog(&[("a", "GET"), ("b", "GET")], &["10.0.1.1", "10.0.1.2"]);
    let mut client = Client::new();
    client.asks(&before, subscribe(Kind::WorkloadConfig, &[NODE]));
    client.asks(
        &before,
        subscribe(Kind::AuthorizationPolicy, &["shop/a", "shop/b"]),
    );
    client.asks(
        &before,
        subscribe(Kind::Address, &["10.0.1.1", "10.0.1.2", "10.0.1.3"]),
    );
    let after = catalog(&[("a", "PUT"), ("c", "GET")], &["10.0.1.1", "10.0.1.3"]);
    assert_eq!(
        client.sees(&after),
        "4:AuthorizationPolicy +shop/a, 5:WorkloadConfig +shop/orders-1, 6:Address +10.0.1.3, \
         7:AuthorizationPolicy -shop/b, 8:Address -10.0.1.2"
    );
    // Said once.
    assert_eq!(client.sees(&after), "");
    assert_eq!(
        client.asks(&after, subscribe(Kind::AuthorizationPolicy, &["shop/c"])),
        "9:AuthorizationPolicy +shop/c"
    );
}

#[test]
fn a_workload_that_is_gone_loses_its_resources() {
    let before = catalog(&[("a", "GET")], &[]);
    let mut client = Client::new();
    client.asks(&before, subscribe(Kind::WorkloadConfig, &[NODE]));
    client.asks(&before, subscribe(Kind::AuthorizationPolicy, &["shop/a"]));
    let mut after = catalog(&[("a", "GET")], &[]);
    after.nodes = Default::default();
    assert_eq!(
        client.sees(&after),
        "3:AuthorizationPolicy -shop/a, 4:WorkloadConfig -shop/orders-1"
    );
}

#[test]
fn what_does_not_exist_for_the_node_is_answered_with_a_removal() {
    let catalog = catalog(&[], &[]);
    let mut client = Client::new();
    assert_eq!(
        client.asks(&catalog, subscribe(Kind::WorkloadConfig, &["shop/web-1"])),
        "1:WorkloadConfig -shop/web-1"
    );
    let policies = subscribe(Kind::AuthorizationPolicy, &["shop/web", "shop/none"]);
    assert_eq!(
        client.asks(&catalog, policies),
        "2:AuthorizationPolicy -shop/none -shop/web"
    );
    let addresses = subscribe(Kind::Address, &["10.0.0.1", "10.9.9.9"]);
    assert_eq!(
        client.asks(&catalog, addresses),
        "3:Address +10.0.0.1 -10.9.9.9"
    );
    assert_eq!(
        client.asks(&catalog, subscribe(Kind::RevocationList, &["mesh"])),
        "4:RevocationList +mesh"
    );
    // Asked again, told again: a client does that when it forgot.
    assert_eq!(
        client.asks(&catalog, subscribe(Kind::Address, &["10.9.9.9"])),
        "5:Address -10.9.9.9"
    );
}

#[test]
fn initial_versions_are_not_sent_again_and_count_as_in_force() {
    let catalog = catalog(&[("a", "GET"), ("b", "GET")], &[]);
    let version = |kind, name| catalog.find(NODE, kind, name).unwrap().version().to_owned();
    let mut client = Client::new();
    let mut request = subscribe(Kind::WorkloadConfig, &[NODE]);
    request.initial_resource_versions =
        [(NODE.to_owned(), version(Kind::WorkloadConfig, NODE))].into();
    assert_eq!(client.asks(&catalog, request), "");
    let mut request = subscribe(
        Kind::AuthorizationPolicy,
        &["shop/a", "shop/b", "shop/gone"],
    );
    let held = [
        ("shop/a", version(Kind::AuthorizationPolicy, "shop/a")),
        ("shop/b", "old".into()),
        ("shop/gone", "old".into()),
    ];
    request.initial_resource_versions = held
        .map(|(name, version)| (name.to_owned(), version))
        .into();
    assert_eq!(
        client.asks(&catalog, request.clone()),
        "1:AuthorizationPolicy +shop/b -shop/gone"
    );
    assert_eq!(client.in_force(), None);
    client.asks(&catalog, answer(Kind::AuthorizationPolicy, "1", None));
    assert_eq!(client.in_force(), Some(revision(&catalog)));
    // Later in the stream they mean nothing.
    assert_eq!(
        client.asks(&catalog, request),
        "2:AuthorizationPolicy +shop/a +shop/b -shop/gone"
    );
}

#[test]
fn a_refused_response_is_sent_again_one_by_one_and_stays_behind_until_made_good() {
    let bad = catalog(&[("a", "GET"), ("b", "GET")], &[]);
    let mut client = Client::new();
    client.asks(&bad, subscribe(Kind::WorkloadConfig, &[NODE]));
    client.asks(&bad, answer(Kind::WorkloadConfig, "1", None));
    client.asks(
        &bad,
        subscribe(Kind::AuthorizationPolicy, &["shop/a", "shop/b"]),
    );
    let nack = client.subscriptions.on_request(
        &bad,
        answer(Kind::AuthorizationPolicy, "2", Some("b: no")),
        client.start,
    );
    let nack = nack.unwrap();
    assert_eq!(
        nack.nack,
        Some(Nack {
            kind: Kind::AuthorizationPolicy,
            message: "b: no".into()
        })
    );
    assert_eq!(
        short(&nack.responses),
        "3:AuthorizationPolicy +shop/a, 4:AuthorizationPolicy +shop/b"
    );
    client.asks(&bad, answer(Kind::AuthorizationPolicy, "3", None));
    // A single resource that is refused is not repeated, and nothing more is on its way.
    let policies = [Kind::WorkloadConfig, Kind::AuthorizationPolicy];
    assert_eq!(client.subscriptions.refusal(&policies), None);
    assert_eq!(
        client.asks(&bad, answer(Kind::AuthorizationPolicy, "4", Some("b: no"))),
        ""
    );
    let refusal = |client: &Client| {
        let refusal = client.subscriptions.refusal(&policies);
        refusal.map(|(kind, why)| format!("{kind} {why}"))
    };
    assert_eq!(refusal(&client).unwrap(), "AuthorizationPolicy b: no");
    // Of another kind.
    assert_eq!(client.subscriptions.refusal(&[Kind::RevocationList]), None);
    client.asks(&bad, subscribe(Kind::Address, &["10.0.1.1"]));
    client.asks(&bad, answer(Kind::Address, "5", Some("never")));
    assert_eq!(refusal(&client).unwrap(), "AuthorizationPolicy b: no");
    let address = client.subscriptions.refusal(&[Kind::Address]);
    assert_eq!(address.unwrap(), (Kind::Address, "never".into()));
    let mut gone = answer(Kind::Address, "", None);
    gone.resource_names_unsubscribe = vec!["10.0.1.1".into()];
    client.asks(&bad, gone);
    assert_eq!(client.in_force(), None);
    assert!(client.subscriptions.behind_since().is_some());

    let good = catalog(&[("a", "GET"), ("b", "PUT")], &[]);
    assert_eq!(
        client.sees(&good),
        "6:AuthorizationPolicy +shop/b, 7:WorkloadConfig +shop/orders-1"
    );
    // What it refused is not what it has to answer now.
    assert_eq!(refusal(&client), None);
    client.asks(&good, answer(Kind::AuthorizationPolicy, "6", None));
    client.asks(&good, answer(Kind::WorkloadConfig, "7", None));
    assert_eq!(client.in_force(), Some(revision(&good)));
    assert!(client.subscriptions.behind_since().is_none());
}

#[test]
fn answers_may_come_in_any_order() {
    let (one, two) = (catalog(&[("a", "GET")], &[]), catalog(&[("a", "PUT")], &[]));
    let mut client = Client::new();
    client.asks(&one, subscribe(Kind::WorkloadConfig, &[NODE]));
    client.asks(&one, subscribe(Kind::AuthorizationPolicy, &["shop/a"]));
    assert_eq!(
        client.sees(&two),
        "3:AuthorizationPolicy +shop/a, 4:WorkloadConfig +shop/orders-1"
    );
    for nonce in ["4", "3", "2", "1", "99"] {
        client.asks(&two, answer(Kind::WorkloadConfig, nonce, None));
    }
    assert_eq!(client.in_force(), Some(revision(&two)));
    assert!(client.subscriptions.behind_since().is_none());
}

#[test]
fn what_is_unsubscribed_is_no_longer_sent() {
    let before = catalog(&[("a", "GET")], &["10.0.1.1"]);
    let mut client = Client::new();
    client.asks(&before, subscribe(Kind::Address, &["10.0.1.1"]));
    let mut request = answer(Kind::Address, "1", None);
    request.resource_names_unsubscribe = vec!["10.0.1.1".into()];
    assert_eq!(client.asks(&before, request), "");
    assert_eq!(client.sees(&catalog(&[], &[])), "");
    assert_eq!(client.subscriptions.counts().of(Kind::Address), Some(0));
}

#[test]
fn unknown_kinds_are_answered_and_wildcards_refused() {
    let catalog = catalog(&[], &[]);
    let mut client = Client::new();
    let mut request = subscribe(Kind::Address, &["x"]);
    request.type_url = "type.googleapis.com/kith.mesh.v9.Next".into();
    assert_eq!(client.asks(&catalog, request), "1:? -x");
    for name in ["*".to_owned(), "x".repeat(MAX_NAME_BYTES + 1)] {
        let refused = client.subscriptions.on_request(
            &catalog,
            subscribe(Kind::Address, &[&name]),
            client.start,
        );
        assert_eq!(refused.unwrap_err().code(), tonic::Code::InvalidArgument);
    }
}

#[test]
fn large_answers_are_split_below_what_a_receiver_accepts() {
    let addresses: Vec<String> = (0..12_000)
        .map(|i| format!("10.1.{}.{}", i / 250, i % 250 + 1))
        .collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let catalog = catalog(&[], &addresses);
    let mut client = Client::new();
    let request = subscribe(Kind::Address, &addresses);
    let answer = client
        .subscriptions
        .on_request(&catalog, request, client.start)
        .unwrap();
    assert!(answer.responses.len() > 1);
    let sizes = answer.responses.iter().map(prost::Message::encoded_len);
    assert!(
        sizes.clone().all(|size| size < 2 * MAX_RESPONSE_BYTES),
        "{:?}",
        sizes.collect::<Vec<_>>()
    );
    assert_eq!(
        answer
            .responses
            .iter()
            .map(|response| response.resources.len())
            .sum::<usize>(),
        addresses.len()
    );
}

#[test]
fn a_client_that_answers_nothing_is_given_up_in_the_end() {
    let catalog = catalog(&[], &[]);
    let mut client = Client::new();
    for _ in 0..MAX_OUTSTANDING {
        client.asks(&catalog, subscribe(Kind::Address, &["10.0.0.1"]));
    }
    assert!(client.subscriptions.check_answers().is_ok());
    client.asks(&catalog, subscribe(Kind::Address, &["10.0.0.1"]));
    let given_up = client.subscriptions.check_answers().unwrap_err();
    assert_eq!(given_up.code(), tonic::Code::ResourceExhausted);
}

/// One client is told only of the names that changed and that it has asked for, the other looks at everything it has after
/// every change: both must hold the same.
#[test]
fn looking_at_what_changed_is_as_good_as_looking_at_everything() {
    let mut random = fastrand::Rng::with_seed(5);
    let interest = Arc::new(Interest::default());
    let mut listener = interest.listen(NODE);
    listener.set_revocations(true);
    let (mut told, mut looks) = (Client::new(), Client::new());
    let addresses = ["10.0.1.1", "10.0.1.2", "10.0.1.3", "10.0.1.4"];
    let policies = ["a", "b", "c"];
    let mut before = catalog(&[], &[]);
    let mut sent = 0;
    for _ in 0..300 {
        let request = match random.u8(..4) {
            0 => subscribe(Kind::WorkloadConfig, &[NODE]),
            1 => subscribe(
                Kind::AuthorizationPolicy,
                &[["shop/a", "shop/b", "shop/c"][random.usize(..3)]],
            ),
            2 => {
                let name = addresses[random.usize(..4)];
                listener.add_addresses([name]);
                subscribe(Kind::Address, &[name])
            }
            _ => {
                let name = addresses[random.usize(..4)];
                listener.remove_addresses([name]);
                DeltaDiscoveryRequest {
                    resource_names_unsubscribe: vec![name.into()],
                    ..subscribe(Kind::Address, &[])
                }
            }
        };
        let answers = [&mut told, &mut looks].map(|client| client.asks(&before, request.clone()));
        assert_eq!(answers[0], answers[1]);

        let mut chosen = Vec::new();
        for name in policies {
            match random.u8(..3) {
                0 => {}
                1 => chosen.push((name, "GET")),
                _ => chosen.push((name, "PUT")),
            }
        }
        let addresses: Vec<&str> = (addresses.iter().copied())
            .filter(|_| random.bool())
            .collect();
        let after = catalog(&chosen, &addresses);
        interest.publish(&Changed::between(&before, &after), false);
        let pending = listener.take();
        let of_changed = short(&(told.subscriptions).on_change_of(&after, &pending, told.start));
        assert_eq!(of_changed, looks.sees(&after));
        sent += usize::from(!of_changed.is_empty());
        before = after;
    }
    assert!(sent > 100, "{sent}");
}
