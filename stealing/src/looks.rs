//! Looks at memory that may be about to go: thieves look at what running workers own, and whoever frees that waits until nobody looks any more.
//!
//! For: freeing rarely, on a plain thread, what is looked at for a moment, without a lock on either side. Not for: keeping anything for long.
//!
//! ```text
//!   looker                                  who frees
//!     turn += 1 (odd: it looks)               make it unreachable
//!     full fence                              full fence
//!     read what is reachable, look            for each looker: while its turn is odd and the same: wait
//!     turn += 1 (even)                        free
//! ```
//!
//! A Dekker pair: either the looker does not find it any more, or who frees finds the looker's turn odd.

use crate::mutant;
use crate::sync::atomic::{AtomicU64, Ordering, fence};
use crate::sync::relax;
use crossbeam_utils::CachePadded;

/// One looker's turn.
#[derive(Debug)]
pub struct Looks {
    turn: CachePadded<AtomicU64>,
}

impl Default for Looks {
    fn default() -> Self {
        Looks::new()
    }
}

impl Looks {
    /// It does not look.
    pub fn new() -> Self {
        Looks { turn: CachePadded::new(AtomicU64::new(0)) }
    }

    /// Calls `f`, which may look at what it finds reachable, for a moment. One thread, not nested. Masked, if it is a worker.
    #[inline]
    pub fn look<R>(&self, f: impl FnOnce() -> R) -> R {
        let turn = self.turn.load(Ordering::Relaxed);
        // The fence orders what comes after it. Release: `wait` may find this turn in place of the one before, whose look is over then.
        let order = if mutant!("looks-relaxed-begin") { Ordering::Relaxed } else { Ordering::Release };
        self.turn.store(turn + 1, order);
        if !mutant!("looks-no-look-fence") {
            fence(Ordering::SeqCst); // pairs with the fence in `wait`
        }
        let result = f();
        let order = if mutant!("looks-relaxed-end") { Ordering::Relaxed } else { Ordering::Release };
        self.turn.store(turn + 2, order); // pairs with the acquire in `wait`
        result
    }

    /// After something was made unreachable: returns when none of `all` can still look at it. Any thread; waits as long as looks last.
    pub fn wait<'a>(all: impl Iterator<Item = &'a Looks>) {
        if !mutant!("looks-no-wait-fence") {
            fence(Ordering::SeqCst);
        }
        for looks in all {
            let order = if mutant!("looks-relaxed-wait") { Ordering::Relaxed } else { Ordering::Acquire };
            let seen = looks.turn.load(order);
            let mut round = 0;
            while seen % 2 == 1 && looks.turn.load(order) == seen && !mutant!("looks-no-wait") {
                relax(round);
                round += 1;
            }
        }
    }
}
