//! Who is measured, and one measurement.

use std::time::Duration;

use unyield::preempt::Stealing;

use super::{
    catalogue::Work,
    chili::Chili,
    fib::Fib,
    join::{Counters, Pool, Serial},
    ours::Ours,
    place::cpu_of,
    rayon::Rayon,
};
use crate::os::{self, Clocks};

/// Who forks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Contender {
    /// Nobody.
    Serial,
    /// rayon.
    Rayon,
    /// chili.
    Chili,
    /// Our runtime: a fork becomes visible only when a thief asks for it, by an interrupt.
    Lazy,
    /// Our runtime: every fork is put where thieves find it.
    Eager,
}

/// All that have workers.
pub const PARALLEL: &[Contender] = &[Contender::Rayon, Contender::Chili, Contender::Lazy, Contender::Eager];

impl Contender {
    /// For people and files.
    pub fn name(self) -> &'static str {
        match self {
            Contender::Serial => "serial",
            Contender::Rayon => "rayon",
            Contender::Chili => "chili",
            Contender::Lazy => "unyield, lazy",
            Contender::Eager => "unyield, eager",
        }
    }
}

/// What can be varied of our runtime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The quantum; `None` for the runtime's default.
    pub quantum: Option<Duration>,
    /// Fibers that compute all the time beside the workload, so that its fibers are preempted.
    pub fibers: usize,
}

/// What came out.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Wall time, ns.
    pub wall: f64,
    /// CPU time of the process, ns.
    pub cpu: f64,
    /// Result or digest.
    pub result: u64,
    /// Of the measured time.
    pub counters: Option<Counters>,
}

/// Starts a pool for `who`, warms it, and runs `work` once. Leaves the calling thread where it may run on all of `cpus`.
pub fn measure(
    who: Contender,
    workers: usize,
    work: &mut Work,
    cpus: &[usize],
    options: Options,
) -> Result<Measured, String> {
    work.reset();
    let unpin = Unpin(cpus);
    let measured = match who {
        Contender::Serial => {
            os::pin_self(&[cpu_of(cpus, 0)]).map_err(|e| format!("cannot pin the caller: {e}"))?;
            timed(Serial, work)
        }
        Contender::Rayon => timed(Rayon::start(workers, cpus)?, work),
        Contender::Chili => timed(Chili::start(workers, cpus)?, work),
        Contender::Lazy => timed(Ours::start(Stealing::Lazy, workers, options)?, work),
        Contender::Eager => timed(Ours::start(Stealing::Eager, workers, options)?, work),
    }?;
    drop(unpin);
    work.check(measured.result).map(|result| Measured { result, ..measured })
}

/// Gives the calling thread its CPUs back, also after a panic.
struct Unpin<'a>(&'a [usize]);

impl Drop for Unpin<'_> {
    fn drop(&mut self) {
        // It had them before.
        let _ = os::pin_self(self.0);
    }
}

fn timed<P: Pool>(mut pool: P, work: &mut Work) -> Result<Measured, String> {
    // Wakes the workers and touches their stacks.
    pool.enter(Fib(20));
    let before = pool.counters();
    let clocks = Clocks::start();
    let result = std::hint::black_box(std::hint::black_box(&mut *work).run(&mut pool));
    let (wall, cpu) = clocks.elapsed();
    let counters = pool.counters().zip(before).map(|(after, before)| after.since(before));
    pool.finish()?;
    Ok(Measured { wall, cpu, result, counters })
}
