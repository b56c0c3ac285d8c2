//! What the drop-in for rayon's core uses of the crate's insides.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::time::Duration;
use unyield::preempt::Stealing;
use unyield::raw::{Latch, Rules, WorkerBody, build_on, join_context_by, worker_index};
use unyield::runtime::{BuildError, Builder};
use unyield::{Runtime, sync};

thread_local! {
    static WAITS: Cell<(u32, u32)> = const { Cell::new((0, 0)) };
}

struct Counting;

// SAFETY: they count.
unsafe impl Rules for Counting {
    const RUN_BOTH: bool = true;
    fn before_wait() {
        WAITS.with(|waits| waits.set((waits.get().0 + 1, waits.get().1)));
    }
    fn after_wait() {
        WAITS.with(|waits| waits.set((waits.get().0, waits.get().1 + 1)));
    }
}

fn runtimes() -> impl Iterator<Item = Runtime> {
    let settings: [fn(Builder) -> Builder; 3] =
        [|b| b.workers(1), |b| b.workers(2), |b| b.workers(2).stealing(Stealing::Eager)];
    settings.into_iter().map(|set| set(Runtime::builder()).build().unwrap())
}

#[test]
fn both_halves_run_whatever_panics() {
    for runtime in runtimes() {
        runtime.run(|| {
            for second_panics in [false, true] {
                for _ in 0..100 {
                    let ran = AtomicUsize::new(0);
                    let result = catch_unwind(AssertUnwindSafe(|| {
                        join_context_by::<Counting, _, _, _, _>(
                            |_| {
                                std::hint::black_box((0..100).map(std::hint::black_box).sum::<u32>());
                                std::panic::resume_unwind(Box::new("first"))
                            },
                            |_| {
                                assert!(!std::thread::panicking());
                                ran.fetch_add(1, Relaxed);
                                if second_panics {
                                    std::panic::resume_unwind(Box::new("second"));
                                }
                            },
                        )
                    }));
                    let payload = result.map(|((), ())| ()).unwrap_err();
                    assert_eq!(payload.downcast_ref(), Some(&"first"));
                    assert_eq!(ran.into_inner(), 1);
                }
            }
        });
    }
}

#[test]
fn a_wait_for_a_stolen_half_is_told_before_and_after() {
    let runtime = Runtime::builder().workers(2).build().unwrap();
    let waits = runtime.run(|| {
        WAITS.with(|waits| waits.set((0, 0)));
        let (stolen, go) = (AtomicBool::new(false), AtomicBool::new(false));
        join_context_by::<Counting, _, _, _, _>(
            |_| {
                while !stolen.load(Relaxed) {
                    std::hint::spin_loop();
                }
                go.store(true, Relaxed);
            },
            |context| {
                assert!(context.migrated());
                stolen.store(true, Relaxed);
                while !go.load(Relaxed) {
                    std::hint::spin_loop();
                }
                unyield::sleep(Duration::from_millis(5));
            },
        );
        WAITS.with(Cell::get)
    });
    assert_eq!(waits, (1, 1));
}

#[test]
fn workers_run_on_threads_of_somebody_else() {
    let mut threads = Vec::new();
    let (late, waits) = channel::<()>();
    let mut waits = Some(waits);
    let runtime = build_on(Runtime::builder().workers(3), |body: WorkerBody| {
        // The first one comes late: building does not wait for it.
        let wait = waits.take();
        threads.push(std::thread::spawn(move || {
            if let Some(late) = wait {
                assert_eq!(body.index(), 0);
                late.recv().unwrap();
            }
            let before = signal_mask();
            body.run().unwrap();
            assert_eq!(before, signal_mask());
            assert!(worker_index().is_none() && unyield::fiber::current().is_none());
        }));
        Ok(())
    })
    .unwrap();
    let sum = || (0..100).map(|i| unyield::spawn(move || i)).map(|fiber| fiber.join().unwrap()).sum::<u64>();
    assert_eq!(runtime.run(sum), 4950);
    late.send(()).unwrap();
    for _ in 0..100 {
        assert_eq!(runtime.run(sum), 4950);
        assert!(runtime.run(worker_index).is_some());
    }
    drop(runtime);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

fn signal_mask() -> Vec<u8> {
    // SAFETY: reads the thread's mask into a set on the stack, which is plain data.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &mut set);
        std::slice::from_raw_parts((&raw const set).cast(), 8).to_vec()
    }
}

#[test]
fn a_spawner_that_fails_ends_those_that_it_has_made() {
    let mut threads = Vec::new();
    let result = build_on(Runtime::builder().workers(3), |body| {
        if body.index() == 2 {
            return Err(std::io::Error::other("no more"));
        }
        threads.push(std::thread::spawn(move || body.run().unwrap()));
        Ok(())
    });
    assert!(matches!(result, Err(BuildError::Io(error)) if error.to_string() == "no more"));
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_body_that_is_not_run_is_a_worker_less() {
    let mut threads = Vec::new();
    let runtime = build_on(Runtime::builder().workers(2), |body| {
        if body.index() == 1 {
            threads.push(std::thread::spawn(move || body.run().unwrap()));
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(runtime.run(|| 1), 1);
    drop(runtime);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_latch_is_waited_for_on_fibers_and_threads_and_no_cancel_ends_it() {
    let runtime = Runtime::builder().workers(2).build().unwrap();
    for _ in 0..100 {
        let latch = Arc::new(Latch::new());
        latch.wait(); // nothing to wait for
        (0..3).for_each(|_| latch.begin());
        let enders: Vec<_> = (0..3)
            .map(|_| {
                let latch = latch.clone();
                runtime.spawn(move || {
                    unyield::yield_now();
                    latch.end();
                })
            })
            .collect();
        latch.wait();
        enders.into_iter().for_each(|ender| ender.join().unwrap());
    }
    let latch = Arc::new(Latch::new());
    latch.begin();
    let (waiting, waited) = (Arc::new(sync::Semaphore::new(0)), Arc::new(AtomicBool::new(false)));
    let fiber = runtime.spawn({
        let (latch, waiting, waited) = (latch.clone(), waiting.clone(), waited.clone());
        move || {
            waiting.release();
            latch.wait();
            waited.store(true, Relaxed);
        }
    });
    waiting.acquire();
    fiber.fiber().cancel();
    std::thread::sleep(Duration::from_millis(10));
    assert!(!waited.load(Relaxed) && !fiber.is_finished());
    latch.end();
    drop(fiber.join());
    assert!(waited.load(Relaxed));
}
