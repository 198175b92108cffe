//! Calls that end early: long operations ask, every so often, whether they are still wanted.
//!
//! A caller gives a hook with [`watched`]; the operation looks at it between tasks and, in long ones, at [`poll`]. Where
//! it says stop, the stack is unwound to [`watched`], on every thread that is at work: nobody sees half a result.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time between two looks at a hook.
pub const INTERVAL: Duration = Duration::from_millis(100);

/// True: stop.
pub type Hook = fn() -> bool;

/// A call that was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interrupted;

thread_local! {
    static HOOK: Cell<Option<Hook>> = const { Cell::new(None) };
    static LOOKED: Cell<Option<Instant>> = const { Cell::new(None) };
    static STOP: RefCell<Option<Arc<AtomicBool>>> = const { RefCell::new(None) };
}

/// Runs `body`, which the hook may stop.
///
/// # Errors
/// [`Interrupted`] where it did.
pub fn watched<R>(hook: Hook, body: impl FnOnce() -> R) -> Result<R, Interrupted> {
    let before = (HOOK.replace(Some(hook)), LOOKED.replace(Some(Instant::now())));
    let result = catch_unwind(AssertUnwindSafe(body));
    HOOK.set(before.0);
    LOOKED.set(before.1);
    result.map_err(|payload| if payload.is::<Interrupted>() { Interrupted } else { resume_unwind(payload) })
}

/// The hook of the calling thread.
pub(crate) fn hook() -> Option<Hook> {
    HOOK.get()
}

/// Unwinds if this call is to stop. Some tens of nanoseconds: to be called every so many microseconds.
#[inline(never)]
pub fn poll() {
    if STOP.with_borrow(|stop| stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed))) {
        unwind();
    }
    let Some(hook) = HOOK.get() else { return };
    if LOOKED.get().is_none_or(|looked| looked.elapsed() >= INTERVAL) {
        let stop = hook();
        LOOKED.set(Some(Instant::now()));
        if stop {
            unwind();
        }
    }
}

/// Ends the call.
pub(crate) fn unwind() -> ! {
    resume_unwind(Box::new(Interrupted) as Box<dyn Any + Send>)
}

/// Runs a task that ends at the next [`poll`] after `stop` is set.
pub(crate) fn under<R>(stop: &Arc<AtomicBool>, task: impl FnOnce() -> R) -> R {
    struct Restore(Option<Arc<AtomicBool>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            STOP.set(self.0.take());
        }
    }
    let _restore = Restore(STOP.replace(Some(stop.clone())));
    task()
}
