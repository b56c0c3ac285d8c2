//! Kinds that watch the machine's state: registers, flags, the red zone, extended state, the stack; and what pins a fiber to its worker.

use crate::kinds::{Cx, spin};
use std::arch::asm;
use std::hint::black_box;
use std::ptr::null_mut;
use unyield_preempt::{gate, mask, unmask};

/// A fiber starts, and goes on after it has waited, with an empty x87 stack.
pub fn x87_is_empty() -> bool {
    let mut environment = [0u32; 7];
    // SAFETY: stores 28 bytes and loads them again (fnstenv masks exceptions).
    unsafe { asm!("fnstenv [{0}]", "fldenv [{0}]", in(reg) environment.as_mut_ptr(), options(nostack)) }
    environment[2] & 0xffff == 0xffff // the tag word: all empty
}

/// Arithmetic flags, DF and AC. Neither `loop` nor `lea` touches any.
pub fn flags(cx: &mut Cx) {
    for bits in [0x8d5u64, 0x400, 0x4_0001, 0x4_0c94] {
        let wanted = 0x202 | bits;
        let found: u64;
        // SAFETY: flags are put back to what compiled code expects; nothing of ours lies in the red zone that push would overwrite.
        unsafe {
            asm!("push {wanted}", "popfq", "2: loop 2b", "pushfq", "pop {found}", "push 0x202", "popfq",
                wanted = in(reg) wanted, found = out(reg) found, inout("rcx") 20_000 + cx.below(20_000) => _);
        }
        check!(found & 0x4_0cd5 == wanted & 0x4_0cd5, "flags {found:x}, wanted {wanted:x}");
    }
}

// Loads every vector register, the mask registers, the general ones, three x87 values, control words and the red zone; counts; compares.
macro_rules! all_registers {
    ($name:ident, registers $list:literal, load $load:literal, store $store:literal, masks $kload:literal $kstore:literal, words $words:literal, count $count:literal) => {
        fn $name(cx: &mut Cx) {
            let mut input = [[0u64; 8]; 32];
            input.iter_mut().flatten().for_each(|word| *word = cx.next());
            let mut output = [[0u64; 8]; 32];
            let mut masks = [0u64; 8];
            let mut control = [0x0f7fu16, 0]; // rounding towards zero, precision extended
            let mut mxcsr = [0x9fc0u32, 0]; // flush to zero, denormals are zero
            let mut x87 = [0f64; 3];
            let bad: u64;
            // SAFETY: memory operands are the arrays above; rbx and rbp are saved around; control words are put back.
            unsafe {
                asm!(
                    "push rbx", "push rbp",
                    "fnstcw [rdx + 2]", "fldcw [rdx]", "stmxcsr [r9 + 4]", "ldmxcsr [r9]", "fldpi", "fld1", "fldl2e",
                    concat!(".irp n,", $list), $load, ".endr", $kload,
                    "mov rbx, 0x1111", "mov rbp, 0x2222", "mov r10, 0x3333", "mov r11, 0x4444", "mov r13, 0x5555", "mov r14, 0x6666", "mov r15, 0x7777",
                    "mov [rsp - 16], rbx", "mov [rsp - 128], rbp",
                    "xor eax, eax",
                    "2:", "lea rax, [rax + 1]", "cmp rax, rcx", "jne 2b",
                    "xor eax, eax",
                    "xor rbx, 0x1111", "or rax, rbx", "xor rbp, 0x2222", "or rax, rbp", "xor r10, 0x3333", "or rax, r10", "xor r11, 0x4444", "or rax, r11",
                    "xor r13, 0x5555", "or rax, r13", "xor r14, 0x6666", "or rax, r14", "xor r15, 0x7777", "or rax, r15",
                    "mov rbx, [rsp - 16]", "xor rbx, 0x1111", "or rax, rbx", "mov rbx, [rsp - 128]", "xor rbx, 0x2222", "or rax, rbx",
                    concat!(".irp n,", $list), $store, ".endr", $kstore,
                    "fstp qword ptr [r12]", "fstp qword ptr [r12 + 8]", "fstp qword ptr [r12 + 16]",
                    "fnstcw [rdx]", "fldcw [rdx + 2]", "stmxcsr [r9]", "ldmxcsr [r9 + 4]", "vzeroupper",
                    "pop rbp", "pop rbx",
                    in("rsi") input.as_ptr(), in("rdi") output.as_mut_ptr(), in("r8") masks.as_mut_ptr(), in("rcx") 100_000 + cx.below(200_000),
                    in("rdx") control.as_mut_ptr(), in("r9") mxcsr.as_mut_ptr(), in("r12") x87.as_mut_ptr(),
                    out("rax") bad, out("r10") _, out("r11") _, out("r13") _, out("r14") _, out("r15") _,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                    out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                    out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _, out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                );
            }
            check!(bad == 0, "general registers or red zone: {bad:x}");
            let same = (0..$count).all(|i| input[i][..$words] == output[i][..$words]);
            check!(same, "vector registers");
            check!($words < 8 || masks[1..] == input[0][1..], "mask registers");
            check!(control[0] == 0x0f7f && mxcsr[0] & 0xffc0 == 0x9fc0, "control words {:x} {:x}", control[0], mxcsr[0]);
            check!(x87 == [std::f64::consts::LOG2_E, 1.0, std::f64::consts::PI], "x87 stack {x87:?}");
        }
    };
}

