//! The same policies in Kith and in real Envoy's RBAC filters, of HTTP and of TCP, asked about the same generated
//! requests.
//!
//! Envoy gets every policy in two readings ([`rbac`]). In Istio's, Kith may differ only by the stricter rules of
//! resources.md, each difference explained by one of them ([`stricter`]) and counted. In the stricter reading, those
//! rules are said to Envoy too, all but 4 and 6, and nothing else may differ. In both, Kith never allows what Envoy
//! refuses.
//!
//! Every run is another one; `KITH_DIFFERENTIAL_SEED` repeats the one that failed.

mod client;
mod counts;
mod envoy;
mod generate;
mod kith;
mod matcher;
mod rbac;
mod stricter;
mod token;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ::kith::lab::{Lab, LabOptions, WorkloadSpec};
use fastrand::Rng;
use kith_certs::authority::{Authority, AuthorityConfig};
use kith_policy::{Connection, Decision, Principal};
use rustls::ClientConfig;

use client::Client;
use counts::Counts;
use generate::Call;
use kith::Kith;
use rbac::{Reading, Translator};
use token::Token;

/// Sets of policies in one run; each is asked in both readings.
const SETS: u8 = 120;

/// What is decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filter {
    Http,
    Tcp,
}

/// One set of policies in one reading, behind a listener of its own.
struct Court {
    kith: Arc<Kith>,
    reading: Reading,
    addresses: [SocketAddr; 3],
}

/// A caller: who, and how its TLS says so.
#[derive(Clone)]
struct Peer(Option<Principal>, Arc<ClientConfig>);

/// Who calls, and with what.
struct Callers {
    peers: Vec<Peer>,
    tokens: Vec<Arc<Token>>,
}

/// Both judges' decision on one request or connection.
struct Verdict {
    reading: Reading,
    kith: bool,
    envoy: bool,
    /// Numbers of the stricter rules that can explain a difference.
    rules: BTreeSet<&'static str>,
    explained: bool,
    /// What the rule that decided in Kith asks about.
    fields: Vec<&'static str>,
    /// All there is to know of a difference.
    told: Option<String>,
}

impl Verdict {
    /// Kith allows what Envoy refuses.
    fn is_laxer(&self) -> bool {
        self.kith && !self.envoy
    }
}

#[tokio::test]
async fn kith_and_envoys_http_filter_decide_alike() {
    let counts = run(Filter::Http).await;
    assert!(counts.decisions >= 10_000, "{counts}");
    counts.covers(&["1", "2", "4", "6", "7", "8", "9"], 5);
}

#[tokio::test]
async fn kith_and_envoys_network_filter_decide_alike() {
    let counts = run(Filter::Tcp).await;
    assert!(counts.decisions >= 5_000, "{counts}");
    counts.covers(&["1", "2", "8"], 0);
}

async fn run(filter: Filter) -> Counts {
    let seed = match std::env::var("KITH_DIFFERENTIAL_SEED") {
        Ok(seed) => seed.parse().expect("KITH_DIFFERENTIAL_SEED is a number"),
        Err(_) => fastrand::u64(..),
    };
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let lab = Lab::bare(LabOptions::default()).unwrap();
    let spec = WorkloadSpec::new("shop", "orders").without_sidecar();
    let workload = lab.workload(spec).await.unwrap();

    let config = AuthorityConfig::new(generate::TRUST_DOMAIN.parse().unwrap());
    let authority = Authority::start(config).unwrap();
    // One root signs for all trust domains: here Envoy only reads names.
    let issue = |id: &str| {
        let ttl = Duration::from_secs(3600);
        authority.issue(&id.parse().unwrap(), ttl).unwrap()
    };
    let own = issue("spiffe://example.org/ns/shop/sa/orders");
    let files = envoy::Files::write(workload.directory(), &own);
    let mut peers = vec![Peer(None, client::config(None))];
    for id in generate::PEERS {
        let principal = Principal::parse(id).unwrap();
        peers.push(Peer(Some(principal), client::config(Some(&issue(id)))));
    }

    let (keys, tokens) = token::all();
    let tokens: Vec<Arc<Token>> = tokens.into_iter().map(Arc::new).collect();

    let mut courts = Vec::new();
    for number in 0..SETS {
        let kith = Arc::new(Kith::load(generate::documents(&mut rng, number)));
        for reading in [Reading::Istio, Reading::Stricter] {
            courts.push(Court {
                kith: Arc::clone(&kith),
                reading,
                addresses: addresses(filter, reading, number),
            });
        }
    }
    let listeners = courts.iter().enumerate().map(|(number, court)| {
        let filters = court.filters(filter, &keys);
        envoy::listener(&format!("set-{number}"), &court.addresses, &filters, &files)
    });
    let all = courts.iter().flat_map(|court| court.addresses).collect();
    let _envoy = envoy::start(&workload, listeners.collect(), all).await;

    let callers = Callers { peers, tokens };
    let work = move || hear_all(filter, courts, callers, rng);
    let verdicts = workload.enter(work).await.unwrap();
    let counts = Counts::of(filter, &verdicts);
    let unexplained: Vec<&str> = verdicts
        .iter()
        .filter(|verdict| !verdict.explained)
        .filter_map(|verdict| verdict.told.as_deref())
        .collect();
    println!("{counts}");
    assert_eq!(
        counts.laxer,
        0,
        "seed {seed}: Kith allows what Envoy refuses, first:\n{}",
        verdicts
            .iter()
            .find(|verdict| verdict.is_laxer())
            .and_then(|verdict| verdict.told.as_deref())
            .unwrap_or_default()
    );
    assert!(
        unexplained.is_empty(),
        "seed {seed}: {} differences that no stricter rule explains; the first:\n{}\n{counts}",
        unexplained.len(),
        unexplained[0],
    );
    let least = counts.decisions / 10;
    assert!(
        counts.allowed > least && counts.denied > least,
        "seed {seed}: {counts}"
    );
    counts
}

