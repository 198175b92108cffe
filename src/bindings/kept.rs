//! Memory of large arrays, used again: blocks that arrays leave are kept for arrays that come.
//!
//! glibc returns a block of 32 MiB or more to the kernel when it is freed. The next one is new memory, and to zero its pages
//! takes the kernel two to three times as long as a cast takes to fill them. So large outputs lie in blocks of huge pages
//! that this module hands out, by NumPy's way to give an array an allocator of its own (NEP 49). A free block is offered
//! to the kernel (`MADV_FREE`), which takes its pages as soon as memory is short, and otherwise leaves them as they are.

use crate::error::Error;
use pyo3::ffi::PyObject;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCapsule, PyCapsuleMethods};
use std::ffi::{c_char, c_void};
use std::process;
use std::ptr;
use std::sync::{Mutex, OnceLock};

/// Bytes of an array from which it lies in a block.
const LEAST: usize = 32 << 20;

/// Bytes of free blocks, and the share of the machine's memory, up to which they are kept.
const MOST: usize = 2 << 30;
const SHARE: usize = 8;

/// Bytes of a huge page: blocks begin where one does.
const HUGE: usize = 2 << 20;

/// A mapping of the kernel's, and where in it an array begins.
struct Block {
    base: usize,
    mapped: usize,
    start: usize,
    len: usize,
    /// The process that made it: another one shares its pages, and would have to copy them.
    process: u32,
}

impl Block {
    /// Maps new memory; `None` where there is none.
    fn new(len: usize) -> Option<Block> {
        let mapped = len.checked_add(HUGE + size_of::<Block>())?;
        let (rights, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a mapping of its own, at an address that the kernel chooses.
        let base = unsafe { libc::mmap(ptr::null_mut(), mapped, rights, kind, -1, 0) };
        if base == libc::MAP_FAILED {
            return None;
        }
        let base = base as usize;
        let start = (base + size_of::<Block>()).next_multiple_of(HUGE);
        let block = Block { base, mapped, start, len, process: process::id() };
        block.advise(libc::MADV_HUGEPAGE); // where there are none, it goes without
        Some(block)
    }

    /// Tells the kernel something about the pages of the array; false where it does not listen.
    fn advise(&self, advice: i32) -> bool {
        // SAFETY: the range lies in the mapping; no advice given here changes what a living array holds.
        unsafe { libc::madvise(self.start as *mut c_void, self.len, advice) == 0 }
    }

    /// Leaves the block to an array, with its record just before it.
    fn leave(self) -> *mut c_void {
        let start = self.start as *mut c_void;
        // SAFETY: `new` has left room for the record there, and a start is aligned for anything.
        unsafe { start.cast::<Block>().sub(1).write(self) };
        start
    }

    /// Takes a block back from an array.
    ///
    /// # Safety
    /// `start` is what `leave` returned, and is not used any more.
    unsafe fn back(start: *mut c_void) -> Block {
        // SAFETY: the record is there, as `leave` wrote it.
        unsafe { start.cast::<Block>().sub(1).read() }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: the mapping is this block's, and nothing uses it any more.
        unsafe { libc::munmap(self.base as *mut c_void, self.mapped) };
    }
}

/// Free blocks, oldest first. Nobody waits for the lock: a `fork` might have left it held.
static FREE: Mutex<Vec<Block>> = Mutex::new(Vec::new());

/// Bytes of free blocks that are kept, from the environment.
static KEPT: OnceLock<usize> = OnceLock::new();

/// Reads how many bytes of free blocks are kept: `DSV3_NUMERICS_KEPT_MIB`, else 2 GiB or an eighth of memory.
pub fn kept_from_env() -> Result<(), Error> {
    let kept = match std::env::var("DSV3_NUMERICS_KEPT_MIB") {
        Ok(text) if !text.is_empty() => {
            text.trim().parse::<usize>().ok().and_then(|mib| mib.checked_mul(1 << 20)).ok_or(
                Error::Range {
                    what: "DSV3_NUMERICS_KEPT_MIB",
                    found: format!("{text:?}"),
                    expected: "a whole number of MiB",
                },
            )?
        }
        _ => {
            // SAFETY: questions without arguments.
            let (pages, size) =
                unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
            MOST.min(pages.max(0) as usize * size.max(0) as usize / SHARE)
        }
    };
    KEPT.get_or_init(|| kept);
    Ok(())
}

fn kept() -> usize {
    KEPT.get().copied().unwrap_or(0)
}

/// True for arrays that a block is for: others are NumPy's.
pub fn is_worth(bytes: usize) -> bool {
    (LEAST..=kept()).contains(&bytes)
}

/// A block for an array: the smallest free one that holds it, unless more than twice as large, and of those of one size the
/// last that was used; else a new one.
fn take(len: usize) -> Option<Block> {
    let free = || FREE.try_lock().ok();
    let found = free().and_then(|mut free| {
        free.retain(|block| block.process == process::id());
        let fits = (0..free.len()).rev().filter(|&i| (len..=2 * len).contains(&free[i].len));
        let best = fits.min_by_key(|&i| free[i].len)?;
        Some(free.remove(best))
    });
    found.or_else(|| Block::new(len)).or_else(|| {
        free()?.clear(); // addresses may be what is short
        Block::new(len)
    })
}

/// Keeps a block that is free; it and older ones go where they are too much.
fn put(block: Block) {
    if !is_worth(block.len) || block.process != process::id() || !block.advise(libc::MADV_FREE) {
        return;
    }
    let Ok(mut free) = FREE.try_lock() else { return };
    free.push(block);
    let mut bytes: usize = free.iter().map(|block| block.len).sum();
    while bytes > kept() {
        bytes -= free.remove(0).len;
    }
}

/// An allocator as NumPy takes it, in the words of its headers.
#[repr(C)]
struct Handler {
    name: [c_char; 127],
    version: u8,
    context: usize,
    malloc: extern "C" fn(*mut c_void, usize) -> *mut c_void,
    calloc: extern "C" fn(*mut c_void, usize, usize) -> *mut c_void,
    realloc: unsafe extern "C" fn(*mut c_void, *mut c_void, usize) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void, *mut c_void, usize),
}

