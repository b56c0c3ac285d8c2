//! Pictures: colours, text in its place, and a file that is whole or not there.

use std::error::Error;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Of text and axes.
pub const INK: RGBColor = RGBColor(40, 40, 40);
/// Of lines that only guide the eye.
pub const FAINT: RGBColor = RGBColor(225, 225, 225);

/// What is drawn on.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Writes an SVG to `path`, beside it first, so that a failure leaves an old picture whole.
///
/// # Errors
/// Of `draw`, which makes the picture, or of the file system.
pub fn write(
    path: &Path,
    draw: impl FnOnce(&mut String) -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let mut svg = String::new();
    draw(&mut svg)?;
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".partial-{}", std::process::id()));
    std::fs::write(&partial, svg).and_then(|()| std::fs::rename(&partial, path)).inspect_err(|_| {
        let _ = std::fs::remove_file(&partial);
    })?;
    Ok(())
}

/// Text, vertically centred on the place.
///
/// # Errors
/// Of the backend.
pub fn write_at(
    root: &Area<'_>,
    text: &str,
    size: u32,
    side: HPos,
    place: (i32, i32),
) -> Result<(), Box<dyn Error>> {
    let style = ("sans-serif", size).into_font().color(&INK).pos(Pos::new(side, VPos::Center));
    root.draw_text(text, &style, place)?;
    Ok(())
}
