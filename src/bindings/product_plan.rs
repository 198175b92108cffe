//! Products by plans: what a call on sides of a known kind needs besides their numbers.

use super::array::{empty, flat, lend, HeldCodes, HeldOutput, Lent, Object, Place, Real, Slice};
use super::detached;
use super::gemm::{HeldSide, Operand};
use super::plans::{self, Plans};
use crate::formats::Format;
use crate::gemm::{self, Options, Prepared, Shape};
use numpy::npyffi::NPY_ARRAY_WRITEABLE;
use numpy::{PyArrayDescr, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

/// Products of numbers up to which a call keeps the GIL: some microseconds.
const SMALL: usize = 64 * 1024;

/// A side as it was given: codes, scales, and everything else that products ask of it; of prepared weights the operand too.
struct Given<'py> {
    operand: Option<Bound<'py, Operand>>,
    parts: Vec<Object<'py>>,
}

impl Given<'_> {
    fn lengths(&self) -> Option<&[usize]> {
        Some(self.parts[0].cast_exact::<PyUntypedArray>().ok()?.shape())
    }

    fn prepared(&self) -> Option<&Prepared> {
        self.operand.as_ref()?.get().prepared()
    }
}

/// A side of a plan.
struct SidePlan {
    prepared: bool,
    known: Py<PyTuple>,
    lengths: Vec<usize>,
    scales: usize,
    dtypes: [Option<Py<PyArrayDescr>>; 2],
    format: &'static Format,
    group: (usize, usize),
}

impl SidePlan {
    /// A plan for sides like this one; `None` where codes are no array.
    fn new(given: &Given<'_>, fmt: &str, group: (usize, usize)) -> PyResult<Option<SidePlan>> {
        let Some(lengths) = given.lengths() else { return Ok(None) };
        let [codes, scales] = [0, 1].map(|part| given.parts[part].cast_exact::<PyUntypedArray>().ok());
        Ok(Some(SidePlan {
            prepared: given.operand.is_some(),
            known: PyTuple::new(given.parts[0].py(), &given.parts[2..])?.unbind(),
            lengths: lengths.to_vec(),
            scales: scales.map_or(0, |scales| scales.len()),
            dtypes: [codes, scales].map(|array| array.map(|array| array.dtype().unbind())),
            format: Format::by_name(fmt)?,
            group,
        }))
    }

    fn fits(&self, given: &Given<'_>) -> bool {
        let known = self.known.bind(given.parts[0].py());
        self.prepared == given.operand.is_some()
            && given.lengths().is_some_and(|lengths| lengths == self.lengths)
            && known.iter().zip(&given.parts[2..]).all(|(known, given)| plans::same(&known, given))
    }

    /// Places of codes and scales, for a side that fits; `None` unless they are plain, and as they were.
    fn places<'a>(&self, given: &'a Given<'_>) -> Option<[Place<'a>; 2]> {
        let place = |array: &'a Object<'_>, dtype: &Option<Py<PyArrayDescr>>| match dtype {
            Some(dtype) => Place::of(array, dtype, 0),
            None => array.is_none().then_some(Place::NONE),
        };
        let [codes, scales] = &self.dtypes;
        let found = [place(&given.parts[0], codes)?, place(&given.parts[1], scales)?];
        (found[1].len() == self.scales).then_some(found)
    }

    /// The side as the core takes it; `None` where scales are not numbers any more.
    fn operand<'a>(
        &self,
        given: &'a Given<'_>,
        codes: &'a Lent<'_>,
        scales: &'a Lent<'_>,
    ) -> Option<gemm::Operand<'a>> {
        let (codes, prepared) = (codes.codes()?, given.prepared());
        let (format, group, scales) = (self.format, self.group, scales.slice::<f32>());
        let numbers = !scales.is_some_and(|scales| scales.iter().any(|scale| scale.is_nan()));
        numbers.then_some(gemm::Operand { codes, format, scales, group, unit_scales: None, prepared })
    }

    /// The side, held by borrows; `None` where scales are not numbers any more.
    fn hold<'py>(&self, given: &Given<'py>) -> PyResult<Option<HeldSide<'py>>> {
        if let Some(operand) = &given.operand {
            return operand.get().hold(operand.py()).map(Some);
        }
        let codes: HeldCodes<'py> =
            flat(&given.parts[0], if self.format.bits() <= 8 { 1 } else { 2 })?.extract()?;
        let scales: Slice<'py, f32> = flat(&given.parts[1], 4)?.extract()?;
        let numbers = !scales.view()?.iter().any(|scale| scale.is_nan());
        Ok(numbers.then(|| HeldSide::new(codes, self.format, scales, self.group)))
    }
}

/// A product whose arguments were understood.
struct ProductPlan {
    /// How to add, and the dtype, as they were given.
    how: Py<PyTuple>,
    sides: [SidePlan; 2],
    shape: Shape,
    stacked: bool,
    options: Options,
    lengths: Vec<usize>,
    dtype: Py<PyArrayDescr>,
    real: Real,
}

