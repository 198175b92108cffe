//! Sums of products as matrix units form them.

use super::array::{readonly, readwrite, HeldCodes, HeldOutput, Object};
use super::detached;
use crate::formats::table::TF32;
use crate::formats::Format;
use crate::gemm::{self, Accumulator, Options, Prepared, Shape, UnitScales, ACCUMULATORS};
use numpy::PyReadonlyArray1;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::sync::OnceLock;

/// The rows of the table of accumulators.
#[pyfunction]
fn accumulators(py: Python<'_>) -> PyResult<Vec<Bound<'_, PyDict>>> {
    let row = |a: &Accumulator| {
        Ok(dict!(py, {
            name: a.name, products: a.products, fraction: a.fraction, floor: a.floor, keep: a.keep,
            result: a.result.name(), inputs: a.inputs.iter().map(|f| f.name).collect::<Vec<_>>(),
            unit: a.unit.name(), interval: a.interval(),
            scale: a.scale.map(|s| s.format.name),
            blocks: a.scale.map_or(Vec::new(), |s| s.blocks.to_vec()),
            evidence: a.evidence.name(),
        }))
    };
    ACCUMULATORS.iter().map(row).collect()
}

/// One side of a product, whose arrays are held for reading.
pub struct HeldSide<'py> {
    codes: HeldCodes<'py>,
    format: &'static Format,
    scales: Option<PyReadonlyArray1<'py, f32>>,
    group: (usize, usize),
    unit_scales: Option<PyReadonlyArray1<'py, u8>>,
    unit_group: (usize, usize),
}

/// One side of a product, as Python gives it: codes, format, scales and their blocks, the unit's scales and theirs.
type Given<'py> =
    (Object<'py>, String, Option<Object<'py>>, (usize, usize), Option<Object<'py>>, (usize, usize));

impl<'py> HeldSide<'py> {
    fn new((codes, fmt, scales, group, unit_scales, unit_group): &Given<'py>) -> PyResult<Self> {
        let scales = scales.as_ref().map(|s| readonly::<f32>("scales", s, "float32")).transpose()?;
        let unit = unit_scales.as_ref().map(|s| readonly::<u8>("unit scales", s, "uint8")).transpose()?;
        let format = if fmt == TF32.name { &TF32 } else { Format::by_name(fmt)? };
        let codes = HeldCodes::new(codes)?;
        Ok(HeldSide { codes, format, scales, group: *group, unit_scales: unit, unit_group: *unit_group })
    }

    pub fn view(&self) -> PyResult<gemm::Operand<'_>> {
        let scales = self.scales.as_ref().map(|s| s.as_slice()).transpose()?;
        let unit_scales = match &self.unit_scales {
            Some(codes) => Some(UnitScales { codes: codes.as_slice()?, group: self.unit_group }),
            None => None,
        };
        let (codes, format, group) = (self.codes.view()?, self.format, self.group);
        Ok(gemm::Operand { codes, format, scales, group, unit_scales, prepared: None })
    }
}

/// The right operand of products, checked once. It keeps the arrays alive; nothing is copied until it is laid out.
#[pyclass(frozen, module = "dsv3_numerics._core")]
pub struct Operand {
    codes: Py<PyAny>,
    format: &'static Format,
    scales: Option<Py<PyAny>>,
    group: (usize, usize),
    unit_scales: Option<Py<PyAny>>,
    unit_group: (usize, usize),
    shape: (usize, usize),
    prepared: OnceLock<Prepared>,
}

#[pymethods]
impl Operand {
    #[new]
    fn new(side: Given<'_>, rows: usize, cols: usize) -> PyResult<Operand> {
        let held = HeldSide::new(&side)?;
        held.view()?;
        let (format, group, unit_group) = (held.format, held.group, held.unit_group);
        let (codes, _, scales, _, unit_scales, _) = side;
        Ok(Operand {
            codes: codes.unbind(),
            format,
            scales: scales.map(Bound::unbind),
            group,
            unit_scales: unit_scales.map(Bound::unbind),
            unit_group,
            shape: (rows, cols),
            prepared: OnceLock::new(),
        })
    }

    #[getter]
    fn shape(&self) -> (usize, usize) {
        self.shape
    }

    /// Lays the codes out for products by a unit: the bytes that this takes, 0 where nothing is gained by it.
    fn prepare(&self, py: Python<'_>, accumulator: &str) -> PyResult<usize> {
        let held = self.hold(py)?;
        let (unit, side, (rows, cols)) = (Accumulator::by_name(accumulator)?, held.view()?, self.shape);
        if self.prepared.get().is_none() {
            if let Some(made) = detached(py, || Prepared::new(unit, &side, rows, cols))? {
                let _ = self.prepared.set(made); // another thread's is the same
            }
        }
        Ok(self.prepared.get().map_or(0, Prepared::nbytes))
    }
}

