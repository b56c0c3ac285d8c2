//! rayon: a pool of its own for each measurement, its workers pinned by a broadcast, entered by `install`.

use std::sync::mpsc::{self, Receiver};

use super::{
    join::{Join, Pool, Region},
    place::{STACK, cpu_of},
};
use crate::os;

/// The handle: rayon finds its pool through a thread local.
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
        ::rayon::join(|| a(&mut Fork), || b(&mut Fork))
    }
}

/// A pool, and where its threads tell that they end: dropping the pool does not wait for them.
#[derive(Debug)]
pub struct Rayon {
    pool: ::rayon::ThreadPool,
    ended: Receiver<()>,
}

impl Rayon {
    /// `workers` threads; worker i on the i-th of `cpus`.
    pub fn start(workers: usize, cpus: &[usize]) -> Result<Rayon, String> {
        let (ends, ended) = mpsc::channel();
        let pool = ::rayon::ThreadPoolBuilder::new()
            .num_threads(workers)
            .stack_size(STACK)
            .exit_handler(move |_| {
                // Nobody listens after a failure.
                let _ = ends.send(());
            })
            .build()
            .map_err(|e| format!("cannot start rayon: {e}"))?;
        // On each worker once; unlike a start handler this can tell of failures.
        let pinned = pool.broadcast(|worker| os::pin_self(&[cpu_of(cpus, worker.index())]));
        match pinned.into_iter().find_map(Result::err) {
            Some(e) => Err(format!("cannot pin a worker of rayon: {e}")),
            None => Ok(Rayon { pool, ended }),
        }
    }
}

impl Pool for Rayon {
    fn enter<R: Region>(&mut self, region: R) -> R::Out {
        self.pool.install(|| region.call(&mut Fork))
    }

    fn finish(self) -> Result<(), String> {
        drop(self.pool);
        // Until the last has dropped the sender.
        self.ended.iter().for_each(drop);
        Ok(())
    }
}
