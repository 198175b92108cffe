//! Level and threads are settings of the process: one test at a time.

use dsv3_numerics::threads::{set_least_shared, set_num_threads};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held while a test sets them.
pub fn settings() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets so many threads, which share work that is small.
pub fn set_threads(threads: usize) {
    set_least_shared(1 << 12);
    set_num_threads(threads).unwrap();
}
