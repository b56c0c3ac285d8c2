//! The picture: a bar for each kind as long as its median, on a logarithmic axis, with a line to p99 and a diamond where the cover letter's
//! ratio would put it.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::HPos;
use unyield_examples::chart::{self, Area, FAINT, INK, write_at};

use crate::kinds::Mode;
use crate::report::{self, Row};

/// Told apart without colour vision too (Okabe and Ito), and by the labels.
const SPIN: RGBColor = RGBColor(86, 160, 211);
const BLOCK: RGBColor = RGBColor(230, 145, 60);

const WIDTH: i32 = 1160;
/// Where the bars begin and end; names to the left, figures to the right.
const LEFT: i32 = 372;
const RIGHT: i32 = 880;
const TOP: i32 = 150;
const ROW: i32 = 30;
/// Right edges of the columns.
const COLUMNS: [(i32, &str); 3] = [(970, "p50"), (1052, "x user IPI"), (1130, "letter")];

/// Writes an SVG of `rows` to `path`.
pub(crate) fn write(path: &Path, rows: &[Row], subtitle: &str) -> Result<(), Box<dyn Error>> {
    chart::write(path, |svg| draw(svg, rows, subtitle))
}

fn draw(svg: &mut String, rows: &[Row], subtitle: &str) -> Result<(), Box<dyn Error>> {
    let bottom = TOP + ROW * rows.len() as i32;
    let root = SVGBackend::with_string(svg, (WIDTH as u32, (bottom + 62) as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    let unit = report::unit(rows).map(|row| row.quantile(0.5) as f64);
    let letter = |row: &Row| Some(row.kind.letter? * unit?);
    let values = || {
        rows.iter().flat_map(move |row| {
            let (p50, p99) = (row.quantile(0.5) as f64, row.quantile(0.99) as f64);
            [Some(p50), Some(p99), letter(row)].into_iter().flatten()
        })
    };
    let from = (values().fold(f64::INFINITY, f64::min).max(2.0) / 1.5).log10().floor();
    let to = values().fold(1.0, f64::max).log10().ceil().max(from + 1.0);
    let x = |ns: f64| {
        let share = (ns.max(1.0).log10() - from) / (to - from);
        LEFT + (share.clamp(0.0, 1.0) * f64::from(RIGHT - LEFT)).round() as i32
    };

    write_at(&root, "Round trips between two threads", 22, HPos::Left, (24, 30))?;
    write_at(&root, subtitle, 14, HPos::Left, (24, 58))?;
    legend(&root, unit.is_some())?;
    for (column, head) in COLUMNS {
        write_at(&root, head, 13, HPos::Right, (column, TOP - 16))?;
    }
    for decade in from as i32..=to as i32 {
        let ns = 10f64.powi(decade);
        root.draw(&PathElement::new([(x(ns), TOP - 4), (x(ns), bottom)], FAINT.stroke_width(1)))?;
        let text = report::time(ns).replace(".00", "").replace(".0", "");
        write_at(&root, &text, 13, HPos::Center, (x(ns), bottom + 14))?;
    }
    write_at(
        &root,
        "round trip, logarithmic: bar to the median, line to p99",
        14,
        HPos::Center,
        ((LEFT + RIGHT) / 2, bottom + 42),
    )?;
    for (row, y) in rows.iter().zip((TOP + ROW / 2..).step_by(ROW as usize)) {
        let colour = if row.kind.mode == Mode::Spin { SPIN } else { BLOCK };
        let (p50, p99) = (row.quantile(0.5) as f64, row.quantile(0.99) as f64);
        let waits = if row.kind.mode == Mode::Spin { "spinning" } else { "blocked" };
        write_at(&root, &format!("{}, {waits}", row.kind.name()), 14, HPos::Right, (LEFT - 10, y))?;
        root.draw(&Rectangle::new([(LEFT, y - 9), (x(p50), y + 9)], colour.filled()))?;
        root.draw(&PathElement::new([(x(p50), y), (x(p99), y)], INK.stroke_width(1)))?;
        root.draw(&PathElement::new([(x(p99), y - 4), (x(p99), y + 4)], INK.stroke_width(1)))?;
        if let Some(place) = letter(row) {
            diamond(&root, (x(place), y))?;
        }
        let cells = [
            report::time(p50),
            unit.map_or("-".into(), |unit| report::ratio(p50 / unit)),
            row.kind.letter.map_or("-".into(), |letter| format!("{letter:.1}")),
        ];
        for (cell, (column, _)) in cells.iter().zip(COLUMNS) {
            write_at(&root, cell, 14, HPos::Right, (column, y))?;
        }
    }
    root.draw(&PathElement::new([(LEFT, TOP - 4), (LEFT, bottom)], INK.stroke_width(1)))?;
    root.present()?;
    Ok(())
}

fn legend(root: &Area<'_>, with_letter: bool) -> Result<(), Box<dyn Error>> {
    let y = 90;
    for (colour, text, x) in [(SPIN, "receiver spinning", 24), (BLOCK, "receiver blocked", 190)] {
        root.draw(&Rectangle::new([(x, y - 6), (x + 22, y + 6)], colour.filled()))?;
        write_at(root, text, 14, HPos::Left, (x + 30, y))?;
    }
    if with_letter {
        diamond(root, (362, y))?;
        let text =
            "the cover letter's ratio (hardware; x86 User Interrupts support, RFC, 2021), times our user IPI";
        write_at(root, text, 14, HPos::Left, (376, y))?;
    }
    Ok(())
}

fn diamond(root: &Area<'_>, (x, y): (i32, i32)) -> Result<(), Box<dyn Error>> {
    let corners = [(x - 6, y), (x, y - 6), (x + 6, y), (x, y + 6), (x - 6, y)];
    root.draw(&Polygon::new(corners, WHITE.filled()))?;
    root.draw(&PathElement::new(corners, INK.stroke_width(2)))?;
    Ok(())
}
