//! The kinds of work, how they are chosen, and what they share.

use crate::{fibers, forks, machine, ordinary, print, waits};
use std::fmt;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{LazyLock, Mutex, RwLock};

/// Notes a wrong result.
macro_rules! check {
    ($condition:expr, $($message:tt)*) => {
        if !$condition {
            $crate::kinds::wrong(format_args!("{}:{}: {}", file!(), line!(), format_args!($($message)*)));
        }
    };
}

pub struct Kind {
    pub name: &'static str,
    pub body: fn(&mut Cx),
    /// How often it is chosen, beside the others.
    weight: u64,
}

const fn kind(name: &'static str, weight: u64, body: fn(&mut Cx)) -> Kind {
    Kind { name, body, weight }
}

pub static KINDS: &[Kind] = &[
    kind("malloc", 4, ordinary::malloc),
    kind("print", 4, print::print),
    kind("tls", 4, ordinary::thread_locals),
    kind("mpsc", 4, ordinary::mpsc_and_condvar),
    kind("panic", 4, ordinary::panics),
    kind("thread", 4, ordinary::thread_ids),
    kind("rng", 4, ordinary::rng),
    kind("file", 4, ordinary::files),
    kind("backtrace", 4, ordinary::backtrace),
    kind("libc", 4, ordinary::libc_calls),
    kind("flags", 4, machine::flags),
    kind("registers", 4, machine::registers),
    kind("float", 4, machine::float),
    kind("sleep", 1, ordinary::sleeps),
    kind("native", 1, ordinary::native_threads),
    kind("section", 4, machine::sections),
    kind("sigmask", 4, machine::signal_mask),
    kind("deep", 3, machine::deep_stack),
    kind("command", 1, waits::command),
    kind("barrier", 3, waits::barrier),
    kind("rwlock", 3, waits::rwlock),
    kind("pipe", 3, waits::pipe),
    kind("socket", 3, waits::socket),
    kind("blocking", 2, waits::blocking),
    kind("os_thread", 2, waits::os_thread),
    kind("mutex", 4, fibers::mutex),
    kind("condvar", 3, fibers::condvar),
    kind("fork", 4, forks::tree),
    kind("forks", 3, forks::waiting),
    kind("shared", 3, fibers::shared),
    kind("channel", 4, fibers::channel),
    kind("oneshot", 3, fibers::oneshot),
    kind("semaphore", 3, fibers::semaphore),
    kind("park", 3, fibers::park),
    kind("scope", 3, fibers::scope),
    kind("cancel", 3, fibers::cancel),
    kind("local", 3, fibers::local),
    kind("future", 3, fibers::future),
    kind("tree", 2, fibers::tree),
    kind("timeout", 1, fibers::timeouts),
    kind("builder", 2, fibers::builder),
    kind("lost", 2, fibers::lost_panic),
];

impl Kind {
    pub fn index(&self) -> usize {
        KINDS.iter().position(|other| other.name == self.name).unwrap_or(0)
    }
}

/// What a task has: its number and its own random numbers.
#[derive(Clone)]
pub struct Cx {
    pub number: u64,
    state: u64,
}

impl Cx {
    pub fn new(seed: u64, number: u64) -> Cx {
        // Two rounds, so that the sequences of neighbouring tasks are not the same one, shifted.
        let mut cx = Cx { number, state: seed };
        cx.state = cx.next() ^ number;
        cx.state = cx.next();
        cx
    }

    /// SplitMix64.
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.state;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// A context for a fiber that this one spawns.
    pub fn fork(&mut self) -> Cx {
        Cx { number: self.number, state: self.next() }
    }
}

pub fn choose(cx: &mut Cx, chosen: &[&'static Kind]) -> &'static Kind {
    let mut at = cx.below(chosen.iter().map(|kind| kind.weight).sum());
    for kind in chosen {
        match at.checked_sub(kind.weight) {
            Some(left) => at = left,
            None => return kind,
        }
    }
    unreachable!("below the sum of the weights")
}

/// Computes for about `n` nanoseconds; returns something that depends on it.
#[inline(never)]
pub fn spin(n: u64, seed: u64) -> u64 {
    let mut x = seed | 1;
    for _ in 0..black_box(n) / if cfg!(debug_assertions) { 16 } else { 2 } {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    black_box(x)
}

/// The payload of panics that belong to the soak.
#[derive(PartialEq, Debug)]
pub struct Planned(pub u64);

static WRONG: AtomicU64 = AtomicU64::new(0);

/// Notes a wrong result and says so, the first hundred times, by a bare write.
pub fn wrong(what: fmt::Arguments<'_>) {
    if WRONG.fetch_add(1, Relaxed) < 100 {
        let line = format!("WRONG {what}\n");
        // SAFETY: writes initialised bytes.
        unsafe { libc::write(2, line.as_ptr().cast(), line.len()) };
    }
}

pub fn wrong_count() -> u64 {
    WRONG.load(Relaxed)
}

/// What all tasks fight for, with what should be in it at the end.
#[derive(Default)]
pub struct Hub {
    pub std_mutex: Mutex<u64>,
    pub std_rwlock: RwLock<(u64, u64)>,
    pub mutex: unyield::sync::Mutex<u64>,
    pub rwlock: unyield::sync::RwLock<(u64, u64)>,
    pub in_std_mutex: AtomicU64,
    pub in_std_rwlock: AtomicU64,
    pub in_mutex: AtomicU64,
    pub in_rwlock: AtomicU64,
}

pub static HUB: LazyLock<Hub> = LazyLock::new(Hub::default);

/// After all tasks have ended.
pub fn check_hub() {
    let std_rwlock = *HUB.std_rwlock.read().unwrap();
    let rwlock = *HUB.rwlock.read();
    check!(*HUB.std_mutex.lock().unwrap() == HUB.in_std_mutex.load(Relaxed), "sum under std's mutex");
    check!(
        std_rwlock.0 == HUB.in_std_rwlock.load(Relaxed) && std_rwlock.0 == std_rwlock.1,
        "sums under std's rwlock"
    );
    check!(*HUB.mutex.lock() == HUB.in_mutex.load(Relaxed), "sum under the mutex");
    check!(rwlock.0 == HUB.in_rwlock.load(Relaxed) && rwlock.0 == rwlock.1, "sums under the rwlock");
}
