//! No work is left lying while a worker that could do it sleeps.

use super::*;

/// Workers and what they share. An item of work is a 1 in a counter.
struct Pool {
    work: AtomicUsize,
    /// Work that only one worker may do.
    mine: [AtomicUsize; 2],
    idle: Idle,
}

impl Pool {
    fn new(workers: usize) -> Arc<Self> {
        Arc::new(Pool {
            work: AtomicUsize::new(0),
            mine: [AtomicUsize::new(0), AtomicUsize::new(0)],
            idle: Idle::new(workers),
        })
    }

    // Relaxed throughout: the protocol must bring all the order that it needs.

    fn push(&self) {
        self.work.fetch_add(1, Ordering::Relaxed);
        self.idle.notify_one();
    }

    fn push_to(&self, worker: usize) {
        self.mine[worker].fetch_add(1, Ordering::Relaxed);
        self.idle.notify_worker(worker);
    }

    fn any_work(&self) -> bool {
        self.work.load(Ordering::Relaxed) > 0
    }

    fn take(&self) -> bool {
        let mut work = self.work.load(Ordering::Relaxed);
        while work > 0 {
            match self.work.compare_exchange(work, work - 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => work = now,
            }
        }
        false
    }

    /// The worker's loop of the README: returns with an item of shared work.
    fn next(&self) {
        let mut duty = false;
        loop {
            if self.idle.begin_search() {
                let found = self.take();
                duty |= self.idle.end_search();
                if found {
                    if duty && self.any_work() {
                        self.idle.notify_one();
                    }
                    return;
                }
            }
            let ticket = self.idle.prepare_sleep();
            if self.any_work() {
                duty |= self.idle.cancel_sleep(ticket);
                if self.take() {
                    if duty && self.any_work() {
                        self.idle.notify_one();
                    }
                    return;
                }
            } else {
                duty = self.idle.sleep(ticket, None);
            }
        }
    }
}

/// `workers` workers, of which each does one item and is never seen again (a long fiber); `enqueuers` threads push all
/// the items between them. If an item lies while a worker sleeps, nobody ever comes for it: a deadlock.
fn no_lost_wakeup(workers: usize, enqueuers: usize) {
    model(move || {
        let pool = Pool::new(workers);
        let mut threads = vec![];
        for _ in 0..workers - usize::from(enqueuers > 1) {
            let pool = pool.clone();
            threads.push(thread::spawn(move || pool.next()));
        }
        if enqueuers > 1 {
            let pool = pool.clone();
            threads.push(thread::spawn(move || pool.push()));
            // This thread is the second enqueuer, then the last worker.
        }
        let rest = if enqueuers > 1 { workers - 1 } else { workers };
        for _ in 0..rest {
            pool.push();
        }
        if enqueuers > 1 {
            pool.next();
        }
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(!pool.any_work());
        assert_eq!((pool.idle.sleepers(), pool.idle.searching()), (0, 0));
    });
}

/// One that searches, and then is not to take anything any more (a spare whose turn is over): whoever relied on it must not have.
#[test]
fn a_searcher_that_leaves() {
    model(|| {
        let pool = Pool::new(2);
        let leaves = {
            let pool = pool.clone();
            thread::spawn(move || {
                if pool.idle.begin_search() && pool.idle.end_search() && pool.any_work() {
                    pool.idle.notify_one();
                }
            })
        };
        let stays = {
            let pool = pool.clone();
            thread::spawn(move || pool.next())
        };
        pool.push();
        leaves.join().unwrap();
        stays.join().unwrap();
        assert!(!pool.any_work());
    });
}

#[test]
fn one_worker() {
    no_lost_wakeup(1, 1);
}

#[test]
fn two_workers() {
    no_lost_wakeup(2, 1);
}

#[test]
fn two_workers_two_enqueuers() {
    no_lost_wakeup(2, 2);
}

/// Work for one worker only, beside work for all: the one meant must come for it although another may be woken.
#[test]
fn work_for_one() {
    model(|| {
        let pool = Pool::new(2);
        let other = {
            let pool = pool.clone();
            thread::spawn(move || pool.next())
        };
        let meant = {
            let pool = pool.clone();
            thread::spawn(move || {
                while pool.mine[1].load(Ordering::Relaxed) == 0 {
                    let ticket = pool.idle.prepare_sleep_as(1);
                    let duty = if pool.mine[1].load(Ordering::Relaxed) == 0 {
                        pool.idle.sleep(ticket, None)
                    } else {
                        pool.idle.cancel_sleep(ticket)
                    };
                    // It does not do shared work here, so it passes such a wake-up on.
                    if duty && pool.any_work() {
                        pool.idle.notify_one();
                    }
                }
            })
        };
        pool.push_to(1);
        pool.push();
        other.join().unwrap();
        meant.join().unwrap();
    });
}

/// Everyone is woken.
#[test]
fn shutdown() {
    model(|| {
        let pool = Pool::new(2);
        let threads: Vec<_> = (0..2)
            .map(|worker| {
                let pool = pool.clone();
                thread::spawn(move || {
                    while pool.mine[0].load(Ordering::Relaxed) == 0 {
                        let ticket = pool.idle.prepare_sleep_as(worker);
                        let _ = if pool.mine[0].load(Ordering::Relaxed) == 0 {
                            pool.idle.sleep(ticket, None)
                        } else {
                            pool.idle.cancel_sleep(ticket)
                        };
                    }
                })
            })
            .collect();
        pool.mine[0].store(1, Ordering::Relaxed);
        pool.idle.notify_all();
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

/// A notifier that relies on a wake-up under way is right: whoever takes that over sees its work. (Among two workers the
/// other one is awake by then and would see it anyhow; the property matters from three on.)
#[test]
fn work_is_seen_by_who_takes_the_wakeup() {
    model(|| {
        let pool = Pool::new(3);
        let first = pool.idle.prepare_sleep();
        let second = pool.idle.prepare_sleep();
        assert!(pool.idle.notify_one());
        let enqueuer = {
            let pool = pool.clone();
            thread::spawn(move || {
                pool.work.fetch_add(1, Ordering::Relaxed);
                pool.idle.notify_one()
            })
        };
        assert!(pool.idle.cancel_sleep(first));
        let seen = pool.any_work();
        let notified = enqueuer.join().unwrap();
        assert!(seen || notified, "nobody: lost");
        assert_eq!(pool.idle.cancel_sleep(second), notified);
    });
}
