//! What arrives, where, in which order, with what around it; terms, waits, mailboxes.

use super::*;

#[test]
fn computing_code_is_interrupted() {
    let _alone = alone();
    let count = Arc::new(AtomicU64::new(0));
    let registration = builder().counter(LOW, count.clone()).register().unwrap();
    let sender = registration.sender(LOW);
    let other = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        sender.send().unwrap();
    });
    compute_until(|| count.load(Relaxed) == 1);
    other.join().unwrap();
    assert_eq!(registration.statistics().handled, 1);
}

#[test]
fn the_highest_runs_first_and_each_once() {
    let _alone = alone();
    let seen: Arc<[AtomicUsize; 63]> = Arc::new([const { AtomicUsize::new(usize::MAX) }; 63]);
    let turn = Arc::new(AtomicUsize::new(0));
    let mut builder = builder();
    for number in 0..63 {
        let state = (seen.clone(), turn.clone());
        // SAFETY: the handler touches atomics only.
        unsafe {
            builder.handler(vector(number), state, |(seen, turn), interrupt| {
                seen[turn.fetch_add(1, Relaxed)].store(interrupt.vector().get() as usize, Relaxed);
                assert!(interrupt.frame().is_none(), "at the end of a section");
            })
        };
    }
    let registration = builder.register().unwrap();
    let senders: Vec<_> = (0..63).map(|number| registration.sender(vector(number))).collect();
    critical(|| {
        for sender in senders.iter().chain(&senders) {
            sender.send().unwrap();
        }
        assert_eq!(turn.load(Relaxed), 0, "held back");
    });
    assert_eq!(turn.load(Relaxed), 63, "at the end of the section");
    let order: Vec<_> = seen.iter().map(|vector| vector.load(Relaxed)).collect();
    assert!(order.iter().rev().copied().eq(0..63), "{order:?}");
}

#[test]
fn the_interrupted_place_is_known() {
    let _alone = alone();
    let place = Arc::new(AtomicUsize::new(0));
    let mut builder = builder();
    // SAFETY: one store to an atomic.
    unsafe {
        builder.handler(LOW, place.clone(), |place, interrupt| {
            if let Some(rip) = interrupt.interrupted_at() {
                assert_eq!(interrupt.frame().unwrap().rip as usize, rip);
                place.store(rip, Relaxed);
            }
        });
    }
    let registration = builder.register().unwrap();
    let sender = registration.sender(LOW);
    let other = thread::spawn(move || sender.send().unwrap());
    compute_until(|| place.load(Relaxed) != 0);
    other.join().unwrap();
}

/// A computation whose every bit depends on the rounding and the registers of all that came before.
#[inline(never)]
fn chaos(rounds: usize) -> [u64; 4] {
    let mut x = [0.1f64, 0.2, 0.3, 0.4];
    for _ in 0..rounds {
        for x in &mut x {
            *x = hint::black_box(3.9 * *x * (1.0 - *x));
        }
    }
    x.map(f64::to_bits)
}

#[test]
fn floating_point_state_survives() {
    let _alone = alone();
    let ran = Arc::new(AtomicU64::new(0));
    let mut builder = builder();
    // SAFETY: arithmetic and an atomic.
    unsafe {
        builder.handler(LOW, ran.clone(), |ran, _| {
            hint::black_box(chaos(50)); // overwrites vector registers
            ran.fetch_add(1, Relaxed);
        });
    }
    let registration = builder.register().unwrap();
    let expected = chaos(20_000);
    let stop = Arc::new(AtomicBool::new(false));
    let (sender, stopped) = (registration.sender(LOW), stop.clone());
    let other = thread::spawn(move || {
        while !stopped.load(Relaxed) {
            sender.send().unwrap();
            thread::sleep(Duration::from_micros(20));
        }
    });
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(300) || ran.load(Relaxed) < 100 {
        assert_eq!(chaos(20_000), expected, "after {} interrupts", ran.load(Relaxed));
        assert!(start.elapsed() < PATIENCE);
    }
    stop.store(true, Relaxed);
    other.join().unwrap();
}

