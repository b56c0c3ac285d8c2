//! An interrupted context, as the entry stub laid it out on the interrupted stack.
//!
//! A vector handler may read all of it and change it: what it writes is what the interrupted code finds when it goes on.

/// Registers of the interrupted code. Lives on the interrupted stack while a vector handler runs.
#[repr(C)]
#[derive(Debug)]
#[allow(missing_docs)] // the names are the registers'
pub struct Frame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rax: u64,
    pub vector: u64,
    pub rip: u64,
    pub rflags: u64,
    pub rsp: u64,
}

/// A system call that was interrupted: what the kernel has done with it (signal backend, handler with SA_RESTART).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syscall {
    /// It blocked and will be executed again: RIP is at the `syscall` instruction and RAX holds its number.
    Restart {
        /// The system call's number.
        number: u64,
        /// Its six argument registers.
        args: [u64; 6],
    },
    /// It blocked and has returned EINTR: RIP is just past it. The number is gone.
    Interrupted,
}

const SYSCALL: u16 = 0x050f;

impl Frame {
    /// The system call that the interrupt found the code blocked in, if it did.
    ///
    /// # Safety
    /// The interrupted code's text is readable at RIP and just before it.
    pub unsafe fn syscall(&self) -> Option<Syscall> {
        // SAFETY: two bytes of text, as the caller promises.
        let at = |ip: u64| unsafe { (ip as *const u16).read_unaligned() } == SYSCALL;
        if self.rax as i64 == -(libc::EINTR as i64) {
            // `rip - 2` lies in the same page or the one before; both are text if `rip` follows a syscall instruction.
            // At the very start of a page the byte before may be unmapped: then it is no system call either.
            return (self.rip & 0xfff >= 2 && at(self.rip - 2)).then_some(Syscall::Interrupted);
        }
        // A number is small; code that happens to stand before `syscall` with a small RAX has not entered it yet, which is the same.
        (self.rax < 1024 && self.rip & 0xfff <= 0xffe && at(self.rip)).then_some(Syscall::Restart {
            number: self.rax,
            args: [self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9],
        })
    }

    /// Completes an interrupted call on the caller's behalf: it will look as if it had just returned `result`.
    pub fn complete_syscall(&mut self, result: u64) {
        self.rip += 2;
        self.rcx = self.rip;
        self.r11 = self.rflags;
        self.rax = result;
    }
}
