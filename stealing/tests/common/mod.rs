//! Items, durations and decisions for the black-box tests.

#![allow(dead_code, unreachable_pub, reason = "each test uses some of it")]

use std::cell::Cell;
use std::ptr::NonNull;
use std::time::Duration;

use unyield_stealing::Link;

/// A numbered item.
pub struct Item {
    link: Cell<Option<NonNull<Item>>>,
    number: usize,
}

// SAFETY: the link is a field that only the queues touch; the number never changes.
unsafe impl Link for Item {
    fn link(this: NonNull<Self>) -> NonNull<Cell<Option<NonNull<Self>>>> {
        // SAFETY: `this` is live, so its fields have addresses.
        unsafe { NonNull::new_unchecked(&raw mut (*this.as_ptr()).link) }
    }
}

// SAFETY: what is shared is the number; the link belongs to one queue at a time.
unsafe impl Sync for Item {}

impl Item {
    pub fn ptr(&self) -> NonNull<Item> {
        NonNull::from(self)
    }
}

/// The number of a live item.
pub fn number(item: NonNull<Item>) -> usize {
    // SAFETY: the tests keep their items until the end.
    unsafe { item.as_ref() }.number
}

/// Items 0 to `n - 1`.
pub fn items(n: usize) -> Box<[Item]> {
    (0..n).map(|number| Item { link: Cell::new(None), number }).collect()
}

/// How long a stress test runs.
pub fn duration() -> Duration {
    let seconds = std::env::var("UNYIELD_STRESS_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(0.5);
    Duration::from_secs_f64(seconds)
}

/// splitmix64.
pub struct Random(u64);

impl Random {
    pub fn new(stream: u64) -> Self {
        let seed =
            std::env::var("UNYIELD_STRESS_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
                now.as_nanos() as u64
            });
        println!("UNYIELD_STRESS_SEED={seed} (stream {stream})");
        Random(seed ^ stream << 56)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % n
    }
}
