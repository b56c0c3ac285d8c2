//! The model of User Interrupts, case by case: operands, frames, faults, the kernel's answers, signals and system calls; then the library's own entry and
//! receivers on it, up to a storm. Random programs: `model_spec`.
//!
//! One test at a time: signal handlers and the target table belong to the process. `UNYIELD_LONG=1`: a longer storm.

use std::arch::{asm, global_asm};
use std::cell::{Cell, RefCell};
use std::hint::black_box;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};
use unyield_preempt::arch::insn;
use unyield_preempt::backend::model;
use unyield_preempt::backend::uintr::kernel::Interface;
use unyield_preempt::backend::uintr::section::Open;
use unyield_preempt::foreign::AlternateStack;
use unyield_preempt::vector::Handler;
use unyield_preempt::{Frame, Mechanism, Receiver, gate, mask, unmask};

/// The model's system calls: what is registered here is entered as a CPU would, and saves all that it uses.
fn kernel() -> &'static Interface {
    // SAFETY: as it says.
    unsafe { model::interface() }
}

fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Waits until `done`, at most for ten seconds; then false.
fn comes(done: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while !done() {
        if start.elapsed() > Duration::from_secs(10) {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    assert!(comes(done), "{what} does not happen");
}

// ------------------------------------------------------------------------------------------------ a receiver with an entry of its own

/// What the CPU pushes, upwards.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Pushed {
    vector: u64,
    rip: u64,
    rflags: u64,
    rsp: u64,
}

#[derive(Clone, Copy, Debug)]
struct Arrival {
    pushed: Pushed,
    at: u64,
    flags_on_entry: u64,
    uif: bool,
}

thread_local! {
    static ARRIVALS: RefCell<Vec<Arrival>> = const { RefCell::new(Vec::new()) };
}
/// Arrivals on any thread, by vector.
static COUNT: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];

global_asm!(
    ".pushsection .text.model_test_entry, \"ax\", @progbits",
    ".globl model_test_entry",
    "model_test_entry:",
    ".irp reg, rax, rcx, rdx, rsi, rdi, r8, r9, r10, r11, rbx, rbp, r12, r13, r14, r15",
    "push \\reg",
    ".endr",
    "pushfq",
    "pop rsi",
    "push 0x202",
    "popfq",
    "lea rdi, [rsp + 120]",
    "mov rbx, rsp",
    "sub rsp, 512",
    "and rsp, -16",
    "fxsave64 [rsp]",
    "call {handler}",
    "fxrstor64 [rsp]",
    "mov rsp, rbx",
    ".irp reg, r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rdi, rsi, rdx, rcx, rax",
    "pop \\reg",
    ".endr",
    "lea rsp, [rsp + 8]",
    "uiret",
    ".popsection",
    handler = sym on_interrupt,
);

unsafe extern "C" fn on_interrupt(pushed: *const Pushed, flags_on_entry: u64) {
    // SAFETY: the frame that this was entered with.
    let frame = unsafe { *pushed };
    COUNT[frame.vector as usize].fetch_add(1, SeqCst);
    let arrival = Arrival { pushed: frame, at: pushed as u64, flags_on_entry, uif: insn::testui() };
    ARRIVALS.with(|arrivals| {
        if let Ok(mut arrivals) = arrivals.try_borrow_mut()
            && arrivals.len() < arrivals.capacity()
        {
            arrivals.push(arrival); // without allocation: it may have interrupted the allocator
        }
    });
}

fn arrivals() -> Vec<Arrival> {
    ARRIVALS.with(|arrivals| {
        let taken = arrivals.borrow().clone();
        arrivals.borrow_mut().clear();
        taken
    })
}

fn vectors() -> Vec<u64> {
    arrivals().iter().map(|arrival| arrival.pushed.vector).collect()
}

unsafe extern "C" {
    fn model_test_entry();
}

fn entry() -> usize {
    model_test_entry as *const () as usize
}

/// The calling thread as a receiver with UIF = 1, from `new` to drop.
struct Plain {
    indices: RefCell<Vec<u32>>,
    _alternate: AlternateStack,
}

impl Plain {
    fn new() -> Plain {
        model::install().unwrap();
        let alternate = AlternateStack::install().unwrap();
        ARRIVALS.set(Vec::with_capacity(256));
        (kernel().register_handler)(entry()).unwrap();
        stui();
        Plain { indices: RefCell::new(Vec::new()), _alternate: alternate }
    }

    fn index(&self, vector: u64) -> u64 {
        let index = kernel().register_self.unwrap()(vector).unwrap();
        self.indices.borrow_mut().push(index);
        index.into()
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        clui();
        for index in self.indices.take() {
            let _ = (kernel().unregister_sender)(index);
        }
        let _ = (kernel().unregister_handler)();
    }
}

fn clui() {
    // SAFETY: the model is installed.
    unsafe { insn::clui() }
}

fn stui() {
    // SAFETY: the model is installed, and this thread's entry is in order.
    unsafe { insn::stui() }
}

fn send(index: u64) {
    // SAFETY: the model is installed; a bad index faults, which is what some tests want.
    unsafe { insn::senduipi(index) }
}

// ------------------------------------------------------------------------------------------------------------------- operands

