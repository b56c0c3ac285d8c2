//! What is printed of an outcome, and every measurement as CSV.

use std::fmt::Write as _;

use super::{
    contender::Contender,
    join::Counters,
    outcome::{Clock, Outcome, Values, summary},
};
use crate::{
    report::{columns, figure, grouped, spread},
    stats::Summary,
};

/// What the columns mean.
pub const LEGEND: &str = "\
median (min–max) over rounds; whatever compares two figures is formed within each round
t/serial, t/rayon, t/t1: wall time over that of the serial program, of rayon with as many workers, with one worker
cpu: CPU time of the process, idle workers included
ns/fork: (time on one worker − serial time) / forks, by wall time and by CPU time; x rayon: that over rayon's";

const TIMES: [&str; 7] = ["", "workers", "wall ms", "t/serial", "t/rayon", "t/t1", "cpu ms"];
const FORKS: [&str; 5] = ["on one worker", "ns/fork", "x rayon", "CPU ns/fork", "x rayon"];

/// One workload.
pub fn table(o: &Outcome) -> String {
    let mut text = String::new();
    let forks = grouped(o.spawns as f64);
    let _ = writeln!(text, "\n{} [{}; {}, {forks} forks]", o.case.title, o.case.id, o.size);
    text.push_str(&columns(&times(o)));
    text.push_str(&columns(&forks_of(o)));
    for &line in o.lines.iter().filter(|line| line.1 > 1) {
        if let Some(counters) = o.counters(line) {
            let _ = writeln!(text, "  → {}, {} workers: {}", line.0.name(), line.1, steals(counters));
        }
    }
    for why in &o.failures {
        let _ = writeln!(text, "  FAILED: {why}");
    }
    text
}

fn cell(s: Option<Summary>) -> String {
    s.map_or(String::new(), |s| spread(&s))
}

fn times(o: &Outcome) -> Vec<Vec<String>> {
    let ms = |values: Values| cell(summary(&values).map(|s| s.scaled(1e-6)));
    let mut lines = vec![TIMES.map(String::from).to_vec()];
    for &line in [(Contender::Serial, 1)].iter().chain(&o.lines) {
        let (who, workers) = line;
        let ratios = match who {
            Contender::Serial => [const { String::new() }; 3],
            _ => [o.over_serial(line), o.over_rayon(line), o.over_one(line)].map(cell),
        };
        let mut cells = vec![who.name().to_string(), workers.to_string(), ms(o.wall(line))];
        cells.extend(ratios);
        cells.push(ms(o.cpu(line)));
        lines.push(cells);
    }
    lines
}

/// Nothing if one worker was not measured, or there are too few forks.
fn forks_of(o: &Outcome) -> Vec<Vec<String>> {
    let mut lines = Vec::new();
    for &(who, _) in o.lines.iter().filter(|line| line.1 == 1) {
        let clocks = [Clock::Wall, Clock::Cpu];
        let cells = clocks
            .map(|clock| [summary(&o.ns_per_fork(who, clock)), o.fork_over_rayon(who, clock)].map(cell));
        if cells.iter().flatten().any(|cell| !cell.is_empty()) {
            lines.push([who.name().to_string()].into_iter().chain(cells.into_iter().flatten()).collect());
        }
    }
    if !lines.is_empty() {
        lines.insert(0, FORKS.map(String::from).to_vec());
    }
    lines
}

/// Interrupts per successful steal, all rounds together.
fn steals(c: Counters) -> String {
    let counted = format!("{} interrupts of thieves, {} forks stolen", c.steal_requests, c.forks_stolen);
    if c.steal_requests == 0 || c.forks_stolen == 0 {
        return counted;
    }
    format!("{counted}: {} interrupts per steal", figure(c.steal_requests as f64 / c.forks_stolen as f64))
}

/// Every measurement.
pub fn csv(outcomes: &[Outcome]) -> String {
    let mut text = "workload,size,forks,round,contender,workers,wall_ns,cpu_ns,steal_requests,forks_stolen\n"
        .to_string();
    for o in outcomes {
        for run in &o.runs {
            let counters =
                run.counters.map_or(",".to_string(), |c| format!("{},{}", c.steal_requests, c.forks_stolen));
            let _ = writeln!(
                text,
                "{},\"{}\",{},{},\"{}\",{},{:.0},{:.0},{counters}",
                o.case.id,
                o.size,
                o.spawns,
                run.round,
                run.who.name(),
                run.workers,
                run.wall,
                run.cpu
            );
        }
    }
    text
}
