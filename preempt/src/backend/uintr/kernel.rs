//! Intel's two kernel interfaces for User Interrupts, behind one table of functions, and how to find which of them is there.
//!
//! Neither is in mainline Linux, whose system calls have the same numbers for other things: so nothing is called before the CPU has the feature AND has been
//! told by its kernel to use it, which TESTUI shows. Facts and their sources: docs/uintr.md.

use crate::arch::insn;
use core::ptr::null_mut;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicPtr};
use std::sync::OnceLock;

/// A result of the kernel: a number, or an errno.
pub type Answer<T> = Result<T, i32>;

/// What a kernel (or its model) can do. All act on the calling thread; flags are 0.
#[derive(Debug)]
#[non_exhaustive]
pub struct Interface {
    /// For reports.
    pub name: &'static str,
    /// Makes the calling thread a receiver whose interrupts enter at this address. EBUSY if it is one already.
    pub register_handler: fn(usize) -> Answer<()>,
    /// Undoes it; what is pending is discarded.
    pub unregister_handler: fn() -> Answer<()>,
    /// A descriptor that lets its holder send this vector to the calling thread.
    pub vector_fd: fn(u64) -> Answer<i32>,
    /// An entry of the target table for such a descriptor. The number is what SENDUIPI takes.
    pub register_sender: fn(i32) -> Answer<u32>,
    /// Gives an entry back.
    pub unregister_sender: fn(u32) -> Answer<()>,
    /// An entry, for all threads of the process, that sends this vector to the calling thread. The older interface has no such call: there each sending task
    /// would need an entry of its own, so receivers are notified by signals.
    pub register_self: Option<fn(u64) -> Answer<u32>>,
}

fn call(number: i64, arguments: [u64; 2]) -> Answer<u32> {
    // SAFETY: the interface was found, so the number is the call that is meant; no call here passes a pointer that is not a function's.
    let result = unsafe { insn::syscall6(number as u64, [arguments[0], arguments[1], 0, 0, 0, 0]) } as i64;
    if result < 0 { Err(-result as i32) } else { Ok(result as u32) }
}

/// Intel's `uintr-next` tree, on Linux 6.0: calls 471 to 479.
pub(crate) static NEXT: Interface = Interface {
    name: "uintr-next",
    register_handler: |entry| call(471, [entry as u64, 0]).map(drop),
    unregister_handler: || call(472, [0, 0]).map(drop),
    vector_fd: |vector| call(473, [vector, 0]).map(|fd| fd as i32),
    register_sender: |fd| call(474, [fd as u64, 0]),
    unregister_sender: |index| call(475, [index.into(), 0]).map(drop),
    register_self: Some(|vector| call(477, [vector, 0])),
};

/// The first posting, for Linux 5.14: calls 449 to 454. Its target table belongs to the task.
pub(crate) static RFC: Interface = Interface {
    name: "rfc-v1",
    register_handler: |entry| call(449, [entry as u64, 0]).map(drop),
    unregister_handler: || call(450, [0, 0]).map(drop),
    vector_fd: |vector| call(451, [vector, 0]).map(|fd| fd as i32),
    register_sender: |fd| call(452, [fd as u64, 0]),
    unregister_sender: |_| Err(libc::ENOSYS), // it takes the descriptor
    register_self: None,
};

/// CPUID.(7,0):EDX[5].
pub(crate) fn cpu_has_uintr() -> bool {
    core::arch::x86_64::__cpuid_count(7, 0).edx >> 5 & 1 == 1
}

/// The interface of the running kernel, or why there is none.
pub(super) fn find() -> Result<&'static Interface, &'static str> {
    if !cpu_has_uintr() {
        return Err("the CPU has no User Interrupts (CPUID.(7,0):EDX[5])");
    }
    if !enabled() {
        return Err("the kernel has not enabled User Interrupts (CR4.UINTR: TESTUI traps)");
    }
    // A null handler is refused with EFAULT by the call that is meant, and nothing is changed.
    if call(471, [0, 0]) == Err(libc::EFAULT) {
        Ok(&NEXT)
    } else if call(449, [0, 0]) == Err(libc::EFAULT) {
        Ok(&RFC)
    } else {
        Err("User Interrupts are enabled, but the kernel has neither of Intel's interfaces")
    }
}

/// True if the kernel has switched User Interrupts on: their instructions run here. Found once.
pub(crate) fn enabled() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| cpu_has_uintr() && testui_works())
}

static TRAPPED: AtomicBool = AtomicBool::new(false);
static PREVIOUS: AtomicPtr<libc::sigaction> = AtomicPtr::new(null_mut());

/// Executes TESTUI under a temporary SIGILL handler; what other threads raise meanwhile goes to the handler that was there before. A plain thread. (Its action
/// is put back: one that another thread installs in the same microseconds is lost.)
fn testui_works() -> bool {
    let mask = insn::signal_mask();
    // SAFETY: plain sigaction calls with a handler of the signature that SA_SIGINFO says. SIGILL is unblocked for the instruction: the kernel ends a process that
    // faults with it blocked.
    unsafe {
        let mut previous: libc::sigaction = core::mem::zeroed();
        if libc::sigaction(libc::SIGILL, core::ptr::null(), &mut previous) != 0 {
            return false;
        }
        PREVIOUS.store(Box::into_raw(Box::new(previous)), Release);
        let mut action: libc::sigaction = core::mem::zeroed();
        action.sa_sigaction = step_over as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        if libc::sigaction(libc::SIGILL, &action, null_mut()) != 0 {
            return false;
        }
        TRAPPED.store(false, Relaxed);
        insn::set_signal_mask(mask & !(1 << (libc::SIGILL - 1)));
        insn::try_testui();
        insn::set_signal_mask(mask);
        libc::sigaction(libc::SIGILL, &previous, null_mut());
    }
    !TRAPPED.load(Relaxed)
}

unsafe extern "C" fn step_over(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the context is this handler's; PREVIOUS was stored before it could run.
    unsafe {
        let rip = &mut crate::arch::inject::registers(context.cast())[libc::REG_RIP as usize];
        if *rip == insn::try_testui as *const () as i64 {
            TRAPPED.store(true, Relaxed);
            *rip += insn::TESTUI_LENGTH;
        } else {
            crate::backend::signal::call_handler(&*PREVIOUS.load(Acquire), signal, info, context);
        }
    }
}
