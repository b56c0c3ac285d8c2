//! The entry stub: what runs between a user-interrupt frame and `dispatch`, and the two ways in which it ends: UIRET, and a software UIRET for
//! machines without.
//!
//! Frame on the interrupted stack, below its red zone, as the CPU would push it for a user interrupt:
//!
//! ```text
//!   interrupted RSP ──► ┌──────────────────────┐ higher addresses
//!                       │ red zone, 128 bytes  │ belongs to the interrupted code, never written … except by the
//!                       ├──────────────────────┤ software UIRET below it, see there
//!                       │ (padding to 16)      │
//!                       │ RSP                  │ +144   ▲
//!                       │ RFLAGS               │ +136   │ pushed by whoever built the frame
//!                       │ RIP                  │ +128   │
//!                       │ vector               │ +120   ▼  ◄── RSP on entry to the stub
//!                       │ rax rcx rdx          │ +112 …
//!                       │ rsi rdi r8 … r11     │
//!                       │ rbx rbp r12 … r15    │ +0     ◄── rbx = &Frame while `dispatch` runs
//!                       ├──────────────────────┤
//!                       │ XSAVE area           │ 64-byte aligned, XS_SIZE bytes
//!                       └──────────────────────┘        ◄── RSP at `call dispatch`
//! ```
//!
//! Between saving and dispatching, the floating-point environment is made clean: the interrupted code's x87 stack (or MMX
//! state), MXCSR and dirty upper halves must not reach the fiber that dispatch may switch to, since that one may
//! go on by a plain return, which restores none of them.

use crate::gate::Gate;
use crate::receiver::{Counters, Receiver};
use crate::upid::Upid;
use core::arch::global_asm;
use core::mem::offset_of;
use core::sync::atomic::AtomicU64;

/// Bytes of the XSAVE area and the components saved; written once by [`super::xstate::init`], before any frame exists.
pub(super) static XS_SIZE: AtomicU64 = AtomicU64::new(0);
pub(super) static XS_MASK: AtomicU64 = AtomicU64::new(0);
static CLEAN_MXCSR: u32 = 0x1F80;

// CFI in terms of a base register: CFA = the interrupted RSP, loaded from the frame; every saved register at its slot.
// Offsets are two-byte SLEB128, so that one encoding serves all. 0x70 + n = DW_OP_breg n; 0x06 = DW_OP_deref;
// 0x0f = DW_CFA_def_cfa_expression; 0x10 = DW_CFA_expression.
global_asm!(
    ".macro UNYIELD_CFA breg, off",
    ".cfi_escape 0x0f, 4, \\breg, ((\\off) & 0x7f) | 0x80, ((\\off) >> 7) & 0x7f, 0x06",
    ".endm",
    ".macro UNYIELD_AT reg, breg, off",
    ".cfi_escape 0x10, \\reg, 3, \\breg, ((\\off) & 0x7f) | 0x80, ((\\off) >> 7) & 0x7f",
    ".endm",
    // `depth` bytes have been pushed below the vector; DW_OP_breg7 = rsp
    ".macro UNYIELD_CFI_RSP depth",
    "UNYIELD_CFA 0x77, (\\depth) + 24",
    "UNYIELD_AT 16, 0x77, (\\depth) + 8",
    ".endm",
    // … rax, rcx and rdx first of all: their registers may hold something else by now
    ".macro UNYIELD_CFI_SAVED depth",
    "UNYIELD_AT 0, 0x77, (\\depth) - 8",
    "UNYIELD_AT 2, 0x77, (\\depth) - 16",
    "UNYIELD_AT 1, 0x77, (\\depth) - 24",
    ".endm",
    // the software UIRET has written over the slot of RSP; the word at rsp + 24 leads to it: CFA = that + 144
    ".macro UNYIELD_CFA_RETURNING",
    ".cfi_escape 0x0f, 7, 0x77, 0x98, 0x00, 0x06, 0x23, 0x90, 0x01",
    ".endm",
    // rbx (DW_OP_breg3) = &Frame
    ".macro UNYIELD_CFI_RBX",
    "UNYIELD_CFA 0x73, 144",
    "UNYIELD_AT 16, 0x73, 128",
    "UNYIELD_AT 15, 0x73, 0",
    "UNYIELD_AT 14, 0x73, 8",
    "UNYIELD_AT 13, 0x73, 16",
    "UNYIELD_AT 12, 0x73, 24",
    "UNYIELD_AT 6, 0x73, 32", // rbp
    "UNYIELD_AT 3, 0x73, 40", // rbx
    "UNYIELD_AT 11, 0x73, 48",
    "UNYIELD_AT 10, 0x73, 56",
    "UNYIELD_AT 9, 0x73, 64",
    "UNYIELD_AT 8, 0x73, 72",
    "UNYIELD_AT 5, 0x73, 80",  // rdi
    "UNYIELD_AT 4, 0x73, 88",  // rsi
    "UNYIELD_AT 1, 0x73, 96",  // rdx
    "UNYIELD_AT 2, 0x73, 104", // rcx
    "UNYIELD_AT 0, 0x73, 112", // rax
    ".endm",
    // the same before rbx is loaded: all pushes done, rsp = &Frame
    ".macro UNYIELD_PUSH reg, depth",
    "push \\reg",
    "UNYIELD_CFI_RSP \\depth",
    ".if \\depth > 24",
    "UNYIELD_CFI_SAVED \\depth",
    ".endif",
    ".endm",
);

