//! How long a waiter watches a lock before it parks.
//!
//! Spinning pays only if the holder runs on another worker, or in another thread, right now and is about to unlock. Nothing
//! tells us that cheaply, so each lock learns it: the budget grows when spinning has got the lock and shrinks to nothing when
//! it has not, with a probe now and then. On one worker it is nothing from the third wait on, and a wait costs a switch only.

use std::fmt;
use std::hint::spin_loop;

use super::atomic::{AtomicU8, Ordering};

/// What one lock has learnt. Below [`IDLE`], the number of pauses that a waiter spends on the holder; from there on the number of
/// waits that went by without any, until the next probe.
pub(super) struct Spin(AtomicU8);

const FIRST: u8 = 8;
const MOST: u8 = 64;
const IDLE: u8 = 128;

impl Spin {
    pub(super) const fn new() -> Spin {
        Spin(AtomicU8::new(FIRST))
    }

    /// Calls `try_lock` until it returns true, `hopeless` does, or the budget is spent. Returns what `try_lock` has.
    #[inline]
    pub(super) fn run(&self, try_lock: impl Fn() -> bool, hopeless: impl Fn() -> bool) -> bool {
        // Relaxed, here and below: a guess of whoever wrote it last.
        let before = self.0.load(Ordering::Relaxed);
        let budget = if before < IDLE { before } else { 0 };
        let mut pauses = 0;
        let taken = loop {
            if try_lock() {
                break true;
            }
            if pauses == budget || hopeless() {
                break false;
            }
            pauses += 1;
            spin_loop();
        };
        let after = learn(before, taken, pauses);
        if after != before {
            self.0.store(after, Ordering::Relaxed);
        }
        taken
    }
}

fn learn(before: u8, taken: bool, pauses: u8) -> u8 {
    match before {
        u8::MAX => FIRST,
        idle @ IDLE.. => idle + 1,
        budget if taken => (budget + 1).max(2 * pauses).min(MOST),
        // It was cut short.
        budget if pauses < budget => budget,
        budget if budget < 4 => IDLE,
        budget => budget / 2,
    }
}

impl fmt::Debug for Spin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Relaxed: as above.
        write!(f, "Spin({})", self.0.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(spin: &Spin) -> u8 {
        spin.0.load(Ordering::Relaxed)
    }

    #[test]
    fn gives_up_where_it_does_not_pay_and_probes_again() {
        let spin = Spin::new();
        for _ in 0..2 {
            assert!(!spin.run(|| false, || false));
        }
        assert_eq!(budget(&spin), 2);
        assert!(!spin.run(|| false, || false));
        assert_eq!(budget(&spin), IDLE);
        for _ in 0..128 {
            assert!(!spin.run(|| false, || panic!("no pause, so nobody asks")));
        }
        assert_eq!(budget(&spin), FIRST);
    }

    #[test]
    fn grows_where_it_pays() {
        let spin = Spin::new();
        for _ in 0..100 {
            assert!(spin.run(|| true, || false));
        }
        assert_eq!(budget(&spin), MOST);
        assert!(!spin.run(|| false, || true));
        assert_eq!(budget(&spin), MOST, "cut short");
    }
}
