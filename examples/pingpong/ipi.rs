//! The user IPI: a thread becomes a receiver of `unyield-preempt`, and the other one posts to it.
//!
//! All that this program knows of that crate is here. With hardware the sender executes SENDUIPI and no kernel is involved while the receiver runs in user code;
//! otherwise a signal's handler makes the interrupted thread look as if the hardware had delivered a user interrupt (an injected frame).

use std::hint::black_box;
use std::marker::PhantomData;
use std::sync::LazyLock;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use unyield_preempt::foreign::AlternateStack;
use unyield_preempt::{Frame, Mechanism, Receiver, backend, gate, mask, unmask};

use crate::ends::{Line, counted, futex_wait, system, text};
use crate::kinds::Mode;
use crate::run::{End, Side, cpu_time, pin, relax};
use crate::signal::{handle, process_id, thread_id};

const SIGNAL: i32 = backend::signal::DEFAULT_SIGNAL;
/// "Your turn."
const TURN: u8 = 1;
/// Its handler does nothing.
const EMPTY: u8 = 2;

/// How the user IPIs of this run are delivered.
pub(crate) fn label() -> &'static str {
    match Mechanism::best() {
        Mechanism::Uintr => "user IPI (SENDUIPI)",
        _ => "user IPI (injected frame over a signal)",
    }
}

/// The calling thread becomes `receiver`'s, and its gate opens.
fn attach(receiver: &'static Receiver, mechanism: Mechanism) -> Result<(), String> {
    mechanism.install(SIGNAL).map_err(text)?;
    let (low, high) = stack()?;
    let gate = gate::gate();
    // SAFETY: the gate is the calling thread's own, the bounds are its stack's, and the receiver lives for ever.
    unsafe {
        gate.prepare(low, high);
        gate.return_by_uiret(mechanism.has_uif());
        gate.set_receiver(receiver);
    }
    receiver.register(mechanism).map_err(text)?;
    receiver.attach(SIGNAL);
    // SAFETY: undoes the closing of `prepare`.
    unsafe { unmask() };
    Ok(())
}

/// The calling thread stops being `receiver`'s.
fn detach(receiver: &Receiver) {
    mask();
    receiver.detach();
    receiver.unregister();
    let gate = gate::gate();
    // SAFETY: the gate is the calling thread's own and closed; detached.
    unsafe {
        gate.set_receiver(std::ptr::null());
        gate.open();
    }
}

