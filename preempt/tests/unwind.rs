//! The entry stub's unwind information: from a vector handler, and from every single instruction of the stub, an unwinder finds its way into the code that
//! was interrupted and on to its callers.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::time::{Duration, Instant};
use unyield_preempt::foreign::AlternateStack;
use unyield_preempt::{Frame, Receiver, backend, gate, unmask};

const VECTOR: u8 = 5;

// The unwinder that std is linked with.
unsafe extern "C" {
    fn _Unwind_Backtrace(callback: extern "C" fn(*mut (), *mut Found) -> i32, data: *mut Found) -> i32;
    fn _Unwind_GetIPInfo(context: *mut (), before: *mut i32) -> usize;
    fn _Unwind_FindEnclosingFunction(ip: usize) -> usize;
    fn unyield_entry_soft();
    fn unyield_soft_closed();
}

/// What a walk up the stack has met.
#[repr(C)]
#[derive(Default)]
struct Found {
    interrupted: bool,
    caller: bool,
    depth: usize,
    /// The interrupted frame's address, which is not one of a return.
    exact: usize,
}

extern "C" fn frame(context: *mut (), found: *mut Found) -> i32 {
    // SAFETY: called by the unwinder with its context and our pointer.
    unsafe {
        let mut before = 0;
        let ip = _Unwind_GetIPInfo(context, &mut before);
        if ip == 0 {
            return 0; // the end of the stack
        }
        let function = _Unwind_FindEnclosingFunction(ip - usize::from(before == 0));
        let found = &mut *found;
        found.depth += 1;
        if function == computes as *const () as usize {
            assert!(
                before != 0 || found.depth > 1 && found.exact == 0,
                "a frame that was interrupted looks like one that called"
            );
            found.interrupted = true;
            found.exact = ip;
        }
        if found.interrupted && function == calls as *const () as usize {
            found.caller = true;
        }
        if found.depth > 100 { 5 } else { 0 }
    }
}

fn walk() -> Found {
    let mut found = Found::default();
    // SAFETY: the callback keeps to the unwinder's contract; nothing is allocated by either.
    unsafe { _Unwind_Backtrace(frame, &mut found) };
    found
}

static RECEIVER: AtomicUsize = AtomicUsize::new(0);
static STOP: AtomicBool = AtomicBool::new(false);
static HANDLED: AtomicU64 = AtomicU64::new(0);
static WALKED: AtomicU64 = AtomicU64::new(0);
/// The vector handler returns with the trap flag set.
static STEP: AtomicBool = AtomicBool::new(false);

fn receiver() -> &'static Receiver {
    // SAFETY: leaked before anybody asks.
    unsafe { &*(RECEIVER.load(Acquire) as *const Receiver) }
}

/// What is interrupted: a leaf that uses its red zone, and changes registers that an unwinder has to restore.
#[inline(never)]
fn computes(rounds: u64) -> u64 {
    let mut sum = rounds;
    for i in 0..rounds {
        sum = black_box(sum.wrapping_mul(31).wrapping_add(i));
    }
    sum
}

#[inline(never)]
fn calls() -> u64 {
    let mut sum = 0u64;
    while !STOP.load(Relaxed) {
        sum = sum.wrapping_add(computes(200_000));
    }
    black_box(sum)
}

unsafe fn on_vector(_: &Receiver, frame: Option<&mut Frame>) {
    HANDLED.fetch_add(1, Relaxed);
    let Some(frame) = frame else { return };
    let flags: u64;
    // SAFETY: reads the flags.
    unsafe { std::arch::asm!("pushfq", "pop {}", out(reg) flags) };
    if flags & 0x100 != 0 {
        return; // the way back of an earlier one is being looked at, instruction by instruction
    }
    // SAFETY: looks up an address.
    if unsafe { _Unwind_FindEnclosingFunction(frame.rip as usize) } != computes as *const () as usize {
        return; // interrupted between two rounds
    }
    let found = walk();
    assert!(
        found.interrupted && found.caller,
        "no way from the handler to the interrupted function after {} frames",
        found.depth
    );
    assert_eq!(found.exact as u64, frame.rip);
    WALKED.fetch_add(1, Relaxed);
    if STEP.swap(false, Relaxed) {
        // SAFETY: sets the trap flag; from here on each instruction raises SIGTRAP, until the stub restores the interrupted flags.
        unsafe { std::arch::asm!("pushfq", "or dword ptr [rsp], 0x100", "popfq") };
    }
}

