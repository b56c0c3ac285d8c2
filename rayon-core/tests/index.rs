//! `current_thread_index` as programs use it that index buffers without locks.

use rayon_core::{ThreadPool, ThreadPoolBuilder, current_thread_index, join, scope, yield_now};
use std::cell::UnsafeCell;
use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

fn pool(threads: usize) -> ThreadPool {
    ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

fn index() -> usize {
    current_thread_index().expect("in a pool")
}

/// One place for each thread, used without locks.
struct PerThread<T> {
    places: Vec<UnsafeCell<T>>,
    busy: Vec<AtomicBool>,
}

// SAFETY: what is to be shown: `with` is exclusive for an index.
unsafe impl<T: Send> Sync for PerThread<T> {}

impl<T> PerThread<T> {
    fn new(n: usize, make: impl Fn() -> T) -> Self {
        PerThread {
            places: (0..n).map(|_| UnsafeCell::new(make())).collect(),
            busy: (0..n).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        let mine = index();
        assert!(!self.busy[mine].swap(true, Relaxed), "index {mine} is somebody else's too");
        // SAFETY: nobody else has the index.
        let result = f(unsafe { &mut *self.places[mine].get() });
        self.busy[mine].store(false, Relaxed);
        assert_eq!(index(), mine);
        result
    }

    fn into_inner(self) -> impl Iterator<Item = T> {
        self.places.into_iter().map(UnsafeCell::into_inner)
    }
}

fn compute(steps: u64) -> u64 {
    (0..steps).fold(1, |sum, step| std::hint::black_box(sum ^ step).wrapping_mul(31))
}

#[test]
fn buffers_by_index_are_not_shared_when_fibers_are_preempted() {
    for threads in [1, 2, 4] {
        let pool = pool(threads);
        let sums = PerThread::new(threads, || 0u64);
        // Longer than a quantum now and then, so that fibers are preempted inside.
        pool.scope(|s| {
            for i in 0..400u64 {
                let sums = &sums;
                s.spawn(move |_| {
                    sums.with(|sum| {
                        let before = *sum;
                        compute(if i % 20 == 0 { 2_000_000 } else { 2_000 });
                        assert_eq!(*sum, before);
                        *sum = before + i;
                    })
                });
            }
        });
        assert_eq!(sums.into_inner().sum::<u64>(), (0..400).sum());
    }
}

#[test]
fn buffers_by_index_in_trees_of_joins() {
    fn tree(levels: u32, counts: &PerThread<u64>) {
        counts.with(|count| {
            let before = *count;
            compute(500);
            *count = before + 1;
        });
        if levels > 0 {
            let before = index();
            join(|| tree(levels - 1, counts), || tree(levels - 1, counts));
            assert_eq!(index(), before, "the same afterwards");
        }
    }
    for threads in [1, 2, 4] {
        let pool = pool(threads);
        let counts = PerThread::new(threads, || 0);
        pool.install(|| tree(11, &counts));
        assert_eq!(counts.into_inner().sum::<u64>(), (1 << 12) - 1);
    }
}

#[test]
fn the_order_of_a_stack_is_kept_across_waits() {
    // What a job pushes to its thread's stack before it waits is on top again afterwards, as if everything in between had run on top.
    fn nest(levels: u32, id: &AtomicUsize, stacks: &PerThread<Vec<usize>>) {
        let mine = id.fetch_add(1, Relaxed);
        stacks.with(|stack| stack.push(mine));
        match (levels, levels % 3) {
            (0, _) => assert_ne!(compute(3_000), 0),
            (_, 0) => scope(|s| {
                for _ in 0..2 {
                    s.spawn(|_| nest(levels - 1, id, stacks));
                }
            }),
            (_, 1) => {
                join(|| nest(levels - 1, id, stacks), || nest(levels - 1, id, stacks));
            }
            _ => {
                yield_now();
                nest(levels - 1, id, stacks);
            }
        }
        assert_eq!(stacks.with(Vec::pop), Some(mine));
    }
    for threads in [1, 2, 4] {
        let pool = pool(threads);
        let stacks = PerThread::new(threads, Vec::new);
        assert_eq!(pool.current_thread_index(), None, "and from now on indices are used in it");
        let id = AtomicUsize::new(0);
        pool.scope(|s| {
            for _ in 0..20 {
                s.spawn(|_| nest(7, &id, &stacks));
            }
        });
        assert!(stacks.into_inner().all(|stack| stack.is_empty()));
    }
}

#[test]
fn an_index_is_lent_while_its_fiber_waits() {
    // One index, and at each level somebody who waits for the next: scope, join, install by way of another pool, broadcast, yield.
    let (one, other) = (pool(1), pool(1));
    one.install(|| {
        assert_eq!(index(), 0);
        scope(|s| s.spawn(|_| assert_eq!(index(), 0)));
        other.install(|| {
            assert_eq!(index(), 0);
            one.install(|| assert_eq!(index(), 0));
        });
        assert_eq!(one.broadcast(|context| (context.index(), index())), [(0, 0)]);
        let ran = AtomicBool::new(false);
        scope(|s| {
            s.spawn(|_| {
                index();
                ran.store(true, Relaxed);
            });
            while !ran.load(Relaxed) {
                yield_now();
            }
        });
    });
}

#[test]
fn a_blocked_fiber_keeps_its_index() {
    let pool = pool(2);
    let (held, together) = (Mutex::new(HashSet::new()), AtomicUsize::new(0));
    pool.scope(|s| {
        for _ in 0..20 {
            s.spawn(|_| {
                let mine = index();
                assert!(held.lock().unwrap().insert(mine), "somebody sleeps with it");
                together.fetch_max(held.lock().unwrap().len(), Relaxed);
                std::thread::sleep(Duration::from_millis(2));
                held.lock().unwrap().remove(&mine);
            });
        }
    });
    assert!(together.into_inner() <= 2);
}

#[test]
fn many_jobs_wait_for_an_index_without_a_fiber_each() {
    let pool = pool(2);
    assert_eq!(pool.current_thread_index(), None);
    let sum = AtomicUsize::new(0);
    pool.scope(|s| {
        for i in 0..20_000 {
            let sum = &sum;
            s.spawn(move |_| {
                sum.fetch_add(i, Relaxed);
            });
        }
    });
    assert_eq!(sum.into_inner(), (0..20_000).sum());
}

#[test]
fn broadcasts_have_their_index_to_themselves_and_come_in_order() {
    for threads in [1, 3] {
        let pool = pool(threads);
        let seen = PerThread::new(threads, Vec::new);
        for round in 0..50 {
            pool.broadcast(|context| {
                assert_eq!((context.index(), context.num_threads()), (index(), threads));
                seen.with(|seen| seen.push(round));
            });
        }
        assert!(seen.into_inner().all(|seen| seen == (0..50).collect::<Vec<_>>()));
    }
}

#[test]
fn handlers_know_which_thread_they_are_on() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let ends = sender.clone();
    let pool = ThreadPoolBuilder::new()
        .num_threads(3)
        .start_handler(move |i| sender.send((i, current_thread_index())).unwrap())
        .exit_handler(move |i| ends.send((i, current_thread_index())).unwrap())
        .build()
        .unwrap();
    drop(pool);
    let mut told: Vec<_> = receiver.iter().collect();
    told.sort();
    assert_eq!(told, [0, 0, 1, 1, 2, 2].map(|i| (i, Some(i))));
}

#[test]
fn fibers_that_ask_in_their_middle_get_an_index_without_deadlock() {
    // Each pool is new, so that its fibers begin without indices: they wait here and there, spawn, and ask at random.
    fn work(seed: u64, levels: u32, asked: &AtomicUsize) {
        let choice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60;
        if choice & 1 != 0 {
            asked.fetch_add(1, Relaxed);
            let mine = index();
            compute(300);
            assert_eq!(index(), mine);
        }
        if levels > 0 {
            let child = |i: u64| work(seed.wrapping_mul(31).wrapping_add(i), levels - 1, asked);
            match choice >> 1 {
                0..=2 => drop(join(|| child(1), || child(2))),
                3..=5 => scope(|s| {
                    s.spawn(|_| child(3));
                    if choice & 1 == 0 {
                        index();
                    }
                    s.spawn(|_| child(4));
                    yield_now();
                    child(5);
                }),
                6 => {
                    rayon_core::broadcast(|_| compute(10));
                    child(6);
                }
                _ => scope(|s| (0..3).for_each(|i| s.spawn(move |_| child(7 + i)))),
            }
        }
        if choice & 2 != 0 {
            index();
        }
    }
    let asked = AtomicUsize::new(0);
    for round in 0..60 {
        let pool = pool(1 + round % 4);
        pool.scope(|s| {
            for i in 0..6 {
                let asked = &asked;
                s.spawn(move |_| work(round as u64 * 1_000 + i, 6, asked));
            }
        });
    }
    assert!(asked.into_inner() > 1_000);
}
