//! Casts of plain arrays by plans: what a call on a small array needs, and nothing else.

use super::array::{empty, flat, lend, HeldCodes, HeldCodesMut, HeldInput, HeldOutput, Object, Place, Real};
use super::detached;
use super::formats::options;
use super::plans::{self, Plans};
use crate::formats::{self, Array, EncodeOptions, Format};
use numpy::npyffi::NPY_ARRAY_WRITEABLE;
use numpy::{PyArrayDescr, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

/// Elements up to which a cast keeps the GIL: letting it go takes as long as some hundreds of them, and the whole cast
/// some microseconds.
pub const SMALL: usize = 64 * 1024;

/// A cast whose arguments were understood: numbers to codes, or codes to numbers.
#[pyclass(frozen, module = "dsv3_numerics._core")]
pub struct CastPlan {
    real: Real,
    format: &'static Format,
    /// `None` for codes to numbers.
    encode: Option<EncodeOptions>,
    /// Dtypes of the input and of the result.
    dtypes: [Py<PyArrayDescr>; 2],
}

/// A dtype of inputs, the other arguments of a call, and how it is made.
type Cast = (Py<PyAny>, Py<PyTuple>, Py<CastPlan>);

/// Plans of casts by the arguments of the calls that they were made for.
#[pyclass(frozen, module = "dsv3_numerics._core")]
pub struct CastPlans(Plans<Cast>);

#[pymethods]
impl CastPlan {
    /// Makes a plan of the names of the numbers' type and of the format; for codes, of rounding, overflow and NaN too.
    #[new]
    fn new(
        real: &str,
        fmt: &str,
        encode: Option<(String, String, String)>,
        from_dtype: Py<PyArrayDescr>,
        to_dtype: Py<PyArrayDescr>,
    ) -> PyResult<CastPlan> {
        let encode = encode.map(|(rounding, overflow, nan)| options(&rounding, &overflow, &nan, 0));
        Ok(CastPlan {
            real: Real::parse(real)?,
            format: Format::by_name(fmt)?,
            encode: encode.transpose()?,
            dtypes: [from_dtype, to_dtype],
        })
    }
}

impl CastPlan {
    /// Casts src into out. False, and nothing is done, unless both are plain, of one shape, and apart in memory.
    fn run(&self, src: &Object<'_>, out: &Object<'_>) -> PyResult<bool> {
        let (CastPlan { real, format, encode, dtypes }, py) = (self, src.py());
        let places = Place::of(src, &dtypes[0], 0).zip(Place::of(out, &dtypes[1], NPY_ARRAY_WRITEABLE));
        let Some((read, written)) = places else { return Ok(false) };
        if read.shape() != written.shape() || !read.is_apart(&written) {
            return Ok(false);
        }
        let (few, [from, to]) = (read.len() <= SMALL, [read.width(), written.width()]);
        // A few are cast with the GIL, and without borrows.
        if let Some(([src], [mut out])) = if few { lend([read], [written]) } else { None } {
            let done = match encode {
                Some(options) => {
                    let lent = src.numbers(*real).zip(out.codes());
                    lent.map(|(src, out)| formats::encode(Array::from(src), format, options, out))
                }
                None => {
                    let lent = src.codes().zip(out.numbers(*real));
                    lent.map(|(src, out)| formats::decode(src, format, out))
                }
            };
            return Ok(done.transpose()?.is_some());
        }
        let (src, out) = (flat(src, from)?, flat(out, to)?);
        match encode {
            Some(options) => {
                let (src, mut out) =
                    (HeldInput::new("x", &src, real.name())?, out.extract::<HeldCodesMut<'_>>()?);
                let (src, out) = (Array::from(src.view()?), out.view()?);
                detached(py, || formats::encode(src, format, options, out))?;
            }
            None => {
                let (src, mut out) =
                    (src.extract::<HeldCodes<'_>>()?, HeldOutput::new("out", &out, real.name())?);
                let (src, out) = (src.view()?, out.view()?);
                detached(py, || formats::decode(src, format, out))?;
            }
        }
        Ok(true)
    }
}

#[pymethods]
impl CastPlans {
    #[new]
    fn new() -> CastPlans {
        CastPlans(Plans::default())
    }

    /// Keeps the plan of a call.
    fn keep(&self, dtype: Py<PyAny>, call: &Bound<'_, PyTuple>, plan: Py<CastPlan>) -> PyResult<()> {
        if plans::is_lasting(call) {
            self.0.keep((dtype, call.clone().unbind(), plan));
        }
        Ok(())
    }

    /// Casts an array as a call before did that had the same arguments: the format, and all that comes after it. None where
    /// there was no such call, or the arrays are not plain.
    fn run<'py>(
        &self,
        src: &Object<'py>,
        fmt: &Object<'py>,
        first: &Object<'py>,
        second: &Object<'py>,
        third: &Object<'py>,
        out: Option<Object<'py>>,
    ) -> PyResult<Option<Object<'py>>> {
        let py = src.py();
        let Ok(array) = src.cast_exact::<PyUntypedArray>() else { return Ok(None) };
        let (dtype, given) = (array.dtype(), [fmt, first, second, third]);
        let found = self.0.find(|(from, known, _)| {
            dtype.is(from)
                && known.bind(py).iter().zip(given).all(|(known, given)| plans::same(&known, given))
        });
        let Some(found) = found else { return Ok(None) };
        let plan = found.2.get();
        let out = match out {
            None => empty(array.shape(), plan.dtypes[1].bind(py))?,
            Some(out) => {
                let array = out.cast_exact::<PyUntypedArray>();
                if !array.is_ok_and(|array| array.dtype().is(&plan.dtypes[1])) {
                    return Ok(None);
                }
                out
            }
        };
        let done = plan.run(src, &out)?;
        Ok(done.then_some(out))
    }
}
