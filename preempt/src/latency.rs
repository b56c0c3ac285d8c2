//! How long a notification is on its way: a histogram of one receiver, from the sender's system call to the handler's entry.
//!
//! | field | who writes | who reads |
//! |---|---|---|
//! | `sent` | the sender that notifies (one at a time: it has just set the ON bit) | the handler, which clears it |
//! | `buckets` | the handler, by plain increments | anybody, racily |

use crate::receiver::bump;
use crate::tick;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// Bucket i counts latencies below 2^(i + FIRST) ns; the last one everything else.
const BUCKETS: usize = 24;
const FIRST: u32 = 9; // 512 ns

/// See the module.
#[derive(Debug)]
pub struct Latency {
    sent: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

impl Latency {
    pub(crate) const fn new() -> Self {
        Latency { sent: AtomicU64::new(0), buckets: [const { AtomicU64::new(0) }; BUCKETS] }
    }

    /// A notification is about to be sent.
    pub(crate) fn sent(&self) {
        self.sent.store(tick::now(), Release); // pairs with the acquire in `arrived`
    }

    /// The handler was entered.
    pub(crate) fn arrived(&self) {
        let sent = self.sent.load(Acquire);
        if sent != 0 {
            self.sent.store(0, Relaxed);
            bump(&self.buckets[bucket(tick::now().saturating_sub(sent))]);
        }
    }

    /// (Upper bound in ns, how many notifications took less than that and not less than the bound before.) The last bound is `u64::MAX`.
    pub fn counts(&self) -> impl Iterator<Item = (u64, u64)> {
        self.buckets.iter().enumerate().map(|(i, count)| {
            let bound = if i + 1 == BUCKETS { u64::MAX } else { 1 << (i as u32 + FIRST) };
            (bound, count.load(Relaxed))
        })
    }
}

fn bucket(ns: u64) -> usize {
    (64 - (ns >> FIRST).leading_zeros() as usize).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold() {
        for ns in [0, 511, 512, 1023, 1024, 123_456, u64::MAX] {
            let latency = Latency::new();
            bump(&latency.buckets[bucket(ns)]);
            let (bound, _) = latency.counts().find(|(_, count)| *count == 1).unwrap();
            assert!(ns < bound || bound == u64::MAX, "{ns} in the bucket below {bound}");
            assert!(bound == 512 || bound == u64::MAX || ns >= bound / 2, "{ns} in the bucket below {bound}");
        }
    }
}