global_asm!(
    ".pushsection .text.model_test_send, \"ax\", @progbits",
    ".macro MODEL_TEST_SEND reg",
    ".balign 64",
    "push \\reg",
    "mov \\reg, rdi",
    "senduipi \\reg",
    "pop \\reg",
    "ret",
    ".endm",
    ".balign 64",
    ".globl model_test_sends",
    "model_test_sends:",
    ".irp reg, rax, rcx, rdx, rbx",
    "MODEL_TEST_SEND \\reg",
    ".endr",
    ".balign 64",
    "mov rax, rsp",
    "mov rsp, rdi", // nothing is delivered meanwhile
    "senduipi rsp",
    "mov rsp, rax",
    "ret",
    ".irp reg, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15",
    "MODEL_TEST_SEND \\reg",
    ".endr",
    // ignored prefixes, each before the F3; then several; then REX bits that mean nothing here, and an F2 that F3 overrides
    ".irp prefix, 0x66, 0x67, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65, 0xf2",
    ".balign 64",
    ".byte \\prefix, 0xf3, 0x0f, 0xc7, 0xf7",
    "ret",
    ".endr",
    ".irp rex, 0x40, 0x42, 0x44, 0x46, 0x48, 0x4e",
    ".balign 64",
    ".byte 0xf3, \\rex, 0x0f, 0xc7, 0xf7",
    "ret",
    ".endr",
    ".balign 64",
    ".byte 0xf3, 0x66, 0x66, 0x2e, 0x0f, 0xc7, 0xf7", // between F3 and the opcode
    "ret",
    ".balign 64",
    ".byte 0x41, 0xf3, 0x0f, 0xc7, 0xf7", // a REX that is not last is void: rdi, not r15
    "ret",
    ".balign 64",
    ".byte 0xf3, 0x41, 0x66, 0x0f, 0xc7, 0xf7",
    "ret",
    ".popsection",
);
/// Functions of the index, 64 bytes apart.
const SENDS: usize = 16 + 9 + 6 + 3;

unsafe extern "C" {
    fn model_test_sends(index: u64);
}

#[test]
fn senduipi_takes_every_register_and_ignores_prefixes() {
    let _alone = alone();
    let receiver = Plain::new();
    let index = receiver.index(9);
    assert!(index < 64, "RSP is to hold it");
    for n in 0..SENDS {
        clui();
        let trapped = model::state().trapped;
        // SAFETY: one of the functions above, as many as there are.
        unsafe {
            let send: unsafe extern "C" fn(u64) =
                std::mem::transmute(model_test_sends as *const () as usize + 64 * n);
            send(index);
        }
        let state = model::state();
        assert_eq!((state.uirr, state.on, state.pir), (1 << 9, false, 0), "function {n}");
        assert_eq!(state.trapped - trapped, 1, "function {n}");
        stui();
        assert_eq!(vectors(), [9], "function {n}");
    }
}

// --------------------------------------------------------------------------------------------------------------------- frames

/// The assembly knows the offsets.
#[repr(C)]
#[derive(Default)]
struct Site {
    index: u64,
    flags: u64,
    skew: u64,
    rsp: u64,
    after: u64,
    red_zone: [u64; 16],
}

// rbx = the site: fills the red zone, executes SENDUIPI with the site's flags, and copies the red zone before anything is pushed.
global_asm!(
    ".pushsection .text.model_test_site, \"ax\", @progbits",
    ".globl model_test_site, model_test_site_end",
    "model_test_site:",
    "push rbx",
    "push rbp",
    "mov rbp, rsp",
    "mov rbx, rdi",
    "sub rsp, 1024",
    "and rsp, -16",
    "sub rsp, [rbx + 16]",
    "mov [rbx + 24], rsp",
    "mov rdi, [rbx]",
    "push [rbx + 8]",
    "popfq",
    ".irp word, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16",
    "mov qword ptr [rsp - 8 * \\word], 1000 + \\word",
    ".endr",
    "senduipi rdi",
    "model_test_site_end:",
    ".irp word, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16",
    "mov rax, [rsp - 8 * \\word]",
    "mov [rbx + 32 + 8 * \\word], rax",
    ".endr",
    "pushfq",
    "pop [rbx + 32]",
    "push 0x202",
    "popfq",
    "mov rsp, rbp",
    "pop rbp",
    "pop rbx",
    "ret",
    ".popsection",
);

unsafe extern "C" {
    fn model_test_site(site: *mut Site);
    fn model_test_site_end();
}

