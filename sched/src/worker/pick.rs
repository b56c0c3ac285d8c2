//! What a worker runs next, and on which identity: its queues in their order, the injector, and the identities at rest.
//!
//! All of it masked, by the worker's own thread, on any identity; nothing here switches.

use super::runnable::{Kind, Runnable};
use super::thief::Loot;
use super::{Role, Worker};
use crate::fiber::task::Task;
use crate::identity::Identity;
use std::ptr::NonNull;

const CACHE_LIMIT: usize = 64;
/// Every so many picks the injector goes first.
const GLOBAL_EVERY: u32 = 61;
/// How many runnables a worker takes from the injector at once, so that the others get theirs.
const BATCH: usize = 16;

/// What an identity finds when its task has ended.
pub(crate) enum Pick<'a> {
    /// An unstarted task, bound to it already.
    Here,
    /// Another identity.
    Other(&'a Identity),
    Nothing,
}

impl Worker {
    /// What should run next of what this worker can reach without searching: its urgent queues, the injector, then what has had its quantum.
    ///
    /// # Safety
    /// Masked, on this worker, on any identity.
    #[inline]
    pub(super) unsafe fn next_runnable(&self) -> Option<NonNull<Runnable>> {
        if !self.takes_work() {
            return None;
        }
        let picks = self.picks.get();
        self.picks.set(picks + 1);
        // SAFETY: owner, masked.
        unsafe {
            // Not twice in a row: where slices are longer than the timer's period, ageing is always due.
            if picks >= GLOBAL_EVERY || picks > 0 && self.queue.is_ageing() {
                self.picks.set(0);
                // Also what parked fibers have forked: nobody may be idle, ever. In turns: a fiber that sleeps again and again may be in the injector whenever we look.
                let exposed_first = self.exposed_first.replace(!self.exposed_first.get());
                let exposed = || {
                    if self.runtime().exposed.is_empty() {
                        return None;
                    }
                    match self.take_exposed() {
                        Loot::Fiber(identity) => Some(NonNull::from(&identity.head)),
                        _ => None,
                    }
                };
                let found = if exposed_first {
                    exposed().or_else(|| self.take_injected())
                } else {
                    self.take_injected().or_else(exposed)
                };
                if found.is_some() {
                    return found;
                }
            }
            self.queue.pop_urgent().or_else(|| self.take_injected()).or_else(|| self.queue.pop_aged())
        }
    }

    /// Takes from the injector: one to run, a few more for our own queue.
    ///
    /// # Safety
    /// As for [`Worker::next_runnable`].
    #[inline]
    pub(super) unsafe fn take_injected(&self) -> Option<NonNull<Runnable>> {
        let injector = &self.runtime().injector;
        if injector.is_empty() {
            return None;
        }
        let share = (injector.len() / self.runtime().workers.len()).clamp(1, BATCH);
        let mut batch = injector.pop_many(share);
        let first = batch.pop_front();
        let moved = !batch.is_empty();
        while let Some(runnable) = batch.pop_front() {
            // Woken order, not the stack of fresh tasks: the injector is first in, first out.
            // SAFETY: owner, masked; it was taken out of the injector.
            unsafe {
                if let Err(full) = self.queue.push_woken(runnable) {
                    injector.push(full);
                }
            }
        }
        if moved {
            // In no queue for a moment: a timer that looked then may have gone to sleep.
            self.runtime().armed.enqueue_check();
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
            while let Some(runnable) = self.queue.pop_started().or_else(|| self.take_injected()) {
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
    pub(super) unsafe fn free_identity(&self, stack_size: usize) -> Option<&Identity> {
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
    pub(super) unsafe fn release(&self, identity: &Identity) {
        let runtime = self.runtime();
        // SAFETY: ours, and at rest.
        unsafe { runtime.exposed.resuming(identity, false) };
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
}
