//! The table, the goals, and the verdict.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::run::Outcome;
use crate::ways::QUANTUM;

/// "1.23 ms" and the like: three digits and a unit.
pub(crate) fn time(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..1_000_000 => (ns as f64 / 1e3, "µs"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.decimals$} {unit}")
}

pub(crate) fn duration(d: Duration) -> String {
    time(d.as_nanos() as u64)
}

fn quantile(of: &Histogram<u64>, q: f64) -> String {
    if of.is_empty() { "-".into() } else { time(of.value_at_quantile(q)) }
}

/// One row for each way, and below it what the generator did.
pub(crate) fn table(outcomes: &[Outcome]) {
    print_table(
        &["reads", "p50", "p99", "p99.9", "max", "analyses/s", "preemptions", "migrations", "CPU s"],
        outcomes,
        |o| {
            let count = |of: Option<u64>| of.map_or("-".into(), |n| n.to_string());
            vec![
                o.latency.len().to_string(),
                quantile(&o.latency, 0.5),
                quantile(&o.latency, 0.99),
                quantile(&o.latency, 0.999),
                quantile(&o.latency, 1.0),
                format!("{:.2}", o.analyses_per_second),
                count(o.counters.map(|c| c.preemptions)),
                count(o.counters.map(|c| c.migrations)),
                format!("{:.2}", o.cpu.as_secs_f64()),
            ]
        },
    );
    println!();
    print_table(
        &["late p50", "late p99", "late max", "its CPU s", "reads' share", "drain", "lost", "wrong"],
        outcomes,
        |o| {
            vec![
                quantile(&o.arrivals.lateness, 0.5),
                quantile(&o.arrivals.lateness, 0.99),
                quantile(&o.arrivals.lateness, 1.0),
                format!("{:.2}", o.arrivals.cpu.as_secs_f64()),
                format!("{:.1} %", o.serving * 100.0),
                duration(o.drain),
                o.lost.to_string(),
                o.wrong.to_string(),
            ]
        },
    );
    println!(
        "\nLatency counts from the scheduled arrival. late: how long after its time the generator, a thread of its own, handed\n\
         a read over. reads' share: time in which reads were being served, of the workers' time. drain: from the last\n\
         arrival to the last answer."
    );
}

fn print_table(heads: &[&str], outcomes: &[Outcome], cells: impl Fn(&Outcome) -> Vec<String>) {
    let rows: Vec<Vec<String>> = outcomes.iter().map(cells).collect();
    let wide = |i: usize| {
        let cells = rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0);
        cells.max(heads[i].chars().count())
    };
    let first = outcomes.iter().map(|o| o.name.chars().count()).max().unwrap_or(0);
    let line = |name: &str, cells: &[String]| {
        let cells: String =
            cells.iter().enumerate().map(|(i, c)| format!("  {c:>w$}", w = wide(i))).collect();
        println!("{name:first$}{cells}");
    };
    line("", &heads.iter().map(|h| h.to_string()).collect::<Vec<_>>());
    for (outcome, cells) in outcomes.iter().zip(&rows) {
        line(outcome.name, cells);
    }
}

/// The goals, from the preemptive way and the same program without preemption.
pub(crate) fn goals(preemptive: &Outcome, off: &Outcome) {
    let p99 = |o: &Outcome| o.latency.value_at_quantile(0.99) as f64;
    let met = |yes: bool| if yes { "met" } else { "MISSED" };
    let quanta = p99(preemptive) / QUANTUM.as_nanos() as f64;
    let ratio = p99(off) / p99(preemptive).max(1.0);
    let kept = 100.0 * preemptive.analyses_per_second / off.analyses_per_second.max(1e-9);
    println!(
        "\np99 of reads:         {quanta:.2} quanta of {}; at most 6: {}",
        duration(QUANTUM),
        met(quanta <= 6.0)
    );
    println!(
        "                      {ratio:.1} times below that without preemption; at least 30: {}",
        met(ratio >= 30.0)
    );
    println!(
        "analytic throughput:  {kept:.1} % of that without preemption; at least 85 %: {}",
        met(kept >= 85.0)
    );
}

/// Says on stderr what went wrong; true if nothing did. A missed goal is no error, a wrong or missing answer is one.
pub(crate) fn sound(outcomes: &[Outcome]) -> bool {
    let mut sound = true;
    let mut fault = |name: &str, what: String| {
        eprintln!("error: {name}: {what}");
        sound = false;
    };
    for o in outcomes {
        if o.wrong > 0 {
            let first = o.first_wrong.as_deref().unwrap_or_default();
            fault(o.name, format!("{} wrong results, the first: {first}", o.wrong));
        }
        if o.lost > 0 {
            fault(
                o.name,
                format!(
                    "{} reads without an answer {} after the last arrival",
                    o.lost,
                    duration(crate::run::DRAIN)
                ),
            );
        }
        if o.latency.len() + o.lost < o.arrivals.measured {
            fault(o.name, format!("{} reads were measured, {} issued", o.latency.len(), o.arrivals.measured));
        }
        if !o.ended {
            fault(o.name, "did not end after its work".into());
        }
    }
    sound
}