#[test]
fn the_frame_is_exact_and_the_red_zone_untouched() {
    const DF: u64 = 1 << 10;
    const AC: u64 = 1 << 18;
    let _alone = alone();
    let receiver = Plain::new();
    let index = receiver.index(33);
    for skew in [0, 8] {
        for extra in [0, DF, AC, DF | AC, 0x8D5, DF | AC | 0x8D5] {
            let flags = 0x202 | extra;
            let mut site = Site { index, flags, skew, ..Default::default() };
            // SAFETY: the site outlives the call.
            unsafe { model_test_site(&mut site) };
            let arrivals = arrivals();
            let [arrival] = arrivals[..] else { panic!("{} interrupts", arrivals.len()) };
            let pushed = arrival.pushed;
            assert_eq!(pushed.vector, 33);
            assert_eq!(pushed.rip, model_test_site_end as *const () as u64);
            assert_eq!(pushed.rsp, site.rsp);
            assert_eq!(pushed.rsp % 16, skew);
            assert_eq!(pushed.rflags, flags, "in the frame");
            assert_eq!(arrival.flags_on_entry, flags, "DF and AC stay as they are");
            assert_eq!(arrival.at, ((site.rsp - 128) & !15) - 32);
            assert!(!arrival.uif);
            assert_eq!(site.after, flags, "after UIRET");
            let filled: Vec<u64> = (1001..=1016).collect();
            assert_eq!(site.red_zone[..], filled[..], "skew {skew}, flags {flags:x}");
        }
    }
    assert!(insn::testui());
}

#[test]
fn the_highest_vector_comes_first_and_each_once() {
    let _alone = alone();
    let receiver = Plain::new();
    let vectors_of = [3u64, 63, 17, 0, 40];
    let indices = vectors_of.map(|vector| receiver.index(vector));
    clui();
    for index in indices {
        send(index);
        send(index);
    }
    assert_eq!(vectors(), []);
    assert_eq!(model::state().uirr, vectors_of.iter().fold(0, |bits, vector| bits | 1 << vector));
    stui();
    assert_eq!(vectors(), [63, 40, 17, 3, 0]);
    assert!(insn::testui());
}

// --------------------------------------------------------------------------------------------------------------------- faults

static FAULTS: AtomicU64 = AtomicU64::new(0);
static FAULT_RIP: AtomicU64 = AtomicU64::new(0);

/// Notes where, and steps over the four bytes of `senduipi rdi`.
unsafe extern "C" fn on_fault(_: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the arguments of a handler.
    unsafe {
        let rip = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize];
        const SI_KERNEL: i32 = 0x80;
        if (*rip as *const u32).read_unaligned() != 0xF7C7_0FF3 || (*info).si_code != SI_KERNEL {
            libc::signal(libc::SIGSEGV, libc::SIG_DFL); // a real one
            return;
        }
        FAULT_RIP.store(*rip as u64, SeqCst);
        FAULTS.fetch_add(1, SeqCst);
        *rip += 4;
    }
}

/// SENDUIPI, and its address.
fn send_at(index: u64) -> u64 {
    let at: u64;
    // SAFETY: the model is installed, and faults are handled.
    unsafe { asm!("lea {at}, [rip + 2f]", "2:", "senduipi rdi", at = out(reg) at, in("rdi") index) }
    at
}

#[test]
fn bad_indices_and_entries_are_general_protection_faults() {
    let _alone = alone();
    let receiver = Plain::new();
    let index = receiver.index(5);
    // SAFETY: the handler has the signature that SA_SIGINFO says; what was there before is restored.
    let before = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let mut before = action;
        action.sa_sigaction = on_fault as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        assert_eq!(libc::sigaction(libc::SIGSEGV, &action, &mut before), 0);
        before
    };
    let mut expected = FAULTS.load(SeqCst);
    let mut faults = |index: u64, why: &str| {
        let at = send_at(index);
        expected += 1;
        assert_eq!((FAULTS.load(SeqCst), FAULT_RIP.load(SeqCst)), (expected, at), "{why}: {index:#x}");
    };
    for bad in [256, 257, 1 << 32, 1 << 63, u64::MAX] {
        faults(bad, "beyond the table");
    }
    faults(255, "an entry that was never valid");
    let valid = 1 | 5 << 8;
    let reserved = (1..8).chain(16..64).map(|bit| valid | 1 << bit);
    for low in reserved.chain([0, 5 << 8, 1 | 64 << 8, 1 | 255 << 8]) {
        // SAFETY: the test's own entry.
        unsafe { model::corrupt_entry(index as usize, low) };
        faults(index, &format!("an entry of {low:#x}"));
    }
    // SAFETY: as above.
    unsafe { model::corrupt_entry(index as usize, valid) };
    assert_eq!(vectors(), [], "a faulting SENDUIPI posts nothing");
    send(index);
    assert_eq!(vectors(), [5]);
    (kernel().unregister_sender)(index as u32).unwrap();
    faults(index, "an entry that was given back");
    // SAFETY: what was there before.
    unsafe { libc::sigaction(libc::SIGSEGV, &before, null_mut()) };
}

const CHILD: &str = "UNYIELD_MODEL_CHILD";

/// Runs `test` of this file in a process of its own, where it finds `role` in the environment.
fn child(test: &str, role: &str) -> std::process::ExitStatus {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, role)
        .output()
        .unwrap();
    println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    output.status
}

/// Ends the child: 42 if the instruction at fault is one that is expected here.
unsafe extern "C" fn on_undefined(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the arguments of a handler; RIP is readable.
    unsafe {
        let rip = (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize];
        let bytes = (rip as *const u32).read_unaligned();
        libc::_exit(if bytes == 0xF7C7_0FF3 || bytes & 0xFFFF == 0x0B0F { 42 } else { 43 });
    }
}

