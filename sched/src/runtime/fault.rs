//! Fatal signals on a fiber: a stack overflow and an abort say which fiber it was, then end the process as they would have.

use crate::fiber::task;
use crate::observe::report::Line;
use std::ptr::null_mut;
use std::sync::Once;
use std::sync::atomic::Ordering::Relaxed;

static mut PREVIOUS: [Option<libc::sigaction>; 32] = [None; 32];

/// Once per process.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for signo in [libc::SIGSEGV, libc::SIGBUS, libc::SIGABRT] {
            // SAFETY: plain sigaction calls; PREVIOUS is written before our handler can read it.
            unsafe {
                let mut previous: libc::sigaction = std::mem::zeroed();
                libc::sigaction(signo, std::ptr::null(), &mut previous);
                PREVIOUS[signo as usize] = Some(previous);
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = handler as *const () as usize;
                // as the handler that we call expects it
                action.sa_flags =
                    libc::SA_SIGINFO | libc::SA_ONSTACK | (previous.sa_flags & libc::SA_NODEFER);
                action.sa_mask = previous.sa_mask;
                libc::sigaction(signo, &action, null_mut());
            }
        }
    });
}

unsafe extern "C" fn handler(signo: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: in a handler on its own stack; the fiber it interrupted cannot go on meanwhile, so its task and identity are alive. PREVIOUS is constant now.
    unsafe {
        if let Some(task) = task::current() {
            let identity = task.identity.load(Relaxed).as_ref();
            let own = (*info).si_code == libc::SI_TKILL && (*info).si_pid() == libc::getpid();
            if signo == libc::SIGABRT && own {
                name_fiber(task, None, "aborts");
            } else if identity
                .is_some_and(|identity| identity.stack.guard_contains((*info).si_addr() as usize))
            {
                name_fiber(task, identity.map(|identity| identity.stack.asked()), "has overflowed its stack");
                hand_back_abort();
                libc::abort();
            }
        }
        // std's handler aborts on a plain thread's stack overflow. The alternate stack that it runs on there has no room for one more signal frame.
        let taken =
            if signo != libc::SIGABRT && task::current().is_none() { hand_back_abort() } else { None };
        let table = &raw const PREVIOUS;
        let previous = (*table)[signo as usize & 31];
        match previous {
            Some(previous) if previous.sa_sigaction > 1 && previous.sa_flags & libc::SA_SIGINFO != 0 => {
                let handler: unsafe extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
                    std::mem::transmute(previous.sa_sigaction);
                handler(signo, info, context);
            }
            Some(previous) if previous.sa_sigaction > 1 => {
                let handler: unsafe extern "C" fn(i32) = std::mem::transmute(previous.sa_sigaction);
                handler(signo);
            }
            _ => {
                // the default action, taken when the instruction faults again or the signal is sent again
                restore(signo);
                if signo == libc::SIGABRT || (*info).si_code <= 0 {
                    libc::raise(signo);
                }
            }
        }
        if let Some(action) = taken {
            libc::sigaction(libc::SIGABRT, &action, null_mut());
        }
    }
}

/// Makes SIGABRT what it was before us, if our handler is installed; returns what was installed.
unsafe fn hand_back_abort() -> Option<libc::sigaction> {
    // SAFETY: PREVIOUS is constant after installation; plain sigaction calls, which are async-signal-safe.
    unsafe {
        let mut current: libc::sigaction = std::mem::zeroed();
        let ours = libc::sigaction(libc::SIGABRT, std::ptr::null(), &mut current) == 0
            && current.sa_sigaction == handler as *const () as usize;
        let table = &raw const PREVIOUS;
        let previous = (*table)[libc::SIGABRT as usize]?;
        (ours && libc::sigaction(libc::SIGABRT, &previous, null_mut()) == 0).then_some(current)
    }
}

unsafe fn restore(signo: i32) {
    // SAFETY: the default action.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(signo, &action, null_mut());
    }
}

/// Says which fiber it is, and gives the thread its name, so that the core shows it.
unsafe fn name_fiber(task: &task::Task, stack: Option<usize>, what: &str) {
    let mut line = Line::new();
    line.push("\nunyield: fiber ");
    line.push_number(task.id.as_u64().get());
    if let Some(name) = task.name() {
        line.push(" '");
        line.push(name);
        line.push("'");
        let mut short = [0u8; 16];
        let n = name.len().min(15);
        short[..n].copy_from_slice(&name.as_bytes()[..n]);
        // SAFETY: a terminated string of at most 16 bytes.
        unsafe { libc::prctl(libc::PR_SET_NAME, short.as_ptr()) };
    }
    line.push(", spawned at ");
    line.push(task.spawned_at.file());
    line.push(":");
    line.push_number(u64::from(task.spawned_at.line()));
    line.push(", ");
    line.push(what);
    if let Some(size) = stack {
        line.push(" of ");
        line.push_number(size as u64);
        line.push(" bytes");
    }
    line.push("\n");
    line.write();
}
