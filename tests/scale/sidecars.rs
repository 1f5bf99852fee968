//! Sidecars as the control plane sees them: one stream each, which asks, acknowledges and remembers.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use kith_certs::authority::{Authority, AuthorityConfig, Entry};
use kith_certs::{
    Endpoint, IdentitySource, SourceConfig, SpiffeId, TrustDomain, client_config, server_name,
};
use kith_xds_client::Kind;
use kith_xds_client::api::envoy::config::core::v3::Node;
use kith_xds_client::api::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use kith_xds_client::api::mesh::WorkloadConfig;
use prost::Message;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

use crate::population::{NAMESPACES, Population, TRUST_DOMAIN, namespace, principal};
use crate::program::Folder;
use crate::{Arguments, Failure, START};

/// Services that each application calls.
pub(crate) const CALLED: usize = 5;
/// Sidecars that connect at a time.
const AT_ONCE: usize = 64;
const METHOD: &str = "https://kith-control/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// A response with resources came to a sidecar.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) sidecar: usize,
    pub(crate) kind: Kind,
    pub(crate) names: Vec<String>,
    pub(crate) at: Instant,
}

/// Everybody who is connected, and who asked for what.
pub(crate) struct Fleet {
    pub(crate) took: Duration,
    /// By address: which sidecars asked for it.
    pub(crate) asked: HashMap<String, BTreeSet<usize>>,
    pub(crate) size: usize,
    _identities: Vec<IdentitySource>,
}

/// The services that the application of a pod calls.
fn called(sidecar: usize, services: usize) -> impl Iterator<Item = usize> {
    (0..CALLED).map(move |call| (sidecar * 7 + call * 401 + 13) % services)
}

/// The Workload API of everybody, in this process.
pub(crate) fn authority(folder: &Folder) -> Result<Authority, Failure> {
    let mut config = AuthorityConfig::new(TrustDomain::parse(TRUST_DOMAIN)?);
    config.ttl_seconds = 24 * 3600;
    let control = format!("spiffe://{TRUST_DOMAIN}/ns/kith-system/sa/kith-control");
    let mut entries = vec![Entry::for_socket(
        SpiffeId::parse(&control)?,
        folder.path().join("control.sock"),
    )];
    for number in 0..NAMESPACES {
        let name = namespace(number);
        entries.push(Entry::for_socket(
            SpiffeId::parse(&principal(&name))?,
            folder.path().join(format!("{name}.sock")),
        ));
    }
    config.state_dir = Some(folder.path().to_path_buf());
    config.entries = entries;
    Ok(Authority::start(config)?)
}

