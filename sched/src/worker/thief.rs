//! The thief's side of a steal: an idle worker looks at what running fibers have exposed, and has one of them interrupted to be given the oldest half.
//!
//! Masked, on the native stack. The steps: fibers that do not run, and have exposed something (`par::exposed`); else a running one whose bounds show work: an
//! identity to run the half on, a request in the victim's mailbox, an interrupt, a bounded wait; a victim that does not answer in time is served by itself, with the
//! heavy fence. What was got runs at once.

use super::{STEAL, Worker};
use crate::fiber::helper;
use crate::identity::Identity;
use crate::par::job::Job;
use crate::preempt::Stealing;
use crate::runtime::Shared;
use rand::RngCore;
use rand::rngs::SmallRng;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use unyield_preempt::receiver::bump;
use unyield_preempt::{Mechanism, tick};
use unyield_stealing::{Answer, relax, victim};

/// How long (ns) a thief waits for the answer of a running victim. A signal to another CPU of a virtual machine takes 9 to 15 µs.
const PATIENCE: u64 = 60_000;
/// … if instructions trap.
const MODEL_PATIENCE: u64 = 2_000_000;
/// How long (ns) a worker without work looks for more halves after the last one, before it sleeps.
const SPIN: u64 = 100_000;

/// What a search for halves has found.
pub(super) enum Loot<'a> {
    Fiber(&'a Identity),
    Nothing,
    /// Something, but no stack to run it on.
    NoIdentity,
}

impl Worker {
    /// Looks for a half of a fork-join that this worker could run.
    ///
    /// # Safety
    /// Masked, on this worker's native stack.
    pub(super) unsafe fn steal_fork<'a>(&'a self, runtime: &'a Shared, rng: &mut SmallRng) -> Loot<'a> {
        // SAFETY: as promised.
        unsafe {
            if !runtime.exposed.is_empty() || !runtime.exposed.carries_nobody() {
                match self.take_exposed() {
                    Loot::Nothing => {}
                    found => return found,
                }
            }
            if runtime.stealing == Stealing::Lazy && self.pace.rests() {
                return Loot::Nothing;
            }
            for index in victim::order(runtime.workers.len(), rng.next_u64()) {
                match self.rob(runtime, &runtime.workers[index]) {
                    Loot::Nothing => {}
                    found => return found,
                }
            }
            for spare in runtime.spares.awake() {
                match self.rob(runtime, spare) {
                    Loot::Nothing => {}
                    found => return found,
                }
            }
        }
        Loot::Nothing
    }

