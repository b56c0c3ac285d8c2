//! An allocator in critical sections: no preempted fiber holds its lock.

use std::alloc::{GlobalAlloc, Layout};
use unyield_preempt::{mask, unmask};

/// Wraps a global allocator so that it runs in critical sections. Worth it for programs whose fibers mostly allocate: a fiber preempted inside malloc holds the
/// arena's lock until it runs again, and the others block on it. Costs about a nanosecond a call.
///
/// ```
/// use std::alloc::System;
/// #[global_allocator]
/// static ALLOCATOR: unyield::alloc::Masked<System> = unyield::alloc::Masked(System);
/// assert_eq!(vec![1, 2, 3].len(), 3);
/// ```
#[derive(Debug, Default)]
pub struct Masked<A>(pub A);

/// Runs `f` masked. No guard: an allocator does not unwind.
#[inline(always)]
fn masked<R>(f: impl FnOnce() -> R) -> R {
    mask();
    let result = f();
    // SAFETY: pairs with the mask above.
    unsafe { unmask() };
    result
}

// SAFETY: forwards to an allocator that keeps the contract.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Masked<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is passed on.
        masked(|| unsafe { self.0.alloc(layout) })
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        masked(|| unsafe { self.0.dealloc(ptr, layout) });
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        masked(|| unsafe { self.0.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: as above.
        masked(|| unsafe { self.0.realloc(ptr, layout, new_size) })
    }
}
