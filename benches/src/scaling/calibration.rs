//! What was measured on two workers, beside what the model says. The figures are of a VM with two CPUs, each worker pinned
//! to one; medians.

use std::fmt::Write;

use super::costs::{NS, Ps, sets};
use super::fib::Fib;
use super::machine::{Program, simulate};
use super::tree::Tree;
use super::uts::Uts;

/// A measured program.
struct Measured {
    what: &'static str,
    /// Serial time, and time on one worker and on two, in ms.
    times: [f64; 3],
    /// Cost per spawn as it was measured.
    spawn: Ps,
}

const RAYON_FIB: Measured = Measured { what: "rayon, fib(37)", times: [76.9, 393.0, 199.0], spawn: 8_090 };
const RAYON_UTS: Measured =
    Measured { what: "rayon, UTS, 3.1 M forks", times: [30.3, 62.9, 31.7], spawn: 10_400 };
const RAYON_SMALL: Measured =
    Measured { what: "rayon, 500 sums of 1,023 nodes", times: [1.94, 5.99, 5.19], spawn: 7_920 };

/// The table.
pub fn report() -> String {
    let mut text =
        "Two workers in a VM, measured and modelled (T1, T2: time on one and on two workers)\n".to_string();
    let fib = Fib::new(37, 2);
    line(&mut text, &RAYON_FIB, &fib, 1);
    // As many forks as were measured: a geometric tree has about 0.8 a node.
    let uts = Uts::geometric(3_900_000, 1);
    line(&mut text, &RAYON_UTS, &uts, 1);
    let small = Fib::new(15, 2);
    line(&mut text, &RAYON_SMALL, &small, 500);
    text
}

fn line<T: Tree>(text: &mut String, measured: &Measured, tree: &T, regions: u64) {
    let nodes = tree.extent(tree.root()).nodes * regions;
    let grain = (measured.times[0] * 1e6 * NS as f64 / nodes as f64).round() as Ps;
    let program = Program { grain, regions, gap: 0 };
    let mut costs = sets().into_iter().find(|c| c.name == "eager-vm").expect("it is one of the sets");
    costs.spawn = measured.spawn;
    let time = |workers| simulate(tree, program, &costs, workers, 1).time as f64 / 1e9;
    let (t1, t2) = (time(1), time(2));
    let [ts, m1, m2] = measured.times;
    writeln!(
        text,
        "  {:<34} T1/serial {:.2} measured, {:.2} modelled; T2/T1 {:.3} measured, {:.3} modelled",
        measured.what,
        m1 / ts,
        t1 / ts,
        m2 / m1,
        t2 / t1
    )
    .expect("a string takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_workers_take_half_the_time_as_measured() {
        let fib = Fib::new(30, 2);
        let mut text = String::new();
        line(&mut text, &RAYON_FIB, &fib, 1);
        let modelled: f64 = text.split(", ").last().unwrap().split(' ').next().unwrap().parse().unwrap();
        assert!((0.5..0.52).contains(&modelled), "{text}");
    }
}