/// A loopback address for each listener, with the two ports that policies know, and one of IPv6.
fn addresses(filter: Filter, reading: Reading, set: u8) -> [SocketAddr; 3] {
    let stricter = u8::from(reading == Reading::Stricter);
    let kind = if filter == Filter::Http { 10 } else { 12 } + stricter;
    let v4 = Ipv4Addr::new(127, kind, set, 1);
    let port = 10_000 + 2 * u16::from(set) + u16::from(stricter);
    [
        SocketAddr::from((v4, 8080)),
        SocketAddr::from((v4, 9090)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    ]
}

impl Court {
    fn filters(&self, filter: Filter, keys: &serde_json::Value) -> serde_json::Value {
        let translator = Translator {
            mesh: &self.kith.mesh,
            reading: self.reading,
            opaque: filter == Filter::Tcp,
        };
        let rules = translator.filters(&self.kith.policies);
        match filter {
            Filter::Http => envoy::http(&rules, self.kith.trusted_hops, keys),
            Filter::Tcp => envoy::tcp(&rules),
        }
    }

    /// One caller after another, each with a connection, and with requests on it.
    async fn hear(&self, filter: Filter, callers: &Callers, rng: &mut Rng) -> Vec<Verdict> {
        let Callers { peers, tokens } = callers;
        let mut verdicts = Vec::new();
        let connections = if filter == Filter::Http { 7 } else { 24 };
        for _ in 0..connections {
            // Nobody in particular is twice as frequent as anybody else.
            let Peer(principal, tls) = &peers[rng.usize(0..=peers.len()) % peers.len()];
            let to = self.addresses[[0, 0, 1, 1, 2][rng.usize(0..5)]];
            let source = match to.ip() {
                IpAddr::V4(_) => generate::SOURCES[rng.usize(0..generate::SOURCES.len())]
                    .parse()
                    .unwrap(),
                own @ IpAddr::V6(_) => own,
            };
            let sni = [
                None,
                Some(generate::SNIS[rng.usize(0..generate::SNIS.len())]),
            ][rng.usize(0..2)];
            let mut client = Client::connect(tls, source, to, sni).await.unwrap();
            let mut connection = Connection {
                peer: principal.as_ref(),
                source,
                remote: Some(source),
                destination: to,
                sni,
            };
            if filter == Filter::Tcp {
                let envoy = client.echoes().await.unwrap();
                verdicts.push(self.judge(&connection, None, envoy));
                continue;
            }
            for _ in 0..10 {
                let call = generate::call(rng, tokens);
                connection.remote = Some(generate::remote(&call, self.kith.trusted_hops, source));
                let envoy = client.allowed(&call).await.unwrap();
                verdicts.push(self.judge(&connection, Some(&call), envoy));
            }
        }
        verdicts
    }

    fn judge(&self, connection: &Connection<'_>, call: Option<&Call>, envoy: bool) -> Verdict {
        let decision = self.kith.decide(connection, call);
        let differ = decision.allow != envoy;
        let mut rules = BTreeSet::new();
        if differ {
            rules = stricter::rules(&self.kith, connection, call);
        }
        if self.reading == Reading::Stricter {
            rules.retain(|rule| matches!(*rule, "4" | "6"));
        }
        Verdict {
            reading: self.reading,
            kith: decision.allow,
            envoy,
            explained: !differ || !decision.allow && !rules.is_empty(),
            rules,
            fields: self
                .kith
                .rule(&decision)
                .map(counts::fields)
                .unwrap_or_default(),
            told: differ.then(|| self.tell(connection, call, &decision, envoy)),
        }
    }

    fn tell(
        &self,
        connection: &Connection<'_>,
        call: Option<&Call>,
        decision: &Decision,
        envoy: bool,
    ) -> String {
        format!(
            "{}\n{connection:#?}\n{call:#?}\nEnvoy, in the reading {:?}: {}\nKith: {decision:#?}",
            self.kith.yaml,
            self.reading,
            if envoy { "allow" } else { "deny" },
        )
    }
}

/// Eight courts at a time.
async fn hear_all(
    filter: Filter,
    courts: Vec<Court>,
    callers: Callers,
    mut rng: Rng,
) -> Vec<Verdict> {
    let callers = Arc::new(callers);
    let mut waiting: Vec<(Court, Rng)> = courts
        .into_iter()
        .map(|court| (court, rng.fork()))
        .collect();
    let mut hearings = tokio::task::JoinSet::new();
    let mut verdicts = Vec::new();
    loop {
        while hearings.len() < 8
            && let Some((court, mut rng)) = waiting.pop()
        {
            let callers = Arc::clone(&callers);
            hearings.spawn_local(async move { court.hear(filter, &callers, &mut rng).await });
        }
        match hearings.join_next().await {
            Some(heard) => verdicts.extend(heard.unwrap()),
            None => return verdicts,
        }
    }
}