all_registers!(registers_512,
    registers "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    load "vmovdqu64 zmm\\n, [rsi + 64*\\n]", store "vmovdqu64 [rdi + 64*\\n], zmm\\n",
    masks ".irp n,1,2,3,4,5,6,7\nkmovq k\\n, [rsi + 8*\\n]\n.endr" ".irp n,1,2,3,4,5,6,7\nkmovq [r8 + 8*\\n], k\\n\n.endr",
    words 8, count 32);
all_registers!(registers_256,
    registers "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    load "vmovdqu ymm\\n, [rsi + 64*\\n]", store "vmovdqu [rdi + 64*\\n], ymm\\n",
    masks "" "", words 4, count 16);

pub fn registers(cx: &mut Cx) {
    if is_x86_feature_detected!("avx512bw") {
        registers_512(cx);
    } else if is_x86_feature_detected!("avx") {
        registers_256(cx);
    }
}

pub fn float(cx: &mut Cx) {
    let x = cx.below(7) as f64;
    let sum = || {
        let mut total = 0.0;
        for round in 0..100 {
            for i in 0..256 {
                total += (f64::from(i) + black_box(x)) * 0.5 + f64::from(round);
            }
        }
        total
    };
    let first = black_box(sum());
    check!(first == sum(), "a sum of floats");
    let sine = (x * 1e3).sin();
    spin(2000, 1);
    check!(sine == (black_box(x) * 1e3).sin(), "a sine");
}

fn kernel_thread() -> i64 {
    // SAFETY: no preconditions.
    unsafe { libc::syscall(libc::SYS_gettid) }
}

/// Nested critical sections: the worker does not change inside.
pub fn sections(cx: &mut Cx) {
    let length = cx.below(60);
    for i in 0..200 {
        mask();
        let outer = unyield::CriticalSection::enter();
        let worker = gate::gate().receiver();
        spin(length, i);
        drop(outer);
        spin(40, i);
        check!(
            worker == gate::gate().receiver() && gate::gate().depth() >= 1,
            "moved inside a critical section"
        );
        // SAFETY: pairs with the mask above.
        unsafe { unmask() };
    }
    let (before, after) = unyield::critical(|| {
        let before = kernel_thread();
        spin(200_000, 1);
        (before, kernel_thread())
    });
    check!(before == after, "another thread inside a critical section");
}

/// A fiber that has changed its signal mask stays on its thread until it restores it.
pub fn signal_mask(_: &mut Cx) {
    // SAFETY: sets on the stack; the mask is put back.
    unsafe {
        let (mut set, mut before): (libc::sigset_t, libc::sigset_t) = std::mem::zeroed();
        libc::sigaddset(&mut set, libc::SIGUSR2);
        for round in 0..5 {
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, &mut before);
            let thread = kernel_thread();
            for i in 0..20 {
                spin(3_000, 3);
                unyield::critical(|| spin(100, i));
            }
            check!(thread == kernel_thread(), "moved with a changed signal mask in round {round}");
            libc::pthread_sigmask(libc::SIG_SETMASK, &before, null_mut());
        }
    }
}

/// Recursion through most of the stack, each frame checked on the way back.
pub fn deep_stack(cx: &mut Cx) {
    #[inline(never)]
    fn down(depth: u64, x: u64) -> u64 {
        let frame = black_box([x; 32]);
        let below = if depth == 0 { 0 } else { down(depth - 1, x.rotate_left(1)) };
        check!(frame.iter().all(|word| *word == x), "a frame at depth {depth}");
        below.wrapping_add(frame[depth as usize % 32])
    }
    let x = cx.next();
    let depth = 100 + cx.below(200);
    let wanted = (0..=depth).fold(0u64, |sum, i| sum.wrapping_add(x.rotate_left(i as u32)));
    check!(down(depth, x) == wanted, "a sum over the stack");
}

/// Writes to every page of the stack that the deepest kind uses, so that a stack is as large at its first task as at its thousandth.
#[inline(never)]
pub fn touch_stack() {
    let mut pages = [std::mem::MaybeUninit::<u8>::uninit(); 160 << 10];
    for page in pages.iter_mut().step_by(4096) {
        // SAFETY: inside the array.
        unsafe { (&raw mut *page).cast::<u8>().write_volatile(1) };
    }
    black_box(&mut pages);
}
