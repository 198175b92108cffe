//! Sums of products as matrix units form them.

use super::array::{readonly, readwrite, HeldCodes, HeldOutput};
use crate::formats::Format;
use crate::gemm::{self, Accumulator, Operand, Options, Shape, ACCUMULATORS};
use numpy::PyReadonlyArray1;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// The rows of the table of accumulators.
#[pyfunction]
fn accumulators(py: Python<'_>) -> PyResult<Vec<Bound<'_, PyDict>>> {
    let row = |a: &Accumulator| {
        let row = PyDict::new(py);
        row.set_item("name", a.name)?;
        row.set_item("products", a.products)?;
        row.set_item("fraction", a.fraction)?;
        row.set_item("floor", a.floor)?;
        row.set_item("keep", a.keep)?;
        row.set_item("result", a.result.name())?;
        row.set_item("inputs", a.inputs.iter().map(|f| f.name).collect::<Vec<_>>())?;
        row.set_item("unit", a.unit.name())?;
        row.set_item("evidence", a.evidence.name())?;
        Ok(row)
    };
    ACCUMULATORS.iter().map(row).collect()
}

/// One step on each row of a and b.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // the arguments of one Python function
fn mma_step(
    py: Python<'_>,
    a: &Bound<'_, PyAny>,
    a_fmt: &str,
    b: &Bound<'_, PyAny>,
    b_fmt: &str,
    c: &Bound<'_, PyAny>,
    accumulator: &str,
    out: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let (a_fmt, b_fmt) = (Format::by_name(a_fmt)?, Format::by_name(b_fmt)?);
    let accumulator = Accumulator::by_name(accumulator)?;
    let (a, b, c) = (HeldCodes::new(a)?, HeldCodes::new(b)?, readonly::<f32>("c", c, "float32")?);
    let mut out = readwrite::<f32>("out", out, "float32")?;
    let (a, b, c, out) = (a.view()?, b.view()?, c.as_slice()?, out.as_slice_mut()?);
    Ok(py.detach(|| gemm::mma_step(accumulator, (a, a_fmt), (b, b_fmt), c, out))?)
}

/// One side of a product.
struct Held<'py> {
    codes: HeldCodes<'py>,
    format: &'static Format,
    scales: Option<PyReadonlyArray1<'py, f32>>,
    group: (usize, usize),
}

impl<'py> Held<'py> {
    fn new(
        codes: &Bound<'py, PyAny>,
        fmt: &str,
        scales: Option<&Bound<'py, PyAny>>,
        group: (usize, usize),
    ) -> PyResult<Self> {
        let scales = scales.map(|s| readonly::<f32>("scales", s, "float32")).transpose()?;
        Ok(Held { codes: HeldCodes::new(codes)?, format: Format::by_name(fmt)?, scales, group })
    }

    fn view(&self) -> PyResult<Operand<'_>> {
        let scales = self.scales.as_ref().map(|s| s.as_slice()).transpose()?;
        Ok(Operand { codes: self.codes.view()?, format: self.format, scales, group: self.group })
    }
}

fn options(accumulator: &str, promote_every: usize) -> PyResult<Options> {
    let promote_every = (promote_every > 0).then_some(promote_every);
    Ok(Options { accumulator: Accumulator::by_name(accumulator)?, promote_every })
}

/// A stack of products a b^T + c.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // the arguments of one Python function
fn matmul_nt(
    py: Python<'_>,
    a: &Bound<'_, PyAny>,
    a_fmt: &str,
    a_scales: Option<&Bound<'_, PyAny>>,
    a_group: (usize, usize),
    b: &Bound<'_, PyAny>,
    b_fmt: &str,
    b_scales: Option<&Bound<'_, PyAny>>,
    b_group: (usize, usize),
    shape: (usize, usize, usize, usize),
    b_stacked: bool,
    c: Option<&Bound<'_, PyAny>>,
    accumulator: &str,
    promote_every: usize,
    out: &Bound<'_, PyAny>,
    out_dtype: &str,
) -> PyResult<()> {
    let (a, b) = (Held::new(a, a_fmt, a_scales, a_group)?, Held::new(b, b_fmt, b_scales, b_group)?);
    let c = c.map(|c| readonly::<f32>("c", c, "float32")).transpose()?;
    let mut out = HeldOutput::new("out", out, out_dtype)?;
    let options = options(accumulator, promote_every)?;
    let (stack, m, n, k) = shape;
    let (a, b, out) = (a.view()?, b.view()?, out.view()?);
    let c = c.as_ref().map(|c| c.as_slice()).transpose()?;
    Ok(py.detach(|| gemm::matmul_nt(&a, &b, Shape { stack, m, n, k }, b_stacked, c, &options, out))?)
}

/// The product of each expert's rows of a with its own b.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // the arguments of one Python function
fn matmul_grouped_nt(
    py: Python<'_>,
    a: &Bound<'_, PyAny>,
    a_fmt: &str,
    a_scales: Option<&Bound<'_, PyAny>>,
    a_group: (usize, usize),
    b: &Bound<'_, PyAny>,
    b_fmt: &str,
    b_scales: Option<&Bound<'_, PyAny>>,
    b_group: (usize, usize),
    shape: (usize, usize, usize, usize),
    offsets: &Bound<'_, PyAny>,
    c: Option<&Bound<'_, PyAny>>,
    accumulator: &str,
    promote_every: usize,
    out: &Bound<'_, PyAny>,
    out_dtype: &str,
) -> PyResult<()> {
    let (a, b) = (Held::new(a, a_fmt, a_scales, a_group)?, Held::new(b, b_fmt, b_scales, b_group)?);
    let c = c.map(|c| readonly::<f32>("c", c, "float32")).transpose()?;
    let offsets = readonly::<i64>("offsets", offsets, "int64")?;
    let mut out = HeldOutput::new("out", out, out_dtype)?;
    let options = options(accumulator, promote_every)?;
    let (stack, m, n, k) = shape;
    let (a, b, out, offsets) = (a.view()?, b.view()?, out.view()?, offsets.as_slice()?);
    let c = c.as_ref().map(|c| c.as_slice()).transpose()?;
    let shape = Shape { stack, m, n, k };
    Ok(py.detach(|| gemm::matmul_grouped_nt(&a, &b, shape, offsets, c, &options, out))?)
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(accumulators, m)?)?;
    m.add_function(wrap_pyfunction!(mma_step, m)?)?;
    m.add_function(wrap_pyfunction!(matmul_nt, m)?)?;
    m.add_function(wrap_pyfunction!(matmul_grouped_nt, m)?)
}
