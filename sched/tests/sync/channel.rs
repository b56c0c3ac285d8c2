use std::sync::Arc;
use std::sync::Mutex as StdMutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use unyield::sync::channel::{
    Receiver, RecvError, RecvTimeoutError, SendError, SendTimeoutError, Sender, TryRecvError, TrySendError,
    bounded, unbounded,
};

use crate::support::{Counted, Crew, in_order, let_it_wait, until};

crate::in_all_worlds!(
    ping_pong
    many_to_many_0
    many_to_many_1
    many_to_many_7
    many_to_many_unbounded
    timeouts_neither_lose_nor_double_a_value
    receivers_that_go_give_values_back
    senders_that_go_end_receiving
    the_last_receiver_drops_what_is_left
    rendezvous_meets
    receivers_are_served_in_order
    senders_are_served_in_order
    sizes_are_told
    iterators_end
    values_of_all_sizes
);

fn channel<T>(capacity: Option<usize>) -> (Sender<T>, Receiver<T>) {
    capacity.map_or_else(unbounded, bounded)
}

const ALL: [Option<usize>; 4] = [Some(0), Some(1), Some(7), None];

fn ping_pong(crew: &Crew) {
    for capacity in ALL {
        let ((there, here), (back, home)) = (channel(capacity), channel(capacity));
        crew.spawn(move || {
            for i in here {
                back.send(i + 1).unwrap();
            }
        });
        crew.spawn(move || {
            for i in 0..10_000 {
                there.send(i).unwrap();
                assert_eq!(home.recv(), Ok(i + 1));
            }
        });
        crew.join();
    }
}

