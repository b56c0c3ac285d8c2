//! `crate::lock` over loom's mutex, registered with loom when first used.

use std::cell::Cell;
use std::sync::OnceLock;

pub struct Lock<T>(OnceLock<loom::sync::Mutex<T>>, Cell<Option<T>>);

// SAFETY: the cell is only used by the `OnceLock`'s one initialiser.
unsafe impl<T: Send> Sync for Lock<T> {}

pub type LockGuard<'a, T> = loom::sync::MutexGuard<'a, T>;

impl<T> Lock<T> {
    pub const fn new(value: T) -> Lock<T> {
        Lock(OnceLock::new(), Cell::new(Some(value)))
    }
    pub fn lock(&self) -> LockGuard<'_, T> {
        self.0.get_or_init(|| loom::sync::Mutex::new(self.1.take().unwrap())).lock().unwrap()
    }
}

impl<T: Default> Default for Lock<T> {
    fn default() -> Self {
        Lock::new(T::default())
    }
}
