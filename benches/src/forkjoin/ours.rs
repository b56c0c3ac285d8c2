//! Ours: a runtime of its own for each measurement, entered by `Runtime::run`, its forks by `unyield::par::join`. Everything
//! that these benchmarks know of our fork-join is in this file.

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use unyield::{
    JoinHandle, Runtime,
    preempt::{Pinning, Stealing},
};

use super::{
    contender::Options,
    join::{Counters, Join, Pool, Region},
    place::STACK,
};

/// The handle: the runtime is found through the fiber.
#[derive(Debug)]
pub struct Fork;

impl Join for Fork {
    type Sub<'s> = Fork;

    #[inline(always)]
    fn join<A, B, RA, RB>(&mut self, a: A, b: B) -> (RA, RB)
    where
        A: for<'s> FnOnce(&mut Fork) -> RA + Send,
        B: for<'s> FnOnce(&mut Fork) -> RB + Send,
        RA: Send,
        RB: Send,
    {
        unyield::par::join(|| a(&mut Fork), || b(&mut Fork))
    }
}

/// A runtime, and what computes on it beside the workload.
#[derive(Debug)]
pub struct Ours {
    runtime: Runtime,
    stop: Arc<AtomicBool>,
    others: Vec<JoinHandle<bool>>,
}

impl Ours {
    /// `workers` workers; worker i on the i-th CPU that the calling thread may use.
    pub fn start(stealing: Stealing, workers: usize, options: Options) -> Result<Ours, String> {
        let mut builder = Runtime::builder()
            .workers(workers)
            .pinning(Pinning::PerCore)
            .stealing(stealing)
            .stack_size(STACK);
        if let Some(quantum) = options.quantum {
            builder = builder.quantum(quantum);
        }
        let runtime = builder.build().map_err(|e| format!("cannot start the runtime: {e}"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let others = (0..options.fibers as u64)
            .map(|seed| {
                let stop = Arc::clone(&stop);
                runtime.spawn(move || compute(seed, &stop))
            })
            .collect();
        Ok(Ours { runtime, stop, others })
    }
}

/// Computes the same thing again and again, without a call into the runtime, until told to stop; false if it once came out
/// differently.
fn compute(seed: u64, stop: &AtomicBool) -> bool {
    let chain = || {
        (0..10_000u32).fold(black_box(seed), |x, _| {
            x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407)
        })
    };
    let first = chain();
    while !stop.load(Relaxed) {
        if chain() != first {
            return false;
        }
    }
    true
}

impl Pool for Ours {
    fn enter<R: Region>(&mut self, region: R) -> R::Out {
        self.runtime.run(|| region.call(&mut Fork))
    }

    fn counters(&self) -> Option<Counters> {
        let metrics = self.runtime.handle().metrics();
        Some(Counters { steal_requests: metrics.steal_requests(), forks_stolen: metrics.forks_stolen() })
    }

    fn finish(self) -> Result<(), String> {
        self.stop.store(true, Relaxed); // pairs with nothing: the fibers only have to see it at some time
        for other in self.others {
            match other.join() {
                Ok(true) => {}
                Ok(false) => return Err("a fiber beside the workload computed something wrong".into()),
                Err(e) => return Err(format!("a fiber beside the workload: {e}")),
            }
        }
        Ok(())
    }
}
