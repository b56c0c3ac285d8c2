//! The timer thread: a plain thread that wakes in time, whatever fibers do.
//!
//! It never allocates, frees, prints, or takes a lock that fiber code can hold (a timer thread that printed while a preempted fiber held
//! stderr's lock stopped all ticks). What it does at each tick is the scheduler's; this module only sets the thread up and keeps time.

use core::ptr::null_mut;

/// Nanoseconds of CLOCK_MONOTONIC. Any context.
#[inline]
pub fn now() -> u64 {
    // SAFETY: writes to a local; the vDSO call is async-signal-safe.
    unsafe {
        let mut time: libc::timespec = core::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time);
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    }
}

/// Starts a timer thread that runs `body` with all signals blocked, the smallest timer slack, and a real-time priority where that is
/// allowed (otherwise ticks come late on a full machine).
///
/// # Errors
/// What thread creation says.
pub fn spawn_timer(
    name: String,
    body: impl FnOnce() + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name(name).spawn(move || {
        block_all_signals();
        // SAFETY: settings of the calling thread only; failure leaves the defaults.
        unsafe {
            libc::prctl(libc::PR_SET_TIMERSLACK, 1);
            let mut parameters: libc::sched_param = core::mem::zeroed();
            parameters.sched_priority = 1;
            libc::pthread_setschedparam(
                libc::pthread_self(),
                libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK,
                &parameters,
            );
        }
        body();
    })
}

/// Blocks every signal for the calling thread but those of its own faults: the program's signals go to its other threads.
pub fn block_all_signals() {
    // SAFETY: plain libc calls on a local set.
    unsafe {
        let mut all: libc::sigset_t = core::mem::zeroed();
        libc::sigfillset(&mut all);
        for fault in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP] {
            libc::sigdelset(&mut all, fault);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, null_mut());
    }
}
