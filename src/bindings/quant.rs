//! Quantization with shared scales, and what it cost.

use super::array::{readonly, readwrite, HeldCodes, HeldCodesMut, HeldInput, HeldOutput};
use crate::formats::Format;
use crate::quant::{self, Blocks, NonFinitePolicy, QuantizeOptions, Rule, ScaleKind, RULES};
use numpy::{PyArray2, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;

type Layout = (usize, usize, usize, usize, usize);

fn blocks(layout: Layout) -> PyResult<Blocks> {
    let (stack, rows, cols, block_rows, block_cols) = layout;
    Ok(Blocks::new([stack, rows, cols], [block_rows, block_cols])?)
}

/// The rows of the table of scale rules.
#[pyfunction]
fn scale_rules(py: Python<'_>) -> PyResult<Vec<Bound<'_, PyDict>>> {
    let row = |r: &Rule| {
        let row = PyDict::new(py);
        row.set_item("name", r.name)?;
        row.set_item("floor", r.floor)?;
        row.set_item("scale", format!("{:?}", r.scale))?;
        row.set_item("apply", format!("{:?}", r.apply))?;
        row.set_item("power", format!("{:?}", r.power))?;
        Ok(row)
    };
    RULES.iter().map(row).collect()
}

/// The largest magnitude of each block.
#[pyfunction]
fn amax(
    py: Python<'_>,
    src: &Bound<'_, PyAny>,
    src_dtype: &str,
    layout: Layout,
    out: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let blocks = blocks(layout)?;
    let (src, mut out) = (HeldInput::new("src", src, src_dtype)?, readwrite::<f32>("out", out, "float32")?);
    let (src, out) = (src.view()?, out.as_slice_mut()?);
    Ok(py.detach(|| quant::amax(src, blocks, out))?)
}

/// Quantizes src; scales_out gets what is stored of each scale, as float32.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // the keywords of one Python function
fn quantize(
    py: Python<'_>,
    src: &Bound<'_, PyAny>,
    src_dtype: &str,
    layout: Layout,
    fmt: &str,
    codes_out: &Bound<'_, PyAny>,
    scales_out: &Bound<'_, PyAny>,
    scale: &str,
    rule: &str,
    floor: Option<f32>,
    global_scale: f32,
    amax: Option<&Bound<'_, PyAny>>,
    nonfinite: &str,
) -> PyResult<()> {
    let (blocks, format) = (blocks(layout)?, Format::by_name(fmt)?);
    let amax = amax.map(|a| readonly::<f32>("amax", a, "float32")).transpose()?;
    let options = QuantizeOptions {
        scale: ScaleKind::parse(scale)?,
        rule: Rule::by_name(rule)?,
        floor,
        global: global_scale,
        amax: amax.as_ref().map(|a| a.as_slice()).transpose()?,
        nonfinite: NonFinitePolicy::parse(nonfinite)?,
    };
    let src = HeldInput::new("src", src, src_dtype)?;
    let mut codes = HeldCodesMut::new(codes_out)?;
    let mut scales = readwrite::<f32>("scales_out", scales_out, "float32")?;
    let (src, codes, scales) = (src.view()?, codes.view()?, scales.as_slice_mut()?);
    Ok(py.detach(|| quant::quantize(src, blocks, format, &options, codes, scales))?)
}

/// The NVFP4 factor of a tensor whose largest magnitude is amax.
#[pyfunction]
fn nvfp4_global(amax: f32, fmt: &str) -> PyResult<f32> {
    Ok(quant::nvfp4_global(amax, Format::by_name(fmt)?))
}

/// Writes code * scale.
#[pyfunction]
fn dequantize(
    py: Python<'_>,
    codes: &Bound<'_, PyAny>,
    fmt: &str,
    layout: Layout,
    scales: &Bound<'_, PyAny>,
    out: &Bound<'_, PyAny>,
    out_dtype: &str,
) -> PyResult<()> {
    let (blocks, format) = (blocks(layout)?, Format::by_name(fmt)?);
    let (codes, scales) = (HeldCodes::new(codes)?, readonly::<f32>("scales", scales, "float32")?);
    let mut out = HeldOutput::new("out", out, out_dtype)?;
    let (codes, scales, out) = (codes.view()?, scales.as_slice()?, out.view()?);
    Ok(py.detach(|| quant::dequantize(codes, format, blocks, scales, out))?)
}

/// Writes code * scale of 4-bit codes packed two a byte.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn dequantize_packed(
    py: Python<'_>,
    packed: &Bound<'_, PyAny>,
    flip: u8,
    fmt: &str,
    layout: Layout,
    scales: &Bound<'_, PyAny>,
    out: &Bound<'_, PyAny>,
    out_dtype: &str,
) -> PyResult<()> {
    let (blocks, format) = (blocks(layout)?, Format::by_name(fmt)?);
    let packed = readonly::<u8>("packed", packed, "uint8")?;
    let scales = readonly::<f32>("scales", scales, "float32")?;
    let mut out = HeldOutput::new("out", out, out_dtype)?;
    let (packed, scales, out) = (packed.as_slice()?, scales.as_slice()?, out.view()?);
    Ok(py.detach(|| quant::dequantize_packed(packed, flip, format, blocks, scales, out))?)
}

/// Sums over pairs of src and approx, in float64.
#[pyfunction]
fn error_stats<'py>(
    py: Python<'py>,
    src: &Bound<'py, PyAny>,
    src_dtype: &str,
    approx: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyDict>> {
    let (src, approx) =
        (HeldInput::new("src", src, src_dtype)?, readonly::<f32>("approx", approx, "float32")?);
    let (src, approx) = (src.view()?, approx.as_slice()?);
    let stats = py.detach(|| quant::error_stats(src, approx))?;
    let out = PyDict::new(py);
    out.set_item("count", stats.count)?;
    out.set_item("sum_x2", stats.sum_x2)?;
    out.set_item("sum_e2", stats.sum_e2)?;
    out.set_item("sum_xy", stats.sum_xy)?;
    out.set_item("sum_y2", stats.sum_y2)?;
    out.set_item("sum_e", stats.sum_e)?;
    out.set_item("sum_abs_x", stats.sum_abs_x)?;
    out.set_item("max_abs_error", stats.max_abs_error)?;
    out.set_item("max_rel_error", stats.max_rel_error)?;
    out.set_item("underflows", stats.underflows)?;
    let histogram = PyArray2::<f64>::zeros(py, [stats.histogram.len(), 3], false);
    histogram.try_readwrite()?.as_slice_mut()?.copy_from_slice(stats.histogram.as_flattened());
    out.set_item("histogram", histogram)?;
    Ok(out)
}

/// How many elements were clipped.
#[pyfunction]
fn count_saturated(
    py: Python<'_>,
    src: &Bound<'_, PyAny>,
    src_dtype: &str,
    codes: &Bound<'_, PyAny>,
    fmt: &str,
    layout: Layout,
    scales: &Bound<'_, PyAny>,
) -> PyResult<u64> {
    let (blocks, format) = (blocks(layout)?, Format::by_name(fmt)?);
    let (src, codes) = (HeldInput::new("src", src, src_dtype)?, HeldCodes::new(codes)?);
    let scales = readonly::<f32>("scales", scales, "float32")?;
    let (src, codes, scales) = (src.view()?, codes.view()?, scales.as_slice()?);
    Ok(py.detach(|| quant::count_saturated(src, codes, format, blocks, scales))?)
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(scale_rules, m)?)?;
    m.add_function(wrap_pyfunction!(amax, m)?)?;
    m.add_function(wrap_pyfunction!(quantize, m)?)?;
    m.add_function(wrap_pyfunction!(nvfp4_global, m)?)?;
    m.add_function(wrap_pyfunction!(dequantize, m)?)?;
    m.add_function(wrap_pyfunction!(dequantize_packed, m)?)?;
    m.add_function(wrap_pyfunction!(error_stats, m)?)?;
    m.add_function(wrap_pyfunction!(count_saturated, m)?)
}
