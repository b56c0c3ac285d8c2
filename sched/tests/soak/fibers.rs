//! Kinds made of unyield's own parts: locks, channels, parking, scopes, cancelling, futures.

use crate::kinds::{Cx, HUB, Planned, spin};
use std::cell::Cell;
use std::future::Future;
use std::panic::panic_any;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use unyield::fiber::{self, Builder};
use unyield::sync::{Barrier, Condvar, Mutex, Once, RwLock, Semaphore, WaitGroup, channel, oneshot};

/// The mutex that all tasks want, and one that a few want for longer.
pub fn mutex(cx: &mut Cx) {
    for _ in 0..20 {
        let n = cx.below(100);
        let mut sum = HUB.mutex.lock();
        let before = *sum;
        spin(cx.below(300), n);
        *sum = before + n;
        drop(sum);
        HUB.in_mutex.fetch_add(n, Relaxed);
    }
    let shared = Arc::new(Mutex::new(0u64));
    let fibers: Vec<_> = (0..3)
        .map(|_| {
            let shared = shared.clone();
            unyield::spawn(move || {
                for i in 0..10 {
                    match shared.try_lock_for(Duration::from_micros(if i % 3 == 0 { 10 } else { 30_000_000 }))
                    {
                        Some(mut sum) => {
                            let before = *sum;
                            spin(2000, i);
                            *sum = before + 1;
                        }
                        None => *shared.lock() += 1,
                    }
                }
            })
        })
        .collect();
    fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
    check!(*shared.lock() == 30, "a sum under a mutex");
}

/// A queue of one place, by hand.
pub fn condvar(_: &mut Cx) {
    let place = Arc::new((Mutex::new(None::<u64>), Condvar::new(), Condvar::new()));
    let theirs = place.clone();
    let producer = unyield::spawn(move || {
        for i in 0..20 {
            let mut slot = theirs.0.lock();
            theirs.1.wait_while(&mut slot, |slot| slot.is_some());
            *slot = Some(i);
            theirs.2.notify_one();
        }
    });
    for i in 0..20 {
        let mut slot = place.0.lock();
        while slot.is_none() {
            let result = place.2.wait_for(&mut slot, Duration::from_secs(50));
            check!(!result.timed_out(), "a notification was lost");
        }
        let found = slot.take();
        check!(found == Some(i), "{found:?} instead of {i} under a condition variable");
        place.1.notify_one();
    }
    check!(producer.join().is_ok(), "the producer");
}

/// Reader-writer lock, barrier, once, wait group.
pub fn shared(cx: &mut Cx) {
    for _ in 0..10 {
        if cx.below(4) == 0 {
            let n = cx.below(100);
            let mut sums = HUB.rwlock.write();
            sums.0 += n;
            spin(500, n);
            sums.1 += n;
            HUB.in_rwlock.fetch_add(n, Relaxed);
        } else {
            let sums = HUB.rwlock.read();
            let first = sums.0;
            spin(500, first);
            check!(sums.0 == first && sums.1 == first, "the rwlock beside a reader");
        }
    }
    let parts =
        Arc::new((Barrier::new(3), Once::new(), AtomicU64::new(0), AtomicU64::new(0), RwLock::new(0u64)));
    let group = WaitGroup::new();
    for _ in 0..3 {
        let (parts, member) = (parts.clone(), group.clone());
        drop(unyield::spawn(move || {
            for i in 0..4 {
                spin(1000, i);
                if parts.0.wait().is_leader() {
                    parts.2.fetch_add(1, Relaxed);
                }
                *parts.4.write() += 1;
            }
            parts.1.call_once(|| {
                spin(3000, 1);
                parts.3.fetch_add(1, Relaxed);
            });
            check!(parts.3.load(Relaxed) == 1, "once");
            drop(member);
        }));
    }
    group.wait();
    check!(parts.2.load(Relaxed) == 4 && *parts.4.read() == 12, "barrier and rwlock of three fibers");
}

