//! A worker: an OS thread that runs fibers, one after the other, on its native stack's scheduler loop.
//!
//! `run` is the loop, `pick` what it takes next, `resume` the ways into and out of a fiber, `preempt` what an interrupt decides, `enqueue` how something becomes runnable,
//! `thief` takes halves of fork-joins from others, `victim` hands them over, `carrier` the threads for calls that block. Carriers and spares are workers too, with another loop.
//!
//! | field | who writes | who reads |
//! |---|---|---|
//! | `receiver` | see `unyield-preempt` | |
//! | `queue` | owner masked; thieves and `push_pinned` anybody | timer, handler (lengths) |
//! | `current`, `slice`, `preempted_slice`, `preempted_at` | the worker, masked | timer, handler |
//! | `tick_slice` | timer | handler, dispatch |
//! | `native`, `native_fs`, `after`, `cache`, `picks`, `exposed_first` | the worker, masked | the worker |
//! | `counters`, `looks` | the worker | anybody, racily |
//! | `mailbox` | see `unyield-stealing` | |
//! | `took_part`, `pace`, `left_some` | the worker | the worker |

pub(crate) mod carrier;
pub(crate) mod enqueue;
mod pace;
mod pick;
pub(crate) mod preempt;
pub(crate) mod resume;
pub(crate) mod run;
pub(crate) mod runnable;
pub(crate) mod spare;
pub(crate) mod stalled;
mod thief;
pub(crate) mod victim;

use crate::identity::Identity;
use crate::par::job::Job;
use crate::park::Waiter;
use crate::runtime::Shared;
use crate::switch::SavedContext;
use runnable::Runnable;
use std::cell::Cell;
use std::ptr::{NonNull, null, null_mut};
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, compiler_fence};
use unyield_preempt::Receiver;
use unyield_preempt::gate::{Gate, gate};
use unyield_preempt::receiver::bump;
use unyield_stealing::{Looks, Mailbox, RunQueue};

/// The vector of the timer's nudge.
pub(crate) const TICK: u8 = 1;
/// The vector of a thief's request.
pub(crate) const STEAL: u8 = 3;

/// What marks the receivers that are workers' first fields: an address of ours.
#[inline(always)]
fn owner() -> usize {
    static MARK: u8 = 0;
    (&raw const MARK).addr()
}

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

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) switches: AtomicU64,
    pub(crate) migrations: AtomicU64,
    pub(crate) preemptions: AtomicU64,
    pub(crate) preemptions_in_calls: AtomicU64,
    pub(crate) steals: AtomicU64,
    /// Halves of fork-joins: interrupts sent for them, answers that there was nothing, requests taken back; halves got, of these without the victim's help.
    pub(crate) fork_requests: AtomicU64,
    pub(crate) fork_refusals: AtomicU64,
    pub(crate) fork_withdrawals: AtomicU64,
    pub(crate) forks_stolen: AtomicU64,
    pub(crate) forks_taken_remotely: AtomicU64,
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
    /// The last slice that a tick has ended, in favour of whatever was next, and when (ns).
    pub(crate) preempted_slice: AtomicU64,
    pub(crate) preempted_at: AtomicU64,
    native: SavedContext,
    native_fs: Cell<usize>,
    native_gate: Cell<*const Gate>,
    after: Cell<After>,
    /// Identities at rest, last in first out.
    cache: Cell<*const Identity>,
    cached: Cell<usize>,
    picks: Cell<u32>,
    /// What parked fibers have forked goes before the injector the next time that both are due.
    exposed_first: Cell<bool>,
    pub(crate) started_ns: AtomicU64,
    pub(crate) counters: Counters,
    /// What thieves ask of this worker, and what it is answered as a thief.
    pub(crate) mailbox: Mailbox<Job>,
    /// Its looks at what others run.
    pub(crate) looks: Looks,
    /// It has taken or given a half of a fork-join since it last looked for work.
    took_part: Cell<bool>,
    pace: pace::Pace,
    /// A victim that it has just robbed had more.
    left_some: Cell<bool>,
    /// Carriers: what to serve next, and the futex word that says so.
    pub(crate) assigned: AtomicPtr<Identity>,
    pub(crate) bell: AtomicU32,
    pub(crate) exiting: AtomicBool,
    /// Under the carriers' lock.
    pub(crate) next_idle: Cell<*const Worker>,
    pub(crate) listed: Cell<bool>,
    /// A fiber has this OS thread for itself (`lock_os_thread`).
    pub(crate) owned: AtomicBool,
    /// … whose FS base is this, and whose TCB shows this thread's id; 0 = nobody's. And which of the two was asked last for `setxid`.
    pub(crate) owner_fs: AtomicUsize,
    setxid_owner: AtomicBool,
    /// Spares: may take work; at rest. See `spare`.
    pub(crate) active: AtomicBool,
    pub(crate) parked: AtomicBool,
    /// The timer has found that the running fiber keeps this worker.
    pub(crate) stuck: AtomicBool,
}

