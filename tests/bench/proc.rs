//! What the kernel says of processes: proc_pid_stat(5), proc_pid_smaps(5).

use std::collections::BTreeMap;

/// USER_HZ: 100 on every platform that Kith is built for.
const TICKS_PER_SECOND: f64 = 100.0;

/// PF_KTHREAD of linux/sched.h.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// Processor time that a process has used, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu {
    /// By itself.
    pub(crate) own: f64,
    /// By children that it has waited for.
    pub(crate) children: f64,
    /// A thread of the kernel's own.
    pub(crate) kernel: bool,
}

/// None: there is no such process.
pub(crate) fn cpu(pid: u32) -> Option<Cpu> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, in parentheses, may contain anything; the rest counts from the third.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| -> Option<u64> { fields.get(number - 3)?.parse().ok() };
    let seconds =
        |one: usize, other: usize| Some((field(one)? + field(other)?) as f64 / TICKS_PER_SECOND);
    Some(Cpu {
        own: seconds(14, 15)?,
        children: seconds(16, 17)?,
        kernel: field(9)? & KERNEL_THREAD != 0,
    })
}

/// All processes of this machine that can be seen.
pub(crate) fn all() -> BTreeMap<u32, Cpu> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, cpu(pid)?))).collect()
}

/// Memory of a process, in KiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) resident: f64,
    /// Not backed by a file: what it has allocated itself.
    pub(crate) anonymous: f64,
}

pub(crate) fn memory(pid: u32) -> std::io::Result<Memory> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let field = |name: &str| -> std::io::Result<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        number.ok_or_else(|| std::io::Error::other(format!("no {name} in smaps_rollup")))
    };
    Ok(Memory {
        resident: field("Rss:")?,
        anonymous: field("Anonymous:")?,
    })
}

/// Seconds that the hypervisor gave to others while this machine wanted to run (proc_stat(5)).
pub(crate) fn stolen() -> f64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let steal = text
        .lines()
        .next()
        .and_then(|line| line.split_whitespace().nth(8)?.parse::<u64>().ok());
    steal.unwrap_or(0) as f64 / TICKS_PER_SECOND
}
