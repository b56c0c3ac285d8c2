//! Into and out of a fiber: leaving its stack, arriving on it again, and what an identity does from task to task.
//!
//! Every switch happens masked, and each way of resuming opens its own gate: a preempted fiber by the return of its entry stub, one that yielded or
//! waited by `unmask` after the switch, a new one by `unmask` in [`identity_main`].

use super::{After, Role, Worker};
use crate::fiber::task::Task;
use crate::fiber::{helper, os_thread};
use crate::identity::Identity;
use crate::runtime::fork;
use crate::switch::{self, SavedContext};
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use unyield_preempt::gate::gate;
use unyield_preempt::{mask, unmask};

/// Leaves the running fiber; returns, masked, when it is resumed, perhaps on another worker.
///
/// # Safety
/// Masked at depth 1, on a fiber. `after` names this fiber (or its waiter).
pub(crate) unsafe fn leave(after: After) {
    // SAFETY: masked, so worker and identity stay what they are until the switch.
    unsafe {
        let worker = Worker::current();
        let identity = &*worker.current.load(Relaxed);
        worker.expose(identity);
        worker.after.set(after);
        #[cfg(unyield_mutant = "publish_early")]
        worker.settle();
        go(worker, &identity.context, worker.pick());
        arrived();
    }
}

/// Switches to `next`, or to the scheduler loop.
#[inline(always)]
unsafe fn go(worker: &Worker, from: &SavedContext, next: Option<&Identity>) {
    // SAFETY: masked; both targets are at rest, and their gates are closed and name this worker.
    unsafe {
        match next {
            Some(next) => {
                worker.prepare(next);
                switch::switch(from, &next.context, next.fs.get());
            }
            None => switch::switch(from, &worker.native, worker.native_fs.get()),
        }
    }
}

/// The first thing after a switch has arrived at a fiber: publish who left, and see what is pending for the worker that we are on now.
#[inline(always)]
unsafe fn arrived() {
    // SAFETY: masked, on our own identity; whoever switched to us has set the receiver.
    unsafe {
        Worker::current().settle();
        debug_assert!(
            Worker::current().receiver.is_open(),
            "UIF = 0 after a switch: nothing would interrupt this worker again"
        );
        gate().resumed();
    }
}

/// The scheduler loop switches to `identity` and returns when somebody switches back.
///
/// # Safety
/// Masked, on the worker's native stack.
pub(crate) unsafe fn enter(worker: &Worker, identity: &Identity) {
    // SAFETY: as promised; the identity is at rest.
    unsafe {
        worker.prepare(identity);
        switch::switch(&worker.native, &identity.context, identity.fs.get());
        worker.current.store(null_mut(), Relaxed);
    }
}

/// Lets others run. Fiber, unmasked, in a live runtime.
#[inline]
pub(crate) fn yield_now() {
    mask();
    // SAFETY: masked here, unmasked below; as in `leave`, but somebody to go on is looked for first.
    unsafe {
        let worker = Worker::current();
        let identity = &*worker.current.load(Relaxed);
        let next = worker.pick();
        if next.is_some() || worker.role == Role::Carrier {
            worker.expose(identity);
            worker.after.set(After::Requeue(NonNull::from(identity)));
            go(worker, &identity.context, next);
            arrived();
        }
        unmask();
    }
}

impl Worker {
    /// The running fiber is about to leave: if it forks, others shall find its unstarted halves, and the watch shall find it again.
    ///
    /// # Safety
    /// Masked, on this worker.
    #[inline(always)]
    unsafe fn expose(&self, identity: &Identity) {
        if identity.is_forking() {
            // SAFETY: as promised.
            unsafe { self.expose_now(identity) };
        }
    }

    #[cold]
    unsafe fn expose_now(&self, identity: &Identity) {
        // SAFETY: as promised.
        if unsafe { self.runtime().exposed.rests(identity) } {
            self.runtime().announce(true);
        }
    }
}

impl Identity {
    /// Binds a task that has not started.
    ///
    /// # Safety
    /// The identity is at rest without a task; the task is in no queue.
    #[inline]
    pub(crate) unsafe fn take_task(&self, task: NonNull<Task>) {
        // SAFETY: nobody else has either of them.
        unsafe {
            (*task.as_ptr()).identity.store((self as *const Identity).cast_mut(), Release); // pairs with acquire in `enqueue::woken`
            self.task.store(task.as_ptr(), Release); // pairs with the registry's walk
            if !self.is_shared() {
                (*self.gate.get()).set_owner(task.as_ptr().cast());
            }
        }
    }
}

