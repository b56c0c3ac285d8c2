//! Trees that exist only as a rule which gives each node its children: what the tree searches have in common.

use super::join::Join;

/// A node of such a tree.
pub trait Node: Copy + Send + Sync {
    /// What all nodes of a tree share.
    type Rule: Sync;
    /// How many children it has.
    fn children(&self, rule: &Self::Rule) -> u32;
    /// One of them.
    fn child(&self, i: u32) -> Self;
}

/// Counts the nodes below and with `node`. Children are forked by halves.
pub fn count<J: Join, N: Node>(j: &mut J, rule: &N::Rule, node: N) -> u64 {
    match node.children(rule) {
        0 => 1,
        n => 1 + range(j, rule, node, 0, n),
    }
}

fn range<J: Join, N: Node>(j: &mut J, rule: &N::Rule, parent: N, from: u32, to: u32) -> u64 {
    if to - from == 1 {
        return count(j, rule, parent.child(from));
    }
    let mid = from + (to - from) / 2;
    let (a, b) = j.join(move |j| range(j, rule, parent, from, mid), move |j| range(j, rule, parent, mid, to));
    a + b
}
