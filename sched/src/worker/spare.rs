//! Spare workers: threads made in advance that stand in for workers which do not come back to their queue: a fiber with all signals blocked, a call that no
//! signal ends, a critical section that blocks, a foreign handler that takes long.
//!
//! A spare runs the same scheduler loop as a regular worker, with a queue of its own, and takes from the others' (also the stuck one's) as any thief does. What
//! only the stuck worker may run, its pinned queue, waits for it. The timer thread decides (`runtime::timer`, rule 1: memory words and a futex wake, no more):
//!
//! ```text
//!   parked ──timer: a worker is stuck and work waits──► active ──timer: it answered──► retiring: takes nothing new,
//!      ▲                                                                               is ticked off its fiber
//!      └──────────────────── its queue emptied into the injector ◄─────────────────────────┘
//! ```
//!
//! | field | who writes | who reads |
//! |---|---|---|
//! | `Worker::active` | timer; shutdown clears nothing, it sets `exiting` | the spare, handler, timer |
//! | `Spares::awake` | timer adds when it activates, the spare subtracts when its queue is empty | who looks for work |
//! | `Spares::count`, `threads` | the service thread | anybody |
//!
//! Fibers that share their worker's identity cannot leave it, so there are no spares in that mode, and none without ticks.

use super::{Role, Worker, carrier};
use crate::preempt::Preemption;
use crate::runtime::Shared;
use std::ptr::null_mut;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicPtr, AtomicUsize};

/// So many fibers at a time may refuse every interrupt before the rest has to wait for them.
pub(crate) const MAX: usize = 64;

/// The spares of a runtime.
pub(crate) struct Spares {
    /// Slots `0..count` are filled.
    threads: [AtomicPtr<Worker>; MAX],
    count: AtomicUsize,
    /// Spares that are not parked: their queues may hold something.
    awake: AtomicUsize,
    max: usize,
    pub(crate) handles: parking_lot::Mutex<Vec<std::thread::JoinHandle<()>>>,
}

impl Spares {
    pub(crate) fn new(preemption: Preemption) -> Self {
        Spares {
            threads: [const { AtomicPtr::new(null_mut()) }; MAX],
            count: AtomicUsize::new(0),
            awake: AtomicUsize::new(0),
            max: if preemption == Preemption::Anywhere { MAX } else { 0 },
            handles: parking_lot::Mutex::new(Vec::new()),
        }
    }

    /// All that have been started.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Worker> {
        let count = self.count.load(Acquire);
        // SAFETY: spares live as long as the runtime.
        self.threads[..count].iter().filter_map(|slot| unsafe { slot.load(Acquire).as_ref() })
    }

    /// Those that may hold work; nothing but a load if there are none, as nearly always. Any context.
    #[inline]
    pub(crate) fn awake(&self) -> impl Iterator<Item = &Worker> {
        let any = self.any_awake();
        any.then(|| self.all()).into_iter().flatten()
    }

    /// True if a spare runs. Any context.
    #[inline]
    pub(crate) fn any_awake(&self) -> bool {
        self.awake.load(Relaxed) != 0
    }

    pub(crate) fn num_awake(&self) -> usize {
        self.awake.load(Relaxed)
    }

    /// True if the service should start another thread: there is always one parked in advance.
    pub(crate) fn wants_more(&self) -> bool {
        let count = self.count.load(Relaxed);
        count < self.max && count == self.awake.load(Relaxed)
    }

    /// Timer thread: sends one spare to work. False: none is parked (the service makes one).
    pub(crate) fn activate(&self, runtime: &Shared) -> bool {
        let parked = self.all().find(|spare| !spare.active.load(Relaxed) && spare.parked.load(Acquire));
        if let Some(spare) = parked {
            self.awake.fetch_add(1, Relaxed);
            spare.parked.store(false, Relaxed);
            spare.active.store(true, Release); // pairs with the acquire in `serve`
            carrier::ring(spare);
        }
        if self.wants_more() {
            runtime.service.wake();
        }
        parked.is_some()
    }

    /// Timer thread: `spare` is to stop once its fiber has left it.
    pub(crate) fn retire(&self, runtime: &Shared, spare: &Worker) {
        spare.active.store(false, Release);
        runtime.idle.notify_worker(spare.index);
    }

    /// Takes all spares: the end of the runtime, after their threads were joined.
    pub(crate) fn take_all(&self) -> impl Iterator<Item = *mut Worker> {
        self.threads.iter().map(|slot| slot.swap(null_mut(), AcqRel)).filter(|spare| !spare.is_null())
    }
}

/// The loop of a spare's thread, on its native stack, masked.
///
/// # Safety
/// Attached, on the spare's thread.
pub(crate) unsafe fn serve(spare: &Worker) {
    let runtime = spare.runtime();
    loop {
        let seen = spare.bell.load(Acquire);
        if spare.exiting.load(Acquire) {
            return;
        }
        if spare.active.load(Acquire) && !runtime.stopping.load(Acquire) {
            // SAFETY: masked, native stack; returns when the spare is to retire or the runtime stops. Afterwards the queue's owner is here.
            unsafe {
                spare.schedule(spare.index as u64);
                if !runtime.leaving.load(Acquire) {
                    spare.queue.drain(|runnable| runtime.inject(runnable));
                }
            }
            runtime.spares.awake.fetch_sub(1, Relaxed);
            spare.parked.store(true, Release); // pairs with the acquire in `activate`
            continue;
        }
        carrier::wait(&spare.bell, seen);
    }
}

/// Starts one more spare thread. The service thread only.
pub(crate) fn start_one(runtime: &Shared) -> std::io::Result<()> {
    let spares = &runtime.spares;
    let number = spares.count.load(Relaxed);
    let spare: &'static Worker =
        Box::leak(Box::new(Worker::new(Role::Spare, runtime.workers.len() + number)));
    spare.runtime.set(runtime);
    let started = std::thread::Builder::new().name(format!("unyield-spare-{number}")).spawn(move || {
        // SAFETY: this thread becomes the spare; shutdown joins it before the runtime goes.
        unsafe {
            spare.main(0, |attached| {
                if attached.is_ok() {
                    spare.parked.store(true, Release);
                }
            })
        };
    });
    match started {
        Ok(handle) => {
            // Visible before its handle is: who joins it has seen it.
            spares.threads[number].store((spare as *const Worker).cast_mut(), Release);
            spares.count.store(number + 1, SeqCst);
            spares.handles.lock().push(handle);
            Ok(())
        }
        Err(error) => {
            // SAFETY: just boxed, and its thread does not exist.
            drop(unsafe { Box::from_raw((spare as *const Worker).cast_mut()) });
            Err(error)
        }
    }
}
