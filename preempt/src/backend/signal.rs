//! The signal backend: a signal becomes a user-interrupt frame.
//!
//! The handler runs on the receiver's alternate stack with all signals blocked, decides, rewrites the saved context and returns at
//! once. It never switches, so no signal frame, mask or alternate stack of ours ever migrates.

use crate::arch::{inject, insn, xstate};
use crate::gate::gate;
use crate::receiver::{Receiver, bump};
use core::ptr::{null, null_mut};
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use core::sync::atomic::{AtomicPtr, compiler_fence};
use std::io;
use std::sync::Mutex;

/// The signal used unless another is asked for: ignored by default, unused by most programs, and what Go uses for the same purpose.
pub const DEFAULT_SIGNAL: i32 = libc::SIGURG;

/// Test support: the next injected frame starts with the trap flag set, so that every instruction from the stub on traps.
#[cfg(feature = "single-step")]
pub static SINGLE_STEP: core::sync::atomic::AtomicBool = core::sync::atomic::AtomicBool::new(false);

const SIGNALS: usize = 65;
/// What handled the signal before us, per signal; leaked boxes, written once under `INSTALL`, read by the handler.
static PREVIOUS: [AtomicPtr<libc::sigaction>; SIGNALS] = [const { AtomicPtr::new(null_mut()) }; SIGNALS];
static INSTALL: Mutex<()> = Mutex::new(());

/// Installs the handler for `signal`, once; what was there before still gets every such signal that is not ours.
///
/// # Errors
/// `InvalidInput` for a signal that cannot be caught, that reports a fault, or that libc keeps for itself; otherwise what `sigaction` says.
pub fn install(signal: i32) -> io::Result<()> {
    let unusable = [
        libc::SIGKILL,
        libc::SIGSTOP,
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGFPE,
        libc::SIGILL,
        libc::SIGTRAP,
        libc::SIGABRT,
    ];
    let kept_by_libc = (32..libc::SIGRTMIN()).contains(&signal);
    if !(1..SIGNALS as i32).contains(&signal) || unusable.contains(&signal) || kept_by_libc {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "this signal cannot carry interrupts"));
    }
    let _guard = INSTALL.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if !PREVIOUS[signal as usize].load(Acquire).is_null() {
        return Ok(());
    }
    xstate::init();
    // SAFETY: plain sigaction calls on zeroed structures; the handler has the three-argument signature that SA_SIGINFO says.
    unsafe {
        let mut previous: libc::sigaction = core::mem::zeroed();
        if libc::sigaction(signal, null(), &mut previous) != 0 {
            return Err(io::Error::last_os_error());
        }
        // Published first: the handler may run as soon as it is installed.
        let boxed = Box::into_raw(Box::new(previous));
        PREVIOUS[signal as usize].store(boxed, Release);
        let mut action: libc::sigaction = core::mem::zeroed();
        action.sa_sigaction = entry as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        libc::sigfillset(&mut action.sa_mask);
        if libc::sigaction(signal, &action, null_mut()) != 0 {
            let error = io::Error::last_os_error();
            PREVIOUS[signal as usize].store(null_mut(), Release);
            drop(Box::from_raw(boxed));
            return Err(error);
        }
    }
    Ok(())
}

/// True if `signal` still arrives at our handler (somebody may have replaced it). Any thread.
pub fn is_installed(signal: i32) -> bool {
    // SAFETY: only reads the current action.
    unsafe {
        let mut action: libc::sigaction = core::mem::zeroed();
        libc::sigaction(signal, null(), &mut action) == 0
            && action.sa_sigaction == entry as *const () as usize
    }
}

/// Unblocks `signal` for the calling thread.
pub(crate) fn unblock(signal: i32) {
    // SAFETY: plain libc calls on a local set.
    unsafe {
        let mut set: libc::sigset_t = core::mem::zeroed();
        libc::sigaddset(&mut set, signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, null_mut());
    }
}

/// The parts of a siginfo that a queued signal carries (asm-generic/siginfo.h).
#[repr(C)]
pub(crate) struct QueuedInfo {
    signal: i32,
    errno: i32,
    code: i32,
    padding: i32,
    pid: i32,
    uid: u32,
    value: u64,
    rest: [u64; 12],
}
const _: () = assert!(size_of::<QueuedInfo>() == size_of::<libc::siginfo_t>());

