//! chili: the calling thread is one of its workers, and takes part only while a scope is entered. It has no handler for
//! the start of threads, so its workers are found in `/proc` and pinned from outside; its heartbeat thread goes where it
//! likes, as the timer threads of others do.

use std::{
    ffi::CString,
    num::NonZero,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::{
    join::{Join, Pool, Region},
    place::cpu_of,
};
use crate::os;

impl Join for ::chili::Scope<'_> {
    type Sub<'s> = ::chili::Scope<'s>;

    #[inline(always)]
    fn join<A, B, RA, RB>(&mut self, a: A, b: B) -> (RA, RB)
    where
        A: for<'s> FnOnce(&mut ::chili::Scope<'s>) -> RA + Send,
        B: for<'s> FnOnce(&mut ::chili::Scope<'s>) -> RB + Send,
        RA: Send,
        RB: Send,
    {
        // It runs its second half first and offers the first to others; all the rest, and the serial program, do it the other
        // way round. Which half comes first decides in which order memory is read, so it must be the same for all.
        let (rb, ra) = ::chili::Scope::join(self, b, a);
        (ra, rb)
    }
}

/// Pools started so far. Relaxed: numbers only.
static POOLS: AtomicU64 = AtomicU64::new(0);

/// A pool, of which the calling thread is worker 0.
#[derive(Debug)]
pub struct Chili(::chili::ThreadPool);

impl Chili {
    /// The calling thread and `workers - 1` others; worker i on the i-th of `cpus`. Leaves the calling thread pinned.
    pub fn start(workers: usize, cpus: &[usize]) -> Result<Chili, String> {
        // The threads of this pool are those that inherit a name that no other has.
        let name = CString::new(format!("chili {}", POOLS.fetch_add(1, Relaxed))).unwrap_or_default();
        let former = os::name_of_self();
        os::name_self(&name);
        let pool = ::chili::ThreadPool::with_config(::chili::Config {
            thread_count: NonZero::new(workers),
            heartbeat_interval: Duration::from_micros(100), // its default
        });
        os::name_self(&former);
        // In the order in which they were started: the workers, then the heartbeat.
        let started = os::threads_named(&name);
        if started.len() != workers {
            return Err(format!("chili started {} threads, {workers} were expected", started.len()));
        }
        for (i, &thread) in started[..workers - 1].iter().enumerate() {
            os::pin(thread, &[cpu_of(cpus, i + 1)])
                .map_err(|e| format!("cannot pin a worker of chili: {e}"))?;
        }
        os::pin_self(&[cpu_of(cpus, 0)]).map_err(|e| format!("cannot pin the caller: {e}"))?;
        Ok(Chili(pool))
    }
}

impl Pool for Chili {
    fn enter<R: Region>(&mut self, region: R) -> R::Out {
        region.call(&mut self.0.scope())
    }
}
