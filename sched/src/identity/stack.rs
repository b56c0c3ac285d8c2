//! Stacks: mapping, guard, reserve.
//!
//! ```text
//!   base ► │ guard (4 KB) │ reserve (for a frame, rule 7) │ what was asked for … │ ◄ top
//! ```
//! With MADV_GUARD_INSTALL (Linux 6.13) a guard is no mapping of its own, so neighbouring stacks stay one mapping and their number is not
//! limited by `vm.max_map_count`; without it mprotect makes two mappings a stack, about 32,000 at the default limit.

use std::io;
use std::ptr::null_mut;
use std::sync::OnceLock;

pub(crate) const PAGE: usize = 4096;
const GUARD: usize = PAGE;
/// Below what was asked for: room for a frame when the stack is nearly used up (12 KB with AMX enabled is not needed: tiles are not saved).
const RESERVE: usize = if cfg!(debug_assertions) { 3 * PAGE } else { 2 * PAGE };
/// The smallest stack: TLS and thread control block lie on it too.
pub(crate) const MIN: usize = 16 << 10;
pub(crate) const MAX: usize = 1 << 40;
const MADV_GUARD_INSTALL: i32 = 102;

#[derive(Debug)]
pub(crate) struct Stack {
    base: usize,
    length: usize,
    asked: usize,
}

fn guard_by_mprotect() -> bool {
    static CHOICE: OnceLock<bool> = OnceLock::new();
    // The variable is for tests and measurements of the fallback.
    *CHOICE.get_or_init(|| {
        std::env::var_os("UNYIELD_GUARD_MPROTECT").is_some() || !unyield_preempt::probe::guard_install()
    })
}

impl Stack {
    /// Maps a stack of `size` bytes plus reserve and guard.
    pub(crate) fn map(size: usize) -> io::Result<Stack> {
        let length = size.next_multiple_of(PAGE) + RESERVE + GUARD;
        // SAFETY: a fresh private mapping; the guard lies inside it.
        unsafe {
            let base = libc::mmap(
                null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK,
                -1,
                0,
            );
            if base == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let stack = Stack { base: base as usize, length, asked: size };
            // a large page would make a parked fiber cost 2 MB
            libc::madvise(base, length, libc::MADV_NOHUGEPAGE);
            let guarded = if guard_by_mprotect() {
                libc::mprotect(base, GUARD, libc::PROT_NONE)
            } else {
                libc::madvise(base, GUARD, MADV_GUARD_INSTALL)
            };
            if guarded != 0 { Err(io::Error::last_os_error()) } else { Ok(stack) }
        }
    }

    /// Lowest usable address.
    pub(crate) fn low(&self) -> usize {
        self.base + GUARD
    }

    pub(crate) fn top(&self) -> usize {
        self.base + self.length
    }

    /// What the user asked for.
    pub(crate) fn asked(&self) -> usize {
        self.asked
    }

    /// True if a fault at `address` is an overflow of this stack.
    pub(crate) fn guard_contains(&self, address: usize) -> bool {
        (self.base..self.base + GUARD).contains(&address)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: our own mapping; the identity on it has ended.
        unsafe { libc::munmap(self.base as *mut _, self.length) };
    }
}
