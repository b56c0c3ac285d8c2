//! Loom's atomics with `const` constructors: registered with loom when first used.

use std::sync::OnceLock;

pub use std::sync::atomic::Ordering;

macro_rules! atomics {
    ($($name:ident: $value:ty,)*) => {$(
        pub struct $name(OnceLock<loom::sync::atomic::$name>, $value);

        impl $name {
            pub const fn new(value: $value) -> $name {
                $name(OnceLock::new(), value)
            }
            fn get(&self) -> &loom::sync::atomic::$name {
                self.0.get_or_init(|| loom::sync::atomic::$name::new(self.1))
            }
            pub fn load(&self, order: Ordering) -> $value {
                self.get().load(order)
            }
            pub fn store(&self, value: $value, order: Ordering) {
                self.get().store(value, order);
            }
            pub fn compare_exchange(&self, old: $value, new: $value, yes: Ordering, no: Ordering) -> Result<$value, $value> {
                self.get().compare_exchange(old, new, yes, no)
            }
            pub fn compare_exchange_weak(&self, old: $value, new: $value, yes: Ordering, no: Ordering) -> Result<$value, $value> {
                self.get().compare_exchange(old, new, yes, no)
            }
        }
    )*};
}
atomics! { AtomicU8: u8, AtomicU32: u32, AtomicUsize: usize, AtomicBool: bool, }

macro_rules! arithmetic {
    ($($name:ident: $value:ty,)*) => {$(
        impl $name {
            pub fn fetch_add(&self, n: $value, order: Ordering) -> $value {
                self.get().fetch_add(n, order)
            }
            pub fn fetch_sub(&self, n: $value, order: Ordering) -> $value {
                self.get().fetch_sub(n, order)
            }
            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                self.get().swap(value, order)
            }
            pub fn fetch_or(&self, n: $value, order: Ordering) -> $value {
                self.get().fetch_or(n, order)
            }
            pub fn fetch_and(&self, n: $value, order: Ordering) -> $value {
                self.get().fetch_and(n, order)
            }
        }
    )*};
}
arithmetic! { AtomicU32: u32, AtomicUsize: usize, }

impl AtomicU32 {
    /// The futex calls that would use it are not part of any model.
    pub fn as_ptr(&self) -> *mut u32 {
        std::ptr::null_mut()
    }
}
