//! One kind from start to end: a thread that sends and waits for the answer, one that answers, each on its CPU, and the
//! calling thread, which sleeps and looks now and then whether they get on.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};

/// Without a round trip for so long, a kind is said to hang.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the watching thread looks; the measured threads feel it, so not often.
const LOOK: Duration = Duration::from_millis(200);

/// Where the two threads run; `None` where there is only one CPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub ping: Option<usize>,
    pub pong: Option<usize>,
}

/// Which of the two threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Ping = 0,
    Pong = 1,
}

impl Side {
    pub(crate) fn other(self) -> Side {
        if self == Side::Ping { Side::Pong } else { Side::Ping }
    }
}

/// One thread's half of a way to tell. Made, used and dropped on that thread.
pub(crate) trait End {
    /// Tells the other side, for the `n`th time.
    fn send(&mut self, n: u32) -> Result<(), String>;
    /// Waits until the other side has told for the `n`th time.
    fn receive(&mut self, n: u32) -> Result<(), String>;
    /// All `n` round trips are over on both sides: nothing may be left, nothing may have come twice.
    fn finish(&mut self, n: u32) -> Result<(), String>;
    /// How often this side took its own message for one of the other's.
    fn mistaken(&self) -> u64 {
        0
    }
}

/// What was measured of one kind.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Round trips, in nanoseconds.
    pub trips: Histogram<u64>,
    pub mean_ns: f64,
    /// Of both threads, during the measured round trips.
    pub cpu: Duration,
    /// See [`End::mistaken`]; of both.
    pub mistaken: u64,
}

/// What one thread hands over.
struct Half {
    trips: Option<(Histogram<u64>, Duration)>,
    cpu: Duration,
    mistaken: u64,
}

static ONE_CPU: AtomicBool = AtomicBool::new(false);

/// Once round a loop that waits. With one CPU it is given away, or each message would take the rest of a time slice.
#[inline(always)]
pub(crate) fn relax() {
    if ONE_CPU.load(Relaxed) { thread::yield_now() } else { std::hint::spin_loop() }
}

/// The CPUs that this process may use.
pub(crate) fn allowed() -> Vec<usize> {
    // SAFETY: all zeroes is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: writes at most the size of `set` to it.
    if unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) } != 0 {
        return Vec::new();
    }
    // SAFETY: reads a bit of `set`; the numbers are below its size.
    (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
}

/// The first CPU, and the next one that does not share its core; the next one at all if they all do.
pub(crate) fn choose(allowed: &[usize]) -> Place {
    let [ping, others @ ..] = allowed else { return Place { ping: None, pong: None } };
    let [next, ..] = others else {
        ONE_CPU.store(true, Relaxed);
        return Place { ping: None, pong: None };
    };
    let core = |cpu: usize| {
        std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings")).ok()
    };
    let here = core(*ping);
    let pong = others.iter().find(|&&cpu| here.is_some() && core(cpu) != here).unwrap_or(next);
    Place { ping: Some(*ping), pong: Some(*pong) }
}

/// Keeps the calling thread on `cpu`.
pub(crate) fn pin(cpu: Option<usize>) -> Result<(), String> {
    let Some(cpu) = cpu else { return Ok(()) };
    // SAFETY: all zeroes is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: sets a bit of `set`; `cpu` came from a set of that size.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: only reads `set`.
    match unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) } {
        0 => Ok(()),
        _ => Err(format!("cannot stay on CPU {cpu}: {}", std::io::Error::last_os_error())),
    }
}