// What the mutants leave out, to show what it is for (see CONTRIBUTING.md, "Mutants").
#[cfg(unyield_mutant = "no_fninit")]
macro_rules! fninit {
    () => {
        "nop"
    };
}
#[cfg(not(unyield_mutant = "no_fninit"))]
macro_rules! fninit {
    () => {
        "fninit"
    };
}
#[cfg(unyield_mutant = "no_xrstor")]
macro_rules! xrstor {
    () => {
        "nop"
    };
}
#[cfg(not(unyield_mutant = "no_xrstor"))]
macro_rules! xrstor {
    () => {
        "xrstor [rsp]"
    };
}

#[cfg(unyield_mutant = "no_stui")]
macro_rules! stui {
    () => {
        "nop"
    };
}
#[cfg(not(unyield_mutant = "no_stui"))]
macro_rules! stui {
    () => {
        "stui"
    };
}
#[cfg(unyield_mutant = "on_not_cleared")]
macro_rules! acknowledge {
    () => {
        "nop dword ptr [rcx + {on}]"
    };
}
#[cfg(not(unyield_mutant = "on_not_cleared"))]
macro_rules! acknowledge {
    () => {
        "xchg [rcx + {on}], dl"
    };
}

// Entered by the CPU (or its model), with UIF = 0 and nothing saved. Its checks are the signal handler's, as far as they can be made here; the rest is up to
// the vector's handler. Until the gate is closed nothing may be pushed but three registers: the CPU delivers anywhere, also on a stack that is nearly
// used up or not ours. A closed gate gets the hint, as from the signal handler; what cannot be taken here stays in PIR. Then UIF = 1 again, for good:
// from here to the return the gate is closed by its word, and whatever else arrives is such a hint. (Rejected: UIF = 0 through the scheduler. Then every way
// of resuming would need an STUI, and one that was forgotten would leave a fiber that is never interrupted again.)
global_asm!(
    ".pushsection .text.unyield_entry_uintr, \"ax\", @progbits",
    ".p2align 6",
    ".globl unyield_entry_uintr",
    ".hidden unyield_entry_uintr",
    ".type unyield_entry_uintr, @function",
    "unyield_entry_uintr:",
    ".cfi_startproc",
    ".cfi_signal_frame",
    "UNYIELD_CFI_RSP 0",
    "UNYIELD_PUSH rax, 8",
    "UNYIELD_PUSH rcx, 16",
    "UNYIELD_PUSH rdx, 24",
    "UNYIELD_CFI_SAVED 24",
    // stack: rdx rcx rax vector rip rflags rsp = +0 8 16 24 32 40 48
    "mov rax, [rip + unyield_gate@gottpoff]",
    "mov rcx, fs:[rax + {receiver}]",
    "test rcx, rcx",
    "jz 9f", // no receiver: nobody wants it
    "mov rdx, [rsp + 24]",
    "cmp rdx, {rescan}",
    "je 2f",
    "lock bts [rcx + {pir}], rdx", // from a sender that knows nothing of our PIR: another process
    "2:",
    "xor edx, edx",
    acknowledge!(), // before PIR is read
    "inc qword ptr [rcx + {interrupts}]",
    "cmp dword ptr fs:[rax], 0",
    "jne 3f",
    "mov rdx, [rsp + 48]",
    "cmp rdx, fs:[rax + {lo}]",
    "jb 4f",
    "cmp rdx, fs:[rax + {hi}]",
    "ja 4f",
    "mov dword ptr fs:[rax], 1",
    stui!(),
    "jmp unyield_soft_again",
    "3:",
    "mov dword ptr fs:[rax + 4], 1",
    "inc qword ptr [rcx + {deferred}]",
    "jmp 9f",
    "4:",
    "mov rdx, fs:[rax + {lo}]",
    "cmp rdx, fs:[rax + {hi}]",
    "jbe 5f",
    "cmp qword ptr [rcx + {pir}], 0",
    "je 9f", // void by now
    "mov dword ptr fs:[rax + {requested}], 1", // identities are shared: to be acted on at a checkpoint
    "jmp 9f",
    "5:",
    "inc qword ptr [rcx + {misplaced}]",
    "mov dword ptr fs:[rax + 4], 1", // nobody sends it again: the end of the next section looks
    "9:",
    "mov rdx, [rsp]",
    "mov rcx, [rsp + 8]",
    "mov rax, [rsp + 16]",
    ".cfi_same_value rdx",
    ".cfi_same_value rcx",
    ".cfi_same_value rax",
    "lea rsp, [rsp + 32]",
    "UNYIELD_CFI_RSP -8",
    "uiret",
    ".cfi_endproc",
    ".size unyield_entry_uintr, . - unyield_entry_uintr",
    ".popsection",
    receiver = const offset_of!(Gate, receiver),
    lo = const offset_of!(Gate, lo),
    hi = const offset_of!(Gate, hi),
    requested = const offset_of!(Gate, requested),
    pir = const offset_of!(Receiver, upid) + Upid::PIR,
    on = const offset_of!(Receiver, upid) + Upid::ON,
    interrupts = const offset_of!(Receiver, counters) + offset_of!(Counters, interrupts),
    deferred = const offset_of!(Receiver, counters) + offset_of!(Counters, deferred),
    misplaced = const offset_of!(Receiver, counters) + offset_of!(Counters, misplaced),
    rescan = const crate::vector::RESCAN,
);

