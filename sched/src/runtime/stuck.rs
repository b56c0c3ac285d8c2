//! Workers that do not come back to their queue: what the kernel says of them, and the report. For the timer thread: raw system calls only, nothing is
//! allocated, and no lock is taken that a fiber can hold (rule 1).

use super::Shared;
use crate::observe::report::Line;
use crate::worker::Worker;
use unyield_preempt::backend::signal;

/// Reads the start of `/proc/self/task/<tid>/<name>` into `buffer`; empty if that is not possible.
fn read_proc<'a>(tid: i32, name: &str, buffer: &'a mut [u8]) -> &'a [u8] {
    let mut path = Line::new();
    path.push("/proc/self/task/");
    path.push_number(tid.max(0) as u64);
    path.push("/");
    path.push(name);
    path.push("\0");
    // SAFETY: a terminated path; the file is closed again; at most the buffer is written.
    unsafe {
        let file = libc::syscall(
            libc::SYS_openat,
            libc::AT_FDCWD,
            path.bytes().as_ptr(),
            libc::O_RDONLY | libc::O_CLOEXEC,
        );
        if file < 0 {
            return &[];
        }
        let n = libc::syscall(libc::SYS_read, file, buffer.as_mut_ptr(), buffer.len());
        libc::syscall(libc::SYS_close, file);
        &buffer[..n.max(0) as usize]
    }
}

/// The kernel's letter for the thread's state (`R` runs or wants to); `?` if it cannot be told.
pub(super) fn thread_state(tid: i32) -> u8 {
    let mut buffer = [0; 128];
    let stat = read_proc(tid, "stat", &mut buffer);
    // the name is in parentheses and may contain some itself
    stat.iter().rposition(|&byte| byte == b')').and_then(|at| stat.get(at + 2)).copied().unwrap_or(b'?')
}

/// The thread's set of blocked signals; `None` if it cannot be told.
fn blocked_signals(tid: i32) -> Option<u64> {
    let mut buffer = [0; 2048];
    let status = read_proc(tid, "status", &mut buffer);
    let at = status.windows(7).position(|window| window == b"SigBlk:")?;
    let digits = status[at + 7..].trim_ascii_start().split(|byte| *byte == b'\n').next()?;
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// The number of the system call that the thread sleeps in.
fn system_call(tid: i32) -> Option<u64> {
    let mut buffer = [0; 64];
    let call = read_proc(tid, "syscall", &mut buffer);
    std::str::from_utf8(call.split(|byte| *byte == b' ').next()?).ok()?.parse().ok()
}

/// Says that `worker` is stuck, and why if it can be told. `deferred`: interrupts have found its gate closed.
pub(super) fn report(runtime: &Shared, worker: &Worker, deferred: bool) {
    let tid = worker.receiver.tid();
    let signo = worker.receiver.signal();
    let futex = system_call(tid) == Some(libc::SYS_futex as u64);
    if runtime.shares_identities() && !futex {
        return; // a fiber that computes without checkpoints is what this mode is about
    }
    let why = if runtime.shares_identities() {
        "blocks in a futex, while other fibers wait that only this worker can run: was a std lock held across a checkpoint?"
    } else if !signal::is_installed(signo) {
        "does not answer: another handler was installed for the runtime's signal, so nothing is preempted any more"
    } else if blocked_signals(tid).is_some_and(|set| signo > 0 && set >> (signo - 1) & 1 == 1) {
        "does not answer: a fiber has blocked the runtime's signal there"
    } else if deferred {
        "cannot be interrupted: a fiber stays in a critical section there"
    } else {
        "cannot be interrupted: it is in a call that no signal ends, in a signal handler, on another signal mask, alternate stack or stack than its own"
    };
    let mut line = Line::new();
    line.push("unyield: worker ");
    line.push_number(worker.index as u64);
    line.push(" ");
    line.push(why);
    if !runtime.shares_identities() {
        line.push("; a spare worker runs the other fibers meanwhile");
    }
    line.push("\n");
    line.write();
}