#[test]
fn senduipi_without_a_table_is_undefined() {
    let _alone = alone();
    let Ok(role) = std::env::var(CHILD) else {
        let test = "senduipi_without_a_table_is_undefined";
        assert_eq!(child(test, "send, default").signal(), Some(libc::SIGILL));
        assert_eq!(child(test, "send, handled").code(), Some(42));
        assert_eq!(child(test, "ud2, default").signal(), Some(libc::SIGILL));
        assert_eq!(child(test, "ud2, handled").code(), Some(42));
        return;
    };
    // SAFETY: no core files; the handler ends the process.
    unsafe {
        libc::setrlimit(libc::RLIMIT_CORE, &libc::rlimit { rlim_cur: 0, rlim_max: 0 });
        if role.ends_with("handled") {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_undefined as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            assert_eq!(libc::sigaction(libc::SIGILL, &action, null_mut()), 0);
        }
    }
    model::install().unwrap();
    (kernel().register_handler)(entry()).unwrap(); // a receiver, but nobody has registered as a sender
    if role.starts_with("ud2") {
        // SAFETY: ends the process.
        unsafe { asm!("ud2") }
    }
    send_at(0);
    unreachable!("SENDUIPI was carried out");
}

// ------------------------------------------------------------------------------------------------------------ the kernel's answers

#[test]
fn the_kernel_answers_with_its_errors() {
    let _alone = alone();
    model::install().unwrap();
    let kernel = kernel();
    let register_self = kernel.register_self.unwrap();
    assert_eq!((kernel.register_handler)(0), Err(libc::EFAULT));
    assert_eq!((kernel.unregister_handler)(), Err(libc::EINVAL));
    assert_eq!((kernel.vector_fd)(1), Err(libc::EINVAL));
    assert_eq!(register_self(1), Err(libc::EINVAL));
    let receiver = Plain::new();
    assert_eq!((kernel.register_handler)(entry()), Err(libc::EBUSY));
    for vector in [64, 65, u64::MAX] {
        assert_eq!((kernel.vector_fd)(vector), Err(libc::ENOSPC));
        assert_eq!(register_self(vector), Err(libc::ENOSPC));
    }
    for fd in [-1, 12_345] {
        assert_eq!((kernel.register_sender)(fd), Err(libc::EBADF));
    }
    // the same vector twice gives two descriptors and two entries
    let fds = [21, 21].map(|vector| (kernel.vector_fd)(vector).unwrap());
    assert_ne!(fds[0], fds[1]);
    // SAFETY: reads a flag of a descriptor.
    assert_eq!(unsafe { libc::fcntl(fds[0], libc::F_GETFD) }, libc::FD_CLOEXEC);
    let indices = fds.map(|fd| (kernel.register_sender)(fd).unwrap());
    assert_ne!(indices[0], indices[1]);
    for index in indices {
        send(index.into());
        assert_eq!(vectors(), [21]);
        assert_eq!((kernel.unregister_sender)(index), Ok(()));
        assert_eq!((kernel.unregister_sender)(index), Err(libc::EINVAL));
    }
    for index in [256, u32::MAX] {
        assert_eq!((kernel.unregister_sender)(index), Err(libc::EINVAL));
    }
    // a full table
    let mut all = Vec::new();
    let full = loop {
        match register_self(2) {
            Ok(index) => all.push(index),
            Err(errno) => break errno,
        }
    };
    assert_eq!((full, all.len()), (libc::ENOSPC, 256));
    assert_eq!((kernel.register_sender)(fds[0]), Err(libc::ENOSPC));
    send(all[255].into());
    assert_eq!(vectors(), [2]);
    all.iter().for_each(|&index| (kernel.unregister_sender)(index).unwrap());
    // a receiver that has gone: its descriptor is of no use any more; who sends by an old entry does no harm
    let index = receiver.index(3);
    let delivered = model::state().delivered;
    clui();
    send(index);
    assert_eq!(model::state().uirr, 1 << 3);
    assert_eq!((kernel.unregister_handler)(), Ok(()));
    assert_eq!((kernel.register_sender)(fds[0]), Err(libc::ESHUTDOWN));
    send(index);
    stui();
    assert_eq!(model::state().delivered, delivered, "what was pending is discarded");
    clui();
    assert_eq!((kernel.register_handler)(entry()), Ok(()));
    stui();
    assert_eq!(vectors(), []);
    for fd in fds {
        // SAFETY: opened above; the model knows it no more as soon as nobody asks.
        unsafe { libc::close(fd) };
    }
}

// ---------------------------------------------------------------------------------------------------- signals, system calls, threads

static IN_HANDLER: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_usr1(_: i32) {
    let before = COUNT[12].load(SeqCst);
    send(IN_HANDLER.load(SeqCst));
    IN_HANDLER.store(COUNT[12].load(SeqCst) - before, SeqCst);
}

#[test]
fn an_interrupt_lands_inside_another_signals_handler() {
    let _alone = alone();
    let receiver = Plain::new();
    for masked in [false, true] {
        IN_HANDLER.store(receiver.index(12), SeqCst);
        if masked {
            clui();
        }
        // SAFETY: the handler only uses atomics and an instruction.
        unsafe {
            libc::signal(libc::SIGUSR1, on_usr1 as *const () as usize);
            libc::raise(libc::SIGUSR1);
        }
        assert_eq!(
            IN_HANDLER.load(SeqCst),
            u64::from(!masked),
            "UIF is neither saved nor changed by a signal"
        );
        stui();
        assert_eq!(vectors(), [12]);
    }
}