#[test]
fn nesting_is_explicit_and_bounded() {
    let _alone = alone();
    for limit in [1, 2, 5] {
        let depth = Arc::new([const { AtomicU64::new(0) }; 2]); // now, most
        let stop = Arc::new(AtomicBool::new(false));
        let mut builder = builder();
        builder.nesting(limit);
        for vector in [LOW, HIGH] {
            // SAFETY: atomics, and spinning for a while.
            unsafe {
                builder.handler(vector, depth.clone(), |depth, interrupt| {
                    let now = depth[0].fetch_add(1, Relaxed) + 1;
                    depth[1].fetch_max(now, Relaxed);
                    interrupt.unmask(|| (0..2000).for_each(|_| hint::spin_loop()));
                    depth[0].fetch_sub(1, Relaxed);
                });
            }
        }
        let registration = builder.register().unwrap();
        let others = [LOW, HIGH].map(|vector| {
            let (sender, stop) = (registration.sender(vector), stop.clone());
            thread::spawn(move || {
                while !stop.load(Relaxed) {
                    sender.send().unwrap();
                }
            })
        });
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(200) {
            hint::spin_loop();
        }
        stop.store(true, Relaxed);
        others.into_iter().for_each(|other| other.join().unwrap());
        let most = depth[1].load(Relaxed) as u32;
        assert_eq!(most, registration.statistics().deepest);
        assert!(most <= limit && (limit == 1 || most > 1), "{most} deep with a limit of {limit}");
    }
}

#[test]
fn terms_hold() {
    let _alone = alone();
    let registration = builder().register().unwrap();
    let (sender, grant) = registration.grant(LOW);
    let clone = sender.clone();
    grant.limit(Duration::from_millis(50), 3);
    let start = Instant::now();
    let mut sent = 0;
    while start.elapsed() < Duration::from_millis(300) {
        match [&sender, &clone][sent % 2].send() {
            Ok(()) => sent += 1,
            Err(error) => assert_eq!(error, SendError::RateLimited),
        }
    }
    assert!((4..=9).contains(&sent), "{sent} sends: 3 at once, and one each 50 ms of 300");
    grant.limit(Duration::ZERO, 1);
    (0..100).for_each(|_| clone.send().unwrap());
    grant.revoke();
    assert_eq!([sender.send(), clone.send()], [Err(SendError::Revoked); 2]);
    let (other, grant) = registration.grant(LOW);
    drop(grant);
    other.send().unwrap();
    drop(registration);
    assert_eq!(other.send(), Err(SendError::Gone));
    fn is_clone_send_sync<T: Clone + Send + Sync>(_: &T) {}
    is_clone_send_sync(&other);
}

#[test]
fn one_registration_a_thread() {
    let _alone = alone();
    let registration = builder().register().unwrap();
    assert_eq!(builder().register().unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    drop(registration);
    let inside = critical(|| builder().register().map(drop));
    assert_eq!(inside.unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    drop(builder().register().unwrap());
}

#[test]
fn state_is_dropped_with_the_registration() {
    let _alone = alone();
    struct Sets(Arc<AtomicBool>);
    impl Drop for Sets {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }
    let dropped = Arc::new(AtomicBool::new(false));
    let mut builder = builder();
    // SAFETY: does nothing.
    unsafe { builder.handler(LOW, Sets(dropped.clone()), |_, _| {}) };
    let registration = builder.register().unwrap();
    let sender = registration.sender(LOW);
    drop(builder);
    assert!(!dropped.load(Relaxed));
    drop(registration);
    assert!(dropped.load(Relaxed), "while a sender lives");
    drop(sender);
}

#[test]
fn senders_outlive_registrations_that_come_and_go() {
    let _alone = alone();
    let current = Mutex::new(None);
    let stop = AtomicBool::new(false);
    let sent = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    let sender: Option<Sender> = current.lock().unwrap().clone();
                    if let Some(sender) = sender {
                        while sender.send().is_ok() {
                            sent.fetch_add(1, Relaxed);
                        }
                    }
                }
            });
        }
        for _ in 0..300 {
            let count = Arc::new(AtomicU64::new(0));
            let registration = builder().counter(LOW, count.clone()).register().unwrap();
            *current.lock().unwrap() = Some(registration.sender(LOW));
            compute_until(|| count.load(Relaxed) > 0);
        }
        stop.store(true, Relaxed);
    });
    assert!(sent.load(Relaxed) >= 300);
}

/// Delivery that is refused now must not depend on somebody who sends again later.
#[test]
fn what_the_mask_refused_comes_later() {
    let _alone = alone();
    let count = Arc::new(AtomicU64::new(0));
    let registration = builder().counter(LOW, count.clone()).register().unwrap();
    // SAFETY: the thread's own mask, by libc.
    let change = |how| unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&mut set, libc::SIGUSR1);
        libc::pthread_sigmask(how, &set, std::ptr::null_mut());
    };
    change(libc::SIG_BLOCK);
    registration.sender(LOW).send().unwrap();
    thread::sleep(Duration::from_millis(5));
    if registration.mechanism() == Mechanism::Signal {
        assert_eq!(count.load(Relaxed), 0, "another mask than at the start");
    }
    change(libc::SIG_UNBLOCK);
    compute_until(|| count.load(Relaxed) == 1);
}

