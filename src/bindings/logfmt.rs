//! LogFMT.

use super::array::{HeldArray, HeldCodes, HeldCodesMut, HeldOutput, Slice, SliceMut};
use super::detached;
use crate::quant::logfmt::{
    self, LogLayout, LogOptions, LogRounding, PackedRows, Precision, Tiles, TilesMut,
};
use pyo3::prelude::*;

/// Tiles as Python gives them: rows, columns, columns of a tile.
impl FromPyObject<'_, '_> for Tiles {
    type Error = PyErr;
    fn extract(given: Borrowed<'_, '_, PyAny>) -> PyResult<Tiles> {
        let (rows, cols, tile) = given.extract()?;
        Ok(Tiles::new(rows, cols, tile)?)
    }
}

/// Encodes src: codes, each tile's least and largest magnitude, and whether it holds what cannot be encoded.
#[pyfunction]
fn logfmt_encode(
    py: Python<'_>,
    src: HeldArray<'_>,
    tiles: Tiles,
    bits: u32,
    rounding: &str,
    deepep: bool,
    skip_nan: bool,
    seed: u64,
    inner: usize,
    mut codes_out: HeldCodesMut<'_>,
    mut amin_out: SliceMut<'_, f32>,
    mut amax_out: SliceMut<'_, f32>,
    mut flags_out: SliceMut<'_, u8>,
) -> PyResult<()> {
    let rounding = LogRounding::parse(rounding)?;
    let options = LogOptions { bits, rounding, deepep, skip_nan, seed, inner };
    let (src, codes) = (src.view()?, codes_out.view()?);
    let out = TilesMut { amin: amin_out.view()?, amax: amax_out.view()?, flags: flags_out.view()? };
    detached(py, || logfmt::logfmt_encode(src, tiles, &options, codes, out))
}

/// Decodes codes into out.
#[pyfunction]
fn logfmt_decode(
    py: Python<'_>,
    codes: HeldCodes<'_>,
    amin: Slice<'_, f32>,
    amax: Slice<'_, f32>,
    bits: u32,
    tiles: Tiles,
    mut out: HeldOutput<'_>,
    precision: &str,
) -> PyResult<()> {
    let precision = Precision::parse(precision)?;
    let (codes, amin, amax, out) = (codes.view()?, amin.view()?, amax.view()?, out.view()?);
    detached(py, || logfmt::logfmt_decode(codes, bits, tiles, amin, amax, out, precision))
}

/// Rows of codes as Python gives them: length of a row, bits, layout.
impl FromPyObject<'_, '_> for PackedRows {
    type Error = PyErr;
    fn extract(given: Borrowed<'_, '_, PyAny>) -> PyResult<PackedRows> {
        let (row_len, bits, layout) = given.extract::<(_, _, String)>()?;
        Ok(PackedRows { row_len, bits, layout: LogLayout::parse(&layout)? })
    }
}

/// Packs rows of codes into bytes.
#[pyfunction]
fn logfmt_pack(
    py: Python<'_>,
    codes: HeldCodes<'_>,
    rows: PackedRows,
    mut out: SliceMut<'_, u8>,
) -> PyResult<()> {
    let (codes, out) = (codes.view()?, out.view()?);
    detached(py, || logfmt::logfmt_pack(codes, rows, out))
}

/// Unpacks bytes into rows of codes.
#[pyfunction]
fn logfmt_unpack(
    py: Python<'_>,
    packed: Slice<'_, u8>,
    rows: PackedRows,
    mut codes_out: HeldCodesMut<'_>,
) -> PyResult<()> {
    let (packed, codes) = (packed.view()?, codes_out.view()?);
    detached(py, || logfmt::logfmt_unpack(packed, rows, codes))
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    functions!(m, [logfmt_encode, logfmt_decode, logfmt_pack, logfmt_unpack]);
    Ok(())
}
