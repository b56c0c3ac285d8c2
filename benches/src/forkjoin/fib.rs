//! Fibonacci numbers without a cut-off: nothing but forks. The serial version is mostly inlined, so read ns per spawn and
//! absolute times, not time over serial.

use super::join::{Join, Region};

/// The n-th Fibonacci number.
#[derive(Clone, Copy, Debug)]
pub struct Fib(pub u32);

impl Region for Fib {
    type Out = u64;

    fn call<J: Join>(self, j: &mut J) -> u64 {
        fib(j, self.0)
    }
}

fn fib<J: Join>(j: &mut J, n: u32) -> u64 {
    if n < 2 {
        return u64::from(n);
    }
    let (a, b) = j.join(move |j| fib(j, n - 1), move |j| fib(j, n - 2));
    a + b
}
