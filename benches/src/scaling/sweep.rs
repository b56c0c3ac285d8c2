//! All cases under all costs on all numbers of workers, on as many threads as there are CPUs. The order in which runs are
//! finished has no effect on the result.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::costs::{Costs, Ps};
use super::machine::Outcome;
use super::work::Case;

/// One point of a curve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// Which case.
    pub case: usize,
    /// Which costs.
    pub costs: usize,
    /// On how many workers.
    pub workers: usize,
    /// The run whose time is the median over the seeds.
    pub median: Outcome,
    /// The shortest and the longest time.
    pub range: (Ps, Ps),
}

/// Runs everything with the seeds `seed..seed + seeds`; `progress` is told of every point, by any thread.
pub fn sweep(
    cases: &[Case],
    costs: &[Costs],
    workers: &[usize],
    seeds: std::ops::Range<u64>,
    threads: usize,
    progress: &(dyn Fn() + Sync),
) -> Vec<Point> {
    let jobs: Vec<(usize, usize, usize)> = (0..cases.len())
        .flat_map(|case| (0..costs.len()).flat_map(move |c| workers.iter().map(move |&p| (case, c, p))))
        .collect();
    let next = AtomicUsize::new(0);
    let points = Mutex::new(Vec::with_capacity(jobs.len()));
    let work = || {
        // Relaxed: nothing but the number itself is handed over.
        while let Some(&(case, c, p)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut runs: Vec<Outcome> =
                seeds.clone().map(|seed| cases[case].run(&costs[c], p, seed)).collect();
            runs.sort_by_key(|o| o.time);
            let range = (runs[0].time, runs[runs.len() - 1].time);
            let median = runs[runs.len() / 2];
            points.lock().unwrap().push(Point { case, costs: c, workers: p, median, range });
            progress();
        }
    };
    std::thread::scope(|s| {
        (1..threads.max(1)).for_each(|_| drop(s.spawn(work)));
        work();
    });
    let mut points = points.into_inner().unwrap();
    points.sort_by_key(|p| (p.case, p.costs, p.workers));
    points
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scaling::costs::sets;
    use crate::scaling::table;

    #[test]
    fn the_table_is_the_same_on_any_number_of_threads() {
        let cases = Case::of("regions", true, 1);
        let csv = |threads| {
            let points = sweep(&cases, &sets(), &[1, 2, 8], 1..4, threads, &|| {});
            assert_eq!(points.len(), 3 * sets().len());
            table::csv(&cases, &sets(), &points, 3)
        };
        assert_eq!(csv(1), csv(3));
    }
}