impl Operand {
    pub fn hold<'py>(&self, py: Python<'py>) -> PyResult<HeldSide<'py>> {
        let floats = |s: &Py<PyAny>| readonly::<f32>("scales", s.bind(py), "float32");
        let bytes = |s: &Py<PyAny>| readonly::<u8>("unit scales", s.bind(py), "uint8");
        Ok(HeldSide {
            codes: HeldCodes::new(self.codes.bind(py))?,
            format: self.format,
            scales: self.scales.as_ref().map(floats).transpose()?,
            group: self.group,
            unit_scales: self.unit_scales.as_ref().map(bytes).transpose()?,
            unit_group: self.unit_group,
        })
    }

    pub fn size(&self) -> (usize, usize) {
        self.shape
    }

    pub fn prepared(&self) -> Option<&Prepared> {
        self.prepared.get()
    }
}

/// A right operand as Python gives it.
#[derive(FromPyObject)]
enum Right<'py> {
    #[pyo3(transparent)]
    Operand(Bound<'py, Operand>),
    #[pyo3(transparent)]
    Given(Given<'py>),
}

impl<'py> Right<'py> {
    fn hold(&self, py: Python<'py>) -> PyResult<HeldSide<'py>> {
        match self {
            Right::Operand(operand) => operand.get().hold(py),
            Right::Given(given) => HeldSide::new(given),
        }
    }

    fn prepared(&self) -> Option<&Prepared> {
        match self {
            Right::Operand(operand) => operand.get().prepared(),
            Right::Given(_) => None,
        }
    }
}

/// One step on each row of a and b.
#[pyfunction]
fn mma_step(
    py: Python<'_>,
    a: Given<'_>,
    b: Given<'_>,
    c: &Object<'_>,
    accumulator: &str,
    out: &Object<'_>,
) -> PyResult<()> {
    let accumulator = Accumulator::by_name(accumulator)?;
    let (a, b, c) = (HeldSide::new(&a)?, HeldSide::new(&b)?, readonly::<f32>("c", c, "float32")?);
    let mut out = readwrite::<f32>("out", out, "float32")?;
    let (a, b, c, out) = (a.view()?, b.view()?, c.as_slice()?, out.as_slice_mut()?);
    detached(py, || gemm::mma_step(accumulator, &a, &b, c, out))
}

pub fn options(accumulator: &str, promote_every: usize) -> PyResult<Options> {
    let promote_every = (promote_every > 0).then_some(promote_every);
    Ok(Options { accumulator: Accumulator::by_name(accumulator)?, promote_every })
}

/// A stack of products a b^T + c.
#[pyfunction]
fn matmul_nt(
    py: Python<'_>,
    a: Given<'_>,
    b: Right<'_>,
    shape: (usize, usize, usize, usize),
    b_stacked: bool,
    c: Option<&Object<'_>>,
    accumulator: &str,
    promote_every: usize,
    out: &Object<'_>,
    out_dtype: &str,
) -> PyResult<()> {
    let (a, right) = (HeldSide::new(&a)?, b.hold(py)?);
    let c = c.map(|c| readonly::<f32>("c", c, "float32")).transpose()?;
    let mut out = HeldOutput::new("out", out, out_dtype)?;
    let options = options(accumulator, promote_every)?;
    let (stack, m, n, k) = shape;
    let (a, right, out) = (a.view()?, right.view()?, out.view()?);
    let b = gemm::Operand { prepared: b.prepared(), ..right };
    let c = c.as_ref().map(|c| c.as_slice()).transpose()?;
    detached(py, || gemm::matmul_nt(&a, &b, Shape { stack, m, n, k }, b_stacked, c, &options, out))
}

/// The product of each expert's rows of a with its own b.
#[pyfunction]
fn matmul_grouped_nt(
    py: Python<'_>,
    a: Given<'_>,
    b: Given<'_>,
    shape: (usize, usize, usize, usize),
    offsets: &Object<'_>,
    c: Option<&Object<'_>>,
    accumulator: &str,
    promote_every: usize,
    out: &Object<'_>,
    out_dtype: &str,
) -> PyResult<()> {
    let (a, b) = (HeldSide::new(&a)?, HeldSide::new(&b)?);
    let c = c.map(|c| readonly::<f32>("c", c, "float32")).transpose()?;
    let offsets = readonly::<i64>("offsets", offsets, "int64")?;
    let mut out = HeldOutput::new("out", out, out_dtype)?;
    let options = options(accumulator, promote_every)?;
    let (stack, m, n, k) = shape;
    let (a, b, out, offsets) = (a.view()?, b.view()?, out.view()?, offsets.as_slice()?);
    let c = c.as_ref().map(|c| c.as_slice()).transpose()?;
    let shape = Shape { stack, m, n, k };
    detached(py, || gemm::matmul_grouped_nt(&a, &b, shape, offsets, c, &options, out))
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Operand>()?;
    functions!(m, [accumulators, mma_step, matmul_nt, matmul_grouped_nt]);
    Ok(())
}
