//! gdb, stopped in the runtime's tick handler, shows the function that was interrupted, and the fiber's way down to its start.

mod common;

use common::{Load, busy_runtime, is_child};
use std::process::Command;
use std::time::Duration;

#[inline(never)]
fn interrupted_computation(rounds: u64) -> u64 {
    (0..rounds).fold(rounds, |sum, i| std::hint::black_box(sum.wrapping_mul(31).wrapping_add(i)))
}

#[test]
fn gdb_unwinds_through_the_stub() {
    const NAME: &str = "gdb_unwinds_through_the_stub";
    if is_child(NAME) {
        let runtime = busy_runtime(1);
        let _background = Load::start(&runtime, 1);
        let fiber = runtime.spawn(|| {
            let start = std::time::Instant::now();
            while start.elapsed() < Duration::from_secs(20) {
                interrupted_computation(1 << 22);
            }
        });
        fiber.join().unwrap();
        return;
    }
    let mut gdb = Command::new("gdb");
    // The fiber is interrupted again and again: the breakpoint is hit in both fibers, so the stacks of some stops are printed.
    gdb.args([
        "-batch",
        "-nx",
        "-ex",
        "set pagination off",
        "-ex",
        "set breakpoint pending on",
        "-ex",
        "set print thread-events off",
    ]);
    gdb.args([
        "-ex",
        "handle SIGURG nostop noprint pass",
        "-ex",
        "handle SIGILL nostop noprint pass", // with Mechanism::Model: its instructions, and its notifications
        "-ex",
        "handle SIG39 nostop noprint pass",
        "-ex",
        "break unyield::worker::preempt::on_tick",
        "-ex",
        "run",
    ]);
    for _ in 0..8 {
        gdb.args(["-ex", "backtrace", "-ex", "continue"]);
    }
    gdb.args(["-ex", "kill", "--args"]).arg(std::env::current_exe().unwrap());
    gdb.args(["--exact", NAME, "--nocapture", "--test-threads=1"]).env("UNYIELD_TEST_ALONE", NAME);
    let Ok(output) = gdb.output() else {
        println!("skipped: there is no gdb");
        return;
    };
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if text.contains("Operation not permitted") || text.contains("not allowed") {
        println!("skipped: gdb may not trace here");
        return;
    }
    let stacks: Vec<_> = text.split("hit Breakpoint").skip(1).collect();
    assert!(stacks.len() > 2, "the breakpoint is not hit: {text}");
    let complete = stacks.iter().filter(|stack| {
        stack.contains("on_tick")
            && stack.contains("signal handler called")
            && stack.contains("interrupted_computation")
            && stack.contains("identity_main")
    });
    assert!(complete.count() > 0, "no stack leads to the interrupted function: {text}");
    assert!(
        !text.contains("previous frame inner to this frame") && !text.contains("corrupt stack"),
        "{text}"
    );
}
