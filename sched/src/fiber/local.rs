//! Fiber-local values: per task, unlike `thread_local!`, whose values stay with the identity from task to task.

use super::task::{self, Payload, contain, dispose};
use std::any::Any;
use std::cell::RefCell;
use std::fmt;

/// One task's values, in the order of their first use; few, so a list.
#[derive(Default)]
pub(crate) struct Locals(Vec<(usize, Box<dyn Any>)>);

impl Locals {
    /// Drops all values, and those that their destructors create, unmasked. A destructor that panics does not keep the others from running; the first
    /// panic's payload is returned.
    ///
    /// # Safety
    /// The calling fiber owns `this`.
    #[inline]
    pub(crate) unsafe fn clear(this: *mut Locals) -> Option<Payload> {
        let mut first = None;
        // SAFETY: no reference is held while a destructor runs, which may come back here.
        while let Some((_, value)) = unsafe { (*this).0.pop() } {
            match (contain(|| drop(value)), &first) {
                (None, _) => {}
                (panic, None) => first = panic,
                (Some(another), Some(_)) => dispose(another),
            }
        }
        first
    }

    /// # Safety
    /// The calling fiber owns `this`.
    #[inline]
    pub(crate) unsafe fn is_empty(this: *const Locals) -> bool {
        // SAFETY: a short shared borrow.
        unsafe { &(*this).0 }.is_empty()
    }

    /// The value's address; it stays where it is until the task ends, since it is boxed.
    ///
    /// # Safety
    /// The calling fiber (or thread) owns `this`.
    unsafe fn get<T: 'static>(this: *mut Locals, key: usize, init: fn() -> T) -> *const T {
        let find = || {
            // SAFETY: a short shared borrow; `init` does not run under it.
            unsafe { &(*this).0 }
                .iter()
                .find(|(k, _)| *k == key)
                .and_then(|(_, value)| value.downcast_ref::<T>())
                .map(|v| v as *const T)
        };
        find().unwrap_or_else(|| {
            let value: Box<dyn Any> = Box::new(init());
            // SAFETY: a short exclusive borrow.
            unsafe { (*this).0.push((key, value)) };
            find().expect("just pushed")
        })
    }
}

/// A value of each task's own, made at its first use there and dropped when the task ends, on its fiber, in the reverse order of their first use. A
/// destructor that panics does not keep the others from running; its panic is the fiber's, if that has not panicked already. Values that are made later
/// still, by the destructor of a detached fiber's result or by a waker, are dropped after that, and their panics with them. Declared with
/// [`fiber_local!`](crate::fiber_local).
pub struct LocalKey<T: 'static> {
    /// Not zero-sized, so that no two keys have the same address.
    init: fn() -> T,
}

impl<T: 'static> fmt::Debug for LocalKey<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalKey")
    }
}

thread_local! {
    static OF_THREAD: RefCell<Box<Locals>> = RefCell::new(Box::default());
}

impl<T: 'static> LocalKey<T> {
    #[doc(hidden)]
    pub const fn new(init: fn() -> T) -> Self {
        LocalKey { init }
    }

    /// Calls `f` with the running task's value, or with the thread's own outside a runtime. Any fiber or thread, also inside a critical section.
    ///
    /// ```
    /// use std::cell::Cell;
    /// unyield::fiber_local! { static DEPTH: Cell<u32> = Cell::new(0); }
    /// DEPTH.with(|depth| depth.set(depth.get() + 1));
    /// unyield::spawn(|| DEPTH.with(|depth| assert_eq!(depth.get(), 0))).join().unwrap();
    /// ```
    ///
    /// # Panics
    /// With the panic of `f` or of the initial value; on a plain thread that is dropping its thread-local values.
    pub fn with<R>(&'static self, f: impl FnOnce(&T) -> R) -> R {
        let key = self as *const LocalKey<T> as usize;
        let locals = match task::current() {
            Some(task) => task.locals.get(),
            None => OF_THREAD.with(|locals| &raw mut **locals.borrow_mut()),
        };
        // SAFETY: the list belongs to the calling fiber or thread, which is in this call; a value stays at its address until the
        // task or thread ends.
        let value = unsafe { &*Locals::get(locals, key, self.init) };
        f(value)
    }
}

/// Declares fiber-local values, as `thread_local!` declares thread-local ones: `fiber_local! { static NAME: Type = init; }`. See
/// [`LocalKey`](crate::fiber::LocalKey).
#[macro_export]
macro_rules! fiber_local {
    ($($(#[$attribute:meta])* $visibility:vis static $name:ident: $type:ty = $init:expr;)+) => {
        $($(#[$attribute])* $visibility static $name: $crate::fiber::LocalKey<$type> = {
            fn init() -> $type { $init }
            $crate::fiber::LocalKey::new(init)
        };)+
    };
}
