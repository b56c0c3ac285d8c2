//! What the steps of a protocol cost. All times are picoseconds: integers, so that results do not depend on rounding.
//!
//! Where the figures come from is said at each set, and in `docs/stealing-scaling.part.md`.

/// Picoseconds.
pub type Ps = u64;
/// A nanosecond.
pub const NS: Ps = 1_000;
/// A microsecond.
pub const US: Ps = 1_000 * NS;

/// How a thief gets at the victim's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// It interrupts the victim, whose handler hands over.
    Lazy,
    /// It takes from the victim's deque by itself.
    Eager,
}

/// The costs of one way of stealing on one kind of machine.
#[derive(Clone, Debug)]
pub struct Costs {
    /// Name in tables, and on the command line.
    pub name: &'static str,
    /// Name in the picture.
    pub label: &'static str,
    /// Lazy or eager.
    pub protocol: Protocol,
    /// One `join` that nobody steals from: push and pop.
    pub spawn: Ps,
    /// A thief reads one victim's bounds (a cache miss).
    pub probe: Ps,
    /// What the victim loses when the line of its bounds was read since it last wrote it.
    pub disturb: Ps,
    /// Lazy: claiming the mailbox. Eager: the CAS on the deque's top, during which no other thief succeeds.
    pub claim: Ps,
    /// Lazy: the thief's time to send the interrupt.
    pub send: Ps,
    /// Lazy: from the beginning of the send to the first instruction of the victim's handler.
    pub deliver: Ps,
    /// Lazy: what one interrupt costs the victim, entry to return.
    pub handler: Ps,
    /// Lazy: from the handler's entry to the moment when the thief sees the answer. Also a refusal by an idle worker.
    pub reply: Ps,
    /// From the descriptor in hand to its first instruction: lazy, a fresh fiber; eager, reading the job.
    pub start: Ps,
    /// Lazy: parking a fiber, or resuming the joiner.
    pub park: Ps,
    /// What waking a sleeper costs the waker.
    pub wake_send: Ps,
    /// From the call that wakes to the sleeper's first probe.
    pub wake: Ps,
    /// Lazy: sleepers woken after a successful steal from a victim that shows more.
    pub wakes: u32,
    /// Lazy: how long a victim is left alone after an interrupt was sent to it (0: the protocol as designed).
    pub rest: Ps,
    /// All workers search when the program begins; otherwise all but the first sleep.
    pub awake: bool,
    /// How long a worker searches before it sleeps; eager, at least.
    pub spin: Ps,
    /// Lazy: period of the timer, which wakes a sleeper if a region is older than that.
    pub tick: Ps,
}

/// A cache line from one core to another: measured one way, on two cores of a socket.
const LINE: Ps = 140 * NS;

/// What all sets have in common: costs inside one socket, not of the kernel.
const COMMON: Costs = Costs {
    name: "",
    label: "",
    protocol: Protocol::Lazy,
    spawn: NS,
    probe: LINE,
    disturb: LINE,
    claim: LINE,
    send: 0,
    deliver: 0,
    handler: 0,
    reply: 100 * NS + LINE,
    start: 60 * NS,
    park: 150 * NS,
    wake_send: US,
    wake: 5 * US,
    wakes: 1,
    rest: 0,
    awake: false,
    spin: 50 * US,
    tick: 50 * US,
};

/// Every set, in the order of the picture's legend.
pub fn sets() -> Vec<Costs> {
    // Cycles of a 2.6 GHz processor.
    let cycles = |n: u64| n * 10_000 / 26;
    vec![
        // Literature, Sapphire Rapids: send 170 to 380 cycles, delivery 1,200 to 1,360 (middles taken). Handler: some 700 cycles of
        // hardware for flush, delivery and UIRET (an estimate), XSAVEC and XRSTOR (73 ns measured) and the hand-over.
        Costs {
            name: "uipi",
            label: "lazy, UIPI",
            send: cycles(275),
            deliver: cycles(1_280),
            handler: 400 * NS,
            ..COMMON
        },
        // Literature: a signal on bare metal takes about 2.4 µs. Handler: a signal to oneself with its sigreturn is 0.87 µs, by frame and
        // stub 1.06 µs (both without a VM exit even in a VM); the IPI's reception is put at 0.6 µs.
        Costs {
            name: "signal",
            label: "lazy, signal, bare metal",
            send: 800 * NS,
            deliver: 2_400 * NS,
            handler: 1_700 * NS,
            reply: 500 * NS + LINE,
            ..COMMON
        },
        // Measured in a VM with two CPUs: tgkill to a computing thread, and futex wake to an idle CPU.
        Costs {
            name: "signal-vm",
            label: "lazy, signal, VM",
            send: 8_800 * NS,
            deliver: 13_600 * NS,
            handler: 9_000 * NS,
            reply: 500 * NS + LINE,
            wake_send: 8_800 * NS,
            wake: 11_300 * NS,
            ..COMMON
        },
        // rayon: 8.1 ns a spawn (fib). A steal is three cache misses: the probe, the CAS (`claim`), the job (`start`).
        Costs {
            name: "eager",
            label: "eager",
            protocol: Protocol::Eager,
            spawn: 8 * NS,
            start: LINE,
            ..COMMON
        },
        Costs {
            name: "eager-vm",
            label: "eager, VM",
            protocol: Protocol::Eager,
            spawn: 8 * NS,
            start: LINE,
            wake_send: 8_800 * NS,
            wake: 11_300 * NS,
            ..COMMON
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cycles_are_of_2_6_ghz() {
        let uipi = &sets()[0];
        assert_eq!(uipi.deliver, 492_307);
        assert_eq!(uipi.send, 105_769);
    }
}
