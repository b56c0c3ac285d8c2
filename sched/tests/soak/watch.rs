//! Progress and memory. The watchdog neither allocates nor locks: in a stall a fiber may hold any lock.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

static PROGRESS: AtomicU64 = AtomicU64::new(u64::MAX);

/// Tells the watchdog how far we are; `u64::MAX` = nothing is to be watched.
pub fn progress(n: u64) {
    PROGRESS.store(n, Relaxed);
}

/// Starts the watchdog; so many seconds without progress are a stall.
pub fn start(patience: u64, hold: bool) {
    std::thread::Builder::new()
        .name("watchdog".into())
        .spawn(move || {
            let (mut last, mut still) = (u64::MAX, 0);
            loop {
                std::thread::sleep(Duration::from_secs(1));
                let now = PROGRESS.load(Relaxed);
                still = if now == last && now != u64::MAX { still + 1 } else { 0 };
                last = now;
                if still == patience {
                    say(b"\nsoak: STALL, no task has ended for long; all threads:\n");
                    threads();
                    if hold {
                        loop {
                            say(b"soak: waiting for a debugger\n");
                            std::thread::sleep(Duration::from_secs(600));
                        }
                    }
                    // SAFETY: the default action, so that there is a core.
                    unsafe {
                        libc::signal(libc::SIGABRT, libc::SIG_DFL);
                        libc::abort();
                    }
                }
            }
        })
        .expect("a thread");
}

fn say(bytes: &[u8]) {
    // SAFETY: writes initialised bytes.
    unsafe { libc::write(2, bytes.as_ptr().cast(), bytes.len()) };
}

/// A path or a line, built on the stack.
struct Text {
    bytes: [u8; 128],
    len: usize,
}

impl Write for Text {
    fn write(&mut self, from: &[u8]) -> std::io::Result<usize> {
        let n = from.len().min(self.bytes.len() - 1 - self.len);
        self.bytes[self.len..self.len + n].copy_from_slice(&from[..n]);
        self.len += n;
        self.bytes[self.len] = 0;
        Ok(from.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Prints comm, wchan, syscall and the interesting lines of status of every thread.
fn threads() {
    let mut buffer = [0u8; 32768];
    // SAFETY: raw directory reading into a local buffer, laid out as linux_dirent64: inode, offset, length (u16 at 16), type, name at 19.
    unsafe {
        let directory = libc::open(c"/proc/self/task".as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY);
        loop {
            let n = libc::syscall(libc::SYS_getdents64, directory, buffer.as_mut_ptr(), buffer.len());
            if n <= 0 {
                break;
            }
            let mut at = 0;
            while at < n as usize {
                let length = u16::from_ne_bytes([buffer[at + 16], buffer[at + 17]]) as usize;
                if let Ok(name) = std::ffi::CStr::from_bytes_until_nul(&buffer[at + 19..at + length])
                    && name.to_bytes()[0].is_ascii_digit()
                {
                    one_thread(name.to_str().unwrap_or("0"));
                }
                at += length;
            }
        }
        libc::close(directory);
    }
}

fn one_thread(tid: &str) {
    say(tid.as_bytes());
    for (file, lines) in [
        ("comm", &[][..]),
        ("wchan", &[]),
        ("syscall", &[]),
        ("status", &["State", "SigPnd", "ShdPnd", "SigBlk", "voluntary", "nonvoluntary"]),
    ] {
        let mut path = Text { bytes: [0; 128], len: 0 };
        let _ = write!(path, "/proc/self/task/{tid}/{file}");
        let mut content = [0u8; 4096];
        // SAFETY: a terminated path, and a buffer of our own.
        let n = unsafe {
            let fd = libc::open(path.bytes.as_ptr().cast(), libc::O_RDONLY);
            let n = libc::read(fd, content.as_mut_ptr().cast(), content.len());
            libc::close(fd);
            n.max(0) as usize
        };
        for line in content[..n].split(|byte| *byte == b'\n') {
            if !line.is_empty()
                && (lines.is_empty() || lines.iter().any(|start| line.starts_with(start.as_bytes())))
            {
                say(b"  ");
                say(line);
            }
        }
    }
    say(b"\n");
}

/// From so many seconds on a run is long enough to judge whether memory keeps growing.
pub const JUDGED: u64 = 1200;

/// Starts the program again with glibc's per-thread caches of free blocks turned off. Every identity has one, and fills it slowly, each size of block
/// by itself: for half an hour that is more than a leak would be.
pub fn without_thread_caches() {
    use std::os::unix::process::CommandExt;
    const VARIABLE: &str = "GLIBC_TUNABLES";
    if std::env::var_os(VARIABLE).is_none()
        && let Ok(program) = std::env::current_exe()
    {
        let error = std::process::Command::new(program)
            .args(std::env::args_os().skip(1))
            .env(VARIABLE, "glibc.malloc.tcache_count=0")
            .exec();
        eprintln!("soak: cannot start again without caches of the allocator: {error}");
    }
}

/// Resident memory of the process.
pub fn resident_kib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4
}

/// OS threads of the process: each has a stack and an alternate one, and their number follows the machine's load, too.
pub fn threads_now() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

/// Resident pages of files (the program's text and debug information, libraries), in KiB: what is read again and again comes and goes as the kernel likes.
pub fn file_kib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(2).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4
}

/// One in ten seconds.
struct Sample {
    seconds: f64,
    mib: f64,
    /// What each costs memory of its own: identities, and threads.
    stacks: usize,
}

/// Samples of the resident size.
pub struct Memory {
    samples: Vec<Sample>,
    next: u64,
}

impl Memory {
    pub fn new() -> Memory {
        Memory { samples: Vec::with_capacity(10_000), next: 10 }
    }

    /// True once in `every` seconds: it is time to report.
    pub fn sample(&mut self, elapsed: Duration, identities: usize, every: u64) -> bool {
        if elapsed.as_secs() < self.next {
            return false;
        }
        self.samples.push(Sample {
            seconds: elapsed.as_secs_f64(),
            mib: resident_kib() as f64 / 1024.0,
            stacks: identities + threads_now(),
        });
        self.next += 10;
        (self.next - 10).is_multiple_of(every)
    }

    /// Growth in MiB per ten minutes after the fifth minute, while the number of identities and threads stands still: that follows the peaks of the machine's load,
    /// and each costs a stack, soon after it was made. The median of the slopes between all such pairs of samples (Theil and Sen). `None`: too few.
    pub fn slope(&self) -> Option<f64> {
        const SETTLED: f64 = 120.0;
        let (mut slopes, mut start) = (Vec::new(), 0);
        for (i, b) in self.samples.iter().enumerate() {
            if b.stacks.abs_diff(self.samples[start].stacks) > 2 {
                start = i;
            }
            let earliest = (self.samples[start].seconds + SETTLED).max(300.0);
            let before = self.samples[start..i]
                .iter()
                .filter(|a| a.seconds >= earliest && b.seconds - a.seconds > 50.0);
            slopes.extend(before.map(|a| (b.mib - a.mib) / (b.seconds - a.seconds) * 600.0));
        }
        slopes.sort_by(f64::total_cmp);
        (slopes.len() >= 20).then(|| slopes[slopes.len() / 2])
    }
}
