//! Probes and hooks, from where the kubelet makes them: the node's own address.

use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kith::app::client::Call;
use kith::lab::process::Process;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::Node;
use super::container::Container;
use super::pod::Pod;

/// Probes a running container until it has to be restarted; says why.
pub(super) async fn watch(node: &Node, pod: &Pod, container: &Container) -> String {
    let spec = &container.spec;
    if let Some(startup) = &spec.startup_probe {
        let mut prober = Prober::new(startup);
        loop {
            match prober.next(node, pod, container).await {
                Some(Ok(())) => break,
                Some(Err(why)) => return format!("startup probe failed: {why}"),
                None => {}
            }
        }
    }
    container.started.set(true);
    container.ready.set(spec.readiness_probe.is_none());
    pod.touch();
    let readiness = async {
        let Some(probe) = &spec.readiness_probe else {
            return std::future::pending().await;
        };
        let mut prober = Prober::new(probe);
        loop {
            if let Some(result) = prober.next(node, pod, container).await {
                if let Err(why) = &result {
                    *pod.message.borrow_mut() = format!("{} is not ready: {why}", spec.name);
                }
                container.ready.set(result.is_ok());
                pod.touch();
            }
        }
    };
    let liveness = async {
        let Some(probe) = &spec.liveness_probe else {
            return std::future::pending().await;
        };
        let mut prober = Prober::new(probe);
        loop {
            if let Some(Err(why)) = prober.next(node, pod, container).await {
                return format!("liveness probe failed: {why}");
            }
        }
    };
    tokio::select! {
        () = readiness => unreachable!("readiness is probed for ever"),
        why = liveness => why,
    }
}

struct Prober<'a> {
    probe: &'a core::Probe,
    asked: bool,
    successes: i32,
    failures: i32,
}

impl<'a> Prober<'a> {
    fn new(probe: &'a core::Probe) -> Self {
        Self {
            probe,
            asked: false,
            successes: 0,
            failures: 0,
        }
    }

    /// Waits for the next time, asks, and says what it now stands for, if a threshold is reached.
    async fn next(
        &mut self,
        node: &Node,
        pod: &Pod,
        container: &Container,
    ) -> Option<Result<(), String>> {
        let seconds = if self.asked {
            self.probe.period_seconds.unwrap_or(10)
        } else {
            self.probe.initial_delay_seconds.unwrap_or(0)
        };
        self.asked = true;
        sleep(seconds_of(seconds)).await;
        let limit = seconds_of(self.probe.timeout_seconds.unwrap_or(1));
        let probe = self.probe;
        let result = if let Some(action) = &probe.http_get {
            http(pod, container, action, limit).await
        } else if let Some(action) = &probe.tcp_socket {
            tcp(pod, container, action, limit).await
        } else if let Some(action) = &probe.exec {
            exec(node, pod, container, action, limit).await
        } else {
            Err("gRPC probes are more than this node can do".to_owned())
        };
        match result {
            Ok(()) => {
                self.failures = 0;
                self.successes += 1;
                (self.successes >= probe.success_threshold.unwrap_or(1)).then_some(Ok(()))
            }
            Err(why) => {
                self.successes = 0;
                self.failures += 1;
                (self.failures >= probe.failure_threshold.unwrap_or(3)).then_some(Err(why))
            }
        }
    }
}

/// Runs a preStop hook; what it answers does not matter, as for the kubelet.
pub(super) async fn before_stop(
    node: &Node,
    pod: &Pod,
    container: &Rc<Container>,
    limit: Duration,
) {
    let lifecycle = container.spec.lifecycle.as_ref();
    let Some(hook) = lifecycle.and_then(|lifecycle| lifecycle.pre_stop.as_ref()) else {
        return;
    };
    let result = if let Some(action) = &hook.sleep {
        let seconds = u64::try_from(action.seconds).unwrap_or(0);
        sleep(Duration::from_secs(seconds).min(limit)).await;
        Ok(())
    } else if let Some(action) = &hook.http_get {
        http(pod, container, action, limit).await
    } else if let Some(action) = &hook.exec {
        exec(node, pod, container, action, limit).await
    } else {
        Err("of a kind that this node does not have".to_owned())
    };
    if let Err(why) = result {
        node.trouble(format!(
            "preStop of {} in {}: {why}",
            container.spec.name,
            pod.id()
        ));
    }
}

async fn http(
    pod: &Pod,
    container: &Container,
    action: &core::HTTPGetAction,
    limit: Duration,
) -> Result<(), String> {
    if action
        .scheme
        .as_deref()
        .is_some_and(|scheme| scheme != "HTTP")
    {
        return Err("HTTPS probes are more than this node can do".to_owned());
    }
    let address = pod.workload.addresses.v4.to_string();
    let host = action.host.clone().unwrap_or(address);
    let port = number(container, &action.port)?;
    let path = action.path.as_deref().unwrap_or("/");
    let mut call = Call::get(format!("http://{host}:{port}{path}").parse()?);
    call.limit = limit;
    let headers = action.http_headers.iter().flatten();
    call.headers = headers
        .map(|header| format!("{}: {}", header.name, header.value))
        .collect();
    let reply = call.run().await.map_err(|e| e.to_string())?;
    if (200..400).contains(&reply.status) {
        return Ok(());
    }
    Err(format!("{} {}", reply.status, reply.text().trim()))
}

async fn tcp(
    pod: &Pod,
    container: &Container,
    action: &core::TCPSocketAction,
    limit: Duration,
) -> Result<(), String> {
    let address = pod.workload.addresses.v4.to_string();
    let host = action.host.clone().unwrap_or(address);
    let port = number(container, &action.port)?;
    let connected = timeout(limit, TcpStream::connect((host.as_str(), port))).await;
    match connected {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no connection in time".to_owned()),
    }
}

async fn exec(
    node: &Node,
    pod: &Pod,
    container: &Container,
    action: &core::ExecAction,
    limit: Duration,
) -> Result<(), String> {
    let command = action.command.as_deref().unwrap_or_default();
    let volumes = pod.volumes.borrow().clone();
    let recipe = container.recipe(node, pod, &volumes, Some(command)).await?;
    let process = Process::start(recipe).map_err(|e| e.to_string())?;
    let status = process.wait(limit).await.map_err(|e| e.to_string())?;
    if status.success() {
        return Ok(());
    }
    Err(format!("{status}: {}", process.stderr().trim()))
}

fn number(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let wanted = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let mut ports = container.spec.ports.iter().flatten();
            let found = ports.find(|port| port.name.as_ref() == Some(name));
            found.map(|port| port.container_port)
        }
    };
    wanted
        .and_then(|number| u16::try_from(number).ok())
        .ok_or_else(|| format!("no port {port:?}"))
}

fn seconds_of(seconds: i32) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
