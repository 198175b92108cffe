//! LogFMT.

use super::array::{readonly, readwrite, HeldCodes, HeldCodesMut, HeldInput, HeldOutput, Object};
use super::detached;
use crate::quant::logfmt::{self, LogLayout, LogOptions, LogRounding, Precision, Tiles, TilesMut};
use pyo3::prelude::*;

/// Encodes src: codes, each tile's least and largest magnitude, and whether it holds what cannot be encoded.
#[pyfunction]
fn logfmt_encode(
    py: Python<'_>,
    src: &Object<'_>,
    src_dtype: &str,
    rows: usize,
    cols: usize,
    bits: u32,
    tile: usize,
    rounding: &str,
    zeros_count: bool,
    skip_nan: bool,
    seed: u64,
    inner: usize,
    codes_out: &Object<'_>,
    amin_out: &Object<'_>,
    amax_out: &Object<'_>,
    flags_out: &Object<'_>,
) -> PyResult<()> {
    let rounding = LogRounding::parse(rounding)?;
    let options = LogOptions { bits, rounding, zeros_count, skip_nan, seed, inner };
    let tiles = Tiles::new(rows, cols, tile)?;
    let (src, mut codes) = (HeldInput::new("src", src, src_dtype)?, HeldCodesMut::new(codes_out)?);
    let mut amin = readwrite::<f32>("amin_out", amin_out, "float32")?;
    let mut amax = readwrite::<f32>("amax_out", amax_out, "float32")?;
    let mut flags = readwrite::<u8>("flags_out", flags_out, "uint8")?;
    let (src, codes) = (src.view()?, codes.view()?);
    let out =
        TilesMut { amin: amin.as_slice_mut()?, amax: amax.as_slice_mut()?, flags: flags.as_slice_mut()? };
    detached(py, || logfmt::logfmt_encode(src, tiles, &options, codes, out))
}

/// Decodes codes into out.
#[pyfunction]
fn logfmt_decode(
    py: Python<'_>,
    codes: &Object<'_>,
    bits: u32,
    rows: usize,
    cols: usize,
    tile: usize,
    amin: &Object<'_>,
    amax: &Object<'_>,
    out: &Object<'_>,
    out_dtype: &str,
    precision: &str,
) -> PyResult<()> {
    let (tiles, precision) = (Tiles::new(rows, cols, tile)?, Precision::parse(precision)?);
    let codes = HeldCodes::new(codes)?;
    let (amin, amax) = (readonly::<f32>("amin", amin, "float32")?, readonly::<f32>("amax", amax, "float32")?);
    let mut out = HeldOutput::new("out", out, out_dtype)?;
    let (codes, amin, amax, out) = (codes.view()?, amin.as_slice()?, amax.as_slice()?, out.view()?);
    detached(py, || logfmt::logfmt_decode(codes, bits, tiles, amin, amax, out, precision))
}

/// Packs rows of codes into bytes.
#[pyfunction]
fn logfmt_pack(
    py: Python<'_>,
    codes: &Object<'_>,
    row_len: usize,
    bits: u32,
    layout: &str,
    out: &Object<'_>,
) -> PyResult<()> {
    let layout = LogLayout::parse(layout)?;
    let (codes, mut out) = (HeldCodes::new(codes)?, readwrite::<u8>("out", out, "uint8")?);
    let (codes, out) = (codes.view()?, out.as_slice_mut()?);
    detached(py, || logfmt::logfmt_pack(codes, row_len, bits, layout, out))
}

/// Unpacks bytes into rows of codes.
#[pyfunction]
fn logfmt_unpack(
    py: Python<'_>,
    packed: &Object<'_>,
    row_len: usize,
    bits: u32,
    layout: &str,
    codes_out: &Object<'_>,
) -> PyResult<()> {
    let layout = LogLayout::parse(layout)?;
    let (packed, mut codes) = (readonly::<u8>("packed", packed, "uint8")?, HeldCodesMut::new(codes_out)?);
    let (packed, codes) = (packed.as_slice()?, codes.view()?);
    detached(py, || logfmt::logfmt_unpack(packed, row_len, bits, layout, codes))
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    functions!(m, [logfmt_encode, logfmt_decode, logfmt_pack, logfmt_unpack]);
    Ok(())
}
