//! How something becomes runnable: a spawned task, a fiber whose wait has ended. From fibers, workers, plain threads and the timer; never from a handler.

use super::runnable::Runnable;
use super::{Role, Worker};
use crate::fiber::task::Task;
use crate::identity::Identity;
use crate::preempt::Preemption;
use crate::runtime::Shared;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::{Acquire, SeqCst};
use unyield_preempt::{mask, unmask};
use unyield_stealing::List;

/// The regular or spare worker of `runtime` that the caller runs on.
///
/// # Safety
/// Masked.
#[inline]
unsafe fn local<'a>(runtime: &Shared) -> Option<&'a Worker> {
    // SAFETY: as promised.
    let worker = unsafe { Worker::try_current() }?;
    (worker.role != Role::Carrier && std::ptr::eq(worker.runtime.get(), runtime)).then_some(worker)
}

/// Queues a new task. False: the runtime was shut down, and takes none.
///
/// # Safety
/// It was just made, and is in no queue.
#[inline]
pub(crate) unsafe fn spawned(runtime: &Shared, task: NonNull<Task>) -> bool {
    let mut taken = true;
    mask();
    // SAFETY: masked; the runtime's reference of the task keeps it alive.
    unsafe {
        match local(runtime) {
            Some(worker) => {
                worker.count_spawned();
                worker.queue.push_fresh(task.cast());
                runtime.announce(true);
            }
            None => {
                // Dekker with shutdown: it closes, and then waits until as many tasks have ended as were spawned.
                runtime.spawned_outside.fetch_add(1, SeqCst);
                taken = !runtime.closed.load(SeqCst);
                if taken {
                    runtime.inject(task.cast());
                } else {
                    runtime.spawned_outside.fetch_sub(1, SeqCst);
                }
            }
        }
        unmask();
    }
    taken
}

/// Queues a parked fiber whose wait the caller has ended.
///
/// # Safety
/// The caller ended the wait and nobody else queues it.
#[inline]
pub(crate) unsafe fn woken(task: &Task) {
    mask();
    // SAFETY: masked; a parked fiber's task has an identity, at rest and in no queue.
    unsafe {
        identity(task.runtime(), &*task.identity.load(Acquire));
        unmask();
    }
}

/// As [`woken`], by a fiber that is about to end, for one that is to go on before anything else.
///
/// # Safety
/// As for [`woken`].
pub(crate) unsafe fn next(task: &Task) {
    mask();
    // SAFETY: as in `woken`.
    unsafe {
        let woken = &*task.identity.load(Acquire);
        let runtime = task.runtime();
        match local(runtime) {
            Some(worker) if woken.bound.get().is_null() => {
                hand_over(runtime, worker, NonNull::from(&woken.head))
            }
            _ => identity(runtime, woken),
        }
        unmask();
    }
}

/// Makes `runnable` the worker's next.
///
/// # Safety
/// As for [`identity`]; on `worker`.
unsafe fn hand_over(runtime: &Shared, worker: &Worker, runnable: NonNull<Runnable>) {
    // SAFETY: as promised.
    unsafe {
        // It runs as soon as the running fiber waits: no other worker is woken for it. The tick looks after it.
        match worker.queue.set_next(runnable) {
            None => runtime.armed.enqueue_check(),
            Some(displaced) => match worker.queue.push_woken(displaced) {
                Ok(()) => runtime.announce(true),
                Err(full) => runtime.inject(full),
            },
        }
    }
}

/// What a queue holds of a parked fiber.
///
/// # Safety
/// The caller ended the fiber's wait, and nobody else queues it.
#[inline]
pub(crate) unsafe fn runnable(task: &Task) -> NonNull<Runnable> {
    // SAFETY: a parked fiber's task has an identity, at rest; acquire pairs with the binding.
    unsafe { NonNull::from(&(*task.identity.load(Acquire)).head) }
}

/// Queues parked fibers whose deadlines have come, from outside the workers.
///
/// # Safety
/// As for [`woken`], for each of them; on a thread of the runtime that is no worker.
pub(crate) unsafe fn expired(runtime: &Shared, mut fibers: List<Runnable>) {
    let mut unbound = List::new();
    while let Some(runnable) = fibers.pop_front() {
        // SAFETY: identities' heads are their first field; each was just taken out of the list.
        unsafe {
            let identity = runnable.cast::<Identity>().as_ref();
            match identity.bound.get().as_ref() {
                Some(bound) => pinned(bound, identity),
                None => unbound.push_back(runnable),
            }
        }
    }
    if !unbound.is_empty() {
        runtime.injector.push_all(unbound);
        if !runtime.idle.notify_one() {
            runtime.armed.enqueue_check(); // whoever is woken wakes the next if more is left
        }
    }
}

/// Queues an identity at rest.
///
/// # Safety
/// Masked; it is in no queue, and the caller has the right to queue it.
pub(crate) unsafe fn identity(runtime: &Shared, identity: &Identity) {
    let runnable = NonNull::from(&identity.head);
    // SAFETY: as promised.
    unsafe {
        if let Some(bound) = identity.bound.get().as_ref() {
            return pinned(bound, identity);
        }
        match local(runtime) {
            // Without ticks nobody would look after the next slot of a worker whose fiber goes on.
            Some(worker) if runtime.preemption == Preemption::Off && runtime.workers.len() > 1 => {
                match worker.queue.push_woken(runnable) {
                    Ok(()) => runtime.announce(true),
                    Err(full) => runtime.inject(full),
                }
            }
            Some(worker) => hand_over(runtime, worker, runnable),
            None => runtime.inject(runnable),
        }
    }
}

/// Queues an identity on the only worker that may run it.
///
/// # Safety
/// As for [`identity`].
pub(crate) unsafe fn pinned(bound: &Worker, identity: &Identity) {
    let runtime = bound.runtime();
    runtime.visitors.fetch_add(1, SeqCst); // as in `Shared::inject`
    // SAFETY: as promised.
    unsafe { bound.queue.push_pinned(NonNull::from(&identity.head)) };
    match bound.role {
        Role::Regular | Role::Spare => {
            runtime.idle.notify_worker(bound.index);
            runtime.armed.enqueue_check();
        }
        Role::Carrier => super::carrier::ring(bound),
    }
    runtime.visitors.fetch_sub(1, SeqCst);
}