impl ProductPlan {
    /// Multiplies into out. False, and nothing is done, unless all are plain and apart in memory, and scales are numbers.
    fn run(&self, [a, b]: &[Given<'_>; 2], out: &Object<'_>) -> PyResult<bool> {
        let ([left, right], Shape { stack, m, n, k }) = (&self.sides, self.shape);
        let places = left.places(a).zip(right.places(b));
        let written = Place::of(out, &self.dtype, NPY_ARRAY_WRITEABLE);
        let Some((([a_codes, a_scales], [b_codes, b_scales]), written)) = places.zip(written) else {
            return Ok(false);
        };
        let (read, width) = ([a_codes, a_scales, b_codes, b_scales], written.width());
        if !read.iter().all(|read| read.is_apart(&written)) {
            return Ok(false);
        }
        // A small one is made with the GIL, and without borrows.
        let few = stack * m * n * k <= SMALL;
        if let Some((read, [mut out])) = if few { lend(read, [written]) } else { None } {
            let sides = left.operand(a, &read[0], &read[1]).zip(right.operand(b, &read[2], &read[3]));
            let Some(((a, b), out)) = sides.zip(out.numbers(self.real)) else { return Ok(false) };
            gemm::matmul_nt(&a, &b, self.shape, self.stacked, None, &self.options, out)?;
            return Ok(true);
        }
        let (Some(a), Some(held)) = (left.hold(a)?, right.hold(b)?) else { return Ok(false) };
        let mut written = HeldOutput::new("out", &flat(out, width)?, self.real.name())?;
        let (a, b, target) =
            (a.view()?, gemm::Operand { prepared: b.prepared(), ..held.view()? }, written.view()?);
        detached(out.py(), || {
            gemm::matmul_nt(&a, &b, self.shape, self.stacked, None, &self.options, target)
        })?;
        Ok(true)
    }
}

/// Plans of products by the kinds of their sides.
#[pyclass(frozen, module = "dsv3_numerics._core")]
pub struct ProductPlans {
    plans: Plans<ProductPlan>,
    /// The class of quantized sides, and attributes of theirs: codes, scales, and others.
    quantized: (Py<PyAny>, Py<PyTuple>),
    /// The same of prepared ones, whose attributes are their side's.
    prepared: (Py<PyAny>, Py<PyTuple>),
}

#[pymethods]
impl ProductPlans {
    #[new]
    fn new(quantized: (Py<PyAny>, Py<PyTuple>), prepared: (Py<PyAny>, Py<PyTuple>)) -> ProductPlans {
        ProductPlans { plans: Plans::default(), quantized, prepared }
    }

    /// Keeps how a product was made, of sides of these formats and with scales for these groups.
    fn keep(
        &self,
        a: &Object<'_>,
        b: &Object<'_>,
        how: Bound<'_, PyTuple>,
        formats: (String, String),
        groups: ((usize, usize), (usize, usize)),
        shape: Shape,
        stacked: bool,
        options: Options,
        result: &Bound<'_, PyUntypedArray>,
        kind: &str,
    ) -> PyResult<()> {
        let (lasting, how) = (plans::is_lasting(&how), how.unbind());
        let (true, Some(a), Some(b)) = (lasting, self.given(a)?, self.given(b)?) else { return Ok(()) };
        let sides = (SidePlan::new(&a, &formats.0, groups.0)?, SidePlan::new(&b, &formats.1, groups.1)?);
        let (Some(a), Some(b)) = sides else { return Ok(()) };
        let (lengths, dtype, real) = (result.shape().to_vec(), result.dtype().unbind(), Real::parse(kind)?);
        self.plans.keep(ProductPlan { how, sides: [a, b], shape, stacked, options, lengths, dtype, real });
        Ok(())
    }

    /// Multiplies as a call before did. None where there was no such call, or the arrays are not plain.
    fn run<'py>(
        &self,
        a: &Object<'py>,
        b: &Object<'py>,
        how: &Bound<'py, PyTuple>,
        out: Option<Object<'py>>,
    ) -> PyResult<Option<Object<'py>>> {
        let (Some(a), Some(b)) = (self.given(a)?, self.given(b)?) else { return Ok(None) };
        let (py, given) = (how.py(), [a, b]);
        let found = self.plans.find(|plan| {
            plans::same(plan.how.bind(py), how)
                && plan.sides.iter().zip(&given).all(|(side, given)| side.fits(given))
        });
        let Some(plan) = found else { return Ok(None) };
        let out = match out {
            None => empty(&plan.lengths, plan.dtype.bind(py))?,
            Some(out) => match out.cast_exact::<PyUntypedArray>() {
                Ok(array) if array.shape() == plan.lengths => out,
                _ => return Ok(None),
            },
        };
        Ok(plan.run(&given, &out)?.then_some(out))
    }
}

impl ProductPlans {
    /// Looks at a side; `None` for one of another class.
    fn given<'py>(&self, side: &Object<'py>) -> PyResult<Option<Given<'py>>> {
        let (py, class) = (side.py(), side.get_type());
        let parts = |of: &Object<'py>, names: &Py<PyTuple>| {
            names
                .bind(py)
                .iter()
                .map(|name| of.getattr(name.cast_into::<PyString>()?))
                .collect::<PyResult<Vec<_>>>()
        };
        if class.is(&self.quantized.0) {
            return Ok(Some(Given { operand: None, parts: parts(side, &self.quantized.1)? }));
        }
        if !class.is(&self.prepared.0) {
            return Ok(None);
        }
        let operand = side.getattr(intern!(py, "operand"))?.cast_into::<Operand>()?;
        let mut parts = parts(&side.getattr(intern!(py, "side"))?, &self.prepared.1)?;
        parts.push(side.getattr(intern!(py, "accumulator"))?);
        Ok(Some(Given { operand: Some(operand), parts }))
    }
}
