//! The fork: one half is noted for thieves, the other is run; then the first is taken back and run here, or waited for.

use super::Ctx;
use super::forks::Own;
use super::job::{Job, StackJob};
use crate::fiber::task::{self, Payload, contain, dispose};
use crate::identity::Identity;
use crate::runtime::{Shared, fork, handle};
use crate::worker::{Role, Worker};
use std::marker::PhantomData;
use std::mem::forget;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering::Relaxed;
use unyield_preempt::{mask, unmask};
use unyield_stealing::lazy::{self, Owner};

/// Runs `a` and `b`, perhaps in parallel, and returns both results: `a` here and at once, `b` on an idle worker, or here after `a`.
///
/// Any fiber; a plain thread has both run on the global runtime, and blocks. Also inside a critical section, where it runs both here, one after the
/// other, unless it is itself inside another `join` from outside the section; likewise in a fiber whose stack is larger than the runtime's (`fiber::Builder::stack_size`),
/// since a half that is stolen runs on a stack of the runtime's size. The wait for a half that runs elsewhere parks the fiber, lends its stack, and so is
/// not cancelled; a cancel is delivered at a later wait.
///
/// ```
/// fn fib(n: u32) -> u64 {
///     if n < 2 {
///         return n.into();
///     }
///     let (a, b) = unyield::join(|| fib(n - 1), || fib(n - 2));
///     a + b
/// }
/// assert_eq!(fib(20), 6765);
/// ```
///
/// What the closures borrow must be shared between threads:
///
/// ```compile_fail,E0277
/// let shared = std::rc::Rc::new(1);
/// unyield::join(|| shared.clone(), || shared.clone());
/// ```
///
/// and does not outlive the call:
///
/// ```compile_fail,E0597
/// let (_, escaped) = unyield::join(|| (), || { let local = 1; &local });
/// ```
///
/// # Panics
/// With `a`'s panic, after `b` has ended or was dropped unrun; with `b`'s, if `a` has returned.
///
/// # Aborts
/// In a child forked from within `a`, if `b` was stolen before the fork: it runs in the parent only.
#[inline(always)]
pub fn join<A, B, RA, RB>(a: A, b: B) -> (RA, RB)
where
    A: FnOnce() -> RA + Send,
    B: FnOnce() -> RB + Send,
    RA: Send,
    RB: Send,
{
    join_context(move |_| a(), move |_| b())
}

/// As [`join`]; each half is told whether it has migrated to another fiber.
///
/// ```
/// let (a, b) = unyield::par::join_context(|_| 1, |context| if context.migrated() { 2 } else { 3 });
/// assert!(a == 1 && (b == 2 || b == 3));
/// ```
#[inline(always)]
pub fn join_context<A, B, RA, RB>(a: A, b: B) -> (RA, RB)
where
    A: FnOnce(Ctx) -> RA + Send,
    B: FnOnce(Ctx) -> RB + Send,
    RA: Send,
    RB: Send,
{
    fork_join::<Ours, A, B, RA, RB>(a, b, false)
}

/// What another interface to the same forks wants otherwise: `rayon-core`'s drop-in.
///
/// # Safety
/// Neither of the functions unwinds: the stack is lent to whoever has the other half.
pub unsafe trait Rules {
    /// If the first half panics, the second still runs, and what it panics with is dropped. Otherwise it is dropped, unless somebody has it already.
    const RUN_BOTH: bool;

    /// The fiber is about to wait for a half that somebody else has. Its stack is lent: neither this nor `after_wait` may unwind.
    fn before_wait();

    /// The half is done.
    fn after_wait();
}

struct Ours;

// SAFETY: they do nothing.
unsafe impl Rules for Ours {
    const RUN_BOTH: bool = false;
    fn before_wait() {}
    fn after_wait() {}
}

