//! Extended state (x87, SSE, AVX, AVX-512 …): which components the stub saves and how much room that takes.

use super::insn;
use super::stub::{XS_MASK, XS_SIZE};
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// XTILECFG and XTILEDATA: 8 KB more, so a fiber with tiles in use is not switched away instead.
pub(super) const TILES: u64 = 3 << 17;
static HAS_TILES: AtomicBool = AtomicBool::new(false);

pub(super) fn has_tiles() -> bool {
    HAS_TILES.load(Relaxed)
}

/// True if the CPU has XSAVEC and the kernel enabled XSAVE.
pub(crate) fn supported() -> bool {
    let osxsave = core::arch::x86_64::__cpuid(1).ecx >> 27 & 1 == 1;
    osxsave && core::arch::x86_64::__cpuid_count(0xD, 1).eax >> 1 & 1 == 1
}

/// Sizes the save area: once, before the first frame is built.
pub(crate) fn init() {
    if !supported() {
        return; // no frame is built then
    }
    // SAFETY: supported, so OSXSAVE is on.
    let enabled = unsafe { insn::xgetbv(0) };
    HAS_TILES.store(enabled & TILES != 0, Relaxed);
    let mask = enabled & !TILES;
    let mut size = 576u64; // legacy area and header
    for component in 2..63 {
        if mask >> component & 1 == 0 {
            continue;
        }
        let leaf = core::arch::x86_64::__cpuid_count(0xD, component);
        if leaf.ecx & 2 != 0 {
            size = size.next_multiple_of(64);
        }
        size += leaf.eax as u64;
    }
    XS_MASK.store(mask, Relaxed);
    XS_SIZE.store(size.next_multiple_of(64), Relaxed);
}

/// True if AMX tile state is in use on this CPU now: the stub does not save it.
pub fn tiles_in_use() -> bool {
    // SAFETY: a CPU with tiles has XGETBV with ECX = 1 (SDM vol. 1, 13.2: it came with XSAVEC, which is older).
    has_tiles() && unsafe { insn::xgetbv(1) } & TILES != 0
}

/// True if frames can be built: [`init`] has run, on a CPU that can.
pub(crate) fn ready() -> bool {
    XS_SIZE.load(Relaxed) != 0
}

/// Bytes that must be free below an interrupted RSP: red zone, frame, registers, XSAVE area, and what dispatch and a switch use.
pub(crate) fn room() -> usize {
    128 + 16 + 32 + 120 + 64 + XS_SIZE.load(Relaxed) as usize + DISPATCH_ROOM
}
/// Stack that vector handlers may use. Measured by `stack_of_a_preemption` in the tests of `unyield`: under 1 KB optimised, 3 KB without.
const DISPATCH_ROOM: usize = if cfg!(debug_assertions) { 6144 } else { 2560 };
