//! A timer that has gone to sleep is woken by whoever enqueues.

use super::*;

/// Queued items, and the timer.
struct Timer {
    queued: AtomicUsize,
    armed: Armed,
}

/// `enqueuers` threads enqueue one item each; the timer must get to see all of them, however it sleeps in between.
fn no_lost_arm(enqueuers: usize) {
    model(move || {
        let timer = Arc::new(Timer { queued: AtomicUsize::new(0), armed: Armed::new() });
        let threads: Vec<_> = (0..enqueuers)
            .map(|_| {
                let timer = timer.clone();
                thread::spawn(move || {
                    timer.queued.fetch_add(1, Ordering::Relaxed);
                    timer.armed.enqueue_check();
                })
            })
            .collect();
        let mut seen = 0;
        while seen < enqueuers {
            let queued = |seen| timer.queued.load(Ordering::Relaxed) > seen;
            if timer.armed.try_disarm(|| queued(seen)) {
                assert!(timer.armed.wait(None));
            }
            seen = timer.queued.load(Ordering::Relaxed);
        }
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn one_enqueuer() {
    no_lost_arm(1);
}

#[test]
fn two_enqueuers() {
    no_lost_arm(2);
}