/// Channels of no, few and unlimited places; many producers and consumers; plain threads at one end now and then.
pub fn channel(cx: &mut Cx) {
    let (sender, receiver) = match cx.below(4) {
        0 => channel::bounded::<u64>(0),
        1 => channel::bounded(1),
        2 => channel::bounded(8),
        _ => channel::unbounded(),
    };
    let native = cx.below(64) == 0;
    let producers: Vec<_> = (0..3)
        .map(|p| {
            let sender = sender.clone();
            let body = move || {
                for i in 0..20 {
                    spin(300, i);
                    sender.send(p * 1000 + i).unwrap();
                }
            };
            if native && p == 0 {
                std::thread::spawn(body);
                None
            } else {
                Some(unyield::spawn(body))
            }
        })
        .collect();
    drop(sender);
    let second = receiver.clone();
    let consumer = unyield::spawn(move || {
        second.iter().inspect(|x| _ = spin(200, *x)).fold((0, 0), |(n, sum), x| (n + 1, sum + x))
    });
    let (mut count, mut total, mut last) = (0, 0, [None::<u64>; 3]);
    for x in receiver.iter() {
        let (producer, i) = ((x / 1000) as usize, x % 1000);
        check!(last[producer].is_none_or(|before| before < i), "order in a channel");
        last[producer] = Some(i);
        count += 1;
        total += x;
    }
    let (n, sum) = consumer.join().unwrap();
    check!(count + n == 60 && total + sum == 3 * 190 + 60_000, "{} messages of 60", count + n);
    producers.into_iter().flatten().for_each(|fiber| fiber.join().unwrap());
}

pub fn oneshot(cx: &mut Cx) {
    for _ in 0..5 {
        let (sender, mut receiver) = oneshot::channel();
        let x = cx.next();
        drop(unyield::spawn(move || {
            spin(x % 2000, x);
            if !x.is_multiple_of(5) {
                _ = sender.send(x);
            }
        }));
        if x.is_multiple_of(3) {
            let found = receiver.recv_timeout(Duration::from_secs(50));
            check!(found.ok() == (!x.is_multiple_of(5)).then_some(x), "oneshot");
        } else {
            check!(receiver.recv().ok() == (!x.is_multiple_of(5)).then_some(x), "oneshot");
        }
    }
}

/// Two permits for four fibers.
pub fn semaphore(_: &mut Cx) {
    let parts = Arc::new((Semaphore::new(2), AtomicU64::new(0)));
    let fibers: Vec<_> = (0..4)
        .map(|_| {
            let parts = parts.clone();
            unyield::spawn(move || {
                for i in 0..8 {
                    let permit = parts.0.access();
                    let inside = parts.1.fetch_add(1, SeqCst) + 1;
                    check!(inside <= 2, "{inside} holders of 2 permits");
                    spin(1000, i);
                    parts.1.fetch_sub(1, SeqCst);
                    drop(permit);
                }
            })
        })
        .collect();
    fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
    check!(parts.0.available_permits() == 2, "permits at the end");
}

/// Two fibers park for each other in turns.
pub fn park(_: &mut Cx) {
    let me = fiber::current().expect("on a fiber");
    let turn = Arc::new(AtomicU64::new(0));
    let theirs = turn.clone();
    let other = unyield::spawn(move || {
        for round in 0..20 {
            while theirs.load(Acquire) != 2 * round + 1 {
                unyield::park();
            }
            theirs.store(2 * round + 2, Release);
            me.unpark();
        }
    });
    for round in 0..20 {
        turn.store(2 * round + 1, Release);
        other.fiber().unpark();
        while turn.load(Acquire) != 2 * round + 2 {
            unyield::park();
        }
        spin(500, round);
    }
    check!(other.join().is_ok(), "the other one that parks");
}