// The software UIRET. RIP and RFLAGS are written below the interrupted red zone (they may overlay our own RSP and RFLAGS
// slots), the gate opens, the hint is looked at once more, and the return itself is `popfq; ret 128`:
//
//   interrupted RSP ──► red zone (128)  RSP-128 … RSP-1
//                       RIP             RSP-136
//                       RFLAGS          RSP-144   ◄── RSP at `popfq`; after `ret 128` it is the interrupted RSP again
//
// From `soft_open` to `soft_closed` the gate is open while registers are half restored: a signal there first completes the return
// in the saved context (`inject::finish`), so that frames never pile up.
global_asm!(
    // a section of its own: what came before in a program linked as one module may have left any section current
    ".pushsection .text.unyield_entry_soft, \"ax\", @progbits",
    ".p2align 6",
    ".globl unyield_entry_soft, unyield_soft_open, unyield_soft_pop, unyield_soft_ret, unyield_soft_closed",
    ".globl unyield_hard_open, unyield_hard_uiret, unyield_hard_closed",
    ".hidden unyield_hard_open",
    ".hidden unyield_hard_uiret",
    ".hidden unyield_hard_closed",
    ".hidden unyield_entry_soft",
    ".hidden unyield_soft_open",
    ".hidden unyield_soft_pop",
    ".hidden unyield_soft_ret",
    ".hidden unyield_soft_closed",
    ".type unyield_entry_soft, @function",
    "unyield_entry_soft:",
    ".cfi_startproc",
    ".cfi_signal_frame",
    "UNYIELD_CFI_RSP 0",
    "UNYIELD_PUSH rax, 8",
    "UNYIELD_PUSH rcx, 16",
    "UNYIELD_PUSH rdx, 24",
    "unyield_soft_again:",
    "UNYIELD_CFI_SAVED 24",
    "UNYIELD_PUSH rsi, 32",
    "UNYIELD_PUSH rdi, 40",
    "UNYIELD_PUSH r8, 48",
    "UNYIELD_PUSH r9, 56",
    "UNYIELD_PUSH r10, 64",
    "UNYIELD_PUSH r11, 72",
    "UNYIELD_PUSH rbx, 80",
    "UNYIELD_PUSH rbp, 88",
    "UNYIELD_PUSH r12, 96",
    "UNYIELD_PUSH r13, 104",
    "UNYIELD_PUSH r14, 112",
    "UNYIELD_PUSH r15, 120",
    "mov rbx, rsp",
    "UNYIELD_CFI_RBX",
    "cld",
    "test dword ptr [rbx + 136], 0x40000", // AC in the interrupted RFLAGS: compiled code with unaligned accesses would trap
    "jz 1f",
    "pushfq",
    "and dword ptr [rsp], ~0x40000",
    "popfq",
    "1:",
    "sub rsp, [rip + {xs_size}]",
    "and rsp, -64",
    "xor eax, eax", // XSAVEC writes only half of the header: the rest must be zero for XRSTOR
    "mov [rsp + 512], rax",
    "mov [rsp + 520], rax",
    "mov [rsp + 528], rax",
    "mov [rsp + 536], rax",
    "mov [rsp + 544], rax",
    "mov [rsp + 552], rax",
    "mov [rsp + 560], rax",
    "mov [rsp + 568], rax",
    "mov eax, [rip + {xs_mask}]",
    "mov edx, [rip + {xs_mask} + 4]",
    "xsavec [rsp]",
    "test byte ptr [rsp + 512], 1", // x87 in use
    "jz 2f",
    fninit!(),
    "2:",
    "test byte ptr [rsp + 512], 4", // upper halves in use
    "jz 3f",
    "vzeroupper",
    "3:",
    "ldmxcsr [rip + {mxcsr}]",
    "mov rdi, rbx",
    "call {dispatch}",
    "mov eax, [rip + {xs_mask}]",
    "mov edx, [rip + {xs_mask} + 4]",
    xrstor!(),
    // rbx last, so that an unwinder finds everything through it until everything else is back in its register
    "mov r15, [rbx]",
    "mov r14, [rbx + 8]",
    "mov r13, [rbx + 16]",
    "mov r12, [rbx + 24]",
    "mov rbp, [rbx + 32]",
    "mov r11, [rbx + 48]",
    "mov r10, [rbx + 56]",
    "mov r9, [rbx + 64]",
    "mov r8, [rbx + 72]",
    "mov rdi, [rbx + 80]",
    "mov rsi, [rbx + 88]",
    "lea rsp, [rbx + 96]",
    "mov rbx, [rbx + 40]",
    "UNYIELD_CFI_RSP 24",
    "UNYIELD_CFI_SAVED 24",
    ".irp reg, r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rdi, rsi",
    ".cfi_same_value \\reg",
    ".endr",
    // stack: rdx rcx rax vector rip rflags rsp = +0 8 16 24 32 40 48
    "mov rdx, [rip + unyield_gate@gottpoff]",
    "cmp dword ptr fs:[rdx + {uiret}], 0",
    "jne 7f",
    "mov rax, [rsp + 48]",
    ".cfi_remember_state",
    ".cfi_def_cfa rax, 0",
    "mov rcx, [rsp + 32]",
    "mov rdx, [rsp + 40]",
    "mov [rax - 136], rcx",
    "mov [rax - 144], rdx",
    "sub rax, 144",
    ".cfi_def_cfa_offset 144",
    "mov [rsp + 24], rax",
    "UNYIELD_CFA_RETURNING",
    "mov rdx, [rip + unyield_gate@gottpoff]",
    "mov dword ptr fs:[rdx], 0",
    "unyield_soft_open:",
    "cmp dword ptr fs:[rdx + 4], 0",
    "jne 8f",
    "mov rdx, [rsp]",
    "mov rcx, [rsp + 8]",
    "mov rax, [rsp + 16]",
    ".cfi_remember_state",
    ".cfi_same_value rdx",
    ".cfi_same_value rcx",
    ".cfi_same_value rax",
    "mov rsp, [rsp + 24]",
    ".cfi_def_cfa rsp, 144",
    ".cfi_offset rip, -136",
    "unyield_soft_pop:",
    "popfq",
    ".cfi_def_cfa_offset 136",
    "unyield_soft_ret:",
    "ret 128",
    ".cfi_restore_state",
    "8:",
    "mov dword ptr fs:[rdx], 1",
    "unyield_soft_closed:", // pending again: rebuild the frame in place and go round
    "mov rax, [rsp + 24]",
    "mov rdx, [rax]",
    "mov rcx, [rax + 8]",
    "add rax, 144",
    "mov [rsp + 48], rax",
    "mov [rsp + 40], rdx",
    "mov [rsp + 32], rcx",
    "mov qword ptr [rsp + 24], {rescan}",
    "UNYIELD_CFI_RSP 24",
    "jmp unyield_soft_again",
    // UIRET: the gate opens while UIF is 0, so nothing comes in between; a signal that does goes round again (`inject::finish`).
    "7:",
    ".cfi_restore_state",
    "clui",
    "mov dword ptr fs:[rdx], 0",
    "unyield_hard_open:",
    "cmp dword ptr fs:[rdx + 4], 0",
    "jne 8f",
    "mov rdx, [rsp]",
    "mov rcx, [rsp + 8]",
    "mov rax, [rsp + 16]",
    ".cfi_remember_state",
    ".cfi_same_value rdx",
    ".cfi_same_value rcx",
    ".cfi_same_value rax",
    "lea rsp, [rsp + 32]",
    "UNYIELD_CFI_RSP -8",
    "unyield_hard_uiret:",
    "uiret",
    ".cfi_restore_state",
    "8:",
    "mov dword ptr fs:[rdx], 1",
    "unyield_hard_closed:",
    stui!(),
    "mov qword ptr [rsp + 24], {rescan}",
    "jmp unyield_soft_again",
    ".cfi_endproc",
    ".size unyield_entry_soft, . - unyield_entry_soft",
    ".popsection",
    xs_size = sym XS_SIZE,
    xs_mask = sym XS_MASK,
    mxcsr = sym CLEAN_MXCSR,
    dispatch = sym crate::vector::dispatch,
    rescan = const crate::vector::RESCAN,
    uiret = const offset_of!(Gate, uiret),
);
unsafe extern "C" {
    pub(super) fn unyield_entry_soft();
    pub(crate) fn unyield_entry_uintr();
    fn unyield_hard_open();
    fn unyield_hard_uiret();
    fn unyield_hard_closed();
    fn unyield_soft_open();
    fn unyield_soft_pop();
    fn unyield_soft_ret();
    fn unyield_soft_closed();
}

