//! The product of two square matrices, kept in tiles: few forks, each with much to do. Halves of the result are forked down
//! to one tile.

use super::{
    hashtree::mix,
    join::{Join, Region},
};

/// Rows and columns of a tile.
const TILE: usize = 64;

type Tile = [f64; TILE * TILE];

/// Two matrices and their product, each `side` tiles wide and high, row by row of tiles.
#[derive(Debug)]
pub struct Product {
    side: usize,
    a: Vec<Tile>,
    b: Vec<Tile>,
    c: Vec<Tile>,
}

impl Product {
    /// Matrices of n rows, a multiple of 64, with small whole numbers, so that every order of additions is exact.
    pub fn new(n: usize) -> Product {
        assert!(n > 0 && n.is_multiple_of(TILE), "{n} rows do not fill tiles of {TILE}");
        let side = n / TILE;
        let some = |k: usize| -> Vec<Tile> {
            let value = |i: usize| ((i * 7 + k) % 13) as f64;
            (0..side * side).map(|t| std::array::from_fn(|i| value(t * TILE * TILE + i))).collect()
        };
        Product { side, a: some(1), b: some(5), c: vec![[0.0; TILE * TILE]; side * side] }
    }

    /// The product is forgotten.
    pub fn reset(&mut self) {
        self.c.iter_mut().for_each(|tile| tile.fill(0.0));
    }

    /// What is to be computed.
    pub fn region(&mut self) -> impl Region<Out = ()> {
        Part { tiles: &mut self.c, first: 0, a: &self.a, b: &self.b, side: self.side }
    }

    /// A digest of the product; an error if it is none: for a vector x, A (B x) must be C x.
    pub fn check(&self) -> Result<u64, String> {
        let x: Vec<f64> = (0..self.side * TILE).map(|i| (mix(i as u64) % 8) as f64).collect();
        if self.times(&self.a, &self.times(&self.b, &x)) != self.times(&self.c, &x) {
            return Err("not the product".into());
        }
        let all = self.c.iter().flatten();
        Ok(all.fold(0u64, |digest, v| digest.wrapping_mul(31).wrapping_add(v.to_bits())))
    }

    fn times(&self, m: &[Tile], x: &[f64]) -> Vec<f64> {
        let mut y = vec![0.0; x.len()];
        for (t, tile) in m.iter().enumerate() {
            let (row, column) = (t / self.side * TILE, t % self.side * TILE);
            for (line, y) in tile.chunks(TILE).zip(&mut y[row..]) {
                *y += line.iter().zip(&x[column..]).map(|(m, x)| m * x).sum::<f64>();
            }
        }
        y
    }
}

/// Some of the product's tiles, one after the other from `first` on.
struct Part<'m> {
    tiles: &'m mut [Tile],
    first: usize,
    a: &'m [Tile],
    b: &'m [Tile],
    side: usize,
}

impl Region for Part<'_> {
    type Out = ();

    fn call<J: Join>(self, j: &mut J) {
        let Part { tiles, first, a, b, side } = self;
        if let [tile] = tiles {
            let (row, column) = (first / side, first % side);
            for k in 0..side {
                add_product(tile, &a[row * side + k], &b[k * side + column]);
            }
            return;
        }
        let half = tiles.len() / 2;
        let (left, right) = tiles.split_at_mut(half);
        let (left, right) =
            (Part { tiles: left, first, a, b, side }, Part { tiles: right, first: first + half, a, b, side });
        j.join(|j| left.call(j), |j| right.call(j));
    }
}

/// c += a × b
fn add_product(c: &mut Tile, a: &Tile, b: &Tile) {
    for (c, a) in c.chunks_exact_mut(TILE).zip(a.chunks_exact(TILE)) {
        for (&a, b) in a.iter().zip(b.chunks_exact(TILE)) {
            c.iter_mut().zip(b).for_each(|(c, b)| *c += a * b);
        }
    }
}
