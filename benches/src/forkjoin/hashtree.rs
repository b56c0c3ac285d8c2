//! A tree like the geometric one of UTS, but with a hash that costs next to nothing, so that forks are what takes time. Not
//! comparable with published figures of UTS; with those of programs that use the same hash, seed and depth it is.

use super::{
    children::{Node, count},
    join::{Join, Region},
};

/// Mean number of children.
const B: f64 = 4.0;
/// No node has more.
const MOST: usize = 100;

/// How many nodes a tree has.
#[derive(Clone, Debug)]
pub struct HashTree {
    rule: Rule,
    seed: u64,
}

/// Down to which depth nodes have children, and the distribution of their numbers.
#[derive(Clone, Debug)]
struct Rule {
    depth: u32,
    /// How likely a node has at most i children.
    thresholds: Box<[f64; MOST]>,
}

impl HashTree {
    /// The tree of a seed, with nodes at depths 0 to `depth`.
    pub fn new(seed: u64, depth: u32) -> HashTree {
        let mut beyond = 1.0;
        let thresholds = Box::new(std::array::from_fn(|_| {
            beyond *= 1.0 - 1.0 / (1.0 + B);
            1.0 - beyond
        }));
        HashTree { rule: Rule { depth, thresholds }, seed }
    }
}

impl Region for &HashTree {
    type Out = u64;

    fn call<J: Join>(self, j: &mut J) -> u64 {
        count(j, &self.rule, State { hash: mix(self.seed.wrapping_mul(GOLDEN)), depth: 0 })
    }
}

#[derive(Clone, Copy, Debug)]
struct State {
    hash: u64,
    depth: u32,
}

impl Node for State {
    type Rule = Rule;

    #[inline(always)]
    fn children(&self, rule: &Rule) -> u32 {
        if self.depth >= rule.depth {
            return 0;
        }
        let u = (self.hash >> 11) as f64 / (1u64 << 53) as f64;
        rule.thresholds.iter().position(|&t| u < t).unwrap_or(MOST) as u32
    }

    #[inline(always)]
    fn child(&self, i: u32) -> State {
        let step = (u64::from(i) + 1).wrapping_mul(GOLDEN);
        State { hash: mix(self.hash.wrapping_add(step)), depth: self.depth + 1 }
    }
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of SplitMix64.
#[inline(always)]
pub(super) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