/// If `ip` lies in the part of the hardware return where the gate is open although the return is not complete: where to go round again, and by
/// how much the stack pointer must go back for that.
pub(super) fn hard_return(ip: usize) -> Option<(usize, i64)> {
    let at = |f: unsafe extern "C" fn()| f as *const () as usize;
    (at(unyield_hard_open)..at(unyield_hard_closed))
        .contains(&ip)
        .then(|| (at(unyield_hard_closed), if ip == at(unyield_hard_uiret) { 32 } else { 0 }))
}

/// Where in the software UIRET an instruction pointer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ReturnStep {
    /// RSP is still the stub's; rax, rcx, rdx may or may not have been reloaded.
    Loading,
    /// RSP points at RFLAGS.
    AtPopfq,
    /// RSP points at RIP.
    AtRet,
}

/// If `ip` lies in the part of the software UIRET that runs with the gate open: at which step.
pub(super) fn return_step(ip: usize) -> Option<ReturnStep> {
    let at = |f: unsafe extern "C" fn()| f as *const () as usize;
    if ip < at(unyield_soft_open) || ip >= at(unyield_soft_closed) {
        None
    } else if ip == at(unyield_soft_ret) {
        Some(ReturnStep::AtRet)
    } else if ip == at(unyield_soft_pop) {
        Some(ReturnStep::AtPopfq)
    } else {
        Some(ReturnStep::Loading)
    }
}
