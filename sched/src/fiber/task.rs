//! A task: what was spawned. One allocation holds the header, the closure, and later the result.
//!
//! A task is started when an identity is bound to it, and ends before its identity does: the last reference is dropped unmasked, by
//! the fiber itself or by whoever holds a handle. `Fiber` and `JoinHandle` are references to it.
//!
//! | field | who writes | who reads |
//! |---|---|---|
//! | `identity` | who binds it, before it runs | wakers, while it is parked (it cannot end then) |
//! | `flags`, `refs`, `join` | anybody, atomically | anybody |
//! | `stage` (in the cell) | the running fiber until `join` is DONE; then the handle | the same |
//! | `locals` | the fiber itself | the fiber itself |

use super::join_state::{JoinState, Joiner, Left};
use super::{FiberId, JoinError};
use crate::fiber::local::Locals;
use crate::fiber::scope::ScopeData;
use crate::identity::Identity;
use crate::lock::Lock;
use crate::park::{Outcome, Waiter, assert_may_wait};
use crate::runtime::Shared;
use crate::worker::runnable::{Kind, Runnable};
use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, fence};
use std::task::Waker;
use unyield_preempt::gate::gate;

pub(crate) type Payload = Box<dyn Any + Send>;

/// What the operations on a task need to know of its closure's and result's types.
pub(crate) struct VTable {
    pub(super) run: unsafe fn(NonNull<Task>),
    pub(super) take: unsafe fn(NonNull<Task>, *mut ()),
    pub(super) discard: unsafe fn(NonNull<Task>) -> Option<Payload>,
    pub(super) fail: unsafe fn(NonNull<Task>, Payload),
    pub(super) free: unsafe fn(NonNull<Task>),
}

const CANCELLED: u32 = 1;

/// std's park token, and whether the fiber waits for it.
#[derive(Default)]
struct Park {
    token: bool,
    waiting: bool,
}

#[repr(C)]
pub(crate) struct Task {
    /// First: a queue holds `Runnable`s.
    pub(crate) head: Runnable,
    vtable: &'static VTable,
    refs: AtomicUsize,
    join: JoinState,
    pub(crate) identity: AtomicPtr<Identity>,
    runtime: NonNull<Shared>,
    flags: AtomicU32,
    park: Lock<Park>,
    pub(crate) waiter: Waiter,
    waker: Lock<Option<Waker>>,
    pub(crate) id: FiberId,
    pub(crate) stack_size: usize,
    pub(crate) spawned_at: &'static Location<'static>,
    pub(crate) name: Option<Box<str>>,
    pub(crate) locals: UnsafeCell<Locals>,
    scope: Option<Arc<ScopeData>>,
}

enum Stage<F, T> {
    Ready(F),
    Empty,
    Done(Result<T, Payload>),
}

#[repr(C)]
struct TaskCell<F, T> {
    task: Task,
    stage: UnsafeCell<Stage<F, T>>,
}

/// How a task is to be made.
pub(crate) struct Spec {
    pub(crate) name: Option<Box<str>>,
    pub(crate) stack_size: usize,
    pub(crate) spawned_at: &'static Location<'static>,
    /// The scope that waits for it.
    pub(crate) scope: Option<Arc<ScopeData>>,
}

impl Task {
    /// A task with two references: the runtime's, which ends with the fiber, and the caller's.
    ///
    /// # Safety
    /// `f` and its result may be used until the task is done and its result taken or discarded: the caller outlives that if they borrow. `runtime`
    /// comes from an `Arc` of a runtime that is alive.
    pub(crate) unsafe fn create<F, T>(runtime: NonNull<Shared>, spec: Spec, f: F) -> NonNull<Task>
    where
        F: FnOnce() -> T + Send,
        T: Send,
    {
        let vtable = &VTable {
            run: run::<F, T>,
            take: take::<F, T>,
            discard: discard::<F, T>,
            fail: fail::<F, T>,
            free: free::<F, T>,
        };
        let cell = Box::into_raw(Box::new(TaskCell::<F, T> {
            task: Task::new(runtime, vtable, 2, spec),
            stage: UnsafeCell::new(Stage::Ready(f)),
        }));
        // SAFETY: just allocated; the waiter's back pointer needs the final address.
        unsafe {
            let task = NonNull::new_unchecked(cell.cast::<Task>());
            (*cell).task.waiter = Waiter::new(task.as_ptr());
            task
        }
    }

