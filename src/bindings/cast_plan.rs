//! Casts of plain arrays by plans: what a call on a small array needs, and nothing else.

use super::array::{Lent, Object};
use super::formats::options;
use super::{detached, type_error};
use crate::error::Error;
use crate::formats::{self, Codes, CodesMut, EncodeOptions, Format, Input, Output};
use numpy::{Element, PyArrayDyn, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods};
use numpy::{PyReadonlyArrayDyn, PyReadwriteArrayDyn};
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Elements up to which a cast keeps the GIL: letting it go takes as long as some hundreds of them, and the whole cast
/// some microseconds.
const SMALL: usize = 64 * 1024;

/// Types of numbers.
#[derive(Clone, Copy)]
enum Real {
    F32,
    F64,
    F16,
    Bf16,
}

/// A cast whose arguments were understood: numbers to codes, or codes to numbers.
#[pyclass(frozen, module = "dsv3_numerics._core")]
pub struct CastPlan {
    real: Real,
    format: &'static Format,
    /// `None` for codes to numbers.
    encode: Option<EncodeOptions>,
    /// Dtypes of the input and of the result.
    dtypes: [Py<PyAny>; 2],
    /// Dtypes that arrays are viewed as where the core does not know their own: of the input, and of the result.
    views: [Option<Py<PyAny>>; 2],
}

/// Plans by the arguments of the calls that they were made for.
#[pyclass(frozen, module = "dsv3_numerics._core")]
pub struct CastPlans {
    plans: Py<PyDict>,
    recent: Mutex<Vec<Recent>>,
    /// `numpy.empty`.
    empty: Py<PyAny>,
}

/// A call of late.
struct Recent {
    call: [Py<PyAny>; 5],
    plan: Py<CastPlan>,
}

/// Calls that are recent.
const FEW: usize = 8;

/// Plans that are kept; when there are more, all are forgotten.
const MOST: usize = 2048;

/// Plain arrays, held by their borrows: numbers or codes, as the core takes them.
macro_rules! plain {
    ($held:ident, $array:ident, $open:ident(& $($mut:ident)?), $slice:ident => $real:ident, $codes:ident) => {
        enum $held<'py> {
            U8($array<'py, u8>),
            U16($array<'py, u16>),
            F32($array<'py, f32>),
            F64($array<'py, f64>),
        }

        impl<'py> $held<'py> {
            fn real(array: &Object<'py>, real: Real) -> Option<Self> {
                Some(match real {
                    Real::F32 => $held::F32(opened(array)?.$open().ok()?),
                    Real::F64 => $held::F64(opened(array)?.$open().ok()?),
                    Real::F16 | Real::Bf16 => $held::U16(opened(array)?.$open().ok()?),
                })
            }

            fn codes(array: &Object<'py>, format: &Format) -> Option<Self> {
                Some(if format.bits() <= 8 {
                    $held::U8(opened(array)?.$open().ok()?)
                } else {
                    $held::U16(opened(array)?.$open().ok()?)
                })
            }

            /// The addresses of the elements, and the shape.
            fn place(&self) -> (Range<usize>, &[usize]) {
                match self {
                    $held::U8(a) => place(a),
                    $held::U16(a) => place(a),
                    $held::F32(a) => place(a),
                    $held::F64(a) => place(a),
                }
            }

            /// The numbers; none where elements are not aligned.
            fn as_real(& $($mut)? self, real: Real) -> Option<$real<'_>> {
                Some(match (self, real) {
                    ($held::F32(a), _) => $real::F32(a.$slice().ok()?),
                    ($held::F64(a), _) => $real::F64(a.$slice().ok()?),
                    ($held::U16(a), Real::F16) => $real::F16(a.$slice().ok()?),
                    ($held::U16(a), _) => $real::Bf16(a.$slice().ok()?),
                    ($held::U8(_), _) => return None,
                })
            }

            /// The codes; none where elements are not aligned.
            fn as_codes(& $($mut)? self) -> Option<$codes<'_>> {
                Some(match self {
                    $held::U8(a) => $codes::U8(a.$slice().ok()?),
                    $held::U16(a) => $codes::U16(a.$slice().ok()?),
                    $held::F32(_) | $held::F64(_) => return None,
                })
            }
        }
    };
}

plain!(Read, PyReadonlyArrayDyn, try_readonly(&), as_slice => Input, Codes);
plain!(Write, PyReadwriteArrayDyn, try_readwrite(&mut), as_slice_mut => Output, CodesMut);

/// The array, if it is C-contiguous and of this type.
fn opened<'a, 'py, T: Element>(array: &'a Object<'py>) -> Option<&'a Bound<'py, PyArrayDyn<T>>> {
    array.cast::<PyArrayDyn<T>>().ok().filter(|array| array.is_c_contiguous())
}

fn place<'a, T: Element>(array: &'a Bound<'_, PyArrayDyn<T>>) -> (Range<usize>, &'a [usize]) {
    let start = array.data() as usize;
    (start..start + array.len() * std::mem::size_of::<T>(), array.shape())
}

