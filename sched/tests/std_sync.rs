//! std's Mutex, Condvar, Barrier, mpsc and RwLock among fibers of ONE worker, whose holders are preempted: no deadlock, no lost wake-up.
//!
//! ```text
//! cargo test --release --test std_sync                    # 6 s
//! cargo test --release --test std_sync -- --seconds 600   # the long form
//! ```
//!
//! Who waits for a std lock waits in the kernel; its holder is a fiber of the same worker that lost the CPU at some instruction. A lost wake-up
//! shows as a stall: the watchdog prints every thread and aborts. Ends with 1 if a result is wrong.

#[path = "soak/watch.rs"]
#[allow(dead_code)]
mod watch;

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::sync::{Arc, Barrier, Condvar, Mutex, RwLock, TryLockError, mpsc};
use std::time::{Duration, Instant};
use unyield::Runtime;

static STOP: AtomicBool = AtomicBool::new(false);
/// Steps of all scenarios together: what the watchdog looks at is the slowest of them.
static STEPS: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];
/// Locks that were found held: on one worker their holder was preempted or waits.
static HELD: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);

const NAMES: [&str; 5] = ["mutex", "condvar", "barrier", "mpsc", "rwlock"];

fn check(right: bool, what: &str) {
    if !right {
        WRONG.fetch_add(1, Relaxed);
        eprintln!("WRONG: {what}");
    }
}

fn step(scenario: usize) {
    STEPS[scenario].fetch_add(1, Relaxed);
}

fn go_on() -> bool {
    !STOP.load(Relaxed)
}

/// About `us` microseconds.
fn compute(us: u64) {
    for i in 0..us * if cfg!(debug_assertions) { 60 } else { 600 } {
        black_box(i);
    }
}

fn mutex() {
    let sum = Arc::new(Mutex::new((0u64, 0u64)));
    let fibers: Vec<_> = (0..8)
        .map(|i| {
            let sum = sum.clone();
            unyield::spawn(move || {
                let mut n = 0;
                while go_on() {
                    let mut sum = match sum.try_lock() {
                        Err(TryLockError::WouldBlock) => {
                            HELD.fetch_add(1, Relaxed);
                            sum.lock().unwrap()
                        }
                        other => other.unwrap(),
                    };
                    sum.0 += 1;
                    compute(10 + 7 * i);
                    sum.1 += 1;
                    check(sum.0 == sum.1, "two holders of a mutex");
                    drop(sum);
                    n += 1;
                    step(0);
                    compute(20);
                }
                n
            })
        })
        .collect();
    let total: u64 = fibers.into_iter().map(|fiber| fiber.join().unwrap()).sum();
    check(sum.lock().unwrap().0 == total, "sum under a mutex");
}

/// A buffer of four places, three producers, three consumers; a consumer that finds the end passes it on.
fn condvar() {
    struct Buffer {
        items: Vec<u64>,
        producers: u32,
    }
    let shared =
        Arc::new((Mutex::new(Buffer { items: Vec::new(), producers: 3 }), Condvar::new(), Condvar::new()));
    let producers: Vec<_> = (0..3)
        .map(|_| {
            let shared = shared.clone();
            unyield::spawn(move || {
                let (buffer, not_full, not_empty) = &*shared;
                let mut sum = 0;
                for i in 1.. {
                    if !go_on() {
                        break;
                    }
                    let mut buffer = not_full
                        .wait_while(buffer.lock().unwrap(), |buffer| buffer.items.len() == 4)
                        .unwrap();
                    compute(15);
                    buffer.items.push(i);
                    sum += i;
                    drop(buffer);
                    not_empty.notify_one();
                    step(1);
                }
                buffer.lock().unwrap().producers -= 1;
                not_empty.notify_all();
                sum
            })
        })
        .collect();
    let consumers: Vec<_> = (0..3)
        .map(|_| {
            let shared = shared.clone();
            unyield::spawn(move || {
                let (buffer, not_full, not_empty) = &*shared;
                let mut sum = 0;
                loop {
                    let mut buffer = not_empty
                        .wait_while(buffer.lock().unwrap(), |b| b.items.is_empty() && b.producers > 0)
                        .unwrap();
                    compute(10);
                    let Some(i) = buffer.items.pop() else { return sum };
                    drop(buffer);
                    not_full.notify_one();
                    sum += i;
                    compute(30);
                }
            })
        })
        .collect();
    let produced: u64 = producers.into_iter().map(|fiber| fiber.join().unwrap()).sum();
    let consumed: u64 = consumers.into_iter().map(|fiber| fiber.join().unwrap()).sum();
    check(produced == consumed, "what went through a buffer");
}

/// Rounds that end for all four at the same one: the leader says when.
fn barrier() {
    let shared = Arc::new((Barrier::new(4), AtomicBool::new(false)));
    let fibers: Vec<_> = (0..4)
        .map(|i| {
            let shared = shared.clone();
            unyield::spawn(move || {
                let (mut rounds, mut led) = (0u64, 0u64);
                loop {
                    compute(10 + 30 * i);
                    if shared.0.wait().is_leader() {
                        led += 1;
                        shared.1.store(!go_on(), Relaxed);
                    }
                    rounds += 1;
                    step(2);
                    shared.0.wait();
                    if shared.1.load(Relaxed) {
                        return (rounds, led);
                    }
                }
            })
        })
        .collect();
    let results: Vec<_> = fibers.into_iter().map(|fiber| fiber.join().unwrap()).collect();
    let led: u64 = results.iter().map(|(_, led)| led).sum();
    check(results.iter().all(|(rounds, _)| *rounds == led), "rounds of a barrier");
}

