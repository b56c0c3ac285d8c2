//! The model against the manual: random programs of the five instructions and of notifications, executed by the real opcodes, beside a state machine that
//! is written from the SDM's pseudo-code and knows nothing of the model. After every step the two must agree; at every delivery also in the frame.
//!
//! `PROPTEST_CASES` says how many programs.

use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use std::arch::global_asm;
use std::cell::RefCell;
use unyield_preempt::arch::insn;
use unyield_preempt::backend::model;
use unyield_preempt::backend::uintr::kernel::Interface;

/// The model's system calls: what is registered here is entered as a CPU would, and saves all that it uses.
fn kernel() -> &'static Interface {
    // SAFETY: as it says.
    unsafe { model::interface() }
}

const CF: u64 = 1;
const PF: u64 = 1 << 2;
const AF: u64 = 1 << 4;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const TF: u64 = 1 << 8;
const IF: u64 = 1 << 9;
const DF: u64 = 1 << 10;
const OF: u64 = 1 << 11;
const RF: u64 = 1 << 16;
const AC: u64 = 1 << 18;
/// Bit 1 of RFLAGS, which always reads as 1, and IF, which user code cannot change.
const FIXED: u64 = 2 | IF;
/// The flags that programs play with.
const FLAGS: [u64; 9] = [CF, PF, AF, ZF, SF, TF, DF, OF, AC];

// ---------------------------------------------------------------------------------------------------------------- the manual

/// What the SDM says a processor holds. Vol. 3, "User Interrupts"; vol. 2, the instructions.
#[derive(Default, Debug)]
struct Spec {
    uif: bool,
    uirr: u64,
    // the descriptor
    on: bool,
    pir: u64,
    /// The notification's interrupt has been sent and not arrived.
    ipi: bool,
    /// The processor does not take it yet: the thread has blocked the model's signal.
    held: bool,
    flexible: bool,
}

impl Spec {
    fn senduipi(&mut self, vector: u8) {
        self.pir |= 1 << vector;
        if !self.on {
            self.on = true;
            self.ipi = true;
        }
    }

    /// CF := UIF; ZF, AF, OF, PF, SF := 0.
    fn testui(&self, flags: u64) -> u64 {
        flags & !(CF | ZF | AF | OF | PF | SF) | u64::from(self.uif)
    }

    /// UIF := 1, or bit 1 of the image where that is enumerated; the flags of the mask 254DD5H come from the image.
    fn uiret(&mut self, flags: u64, image: u64) -> u64 {
        const POPPED: u64 = 0x25_4DD5;
        self.uif = !self.flexible || image & 2 != 0;
        flags & !POPPED | image & POPPED
    }

    /// The end of an instruction: first a notification that has arrived is processed, then an interrupt is recognized and delivered. Its vector.
    fn boundary(&mut self) -> Option<u8> {
        if self.ipi && !self.held {
            self.ipi = false;
            self.on = false;
            self.uirr |= std::mem::take(&mut self.pir);
        }
        if !self.uif || self.uirr == 0 {
            return None;
        }
        let vector = (0..64).rev().find(|vector| self.uirr >> vector & 1 == 1)?;
        self.uirr &= !(1 << vector);
        self.uif = false;
        Some(vector)
    }
}

// ---------------------------------------------------------------------------------------------------------------- the machine

/// What a step of a program needs and tells; the assembly knows the offsets.
#[repr(C)]
#[derive(Default)]
struct Step {
    operands: [u64; 4],
    flags: u64,
    skew: u64,
    rsp: u64,
    after: u64,
}

