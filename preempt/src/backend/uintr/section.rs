//! Critical sections of the hardware alone: CLUI, the section, STUI, and nothing else.
//!
//! [`CriticalSection`](crate::CriticalSection) nests and works for every mechanism, for which it counts. Here the type system excludes nesting, so there is nothing
//! to count. For: a thread that is a receiver of its own and whose sections are a few instructions long. Not for: fibers (UIF belongs to the kernel's thread and
//! is 1 wherever they are switched), nor code that may run on a thread without User Interrupts.
//!
//! Only user interrupts wait. A receiver that found no entry in the target table is notified by signals; one that arrives in such a section waits for the next
//! notification, or for the end of the next `CriticalSection`.

use crate::arch::insn;
use core::marker::PhantomData;

/// The calling thread's UIF is 1, says whoever has this. One a thread; it stays there:
///
/// ```compile_fail
/// # use unyield_preempt::backend::uintr::section::Open;
/// fn elsewhere(mut open: Open) {
///     std::thread::spawn(move || open.closed(|| ()));
/// }
/// ```
///
/// ```compile_fail
/// # use unyield_preempt::backend::uintr::section::Open;
/// fn shared(open: &Open) {
///     std::thread::scope(|scope| drop(scope.spawn(|| open)));
/// }
/// ```
#[derive(Debug)]
pub struct Open(PhantomData<*mut ()>);

impl Open {
    /// The thread's token.
    ///
    /// # Safety
    /// The thread is a registered receiver with UIF = 1, on a machine with User Interrupts or in their model, and stays so, outside sections, while the token lives.
    /// The thread has no other token. Nothing in a section changes UIF or switches: no `CriticalSection` ends there and no interrupt's handler is its caller.
    #[inline(always)]
    pub unsafe fn new() -> Self {
        Open(PhantomData)
    }

    /// Runs `f` with user interrupts held back; what arrives meanwhile is delivered as the section ends, also if it ends by a panic.
    ///
    /// ```
    /// use unyield_preempt::arch::insn;
    /// use unyield_preempt::backend::{model, uintr::section::Open};
    ///
    /// extern "C" fn entry() {} // nothing is sent here
    /// model::install()?;
    /// // SAFETY: a receiver in the model, to which nothing is sent, with the only token of its thread.
    /// let mut open = unsafe {
    ///     (model::interface().register_handler)(entry as *const () as usize).unwrap();
    ///     insn::stui();
    ///     Open::new()
    /// };
    /// assert!(open.closed(|| !model::state().uif));
    /// assert!(model::state().uif);
    /// # std::io::Result::Ok(())
    /// ```
    ///
    /// A section in a section would end at the inner one's end. It does not compile:
    ///
    /// ```compile_fail,E0499
    /// # use unyield_preempt::backend::uintr::section::Open;
    /// fn nested(open: &mut Open) {
    ///     open.closed(|| open.closed(|| ()));
    /// }
    /// ```
    #[inline(always)]
    pub fn closed<R>(&mut self, f: impl FnOnce() -> R) -> R {
        /// STUI at the end of its scope.
        struct Reopen;
        impl Drop for Reopen {
            #[inline(always)]
            fn drop(&mut self) {
                // SAFETY: as promised to `new`: UIF was 1 before the section.
                unsafe { insn::stui() }
            }
        }
        // SAFETY: as promised to `new`.
        unsafe { insn::clui() }
        let _reopen = Reopen;
        f()
    }
}
