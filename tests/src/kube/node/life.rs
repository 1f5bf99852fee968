//! A pod's life, in the order that Kubernetes promises: init containers one after the other, a sidecar counting as done
//! once it has started; then all containers. At the end preStop hooks, SIGTERM to the containers, and only when they
//! have ended SIGTERM to the sidecars, the last one first; SIGKILL when the grace is over.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use kith::lab::process::Process;
use rustix::process::Signal;
use tokio::time::{Instant, sleep, timeout};

use super::Node;
use super::container::{Container, State};
use super::pod::Pod;
use super::{probe, status, volume};

/// What the kubelet leaves to those whose turn to end comes after the grace.
const LEAST: Duration = Duration::from_secs(2);

/// Between two starts of a container that keeps ending; doubles. The kubelet begins with ten seconds.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs a pod to its end, and reports it.
pub(super) async fn live(node: &Rc<Node>, pod: &Rc<Pod>) {
    let reporter = tokio::task::spawn_local(status::report(node.clone(), pod.clone()));
    tokio::select! {
        () = run(node, pod) => {}
        () = pod.until(|| pod.is_terminating()) => {}
    }
    if let (Some(grace), false) = (pod.deleted.get(), pod.killed.get()) {
        tokio::select! {
            () = end(node, pod, Duration::from_secs(grace)) => {}
            () = pod.until(|| pod.killed.get()) => {}
        }
    }
    pod.until(|| {
        pod.containers
            .iter()
            .all(|container| !container.is_running())
    })
    .await;
    reporter.abort();
    if pod.killed.get() {
        return;
    }
    if !matches!(pod.phase.get(), "Succeeded" | "Failed") {
        pod.phase.set(outcome(pod));
    }
    status::last(node, pod).await;
    if pod.deleted.get().is_some() {
        while let Err(error) = node.delete(&pod.object()).await {
            node.trouble(format!("{} cannot be deleted: {error}", pod.id()));
            sleep(Duration::from_millis(200)).await;
        }
    }
}

/// From the volumes to the end of the last container that ends by itself.
async fn run(node: &Rc<Node>, pod: &Rc<Pod>) {
    let spec = pod.object().spec.clone().unwrap_or_default();
    loop {
        match volume::prepare(node, pod, &spec).await {
            Ok(volumes) => break *pod.volumes.borrow_mut() = volumes,
            // As the kubelet: what a volume is made of may still come.
            Err(why) => trouble(node, pod, &why),
        }
        sleep(PAUSE).await;
    }
    for container in pod.containers.iter().filter(|container| container.init) {
        // A task of its own: it has to see the end, even if the pod is deleted meanwhile.
        let task = supervise(node.clone(), pod.clone(), container.clone());
        let task = tokio::task::spawn_local(task);
        if container.is_sidecar() {
            pod.until(|| container.started.get()).await;
        } else {
            let _ = task.await;
            if code(container) != Some(0) {
                pod.stopping.set(true);
                pod.phase.set("Failed");
                stop_sidecars(node, pod, Instant::now() + LEAST).await;
                return;
            }
        }
    }
    pod.phase.set("Running");
    pod.touch();
    let policy = pod.restart_policy();
    join_all(pod.mains().map(|container| {
        let task = supervise(node.clone(), pod.clone(), container.clone());
        tokio::task::spawn_local(task)
    }))
    .await;
    if policy == "Always" && !pod.stopping.get() {
        node.trouble(format!("{} ended although it must not", pod.id()));
    }
    if pod.is_terminating() {
        return std::future::pending().await;
    }
    pod.stopping.set(true);
    let grace = spec.termination_grace_period_seconds.unwrap_or(30);
    let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
    stop_sidecars(node, pod, Instant::now() + grace).await;
    pod.phase.set(outcome(pod));
}

fn outcome(pod: &Pod) -> &'static str {
    let good = pod.mains().all(|container| code(container) == Some(0));
    if good { "Succeeded" } else { "Failed" }
}

fn code(container: &Container) -> Option<i32> {
    match &*container.state.borrow() {
        State::Ended(code, ..) => Some(*code),
        _ => None,
    }
}

fn trouble(node: &Node, pod: &Pod, why: &str) {
    *pod.message.borrow_mut() = why.to_owned();
    node.trouble(format!("{}: {why}", pod.id()));
    pod.touch();
}

async fn supervise(node: Rc<Node>, pod: Rc<Pod>, container: Rc<Container>) {
    let whole = pod.restart_policy();
    let policy = match (container.is_sidecar(), container.init) {
        (true, _) => "Always",
        // Until it succeeds, whatever ends later may do.
        (false, true) if whole != "Never" => "OnFailure",
        _ => whole.as_str(),
    };
    keep(&node, &pod, &container, policy).await;
}

