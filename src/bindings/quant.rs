//! Quantization with shared scales, and what it cost.

use super::array::{HeldArray, HeldCodes, HeldCodesMut, HeldInput, HeldOutput, Object, Slice, SliceMut};
use super::{detached, type_error};
use crate::error::Error;
use crate::formats::{Codes, Format, Rounding};
use crate::quant::rule::{
    AmaxNan, ApplyOp, BlockOp, Byte0, Pow2Op, ScaleOp, Subnormals, ZeroScale, ZeroTile, CANDIDATES, PLAIN,
};
use crate::quant::{
    self, Blocks, Coded, Global, NonFinitePolicy, QuantizeOptions, Rule, ScaleKind, ScaleSource, RULES,
};
use numpy::{PyArray2, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// A layout as Python gives it: stack, rows, columns, rows and columns of a block.
impl FromPyObject<'_, '_> for Blocks {
    type Error = PyErr;
    fn extract(layout: Borrowed<'_, '_, PyAny>) -> PyResult<Blocks> {
        let (stack, rows, cols, block_rows, block_cols) = layout.extract()?;
        Ok(Blocks::new([stack, rows, cols], [block_rows, block_cols])?)
    }
}

/// The rows of the table of scale rules: columns by the textbook's names and values.
#[pyfunction]
fn scale_rules(py: Python<'_>) -> PyResult<Vec<Bound<'_, PyDict>>> {
    let row = |r: &Rule| {
        Ok(dict!(py, {
            name: r.name, amax_nan: r.amax_nan.name(), amax_floor: r.amax_floor, max: r.max,
            scale_op: r.scale_op.name(), scale_floor: r.scale_floor,
            pow2_floor: r.pow2_floor, pow2_op: r.pow2_op.name(), least_exponent: r.least_exponent,
            apply_op: r.apply_op.name(), byte0: r.byte0.name(), zero_tile: r.zero_tile.name(),
            rounding: r.rounding.name(), negative_zero: r.negative_zero, block_max: r.block_max,
            candidates: PyTuple::new(py, r.targets())?, zero_scale: r.zero_scale.name(),
            block_op: r.block_op.name(), subnormals: r.subnormals.name(),
        }))
    };
    RULES.iter().map(row).collect()
}

/// A rule that is read: calls that take it do not read its columns again.
#[pyclass(frozen)]
struct RuleRow(Rule);

/// Reads a rule, from a dict of columns or by its name.
#[pyfunction]
fn rule_row(rule: &Object<'_>) -> PyResult<RuleRow> {
    Ok(RuleRow(rule_of(rule)?))
}

/// A rule that is read already, or by its name, or from a dict of columns; those left out are the plain ones.
pub fn rule_of(rule: &Object<'_>) -> PyResult<Rule> {
    if let Ok(row) = rule.cast::<RuleRow>() {
        return Ok(row.get().0);
    }
    if let Ok(name) = rule.extract::<String>() {
        return Ok(*Rule::by_name(&name)?);
    }
    let mut row = PLAIN;
    for (column, value) in rule.cast::<PyDict>()?.iter() {
        let text = || value.extract::<String>();
        match column.extract::<String>()?.as_str() {
            "amax_nan" => row.amax_nan = AmaxNan::parse(&text()?)?,
            "amax_floor" => row.amax_floor = value.extract()?,
            "max" => row.max = value.extract()?,
            "scale_op" => row.scale_op = ScaleOp::parse(&text()?)?,
            "scale_floor" => row.scale_floor = value.extract()?,
            "pow2_floor" => row.pow2_floor = value.extract()?,
            "pow2_op" => row.pow2_op = Pow2Op::parse(&text()?)?,
            "least_exponent" => row.least_exponent = value.extract()?,
            "apply_op" => row.apply_op = ApplyOp::parse(&text()?)?,
            "byte0" => row.byte0 = Byte0::parse(&text()?)?,
            "zero_tile" => row.zero_tile = ZeroTile::parse(&text()?)?,
            "rounding" => row.rounding = Rounding::parse(&text()?)?,
            "negative_zero" => row.negative_zero = value.extract()?,
            "block_max" => row.block_max = value.extract()?,
            "candidates" => row.candidates = candidates_of(&value.extract::<Vec<f32>>()?)?,
            "zero_scale" => row.zero_scale = ZeroScale::parse(&text()?)?,
            "block_op" => row.block_op = BlockOp::parse(&text()?)?,
            "subnormals" => row.subnormals = Subnormals::parse(&text()?)?,
            other => {
                return Err(type_error(format!("rule: found a column {other:?}, which rules do not have")))
            }
        }
    }
    Ok(row)
}

fn candidates_of(given: &[f32]) -> PyResult<[f32; CANDIDATES]> {
    let mut candidates = [0.0; CANDIDATES];
    let Some(room) = candidates.get_mut(..given.len()) else {
        let found = format!("candidates: found {} numbers, expected at most {CANDIDATES}", given.len());
        return Err(Error::Unsupported(found).into());
    };
    room.copy_from_slice(given);
    Ok(candidates)
}

/// The largest magnitude of each block; returns that of all.
#[pyfunction]
fn amax(py: Python<'_>, src: HeldArray<'_>, layout: Blocks, mut out: SliceMut<'_, f32>) -> PyResult<f32> {
    let (src, out) = (src.view()?, out.view()?);
    detached(py, || quant::amax(src, layout, out))
}

/// Quantizes src; scales_out gets the bytes of what is stored of each scale. known: each block's amax, as found by amax.
#[pyfunction]
#[pyo3(signature = (src, layout, fmt, codes_out, scales_out, scale, rule, global_encode, global_decode, amax,
    scales, nonfinite, rounding, seed, known=None))]