/// Casts so many elements, without the GIL unless they are few.
fn perhaps_detached(
    py: Python<'_>,
    elements: usize,
    cast: impl FnOnce() -> Result<(), Error> + Send,
) -> PyResult<()> {
    if elements > SMALL {
        detached(py, cast)
    } else {
        Ok(cast()?)
    }
}

#[pymethods]
impl CastPlan {
    /// Makes a plan of the names of the numbers' type and of the format; for codes, of rounding, overflow and NaN too.
    #[new]
    fn new(
        real: &str,
        fmt: &str,
        encode: Option<(String, String, String)>,
        dtypes: [Py<PyAny>; 2],
        views: [Option<Py<PyAny>>; 2],
    ) -> PyResult<CastPlan> {
        let real = match real {
            "float32" => Real::F32,
            "float64" => Real::F64,
            "float16" => Real::F16,
            "bfloat16" => Real::Bf16,
            _ => return Err(type_error(format!("real: found {real:?}, expected a type of numbers"))),
        };
        let encode = encode.map(|(rounding, overflow, nan)| options(&rounding, &overflow, &nan, 0));
        Ok(CastPlan { real, format: Format::by_name(fmt)?, encode: encode.transpose()?, dtypes, views })
    }
}

impl CastPlan {
    /// An array, as the core knows its elements.
    fn seen<'py>(&self, array: &Object<'py>, which: usize) -> PyResult<Object<'py>> {
        match &self.views[which] {
            None => Ok(array.clone()),
            Some(dtype) => array.call_method1(intern!(array.py(), "view"), (dtype,)),
        }
    }

    /// Casts a small src into out with the GIL, and without borrows; `None`, and nothing is done, where that cannot be.
    fn quick(&self, src: &Object<'_>, out: &Object<'_>) -> Option<Result<(), Error>> {
        let CastPlan { real, format, encode, .. } = self;
        let mut lent = Lent::new(src, out, &self.dtypes).filter(|lent| lent.len() <= SMALL)?;
        macro_rules! cast {
            ($real:ident, $number:ty, $codes:ident, $code:ty) => {
                match encode {
                    Some(options) => {
                        let (src, out) = lent.slices::<$number, $code>()?;
                        formats::encode(Input::$real(src), format, options, CodesMut::$codes(out))
                    }
                    None => {
                        let (src, out) = lent.slices::<$code, $number>()?;
                        formats::decode(Codes::$codes(src), format, Output::$real(out))
                    }
                }
            };
        }
        Some(match (real, format.bits() <= 8) {
            (Real::F32, true) => cast!(F32, f32, U8, u8),
            (Real::F64, true) => cast!(F64, f64, U8, u8),
            (Real::F16, true) => cast!(F16, u16, U8, u8),
            (Real::Bf16, true) => cast!(Bf16, u16, U8, u8),
            (Real::F32, false) => cast!(F32, f32, U16, u16),
            (Real::F64, false) => cast!(F64, f64, U16, u16),
            (Real::F16, false) => cast!(F16, u16, U16, u16),
            (Real::Bf16, false) => cast!(Bf16, u16, U16, u16),
        })
    }

    /// Casts src into out. False, and nothing is done, unless both are plain, of one shape, and apart in memory.
    fn run(&self, src: &Object<'_>, out: &Object<'_>) -> PyResult<bool> {
        let (CastPlan { real, format, encode, .. }, py) = (self, src.py());
        let opened = match encode {
            Some(_) => Read::real(src, *real).zip(Write::codes(out, format)),
            None => Read::codes(src, format).zip(Write::real(out, *real)),
        };
        let Some((src, mut out)) = opened else { return Ok(false) };
        let ((read, shape), (written, out_shape)) = (src.place(), out.place());
        let apart = read.end <= written.start || written.end <= read.start;
        if shape != out_shape || !apart {
            return Ok(false);
        }
        match encode {
            Some(options) => {
                let Some((src, out)) = src.as_real(*real).zip(out.as_codes()) else { return Ok(false) };
                perhaps_detached(py, src.len(), || formats::encode(src, format, options, out))?;
            }
            None => {
                let Some((src, out)) = src.as_codes().zip(out.as_real(*real)) else { return Ok(false) };
                perhaps_detached(py, src.len(), || formats::decode(src, format, out))?;
            }
        }
        Ok(true)
    }
}

