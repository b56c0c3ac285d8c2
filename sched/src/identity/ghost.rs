//! Ghost threads: a pthread whose kernel task has ended, so that its TCB, TLS and stack can be lent to any worker.
//!
//! Making one: `pthread_create` on our own stack; in it, note FS base, make the kernel forget rseq, prepare the gate, save the context and end only the
//! kernel task (`set_tid_address` + raw `SYS_exit`). Retiring one: give it a kernel task again (raw `clone` with its TLS) that returns from the
//! thread's start routine, so that TLS destructors, allocator caches and `pthread_join` happen as for any thread. Public interfaces only;
//! `_dl_allocate_tls` was tried and rejected: initial-exec TLS of libraries loaded later is wrong, and 132 KiB leak per identity.
//!
//! Called from plain threads only (`service`): it allocates, and a TLS destructor may block.

use super::Identity;
use super::stack::Stack;
use crate::fiber::task::Task;
use crate::par::forks::Forks;
use crate::preempt::Stealing;
use crate::switch::{self, SavedContext};
use crate::worker::resume;
use std::io;
use std::ptr::{NonNull, null_mut};
use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Relaxed},
};
use unyield_preempt::arch::insn;
use unyield_preempt::gate::gate;

/// Thread ids that no kernel gives out (its limit is 2^22), within the 30 bits that a futex owner word has. Unique while in use: handed out in order,
/// and a block of 2^29 is not used up by identities that exist at the same time.
static NEXT_TID: AtomicU32 = AtomicU32::new(0);
const FIRST_TID: u32 = 0x2000_0000;
const TID_COUNT: u32 = 0x1000_0000;

static FREE_TIDS: parking_lot::Mutex<Vec<u32>> = parking_lot::Mutex::new(Vec::new());

fn take_tid() -> u32 {
    if let Some(tid) = FREE_TIDS.lock().pop() {
        return tid;
    }
    let n = NEXT_TID.fetch_add(1, Relaxed);
    assert!(n < TID_COUNT, "more identities than thread ids");
    FIRST_TID + n
}

/// Where libc keeps the thread id in its TCB, as an offset from FS. One thread is not enough to tell: its id may equal half of a pointer in its own TCB
/// (0x7f45 did), and the fake id would overwrite it; so take what several threads agree on.
pub(crate) fn tid_offset() -> Option<usize> {
    static OFFSET: OnceLock<Option<usize>> = OnceLock::new();
    *OFFSET.get_or_init(|| {
        const WINDOW: usize = 0x900; // glibc's struct pthread is 2,304 bytes
        let probe = || {
            // SAFETY: FSGSBASE was probed; the TCB and what follows it are readable for the size of struct pthread.
            unsafe {
                let fs = insn::rdfsbase();
                let tid = libc::syscall(libc::SYS_gettid) as i32;
                (0..WINDOW)
                    .step_by(4)
                    .filter(|offset| *((fs + offset) as *const i32) == tid)
                    .collect::<Vec<_>>()
            }
        };
        let mut agreed: Option<Vec<usize>> = None;
        for _ in 0..6 {
            let hits = std::thread::spawn(probe).join().ok()?;
            agreed = Some(match agreed {
                None => hits,
                Some(before) => before.into_iter().filter(|offset| hits.contains(offset)).collect(),
            });
        }
        match agreed?.as_slice() {
            [only] => Some(*only),
            _ => None,
        }
    })
}

/// Makes an identity with a stack of `size` bytes. 14–21 µs.
pub(crate) fn create(size: usize, stealing: Stealing) -> io::Result<&'static Identity> {
    let stack = Stack::map(size)?;
    let (low, top) = (stack.low(), stack.top());
    let identity: &'static Identity = Box::leak(Box::new(Identity::new(stack, Forks::new(stealing))));
    // SAFETY: the attribute describes our own stack, which outlives the thread; `donor` keeps pthread's contract. On failure nobody else knows the identity.
    unsafe {
        let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
        libc::pthread_attr_init(&mut attributes);
        libc::pthread_attr_setstack(&mut attributes, low as *mut _, top - low);
        let mut pthread: libc::pthread_t = std::mem::zeroed();
        let error =
            libc::pthread_create(&mut pthread, &attributes, donor, identity as *const Identity as *mut _);
        libc::pthread_attr_destroy(&mut attributes);
        if error != 0 {
            drop(Box::from_raw(identity as *const Identity as *mut Identity));
            return Err(io::Error::from_raw_os_error(error));
        }
        identity.pthread.set(pthread);
        while identity.alive.load(Acquire) != 0 {
            // not PRIVATE: the kernel wakes a clear_child_tid word as a shared futex
            libc::syscall(libc::SYS_futex, identity.alive.as_ptr(), libc::FUTEX_WAIT, 1, 0usize);
        }
        // owner of recursive and robust mutexes
        identity.own_tid.set(take_tid());
        *identity.tid.get() = identity.own_tid.get();
    }
    Ok(identity)
}

