//! The gate: the few words of thread-local storage through which critical sections, the entry stub and the signal handler meet.
//!
//! Every fiber is a thread to libc, so it has its own gate; so has a worker's native thread (closed for ever) and any other thread
//! (open, with no receiver: nothing ever comes).
//!
//! | word | who writes | who reads |
//! |---|---|---|
//! | `depth` | the running code only; 0 = open | the signal handler on the same thread, the stub |
//! | `pending` | handler, resume | the end of a section, the stub. Only a HINT: the truth is the receiver's PIR |
//! | `receiver` | whoever resumes this identity, before it runs | handler; the running code while masked |
//! | `owner` | the scheduler | the running code |
//! | `lo`, `hi` | creation | handler: an interrupted RSP in between leaves room for a frame. `lo > hi`: never inject, ask at checkpoints |
//! | `requested` | handler | checkpoints |
//! | `uiret` | creation | the stub: it returns by UIRET, not by the software's |
//! | `words` | the scheduler's own, see [`Word`] | the same |
//!
//! All accesses come from one thread at a time (the handler runs on the same thread), so relaxed order with compiler fences is enough.

use crate::backend::uintr;
use crate::receiver::Receiver;
use crate::vector;
use core::arch::{asm, global_asm};
use core::mem::offset_of;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, compiler_fence};

/// See the module's table. Its address belongs to the identity: it stays right when a fiber migrates.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Gate {
    pub(crate) depth: AtomicU32,
    pub(crate) pending: AtomicU32,
    pub(crate) receiver: AtomicPtr<Receiver>,
    pub(crate) owner: AtomicPtr<()>,
    pub(crate) lo: AtomicUsize,
    pub(crate) hi: AtomicUsize,
    pub(crate) requested: AtomicU32,
    pub(crate) uiret: AtomicU32,
    words: [AtomicUsize; 2],
}

const _: () =
    assert!(offset_of!(Gate, depth) == 0 && offset_of!(Gate, pending) == 4, "the stub knows these offsets");
const _: () = assert!(offset_of!(Gate, words) == WORDS && size_of::<Gate>() == 64);

/// Where the scheduler's words lie in the gate.
const WORDS: usize = 48;

// Initial-exec, so that it works in a cdylib; in an executable the linker turns the GOT load into a constant.
global_asm!(
    ".pushsection .tbss.unyield_gate,\"awT\",@nobits",
    ".p2align 6",
    ".globl unyield_gate",
    ".hidden unyield_gate",
    ".type unyield_gate, @tls_object",
    ".size unyield_gate, 64",
    "unyield_gate: .zero 64",
    ".popsection",
);

/// Offset of the gate from the FS base: the same for every thread.
#[inline(always)]
fn offset() -> usize {
    let offset;
    // SAFETY: loads a link-time constant from the GOT (or an immediate, after relaxation).
    unsafe {
        asm!("mov {}, [rip + unyield_gate@gottpoff]", out(reg) offset, options(nostack, pure, nomem, preserves_flags))
    }
    offset
}

/// The running identity's gate.
#[inline(always)]
pub fn gate() -> &'static Gate {
    let address: *const Gate;
    // SAFETY: fs:[0] holds the FS base itself on x86-64 (TCB self pointer, psABI); the gate lies at a constant offset and lives as long as the
    // identity, which outlives the code that runs on it.
    unsafe {
        asm!("mov {a}, fs:[0]", "add {a}, [rip + unyield_gate@gottpoff]", a = out(reg) address, options(nostack, pure, nomem));
        &*address
    }
}

/// One of the two words (0 and 1) that the scheduler keeps with each identity, for its own hottest path. Both are 0 on a thread that nobody has given a value.
#[derive(Debug)]
pub struct Word<const N: usize>;

impl<const N: usize> Word<N> {
    /// The running identity's value: one load.
    #[inline(always)]
    pub fn get() -> usize {
        let value;
        // SAFETY: loads a word of our own TLS. Memory is clobbered: nothing is moved across, as with an atomic between two compiler fences.
        unsafe {
            asm!("mov {v}, [rip + unyield_gate@gottpoff]", "mov {v}, qword ptr fs:[{v} + {at}]",
                 v = out(reg) value, at = const WORDS + 8 * N, options(nostack, preserves_flags))
        }
        value
    }

    /// Gives it a value: one store, which no access to memory is moved across by the compiler.
    ///
    /// # Safety
    /// The value means to the scheduler what it says.
    #[inline(always)]
    pub unsafe fn set(value: usize) {
        // SAFETY: stores to a word of our own TLS, which nobody but the scheduler uses.
        unsafe {
            asm!("mov {o}, [rip + unyield_gate@gottpoff]", "mov qword ptr fs:[{o} + {at}], {v}",
                 o = out(reg) _, v = in(reg) value, at = const WORDS + 8 * N, options(nostack, preserves_flags))
        }
    }
}