/// The calling thread's CPU time.
pub(crate) fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to `time`.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// `rounds` round trips after some to warm up. `ping` and `pong` make the two ends, each on its own thread.
///
/// # Errors
/// What an end complains about, or that nothing went on for [`PATIENCE`]; the threads are left as they are then, and the process
/// has to end.
pub(crate) fn drive<E: End>(
    ping: impl FnOnce() -> Result<E, String> + Send + 'static,
    pong: impl FnOnce() -> Result<E, String> + Send + 'static,
    rounds: u32,
    place: Place,
    progress: &mut Progress,
) -> Result<Outcome, String> {
    let warm_up = (rounds / 10).clamp(1, 2_000);
    let meet = Arc::new(Barrier::new(2));
    let at = Arc::new(AtomicU32::new(0));
    let (hand_over, halves) = mpsc::channel();
    let threads = [
        thread::Builder::new().name("ping".into()).spawn({
            let (meet, at, hand_over) = (Arc::clone(&meet), Arc::clone(&at), hand_over.clone());
            move || {
                let _ = hand_over
                    .send(pin(place.ping).and_then(|()| sends(ping()?, warm_up, rounds, &meet, &at)));
            }
        }),
        thread::Builder::new().name("pong".into()).spawn(move || {
            let _ = hand_over.send(pin(place.pong).and_then(|()| answers(pong()?, warm_up, rounds, &meet)));
        }),
    ];
    let threads =
        threads.into_iter().collect::<Result<Vec<_>, _>>().map_err(|e| format!("no thread: {e}"))?;

    let mut outcome = None;
    let (mut cpu, mut mistaken) = (Duration::ZERO, 0);
    let (mut seen, mut since) = (0, Instant::now());
    for _side in 0..2 {
        let half = loop {
            match halves.recv_timeout(LOOK) {
                Ok(half) => break half?,
                Err(RecvTimeoutError::Disconnected) => return Err("a thread has panicked".into()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = at.load(Relaxed);
            progress.at(now);
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() > PATIENCE {
                return Err(format!("hangs: nothing in {PATIENCE:?} after {now} measured round trips"));
            }
        };
        cpu += half.cpu;
        mistaken += half.mistaken;
        outcome = half.trips.or(outcome);
    }
    for thread in threads {
        thread.join().map_err(|_| "a thread has panicked")?;
    }
    let (trips, total) = outcome.ok_or("nothing was measured")?;
    if trips.len() != u64::from(rounds) {
        return Err(format!("{} round trips were measured, {rounds} asked for", trips.len()));
    }
    Ok(Outcome { trips, mean_ns: total.as_nanos() as f64 / f64::from(rounds), cpu, mistaken })
}

fn sends<E: End>(
    mut end: E,
    warm_up: u32,
    rounds: u32,
    meet: &Barrier,
    at: &AtomicU32,
) -> Result<Half, String> {
    let mut trips = Histogram::new_with_bounds(1, 60_000_000_000, 3).map_err(|e| e.to_string())?;
    meet.wait();
    for n in 1..=warm_up {
        end.send(n)?;
        end.receive(n)?;
    }
    let mut total = Duration::ZERO;
    let cpu = cpu_time();
    for n in 1..=rounds {
        let start = Instant::now();
        end.send(warm_up + n)?;
        end.receive(warm_up + n)?;
        let took = start.elapsed();
        total += took;
        trips.saturating_record(took.as_nanos() as u64);
        at.store(n, Relaxed); // read by a thread that only shows it
    }
    let cpu = cpu_time() - cpu;
    meet.wait();
    end.finish(warm_up + rounds)?;
    Ok(Half { trips: Some((trips, total)), cpu, mistaken: end.mistaken() })
}

fn answers<E: End>(mut end: E, warm_up: u32, rounds: u32, meet: &Barrier) -> Result<Half, String> {
    meet.wait();
    let mut cpu = cpu_time();
    for n in 1..=warm_up + rounds {
        end.receive(n)?;
        end.send(n)?;
        if n == warm_up {
            cpu = cpu_time();
        }
    }
    let cpu = cpu_time() - cpu;
    meet.wait();
    end.finish(warm_up + rounds)?;
    Ok(Half { trips: None, cpu, mistaken: end.mistaken() })
}

/// Progress on stderr, with a guess at how long all of it will take: a bar where a person looks on, else one line for each kind.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    terminal: bool,
    start: Instant,
    kinds: usize,
    begun: usize,
    rounds: u32,
}

impl Progress {
    pub(crate) fn new(kinds: usize, rounds: u32) -> Progress {
        let terminal = std::io::stderr().is_terminal();
        let bar = if terminal { ProgressBar::new(u64::from(rounds)) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{prefix:40} {bar:30.cyan/white.dim} {percent:>3} % {msg}");
        bar.set_style(style.expect("a constant template").progress_chars("━╸─"));
        Progress { bar, terminal, start: Instant::now(), kinds, begun: 0, rounds }
    }

    pub(crate) fn begin(&mut self, name: &str) {
        self.begun += 1;
        let left = self.left(0).map_or(String::new(), |left| format!(" ({left})"));
        if !self.terminal {
            eprintln!("{}/{} {name} …{left}", self.begun, self.kinds);
        }
        self.bar.set_prefix(name.to_owned());
        self.at(0);
    }

    fn at(&self, round: u32) {
        self.bar.set_position(u64::from(round));
        self.bar.set_message(self.left(round).unwrap_or_default());
    }

    /// As if what is to come took as long as what has been.
    fn left(&self, round: u32) -> Option<String> {
        let done = (self.begun - 1) as f64 + f64::from(round) / f64::from(self.rounds);
        let left = self.start.elapsed().as_secs_f64() * (self.kinds as f64 - done) / done;
        match left {
            _ if done < 0.01 => None,
            0.0..100.0 => Some(format!("about {left:.0} s left in all")),
            _ => Some(format!("about {:.0} min left in all", left / 60.0)),
        }
    }

    pub(crate) fn done(&self) {
        self.bar.finish_and_clear();
    }
}