/// Makes an identity that shares its worker's: a stack, no more.
pub(crate) fn create_shared(size: usize) -> io::Result<&'static Identity> {
    let stack = Stack::map(size)?;
    // SAFETY: a fresh stack of our own.
    let context = unsafe { switch::new_context(stack.low(), stack.top(), resume::shared_entry) };
    let identity = Box::leak(Box::new(Identity::new(stack, Forks::new(Stealing::Eager))));
    identity.context = context;
    Ok(identity)
}

extern "C" fn donor(argument: *mut libc::c_void) -> *mut libc::c_void {
    // SAFETY: `create` passes the identity, which lives until it is retired.
    let identity = unsafe { &*argument.cast::<Identity>() };
    // SAFETY: this is the identity's own kernel task, in the order that gates.md asks for: gate closed and bounds set before the task ends.
    unsafe {
        let fs = insn::rdfsbase();
        identity.fs.set(fs);
        let gate = gate();
        gate.prepare(identity.stack.low(), identity.stack.top());
        identity.gate.set(gate);
        identity.begin_forks();
        insn::unregister_rseq(fs);
        identity.tid.set((fs + tid_offset().unwrap_or(0)) as *mut u32);
        // A ghost must not take signals: it has no kernel task. This task blocks them all for its last microseconds.
        unyield_preempt::tick::block_all_signals();
        let transfer = insn::leave_kernel_task(identity.context.slot(), identity.alive.as_ptr());
        // Resumed as a fiber, perhaps by a worker that was just born.
        switch::arrive_raw(transfer);
        if !identity.retire.get() {
            resume::identity_main(identity);
        }
        // Retired: a plain kernel task again, gate closed, nobody's receiver. TLS destructors cannot switch.
    }
    null_mut()
}

/// Ends an identity that is at rest with `retire` set: TLS destructors run, memory is returned. Blocks as long as destructors do.
///
/// # Safety
/// Nobody else knows the identity any more.
pub(crate) unsafe fn retire(identity: &'static Identity) {
    identity.retire.set(true);
    if let Some(helper) = NonNull::new(identity.helper.replace(null_mut())) {
        // SAFETY: in reserve, so the reference is the identity's.
        unsafe { Task::release(helper) };
    }
    let free = identity as *const Identity as *mut Identity;
    if identity.is_shared() {
        // SAFETY: a shared identity is only a stack with a context on it that is never resumed.
        drop(unsafe { Box::from_raw(free) });
        return;
    }
    let flags = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM
        | libc::CLONE_SETTLS
        | libc::CLONE_PARENT_SETTID
        | libc::CLONE_CHILD_CLEARTID;
    // SAFETY: the identity rests in a saved context of its own; its TCB is the one that pthread_create made, whose thread id word libc waits on.
    unsafe {
        let gate = &*identity.gate.get();
        gate.set_receiver(std::ptr::null());
        gate.open(); // with no receiver nothing can come, and destructors may use what is not for critical sections
        gate.set_owner(null_mut());
        let fake = identity.own_tid.get();
        let sink = SavedContext::empty();
        let started = insn::clone_onto(
            flags as usize,
            identity.context.stack_pointer(),
            identity.tid.get() as usize,
            identity.fs.get(),
            &raw const sink as usize,
        );
        if started <= 0 {
            // No kernel task to be had: leak it rather than lose TLS destructors half way.
            crate::observe::report::say("an identity could not be retired (clone failed); it is leaked");
            return;
        }
        libc::pthread_join(identity.pthread.get(), null_mut());
        FREE_TIDS.lock().push(fake);
        drop(Box::from_raw(free));
    }
}
