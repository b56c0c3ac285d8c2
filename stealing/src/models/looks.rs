//! Nobody looks at what was freed.

use super::*;
use crate::Looks;
use loom::sync::atomic::AtomicBool;

/// What is looked at while it is reachable.
struct Looked {
    reachable: AtomicBool,
    memory: loom::cell::UnsafeCell<usize>,
    looks: [Looks; 2],
}

// SAFETY: loom checks the accesses of the memory.
unsafe impl Sync for Looked {}

impl Looked {
    fn look(&self, looker: usize) {
        self.looks[looker].look(|| {
            // Relaxed: the protocol must bring all the order that it needs.
            if self.reachable.load(Ordering::Relaxed) {
                // SAFETY: loom checks the access.
                assert_eq!(self.memory.with(|memory| unsafe { *memory }), 0, "freed");
            }
        });
    }
}

/// Each looker looks `times` times, while the memory is freed.
fn lookers_and_a_free(lookers: usize, times: usize) {
    model(move || {
        let looked = Arc::new(Looked {
            reachable: AtomicBool::new(true),
            memory: loom::cell::UnsafeCell::new(0),
            looks: Default::default(),
        });
        let threads: Vec<_> = (0..lookers)
            .map(|looker| {
                let looked = looked.clone();
                thread::spawn(move || (0..times).for_each(|_| looked.look(looker)))
            })
            .collect();
        looked.reachable.store(false, Ordering::Relaxed);
        Looks::wait(looked.looks.iter());
        // SAFETY: loom checks the access.
        looked.memory.with_mut(|memory| unsafe { *memory = 1 });
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_looker() {
    lookers_and_a_free(1, 1);
}

#[test]
fn a_looker_looks_again() {
    lookers_and_a_free(1, 2);
}

#[test]
fn two_lookers() {
    lookers_and_a_free(2, 1);
}
