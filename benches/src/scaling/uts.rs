//! Unbalanced trees in the manner of UTS (Unbalanced Tree Search): how many children a node has is drawn at the node.
//!
//! The tree is kept in preorder: the subtree of node `i` is `i..i + size[i]`, so any run of siblings is a range, its work is
//! the range's length, and its forks are a difference of prefix sums.

use super::rng::Rng;
use super::tree::{Extent, Next, Step, Tree};

/// How children are drawn.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// Geometric with this mean, down to this depth: bushy, moderately unbalanced.
    Geometric {
        /// Mean number of children above the last level.
        mean: f64,
        /// Nodes at this depth have none.
        depth: u32,
    },
    /// The root has `roots` children; every other node has 8 with a probability of 0.999 / 8, or none. Subtrees have 1,000
    /// nodes on average and vary without bound.
    Binomial {
        /// Children of the root.
        roots: u32,
    },
}

/// An explicit tree.
#[derive(Debug)]
pub struct Uts {
    /// Nodes of the subtree of each node, in preorder.
    size: Vec<u32>,
    /// Forks at the nodes before this one; one entry more than nodes.
    forks: Vec<u32>,
}

/// `siblings` neighbouring subtrees, which are the nodes `first..end`.
#[derive(Clone, Copy, Debug)]
pub struct Siblings {
    first: u32,
    end: u32,
    siblings: u32,
}

const FANOUT: u32 = 8;
const FANOUT_MEAN: f64 = 0.999;

impl Uts {
    /// A geometric tree of depth 10 with about `nodes` nodes.
    pub fn geometric(nodes: u32, seed: u64) -> Self {
        Uts::about(nodes, seed, Shape::Geometric { mean: f64::from(nodes).powf(0.1), depth: 10 })
    }

    /// A binomial tree with about `nodes` nodes.
    pub fn binomial(nodes: u32, seed: u64) -> Self {
        let roots = (f64::from(nodes) * (1.0 - FANOUT_MEAN)).round().max(2.0) as u32;
        Uts::about(nodes, seed, Shape::Binomial { roots })
    }

    /// The first tree from `seed` on whose size is within a factor of 1.3 of `nodes`.
    fn about(nodes: u32, seed: u64, shape: Shape) -> Self {
        let (least, most) = ((f64::from(nodes) / 1.3) as usize, (f64::from(nodes) * 1.3) as usize);
        let mut seeds = Rng::new(seed);
        loop {
            if let Some(tree) = Uts::grown(seeds.next_u64(), shape, most)
                && tree.size.len() >= least
            {
                return tree;
            }
        }
    }

    /// The tree of `seed`; `None` if it has more than `most` nodes.
    pub fn grown(seed: u64, shape: Shape, most: usize) -> Option<Self> {
        let mut rng = Rng::new(seed);
        let mut tree = Uts { size: Vec::new(), forks: vec![0] };
        // The nodes above the next one: index, children yet to come.
        let mut above: Vec<(u32, u32)> = Vec::new();
        loop {
            if tree.size.len() == most {
                return None;
            }
            let children = shape.draw(above.len() as u32, &mut rng);
            let node = tree.size.len() as u32;
            tree.size.push(1);
            tree.forks.push(tree.forks[node as usize] + children.saturating_sub(1));
            above.push((node, children));
            while let Some(&(i, 0)) = above.last() {
                tree.size[i as usize] = tree.size.len() as u32 - i;
                above.pop();
            }
            match above.last_mut() {
                Some((_, left)) => *left -= 1,
                None => return Some(tree),
            }
        }
    }
}

impl Shape {
    fn draw(self, depth: u32, rng: &mut Rng) -> u32 {
        match self {
            Shape::Geometric { depth: last, .. } if depth >= last => 0,
            Shape::Geometric { mean, .. } => {
                let stop = 1.0 / (1.0 + mean);
                ((1.0 - rng.unit()).ln() / (1.0 - stop).ln()) as u32
            }
            Shape::Binomial { roots } if depth == 0 => roots,
            Shape::Binomial { .. } if rng.unit() < FANOUT_MEAN / f64::from(FANOUT) => FANOUT,
            Shape::Binomial { .. } => 0,
        }
    }
}

impl Tree for Uts {
    type Task = Siblings;

    fn root(&self) -> Siblings {
        Siblings { first: 0, end: self.size[0], siblings: 1 }
    }

    fn extent(&self, s: Siblings) -> Extent {
        let inner = self.forks[s.end as usize] - self.forks[s.first as usize];
        Extent { nodes: u64::from(s.end - s.first), forks: u64::from(inner) + u64::from(s.siblings) - 1 }
    }

    /// A node's children are forked as a chain: `join(first child, the rest)`.
    fn step(&self, s: Siblings) -> Step<Siblings> {
        let Siblings { first, end, siblings } = s;
        if siblings > 1 {
            let mid = first + self.size[first as usize];
            let (a, b) = (
                Siblings { first, end: mid, siblings: 1 },
                Siblings { first: mid, end, siblings: siblings - 1 },
            );
            return Step { own: 0, next: Next::Fork(a, b) };
        }
        if end - first == 1 {
            return Step { own: 1, next: Next::End };
        }
        let siblings = self.forks[first as usize + 1] - self.forks[first as usize] + 1;
        Step { own: 1, next: Next::One(Siblings { first: first + 1, end, siblings }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scaling::tree::walked;

    #[test]
    fn extents_are_what_the_walk_finds() {
        for tree in [Uts::geometric(20_000, 1), Uts::binomial(20_000, 1)] {
            let all = tree.extent(tree.root());
            assert_eq!(walked(&tree), all);
            assert!((15_384..26_001).contains(&all.nodes), "{all:?}");
        }
    }

    #[test]
    fn the_seed_decides() {
        let sizes = |seed| Uts::binomial(5_000, seed).size;
        assert_eq!(sizes(3), sizes(3));
        assert_ne!(sizes(3), sizes(4));
    }
}
