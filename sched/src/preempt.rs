//! Preemption control; re-exports what users need of `unyield-preempt`.

pub use unyield_preempt::gate::{CriticalSection, critical};
pub use unyield_preempt::probe::{Finding, Probe, probe};

/// How interrupts are delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Mechanism {
    /// The best that [`probe`] finds; signals in this version.
    #[default]
    Auto,
    /// A signal to the worker's thread.
    Signal,
}

/// Where a fiber may be preempted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Preemption {
    /// At any instruction outside critical sections.
    #[default]
    Anywhere,
    /// Fibers share their worker's thread identity, never migrate once started, and act on interrupts at [`checkpoint`](crate::checkpoint)s and blocking
    /// operations only. A std lock held across a checkpoint can deadlock here: another fiber on the same worker that wants it blocks the worker.
    AtCheckpoints,
    /// Never: fibers switch when they wait or yield.
    Off,
}

/// Which CPUs workers are bound to.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Pinning {
    /// The kernel decides.
    #[default]
    None,
    /// Worker i to the i-th CPU that the building thread may use, round and round.
    PerCore,
    /// Worker i to the i-th of these, round and round.
    Cores(Vec<usize>),
}

impl Pinning {
    pub(crate) fn core(&self, worker: usize) -> Option<usize> {
        match self {
            Pinning::None => None,
            Pinning::Cores(cores) => Some(cores[worker % cores.len()]),
            Pinning::PerCore => {
                let allowed = allowed_cores();
                if allowed.is_empty() { None } else { Some(allowed[worker % allowed.len()]) }
            }
        }
    }

    /// The CPUs that the building thread may use and none of `workers` workers is bound to; empty if there is none, or nothing is bound.
    pub(crate) fn others(&self, workers: usize) -> Vec<usize> {
        let bound: Vec<usize> = (0..workers).filter_map(|worker| self.core(worker)).collect();
        if bound.is_empty() {
            return bound;
        }
        allowed_cores().into_iter().filter(|core| !bound.contains(core)).collect()
    }
}

fn allowed_cores() -> Vec<usize> {
    // SAFETY: writes to a local set.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
            return Vec::new();
        }
        (0..libc::CPU_SETSIZE as usize).filter(|cpu| libc::CPU_ISSET(*cpu, &set)).collect()
    }
}