/// A ring of four fibers, one channel of each kind in it, with three tokens going round.
fn channels() {
    let (first, from_first) = mpsc::sync_channel::<u64>(0);
    let (second, from_second) = mpsc::sync_channel::<u64>(2);
    let (third, from_third) = mpsc::channel::<u64>();
    let (fourth, from_fourth) = mpsc::channel::<u64>();
    let pass = |receiver: mpsc::Receiver<u64>, send: Box<dyn Fn(u64) -> bool + Send>, us: u64| {
        unyield::spawn(move || {
            let mut n = 0u64;
            for token in receiver {
                compute(us);
                n += 1;
                step(3);
                if !send(token + 1) {
                    break;
                }
            }
            n
        })
    };
    let fibers = [
        pass(from_first, Box::new(move |x| second.send(x).is_ok()), 25),
        pass(from_second, Box::new(move |x| third.send(x).is_ok()), 5),
        pass(from_third, Box::new(move |x| fourth.send(x).is_ok()), 40),
    ];
    let head = unyield::spawn(move || {
        let mut n = 0u64;
        for token in 0..3 {
            first.send(token * 1_000_000_000_000).unwrap();
        }
        while go_on() {
            let token = from_fourth.recv().unwrap();
            n += 1;
            first.send(token).unwrap();
        }
        drop(first);
        n + from_fourth.iter().count() as u64
    });
    let heard = head.join().unwrap();
    check(fibers.into_iter().all(|fiber| fiber.join().unwrap() == heard), "tokens in a ring");
}

fn rwlock() {
    let pair = Arc::new(RwLock::new((0u64, 0u64)));
    let readers: Vec<_> = (0..4)
        .map(|i| {
            let pair = pair.clone();
            unyield::spawn(move || {
                while go_on() {
                    let pair = match pair.try_read() {
                        Err(TryLockError::WouldBlock) => {
                            HELD.fetch_add(1, Relaxed);
                            pair.read().unwrap()
                        }
                        other => other.unwrap(),
                    };
                    let first = pair.0;
                    compute(20 + 10 * i);
                    check(pair.0 == first && pair.1 == first, "a writer beside a reader");
                    drop(pair);
                    step(4);
                    compute(10);
                }
            })
        })
        .collect();
    let writers: Vec<_> = (0..2)
        .map(|_| {
            let pair = pair.clone();
            unyield::spawn(move || {
                let mut n = 0u64;
                while go_on() {
                    let mut pair = pair.write().unwrap();
                    pair.0 += 1;
                    compute(30);
                    pair.1 += 1;
                    drop(pair);
                    n += 1;
                    compute(60);
                }
                n
            })
        })
        .collect();
    readers.into_iter().for_each(|fiber| fiber.join().unwrap());
    let written: u64 = writers.into_iter().map(|fiber| fiber.join().unwrap()).sum();
    check(*pair.read().unwrap() == (written, written), "sums under a rwlock");
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let after =
        |flag: &str| arguments.iter().position(|argument| argument == flag).map(|at| arguments.get(at + 1));
    let seconds = match after("--seconds").map(|value| value.and_then(|value| value.parse::<u64>().ok())) {
        None => 6,
        Some(Some(seconds)) if seconds > 0 => seconds,
        Some(_) => {
            eprintln!("usage: std_sync [--seconds N]");
            return ExitCode::from(2);
        }
    };
    // `cargo test NAME` asks every test program
    if arguments.first().is_some_and(|first| !first.starts_with('-') && !"std_sync".contains(first))
        || arguments.iter().any(|a| a == "--list")
    {
        return ExitCode::SUCCESS;
    }
    watch::start(60, false);
    let runtime = Runtime::builder()
        .workers(1)
        .quantum(Duration::from_micros(100))
        .build()
        .expect("the runtime starts");
    let start = Instant::now();
    let scenarios: Vec<_> = [mutex, condvar, barrier, channels, rwlock]
        .into_iter()
        .map(|scenario| runtime.spawn(scenario))
        .collect();
    let mut told = 0;
    while scenarios.iter().any(|scenario| !scenario.is_finished()) {
        std::thread::sleep(Duration::from_millis(20));
        let steps = STEPS.each_ref().map(|steps| steps.load(Relaxed));
        // a step of each, or of those that go on
        let slowest = steps
            .iter()
            .zip(&scenarios)
            .filter(|(_, scenario)| !scenario.is_finished())
            .map(|(steps, _)| *steps)
            .min();
        watch::progress(slowest.unwrap_or(u64::MAX));
        if start.elapsed() >= Duration::from_secs(seconds) {
            STOP.store(true, Relaxed);
        }
        if start.elapsed().as_secs() / 60 > told {
            told = start.elapsed().as_secs() / 60;
            println!("std_sync: {told} min, steps {steps:?}, found held {}", HELD.load(Relaxed));
        }
    }
    for scenario in scenarios {
        check(scenario.join().is_ok(), "a scenario panicked");
    }
    watch::progress(u64::MAX);
    let metrics = runtime.handle().metrics();
    let steps: Vec<String> =
        NAMES.iter().zip(&STEPS).map(|(name, steps)| format!("{name} {}", steps.load(Relaxed))).collect();
    println!(
        "std_sync: 1 worker, {:.1?}: {}; {} preemptions ({} in system calls), {} locks found held, {} wrong",
        start.elapsed(),
        steps.join(", "),
        metrics.worker_preempt_count(0),
        metrics.worker_call_preempt_count(0),
        HELD.load(Relaxed),
        WRONG.load(Relaxed)
    );
    check(HELD.load(Relaxed) > 0, "no holder was ever preempted");
    if WRONG.load(Relaxed) == 0 && runtime.shutdown_timeout(Duration::from_secs(10)) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
