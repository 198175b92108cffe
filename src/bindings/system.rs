//! Threads, instruction sets, and the headers of checkpoint files.

use super::os_error;
use crate::checkpoint::read_header;
use crate::simd::{level, level_from_env, set_level, Level};
use crate::threads;
use pyo3::prelude::*;
use std::collections::HashMap;
use std::path::PathBuf;

/// Threads in use by parallel operations.
#[pyfunction]
fn get_num_threads() -> usize {
    threads::num_threads()
}

/// Sets the number of threads for the whole process.
#[pyfunction]
fn set_num_threads(n: usize) -> PyResult<()> {
    Ok(threads::set_num_threads(n)?)
}

/// Keeps the operations of the calling thread on it, or lets them use the pool again.
#[pyfunction]
fn set_alone(alone: bool) {
    threads::set_alone(alone);
}

/// The instruction-set level in force.
#[pyfunction]
fn simd_level() -> &'static str {
    level().name()
}

/// The levels this CPU can run, slowest first.
#[pyfunction]
fn simd_levels() -> Vec<&'static str> {
    Level::all_available().map(Level::name).collect()
}

/// Forces a level for the whole process.
#[pyfunction]
fn set_simd_level(name: &str) -> PyResult<()> {
    Ok(set_level(Level::parse(name)?)?)
}

type Row = (String, String, Vec<usize>, u64, u64);

/// The tensors of a safetensors file (name, dtype, shape, first byte, byte after the last) and its metadata.
#[pyfunction]
fn safetensors_header(py: Python<'_>, path: PathBuf) -> PyResult<(Vec<Row>, HashMap<String, String>)> {
    let header = py.detach(|| read_header(&path));
    let header = header.map_err(|error| match error {
        crate::checkpoint::HeaderError::Io(error) => os_error(&path, &error),
        crate::checkpoint::HeaderError::Invalid(why) => {
            crate::Error::Checkpoint(format!("{}: {why}", path.display())).into()
        }
    })?;
    let rows = header.tensors.into_iter().map(|t| (t.name, t.dtype, t.shape, t.begin, t.end)).collect();
    Ok((rows, header.metadata))
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    // A wrong setting in the environment is an error at import, not a surprise later.
    level_from_env().map_err(|e| super::environment("DSV3_NUMERICS_SIMD", &e))?;
    threads::threads_from_env()?;
    m.add_function(wrap_pyfunction!(get_num_threads, m)?)?;
    m.add_function(wrap_pyfunction!(set_num_threads, m)?)?;
    m.add_function(wrap_pyfunction!(set_alone, m)?)?;
    m.add_function(wrap_pyfunction!(simd_level, m)?)?;
    m.add_function(wrap_pyfunction!(simd_levels, m)?)?;
    m.add_function(wrap_pyfunction!(set_simd_level, m)?)?;
    m.add_function(wrap_pyfunction!(safetensors_header, m)?)
}
