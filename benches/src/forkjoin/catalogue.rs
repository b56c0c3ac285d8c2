//! The list of workloads: what they are called, how large they are, what must come out.

use super::{
    fib::Fib,
    hashtree::HashTree,
    join::Pool,
    matrix::Product,
    queens::Queens,
    sort::Sort,
    tree::{Tree, TreeSum},
    uts::{Shape, Uts},
};

/// A workload.
#[derive(Debug)]
pub struct Case {
    /// What `--filter` looks at.
    pub id: &'static str,
    /// For people.
    pub title: &'static str,
    /// As it is measured.
    pub full: Size,
    /// For `--quick`.
    pub quick: Size,
}

/// A workload of some size.
#[derive(Debug)]
pub struct Size {
    /// For people.
    pub text: &'static str,
    /// Makes it; may take a second.
    pub make: fn() -> Work,
    /// What must come out, if that is known from elsewhere; else the serial program is what others are held to.
    pub known: Option<u64>,
}

const fn size(text: &'static str, known: Option<u64>, make: fn() -> Work) -> Size {
    Size { text, make, known }
}

/// All of them, in the order in which they run.
pub const CASES: &[Case] = &[
    Case {
        id: "fib",
        title: "Fibonacci numbers without a cut-off",
        full: size("n = 37", Some(24_157_817), || Work::Fib(Fib(37))),
        quick: size("n = 27", Some(196_418), || Work::Fib(Fib(27))),
    },
    Case {
        id: "nqueens",
        title: "n queens",
        full: size("n = 14", Some(365_596), || Work::Queens(Queens(14))),
        quick: size("n = 10", Some(724), || Work::Queens(Queens(10))),
    },
    Case {
        id: "uts-t1",
        title: "Unbalanced Tree Search, tree T1 (geometric, SHA-1)",
        full: size("published: 4,130,071 nodes", Some(4_130_071), || t1(10)),
        quick: size("depth 7", None, || t1(7)),
    },
    Case {
        id: "uts-t3",
        title: "Unbalanced Tree Search, tree T3 (binomial, SHA-1)",
        full: size("published: 4,112,897 nodes", Some(4_112_897), || t3(2000)),
        quick: size("60 children of the root", None, || t3(60)),
    },
    Case {
        id: "uts10",
        title: "a geometric tree with a cheap hash",
        full: size("depth 10", None, || Work::HashTree(HashTree::new(31, 10))),
        quick: size("depth 7", None, || Work::HashTree(HashTree::new(31, 7))),
    },
    Case {
        id: "treesum",
        title: "sum over a balanced tree of boxed nodes",
        full: size("16,777,215 nodes", Some(sum_to((1 << 24) - 1)), || tree((1 << 24) - 1, 1, 1)),
        quick: size("262,143 nodes", Some(sum_to((1 << 18) - 1)), || tree((1 << 18) - 1, 1, 1)),
    },
    Case {
        id: "qsort",
        title: "quicksort of 32-bit numbers",
        full: size("16,777,216 numbers", None, || Work::Sort(Sort::new(1 << 24))),
        quick: size("262,144 numbers", None, || Work::Sort(Sort::new(1 << 18))),
    },
    Case {
        id: "matmul",
        title: "product of matrices of f64 in tiles of 64 × 64",
        full: size("1024 × 1024", None, || Work::Product(Product::new(1024))),
        quick: size("256 × 256", None, || Work::Product(Product::new(256))),
    },
    Case {
        id: "regions",
        title: "sums over a tree of 1,023 nodes, one after the other within one entry",
        full: size("1,000 sums", Some(1000 * sum_to(1023)), || tree(1023, 1, 1000)),
        quick: size("100 sums", Some(100 * sum_to(1023)), || tree(1023, 1, 100)),
    },
    Case {
        id: "entries",
        title: "sums over a tree of 1,023 nodes, the pool entered from outside for each",
        full: size("1,000 entries", Some(1000 * sum_to(1023)), || tree(1023, 1000, 1)),
        quick: size("100 entries", Some(100 * sum_to(1023)), || tree(1023, 100, 1)),
    },
];

const fn sum_to(n: u64) -> u64 {
    n * (n + 1) / 2
}

