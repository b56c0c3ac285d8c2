//! What is printed of an outcome, and every measurement as CSV.

use std::fmt::Write as _;

use super::{
    contender::Contender,
    join::Counters,
    outcome::{Outcome, summary},
};
use crate::{
    report::{columns, figure, grouped, spread},
    stats::Summary,
};

/// What the columns mean.
pub const LEGEND: &str = "\
median (min–max) over rounds; whatever compares two figures is formed within each round
t/serial, t/rayon, t/t1: wall time over that of the serial program, of rayon with as many workers, with one worker
ns/fork: (time on one worker − serial time) / forks; x rayon: that over rayon's
cpu: CPU time of the process, idle workers included";

const HEADS: [&str; 9] =
    ["", "workers", "wall ms", "t/serial", "t/rayon", "t/t1", "ns/fork", "x rayon", "cpu ms"];

/// One workload.
pub fn table(o: &Outcome) -> String {
    let mut text = String::new();
    let forks = grouped(o.spawns as f64);
    let _ = writeln!(text, "\n{} [{}; {}, {forks} forks]", o.case.title, o.case.id, o.size);
    let mut lines = vec![HEADS.map(str::to_string).to_vec()];
    let serial = (Contender::Serial, 1);
    for &line in std::iter::once(&serial).chain(&o.lines) {
        let (who, workers) = line;
        let cell = |s: Option<Summary>| s.map_or(String::new(), |s| spread(&s));
        let ms = |values: Vec<(usize, f64)>| cell(summary(&values).map(|s| s.scaled(1e-6)));
        let mut cells = vec![who.name().to_string(), workers.to_string(), ms(o.wall(line))];
        if who == Contender::Serial {
            cells.extend(std::iter::repeat_n(String::new(), 5));
        } else {
            cells.extend([
                cell(o.over_serial(line)),
                cell(o.over_rayon(line)),
                cell(o.over_one(line)),
                cell(summary(&o.ns_per_spawn(line))),
                cell(o.spawn_over_rayon(line)),
            ]);
        }
        cells.push(ms(o.cpu(line)));
        lines.push(cells);
    }
    text.push_str(&columns(&lines));
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

/// Interrupts per successful steal, all rounds together.
fn steals(c: Counters) -> String {
    let counted = format!("{} interrupts of thieves, {} forks stolen", c.steal_requests, c.forks_stolen);
    if c.forks_stolen == 0 {
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
