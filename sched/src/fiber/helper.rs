//! The task as which a fiber runs stolen halves (`par`): every fiber has a task, and masked code cannot allocate one. So each identity has one in reserve, used
//! again and again; if somebody keeps a reference to one, it stays his, and the identity gets another.

use super::local::Locals;
use super::task::{Payload, Spec, Task, VTable};
use crate::identity::Identity;
use crate::par::job::Job;
use crate::park::Waiter;
use crate::runtime::{Shared, fork};
use std::cell::Cell;
use std::panic::Location;
use std::ptr::{NonNull, null_mut};

#[repr(C)]
struct Helper {
    task: Task,
    job: Cell<*mut Job>,
}

static VTABLE: VTable = VTable { run, take, discard, fail, free };

/// The runtime's, which is the identity's.
const REFS: usize = 1;

fn spec(stack_size: usize) -> Spec {
    Spec { name: None, stack_size, spawned_at: Location::caller(), scope: None }
}

/// In reserve: it runs nothing. May allocate.
pub(crate) fn create(runtime: NonNull<Shared>, stack_size: usize) -> NonNull<Task> {
    let task = Task::new(runtime, &VTABLE, REFS, spec(stack_size));
    NonNull::from(Box::leak(Box::new(Helper { task, job: Cell::new(null_mut()) }))).cast()
}

/// Makes the identity's helper a new fiber that runs `job`.
///
/// # Safety
/// Masked; the identity is at rest without a task and has a helper; the job was taken by the caller.
pub(crate) unsafe fn bind(identity: &Identity, job: NonNull<Job>) {
    // SAFETY: nobody else knows the helper while it is in reserve. `reclaim` has left nothing in it that
    // needs a drop.
    unsafe {
        let helper = NonNull::new_unchecked(identity.helper.replace(null_mut())).cast::<Helper>();
        let place = helper.as_ptr();
        let (runtime, stack_size) = ((*place).task.runtime_ptr(), (*place).task.stack_size);
        (&raw mut (*place).task).write(Task::new(runtime, &VTABLE, REFS, spec(stack_size)));
        (*place).task.waiter = Waiter::new(place.cast());
        (*place).task.detach_unseen();
        (*place).job.set(job.as_ptr());
        identity.take_task(helper.cast());
    }
}

/// After the task has ended: takes the runtime's reference of a helper back into reserve, and is false for any other task. Unmasked, on the fiber; may allocate.
///
/// # Safety
/// The caller owns the runtime's reference; the identity is its own.
pub(crate) unsafe fn reclaim(identity: &Identity, task: NonNull<Task>) -> bool {
    // SAFETY: the reference is the caller's.
    unsafe {
        if !task.as_ref().is_a(&VTABLE) {
            return false;
        }
        let next = if task.as_ref().is_only(&VTABLE) {
            *task.as_ref().locals.get() = Locals::default(); // all dropped; now the room for them too
            task
        } else {
            let (runtime, stack_size) = (task.as_ref().runtime_ptr(), task.as_ref().stack_size);
            Task::release(task);
            create(runtime, stack_size)
        };
        identity.helper.set(next.as_ptr());
    }
    true
}

unsafe fn run(this: NonNull<Task>) {
    // SAFETY: bound, so there is a job, and it is ours; the caller holds the reference.
    unsafe {
        let job = NonNull::new_unchecked(this.cast::<Helper>().as_ref().job.replace(null_mut()));
        Job::run(job);
        if !fork::alive() {
            fork::end_child(false);
        }
        // The fiber that forked goes on as soon as we have ended: nothing waits for anything of ours after this.
        Job::complete(job);
        Task::complete(this);
    }
}

/// It has no result.
unsafe fn take(_: NonNull<Task>, _: *mut ()) {}

unsafe fn discard(_: NonNull<Task>) -> Option<Payload> {
    None
}

/// It is started as soon as it is bound: there is no moment in which it could fail.
unsafe fn fail(_: NonNull<Task>, _: Payload) {}

unsafe fn free(this: NonNull<Task>) {
    // SAFETY: allocated as this box, and the last reference is gone.
    drop(unsafe { Box::from_raw(this.cast::<Helper>().as_ptr()) });
}