// One instruction with chosen flags and stack pointer, which are told:
//   rbx = the step; RSP somewhere below the caller's, on 16 or 8 bytes; `…_end` is the boundary after the instruction
global_asm!(
    ".macro SPEC_BEGIN name",
    ".globl spec_\\name, spec_\\name\\()_end",
    "spec_\\name:",
    "push rbx",
    "push rbp",
    "mov rbp, rsp",
    "mov rbx, rdi",
    "sub rsp, 512",
    "and rsp, -16",
    "sub rsp, [rbx + 40]",
    "mov [rbx + 48], rsp",
    "mov rax, [rbx]",
    "mov rdi, [rbx + 8]",
    "mov rsi, [rbx + 16]",
    "mov rdx, [rbx + 24]",
    "mov r10d, 8",
    "push [rbx + 32]",
    "popfq",
    ".endm",
    ".macro SPEC_END name",
    "spec_\\name\\()_end:",
    "pushfq",
    "pop [rbx + 56]",
    "push 0x202",
    "popfq",
    "mov rsp, rbp",
    "pop rbp",
    "pop rbx",
    "ret",
    ".endm",
    ".pushsection .text.spec, \"ax\", @progbits",
    ".irp name, clui, stui, testui, syscall",
    "SPEC_BEGIN \\name",
    "\\name",
    "SPEC_END \\name",
    ".endr",
    "SPEC_BEGIN senduipi",
    "senduipi rax",
    "SPEC_END senduipi",
    "SPEC_BEGIN uiret",
    "push [rbx + 48]",
    "push rax",
    "lea rax, [rip + spec_uiret_end]",
    "push rax",
    "uiret",
    "SPEC_END uiret",
    // Where interrupts enter: the general registers are saved, and the flags noted as they came.
    ".globl spec_entry",
    "spec_entry:",
    ".irp reg, rax, rcx, rdx, rsi, rdi, r8, r9, r10, r11, rbx, rbp, r12, r13, r14, r15",
    "push \\reg",
    ".endr",
    "pushfq",
    "pop rsi",
    "push 0x202",
    "popfq",
    "lea rdi, [rsp + 120]",
    "mov rbx, rsp",
    "and rsp, -16",
    "call {handler}",
    "mov rsp, rbx",
    ".irp reg, r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rdi, rsi, rdx, rcx, rax",
    "pop \\reg",
    ".endr",
    "lea rsp, [rsp + 8]",
    "uiret",
    // The trap flag has done its work; compiled code must not see AC.
    ".globl spec_trap",
    "spec_trap:",
    "and qword ptr [rdx + {context_flags}], ~0x100",
    "ret",
    ".popsection",
    handler = sym on_interrupt,
    context_flags = const std::mem::offset_of!(libc::ucontext_t, uc_mcontext) + 8 * libc::REG_EFL as usize,
);

unsafe extern "C" {
    fn spec_clui(step: *mut Step);
    fn spec_clui_end();
    fn spec_stui(step: *mut Step);
    fn spec_stui_end();
    fn spec_testui(step: *mut Step);
    fn spec_testui_end();
    fn spec_senduipi(step: *mut Step);
    fn spec_senduipi_end();
    fn spec_uiret(step: *mut Step);
    fn spec_uiret_end();
    fn spec_syscall(step: *mut Step);
    fn spec_syscall_end();
    fn spec_entry();
    fn spec_trap();
}

/// What the CPU pushes, upwards.
#[repr(C)]
struct Pushed {
    vector: u64,
    rip: u64,
    rflags: u64,
    rsp: u64,
}

// --------------------------------------------------------------------------------------------------------------- the programs

#[derive(Clone, Copy, Debug)]
enum Op {
    Clui,
    Stui,
    Testui,
    /// Which of the four entries.
    Senduipi(usize),
    /// From a frame that software has built: the image of RFLAGS.
    Uiret(u64),
    /// Notifications wait: the thread blocks the model's signal.
    Hold,
    LetGo,
    /// One that nobody sent for.
    Spurious,
}

#[derive(Clone, Debug)]
struct Instruction {
    op: Op,
    flags: u64,
    skewed: bool,
}

/// What the nth interrupt's handler does.
#[derive(Clone, Debug)]
struct Handler {
    program: Vec<Instruction>,
    /// Clears bit 1 in the frame's RFLAGS: only a flexible UIRET minds.
    stay_masked: bool,
}

#[derive(Clone, Debug)]
struct Case {
    flexible: bool,
    vectors: [u8; 4],
    main: Vec<Instruction>,
    handlers: Vec<Handler>,
}

fn flags() -> impl Strategy<Value = u64> {
    prop::bits::u16::between(0, FLAGS.len()).prop_map(|chosen| {
        let chosen = FLAGS.iter().enumerate().filter(|(i, _)| chosen >> i & 1 == 1);
        chosen.fold(FIXED, |flags, (_, flag)| flags | flag)
    })
}

fn instruction() -> impl Strategy<Value = Instruction> {
    let op = prop_oneof![
        2 => Just(Op::Clui),
        3 => Just(Op::Stui),
        1 => Just(Op::Testui),
        6 => (0usize..4).prop_map(Op::Senduipi),
        2 => (flags(), any::<bool>()).prop_map(|(flags, open)| Op::Uiret(if open { flags } else { flags & !2 })),
        1 => Just(Op::Hold),
        2 => Just(Op::LetGo),
        1 => Just(Op::Spurious),
    ];
    (op, flags(), any::<bool>()).prop_map(|(op, flags, skewed)| Instruction { op, flags, skewed })
}

