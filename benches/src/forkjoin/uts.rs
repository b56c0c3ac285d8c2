//! The Unbalanced Tree Search benchmark: S. Olivier, J. Huan, J. Liu, J. Prins, J. Dinan, P. Sadayappan and C.-W. Tseng, "UTS: An
//! Unbalanced Tree Search Benchmark", LCPC 2006; the trees are those of its sample file, with the node counts published there:
//!
//! | tree | parameters | nodes |
//! |---|---|---|
//! | T1 | `-t 1 -a 3 -d 10 -b 4 -r 19`: geometric, fixed branching factor, depth 10 | 4,130,071 |
//! | T3 | `-t 0 -b 2000 -q 0.124875 -m 8 -r 42`: binomial | 4,112,897 |
//!
//! A node's state is a SHA-1: of its parent's state and its number among its siblings. From RustCrypto's `sha1`, which takes the
//! CPU's instructions for it where there are any; so nodes may be cheaper here than in UTS's own program.

use sha1::{Digest, Sha1};

use super::{
    children::{Node, count},
    join::{Join, Region},
};

/// UTS limits the children of a node of a geometric tree.
const MOST_CHILDREN: u32 = 100;

/// How many children a node has.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// Geometrically distributed with mean `b` (`-b`) down to `depth` (`-d`), none from there on (`-t 1 -a 3`).
    Geometric {
        /// `-b`
        b: f64,
        /// `-d`
        depth: u32,
    },
    /// `b` at the root (`-b`), elsewhere `m` (`-m`) with probability `q` (`-q`), else none (`-t 0`).
    Binomial {
        /// `-b`
        b: f64,
        /// `-q`
        q: f64,
        /// `-m`
        m: u32,
    },
}

/// How many nodes a tree has.
#[derive(Clone, Copy, Debug)]
pub struct Uts {
    /// The kind of tree.
    pub shape: Shape,
    /// `-r`
    pub seed: u32,
}

impl Region for Uts {
    type Out = u64;

    fn call<J: Join>(self, j: &mut J) -> u64 {
        count(j, &self.shape, State::root(self.seed))
    }
}

#[derive(Clone, Copy, Debug)]
struct State {
    hash: [u8; 20],
    depth: u32,
}

impl State {
    fn root(seed: u32) -> State {
        let mut bytes = [0; 20];
        bytes[16..].copy_from_slice(&seed.to_be_bytes());
        State { hash: Sha1::digest(bytes).into(), depth: 0 }
    }

    /// A number from 0 to below 1: the last 31 bits of the state.
    fn uniform(&self) -> f64 {
        let [.., a, b, c, d] = self.hash;
        f64::from(u32::from_be_bytes([a, b, c, d]) & 0x7fff_ffff) / 2_147_483_648.0
    }
}

impl Node for State {
    type Rule = Shape;

    fn children(&self, shape: &Shape) -> u32 {
        match *shape {
            Shape::Geometric { depth, .. } if self.depth >= depth => 0,
            Shape::Geometric { b, .. } => {
                let p = 1.0 / (1.0 + b);
                let n = (1.0 - self.uniform()).ln() / (1.0 - p).ln();
                (n.floor() as u32).min(MOST_CHILDREN)
            }
            Shape::Binomial { b, .. } if self.depth == 0 => b.floor() as u32,
            Shape::Binomial { q, m, .. } => {
                if self.uniform() < q {
                    m
                } else {
                    0
                }
            }
        }
    }

    fn child(&self, i: u32) -> State {
        let hash = Sha1::new().chain_update(self.hash).chain_update(i.to_be_bytes()).finalize();
        State { hash: hash.into(), depth: self.depth + 1 }
    }
}
