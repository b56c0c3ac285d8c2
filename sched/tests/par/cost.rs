//! What forking costs where nobody steals: no locked instruction, no fence, no poll; and an idle runtime nothing at all.

use crate::common::{alone, process_cpu};
use crate::{MS, fib, runtime};
use std::time::Duration;
use unyield::Runtime;
use unyield::preempt::Stealing;

/// The machine code of a program's recursion through `join`, as the compiler that built this test makes it when it optimises.
fn disassembly() -> String {
    let directory = std::env::temp_dir().join(format!("unyield-join-{}", std::process::id()));
    std::fs::create_dir_all(directory.join("src")).unwrap();
    let manifest = format!(
        "[package]\nname = \"fork\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n[dependencies]\nunyield = {{ path = {:?} }}\n",
        env!("CARGO_MANIFEST_DIR")
    );
    std::fs::write(directory.join("Cargo.toml"), manifest).unwrap();
    let lock = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock");
    let program = "#[unsafe(no_mangle)] #[inline(never)] pub fn forked_fib(n: u64) -> u64 {
        if n < 2 { return n; }
        let (a, b) = unyield::join(|| forked_fib(n - 1), || forked_fib(n - 2));
        a + b
    }
    fn main() { println!(\"{}\", forked_fib(std::env::args().count() as u64 + 10)); }";
    std::fs::write(directory.join("src/main.rs"), program).unwrap();
    drop(std::fs::copy(lock, directory.join("Cargo.lock")));
    let target = concat!(env!("CARGO_TARGET_TMPDIR"), "/fork");
    let build = std::process::Command::new(env!("CARGO"))
        .args(["build", "--release", "--offline", "--quiet", "--target-dir", target])
        .current_dir(&directory)
        .output()
        .unwrap();
    assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));
    drop(std::fs::remove_dir_all(&directory));
    let dump = std::process::Command::new("objdump")
        .args(["-d", "--no-show-raw-insn", "--disassemble=forked_fib"])
        .arg(format!("{target}/release/fork"))
        .output()
        .unwrap();
    String::from_utf8_lossy(&dump.stdout).into_owned()
}

#[test]
fn no_locked_instruction_no_fence_on_the_path_of_a_fork() {
    let text = disassembly();
    let code: Vec<&str> =
        text.lines().filter_map(|line| line.split_once(":\t").map(|(_, code)| code.trim())).collect();
    assert!(code.iter().any(|code| code.contains("%fs:")), "not the code that was meant: {text}");
    let calls = code.iter().filter(|code| code.starts_with("call") && code.contains("<forked_fib>")).count();
    assert_eq!(calls, 2, "both halves are called directly: {text}");
    for word in ["lock", "xchg", "mfence", "lfence", "sfence", "pause", "syscall"] {
        assert!(!code.iter().any(|code| code.starts_with(word)), "{word} in {text}");
    }
    // Three accesses of thread-local words: bottom twice, top once, and bottom once more to read it.
    let words = code.iter().filter(|code| code.contains("%fs:")).count();
    assert!(words <= 4, "{words} accesses of thread-local words: {text}");
}

#[test]
fn an_idle_runtime_uses_no_time_and_sends_nothing() {
    alone("cost::an_idle_runtime_uses_no_time_and_sends_nothing", || {
        let runtime = runtime(2, Stealing::Lazy);
        assert_eq!(runtime.run(|| fib(20)), 6765);
        std::thread::sleep(100 * MS); // until everybody sleeps
        let requests = runtime.handle().metrics().steal_requests();
        let before = process_cpu();
        std::thread::sleep(Duration::from_secs(10));
        let used = process_cpu() - before;
        assert!(used < MS, "{used:?}");
        assert_eq!(runtime.handle().metrics().steal_requests(), requests);
    });
}

#[test]
fn a_fiber_that_computes_beside_idle_workers_is_left_alone() {
    alone("cost::a_fiber_that_computes_beside_idle_workers_is_left_alone", || {
        let runtime = Runtime::builder().workers(2).build().unwrap();
        runtime.run(|| {
            assert_eq!(fib(20), 6765);
            crate::common::spin(50 * MS);
            let metrics = unyield::Handle::current().metrics();
            let count = || (0..2).map(|w| metrics.worker_interrupt_count(w)).sum::<u64>();
            let before = (count(), metrics.steal_requests());
            crate::common::spin(500 * MS);
            assert_eq!((count(), metrics.steal_requests()), before);
        });
    });
}

/// A fiber that has forked on a carrier and waits there disturbs nobody.
#[test]
fn a_carrier_on_which_a_fiber_has_forked_is_left_alone() {
    alone("cost::a_carrier_on_which_a_fiber_has_forked_is_left_alone", || {
        let runtime = Runtime::builder().workers(2).build().unwrap();
        let used = runtime.run(|| {
            let _guard = unyield::fiber::lock_os_thread();
            assert_eq!(fib(10), 55);
            std::thread::sleep(200 * MS); // until everybody sleeps
            let before = process_cpu();
            std::thread::sleep(Duration::from_secs(3));
            process_cpu() - before
        });
        assert!(used < MS, "{used:?}");
    });
}