// SAFETY: the table in the header: cells belong to the worker's thread, the rest is atomic or locked.
unsafe impl Send for Worker {}
// SAFETY: as above.
unsafe impl Sync for Worker {}

impl Worker {
    pub(crate) fn new(role: Role, index: usize) -> Worker {
        let mut receiver = Receiver::new();
        // SAFETY: both keep their contracts, see `preempt`.
        unsafe {
            receiver.on_vector(TICK, preempt::on_tick);
            receiver.on_vector(STEAL, victim::on_steal);
            #[cfg(feature = "testing")]
            receiver.on_vector(crate::testing::COUNTING, crate::testing::count);
            receiver.set_filter(preempt::filter);
            receiver.set_owner(owner());
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
            preempted_slice: AtomicU64::new(0),
            preempted_at: AtomicU64::new(0),
            native: SavedContext::empty(),
            native_fs: Cell::new(0),
            native_gate: Cell::new(null()),
            after: Cell::new(After::Nothing),
            cache: Cell::new(null()),
            cached: Cell::new(0),
            picks: Cell::new(0),
            exposed_first: Cell::new(false),
            started_ns: AtomicU64::new(0),
            counters: Counters::default(),
            mailbox: Mailbox::new(),
            looks: Looks::new(),
            took_part: Cell::new(false),
            pace: pace::Pace::default(),
            left_some: Cell::new(false),
            assigned: AtomicPtr::new(null_mut()),
            bell: AtomicU32::new(0),
            exiting: AtomicBool::new(false),
            next_idle: Cell::new(null()),
            listed: Cell::new(false),
            owned: AtomicBool::new(false),
            owner_fs: AtomicUsize::new(0),
            setxid_owner: AtomicBool::new(false),
            active: AtomicBool::new(false),
            parked: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
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
        unsafe {
            debug_assert!((*gate().receiver()).owner() == owner(), "not a worker's receiver");
            &*gate().receiver().cast::<Worker>()
        }
    }

    /// As [`Worker::current`]; `None` on a plain thread, also one that is a receiver by itself (`unyield_preempt::endpoint`).
    ///
    /// # Safety
    /// Masked.
    #[inline(always)]
    pub(crate) unsafe fn try_current<'a>() -> Option<&'a Worker> {
        // SAFETY: a gate names a live receiver, or none; ours is a worker's first field.
        unsafe {
            let receiver = gate().receiver();
            let is_worker = receiver.as_ref()?.owner() == owner();
            is_worker.then(|| &*receiver.cast::<Worker>())
        }
    }

    /// True unless it is a carrier or a spare whose turn is over. Any context.
    #[inline]
    pub(crate) fn takes_work(&self) -> bool {
        self.role == Role::Regular || self.active.load(Relaxed)
    }

    /// FS base of the worker's own thread; 0 where identities are shared. Its thread, or a child forked from it.
    pub(crate) fn native_fs(&self) -> usize {
        self.native_fs.get()
    }

    /// FS base of the thread identity that is to answer libc's next `setxid` signal on this thread: the worker's own; 0 where identities are shared. The TCB of
    /// a fiber that owns the thread shows the thread's id as well, so libc signals the thread for either of them, and asks again until both have
    /// answered: they take turns. Handler.
    pub(crate) fn setxid_fs(&self) -> usize {
        match self.owner_fs.load(Relaxed) {
            owner if owner != 0 && !self.setxid_owner.fetch_xor(true, Relaxed) => owner,
            _ => self.native_fs.get(),
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
        // SAFETY: masked; the identity is ours to resume.
        let forks = unsafe { self.runtime().exposed.resuming(identity, self.role == Role::Carrier) };
        bump(&self.counters.switches);
        let last = identity.last_worker.replace(self.index);
        if last != self.index && last != usize::MAX {
            bump(&self.counters.migrations);
        }
        self.begin_slice();
        self.current.store((identity as *const Identity).cast_mut(), Release); // pairs with the timer's acquire
        if forks && (self.role == Role::Carrier || self.runtime().several_slots()) {
            self.runtime().watch.fork_check(self.runtime()); // it may have ended while the fiber was away
        }
    }

    /// A fiber begins here. Masked, on this worker.
    #[inline]
    pub(crate) fn count_spawned(&self) {
        match self.role {
            Role::Regular => bump(&self.counters.spawned),
            Role::Carrier | Role::Spare => {
                self.runtime().spawned_outside.fetch_add(1, Relaxed);
            }
        }
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
        // A fiber that computes on a carrier, or on a spare whose turn is over, belongs on a worker; one that has kept its worker shall show that it can leave.
        !self.takes_work() || self.stuck.load(Relaxed) || self.other_work_waits()
    }

    /// True if something that this worker may run waits in a queue. Any thread, also a handler.
    pub(crate) fn other_work_waits(&self) -> bool {
        let runtime = self.runtime();
        self.queue.has_work()
            || runtime.leaving.load(Relaxed)
            || !runtime.injector.is_empty()
            || !runtime.exposed.is_empty()
            || runtime.slots().any(|other| other.index != self.index && other.queue.has_stealable())
    }
}