    /// Everything but the waiter's back pointer.
    #[inline(always)]
    pub(super) fn new(runtime: NonNull<Shared>, vtable: &'static VTable, refs: usize, spec: Spec) -> Task {
        Task {
            head: Runnable::new(Kind::Task),
            vtable,
            refs: AtomicUsize::new(refs),
            join: JoinState::new(),
            identity: AtomicPtr::new(null_mut()),
            runtime,
            flags: AtomicU32::new(0),
            park: Lock::new(Park::default()),
            waiter: Waiter::new(std::ptr::null()),
            waker: Lock::new(None),
            id: FiberId::next(),
            stack_size: spec.stack_size,
            spawned_at: spec.spawned_at,
            name: spec.name,
            locals: UnsafeCell::new(Locals::default()),
            scope: spec.scope,
        }
    }

    /// True if only the caller has a reference, and it is a task of this kind.
    pub(super) fn is_only(&self, vtable: &VTable) -> bool {
        // Acquire pairs with the releases of the others.
        std::ptr::eq(self.vtable, vtable) && self.refs.load(Acquire) == 1
    }

    pub(super) fn is_a(&self, vtable: &VTable) -> bool {
        std::ptr::eq(self.vtable, vtable)
    }

    pub(crate) fn runtime(&self) -> &Shared {
        // SAFETY: the runtime outlives every task that has not ended (shutdown waits or leaks), and only such tasks ask.
        unsafe { self.runtime.as_ref() }
    }

    /// As the runtime's `Arc` gives it: a handle can be made of it.
    pub(crate) fn runtime_ptr(&self) -> NonNull<Shared> {
        self.runtime
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.flags.load(SeqCst) & CANCELLED != 0
    }

    /// Asks the fiber to unwind; wakes it if it waits where it may be cancelled.
    pub(crate) fn cancel(&self) {
        // Before `waiter.cancel`: see `WaitState::allow_cancel`.
        self.flags.fetch_or(CANCELLED, SeqCst);
        if self.is_done() {
            return;
        }
        self.waiter.cancel();
    }

    pub(crate) fn is_done(&self) -> bool {
        self.join.is_done()
    }

    /// Runs the closure and settles the result: unmasked, on the fiber. The task may be gone afterwards, if its references are.
    ///
    /// # Safety
    /// Called once, by the identity that the task is bound to.
    pub(crate) unsafe fn run(this: NonNull<Task>) {
        // SAFETY: alive until our reference is dropped by the caller.
        unsafe { (this.as_ref().vtable.run)(this) }
    }

    /// The result is in place: tell whoever waits. Unmasked, on the fiber.
    pub(super) unsafe fn complete(this: NonNull<Task>) {
        // SAFETY: our reference is still held.
        let task = unsafe { this.as_ref() };
        // Last, and whatever happens: the scope's borrows end with it.
        let _ended = task.scope.as_deref().map(Ended);
        match task.join.complete() {
            Joiner::Nobody => {}
            Joiner::Detached => {
                // SAFETY: nobody else will take the result: the handle is gone.
                unsafe { Task::discard_result(this) };
                task.end_forked_child();
            }
            Joiner::Waiter(waiter) => {
                // SAFETY: a joiner waits without deadline and cannot be cancelled, so it is there until it is unparked.
                unsafe { Waiter::notify(waiter as *const Waiter) }
            }
            Joiner::Waker => {
                let waker = task.waker.lock().take();
                if let Some(waker) = waker {
                    if let Some(panic) = contain(|| waker.wake()) {
                        dispose(panic); // the result is settled: there is nobody to tell
                    }
                    task.end_forked_child();
                }
            }
        }
    }