static FROM_SIGNAL: Mutex<Option<Sender>> = Mutex::new(None);
static FROM_SIGNAL_POINTER: AtomicUsize = AtomicUsize::new(0);

extern "C" fn send_from_signal(_: i32) {
    // SAFETY: the test keeps the sender where it is while the handler is installed.
    let sender = unsafe { &*(FROM_SIGNAL_POINTER.load(Acquire) as *const Sender) };
    sender.send().unwrap();
}

#[test]
fn signal_handlers_may_send() {
    let _alone = alone();
    let count = Arc::new(AtomicU64::new(0));
    let registration = builder().counter(LOW, count.clone()).register().unwrap();
    let kept = FROM_SIGNAL.lock().unwrap().insert(registration.sender(LOW)) as *const _ as usize;
    FROM_SIGNAL_POINTER.store(kept, Release);
    // SAFETY: installs a handler that is async-signal-safe, and raises its signal.
    unsafe {
        libc::signal(libc::SIGUSR2, send_from_signal as *const () as usize);
        libc::raise(libc::SIGUSR2);
    }
    compute_until(|| count.load(Relaxed) == 1); // refused inside the handler, whose mask is another
    // SAFETY: takes the handler away again.
    unsafe { libc::signal(libc::SIGUSR2, libc::SIG_DFL) };
}

#[test]
fn wait_notices_conditions_and_ends_in_time() {
    let _alone = alone();
    let count = Arc::new(AtomicU64::new(0));
    let registration = builder().counter(LOW, count.clone()).register().unwrap();
    let sender = registration.sender(LOW);
    // Sent by the condition itself, after it has looked: between look and sleep.
    let mut looks = 0;
    assert!(registration.wait_until(Some(PATIENCE), || {
        looks += 1;
        let seen = count.load(Relaxed) > 0;
        if !seen {
            sender.send().unwrap();
        }
        seen
    }));
    assert_eq!(looks, 2);
    let start = Instant::now();
    assert!(!registration.wait_until(Some(Duration::from_millis(30)), || false));
    assert!((Duration::from_millis(30)..PATIENCE).contains(&start.elapsed()));
}

#[test]
fn mail_can_be_read_inside_the_interrupt() {
    let _alone = alone();
    let sum = Arc::new(AtomicU64::new(0));
    let mut builder = builder();
    // SAFETY: touches an atomic.
    let route = unsafe {
        builder.mail_handler(LOW, 2, sum.clone(), |sum, _, letter| _ = sum.fetch_add(letter.message, Relaxed))
    };
    let registration = builder.register().unwrap();
    let first = registration.mail_sender(&route).unwrap();
    let second = first.another().unwrap();
    let others = [first, second].map(|sender| thread::spawn(move || sender.send(21).unwrap()));
    compute_until(|| sum.load(Relaxed) == 42);
    others.into_iter().for_each(|other| other.join().unwrap());
}

#[test]
fn a_handlers_stack_that_leaves_nothing_is_refused() {
    let _alone = alone();
    for bytes in [4 << 30, usize::MAX, usize::MAX - 4096] {
        let error = Builder::new().handler_stack(bytes).register().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{error}");
    }
    drop(Builder::new().register().unwrap());
}

#[test]
fn a_new_limit_forgives_what_the_old_one_charged() {
    let _alone = alone();
    let registration = Builder::new().register().unwrap();
    let (sender, grant) = registration.grant(Vector::LOWEST);
    grant.limit(Duration::from_secs(3600), 2);
    sender.send().unwrap();
    sender.send().unwrap();
    assert_eq!(sender.send(), Err(SendError::RateLimited));
    grant.limit(Duration::from_millis(1), 1);
    sender.send().unwrap();
}

/// std takes a thread's alternate stack away before the destructors of its thread-local values run: what was there before is gone by then.
#[test]
fn a_guard_that_is_dropped_as_the_thread_ends() {
    let _alone = alone();
    thread_local! {
        static KEPT: std::cell::RefCell<Option<unyield_preempt::endpoint::Registration>> = const { std::cell::RefCell::new(None) };
    }
    struct Late;
    impl Drop for Late {
        fn drop(&mut self) {
            // SAFETY: only reads the current setting.
            unsafe {
                let mut stack: libc::stack_t = std::mem::zeroed();
                assert_eq!(libc::sigaltstack(std::ptr::null(), &mut stack), 0);
                assert_ne!(stack.ss_flags & libc::SS_DISABLE, 0, "an alternate stack that is unmapped");
            }
        }
    }
    thread_local! {
        static LATE: Late = const { Late };
    }
    std::thread::spawn(|| {
        LATE.with(|_| ()); // made first, dropped last
        KEPT.with(|kept| *kept.borrow_mut() = Some(Builder::new().register().unwrap()));
    })
    .join()
    .unwrap();
}
