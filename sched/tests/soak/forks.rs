//! Fork-join: trees of halves, some of which wait, lock, panic or block.

use crate::kinds::{Cx, spin};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::time::Duration;
use unyield::join;
use unyield::par::scope;

/// A tree of halves, as deep as its work is uneven.
pub fn tree(cx: &mut Cx) {
    fn grow(n: u64, x: u64) -> u64 {
        if n < 2 {
            return spin(200, x) & 0xff;
        }
        let (left, text) = ((n / 3).max(1), x.to_string());
        let (a, b) = join(|| grow(left, 2 * x), || grow(n - left, 2 * x + 1));
        check!(text == x.to_string(), "what a fork borrows");
        a + b
    }
    fn serial(n: u64, x: u64) -> u64 {
        if n < 2 {
            return spin(200, x) & 0xff;
        }
        let left = (n / 3).max(1);
        serial(left, x * 2) + serial(n - left, x * 2 + 1)
    }
    let (n, x) = (1 + cx.below(150), cx.below(1 << 20));
    check!(grow(n, x) == serial(n, x), "a sum over a tree of halves");
}

/// Halves that wait for each other, hold locks across forks, panic, and block in the kernel.
pub fn waiting(cx: &mut Cx) {
    let (sender, receiver) = std::sync::mpsc::channel();
    let x = cx.below(1 << 30);
    let ((), got) = join(
        || {
            unyield::sleep(Duration::from_micros(x % 100));
            sender.send(x).unwrap();
        },
        move || receiver.recv().unwrap(),
    );
    check!(got == x, "what one half sent to the other");
    let lock = Mutex::new(0);
    let mut sums = [0; 3];
    scope(|s| {
        for sum in &mut sums {
            s.spawn(|_| {
                let mut guard = lock.lock().unwrap();
                let (a, b) = join(|| spin(500, x) & 1, || spin(500, x) & 1);
                *guard += 1;
                *sum = a + b;
            });
        }
    });
    check!(sums == [2 * (spin(500, x) & 1); 3] && *lock.lock().unwrap() == 3, "forks under a lock");
    let caught = catch_unwind(AssertUnwindSafe(|| {
        join(|| std::thread::sleep(Duration::from_micros(50)), || resume_unwind(Box::new(x)))
    }));
    check!(caught.is_err_and(|payload| payload.downcast_ref() == Some(&x)), "a half's panic");
}
