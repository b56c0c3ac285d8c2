//! Carriers: pooled OS threads without a slot, for fibers that block in the kernel and for those that want an OS thread of their own.
//!
//! The first tick that finds a fiber inside a blocking call moves it here. If the call is one that any thread may make, the carrier makes it for the fiber,
//! which stays switched away: its registers are in its frame, the result goes there, and the fiber is queued for a worker at once; no polling,
//! no second signal. Otherwise (a call bound to the thread, one that has returned EINTR) the fiber itself goes on here, and is ticked back to a
//! worker once its thread uses CPU time. If there is no carrier to be had, the fiber stays queued and the call is made again in its turn; a wait for a futex
//! is left to `stalled`.

use super::{Role, Worker, enqueue, resume, stalled};
use crate::identity::Identity;
use crate::lock::Lock;
use crate::runtime::Shared;
use crate::worker::runnable::Runnable;
use std::ptr::{NonNull, null, null_mut};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize};
use unyield_preempt::Syscall;
use unyield_preempt::arch::insn;
use unyield_stealing::{Injector, List};

/// The carriers of a runtime.
pub(crate) struct Carriers {
    state: Lock<State>,
    /// Started or about to be.
    pub(crate) count: AtomicUsize,
    pub(crate) idle: AtomicUsize,
    /// Started, but not at the idle list yet.
    starting: AtomicUsize,
    /// Fibers that found no carrier and wait for none, for which none was started yet.
    denied: AtomicUsize,
    pub(crate) waiting: AtomicUsize,
    /// Fibers that wait for a futex and have no carrier: see `stalled`.
    pub(super) stalled: Injector<Runnable>,
    pub(crate) max: usize,
    /// Slots `0..count` are filled.
    pub(crate) threads: Box<[AtomicPtr<Worker>]>,
    pub(crate) handles: parking_lot::Mutex<Vec<std::thread::JoinHandle<()>>>,
}

struct State {
    idle: *const Worker,
    /// Fibers that must have a carrier and have none yet.
    waiting: List<Runnable>,
}

// SAFETY: under the lock.
unsafe impl Send for Carriers {}
// SAFETY: under the lock.
unsafe impl Sync for Carriers {}

impl Carriers {
    pub(crate) fn new(max: usize) -> Self {
        Carriers {
            state: Lock::new(State { idle: null(), waiting: List::new() }),
            count: AtomicUsize::new(0),
            idle: AtomicUsize::new(0),
            starting: AtomicUsize::new(0),
            denied: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            stalled: Injector::new(),
            max,
            threads: (0..max).map(|_| AtomicPtr::new(null_mut())).collect(),
            handles: parking_lot::Mutex::new(Vec::new()),
        }
    }

    /// Takes all carriers: the end of the runtime, after their threads were joined.
    pub(crate) fn take_all(&self) -> impl Iterator<Item = *mut Worker> {
        self.threads.iter().map(|slot| slot.swap(null_mut(), AcqRel)).filter(|carrier| !carrier.is_null())
    }

    /// All that have been started.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Worker> {
        let count = self.count.load(Acquire);
        // SAFETY: carriers live as long as the runtime.
        self.threads[..count].iter().filter_map(|slot| unsafe { slot.load(Acquire).as_ref() })
    }

    fn take_idle(&self) -> Option<&Worker> {
        let mut state = self.state.lock();
        // SAFETY: idle carriers live as long as the runtime.
        let carrier = unsafe { state.idle.as_ref() }?;
        self.unlist(&mut state, carrier);
        Some(carrier)
    }

    /// Takes the first idle carrier off the list.
    fn unlist(&self, state: &mut State, first: &Worker) {
        state.idle = first.next_idle.get();
        first.listed.set(false);
        self.idle.fetch_sub(1, Relaxed);
    }

    /// How many serve a fiber, or are about to.
    pub(super) fn busy(&self) -> usize {
        self.count.load(Relaxed).saturating_sub(self.idle.load(Relaxed) + self.starting.load(Relaxed))
    }

    /// True if the service should start another thread.
    pub(crate) fn wants_more(&self) -> bool {
        let starting = self.starting.load(Relaxed);
        let short = self.waiting.load(Relaxed) > starting || self.denied.load(Relaxed) > 0;
        (short || self.idle.load(Relaxed) + starting == 0) && self.count.load(Relaxed) < self.max
    }
}

