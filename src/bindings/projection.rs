//! Linear layers as a recipe does them.

use super::array::{readonly, readwrite, Object};
use super::gemm::{options, HeldSide, Operand};
use super::model::{each_real, rounding, HeldWeight, Weight};
use super::quant::rule_of;
use super::{detached, type_error};
use crate::formats::{Format, Rounding};
use crate::gemm::Options;
use crate::model::{self, Matrix, RowQuantizer, Swiglu};
use crate::quant::ScaleKind;
use pyo3::prelude::*;

/// Codes of rows as Python gives them: format, elements that share a scale, kind of scale, rule, rounding.
type Rows<'py> = (String, Option<usize>, String, Object<'py>, Option<String>);

/// How a recipe multiplies: codes of activations, the unit, rounding of the results to bfloat16.
#[pyclass(frozen, module = "dsv3_numerics._core")]
pub struct Projection {
    quantizer: Option<RowQuantizer>,
    unit: Option<Options>,
    bfloat16: bool,
}

#[pymethods]
impl Projection {
    #[new]
    #[pyo3(signature = (*, rows=None, accumulator=None, promote_every=0, bfloat16=false))]
    fn new(
        rows: Option<Rows<'_>>,
        accumulator: Option<&str>,
        promote_every: usize,
        bfloat16: bool,
    ) -> PyResult<Projection> {
        let quantizer = rows
            .map(|(fmt, tile, scale, rule, rounding)| {
                Ok::<_, PyErr>(RowQuantizer {
                    format: Format::by_name(&fmt)?,
                    tile,
                    scale: ScaleKind::parse(&scale)?,
                    rule: rule_of(&rule)?,
                    rounding: rounding.as_deref().map(Rounding::parse).transpose()?,
                })
            })
            .transpose()?;
        let unit = accumulator.map(|name| options(name, promote_every)).transpose()?;
        Ok(Projection { quantizer, unit, bfloat16 })
    }
}

impl Projection {
    fn of<T: model::Real>(&self) -> PyResult<model::Projection<T>> {
        let Projection { quantizer, unit, bfloat16 } = *self;
        Ok(model::Projection { quantizer, unit, round: rounding::<T>(bfloat16)? })
    }
}

/// A weight whose arrays are held for reading.
enum Held<'py> {
    Numbers(HeldWeight<'py>),
    Codes(HeldSide<'py>, &'py Operand),
}

impl<'py> Held<'py> {
    fn new(py: Python<'py>, weight: &'py Object<'py>) -> PyResult<Held<'py>> {
        if let Ok(numbers) = weight.cast::<Weight>() {
            return Ok(Held::Numbers(numbers.get().hold(py)?));
        }
        let operand = weight.cast::<Operand>().map_err(|_| {
            let found = weight.get_type();
            type_error(format!("weight: found {found}, expected a Weight or an Operand"))
        })?;
        Ok(Held::Codes(operand.get().hold(py)?, operand.get()))
    }

    fn view(&self) -> PyResult<Matrix<'_>> {
        Ok(match self {
            Held::Numbers(weight) => Matrix::Numbers(weight.view()?),
            Held::Codes(side, given) => {
                let (rows, cols) = given.size();
                let operand = crate::gemm::Operand { prepared: given.prepared(), ..side.view()? };
                Matrix::Codes { operand, rows, cols }
            }
        })
    }
}

/// out = x W^T for rows of x.
#[pyfunction]
fn linear(
    py: Python<'_>,
    x: &Object<'_>,
    rows: usize,
    weight: &Object<'_>,
    how: &Bound<'_, Projection>,
    out: &Object<'_>,
) -> PyResult<()> {
    let weight = Held::new(py, weight)?;
    each_real!(x, T => {
        let how = how.get().of::<T>()?;
        let (x, mut out) = (readonly::<T>("x", x)?, readwrite::<T>("out", out)?);
        let (x, w, out) = (x.as_slice()?, weight.view()?, out.as_slice_mut()?);
        detached(py, || how.apply(x, rows, &w, out))
    })
}

/// down(silu(gate(x)) * up(x)); how: the first two products, and the last.
#[pyfunction]
fn swiglu(
    py: Python<'_>,
    x: &Object<'_>,
    rows: usize,
    weights: (Object<'_>, Object<'_>, Object<'_>),
    how: (Bound<'_, Projection>, Bound<'_, Projection>),
    out: &Object<'_>,
) -> PyResult<()> {
    let (gate, up, down) =
        (Held::new(py, &weights.0)?, Held::new(py, &weights.1)?, Held::new(py, &weights.2)?);
    each_real!(x, T => {
        let (first, last) = (how.0.get().of::<T>()?, how.1.get().of::<T>()?);
        let (x, mut out) = (readonly::<T>("x", x)?, readwrite::<T>("out", out)?);
        let (x, out) = (x.as_slice()?, out.as_slice_mut()?);
        let weights = Swiglu { gate: gate.view()?, up: up.view()?, down: down.view()? };
        detached(py, || weights.apply(x, rows, [&first, &last], out))
    })
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Projection>()?;
    functions!(m, [linear, swiglu]);
    Ok(())
}
