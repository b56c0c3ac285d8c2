//! The picture: latency over percentile, each way a curve, both axes logarithmic.

use std::error::Error;
use std::ops::Range;
use std::path::Path;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::prelude::*;
use unyield_examples::chart::{self, FAINT, INK};

use crate::report;
use crate::run::Outcome;
use crate::ways::QUANTUM;

/// Told apart without colour vision too (Okabe and Ito), and by their labels.
const COLOURS: [RGBColor; 3] = [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(110, 110, 110)];

/// A percentile's place on the x axis: the number of nines, 50 % at 0.3, 99.99 % at 4.
fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile).log10()
}

/// Writes an SVG of `outcomes` to `path`.
pub(crate) fn write(path: &Path, outcomes: &[Outcome], subtitle: &str) -> Result<(), Box<dyn Error>> {
    chart::write(path, |svg| draw(svg, outcomes, subtitle))
}

fn draw(svg: &mut String, outcomes: &[Outcome], subtitle: &str) -> Result<(), Box<dyn Error>> {
    let curves: Vec<Vec<(f64, f64)>> = outcomes.iter().map(curve).collect();
    let values = || curves.iter().flatten().map(|p| p.1);
    let quantum = (QUANTUM.as_nanos() as f64).log10();
    let (from, to) = (values().fold(quantum, f64::min).floor(), values().fold(quantum, f64::max).ceil());

    let root = SVGBackend::with_string(svg, (960, 600)).into_drawing_area();
    root.fill(&WHITE)?;
    let text = |size: u32| ("sans-serif", size).into_font().color(&INK);
    root.draw_text("Latency of point reads beside analytic queries on SQLite", &text(22), (92, 18))?;
    root.draw_text(subtitle, &text(14), (92, 48))?;
    let mut chart = ChartBuilder::on(&root)
        .margin_top(104)
        .margin_right(40)
        .margin_bottom(14)
        .margin_left(12)
        .x_label_area_size(56)
        .y_label_area_size(80)
        .build_cartesian_2d(
            Axis(vec![nines(0.5), 1.0, 2.0, 3.0, 4.0]),
            Axis((from as i32..=to as i32).map(f64::from).collect()),
        )?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT)
        .axis_style(INK)
        .label_style(text(14))
        .axis_desc_style(text(15))
        .x_desc("percentile of reads")
        .y_desc("latency from the scheduled arrival")
        .x_label_formatter(&|x| {
            let percent = 100.0 * (1.0 - 10f64.powf(-x));
            format!("{} %", (percent * 100.0).round() / 100.0)
        })
        .y_label_formatter(&|y| {
            report::time(10f64.powf(*y).round() as u64).replace(".00", "").replace(".0", "")
        })
        .draw()?;

    chart.draw_series(DashedLineSeries::new(
        [(nines(0.5), quantum), (4.0, quantum)],
        3,
        4,
        INK.stroke_width(1),
    ))?;
    let note = Text::new("one quantum", (3.62, quantum + 0.15), text(13));
    chart.draw_series([note])?;
    for ((curve, colour), (outcome, x)) in
        curves.into_iter().zip(COLOURS).zip(outcomes.iter().zip([92, 362, 652]))
    {
        chart.draw_series(LineSeries::new(curve, colour.stroke_width(3)))?;
        let p99 = if outcome.latency.is_empty() { 0 } else { outcome.latency.value_at_quantile(0.99) };
        let label = format!("{} (p99 {})", outcome.name, report::time(p99));
        root.draw(&Rectangle::new([(x, 79), (x + 22, 82)], colour.filled()))?;
        root.draw_text(&label, &text(15), (x + 30, 73))?;
    }
    root.present()?;
    Ok(())
}

/// An axis that is linear (what it shows are logarithms) and has its ticks where told, at both ends among others.
#[derive(Clone, Debug)]
struct Axis(Vec<f64>);

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let Range { start, end } = self.range();
        from + (f64::from(to - from) * (value - start) / (end - start)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.0.clone()
    }

    fn range(&self) -> Range<f64> {
        self.0[0]..self.0[self.0.len() - 1]
    }
}

/// From the median to 99.99 %, or as far as there are ten reads beyond a percentile.
fn curve(outcome: &Outcome) -> Vec<(f64, f64)> {
    let reads = outcome.latency.len() as f64;
    let far = (reads / 10.0).max(1.0).log10().min(4.0);
    let steps = 400;
    (0..=steps)
        .map(|i| nines(0.5) + (4.0 - nines(0.5)) * f64::from(i) / f64::from(steps))
        .filter(|&x| x <= far)
        .map(|x| (x, outcome.latency.value_at_quantile(1.0 - 10f64.powf(-x)) as f64))
        .map(|(x, ns)| (x, ns.max(1.0).log10()))
        .collect()
}