impl QueuedInfo {
    /// `signal` with a value, from the calling process (and no user's: nobody asks). A bare system call: right after a fork and on a ghost's identity, too, and
    /// errno stays.
    pub(crate) fn new(signal: i32, value: u64) -> Self {
        // SAFETY: getpid has no preconditions.
        let pid = unsafe { insn::syscall6(libc::SYS_getpid as u64, [0; 6]) as i32 };
        QueuedInfo { signal, errno: 0, code: libc::SI_QUEUE, padding: 0, pid, uid: 0, value, rest: [0; 12] }
    }
}

/// Its address marks our signals: nothing else that a program sends itself carries it.
static MARK: u8 = 0;

/// Sends the notification. Any thread; a bare system call.
pub(crate) fn notify(receiver: &Receiver) {
    let (tid, signal) = (receiver.tid(), receiver.signal());
    if tid == 0 {
        receiver.escalated.store(false, SeqCst);
        return;
    }
    receiver.latency.sent();
    // SAFETY: queues a signal to a thread of this process; a thread that has ended gives ESRCH.
    unsafe {
        let info = QueuedInfo::new(signal, (&raw const MARK).addr() as u64);
        let arguments = [info.pid as u64, tid as u64, signal as u64, &raw const info as u64, 0, 0];
        if insn::syscall6(libc::SYS_rt_tgsigqueueinfo as u64, arguments) != 0 {
            // nothing is on its way (a full queue of real-time signals): the next post tries again
            receiver.upid.acknowledge();
            receiver.escalated.store(false, SeqCst);
        }
    }
}

/// True for a signal that [`notify`] has sent.
unsafe fn is_marked(info: *const libc::siginfo_t) -> bool {
    // SAFETY: the kernel gave the handler a whole siginfo; the value is looked at only where there is one.
    unsafe {
        let info = &*info.cast::<QueuedInfo>();
        info.code == libc::SI_QUEUE && info.value == (&raw const MARK).addr() as u64
    }
}

crate::arch::insn::handler_entry!(entry, handler);

unsafe extern "C" fn handler(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let receiver = gate().receiver();
    // SAFETY: the kernel gave us a siginfo.
    let mut ours = unsafe { is_marked(info) };
    // SAFETY: as above, and the gate's receiver.
    ours |= unsafe { crate::endpoint::queued::arrived(receiver, info) };
    if !receiver.is_null() {
        // SAFETY: a gate names a live receiver, and we run on its thread: a switch to another worker cannot happen under a signal handler.
        let receiver = unsafe { &*receiver };
        bump(&receiver.counters.interrupts);
        receiver.latency.arrived();
        // Before PIR is read: a later sender signals again.
        let expected = receiver.upid.acknowledge() | receiver.escalated.swap(false, SeqCst);
        // SAFETY: as above. A process that has used up its pending signals gets them without their siginfo.
        ours |= expected && unsafe { (*info).si_code == libc::SI_USER && (*info).si_pid() == 0 };
        // SAFETY: `context` is this handler's.
        unsafe { deliver(receiver, context.cast()) }
        // SAFETY: in the handler, after the decision.
        unsafe { crate::endpoint::queued::settled(receiver) }
    }
    if !ours {
        // SAFETY: with this handler's arguments.
        unsafe { chain(signal, info, context) }
    }
}

/// Decides about one notification and rewrites the context if it is to be taken now.
unsafe fn deliver(receiver: &Receiver, context: *mut libc::ucontext_t) {
    let gate = gate();
    // SAFETY: `context` is the running handler's.
    let registers = unsafe { inject::registers(context) };
    if gate.depth() != 0 {
        gate.pending.store(1, Relaxed);
        bump(&receiver.counters.deferred);
        return;
    }
    if inject::rewind(registers) {
        gate.depth.store(1, Relaxed);
        gate.pending.store(1, Relaxed);
        bump(&receiver.counters.completed);
        return;
    }
    if !super::uif(receiver) {
        gate.pending.store(1, Relaxed); // at the very beginning of the stub, or in a section that only UIF knows
        return;
    }
    // A user interrupt that came in the middle of this would find PIR read and the gate open, on a stack that is not the fiber's.
    super::hold(receiver);
    // SAFETY: `context` is the running handler's.
    let taken = unsafe { decide(receiver, context) };
    if !taken && receiver.mechanism().has_uif() {
        gate.pending.store(1, Relaxed);
    }
    super::release(receiver); // with the gate closed, or on the way into a refusal that has left its hint
}

