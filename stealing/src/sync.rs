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

/// One round of waiting for another thread: the pause instruction at first, the kernel after `SPINS` rounds.
///
/// The thread that is waited for may not be running (the kernel took its core), then spinning on is in its way.
#[cfg(not(loom))]
#[inline]
pub(crate) fn relax(round: u32) {
    const SPINS: u32 = 64;
    if round < SPINS {
        core::hint::spin_loop();
    } else {
        // SAFETY: sched_yield has no preconditions. It touches neither memory nor locks of ours.
        unsafe { libc::sched_yield() };
    }
}

#[cfg(loom)]
pub(crate) fn relax(_round: u32) {
    loom::thread::yield_now();
}
