//! Preemption control; re-exports what users need of `unyield-preempt`.

use unyield_preempt as delivery;
pub use unyield_preempt::Masking;
pub use unyield_preempt::gate::{CriticalSection, critical};
pub use unyield_preempt::probe::{Finding, Probe, probe};

/// How interrupts are delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Mechanism {
    /// The best that [`probe`] finds: `Uintr`, else `Signal`. The environment variable `UNYIELD_MECHANISM` (`signal`, `uintr`, `model`) overrides it.
    #[default]
    Auto,
    /// User Interrupts (SENDUIPI): CPU and kernel must have them.
    Uintr,
    /// A signal to the worker's thread.
    Signal,
    /// User Interrupts whose instructions trap and are carried out in software, on any machine. For tests: some 50 µs an interrupt.
    Model,
}

impl Mechanism {
    /// The mechanism that this stands for here.
    pub(crate) fn resolve(self) -> Result<delivery::Mechanism, &'static str> {
        let chosen = match self {
            Mechanism::Auto => match std::env::var("UNYIELD_MECHANISM").as_deref() {
                Err(std::env::VarError::NotPresent) | Ok("") => delivery::Mechanism::best(),
                Ok("signal") => delivery::Mechanism::Signal,
                Ok("uintr") => delivery::Mechanism::Uintr,
                Ok("model") => delivery::Mechanism::Model,
                _ => return Err("UNYIELD_MECHANISM must be signal, uintr or model"),
            },
            Mechanism::Uintr => delivery::Mechanism::Uintr,
            Mechanism::Signal => delivery::Mechanism::Signal,
            Mechanism::Model => delivery::Mechanism::Model,
        };
        chosen.obstacle().map_or(Ok(chosen), Err)
    }
}

impl From<delivery::Mechanism> for Mechanism {
    fn from(mechanism: delivery::Mechanism) -> Self {
        match mechanism {
            delivery::Mechanism::Uintr => Mechanism::Uintr,
            delivery::Mechanism::Model => Mechanism::Model,
            _ => Mechanism::Signal,
        }
    }
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

/// How the unstarted halves of fork-joins ([`par`](crate::par)) become known to idle workers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Stealing {
    /// When a thief asks, by an interrupt: forking costs a few plain instructions. Needs fibers with thread identities of their own.
    #[default]
    Lazy,
    /// At once, in a deque that thieves take from by themselves (Chase–Lev): forking costs a fence. The 64 oldest halves of a fiber are exposed.
    Eager,
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