#[pymethods]
impl CastPlans {
    #[new]
    fn new(py: Python<'_>) -> PyResult<CastPlans> {
        let empty = py.import("numpy")?.getattr("empty")?.unbind();
        Ok(CastPlans { plans: PyDict::new(py).unbind(), recent: Mutex::default(), empty })
    }

    /// Keeps the plan of a call.
    fn keep(&self, py: Python<'_>, call: &Object<'_>, plan: &Bound<'_, CastPlan>) -> PyResult<()> {
        let plans = self.plans.bind(py);
        if plans.len() >= MOST {
            plans.clear();
        }
        // Arguments that cannot be compared have no plan.
        plans.set_item(call, plan).or_else(|error| {
            if error.is_instance_of::<PyTypeError>(py) {
                Ok(())
            } else {
                Err(error)
            }
        })
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
        let Some(plan) = self.find(py, [array.dtype().as_any(), fmt, first, second, third])? else {
            return Ok(None);
        };
        let plan = plan.get();
        let out = match out {
            None => self.empty.bind(py).call1((src.getattr(intern!(py, "shape"))?, &plan.dtypes[1]))?,
            Some(out) => {
                let array = out.cast_exact::<PyUntypedArray>();
                if !array.is_ok_and(|array| array.dtype().is(&plan.dtypes[1])) {
                    return Ok(None);
                }
                out
            }
        };
        if let Some(done) = plan.quick(src, &out) {
            return Ok(done.map(|()| Some(out))?);
        }
        let done = plan.run(&plan.seen(src, 0)?, &plan.seen(&out, 1)?)?;
        Ok(done.then_some(out))
    }
}

impl CastPlans {
    /// The plan of a call: by the objects themselves among the last ones, else by what they say.
    fn find(&self, py: Python<'_>, call: [&Object<'_>; 5]) -> PyResult<Option<Py<CastPlan>>> {
        let recent = || self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |last: &&Recent| last.call.iter().zip(call).all(|(last, now)| now.is(last));
        if let Some(last) = recent().iter().find(same) {
            return Ok(Some(last.plan.clone_ref(py)));
        }
        let Ok(Some(plan)) = self.plans.bind(py).get_item(PyTuple::new(py, call)?) else { return Ok(None) };
        let plan = plan.cast_into::<CastPlan>()?.unbind();
        let now = Recent { call: call.map(|argument| argument.clone().unbind()), plan: plan.clone_ref(py) };
        let mut recent = recent();
        let first = (recent.len() >= FEW).then(|| recent.remove(0));
        recent.push(now);
        drop(recent); // what lets go of the first may call Python, and that this
        drop(first);
        Ok(Some(plan))
    }
}
