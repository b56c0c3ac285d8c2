//! Intel's system calls on the model's processors: what registration, descriptors and the table do, with the errors that were seen on the real kernel.

use super::cpu::{self, SN, TABLE, Upid};
use super::trap::notification_signal;
use super::with_cpu;
use crate::arch::insn;
use crate::backend::uintr::kernel::{Answer, Interface};
use core::ptr::null_mut;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::Mutex;

/// The same functions as the kernels have.
pub(crate) static INTERFACE: Interface = Interface {
    name: "model",
    register_handler,
    unregister_handler,
    vector_fd,
    register_sender,
    unregister_sender,
    register_self: Some(register_self),
};

/// The red zone of the ABI: what Linux sets.
const STACK_ADJUST: u64 = if cfg!(unyield_mutant = "red_zone_0") { 0 } else { 128 };

struct Descriptor {
    fd: i32,
    vector: u64,
    upid: usize,
}

#[derive(Default)]
struct Kernel {
    descriptors: Vec<Descriptor>,
    /// Descriptors (of receivers) that nobody refers to: they are never freed, but used again.
    free: Vec<usize>,
}

static KERNEL: Mutex<Kernel> = Mutex::new(Kernel { descriptors: Vec::new(), free: Vec::new() });

/// In "ring 0": nothing is delivered.
fn in_kernel<R>(f: impl FnOnce(&mut Kernel) -> R) -> R {
    let mask = insn::signal_mask();
    // SAFETY: every signal but the faults is held back for a moment, then the thread's own mask is back.
    unsafe {
        insn::set_signal_mask(!(1 << (libc::SIGILL - 1) | 1 << (libc::SIGSEGV - 1)));
        let result = f(&mut KERNEL.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        insn::set_signal_mask(mask);
        result
    }
}

fn thread() -> i32 {
    // SAFETY: gettid has no preconditions.
    unsafe { insn::syscall6(libc::SYS_gettid as u64, [0; 6]) as i32 }
}

/// What a thread needs before it uses the instructions: the signals of the model unblocked.
pub fn register_thread() {
    crate::backend::signal::unblock(libc::SIGILL);
    crate::backend::signal::unblock(notification_signal());
}

fn register_handler(entry: usize) -> Answer<()> {
    if entry == 0 {
        return Err(libc::EFAULT);
    }
    register_thread();
    in_kernel(|kernel| {
        with_cpu(|cpu| {
            if !cpu.upid.load(Relaxed).is_null() {
                return Err(libc::EBUSY);
            }
            let upid = match kernel.free.pop() {
                Some(upid) => upid as *mut Upid,
                None => Box::into_raw(Box::new(Upid::new())),
            };
            // SAFETY: descriptors are never freed.
            unsafe { (*upid).aim(thread(), notification_signal()) };
            cpu.configure(entry, STACK_ADJUST);
            cpu.upid.store(upid, Relaxed);
            Ok(())
        })
    })
}

fn unregister_handler() -> Answer<()> {
    in_kernel(|kernel| {
        with_cpu(|cpu| {
            let upid = cpu.upid.swap(null_mut(), Relaxed);
            if upid.is_null() {
                return Err(libc::EINVAL);
            }
            // SAFETY: descriptors are never freed.
            unsafe { (*upid).low.fetch_or(SN, SeqCst) };
            cpu.configure(0, 0);
            let used = TABLE
                .iter()
                .any(|entry| entry.low.load(Relaxed) & 1 != 0 && entry.upid.load(Relaxed) == upid as u64)
                || kernel.descriptors.iter().any(|descriptor| descriptor.upid == upid as usize);
            if !used {
                kernel.free.push(upid as usize);
            }
            Ok(())
        })
    })
}

fn own_upid() -> Answer<*mut Upid> {
    let upid = with_cpu(|cpu| cpu.upid.load(Relaxed));
    if upid.is_null() { Err(libc::EINVAL) } else { Ok(upid) }
}

fn vector_fd(vector: u64) -> Answer<i32> {
    in_kernel(|kernel| {
        let upid = own_upid()? as usize;
        if vector >= 64 {
            return Err(libc::ENOSPC);
        }
        // SAFETY: eventfd has no preconditions.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(libc::EMFILE);
        }
        kernel.descriptors.push(Descriptor { fd, vector, upid });
        Ok(fd)
    })
}

fn new_entry(upid: *const Upid, vector: u64) -> Answer<u32> {
    let free = TABLE.iter().position(|entry| entry.low.load(Relaxed) & 1 == 0).ok_or(libc::ENOSPC)?;
    cpu::set_entry(free, vector, upid);
    Ok(free as u32)
}

fn register_sender(fd: i32) -> Answer<u32> {
    in_kernel(|kernel| {
        let descriptor =
            kernel.descriptors.iter().find(|descriptor| descriptor.fd == fd).ok_or(libc::EBADF)?;
        let upid = descriptor.upid as *const Upid;
        // SAFETY: descriptors are never freed.
        if unsafe { (*upid).low.load(SeqCst) } & SN != 0 {
            return Err(libc::ESHUTDOWN);
        }
        new_entry(upid, descriptor.vector)
    })
}

fn register_self(vector: u64) -> Answer<u32> {
    in_kernel(|_| {
        let upid = own_upid()?;
        if vector >= 64 { Err(libc::ENOSPC) } else { new_entry(upid, vector) }
    })
}

fn unregister_sender(index: u32) -> Answer<()> {
    in_kernel(|_| match TABLE.get(index as usize) {
        Some(entry) if entry.low.load(Relaxed) & 1 != 0 => {
            entry.low.store(0, SeqCst);
            Ok(())
        }
        _ => Err(libc::EINVAL),
    })
}

/// Writes anything into an entry of the table, to see that SENDUIPI faults on it. For tests.
///
/// # Safety
/// Nothing else uses the entry.
pub unsafe fn corrupt_entry(index: usize, low: u64) {
    TABLE[index].low.store(low, SeqCst);
}
