//! Arrays side by side.

use super::array::{readonly, readwrite, Object};
use super::{detached, type_error};
use crate::formats::differences::{self as core, CodeTable, Pair, TileGrid};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Counts where whole tiles of two arrays differ.
#[pyfunction]
fn differences<'py>(
    py: Python<'py>,
    a: &Object<'py>,
    b: &Object<'py>,
    meaning: &str,
    table: Option<(Object<'py>, Object<'py>, bool)>,
    grid: (usize, usize, usize),
    counts: &Object<'py>,
    worst: &Object<'py>,
) -> PyResult<Bound<'py, PyDict>> {
    let grid = TileGrid { cols: grid.0, edge: grid.1, first: grid.2 };
    let mut counts = readwrite::<u32>("counts", counts, "uint32")?;
    let mut worst = readwrite::<f64>("worst", worst, "float64")?;
    let (counts, worst) = (counts.as_slice_mut()?, worst.as_slice_mut()?);
    macro_rules! compared {
        ($code:ty, $dtype:literal, $pair:expr) => {{
            let (a, b) = (readonly::<$code>("a", a, $dtype)?, readonly::<$code>("b", b, $dtype)?);
            let pair = $pair(a.as_slice()?, b.as_slice()?);
            detached(py, || core::differences(pair, grid, counts, worst))?
        }};
    }
    macro_rules! coded {
        ($code:ty, $dtype:literal, $variant:ident) => {{
            let Some((numbers, places, measured)) = &table else {
                return Err(type_error("table: found None, expected numbers and places".to_owned()));
            };
            let numbers = readonly::<f64>("numbers", numbers, "float64")?;
            let places = readonly::<i32>("places", places, "int32")?;
            let table =
                CodeTable { numbers: numbers.as_slice()?, places: places.as_slice()?, measured: *measured };
            compared!($code, $dtype, |a, b| Pair::$variant(a, b, table))
        }};
    }
    let found = match meaning {
        "float32" => compared!(u32, "uint32", Pair::Float32),
        "float64" => compared!(u64, "uint64", Pair::Float64),
        "bfloat16" => compared!(u16, "uint16", Pair::Bfloat16),
        "float16" => compared!(u16, "uint16", Pair::Float16),
        "int8" | "uint8" => compared!(u8, "uint8", |a, b| Pair::Int8(a, b, meaning == "int8")),
        "int16" | "uint16" => compared!(u16, "uint16", |a, b| Pair::Int16(a, b, meaning == "int16")),
        "int32" | "uint32" => compared!(u32, "uint32", |a, b| Pair::Int32(a, b, meaning == "int32")),
        "int64" | "uint64" => compared!(u64, "uint64", |a, b| Pair::Int64(a, b, meaning == "int64")),
        "bytes" => coded!(u8, "uint8", Bytes),
        "words" => coded!(u16, "uint16", Words),
        _ => return Err(type_error(format!("meaning: found {meaning:?}, expected a dtype"))),
    };
    Ok(dict!(py, {
        bits: found.bits, distances: found.distances, zeros: found.zeros,
        nan_a: found.nan_a, nan_b: found.nan_b, nan_payloads: found.nan_payloads,
        saturated_a: found.saturated_a, saturated_b: found.saturated_b, first: found.first,
        max_abs: found.max_abs, max_rel: found.max_rel, signal: found.signal, noise: found.noise,
    }))
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    functions!(m, [differences]);
    Ok(())
}
