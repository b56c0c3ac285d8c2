//! The architecture: what a logical processor holds for User Interrupts, what lies in memory, and the steps of each event, in the SDM's order and names.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 3, chapter "User Interrupts", and volume 2 for the instructions. Handlers only,
//! or with the signals blocked whose handlers use it: everything of a processor is touched by its own thread.

use crate::arch::insn;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64};

/// General registers as in a signal's context, indexed by `libc::REG_*`.
pub type Registers = [i64; 23];

const RSP: usize = libc::REG_RSP as usize;
const RIP: usize = libc::REG_RIP as usize;
const EFL: usize = libc::REG_EFL as usize;
pub(super) const RF: i64 = 1 << 16;
const TF: i64 = 1 << 8;
/// What UIRET takes from the RFLAGS on the stack: CF PF AF ZF SF TF DF OF NT RF AC ID.
const UIRET_FLAGS: i64 = 0x25_4DD5;
/// What TESTUI clears (CF, which it sets, aside): PF AF ZF SF OF.
const ARITHMETIC: i64 = 0x8D5;

/// #GP(0): a SIGSEGV on Linux.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GeneralProtection;

/// A user posted-interrupt descriptor, as the SDM lays it out: ON, SN, NV, NDST; PIR.
#[repr(C, align(64))]
pub(super) struct Upid {
    pub(super) low: AtomicU64,
    pub(super) pir: AtomicU64,
}
pub(super) const ON: u64 = 1;
pub(super) const SN: u64 = 2;
const UPID_RESERVED: u64 = 0xFF00_FFFC;

impl Upid {
    pub(super) fn new() -> Self {
        Upid { low: AtomicU64::new(SN), pir: AtomicU64::new(0) }
    }

    /// Who gets the IPI: thread and signal.
    pub(super) fn aim(&self, thread: i32, signal: i32) {
        self.pir.store(0, SeqCst);
        self.low.store((signal as u64) << 16 | (thread as u64) << 32, SeqCst);
    }
}

/// An entry of the user-interrupt target table: valid, vector; address of the descriptor.
#[repr(C, align(16))]
pub(super) struct Entry {
    pub(super) low: AtomicU64,
    pub(super) upid: AtomicU64,
}

/// As many as Intel's kernel has for a process.
pub(super) const ENTRIES: usize = 256;
pub(super) static TABLE: [Entry; ENTRIES] =
    [const { Entry { low: AtomicU64::new(0), upid: AtomicU64::new(0) } }; ENTRIES];
/// IA32_UINTR_TT[0]: without a table SENDUIPI is #UD.
pub(super) static TABLE_ENABLED: AtomicBool = AtomicBool::new(false);
/// CPUID's "flexible UIRET": UIF = bit 1 of the RFLAGS that are popped.
pub(super) static FLEXIBLE_UIRET: AtomicBool = AtomicBool::new(false);

/// A logical processor: an OS thread. All zero at the start of a thread.
#[derive(Debug, Default)]
pub struct Cpu {
    uif: AtomicU64,
    uirr: AtomicU64,
    handler: AtomicU64,
    stack_adjust: AtomicU64,
    pub(super) upid: AtomicPtr<Upid>,
    delivered: AtomicU64,
    trapped: AtomicU64,
}

/// What a test may see of a processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct State {
    /// User interrupts are let in.
    pub uif: bool,
    /// Vectors that the processor has taken over, and will deliver.
    pub uirr: u64,
    /// Vectors in the descriptor's PIR, and its ON bit.
    pub pir: u64,
    /// A notification is on its way.
    pub on: bool,
    /// Frames pushed since the thread started, and instructions carried out.
    pub delivered: u64,
    /// Instructions carried out since the thread started.
    pub trapped: u64,
}

impl Cpu {
    pub(crate) const fn new() -> Self {
        Cpu {
            uif: AtomicU64::new(0),
            uirr: AtomicU64::new(0),
            handler: AtomicU64::new(0),
            stack_adjust: AtomicU64::new(0),
            upid: AtomicPtr::new(core::ptr::null_mut()),
            delivered: AtomicU64::new(0),
            trapped: AtomicU64::new(0),
        }
    }

    pub(crate) fn uif(&self) -> bool {
        self.uif.load(Relaxed) != 0
    }

    pub(crate) fn state(&self) -> State {
        // SAFETY: descriptors are never freed.
        let (low, pir) = unsafe { self.upid.load(Relaxed).as_ref() }
            .map_or((0, 0), |upid| (upid.low.load(SeqCst), upid.pir.load(SeqCst)));
        State {
            uif: self.uif(),
            uirr: self.uirr.load(Relaxed),
            pir,
            on: low & ON != 0,
            delivered: self.delivered.load(Relaxed),
            trapped: self.trapped.load(Relaxed),
        }
    }

    /// What the kernel sets up: where interrupts enter, and below what of the stack.
    pub(super) fn configure(&self, handler: usize, stack_adjust: u64) {
        self.handler.store(handler as u64, Relaxed);
        self.stack_adjust.store(stack_adjust, Relaxed);
        self.uirr.store(0, Relaxed);
    }

    pub(super) fn count_trap(&self) {
        crate::receiver::bump(&self.trapped);
    }

