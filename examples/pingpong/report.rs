//! What is printed, and the figures in a file.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use crate::ipi::{ROUNDS, SENDS, ToSelf};
use crate::kinds::{Kind, Mode, Way};
use crate::run::{Outcome, Place};

/// A kind and what was measured of it.
#[derive(Debug)]
pub(crate) struct Row {
    pub kind: &'static Kind,
    pub outcome: Outcome,
}

impl Row {
    pub(crate) fn quantile(&self, q: f64) -> u64 {
        self.outcome.trips.value_at_quantile(q)
    }

    /// CPU time of both threads for one round trip.
    fn cpu(&self) -> f64 {
        self.outcome.cpu.as_nanos() as f64 / self.outcome.trips.len() as f64
    }
}

/// The row that the others are compared with: the user IPI to a receiver that spins.
pub(crate) fn unit(rows: &[Row]) -> Option<&Row> {
    rows.iter().find(|row| row.kind.way == Way::Ipi && row.kind.mode == Mode::Spin)
}

/// "1.23 µs" and the like: three digits and a unit.
pub(crate) fn time(ns: f64) -> String {
    let (value, unit) = match ns {
        _ if ns < 999.5 => (ns, "ns"),
        _ if ns < 999.5e3 => (ns / 1e3, "µs"),
        _ if ns < 999.5e6 => (ns / 1e6, "ms"),
        _ => (ns / 1e9, "s"),
    };
    let decimals = if unit == "ns" || value >= 99.95 { 0 } else { 1 + usize::from(value < 9.995) };
    format!("{value:.decimals$} {unit}")
}

/// Two digits at least.
pub(crate) fn ratio(of: f64) -> String {
    let decimals = match of {
        _ if of < 0.00995 => 4,
        _ if of < 0.0995 => 3,
        _ if of < 9.95 => 2,
        _ => 1,
    };
    format!("{of:.decimals$}")
}

fn grouped(n: u32) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn placed(place: Place) -> String {
    match (place.ping, place.pong) {
        (Some(ping), Some(pong)) => format!("threads pinned to CPUs {ping} and {pong}"),
        _ => "threads NOT pinned".into(),
    }
}

pub(crate) fn subtitle(rounds: u32, place: Place) -> String {
    format!("{} round trips of each kind, {}", grouped(rounds), placed(place))
}

