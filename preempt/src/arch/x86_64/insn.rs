//! Single instructions and system calls that the compiler has no stable name for. Callable from any context.

use core::arch::{asm, global_asm, naked_asm};

/// Reads the FS base: the address of the running identity's thread control block.
///
/// # Safety
/// The kernel must have enabled FSGSBASE ([`crate::probe::fsgsbase`]), or the instruction faults.
#[inline(always)]
pub unsafe fn rdfsbase() -> usize {
    let base;
    // SAFETY: the caller vouches for FSGSBASE; the instruction only writes its operand.
    unsafe { asm!("rdfsbase {}", out(reg) base, options(nomem, nostack, preserves_flags)) }
    base
}

/// Writes the FS base: from the next instruction on, every `thread_local!`, `errno` and stack protector is another identity's.
///
/// # Safety
/// FSGSBASE as for [`rdfsbase`]. `base` must be a live thread control block whose gate is closed and names the same
/// receiver as the running one's, and the caller must not touch thread-local state of the old identity afterwards.
#[inline(always)]
pub unsafe fn wrfsbase(base: usize) {
    // SAFETY: per the contract above. Memory is clobbered so that no TLS access moves across.
    unsafe { asm!("wrfsbase {}", in(reg) base, options(nostack, preserves_flags)) }
}

/// The control and status register of SSE.
#[inline(always)]
pub fn stmxcsr() -> u32 {
    let mut value = 0u32;
    // SAFETY: stores four bytes to a local.
    unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut value, options(nostack, preserves_flags)) }
    value
}

/// XGETBV: extended control register `index` (0: enabled state components, 1: components in use).
///
/// # Safety
/// OSXSAVE must be on, and for index 1 also CPUID.(0xD,1):EAX[2].
pub(crate) unsafe fn xgetbv(index: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller vouches for the register's existence.
    unsafe { asm!("xgetbv", in("ecx") index, out("eax") low, out("edx") high, options(nomem, nostack)) }
    (high as u64) << 32 | low as u64
}

/// SENDUIPI: posts what entry `index` of the process' target table says, and interrupts its receiver.
///
/// # Safety
/// The entry is valid for as long as the instruction runs; the machine has User Interrupts or their model.
#[inline(always)]
pub unsafe fn senduipi(index: u64) {
    // SAFETY: per the contract; it writes to the receiver's descriptor only, which the kernel owns. Memory is clobbered: what was written before is posted.
    unsafe { asm!("senduipi {}", in(reg) index, options(nostack, preserves_flags)) }
}

/// CLUI: UIF = 0, no user interrupt is delivered to this thread.
///
/// # Safety
/// The machine has User Interrupts or their model.
#[inline(always)]
pub unsafe fn clui() {
    // SAFETY: per the contract; memory is clobbered, so nothing moves out of the section.
    unsafe { asm!("clui", options(nostack, preserves_flags)) }
}

/// STUI: UIF = 1. What is pending is delivered at once.
///
/// # Safety
/// The machine has User Interrupts or their model, and the thread's gate is in order.
#[inline(always)]
pub unsafe fn stui() {
    // SAFETY: as for `clui`. An interrupt restores what it changes, below the red zone, as at any other instruction.
    unsafe { asm!("stui", options(nostack, preserves_flags)) }
}

/// TESTUI: UIF. Only where User Interrupts are enabled or modelled; else it traps.
#[inline(always)]
pub fn testui() -> bool {
    let uif: u8;
    // SAFETY: changes flags and the operand; a trap is the caller's concern and no memory error.
    unsafe { asm!("testui", "setc {}", out(reg_byte) uif, options(nostack, nomem)) }
    uif != 0
}

/// Length of TESTUI.
pub(crate) const TESTUI_LENGTH: i64 = 4;

/// TESTUI as the first instruction of a function: for a handler that must know whether it was this one that trapped.
#[unsafe(naked)]
pub(crate) extern "C" fn try_testui() {
    naked_asm!("testui", "ret")
}

/// The calling thread's signal mask, by the bare system call: no libc, no errno. 0.1–0.2 µs.
#[inline]
pub fn signal_mask() -> u64 {
    let mut mask = 0u64;
    // SAFETY: rt_sigprocmask with a null new set only writes eight bytes to `mask`.
    unsafe {
        asm!("syscall", inlateout("rax") libc::SYS_rt_sigprocmask => _, in("rdi") 0, in("rsi") 0, in("rdx") &raw mut mask,
             in("r10") 8, lateout("rcx") _, lateout("r11") _, options(nostack))
    }
    mask
}