/// As [`join_context`], by other rules.
#[inline(always)]
pub fn join_context_by<W, A, B, RA, RB>(a: A, b: B) -> (RA, RB)
where
    W: Rules,
    A: FnOnce(Ctx) -> RA + Send,
    B: FnOnce(Ctx) -> RB + Send,
    RA: Send,
    RB: Send,
{
    fork_join::<W, A, B, RA, RB>(a, b, false)
}

/// The result of a half that somebody else has.
///
/// # Safety
/// As for [`StackJob::result`].
#[cold]
unsafe fn result<W, B, RB>(job: &StackJob<B, RB>) -> Result<RB, Payload>
where
    W: Rules,
    B: FnOnce(Ctx) -> RB + Send,
    RB: Send,
{
    // SAFETY: as promised.
    if unsafe { job.is_done() } {
        // SAFETY: as promised.
        return unsafe { job.result() };
    }
    W::before_wait();
    // SAFETY: as promised.
    let result = unsafe { job.result() };
    W::after_wait();
    result
}

/// `migrated`: the call came from a plain thread.
#[inline(always)]
fn fork_join<W, A, B, RA, RB>(a: A, b: B, migrated: bool) -> (RA, RB)
where
    W: Rules,
    A: FnOnce(Ctx) -> RA + Send,
    B: FnOnce(Ctx) -> RB + Send,
    RA: Send,
    RB: Send,
{
    let bottom = Own.bottom();
    if bottom == 0 {
        return outermost::<W, A, B, RA, RB>(a, b, migrated);
    }
    let job = StackJob::new(b);
    // SAFETY: on a fiber whose bounds are in use; the slots last as long as the stack does. The job lives until it was taken back or is done: here, or in
    // `Pushed`'s drop.
    unsafe { lazy::push(&Own, bottom, job.pointer()) };
    let pushed = Pushed::<W, B, RB> { job: &job, bottom, rules: PhantomData };
    let ra = guarded::<W, RA>(a, migrated, pushed);
    // SAFETY: what `a` has pushed it has popped.
    if unsafe { lazy::pop(&Own, bottom) } {
        // SAFETY: popped: nobody else can take it.
        let b = unsafe { job.closure() };
        return (ra, b(Ctx::new(false)));
    }
    (ra, elsewhere::<W, B, RB>(&job, bottom))
}

/// The first half. If it panics, `guard` is dropped: it takes the other one back and runs it or drops it, or waits for it.
#[inline(always)]
fn guarded<W: Rules, RA>(a: impl FnOnce(Ctx) -> RA, migrated: bool, guard: impl Sized) -> RA {
    let ra = if W::RUN_BOTH {
        // Not on the way of the unwinding: `std::thread::panicking` is false in the other half.
        match catch_unwind(AssertUnwindSafe(|| a(Ctx::new(migrated)))) {
            Ok(ra) => ra,
            Err(payload) => {
                drop(guard);
                resume_unwind(payload)
            }
        }
    } else {
        a(Ctx::new(migrated))
    };
    forget(guard);
    ra
}

/// The half is not in its slot any more, or a thief is at it.
#[cold]
#[inline(never)]
fn elsewhere<W, B, RB>(job: &StackJob<B, RB>, bottom: usize) -> RB
where
    W: Rules,
    B: FnOnce(Ctx) -> RB + Send,
    RB: Send,
{
    // SAFETY: after a pop that said false. Then the job is ours, or somebody else's until it is done.
    unsafe {
        if settle(bottom) {
            return job.closure()(Ctx::new(false));
        }
        result::<W, B, RB>(job).unwrap_or_else(|payload| resume_unwind(payload))
    }
}

/// See [`lazy::settle`].
///
/// # Safety
/// As there, but not masked.
#[cold]
unsafe fn settle(bottom: usize) -> bool {
    if !fork::alive() {
        return settle_in_child(bottom);
    }
    mask();
    // SAFETY: masked, on a fiber, which owns the bounds.
    unsafe {
        let identity = &*Worker::current().current.load(Relaxed);
        let mine = lazy::settle(&Own, identity.forks.lock(), bottom);
        unmask();
        mine
    }
}

