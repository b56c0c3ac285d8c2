//! A worker: an OS thread that runs fibers, one after the other, on its native stack's scheduler loop.
//!
//! `run` is the loop, `resume` the ways into and out of a fiber, `preempt` what an interrupt decides, `enqueue` how something becomes runnable,
//! `carrier` the threads for calls that block. Carriers and spares are workers too, with another loop.
//!
//! | field | who writes | who reads |
//! |---|---|---|
//! | `receiver` | see `unyield-preempt` | |
//! | `queue` | owner masked; thieves and `push_pinned` anybody | timer, handler (lengths) |
//! | `current`, `slice` | the worker, masked | timer, handler |
//! | `tick_slice` | timer | handler, dispatch |
//! | `native`, `native_fs`, `after`, `cache`, `picks` | the worker, masked | the worker |
//! | `counters` | the worker | anybody, racily |

pub(crate) mod carrier;
pub(crate) mod enqueue;
pub(crate) mod preempt;
pub(crate) mod resume;
pub(crate) mod run;
pub(crate) mod runnable;
pub(crate) mod spare;

use crate::fiber::task::Task;
use crate::identity::Identity;
use crate::park::Waiter;
use crate::runtime::Shared;
use crate::switch::SavedContext;
use runnable::{Kind, Runnable};
use std::cell::Cell;
use std::ptr::{NonNull, null, null_mut};
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, compiler_fence};
use unyield_preempt::Receiver;
use unyield_preempt::gate::{Gate, gate};
use unyield_preempt::receiver::bump;
use unyield_stealing::RunQueue;

/// The vector of the timer's nudge.
pub(crate) const TICK: u8 = 1;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// Has a slot: runs whatever is runnable.
    Regular,
    /// Serves one fiber at a time that blocks in the kernel or wants an OS thread of its own.
    Carrier,
    /// Stands in for a regular worker that is stuck.
    Spare,
}

/// What is to be done with a fiber that has just left its stack; done by whoever goes on, when the stack is free (rule 3).
#[derive(Clone, Copy)]
pub(crate) enum After {
    Nothing,
    /// It yielded or was preempted: to the end of the queue.
    Requeue(NonNull<Identity>),
    /// It waits.
    Park(NonNull<Waiter>),
    /// Its task has ended.
    Done(NonNull<Identity>),
    /// It was interrupted in a call that blocks: to a carrier if there is one.
    Blocked(NonNull<Identity>),
    /// It asked for a carrier.
    Carry(NonNull<Identity>),
}

/// What an identity finds when its task has ended.
pub(crate) enum Pick<'a> {
    /// An unstarted task, bound to it already.
    Here,
    /// Another identity.
    Other(&'a Identity),
    Nothing,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) switches: AtomicU64,
    pub(crate) migrations: AtomicU64,
    pub(crate) preemptions: AtomicU64,
    pub(crate) preemptions_in_calls: AtomicU64,
    pub(crate) steals: AtomicU64,
    pub(crate) spawned: AtomicU64,
    pub(crate) ended: AtomicU64,
    pub(crate) idle_ns: AtomicU64,
}

#[repr(C)]
pub(crate) struct Worker {
    /// First: the gate names the receiver, and so the worker.
    pub(crate) receiver: Receiver,
    pub(crate) role: Role,
    pub(crate) index: usize,
    pub(crate) runtime: Cell<*const Shared>,
    pub(crate) queue: RunQueue<Runnable>,
    pub(crate) current: AtomicPtr<Identity>,
    pub(crate) slice: AtomicU64,
    pub(crate) tick_slice: AtomicU64,
    native: SavedContext,
    native_fs: Cell<usize>,
    native_gate: Cell<*const Gate>,
    after: Cell<After>,
    /// Identities at rest, last in first out.
    cache: Cell<*const Identity>,
    cached: Cell<usize>,
    picks: Cell<u32>,
    pub(crate) started_ns: AtomicU64,
    pub(crate) counters: Counters,
    /// Carriers: what to serve next, and the futex word that says so.
    pub(crate) assigned: AtomicPtr<Identity>,
    pub(crate) bell: AtomicU32,
    pub(crate) exiting: AtomicBool,
    /// Under the carriers' lock.
    pub(crate) next_idle: Cell<*const Worker>,
    pub(crate) listed: Cell<bool>,
    /// A fiber has this OS thread for itself (`lock_os_thread`).
    pub(crate) owned: AtomicBool,
    /// Spares: may take work; at rest. See `spare`.
    pub(crate) active: AtomicBool,
    pub(crate) parked: AtomicBool,
}

// SAFETY: the table in the header: cells belong to the worker's thread, the rest is atomic or locked.
unsafe impl Send for Worker {}
// SAFETY: as above.
unsafe impl Sync for Worker {}