extern "C" fn malloc(_: *mut c_void, size: usize) -> *mut c_void {
    take(size.max(1)).map_or(ptr::null_mut(), Block::leave)
}

extern "C" fn calloc(context: *mut c_void, count: usize, size: usize) -> *mut c_void {
    let Some(size) = count.checked_mul(size) else { return ptr::null_mut() };
    let start = malloc(context, size);
    if !start.is_null() {
        // SAFETY: so many bytes are there.
        unsafe { ptr::write_bytes(start.cast::<u8>(), 0, size) };
    }
    start
}

/// Changes the length of an array's memory, which moves.
unsafe extern "C" fn realloc(context: *mut c_void, start: *mut c_void, size: usize) -> *mut c_void {
    let moved = malloc(context, size);
    if !moved.is_null() && !start.is_null() {
        // SAFETY: NumPy gives what `malloc` returned; both have so many bytes.
        unsafe {
            let block = Block::back(start);
            ptr::copy_nonoverlapping(start.cast::<u8>(), moved.cast::<u8>(), size.min(block.len));
            put(block);
        }
    }
    moved
}

unsafe extern "C" fn free(_: *mut c_void, start: *mut c_void, _: usize) {
    if !start.is_null() {
        // SAFETY: NumPy gives what `malloc` returned, and the array is gone.
        put(unsafe { Block::back(start) });
    }
}

/// NumPy's function that sets the allocator of arrays to come, in this context of Python's, and returns the one before.
type SetHandler = unsafe extern "C" fn(*mut PyObject) -> *mut PyObject;

/// Where `PyDataMem_SetHandler` stands among NumPy's functions, of which the `numpy` crate does not have it.
const SET_HANDLER: usize = 304;

/// This module as NumPy's allocator, and the function that sets it.
struct Allocator {
    handler: Py<PyCapsule>,
    set: SetHandler,
}

impl Allocator {
    fn new(py: Python<'_>) -> PyResult<Allocator> {
        let mut name = [0; 127];
        for (to, from) in name.iter_mut().zip(b"dsv3_numerics") {
            *to = *from as c_char;
        }
        let handler = Handler { name, version: 1, context: 0, malloc, calloc, realloc, free };
        let handler = PyCapsule::new_with_value(py, handler, c"mem_handler")?.unbind();
        let functions =
            py.import("numpy._core.multiarray")?.getattr("_ARRAY_API")?.cast_into::<PyCapsule>()?;
        let table = functions.pointer_checked(None)?.cast::<SetHandler>();
        // SAFETY: NumPy 1.22 and later have this function there; the table lives as long as NumPy.
        let set = unsafe { table.add(SET_HANDLER).read() };
        Ok(Allocator { handler, set })
    }
}

/// Makes an array whose memory is a block.
pub fn in_block<T>(py: Python<'_>, make: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    static ALLOCATOR: PyOnceLock<Allocator> = PyOnceLock::new();
    let Allocator { handler, set } = ALLOCATOR.get_or_try_init(py, || Allocator::new(py))?;
    // SAFETY: both are allocators of NumPy's; what is returned is a reference of its own, or an error.
    let before = unsafe { Bound::from_owned_ptr_or_err(py, set(handler.as_ptr()))? };
    let made = make();
    // SAFETY: as above.
    unsafe { Bound::from_owned_ptr_or_err(py, set(before.as_ptr()))? };
    made
}
