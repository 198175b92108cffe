//! Arrays side by side.

use super::array::{readonly, Object, Slice, SliceMut};
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
    table: Option<(Slice<'py, f64>, Slice<'py, i32>, bool)>,
    grid: (usize, usize, usize),
    mut counts: SliceMut<'py, u32>,
    mut worst: SliceMut<'py, f64>,
) -> PyResult<Bound<'py, PyDict>> {
    let grid = TileGrid { cols: grid.0, edge: grid.1, first: grid.2 };
    let (counts, worst) = (counts.view()?, worst.view()?);
    macro_rules! compared {
        ($code:ty, $pair:expr) => {{
            let (a, b) = (readonly::<$code>("a", a)?, readonly::<$code>("b", b)?);
            let pair = $pair(a.as_slice()?, b.as_slice()?);
            detached(py, || core::differences(pair, grid, counts, worst))?
        }};
    }
    macro_rules! coded {
        ($code:ty, $variant:ident) => {{
            let Some((numbers, places, measured)) = &table else {
                return Err(type_error("table: found None, expected numbers and places".to_owned()));
            };
            let table = CodeTable { numbers: numbers.view()?, places: places.view()?, measured: *measured };
            compared!($code, |a, b| Pair::$variant(a, b, table))
        }};
    }
    let found = match meaning {
        "float32" => compared!(u32, Pair::Float32),
        "float64" => compared!(u64, Pair::Float64),
        "bfloat16" => compared!(u16, Pair::Bfloat16),
        "float16" => compared!(u16, Pair::Float16),
        "int8" | "uint8" => compared!(u8, |a, b| Pair::Int8(a, b, meaning == "int8")),
        "int16" | "uint16" => compared!(u16, |a, b| Pair::Int16(a, b, meaning == "int16")),
        "int32" | "uint32" => compared!(u32, |a, b| Pair::Int32(a, b, meaning == "int32")),
        "int64" | "uint64" => compared!(u64, |a, b| Pair::Int64(a, b, meaning == "int64")),
        "bytes" => coded!(u8, Bytes),
        "words" => coded!(u16, Words),
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