const CACHE_LIMIT: usize = 64;
/// Every so many picks the injector goes first.
const GLOBAL_EVERY: u32 = 61;
/// How many runnables a worker takes from the injector at once, so that the others get theirs.
const BATCH: usize = 16;

impl Worker {
    pub(crate) fn new(role: Role, index: usize) -> Worker {
        let mut receiver = Receiver::new();
        // SAFETY: both keep their contracts, see `preempt`.
        unsafe {
            receiver.on_vector(TICK, preempt::on_tick);
            #[cfg(feature = "testing")]
            receiver.on_vector(crate::testing::COUNTING, crate::testing::count);
            receiver.set_filter(preempt::filter);
        }
        Worker {
            receiver,
            role,
            index,
            runtime: Cell::new(null()),
            queue: RunQueue::new(),
            current: AtomicPtr::new(null_mut()),
            slice: AtomicU64::new(1),
            tick_slice: AtomicU64::new(0),
            native: SavedContext::empty(),
            native_fs: Cell::new(0),
            native_gate: Cell::new(null()),
            after: Cell::new(After::Nothing),
            cache: Cell::new(null()),
            cached: Cell::new(0),
            picks: Cell::new(0),
            started_ns: AtomicU64::new(0),
            counters: Counters::default(),
            assigned: AtomicPtr::new(null_mut()),
            bell: AtomicU32::new(0),
            exiting: AtomicBool::new(false),
            next_idle: Cell::new(null()),
            listed: Cell::new(false),
            owned: AtomicBool::new(false),
            active: AtomicBool::new(false),
            parked: AtomicBool::new(false),
        }
    }

    pub(crate) fn runtime(&self) -> &Shared {
        // SAFETY: set before the worker's thread starts; the runtime outlives its workers.
        unsafe { &*self.runtime.get() }
    }

    /// The worker that the caller runs on.
    ///
    /// # Safety
    /// Masked (or it may be another one by the time it is used), on a fiber or a worker's native stack.
    #[inline(always)]
    pub(crate) unsafe fn current<'a>() -> &'a Worker {
        // SAFETY: the gate of a fiber or a worker names a worker's receiver, its first field; workers live as long as their runtime.
        unsafe { &*gate().receiver().cast::<Worker>() }
    }

    /// As [`Worker::current`]; `None` on a plain thread.
    ///
    /// # Safety
    /// Masked.
    #[inline(always)]
    pub(crate) unsafe fn try_current<'a>() -> Option<&'a Worker> {
        // SAFETY: as above, or null.
        unsafe { gate().receiver().cast::<Worker>().as_ref() }
    }

    /// True unless it is a carrier or a spare whose turn is over. Any context.
    #[inline]
    pub(crate) fn takes_work(&self) -> bool {
        self.role == Role::Regular || self.active.load(Relaxed)
    }

    /// FS base of the worker's own thread identity; 0 where identities are shared. Handler.
    pub(crate) fn native_fs(&self) -> usize {
        self.native_fs.get()
    }

    /// What should run next of what this worker can reach without searching: its urgent queues, the injector, then what has had its quantum.
    ///
    /// # Safety
    /// Masked, on this worker, on any identity.
    #[inline]
    unsafe fn next_runnable(&self) -> Option<NonNull<Runnable>> {
        if !self.takes_work() {
            return None;
        }
        let picks = self.picks.get();
        self.picks.set(picks + 1);
        // SAFETY: owner, masked.
        unsafe {
            if picks >= GLOBAL_EVERY || self.queue.is_ageing() {
                self.picks.set(0);
                if let Some(runnable) = self.from_injector() {
                    return Some(runnable);
                }
            }
            self.queue.pop_urgent().or_else(|| self.from_injector()).or_else(|| self.queue.pop_aged())
        }
    }

    /// Takes from the injector: one to run, a few more for our own queue.
    ///
    /// # Safety
    /// As for [`Worker::next_runnable`].
    #[inline]
    unsafe fn from_injector(&self) -> Option<NonNull<Runnable>> {
        let injector = &self.runtime().injector;
        if injector.is_empty() {
            return None;
        }
        let share = (injector.len() / self.runtime().workers.len()).clamp(1, BATCH);
        let mut batch = injector.pop_many(share);
        let first = batch.pop_front();
        while let Some(runnable) = batch.pop_front() {
            // Woken order, not the stack of fresh tasks: the injector is first in, first out.
            // SAFETY: owner, masked; it was taken out of the injector.
            unsafe {
                if let Err(full) = self.queue.push_woken(runnable) {
                    injector.push(full);
                }
            }
        }
        first
    }