/// Three senders, three receivers: all arrive, once, and those of one sender in order.
fn many_to_many(crew: &Crew, capacity: Option<usize>) {
    const EACH: usize = 10_000;
    let (sender, receiver) = channel::<(usize, usize)>(capacity);
    let seen: Arc<Vec<AtomicUsize>> = Arc::new((0..3 * EACH).map(|_| AtomicUsize::new(0)).collect());
    for from in 0..3 {
        let sender = sender.clone();
        crew.spawn(move || (0..EACH).for_each(|i| sender.send((from, i)).unwrap()));
        let (receiver, seen) = (receiver.clone(), Arc::clone(&seen));
        crew.spawn(move || {
            let mut last = [None; 3];
            for (from, i) in receiver {
                assert!(last[from] < Some(i), "out of order");
                last[from] = Some(i);
                seen[from * EACH + i].fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    drop((sender, receiver));
    crew.join();
    assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) == 1));
}

fn many_to_many_0(crew: &Crew) {
    many_to_many(crew, Some(0));
}

fn many_to_many_1(crew: &Crew) {
    many_to_many(crew, Some(1));
}

fn many_to_many_7(crew: &Crew) {
    many_to_many(crew, Some(7));
}

fn many_to_many_unbounded(crew: &Crew) {
    many_to_many(crew, None);
}

fn timeouts_neither_lose_nor_double_a_value(crew: &Crew) {
    const EACH: usize = 1_500;
    for capacity in ALL {
        let live = Arc::new(AtomicUsize::new(0));
        let (sender, receiver) = channel(capacity);
        let state: Arc<Vec<AtomicUsize>> = Arc::new((0..3 * EACH).map(|_| AtomicUsize::new(0)).collect());
        for from in 0..3 {
            let (sender, sent, live, mut random) =
                (sender.clone(), Arc::clone(&state), Arc::clone(&live), crew.random());
            crew.spawn(move || {
                for i in from * EACH..(from + 1) * EACH {
                    let value = Counted::new(i as u64, &live);
                    match sender.send_timeout(value, random.micros(60)) {
                        Ok(()) => {
                            sent[i].fetch_add(1, Ordering::Relaxed);
                        }
                        Err(SendTimeoutError::Timeout(value)) => assert_eq!(value.0, i as u64),
                        Err(SendTimeoutError::Disconnected(_)) => panic!("receivers are there"),
                    }
                }
            });
            let (receiver, state, mut random) = (receiver.clone(), Arc::clone(&state), crew.random());
            crew.spawn(move || {
                loop {
                    match receiver.recv_timeout(random.micros(60)) {
                        Ok(value) => {
                            state[value.0 as usize].fetch_add(10, Ordering::Relaxed);
                        }
                        Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => break,
                    }
                    if random.below(50) == 0 {
                        std::thread::sleep(random.micros(200));
                    }
                }
            });
        }
        drop((sender, receiver));
        crew.join();
        assert!(state.iter().all(|n| matches!(n.load(Ordering::Relaxed), 0 | 11)));
        assert_eq!(live.load(Ordering::Relaxed), 0);
    }
}

fn receivers_that_go_give_values_back(crew: &Crew) {
    for capacity in [0, 2] {
        let live = Arc::new(AtomicUsize::new(0));
        let (sender, receiver) = bounded(capacity);
        for i in 0..capacity {
            sender.send(Counted::new(i as u64, &live)).unwrap();
        }
        let waiting = Arc::new(AtomicUsize::new(0));
        for i in 0..20 {
            let (sender, waiting, live) = (sender.clone(), Arc::clone(&waiting), Arc::clone(&live));
            crew.spawn(move || {
                let value = Counted::new(100 + i, &live);
                waiting.fetch_add(1, Ordering::Relaxed);
                let back = sender.send(value).unwrap_err().into_inner();
                assert_eq!(back.0, 100 + i);
            });
        }
        until("waiting", || waiting.load(Ordering::Relaxed) == 20);
        std::thread::sleep(Duration::from_millis(5));
        drop(receiver);
        crew.join();
        assert_eq!(live.load(Ordering::Relaxed), 0);
        assert!(matches!(sender.try_send(Counted::new(0, &live)), Err(TrySendError::Disconnected(_))));
        let now = Instant::now();
        assert!(sender.send_deadline(Counted::new(0, &live), now).unwrap_err().is_disconnected());
    }
}

fn senders_that_go_end_receiving(crew: &Crew) {
    for capacity in ALL {
        let (sender, receiver) = channel::<u32>(capacity);
        for _ in 0..20 {
            let receiver = receiver.clone();
            crew.spawn(move || assert_eq!(receiver.recv(), Err(RecvError)));
        }
        std::thread::sleep(Duration::from_millis(5));
        drop(sender);
        crew.join();
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
        assert_eq!(receiver.recv_timeout(Duration::MAX), Err(RecvTimeoutError::Disconnected));
    }
    let (sender, receiver) = bounded(3);
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    for i in 0..3 {
        sender.send(i).unwrap();
    }
    drop(sender);
    assert_eq!((receiver.recv(), receiver.try_recv()), (Ok(0), Ok(1)));
    assert_eq!(receiver.iter().collect::<Vec<_>>(), [2]);
}

fn the_last_receiver_drops_what_is_left(crew: &Crew) {
    for capacity in [Some(500), None] {
        let live = Arc::new(AtomicUsize::new(0));
        let (sender, receiver) = channel(capacity);
        for i in 0..400 {
            sender.send(Counted::new(i, &live)).unwrap();
        }
        drop((receiver.recv(), receiver.clone()));
        assert_eq!(live.load(Ordering::Relaxed), 399);
        drop(receiver);
        assert_eq!(live.load(Ordering::Relaxed), 0);
        assert_eq!(sender.send(Counted::new(1, &live)).unwrap_err().0.0, 1);

        // With senders at it.
        let (sender, receiver) = channel(capacity);
        for _ in 0..4 {
            let (sender, live) = (sender.clone(), Arc::clone(&live));
            crew.spawn(move || while sender.send(Counted::new(0, &live)).is_ok() {});
        }
        for _ in 0..1_000 {
            receiver.recv().unwrap();
        }
        drop(receiver);
        crew.join();
        drop(sender);
        assert_eq!(live.load(Ordering::Relaxed), 0);
    }
}

fn rendezvous_meets(crew: &Crew) {
    let (sender, receiver) = bounded(0);
    assert_eq!(sender.try_send(0), Err(TrySendError::Full(0)));
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    assert_eq!(sender.send_timeout(0, Duration::from_millis(5)), Err(SendTimeoutError::Timeout(0)));
    let asked = Arc::new(AtomicBool::new(false));
    let asked_too = Arc::clone(&asked);
    crew.spawn(move || {
        sender.send(1).unwrap();
        assert!(asked_too.load(Ordering::SeqCst), "sent before anybody received");
        until("a receiver waits", || sender.try_send(2).is_ok());
    });
    std::thread::sleep(Duration::from_millis(20));
    asked.store(true, Ordering::SeqCst);
    until("a sender waits", || receiver.try_recv() == Ok(1));
    assert_eq!(receiver.recv(), Ok(2));
}

fn receivers_are_served_in_order(crew: &Crew) {
    for capacity in ALL {
        in_order(|| {
            let (sender, receiver) = channel(capacity);
            let got = Arc::new(StdMutex::new(vec![0; 5]));
            for i in 0..5 {
                let (receiver, got) = (receiver.clone(), Arc::clone(&got));
                crew.spawn(move || {
                    let value = receiver.recv().unwrap();
                    got.lock().unwrap()[i] = value;
                });
                let_it_wait();
            }
            (0..5).for_each(|i| sender.send(i).unwrap());
            crew.join();
            got.lock().unwrap().clone()
        });
    }
}

fn senders_are_served_in_order(crew: &Crew) {
    for capacity in [0, 1] {
        in_order(|| {
            let (sender, receiver) = bounded(capacity);
            for i in 0..5 {
                let sender = sender.clone();
                crew.spawn(move || sender.send(i).unwrap());
                let_it_wait();
            }
            drop(sender);
            let got = receiver.iter().collect();
            crew.join();
            got
        });
    }
}

fn sizes_are_told(_: &Crew) {
    let (sender, receiver) = bounded(2);
    assert!(sender.is_empty() && !sender.is_full() && sender.capacity() == Some(2));
    sender.send(1).unwrap();
    assert!(!receiver.is_empty() && !receiver.is_full() && receiver.len() == 1);
    sender.send(2).unwrap();
    assert!(receiver.is_full() && sender.len() == 2);
    assert_eq!(sender.try_send(3), Err(TrySendError::Full(3)));
    assert!(sender.same_channel(&sender.clone()) && receiver.same_channel(&receiver.clone()));

    let (sender, receiver) = unbounded::<()>();
    assert!(sender.capacity().is_none() && receiver.is_empty() && !receiver.is_full());
    assert!(!sender.same_channel(&unbounded().0));

    let (sender, receiver) = bounded::<()>(0);
    assert!(sender.is_empty() && sender.is_full() && receiver.is_empty() && receiver.is_full());
    assert_eq!(format!("{sender:?} {receiver:?}"), "Sender { .. } Receiver { .. }");
    assert_eq!(SendError(1).to_string(), "sending on a disconnected channel");
}

fn iterators_end(crew: &Crew) {
    let (sender, receiver) = unbounded();
    assert_eq!(receiver.try_iter().count(), 0);
    (0..10).for_each(|i| sender.send(i).unwrap());
    assert_eq!(receiver.try_iter().sum::<i32>(), 45);
    crew.spawn(move || {
        for i in 0..100 {
            sender.send(i).unwrap();
        }
    });
    assert_eq!((&receiver).into_iter().take(50).count(), 50);
    assert_eq!(receiver.into_iter().sum::<i32>(), (50..100).sum());
}

fn values_of_all_sizes(crew: &Crew) {
    for capacity in ALL {
        let (sender, receiver) = channel::<()>(capacity);
        crew.spawn(move || (0..100).for_each(|_| sender.send(()).unwrap()));
        assert_eq!(receiver.iter().count(), 100);
        let (sender, receiver) = channel(capacity);
        crew.spawn(move || (0..100).for_each(|i| sender.send([i; 100]).unwrap()));
        receiver.iter().enumerate().for_each(|(i, value)| assert_eq!(value, [i as u64; 100]));
        let (sender, receiver) = channel(capacity);
        crew.spawn(move || (0..100).for_each(|i| sender.send(format!("{i}")).unwrap()));
        assert_eq!(receiver.iter().nth(70).as_deref(), Some("70"));
        assert_eq!(receiver.iter().count(), 29);
        crew.join();
    }
}