#[test]
fn a_blocked_read_goes_on_after_an_interrupt() {
    let _alone = alone();
    let receiver = Plain::new();
    let index = receiver.index(14);
    let mut pipe = [0; 2];
    // SAFETY: two descriptors.
    assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
    let (before, write) = (COUNT[14].load(SeqCst), pipe[1]);
    let sender = std::thread::spawn(move || {
        for n in 1..=5 {
            std::thread::sleep(Duration::from_millis(5));
            send(index);
            wait_until("the interrupt of a blocked thread", || COUNT[14].load(SeqCst) == before + n);
        }
        // SAFETY: one byte into the pipe.
        unsafe { libc::write(write, b"x".as_ptr().cast(), 1) }
    });
    let mut byte = 0u8;
    // SAFETY: one byte from the pipe.
    let read = unsafe { libc::read(pipe[0], (&raw mut byte).cast(), 1) };
    assert_eq!((read, byte, COUNT[14].load(SeqCst)), (1, b'x', before + 5));
    assert_eq!(sender.join().unwrap(), 1);
    for fd in pipe {
        // SAFETY: ours.
        unsafe { libc::close(fd) };
    }
}

#[test]
fn senders_on_other_threads_lose_nothing() {
    const ROUNDS: u64 = 100;
    let _alone = alone();
    let receiver = Plain::new();
    let before = |vector: u64| COUNT[vector as usize].load(SeqCst);
    let senders: Vec<_> = [50u64, 51, 52]
        .map(|vector| {
            let (index, before) = (receiver.index(vector), before(vector));
            std::thread::spawn(move || {
                for n in 1..=ROUNDS {
                    send(index);
                    wait_until("an interrupt", || COUNT[vector as usize].load(SeqCst) >= before + n);
                }
                assert_eq!(COUNT[vector as usize].load(SeqCst), before + ROUNDS);
            })
        })
        .into();
    while !senders.iter().all(|sender| sender.is_finished()) {
        clui();
        black_box([1u64; 8]);
        stui();
    }
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    let state = model::state();
    assert_eq!((state.uif, state.uirr, state.on, state.pir), (true, 0, false, 0));
}

// ------------------------------------------------------------------------------------------------------------ sections by CLUI, STUI

#[inline(never)]
extern "C" fn empty_section(open: &mut Open) {
    open.closed(|| ());
}

#[inline(never)]
extern "C" fn counting_section(open: &mut Open, counter: &mut u64) {
    open.closed(|| *counter += 1);
}

const CLUI: [u8; 4] = [0xF3, 0x0F, 0x01, 0xEE];
const STUI: [u8; 4] = [0xF3, 0x0F, 0x01, 0xEF];

#[test]
fn a_section_is_clui_and_stui() {
    let _alone = alone();
    let receiver = Plain::new();
    let index = receiver.index(6);
    // SAFETY: a receiver with UIF = 1, and the only token of this thread.
    let mut open = unsafe { Open::new() };
    let trapped = model::state().trapped;
    let mut counter = 0;
    black_box(empty_section as extern "C" fn(&mut Open))(&mut open);
    black_box(counting_section as extern "C" fn(&mut Open, &mut u64))(&mut open, &mut counter);
    assert_eq!((counter, model::state().trapped - trapped), (1, 4));
    open.closed(|| {
        send(index);
        assert_eq!(vectors(), []);
        assert!(!insn::testui());
    });
    assert_eq!(vectors(), [6]);
    let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        open.closed(|| {
            send(index);
            std::panic::resume_unwind(Box::new(()))
        })
    }));
    assert!(panics.is_err() && insn::testui(), "a section ends by a panic, too");
    assert_eq!(vectors(), [6]);

    if cfg!(debug_assertions) {
        return; // what follows is about optimised code
    }
    let code = |function: usize| {
        // SAFETY: machine code of this program, at least so long.
        unsafe { std::slice::from_raw_parts(function as *const u8, 32) }
    };
    let empty = code(empty_section as *const () as usize);
    assert_eq!((&empty[..4], &empty[4..8], empty[8]), (&CLUI[..], &STUI[..], 0xC3), "{empty:x?}");
    let counting = code(counting_section as *const () as usize);
    // inc qword ptr [rsi], or add qword ptr [rsi], 1
    let length = if counting[4..].starts_with(&[0x48, 0xFF, 0x06]) { 3 } else { 4 };
    assert!(length == 3 || counting[4..].starts_with(&[0x48, 0x83, 0x06, 0x01]), "{counting:x?}");
    let end = &counting[4 + length..];
    assert_eq!((&counting[..4], &end[..4], end[4]), (&CLUI[..], &STUI[..], 0xC3), "{counting:x?}");
}

// ------------------------------------------------------------------------------------------------------- receivers of the library

