//! Cancelling: a fiber unwinds at its next checkpoint or blocking operation. Unwinding at an arbitrary instruction would be unsound.

use super::task;
use crate::park;

/// The payload of the unwinding.
pub(crate) struct Cancelled;

/// Unwinds if the running fiber was cancelled. Fiber, unmasked.
#[inline]
pub(crate) fn check() {
    if task::current().is_some_and(|task| task.is_cancelled()) && !std::thread::panicking() {
        park::unwind_cancelled();
    }
}