/// No thief has come along into a forked child. What one was about to take when the child was forked nobody runs there but us; what was taken before is lost.
#[cold]
fn settle_in_child(bottom: usize) -> bool {
    let contested = task::current().is_some_and(|task| {
        // SAFETY: a copy of the running fiber's identity.
        unsafe { &*task.identity.load(Relaxed) }.forks.lock().contested() == bottom
    });
    let mine = contested || Own.top() <= bottom;
    if Own.top() > bottom {
        // SAFETY: nobody else is here.
        unsafe { Own.set_top(bottom) };
    }
    mine
}

/// A half that is pushed; dropped only if `a` panics.
struct Pushed<'a, W, B, RB>
where
    W: Rules,
    B: FnOnce(Ctx) -> RB + Send,
    RB: Send,
{
    job: &'a StackJob<B, RB>,
    bottom: usize,
    rules: PhantomData<W>,
}

impl<W, B, RB> Drop for Pushed<'_, W, B, RB>
where
    W: Rules,
    B: FnOnce(Ctx) -> RB + Send,
    RB: Send,
{
    #[cold]
    fn drop(&mut self) {
        // SAFETY: `a` has unwound, and everything that it had pushed has been popped on the way.
        unsafe {
            if lazy::pop(&Own, self.bottom) || settle(self.bottom) {
                abandon::<W, B, RB>(self.job.closure());
            } else {
                drop(result::<W, B, RB>(self.job));
            }
        }
    }
}

/// What becomes of a half that nobody has taken when the other one has panicked.
#[cold]
fn abandon<W, B, RB>(b: B)
where
    W: Rules,
    B: FnOnce(Ctx) -> RB + Send,
{
    if W::RUN_BOTH {
        // The first panic is what the caller gets.
        if let Some(second) = contain(|| drop(b(Ctx::new(false)))) {
            dispose(second);
        }
    }
}

/// A fork of a fiber that is in no other one, or of a thread that is no lazily forking fiber.
#[inline(never)]
fn outermost<W, A, B, RA, RB>(a: A, b: B, migrated: bool) -> (RA, RB)
where
    W: Rules,
    A: FnOnce(Ctx) -> RA + Send,
    B: FnOnce(Ctx) -> RB + Send,
    RA: Send,
    RB: Send,
{
    match Place::find() {
        Place::Lazy(_region) => fork_join::<W, A, B, RA, RB>(a, b, migrated),
        Place::Eager(identity) => eager::<W, A, B, RA, RB>(identity, a, b, migrated),
        Place::Alone => alone::<W, A, B, RA, RB>(a, b, migrated),
        Place::Outside => handle::global().run(|| fork_join::<W, A, B, RA, RB>(a, b, true)),
    }
}

/// Both halves here, one after the other.
fn alone<W, A, B, RA, RB>(a: A, b: B, migrated: bool) -> (RA, RB)
where
    W: Rules,
    A: FnOnce(Ctx) -> RA,
    B: FnOnce(Ctx) -> RB + Send,
{
    if !W::RUN_BOTH {
        return (a(Ctx::new(migrated)), b(Ctx::new(false)));
    }
    match catch_unwind(AssertUnwindSafe(|| a(Ctx::new(migrated)))) {
        Ok(ra) => (ra, b(Ctx::new(false))),
        Err(payload) => {
            abandon::<W, B, RB>(b);
            resume_unwind(payload)
        }
    }
}

