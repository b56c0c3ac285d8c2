//! The sum over a balanced tree of boxed nodes: a fork and a cache line for each inner node. Large (more than any cache), or
//! small and many times over.

use std::hint::black_box;

use super::join::{Join, Pool, Region};

/// A search tree over 1, 2, …
#[derive(Debug)]
pub struct Tree {
    value: u64,
    left: Option<Box<Tree>>,
    right: Option<Box<Tree>>,
}

impl Tree {
    /// Over 1 to `n`, n > 0; full if n is one less than a power of two.
    pub fn new(n: u64) -> Box<Tree> {
        build(1, n)
    }
}

/// A parent is allocated before its children, left before right, so that nodes lie in memory in the order in which the serial
/// sum reads them. With children first it would take twice as long, unless second halves are summed first.
fn build(from: u64, to: u64) -> Box<Tree> {
    let value = from + (to - from) / 2;
    let mut tree = Box::new(Tree { value, left: None, right: None });
    tree.left = (value > from).then(|| build(from, value - 1));
    tree.right = (value < to).then(|| build(value + 1, to));
    tree
}

fn sum<J: Join>(j: &mut J, tree: &Tree) -> u64 {
    match (&tree.left, &tree.right) {
        (Some(left), Some(right)) => {
            let (a, b) = j.join(|j| sum(j, left), |j| sum(j, right));
            tree.value + a + b
        }
        (Some(one), None) | (None, Some(one)) => tree.value + sum(j, one),
        (None, None) => tree.value,
    }
}

/// The sum, `times` times over, one after the other, within one region.
struct Sums<'t> {
    tree: &'t Tree,
    times: u64,
}

impl Region for Sums<'_> {
    type Out = u64;

    fn call<J: Join>(self, j: &mut J) -> u64 {
        (0..self.times).map(|_| sum(j, black_box(self.tree))).sum()
    }
}

/// How a tree is summed.
#[derive(Debug)]
pub struct TreeSum {
    /// The tree.
    pub tree: Box<Tree>,
    /// How often the pool is entered.
    pub entries: u64,
    /// How many sums are computed for each entry.
    pub times: u64,
}

impl TreeSum {
    /// The sum of all sums.
    pub fn run<P: Pool>(&self, pool: &mut P) -> u64 {
        (0..self.entries).map(|_| pool.enter(Sums { tree: &self.tree, times: self.times })).sum()
    }
}