/// Borrowing fibers, nested, one of them with a panic.
pub fn scope(cx: &mut Cx) {
    let mut numbers: Vec<u64> = (0..64).map(|_| cx.below(1000)).collect();
    let wanted: u64 = numbers.iter().map(|n| n + 1).sum();
    unyield::scope(|s| {
        for (i, half) in numbers.chunks_mut(32).enumerate() {
            s.spawn(move || {
                unyield::scope(|inner| {
                    for quarter in half.chunks_mut(16) {
                        inner.spawn(move || {
                            for n in quarter {
                                spin(200, i as u64);
                                *n += 1;
                            }
                        });
                    }
                });
            });
        }
        let failed = s.spawn(|| panic_any(Planned(5))).join().unwrap_err();
        check!(failed.downcast_ref() == Some(&Planned(5)), "a panic in a scope");
    });
    check!(numbers.iter().sum::<u64>() == wanted, "numbers that scoped fibers changed");
}

struct Dropped(Arc<AtomicU64>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// Fibers that are cancelled wherever they wait unwind, and drop what they hold.
pub fn cancel(cx: &mut Cx) {
    let dropped = Arc::new(AtomicU64::new(0));
    let fibers: Vec<_> = (0..4)
        .map(|i| {
            let guard = Dropped(dropped.clone());
            unyield::spawn(move || {
                let _guard = guard;
                let (_sender, receiver) = channel::bounded::<u64>(1);
                match i {
                    0 => unyield::sleep(Duration::from_secs(1000)),
                    1 => drop(receiver.recv()),
                    2 => loop {
                        unyield::park();
                    },
                    _ => loop {
                        spin(1000, 1);
                        unyield::yield_now();
                    },
                }
            })
        })
        .collect();
    spin(cx.below(30_000), 1);
    for fiber in &fibers {
        fiber.fiber().cancel();
    }
    for (i, fiber) in fibers.into_iter().enumerate() {
        let result = fiber.join();
        check!(result.as_ref().is_err_and(|error| error.is_cancelled()), "cancelled fiber {i}: {result:?}");
    }
    check!(dropped.load(SeqCst) == 4, "{} of 4 dropped", dropped.load(SeqCst));
}

unyield::fiber_local! {
    static NUMBER: Cell<u64> = Cell::new(0);
    static TEXT: std::cell::RefCell<String> = std::cell::RefCell::new(String::new());
}

/// Values of the task's own: fresh at its start, its own until its end.
pub fn local(cx: &mut Cx) {
    let x = cx.next() | 1;
    NUMBER.with(|number| number.set(x));
    let other = unyield::spawn(move || {
        let fresh =
            NUMBER.with(|number| number.replace(!x) == 0) && TEXT.with_borrow_mut(|text| text.is_empty());
        for i in 0..20 {
            TEXT.with_borrow_mut(|text| text.push('x'));
            spin(1000, i);
        }
        fresh && NUMBER.with(Cell::get) == !x && TEXT.with_borrow(|text| text.len() == 20)
    });
    spin(20_000, 1);
    check!(NUMBER.with(Cell::get) == x, "a fiber-local value");
    check!(other.join().unwrap(), "another fiber's local values");
}

trait Borrow {
    fn with_borrow<R>(&'static self, f: impl FnOnce(&String) -> R) -> R;
    fn with_borrow_mut<R>(&'static self, f: impl FnOnce(&mut String) -> R) -> R;
}

impl Borrow for fiber::LocalKey<std::cell::RefCell<String>> {
    fn with_borrow<R>(&'static self, f: impl FnOnce(&String) -> R) -> R {
        self.with(|text| f(&text.borrow()))
    }
    fn with_borrow_mut<R>(&'static self, f: impl FnOnce(&mut String) -> R) -> R {
        self.with(|text| f(&mut text.borrow_mut()))
    }
}

/// Ready once it was woken from another fiber or thread.
#[derive(Clone, Default)]
struct Flag(Arc<(AtomicBool, std::sync::Mutex<Option<Waker>>)>);

impl Flag {
    fn raise(&self) {
        self.0.0.store(true, SeqCst);
        let waker = self.0.1.lock().unwrap().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Future for Flag {
    type Output = ();
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        *self.0.1.lock().unwrap() = Some(context.waker().clone());
        if self.0.0.load(SeqCst) { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// `block_on`, with a future of ours and with join handles.
pub fn future(cx: &mut Cx) {
    let (flag, x) = (Flag::default(), cx.next());
    let theirs = flag.clone();
    if x.is_multiple_of(32) {
        std::thread::spawn(move || theirs.raise());
    } else {
        drop(unyield::spawn(move || {
            spin(x % 3000, x);
            theirs.raise();
        }));
    }
    let answer = fiber::block_on(async move {
        flag.await;
        let first = unyield::spawn(move || spin(x % 2000, x));
        let second = unyield::spawn(|| panic_any(Planned(9)));
        let failed = second.await.is_err_and(|error| error.into_panic().downcast_ref() == Some(&Planned(9)));
        (first.await.unwrap(), failed)
    });
    check!(answer == (spin(x % 2000, x), true), "futures");
}

/// A tree of fibers that spawn fibers.
pub fn tree(cx: &mut Cx) {
    fn grow(depth: u32, x: u64) -> u64 {
        if depth == 0 {
            return spin(300, x) & 0xff;
        }
        let left = unyield::spawn(move || grow(depth - 1, x * 2));
        let right = unyield::spawn(move || grow(depth - 1, x * 2 + 1));
        left.join().unwrap() + right.join().unwrap()
    }
    fn serial(depth: u32, x: u64) -> u64 {
        if depth == 0 { spin(300, x) & 0xff } else { serial(depth - 1, x * 2) + serial(depth - 1, x * 2 + 1) }
    }
    let x = cx.below(1 << 40);
    check!(grow(5, x) == serial(5, x), "a sum over a tree of fibers");
}

/// What ends by its deadline: not too early, and as the right kind of end.
pub fn timeouts(cx: &mut Cx) {
    let time = Duration::from_micros(200 + cx.below(2000));
    let waited = |what: &str, f: &mut dyn FnMut()| {
        let start = Instant::now();
        f();
        check!(start.elapsed() >= time, "{what} of {time:?} took {:?}", start.elapsed());
    };
    waited("sleep", &mut || unyield::sleep(time));
    let (sender, receiver) = channel::bounded::<u64>(0);
    waited("recv_timeout", &mut || {
        check!(receiver.recv_timeout(time).is_err_and(|e| e.is_timeout()), "recv_timeout")
    });
    waited("send_timeout", &mut || {
        check!(sender.send_timeout(1, time).is_err_and(|e| e.is_timeout()), "send_timeout")
    });
    let semaphore = Semaphore::new(0);
    waited("acquire_timeout", &mut || check!(!semaphore.acquire_timeout(time), "acquire_timeout"));
    let (lock, condvar) = (Mutex::new(()), Condvar::new());
    waited("wait_for", &mut || check!(condvar.wait_for(&mut lock.lock(), time).timed_out(), "wait_for"));
    waited("park_timeout", &mut || fiber::park_timeout(time));
}

/// Names, and stacks of other sizes.
pub fn builder(cx: &mut Cx) {
    let size = [64usize, 96, 512][cx.below(3) as usize] << 10;
    let name = format!("soak {}", cx.number);
    let theirs = name.clone();
    let fiber = Builder::new().name(name).stack_size(size).spawn(move || {
        spin(5000, 1);
        fiber::current().is_some_and(|fiber| fiber.name() == Some(&theirs))
    });
    check!(fiber.unwrap().join().unwrap(), "the name of a fiber");
}

/// A panic that arrives where the fiber is joined.
pub fn lost_panic(cx: &mut Cx) {
    let x = cx.next();
    let error = unyield::spawn(move || {
        let _held = vec![x; 100];
        spin(x % 2000, x);
        panic_any(Planned(x));
    })
    .join()
    .unwrap_err();
    check!(error.is_panic() && error.into_panic().downcast_ref() == Some(&Planned(x)), "a panic at join");
}
