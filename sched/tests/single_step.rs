//! A second interrupt at EVERY instruction boundary of a preemption: stub, dispatch, switch, and the return of the fiber that goes on.
//!
//! The frame of the first interrupt starts with the trap flag set, so every instruction raises SIGTRAP, until the flags of the fiber that goes on are
//! loaded, or until it says that it is back. The handler of trap number k posts the second vector, whose signal lands at exactly that boundary. It must be
//! handled without any further help, and registers, flags, red zone and vector registers of the fibers must be what they were.
//!
//! Two ways on: the other fiber was preempted too (it goes on by a return of the stub), or it had yielded (by `unmask`).

use std::arch::asm;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering::*};
use std::time::{Duration, Instant};
use unyield::preempt::Mechanism;
use unyield::runtime::Handle;
use unyield::{Runtime, testing};

/// Traps of this attempt, and at which one the second interrupt comes.
static TRAPS: AtomicU64 = AtomicU64::new(0);
static AT: AtomicU64 = AtomicU64::new(u64::MAX);
/// Where that was; 0: not reached.
static ADDRESS: AtomicUsize = AtomicUsize::new(0);
/// The fiber that goes on says that it has: no more traps.
static BACK: AtomicBool = AtomicBool::new(false);
static HANDLE: AtomicPtr<Handle> = AtomicPtr::new(std::ptr::null_mut());
static STOP: AtomicBool = AtomicBool::new(false);
static WRONG: AtomicU64 = AtomicU64::new(0);
static LAPS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

const TRAP_FLAG: i64 = 0x100;
/// Longer than any lateness of a busy machine.
const LOST: Duration = Duration::from_secs(5);

extern "C" fn on_trap(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the third argument of a handler installed with SA_SIGINFO.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let n = TRAPS.load(Relaxed) + 1;
    TRAPS.store(n, Relaxed);
    if n == AT.load(Relaxed) {
        ADDRESS.store(registers[libc::REG_RIP as usize] as usize, Relaxed);
        // its signal is blocked in this handler, and arrives when we return: before the next instruction
        // SAFETY: set before the first trap, and alive until the last.
        testing::post_counting(unsafe { &*HANDLE.load(Relaxed) }, 0);
    }
    if n >= AT.load(Relaxed) || BACK.load(Relaxed) {
        registers[libc::REG_EFL as usize] &= !TRAP_FLAG;
    }
}

/// A frame that a CPU pushes does not trap at each instruction; those of a signal's handler and of the model do.
fn mechanism() -> Mechanism {
    if unyield::preempt::probe().has("uintr (kernel)") { Mechanism::Signal } else { Mechanism::Auto }
}

/// A lap: known values in registers, flags and red zone for some microseconds. What differs at the end.
fn lap() -> u64 {
    let bad: u64;
    // SAFETY: rbx and rbp are saved around; only the red zone and the stack are written.
    unsafe {
        asm!(
            "push rbx", "push rbp",
            "mov rbx, 0x1111", "mov rbp, 0x2222", "mov rsi, 0x3333", "mov rdi, 0x4444", "mov r8, 0x5555", "mov r9, 0x6666", "mov r10, 0x7777",
            "mov r11, 0x8888", "mov r12, 0x9999", "mov r13, 0xaaaa", "mov r14, 0xbbbb", "mov r15, 0xcccc", "mov rdx, 0xdddd",
            "mov [rsp - 8], rbx", "mov [rsp - 128], rbp", "pcmpeqd xmm7, xmm7", "pxor xmm15, xmm15",
            "mov ecx, 2000", "push 0x8d7", "popfq",
            "2:", "loop 2b",
            "pushfq", "pop rax", "and eax, 0x8d5", "xor eax, 0x8d5",
            "xor rbx, 0x1111", "or rax, rbx", "xor rbp, 0x2222", "or rax, rbp", "xor rsi, 0x3333", "or rax, rsi", "xor rdi, 0x4444", "or rax, rdi",
            "xor r8, 0x5555", "or rax, r8", "xor r9, 0x6666", "or rax, r9", "xor r10, 0x7777", "or rax, r10", "xor r11, 0x8888", "or rax, r11",
            "xor r12, 0x9999", "or rax, r12", "xor r13, 0xaaaa", "or rax, r13", "xor r14, 0xbbbb", "or rax, r14", "xor r15, 0xcccc", "or rax, r15",
            "xor rdx, 0xdddd", "or rax, rdx", "mov rcx, [rsp - 128]", "xor rcx, 0x2222", "or rax, rcx",
            "pmovmskb ecx, xmm7", "xor ecx, 0xffff", "or rax, rcx", "pmovmskb ecx, xmm15", "or rax, rcx",
            "pop rbp", "pop rbx",
            out("rax") bad, out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _, out("xmm7") _, out("xmm15") _,
        );
    }
    bad
}

