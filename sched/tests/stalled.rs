//! Fibers that wait for std locks when there are no carriers left for them: they do not take turns with the fiber that holds the lock, and none is forgotten.

use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::time::{Duration, Instant};
use unyield::{Runtime, fiber};

fn runtime(workers: usize, carriers: usize) -> Runtime {
    Runtime::builder()
        .workers(workers)
        .quantum(Duration::from_micros(100))
        .max_carriers(carriers)
        .build()
        .unwrap()
}

fn compute(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {}
}

#[test]
fn waiters_leave_the_holder_alone() {
    let runtime = runtime(1, 2);
    let lock = Arc::new(Mutex::new(0));
    let metrics = runtime.handle().metrics();
    let (theirs, seen) = (lock.clone(), metrics.clone());
    let holder = runtime.spawn(move || {
        let mut count = theirs.lock().unwrap();
        let waiters: Vec<_> = (0..50)
            .map(|_| {
                let lock = theirs.clone();
                unyield::spawn(move || *lock.lock().unwrap() += 1)
            })
            .collect();
        compute(Duration::from_millis(100)); // all have tried by then
        let before = seen.worker_call_preempt_count(0);
        compute(Duration::from_millis(500));
        let taken = seen.worker_call_preempt_count(0) - before;
        *count += 1;
        drop(count);
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
        taken
    });
    let taken = holder.join().unwrap();
    assert_eq!(*lock.lock().unwrap(), 51);
    // One turn in five milliseconds for all of them; without the rule about one in two ticks.
    assert!(taken < 500, "{taken} turns in half a second for fibers that can only wait");
}

#[test]
fn every_waiter_goes_on() {
    for (workers, carriers) in [(1, 0), (1, 1), (2, 3)] {
        let runtime = runtime(workers, carriers);
        runtime.run(|| {
            // all at once, by a broadcast
            let pair = Arc::new((Mutex::new(false), Condvar::new()));
            let waiters: Vec<_> = (0..40)
                .map(|_| {
                    let pair = pair.clone();
                    unyield::spawn(move || {
                        drop(pair.1.wait_while(pair.0.lock().unwrap(), |open| !*open).unwrap())
                    })
                })
                .collect();
            unyield::sleep(Duration::from_millis(20));
            *pair.0.lock().unwrap() = true;
            pair.1.notify_all();
            waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
            // round by round
            let barrier = Arc::new(Barrier::new(8));
            let waiters: Vec<_> = (0..8)
                .map(|_| {
                    let barrier = barrier.clone();
                    unyield::spawn(move || (0..10).for_each(|_| _ = barrier.wait()))
                })
                .collect();
            waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
        });
    }
}

/// A holder that needs a carrier gets one, however many wait for its lock.
#[test]
fn the_holder_gets_a_carrier() {
    let runtime = runtime(1, 8);
    let lock = Arc::new(Mutex::new(0));
    let theirs = lock.clone();
    runtime.run(move || {
        let mut count = theirs.lock().unwrap();
        let waiters: Vec<_> = (0..50)
            .map(|_| {
                let lock = theirs.clone();
                unyield::spawn(move || *lock.lock().unwrap() += 1)
            })
            .collect();
        unyield::sleep(Duration::from_millis(50));
        fiber::blocking(|| *count += 1);
        drop(count);
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
    });
    assert_eq!(*lock.lock().unwrap(), 51);
}
