//! An OS thread for one fiber: for calls that block, and for state that is bound to OS threads.

use super::{FiberId, task};
use crate::identity::Identity;
use crate::park;
use crate::runtime::fork;
use crate::worker::{After, Role, Worker, resume};
use std::marker::PhantomData;
use std::ptr::{NonNull, null};
use std::sync::atomic::Ordering::{Relaxed, Release};
use unyield_preempt::{mask, unmask};

/// Moves the running fiber to a carrier, or finds that it is on one. Returns unmasked, there.
fn move_to_carrier() {
    mask();
    // SAFETY: masked; the identity is the running one.
    unsafe {
        let worker = Worker::current();
        if worker.role != Role::Carrier {
            resume::leave(After::Carry(NonNull::new_unchecked(worker.current.load(Relaxed))));
        }
        unmask();
    }
}

/// Runs `f` masked with the running fiber's worker and identity.
fn with_current(f: impl FnOnce(&Worker, &Identity)) {
    mask();
    // SAFETY: masked, on a fiber.
    unsafe {
        let worker = Worker::current();
        f(worker, &*worker.current.load(Relaxed));
        unmask();
    }
}

/// A fiber that can move: not a plain thread, not a forked child, not a fiber that shares its worker's identity.
fn can_move() -> bool {
    assert!(!park::in_critical_section(), "blocking inside a critical section");
    let mut own = false;
    if task::current().is_some() && fork::alive() {
        with_current(|_, identity| own = !identity.is_shared());
    }
    own
}

/// Says that `f` will block in the kernel: it runs on an OS thread beside the workers and is never interrupted; the worker goes on with other fibers
/// meanwhile. Waits for such a thread if all are taken; the wait is not cancelled. On a plain thread, where fibers share their worker's identity, and with
/// `Builder::max_carriers(0)` `f` runs in place. Nests. `f` may park, sleep, yield, and be cancelled where it does.
///
/// ```
/// let answer = unyield::fiber::blocking(|| { std::thread::sleep(std::time::Duration::from_millis(1)); 42 });
/// assert_eq!(answer, 42);
/// ```
///
/// # Panics
/// With the panic of `f`; inside a critical section.
pub fn blocking<R>(f: impl FnOnce() -> R) -> R {
    // The thread stays the fiber's even if `f` parks: otherwise it would come back to a worker, and be interrupted there.
    let _thread = if can_move() && max_carriers() > 0 { Some(lock_os_thread()) } else { None };
    f()
}

/// On a fiber in a live runtime.
fn max_carriers() -> usize {
    task::current().map_or(0, |task| task.runtime().carriers.max)
}

/// From a carrier back to the workers.
fn leave_carrier() {
    mask();
    // SAFETY: masked; the identity is the running one.
    unsafe {
        let worker = Worker::current();
        if worker.role == Role::Carrier {
            resume::leave(After::Requeue(NonNull::new_unchecked(worker.current.load(Relaxed))));
        }
        unmask();
    }
}

/// Gives this fiber an OS thread of its own until the guard drops, for state that is bound to OS threads (as Go's LockOSThread): contended priority-inheriting
/// and robust process-shared mutexes, affinity, names, priorities, setfsuid, signal masks, perf events, io_uring with a single issuer. The fiber
/// may still park, sleep and yield. Nests. Waits for a thread if all are taken; the wait is not cancelled. On a plain thread and where fibers share their
/// worker's identity it does nothing.
///
/// # Panics
/// Inside a critical section; on a fiber with `Builder::max_carriers(0)`.
pub fn lock_os_thread() -> OsThreadGuard {
    if !can_move() {
        return OsThreadGuard { owner: None, thread: PhantomData };
    }
    assert!(
        max_carriers() > 0,
        "lock_os_thread needs a carrier, and the runtime was built with max_carriers(0)"
    );
    loop {
        let mut bound = false;
        with_current(|worker, identity| {
            if identity.os_locks.get() == 0 && worker.role == Role::Carrier {
                identity.bound.set(worker);
                worker.owned.store(true, Release);
                // Before the id shows: from then on libc signals this thread for the fiber, too.
                worker.owner_fs.store(identity.fs.get(), Relaxed);
                // SAFETY: masked, the running identity; `can_move` has refused shared ones.
                unsafe { identity.show_tid(true) };
            }
            bound = !identity.bound.get().is_null();
            identity.os_locks.set(identity.os_locks.get() + u32::from(bound));
        });
        if bound {
            return OsThreadGuard { owner: task::current().map(|task| task.id), thread: PhantomData };
        }
        move_to_carrier(); // a tick may send us back to a worker before we are bound: then once more
    }
}

/// See [`lock_os_thread`]. Guards may be dropped in any order: the last one gives the thread back, and the fiber leaves the thread there; inside a critical
/// section it leaves it later, when it waits, yields or has computed for a while. A guard that is forgotten, or kept in a `thread_local!`, holds the thread
/// until its fiber ends, and nothing from then on.
#[must_use = "the thread is given back when the guard drops"]
#[derive(Debug)]
pub struct OsThreadGuard {
    /// Whose it is; `None`: it does nothing.
    owner: Option<FiberId>,
    thread: PhantomData<*mut ()>,
}

impl Drop for OsThreadGuard {
    fn drop(&mut self) {
        // A guard can outlive its task, in a `thread_local!`: then the thread was given back when the task ended, and the identity may be another
        // task's by now, or a plain thread that retires.
        let owner = task::current().map(|task| task.id);
        if self.owner.is_none() || self.owner != owner || !fork::alive() {
            return;
        }
        let mut last = false;
        with_current(|worker, identity| {
            identity.os_locks.set(identity.os_locks.get() - 1);
            last = identity.os_locks.get() == 0;
            if last {
                give_back(worker, identity);
            }
        });
        // In a critical section the fiber stays where it is; it leaves the carrier when it waits, yields or is ticked.
        if last && !park::in_critical_section() {
            leave_carrier();
        }
    }
}

/// The thread is not the fiber's own any more. Masked, on `worker`, by the running identity.
fn give_back(worker: &Worker, identity: &Identity) {
    identity.bound.set(null());
    worker.owned.store(false, Release);
    // SAFETY: masked, the running identity, which was not shared when it was bound.
    unsafe { identity.show_tid(false) };
    worker.owner_fs.store(0, Relaxed);
    worker.receiver.suspect(); // it may have left its mark on the thread
}

/// The task of the running identity has ended with guards that were forgotten or are kept somewhere: they hold nothing from now on.
#[cold]
pub(crate) fn give_back_forgotten() {
    with_current(|worker, identity| {
        identity.os_locks.set(0);
        give_back(worker, identity);
    });
}
