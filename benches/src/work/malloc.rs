//! 200 fibers on one worker that do little but allocate and free: what preemption costs where it hits the allocator, whose
//! lock a preempted fiber may hold. With and without `Masked` (another program), at a quantum of 1 ms and 100 µs, and
//! never preempted. Per pair of allocation and release; n is thousands of pairs in 200 fibers together.
//!
//! Each fiber keeps 32 blocks of 16 to 4,000 bytes and replaces one at a time; some sizes are too large for glibc's
//! per-thread cache, so that arenas and their locks are used too.

use super::{
    Env,
    hosts::{self, Mode},
    unknown,
};
use crate::{os::Clocks, peers::Answer};

const FIBERS: u64 = 200;

pub fn measure(env: &Env, contender: &str, n: u64) -> Answer {
    let mode = match contender.trim_start_matches("masked-") {
        "off" => Mode::Off,
        "1ms" => Mode::Quantum(1_000),
        "100us" => Mode::Quantum(100),
        other => return unknown(other),
    };
    let each = n * 1_000 / FIBERS;
    hosts::unyield(env, mode).run(|| {
        all(each / 10);
        let clocks = Clocks::start();
        Ok(clocks.per_op(contender, all(each)))
    })
}

fn all(pairs: u64) -> u64 {
    let fibers: Vec<_> = (0..FIBERS).map(|seed| unyield::spawn(move || churn(seed, pairs))).collect();
    fibers.into_iter().map(|f| f.join().expect("no panic")).sum()
}

fn churn(seed: u64, pairs: u64) -> u64 {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut kept: [Vec<u8>; 32] = Default::default();
    for _ in 0..pairs {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        let size = 16 + (x >> 40) as usize % if x & 7 == 0 { 4_000 } else { 500 };
        let mut block = Vec::with_capacity(size);
        block.push(x as u8);
        let slot = &mut kept[(x >> 16) as usize % 32];
        assert!(slot.len() <= 1, "nobody else wrote here");
        *slot = block;
    }
    pairs
}