    /// User code that runs after the closure may fork as well: the child's fiber must not go back to the scheduler.
    fn end_forked_child(&self) {
        let ours = || current().is_some_and(|task| std::ptr::eq(task, self));
        if !crate::runtime::fork::alive() && ours() {
            crate::runtime::fork::end_child(false);
        }
    }

    /// Drops the fiber-local values that were made after the result was settled: by its destructor, or by a waker. Unmasked, on the fiber, last.
    ///
    /// # Safety
    /// By the identity that the task is bound to.
    pub(crate) unsafe fn clear_late_locals(&self) {
        // SAFETY: the list is the running fiber's own.
        unsafe {
            if !Locals::is_empty(self.locals.get()) {
                if let Some(panic) = Locals::clear(self.locals.get()) {
                    dispose(panic);
                }
                self.end_forked_child();
            }
        }
    }

    /// Drops a result that nobody will take; an unhandled panic goes to the scope or to the runtime's handler.
    ///
    /// # Safety
    /// The caller owns the stage of a task that is done.
    unsafe fn discard_result(this: NonNull<Task>) {
        // SAFETY: as promised.
        let (task, payload) = unsafe { (this.as_ref(), (this.as_ref().vtable.discard)(this)) };
        match (payload, &task.scope) {
            (None, _) => {}
            (Some(payload), _) if payload.is::<super::cancel::Cancelled>() => {}
            (Some(payload), Some(scope)) => {
                scope.unhandled_panic();
                dispose(payload);
            }
            (Some(payload), None) => {
                if let Some(panic) = contain(|| crate::runtime::detached_panic(task, payload)) {
                    dispose(panic);
                }
            }
        }
    }

    /// Finishes a task that never started because it cannot: as if its closure had panicked with `payload`. Plain thread or unmasked fiber.
    ///
    /// # Safety
    /// The task is not started and in no queue; the runtime's reference is consumed.
    pub(crate) unsafe fn refuse(this: NonNull<Task>, payload: Payload) {
        // SAFETY: as promised: nobody else touches the stage, and the reference is ours.
        unsafe {
            (this.as_ref().vtable.fail)(this, payload);
            Task::complete(this);
            Task::release(this);
        }
    }

    /// Waits for the end: parks a fiber, blocks a plain thread. Aborts inside a critical section: see [`Waiter::block_lent`].
    pub(crate) fn wait_done(&self) {
        if self.is_done() {
            return;
        }
        Waiter::with(|waiter| {
            let address = waiter as *const Waiter as usize;
            let left = self.join.wait(address);
            if left != Left::TooLate {
                waiter.block_lent();
            }
            if left == Left::InPlaceOfWaker {
                self.drop_waker(); // user code, which may wait by itself: not before our wait is over
            }
        });
    }

    /// Takes the result of a task that is done.
    ///
    /// # Safety
    /// The task is done, `T` is its closure's result, and nobody has taken it.
    pub(crate) unsafe fn take_result<T>(this: NonNull<Task>) -> Result<T, JoinError> {
        let mut out: Option<Result<T, Payload>> = None;
        // SAFETY: `take` writes an `Option<Result<T, Payload>>`.
        unsafe {
            (this.as_ref().vtable.take)(this, (&raw mut out).cast());
            let id = this.as_ref().id;
            match out {
                Some(Ok(value)) => Ok(value),
                Some(Err(payload)) => Err(JoinError::new(id, payload)),
                None => unreachable!("a result is taken once"),
            }
        }
    }

