//! Standard output goes through a pipe to a thread that checks each line: fibers are preempted while they hold its lock or are blocked in `write`.
//! What the soak itself has to say goes to the real standard output.

use crate::kinds::{Cx, spin};
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::FromRawFd;
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::time::{Duration, Instant};

static PRINTED: AtomicU64 = AtomicU64::new(0);
static READ: AtomicU64 = AtomicU64::new(0);

/// Kind: a few lines.
pub fn print(cx: &mut Cx) {
    for i in 0..5 {
        let x = spin(30, cx.next());
        println!("line {} {i} {x} {}", cx.number, seal(cx.number, i, x));
        PRINTED.fetch_add(1, Relaxed);
    }
}

fn seal(number: u64, i: u64, x: u64) -> u64 {
    (x ^ number).rotate_left(17) ^ i
}

fn is_whole(line: &str) -> bool {
    let mut words = line.split(' ');
    let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
    if !line.starts_with("line ") {
        return false;
    }
    number();
    matches!((number(), number(), number(), number()), (Some(n), Some(i), Some(x), Some(s)) if s == seal(n, i, x))
}

/// The real standard output.
pub struct Report(File);

/// Puts the pipe in place.
pub fn capture() -> Report {
    let mut ends = [0; 2];
    // SAFETY: plain calls; each descriptor gets one owner.
    let (real, read) = unsafe {
        let real = libc::dup(1);
        assert!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) == 0 && real >= 0);
        libc::dup2(ends[1], 1);
        libc::close(ends[1]);
        (File::from_raw_fd(real), File::from_raw_fd(ends[0]))
    };
    std::thread::Builder::new()
        .name("lines".into())
        .spawn(move || {
            for line in BufReader::new(read).lines() {
                let line = line.unwrap_or_default();
                check!(is_whole(&line), "torn line {line:?}");
                READ.fetch_add(1, Release);
            }
        })
        .expect("a thread");
    Report(real)
}

impl Report {
    pub fn line(&self, text: fmt::Arguments<'_>) {
        let text = format!("{text}\n");
        (&self.0).write_all(text.as_bytes()).expect("standard output");
    }

    /// Waits until all that was printed was read.
    pub fn settle(&self) {
        let start = Instant::now();
        while READ.load(Acquire) < PRINTED.load(Relaxed) && start.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let (read, printed) = (READ.load(Acquire), PRINTED.load(Relaxed));
        check!(read == printed, "{printed} lines printed, {read} arrived");
    }

    pub fn lines(&self) -> u64 {
        READ.load(Relaxed)
    }
}
