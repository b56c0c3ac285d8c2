//! 50 fibers sit in `read` on empty pipes, through libc, without telling the runtime; one fiber computes on the same
//! worker for n ms of work. `speed`: its speed in percent of the same work alone, once all 50 are known to be in their
//! calls; `early`: the same, started together with the readers, so it includes the time until the runtime has moved them
//! out of the way. What the kernel gave to other programs is left out: the time that the computing thread waited for a CPU
//! (`/proc/thread-self/schedstat`). `idle-cpu`: CPU of the process in percent of one CPU over 2 n ms when nobody computes. In the end
//! every reader gets its byte; `eintr` counts calls that a runtime's signals ended early.

use std::{
    io,
    os::fd::RawFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    Env,
    compute::{spin, steps_per_ms},
    hosts::{self, Mode},
    unknown,
};
use crate::{os, peers::Answer, proto::Sample};

const READERS: usize = 50;

static INTERRUPTED: AtomicU64 = AtomicU64::new(0);

pub fn measure(env: &Env, contender: &str, n: u64) -> Answer {
    match contender {
        "unyield" => {
            let rt = hosts::unyield(env, Mode::Default);
            phases(contender, n, |f| {
                let fiber = rt.spawn(f);
                Box::new(move || fiber.join().expect("no panic"))
            })
        }
        "threads" => {
            let cpu = env.cpus[0];
            phases(contender, n, |f| {
                let thread = thread::spawn(move || {
                    os::pin_self(&[cpu]).expect("an allowed CPU");
                    f();
                });
                Box::new(move || thread.join().expect("no panic"))
            })
        }
        other => unknown(other),
    }
}

type Task = Box<dyn FnOnce() + Send>;
type Join = Box<dyn FnOnce()>;

fn phases(contender: &str, n: u64, spawn: impl Fn(Task) -> Join) -> Answer {
    let steps = steps_per_ms() * n;
    let compute = || {
        let t = Instant::now();
        let waited = Arc::new(AtomicU64::new(0));
        let to = waited.clone();
        spawn(Box::new(move || {
            let (thread, delay) = (os::thread_id(), os::run_delay());
            spin(steps);
            if os::thread_id() == thread {
                to.store(os::run_delay() - delay, Relaxed);
            }
        }))();
        t.elapsed().as_secs_f64() - waited.load(Relaxed) as f64 / 1e9
    };
    INTERRUPTED.store(0, Relaxed);
    let pipes: Vec<(RawFd, RawFd)> =
        (0..READERS).map(|_| pipe()).collect::<io::Result<_>>().map_err(|e| e.to_string())?;
    compute();
    let alone = compute();
    let readers: Vec<Join> = pipes.iter().map(|&(from, _)| spawn(Box::new(move || read_one(from)))).collect();
    let early = compute();
    thread::sleep(Duration::from_millis(200));
    let beside = compute();
    let process = os::process_cpu();
    thread::sleep(Duration::from_millis(2 * n));
    let idle = (os::process_cpu() - process) as f64 / 1e6 / (2 * n) as f64 * 100.0;
    for &(_, to) in &pipes {
        // SAFETY: one readable byte; `to` is open.
        let written = unsafe { libc::write(to, [1u8].as_ptr().cast(), 1) };
        assert_eq!(written, 1);
    }
    readers.into_iter().for_each(|join| join());
    for (from, to) in pipes {
        // SAFETY: both are ours, and no fiber uses them any more.
        unsafe { libc::close(from) };
        // SAFETY: as above.
        unsafe { libc::close(to) };
    }
    Ok(vec![
        Sample::new(contender, "speed", alone / beside * 100.0, "%"),
        Sample::new(contender, "early", alone / early * 100.0, "%"),
        Sample::new(contender, "idle-cpu", idle, "%"),
        Sample::new(contender, "eintr", INTERRUPTED.load(Relaxed) as f64, "each"),
    ])
}

fn pipe() -> io::Result<(RawFd, RawFd)> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for two descriptors.
    match unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } {
        0 => Ok((ends[0], ends[1])),
        _ => Err(io::Error::last_os_error()),
    }
}

fn read_one(from: RawFd) {
    let mut byte = 0u8;
    loop {
        // SAFETY: one writable byte.
        let r = unsafe { libc::read(from, (&raw mut byte).cast(), 1) };
        if r == 1 {
            return assert_eq!(byte, 1);
        }
        let e = io::Error::last_os_error();
        assert_eq!(e.kind(), io::ErrorKind::Interrupted, "read: {r}, {e}");
        INTERRUPTED.fetch_add(1, Relaxed);
    }
}