/// Connects them all, and returns when each has everything it asked for.
pub(crate) async fn connect(
    folder: &Folder,
    population: &Population,
    arguments: &Arguments,
    xds: SocketAddr,
) -> Result<(Fleet, mpsc::UnboundedReceiver<Arrival>), Failure> {
    let begun = Instant::now();
    let mut identities = Vec::new();
    let mut tls: HashMap<String, Arc<ClientConfig>> = HashMap::new();
    for number in 0..NAMESPACES {
        let name = namespace(number);
        let socket = folder.path().join(format!("{name}.sock"));
        let identity = IdentitySource::start(SourceConfig::new(Endpoint::unix(&socket)));
        while identity.current().is_none() {
            if begun.elapsed() > START {
                return Err(format!("no SVID for {name}").into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tls.insert(name, client_config(&identity, &[b"h2"]));
        identities.push(identity);
    }

    let (arrived, arrivals) = mpsc::unbounded_channel();
    let size = arguments.sidecars.min(population.pods.len());
    let mut asked: HashMap<String, BTreeSet<usize>> = HashMap::new();
    let mut starting = Vec::new();
    for sidecar in 0..size {
        let pod = &population.pods[sidecar];
        let addresses: BTreeSet<String> = called(sidecar, population.services.len())
            .map(|service| population.services[service].addresses[0].clone())
            .collect();
        for address in &addresses {
            asked.entry(address.clone()).or_default().insert(sidecar);
        }
        starting.push((
            sidecar,
            pod.node(),
            addresses,
            Arc::clone(&tls[&pod.namespace]),
        ));
    }
    let connected = stream::iter(starting)
        .map(|(sidecar, node, addresses, tls)| {
            let arrived = arrived.clone();
            async move {
                let started = start(sidecar, node.clone(), addresses, tls, xds, arrived);
                let started = tokio::time::timeout(START, started).await;
                started
                    .map_err(|_| Failure::from("nothing came"))
                    .flatten()
                    .map_err(|error| Failure::from(format!("sidecar of {node}: {error}")))
            }
        })
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>()
        .await;
    for one in connected {
        one?;
    }
    let fleet = Fleet {
        took: begun.elapsed(),
        asked,
        size,
        _identities: identities,
    };
    Ok((fleet, arrivals))
}

/// Connects, asks, and goes on by itself once everything is there.
async fn start(
    sidecar: usize,
    node: String,
    addresses: BTreeSet<String>,
    tls: Arc<ClientConfig>,
    xds: SocketAddr,
    arrived: mpsc::UnboundedSender<Arrival>,
) -> Result<(), Failure> {
    let tcp = TcpStream::connect(xds).await?;
    tcp.set_nodelay(true)?;
    let tls = TlsConnector::from(tls).connect(server_name(), tcp).await?;
    let (mut client, connection) = h2::client::handshake(tls).await?;
    tokio::spawn(async move {
        // Why it ends shows in the stream.
        let _ = connection.await;
    });
    let request = http::Request::post(METHOD)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let (response, requests) = client.send_request(request, false)?;
    let mut stream = Stream {
        sidecar,
        requests,
        arrived,
        missing: addresses
            .iter()
            .map(|name| (Kind::Address, name.clone()))
            .chain([
                (Kind::WorkloadConfig, node.clone()),
                (Kind::RevocationList, "mesh".to_owned()),
            ])
            .collect(),
        policies: BTreeSet::new(),
    };
    let who = Node {
        id: node.clone(),
        ..Node::default()
    };
    stream.ask(Kind::RevocationList, vec!["mesh".to_owned()], Some(who))?;
    stream.ask(Kind::WorkloadConfig, vec![node], None)?;
    stream.ask(Kind::Address, addresses.into_iter().collect(), None)?;
    let mut body = response.await?.into_body();
    let mut received = BytesMut::new();
    while !stream.missing.is_empty() {
        stream.take(&mut body, &mut received).await?;
    }
    tokio::spawn(async move {
        let _client = client;
        while stream.take(&mut body, &mut received).await.is_ok() {}
    });
    Ok(())
}

struct Stream {
    sidecar: usize,
    requests: h2::SendStream<Bytes>,
    arrived: mpsc::UnboundedSender<Arrival>,
    /// What was asked for and never came.
    missing: BTreeSet<(Kind, String)>,
    policies: BTreeSet<String>,
}

impl Stream {
    fn ask(&mut self, kind: Kind, names: Vec<String>, who: Option<Node>) -> Result<(), Failure> {
        self.say(&DeltaDiscoveryRequest {
            node: who,
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: names,
            ..DeltaDiscoveryRequest::default()
        })
    }

    fn say(&mut self, request: &DeltaDiscoveryRequest) -> Result<(), Failure> {
        let mut frame = BytesMut::new();
        frame.put_u8(0);
        frame.put_u32(u32::try_from(request.encoded_len())?);
        request.encode(&mut frame)?;
        Ok(self.requests.send_data(frame.freeze(), false)?)
    }

    /// Waits for more, and answers each whole response.
    async fn take(
        &mut self,
        body: &mut h2::RecvStream,
        received: &mut BytesMut,
    ) -> Result<(), Failure> {
        let Some(bytes) = body.data().await else {
            let trailers = body.trailers().await?;
            return Err(format!("the stream ended: {trailers:?}").into());
        };
        let bytes = bytes?;
        body.flow_control().release_capacity(bytes.len())?;
        received.extend_from_slice(&bytes);
        // gRPC over HTTP/2: a flag, a length, the message.
        while let Some(mut prefix) = received.get(1..5) {
            let length = prefix.get_u32() as usize;
            if received.len() < 5 + length {
                break;
            }
            received.advance(5);
            let response = DeltaDiscoveryResponse::decode(received.split_to(length))?;
            self.on_response(response)?;
        }
        Ok(())
    }

    fn on_response(&mut self, response: DeltaDiscoveryResponse) -> Result<(), Failure> {
        let at = Instant::now();
        let kind = Kind::from_type_url(&response.type_url).ok_or("an unknown kind")?;
        self.say(&DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce,
            ..DeltaDiscoveryRequest::default()
        })?;
        let mut names = response.removed_resources;
        for resource in response.resources {
            if kind == Kind::WorkloadConfig {
                let config = resource.resource.as_ref().ok_or("an empty resource")?;
                self.on_config(&WorkloadConfig::decode(&*config.value)?)?;
            }
            names.push(resource.name);
        }
        for name in &names {
            self.missing.remove(&(kind, name.clone()));
        }
        // The receiver lives until the end.
        let _ = self.arrived.send(Arrival {
            sidecar: self.sidecar,
            kind,
            names,
            at,
        });
        Ok(())
    }

    fn on_config(&mut self, config: &WorkloadConfig) -> Result<(), Failure> {
        let new: Vec<String> = config
            .policies
            .iter()
            .filter(|name| self.policies.insert((*name).clone()))
            .cloned()
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        self.missing.extend(
            new.iter()
                .map(|name| (Kind::AuthorizationPolicy, name.clone())),
        );
        self.ask(Kind::AuthorizationPolicy, new, None)
    }
}
