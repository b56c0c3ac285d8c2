//! The scheduler loop of a regular worker, on its native stack: masked for ever, so nothing in it may allocate, free, lock or run user code.

use super::thief::Loot;
use super::{Role, Worker, resume};
use crate::identity::Identity;
use crate::runtime::Shared;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::ptr::null;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;
use unyield_preempt::arch::insn;
use unyield_preempt::foreign::AlternateStack;
use unyield_preempt::gate::gate;
use unyield_preempt::receiver::bump;
use unyield_preempt::tick;

/// How many times an idle worker looks everywhere before it sleeps.
const SEARCHES: u32 = 2;
/// Pause instructions between two searches.
const PAUSES: u32 = 16;

impl Worker {
    /// The body of a worker's thread between its hooks: attaches, runs until the runtime stops, detaches.
    ///
    /// # Safety
    /// Once, on the thread that is to be this worker; the runtime outlives the call.
    pub(crate) unsafe fn main(&self, seed: u64, ready: impl FnOnce(std::io::Result<()>)) {
        let alternate = match AlternateStack::install() {
            Ok(alternate) => alternate,
            Err(error) => return ready(Err(error)),
        };
        // SAFETY: a plain thread's own gate, open; nobody posts before the thread is attached.
        unsafe { gate().set_receiver(&self.receiver) };
        if let Err(error) = self.receiver.register(self.runtime().mechanism) {
            // SAFETY: as above.
            unsafe { gate().set_receiver(null()) };
            return ready(Err(error));
        }
        ready(Ok(())); // it may lock and free, so before the gate closes
        // SAFETY: this thread becomes the worker.
        unsafe { self.attach() };
        // SAFETY: masked and attached.
        unsafe {
            match self.role {
                Role::Regular => self.schedule(seed),
                Role::Carrier => super::carrier::serve(self),
                Role::Spare => super::spare::serve(self),
            }
            self.detach();
        }
        drop(alternate);
    }

    unsafe fn attach(&self) {
        // SAFETY: settings of the calling thread; FSGSBASE was probed unless identities are shared, in which case FS is never swapped.
        unsafe {
            libc::prctl(libc::PR_SET_TIMERSLACK, 1);
            if self.role != Role::Regular {
                // born of a thread that blocks everything
                insn::set_signal_mask(self.runtime().signal_mask);
            }
            if !self.runtime().shares_identities() {
                self.native_fs.set(insn::rdfsbase());
            }
            let gate = gate();
            gate.prepare_shared(); // never interrupted in place: native code of a worker is masked anyway
            gate.return_by_uiret(self.runtime().mechanism.has_uif());
            self.native_gate.set(gate);
        }
        self.started_ns.store(tick::now(), Relaxed);
        self.receiver.attach(self.runtime().signal);
    }

    unsafe fn detach(&self) {
        self.receiver.detach();
        // SAFETY: this thread's own; detached, and no fiber runs here any more.
        unsafe { gate().open() }; // a plain thread again, which may lock and free; what comes late finds no room for a frame
        self.receiver.unregister();
        // SAFETY: the thread runs no fiber any more.
        unsafe { gate().set_receiver(null()) };
    }

    /// Runs fibers until the runtime stops, or until a spare's turn is over.
    ///
    /// # Safety
    /// Attached, on this worker's native stack, masked.
    pub(super) unsafe fn schedule(&self, seed: u64) {
        let runtime = self.runtime();
        let mut rng = SmallRng::seed_from_u64(seed);
        // SAFETY: native stack, masked.
        unsafe {
            loop {
                self.settle();
                match self.find(runtime, &mut rng) {
                    Some(identity) => resume::enter(self, identity),
                    None => return,
                }
            }
        }
    }

