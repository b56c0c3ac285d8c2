//! Jobs, and the order in which they are begun.
//!
//! What a thread of rayon's has spawned it runs newest first; what others have spawned, or steal from it, goes oldest first; `spawn_fifo` leaves a marker in that
//! order which stands for the oldest job of a queue of its own. The run queues of the runtime have another order (and age), so a fiber is spawned for *some*
//! job, and takes the one whose turn it is when it begins.

use crate::flush::Ticket;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use unyield::sync::Mutex;

/// Does not unwind.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Jobs that are begun oldest first.
pub(crate) type Fifo = Mutex<VecDeque<Job>>;

pub(crate) enum Entry {
    Job(Job),
    /// The oldest of these.
    OldestOf(Arc<Fifo>),
}

impl Entry {
    pub(crate) fn into_job(self) -> Job {
        match self {
            Entry::Job(job) => job,
            Entry::OldestOf(fifo) => fifo.lock().pop_front().expect("as many markers as jobs"),
        }
    }
}

/// An entry, with what counts it, if it is counted.
pub(crate) type Queued = (Entry, Option<Ticket>);

pub(crate) struct Queue {
    entries: Mutex<VecDeque<Queued>>,
    len: AtomicUsize,
}

impl Queue {
    pub(crate) fn new() -> Queue {
        Queue { entries: Mutex::new(VecDeque::new()), len: AtomicUsize::new(0) }
    }

    pub(crate) fn push(&self, entry: Entry, ticket: Option<Ticket>) {
        let mut entries = self.entries.lock();
        entries.push_back((entry, ticket));
        self.len.store(entries.len(), Relaxed);
    }

    /// Racy.
    pub(crate) fn is_empty(&self) -> bool {
        self.len.load(Relaxed) == 0
    }

    fn pop(&self, end: fn(&mut VecDeque<Queued>) -> Option<Queued>) -> Option<Queued> {
        if self.is_empty() {
            return None;
        }
        let mut entries = self.entries.lock();
        let entry = end(&mut entries);
        self.len.store(entries.len(), Relaxed);
        entry
    }

    pub(crate) fn pop_newest(&self) -> Option<Queued> {
        self.pop(VecDeque::pop_back)
    }

    pub(crate) fn pop_oldest(&self) -> Option<Queued> {
        self.pop(VecDeque::pop_front)
    }
}
