//! Quantizers by plans: what a call on a plain array needs besides its numbers.

use super::array::{empty, flat, lend, HeldCodesMut, HeldInput, Object, Place, Real, SliceMut};
use super::cast_plan::SMALL;
use super::detached;
use super::plans::{self, Plans};
use super::quant::rule_of;
use crate::formats::{Array, Format, Rounding};
use crate::quant::{self, Blocks, Global, NonFinitePolicy, QuantizeOptions, Rule, ScaleKind, ScaleSource};
use numpy::npyffi::NPY_ARRAY_WRITEABLE;
use numpy::{PyArrayDescr, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// A call whose arguments were understood.
struct QuantizePlan {
    /// Its arguments, but for arrays.
    call: Py<PyTuple>,
    /// Dtypes and shapes of the numbers (and codes) and of scales.
    dtypes: [Py<PyArrayDescr>; 3],
    shapes: [Vec<usize>; 2],
    real: Real,
    blocks: Blocks,
    format: &'static Format,
    scale: ScaleKind,
    rule: Rule,
    nonfinite: NonFinitePolicy,
    rounding: Option<Rounding>,
    /// Everything that the result says besides its arrays.
    rest: Py<PyDict>,
}

impl QuantizePlan {
    fn options(&self) -> QuantizeOptions<'static> {
        QuantizeOptions {
            scale: self.scale,
            rule: self.rule,
            from: ScaleSource::Found,
            global: Global { encode: &[1.0], decode: &[1.0] },
            nonfinite: self.nonfinite,
            rounding: self.rounding,
            seed: 0,
        }
    }

    fn places<'a>(&self, x: &'a Object<'_>, out: [&'a Object<'_>; 2]) -> Option<(Place<'a>, [Place<'a>; 2])> {
        let [numbers, codes, scales] = &self.dtypes;
        let written = |i: usize, dtype| {
            Place::of(out[i], dtype, NPY_ARRAY_WRITEABLE).filter(|place| place.shape() == self.shapes[i])
        };
        Some((Place::of(x, numbers, 0)?, [written(0, codes)?, written(1, scales)?]))
    }

    /// Quantizes x. False, and nothing is done, unless all are plain and apart in memory.
    fn run<'py>(&self, x: &Object<'py>, [codes, scales]: [&Object<'py>; 2]) -> PyResult<bool> {
        let Some((read, written)) = self.places(x, [codes, scales]) else { return Ok(false) };
        if !read.is_apart(&written[0]) || !read.is_apart(&written[1]) || !written[0].is_apart(&written[1]) {
            return Ok(false);
        }
        let (py, few, options) = (x.py(), read.len() <= SMALL, self.options());
        let (from, to) = (read.width(), written[0].width());
        // A few are quantized with the GIL, and without borrows.
        if let Some(([x], [mut codes, mut scales])) = if few { lend([read], written) } else { None } {
            let lent = x.numbers(self.real).zip(codes.codes());
            let Some((x, codes)) = lent else { return Ok(false) };
            quant::quantize(Array::from(x), self.blocks, self.format, &options, codes, scales.bytes())?;
            return Ok(true);
        }
        let src = HeldInput::new("x", &flat(x, from)?, self.real.name())?;
        let mut codes: HeldCodesMut<'py> = flat(codes, to)?.extract()?;
        let mut scales: SliceMut<'py, u8> = flat(scales, 1)?.extract()?;
        let (src, codes, scales) = (Array::from(src.view()?), codes.view()?, scales.view()?);
        detached(py, || quant::quantize(src, self.blocks, self.format, &options, codes, scales))?;
        Ok(true)
    }
}

/// Plans of one quantizer.
#[pyclass(frozen, module = "dsv3_numerics._core")]
#[derive(Default)]
pub struct QuantizePlans(Plans<QuantizePlan>);

#[pymethods]
impl QuantizePlans {
    #[new]
    fn new() -> QuantizePlans {
        QuantizePlans::default()
    }

    /// Keeps how x was quantized.
    fn keep(
        &self,
        call: Bound<'_, PyTuple>,
        x: &Bound<'_, PyUntypedArray>,
        codes: &Bound<'_, PyUntypedArray>,
        scales: &Bound<'_, PyUntypedArray>,
        real: &str,
        layout: Blocks,
        fmt: &str,
        scale: &str,
        rule: &Object<'_>,
        nonfinite: &str,
        rounding: Option<&str>,
        rest: Py<PyDict>,
    ) -> PyResult<()> {
        if !plans::is_lasting(&call) {
            return Ok(());
        }
        self.0.keep(QuantizePlan {
            call: call.unbind(),
            dtypes: [x, codes, scales].map(|array| array.dtype().unbind()),
            shapes: [x.shape().to_vec(), scales.shape().to_vec()],
            real: Real::parse(real)?,
            blocks: layout,
            format: Format::by_name(fmt)?,
            scale: ScaleKind::parse(scale)?,
            rule: rule_of(rule)?,
            nonfinite: NonFinitePolicy::parse(nonfinite)?,
            rounding: rounding.map(Rounding::parse).transpose()?,
            rest,
        });
        Ok(())
    }

    /// Quantizes as a call before did: codes, scales, and what else the result says. None where there was no such call, or
    /// the arrays are not plain.
    fn run<'py>(
        &self,
        x: &Object<'py>,
        call: &Bound<'py, PyTuple>,
        out: Option<Object<'py>>,
    ) -> PyResult<Option<(Object<'py>, Object<'py>, Py<PyDict>)>> {
        let (py, Ok(array)) = (x.py(), x.cast_exact::<PyUntypedArray>()) else { return Ok(None) };
        let dtype = array.dtype();
        let found = self.0.find(|plan| {
            dtype.is(&plan.dtypes[0])
                && array.shape() == plan.shapes[0]
                && plans::same(plan.call.bind(py), call)
        });
        let Some(plan) = found else { return Ok(None) };
        let (codes, scales) = match out {
            None => (
                empty(&plan.shapes[0], plan.dtypes[1].bind(py))?,
                empty(&plan.shapes[1], plan.dtypes[2].bind(py))?,
            ),
            Some(out) => match out.extract::<(Object<'py>, Object<'py>)>() {
                Ok(two) if is_array(&two.0) && is_array(&two.1) => two,
                _ => return Ok(None),
            },
        };
        let done = plan.run(x, [&codes, &scales])?;
        Ok(done.then(|| (codes, scales, plan.rest.clone_ref(py))))
    }
}

fn is_array(object: &Object<'_>) -> bool {
    object.cast_exact::<PyUntypedArray>().is_ok()
}