/// Gives word 0 a value, and then reads word 1: as [`Word::set`] and [`Word::get`], in one.
///
/// # Safety
/// As for [`Word::set`].
#[inline(always)]
pub unsafe fn set_first_get_second(value: usize) -> usize {
    let second;
    // SAFETY: words of our own TLS; the load comes after the store.
    unsafe {
        asm!("mov {s}, [rip + unyield_gate@gottpoff]", "mov qword ptr fs:[{s} + {first}], {v}", "mov {s}, qword ptr fs:[{s} + {second}]",
             s = out(reg) second, v = in(reg) value, first = const WORDS, second = const WORDS + 8, options(nostack, preserves_flags))
    }
    second
}

/// Closes the gate: no interrupt is taken, no switch and no migration happens until [`unmask`]. Nests.
#[inline(always)]
pub fn mask() {
    // SAFETY: one read-modify-write of our own TLS word; it cannot be torn by an interrupt. Memory is clobbered: nothing moves out of the section.
    unsafe { asm!("inc dword ptr fs:[{}]", in(reg) offset(), options(nostack)) }
}

/// Undoes one [`mask`]; the last one opens the gate and takes what is pending: it may switch to another fiber and return
/// on another worker.
///
/// # Safety
/// Pairs with a `mask` of the same fiber.
#[inline(always)]
pub unsafe fn unmask() {
    // SAFETY: as in `mask`. `dec` opens: an interrupt between `dec` and `cmp` injects by itself, one before `dec` left the hint.
    unsafe {
        asm!("dec dword ptr fs:[{o}]", "jnz 2f", "cmp dword ptr fs:[{o} + 4], 0", "jne {slow}", "2:",
             o = in(reg) offset(), slow = label { deliver() }, options(nostack))
    }
}

/// Pending at a gate that has just opened: the same as an interrupt, but at a call boundary, so without frame or XSAVE.
#[cold]
#[inline(never)]
fn deliver() {
    let gate = gate();
    // SAFETY: errno is a word of the running identity, which stays ours when a handler switches.
    let (errno, saved) = unsafe { (libc::__errno_location(), *libc::__errno_location()) };
    while gate.pending.load(Relaxed) != 0 {
        gate.depth.store(1, Relaxed); // from here on nothing moves us
        compiler_fence(SeqCst);
        // SAFETY: closed at depth 1 on the line above.
        unsafe { vector::run_pending(None) }
        compiler_fence(SeqCst);
        gate.depth.store(0, Relaxed);
        compiler_fence(SeqCst);
    }
    // SAFETY: as above.
    unsafe { *errno = saved };
}

impl Gate {
    /// Nesting depth of critical sections; 0 = open. Any context.
    #[inline(always)]
    pub fn depth(&self) -> u32 {
        self.depth.load(Relaxed)
    }

    /// The receiver this identity runs on; null on a thread without one. Stable only while masked.
    #[inline(always)]
    pub fn receiver(&self) -> *const Receiver {
        self.receiver.load(Relaxed)
    }

    /// What the scheduler says runs here; null on threads.
    #[inline(always)]
    pub fn owner(&self) -> *mut () {
        self.owner.load(Relaxed)
    }

    /// Says what runs on this identity. Scheduler, while the identity does not run or is masked.
    ///
    /// # Safety
    /// The identity does not run, or is masked and the caller's own; the scheduler that reads `owner` knows what it points to.
    #[inline(always)]
    pub unsafe fn set_owner(&self, owner: *mut ()) {
        self.owner.store(owner, Relaxed);
    }

    /// The scheduler's words of this identity, whoever runs it: see [`Word`].
    #[inline(always)]
    pub fn words(&self) -> &[AtomicUsize; 2] {
        &self.words
    }

    /// Closes the gate of an identity at a depth of 1 and sets the bounds of its stack: an RSP below `stack_low` plus the room that a frame
    /// needs is not interrupted.
    ///
    /// # Safety
    /// The identity is the caller's, or does not run; the bounds are those of the stack that it runs on, and nothing else lies between them.
    pub unsafe fn prepare(&self, stack_low: usize, stack_high: usize) {
        self.depth.store(1, Relaxed);
        self.lo.store(stack_low + crate::arch::xstate::room(), Relaxed);
        self.hi.store(stack_high, Relaxed);
    }

