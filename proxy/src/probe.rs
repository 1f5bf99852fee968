//! The application's own probes, made by the sidecar in the kubelet's place: under strict mTLS the application takes
//! connections from the mesh only, and the kubelet is not in it.
//!
//! **Architecture invariant:** only what `KITH_APP_PROBES` names is ever done, at the pod's own address. Whoever asks
//! chooses one of these by name, and nothing else about it; what has a key is done only for those who know it.

mod grpc;
mod http;
mod tls;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::http::StatusCode;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::config::{AppProbe, AppProbes, Check};
use crate::forward::connect::connect;

/// What the kubelet is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) status: StatusCode,
    /// One line for people.
    pub(crate) why: String,
}

impl Verdict {
    fn good(why: impl Into<String>) -> Self {
        Verdict {
            status: StatusCode::OK,
            why: why.into(),
        }
    }

    fn bad(why: impl Into<String>) -> Self {
        Verdict {
            status: StatusCode::SERVICE_UNAVAILABLE,
            why: why.into(),
        }
    }

    fn is_good(&self) -> bool {
        self.status == StatusCode::OK
    }
}

/// All there are.
pub(crate) struct Probes {
    by_name: BTreeMap<String, Arc<Probe>>,
}

struct Probe {
    name: String,
    probe: AppProbe,
    place: Place,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whoever asks meanwhile gets the same answer: each probe is made once at a time, no matter how often it is
    /// asked for.
    under_way: Option<watch::Receiver<Option<Verdict>>>,
    /// Told to the log when it changes.
    last: Option<bool>,
}

/// Where probes are made.
#[derive(Clone)]
struct Place {
    ip: IpAddr,
    mark: Option<u32>,
    /// Ports of the sidecar, to which a redirect must not lead.
    own_ports: [u16; 4],
}

impl Place {
    async fn connect(&self, port: u16) -> io::Result<TcpStream> {
        connect(SocketAddr::new(self.ip, port), self.mark).await
    }
}

impl Probes {
    /// Without an address there are none: the configuration demands one where there are any.
    pub(crate) fn new(
        probes: &AppProbes,
        ip: Option<IpAddr>,
        mark: Option<u32>,
        own_ports: [u16; 4],
    ) -> Self {
        let place = ip.map(|ip| Place {
            ip,
            mark,
            own_ports,
        });
        let by_name = place.into_iter().flat_map(|place| {
            probes.iter().map(move |(name, probe)| {
                let probe = Probe {
                    name: name.clone(),
                    probe: probe.clone(),
                    place: place.clone(),
                    state: Mutex::default(),
                };
                (name.clone(), Arc::new(probe))
            })
        });
        Probes {
            by_name: by_name.collect(),
        }
    }

    /// The longest that one may take.
    pub(crate) fn longest(&self) -> Duration {
        let timeouts = self.by_name.values().map(|probe| probe.probe.timeout);
        timeouts.max().unwrap_or_default()
    }

    /// Makes the probe that is asked for, by its name or, where it has a key, `<name>/<key>`, if there is one. To be
    /// called on a runtime.
    pub(crate) fn make(&self, asked: &str) -> Option<impl Future<Output = Verdict> + Send + use<>> {
        let mut answer = self.find(asked)?.start();
        Some(async move {
            match answer.wait_for(Option::is_some).await.as_deref() {
                Ok(Some(verdict)) => verdict.clone(),
                _ => Verdict::bad("the probe was ended by a panic; please report it"),
            }
        })
    }

    fn find(&self, asked: &str) -> Option<&Arc<Probe>> {
        if let Some(probe) = self.by_name.get(asked) {
            return probe.probe.key.is_none().then_some(probe);
        }
        let (name, key) = asked.rsplit_once('/')?;
        let probe = self.by_name.get(name)?;
        (probe.probe.key.as_ref()?.is(key)).then_some(probe)
    }
}

impl Probe {
    fn start(self: &Arc<Self>) -> watch::Receiver<Option<Verdict>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(under_way) = &state.under_way
            && under_way.borrow().is_none()
            && under_way.has_changed().is_ok()
        {
            return under_way.clone();
        }
        let (tell, answer) = watch::channel(None);
        let probe = Arc::clone(self);
        tokio::spawn(async move {
            let verdict = probe.run().await;
            probe.log(&verdict);
            let _ = tell.send(Some(verdict));
        });
        state.under_way = Some(answer.clone());
        answer
    }

    async fn run(&self) -> Verdict {
        let AppProbe { check, timeout, .. } = &self.probe;
        let made = async {
            match check {
                Check::Http(check) => http::check(check, &self.place).await,
                Check::Grpc { port, service } => grpc::check(*port, service, &self.place).await,
                Check::Tcp { port } => match self.place.connect(*port).await {
                    Ok(_) => Ok(Verdict::good("the application accepts connections")),
                    Err(error) => Err(no_connection(*port, &error)),
                },
            }
        };
        match tokio::time::timeout(*timeout, made).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(why)) => Verdict::bad(why),
            Err(_) => Verdict::bad(format!("no answer within {} s", timeout.as_secs())),
        }
    }

    fn log(&self, verdict: &Verdict) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.replace(verdict.is_good()) != Some(verdict.is_good()) {
            let (probe, why) = (&self.name, &verdict.why);
            if verdict.is_good() {
                tracing::info!(probe, why, "the application passes its probe");
            } else {
                tracing::info!(probe, why, "the application fails its probe");
            }
        }
    }
}

fn no_connection(port: u16, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            format!("the application does not listen on port {port} of the pod's address")
        }
        _ => format!("no connection to port {port} of the application: {error}"),
    }
}

#[cfg(test)]
mod tests;
