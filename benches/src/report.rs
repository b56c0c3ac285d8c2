//! The table at the end, every sample as CSV, the summaries as JSON.

use std::{fmt::Write as _, fs, io, path::Path};

use serde_json::{Value, json};

use crate::{
    harness::RowResult,
    os,
    rows::{Bound, Target},
    stats::{Summary, paired, summarise},
};

/// A figure as people read it: three significant digits, `never` for what did not happen.
pub fn figure(v: f64) -> String {
    let a = v.abs();
    match a {
        _ if v.is_infinite() => "never".into(),
        _ if a >= 10_000.0 => grouped(v),
        _ if a >= 100.0 => format!("{v:.0}"),
        _ if a >= 10.0 => format!("{v:.1}"),
        _ if a == 0.0 => "0".into(),
        _ => format!("{v:.2}"),
    }
}

/// A whole number with its digits in threes.
pub fn grouped(v: f64) -> String {
    let digits = format!("{v:.0}");
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits.as_str()), |d| ("-", d));
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|g| str::from_utf8(g).unwrap_or("")).collect();
    format!("{sign}{}", groups.join(","))
}

/// A median with its range.
pub fn spread(s: &Summary) -> String {
    match s.count {
        1 => figure(s.median),
        _ => format!("{} ({}–{})", figure(s.median), figure(s.min), figure(s.max)),
    }
}

/// The metrics of a row with their units, in the order in which they were first seen.
fn metrics(r: &RowResult) -> Vec<(&str, &str)> {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (_, s) in &r.samples {
        if !seen.iter().any(|(m, _)| *m == s.metric) {
            seen.push((&s.metric, &s.unit));
        }
    }
    seen
}

/// What was asked, what came out, and whether that is enough; `None` for the last if there is no figure.
pub fn judge(r: &RowResult, t: &Target) -> (String, Option<bool>) {
    let ours = r.values(t.ours, t.metric);
    let own = || summarise(ours.iter().map(|&(_, v)| v));
    let (asked, got, met) = match t.bound {
        Bound::Times(factor, peer) => {
            let s = paired(&ours, &r.values(peer, t.metric), |a, b| a / b);
            (format!("at most {factor} × {peer}"), s, s.map(|s| s.median <= factor))
        }
        Bound::Plus(more, peer) => {
            let s = paired(&ours, &r.values(peer, t.metric), |a, b| a - b);
            (format!("at most {peer} + {more}"), s, s.map(|s| s.median <= more))
        }
        Bound::AtMost(limit) => {
            let s = own();
            (format!("at most {}", figure(limit)), s, s.map(|s| s.median <= limit))
        }
        Bound::AtLeast(limit) => {
            let s = own();
            (format!("at least {}", figure(limit)), s, s.map(|s| s.median >= limit))
        }
    };
    let verdict = match met {
        Some(true) => "met",
        Some(false) => "MISSED",
        None => "no figure",
    };
    let got = got.map_or("–".into(), |s| spread(&s));
    (format!("{} {}: {asked}: {got}: {verdict}", t.ours, t.metric), met)
}

/// Lines of cells as text, the first column to the left, the others to the right. What a line has beyond the first line's
/// columns widens none.
pub fn columns(lines: &[Vec<String>]) -> String {
    let count = lines.first().map_or(0, Vec::len);
    let width =
        |i: usize| lines.iter().filter_map(|l| l.get(i)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut out = String::new();
    for line in lines {
        let mut text = String::new();
        for (i, cell) in line.iter().enumerate() {
            let w = widths.get(i).copied().unwrap_or(0);
            let _ = if i == 0 { write!(text, "  {cell:w$}") } else { write!(text, "  {cell:>w$}") };
        }
        let _ = writeln!(out, "{}", text.trim_end());
    }
    out
}

/// One row as text.
pub fn row(r: &RowResult) -> String {
    let mut out = String::new();
    let plural = if r.workers == 1 { "worker" } else { "workers" };
    let _ = writeln!(out, "\n{} [{}, {} {plural}, {} rounds]", r.row.title, r.row.id, r.workers, r.rounds);
    let heads = metrics(r);
    let mut lines: Vec<Vec<String>> = Vec::new();
    lines.push(std::iter::once(String::new()).chain(heads.iter().map(|(m, u)| format!("{m} {u}"))).collect());
    for c in r.row.contenders {
        let cells = heads.iter().map(|(m, _)| {
            summarise(r.values(c.name, m).into_iter().map(|(_, v)| v)).map_or(String::new(), |s| spread(&s))
        });
        lines.push(std::iter::once(c.name.to_string()).chain(cells).collect());
        let missing = r.missing.iter().find(|(name, _)| *name == c.name);
        if let (Some((_, why)), Some(line)) = (missing, lines.last_mut()) {
            line.push(format!("not here: {why}"));
        }
        let failed: Vec<_> = r.failures.iter().filter(|(name, ..)| *name == c.name).collect();
        if let (Some((_, _, why)), Some(line)) = (failed.last(), lines.last_mut()) {
            line.push(format!("failed {}×: {why}", failed.len()));
        }
    }
    out.push_str(&columns(&lines));
    for t in r.row.targets {
        let _ = writeln!(out, "  → {}", judge(r, t).0);
    }
    out
}

/// Everything as CSV, one sample a line.
fn csv(results: &[RowResult]) -> String {
    let mut out = String::from("row,workers,n,round,contender,metric,value,unit\n");
    for r in results {
        for (round, s) in &r.samples {
            let _ = writeln!(
                out,
                "{},{},{},{round},{},{},{},{}",
                r.row.id, r.workers, r.n, s.contender, s.metric, s.value, s.unit
            );
        }
    }
    out
}

fn json_of(results: &[RowResult]) -> Value {
    let rows = results.iter().map(|r| {
        let columns = metrics(r);
        let figures = r.row.contenders.iter().flat_map(|c| {
            columns.iter().filter_map(|(m, unit)| {
                let s = summarise(r.values(c.name, m).into_iter().map(|(_, v)| v))?;
                Some(json!({
                    "contender": c.name, "metric": m, "unit": unit,
                    "median": s.median, "min": s.min, "max": s.max, "count": s.count,
                }))
            })
        });
        let targets = r.row.targets.iter().map(|t| {
            let (text, met) = judge(r, t);
            json!({ "text": text, "met": met })
        });
        let failures = r
            .failures
            .iter()
            .map(|(name, round, why)| json!({ "contender": name, "round": round, "why": why }));
        json!({
            "row": r.row.id, "title": r.row.title, "workers": r.workers, "n": r.n, "rounds": r.rounds,
            "figures": figures.collect::<Vec<_>>(),
            "targets": targets.collect::<Vec<_>>(),
            "missing": r.missing,
            "failures": failures.collect::<Vec<_>>(),
        })
    });
    json!({ "machine": os::machine(), "rows": rows.collect::<Vec<_>>() })
}

/// Writes `results.csv` and `results.json` into `dir`.
pub fn save(dir: &Path, results: &[RowResult]) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::write(dir.join("results.csv"), csv(results))?;
    fs::write(dir.join("results.json"), format!("{:#}\n", json_of(results)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        let shown: Vec<String> =
            [0.0, 0.123, -3.456, 12.34, 123.4, 12_345.6, -1_234_567.0, f64::INFINITY].map(figure).into();
        assert_eq!(shown, ["0", "0.12", "-3.46", "12.3", "123", "12,346", "-1,234,567", "never"]);
    }
}
