//! All assembly of unyield, one folder per architecture behind one list of names.
//!
//! Nothing outside this folder contains an instruction; nothing inside it knows what a scheduler is.

#[cfg(not(all(target_os = "linux", target_arch = "x86_64", target_pointer_width = "64")))]
compile_error!(
    "unyield-preempt runs on x86-64 Linux only: it rewrites signal contexts and swaps FS, \
     and no other architecture or system has that written yet"
);

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;
