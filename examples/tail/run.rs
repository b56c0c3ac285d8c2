//! One way under the load, from start to drain, and the calibration before all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::arrivals::{Arrivals, Schedule, generate};
use crate::load::{Load, Request};
use crate::model::Analysis;
use crate::pool::{Pool, analyse, read};
use crate::progress::Phase;
use crate::ways::{Counters, Fibers, Way};

/// After the last arrival, reads that wait are served to the end, but for no longer than this.
pub(crate) const DRAIN: Duration = Duration::from_secs(30);

/// What all ways share.
#[derive(Debug)]
pub(crate) struct Bench {
    pub pool: Arc<Pool>,
    pub queries: Arc<[Analysis]>,
    pub workers: usize,
    pub rows: u64,
    pub rate: f64,
    pub warm_up: Duration,
    pub seconds: Duration,
}

/// What one way did within the measured time.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub name: &'static str,
    pub latency: Histogram<u64>,
    pub arrivals: Arrivals,
    /// Reads that had no answer when the drain was given up; with the warm-up's.
    pub lost: u64,
    pub wrong: u64,
    pub first_wrong: Option<String>,
    /// From the last arrival to the last answer.
    pub drain: Duration,
    pub analyses_per_second: f64,
    pub counters: Option<Counters>,
    /// CPU time of the whole process.
    pub cpu: Duration,
    /// Time in which reads were being served, as a share of the workers' time.
    pub serving: f64,
    /// False if the way did not end after its work.
    pub ended: bool,
}

impl Bench {
    /// Runs `way`; returns when all it was given is answered or given up.
    pub(crate) fn run(&self, name: &'static str, way: Box<dyn Way>) -> Outcome {
        let total = self.warm_up + self.seconds;
        let phase = Phase::new(name, total.as_millis() as u64, "{msg}");
        let load = Load::new(&self.pool, &self.queries, self.workers);
        for _ in 0..self.workers {
            way.analyse(&load);
        }
        let start = Instant::now() + Duration::from_millis(50);
        let plan = Schedule {
            start,
            warm_up: self.warm_up,
            measured: self.seconds,
            rate: self.rate,
            rows: self.rows,
        };
        let (from, to) = (start + self.warm_up, start + total);
        let issued = AtomicU64::new(0);
        let (arrivals, counted, cpu) = thread::scope(|s| {
            let generator = thread::Builder::new()
                .name("arrivals".into())
                .spawn_scoped(s, || generate(&*way, &load, &plan, &issued))
                .expect("a thread for the generator");
            let watch = |until: Instant| {
                while let Some(left) = until.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) {
                    thread::sleep(left.min(Duration::from_millis(100)));
                    phase.at(start.elapsed().as_millis() as u64);
                    let waiting = issued.load(Ordering::Relaxed).saturating_sub(load.answered());
                    phase.note(format!(
                        "{} reads, {waiting} wait, {} analyses",
                        load.answered(),
                        load.analysed()
                    ));
                }
                (way.counters(), process_cpu())
            };
            let before = watch(from);
            let after = watch(to);
            let counted = after.0.zip(before.0).map(|(a, b)| Counters {
                preemptions: a.preemptions - b.preemptions,
                migrations: a.migrations - b.migrations,
            });
            (generator.join().expect("the generator does not panic"), counted, after.1 - before.1)
        });
        load.stop();
        let given_up = Instant::now() + DRAIN;
        let mut left = u64::MAX;
        while (left > 0 || load.clients() > 0) && Instant::now() < given_up {
            thread::sleep(Duration::from_millis(5));
            left = arrivals.issued - load.answered();
            phase.note(format!("{left} reads and {} analytic clients to end", load.clients()));
        }
        let ended = load.clients() == 0 && left == 0;
        let ended = way.end() && ended;
        phase.done();
        let (latency, serving, last) = load.reads();
        let (wrong, first_wrong) = load.wrong();
        Outcome {
            name,
            latency,
            lost: left,
            wrong,
            first_wrong,
            drain: last.map_or(Duration::ZERO, |t| t.saturating_duration_since(to)),
            analyses_per_second: load.analyses_within(from, to) / self.seconds.as_secs_f64(),
            counters: counted,
            cpu,
            serving: serving.as_secs_f64() / (self.seconds.as_secs_f64() * self.workers as f64),
            ended,
            arrivals,
        }
    }

    /// CPU time of one point read in a fiber, on busy workers: handing over (by this thread), starting, connection,
    /// query, check. `fibers` must not be preemptive, so that its workers can be held until all reads are queued.
    pub(crate) fn cost_of_read(&self, fibers: &Fibers, reads: u64) -> Result<Duration, String> {
        let load = Load::new(&self.pool, &self.queries, self.workers);
        let mut rounds = Vec::new();
        for round in 0..6 {
            let held = fibers.hold(self.workers);
            let before = thread_cpu();
            for number in 0..reads {
                let id = 1 + (number * 7919 + round * 104_729) % self.rows;
                fibers.read(&load, Request { id, due: Instant::now(), number, measured: true });
            }
            let handing_over = thread_cpu() - before;
            let before = process_cpu();
            held.store(false, Ordering::Relaxed);
            let begun = Instant::now();
            while load.answered() < (round + 1) * reads {
                if begun.elapsed() > DRAIN {
                    return Err(format!(
                        "{} of {reads} reads were answered",
                        load.answered() - round * reads
                    ));
                }
                thread::sleep(Duration::from_millis(1));
            }
            rounds.push((handing_over + process_cpu() - before) / reads as u32);
        }
        if let (_, Some(what)) = load.wrong() {
            return Err(what);
        }
        let warm = &mut rounds[1..];
        warm.sort();
        Ok(warm[warm.len() / 2])
    }
}

