//! Formats, casts and packing.

use super::array::{readwrite, HeldArray, HeldCodes, HeldCodesMut, HeldOutput, Object};
use super::cast_plan::{CastPlan, CastPlans};
use super::detached;
use crate::formats::{
    self, pack as packing, Codes, CodesMut, EncodeOptions, Format, NanPolicy, Overflow, Rounding, FORMATS,
};
use pyo3::prelude::*;
use pyo3::types::PyDict;

fn row<'py>(py: Python<'py>, f: &Format) -> PyResult<Bound<'py, PyDict>> {
    Ok(dict!(py, {
        name: f.name, exponent_bits: f.exp, mantissa_bits: f.man, bias: f.bias, bits: f.bits(),
        top: f.top.name(), subnormals: f.subnormals,
        max_code: f.max_code(), nan_code: f.nan_code(), inf_code: f.inf_code(),
    }))
}

/// The rows of the format table.
#[pyfunction(name = "formats")]
fn format_rows(py: Python<'_>) -> PyResult<Vec<Bound<'_, PyDict>>> {
    FORMATS.iter().map(|f| row(py, f)).collect()
}

/// The row of a format, by its name or spelled row.
#[pyfunction]
fn format_row<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyDict>> {
    row(py, Format::by_name(name)?)
}

/// The options of an encoding, by their names.
pub fn options(rounding: &str, overflow: &str, nan: &str, seed: u64) -> PyResult<EncodeOptions> {
    let (rounding, overflow) = (Rounding::parse(rounding)?, Overflow::parse(overflow)?);
    Ok(EncodeOptions { rounding, overflow, nan: NanPolicy::parse(nan)?, seed })
}

/// Casts src to codes.
#[pyfunction]
fn encode(
    py: Python<'_>,
    src: HeldArray<'_>,
    mut codes_out: HeldCodesMut<'_>,
    fmt: &str,
    rounding: &str,
    overflow: &str,
    nan: &str,
    seed: u64,
) -> PyResult<()> {
    let (format, options) = (Format::by_name(fmt)?, options(rounding, overflow, nan, seed)?);
    let (src, codes) = (src.view()?, codes_out.view()?);
    detached(py, || formats::encode(src, format, &options, codes))
}

/// Decodes codes into out.
#[pyfunction]
fn decode(py: Python<'_>, codes: HeldCodes<'_>, fmt: &str, mut out: HeldOutput<'_>) -> PyResult<()> {
    let (codes, format, out) = (codes.view()?, Format::by_name(fmt)?, out.view()?);
    detached(py, || formats::decode(codes, format, out))
}

/// Packs rows of codes: into bytes, those of 12 bits into 32-bit words.
#[pyfunction]
fn pack(py: Python<'_>, codes: HeldCodes<'_>, fmt: &str, row_len: usize, out: &Object<'_>) -> PyResult<()> {
    let (codes, format) = (codes.view()?, Format::by_name(fmt)?);
    if format.bits() == 12 {
        let Codes::U16(codes) = codes else { return Err(formats::encode::wrong_width(format).into()) };
        let mut out = readwrite::<u32>("out", out)?;
        let out = out.as_slice_mut()?;
        return detached(py, || packing::pack_words(codes, format, row_len, out));
    }
    let mut out = readwrite::<u8>("out", out)?;
    let out = out.as_slice_mut()?;
    detached(py, || match codes {
        Codes::U8(codes) => packing::pack_bytes(codes, format, row_len, out),
        Codes::U16(codes) => packing::pack_wide(codes, format, row_len, out),
        Codes::U32(_) => Err(formats::encode::wrong_width(format)),
    })
}

/// Unpacks rows of codes.
#[pyfunction]
fn unpack(
    py: Python<'_>,
    packed: HeldCodes<'_>,
    fmt: &str,
    row_len: usize,
    mut out: HeldCodesMut<'_>,
) -> PyResult<()> {
    let (packed, format, out) = (packed.view()?, Format::by_name(fmt)?, out.view()?);
    detached(py, || match (packed, out, format.bits() == 12) {
        (Codes::U32(packed), CodesMut::U16(out), true) => packing::unpack_words(packed, format, row_len, out),
        (Codes::U8(packed), CodesMut::U8(out), false) => packing::unpack_bytes(packed, format, row_len, out),
        (Codes::U8(packed), CodesMut::U16(out), false) => packing::unpack_wide(packed, format, row_len, out),
        _ => Err(formats::encode::wrong_width(format)),
    })
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    functions!(m, [format_rows, format_row, encode, decode, pack, unpack]);
    m.add_class::<CastPlan>()?;
    m.add_class::<CastPlans>()?;
    Ok(())
}
