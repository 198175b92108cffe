//! Quantization with shared scales, and what it cost.

use super::array::{readonly, readwrite, HeldCodes, HeldCodesMut, HeldInput, HeldOutput, Object};
use super::{detached, type_error};
use crate::error::Error;
use crate::formats::{Format, Rounding};
use crate::quant::rule::{
    AmaxNan, ApplyOp, BlockOp, Byte0, Pow2Op, ScaleOp, Subnormals, ZeroScale, ZeroTile, CANDIDATES, PLAIN,
};
use crate::quant::{
    self, Blocks, Coded, Global, NonFinitePolicy, QuantizeOptions, Rule, ScaleKind, ScaleSource, RULES,
};
use numpy::{PyArray2, PyArrayDyn, PyArrayMethods, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

type Layout = (usize, usize, usize, usize, usize);

fn blocks(layout: Layout) -> PyResult<Blocks> {
    let (stack, rows, cols, block_rows, block_cols) = layout;
    Ok(Blocks::new([stack, rows, cols], [block_rows, block_cols])?)
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

/// Settles whether any number is NaN.
#[pyfunction]
fn has_nan(numbers: &Object<'_>) -> PyResult<bool> {
    let array =
        numbers.cast::<PyArrayDyn<f32>>().map_err(|_| type_error("numbers: expected float32".into()))?;
    Ok(array.try_readonly()?.as_array().iter().any(|x| x.is_nan()))
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

/// The largest magnitude of each block.
#[pyfunction]
fn amax(py: Python<'_>, src: &Object<'_>, src_dtype: &str, layout: Layout, out: &Object<'_>) -> PyResult<()> {
    let blocks = blocks(layout)?;
    let (src, mut out) = (HeldInput::new("src", src, src_dtype)?, readwrite::<f32>("out", out, "float32")?);
    let (src, out) = (src.view()?, out.as_slice_mut()?);
    detached(py, || quant::amax(src, blocks, out))
}

/// Quantizes src; scales_out gets the bytes of what is stored of each scale. known: each block's amax, as found by amax.
#[pyfunction]
#[pyo3(signature = (src, src_dtype, layout, fmt, codes_out, scales_out, scale, rule, global_encode, global_decode, amax,
    scales, nonfinite, rounding, seed, known=None))]
fn quantize(
    py: Python<'_>,
    src: &Object<'_>,
    src_dtype: &str,
    layout: Layout,
    fmt: &str,
    codes_out: &Object<'_>,
    scales_out: &Object<'_>,
    scale: &str,
    rule: &Object<'_>,
    global_encode: &Object<'_>,
    global_decode: &Object<'_>,
    amax: Option<&Object<'_>>,
    scales: Option<&Object<'_>>,
    nonfinite: &str,
    rounding: Option<&str>,
    seed: u64,
    known: Option<&Object<'_>>,
) -> PyResult<()> {
    let (blocks, format) = (blocks(layout)?, Format::by_name(fmt)?);
    let amax = amax.map(|a| readonly::<f32>("amax", a, "float32")).transpose()?;
    let given = scales.map(|a| readonly::<f32>("scales", a, "float32")).transpose()?;
    let known = known.map(|a| readonly::<f32>("known", a, "float32")).transpose()?;
    let (encode, decode) = (
        readonly::<f32>("global_encode", global_encode, "float32")?,
        readonly::<f32>("global_decode", global_decode, "float32")?,
    );
    let options = QuantizeOptions {
        scale: ScaleKind::parse(scale)?,
        rule: rule_of(rule)?,
        from: match (&given, &amax, &known) {
            (Some(given), ..) => ScaleSource::Given(given.as_slice()?),
            (None, Some(amax), _) => ScaleSource::Amax(amax.as_slice()?),
            (None, None, Some(known)) => ScaleSource::Known(known.as_slice()?),
            (None, None, None) => ScaleSource::Found,
        },
        global: Global { encode: encode.as_slice()?, decode: decode.as_slice()? },
        nonfinite: NonFinitePolicy::parse(nonfinite)?,
        rounding: rounding.map(Rounding::parse).transpose()?,
        seed,
    };
    let src = HeldInput::new("src", src, src_dtype)?;
    let mut codes = HeldCodesMut::new(codes_out)?;
    let mut stored = readwrite::<u8>("scales_out", scales_out, "uint8")?;
    let (src, codes, stored) = (src.view()?, codes.view()?, stored.as_slice_mut()?);
    detached(py, || quant::quantize(src, blocks, format, &options, codes, stored))
}

