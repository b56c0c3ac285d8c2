//! Living with signal handlers and alternate stacks that are not ours.
//!
//! A program's handler without SA_ONSTACK runs on the fiber's stack; a fiber that was switched away inside it would return from the signal on
//! another thread, with the wrong mask and alternate stack for good. A changed signal mask gives most of them away; SA_NODEFER
//! handlers escape that, so SA_ONSTACK is added to what is installed at start (Go does the same: runtime/signal_unix.go, `setsigstack`).

use crate::arch::insn;
use core::ptr::{null, null_mut};
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The kernel's own struct for rt_sigaction: libc hides signals 32–34 and its restorer.
#[repr(C)]
#[derive(Clone, Copy)]
struct KernelAction {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

fn read_action(signal: i32) -> Option<KernelAction> {
    let mut action = KernelAction { handler: 0, flags: 0, restorer: 0, mask: 0 };
    // SAFETY: reads the current action into a local of the kernel's layout.
    let result = unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, 0usize, &raw mut action, 8usize) };
    (result == 0).then_some(action)
}

fn write_action(signal: i32, action: &KernelAction) -> bool {
    // SAFETY: writes back an action that was read, with a changed flag or a handler of the same signature.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, &raw const *action, 0usize, 8usize) == 0 }
}

/// Adds SA_ONSTACK to every handler that is installed now. Call it before workers run; handlers installed later must bring the flag themselves.
pub fn adopt_handlers() {
    for signal in (1..=64).filter(|s| ![libc::SIGKILL, libc::SIGSTOP].contains(s)) {
        if let Some(mut action) = read_action(signal)
            && action.handler > 1
            && action.flags & libc::SA_ONSTACK as u64 == 0
        {
            action.flags |= libc::SA_ONSTACK as u64;
            write_action(signal, &action);
        }
    }
}

/// glibc's internal signal for setuid & co: every thread it knows must run the call and answer through its own TCB.
const SIGSETXID: i32 = 33;
static SETXID_HANDLER: AtomicUsize = AtomicUsize::new(0);
/// How the handler finds the thread's native FS base: set by the scheduler.
static NATIVE_FS: AtomicUsize = AtomicUsize::new(0);

/// Makes glibc's broadcast of setuid, setgid and the like reach worker threads: its handler answers through the TCB that FS names, which on a
/// worker is the running fiber's, so the answer would be booked on the wrong thread and the caller would wait for ever. The handler is
/// wrapped in a swap to the thread's native identity. Does nothing where libc has not installed the handler yet; glibc installs it at
/// the first `pthread_create` or at start, depending on its version, so call this after the first thread exists.
///
/// # Safety
/// `native_fs` is async-signal-safe and gives the FS base of the running worker thread, or 0 if the thread is no worker.
pub unsafe fn wrap_setxid(native_fs: extern "C" fn() -> usize) {
    let Some(mut action) = read_action(SIGSETXID) else { return };
    if action.handler <= 1 || action.handler == setxid as *const () as usize {
        return;
    }
    SETXID_HANDLER.store(action.handler, Relaxed);
    NATIVE_FS.store(native_fs as *const () as usize, Relaxed);
    action.handler = setxid as *const () as usize;
    action.mask = !0; // nothing of ours may arrive while FS is swapped
    write_action(SIGSETXID, &action);
}

unsafe extern "C" fn setxid(signal: i32, info: usize, context: usize) {
    // SAFETY: both words were stored before this handler was installed, and hold functions of these types.
    unsafe {
        let handler: extern "C" fn(i32, usize, usize) = core::mem::transmute(SETXID_HANDLER.load(Relaxed));
        let native_fs: extern "C" fn() -> usize = core::mem::transmute(NATIVE_FS.load(Relaxed));
        let native = native_fs();
        if native == 0 {
            return handler(signal, info, context);
        }
        let fiber = insn::rdfsbase();
        insn::wrfsbase(native);
        handler(signal, info, context);
        insn::wrfsbase(fiber);
    }
}

/// An alternate signal stack for the calling thread, from [`install`](AlternateStack::install) to drop.
#[derive(Debug)]
pub struct AlternateStack {
    base: *mut libc::c_void,
    previous: libc::stack_t,
}

const ALTERNATE_STACK_SIZE: usize = 128 << 10;

impl AlternateStack {
    /// Maps a stack with a guard page below and makes it the thread's.
    ///
    /// # Errors
    /// What mmap or sigaltstack say.
    pub fn install() -> std::io::Result<Self> {
        // SAFETY: fresh mapping, handed to the kernel as this thread's alternate stack; unmapped in drop after it was taken back.
        unsafe {
            let base = libc::mmap(
                null_mut(),
                ALTERNATE_STACK_SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK,
                -1,
                0,
            );
            if base == libc::MAP_FAILED {
                return Err(std::io::Error::last_os_error());
            }
            libc::mprotect(base, 4096, libc::PROT_NONE);
            let stack = libc::stack_t {
                ss_sp: base.byte_add(4096),
                ss_flags: 0,
                ss_size: ALTERNATE_STACK_SIZE - 4096,
            };
            let mut previous = core::mem::zeroed();
            if libc::sigaltstack(&stack, &mut previous) != 0 {
                let error = std::io::Error::last_os_error();
                libc::munmap(base, ALTERNATE_STACK_SIZE);
                return Err(error);
            }
            Ok(AlternateStack { base, previous })
        }
    }

    /// The lowest address that the kernel was told.
    pub fn start(&self) -> usize {
        self.base as usize + 4096
    }

    /// True if it is still the calling thread's alternate stack.
    pub fn is_current(&self) -> bool {
        // SAFETY: only reads the current setting.
        unsafe {
            let mut current: libc::stack_t = core::mem::zeroed();
            libc::sigaltstack(null(), &mut current) == 0 && current.ss_sp as usize == self.start()
        }
    }
}

impl Drop for AlternateStack {
    fn drop(&mut self) {
        // Somebody else may have set one since, or taken this one away: std does as a thread ends, before the destructors of its thread-local values run, and
        // has unmapped the previous one by then.
        let current = self.is_current();
        // SAFETY: gives the thread back what it had, then unmaps a stack that nobody uses any more.
        unsafe {
            if current {
                libc::sigaltstack(&self.previous, null_mut());
            }
            libc::munmap(self.base, ALTERNATE_STACK_SIZE);
        }
    }
}
