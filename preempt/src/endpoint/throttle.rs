//! The throttle: how much of a receiver's time its sub-handlers may take, and the timer that ends a pause.
//!
//! Without it a storm starves the thread: while one vector is handled the next one is posted, for ever. So time is booked. Each stay in
//! sub-handlers is a debt (what it took, and [`ENTRY`] for getting there); ordinary code pays it off at a rate of 1 to [`SHARE`]. A debt above [`BURST`]
//! begins a pause of as long as it takes to pay it: the bell stays rung (see `port`), so senders post their bits and notify nobody, until the timer's
//! signal ends the pause and everything posted meanwhile is handled at once. No vector is lost: the bits stay, and a pause begins only if
//! the timer was set. Time is the wall clock's; a thread that the kernel took off its CPU inside a sub-handler is charged too much,
//! hence the limit [`MOST`], which is also the longest sub-handler for which the share holds.
//!
//! All fields are the receiver's thread's and its signal handler's, so relaxed order is enough. A signal handler enters at dispatch's boundaries only
//! through `resume`, which changes `paused` alone.

use super::queued::Token;
use core::ptr::null_mut;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64};
use std::io;

/// Nanoseconds charged for the way into a sub-handler and back: signal, frame, XSAVE. On a virtual machine whose other CPU sends, 10 µs were measured.
const ENTRY: u64 = 12_000;
/// Nanoseconds of ordinary code that pay for one of sub-handlers.
const SHARE: u64 = 4;
/// Debt in nanoseconds at which a pause begins: 30 interrupts at once come without one.
const BURST: u64 = 400_000;
/// The most that is charged, in nanoseconds.
const MOST: u64 = 1_000_000;
/// When a delivery is tried again that the thread's state did not permit.
pub(super) const RETRY: u64 = 1_000_000;

#[derive(Debug)]
pub(super) struct Throttle {
    /// What had not been paid when the last stay ended.
    debt: AtomicU64,
    /// When the last stay ended, or the current one began.
    since: AtomicU64,
    paused: AtomicBool,
    pauses: AtomicU64,
    /// The kernel's timer; set once, before the receiver is attached.
    timer: AtomicPtr<libc::c_void>,
    has_timer: AtomicBool,
}

impl Throttle {
    pub(super) const fn new() -> Self {
        Throttle {
            debt: AtomicU64::new(0),
            since: AtomicU64::new(0),
            paused: AtomicBool::new(false),
            pauses: AtomicU64::new(0),
            timer: AtomicPtr::new(null_mut()),
            has_timer: AtomicBool::new(false),
        }
    }

    /// Makes the timer, whose signals go to the calling thread and carry `token`.
    pub(super) fn make_timer(&self, signal: i32, token: Token) -> io::Result<()> {
        // SAFETY: plain system calls on locals; the thread id is the caller's.
        unsafe {
            let mut event: libc::sigevent = core::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = signal;
            event.sigev_notify_thread_id = libc::syscall(libc::SYS_gettid) as i32;
            event.sigev_value = token.value();
            let mut timer: libc::timer_t = null_mut();
            if libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) != 0 {
                return Err(io::Error::last_os_error());
            }
            self.timer.store(timer, Relaxed);
            self.has_timer.store(true, Relaxed);
        }
        Ok(())
    }

    /// Deletes the timer. The receiver's thread, detached.
    pub(super) fn delete_timer(&self) {
        if self.has_timer.swap(false, Relaxed) {
            // SAFETY: made by `make_timer`, deleted once.
            unsafe { libc::timer_delete(self.timer.load(Relaxed)) };
        }
    }

    /// Sets the timer to go off once, in `ns`. False: it could not be set. Handler, masked.
    pub(super) fn arm(&self, ns: u64) -> bool {
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let value = libc::timespec {
            tv_sec: (ns / 1_000_000_000) as libc::time_t,
            tv_nsec: (ns % 1_000_000_000) as libc::c_long,
        };
        let time = libc::itimerspec { it_interval: zero, it_value: value };
        // SAFETY: our timer, if there is one; async-signal-safe by POSIX. errno is the interrupted code's: dispatch and the handler's caller keep it.
        self.has_timer.load(Relaxed)
            && unsafe {
                let errno = libc::__errno_location();
                let saved = *errno;
                let set = libc::timer_settime(self.timer.load(Relaxed), 0, &time, null_mut()) == 0;
                *errno = saved;
                set
            }
    }

    /// The outermost stay begins.
    pub(super) fn enter(&self, now: u64) {
        let paid = now.saturating_sub(self.since.load(Relaxed)) / SHARE;
        self.debt.store(self.debt.load(Relaxed).saturating_sub(paid), Relaxed);
        self.since.store(now, Relaxed);
    }

    fn owed(&self, now: u64) -> u64 {
        self.debt.load(Relaxed) + now.saturating_sub(self.since.load(Relaxed)) + ENTRY
    }

    /// True inside a stay that has gone on for long enough.
    pub(super) fn is_exceeded(&self, now: u64) -> bool {
        !cfg!(unyield_mutant = "endpoint-no-throttle") && self.owed(now) > BURST
    }

    /// A stay ends. True: a pause has begun, and the caller must not let senders notify.
    pub(super) fn leave(&self, now: u64, outermost: bool) -> bool {
        let exceeded = self.is_exceeded(now);
        let owed = self.owed(now).min(MOST);
        if outermost {
            self.debt.store(owed, Relaxed);
            self.since.store(now, Relaxed);
        }
        if exceeded && !self.is_paused() {
            self.paused.store(true, Relaxed); // before the timer can go off
            if !self.arm(owed * SHARE) {
                self.paused.store(false, Relaxed);
                return false;
            }
            self.pauses.store(self.pauses.load(Relaxed) + 1, Relaxed);
        }
        self.is_paused()
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Relaxed)
    }

    /// The timer has gone off. Handler.
    pub(super) fn resume(&self) {
        self.paused.store(false, Relaxed);
    }

    /// The thread asks for interrupts itself: nothing to protect, nothing owed.
    pub(super) fn forgive(&self) {
        self.paused.store(false, Relaxed);
        self.debt.store(0, Relaxed);
    }

    pub(super) fn pauses(&self) -> u64 {
        self.pauses.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_timer() -> Throttle {
        crate::backend::signal::install(crate::backend::signal::DEFAULT_SIGNAL).unwrap();
        let throttle = Throttle::new();
        throttle.make_timer(crate::backend::signal::DEFAULT_SIGNAL, Token::default()).unwrap();
        throttle
    }

    #[test]
    fn few_are_not_throttled_and_many_are() {
        let throttle = with_timer();
        let mut now = 1_000_000_000;
        for _ in 0..1000 {
            throttle.enter(now);
            assert!(!throttle.leave(now + 1_000, true), "within the share");
            now += 60_000;
        }
        let mut stays = 0;
        loop {
            throttle.enter(now);
            stays += 1;
            if throttle.leave(now + 1_000, true) {
                break;
            }
            now += 2_000;
        }
        assert!((25..50).contains(&stays), "{stays} stays before a pause");
        throttle.resume();
        throttle.enter(now + BURST * SHARE + 10_000);
        assert!(!throttle.leave(now + BURST * SHARE + 11_000, true), "paid");
        throttle.delete_timer();
    }

    #[test]
    fn no_timer_no_pause() {
        let throttle = Throttle::new();
        throttle.enter(0);
        assert!(!throttle.leave(MOST * 2, true));
    }
}
