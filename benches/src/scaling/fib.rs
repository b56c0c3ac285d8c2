//! The tree of calls of naive Fibonacci: the finest fork-join work there is, well balanced but never even.

use super::tree::{Extent, Next, Step, Tree};

/// `fib(n)`: every call is a unit of work, and forks; below the cut-off it runs as one piece.
#[derive(Debug)]
pub struct Fib {
    n: u32,
    cut: u32,
    extents: Vec<Extent>,
}

impl Fib {
    /// The calls of `fib(n)`; `fib(k)` with `k < cut` does not fork. `cut` is at least 2: `fib(1)` has no calls below it.
    pub fn new(n: u32, cut: u32) -> Self {
        let cut = cut.max(2);
        let mut extents = vec![Extent { nodes: 1, forks: 0 }; 2];
        for k in 2..=n.max(2) {
            let mut e = Extent { nodes: 1, forks: u64::from(k >= cut) };
            e.add(extents[k as usize - 1]);
            e.add(extents[k as usize - 2]);
            extents.push(e);
        }
        Fib { n, cut, extents }
    }
}

impl Tree for Fib {
    type Task = u32;

    fn root(&self) -> u32 {
        self.n
    }

    fn extent(&self, n: u32) -> Extent {
        self.extents[n as usize]
    }

    fn step(&self, n: u32) -> Step<u32> {
        if n < self.cut {
            Step { own: self.extents[n as usize].nodes, next: Next::End }
        } else {
            Step { own: 1, next: Next::Fork(n - 1, n - 2) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scaling::tree::walked;

    #[test]
    fn extents_are_what_the_walk_finds() {
        for (n, cut) in [(0, 2), (1, 2), (2, 2), (20, 2), (20, 7), (20, 30)] {
            let tree = Fib::new(n, cut);
            assert_eq!(walked(&tree), tree.extent(tree.root()), "fib({n}), cut-off {cut}");
        }
        assert_eq!(Fib::new(38, 2).extent(38).forks, 63_245_985, "as many as rayon counts for fib(38)");
    }
}