/// What the kernel does for such a call does not depend on which thread of the process makes it.
fn any_thread(call: Syscall) -> bool {
    let Syscall::Restart { number, args } = call else { return false };
    match number as i64 {
        libc::SYS_read
        | libc::SYS_write
        | libc::SYS_pread64
        | libc::SYS_pwrite64
        | libc::SYS_readv
        | libc::SYS_writev
        | libc::SYS_preadv
        | libc::SYS_pwritev
        | libc::SYS_preadv2
        | libc::SYS_pwritev2
        | libc::SYS_accept
        | libc::SYS_accept4
        | libc::SYS_connect
        | libc::SYS_sendto
        | libc::SYS_recvfrom
        | libc::SYS_sendmsg
        | libc::SYS_recvmsg
        | libc::SYS_sendmmsg
        | libc::SYS_recvmmsg
        | libc::SYS_flock
        | libc::SYS_fcntl
        | libc::SYS_open
        | libc::SYS_openat
        | libc::SYS_fsync
        | libc::SYS_fdatasync
        | libc::SYS_splice
        | libc::SYS_tee
        | libc::SYS_vmsplice
        | libc::SYS_sendfile
        | libc::SYS_getrandom
        | libc::SYS_msgsnd
        | libc::SYS_msgrcv
        | libc::SYS_mq_timedsend
        | libc::SYS_mq_timedreceive
        | libc::SYS_copy_file_range => true,
        libc::SYS_futex => {
            matches!(args[1] as i32 & libc::FUTEX_CMD_MASK, libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET)
        }
        libc::SYS_wait4 => args[2] as i32 & libc::__WNOTHREAD == 0,
        libc::SYS_waitid => args[3] as i32 & libc::__WNOTHREAD == 0,
        _ => false,
    }
}

/// Whether leaving its worker helps a fiber found in `call`: on a carrier only if the call is one that the carrier can take over.
pub(crate) fn worthwhile(worker: &Worker, call: Syscall) -> bool {
    worker.role != Role::Carrier || any_thread(call)
}

/// A fiber was interrupted in a blocking call and has left its stack.
///
/// # Safety
/// Masked, on `worker`; the identity is at rest with its frame noted, and nobody's.
pub(crate) unsafe fn moved(worker: &Worker, identity: &Identity) {
    let runtime = worker.runtime();
    // SAFETY: as promised.
    unsafe {
        if worker.role == Role::Carrier {
            // it serves itself: see `serve`
            worker.assigned.store((identity as *const Identity).cast_mut(), Release);
            return;
        }
        let free = identity.bound.get().is_null();
        if !(free && (stalled::take(runtime, identity) || offer(runtime, identity))) {
            if !identity.denied.replace(true) {
                runtime.carriers.denied.fetch_add(1, Relaxed);
            }
            worker.requeue(identity);
        }
    }
    if runtime.carriers.wants_more() {
        runtime.service.wake();
    }
}

/// Gives a fiber that was interrupted in a call to an idle carrier. False: there is none.
///
/// # Safety
/// Masked or the timer thread; the identity is at rest with its frame noted, and the caller's.
pub(super) unsafe fn offer(runtime: &Shared, identity: &Identity) -> bool {
    // SAFETY: taken from the idle list; the identity is the caller's to give.
    runtime.carriers.take_idle().map(|carrier| unsafe { assign(carrier, identity) }).is_some()
}

/// A fiber asks for a carrier and has left its stack.
///
/// # Safety
/// As for [`moved`].
pub(crate) unsafe fn requested(worker: &Worker, identity: &Identity) {
    let runtime = worker.runtime();
    let carriers = &runtime.carriers;
    let idle = {
        let mut state = carriers.state.lock();
        // SAFETY: idle carriers live as long as the runtime; the identity is nobody's.
        unsafe {
            match state.idle.as_ref() {
                Some(carrier) => {
                    carriers.unlist(&mut state, carrier);
                    Some(carrier)
                }
                None => {
                    state.waiting.push_back(NonNull::from(&identity.head));
                    carriers.waiting.fetch_add(1, Relaxed);
                    None
                }
            }
        }
    };
    if let Some(carrier) = idle {
        // SAFETY: taken from the idle list.
        unsafe { assign(carrier, identity) };
    }
    if carriers.wants_more() {
        runtime.service.wake();
    }
}

/// # Safety
/// The carrier was taken from the idle list; the identity is nobody's.
unsafe fn assign(carrier: &Worker, identity: &Identity) {
    identity.denied.set(false);
    carrier.assigned.store((identity as *const Identity).cast_mut(), Release); // pairs with the acquire in `serve`
    ring(carrier);
}

/// Wakes a carrier to look at what it was assigned or at its pinned queue.
pub(crate) fn ring(carrier: &Worker) {
    carrier.bell.fetch_add(1, SeqCst);
    // SAFETY: FUTEX_WAKE does not touch the word.
    unsafe {
        libc::syscall(libc::SYS_futex, carrier.bell.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1)
    };
}

