//! The stack switch: the only user of the `context` crate. Identity (FS base) and floating-point control travel with the stack.
//!
//! A switch is one-sided: whoever goes on finds out who left, and stores the leaver's context where the leaver said (`data` is the address of
//! its [`SavedContext`]). So a context is complete only after the stack has been left, which is what rule 3 needs.
//!
//! Two traps of `context` 3.0.0 and their remedies: it reloads MXCSR at each jump, which is slow as soon as the sticky status bits differ, so the
//! running bits are patched into the saved word first (they are caller-saved by the psABI); and its callbacks are `extern "C"`, so
//! nothing may unwind through a first entry.

use context::{Context, Transfer};
use std::cell::Cell;
use std::ptr::null_mut;
use unyield_preempt::arch::insn;

/// A stack that is not running: the address at which `context` saved its registers. Null while it runs.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct SavedContext(Cell<*mut u32>);

const MXCSR_STATUS: u32 = 0x3f;

impl SavedContext {
    pub(crate) const fn empty() -> Self {
        SavedContext(Cell::new(null_mut()))
    }

    /// Where `leave_kernel_task` stores the stack pointer of a context that it saves.
    pub(crate) fn slot(&self) -> *mut usize {
        self.0.as_ptr().cast()
    }

    pub(crate) fn stack_pointer(&self) -> usize {
        self.0.get() as usize
    }

    pub(crate) fn set(&self, context: Context) {
        // SAFETY: `Context` is a transparent pointer to the saved registers (asserted below).
        self.0.set(unsafe { std::mem::transmute::<Context, *mut u32>(context) });
    }
}

unsafe extern "C" {
    /// The `context` crate's own, which its `Context::resume` calls; here it is entered by a jump, see `jump_by_jump`.
    fn jump_fcontext();
}

const _: () = assert!(size_of::<Context>() == size_of::<*mut u32>());

/// Leaves the running stack in `from` and goes on in `to`, with the identity `fs` (0: keep the running one). Returns when somebody switches back.
///
/// # Safety
/// Masked. `to` holds a context that nobody else resumes; `fs` is its identity, whose gate is closed and names the receiver of the
/// calling thread. `from` belongs to the running stack and stays valid until it is resumed.
#[inline(always)]
pub(crate) unsafe fn switch(from: &SavedContext, to: &SavedContext, fs: usize) {
    let target = to.0.replace(null_mut());
    // SAFETY: word 0 of a saved context is its MXCSR. FS is swapped last: between here and the jump no thread-local state is touched, and an
    // interrupt is deferred by either gate. The target came out of a `Context`, and is consumed by this resume.
    unsafe {
        *target = (*target & !MXCSR_STATUS) | (insn::stmxcsr() & MXCSR_STATUS);
        if fs != 0 && !cfg!(unyield_mutant = "no_identity_swap") {
            insn::wrfsbase(fs);
        }
        arrive_raw(insn::jump_by_jump(jump_fcontext, target as usize, from as *const SavedContext as usize));
    }
}

/// The first thing after a jump has arrived: stores the context of the stack that was left where its owner wants it.
///
/// # Safety
/// `transfer` came from a jump made by [`switch`].
#[inline(always)]
pub(crate) unsafe fn arrive(transfer: Transfer) {
    // SAFETY: `switch` passes the address of the leaver's SavedContext, which stays valid until the leaver is resumed.
    unsafe { (*(transfer.data as *const SavedContext)).set(transfer.context) }
}

/// As [`arrive`], for a context that `leave_kernel_task` saved.
///
/// # Safety
/// As for [`arrive`], or `data` is the address of a SavedContext that nobody needs.
#[inline(always)]
pub(crate) unsafe fn arrive_raw(transfer: insn::Transfer) {
    // SAFETY: as in `arrive`.
    unsafe { (*(transfer.data as *const SavedContext)).0.set(transfer.context as *mut u32) }
}

/// A new context at the top of `stack` (highest address), which starts in `entry`.
///
/// # Safety
/// `low..top` is a mapped, unused stack that outlives the context.
pub(crate) unsafe fn new_context(
    low: usize,
    top: usize,
    entry: extern "C" fn(Transfer) -> !,
) -> SavedContext {
    // SAFETY: `Stack::new` only notes the bounds.
    unsafe {
        let stack = context::stack::Stack::new(top as *mut _, low as *mut _);
        let saved = SavedContext::empty();
        saved.set(Context::new(&stack, entry));
        saved
    }
}
