//! Nothing is lost, and nobody starves.

use super::*;
use std::sync::{Barrier, OnceLock};

/// Two senders, each waits for the answer of its own vector before it sends again: whatever is lost stops it.
#[test]
fn no_vector_is_lost() {
    let _alone = alone();
    let answers: Arc<[AtomicU64; 2]> = Arc::default();
    let mut builder = builder();
    for (i, vector) in [LOW, HIGH].into_iter().enumerate() {
        // SAFETY: touches an atomic.
        unsafe {
            builder.handler(vector, answers.clone(), move |answers, _| _ = answers[i].fetch_add(1, AcqRel))
        };
    }
    let registration = builder.register().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let others: Vec<_> = (0..2)
        .map(|i| {
            let (sender, answers, stop) =
                (registration.sender([LOW, HIGH][i]), answers.clone(), stop.clone());
            thread::spawn(move || {
                let mut sent = 0;
                while !stop.load(Relaxed) {
                    let before = answers[i].load(Acquire);
                    sender.send().unwrap();
                    sent += 1;
                    let start = Instant::now();
                    while answers[i].load(Acquire) == before {
                        hint::spin_loop();
                        if start.elapsed() > PATIENCE {
                            stop.store(true, Relaxed);
                            panic!("lost: send {sent} of vector {i}");
                        }
                    }
                }
            })
        })
        .collect();
    let start = Instant::now();
    let mut rounds = 0u64;
    while start.elapsed() < seconds("UNYIELD_STRESS_SECONDS", 2.0) && !stop.load(Relaxed) {
        rounds += 1;
        match rounds % 4 {
            0 => _ = registration.wait(Some(Duration::from_micros(50))),
            1 => critical(|| (0..20).for_each(|_| hint::spin_loop())),
            _ => (0..rounds % 500).for_each(|_| hint::spin_loop()),
        }
    }
    // Goes on delivering until both have had their answer.
    stop.store(true, Relaxed);
    compute_until(|| others.iter().all(|other| other.is_finished()));
    for other in others {
        other.join().unwrap();
    }
}

/// One send, one wait, one answer, and again, at every offset between the two: a wake-up that is lost ends it.
#[test]
fn no_wake_up_is_lost() {
    let _alone = alone();
    let registration = builder().register().unwrap();
    let sender = registration.sender(LOW);
    let (turn, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (turn_there, stop_there) = (turn.clone(), stop.clone());
    let other = thread::spawn(move || {
        let mut last = 0;
        while !stop_there.load(Relaxed) {
            let now = turn_there.load(Acquire);
            if now != last {
                last = now;
                (0..now % 300).for_each(|_| hint::spin_loop());
                sender.send().unwrap();
            }
        }
    });
    let start = Instant::now();
    let mut rounds = 0u64;
    while start.elapsed() < seconds("UNYIELD_STRESS_SECONDS", 2.0) {
        rounds += 1;
        turn.store(rounds, Release);
        (0..rounds % 211).for_each(|_| hint::spin_loop());
        assert!(registration.wait(Some(PATIENCE)), "lost: wake-up {rounds}");
    }
    stop.store(true, Relaxed);
    other.join().unwrap();
    println!("{rounds} wake-ups");
}

#[test]
fn mail_arrives_once_from_whom_it_says() {
    let _alone = alone();
    const SENDERS: usize = 5;
    const LETTERS: u64 = 3000;
    let mut builder = builder();
    let mailbox = builder.mailbox(vector(9), SENDERS);
    let registration = builder.register().unwrap();
    let senders: Vec<_> = (0..SENDERS).map(|_| registration.mail_sender(mailbox.route()).unwrap()).collect();
    let ids: Vec<_> = senders.iter().map(|sender| sender.id()).collect();
    let others: Vec<_> = senders
        .into_iter()
        .enumerate()
        .map(|(i, sender)| {
            thread::spawn(move || {
                for letter in 0..LETTERS {
                    while let Err(error) = sender.send((i as u64) << 32 | letter) {
                        assert_eq!(error, MailError::Full);
                        thread::yield_now();
                    }
                }
            })
        })
        .collect();
    let mut next = [0; SENDERS];
    let mut total = 0;
    while total < SENDERS as u64 * LETTERS {
        assert!(registration.wait(Some(PATIENCE)), "{total} letters, then none");
        while let Some(letter) = mailbox.take() {
            let i = (letter.message >> 32) as usize;
            assert_eq!(ids[i], letter.from);
            assert_eq!(letter.message & 0xffff_ffff, next[i], "in order, none twice");
            next[i] += 1;
            total += 1;
        }
    }
    others.into_iter().for_each(|other| other.join().unwrap());
}

/// Nanoseconds of CPU that the calling thread has had.
fn cpu_time() -> u64 {
    // SAFETY: writes to a local.
    unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time);
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    }
}