/// Runs `body` on a thread that is attached by the model, with the handlers given; its gate is open.
fn on_receiver<R: Send>(handlers: &[(u8, Handler)], body: impl FnOnce(&'static Receiver) -> R + Send) -> R {
    Mechanism::Model.install(libc::SIGURG).unwrap();
    let mut receiver = Box::new(Receiver::new());
    for &(vector, handler) in handlers {
        // SAFETY: the handlers of this file use atomics and registers only.
        unsafe { receiver.on_vector(vector, handler) };
    }
    let receiver: &'static Receiver = Box::leak(receiver);
    let attached = || {
        let _alternate = AlternateStack::install().unwrap();
        // SAFETY: this thread's own stack bounds, gate and receiver; the receiver lives for ever.
        unsafe {
            let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
            let (mut low, mut size) = (null_mut(), 0);
            assert_eq!(libc::pthread_getattr_np(libc::pthread_self(), &mut attributes), 0);
            libc::pthread_attr_getstack(&attributes, &mut low, &mut size);
            libc::pthread_attr_destroy(&mut attributes);
            let gate = gate::gate();
            gate.set_receiver(receiver);
            receiver.register(Mechanism::Model).unwrap();
            gate.prepare(low as usize, low as usize + size);
            gate.return_by_uiret(true);
            receiver.attach(libc::SIGURG);
            unmask();
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(receiver)));
            mask();
            receiver.detach();
            receiver.unregister();
            gate.set_receiver(null());
            gate.open();
            result
        }
    };
    let result = std::thread::scope(|scope| scope.spawn(attached).join().unwrap());
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

static ORDER: AtomicU64 = AtomicU64::new(0);
static HANDLED: AtomicU64 = AtomicU64::new(0);
static MASKED_IN_HANDLER: AtomicU64 = AtomicU64::new(0);
static AT_CALL_BOUNDARY: AtomicU64 = AtomicU64::new(0);

fn note(receiver: &Receiver, vector: u8, frame: bool) {
    ORDER.store(ORDER.load(SeqCst) << 8 | u64::from(vector), SeqCst);
    MASKED_IN_HANDLER.fetch_add(u64::from(!receiver.is_open()), SeqCst);
    AT_CALL_BOUNDARY.fetch_add(u64::from(!frame), SeqCst);
    HANDLED.fetch_add(1, SeqCst);
}

unsafe fn on_one(receiver: &Receiver, frame: Option<&mut Frame>) {
    note(receiver, 1, frame.is_some());
}
unsafe fn on_two(receiver: &Receiver, frame: Option<&mut Frame>) {
    note(receiver, 2, frame.is_some());
}
unsafe fn on_three(receiver: &Receiver, frame: Option<&mut Frame>) {
    note(receiver, 3, frame.is_some());
}
/// Posts the others while it runs: they come after it, highest first.
unsafe fn on_four(receiver: &Receiver, frame: Option<&mut Frame>) {
    note(receiver, 4, frame.is_some());
    for vector in [1, 3, 2] {
        receiver.post(vector);
    }
}

const NOTED: [(u8, Handler); 4] = [(1, on_one), (2, on_two), (3, on_three), (4, on_four)];

#[test]
fn a_receiver_takes_the_highest_first_and_with_uif_set() {
    let _alone = alone();
    MASKED_IN_HANDLER.store(0, SeqCst);
    AT_CALL_BOUNDARY.store(0, SeqCst);
    on_receiver(&NOTED, |receiver| {
        ORDER.store(0, SeqCst);
        mask();
        for vector in [2, 1, 3] {
            receiver.post(vector);
        }
        assert_eq!(ORDER.load(SeqCst), 0);
        // SAFETY: pairs with the `mask` above.
        unsafe { unmask() };
        assert_eq!(ORDER.swap(0, SeqCst), 0x03_02_01, "at the end of a section");
        assert_eq!(AT_CALL_BOUNDARY.swap(0, SeqCst), 3);
        let deferred = receiver.counters.deferred.load(Relaxed);
        receiver.post(4);
        assert_eq!(ORDER.swap(0, SeqCst), 0x04_03_02_01, "from a frame");
        assert_eq!(
            receiver.counters.deferred.load(Relaxed) - deferred,
            3,
            "each of its posts has interrupted the handler for a moment"
        );
        assert_eq!(AT_CALL_BOUNDARY.load(SeqCst), 0);
        assert!(receiver.is_open());
        assert_eq!(receiver.pending(), 0);
    });
    assert_eq!(MASKED_IN_HANDLER.load(SeqCst), 0, "UIF is 1 again before handlers run");
}

thread_local! {
    static ERRNO: Cell<*mut i32> = const { Cell::new(null_mut()) };
}

/// Leaves nothing of the floating point registers, nor of errno.
unsafe fn on_dirty(_: &Receiver, _: Option<&mut Frame>) {
    // SAFETY: all that is changed is restored by the entry stub, or declared; errno is this thread's.
    unsafe {
        *ERRNO.get() = 77;
        let mxcsr = 0x1FC0u32; // denormals are zero
        asm!("ldmxcsr [{}]", "fninit", "fldpi", "fldpi", in(reg) &raw const mxcsr);
        asm!(
            ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
            "pcmpeqd xmm\\n, xmm\\n",
            ".endr",
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            options(nostack),
        );
        asm!("fninit", "ldmxcsr [{}]", in(reg) &raw const CLEAN);
        asm!("fldz"); // an x87 stack that is not empty; the stub replaces it
    }
    HANDLED.fetch_add(1, SeqCst);
}
static CLEAN: u32 = 0x1F80;

