//! Two closures, perhaps in parallel.

use crate::current::{self, Entered, Waits};
use crate::registry::{self, Registry};
use std::marker::PhantomData;
use unyield::raw;

/// Says to a closure of [`join_context`] where it runs.
#[derive(Debug)]
pub struct FnContext {
    migrated: bool,
    /// It speaks of the calling fiber.
    here: PhantomData<*mut ()>,
}

impl FnContext {
    #[inline]
    fn new(migrated: bool) -> Self {
        FnContext { migrated, here: PhantomData }
    }

    /// True if the closure runs on another fiber than the one that called [`join_context`]: it was stolen, or the call came from outside the pool.
    #[inline]
    pub fn migrated(&self) -> bool {
        self.migrated
    }
}

/// Runs both closures, perhaps in parallel, and returns both results: the first at once, the second on an idle worker of the pool, or here after the first. Outside a pool
/// both run in the global one.
///
/// A fiber that waits for a stolen half parks; nothing runs on top of it, so locks may be held across the call.
///
/// ```
/// let (a, b) = rayon_core::join(|| 1, || 2);
/// assert_eq!(a + b, 3);
/// ```
///
/// # Panics
/// With the panic of the first closure, or else with that of the second; in any case after both have ended, and both are called.
#[inline]
pub fn join<A, B, RA, RB>(oper_a: A, oper_b: B) -> (RA, RB)
where
    A: FnOnce() -> RA + Send,
    B: FnOnce() -> RB + Send,
    RA: Send,
    RB: Send,
{
    join_context(move |_| oper_a(), move |_| oper_b())
}

/// As [`join`]; each closure is told whether it has migrated.
#[inline]
pub fn join_context<A, B, RA, RB>(oper_a: A, oper_b: B) -> (RA, RB)
where
    A: FnOnce(FnContext) -> RA + Send,
    B: FnOnce(FnContext) -> RB + Send,
    RA: Send,
    RB: Send,
{
    match current::registry() {
        Some(registry) => fork(registry, oper_a, oper_b, false),
        None => outside(oper_a, oper_b),
    }
}

#[cold]
fn outside<A, B, RA, RB>(oper_a: A, oper_b: B) -> (RA, RB)
where
    A: FnOnce(FnContext) -> RA + Send,
    B: FnOnce(FnContext) -> RB + Send,
    RA: Send,
    RB: Send,
{
    let registry = registry::global();
    registry.install(|injected| fork(registry, oper_a, oper_b, injected))
}

/// On a fiber of the registry's.
#[inline(always)]
fn fork<A, B, RA, RB>(registry: &'static Registry, oper_a: A, oper_b: B, injected: bool) -> (RA, RB)
where
    A: FnOnce(FnContext) -> RA + Send,
    B: FnOnce(FnContext) -> RB + Send,
    RA: Send,
    RB: Send,
{
    raw::join_context_by::<Waits, _, _, _, _>(
        move |_| oper_a(FnContext::new(injected)),
        move |context| {
            if context.migrated() { stolen(registry, oper_b) } else { oper_b(FnContext::new(injected)) }
        },
    )
}

/// On a fiber that begins, with a stolen half.
#[cold]
#[inline(never)]
fn stolen<B, RB>(registry: &'static Registry, oper_b: B) -> RB
where
    B: FnOnce(FnContext) -> RB,
{
    let _entered = Entered::new(registry);
    oper_b(FnContext::new(true))
}