/// Refuses a rule that cannot be with a kind of scale and a format.
#[pyfunction]
fn check_rule(rule: &Object<'_>, scale: &str, fmt: &str, searching: bool) -> PyResult<()> {
    Ok(rule_of(rule)?.check(ScaleKind::parse(scale)?, Format::by_name(fmt)?, searching)?)
}

/// Writes code * scale.
#[pyfunction]
fn dequantize(
    py: Python<'_>,
    codes: &Object<'_>,
    fmt: &str,
    layout: Layout,
    scales: &Object<'_>,
    out: &Object<'_>,
    out_dtype: &str,
) -> PyResult<()> {
    let (blocks, format) = (blocks(layout)?, Format::by_name(fmt)?);
    let (codes, scales) = (HeldCodes::new(codes)?, readonly::<f32>("scales", scales, "float32")?);
    let mut out = HeldOutput::new("out", out, out_dtype)?;
    let (codes, scales, out) = (codes.view()?, scales.as_slice()?, out.view()?);
    detached(py, || quant::dequantize(codes, format, blocks, scales, out))
}

/// Writes code * scale of 4-bit codes packed two a byte.
#[pyfunction]
fn dequantize_packed(
    py: Python<'_>,
    packed: &Object<'_>,
    flip: u8,
    fmt: &str,
    layout: Layout,
    scales: &Object<'_>,
    out: &Object<'_>,
    out_dtype: &str,
) -> PyResult<()> {
    let (blocks, format) = (blocks(layout)?, Format::by_name(fmt)?);
    let packed = readonly::<u8>("packed", packed, "uint8")?;
    let scales = readonly::<f32>("scales", scales, "float32")?;
    let mut out = HeldOutput::new("out", out, out_dtype)?;
    let (packed, scales, out) = (packed.as_slice()?, scales.as_slice()?, out.view()?);
    detached(py, || quant::dequantize_packed(packed, flip, format, blocks, scales, out))
}

/// Codes with their format, layout and multipliers, as `count_saturated` takes them.
struct HeldCoded<'py> {
    codes: HeldCodes<'py>,
    format: &'static Format,
    blocks: Blocks,
    scales: PyReadonlyArray1<'py, f32>,
}

impl<'py> HeldCoded<'py> {
    fn new(codes: &Object<'py>, fmt: &str, layout: Layout, scales: &Object<'py>) -> PyResult<Self> {
        Ok(HeldCoded {
            blocks: blocks(layout)?,
            format: Format::by_name(fmt)?,
            codes: HeldCodes::new(codes)?,
            scales: readonly::<f32>("scales", scales, "float32")?,
        })
    }

    fn view(&self) -> PyResult<Coded<'_>> {
        Ok(Coded {
            codes: self.codes.view()?,
            format: self.format,
            blocks: self.blocks,
            scales: self.scales.as_slice()?,
        })
    }
}

type CodedArgs<'py> = (Object<'py>, String, Layout, Object<'py>);

/// Sums over pairs of src and approx, in float64; clipped elements where `coded` says what approx is codes of.
#[pyfunction]
#[pyo3(signature = (src, src_dtype, approx, coded=None))]
fn error_stats<'py>(
    py: Python<'py>,
    src: &Object<'py>,
    src_dtype: &str,
    approx: &Object<'py>,
    coded: Option<CodedArgs<'py>>,
) -> PyResult<Bound<'py, PyDict>> {
    let (src, approx) =
        (HeldInput::new("src", src, src_dtype)?, readonly::<f32>("approx", approx, "float32")?);
    let coded = coded
        .map(|(codes, fmt, layout, scales)| HeldCoded::new(&codes, &fmt, layout, &scales))
        .transpose()?;
    let (src, approx) = (src.view()?, approx.as_slice()?);
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
fn count_saturated(
    py: Python<'_>,
    src: &Object<'_>,
    src_dtype: &str,
    codes: &Object<'_>,
    fmt: &str,
    layout: Layout,
    scales: &Object<'_>,
) -> PyResult<u64> {
    let (src, coded) = (HeldInput::new("src", src, src_dtype)?, HeldCoded::new(codes, fmt, layout, scales)?);
    let (src, coded) = (src.view()?, coded.view()?);
    detached(py, || quant::count_saturated(src, coded))
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<RuleRow>()?;
    functions!(
        m,
        [
            scale_rules,
            rule_row,
            has_nan,
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