    pub(crate) fn clui(&self) {
        self.uif.store(0, Relaxed);
    }

    pub(crate) fn stui(&self) {
        self.uif.store(1, Relaxed);
    }

    pub(super) fn testui(&self, registers: &mut Registers) {
        registers[EFL] = registers[EFL] & !ARITHMETIC | i64::from(self.uif());
    }

    /// User-interrupt notification processing: ON is cleared before PIR is read.
    pub(super) fn take_notification(&self) {
        // SAFETY: descriptors are never freed.
        let Some(upid) = (unsafe { self.upid.load(Relaxed).as_ref() }) else { return };
        upid.low.fetch_and(!ON, SeqCst);
        let posted = upid.pir.swap(0, SeqCst);
        self.uirr.store(self.uirr.load(Relaxed) | posted, Relaxed);
    }

    /// User-interrupt delivery, if one is due at this instruction boundary.
    ///
    /// # Safety
    /// `registers` are an interrupted context whose stack is the thread's.
    pub(super) unsafe fn deliver_if_due(&self, registers: &mut Registers) {
        let uirr = self.uirr.load(Relaxed);
        if uirr == 0 || !self.uif() {
            return;
        }
        let vector = 63 - uirr.leading_zeros() as u64;
        let (old, adjust) = (registers[RSP] as u64, self.stack_adjust.load(Relaxed));
        let top = if adjust & 1 != 0 { adjust } else { old.wrapping_sub(adjust) };
        let mut sp = (top & !15) as *mut u64;
        for value in [old, registers[EFL] as u64, registers[RIP] as u64, vector] {
            // SAFETY: where the CPU would write; if it cannot, that is a page fault here as there.
            unsafe {
                sp = sp.sub(1);
                sp.write(value);
            }
        }
        registers[RSP] = sp as i64;
        self.uirr.store(uirr & !(1 << vector), Relaxed);
        self.uif.store(0, Relaxed);
        registers[EFL] &= !(TF | RF);
        registers[RIP] = self.handler.load(Relaxed) as i64;
        crate::receiver::bump(&self.delivered);
        #[cfg(feature = "single-step")]
        if crate::backend::signal::SINGLE_STEP.swap(false, Relaxed) {
            registers[EFL] |= TF;
        }
    }

    /// UIRET.
    ///
    /// # Safety
    /// `registers` are the context of the trapped instruction; its stack pointer is the program's to get right, as on a CPU.
    pub(super) unsafe fn uiret(&self, registers: &mut Registers) -> Result<(), GeneralProtection> {
        let sp = registers[RSP] as *const i64;
        // SAFETY: three words of the program's stack; a bad pointer faults, as on a CPU.
        let (rip, flags, rsp) = unsafe { (sp.read(), sp.add(1).read(), sp.add(2).read()) };
        if rip << 16 >> 16 != rip {
            return Err(GeneralProtection); // not canonical (48 bits)
        }
        registers[RIP] = rip;
        registers[EFL] = registers[EFL] & !UIRET_FLAGS | flags & UIRET_FLAGS;
        registers[RSP] = rsp;
        let uif = if FLEXIBLE_UIRET.load(Relaxed) { flags as u64 >> 1 & 1 } else { 1 };
        self.uif.store(uif, Relaxed);
        Ok(())
    }
}

/// SENDUIPI. The CPU changes the descriptor's 16 bytes in one step; here PIR comes first, which nobody can tell apart from a notification that takes a moment.
pub(super) fn senduipi(index: u64) -> Result<(), GeneralProtection> {
    let entry = TABLE.get(usize::try_from(index).unwrap_or(ENTRIES)).ok_or(GeneralProtection)?;
    let (low, address) = (entry.low.load(Acquire), entry.upid.load(Relaxed));
    let vector = low >> 8 & 0xFF;
    if low & 1 == 0 || low & 0xFFFF_FFFF_FFFF_00FE != 0 || vector >= 64 || address & 0x3F != 0 {
        return Err(GeneralProtection);
    }
    // SAFETY: valid entries name descriptors, which are never freed.
    let upid = unsafe { &*(address as *const Upid) };
    let low = upid.low.load(SeqCst);
    if low & UPID_RESERVED != 0 {
        return Err(GeneralProtection);
    }
    upid.pir.fetch_or(1 << vector, SeqCst);
    if low & SN == 0 && upid.low.fetch_or(ON, SeqCst) & ON == 0 {
        let (thread, signal) = (low >> 32, low >> 16 & 0xFF);
        // SAFETY: a bare system call, so that errno stays; a thread that has gone gives ESRCH.
        unsafe { insn::syscall6(libc::SYS_tgkill as u64, [process(), thread, signal, 0, 0, 0]) };
    }
    Ok(())
}

fn process() -> u64 {
    // SAFETY: getpid has no preconditions.
    unsafe { insn::syscall6(libc::SYS_getpid as u64, [0; 6]) }
}

/// Makes an entry valid. Under the kernel's lock.
pub(super) fn set_entry(index: usize, vector: u64, upid: *const Upid) {
    TABLE[index].upid.store(upid as u64, Relaxed);
    TABLE[index].low.store(1 | vector << 8, Release); // pairs with the acquire in `senduipi`
    TABLE_ENABLED.store(true, Release);
}
