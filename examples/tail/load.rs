//! The work, the same for all ways: what a point read and an analytic client do, and what is noted of them.
//!
//! Everything here runs inside fibers that may be interrupted anywhere and take std locks; nothing knows of that.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::model::Analysis;
use crate::pool::{Pool, analyse, read};

/// A point read, as the generator issues it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub id: u64,
    /// When it was to arrive; its latency counts from here, however late the generator was.
    pub due: Instant,
    /// Spreads the notes over shards.
    pub number: u64,
    /// False during warm-up.
    pub measured: bool,
}

/// From 1 ns to ten minutes, three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("constant bounds")
}

pub(crate) fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Shard {
    latency: Histogram<u64>,
    /// Time between the start and the end of measured reads; their CPU time, if none was interrupted.
    serving: Duration,
    /// The last measured answer.
    last: Option<Instant>,
}

/// The state of one run of one way.
///
/// | field | written by | read by |
/// |---|---|---|
/// | shards | reads | the report, after the drain |
/// | answered, wrong | reads and analyses | progress, the drain, the report |
/// | clients | analytic clients, as they end | the drain |
/// | stop | the main thread | analytic clients |
#[derive(Debug)]
pub(crate) struct Load {
    pool: Arc<Pool>,
    queries: Arc<[Analysis]>,
    shards: Box<[Mutex<Shard>]>,
    answered: AtomicU64,
    wrong: AtomicU64,
    first_wrong: Mutex<Option<String>>,
    next_query: AtomicUsize,
    analyses: Mutex<Vec<(Instant, Instant)>>,
    analysed: AtomicU64,
    clients: AtomicUsize,
    stop: AtomicBool,
}

// The counters are Relaxed: none of them publishes other data, and what the report reads lies behind mutexes.
impl Load {
    pub(crate) fn new(pool: &Arc<Pool>, queries: &Arc<[Analysis]>, workers: usize) -> Arc<Load> {
        let shard = || Mutex::new(Shard { latency: histogram(), serving: Duration::ZERO, last: None });
        Arc::new(Load {
            pool: Arc::clone(pool),
            queries: Arc::clone(queries),
            shards: (0..8 * workers).map(|_| shard()).collect(),
            answered: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
            first_wrong: Mutex::new(None),
            next_query: AtomicUsize::new(0),
            analyses: Mutex::new(Vec::with_capacity(1 << 16)),
            analysed: AtomicU64::new(0),
            clients: AtomicUsize::new(workers),
            stop: AtomicBool::new(false),
        })
    }

    /// Serves one point read.
    pub(crate) fn read(&self, request: Request) {
        let start = Instant::now();
        let result = read(&self.pool.take(), request.id);
        let end = Instant::now();
        if let Err(what) = result {
            self.complain(what);
        }
        if request.measured {
            let mut shard = lock(&self.shards[request.number as usize % self.shards.len()]);
            shard.latency.saturating_record(nanos(end - request.due).max(1));
            shard.serving += end - start;
            shard.last = shard.last.max(Some(end));
        }
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// Runs the next analytic query of a closed loop; false when the loop is to end.
    pub(crate) fn analyse_next(&self) -> bool {
        if self.stop.load(Ordering::Relaxed) {
            self.clients.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        let query = &self.queries[self.next_query.fetch_add(1, Ordering::Relaxed) % self.queries.len()];
        let start = Instant::now();
        let result = analyse(&self.pool.take(), query);
        let end = Instant::now();
        if let Err(what) = result {
            self.complain(what);
        }
        lock(&self.analyses).push((start, end));
        self.analysed.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn complain(&self, what: String) {
        self.wrong.fetch_add(1, Ordering::Relaxed);
        lock(&self.first_wrong).get_or_insert(what);
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    pub(crate) fn analysed(&self) -> u64 {
        self.analysed.load(Ordering::Relaxed)
    }

    /// Analytic clients that have not ended.
    pub(crate) fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    pub(crate) fn wrong(&self) -> (u64, Option<String>) {
        (self.wrong.load(Ordering::Relaxed), lock(&self.first_wrong).clone())
    }

    /// Latencies of the measured reads, the time that serving them took, and when the last of them was answered.
    pub(crate) fn reads(&self) -> (Histogram<u64>, Duration, Option<Instant>) {
        let (mut all, mut serving, mut last) = (histogram(), Duration::ZERO, None);
        for shard in &self.shards {
            let shard = lock(shard);
            all.add(&shard.latency).expect("equal bounds");
            serving += shard.serving;
            last = last.max(shard.last);
        }
        (all, serving, last)
    }

    /// Analytic queries within `from .. to`; one that straddles an end counts by the share of its time inside.
    pub(crate) fn analyses_within(&self, from: Instant, to: Instant) -> f64 {
        let share = |&(start, end): &(Instant, Instant)| {
            let inside = end.min(to).saturating_duration_since(start.max(from));
            inside.as_secs_f64() / (end - start).as_secs_f64().max(1e-9)
        };
        lock(&self.analyses).iter().map(share).sum()
    }
}
