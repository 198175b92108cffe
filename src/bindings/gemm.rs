//! Sums of products as matrix units form them.

use super::array::{HeldCodes, HeldOutput, Object, Slice, SliceMut};
use super::detached;
use crate::formats::table::TF32;
use crate::formats::Format;
use crate::gemm::{self, Accumulator, Options, Prepared, Shape, UnitScales, ACCUMULATORS};
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
    scales: Option<Slice<'py, f32>>,
    group: (usize, usize),
    unit_scales: Option<Slice<'py, u8>>,
    unit_group: (usize, usize),
}

impl<'py> FromPyObject<'_, 'py> for HeldSide<'py> {
    type Error = PyErr;
    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        HeldSide::of(&given, None)
    }
}

impl<'py> HeldSide<'py> {
    /// Takes codes, format, scales and their blocks, the unit's scales and theirs; a known format is not read again.
    fn of(given: &Object<'py>, known: Option<&'static Format>) -> PyResult<Self> {
        let (codes, fmt, scales, group, unit_scales, unit_group) =
            given.extract::<(_, Object<'py>, _, _, _, _)>()?;
        let format = match known {
            Some(format) => format,
            None => match fmt.extract::<String>()? {
                name if name == TF32.name => &TF32,
                name => Format::by_name(&name)?,
            },
        };
        Ok(HeldSide { codes, format, scales, group, unit_scales, unit_group })
    }

    /// A side without scales of its unit's.
    pub fn new(
        codes: HeldCodes<'py>,
        format: &'static Format,
        scales: Slice<'py, f32>,
        group: (usize, usize),
    ) -> Self {
        HeldSide { codes, format, scales: Some(scales), group, unit_scales: None, unit_group: (1, 1) }
    }

    pub fn view(&self) -> PyResult<gemm::Operand<'_>> {
        let scales = self.scales.as_ref().map(Slice::view).transpose()?;
        let unit_scales = match &self.unit_scales {
            Some(codes) => Some(UnitScales { codes: codes.view()?, group: self.unit_group }),
            None => None,
        };
        let (codes, format, group) = (self.codes.view()?, self.format, self.group);
        Ok(gemm::Operand { codes, format, scales, group, unit_scales, prepared: None })
    }
}

/// The right operand of products, checked once. It keeps the arrays alive; nothing is copied until it is laid out.
#[pyclass(frozen, module = "dsv3_numerics._core")]
pub struct Operand {
    side: Py<PyAny>,
    format: &'static Format,
    shape: (usize, usize),
    prepared: OnceLock<Prepared>,
}

#[pymethods]
impl Operand {
    #[new]
    fn new(side: Object<'_>, rows: usize, cols: usize) -> PyResult<Operand> {
        let held = HeldSide::of(&side, None)?;
        held.view()?;
        let format = held.format;
        Ok(Operand { side: side.unbind(), format, shape: (rows, cols), prepared: OnceLock::new() })
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
        HeldSide::of(self.side.bind(py), Some(self.format))
    }

    pub fn size(&self) -> (usize, usize) {
        self.shape
    }

    pub fn prepared(&self) -> Option<&Prepared> {
        self.prepared.get()
    }
}

/// A right operand as Python gives it.
enum Right<'py> {
    Operand(Bound<'py, Operand>),
    Side(HeldSide<'py>),
}

impl<'py> FromPyObject<'_, 'py> for Right<'py> {
    type Error = PyErr;
    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match given.cast::<Operand>() {
            Ok(operand) => Ok(Right::Operand(operand.to_owned())),
            Err(_) => Ok(Right::Side(given.extract()?)),
        }
    }
}

/// One step on each row of a and b.
#[pyfunction]
fn mma_step(
    py: Python<'_>,
    a: HeldSide<'_>,
    b: HeldSide<'_>,
    accumulator: &str,
    c: Slice<'_, f32>,
    mut out: SliceMut<'_, f32>,
) -> PyResult<()> {
    let accumulator = Accumulator::by_name(accumulator)?;
    let (a, b, c, out) = (a.view()?, b.view()?, c.view()?, out.view()?);
    detached(py, || gemm::mma_step(accumulator, &a, &b, c, out))
}

pub fn options(accumulator: &str, promote_every: usize) -> PyResult<Options> {
    let promote_every = (promote_every > 0).then_some(promote_every);
    Ok(Options { accumulator: Accumulator::by_name(accumulator)?, promote_every })
}

/// How products are added, given as (accumulator, products between promotions or 0).
impl FromPyObject<'_, '_> for Options {
    type Error = PyErr;
    fn extract(given: Borrowed<'_, '_, PyAny>) -> PyResult<Options> {
        let (accumulator, promote_every) = given.extract::<(String, usize)>()?;
        options(&accumulator, promote_every)
    }
}

/// Sizes of a stack of products, given as (stack, m, n, k).
impl FromPyObject<'_, '_> for Shape {
    type Error = PyErr;
    fn extract(given: Borrowed<'_, '_, PyAny>) -> PyResult<Shape> {
        let (stack, m, n, k) = given.extract()?;
        Ok(Shape { stack, m, n, k })
    }
}

/// A stack of products a b^T + c.
#[pyfunction]
fn matmul_nt(
    py: Python<'_>,
    a: HeldSide<'_>,
    b: Right<'_>,
    shape: Shape,
    b_stacked: bool,
    c: Option<Slice<'_, f32>>,
    how: Options,
    mut out: HeldOutput<'_>,
) -> PyResult<()> {
    let (right, prepared) = match &b {
        Right::Operand(operand) => (&operand.get().hold(py)?, operand.get().prepared()),
        Right::Side(side) => (side, None),
    };
    let (a, b, out) = (a.view()?, gemm::Operand { prepared, ..right.view()? }, out.view()?);
    let c = c.as_ref().map(Slice::view).transpose()?;
    detached(py, || gemm::matmul_nt(&a, &b, shape, b_stacked, c, &how, out))
}

/// The product of each expert's rows of a with its own b.
#[pyfunction]
fn matmul_grouped_nt(
    py: Python<'_>,
    a: HeldSide<'_>,
    b: HeldSide<'_>,
    offsets: Slice<'_, i64>,
    shape: Shape,
    c: Option<Slice<'_, f32>>,
    how: Options,
    mut out: HeldOutput<'_>,
) -> PyResult<()> {
    let (a, b, offsets, out) = (a.view()?, b.view()?, offsets.view()?, out.view()?);
    let c = c.as_ref().map(Slice::view).transpose()?;
    detached(py, || gemm::matmul_grouped_nt(&a, &b, shape, offsets, c, &how, out))
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Operand>()?;
    m.add_class::<super::product_plan::ProductPlans>()?;
    functions!(m, [accumulators, mma_step, matmul_nt, matmul_grouped_nt]);
    Ok(())
}
