//! Progress on stderr: a bar where a person looks on, else one line for each phase.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

/// One phase. Drawn by the thread that calls it, never by one of its own, which would ask for CPU that is measured.
#[derive(Debug)]
pub(crate) struct Phase(ProgressBar);

impl Phase {
    /// `template` speaks of the phase after its name, in indicatif's words.
    pub(crate) fn new(name: &str, length: u64, template: &str) -> Phase {
        if !std::io::stderr().is_terminal() {
            eprintln!("{name} …");
            return Phase(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(length); // draws to stderr
        let style =
            ProgressStyle::with_template(&format!("{{prefix:34}} {{bar:30.cyan/white.dim}} {template}"));
        bar.set_style(style.expect("a constant template").progress_chars("━╸─"));
        bar.set_prefix(name.to_owned());
        Phase(bar)
    }

    pub(crate) fn at(&self, position: u64) {
        self.0.set_position(position);
    }

    pub(crate) fn note(&self, text: String) {
        self.0.set_message(text);
    }

    /// Leaves the screen to what follows.
    pub(crate) fn done(self) {
        self.0.finish_and_clear();
    }
}