/// Rounds of ordinary code: in a second of time, and in a second of CPU.
fn throughput(duration: Duration) -> (f64, f64) {
    let (start, cpu) = (Instant::now(), cpu_time());
    let (mut rounds, mut state) = (0u64, 1u64);
    while start.elapsed() < duration {
        for _ in 0..2000 {
            state = hint::black_box(state.wrapping_mul(6364136223846793005).wrapping_add(1));
        }
        rounds += 1;
    }
    (rounds as f64 / start.elapsed().as_secs_f64(), rounds as f64 * 1e9 / (cpu_time() - cpu) as f64)
}

/// Two threads send without a pause. The receiver's ordinary code goes on at 30 % at least, and its stack does not grow.
#[test]
fn storm() {
    let _alone = alone();
    let duration = seconds("UNYIELD_STORM_SECONDS", 1.0);
    // Lowest and highest stack address of the sub-handlers, and how often they ran.
    let stack = Arc::new((AtomicUsize::new(usize::MAX), AtomicUsize::new(0), AtomicU64::new(0)));
    let mut builder = builder();
    for number in [3, 7] {
        // SAFETY: atomics only.
        unsafe {
            builder.handler(vector(number), stack.clone(), |stack, _| {
                let (lowest, highest, ran) = &**stack;
                let here = 0u8;
                lowest.fetch_min(&raw const here as usize, Relaxed);
                highest.fetch_max(&raw const here as usize, Relaxed);
                ran.fetch_add(1, Relaxed);
            });
        }
    }
    let registration = builder.register().unwrap();
    let alone = throughput(duration / 5);
    let mode = Arc::new(AtomicUsize::new(0)); // 0 spin, 1 send, 2 end
    let begin = Arc::new(Barrier::new(3));
    let others = [3, 7].map(|number| {
        let (sender, mode, begin) = (registration.sender(vector(number)), mode.clone(), begin.clone());
        thread::spawn(move || {
            begin.wait();
            let mut sends = 0u64;
            loop {
                match mode.load(Relaxed) {
                    0 => (0..100).for_each(|_| hint::spin_loop()),
                    1 => {
                        sender.send().unwrap();
                        sends += 1;
                    }
                    _ => return sends,
                }
            }
        })
    });
    begin.wait();
    let beside = throughput(duration / 5);
    let before = registration.statistics();
    mode.store(1, Relaxed);
    let storm = throughput(duration);
    let after = registration.statistics();
    mode.store(2, Relaxed);
    let sends: u64 = others.map(|other| other.join().unwrap()).iter().sum();
    let share = |of: f64, all: f64| 100.0 * of / all;
    println!(
        "storm of {duration:?}: {sends} sends, {} interrupts, {} sub-handlers, {} pauses; ordinary code: {:.0} % of alone, {:.0} % of beside two \
         threads that compute, {:.0} % for each second of CPU; {} deep, stack moved by {} bytes",
        after.interrupts - before.interrupts,
        after.handled - before.handled,
        after.pauses - before.pauses,
        share(storm.0, alone.0),
        share(storm.0, beside.0),
        share(storm.1, beside.1),
        after.deepest,
        stack.1.load(Relaxed) - stack.0.load(Relaxed),
    );
    assert!(after.handled - before.handled > 100, "and the storm is heard");
    assert!(after.deepest <= 2, "{} deep", after.deepest);
    assert!(share(storm.1, beside.1) >= 30.0, "of its own CPU time");
    // By the clock only where somebody has asked for figures, who will have seen to it that nothing else runs.
    if duration >= Duration::from_secs(10) {
        assert!(share(storm.0, alone.0) >= 30.0, "of its throughput alone");
    }
    // What was sent last comes.
    let ran = stack.2.load(Relaxed);
    registration.sender(vector(3)).send().unwrap();
    compute_until(|| stack.2.load(Relaxed) > ran);
}

/// The densest storm there is: a sub-handler that sends to itself.
#[test]
fn a_storm_that_never_pauses_starves_nobody() {
    let _alone = alone();
    let state: Arc<(OnceLock<Sender>, AtomicU64)> = Arc::default();
    let mut builder = builder();
    // SAFETY: spins a while and sends.
    unsafe {
        builder.handler(LOW, state.clone(), |state, _| {
            (0..100).for_each(|_| hint::spin_loop());
            state.1.fetch_add(1, Relaxed);
            state.0.get().unwrap().send().unwrap();
        });
    }
    let registration = builder.register().unwrap();
    let before = throughput(Duration::from_millis(200));
    state.0.set(registration.sender(LOW)).unwrap();
    state.0.get().unwrap().send().unwrap();
    let beside = throughput(Duration::from_millis(500));
    // Nor a wait.
    let start = Instant::now();
    (0..100).for_each(|_| assert!(registration.wait(Some(PATIENCE))));
    assert!(start.elapsed() < PATIENCE);
    let share = 100.0 * beside.1 / before.1;
    println!(
        "ordinary code: {share:.0} %, {} sub-handlers, {:?}",
        state.1.load(Relaxed),
        registration.statistics()
    );
    assert!(share >= 50.0, "{share:.0} % of the thread's CPU time are left to ordinary code");
    assert_eq!(registration.statistics().deepest, 1);
}
