//! What makes the model run: SIGILL, raised by the real instructions where there is no User Interrupt, and the signal that stands for an IPI.
//!
//! Both handlers run on the alternate stack with every signal blocked, and change the saved context only.

use super::cpu::{self, Cpu, RF, Registers, TABLE_ENABLED};
use super::with_cpu;
use crate::arch::{inject, insn};
use core::ptr::{null, null_mut};
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicI32, AtomicPtr};
use std::io;
use std::sync::Mutex;

const RIP: usize = libc::REG_RIP as usize;
const EFL: usize = libc::REG_EFL as usize;
/// In the order of the registers' numbers in instructions.
const GENERAL: [i32; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Instruction {
    Uiret,
    Testui,
    Clui,
    Stui,
    /// Number of the register that holds the index.
    Senduipi(u8),
}

/// Decodes one of the five at `ip`; also its length. `None`: something else, or a LOCK prefix, which is #UD on a CPU, too.
///
/// # Safety
/// The bytes of an instruction are readable at `ip`.
unsafe fn decode(ip: *const u8) -> Option<(Instruction, i64)> {
    const LONGEST: usize = 15;
    let (mut at, mut repeat, mut rex) = (0, 0u8, 0u8);
    loop {
        // SAFETY: as promised: at most the bytes of one instruction are read.
        let byte = unsafe { *ip.add(at) };
        match byte {
            0xF2 | 0xF3 => (repeat, rex) = (byte, 0),
            0x66 | 0x67 | 0x2E | 0x36 | 0x3E | 0x26 | 0x64 | 0x65 => rex = 0,
            0x40..=0x4F => rex = byte, // counts only as the last prefix
            0x0F => break,
            _ => return None,
        }
        at += 1;
        if at > LONGEST - 3 {
            return None;
        }
    }
    if repeat != 0xF3 {
        return None;
    }
    // SAFETY: as above.
    let (opcode, last) = unsafe { (*ip.add(at + 1), *ip.add(at + 2)) };
    let instruction = match (opcode, last) {
        (0x01, 0xEC) => Instruction::Uiret,
        (0x01, 0xED) => Instruction::Testui,
        (0x01, 0xEE) => Instruction::Clui,
        (0x01, 0xEF) => Instruction::Stui,
        (0xC7, modrm) if modrm >> 6 == 3 && modrm >> 3 & 7 == 6 => {
            Instruction::Senduipi(modrm & 7 | (rex & 1) << 3)
        }
        _ => return None,
    };
    Some((instruction, at as i64 + 3))
}

/// What a trapped instruction comes to.
enum Fault {
    GeneralProtection,
    Undefined,
}

/// Carries `instruction` out on `registers`, whose RIP is at it.
///
/// # Safety
/// They are the context of the trap.
unsafe fn execute(
    cpu: &Cpu,
    instruction: Instruction,
    length: i64,
    registers: &mut Registers,
) -> Result<(), Fault> {
    cpu.count_trap();
    match instruction {
        Instruction::Clui => cpu.clui(),
        Instruction::Stui => cpu.stui(),
        Instruction::Testui => cpu.testui(registers),
        Instruction::Senduipi(register) => {
            if !TABLE_ENABLED.load(Acquire) {
                return Err(Fault::Undefined);
            }
            cpu::senduipi(registers[GENERAL[register as usize] as usize] as u64)
                .map_err(|_| Fault::GeneralProtection)?;
        }
        // SAFETY: as promised.
        Instruction::Uiret => unsafe {
            cpu.uiret(registers).map_err(|_| Fault::GeneralProtection)?;
            cpu.deliver_if_due(registers);
            return Ok(());
        },
    }
    registers[RIP] += length;
    registers[EFL] &= !RF; // the image of a fault has it set; this instruction has completed
    // SAFETY: as promised; an instruction boundary.
    unsafe { cpu.deliver_if_due(registers) };
    Ok(())
}

static PREVIOUS_ILL: AtomicPtr<libc::sigaction> = AtomicPtr::new(null_mut());
static NOTIFICATION: AtomicI32 = AtomicI32::new(0);
static INSTALL: Mutex<()> = Mutex::new(());

/// The signal that stands for the notification IPI; 0 if nothing is installed.
pub fn notification_signal() -> i32 {
    NOTIFICATION.load(Relaxed)
}

/// Installs the model for the process, once: SIGILL (what is not ours goes to the handler that was there before), and a real-time signal that is free.
///
/// # Errors
/// What `sigaction` says; `Other` if every real-time signal has a handler.
pub fn install() -> io::Result<()> {
    let _guard = INSTALL.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if notification_signal() != 0 {
        return Ok(());
    }
    // SAFETY: plain sigaction calls; both handlers have the signature that SA_SIGINFO says.
    unsafe {
        let free = (libc::SIGRTMIN() + 5..=libc::SIGRTMAX()).find(|signal| {
            let mut action: libc::sigaction = core::mem::zeroed();
            libc::sigaction(*signal, null(), &mut action) == 0 && action.sa_sigaction == libc::SIG_DFL
        });
        let signal = free
            .ok_or_else(|| io::Error::other("no real-time signal is free for the model's notifications"))?;
        let mut action: libc::sigaction = core::mem::zeroed();
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        libc::sigfillset(&mut action.sa_mask);
        action.sa_sigaction = notification_entry as *const () as usize;
        if libc::sigaction(signal, &action, null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut previous: libc::sigaction = core::mem::zeroed();
        if libc::sigaction(libc::SIGILL, null(), &mut previous) != 0 {
            return Err(io::Error::last_os_error());
        }
        PREVIOUS_ILL.store(Box::into_raw(Box::new(previous)), Release);
        action.sa_sigaction = trap_entry as *const () as usize;
        if libc::sigaction(libc::SIGILL, &action, null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        NOTIFICATION.store(signal, Release);
    }
    Ok(())
}

crate::arch::insn::handler_entry!(trap_entry, on_trap);
crate::arch::insn::handler_entry!(notification_entry, on_notification);

unsafe extern "C" fn on_trap(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the context is this handler's; its RIP is at an instruction that was fetched.
    unsafe {
        let registers = inject::registers(context.cast());
        let Some((instruction, length)) = decode(registers[RIP] as *const u8) else {
            return chain(signal, info, context);
        };
        match with_cpu(|cpu| execute(cpu, instruction, length, registers)) {
            Ok(()) => {}
            Err(Fault::Undefined) => chain(signal, info, context),
            Err(Fault::GeneralProtection) => raise_fault(),
        }
    }
}

/// A SIGSEGV as #GP gives it, to be taken when the handler returns: at the faulting instruction.
unsafe fn raise_fault() {
    const SI_KERNEL: i32 = 0x80;
    // SAFETY: queues a signal to the calling thread.
    unsafe {
        let mut info: libc::siginfo_t = core::mem::zeroed();
        info.si_signo = libc::SIGSEGV;
        info.si_code = SI_KERNEL;
        let process = insn::syscall6(libc::SYS_getpid as u64, [0; 6]);
        let thread = insn::syscall6(libc::SYS_gettid as u64, [0; 6]);
        insn::syscall6(
            libc::SYS_rt_tgsigqueueinfo as u64,
            [process, thread, libc::SIGSEGV as u64, &raw mut info as u64, 0, 0],
        );
    }
}

unsafe extern "C" fn on_notification(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    with_cpu(|cpu| {
        cpu.take_notification();
        // SAFETY: the context is this handler's: an instruction boundary of the thread.
        unsafe { cpu.deliver_if_due(inject::registers(context.cast())) }
    });
}

unsafe fn chain(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: leaked at installation, before this handler could run.
    let previous = unsafe { &*PREVIOUS_ILL.load(Acquire) };
    // SAFETY: as the kernel would call it; without a handler the default action is restored, and the instruction traps again.
    unsafe { crate::backend::signal::call_handler(previous, signal, info, context) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_the_five_and_nothing_else() {
        let decoded = |bytes: &[u8]| {
            let mut padded = [0x90u8; 32];
            padded[..bytes.len()].copy_from_slice(bytes);
            // SAFETY: more bytes than an instruction has.
            unsafe { decode(padded.as_ptr()) }
        };
        use Instruction::*;
        for (bytes, expected) in [
            (&[0xF3, 0x0F, 0x01, 0xEC][..], Some((Uiret, 4))),
            (&[0xF3, 0x0F, 0x01, 0xED], Some((Testui, 4))),
            (&[0xF3, 0x0F, 0x01, 0xEE], Some((Clui, 4))),
            (&[0xF3, 0x0F, 0x01, 0xEF], Some((Stui, 4))),
            (&[0xF3, 0x0F, 0xC7, 0xF0], Some((Senduipi(0), 4))),
            (&[0xF3, 0x0F, 0xC7, 0xF7], Some((Senduipi(7), 4))),
            (&[0xF3, 0x41, 0x0F, 0xC7, 0xF5], Some((Senduipi(13), 5))),
            (&[0xF3, 0x48, 0x0F, 0xC7, 0xF0], Some((Senduipi(0), 5))),
            (&[0x66, 0xF3, 0x0F, 0x01, 0xEE], Some((Clui, 5))),
            (&[0x41, 0xF3, 0x0F, 0xC7, 0xF5], Some((Senduipi(5), 5))), // REX before another prefix is void
            (&[0x0F, 0x01, 0xEE], None),
            (&[0xF2, 0x0F, 0x01, 0xEE], None),
            (&[0xF0, 0xF3, 0x0F, 0x01, 0xEE], None),
            (&[0xF3, 0x0F, 0xC7, 0x30], None), // a memory operand
            (&[0x0F, 0x0B], None),
        ] {
            assert_eq!(decoded(bytes), expected, "{bytes:x?}");
        }
    }
}