fn case() -> impl Strategy<Value = Case> {
    let handler = (prop::collection::vec(instruction(), 0..6), any::<bool>())
        .prop_map(|(program, stay_masked)| Handler { program, stay_masked });
    (
        any::<bool>(),
        prop::array::uniform4(0u8..64),
        prop::collection::vec(instruction(), 1..24),
        prop::collection::vec(handler, 0..8),
    )
        .prop_map(|(flexible, vectors, main, handlers)| Case { flexible, vectors, main, handlers })
}

// ------------------------------------------------------------------------------------------------------------------ lock-step

/// Where an interrupt may find the program now, and what it would find.
#[derive(Clone, Copy)]
struct Boundary {
    rip: u64,
    rflags: u64,
    step: *const Step,
}

struct Run {
    spec: Spec,
    indices: [u32; 4],
    case: Case,
    delivered: usize,
    /// Innermost last.
    boundaries: Vec<Boundary>,
    /// What has to come before the next instruction.
    due: Option<u8>,
    failure: Option<String>,
}

thread_local! {
    static RUN: RefCell<Option<Run>> = const { RefCell::new(None) };
}

fn with<R>(f: impl FnOnce(&mut Run) -> R) -> R {
    RUN.with(|run| f(run.borrow_mut().as_mut().expect("a program runs")))
}

impl Run {
    fn expect<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, found: T, expected: T) {
        if found != expected && self.failure.is_none() {
            self.failure =
                Some(format!("{what}: found {found:x?}, the manual says {expected:x?}; {:x?}", self.spec));
        }
    }

    fn compare_state(&mut self, when: &str) {
        let state = model::state();
        let found = (state.uif, state.uirr, state.on, state.pir);
        let expected = (self.spec.uif, self.spec.uirr, self.spec.on, self.spec.pir);
        self.expect(&format!("UIF, UIRR, ON, PIR {when}"), found, expected);
    }
}

/// One instruction on both machines.
fn execute(instruction: &Instruction) {
    let mut step =
        Step { flags: instruction.flags, skew: if instruction.skewed { 8 } else { 0 }, ..Default::default() };
    let system_call = |step: &mut Step, operands: [u64; 4]| {
        step.flags &= !TF; // what a single step over a system call does is not the subject
        step.operands = operands;
    };
    let notification = model::notification_signal();
    let mask = 1u64 << (notification - 1);
    type Code = (unsafe extern "C" fn(*mut Step), unsafe extern "C" fn());
    let (code, end): Code = match instruction.op {
        Op::Clui => (spec_clui, spec_clui_end),
        Op::Stui => (spec_stui, spec_stui_end),
        Op::Testui => (spec_testui, spec_testui_end),
        Op::Senduipi(slot) => {
            step.operands[0] = with(|run| run.indices[slot]).into();
            (spec_senduipi, spec_senduipi_end)
        }
        Op::Uiret(image) => {
            step.flags &= !TF; // the step prepares its frame with these
            step.operands[0] = image;
            (spec_uiret, spec_uiret_end)
        }
        Op::Hold | Op::LetGo => {
            let how = if matches!(instruction.op, Op::Hold) { libc::SIG_BLOCK } else { libc::SIG_UNBLOCK };
            let number = libc::SYS_rt_sigprocmask as u64;
            system_call(&mut step, [number, how as u64, &raw const mask as u64, 0]);
            (spec_syscall, spec_syscall_end)
        }
        Op::Spurious => {
            // SAFETY: neither call has preconditions.
            let (process, thread) = unsafe { (libc::getpid(), libc::gettid()) };
            system_call(
                &mut step,
                [libc::SYS_tgkill as u64, process as u64, thread as u64, notification as u64],
            );
            (spec_syscall, spec_syscall_end)
        }
    };
    let go = with(|run| {
        if run.failure.is_some() {
            return false;
        }
        let spec = &mut run.spec;
        let mut after = step.flags;
        match instruction.op {
            Op::Clui => spec.uif = false,
            Op::Stui => spec.uif = true,
            Op::Testui => after = spec.testui(after),
            Op::Senduipi(slot) => spec.senduipi(run.case.vectors[slot]),
            Op::Uiret(image) => after = spec.uiret(after, image),
            Op::Hold => spec.held = true,
            Op::LetGo => spec.held = false,
            Op::Spurious => spec.ipi = true,
        }
        run.due = spec.boundary();
        let step = &raw const step;
        run.boundaries.push(Boundary { rip: end as *const () as u64, rflags: after, step });
        true
    });
    if !go {
        return;
    }
    // SAFETY: the step outlives the call; what is delivered in it enters at `spec_entry`, which keeps the registers that the code uses.
    unsafe { code(&mut step) }
    with(|run| {
        let boundary = run.boundaries.pop().expect("pushed above");
        run.expect("a vector was not delivered", None, run.due);
        run.expect("RFLAGS after the instruction", step.after & !RF, boundary.rflags);
        run.compare_state("after the instruction");
    });
}