/// Runs `test` on a thread that can be interrupted, and posts to it until it has done `enough`.
fn interrupt(pause: Duration, enough: impl Fn() -> bool) {
    backend::signal::install(libc::SIGURG).unwrap();
    let mut receiver_box = Box::new(Receiver::new());
    // SAFETY: the handler neither allocates nor locks nor runs user code (the unwinder only reads).
    unsafe { receiver_box.on_vector(VECTOR, on_vector) };
    RECEIVER.store(Box::leak(receiver_box) as *const Receiver as usize, Release);
    STOP.store(false, Relaxed);
    walk(); // the unwinder's first use may allocate
    let thread = std::thread::spawn(|| {
        let _alternate = AlternateStack::install().unwrap();
        // SAFETY: this thread's own stack bounds, gate and receiver; the receiver lives for ever.
        unsafe {
            let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
            let (mut low, mut size) = (std::ptr::null_mut(), 0);
            assert_eq!(libc::pthread_getattr_np(libc::pthread_self(), &mut attributes), 0);
            libc::pthread_attr_getstack(&attributes, &mut low, &mut size);
            libc::pthread_attr_destroy(&mut attributes);
            walk();
            let gate = gate::gate();
            gate.prepare(low as usize, low as usize + size);
            gate.set_receiver(receiver());
            receiver().attach(libc::SIGURG);
            unmask();
            calls();
            unyield_preempt::mask();
            receiver().detach();
            gate.set_receiver(std::ptr::null());
            gate.open();
        }
    });
    let start = Instant::now();
    while !enough() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "too little has happened: {} interrupts, {} walks, {} steps, {} in the stub",
            HANDLED.load(Relaxed),
            WALKED.load(Relaxed),
            STEPS.load(Relaxed),
            IN_STUB.load(Relaxed)
        );
        assert!(!thread.is_finished(), "the interrupted thread has failed");
        receiver().post(VECTOR);
        std::thread::sleep(pause);
    }
    STOP.store(true, Relaxed);
    thread.join().unwrap();
}

static STEPS: AtomicU64 = AtomicU64::new(0);
static IN_STUB: AtomicU64 = AtomicU64::new(0);
static LOST: AtomicU64 = AtomicU64::new(0);
static LOST_AT: AtomicUsize = AtomicUsize::new(0);
static POSTED: AtomicU64 = AtomicU64::new(0);
/// Offsets in the stub that were seen, one bit each.
static SEEN: [AtomicU64; 16] = [const { AtomicU64::new(0) }; 16];

extern "C" fn on_trap(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the third argument of a signal handler.
    let ip =
        unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize] } as usize;
    STEPS.fetch_add(1, Relaxed);
    // SAFETY: looks up an address.
    let function = unsafe { _Unwind_FindEnclosingFunction(ip) };
    if function == computes as *const () as usize || function == calls as *const () as usize {
        // A signal completed the return and left the trap flag, as it does for debuggers.
        // SAFETY: as above.
        unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_EFL as usize] &= !0x100 };
        return;
    }
    let stub = unyield_entry_soft as *const () as usize;
    if !(stub..unyield_soft_closed as *const () as usize + 64).contains(&ip) {
        return;
    }
    IN_STUB.fetch_add(1, Relaxed);
    let offset = ip - stub;
    SEEN[offset / 64].fetch_or(1 << (offset % 64), Relaxed);
    let found = walk();
    if !(found.interrupted && found.caller) {
        LOST.fetch_add(1, Relaxed);
        LOST_AT.store(offset, Relaxed);
    }
    // Once in each pass, while the gate is still closed: one more request, so that the stub goes round again, through its beginning.
    if ip < unyield_soft_closed as *const () as usize
        && gate::gate().depth() == 1
        && POSTED.fetch_add(1, Relaxed) % 40 == 7
    {
        receiver().post(VECTOR);
    }
}

#[test]
fn from_the_handler_and_from_every_instruction_of_the_stub() {
    interrupt(Duration::from_micros(200), || WALKED.load(Relaxed) >= 200);
    // SAFETY: a handler with three arguments on an alternate stack.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_trap as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        libc::sigfillset(&mut action.sa_mask);
        assert_eq!(libc::sigaction(libc::SIGTRAP, &action, std::ptr::null_mut()), 0);
    }
    interrupt(Duration::from_millis(1), || {
        // one at a time: a step is slow, and a request that comes meanwhile makes the way longer
        let mut steps = u64::MAX;
        while steps != STEPS.load(Relaxed) {
            steps = STEPS.load(Relaxed);
            std::thread::sleep(Duration::from_millis(3));
        }
        STEP.store(true, Relaxed);
        IN_STUB.load(Relaxed) >= 800
    });
    let seen: u32 = SEEN.iter().map(|word| word.load(Relaxed).count_ones()).sum();
    println!("{} steps, {} in the stub at {seen} instructions", STEPS.load(Relaxed), IN_STUB.load(Relaxed));
    assert_eq!(
        LOST.load(Relaxed),
        0,
        "the unwinder gets lost, for one at offset {} of the stub",
        LOST_AT.load(Relaxed)
    );
    assert!(seen > 70, "only {seen} instructions of the stub were looked at");
}
