//! The results as CSV, and the main ones as a table for people.

use std::fmt::Write;

use super::costs::{Costs, Protocol, Ps};
use super::sweep::Point;
use super::work::Case;

fn ms(t: Ps) -> f64 {
    t as f64 / 1e9
}

/// How many times faster than the serial program.
pub fn speedup(case: &Case, point: &Point) -> f64 {
    case.serial() as f64 / point.median.time as f64
}

/// One line per point.
pub fn csv(cases: &[Case], costs: &[Costs], points: &[Point], seeds: u64) -> String {
    let mut text = "work,size,serial_ms,forks,costs,workers,seeds,time_ms,time_min_ms,time_max_ms,speedup,efficiency,steals,\
                    interrupts,refusals,interrupts_per_steal,lost_to_interrupts_ms,lost_to_interrupts_share,\
                    lost_to_cache_misses_ms,wakes,waits_at_joins\n"
        .to_string();
    for p in points {
        let (case, o) = (&cases[p.case], &p.median);
        let faster = speedup(case, p);
        let per_steal = if o.steals == 0 { 0.0 } else { o.interrupts as f64 / o.steals as f64 };
        let share = o.lost as f64 / (o.time as f64 * p.workers as f64);
        writeln!(
            text,
            "{},\"{}\",{:.6},{},{},{},{seeds},{:.6},{:.6},{:.6},{faster:.4},{:.4},{},{},{},{per_steal:.3},{:.6},{share:.5},{:.6},{},{}",
            case.kind,
            case.title,
            ms(case.serial()),
            case.extent().forks * case.program.regions,
            costs[p.costs].name,
            p.workers,
            ms(o.time),
            ms(p.range.0),
            ms(p.range.1),
            faster / p.workers as f64,
            o.steals,
            o.interrupts,
            o.refusals,
            ms(o.lost),
            ms(o.disturbed),
            o.wakes,
            o.waits,
        )
        .expect("a string takes everything");
    }
    text
}

/// Speed-ups, a line per case and costs; interrupts per steal and the share of time lost to them on the most workers.
pub fn summary(cases: &[Case], costs: &[Costs], points: &[Point], workers: &[usize]) -> String {
    let mut text = String::new();
    for (i, case) in cases.iter().enumerate() {
        write!(text, "{}\n  {:<26}", case.title, "speed-up on").unwrap();
        workers.iter().for_each(|p| write!(text, "{p:>7}").unwrap());
        text.push('\n');
        for (c, set) in costs.iter().enumerate() {
            write!(text, "  {:<26}", set.label).unwrap();
            let mut last = None;
            for p in points.iter().filter(|p| p.case == i && p.costs == c) {
                write!(text, "{:>7.2}", speedup(case, p)).unwrap();
                last = Some(p);
            }
            if let (Protocol::Lazy, Some(p)) = (set.protocol, last)
                && p.median.steals > 0
            {
                let o = &p.median;
                let share = o.lost as f64 / (o.time as f64 * p.workers as f64);
                let per_steal = o.interrupts as f64 / o.steals as f64;
                write!(
                    text,
                    "   {} steals, {per_steal:.2} interrupts each, {:.1} % lost",
                    o.steals,
                    share * 100.0
                )
                .unwrap();
            }
            text.push('\n');
        }
    }
    text
}