/// Where the calling thread's stack begins and ends.
fn stack() -> Result<(usize, usize), String> {
    // SAFETY: all zeroes is as good as anything: the next call fills it in.
    let mut attributes: libc::pthread_attr_t = unsafe { std::mem::zeroed() };
    // SAFETY: fills in the attributes of the calling thread.
    system(-unsafe { libc::pthread_getattr_np(libc::pthread_self(), &mut attributes) })?;
    let (mut low, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: reads what was filled in, and frees it.
    unsafe {
        libc::pthread_attr_getstack(&attributes, &mut low, &mut size);
        libc::pthread_attr_destroy(&mut attributes);
    }
    Ok((low as usize, low as usize + size))
}

static TURNS: [Line; 2] = [Line(AtomicU32::new(0)), Line(AtomicU32::new(0))];

/// One for each side.
static RECEIVERS: LazyLock<[Receiver; 2]> = LazyLock::new(|| {
    let mut receivers = [Receiver::new(), Receiver::new()];
    // SAFETY: all three handlers add to a counter, or do nothing at all.
    unsafe {
        receivers[Side::Ping as usize].on_vector(TURN, ping_turn);
        receivers[Side::Ping as usize].on_vector(EMPTY, nothing);
        receivers[Side::Pong as usize].on_vector(TURN, pong_turn);
    }
    receivers
});

unsafe fn ping_turn(_: &Receiver, _: Option<&mut Frame>) {
    TURNS[Side::Ping as usize].0.fetch_add(1, Relaxed); // read by the interrupted thread only
}

unsafe fn pong_turn(_: &Receiver, _: Option<&mut Frame>) {
    TURNS[Side::Pong as usize].0.fetch_add(1, Relaxed); // as above
}

unsafe fn nothing(_: &Receiver, _: Option<&mut Frame>) {}

/// A thread that is a receiver until this is dropped, on the same thread.
struct Attached {
    receiver: &'static Receiver,
    /// What the signal's handler runs on; the thread's own again after it is dropped.
    _alternate: AlternateStack,
    _on_its_thread: PhantomData<*const ()>,
}

impl Attached {
    fn new(side: Side, mechanism: Mechanism) -> Result<Attached, String> {
        let receiver = &RECEIVERS[side as usize];
        let alternate = AlternateStack::install().map_err(text)?;
        attach(receiver, mechanism)?;
        Ok(Attached { receiver, _alternate: alternate, _on_its_thread: PhantomData })
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        detach(self.receiver);
    }
}

/// Posts to the other side; counts in an interrupt handler, while the thread spins on the count or sleeps on it.
pub(crate) struct Ipi {
    _attached: Attached,
    turns: &'static AtomicU32,
    other: &'static Receiver,
    mode: Mode,
}

impl Ipi {
    pub(crate) fn new(side: Side, mode: Mode) -> Result<Ipi, String> {
        let turns = &TURNS[side as usize].0;
        turns.store(0, Relaxed);
        Ok(Ipi {
            _attached: Attached::new(side, Mechanism::best())?,
            turns,
            other: &RECEIVERS[side.other() as usize],
            mode,
        })
    }
}

impl End for Ipi {
    fn send(&mut self, _: u32) -> Result<(), String> {
        self.other.post(TURN);
        if self.mode == Mode::Block {
            self.other.escalate(); // hardware wakes nobody who sleeps in the kernel
        }
        Ok(())
    }

    /// Blocked, this sleeps on the count by a futex: an interrupt between the look and the system call has changed the word then, and one
    /// that comes later ends the call, or lets it begin anew and find the word changed.
    fn receive(&mut self, n: u32) -> Result<(), String> {
        match self.mode {
            Mode::Spin => counted(self.turns, n, |_| {
                relax();
                Ok(())
            }),
            Mode::Block => counted(self.turns, n, |seen| futex_wait(self.turns, seen)),
        }
    }

    fn finish(&mut self, n: u32) -> Result<(), String> {
        counted(self.turns, n, |_| Err("some interrupts are missing".into()))
    }
}

/// Rounds of the comparison with a plain signal, and how often each is sent in one.
pub(crate) const ROUNDS: usize = 15;
pub(crate) const SENDS: u32 = 20_000;

/// Nanoseconds of CPU time for one, of each round.
#[derive(Debug)]
pub(crate) struct ToSelf {
    pub signal: Vec<f64>,
    pub frame: Vec<f64>,
}

/// What it costs a thread to send itself a signal whose handler does nothing, and to post to itself a vector whose handler does nothing,
/// with the frame injected by the signal's handler; in turn, so that both meet the same disturbances. This one is about the
/// injected frame, with and without hardware.
pub(crate) fn to_self(cpu: Option<usize>) -> Result<ToSelf, String> {
    std::thread::scope(|scope| {
        scope.spawn(|| compare(cpu)).join().map_err(|_| "a thread has panicked".to_owned())?
    })
    .map_err(|why| format!("{}: {why}", crate::args::SELF))
}

fn compare(cpu: Option<usize>) -> Result<ToSelf, String> {
    extern "C" fn empty(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    pin(cpu)?;
    handle(libc::SIGUSR1, empty)?;
    let attached = Attached::new(Side::Ping, Mechanism::Signal)?;
    let (process, thread, receiver) = (process_id(), thread_id(), attached.receiver);
    let signal = || {
        // SAFETY: a signal to the calling thread, which handles it.
        black_box(unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGUSR1) });
    };
    let post = || receiver.post(EMPTY);
    let each = |send: &dyn Fn()| {
        let start = cpu_time(); // nothing waits here but for a CPU that others use
        for _ in 0..SENDS {
            send();
        }
        (cpu_time() - start).as_nanos() as f64 / f64::from(SENDS)
    };
    let mut found = ToSelf { signal: Vec::new(), frame: Vec::new() };
    for round in 0..=ROUNDS {
        let before = receiver.counters.interrupts.load(Relaxed);
        let (one, other) = (each(&signal), each(&post));
        let interrupts = receiver.counters.interrupts.load(Relaxed) - before;
        if interrupts != u64::from(SENDS) || receiver.pending() != 0 {
            return Err(format!("{interrupts} interrupts after {SENDS} posts"));
        }
        if round > 0 {
            // the one before them all was to warm up
            found.signal.push(one);
            found.frame.push(other);
        }
    }
    let counters = &receiver.counters;
    match [&counters.deferred, &counters.misplaced, &counters.foreign_mask].map(|c| c.load(Relaxed)) {
        [_, 0, 0] => Ok(found),
        refused => Err(format!("interrupts were held back or refused: {refused:?}")),
    }
}