/// Laps until the end, without a critical section: nothing but the interrupt itself can make the second vector be seen.
fn computes(me: usize, go_on: impl Fn() -> bool) {
    while go_on() {
        let bad = lap();
        if bad != 0 {
            WRONG.fetch_add(1, Relaxed);
            eprintln!("fiber {me}: {bad:x} differs after an interrupt at trap {AT:?}, address {ADDRESS:x?}");
        }
        LAPS[me].fetch_add(1, Relaxed);
    }
}

fn wait(what: impl Fn() -> bool, limit: Duration) -> bool {
    let start = Instant::now();
    while !what() {
        if start.elapsed() > limit {
            return false;
        }
        std::hint::spin_loop();
    }
    true
}

/// What one way on has shown.
struct Seen {
    injected: u64,
    addresses: BTreeSet<usize>,
    longest: u64,
    lost: u64,
}

/// Tries every boundary, `tries` times each, until the path is shorter than the number. `attempt` posts the first interrupt and waits until the other
/// fiber goes on.
fn every_boundary(handle: &Handle, tries: u64, mut attempt: impl FnMut()) -> Seen {
    let mut seen = Seen { injected: 0, addresses: BTreeSet::new(), longest: 0, lost: 0 };
    // Without optimisation the path is many times longer: then a hundred or two of them, and others at each run.
    let mut stride = 1;
    if cfg!(debug_assertions) {
        AT.store(u64::MAX, SeqCst);
        let mut lengths = [(); 5].map(|()| {
            TRAPS.store(0, SeqCst);
            BACK.store(false, SeqCst);
            testing::step_next_frame(true);
            attempt();
            TRAPS.load(SeqCst)
        });
        lengths.sort();
        stride = lengths[2] / 150 + 1; // the usual way, not the one through the scheduler's loop
    }
    let (mut k, mut beyond) = (1 + u64::from(std::process::id()) % stride, 0);
    while beyond < 8 && seen.lost < 3 {
        let mut reached = 0;
        for _ in 0..tries {
            let before = testing::counted();
            TRAPS.store(0, Relaxed);
            ADDRESS.store(0, Relaxed);
            BACK.store(false, Relaxed);
            AT.store(k, SeqCst);
            testing::step_next_frame(true);
            attempt();
            let address = ADDRESS.load(Relaxed);
            if address == 0 {
                continue; // this path was shorter
            }
            reached += 1;
            seen.injected += 1;
            seen.longest = k;
            seen.addresses.insert(address);
            if !wait(|| testing::counted() > before, LOST) {
                seen.lost += 1;
                eprintln!(
                    "LOST at boundary {k}, address {address:#x}, pending {:#x}",
                    testing::pending(handle, 0)
                );
            }
        }
        beyond = if reached == 0 { beyond + 1 } else { 0 };
        k += stride;
    }
    AT.store(u64::MAX, SeqCst);
    testing::step_next_frame(false);
    seen
}

fn report(what: &str, seen: &Seen, handle: &Handle) {
    let metrics = handle.metrics();
    println!(
        "{what}: {} interrupts at {} addresses, up to {} instructions in, {} lost, {} wrong; returns completed {}, deferred {}, preemptions {}",
        seen.injected,
        seen.addresses.len(),
        seen.longest,
        seen.lost,
        WRONG.load(Relaxed),
        metrics.worker_completed_count(0),
        metrics.worker_deferred_count(0),
        metrics.worker_preempt_count(0)
    );
    assert_eq!((seen.lost, WRONG.load(Relaxed)), (0, 0), "{what}");
    assert!(
        seen.addresses.len() > if cfg!(debug_assertions) { 30 } else { 200 },
        "{what}: the path cannot be that short"
    );
}

