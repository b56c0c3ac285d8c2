//! The barrier. Each round has a number, which is the token of its waiters: the last to arrive starts the next round and wakes
//! those of its own, and those only, however many of the next round have queued behind them meanwhile.

use std::fmt;

use super::wait_queue::{Batch, Patience, Place, Queue, WaitQueue, Waited};
use crate::park::unwind_cancelled;

/// Makes a number of fibers or threads wait for each other: `std::sync::Barrier`.
///
/// # Contexts
/// Fibers (parks) and plain threads (blocks); panics inside a critical section. Not in handlers. A fiber that is cancelled while it
/// waits does not count as arrived any more; the others go on waiting.
///
/// # Examples
/// ```
/// use unyield::sync::Barrier;
///
/// let barrier = Barrier::new(3);
/// let leaders = std::thread::scope(|s| {
///     let waits: Vec<_> = (0..3).map(|_| s.spawn(|| barrier.wait().is_leader())).collect();
///     waits.into_iter().map(|w| w.join().unwrap()).filter(|&leads| leads).count()
/// });
/// assert_eq!(leaders, 1);
/// ```
pub struct Barrier {
    n: usize,
    queue: WaitQueue<Round>,
}

#[derive(Clone, Copy)]
struct Round {
    number: usize,
    arrived: usize,
}

/// From [`Barrier::wait`].
pub struct BarrierWaitResult(bool);

impl BarrierWaitResult {
    /// True for exactly one of those that passed the barrier together.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.0
    }
}

impl Barrier {
    /// A barrier that lets through `n` at a time; 0 is as 1.
    #[must_use]
    pub const fn new(n: usize) -> Barrier {
        Barrier { n, queue: WaitQueue::new(Round { number: 0, arrived: 0 }) }
    }

    /// Waits until `n` have come here, this one included. The barrier can be used again at once.
    ///
    /// # Panics
    /// Inside a critical section.
    pub fn wait(&self) -> BarrierWaitResult {
        let patience = Patience::new(None);
        patience.check("Barrier::wait");
        let mut queue = self.queue.lock();
        let mine = queue.state.number;
        if queue.state.arrived + 1 >= self.n {
            queue.state = Round { number: mine.wrapping_add(1), arrived: 0 };
            drop(queue);
            self.wake(mine);
            return BarrierWaitResult(true);
        }
        queue.state.arrived += 1;
        // Linked still, but the round may be over: its last one just has not come to us yet.
        let undo = |q: &mut Queue<Round>, was_linked| {
            if was_linked && q.state.number == mine {
                q.state.arrived -= 1;
            }
        };
        match self.queue.wait(queue, patience, "Barrier::wait", Place::Back(mine), || (), undo) {
            Waited::Notified(_) => BarrierWaitResult(false),
            Waited::TimedOut | Waited::Cancelled => unwind_cancelled(),
        }
    }

    /// Wakes those that wait in round `number`, which is over.
    fn wake(&self, number: usize) {
        let mut batch = Batch::new();
        loop {
            let mut queue = self.queue.lock();
            while !batch.is_full()
                && let Some(w) = queue.waiters.pop_if(|token| token == number)
            {
                batch.push(w);
            }
            drop(queue);
            let done = !batch.is_full();
            batch.wake(0);
            if done {
                return;
            }
        }
    }
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Barrier").field("n", &self.n).finish_non_exhaustive()
    }
}

impl fmt::Debug for BarrierWaitResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BarrierWaitResult").field("is_leader", &self.is_leader()).finish()
    }
}
