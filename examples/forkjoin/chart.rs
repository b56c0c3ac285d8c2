//! The picture: for each workload the time of each contender over the serial program's, as bars from 1 on a logarithmic axis: to
//! the left is faster than serial, to the right slower.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::HPos;
use unyield_benches::forkjoin::contender::Contender;
use unyield_benches::forkjoin::outcome::Outcome;
use unyield_benches::forkjoin::runner::Plan;
use unyield_benches::os;
use unyield_benches::report::figure;
use unyield_examples::chart::{self, Area, FAINT, INK, write_at};

const WIDTH: i32 = 1240;
const TOP: i32 = 130;
/// Panels stand in two columns; what follows is inside a panel, from its left edge or its top.
const COLUMNS: [i32; 2] = [24, 640];
const LEFT: i32 = 120;
const RIGHT: i32 = 500;
const VALUES: i32 = 560;
const HEAD: i32 = 26;
const BAR: i32 = 13;
const GAP: i32 = 8;
const FOOT: i32 = 40;

/// Told apart without colour vision too (Okabe and Ito), and by the labels.
fn colour(who: Contender, lighter: bool) -> RGBColor {
    let RGBColor(r, g, b) = match who {
        Contender::Serial => INK,
        Contender::Rayon => RGBColor(213, 94, 0),
        Contender::Chili => RGBColor(150, 100, 150),
        Contender::Lazy => RGBColor(0, 114, 178),
        Contender::Eager => RGBColor(0, 158, 115),
    };
    let towards_white = |c: u8| if lighter { 255 - (255 - c) / 2 } else { c };
    RGBColor(towards_white(r), towards_white(g), towards_white(b))
}

/// Times over the serial one, as powers of two.
#[derive(Clone, Copy, Debug)]
struct Axis {
    from: i32,
    to: i32,
}

impl Axis {
    /// Room for half the serial time and twice as much, and for all that was measured within reason.
    fn of(outcomes: &[Outcome]) -> Axis {
        let all = outcomes.iter().flat_map(|o| o.lines.iter().filter_map(|&line| o.over_serial(line)));
        let (mut from, mut to) = (-1.0, 1.0);
        for s in all {
            from = s.min.max(s.median / 4.0).log2().min(from);
            to = s.max.min(s.median * 4.0).log2().max(to);
        }
        Axis { from: from.floor() as i32, to: to.ceil() as i32 }
    }

    fn x(self, ratio: f64) -> i32 {
        let share = (ratio.log2() - f64::from(self.from)) / f64::from(self.to - self.from);
        LEFT + (share.clamp(0.0, 1.0) * f64::from(RIGHT - LEFT)).round() as i32
    }
}

/// Writes an SVG of `outcomes` to `path`.
pub(crate) fn write(path: &Path, outcomes: &[Outcome], plan: &Plan) -> Result<(), Box<dyn Error>> {
    chart::write(path, |svg| draw(svg, outcomes, plan))
}

fn draw(svg: &mut String, outcomes: &[Outcome], plan: &Plan) -> Result<(), Box<dyn Error>> {
    let lines = plan.lines();
    let contenders = lines.len() / plan.workers.len().max(1);
    let panel = HEAD + lines.len() as i32 * BAR + contenders as i32 * GAP + FOOT;
    let rows = outcomes.len().div_ceil(COLUMNS.len()) as i32;
    let root = SVGBackend::with_string(svg, (WIDTH as u32, (TOP + rows * panel + 8) as u32));
    let root = root.into_drawing_area();
    root.fill(&WHITE)?;
    write_at(&root, "Fork-join: time over the serial program’s", 22, HPos::Left, (24, 30))?;
    let size = if plan.quick { "small sizes; " } else { "" };
    let rounds = if plan.rounds == 1 { "1 round".into() } else { format!("{} rounds", plan.rounds) };
    let subtitle = format!("{size}medians of {rounds}, each bar to the median, line from least to most");
    write_at(&root, &subtitle, 14, HPos::Left, (24, 58))?;
    write_at(&root, &os::machine(), 14, HPos::Left, (24, 80))?;
    let note = "number before a bar: workers, each on its CPU. Left of 1: faster than serial; right: slower (logarithmic)";
    write_at(&root, note, 14, HPos::Left, (24, 102))?;
    let axis = Axis::of(outcomes);
    for (i, outcome) in outcomes.iter().enumerate() {
        let corner = (COLUMNS[i % COLUMNS.len()], TOP + (i / COLUMNS.len()) as i32 * panel);
        draw_panel(&root, outcome, axis, corner)?;
    }
    root.present()?;
    Ok(())
}

fn draw_panel(
    root: &Area<'_>,
    outcome: &Outcome,
    axis: Axis,
    (left, top): (i32, i32),
) -> Result<(), Box<dyn Error>> {
    let most = outcome.lines.iter().map(|line| line.1).max().unwrap_or(1);
    let blocks = outcome.lines.chunk_by(|a, b| a.0 == b.0);
    let bottom = top + HEAD + outcome.lines.len() as i32 * BAR + blocks.clone().count() as i32 * GAP;
    let title = format!("{}: {}, {}", outcome.case.id, outcome.case.title, outcome.size);
    write_at(root, &title, 13, HPos::Left, (left, top + 8))?;
    for power in axis.from..=axis.to {
        let (ratio, x) = (2f64.powi(power), left + axis.x(2f64.powi(power)));
        root.draw(&PathElement::new([(x, top + HEAD - 4), (x, bottom)], FAINT.stroke_width(1)))?;
        write_at(root, &ratio.to_string(), 11, HPos::Center, (x, bottom + 10))?;
    }
    let one = left + axis.x(1.0);
    let mut y = top + HEAD;
    for block in blocks {
        let middle = y + block.len() as i32 * BAR / 2;
        write_at(root, block[0].0.name(), 13, HPos::Right, (left + LEFT - 24, middle))?;
        for &(who, workers) in block {
            write_at(root, &workers.to_string(), 11, HPos::Right, (left + LEFT - 6, y + BAR / 2))?;
            if let Some(s) = outcome.over_serial((who, workers)) {
                let (x, middle) = (left + axis.x(s.median), y + BAR / 2);
                let bar = [(one.min(x), y + 1), (one.max(x), y + BAR - 1)];
                root.draw(&Rectangle::new(bar, colour(who, workers < most).filled()))?;
                let range = [(left + axis.x(s.min), middle), (left + axis.x(s.max), middle)];
                root.draw(&PathElement::new(range, INK.stroke_width(1)))?;
                write_at(root, &figure(s.median), 12, HPos::Right, (left + VALUES, middle))?;
            } else {
                write_at(root, "no figure", 12, HPos::Right, (left + VALUES, y + BAR / 2))?;
            }
            y += BAR;
        }
        y += GAP;
    }
    root.draw(&PathElement::new([(one, top + HEAD - 4), (one, bottom)], INK.stroke_width(1)))?;
    Ok(())
}
