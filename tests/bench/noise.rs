//! Whether a round was disturbed: by other virtual machines, or by other processes of this one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::mesh::Bench;
use crate::proc::{self, Cpu};

/// Share of the machine's processor time that others may take without a round being repeated.
const TOLERATED: f64 = 0.03;

/// Shares of all processor time of the round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Noise {
    /// Taken by the hypervisor.
    pub(crate) stolen: f64,
    /// Used by processes that are no part of the benchmark.
    pub(crate) foreign: f64,
}

impl Noise {
    pub(crate) fn is_quiet(&self) -> bool {
        self.stolen <= TOLERATED && self.foreign <= TOLERATED
    }
}

/// Looks at the machine's processes before and after.
pub(crate) struct Watch {
    started: Instant,
    stolen: f64,
    processes: BTreeMap<u32, Cpu>,
}

impl Watch {
    pub(crate) fn start(bench: &Bench) -> Self {
        Watch {
            started: Instant::now(),
            stolen: proc::stolen(),
            processes: strangers(bench),
        }
    }

    pub(crate) fn stop(self, bench: &Bench) -> Noise {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let available = self.started.elapsed().as_secs_f64() * cores as f64;
        // What has ended meanwhile shows in who waited for it. That counts what it had used before, too: better a
        // round too many repeated than one too few.
        let total = |cpu: &Cpu| cpu.own + cpu.children;
        let used = strangers(bench).into_iter().map(|(pid, after)| {
            let before = self.processes.get(&pid).map_or(0.0, total);
            (total(&after) - before).max(0.0)
        });
        let foreign = (used.sum::<f64>() / available).min(1.0);
        Noise {
            stolen: (proc::stolen() - self.stolen) / available,
            foreign,
        }
    }
}

/// Processes that are no part of the benchmark. The kernel's own threads work for it as for everyone.
fn strangers(bench: &Bench) -> BTreeMap<u32, Cpu> {
    let ours = bench.processes();
    let stranger = |(pid, cpu): &(u32, Cpu)| !cpu.kernel && !ours.contains(pid);
    proc::all().into_iter().filter(stranger).collect()
}

/// How long a run may still wait and repeat; then disturbed rounds are kept, and the table says so.
pub(crate) struct Patience(Duration);

impl Patience {
    pub(crate) fn new(time: Duration) -> Self {
        Patience(time)
    }

    pub(crate) fn is_left(&self) -> bool {
        !self.0.is_zero()
    }

    /// A round is to be repeated, or was waited for.
    pub(crate) fn spend(&mut self, time: Duration) {
        self.0 = self.0.saturating_sub(time);
        if !self.is_left() {
            eprintln!("the machine does not get quiet: going on all the same");
        }
    }

    /// Returns when the machine is quiet, or patience has run out.
    pub(crate) async fn wait_for_quiet(&mut self, bench: &Bench) {
        while self.is_left() {
            let (started, watch) = (Instant::now(), Watch::start(bench));
            tokio::time::sleep(Duration::from_millis(300)).await;
            if watch.stop(bench).is_quiet() {
                return;
            }
            self.spend(started.elapsed());
        }
    }
}
