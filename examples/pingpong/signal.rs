//! The ends that tell by a plain signal.

use std::io::{self, ErrorKind};
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::atomic::{AtomicI32, AtomicU32};

use crate::ends::{Line, counted, system, text};
use crate::kinds::Mode;
use crate::run::{End, Side, relax};

/// A signal to the other thread: counted by a handler while its thread spins, or taken by sigwaitinfo.
pub(crate) struct Signal {
    /// Asked for once: it is a system call of its own.
    process: i32,
    side: Side,
    mode: Mode,
    previous: libc::sigset_t,
}

const SIGNALS: [i32; 2] = [libc::SIGUSR1, libc::SIGUSR2];
static THREADS: [AtomicI32; 2] = [AtomicI32::new(0), AtomicI32::new(0)];
static ARRIVED: [Line; 2] = [Line(AtomicU32::new(0)), Line(AtomicU32::new(0))];

extern "C" fn count(signal: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let side = usize::from(signal == SIGNALS[1]);
    ARRIVED[side].0.fetch_add(1, Relaxed); // read by the interrupted thread only
}

/// Installs `handler`, for all threads, with nothing but the signal itself held back while it runs.
pub(crate) fn handle(
    signal: i32,
    handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void),
) -> Result<(), String> {
    // SAFETY: all zeroes is an action without flags and with an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: the handler has the three arguments that SA_SIGINFO says; those of this program do next to nothing.
    system(unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) }).map(|_| ())
}

/// This process's id.
pub(crate) fn process_id() -> i32 {
    // SAFETY: no preconditions.
    unsafe { libc::getpid() }
}

/// The calling thread's id.
pub(crate) fn thread_id() -> i32 {
    // SAFETY: no preconditions.
    unsafe { libc::gettid() }
}

impl Signal {
    pub(crate) fn new(side: Side, mode: Mode) -> Result<Signal, String> {
        let signal = SIGNALS[side as usize];
        ARRIVED[side as usize].0.store(0, Relaxed);
        handle(signal, count)?;
        // SAFETY: all zeroes is an empty set.
        let (mut previous, mut set): (libc::sigset_t, libc::sigset_t) = unsafe { std::mem::zeroed() };
        let how = if mode == Mode::Block { libc::SIG_BLOCK } else { libc::SIG_UNBLOCK };
        // SAFETY: a valid signal number and two local sets.
        unsafe {
            libc::sigaddset(&mut set, signal);
            libc::pthread_sigmask(how, &set, &mut previous);
        }
        THREADS[side as usize].store(thread_id(), Release); // read by the other thread after a barrier
        Ok(Signal { process: process_id(), side, mode, previous })
    }

    /// Takes one signal, at once or not at all if there is a timeout of zero.
    fn take(&self, timeout: *const libc::timespec) -> io::Result<()> {
        // SAFETY: all zeroes is an empty set.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: a valid signal number and a local set.
        unsafe { libc::sigaddset(&mut set, SIGNALS[self.side as usize]) };
        // SAFETY: reads the set and, unless null, the timeout.
        match unsafe { libc::sigtimedwait(&set, std::ptr::null_mut(), timeout) } {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl End for Signal {
    fn send(&mut self, _: u32) -> Result<(), String> {
        let other = self.side.other() as usize;
        let thread = THREADS[other].load(Relaxed);
        // SAFETY: a signal that the other thread of this process handles or waits for.
        system(unsafe { libc::syscall(libc::SYS_tgkill, self.process, thread, SIGNALS[other]) } as i32)
            .map(|_| ())
    }

    fn receive(&mut self, n: u32) -> Result<(), String> {
        if self.mode == Mode::Block {
            return loop {
                match self.take(std::ptr::null()) {
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    taken => break taken.map_err(text),
                }
            };
        }
        counted(&ARRIVED[self.side as usize].0, n, |_| {
            relax();
            Ok(())
        })
    }

    fn finish(&mut self, n: u32) -> Result<(), String> {
        if self.mode == Mode::Spin {
            return counted(&ARRIVED[self.side as usize].0, n, |_| Err("some signals are missing".into()));
        }
        match self.take(&libc::timespec { tv_sec: 0, tv_nsec: 0 }) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(()),
            taken => Err(format!("a signal too many: {taken:?}")),
        }
    }
}

impl Drop for Signal {
    fn drop(&mut self) {
        // SAFETY: gives the thread the mask back that it had.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.previous, std::ptr::null_mut()) };
    }
}