/// Starts a container, and starts it again as long as its policy says so.
async fn keep(node: &Rc<Node>, pod: &Rc<Pod>, container: &Rc<Container>, policy: &str) {
    let mut pause = Duration::ZERO;
    while !pod.stopping.get() {
        match start(node, pod, container).await {
            Ok(process) => {
                let status = attend(node, pod, container, &process).await;
                let began = match &*container.state.borrow() {
                    State::Running(began) => began.clone(),
                    _ => status::now(),
                };
                let code = status
                    .code()
                    .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
                container.started.set(false);
                container.ready.set(false);
                *container.state.borrow_mut() = State::Ended(code, began, status::now());
                pod.touch();
                let again = policy == "Always" || (policy == "OnFailure" && code != 0);
                if !again || pod.stopping.get() {
                    return;
                }
                let name = &container.spec.name;
                node.trouble(format!("{}: {name} ended with {code}", pod.id()));
                container.restarts.set(container.restarts.get() + 1);
            }
            Err(why) => {
                *container.state.borrow_mut() = State::Waiting(why.clone());
                trouble(node, pod, &why);
            }
        }
        sleep(pause).await;
        pause = (pause * 2).clamp(PAUSE, 10 * PAUSE);
    }
}

async fn start(node: &Node, pod: &Pod, container: &Container) -> Result<Rc<Process>, String> {
    let lifecycle = container.spec.lifecycle.as_ref();
    if lifecycle.is_some_and(|lifecycle| lifecycle.post_start.is_some()) {
        return Err("postStart is more than this node can do".to_owned());
    }
    let volumes = pod.volumes.borrow().clone();
    let recipe = container.recipe(node, pod, &volumes, None).await?;
    // A pod that ended while its environment was gathered.
    if pod.stopping.get() {
        return Err("the pod is ending".to_owned());
    }
    let process = Rc::new(Process::start(recipe).map_err(|e| e.to_string())?);
    *container.process.borrow_mut() = Some(process.clone());
    *container.state.borrow_mut() = State::Running(status::now());
    pod.touch();
    Ok(process)
}

/// Probes a process until it ends, and ends it when its probes say so.
async fn attend(
    node: &Rc<Node>,
    pod: &Rc<Pod>,
    container: &Rc<Container>,
    process: &Rc<Process>,
) -> ExitStatus {
    if container.init && !container.is_sidecar() {
        return ended(process).await;
    }
    let why = tokio::select! {
        status = ended(process) => return status,
        why = probe::watch(node, pod, container) => why,
    };
    trouble(node, pod, &format!("{}: {why}", container.spec.name));
    stop_process(process, Instant::now() + Duration::from_secs(30)).await;
    ended(process).await
}

async fn ended(process: &Process) -> ExitStatus {
    loop {
        if let Some(status) = process.ended() {
            return status;
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// Ends a pod that was deleted.
async fn end(node: &Rc<Node>, pod: &Rc<Pod>, grace: Duration) {
    pod.stopping.set(true);
    let deadline = Instant::now() + grace;
    let containers = pod
        .containers
        .iter()
        .filter(|container| !container.is_sidecar());
    let mains = join_all(containers.map(|container| stop(node, pod, container, deadline, || true)));
    tokio::join!(mains, stop_sidecars(node, pod, deadline));
}

/// Each in its turn: after all containers, and after the sidecars that came after it.
async fn stop_sidecars(node: &Rc<Node>, pod: &Rc<Pod>, deadline: Instant) {
    let sidecars: Vec<&Rc<Container>> = pod.sidecars().collect();
    join_all(sidecars.iter().enumerate().map(|(position, container)| {
        let later = &sidecars[position + 1..];
        let turn = || {
            !pod.mains().any(|container| container.is_running())
                && !later.iter().any(|container| container.is_running())
        };
        stop(node, pod, container, deadline, turn)
    }))
    .await;
}

async fn stop(
    node: &Rc<Node>,
    pod: &Rc<Pod>,
    container: &Rc<Container>,
    deadline: Instant,
    turn: impl Fn() -> bool,
) {
    if !container.is_running() {
        return;
    }
    let left = deadline.saturating_duration_since(Instant::now());
    // Whatever a hook does, it has no more than the grace.
    let _ = timeout(left, probe::before_stop(node, pod, container, left)).await;
    let left = deadline.saturating_duration_since(Instant::now());
    let _ = timeout(left, pod.until(turn)).await;
    if container.is_running() {
        let process = container.process();
        stop_process(&process, deadline).await;
    }
}

async fn stop_process(process: &Process, deadline: Instant) {
    let limit = deadline
        .saturating_duration_since(Instant::now())
        .max(LEAST);
    let asked = process.signal(Signal::TERM).is_ok();
    if !asked || timeout(limit, ended(process)).await.is_err() {
        process.kill();
    }
}
