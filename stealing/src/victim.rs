//! Whom to ask, in which order.
//!
//! For: thieves. Not for: whether anybody has something, which only a look tells.

/// Each of `0..n` once, in an order that `random` chooses: from any beginning, in steps of any length that has no divisor in common with `n`.
///
/// ```
/// let mut order: Vec<usize> = unyield_stealing::victim::order(6, 0x1234_5678_9abc_def0).collect();
/// order.sort();
/// assert_eq!(order, [0, 1, 2, 3, 4, 5]);
/// ```
pub fn order(n: usize, random: u64) -> impl Iterator<Item = usize> {
    let (start, mut step) = match n {
        0 => (0, 1),
        _ => (random as u32 as usize % n, 1 + (random >> 32) as usize % n),
    };
    while gcd(step, n) != 1 {
        step = step % n.max(1) + 1;
    }
    (0..n).map(move |i| (start + i * step) % n)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(all(test, not(loom)))]
mod tests {
    #[test]
    fn everybody_once_and_in_different_orders() {
        for n in 0..40 {
            let mut orders = std::collections::HashSet::new();
            for seed in 0..1000_u64 {
                let order: Vec<usize> = super::order(n, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
                let mut sorted = order.clone();
                sorted.sort_unstable();
                assert_eq!(sorted, (0..n).collect::<Vec<_>>());
                orders.insert(order);
            }
            assert!(n < 3 || orders.len() >= n, "{n}: {} orders", orders.len());
        }
    }
}
