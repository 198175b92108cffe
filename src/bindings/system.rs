//! Threads, instruction sets, and the headers of checkpoint files.

use super::array::{Object, Slice};
use super::{detached, os_error};
use crate::checkpoint::{self, HeaderError};
use crate::simd::{level, level_from_env, set_level, Level};
use crate::threads;
use numpy::PyArrayDescr;
use pyo3::exceptions::PyIndexError;
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

/// Sets the work from which threads share it, in elements of a cast: for tests.
#[pyfunction]
fn set_least_shared(work: usize) {
    threads::set_least_shared(work);
}

/// Sets the bytes of input and output from which stores stream, 0 for those that the caches ask for: for tests.
#[pyfunction]
fn set_least_streamed(bytes: usize) {
    crate::simd::set_least_streamed(bytes);
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

/// A new array whose elements nobody has set: an output.
#[pyfunction]
fn empty<'py>(shape: Vec<usize>, dtype: Object<'py>) -> PyResult<Object<'py>> {
    super::array::empty(&shape, &PyArrayDescr::new(dtype.py(), dtype)?)
}

type Row = (String, String, Vec<usize>, u64, u64);

/// The tensors of safetensors files, in the order of the files and of their data.
#[pyclass(module = "dsv3_numerics._core")]
#[derive(Default)]
struct TensorTable(checkpoint::TensorTable);

#[pymethods]
impl TensorTable {
    #[new]
    fn new() -> TensorTable {
        TensorTable::default()
    }

    /// Reads and checks a file's header: its first row, and the row after its last.
    fn read(&mut self, py: Python<'_>, path: PathBuf) -> PyResult<(usize, usize)> {
        let found = detached(py, || Ok(self.0.read(&path)))?;
        let rows = found.map_err(|error| match error {
            HeaderError::Io(error) => os_error(&path, &error),
            HeaderError::Invalid(why) => {
                crate::Error::Checkpoint(format!("{}: {why}", path.display())).into()
            }
        })?;
        Ok((rows.start, rows.end))
    }

    /// The metadata of a file, by its place among those read.
    fn metadata(&self, file: usize) -> HashMap<&str, &str> {
        self.0.metadata(file).collect()
    }

    /// The last value under a key in the metadata of a file.
    fn metadata_value(&self, file: usize, key: &str) -> Option<&str> {
        self.0.metadata(file).filter(|(k, _)| *k == key).last().map(|(_, value)| value)
    }

    /// Makes a row known by its name; the row of the same name that is known already, and stays so.
    fn take(&mut self, row: usize) -> PyResult<Option<usize>> {
        self.ensure(row)?;
        Ok(self.0.take(row))
    }

    /// The row that is known by a name.
    fn find(&self, name: &str) -> Option<usize> {
        self.0.find(name)
    }

    /// The name of a row.
    fn name(&self, row: usize) -> PyResult<&str> {
        self.ensure(row)?;
        Ok(self.0.name(row))
    }

    /// A row: name, dtype, shape, first byte, byte after the last.
    fn row(&self, row: usize) -> PyResult<Row> {
        self.ensure(row)?;
        let t = self.0.row(row);
        Ok((t.name, t.dtype, t.shape, t.begin, t.end))
    }

    /// Rows that are known by a name.
    fn known(&self) -> usize {
        self.0.known()
    }
}

impl TensorTable {
    fn ensure(&self, row: usize) -> PyResult<()> {
        if row < self.0.len() {
            return Ok(());
        }
        Err(PyIndexError::new_err(format!("row: found {row}, expected less than {}", self.0.len())))
    }
}

/// CRC-32 (that of zlib and PNG) of bytes that follow others of checksum `before`.
#[pyfunction]
#[pyo3(signature = (data, before=0))]
fn crc32(py: Python<'_>, data: Slice<'_, u8>, before: u32) -> PyResult<u32> {
    let data = data.view()?;
    Ok(super::without_gil(py, || {
        let mut hasher = crc32fast::Hasher::new_with_initial(before);
        hasher.update(data);
        hasher.finalize()
    }))
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    // A wrong setting in the environment is an error at import, not a surprise later.
    level_from_env().map_err(|e| super::environment("DSV3_NUMERICS_SIMD", &e))?;
    threads::threads_from_env()?;
    #[cfg(target_os = "linux")]
    super::kept::kept_from_env()?;
    m.add_class::<TensorTable>()?;
    functions!(m, [get_num_threads, set_num_threads, set_alone, set_least_shared, set_least_streamed]);
    functions!(m, [simd_level, simd_levels, set_simd_level, crc32, empty]);
    Ok(())
}
