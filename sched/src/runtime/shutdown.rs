//! Ending a runtime: cancel what is left, wait, stop the threads; leak what does not end.

use super::{Handle, builder::Threads};
use crate::fiber::task::Task;
use crate::identity::ghost;
use crate::observe::report::Line;
use crate::worker::{Worker, carrier};
use std::sync::atomic::Ordering::{Relaxed, Release, SeqCst};
use std::time::{Duration, Instant};

/// Between looks at whether the fibers have ended.
const POLL: Duration = Duration::from_micros(500);

/// True if every fiber ended. Plain thread, or fiber of another runtime.
pub(crate) fn shut_down(handle: &Handle, threads: Threads, timeout: Duration) -> bool {
    let shared = handle.shared();
    let deadline = Instant::now() + timeout;
    let mut asked = Instant::now();
    shared.pool.for_each_task(Task::cancel);
    shared.cancelling.store(true, Release);
    while shared.alive_fibers() > 0 && Instant::now() < deadline {
        crate::fiber::sleep(POLL);
        if asked.elapsed() > 20 * POLL {
            // tasks that have started since, and fibers that caught the unwinding and wait again
            shared.pool.for_each_task(Task::cancel);
            asked = Instant::now();
        }
    }
    shared.closed.store(true, SeqCst);
    while shared.alive_fibers() > 0 && Instant::now() < deadline {
        crate::fiber::sleep(POLL); // spawned from outside just before it was closed
    }
    let left = shared.alive_fibers();
    if left > 0 {
        report(shared, left);
    }
    // A worker leaves when it finds nothing to run; one that runs a leaked fiber is preempted, and leaves it in its queue.
    shared.leaving.store(left > 0, Relaxed);
    shared.stopping.store(true, Release);
    shared.idle.notify_all();
    let limit = Instant::now() + Duration::from_millis(500);
    let mut stuck = 0;
    for thread in threads.workers {
        while left > 0 && !thread.is_finished() && Instant::now() < limit {
            crate::fiber::sleep(POLL);
        }
        if left == 0 || thread.is_finished() {
            drop(thread.join());
        } else {
            stuck += 1;
        }
    }
    while shared.foreign_workers.load(SeqCst) > 0 && (left == 0 || Instant::now() < limit) {
        crate::fiber::sleep(POLL);
    }
    stuck += shared.foreign_workers.load(SeqCst);
    shared.halted.store(true, Release);
    shared.service.stop();
    shared.armed.rouse();
    shared.timers.wake();
    for thread in threads.services {
        drop(thread.join());
    }
    // Now that the service has gone, nobody starts one more.
    stuck += end_helpers(shared, left > 0, limit);
    while shared.visitors.load(SeqCst) > 0 {
        crate::fiber::sleep(POLL); // queued the last fiber, and still hold the queue
    }
    if left > 0 || stuck > 0 {
        // Stacks, identities and workers of leaked fibers stay as they are, and with them what they point to.
        std::mem::forget(handle.shared_arc().clone());
        return false;
    }
    for identity in shared.pool.take_all() {
        // SAFETY: every fiber has ended, every worker has gone: nobody else knows them.
        unsafe { ghost::retire(identity) };
    }
    for helper in shared.carriers.take_all().chain(shared.spares.take_all()) {
        // SAFETY: boxed by `start_one` of its kind; its thread has been joined.
        drop(unsafe { Box::<Worker>::from_raw(helper) });
    }
    true
}

/// Ends the carriers and spares that exist; returns how many threads did not end. `leaking`: do not wait for them for ever.
fn end_helpers(shared: &super::Shared, leaking: bool, limit: Instant) -> usize {
    for helper in shared.carriers.all().chain(shared.spares.all()) {
        helper.exiting.store(true, Release);
        carrier::ring(helper);
    }
    let mut handles = std::mem::take(&mut *shared.carriers.handles.lock());
    handles.append(&mut shared.spares.handles.lock());
    let mut stuck = 0;
    for thread in handles {
        while leaking && !thread.is_finished() && Instant::now() < limit {
            crate::fiber::sleep(POLL);
        }
        if !leaking || thread.is_finished() {
            drop(thread.join());
        } else {
            stuck += 1;
        }
    }
    stuck
}

fn report(shared: &super::Shared, left: u64) {
    let mut line = Line::new();
    line.push("unyield: shutdown gives up on ");
    line.push_number(left);
    line.push(" fiber(s), which are leaked:");
    shared.pool.for_each_task(|task| {
        line.push(" ");
        line.push_number(task.id.as_u64().get());
        if let Some(name) = task.name() {
            line.push(" '");
            line.push(name);
            line.push("'");
        }
        line.push(" (");
        line.push(task.spawned_at.file());
        line.push(":");
        line.push_number(u64::from(task.spawned_at.line()));
        line.push(")");
    });
    line.push("\n");
    line.write();
}
