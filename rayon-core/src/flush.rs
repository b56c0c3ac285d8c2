//! What a broadcast comes after.
//!
//! A thread of rayon's runs a broadcast when it has nothing else to do: after the job that it runs, and after those that were spawned on it. Programs use that to
//! know that what they have spawned is done. Fibers would overtake it. So each job is counted with the queue that it was spawned to, or that it was begun at, for as
//! long as it neither ends nor waits in rayon, and a broadcast to that index waits until those that were counted before it are gone.
//!
//! The counts are of two ages, the parity of an epoch. A broadcast begins a new epoch and waits for the older one: new jobs do not hold it up.

use crossbeam_utils::CachePadded;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use unyield::raw::Latch;
use unyield::sync::Mutex;

/// A job that is counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    queue: u32,
    parity: u32,
}

impl Ticket {
    pub(crate) fn queue(self) -> usize {
        self.queue as usize
    }
}

/// The jobs of one queue.
pub(crate) struct Flush {
    epoch: AtomicUsize,
    counted: [CachePadded<AtomicUsize>; 2],
    /// One broadcast at a time.
    turn: Mutex<()>,
    waits: AtomicBool,
    waiter: Mutex<Option<Arc<Latch>>>,
}

impl Flush {
    pub(crate) fn new() -> Flush {
        Flush {
            epoch: AtomicUsize::new(0),
            counted: [const { CachePadded::new(AtomicUsize::new(0)) }; 2],
            turn: Mutex::new(()),
            waits: AtomicBool::new(false),
            waiter: Mutex::new(None),
        }
    }

    /// One more job, of this queue.
    pub(crate) fn enter(&self, queue: usize) -> Ticket {
        loop {
            let parity = self.epoch.load(SeqCst) & 1;
            self.counted[parity].fetch_add(1, SeqCst);
            let ticket = Ticket { queue: queue as u32, parity: parity as u32 };
            // Whoever began an epoch in between may not have seen the count.
            if self.epoch.load(SeqCst) & 1 == parity {
                return ticket;
            }
            self.leave(ticket);
        }
    }

    pub(crate) fn leave(&self, ticket: Ticket) {
        let left = self.counted[ticket.parity as usize].fetch_sub(1, SeqCst) - 1;
        // A Dekker pair with `wait`: it says that it waits and looks again.
        if left == 0
            && self.waits.load(SeqCst)
            && let Some(latch) = self.waiter.lock().take()
        {
            latch.end();
        }
    }

    /// Waits for the jobs that are counted now.
    pub(crate) fn wait(&self) {
        let _turn = self.turn.lock();
        let old = &self.counted[self.epoch.fetch_add(1, SeqCst) & 1];
        while old.load(SeqCst) > 0 {
            let latch = Arc::new(Latch::new());
            latch.begin();
            *self.waiter.lock() = Some(latch.clone());
            self.waits.store(true, SeqCst);
            let gone = old.load(SeqCst) == 0 && self.waiter.lock().take().is_some();
            if !gone {
                latch.wait(); // also by the last of the new age: then once more
            }
            self.waits.store(false, SeqCst);
        }
    }
}
