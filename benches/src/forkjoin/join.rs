//! What a workload may do (fork two halves) and what a contender must offer (a way into its parallel code). Workloads are
//! generic over both, so that all contenders run the same source, monomorphised for each of them.
//!
//! Everything here is called from plain threads (the runner's) and from the contenders' workers.

/// Forks. Implemented by the handle that a contender passes down the recursion; for most it is empty.
pub trait Join {
    /// The handle that each half gets. A type of its own because chili's handles borrow from a worker.
    type Sub<'s>: Join;

    /// Runs `a` and `b`, perhaps at the same time, and returns both results.
    fn join<A, B, RA, RB>(&mut self, a: A, b: B) -> (RA, RB)
    where
        A: for<'s> FnOnce(&mut Self::Sub<'s>) -> RA + Send,
        B: for<'s> FnOnce(&mut Self::Sub<'s>) -> RB + Send,
        RA: Send,
        RB: Send;
}

/// A piece of parallel code: a closure that is generic over the contender.
pub trait Region: Send {
    /// What it computes.
    type Out: Send;
    /// Runs inside the contender's pool.
    fn call<J: Join>(self, j: &mut J) -> Self::Out;
}

/// A contender's pool, started and warm.
pub trait Pool {
    /// Runs `region` inside the pool and waits for it. Plain thread, the one that started the pool.
    fn enter<R: Region>(&mut self, region: R) -> R::Out;

    /// What the contender counts about itself; `None` if it does not.
    fn counters(&self) -> Option<Counters> {
        None
    }

    /// Ends the pool. An error says what went wrong beside the workload.
    fn finish(self) -> Result<(), String>
    where
        Self: Sized,
    {
        Ok(())
    }
}

/// What our runtime counts; since its start, or the difference of two such.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Interrupts that thieves sent to busy workers.
    pub steal_requests: u64,
    /// Forks whose second half another worker took.
    pub forks_stolen: u64,
}

impl Counters {
    /// What came since `earlier`.
    pub fn since(self, earlier: Counters) -> Counters {
        Counters {
            steal_requests: self.steal_requests - earlier.steal_requests,
            forks_stolen: self.forks_stolen - earlier.forks_stolen,
        }
    }
}

/// No forks at all: one half after the other. What all others are measured against.
#[derive(Debug)]
pub struct Serial;

impl Join for Serial {
    type Sub<'s> = Serial;

    #[inline(always)]
    fn join<A, B, RA, RB>(&mut self, a: A, b: B) -> (RA, RB)
    where
        A: for<'s> FnOnce(&mut Serial) -> RA + Send,
        B: for<'s> FnOnce(&mut Serial) -> RB + Send,
    {
        (a(self), b(self))
    }
}

impl Pool for Serial {
    fn enter<R: Region>(&mut self, region: R) -> R::Out {
        region.call(self)
    }
}

/// Serial, and counts the forks: the reference run, not measured.
#[derive(Debug, Default)]
pub struct Count(pub u64);

impl Join for Count {
    type Sub<'s> = Count;

    fn join<A, B, RA, RB>(&mut self, a: A, b: B) -> (RA, RB)
    where
        A: for<'s> FnOnce(&mut Count) -> RA + Send,
        B: for<'s> FnOnce(&mut Count) -> RB + Send,
    {
        self.0 += 1;
        (a(self), b(self))
    }
}

impl Pool for Count {
    fn enter<R: Region>(&mut self, region: R) -> R::Out {
        region.call(self)
    }
}
