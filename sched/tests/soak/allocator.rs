//! The system's allocator, watched: nothing may allocate or free while it is masked, neither the runtime nor the soak.
//!
//! A thread without a receiver is left out: a plain thread in a critical section blocks nobody, and an identity that is being retired runs the
//! destructors of its thread-locals with its gate closed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use unyield_preempt::gate::gate;

struct Watched;

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// Bytes that are allocated now.
static LIVE: AtomicUsize = AtomicUsize::new(0);
static CALLS: AtomicU64 = AtomicU64::new(0);
static CAUGHT: AtomicBool = AtomicBool::new(false);
static FIRST: Mutex<Option<Backtrace>> = Mutex::new(None);

#[inline(always)]
fn look() {
    let gate = gate();
    if gate.depth() != 0 && !gate.receiver().is_null() {
        masked_call();
    }
}

#[cold]
fn masked_call() {
    CALLS.fetch_add(1, Relaxed);
    // What this allocates itself comes back here, and finds the word set.
    if !CAUGHT.swap(true, SeqCst)
        && let Ok(mut first) = FIRST.try_lock()
    {
        *first = Some(Backtrace::force_capture());
    }
}

/// KiB that the program has allocated and not freed: what grows here is a leak, and what grows only outside is the allocator's.
pub fn live_kib() -> usize {
    LIVE.load(Relaxed) / 1024
}

/// KiB that libc's allocator has handed out or keeps in its caches (which every identity has), and that it keeps free in its arenas.
pub fn arenas_kib() -> (usize, usize) {
    // SAFETY: no preconditions.
    let info = unsafe { libc::mallinfo2() };
    ((info.uordblks + info.hblkhd) / 1024, info.fordblks / 1024)
}

/// How often it happened so far. Says where it did first.
pub fn masked_calls() -> u64 {
    let calls = CALLS.load(Relaxed);
    if calls > 0
        && let Some(trace) = FIRST.lock().unwrap().take()
    {
        eprintln!("first call of the allocator in a critical section:\n{trace}");
    }
    calls
}

// SAFETY: forwards everything.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        look();
        LIVE.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        look();
        LIVE.fetch_add(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        look();
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        look();
        LIVE.fetch_add(new_size.wrapping_sub(layout.size()), Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}