fn quantize(
    py: Python<'_>,
    src: HeldArray<'_>,
    layout: Blocks,
    fmt: &str,
    mut codes_out: HeldCodesMut<'_>,
    mut scales_out: SliceMut<'_, u8>,
    scale: &str,
    rule: &Object<'_>,
    global_encode: Slice<'_, f32>,
    global_decode: Slice<'_, f32>,
    amax: Option<Slice<'_, f32>>,
    scales: Option<Slice<'_, f32>>,
    nonfinite: &str,
    rounding: Option<&str>,
    seed: u64,
    known: Option<Slice<'_, f32>>,
) -> PyResult<()> {
    let format = Format::by_name(fmt)?;
    let options = QuantizeOptions {
        scale: ScaleKind::parse(scale)?,
        rule: rule_of(rule)?,
        from: match (&scales, &amax, &known) {
            (Some(given), ..) => ScaleSource::Given(given.view()?),
            (None, Some(amax), _) => ScaleSource::Amax(amax.view()?),
            (None, None, Some(known)) => ScaleSource::Known(known.view()?),
            (None, None, None) => ScaleSource::Found,
        },
        global: Global { encode: global_encode.view()?, decode: global_decode.view()? },
        nonfinite: NonFinitePolicy::parse(nonfinite)?,
        rounding: rounding.map(Rounding::parse).transpose()?,
        seed,
    };
    let (src, codes, stored) = (src.view()?, codes_out.view()?, scales_out.view()?);
    detached(py, || quant::quantize(src, layout, format, &options, codes, stored))
}

/// Refuses a rule that cannot be with a kind of scale and a format.
#[pyfunction]
fn check_rule(rule: &Object<'_>, scale: &str, fmt: &str, searching: bool) -> PyResult<()> {
    Ok(rule_of(rule)?.check(ScaleKind::parse(scale)?, Format::by_name(fmt)?, searching)?)
}

/// Codes with what they mean, given as (codes, format, layout, multipliers).
struct HeldCoded<'py> {
    codes: HeldCodes<'py>,
    format: &'static Format,
    blocks: Blocks,
    scales: Slice<'py, f32>,
}

impl<'py> FromPyObject<'_, 'py> for HeldCoded<'py> {
    type Error = PyErr;
    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let (codes, fmt, blocks, scales) = given.extract::<(_, String, _, _)>()?;
        Ok(HeldCoded { codes, format: Format::by_name(&fmt)?, blocks, scales })
    }
}

impl HeldCoded<'_> {
    fn view(&self) -> PyResult<Coded<'_>> {
        let (codes, scales) = (self.codes.view()?, self.scales.view()?);
        Ok(Coded { codes, format: self.format, blocks: self.blocks, scales })
    }
}

/// Writes code * scale.
#[pyfunction]
fn dequantize(py: Python<'_>, coded: HeldCoded<'_>, mut out: HeldOutput<'_>) -> PyResult<()> {
    let (Coded { codes, format, blocks, scales }, out) = (coded.view()?, out.view()?);
    detached(py, || quant::dequantize(codes, format, blocks, scales, out))
}

/// Writes code * scale of 4-bit codes packed two a byte.
#[pyfunction]
fn dequantize_packed(
    py: Python<'_>,
    coded: HeldCoded<'_>,
    flip: u8,
    mut out: HeldOutput<'_>,
) -> PyResult<()> {
    let (Coded { codes, format, blocks, scales }, out) = (coded.view()?, out.view()?);
    let Codes::U8(packed) = codes else {
        return Err(type_error("coded: found codes of more than a byte, expected packed ones".to_owned()));
    };
    detached(py, || quant::dequantize_packed(packed, flip, format, blocks, scales, out))
}

/// Sums over pairs of src and approx, in float64; clipped elements where `coded` says what approx is codes of.
#[pyfunction]
#[pyo3(signature = (src, approx, coded=None))]
fn error_stats<'py>(
    py: Python<'py>,
    src: HeldInput<'py>,
    approx: Slice<'py, f32>,
    coded: Option<HeldCoded<'py>>,
) -> PyResult<Bound<'py, PyDict>> {
    let (src, approx) = (src.view()?, approx.view()?);
    let coded = coded.as_ref().map(HeldCoded::view).transpose()?;
    let stats = detached(py, || quant::error_stats(src, approx, coded))?;
    let histogram = PyArray2::<f64>::zeros(py, [stats.histogram.len(), 3], false);
    histogram.try_readwrite()?.as_slice_mut()?.copy_from_slice(stats.histogram.as_flattened());
    Ok(dict!(py, {
        count: stats.count,
        sum_x2: stats.sum_x2, sum_e2: stats.sum_e2, sum_xy: stats.sum_xy, sum_y2: stats.sum_y2,
        sum_e: stats.sum_e, sum_abs_x: stats.sum_abs_x,
        max_abs_error: stats.max_abs_error, max_rel_error: stats.max_rel_error,
        underflows: stats.underflows, saturated: stats.saturated, histogram: histogram,
    }))
}

/// How many elements were clipped.
#[pyfunction]
fn count_saturated(py: Python<'_>, src: HeldInput<'_>, coded: HeldCoded<'_>) -> PyResult<u64> {
    let (src, coded) = (src.view()?, coded.view()?);
    detached(py, || quant::count_saturated(src, coded))
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<RuleRow>()?;
    m.add_class::<super::quantize_plan::QuantizePlans>()?;
    functions!(
        m,
        [
            scale_rules,
            rule_row,
            amax,
            quantize,
            check_rule,
            dequantize,
            dequantize_packed,
            error_stats,
            count_saturated
        ]
    );
    Ok(())
}