/// Sets the calling thread's signal mask, by the bare system call.
///
/// # Safety
/// The thread can take the signals that this unblocks.
pub unsafe fn set_signal_mask(mask: u64) {
    const SIG_SETMASK: usize = 2;
    // SAFETY: rt_sigprocmask reads eight bytes of `mask`.
    unsafe {
        asm!("syscall", inlateout("rax") libc::SYS_rt_sigprocmask => _, in("rdi") SIG_SETMASK, in("rsi") &raw const mask, in("rdx") 0,
             in("r10") 8, lateout("rcx") _, lateout("r11") _, options(nostack))
    }
}

// glibc publishes where its per-thread rseq area lies by a symbol that older glibc and musl lack: hence weak.
global_asm!(
    ".pushsection .text.unyield_rseq_offset, \"ax\", @progbits",
    ".weak __rseq_offset",
    ".globl unyield_rseq_offset",
    ".hidden unyield_rseq_offset",
    ".type unyield_rseq_offset, @function",
    "unyield_rseq_offset:",
    ".cfi_startproc",
    "mov rax, [rip + __rseq_offset@GOTPCREL]",
    "ret",
    ".cfi_endproc",
    ".size unyield_rseq_offset, . - unyield_rseq_offset",
    ".popsection",
);
unsafe extern "C" {
    fn unyield_rseq_offset() -> *const isize;
}

/// Offset of libc's rseq area from the FS base, if libc has one.
pub fn rseq_offset() -> Option<isize> {
    // SAFETY: the function returns the symbol's address or null; the symbol is a constant of libc.
    unsafe {
        let address = unyield_rseq_offset();
        if address.is_null() { None } else { Some(*address) }
    }
}

/// Makes the kernel forget the rseq area that libc has registered for the calling OS thread in the thread control block at `fs`. Nothing if libc has none.
pub fn unregister_rseq(fs: usize) {
    if let Some(offset) = rseq_offset() {
        const UNREGISTER: u64 = 1;
        const GLIBC_SIGNATURE: u64 = 0x5305_3053;
        // SAFETY: the kernel compares address and signature with what is registered, and refuses anything else.
        unsafe {
            let area = fs.wrapping_add_signed(offset) as u64;
            syscall6(libc::SYS_rseq as u64, [area, 32, UNREGISTER, GLIBC_SIGNATURE, 0, 0]);
        }
    }
}

/// What a jump to a saved context hands over, as the `context` crate passes it (rax, rdx).
#[repr(C)]
#[derive(Debug)]
pub struct Transfer {
    /// The context of the stack that was left.
    pub context: usize,
    /// The word that the leaver passed.
    pub data: usize,
}

/// A jump of the `context` crate: saves the running context and goes on in another one.
pub type Jump = unsafe extern "C" fn();

/// Calls `jump` (Boost's jump_fcontext) so that the return predictor stays in step. The jump leaves by `jmp`, never by `ret`; were it entered by `call`,
/// every later return of the thread would be predicted one frame too far out. So the return address is pushed by hand and the jump is
/// jumped to. (About a quarter of the cost of a yield.)
///
/// # Safety
/// As for the jump itself: `target` is a saved context that nobody else resumes.
#[inline(always)]
pub unsafe fn jump_by_jump(jump: Jump, target: usize, data: usize) -> Transfer {
    let (context, word): (usize, usize);
    // SAFETY: the jump saves and restores the callee-saved registers; everything else is declared as clobbered. Whoever resumes the context saved here
    // jumps to the pushed address with the transfer in rax and rdx, and the stack pointer as it was before the push.
    unsafe {
        asm!(
            "lea rax, [rip + 2f]",
            "push rax",
            "jmp {jump}",
            "2:",
            jump = in(reg) jump,
            inlateout("rdi") target => _,
            inlateout("rsi") data => _,
            out("rax") context,
            lateout("rdx") word,
            clobber_abi("C"),
        );
    }
    Transfer { context, data: word }
}

