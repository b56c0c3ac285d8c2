//! What is run: four kinds of work in three sizes each.

use super::costs::{Costs, NS, Ps, US};
use super::fib::Fib;
use super::machine::{self, Outcome, Program};
use super::tree::{Extent, Tree};
use super::uts::Uts;

/// One kind of work of one size.
#[derive(Debug)]
pub struct Case {
    /// The kind, by which `--work` chooses.
    pub kind: &'static str,
    /// The size, in words.
    pub title: String,
    /// What is run.
    pub program: Program,
    forest: Forest,
}

#[derive(Debug)]
enum Forest {
    Fib(Fib),
    Uts(Uts),
}

/// The kinds, with what they are.
pub const KINDS: [(&str, &str); 5] = [
    ("fib", "fib without a cut-off: 1 ns a call"),
    ("coarse", "fib with a cut-off: leaves of 1 to 2 µs"),
    ("geometric", "UTS, geometric: 10 ns a node"),
    ("binomial", "UTS, binomial: 10 ns a node, very uneven"),
    ("regions", "small fib regions, 10 µs of serial work before each"),
];

impl Case {
    /// The three sizes of `kind`, smallest first; with `quick`, the first one.
    ///
    /// # Panics
    ///
    /// If there is no such kind.
    pub fn of(kind: &'static str, quick: bool, seed: u64) -> Vec<Case> {
        let sizes = if quick { 0..1 } else { 0..3 };
        sizes.map(|i: usize| Case::new(kind, i, seed)).collect()
    }

    fn new(kind: &'static str, size: usize, seed: u64) -> Case {
        let once = |grain| Program { grain, regions: 1, gap: 0 };
        let nodes = [100_000, 1_000_000, 10_000_000][size];
        let n = [27, 32, 37][size];
        let (forest, program, name) = match kind {
            "fib" => (Forest::Fib(Fib::new(n, 2)), once(NS), format!("fib({n})")),
            "coarse" => {
                (Forest::Fib(Fib::new(n, 16)), once(NS), format!("fib({n}), fib(15) and below in one piece"))
            }
            "geometric" => (Forest::Uts(Uts::geometric(nodes, seed)), once(10 * NS), "geometric".into()),
            "binomial" => (Forest::Uts(Uts::binomial(nodes, seed)), once(10 * NS), "binomial".into()),
            "regions" => {
                let tree = Fib::new([19, 23, 26][size], 2);
                let region = tree.extent(tree.root()).nodes * NS;
                let program = Program { grain: NS, regions: 10_000 * US / region, gap: 10 * US };
                let name = format!("{} regions of {} µs", program.regions, region / US);
                (Forest::Fib(tree), program, name)
            }
            other => panic!("no kind of work is called {other}"),
        };
        let mut case = Case { kind, title: String::new(), program, forest };
        case.title = format!("{name}: {:.1} ms", case.serial() as f64 / 1e9);
        case
    }

    /// The time without a runtime: all work and all gaps, no spawns.
    pub fn serial(&self) -> Ps {
        self.program.regions * (self.extent().nodes * self.program.grain + self.program.gap)
    }

    /// The longest time that no number of workers shortens: the gaps.
    pub fn gaps(&self) -> Ps {
        self.program.regions * self.program.gap
    }

    /// The extent of one region.
    pub fn extent(&self) -> Extent {
        match &self.forest {
            Forest::Fib(t) => t.extent(t.root()),
            Forest::Uts(t) => t.extent(t.root()),
        }
    }

    /// Runs it.
    pub fn run(&self, costs: &Costs, workers: usize, seed: u64) -> Outcome {
        match &self.forest {
            Forest::Fib(t) => machine::simulate(t, self.program, costs, workers, seed),
            Forest::Uts(t) => machine::simulate(t, self.program, costs, workers, seed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_exists_and_its_sizes_grow() {
        for (kind, _) in KINDS {
            let cases = Case::of(kind, kind == "geometric" || kind == "binomial", 1);
            assert!(cases.windows(2).all(|c| c[0].extent().nodes < c[1].extent().nodes), "{kind}");
            assert!(cases[0].serial() > 500 * US, "{kind}");
        }
    }
}
