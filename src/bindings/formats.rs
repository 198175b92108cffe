//! Formats, casts and packing.

use super::array::{readonly, readwrite, HeldCodes, HeldCodesMut, HeldInput, HeldOutput, Object};
use super::detached;
use crate::error::Error;
use crate::formats::{
    self, pack, Codes, CodesMut, EncodeOptions, Format, NanPolicy, Overflow, Rounding, FORMATS,
};
use numpy::{Element, PyReadonlyArray1, PyReadwriteArray1};
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

/// Casts src to codes.
#[pyfunction]
fn encode(
    py: Python<'_>,
    src: &Object<'_>,
    src_dtype: &str,
    codes_out: &Object<'_>,
    fmt: &str,
    rounding: &str,
    overflow: &str,
    nan: &str,
    seed: u64,
) -> PyResult<()> {
    let format = Format::by_name(fmt)?;
    let options = EncodeOptions {
        rounding: Rounding::parse(rounding)?,
        overflow: Overflow::parse(overflow)?,
        nan: NanPolicy::parse(nan)?,
        seed,
    };
    let (src, mut out) = (HeldInput::new("src", src, src_dtype)?, HeldCodesMut::new(codes_out)?);
    let (src, out) = (src.view()?, out.view()?);
    detached(py, || formats::encode(src, format, &options, out))
}

/// Decodes codes into out.
#[pyfunction]
fn decode(py: Python<'_>, codes: &Object<'_>, fmt: &str, out: &Object<'_>, out_dtype: &str) -> PyResult<()> {
    let format = Format::by_name(fmt)?;
    let (codes, mut out) = (HeldCodes::new(codes)?, HeldOutput::new("out", out, out_dtype)?);
    let (codes, out) = (codes.view()?, out.view()?);
    detached(py, || formats::decode(codes, format, out))
}

/// Runs a function from words to words.
fn words<A: Element + Sync, B: Element + Send>(
    py: Python<'_>,
    src: PyReadonlyArray1<'_, A>,
    mut out: PyReadwriteArray1<'_, B>,
    run: impl FnOnce(&[A], &mut [B]) -> Result<(), Error> + Send,
) -> PyResult<()> {
    let (src, out) = (src.as_slice()?, out.as_slice_mut()?);
    detached(py, || run(src, out))
}

/// Packs rows of codes.
#[pyfunction(name = "pack")]
fn pack_rows(
    py: Python<'_>,
    codes: &Object<'_>,
    fmt: &str,
    row_len: usize,
    out: &Object<'_>,
) -> PyResult<()> {
    let format = Format::by_name(fmt)?;
    if format.bits() == 12 {
        let (codes, out) = (readonly("codes", codes, "uint16")?, readwrite("out", out, "uint32")?);
        return words(py, codes, out, |codes, out| pack::pack_words(codes, format, row_len, out));
    }
    let (codes, mut out) = (HeldCodes::new(codes)?, readwrite::<u8>("out", out, "uint8")?);
    let (codes, out) = (codes.view()?, out.as_slice_mut()?);
    detached(py, || match codes {
        Codes::U8(codes) => pack::pack_bytes(codes, format, row_len, out),
        Codes::U16(codes) => pack::pack_wide(codes, format, row_len, out),
        Codes::U32(_) => Err(formats::encode::wrong_width(format)),
    })
}

/// Unpacks rows of codes.
#[pyfunction(name = "unpack")]
fn unpack_rows(
    py: Python<'_>,
    packed: &Object<'_>,
    fmt: &str,
    row_len: usize,
    out: &Object<'_>,
) -> PyResult<()> {
    let format = Format::by_name(fmt)?;
    if format.bits() == 12 {
        let (packed, out) = (readonly("packed", packed, "uint32")?, readwrite("out", out, "uint16")?);
        return words(py, packed, out, |packed, out| pack::unpack_words(packed, format, row_len, out));
    }
    let (packed, mut out) = (readonly::<u8>("packed", packed, "uint8")?, HeldCodesMut::new(out)?);
    let (packed, out) = (packed.as_slice()?, out.view()?);
    detached(py, || match out {
        CodesMut::U8(out) => pack::unpack_bytes(packed, format, row_len, out),
        CodesMut::U16(out) => pack::unpack_wide(packed, format, row_len, out),
    })
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    functions!(m, [format_rows, format_row, encode, decode, pack_rows, unpack_rows]);
    Ok(())
}