/// One worker whose own ticks are ten seconds apart: ours are the only ones.
fn runtime() -> Runtime {
    let runtime = Runtime::builder()
        .mechanism(mechanism())
        .workers(1)
        .quantum(Duration::from_secs(10))
        .build()
        .unwrap();
    HANDLE.store(Box::into_raw(Box::new(runtime.handle().clone())), SeqCst);
    STOP.store(false, SeqCst);
    runtime
}

fn preempted_to_preempted() {
    let runtime = runtime();
    let handle = runtime.handle();
    let fibers: Vec<_> =
        (0..2).map(|me| runtime.spawn(move || computes(me, || !STOP.load(Relaxed)))).collect();
    let preemptions = || handle.metrics().worker_preempt_count(0);
    let laps = || LAPS[0].load(Relaxed) + LAPS[1].load(Relaxed);
    let switch = || {
        let (before, start) = (preemptions(), Instant::now());
        while preemptions() == before && start.elapsed() < LOST {
            testing::post_tick(handle, 0);
            wait(|| preemptions() > before, Duration::from_millis(200));
        }
        let from = laps();
        assert!(
            wait(|| laps() > from + 1, LOST),
            "nobody goes on after {TRAPS:?} traps, with an interrupt at {ADDRESS:x?}"
        );
    };
    // both have been preempted once before it counts
    for _ in 0..4 {
        switch();
    }
    let seen = every_boundary(handle, if cfg!(debug_assertions) { 1 } else { 3 }, switch);
    STOP.store(true, SeqCst);
    testing::post_tick(handle, 0);
    fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
    report("preempted → preempted", &seen, handle);
}

fn preempted_to_yielded() {
    static TURN: AtomicU64 = AtomicU64::new(0);
    static DONE: AtomicU64 = AtomicU64::new(0);
    let runtime = runtime();
    let handle = runtime.handle();
    let computing = runtime.spawn(|| computes(0, || !STOP.load(Relaxed)));
    let yielding = runtime.spawn(|| {
        let mut turn = 0;
        while !STOP.load(Relaxed) {
            unyield::yield_now();
            BACK.store(true, Relaxed);
            turn += 1;
            TURN.store(turn, SeqCst);
            computes(1, || DONE.load(Relaxed) < turn && !STOP.load(Relaxed));
        }
    });
    let seen = every_boundary(handle, 1, || {
        let turn = TURN.load(SeqCst);
        DONE.store(turn, SeqCst); // it yields, and the other one computes
        let from = LAPS[0].load(Relaxed);
        assert!(wait(|| LAPS[0].load(Relaxed) > from + 1, LOST), "the computing fiber does not run");
        let start = Instant::now();
        while TURN.load(SeqCst) == turn {
            assert!(
                start.elapsed() < LOST,
                "the yielding fiber does not go on after {TRAPS:?} traps, with an interrupt at {ADDRESS:x?}"
            );
            testing::post_tick(handle, 0);
            wait(|| TURN.load(SeqCst) != turn, Duration::from_millis(200));
        }
        let from = LAPS[1].load(Relaxed);
        assert!(wait(|| LAPS[1].load(Relaxed) > from, LOST), "the yielding fiber does not compute");
    });
    STOP.store(true, SeqCst);
    testing::post_tick(handle, 0);
    computing.join().unwrap();
    yielding.join().unwrap();
    report("preempted → yielded", &seen, handle);
}

#[test]
fn second_interrupt_at_every_boundary() {
    // SAFETY: a handler with the three-argument signature, on the alternate stack, everything blocked meanwhile.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_trap as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigfillset(&mut action.sa_mask);
        libc::sigaction(libc::SIGTRAP, &action, std::ptr::null_mut());
    }
    preempted_to_preempted();
    preempted_to_yielded();
}