    /// A half of a fiber that does not run.
    ///
    /// # Safety
    /// Masked, on this worker, on any identity.
    pub(super) unsafe fn take_exposed(&self) -> Loot<'_> {
        let runtime = self.runtime();
        // SAFETY: as promised.
        unsafe {
            let Some(identity) = self.free_identity(runtime.stack_size) else {
                runtime.service.want_identity();
                return Loot::NoIdentity;
            };
            match runtime.exposed.take().or_else(|| runtime.exposed.take_carried(&self.looks)) {
                Some(job) => self.run_stolen(identity, job),
                None => {
                    self.release(identity);
                    Loot::Nothing
                }
            }
        }
    }

    /// Gets the oldest half of what `victim` runs, if it shows one.
    ///
    /// # Safety
    /// As for [`Worker::steal_fork`].
    unsafe fn rob<'a>(&'a self, runtime: &'a Shared, victim: &Worker) -> Loot<'a> {
        if std::ptr::eq(self, victim) || !self.sees_forks(victim) {
            return Loot::Nothing;
        }
        // SAFETY: masked, on this worker.
        unsafe {
            // Before asking: what is handed over must run.
            let Some(identity) = self.free_identity(runtime.stack_size) else {
                runtime.service.want_identity();
                return Loot::NoIdentity;
            };
            let job = match runtime.stealing {
                Stealing::Eager => self.take_remotely(victim),
                Stealing::Lazy => self.ask(runtime, victim, identity),
            };
            match job {
                Some(job) => {
                    self.left_some.set(runtime.idle.sleepers() > 0 && self.sees_forks(victim));
                    self.run_stolen(identity, job)
                }
                None => {
                    self.release(identity);
                    Loot::Nothing
                }
            }
        }
    }

    /// True if what `victim` runs seems to have an unstarted half.
    fn sees_forks(&self, victim: &Worker) -> bool {
        self.looks.look(|| {
            // SAFETY: what a worker runs is not freed while we look.
            unsafe { victim.current.load(Acquire).as_ref() }.is_some_and(Identity::shows_forks)
        })
    }

    /// Where halves are exposed at once, who exposes one wakes nobody while a worker searches; so that one looks once more before it sleeps. (Of lazy ones the
    /// timer's watch knows.)
    pub(super) fn sees_eager_forks(&self, runtime: &Shared) -> bool {
        runtime.stealing == Stealing::Eager
            && !cfg!(unyield_mutant = "eager_no_last_look")
            && (runtime.slots().any(|worker| self.sees_forks(worker))
                || !runtime.exposed.carries_nobody() && runtime.exposed.carried_forks().1)
    }

    /// Interrupts `victim` and waits for its answer; takes by itself if there is none.
    ///
    /// # Safety
    /// As for [`Worker::steal_fork`]; `identity` is at rest, and ours.
    unsafe fn ask(&self, runtime: &Shared, victim: &Worker, identity: &Identity) -> Option<NonNull<Job>> {
        let pace = &self.pace;
        // SAFETY: this worker asks nobody else; workers' memory lives as long as the runtime.
        if !unsafe { self.mailbox.ask(&victim.mailbox, pace.want()) } {
            return None; // somebody else is about to get it
        }
        bump(&self.counters.fork_requests);
        victim.receiver.post(STEAL);
        let patience = if runtime.mechanism == Mechanism::Model { MODEL_PATIENCE } else { PATIENCE };
        let deadline = tick::now() + patience;
        let (mut withdrawn, mut round) = (false, 0);
        loop {
            match self.mailbox.poll() {
                Some(Answer::Item(job)) => {
                    let mut more = self.mailbox.more().peekable();
                    if more.peek().is_some() {
                        runtime.relaying.fetch_add(1, Relaxed);
                        // SAFETY: at rest, and ours; what is handed over is ours too.
                        unsafe { identity.relay(more.inspect(|_| bump(&self.counters.forks_stolen))) };
                    }
                    return Some(job);
                }
                Some(Answer::Refused) => {
                    bump(&self.counters.fork_refusals);
                    runtime.watch.rest(pace.refused());
                    return None;
                }
                None => {}
            }
            self.refuse_thief();
            if withdrawn {
                relax(round); // the victim may not be running
                round += 1;
            } else {
                std::hint::spin_loop();
            }
            // Once is enough: if it cannot be taken back, the answer comes.
            if !withdrawn && tick::now() >= deadline {
                if self.mailbox.withdraw(&victim.mailbox) {
                    bump(&self.counters.fork_withdrawals);
                    // SAFETY: masked, native stack.
                    return unsafe { self.take_remotely(victim) };
                }
                withdrawn = true;
            }
        }
    }

    /// Takes a half without the victim's help.
    unsafe fn take_remotely(&self, victim: &Worker) -> Option<NonNull<Job>> {
        let job = self.looks.look(|| {
            // SAFETY: what a worker runs is not freed while we look; masked.
            unsafe { victim.current.load(Acquire).as_ref()?.take_fork_remotely() }
        })?;
        bump(&self.counters.forks_taken_remotely);
        Some(job)
    }

    /// Binds a half that is ours now.
    unsafe fn run_stolen<'a>(&self, identity: &'a Identity, job: NonNull<Job>) -> Loot<'a> {
        bump(&self.counters.forks_stolen);
        self.count_spawned();
        // SAFETY: masked; the identity is at rest, the job taken.
        unsafe { helper::bind(identity, job) };
        self.took_part.set(true);
        self.pace.begin();
        Loot::Fiber(identity)
    }

    /// Until when (ns) to look for halves before it sleeps: for a while, if this worker has just taken or given one.
    pub(super) fn search_until(&self) -> u64 {
        if !self.took_part.replace(false) {
            return 0;
        }
        let now = tick::now();
        if let Some(until) = self.pace.end(now) {
            self.runtime().watch.rest(until);
        }
        now + SPIN
    }
}
