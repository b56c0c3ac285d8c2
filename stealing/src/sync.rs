//! The atomics and cells of this crate: the real ones, or loom's under `--cfg loom`.
//!
//! Not for the words that are owner-only: those are plain `Cell`s everywhere.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic;
#[cfg(loom)]
pub(crate) use loom::sync::atomic;

#[cfg(loom)]
pub(crate) use loom::cell::UnsafeCell;

/// `core::cell::UnsafeCell` with the interface of loom's, which checks that accesses do not overlap.
#[cfg(not(loom))]
pub(crate) struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    pub(crate) const fn new(value: T) -> Self {
        UnsafeCell(core::cell::UnsafeCell::new(value))
    }

    #[inline(always)]
    pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    #[inline(always)]
    pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}

/// One round of waiting for another thread: the pause instruction at first, then the kernel.
///
/// The thread that is waited for may not be running (the kernel took its core), then spinning on is in its way. Giving
/// the core away is not enough if the waiting thread has a real-time priority and the other one none: then only sleeping
/// lets it run. errno is clobbered.
#[cfg(not(loom))]
#[inline]
pub fn relax(round: u32) {
    const SPINS: u32 = 64;
    const YIELDS: u32 = SPINS + 4;
    const SLEEP: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 20_000 };
    // SAFETY: neither call touches memory or locks of ours.
    unsafe {
        match round {
            0..SPINS => core::hint::spin_loop(),
            SPINS..YIELDS => {
                libc::sched_yield();
            }
            _ => {
                libc::nanosleep(&SLEEP, core::ptr::null_mut());
            }
        }
    }
}

#[cfg(loom)]
pub fn relax(_round: u32) {
    loom::thread::yield_now();
}