/// What this is and where it runs.
pub(crate) fn heading(rounds: u32, place: Place) {
    println!("{}; message size 1 (a byte, or nothing but the notification)", subtitle(rounds, place));
    let of = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = of("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("an unknown CPU");
    println!(
        "{}, Linux {}",
        model.trim_start_matches([' ', '\t', ':']),
        of("/proc/sys/kernel/osrelease").trim()
    );
    let uintr = info.lines().any(|line| line.starts_with("flags") && line.split(' ').any(|f| f == "uintr"));
    println!("user interrupts in the CPU, says the kernel: {}", if uintr { "yes" } else { "no" });
    if place.ping.is_none() {
        println!(
            "NOTE: there is only one CPU to run on. The threads are not pinned and take turns on it, what spins gives the CPU\n\
             away in between, and the figures cannot be compared with those of a machine with two."
        );
    }
    println!();
}

const SOURCE: &str = "letter: the average in the cover letter of \"[RFC PATCH 00/13] x86 User Interrupts support\", S. Mehta,
13 September 2021, https://lkml.iu.edu/hypermail/linux/kernel/2109.1/07335.html, normalised to the user IPI as it is there;
the user IPI to a blocked receiver is from the author's answer in the same thread. All its other receivers blocked, its
signal in sigwait, and its eventfd was one for both directions (S. Hajnoczi, 30 September 2021). It stands for hardware.";

/// One row for each kind, in user IPIs.
pub(crate) fn table(rows: &[Row]) {
    let unit = unit(rows);
    let heads = ["", "receiver", "p50", "p99", "mean", "x p50", "x mean", "letter", "CPU/trip", "CPU s"];
    let lines: Vec<[String; 10]> = rows
        .iter()
        .map(|row| {
            let of_unit = |value: f64, of: fn(&Row) -> f64| unit.map_or("-".into(), |u| ratio(value / of(u)));
            [
                row.kind.name().into(),
                if row.kind.mode == Mode::Spin { "spinning" } else { "blocked" }.into(),
                time(row.quantile(0.5) as f64),
                time(row.quantile(0.99) as f64),
                time(row.outcome.mean_ns),
                of_unit(row.quantile(0.5) as f64, |u| u.quantile(0.5) as f64),
                of_unit(row.outcome.mean_ns, |u| u.outcome.mean_ns),
                row.kind.letter.map_or("-".into(), |letter| format!("{letter:.1}")),
                time(row.cpu()),
                format!("{:.2}", row.outcome.cpu.as_secs_f64()),
            ]
        })
        .collect();
    let wide = |i: usize| {
        lines.iter().map(|line| line[i].chars().count()).max().unwrap_or(0).max(heads[i].chars().count())
    };
    let print = |cells: [&str; 10]| {
        let mut text = String::new();
        for (i, cell) in cells.into_iter().enumerate() {
            let w = wide(i);
            let _ = if i < 2 { write!(text, "{cell:w$}  ") } else { write!(text, "{cell:>w$}  ") };
        }
        println!("{}", text.trim_end());
    };
    print(heads);
    for line in &lines {
        print(line.each_ref().map(String::as_str));
    }
    println!(
        "\nx: times the user IPI to a spinning receiver{}.",
        if unit.is_some() { "" } else { ", which was not measured" }
    );
    println!("CPU: of both threads. Both sides wait in the same way.\n{SOURCE}");
    for row in rows.iter().filter(|row| row.kind.way == Way::EventfdOne) {
        println!(
            "eventfd, one, {}: a side read its own message {:.2} times a round trip, and wrote it back",
            row.kind.mode.receiver(),
            row.outcome.mistaken as f64 / row.outcome.trips.len() as f64
        );
    }
}

/// The figures of `rows`, in nanoseconds.
pub(crate) fn csv(path: &Path, rows: &[Row]) -> io::Result<()> {
    let mut text =
        "kind,name,rounds,p50,p90,p99,p99.9,max,mean,cpu_per_trip,letter,own_messages_read\n".to_owned();
    for row in rows {
        let _ = write!(text, "{},\"{}\",{}", row.kind.id(), row.kind.name(), row.outcome.trips.len());
        for q in [0.5, 0.9, 0.99, 0.999, 1.0] {
            let _ = write!(text, ",{}", row.quantile(q));
        }
        let letter = row.kind.letter.map_or(String::new(), |letter| letter.to_string());
        let (mean, cpu, mistaken) = (row.outcome.mean_ns, row.cpu(), row.outcome.mistaken);
        let _ = writeln!(text, ",{mean:.0},{cpu:.0},{letter},{mistaken}");
    }
    std::fs::write(path, text)
}

const MOST: f64 = 1.3;

/// The frame injected beside the plain signal, and whether it is as cheap as it is meant to be.
pub(crate) fn to_self(found: &ToSelf) {
    let row = |name: &str, of: &[f64]| {
        let sorted = sorted(of);
        println!(
            "{name:54}  {:>8}  {:>8}  {:>8}",
            time(sorted[sorted.len() / 2]),
            time(sorted[0]),
            time(sorted[sorted.len() - 1])
        );
        sorted[sorted.len() / 2]
    };
    println!("\n{:54}  {:>8}  {:>8}  {:>8}", "to the thread itself, CPU time", "median", "least", "most");
    let signal = row("signal, handler does nothing (tgkill)", &found.signal);
    let frame = row("post, frame injected, vector's handler does nothing", &found.frame);
    let ratios: Vec<f64> =
        found.frame.iter().zip(&found.signal).map(|(frame, signal)| frame / signal).collect();
    let ratios = sorted(&ratios);
    let of = frame / signal;
    println!(
        "frame injection over the plain signal: {of:.2} times (in the rounds {:.2} to {:.2}); at most {MOST}: {}",
        ratios[0],
        ratios[ratios.len() - 1],
        if of <= MOST { "met" } else { "MISSED" }
    );
    println!("Medians of {ROUNDS} rounds of {} each, in turn.", grouped(SENDS));
}

fn sorted(of: &[f64]) -> Vec<f64> {
    let mut sorted = of.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}
