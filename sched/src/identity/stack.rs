//! Stacks: mapping, guard, reserve.
//!
//! ```text
//!   base ► │ slots for forks ► │ guard (4 KB) │ reserve (for a frame, rule 7) │ ◄ what was asked for │ ◄ top
//! ```
//! The slots are the array of `unyield_stealing::lazy`, filled upwards: one for each unstarted half, whose job lies on the stack and takes four times as much
//! there. So the stack overflows first; a program that forks on stacks of its own making (a grown stack, a coroutine) meets the same guard from below.
//! Neither costs memory before it is used.
//!
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
/// A fork takes so many times as much stack as it takes room among the slots: `par::job` sees to it.
pub(crate) const SLOT_SHARE: usize = 4;
const MADV_GUARD_INSTALL: i32 = 102;

#[derive(Debug)]
pub(crate) struct Stack {
    base: usize,
    length: usize,
    asked: usize,
    /// Bytes of slots below the guard.
    slots: usize,
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
        let usable = size.next_multiple_of(PAGE) + RESERVE;
        let slots = (usable / SLOT_SHARE).next_multiple_of(PAGE);
        let length = slots + GUARD + usable;
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
            let stack = Stack { base: base as usize, length, asked: size, slots };
            let guard = (base as usize + slots) as *mut libc::c_void;
            // a large page would make a parked fiber cost 2 MB
            libc::madvise(base, length, libc::MADV_NOHUGEPAGE);
            let guarded = if guard_by_mprotect() {
                libc::mprotect(guard, GUARD, libc::PROT_NONE)
            } else {
                libc::madvise(guard, GUARD, MADV_GUARD_INSTALL)
            };
            if guarded != 0 { Err(io::Error::last_os_error()) } else { Ok(stack) }
        }
    }

    /// Lowest usable address.
    pub(crate) fn low(&self) -> usize {
        self.guard() + GUARD
    }

    fn guard(&self) -> usize {
        self.base + self.slots
    }

    /// The first slot.
    pub(crate) fn first_slot(&self) -> usize {
        self.base
    }

    pub(crate) fn top(&self) -> usize {
        self.base + self.length
    }

    /// What the user asked for.
    pub(crate) fn asked(&self) -> usize {
        self.asked
    }

    /// True if a fault at `address` is an overflow of this stack, or of the slots.
    pub(crate) fn guard_contains(&self, address: usize) -> bool {
        (self.guard()..self.low()).contains(&address)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: our own mapping; the identity on it has ended.
        unsafe { libc::munmap(self.base as *mut _, self.length) };
    }
}
