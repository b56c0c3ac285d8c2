//! A loop that only computes: no memory, no calls, no vector registers.

use std::{hint::black_box, sync::OnceLock, time::Instant};

/// `n` dependent steps.
#[inline(never)]
pub fn spin(n: u64) {
    let mut x = 88_172_645_463_325_252u64;
    for _ in 0..black_box(n) {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    }
    black_box(x);
}

/// Steps per ms on this machine when nothing disturbs: the best of many short runs.
pub fn steps_per_ms() -> u64 {
    static BEST: OnceLock<u64> = OnceLock::new();
    *BEST.get_or_init(|| {
        const STEPS: u64 = 50_000;
        let one = |_| {
            let t = Instant::now();
            spin(STEPS);
            STEPS * 1_000_000 / (t.elapsed().as_nanos() as u64).max(1)
        };
        (0..300).map(one).max().unwrap_or(1)
    })
}