    /// The handle is dropped: nobody will join.
    ///
    /// # Safety
    /// Called by the only handle.
    pub(crate) unsafe fn detach(this: NonNull<Task>) {
        // SAFETY: our reference is held.
        unsafe {
            let left = this.as_ref().join.detach();
            if left == Left::InPlaceOfWaker {
                this.as_ref().drop_waker();
            }
            if left == Left::TooLate {
                // It ended with a handle in place, so like std's its panic is dropped in silence … but a scope must know.
                if let Some(payload) = (this.as_ref().vtable.discard)(this) {
                    if let Some(scope) = &this.as_ref().scope
                        && !payload.is::<super::cancel::Cancelled>()
                    {
                        scope.unhandled_panic();
                    }
                    dispose(payload);
                }
            }
        }
    }

    /// It never had a handle.
    pub(super) fn detach_unseen(&self) {
        let left = self.join.detach();
        debug_assert!(left == Left::InTime, "nobody knows it yet");
    }

    /// Registers `waker` to be woken at the end. True: it is done already.
    pub(crate) fn poll_done(&self, waker: &Waker) -> bool {
        if self.is_done() {
            return true;
        }
        let new = waker.clone(); // user code: unmasked
        let old = self.waker.lock().replace(new);
        drop(old);
        let done = self.join.poll() == Left::TooLate;
        if done {
            self.drop_waker();
        }
        done
    }

    /// A waker that nobody will wake goes here, in the handle's context: with the task it would be dropped where no user code may run.
    fn drop_waker(&self) {
        let waker = self.waker.lock().take();
        drop(waker);
    }

    /// Blocks the running fiber, whose task this is, until the token is there, and consumes it. Not cancelled while the fiber unwinds.
    ///
    /// # Panics
    /// Inside a critical section.
    pub(crate) fn park(&self, deadline: Option<u64>) -> Outcome {
        assert_may_wait("parking"); // before `waiting` says that the waiter may be claimed
        Waiter::with(|waiter| {
            {
                let mut park = self.park.lock();
                if std::mem::take(&mut park.token) {
                    return Outcome::Notified;
                }
                park.waiting = true;
            }
            let outcome = waiter.block_until(deadline, !std::thread::panicking());
            let mut park = self.park.lock();
            park.waiting = false;
            park.token = false;
            outcome
        })
    }

    /// Gives the token, and wakes the fiber if it is parked for it. Any context but a handler.
    pub(crate) fn unpark(&self) {
        let claimed = {
            let mut park = self.park.lock();
            park.token = true;
            // SAFETY: while `waiting`, the fiber is in `park` and takes this lock before it uses its waiter for something else.
            if std::mem::take(&mut park.waiting) { unsafe { Waiter::claim(&self.waiter) } } else { None }
        };
        if let Some(claimed) = claimed {
            claimed.unpark();
        }
    }

    /// One more reference.
    pub(crate) fn retain(&self) {
        self.refs.fetch_add(1, Relaxed);
    }

    /// One reference less; the last one frees. Unmasked.
    ///
    /// # Safety
    /// The caller owns a reference.
    pub(crate) unsafe fn release(this: NonNull<Task>) {
        // SAFETY: the reference is the caller's; after the last one nobody knows the task.
        unsafe {
            // The only reference cannot become two behind its owner's back: no read-modify-write for it. Acquire pairs with the releases of the others.
            let refs = &this.as_ref().refs;
            if refs.load(Acquire) == 1 || refs.fetch_sub(1, Release) == 1 {
                fence(Acquire); // pairs with the releases above
                (this.as_ref().vtable.free)(this);
            }
        }
    }

    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }
}

/// Calls user code that must not unwind into the runtime; gives its panic's payload.
pub(crate) fn contain(f: impl FnOnce()) -> Option<Payload> {
    catch_unwind(AssertUnwindSafe(f)).err()
}

/// Drops a payload that nobody will see. If that panics in turn, the second payload is leaked.
pub(crate) fn dispose(payload: Payload) {
    std::mem::forget(contain(|| drop(payload)));
}

