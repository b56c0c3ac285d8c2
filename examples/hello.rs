//! One worker, a fiber that never ends and never yields, and others that run all the same.
//!
//! `cargo run --release --example hello`

use std::hint::black_box;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use unyield::runtime::{BuildError, Runtime};

fn main() -> Result<(), BuildError> {
    let runtime = Runtime::builder().workers(1).build()?;

    // No checkpoint, no await, no call: nothing by which this loop could give up its worker.
    runtime.spawn(|| {
        let mut n = 0u64;
        loop {
            n = black_box(n).wrapping_add(1);
        }
    });

    let start = Instant::now();
    let hello =
        runtime.spawn(move || println!("hello after {:?}, from beside an endless loop", start.elapsed()));
    hello.join().expect("it does not panic");

    // The std Mutex: whoever is interrupted while holding it is run again, though the others wait for it in the kernel.
    let count = Arc::new(Mutex::new(0u64));
    let fibers: Vec<_> = (0..4)
        .map(|_| {
            let count = Arc::clone(&count);
            runtime.spawn(move || {
                for _ in 0..100_000 {
                    *count.lock().unwrap() += 1;
                }
            })
        })
        .collect();
    for fiber in fibers {
        fiber.join().expect("it does not panic");
    }
    println!(
        "4 fibers counted to {} under one std Mutex, after {:?}",
        count.lock().unwrap(),
        start.elapsed()
    );

    // The endless loop is still there. A shutdown does not wait for it longer than it is told.
    let all_ended = runtime.shutdown_timeout(Duration::from_millis(100));
    println!("all fibers ended: {all_ended}");
    Ok(())
}
