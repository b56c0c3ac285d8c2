//! Driving a future on a fiber.

use super::{Fiber, current, park};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Release},
};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

enum Sleeper {
    Fiber(Fiber),
    Thread(Thread),
}

struct Signal {
    sleeper: Sleeper,
    woken: AtomicBool,
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Release); // pairs with the acquire below
        match &self.sleeper {
            Sleeper::Fiber(fiber) => fiber.unpark(),
            Sleeper::Thread(thread) => thread.unpark(),
        }
    }
}

/// Drives `f` to its end on the calling fiber, which parks while the future waits; on a plain thread the thread blocks. A cancelled fiber unwinds where the
/// future waits, dropping it. Wakers may be called from any fiber or thread, also inside a critical section, and after the end. Uses the fiber's
/// [`park`] token: an [`unpark`](Fiber::unpark) by others during the call may be consumed, and one may be left.
///
/// ```
/// assert_eq!(unyield::fiber::block_on(async { 42 }), 42);
/// ```
///
/// # Panics
/// With the panic of `f`; on a fiber inside a critical section, if the future waits.
pub fn block_on<F: Future>(f: F) -> F::Output {
    let mut future = pin!(f);
    let sleeper = current().map_or_else(|| Sleeper::Thread(std::thread::current()), Sleeper::Fiber);
    let signal = Arc::new(Signal { sleeper, woken: AtomicBool::new(false) });
    let waker = Waker::from(signal.clone());
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        while !signal.woken.swap(false, Acquire) {
            park();
        }
    }
}
