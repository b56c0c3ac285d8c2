//! An asymmetric fence: [`light`] on the path that runs all the time, [`heavy`] on the one that hardly ever does.
//!
//! A light and a heavy fence order like two `fence(SeqCst)`: of two threads that each store, fence and load what the
//! other stores, at least one sees the other's store, if one of them uses the heavy fence. Two light fences order
//! nothing between threads.
//!
//! The heavy one is `membarrier(PRIVATE_EXPEDITED)`: the kernel makes every running thread of this process execute a
//! full barrier, so the light one need only stop the compiler. Where the kernel lacks it, or before [`register`],
//! both are real fences. Anywhere may call both; [`heavy`] enters the kernel (1 µs and an interrupt per running
//! thread).

#[cfg(not(loom))]
pub use real::{assumed, heavy, is_asymmetric, light, register};

#[cfg(not(loom))]
mod real {
    use core::sync::atomic::{AtomicBool, Ordering, compiler_fence, fence};

    // From linux/membarrier.h.
    const MEMBARRIER_CMD_PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
    const MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;

    /// True once the process is registered: light fences may rely on the kernel. Never becomes false again: the
    /// registration lasts as long as the address space, and a forked child inherits it.
    static KERNEL: AtomicBool = AtomicBool::new(false);

    fn membarrier(command: libc::c_int) -> bool {
        // SAFETY: the call takes numbers only and touches no memory.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
    }

    /// Asks the kernel for its barrier; false if it lacks it (then the fences are real ones, and correct). Once at
    /// the start, from a plain thread; again is harmless.
    pub fn register() -> bool {
        let ok = membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
        if ok {
            // Relaxed: who sees `true` late uses a stronger fence; who sees it early cannot, since the kernel
            // registered us before. `heavy` does not read it.
            KERNEL.store(true, Ordering::Relaxed);
        }
        ok
    }

    /// The cheap side: no instruction but a load if the kernel's barrier is in use, else a real fence.
    #[inline(always)]
    pub fn light() {
        if KERNEL.load(Ordering::Relaxed) {
            compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
    }

    /// The cheap side where nobody uses the other one unless [`is_asymmetric`]: no instruction at all.
    #[inline(always)]
    pub fn assumed() {
        compiler_fence(Ordering::SeqCst);
    }

    /// True if the kernel's barrier is in use.
    pub fn is_asymmetric() -> bool {
        KERNEL.load(Ordering::Relaxed)
    }

    /// The dear side. errno is clobbered.
    #[cold]
    pub fn heavy() {
        // Not decided by `KERNEL`: a stale `false` here could meet a light fence that saw `true`. The kernel knows.
        // Before the registration it refuses, and every light fence so far was a real one.
        if !membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) {
            fence(Ordering::SeqCst);
        }
    }
}

#[cfg(loom)]
pub use model::{assumed, heavy, is_asymmetric, light, register};

#[cfg(loom)]
mod model {
    use loom::sync::atomic::{Ordering, fence};

    /// Nothing to do.
    pub fn register() -> bool {
        true
    }

    /// What the pair amounts to.
    pub fn light() {
        fence(Ordering::SeqCst);
    }

    /// What the pair amounts to.
    pub fn assumed() {
        fence(Ordering::SeqCst);
    }

    /// It is.
    pub fn is_asymmetric() -> bool {
        true
    }

    /// What the pair amounts to.
    pub fn heavy() {
        fence(Ordering::SeqCst);
    }
}