/// Tells the scope, when it goes, that one of its fibers has ended.
struct Ended<'a>(&'a ScopeData);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.ended();
    }
}

/// The task of the running fiber; `None` on a plain thread (and in a forked child, whose fiber has become one).
#[inline]
pub(crate) fn current() -> Option<&'static Task> {
    let owner = gate().owner().cast::<Task>();
    // SAFETY: the owner of the running identity is the task it runs, alive until the identity has finished it; the caller runs on it.
    unsafe { owner.as_ref() }
}

/// Drops the per-task values of the running fiber before its result is seen; a panic of theirs becomes the result.
///
/// # Safety
/// `task` is the running fiber's.
pub(crate) unsafe fn clear_locals<T>(task: &Task, result: Result<T, Payload>) -> Result<T, Payload> {
    // SAFETY: the list is the running fiber's own.
    match (result, unsafe { Locals::clear(task.locals.get()) }) {
        (result, None) => result,
        (Ok(value), Some(panic)) => {
            if let Some(another) = contain(|| drop(value)) {
                dispose(another);
            }
            Err(panic)
        }
        (Err(first), Some(another)) => {
            dispose(another);
            Err(first)
        }
    }
}

unsafe fn run<F: FnOnce() -> T, T>(this: NonNull<Task>) {
    let cell = this.cast::<TaskCell<F, T>>();
    // SAFETY: the running fiber owns the stage until `complete`.
    unsafe {
        let stage = cell.as_ref().stage.get();
        let Stage::Ready(f) = std::mem::replace(&mut *stage, Stage::Empty) else {
            unreachable!("a task runs once")
        };
        let task = this.as_ref();
        let result = if task.is_cancelled() || task.runtime().cancelling.load(Acquire) {
            Err(contain(|| drop(f)).unwrap_or_else(|| Box::new(super::cancel::Cancelled)))
        } else {
            catch_unwind(AssertUnwindSafe(f))
        };
        let result = clear_locals(task, result);
        if !crate::runtime::fork::alive() {
            crate::runtime::fork::end_child(result.is_err());
        }
        *stage = Stage::Done(result);
        Task::complete(this);
    }
}

unsafe fn take<F, T>(this: NonNull<Task>, out: *mut ()) {
    let cell = this.cast::<TaskCell<F, T>>();
    // SAFETY: the task is done and the caller is the only one who takes; `out` has this type.
    unsafe {
        if let Stage::Done(result) = std::mem::replace(&mut *cell.as_ref().stage.get(), Stage::Empty) {
            *out.cast::<Option<Result<T, Payload>>>() = Some(result);
        }
    }
}

/// Drops closure or result; returns a panic's payload. A destructor's own panic is such a payload too.
unsafe fn discard<F, T>(this: NonNull<Task>) -> Option<Payload> {
    let cell = this.cast::<TaskCell<F, T>>();
    // SAFETY: the caller owns the stage.
    let stage = unsafe { std::mem::replace(&mut *cell.as_ref().stage.get(), Stage::Empty) };
    match stage {
        Stage::Done(Err(payload)) => Some(payload),
        other => contain(|| drop(other)),
    }
}

/// Replaces the closure by a panic's payload.
unsafe fn fail<F, T>(this: NonNull<Task>, payload: Payload) {
    let cell = this.cast::<TaskCell<F, T>>();
    // SAFETY: the caller owns the stage.
    let closure = unsafe { std::mem::replace(&mut *cell.as_ref().stage.get(), Stage::Done(Err(payload))) };
    if let Some(panic) = contain(|| drop(closure)) {
        dispose(panic);
    }
}

unsafe fn free<F, T>(this: NonNull<Task>) {
    // SAFETY: allocated as this box, and the last reference is gone.
    drop(unsafe { Box::from_raw(this.cast::<TaskCell<F, T>>().as_ptr()) });
}
