//! Level and threads are settings of the process: one test at a time.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held while a test sets them.
pub fn settings() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}