/// Saves the caller's callee-saved registers and stack pointer in `*save`, then ends the calling kernel task and only it:
/// the kernel clears `*alive` and wakes waiters of that futex word. Stack, TLS and thread control block stay as they are.
/// A later jump to the saved stack pointer (in the layout of the `context` crate) returns from this call, on whatever
/// thread the jump was made, with what the jump transferred.
///
/// ```text
///   saved stack, upwards from *save (the layout of Boost's jump_fcontext, which the `context` crate uses):
///   +0 MXCSR  +4 x87 control word  +8 r12  +16 r13  +24 r14  +32 r15  +40 rbx  +48 rbp  +56 return address
/// ```
///
/// # Safety
/// Only on a thread whose stack and TLS will be resumed by a switch as described. `alive` must stay valid.
#[unsafe(naked)]
pub unsafe extern "C" fn leave_kernel_task(save: *mut usize, alive: *const i32) -> Transfer {
    naked_asm!(
        "lea rsp, [rsp - 0x38]",
        "stmxcsr [rsp]",
        "fnstcw [rsp + 4]",
        "mov [rsp + 0x08], r12",
        "mov [rsp + 0x10], r13",
        "mov [rsp + 0x18], r14",
        "mov [rsp + 0x20], r15",
        "mov [rsp + 0x28], rbx",
        "mov [rsp + 0x30], rbp",
        "mov [rdi], rsp",
        "mov rdi, rsi",
        "mov eax, {set_tid_address}",
        "syscall",
        "xor edi, edi",
        "mov eax, {exit}",
        "syscall",
        "ud2",
        set_tid_address = const libc::SYS_set_tid_address,
        exit = const libc::SYS_exit,
    )
}

/// `clone` with the child starting on a stack saved as [`leave_kernel_task`] describes: the child returns from the jump
/// that saved it, with a transfer of (`data`, `data`). Returns the child's thread id to the caller, or a negative errno.
///
/// # Safety
/// `stack` must be such a saved context that nobody else resumes, `tls` its identity, `tid` writable.
#[unsafe(naked)]
pub unsafe extern "C" fn clone_onto(
    flags: usize,
    stack: usize,
    tid: usize,
    tls: usize,
    data: usize,
) -> isize {
    naked_asm!(
        "mov r9, r8",  // not an argument of clone: kept for the child
        "mov r10, rdx", // the word that the kernel clears when the child ends
        "mov r8, rcx",
        "mov eax, {clone}",
        "syscall",
        "test eax, eax",
        "jz 2f",
        "ret",
        "2:",
        "ldmxcsr [rsp]",
        "fldcw [rsp + 4]",
        "mov r12, [rsp + 0x08]",
        "mov r13, [rsp + 0x10]",
        "mov r14, [rsp + 0x18]",
        "mov r15, [rsp + 0x20]",
        "mov rbx, [rsp + 0x28]",
        "mov rbp, [rsp + 0x30]",
        "lea rsp, [rsp + 0x38]",
        "mov rax, r9", // never null, since `context` passes it on as a reference
        "mov rdx, r9",
        "ret",
        clone = const libc::SYS_clone,
    )
}

/// Runs one system call with the registers of an interrupted one; returns what the kernel returned.
///
/// # Safety
/// As for the system call itself; its pointers must be valid for as long as it runs.
pub unsafe fn syscall6(number: u64, args: [u64; 6]) -> u64 {
    let result;
    // SAFETY: the caller vouches for number and arguments; the kernel clobbers rcx and r11 only.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
             in("r10") args[3], in("r8") args[4], in("r9") args[5], lateout("rcx") _, lateout("r11") _, options(nostack))
    }
    result
}

// Only glibc has it; musl does not.
global_asm!(
    ".pushsection .text.unyield_libc_version, \"ax\", @progbits",
    ".weak gnu_get_libc_version",
    ".globl unyield_libc_version",
    ".hidden unyield_libc_version",
    ".type unyield_libc_version, @function",
    "unyield_libc_version:",
    ".cfi_startproc",
    "mov rax, [rip + gnu_get_libc_version@GOTPCREL]",
    "ret",
    ".cfi_endproc",
    ".size unyield_libc_version, . - unyield_libc_version",
    ".popsection",
);
unsafe extern "C" {
    fn unyield_libc_version() -> *const ();
}

/// Address of glibc's `gnu_get_libc_version`, null in another libc.
pub(crate) fn glibc_version_address() -> *const () {
    // SAFETY: only loads an address.
    unsafe { unyield_libc_version() }
}

/// Defines `$entry`, a signal handler's first instructions: the kernel does not clear AC on signal entry, and compiled code with unaligned accesses would trap.
macro_rules! handler_entry {
    ($entry:ident, $handler:ident) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $entry(
            signal: i32,
            info: *mut libc::siginfo_t,
            context: *mut libc::c_void,
        ) {
            core::arch::naked_asm!(
                "sub rsp, 8",
                "pushfq",
                "and dword ptr [rsp], ~0x40000",
                "popfq",
                "call {handler}",
                "add rsp, 8",
                "ret",
                handler = sym $handler,
            )
        }
    };
}
pub(crate) use handler_entry;
