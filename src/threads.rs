//! The thread pool that every parallel operation runs in.
//!
//! Rayon's global pool cannot be resized and does not survive `fork`, so the crate keeps its own and replaces it when the
//! size or the process changes. No lock guards it: a `fork` while another thread holds one would leave it held for ever
//! in the child. Results never depend on its size.

use crate::error::Error;
use crate::interrupt;
use arc_swap::ArcSwapOption;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The most threads that can be asked for.
pub const MAX_THREADS: usize = 1024;

/// Work below which it stays on the calling thread: waking a pool costs more. One is an element that is cast, a quarter
/// of a nanosecond or less; waking two threads of a virtual machine and waiting for them takes 30 to 60 microseconds.
static SERIAL: AtomicUsize = AtomicUsize::new(256 * 1024);

/// Sets the work from which threads share it: for tests, which would otherwise need large arrays to see them at work.
pub fn set_least_shared(work: usize) {
    SERIAL.store(work, Ordering::Relaxed);
}

thread_local! {
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Keeps the operations of the calling thread on it (or no longer): for callers with threads of their own, with which
/// the pool would compete.
pub fn set_alone(alone: bool) {
    ALONE.set(alone);
}

static WANTED: AtomicUsize = AtomicUsize::new(0);

/// A pool, and what it was made for.
struct SizedPool {
    process: u32,
    size: usize,
    pool: ThreadPool,
}

static POOL: ArcSwapOption<SizedPool> = ArcSwapOption::const_empty();

/// The number of threads asked for by `DSV3_NUMERICS_THREADS`, else the cores this process may use.
///
/// # Errors
/// [`Error::Range`] for a variable that is not a number in 1..=1024.
pub fn threads_from_env() -> Result<usize, Error> {
    match std::env::var("DSV3_NUMERICS_THREADS") {
        Ok(text) if !text.is_empty() => match text.trim().parse::<usize>() {
            Ok(n) if (1..=MAX_THREADS).contains(&n) => Ok(n),
            _ => Err(Error::Range {
                what: "DSV3_NUMERICS_THREADS",
                found: format!("{text:?}"),
                expected: "a whole number from 1 to 1024",
            }),
        },
        _ => Ok(std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS)),
    }
}

/// Threads in use by parallel operations.
pub fn num_threads() -> usize {
    match WANTED.load(Ordering::Relaxed) {
        0 => threads_from_env().unwrap_or(1),
        n => n,
    }
}

/// Sets the number of threads for the whole process.
///
/// # Errors
/// [`Error::Range`] unless `n` is in 1..=1024.
pub fn set_num_threads(n: usize) -> Result<(), Error> {
    if !(1..=MAX_THREADS).contains(&n) {
        return Err(Error::Range {
            what: "n",
            found: n.to_string(),
            expected: "a whole number from 1 to 1024",
        });
    }
    WANTED.store(n, Ordering::Relaxed);
    Ok(())
}

/// The pool in force, or `None` where one thread is wanted or no thread can be had.
fn pool() -> Option<Arc<SizedPool>> {
    let (process, size) = (std::process::id(), num_threads());
    if size == 1 {
        return None;
    }
    let found = POOL.load_full();
    match found {
        Some(found) if found.process == process && found.size == size => return Some(found),
        // A pool from before a fork has no threads left in this process: joining it would hang, so forget it.
        Some(found) if found.process != process => std::mem::forget(found),
        _ => {}
    }
    let pool =
        ThreadPoolBuilder::new().num_threads(size).thread_name(|i| format!("dsv3-{i}")).build().ok()?;
    let pool = Arc::new(SizedPool { process, size, pool });
    if let Some(old) = POOL.swap(Some(pool.clone())) {
        if old.process != process {
            std::mem::forget(old);
        }
    }
    Some(pool)
}

/// The threads that share so much work: one where it is too little, or where the calling thread keeps to itself.
pub fn threads_for(work: usize) -> usize {
    if work > SERIAL.load(Ordering::Relaxed) && !ALONE.get() {
        num_threads()
    } else {
        1
    }
}

/// Runs `f` on every task, in parallel where `work`, the size of the whole in elements as cheap as those of a cast, makes
/// it worth while. The results stand in the order of the tasks.
pub fn run_tasks<T: Send, R: Send>(work: usize, tasks: Vec<T>, f: impl Fn(T) -> R + Sync) -> Vec<R> {
    // Loops over slots, and one function for both ways: this is compiled once for each kind of task, and iterators that
    // are collected would be half of the library's code for threads.
    let count = tasks.len();
    let mut slots = Vec::with_capacity(count);
    for task in tasks {
        slots.push(Mutex::new(Slot::Waiting(task)));
    }
    let one = |i: usize| {
        let waiting = std::mem::replace(&mut *unlock(&slots[i]), Slot::Taken);
        if let Slot::Waiting(task) = waiting {
            let result = f(task);
            *unlock(&slots[i]) = Slot::Done(result);
        }
    };
    let shared = count > 1 && threads_for(work) > 1;
    run_indexed(if shared { pool() } else { None }, count, &one);
    let mut results = Vec::with_capacity(count);
    for slot in slots {
        if let Slot::Done(result) = slot.into_inner().unwrap_or_else(PoisonError::into_inner) {
            results.push(result);
        }
    }
    results
}

/// A task on its way.
enum Slot<T, R> {
    Waiting(T),
    Taken,
    Done(R),
}

/// Runs `f` on the numbers below `count`, in the pool if there is one. Not generic: rayon's machinery is compiled once,
/// which is a fifth of the crate otherwise.
fn run_indexed(pool: Option<Arc<SizedPool>>, count: usize, f: &(dyn Fn(usize) + Sync)) {
    let Some(pool) = pool else {
        for i in 0..count {
            interrupt::poll();
            f(i);
        }
        return;
    };
    let pool = &pool.pool;
    let all = |f: &(dyn Fn(usize) + Sync)| (0..count).into_par_iter().with_max_len(1).for_each(f);
    match interrupt::hook() {
        Some(hook) if rayon::current_thread_index().is_none() => watch(pool, hook, &|stop| {
            all(&|i| {
                if !stop.load(Ordering::Relaxed) {
                    interrupt::under(stop, || f(i));
                }
            });
        }),
        _ => pool.install(|| all(f)),
    }
}

/// Runs `work` in the pool while the calling thread looks at its hook, and sets `work`'s flag where that says stop.
fn watch(pool: &ThreadPool, hook: interrupt::Hook, work: &(dyn Fn(&Arc<AtomicBool>) + Sync)) {
    let stop = Arc::new(AtomicBool::new(false));
    let (running, ended) = (Mutex::new(true), Condvar::new());
    struct End<'a>(&'a Mutex<bool>, &'a Condvar);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            *unlock(self.0) = false;
            self.1.notify_one();
        }
    }
    let mut stopped = false;
    pool.in_place_scope(|scope| {
        scope.spawn(|_| {
            let _end = End(&running, &ended);
            work(&stop);
        });
        let mut guard = unlock(&running);
        while *guard {
            let timed = ended.wait_timeout(guard, interrupt::INTERVAL);
            let (next, time) = timed.unwrap_or_else(PoisonError::into_inner);
            guard = next;
            if *guard && time.timed_out() && !stopped {
                drop(guard);
                stopped = hook();
                stop.store(stopped, Ordering::Relaxed);
                guard = unlock(&running);
            }
        }
    });
    if stopped {
        interrupt::unwind();
    }
}

fn unlock<T>(slot: &Mutex<T>) -> MutexGuard<'_, T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}
