use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use unyield::sync::oneshot::{self, RecvError, RecvTimeoutError, TryRecvError};

use crate::support::{Counted, Crew};

crate::in_all_worlds!(
    a_value_arrives
    it_arrives_once_even_at_the_edge_of_a_timeout
    a_sender_that_goes_ends_the_wait
    a_receiver_that_goes_gives_the_value_back
    it_is_a_future
    only_the_last_waker_is_called
);

fn a_value_arrives(crew: &Crew) {
    for i in 0..500 {
        let (sender, receiver) = oneshot::channel();
        assert!(!sender.is_closed());
        crew.spawn(move || sender.send(i).unwrap());
        crew.spawn(move || assert_eq!(receiver.recv(), Ok(i)));
    }
    crew.join();
    let (sender, mut receiver) = oneshot::channel();
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    sender.send("here").unwrap();
    assert_eq!(receiver.try_recv(), Ok("here"));
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
    assert_eq!(receiver.recv(), Err(RecvError));
}

fn it_arrives_once_even_at_the_edge_of_a_timeout(crew: &Crew) {
    let live = Arc::new(AtomicUsize::new(0));
    for i in 0..1_000 {
        let (sender, mut receiver) = oneshot::channel();
        let (live, mut random) = (Arc::clone(&live), crew.random());
        let (pause, patience) = (random.micros(50), random.micros(50));
        crew.spawn(move || {
            std::thread::sleep(pause);
            let _ = sender.send(Counted::new(i, &live));
        });
        crew.spawn(move || match receiver.recv_timeout(patience) {
            Ok(value) => assert_eq!(value.0, i),
            Err(RecvTimeoutError::Timeout) if i % 2 == 0 => assert_eq!(receiver.recv().unwrap().0, i),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => panic!("it is sent"),
        });
        if i % 20 == 19 {
            crew.join();
        }
    }
    crew.join();
    assert_eq!(live.load(Ordering::Relaxed), 0);
}

fn a_sender_that_goes_ends_the_wait(crew: &Crew) {
    for _ in 0..100 {
        let (sender, receiver) = oneshot::channel::<u32>();
        crew.spawn(move || assert_eq!(receiver.recv(), Err(RecvError)));
        crew.spawn(move || drop(sender));
    }
}

fn a_receiver_that_goes_gives_the_value_back(crew: &Crew) {
    let live = Arc::new(AtomicUsize::new(0));
    for i in 0..100 {
        let (sender, receiver) = oneshot::channel();
        crew.spawn(move || drop(receiver));
        let live = Arc::clone(&live);
        crew.spawn(move || {
            if let Err(value) = sender.send(Counted::new(i, &live)) {
                assert_eq!(value.0, i);
            }
        });
    }
    crew.join();
    assert_eq!(live.load(Ordering::Relaxed), 0);
    let (sender, receiver) = oneshot::channel();
    drop(receiver);
    assert!(sender.is_closed());
    assert_eq!(sender.send(1), Err(1));
}

struct Unpark(Thread, AtomicUsize);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.unpark();
    }
}

fn waker() -> (Arc<Unpark>, Waker) {
    let unpark = Arc::new(Unpark(std::thread::current(), AtomicUsize::new(0)));
    (Arc::clone(&unpark), Waker::from(unpark))
}

fn it_is_a_future(crew: &Crew) {
    for i in 0..200 {
        let (sender, receiver) = oneshot::channel();
        crew.spawn(move || {
            if i % 3 == 0 {
                std::thread::sleep(Duration::from_micros(20));
            }
            if i % 2 == 0 {
                sender.send(i).unwrap();
            }
        });
        let (_, waker) = waker();
        let mut receiver = pin!(receiver);
        let result = loop {
            match receiver.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(result) => break result,
                Poll::Pending => std::thread::park_timeout(Duration::from_secs(10)),
            }
        };
        assert_eq!(result, if i % 2 == 0 { Ok(i) } else { Err(RecvError) });
    }
}

fn only_the_last_waker_is_called(_: &Crew) {
    let (sender, mut receiver) = oneshot::channel();
    let ((old, first), (new, second)) = (waker(), waker());
    let mut pinned = pin!(&mut receiver);
    assert!(pinned.as_mut().poll(&mut Context::from_waker(&first)).is_pending());
    assert!(pinned.as_mut().poll(&mut Context::from_waker(&second)).is_pending());
    drop((first, second));
    assert_eq!((Arc::strong_count(&old), Arc::strong_count(&new)), (1, 2));
    sender.send(()).unwrap();
    assert_eq!((old.1.load(Ordering::SeqCst), new.1.load(Ordering::SeqCst)), (0, 1));
    assert_eq!(Arc::strong_count(&new), 1);
    assert_eq!(receiver.recv(), Ok(()));
}
