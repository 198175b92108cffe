//! The PyO3 line: one thin function for each core function.
//!
//! Arrays arrive one-dimensional and contiguous; ml_dtypes and float16 arrays arrive as the integers that hold
//! them. Python sees to shapes, axes and names; here arrays become slices, errors become exceptions, and the GIL
//! is released. [`array`] converts arrays, the other modules hold the functions.

// Each function has the keywords of one Python function.
#![allow(clippy::too_many_arguments)]

/// A dict of values by their names.
macro_rules! dict {
    ($py:expr, { $($name:ident: $value:expr),+ $(,)? }) => {{
        let dict = PyDict::new($py);
        $(dict.set_item(stringify!($name), $value)?;)+
        dict
    }};
}

/// Makes functions known to a module of Python.
macro_rules! functions {
    ($module:expr, [$($function:ident),+ $(,)?]) => {
        $($module.add_function(wrap_pyfunction!($function, $module)?)?;)+
    };
}

mod array;
mod cast_plan;
mod comparison;
mod formats;
mod gemm;
#[cfg(target_os = "linux")]
mod kept;
mod logfmt;
mod model;
mod plans;
mod product_plan;
mod projection;
mod quant;
mod quantize_plan;
mod system;

use crate::error::Error;
use crate::interrupt::watched;
use pyo3::exceptions::{PyKeyboardInterrupt, PyOSError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

thread_local! {
    /// The exception of a signal's handler, on its way out of the core.
    static RAISED: RefCell<Option<PyErr>> = const { RefCell::new(None) };
}

/// Calls that run without the GIL.
static WITHOUT_GIL: AtomicUsize = AtomicUsize::new(0);

/// Runs something without the GIL.
fn without_gil<T: Send>(py: Python<'_>, run: impl FnOnce() -> T + Send) -> T {
    /// Counts until it is dropped.
    struct Counted;
    impl Drop for Counted {
        fn drop(&mut self) {
            WITHOUT_GIL.fetch_sub(1, Ordering::Release);
        }
    }
    WITHOUT_GIL.fetch_add(1, Ordering::Relaxed);
    let _counted = Counted;
    py.detach(run)
}

/// Runs a function of the core without the GIL. Signals are looked at meanwhile: where a handler raises, as that of
/// Ctrl-C does, the core ends the call, and the exception is the result.
fn detached<T: Send>(py: Python<'_>, run: impl FnOnce() -> Result<T, Error> + Send) -> PyResult<T> {
    match without_gil(py, || watched(signalled, run)) {
        Ok(result) => Ok(result?),
        Err(_) => Err(RAISED.take().unwrap_or_else(|| PyKeyboardInterrupt::new_err(()))),
    }
}

/// Lets Python handle the signals that have come; true where one of them raised.
fn signalled() -> bool {
    let raised = Python::attach(|py| py.check_signals().err());
    let stop = raised.is_some();
    if stop {
        RAISED.set(raised);
    }
    stop
}

impl From<Error> for PyErr {
    fn from(error: Error) -> PyErr {
        PyValueError::new_err(error.to_string())
    }
}

fn type_error(message: String) -> PyErr {
    PyTypeError::new_err(message)
}

/// A setting in the environment that cannot be followed.
fn environment(variable: &str, error: &Error) -> PyErr {
    PyValueError::new_err(format!("{variable}: {error}"))
}

fn os_error(path: &std::path::Path, error: &std::io::Error) -> PyErr {
    match error.raw_os_error() {
        Some(code) => PyOSError::new_err((code, error.to_string(), path.to_path_buf())),
        None => PyOSError::new_err(error.to_string()),
    }
}

/// The compiled core of dsv3_numerics.
#[pymodule(gil_used = false)]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    formats::register(m)?;
    comparison::register(m)?;
    quant::register(m)?;
    gemm::register(m)?;
    logfmt::register(m)?;
    model::register(m)?;
    projection::register(m)?;
    system::register(m)?;
    m.delattr("__all__") // PyO3 makes one of all names; the stub lists them, and nobody imports * from here
}