fn t1(depth: u32) -> Work {
    Work::Uts(Uts { shape: Shape::Geometric { b: 4.0, depth }, seed: 19 })
}

fn t3(root: u32) -> Work {
    Work::Uts(Uts { shape: Shape::Binomial { b: f64::from(root), q: 0.124875, m: 8 }, seed: 42 })
}

fn tree(nodes: u64, entries: u64, times: u64) -> Work {
    Work::TreeSum(TreeSum { tree: Tree::new(nodes), entries, times })
}

/// A workload, made.
#[derive(Debug)]
#[expect(missing_docs, reason = "each is documented in its module")]
pub enum Work {
    Fib(Fib),
    Queens(Queens),
    Uts(Uts),
    HashTree(HashTree),
    TreeSum(TreeSum),
    Sort(Sort),
    Product(Product),
}

impl Work {
    /// Before each run; not measured.
    pub fn reset(&mut self) {
        match self {
            Work::Sort(sort) => sort.reset(),
            Work::Product(product) => product.reset(),
            Work::Fib(_) | Work::Queens(_) | Work::Uts(_) | Work::HashTree(_) | Work::TreeSum(_) => {}
        }
    }

    /// What is measured.
    pub fn run<P: Pool>(&mut self, pool: &mut P) -> u64 {
        match self {
            Work::Fib(fib) => pool.enter(*fib),
            Work::Queens(queens) => pool.enter(*queens),
            Work::Uts(uts) => pool.enter(*uts),
            Work::HashTree(tree) => pool.enter(&*tree),
            Work::TreeSum(sums) => sums.run(pool),
            Work::Sort(sort) => {
                pool.enter(sort.region());
                0
            }
            Work::Product(product) => {
                pool.enter(product.region());
                0
            }
        }
    }

    /// After each run; not measured. `got` or a digest of what was computed in place, or what is wrong with that.
    pub fn check(&self, got: u64) -> Result<u64, String> {
        match self {
            Work::Sort(sort) => sort.check(),
            Work::Product(product) => product.check(),
            Work::Fib(_) | Work::Queens(_) | Work::Uts(_) | Work::HashTree(_) | Work::TreeSum(_) => Ok(got),
        }
    }
}

#[cfg(test)]
mod tests {
    use unyield::preempt::Stealing;

    use super::{
        super::{chili::Chili, contender::Options, join::Count, ours::Ours, rayon::Rayon},
        *,
    };
    use crate::os;

    /// What is known of the full sizes is checked whenever they are measured.
    #[test]
    fn every_quick_case_comes_out_right() {
        for case in CASES {
            let mut work = (case.quick.make)();
            let mut count = Count::default();
            let run = |work: &mut Work, got: &mut dyn FnMut(&mut Work) -> u64| {
                work.reset();
                let got = got(work);
                work.check(got).unwrap_or_else(|why| panic!("{}: {why}", case.id))
            };
            let want = run(&mut work, &mut |w| w.run(&mut count));
            assert!(case.quick.known.is_none_or(|known| known == want), "{}: {want}", case.id);
            assert!(count.0 > 0, "{} never forks", case.id);
            let cpus = os::allowed_cpus();
            let mut rayon = Rayon::start(2, &cpus).unwrap();
            assert_eq!(run(&mut work, &mut |w| w.run(&mut rayon)), want, "{}, rayon", case.id);
            let mut chili = Chili::start(2, &cpus).unwrap();
            assert_eq!(run(&mut work, &mut |w| w.run(&mut chili)), want, "{}, chili", case.id);
            os::pin_self(&cpus).unwrap();
            for stealing in [Stealing::Lazy, Stealing::Eager] {
                let mut ours = Ours::start(stealing, 2, Options { fibers: 1, ..Options::default() }).unwrap();
                assert_eq!(run(&mut work, &mut |w| w.run(&mut ours)), want, "{}, {stealing:?}", case.id);
                ours.finish().unwrap();
            }
        }
    }

    #[test]
    fn ids_are_unique() {
        for (i, a) in CASES.iter().enumerate() {
            assert!(CASES[..i].iter().all(|b| a.id != b.id), "{}", a.id);
        }
    }
}