// Fills xmm0–15 from [rdi], sets MXCSR to [rdi + 256] and pushes 1 and pi on the x87 stack; waits until the word at rsi changes; stores all of it to [rdx].
global_asm!(
    ".pushsection .text.model_test_float, \"ax\", @progbits",
    ".globl model_test_float",
    "model_test_float:",
    "sub rsp, 8",
    "stmxcsr [rsp]",
    "ldmxcsr [rdi + 256]",
    "fld1",
    "fldpi",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "movdqu xmm\\n, [rdi + 16 * \\n]",
    ".endr",
    "mov rax, [rsi]",
    "inc dword ptr [rcx]", // ready
    "2:",
    "cmp rax, [rsi]",
    "je 2b",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "movdqu [rdx + 16 * \\n], xmm\\n",
    ".endr",
    "stmxcsr [rdx + 256]",
    "fstp qword ptr [rdx + 264]",
    "fstp qword ptr [rdx + 272]",
    "ldmxcsr [rsp]",
    "add rsp, 8",
    "ret",
    ".popsection",
);

#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Debug)]
struct Floats {
    xmm: [[u64; 2]; 16],
    mxcsr: u32,
    st: [f64; 2],
}

unsafe extern "C" {
    fn model_test_float(
        load: *const Floats,
        until: *const AtomicU64,
        store: *mut Floats,
        ready: *const AtomicI32,
    );
}

#[test]
fn floating_point_state_and_errno_are_kept() {
    const ROUNDS: i32 = 100;
    let _alone = alone();
    static READY: AtomicI32 = AtomicI32::new(0);
    static TARGET: AtomicUsize = AtomicUsize::new(0);
    static LOST: AtomicBool = AtomicBool::new(false);
    TARGET.store(0, SeqCst);
    READY.store(0, SeqCst);
    let damage = std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=ROUNDS {
                wait_until("the next round", || READY.load(SeqCst) == round);
                let before = HANDLED.load(SeqCst);
                // SAFETY: leaked, and stored before the first round.
                unsafe { (*(TARGET.load(SeqCst) as *const Receiver)).post(7) };
                if !comes(|| HANDLED.load(SeqCst) != before) {
                    LOST.store(true, SeqCst);
                    HANDLED.fetch_add(1, SeqCst); // the other thread waits for it
                    return;
                }
            }
        });
        on_receiver(&[(7, on_dirty)], |receiver| {
            // SAFETY: the address of a word of this thread's.
            let errno = unsafe { libc::__errno_location() };
            ERRNO.set(errno);
            TARGET.store(receiver as *const Receiver as usize, SeqCst);
            let mut damage = None;
            for round in 0..ROUNDS as u64 {
                if LOST.load(SeqCst) {
                    break;
                }
                let mut load =
                    Floats { mxcsr: 0x7F80, st: [std::f64::consts::PI, 1.0], ..Default::default() };
                load.xmm = std::array::from_fn(|n| [round << 8 | n as u64, !(round << 8 | n as u64)]);
                let mut store = Floats::default();
                // SAFETY: as the assembly's comment says; errno is ours.
                unsafe {
                    *errno = 1234;
                    model_test_float(&load, &HANDLED, &mut store, &READY);
                    let kept = (store, *errno);
                    if kept != (load, 1234) && damage.is_none() {
                        damage = Some(kept);
                    }
                }
            }
            damage
        })
    });
    assert!(!LOST.load(SeqCst), "an interrupt is lost");
    assert_eq!(damage, None);
}

// ---------------------------------------------------------------------------------------------------------------------- storm

static STOP: AtomicBool = AtomicBool::new(false);
/// The number of the last post, by vector, and the last that a handler has found.
static POSTED: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
static SEEN: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
static INSIDE: AtomicU64 = AtomicU64::new(0);
static DEEPEST: AtomicU64 = AtomicU64::new(0);
static LOWEST_RSP: AtomicU64 = AtomicU64::new(0);

fn storm_handler<const VECTOR: usize>(receiver: &Receiver, frame: Option<&mut Frame>) {
    DEEPEST.fetch_max(INSIDE.fetch_add(1, SeqCst) + 1, SeqCst);
    if let Some(frame) = frame {
        LOWEST_RSP.fetch_min(frame.rsp, SeqCst);
    }
    MASKED_IN_HANDLER.fetch_add(u64::from(!receiver.is_open()), SeqCst);
    SEEN[VECTOR].store(POSTED[VECTOR].load(SeqCst), SeqCst);
    HANDLED.fetch_add(1, SeqCst);
    INSIDE.fetch_sub(1, SeqCst);
}

/// What is interrupted: calls nothing, so that interrupts find its own stack pointer.
#[inline(never)]
fn works() -> u64 {
    let mut rounds = 0u64;
    while !STOP.load(Relaxed) {
        rounds = black_box(rounds + 1);
    }
    rounds
}

fn thread_time() -> Duration {
    // SAFETY: writes to a local.
    unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }
}

const PAINTED: usize = 64 << 10;
const PAINT: u64 = 0x5A5A_5A5A_5A5A_5A5A;