    /// What to run next; sleeps while there is nothing. `None`: the runtime stops, or a spare's turn is over.
    unsafe fn find<'a>(&'a self, runtime: &'a Shared, rng: &mut SmallRng) -> Option<&'a Identity> {
        if runtime.leaving.load(Acquire) {
            return None; // what is left is leaked
        }
        // Notifiers rely on this worker, which must wake another one for what it leaves: see `unyield_stealing`'s README of `Idle`.
        let mut duty = false;
        loop {
            if !self.takes_work() {
                self.pass_on(runtime, duty);
                return None; // a spare's turn is over
            }
            let mut starving = false;
            // SAFETY: native stack, masked.
            unsafe {
                if let Some(runnable) = self.next_runnable() {
                    match self.bind(runnable).or_else(|| self.pick_started()) {
                        Some(identity) => {
                            self.pass_on(runtime, duty);
                            return Some(identity);
                        }
                        None => starving = true,
                    }
                }
                if runtime.stopping.load(Acquire) {
                    return None;
                }
                if !starving && runtime.idle.begin_search() {
                    let mut found = None;
                    let mut searches = 0;
                    let until = self.search_until();
                    while found.is_none() && (searches < SEARCHES || tick::now() < until) {
                        searches += 1;
                        self.refuse_thief();
                        found = self
                            .take_injected()
                            .and_then(|runnable| self.bind(runnable))
                            .or_else(|| self.steal(runtime, rng));
                        if found.is_some() {
                            break;
                        }
                        match self.steal_fork(runtime, rng) {
                            Loot::Fiber(identity) => found = Some(identity),
                            Loot::Nothing => {}
                            Loot::NoIdentity => {
                                starving = true;
                                break;
                            }
                        }
                        // What is queued here by others: pinned fibers, and what a spare or a timer has put here.
                        if self.queue.has_work() || runtime.stopping.load(Relaxed) || !self.takes_work() {
                            break;
                        }
                        for _ in 0..PAUSES {
                            std::hint::spin_loop();
                        }
                    }
                    duty |= runtime.idle.end_search();
                    if let Some(identity) = found {
                        if self.left_some.replace(false) {
                            runtime.idle.notify_one(); // nobody was woken while this worker was a searcher itself
                        } else {
                            self.pass_on(runtime, duty);
                        }
                        return Some(identity);
                    }
                    if self.queue.has_work() {
                        continue;
                    }
                }
            }
            duty = self.sleep(runtime, starving, duty);
        }
    }

    /// Discharges a duty to wake another worker for what is left.
    fn pass_on(&self, runtime: &Shared, duty: bool) {
        if duty && runtime.several_slots() && (runtime.has_queued_work() || self.sees_eager_forks(runtime)) {
            runtime.idle.notify_one();
        }
    }

    /// `starving`: all that is left are tasks that wait for an identity; the service wakes us when it has made one. Returns the duty that is left.
    fn sleep(&self, runtime: &Shared, starving: bool, duty: bool) -> bool {
        self.refuse_thief();
        let ticket = runtime.idle.prepare_sleep_as(self.index);
        // The last look comes after the registration: an enqueuer that does not see us is seen by us.
        let work = if starving {
            runtime.pool.has_some() || self.queue.has_started() || !runtime.injector.is_empty()
        } else {
            self.queue.has_work() || runtime.has_queued_work() || self.sees_eager_forks(runtime)
        };
        if work || runtime.stopping.load(Acquire) || !self.takes_work() {
            return duty | runtime.idle.cancel_sleep(ticket);
        }
        let start = tick::now();
        let claimed = runtime.idle.sleep(ticket, None::<Duration>);
        let slept = tick::now().saturating_sub(start);
        self.counters.idle_ns.store(self.counters.idle_ns.load(Relaxed) + slept, Relaxed);
        claimed
    }

    unsafe fn steal<'a>(&'a self, runtime: &'a Shared, rng: &mut SmallRng) -> Option<&'a Identity> {
        let workers = &runtime.workers;
        let start = rng.random_range(0..workers.len());
        let regular = (0..workers.len()).map(|i| &workers[(start + i) % workers.len()]);
        for victim in regular.chain(runtime.spares.awake()) {
            if victim.index == self.index || !victim.queue.has_stealable() {
                continue;
            }
            if let Some(runnable) = victim.queue.steal() {
                bump(&self.counters.steals);
                // SAFETY: native stack, masked; stolen, so ours.
                if let Some(identity) = unsafe { self.bind(runnable) } {
                    return Some(identity);
                }
            }
        }
        None
    }
}