/// Rewrites the context, with the gate closed, or refuses (false).
unsafe fn decide(receiver: &Receiver, context: *mut libc::ucontext_t) -> bool {
    let gate = gate();
    // SAFETY: `context` is the running handler's.
    let registers = unsafe { inject::registers(context) };
    // SAFETY: as above.
    if unsafe { inject::finish(registers) } {
        bump(&receiver.counters.completed);
    }
    let pending = receiver.upid.pending();
    let wanted = match receiver.filter {
        // SAFETY: the filter is async-signal-safe by the contract of `set_filter`.
        Some(filter) => unsafe { filter(receiver, pending) },
        None => pending,
    };
    if wanted != pending {
        receiver.upid.clear(pending & !wanted);
    }
    if wanted == 0 {
        bump(&receiver.counters.stale);
        if !receiver.mechanism().has_uif() {
            return false;
        }
        // What was posted since then waits in the CPU: a frame with nothing in it lets it in by its UIRET.
    }
    let (lo, hi) = (gate.lo.load(Relaxed), gate.hi.load(Relaxed));
    if lo > hi {
        if wanted != 0 {
            gate.requested.store(1, Relaxed); // identities are shared: to be acted on at a checkpoint
        }
        return false;
    }
    // Refusals of this kind leave the request in PIR; with signals they set no hint: the next tick tries again.
    if !(lo..=hi).contains(&inject::stack_pointer(registers)) || !xstate::ready() {
        bump(&receiver.counters.misplaced);
        return false;
    }
    // Another mask than the worker's own: inside a foreign handler on the fiber's stack, in libc's block-all sections, between two pthread_sigmask calls.
    // SAFETY: the kernel's signal mask is the first eight bytes of uc_sigmask.
    let mask = unsafe { *(&raw const (*context).uc_sigmask).cast::<u64>() };
    // SAFETY: as above; the kernel notes the thread's alternate stack there.
    let alternate = unsafe { (*context).uc_stack.ss_sp } as usize;
    let own = mask == receiver.base_mask() && alternate == receiver.alternate();
    if !own && !cfg!(unyield_mutant = "no_mask_check") {
        receiver.suspect(); // what has changed them may end without changing them back
        bump(&receiver.counters.foreign_mask);
        return false;
    }
    // SAFETY: as above.
    if unsafe { inject::tiles_in_use(context) } {
        bump(&receiver.counters.misplaced);
        return false;
    }
    gate.depth.store(1, Relaxed);
    compiler_fence(SeqCst);
    // SAFETY: the bounds include the room that a frame needs, and the gate is closed.
    unsafe { inject::inject(registers) }
    true
}

/// Hands a signal that is not ours to whoever handled it before us.
unsafe fn chain(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let previous = PREVIOUS[signal as usize].load(Acquire);
    if previous.is_null() {
        return;
    }
    // SAFETY: leaked at installation, never changed after.
    let previous = unsafe { &*previous };
    // SAFETY: as the kernel would.
    unsafe { call_handler(previous, signal, info, context) }
}

/// Hands a signal to `previous`, the action that a handler of ours has replaced.
///
/// # Safety
/// In that handler, with its arguments.
pub(crate) unsafe fn call_handler(
    previous: &libc::sigaction,
    signal: i32,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    match previous.sa_sigaction {
        libc::SIG_IGN => {}
        libc::SIG_DFL if [libc::SIGURG, libc::SIGCHLD, libc::SIGWINCH, libc::SIGCONT].contains(&signal) => {}
        // SAFETY: restores the default action and sends the signal again; it acts when this handler returns.
        libc::SIG_DFL => unsafe {
            libc::sigaction(signal, previous, null_mut());
            libc::raise(signal);
        },
        address if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: SA_SIGINFO says that the address is such a function.
            let handler: unsafe extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
                unsafe { core::mem::transmute(address) };
            // SAFETY: called as the kernel would.
            unsafe { handler(signal, info, context) }
        }
        address => {
            // SAFETY: without SA_SIGINFO the address is a function of one argument.
            let handler: unsafe extern "C" fn(i32) = unsafe { core::mem::transmute(address) };
            // SAFETY: called as the kernel would.
            unsafe { handler(signal) }
        }
    }
}