    /// Says whether frames on this identity's stack are left by UIRET: if its receivers' mechanism has that instruction. While the gate is closed.
    ///
    /// # Safety
    /// The gate is closed; with `yes`, the instruction exists or is modelled on every thread that the identity will run on.
    pub unsafe fn return_by_uiret(&self, yes: bool) {
        self.uiret.store(yes.into(), Relaxed);
    }

    /// The lowest and the highest stack pointer that are interrupted in place.
    pub fn bounds(&self) -> (usize, usize) {
        (self.lo.load(Relaxed), self.hi.load(Relaxed))
    }

    /// Closes the gate of a thread that switches between fibers which share its identity: never interrupted in place, asked at checkpoints.
    ///
    /// # Safety
    /// The gate is the calling thread's own.
    pub unsafe fn prepare_shared(&self) {
        self.depth.store(1, Relaxed);
        self.lo.store(usize::MAX, Relaxed);
        self.hi.store(0, Relaxed);
    }

    /// Opens the gate of a thread that has stopped being a receiver.
    ///
    /// # Safety
    /// The gate is the calling thread's own, outside any section, and its receiver is detached.
    pub unsafe fn open(&self) {
        self.pending.store(0, Relaxed);
        self.depth.store(0, Relaxed);
    }

    /// Names the receiver that the identity will run on, before it runs there.
    ///
    /// # Safety
    /// The identity is not running, or it is the caller's own and masked; the receiver stays alive while the gate names it.
    #[inline(always)]
    pub unsafe fn set_receiver(&self, receiver: *const Receiver) {
        self.receiver.store(receiver.cast_mut(), Relaxed);
    }

    /// First thing after every resume, once FS is this identity's: recomputes the hint from the receiver's PIR. A notification before this
    /// line left its vector in PIR and a hint in some other gate; one after it finds this gate.
    ///
    /// # Safety
    /// Masked, running on this identity, receiver not null.
    #[inline(always)]
    pub unsafe fn resumed(&self) {
        if cfg!(unyield_mutant = "no_recompute") {
            return;
        }
        self.pending.store(0, Relaxed);
        compiler_fence(SeqCst);
        // SAFETY: masked and not null, per the contract.
        if unsafe { (*self.receiver.load(Relaxed)).upid.pending() } != 0 {
            self.pending.store(1, Relaxed);
        }
    }

    /// Leaves a request for the next checkpoint (shared identities only).
    #[inline]
    pub fn request(&self) {
        self.requested.store(1, Relaxed);
    }

    /// Takes a request that was left for a checkpoint (shared identities only).
    #[inline(always)]
    pub fn take_request(&self) -> bool {
        self.requested.load(Relaxed) != 0 && {
            self.requested.store(0, Relaxed);
            true
        }
    }
}

/// A critical section as a guard: closed from [`enter`](CriticalSection::enter) to drop. On a thread that is no receiver it costs the same and does nothing.
///
/// ```
/// use unyield_preempt::CriticalSection;
/// let section = CriticalSection::enter();
/// assert!(CriticalSection::is_active());
/// drop(section);
/// assert!(!CriticalSection::is_active());
/// ```
///
/// It cannot be sent to another thread or fiber:
///
/// ```compile_fail
/// let section = unyield_preempt::CriticalSection::enter();
/// std::thread::spawn(move || drop(section));
/// ```
#[must_use = "the section ends when the guard is dropped"]
#[derive(Debug)]
pub struct CriticalSection(core::marker::PhantomData<*mut ()>);

impl CriticalSection {
    /// Holds interrupts back until the guard drops. Nests. Any context but a signal handler.
    #[inline(always)]
    pub fn enter() -> Self {
        mask();
        if uintr::sections_use_uif() && gate().depth() == 1 {
            uintr::close(gate().receiver());
        }
        CriticalSection(core::marker::PhantomData)
    }

    /// True inside a section (the caller's own, or the runtime's).
    #[inline]
    pub fn is_active() -> bool {
        gate().depth() != 0
    }
}

impl Drop for CriticalSection {
    #[inline(always)]
    fn drop(&mut self) {
        // While the gate is closed: what comes leaves its hint.
        if uintr::sections_use_uif() && gate().depth() == 1 {
            uintr::open(gate().receiver());
        }
        // SAFETY: pairs with the `mask` in `enter`; the guard is neither Send nor Clone, so it is the same fiber's.
        unsafe { unmask() }
    }
}

/// Runs `f` with interrupts held back; what arrives meanwhile is taken when the outermost section ends.
///
/// ```
/// assert_eq!(unyield_preempt::critical(|| 6 * 7), 42);
/// ```
#[inline]
pub fn critical<R>(f: impl FnOnce() -> R) -> R {
    let _section = CriticalSection::enter();
    f()
}
