//! Quicksort of random numbers, median of three, insertion sort up to 32 elements.

use super::{
    hashtree::mix,
    join::{Join, Region},
};

const SMALL: usize = 32;

/// Numbers, and a place to sort them.
#[derive(Debug)]
pub struct Sort {
    input: Vec<u32>,
    output: Vec<u32>,
}

impl Sort {
    /// `n` numbers, always the same.
    pub fn new(n: usize) -> Sort {
        let mut x = 88_172_645_463_325_252u64;
        let input: Vec<u32> = (0..n)
            .map(|_| {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                (x >> 16) as u32
            })
            .collect();
        Sort { output: input.clone(), input }
    }

    /// Unsorted again.
    pub fn reset(&mut self) {
        self.output.copy_from_slice(&self.input);
    }

    /// What is to be sorted.
    pub fn region(&mut self) -> impl Region<Out = ()> {
        Slice(&mut self.output)
    }

    /// A digest of the numbers, the same in every order; an error if they are not those that were put in, or not in order.
    pub fn check(&self) -> Result<u64, String> {
        let digest = |of: &[u32]| of.iter().fold(0u64, |sum, &v| sum.wrapping_add(mix(u64::from(v))));
        if !self.output.is_sorted() {
            return Err("not sorted".into());
        }
        let sorted = digest(&self.output);
        if sorted == digest(&self.input) { Ok(sorted) } else { Err("not the same numbers".into()) }
    }
}

struct Slice<'v>(&'v mut [u32]);

impl Region for Slice<'_> {
    type Out = ();

    fn call<J: Join>(self, j: &mut J) {
        sort(j, self.0);
    }
}

fn sort<J: Join>(j: &mut J, v: &mut [u32]) {
    if v.len() <= SMALL {
        return insertion(v);
    }
    let split = partition(v);
    let (left, right) = v.split_at_mut(split);
    j.join(|j| sort(j, left), |j| sort(j, right));
}

fn insertion(v: &mut [u32]) {
    for i in 1..v.len() {
        let x = v[i];
        let mut hole = i;
        while hole > 0 && v[hole - 1] > x {
            v[hole] = v[hole - 1];
            hole -= 1;
        }
        v[hole] = x;
    }
}

/// Hoare's: where to split, with nothing larger on the left than on the right; neither side is empty.
fn partition(v: &mut [u32]) -> usize {
    let n = v.len();
    let (a, b, c) = (v[0], v[n / 2], v[n - 1]);
    let pivot = a.max(b).min(a.min(b).max(c));
    let (mut i, mut j) = (0, n - 1);
    loop {
        while v[i] < pivot {
            i += 1;
        }
        while v[j] > pivot {
            j -= 1;
        }
        if i >= j {
            return if i == j { j + 1 } else { i };
        }
        v.swap(i, j);
        i += 1;
        j -= 1;
    }
}