/// Time of one point read on this thread: the floor under [`Bench::cost_of_read`].
pub(crate) fn bare_read(pool: &Pool, rows: u64) -> Result<Duration, String> {
    const READS: u32 = 20_000;
    let mut begun = Instant::now();
    for number in 0..2 * u64::from(READS) {
        if number == u64::from(READS) {
            begun = Instant::now();
        }
        read(&pool.take(), 1 + (number * 7919) % rows)?;
    }
    Ok(begun.elapsed() / READS)
}

/// What analytic queries take on one thread when nothing else runs, in seconds.
const LENGTHS: [f64; 4] = [0.125, 0.150, 0.200, 0.300];

/// Four queries of each of the [`LENGTHS`], or as long as the table allows, over different parts of it; and how long
/// the shortest does take.
pub(crate) fn plan_queries(pool: &Pool, rows: u64) -> Result<(Arc<[Analysis]>, Duration), String> {
    let db = pool.take();
    let time = |query: &Analysis| {
        let begun = Instant::now();
        analyse(&db, query).map(|()| begun.elapsed())
    };
    // The fastest of some: what else the machine does only makes a query slower.
    let fastest = |query: &Analysis| {
        let mut least = time(query)?;
        for _ in 0..3 {
            least = least.min(time(query)?);
        }
        Ok::<_, String>(least)
    };
    let sample = Analysis::over(1, rows / 2);
    let mut per_row = fastest(&sample)?.as_secs_f64() / sample.rows() as f64;
    for _ in 0..4 {
        let length = ((LENGTHS[0] / per_row) as u64).min(rows);
        let shortest = Analysis::over(1, length);
        let took = fastest(&shortest)?;
        per_row = took.as_secs_f64() / length as f64;
        if took.as_secs_f64() > 0.9 * LENGTHS[0] || length == rows {
            break;
        }
    }
    let lengths = LENGTHS.map(|t| ((t / per_row) as u64).min(rows));
    let queries: Arc<[Analysis]> = (0..16)
        .map(|i| {
            let length = lengths[i % 4];
            let first = 1 + (rows - length) * (i as u64 / 4) / 3;
            Analysis::over(first, first + length - 1)
        })
        .collect();
    let shortest = fastest(&queries[0])?;
    Ok((queries, shortest))
}

/// CPU time of this process so far, all threads.
fn process_cpu() -> Duration {
    cpu(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// CPU time of the calling thread.
pub(crate) fn thread_cpu() -> Duration {
    cpu(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn cpu(clock: libc::clockid_t) -> Duration {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is valid for the write.
    unsafe { libc::clock_gettime(clock, &mut t) };
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}
