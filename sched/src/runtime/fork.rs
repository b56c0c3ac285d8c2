//! Fork (rule 10): in a child forked from a fiber no other fiber runs. A word in a page that fork wipes tells; every park, yield and spawn looks at it, and
//! the child's fiber goes on as a plain thread that may print, lock, exec and exit.

use crate::worker::Worker;
use std::io;
use std::ptr::null_mut;
use std::sync::atomic::{
    AtomicPtr, AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};
use unyield_preempt::arch::insn;

/// Null: no runtime was ever built, so nothing to tell apart.
static WORD: AtomicPtr<AtomicU32> = AtomicPtr::new(null_mut());

/// False in a child forked after the first runtime was built. Any context.
#[inline]
pub(crate) fn alive() -> bool {
    // SAFETY: null, or a page that is never unmapped.
    match unsafe { WORD.load(Acquire).as_ref() } {
        Some(word) => word.load(Relaxed) != 0,
        None => true,
    }
}

/// The fiber of a forked child has come to its end, and with it the child's only thread of ours: the process ends, as it does when its last thread returns.
pub(crate) fn end_child(panicked: bool) -> ! {
    std::process::exit(if panicked { 101 } else { 0 })
}

/// Libc takes the fiber for the child's only thread and will use, or unmap, the stack of the worker's thread, with its thread control block: the kernel
/// must not keep a rseq area there (it would end the process when it cannot write to it). Runs in the child, in `fork`.
extern "C" fn in_child() {
    // SAFETY: in a forked child nothing switches; the worker is the copy of a live one.
    let native = unsafe { Worker::try_current() }.map_or(0, |worker| worker.native_fs());
    if native != 0 {
        insn::unregister_rseq(native);
    }
}

/// Maps the page, once.
pub(crate) fn prepare() -> io::Result<()> {
    static ONCE: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
    let _guard = ONCE.lock();
    if !WORD.load(Acquire).is_null() {
        return Ok(());
    }
    // SAFETY: a fresh page that stays for the life of the process.
    unsafe {
        let page = libc::mmap(
            null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        if libc::madvise(page, 4096, libc::MADV_WIPEONFORK) != 0 {
            return Err(io::Error::last_os_error());
        }
        (*page.cast::<AtomicU32>()).store(1, Relaxed);
        if libc::pthread_atfork(None, None, Some(in_child)) != 0 {
            return Err(io::Error::from(io::ErrorKind::OutOfMemory));
        }
        WORD.store(page.cast(), Release);
    }
    Ok(())
}