struct Work {
    /// Rounds a second of the thread's CPU time.
    speed: f64,
    /// Bytes of stack that were written below the worker.
    stack: usize,
    /// How far below the worker's frame the lowest interrupted stack pointer was.
    nested: u64,
}

/// Works until `STOP`, and looks how much stack interrupts have taken meanwhile.
#[inline(never)]
fn measured() -> Work {
    let mark = 0u8;
    let top = (&raw const mark as usize - 2048) & !7;
    LOWEST_RSP.store(u64::MAX, SeqCst);
    mask();
    // SAFETY: below this frame and the few calls made here lies unused stack of this thread: far more than this, and nothing interrupts.
    unsafe {
        for at in (top - PAINTED..top).step_by(8) {
            (at as *mut u64).write_volatile(PAINT);
        }
        unmask();
    }
    let start = thread_time();
    let rounds = works();
    let time = thread_time() - start;
    mask();
    // SAFETY: as above; only reads.
    let untouched = unsafe {
        (top - PAINTED..top).step_by(8).take_while(|&at| (at as *const u64).read_volatile() == PAINT).count()
    };
    // SAFETY: pairs with the `mask` above.
    unsafe { unmask() };
    Work {
        speed: rounds as f64 / time.as_secs_f64(),
        stack: PAINTED - 8 * untouched,
        nested: (&raw const mark as u64).saturating_sub(LOWEST_RSP.load(SeqCst)),
    }
}

#[test]
fn a_storm_loses_nothing_and_frames_do_not_pile_up() {
    let _alone = alone();
    let seconds = if std::env::var_os("UNYIELD_LONG").is_some() { 10 } else { 1 };
    MASKED_IN_HANDLER.store(0, SeqCst);
    DEEPEST.store(0, SeqCst);
    let handlers: [(u8, Handler); 4] = [
        (10, storm_handler::<0>),
        (11, storm_handler::<1>),
        (12, storm_handler::<2>),
        (13, storm_handler::<3>),
    ];
    let ((quiet, storm), handled, deferred, sent, state) = on_receiver(&handlers, |receiver| {
        // A storm of two threads for a time, or one post now and then.
        let run = |time: Duration, storm: bool| {
            STOP.store(false, SeqCst);
            std::thread::scope(|scope| {
                let senders: Vec<_> = (0..2)
                    .map(|sender| {
                        scope.spawn(move || {
                            let start = Instant::now();
                            let mut sent = 0;
                            while start.elapsed() < time {
                                for vector in [sender, sender + 2] {
                                    POSTED[vector].fetch_add(1, SeqCst);
                                    receiver.post(10 + vector as u8);
                                    sent += 1;
                                }
                                if !storm {
                                    std::thread::sleep(Duration::from_millis(20));
                                }
                            }
                            sent
                        })
                    })
                    .collect();
                scope.spawn(move || {
                    let sent: u64 = senders.into_iter().map(|sender| sender.join().unwrap()).sum();
                    let seen = || (0..4).all(|n| SEEN[n].load(SeqCst) == POSTED[n].load(SeqCst));
                    comes(seen);
                    STOP.store(true, SeqCst);
                    SENT.store(sent, SeqCst);
                });
                measured()
            })
        };
        static SENT: AtomicU64 = AtomicU64::new(0);
        let quiet = run(Duration::from_millis(300), false);
        let (handled, deferred) = (HANDLED.load(SeqCst), receiver.counters.deferred.load(Relaxed));
        let storm = run(Duration::from_secs(seconds), true);
        let deferred = receiver.counters.deferred.load(Relaxed) - deferred;
        ((quiet, storm), HANDLED.load(SeqCst) - handled, deferred, SENT.load(SeqCst), model::state())
    });
    println!(
        "storm: {sent} posts in {seconds} s, {handled} handled, {deferred} found the gate closed; work at {:.1} % of its speed; \
         {} bytes of stack, {} without a storm; interrupted at most {} bytes down",
        100.0 * storm.speed / quiet.speed,
        storm.stack,
        quiet.stack,
        storm.nested
    );
    for n in 0..4 {
        assert_eq!(
            SEEN[n].load(SeqCst),
            POSTED[n].load(SeqCst),
            "the last post of vector {} is lost",
            10 + n
        );
    }
    assert!(handled > 10, "hardly a storm");
    assert_eq!((state.uif, state.uirr, state.on, state.pir), (true, 0, false, 0));
    assert_eq!(MASKED_IN_HANDLER.load(SeqCst), 0);
    assert_eq!(DEEPEST.load(SeqCst), 1, "a handler was interrupted by a handler");
    // One frame with everything saved, and on it one of the quick way: red zone, padding, frame, three registers. A second full one takes more. (Without
    // optimisation, what is interrupted calls functions.)
    let calls = if cfg!(debug_assertions) { 256 } else { 0 };
    assert!(
        storm.stack <= quiet.stack + 128 + 16 + 32 + 24 + calls,
        "{} bytes of stack, {} without a storm",
        storm.stack,
        quiet.stack
    );
    // How fast depends on the machine's number of CPUs and what else runs there: printed, not judged.
    assert!(storm.speed > 0.0);
}