fn program(instructions: &[Instruction]) {
    for (at, instruction) in instructions.iter().enumerate() {
        let before = with(|run| run.failure.is_some());
        execute(instruction);
        with(|run| {
            if let (false, Some(failure)) = (before, &mut run.failure) {
                failure.push_str(&format!(", at instruction {at} of its program: {instruction:x?}"));
            }
        });
    }
}

unsafe extern "C" fn on_interrupt(pushed: *mut Pushed, entry_flags: u64) {
    // SAFETY: the frame that this was entered with; the interrupted code's step is alive.
    let (frame, step) = unsafe {
        let Some(boundary) = with(|run| run.boundaries.last().copied()) else { return };
        (&mut *pushed, &*boundary.step)
    };
    let handler = with(|run| {
        let boundary = *run.boundaries.last().expect("looked at above");
        let due = run.due.take();
        run.expect("the vector", Some(frame.vector), due.map(u64::from));
        run.expect("RIP in the frame", frame.rip, boundary.rip);
        run.expect("RFLAGS in the frame", frame.rflags & !RF, boundary.rflags);
        run.expect("RF in the frame of a completed instruction", frame.rflags & RF, 0);
        run.expect("RSP in the frame", frame.rsp, step.rsp);
        run.expect("RSP on entry", pushed as u64, ((step.rsp - 128) & !15) - 32);
        run.expect("RFLAGS on entry", entry_flags, boundary.rflags & !(TF | RF));
        run.compare_state("on entry");
        let handler = run.case.handlers.get(run.delivered).cloned();
        run.delivered += 1;
        handler
    });
    let mut image = frame.rflags | 2;
    if let Some(handler) = handler {
        program(&handler.program);
        if handler.stay_masked {
            image &= !2;
        }
    }
    frame.rflags = image;
    with(|run| {
        // Whatever is interrupted next, it is the same boundary: the code there has not gone on.
        run.spec.uiret(frame.rflags, image);
        run.due = run.spec.boundary();
        if run.failure.is_some() {
            run.due = None;
        }
    });
}

fn run(case: Case) -> Result<(), TestCaseError> {
    model::set_flexible_uiret(case.flexible);
    (kernel().register_handler)(spec_entry as *const () as usize).unwrap();
    let register = kernel().register_self.unwrap();
    let indices = case.vectors.map(|vector| register(vector.into()).unwrap());
    // SAFETY: no interrupt is pending.
    unsafe { insn::clui() }
    let main = case.main.clone();
    let spec = Spec { flexible: case.flexible, ..Default::default() };
    let run = Run { spec, indices, case, delivered: 0, boundaries: Vec::new(), due: None, failure: None };
    RUN.set(Some(run));
    program(&main);
    // What is left is taken over and dropped.
    // SAFETY: as above; the handler of the notification is there.
    unsafe {
        insn::clui();
        insn::set_signal_mask(insn::signal_mask() & !(1 << (model::notification_signal() - 1)));
    }
    for index in indices {
        (kernel().unregister_sender)(index).unwrap();
    }
    (kernel().unregister_handler)().unwrap();
    match RUN.take().and_then(|run| run.failure) {
        None => Ok(()),
        Some(failure) => Err(TestCaseError::fail(failure)),
    }
}

#[test]
fn random_programs_do_what_the_manual_says() {
    model::install().unwrap();
    // SAFETY: the handler only clears the trap flag of the context it is given.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = spec_trap as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        assert_eq!(libc::sigaction(libc::SIGTRAP, &action, std::ptr::null_mut()), 0);
    }
    let mut config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 1000;
    }
    let cases = config.cases;
    let before = model::state().delivered;
    let result = TestRunner::new(config).run(&case(), run);
    if let Err(error) = result {
        panic!("{error}");
    }
    let delivered = model::state().delivered - before;
    println!("{cases} programs, {delivered} interrupts, {} instructions", model::state().trapped);
    assert!(delivered >= u64::from(cases), "the programs hardly interrupt anything");
}
