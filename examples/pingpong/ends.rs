//! The ends that need files or memory only.
//!
//! Messages are numbered from 1. What carries a byte carries the number's lowest one, and a wrong one is an error; what carries nothing
//! is counted. Nothing may be left when all is over.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::kinds::Mode;
use crate::run::{End, Side, relax};

pub(crate) fn text(error: io::Error) -> String {
    error.to_string()
}

pub(crate) fn system(result: libc::c_int) -> Result<libc::c_int, String> {
    if result < 0 { Err(text(io::Error::last_os_error())) } else { Ok(result) }
}

/// A word that shares its cache line, and the one fetched with it, with nothing.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Line(pub AtomicU32);

/// Sleeps if `word` still is `seen`; may return for no reason.
pub(crate) fn futex_wait(word: &AtomicU32, seen: u32) -> Result<(), String> {
    let no_timeout = std::ptr::null::<libc::timespec>();
    let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the word outlives the call, and nothing is written.
    match unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, seen, no_timeout) } {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            e if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(()),
            e => Err(format!("futex: {e}")),
        },
    }
}

/// The number itself in memory: watched by the other side, or announced through a futex.
pub(crate) struct Words {
    pub words: Arc<[Line; 2]>,
    pub side: Side,
    pub mode: Mode,
}

impl End for Words {
    fn send(&mut self, n: u32) -> Result<(), String> {
        let word = &self.words[self.side.other() as usize].0;
        word.store(n, Release); // pairs with the acquire in `receive`
        if self.mode == Mode::Block {
            let operation = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
            // SAFETY: only names the word.
            if unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, 1) } < 0 {
                return Err(format!("futex: {}", io::Error::last_os_error()));
            }
        }
        Ok(())
    }

    fn receive(&mut self, n: u32) -> Result<(), String> {
        let word = &self.words[self.side as usize].0;
        loop {
            match word.load(Acquire) {
                seen if seen == n => return Ok(()),
                seen if seen != n - 1 => return Err(format!("message {seen} came where {n} was due")),
                seen if self.mode == Mode::Block => futex_wait(word, seen)?,
                _ => relax(),
            }
        }
    }

    fn finish(&mut self, n: u32) -> Result<(), String> {
        self.receive(n)
    }
}

fn nonblocking(file: &File) -> Result<(), String> {
    // SAFETY: changes a flag of a file that is open.
    system(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) }).map(|_| ())
}

/// Reads all of `buffer`, however long that takes.
fn read(mut file: &File, buffer: &mut [u8]) -> Result<(), String> {
    loop {
        match file.read(buffer) {
            Ok(n) if n == buffer.len() => return Ok(()),
            Ok(n) => return Err(format!("{n} bytes were read instead of {}", buffer.len())),
            Err(e) if e.kind() == ErrorKind::WouldBlock => relax(),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(text(e)),
        }
    }
}

fn left_over(mut file: &File) -> Result<(), String> {
    nonblocking(file)?;
    match file.read(&mut [0; 8]) {
        Ok(0) => Ok(()), // the other side has closed its end already
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(()),
        read => Err(format!("something was left over: {read:?}")),
    }
}

/// A byte through a pipe or a socket.
pub(crate) struct Bytes {
    hears: File,
    tells: File,
}

impl Bytes {
    pub(crate) fn new(hears: OwnedFd, tells: OwnedFd, mode: Mode) -> Result<Bytes, String> {
        let bytes = Bytes { hears: hears.into(), tells: tells.into() };
        if mode == Mode::Spin {
            nonblocking(&bytes.hears)?;
        }
        Ok(bytes)
    }
}

impl End for Bytes {
    fn send(&mut self, n: u32) -> Result<(), String> {
        self.tells.write_all(&[n as u8]).map_err(text)
    }

    fn receive(&mut self, n: u32) -> Result<(), String> {
        let mut byte = [0];
        read(&self.hears, &mut byte)?;
        if byte[0] == n as u8 { Ok(()) } else { Err(format!("byte {} came, {} was due", byte[0], n as u8)) }
    }

    fn finish(&mut self, _: u32) -> Result<(), String> {
        left_over(&self.hears)
    }
}

pub(crate) fn eventfd(mode: Mode) -> Result<File, String> {
    let flags = if mode == Mode::Spin { libc::EFD_NONBLOCK } else { 0 };
    // SAFETY: makes a file that nobody else knows.
    let fd = system(unsafe { libc::eventfd(0, flags | libc::EFD_CLOEXEC) })?;
    // SAFETY: as above, so it is ours to close.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// The side's own token through an eventfd. Where both directions share one, a side that reads its own token writes it back and tries
/// again, as the benchmark of the cover letter did.
pub(crate) struct Events {
    hears: File,
    tells: File,
    token: u64,
    mistaken: u64,
}

impl Events {
    pub(crate) fn new(side: Side, hears: File, tells: File) -> Events {
        Events { hears, tells, token: 1 + side as u64, mistaken: 0 }
    }
}

impl End for Events {
    fn send(&mut self, _: u32) -> Result<(), String> {
        self.tells.write_all(&self.token.to_ne_bytes()).map_err(text)
    }

    fn receive(&mut self, n: u32) -> Result<(), String> {
        let wanted = 3 - self.token;
        loop {
            let mut bytes = [0; 8];
            read(&self.hears, &mut bytes)?;
            match u64::from_ne_bytes(bytes) {
                token if token == wanted => return Ok(()),
                token if token == self.token => {
                    self.mistaken += 1;
                    self.send(n)?;
                    relax();
                }
                token => return Err(format!("token {token} came, {wanted} was due")),
            }
        }
    }

    fn finish(&mut self, _: u32) -> Result<(), String> {
        left_over(&self.hears)
    }

    fn mistaken(&self) -> u64 {
        self.mistaken
    }
}

/// Waits until a handler on this thread has counted to `n`.
#[inline]
pub(crate) fn counted(
    count: &AtomicU32,
    n: u32,
    mut wait: impl FnMut(u32) -> Result<(), String>,
) -> Result<(), String> {
    loop {
        match count.load(Relaxed) {
            seen if seen == n => return Ok(()),
            seen if seen != n - 1 => return Err(format!("{seen} have come where {n} are due")),
            seen => wait(seen)?,
        }
    }
}