/// What an identity does from its first resume until it is retired: tasks back to back, then rest.
///
/// # Safety
/// On the identity's own stack, masked, just resumed.
pub(crate) unsafe fn identity_main(identity: &Identity) {
    // SAFETY: masked wherever the scheduler's state is used; `settle` and the gate as in `leave`.
    unsafe {
        loop {
            arrived();
            loop {
                let task = NonNull::new_unchecked(identity.task.load(Relaxed));
                unmask();
                Task::run(task);
                finish_task(identity, task);
                mask();
                check_balance();
                let worker = Worker::current();
                worker.count_ended();
                if !next_task_here(worker, identity) {
                    break;
                }
                gate().resumed();
            }
            // No unstarted task is next: rest, and let the fiber or the scheduler that is next go on.
            let worker = Worker::current();
            let next = identity.next_up.take();
            worker.after.set(After::Done(NonNull::from(identity)));
            go(worker, &identity.context, next.map(|next| &*next.as_ptr()));
            if identity.retire.get() {
                return; // a plain kernel task now
            }
        }
    }
}

/// The task has ended: take back what it leaves to the fiber, then drop the runtime's reference. Unmasked: it runs destructors and may free.
unsafe fn finish_task(identity: &Identity, task: NonNull<Task>) {
    // SAFETY: the runtime's reference keeps it, and we are its identity.
    unsafe { task.as_ref().clear_late_locals() };
    if identity.os_locks.get() != 0 {
        os_thread::give_back_forgotten();
    }
    // Release: the walk's acquire. Its asymmetric fence has its light half in `wait_for_walk`.
    identity.task.store(null_mut(), Release);
    identity.wait_for_walk();
    // SAFETY: our own gate (a shared one is this worker's, and shared identities do not move while masked or not); the runtime's reference.
    unsafe {
        (*identity.gate.get()).set_owner(null_mut());
        if !helper::reclaim(identity, task) {
            Task::release(task);
        }
    }
}

/// A task that ends inside a critical section has forgotten a guard: everything after would run masked.
#[inline]
fn check_balance() {
    if gate().depth() != 1 && fork::alive() {
        crate::observe::report::say(
            "a fiber ended inside a critical section (a forgotten CriticalSection guard)",
        );
        std::process::abort();
    }
}

/// After a task has ended: what is next? True: an unstarted task, bound to this identity. False: something else, noted in `next_up`, or nothing.
unsafe fn next_task_here(worker: &Worker, identity: &Identity) -> bool {
    // SAFETY: masked, on this worker.
    unsafe {
        let runtime = worker.runtime();
        if let Some(job) = identity.next_relayed(|| _ = runtime.relaying.fetch_sub(1, Relaxed)) {
            worker.count_spawned();
            helper::bind(identity, job);
            start_slice(worker, identity);
            return true;
        }
        if identity.stack.asked() != runtime.stack_size {
            identity.retire.set(true); // made for one task
            identity.next_up.set(worker.pick().map(NonNull::from));
            return false;
        }
        // Tasks that starve for an identity come first: here is one, if its stack is what they want.
        if let Some(task) = runtime.hungry.pop() {
            if task.cast::<Task>().as_ref().stack_size == identity.stack.asked() {
                identity.take_task(task.cast());
                start_slice(worker, identity);
                return true;
            }
            runtime.starve(task);
        }
        match worker.pick_for(identity) {
            super::pick::Pick::Here => {
                start_slice(worker, identity);
                true
            }
            super::pick::Pick::Other(next) => {
                identity.next_up.set(Some(NonNull::from(next)));
                false
            }
            super::pick::Pick::Nothing => false,
        }
    }
}

unsafe fn start_slice(worker: &Worker, identity: &Identity) {
    if identity.is_shared() {
        // SAFETY: the gate is this worker's own.
        unsafe { (*identity.gate.get()).set_owner(identity.task.load(Relaxed).cast()) };
    }
    worker.begin_slice();
}

/// Entry of a shared identity's stack.
pub(crate) extern "C" fn shared_entry(transfer: context::Transfer) -> ! {
    // SAFETY: the switch that brought us here has set the worker's current identity to ours.
    unsafe {
        switch::arrive(transfer);
        let identity = &*Worker::current().current.load(Acquire);
        identity_main(identity);
    }
    unreachable!("a shared identity is never resumed to retire")
}
