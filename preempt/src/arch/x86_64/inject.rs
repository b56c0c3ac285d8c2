//! Rewriting a saved signal context: building a user-interrupt frame on the interrupted stack, and completing a return that was
//! interrupted half way. Runs in the signal handler only.

use super::stub::{self, ReturnStep};
use crate::vector::RESCAN;

/// The general registers of a `ucontext_t`, indexed by `libc::REG_*`.
pub(crate) type Registers = [i64; 23];

const RDX: usize = libc::REG_RDX as usize;
const RCX: usize = libc::REG_RCX as usize;
const RAX: usize = libc::REG_RAX as usize;
const RSP: usize = libc::REG_RSP as usize;
const RIP: usize = libc::REG_RIP as usize;
const EFL: usize = libc::REG_EFL as usize;
/// The flags that user code may change: CF PF AF ZF SF TF DF OF NT RF? AC ID. TF is left out, so that a debugger's stays.
const USER_FLAGS: i64 = 0x24_4CD5;
const RED_ZONE: i64 = 128;
/// Where frames begin, below the interrupted RSP.
const FRAME_BELOW: i64 = if cfg!(unyield_mutant = "red_zone_0") { 0 } else { RED_ZONE };

/// The registers of `context`.
///
/// # Safety
/// `context` is the third argument of a running signal handler.
pub(crate) unsafe fn registers<'a>(context: *mut libc::ucontext_t) -> &'a mut Registers {
    // SAFETY: gregs is an array of 23 eight-byte integers at this place on x86-64 Linux.
    unsafe { &mut *(&raw mut (*context).uc_mcontext.gregs).cast::<Registers>() }
}

pub(crate) fn stack_pointer(registers: &Registers) -> usize {
    registers[RSP] as usize
}

/// If the saved context is inside the open part of a software UIRET, completes that return in it. True if it was.
///
/// # Safety
/// `registers` is a saved context of a signal handler that runs now.
pub(crate) unsafe fn finish(registers: &mut Registers) -> bool {
    let Some(step) = stub::return_step(registers[RIP] as usize) else { return false };
    let sp = registers[RSP] as *const i64;
    // SAFETY: at each step RSP points into the frame that the stub laid out (diagrams in `stub`), which is live
    // until the return is complete.
    unsafe {
        let (at_rip, flags) = match step {
            ReturnStep::AtRet => (sp, None),
            ReturnStep::AtPopfq => (sp.add(1), Some(*sp)),
            ReturnStep::Loading => {
                // loading the three registers again is harmless
                (registers[RDX], registers[RCX], registers[RAX]) = (*sp, *sp.add(1), *sp.add(2));
                let at_flags = *sp.add(3) as *const i64;
                (at_flags.add(1), Some(*at_flags))
            }
        };
        if let Some(flags) = flags {
            registers[EFL] = (registers[EFL] & !USER_FLAGS) | (flags & USER_FLAGS);
        }
        registers[RIP] = *at_rip;
        registers[RSP] = at_rip as i64 + 8 + RED_ZONE;
    }
    true
}

/// If the saved context is inside the open part of a return by UIRET, sends it round again. True if it was: the gate must be closed and have its hint.
pub(crate) fn rewind(registers: &mut Registers) -> bool {
    let Some((again, back)) = stub::hard_return(registers[RIP] as usize) else { return false };
    registers[RIP] = again as i64;
    registers[RSP] -= back;
    true
}

/// Rewrites a saved context so that it goes on in the entry stub with a user-interrupt frame below its red zone.
///
/// # Safety
/// The interrupted stack has [`super::xstate::room`] bytes below RSP, and the gate is closed.
pub(crate) unsafe fn inject(registers: &mut Registers) {
    let mut sp = ((registers[RSP] - FRAME_BELOW) & !15) as *mut i64;
    for value in [registers[RSP], registers[EFL], registers[RIP], RESCAN as i64] {
        // SAFETY: below the red zone, within the room that the caller has checked.
        unsafe {
            sp = sp.sub(1);
            sp.write(value);
        }
    }
    registers[RSP] = sp as i64;
    registers[RIP] = stub::unyield_entry_soft as *const () as i64;
    registers[EFL] &= !0x1_0100; // RF, TF: as the CPU does on delivery
    #[cfg(feature = "single-step")]
    if crate::backend::signal::SINGLE_STEP.swap(false, core::sync::atomic::Ordering::Relaxed) {
        registers[EFL] |= 0x100;
    }
}

/// True if the saved context has AMX tile state in use, which the stub does not save.
///
/// # Safety
/// `context` is the third argument of a running signal handler.
pub(crate) unsafe fn tiles_in_use(context: *mut libc::ucontext_t) -> bool {
    if !super::xstate::has_tiles() {
        return false;
    }
    // SAFETY: fpregs points at the FXSAVE area, followed at +512 by XSTATE_BV whenever the kernel saved extended state,
    // which it does on every CPU that has tiles.
    unsafe {
        let area = (*context).uc_mcontext.fpregs.cast::<u8>();
        !area.is_null() && *area.add(512).cast::<u64>() & super::xstate::TILES != 0
    }
}
