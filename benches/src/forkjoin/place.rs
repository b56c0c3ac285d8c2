//! Where the workers of all contenders run, and on how much stack.

/// Stack of a worker or of the fiber that a workload starts on, bytes (virtual): the recursion of the deepest tree, and what
/// a thief of rayon piles up on it while it waits.
pub const STACK: usize = 64 << 20;

/// Worker i gets the i-th CPU, round and round if there are too few.
pub fn cpu_of(cpus: &[usize], worker: usize) -> usize {
    cpus[worker % cpus.len()]
}