/// What kind of thread forks.
enum Place {
    Lazy(Region),
    Eager(&'static Identity),
    /// Nobody can help: inside a critical section, in a forked child, on a stack that is larger than the runtime's.
    Alone,
    /// A plain thread.
    Outside,
}

impl Place {
    fn find() -> Place {
        let Some(task) = task::current() else {
            // In a critical section a plain thread may not wait.
            return if crate::park::in_critical_section() || !fork::alive() {
                Place::Alone
            } else {
                Place::Outside
            };
        };
        if crate::park::in_critical_section() || !fork::alive() {
            return Place::Alone;
        }
        // SAFETY: the running fiber's own identity.
        let identity = unsafe { &*task.identity.load(Relaxed) };
        let runtime = task.runtime();
        if identity.stack.asked() > runtime.stack_size {
            // Whoever runs a stolen half has a stack of the runtime's size: whether it overflows must not depend on who runs it.
            return Place::Alone;
        }
        match identity.forks.ring() {
            Some(_) => Place::Eager(identity),
            None => Place::Lazy(Region::begin(runtime, identity)),
        }
    }
}

/// The time in which the running fiber's bounds are in use.
struct Region(());

impl Region {
    fn begin(runtime: &Shared, identity: &Identity) -> Region {
        // SAFETY: this fiber's own; `top` is at the first slot, see `unyield_stealing::lazy`.
        unsafe { Own.set_bottom(identity.stack.first_slot()) };
        if on_carrier(identity) || runtime.several_slots() {
            runtime.watch.fork_check(runtime);
        }
        Region(())
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: everything that was pushed has been popped.
        unsafe { Own.set_bottom(0) };
    }
}

/// Both halves where the second is exposed at once.
fn eager<W, A, B, RA, RB>(identity: &Identity, a: A, b: B, migrated: bool) -> (RA, RB)
where
    W: Rules,
    A: FnOnce(Ctx) -> RA + Send,
    B: FnOnce(Ctx) -> RB + Send,
    RA: Send,
    RB: Send,
{
    let Some(ring) = identity.forks.ring() else { unreachable!("an eager identity has a ring") };
    let job = StackJob::new(b);
    let head = job.pointer();
    // SAFETY: nobody knows it yet. The running fiber is the ring's owner, on whichever worker it runs.
    unsafe {
        Job::taken(head);
        if ring.push(head).is_err() {
            // Enough of this fiber's are exposed, and all of them older and larger.
            return alone::<W, A, B, RA, RB>(a, job.closure(), migrated);
        }
    }
    announce(identity);
    /// Takes the half back, or waits for it, if `a` panics.
    struct Exposed<F: FnMut()>(F);
    impl<F: FnMut()> Drop for Exposed<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    // SAFETY: what `a` has pushed it has popped, so the newest is ours, or all were stolen.
    let mine = || unsafe { ring.pop_newest() }.is_some();
    let unwind = Exposed(|| {
        // SAFETY: popped: nobody else can take it. Otherwise somebody has.
        unsafe { if mine() { abandon::<W, B, RB>(job.closure()) } else { drop(result::<W, B, RB>(&job)) } }
    });
    let ra = guarded::<W, RA>(a, migrated, unwind);
    // SAFETY: as above.
    let rb = unsafe {
        if mine() {
            job.closure()(Ctx::new(false))
        } else {
            result::<W, B, RB>(&job).unwrap_or_else(|payload| resume_unwind(payload))
        }
    };
    (ra, rb)
}

/// True if the running fiber is on a carrier; from now on thieves know of it there.
fn on_carrier(identity: &Identity) -> bool {
    mask();
    // SAFETY: masked, on a fiber, whose identity this is.
    unsafe {
        let worker = Worker::current();
        let carried = worker.role == Role::Carrier;
        if carried {
            worker.runtime().exposed.is_carried(identity);
        }
        unmask();
        carried
    }
}

/// Something was exposed: wakes a worker for it.
fn announce(identity: &Identity) {
    let carried = on_carrier(identity);
    let Some(task) = task::current() else { return };
    let runtime = task.runtime();
    if carried || runtime.several_slots() {
        runtime.idle.notify_one();
    }
}
