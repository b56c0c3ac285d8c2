//! No item is lost or taken twice, and its taker sees what was written to it.

use super::*;

#[test]
fn injector_from_two_sides() {
    model(|| {
        let shared = Shared::new(Injector::new());
        let other = spawn(&shared, |s| {
            // SAFETY: a new item.
            unsafe { s.queue.push(filled(1)) };
            if let Some(item) = s.queue.pop() {
                s.took(item);
            }
        });
        // SAFETY: a new item.
        unsafe { shared.queue.push(filled(10)) };
        // A thread's own push is visible to it, so one of two items is left for each of two takers.
        shared.took(shared.queue.pop().expect("one is left"));
        other.join().unwrap();
        assert!(shared.queue.pop().is_none());
        assert_eq!(shared.sum(), 11);
    });
}

#[test]
fn next_slot_with_a_thief() {
    model(|| {
        let shared = Shared::new(NextSlot::new());
        let thief = spawn(&shared, |s| {
            if let Some(item) = s.queue.take() {
                s.took(item);
            }
        });
        for value in [1, 10] {
            if let Some(item) = shared.queue.replace(filled(value)) {
                shared.took(item);
            }
        }
        if let Some(item) = shared.queue.take() {
            shared.took(item);
        }
        thief.join().unwrap();
        assert!(shared.queue.take().is_none());
        assert_eq!(shared.sum(), 11);
    });
}

type Pop = unsafe fn(&Ring<Item>) -> Option<NonNull<Item>>;

/// The owner pushes `pushes` items (the ring has room for two), takes one after the second, and empties the ring at the
/// end. Meanwhile each thief steals `steals` times.
fn ring(pop: Pop, pushes: u32, thieves: usize, steals: usize) {
    model(move || {
        let shared = Shared::new(Ring::new());
        let thieves: Vec<_> = (0..thieves)
            .map(|_| {
                spawn(&shared, move |s| {
                    for _ in 0..steals {
                        if let Some(item) = s.queue.steal() {
                            s.took(item);
                        }
                    }
                })
            })
            .collect();
        // SAFETY: this thread is the owner.
        let take = || unsafe { pop(&shared.queue) };
        for i in 0..pushes {
            // SAFETY: this thread is the owner, the item new.
            if let Err(item) = unsafe { shared.queue.push(filled(10_usize.pow(i))) } {
                shared.took(item);
            }
            if i == 1
                && let Some(item) = take()
            {
                shared.took(item);
            }
        }
        while let Some(item) = take() {
            shared.took(item);
        }
        for thief in thieves {
            thief.join().unwrap();
        }
        assert!(shared.queue.is_empty());
        assert_eq!(shared.sum(), [0, 1, 11, 111][pushes as usize]);
    });
}

#[test]
fn ring_oldest_first_with_a_thief() {
    ring(Ring::pop_oldest, 3, 1, 2);
}

#[test]
fn ring_newest_first_with_a_thief() {
    ring(Ring::pop_newest, 3, 1, 2);
}

#[test]
fn ring_newest_first_with_two_thieves() {
    ring(Ring::pop_newest, 2, 2, 1);
}
