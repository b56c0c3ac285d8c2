//! The picture: speed-up over workers, a panel for every case, both axes logarithmic.

use std::error::Error;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::costs::Costs;
use super::sweep::Point;
use super::table::speedup;
use super::work::{Case, KINDS};

/// Told apart without colour vision too (Okabe and Ito), by their markers' sizes, and by their order in the legend.
const COLOURS: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(40, 40, 40),
    RGBColor(150, 150, 150),
];
const INK: RGBColor = RGBColor(40, 40, 40);
const FAINT: RGBColor = RGBColor(225, 225, 225);
const IDEAL: RGBColor = RGBColor(120, 120, 120);
const COLUMNS: usize = 3;
const PANEL: (u32, u32) = (360, 270);
const HEAD: u32 = 104;
const ROW_HEAD: i32 = 38;

/// Writes an SVG to `path`, beside it first, so that a failure leaves an old picture whole.
pub fn write(
    path: &Path,
    cases: &[Case],
    costs: &[Costs],
    points: &[Point],
    seeds: u64,
) -> Result<(), Box<dyn Error>> {
    let mut svg = String::new();
    draw(&mut svg, cases, costs, points, seeds)?;
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".partial-{}", std::process::id()));
    std::fs::write(&partial, svg).and_then(|()| std::fs::rename(&partial, path)).inspect_err(|_| {
        let _ = std::fs::remove_file(&partial);
    })?;
    Ok(())
}

fn text(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

fn draw(
    svg: &mut String,
    cases: &[Case],
    costs: &[Costs],
    points: &[Point],
    seeds: u64,
) -> Result<(), Box<dyn Error>> {
    let rows: Vec<(&str, Vec<usize>)> = KINDS
        .iter()
        .map(|&(kind, what)| (what, (0..cases.len()).filter(|&i| cases[i].kind == kind).collect()))
        .filter(|(_, of): &(_, Vec<usize>)| !of.is_empty())
        .collect();
    let height = HEAD + rows.len() as u32 * (PANEL.1 + ROW_HEAD as u32) + 8;
    let root = SVGBackend::with_string(svg, (PANEL.0 * COLUMNS as u32, height)).into_drawing_area();
    root.fill(&WHITE)?;
    root.draw_text(
        "Lazy and eager work stealing, simulated: speed-up over the serial program",
        &text(20),
        (16, 14),
    )?;
    let begin =
        if costs.iter().all(|c| c.awake) { "all workers search" } else { "all workers but one sleep" };
    let note = format!("When the program begins, {begin}. Each point is the median of {seeds} runs.");
    root.draw_text(&note, &text(14), (16, 46))?;
    let mut x = 16;
    for (set, colour) in costs.iter().zip(COLOURS) {
        root.draw(&Rectangle::new([(x, 85), (x + 22, 88)], colour.filled()))?;
        root.draw_text(set.label, &text(14), (x + 28, 79))?;
        x += 56 + 7 * set.label.len() as i32;
    }
    root.draw(&PathElement::new([(x, 86), (x + 6, 86)], IDEAL))?;
    root.draw(&PathElement::new([(x + 10, 86), (x + 16, 86)], IDEAL))?;
    root.draw_text("ideal", &text(14), (x + 24, 79))?;

    for (r, (what, of)) in rows.iter().enumerate() {
        let top = HEAD as i32 + r as i32 * (PANEL.1 as i32 + ROW_HEAD);
        root.draw_text(what, &text(16), (16, top + 8))?;
        for (c, &case) in of.iter().take(COLUMNS).enumerate() {
            let left = c as i32 * PANEL.0 as i32;
            let area = root.clone().shrink((left, top + ROW_HEAD), PANEL);
            panel(&area, &cases[case], costs, &points.iter().filter(|p| p.case == case).collect::<Vec<_>>())?;
        }
    }
    root.present()?;
    Ok(())
}

fn panel<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    case: &Case,
    costs: &[Costs],
    points: &[&Point],
) -> Result<(), Box<dyn Error>>
where
    DB::ErrorType: 'static,
{
    let most = points.iter().map(|p| p.workers).max().unwrap_or(1).max(2) as f64;
    let least = points.iter().map(|p| speedup(case, p)).fold(1.0, f64::min).max(0.05);
    let least = 2f64.powf(least.log2().floor());
    area.draw_text(&case.title, &text(13), (58, 0))?;
    let mut chart = ChartBuilder::on(area)
        .margin_top(20)
        .margin_right(14)
        .margin_left(6)
        .x_label_area_size(38)
        .y_label_area_size(50)
        .build_cartesian_2d((1.0..most).log_scale().base(2.0), (least..most).log_scale().base(2.0))?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT)
        .axis_style(INK)
        .x_labels(9)
        .y_labels(11)
        .label_style(text(12))
        .axis_desc_style(text(12))
        .x_desc("workers")
        .y_desc("speed-up")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| if *y < 1.0 { format!("1/{:.0}", 1.0 / y) } else { format!("{y:.0}") })
        .draw()?;
    // Serial work between regions bounds every schedule (Amdahl).
    let (serial, gaps) = (case.serial() as f64, case.gaps() as f64);
    let ideal = (0..=64).map(|i| most.powf(f64::from(i) / 64.0));
    let ideal = ideal.map(|p| (p, serial / (gaps + (serial - gaps) / p)));
    chart.draw_series(DashedLineSeries::new(ideal, 5, 4, IDEAL.stroke_width(1)))?;
    // The first of the legend on top.
    for (c, colour) in (0..costs.len()).zip(COLOURS).collect::<Vec<_>>().into_iter().rev() {
        let curve: Vec<(f64, f64)> = points
            .iter()
            .filter(|p| p.costs == c)
            .map(|p| (p.workers as f64, speedup(case, p).max(least)))
            .collect();
        chart.draw_series(curve.iter().map(|&at| Circle::new(at, 2, colour.filled())))?;
        chart.draw_series(LineSeries::new(curve, colour.stroke_width(2)))?;
    }
    Ok(())
}
