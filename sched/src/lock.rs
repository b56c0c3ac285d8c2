//! A spinlock that masks interrupts while it is held: what fibers, the timer thread and plain threads share briefly.
//!
//! Nothing under it may allocate, free, block, run user code or panic (rule 1): the holder cannot be preempted by us, so it is
//! always released within a few instructions, unless the kernel takes the CPU away.

use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use unyield_preempt::{mask, unmask};
use unyield_stealing::spin::{SpinLock, SpinLockGuard};

pub(crate) struct Lock<T>(SpinLock<T>);

impl<T> Lock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Lock(SpinLock::new(value))
    }

    #[inline]
    pub(crate) fn lock(&self) -> LockGuard<'_, T> {
        mask();
        LockGuard(ManuallyDrop::new(self.0.lock()))
    }
}

impl<T: Default> Default for Lock<T> {
    fn default() -> Self {
        Lock::new(T::default())
    }
}

impl<T> std::fmt::Debug for Lock<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lock")
    }
}

pub(crate) struct LockGuard<'a, T>(ManuallyDrop<SpinLockGuard<'a, T>>);

impl<T> Deref for LockGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for LockGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> Drop for LockGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: dropped once, here; then the gate that `lock` closed is opened again by the same fiber (the guard is not Send).
        unsafe {
            ManuallyDrop::drop(&mut self.0);
            unmask();
        }
    }
}