    /// The next fiber that this worker can reach without searching, bound to an identity. `None`: the scheduler loop must look.
    ///
    /// # Safety
    /// Masked, on this worker, on any identity.
    #[inline]
    pub(crate) unsafe fn pick(&self) -> Option<&Identity> {
        // SAFETY: owner, masked; what was taken out of a queue is ours.
        unsafe {
            let runnable = self.next_runnable()?;
            self.bind(runnable).or_else(|| self.pick_started())
        }
    }

    /// The next fiber that has started: no identity is free for a new one.
    ///
    /// # Safety
    /// As for [`Worker::pick`].
    #[cold]
    pub(crate) unsafe fn pick_started(&self) -> Option<&Identity> {
        // SAFETY: owner, masked; what was taken out of the queue is ours.
        unsafe {
            // The injector as well: a fiber there may be what gives an identity back.
            while let Some(runnable) = self.queue.pop_started().or_else(|| self.from_injector()) {
                match runnable.as_ref().kind {
                    Kind::Identity => return Some(self.started(runnable)),
                    // from the injector: it gets the next identity that is made
                    Kind::Task => self.runtime().starve(runnable),
                }
            }
        }
        None
    }

    /// As [`Worker::pick`], for an identity that is free to run a task itself.
    ///
    /// # Safety
    /// Masked, on this worker; `identity` is the running one, without a task.
    #[inline]
    pub(crate) unsafe fn pick_for(&self, identity: &Identity) -> Pick<'_> {
        // SAFETY: owner, masked; what was taken out of a queue is ours.
        unsafe {
            let Some(runnable) = self.next_runnable() else { return Pick::Nothing };
            if runnable.as_ref().kind == Kind::Task
                && runnable.cast::<Task>().as_ref().stack_size == identity.stack.asked()
            {
                identity.take_task(runnable.cast());
                return Pick::Here;
            }
            match self.bind(runnable).or_else(|| self.pick_started()) {
                Some(other) => Pick::Other(other),
                None => Pick::Nothing,
            }
        }
    }

    /// No identity is free for a task: it goes back to where new tasks are, so that it is started in its turn and not one moment later than its older
    /// siblings (a tree of tasks would otherwise be started level by level, and need an identity for each).
    unsafe fn put_back(&self, task: NonNull<Runnable>) {
        let runtime = self.runtime();
        // SAFETY: owner, masked; it was just taken out of a queue.
        unsafe {
            if task.cast::<Task>().as_ref().stack_size != runtime.stack_size || self.role != Role::Regular {
                return runtime.starve(task);
            }
            self.queue.push_fresh(task);
            runtime.service.want_identity();
        }
    }

    /// An identity that runs `runnable`. `None`: it is a task, and no identity is free; it waits for one.
    ///
    /// # Safety
    /// Masked, on this worker; `runnable` was taken out of a queue.
    #[inline]
    pub(crate) unsafe fn bind(&self, runnable: NonNull<Runnable>) -> Option<&Identity> {
        // SAFETY: the header says what it is the first field of.
        unsafe {
            match runnable.as_ref().kind {
                Kind::Identity => Some(self.started(runnable)),
                Kind::Task => {
                    let task = runnable.cast::<Task>();
                    match self.free_identity(task.as_ref().stack_size) {
                        Some(identity) => {
                            identity.take_task(task);
                            Some(identity)
                        }
                        None => {
                            self.put_back(runnable);
                            None
                        }
                    }
                }
            }
        }
    }

    /// # Safety
    /// Masked, on this worker; `runnable` is an identity that was taken out of a queue.
    #[inline]
    unsafe fn started(&self, runnable: NonNull<Runnable>) -> &Identity {
        // SAFETY: the header says what it is the first field of.
        let identity = unsafe { &*runnable.cast::<Identity>().as_ptr() };
        if identity.gate.get().is_null() {
            self.adopt(identity); // made by the service for a task, and run for the first time
        }
        identity
    }

    /// # Safety
    /// Masked, on this worker.
    #[inline]
    unsafe fn free_identity(&self, stack_size: usize) -> Option<&Identity> {
        let runtime = self.runtime();
        if stack_size != runtime.stack_size {
            return None; // made for it by the service
        }
        // SAFETY: identities at rest are alive.
        match unsafe { self.cache.get().as_ref() } {
            Some(identity) => {
                self.cache.set(identity.next_free.get());
                self.cached.set(self.cached.get() - 1);
                Some(identity)
            }
            None => {
                let identity = runtime.pool.pop()?;
                self.adopt(identity);
                Some(identity)
            }
        }
    }

    /// A shared identity that no worker has run belongs to the first that does.
    pub(crate) fn adopt(&self, identity: &Identity) {
        if identity.is_shared() {
            identity.bound.set(self);
            identity.gate.set(self.native_gate.get());
        }
    }

    /// Takes back an identity whose task has ended and that has left its stack.
    ///
    /// # Safety
    /// Masked, on this worker.
    unsafe fn release(&self, identity: &Identity) {
        let runtime = self.runtime();
        if identity.retire.get() {
            return runtime.service.retire(identity);
        }
        if self.role == Role::Regular && (self.cached.get() < CACHE_LIMIT || identity.is_shared()) {
            identity.next_free.set(self.cache.get());
            self.cache.set(identity);
            self.cached.set(self.cached.get() + 1);
        } else {
            let was_rich = runtime.pool.is_rich();
            runtime.pool.push(identity);
            if !was_rich && runtime.pool.is_rich() {
                runtime.service.pool_is_rich();
            }
        }
    }

    /// Makes `identity` the one that runs next on this worker.
    ///
    /// # Safety
    /// Masked, on this worker; `identity` is at rest and in no queue.
    #[inline]
    pub(crate) unsafe fn prepare(&self, identity: &Identity) {
        // SAFETY: the identity does not run; this worker outlives its stay here.
        unsafe { (*identity.gate.get()).set_receiver(&self.receiver) };
        if identity.is_shared() {
            // SAFETY: the gate is this worker's own.
            unsafe {
                (*identity.gate.get()).set_owner(identity.task.load(Relaxed).cast());
                (*identity.gate.get()).take_request(); // it was for the previous fiber
            }
        }
        bump(&self.counters.switches);
        let last = identity.last_worker.replace(self.index);
        if last != self.index && last != usize::MAX {
            bump(&self.counters.migrations);
        }
        self.begin_slice();
        self.current.store((identity as *const Identity).cast_mut(), Release); // pairs with the timer's acquire
    }

    /// A task has ended here. Masked, on this worker.
    pub(crate) fn count_ended(&self) {
        match self.role {
            Role::Regular => bump(&self.counters.ended),
            Role::Carrier | Role::Spare => {
                self.runtime().ended_outside.fetch_add(1, Relaxed);
            }
        }
    }

    /// A new slice: a tick that was meant for what ran before is void.
    #[inline]
    pub(crate) fn begin_slice(&self) {
        self.slice.store(self.slice.load(Relaxed) + 1, Relaxed);
        compiler_fence(std::sync::atomic::Ordering::SeqCst);
        if self.receiver.pending() & (1 << TICK) != 0 {
            self.receiver.clear(1 << TICK);
        }
    }

    /// Does what is to be done with whoever has left.
    ///
    /// # Safety
    /// Masked, on this worker, after a switch: the leaver's stack is free.
    #[inline]
    pub(crate) unsafe fn settle(&self) {
        // SAFETY: what `After` names was running here until the switch and is nobody's yet; it has left the thread for good, unless it owns it.
        unsafe {
            if !self.owned.load(Relaxed) {
                self.receiver.repair();
            }
            match self.after.replace(After::Nothing) {
                After::Nothing => {}
                After::Requeue(identity) => self.requeue(identity.as_ref()),
                After::Park(waiter) => {
                    if waiter.as_ref().publish() {
                        enqueue::woken(waiter.as_ref().task());
                    }
                }
                After::Done(identity) => self.release(&*identity.as_ptr()),
                After::Blocked(identity) => carrier::moved(self, &*identity.as_ptr()),
                After::Carry(identity) => carrier::requested(self, &*identity.as_ptr()),
            }
        }
    }

    /// To the end of the queue.
    ///
    /// # Safety
    /// Masked, on this worker; the identity has left its stack and is in no queue.
    pub(crate) unsafe fn requeue(&self, identity: &Identity) {
        let runnable = NonNull::from(&identity.head);
        // SAFETY: as promised.
        unsafe {
            match identity.bound.get().as_ref() {
                Some(bound) => enqueue::pinned(bound, identity),
                None if self.role != Role::Carrier => {
                    self.queue.push_expired(runnable);
                    self.runtime().announce(true);
                }
                None => self.runtime().inject(runnable),
            }
        }
    }

    /// True if something else than the running fiber could run here: rule 5. Any thread, also a handler.
    pub(crate) fn has_other_work(&self) -> bool {
        if !self.takes_work() {
            return true; // a fiber that computes on a carrier, or on a spare whose turn is over, belongs on a worker
        }
        let runtime = self.runtime();
        self.queue.has_work()
            || runtime.leaving.load(Relaxed)
            || !runtime.injector.is_empty()
            || runtime.slots().any(|other| other.index != self.index && other.queue.has_stealable())
    }
}