pub(super) fn wait(bell: &AtomicU32, seen: u32) {
    // SAFETY: waits on a live word.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            bell.as_ptr(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            seen,
            null::<libc::timespec>(),
        )
    };
}

/// The loop of a carrier's thread, on its native stack, masked.
///
/// # Safety
/// Attached, on the carrier's thread.
pub(crate) unsafe fn serve(carrier: &Worker) {
    let runtime = carrier.runtime();
    let mut new = true;
    loop {
        let seen = carrier.bell.load(Acquire);
        // SAFETY: masked, native stack.
        unsafe {
            let mut assigned = carrier.assigned.swap(null_mut(), AcqRel);
            if assigned.is_null() {
                // A fiber that is bound to this carrier comes back through its queue.
                if let Some(runnable) = carrier.queue.pop() {
                    assigned = runnable.cast::<Identity>().as_ptr();
                }
            }
            if let Some(identity) = assigned.as_ref() {
                run_one(carrier, identity);
                continue;
            }
            let given = !bound_elsewhere(carrier) && go_idle(runtime, carrier);
            if std::mem::take(&mut new) {
                runtime.carriers.starting.fetch_sub(1, Relaxed);
            }
            if given {
                continue; // somebody was waiting for a carrier
            }
        }
        if carrier.exiting.load(Acquire) {
            return;
        }
        wait(&carrier.bell, seen);
    }
}

/// Starts one more carrier thread. The service thread only.
pub(crate) fn start_one(runtime: &Shared) -> std::io::Result<()> {
    let index = runtime.carriers.count.load(Relaxed); // only this thread changes it
    runtime.carriers.starting.fetch_add(1, Relaxed);
    // Only this thread subtracts.
    if runtime.carriers.denied.load(Relaxed) > 0 {
        runtime.carriers.denied.fetch_sub(1, Relaxed);
    }
    let carrier: &'static Worker = Box::leak(Box::new(Worker::new(Role::Carrier, CARRIER_INDEX + index)));
    carrier.runtime.set(runtime);
    let started = std::thread::Builder::new().name(format!("unyield-carrier-{index}")).spawn(move || {
        // SAFETY: this thread becomes the carrier; shutdown joins it before the runtime goes.
        unsafe {
            carrier.main(0, |attached| {
                if attached.is_err() {
                    carrier.runtime().carriers.starting.fetch_sub(1, Relaxed);
                }
            })
        };
    });
    match started {
        Ok(handle) => {
            // Visible before its handle is: who joins it has seen it.
            runtime.carriers.threads[index].store((carrier as *const Worker).cast_mut(), Release);
            runtime.carriers.count.store(index + 1, SeqCst);
            runtime.carriers.handles.lock().push(handle);
            Ok(())
        }
        Err(error) => {
            runtime.carriers.starting.fetch_sub(1, Relaxed);
            // SAFETY: just boxed, and its thread does not exist.
            drop(unsafe { Box::from_raw((carrier as *const Worker).cast_mut()) });
            Err(error)
        }
    }
}

/// Carriers are numbered from here, so that a migration to one counts as one.
const CARRIER_INDEX: usize = 1 << 20;

/// True while a fiber owns this carrier (`lock_os_thread`), whether it runs or waits.
fn bound_elsewhere(carrier: &Worker) -> bool {
    carrier.owned.load(Acquire)
}

unsafe fn run_one(carrier: &Worker, identity: &Identity) {
    // SAFETY: masked, native stack; the identity is ours.
    unsafe {
        let frame = identity.frame.get();
        if let Some(frame) = frame.as_mut()
            && let Some(call @ Syscall::Restart { number, args }) = frame.syscall()
            && any_thread(call)
        {
            let result = insn::syscall6(number, args);
            frame.complete_syscall(result);
            enqueue::identity(carrier.runtime(), identity);
            return;
        }
        if !frame.is_null() {
            // Moved here by a tick: the timer must look after this thread now, even if it was asleep.
            carrier.runtime().timers.wake();
            carrier.runtime().armed.rouse();
        }
        resume::enter(carrier, identity);
        carrier.settle();
    }
}

/// Puts the carrier on the idle list, or takes the next fiber that waits for one: then true.
unsafe fn go_idle(runtime: &Shared, carrier: &Worker) -> bool {
    let carriers = &runtime.carriers;
    let mut state = carriers.state.lock();
    if let Some(runnable) = state.waiting.pop_front() {
        carriers.waiting.fetch_sub(1, Relaxed);
        carrier.assigned.store(runnable.cast().as_ptr(), Release);
        return true;
    }
    if !carrier.listed.replace(true) {
        carrier.next_idle.set(state.idle);
        state.idle = carrier;
        carriers.idle.fetch_add(1, Relaxed);
    }
    false
}
