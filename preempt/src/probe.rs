//! What this machine has, and why not more. Nothing is guessed from a version number where it can be tried.

use crate::backend::Mechanism;
use crate::backend::uintr::{self, kernel};
use std::ffi::CStr;
use std::fmt;

/// One thing that was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// What.
    pub name: &'static str,
    /// Whether it is there.
    pub present: bool,
    /// How that is known, or what its absence means.
    pub detail: String,
}

/// The result of [`probe`]; `Display` is a table.
#[derive(Clone, Debug)]
pub struct Probe {
    findings: Vec<Finding>,
}

impl Probe {
    /// All findings, in the order of the table.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Whether the finding of this name is present.
    pub fn has(&self, name: &str) -> bool {
        self.findings.iter().any(|finding| finding.name == name && finding.present)
    }

    /// Why fibers cannot have identities of their own here and are preempted at checkpoints only; `None` where they can.
    pub fn identity_obstacle(&self) -> Option<&'static str> {
        identity_obstacle()
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(
                f,
                "{:<18} {:<4} {}",
                finding.name,
                if finding.present { "yes" } else { "no" },
                finding.detail
            )?;
        }
        let mechanism = Mechanism::best();
        writeln!(f, "{:<18} {}", "mechanism", mechanism_name(mechanism))?;
        match self.identity_obstacle() {
            None => writeln!(f, "{:<18} anywhere: every fiber has its own thread identity", "preemption"),
            Some(why) => writeln!(f, "{:<18} at checkpoints only: {why}", "preemption"),
        }
    }
}

fn mechanism_name(mechanism: Mechanism) -> &'static str {
    match mechanism {
        Mechanism::Uintr => "User Interrupts",
        Mechanism::Signal => "signals",
        Mechanism::Model => "modelled User Interrupts",
    }
}

/// True if user code may read and write the FS base (AT_HWCAP2 bit 1: the kernel enabled FSGSBASE).
pub fn fsgsbase() -> bool {
    // SAFETY: getauxval has no preconditions.
    unsafe { libc::getauxval(libc::AT_HWCAP2) & 2 != 0 }
}

/// True if the calling thread runs with a CET shadow stack, on which no stack switch of ours works.
pub fn shadow_stack() -> bool {
    const ARCH_SHSTK_STATUS: i32 = 0x5005;
    let mut features = 0u64;
    // SAFETY: writes eight bytes to a local where the kernel knows the request; EINVAL elsewhere.
    let result = unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SHSTK_STATUS, &raw mut features) };
    result == 0 && features & 1 != 0
}

/// glibc's version, if the libc is glibc.
pub fn glibc_version() -> Option<&'static str> {
    // SAFETY: the address is null or that of glibc's function, which returns a constant string.
    unsafe {
        let address = crate::arch::insn::glibc_version_address();
        if address.is_null() {
            return None;
        }
        let version: extern "C" fn() -> *const libc::c_char = core::mem::transmute(address);
        CStr::from_ptr(version()).to_str().ok()
    }
}

/// Why identities of their own are impossible here.
pub fn identity_obstacle() -> Option<&'static str> {
    if !fsgsbase() {
        Some("the kernel has not enabled FSGSBASE (Linux 5.9 or later, and a CPU that has it)")
    } else if !crate::arch::xstate::supported() {
        Some("the CPU has no XSAVEC or the kernel has not enabled XSAVE")
    } else if shadow_stack() {
        Some("a CET shadow stack is on for this thread")
    } else if glibc_version().is_none() && !cfg!(target_env = "musl") {
        Some("the libc is neither glibc nor musl")
    } else {
        None
    }
}

/// Looks at CPU, kernel and libc. A few microseconds (the first time, on a CPU with User Interrupts, SIGILL has another handler for a moment); any plain
/// thread or fiber.
///
/// ```
/// println!("{}", unyield_preempt::probe::probe());
/// ```
pub fn probe() -> Probe {
    let mut findings = Vec::new();
    let mut note = |name, present, detail: String| findings.push(Finding { name, present, detail });
    note("fsgsbase", fsgsbase(), "AT_HWCAP2 bit 1; identities are swapped with wrfsbase".into());
    note("xsavec", crate::arch::xstate::supported(), "CPUID.(0xD,1):EAX[1] and OSXSAVE".into());
    note("no shadow stack", !shadow_stack(), "arch_prctl(ARCH_SHSTK_STATUS)".into());
    match glibc_version() {
        Some(version) => note("glibc", true, version.into()),
        None => note("glibc", false, if cfg!(target_env = "musl") { "musl" } else { "unknown libc" }.into()),
    }
    note(
        "guard pages",
        guard_install(),
        "MADV_GUARD_INSTALL (Linux 6.13); else mprotect, two mappings a fiber".into(),
    );
    note("membarrier", membarrier(), "PRIVATE_EXPEDITED; else full fences on hot paths".into());
    note("uintr (CPU)", kernel::cpu_has_uintr(), "CPUID.(7,0):EDX[5]; SENDUIPI instead of signals".into());
    match uintr::interface() {
        Ok(interface) => note("uintr (kernel)", true, format!("TESTUI runs; interface {}", interface.name)),
        Err(why) => note("uintr (kernel)", false, why.into()),
    }
    Probe { findings }
}

fn membarrier() -> bool {
    // SAFETY: MEMBARRIER_CMD_QUERY (0) only asks.
    let commands = unsafe { libc::syscall(libc::SYS_membarrier, 0, 0, 0) };
    commands > 0 && commands & (1 << 3) != 0
}

/// True if the kernel has MADV_GUARD_INSTALL: tried on a page of its own.
pub fn guard_install() -> bool {
    const MADV_GUARD_INSTALL: i32 = 102;
    // SAFETY: a fresh page that nobody else knows is mapped, advised and unmapped.
    unsafe {
        let page = libc::mmap(
            core::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if page == libc::MAP_FAILED {
            return false;
        }
        let installed = libc::madvise(page, 4096, MADV_GUARD_INSTALL) == 0;
        libc::munmap(page, 4096);
        installed
    }
}
