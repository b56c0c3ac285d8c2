//! The list of what is measured, and how its two ends are made.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use crate::ends::{Bytes, Events, Line, Words, eventfd, text};
use crate::ipi::{self, Ipi};
use crate::run::{Outcome, Place, Progress, Side, drive};
use crate::signal::Signal;

/// How both sides wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// In a loop, in user code or around calls that do not block.
    Spin,
    /// In a system call.
    Block,
}

impl Mode {
    pub(crate) fn receiver(self) -> &'static str {
        if self == Mode::Spin { "receiver spinning" } else { "receiver blocked" }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Ipi,
    Signal,
    EventfdOne,
    EventfdTwo,
    Pipe,
    Socket,
    Futex,
    Memory,
}

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Kind {
    pub way: Way,
    pub mode: Mode,
    /// The average in the cover letter's table, in user IPIs; see `main`.
    pub letter: Option<f64>,
}

const fn kind(way: Way, mode: Mode, letter: Option<f64>) -> Kind {
    Kind { way, mode, letter }
}

pub(crate) const KINDS: &[Kind] = &[
    kind(Way::Ipi, Mode::Spin, Some(1.0)),
    kind(Way::Ipi, Mode::Block, Some(8.9)),
    kind(Way::Signal, Mode::Spin, None),
    kind(Way::Signal, Mode::Block, Some(14.8)),
    kind(Way::EventfdOne, Mode::Spin, None),
    kind(Way::EventfdOne, Mode::Block, Some(9.7)),
    kind(Way::EventfdTwo, Mode::Spin, None),
    kind(Way::EventfdTwo, Mode::Block, None),
    kind(Way::Pipe, Mode::Spin, None),
    kind(Way::Pipe, Mode::Block, Some(16.3)),
    kind(Way::Socket, Mode::Spin, None),
    kind(Way::Socket, Mode::Block, Some(17.3)),
    kind(Way::Futex, Mode::Block, None),
    kind(Way::Memory, Mode::Spin, None),
];

impl Kind {
    fn short(&self) -> &'static str {
        match self.way {
            Way::Ipi => "uipi",
            Way::Signal => "signal",
            Way::EventfdOne => "eventfd-one",
            Way::EventfdTwo => "eventfd-two",
            Way::Pipe => "pipe",
            Way::Socket => "socket",
            Way::Futex => "futex",
            Way::Memory => "memory",
        }
    }

    /// What `--list` shows and `--only` takes.
    pub(crate) fn id(&self) -> String {
        format!("{}-{}", self.short(), if self.mode == Mode::Spin { "spin" } else { "blocked" })
    }

    pub(crate) fn answers_to(&self, name: &str) -> bool {
        name == self.short() || name == self.id() || name == "eventfd" && self.short().starts_with(name)
    }

    pub(crate) fn name(&self) -> &'static str {
        match self.way {
            Way::Ipi => ipi::label(),
            Way::Signal => "signal",
            Way::EventfdOne if self.mode == Mode::Block => "eventfd, one, as first published",
            Way::EventfdOne => "eventfd, one",
            Way::EventfdTwo => "eventfd, two",
            Way::Pipe => "pipe",
            Way::Socket => "UNIX socket",
            Way::Futex => "futex",
            Way::Memory => "shared memory",
        }
    }
}

/// Runs one kind.
///
/// # Errors
/// As [`drive`], or that its two ends cannot be made.
pub(crate) fn measure(
    kind: &Kind,
    rounds: u32,
    place: Place,
    progress: &mut Progress,
) -> Result<Outcome, String> {
    let mode = kind.mode;
    progress.begin(&format!("{}, {}", kind.short(), mode.receiver()));
    match kind.way {
        Way::Ipi => drive(
            move || Ipi::new(Side::Ping, mode),
            move || Ipi::new(Side::Pong, mode),
            rounds,
            place,
            progress,
        ),
        Way::Signal => drive(
            move || Signal::new(Side::Ping, mode),
            move || Signal::new(Side::Pong, mode),
            rounds,
            place,
            progress,
        ),
        Way::EventfdOne => {
            let one = eventfd(mode)?;
            let copy = || one.try_clone().map_err(text);
            let ping = Events::new(Side::Ping, copy()?, copy()?);
            let pong = Events::new(Side::Pong, copy()?, copy()?);
            drive(move || Ok(ping), move || Ok(pong), rounds, place, progress)
        }
        Way::EventfdTwo => {
            let (there, back) = (eventfd(mode)?, eventfd(mode)?);
            let copy = |of: &File| of.try_clone().map_err(text);
            let ping = Events::new(Side::Ping, copy(&back)?, copy(&there)?);
            let pong = Events::new(Side::Pong, there, back);
            drive(move || Ok(ping), move || Ok(pong), rounds, place, progress)
        }
        Way::Pipe => {
            let (there, back) = (io::pipe().map_err(text)?, io::pipe().map_err(text)?);
            let ping = Bytes::new(back.0.into(), there.1.into(), mode)?;
            let pong = Bytes::new(there.0.into(), back.1.into(), mode)?;
            drive(move || Ok(ping), move || Ok(pong), rounds, place, progress)
        }
        Way::Socket => {
            let (ping, pong) = UnixStream::pair().map_err(text)?;
            let ping = Bytes::new(ping.try_clone().map_err(text)?.into(), ping.into(), mode)?;
            let pong = Bytes::new(pong.try_clone().map_err(text)?.into(), pong.into(), mode)?;
            drive(move || Ok(ping), move || Ok(pong), rounds, place, progress)
        }
        Way::Futex | Way::Memory => {
            let words = Arc::new([Line::default(), Line::default()]);
            let ping = Words { words: Arc::clone(&words), side: Side::Ping, mode };
            let pong = Words { words, side: Side::Pong, mode };
            drive(move || Ok(ping), move || Ok(pong), rounds, place, progress)
        }
    }
}
