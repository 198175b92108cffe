//! NumPy arrays as the core's inputs and outputs.

use super::{type_error, WITHOUT_GIL};
use crate::formats::{Array, Codes, CodesMut, Input, Output, Places};
use numpy::npyffi::{NPY_ARRAY_ALIGNED, NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_WRITEABLE};
use numpy::{Element, PyArray1, PyArrayMethods, PyReadonlyArray1, PyReadwriteArray1};
use numpy::{PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use std::sync::atomic::Ordering;

/// An object of Python's, from outside: nothing is known of it.
pub type Object<'py> = Bound<'py, PyAny>;

/// Types of elements.
pub trait Dtype: Element {
    /// Name of the type, as NumPy has it.
    const NAME: &'static str;
}

macro_rules! dtypes {
    ($($item:ty => $name:literal),+ $(,)?) => { $(impl Dtype for $item { const NAME: &'static str = $name; })+ };
}

dtypes! {
    bool => "bool", u8 => "uint8", u16 => "uint16", u32 => "uint32", u64 => "uint64", i32 => "int32", i64 => "int64",
    f32 => "float32", f64 => "float64",
}

/// Words for an object that is no array of the expected type.
pub fn wrong(array: &Object<'_>, expected: &str) -> String {
    let found = array.get_type().name().map_or_else(|_| "an object".to_owned(), |n| n.to_string());
    let dtype = array.getattr("dtype").map_or_else(|_| String::new(), |d| format!(" of {d}"));
    format!("found {found}{dtype}, expected a one-dimensional {expected} array")
}

fn cast<'a, 'py, T: Dtype>(array: &'a Object<'py>) -> Result<&'a Bound<'py, PyArray1<T>>, String> {
    array.cast::<PyArray1<T>>().map_err(|_| wrong(array, T::NAME))
}

/// A readable array, for arguments whose type another argument decides.
pub fn readonly<'py, T: Dtype>(name: &str, array: &Object<'py>) -> PyResult<PyReadonlyArray1<'py, T>> {
    let array = cast::<T>(array).map_err(|told| type_error(format!("{name}: {told}")))?;
    Ok(array.try_readonly()?)
}

/// A writable array, for arguments whose type another argument decides.
pub fn readwrite<'py, T: Dtype>(name: &str, array: &Object<'py>) -> PyResult<PyReadwriteArray1<'py, T>> {
    let array = cast::<T>(array).map_err(|told| type_error(format!("{name}: {told}")))?;
    Ok(array.try_readwrite()?)
}

/// An argument of one type, which has a `view`: its slice. Errors come with the argument's name, by PyO3.
macro_rules! slice {
    ($(#[$doc:meta])* $name:ident, $array:ident(& $($mut:ident)?), $open:ident, $slice:ident) => {
        $(#[$doc])*
        pub struct $name<'py, T: Element>($array<'py, T>);

        impl<'py, T: Dtype> FromPyObject<'_, 'py> for $name<'py, T> {
            type Error = PyErr;
            fn extract(array: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
                Ok($name(cast::<T>(&array).map_err(type_error)?.$open()?))
            }
        }

        impl<T: Element> $name<'_, T> {
            /// The slice.
            pub fn view(& $($mut)? self) -> PyResult<& $($mut)? [T]> {
                Ok(self.0.$slice()?)
            }
        }
    };
}

slice! {
    /// An array to read.
    Slice, PyReadonlyArray1(&), try_readonly, as_slice
}

slice! {
    /// An array to write.
    SliceMut, PyReadwriteArray1(&mut), try_readwrite, as_slice_mut
}

/// An argument of one of several types, which has a `view`: its slice, as the core takes it.
macro_rules! held {
    ($(#[$doc:meta])* $held:ident, $array:ident(& $($mut:ident)?), $slice:ident => $view:ident
     { $($variant:ident: $item:ty),+ }) => {
        $(#[$doc])*
        pub enum $held<'py> { $($variant($array<'py, $item>),)+ }

        impl $held<'_> {
            /// The slice.
            pub fn view(& $($mut)? self) -> PyResult<$view<'_>> {
                Ok(match self { $($held::$variant(a) => $view::$variant(a.$slice()?),)+ })
            }
        }
    };
}

held! {
    /// An array to encode, given with the name of its type: (array, name).
    HeldInput, PyReadonlyArray1(&), as_slice => Input { F32: f32, F64: f64, F16: u16, Bf16: u16 }
}

held! {
    /// An array to decode into, given with the name of its type: (array, name).
    HeldOutput, PyReadwriteArray1(&mut), as_slice_mut => Output { F32: f32, F64: f64, F16: u16, Bf16: u16 }
}

held! {
    /// Codes to read: bytes, or words.
    HeldCodes, PyReadonlyArray1(&), as_slice => Codes { U8: u8, U16: u16, U32: u32 }
}

held! {
    /// Codes to write.
    HeldCodesMut, PyReadwriteArray1(&mut), as_slice_mut => CodesMut { U8: u8, U16: u16 }
}

/// Extracts an array by the name beside it; 16-bit floats cross as the integers that hold them.
macro_rules! named {
    ($held:ident, $open:ident) => {
        impl<'py> FromPyObject<'_, 'py> for $held<'py> {
            type Error = PyErr;
            fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
                let (array, dtype) = given.extract::<(Object<'py>, String)>()?;
                $held::new("array", &array, &dtype)
            }
        }

        impl<'py> $held<'py> {
            /// Takes the array, whose elements are of the type `dtype`.
            pub fn new(name: &str, array: &Object<'py>, dtype: &str) -> PyResult<Self> {
                Ok(match dtype {
                    "float32" => $held::F32($open(name, array)?),
                    "float64" => $held::F64($open(name, array)?),
                    "float16" => $held::F16($open(name, array)?),
                    "bfloat16" => $held::Bf16($open(name, array)?),
                    _ => {
                        return Err(type_error(format!(
                            "{name}: found dtype {dtype:?}, expected float32, float64, float16 or bfloat16"
                        )))
                    }
                })
            }
        }
    };
}

named!(HeldInput, readonly);
named!(HeldOutput, readwrite);

/// An array to encode whose elements may lie apart: (array, name), or the memory that holds them, the name, and the index
/// of the first element, lengths and strides: (array, name, (start, shape, strides)).
pub struct HeldArray<'py> {
    memory: HeldInput<'py>,
    places: Option<Places>,
}

impl<'py> FromPyObject<'_, 'py> for HeldArray<'py> {
    type Error = PyErr;
    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let given = given.cast::<PyTuple>()?;
        if given.len() == 2 {
            return Ok(HeldArray { memory: given.extract()?, places: None });
        }
        type Strides = (usize, Vec<usize>, Vec<isize>);
        let (array, dtype, (start, shape, strides)) = given.extract::<(Object<'py>, String, Strides)>()?;
        let memory = HeldInput::new("array", &array, &dtype)?;
        let places = Places::new(memory.view()?.len(), start, &shape, &strides)?;
        Ok(HeldArray { memory, places: Some(places) })
    }
}

impl HeldArray<'_> {
    /// The array.
    pub fn view(&self) -> PyResult<Array<'_>> {
        let memory = self.memory.view()?;
        Ok(match &self.places {
            None => memory.into(),
            Some(places) => Array::new(memory, places)?,
        })
    }
}

/// Extracts codes by the type of the array.
macro_rules! coded {
    ($held:ident, $open:ident, $expected:literal { $($variant:ident: $item:ty),+ }) => {
        impl<'py> FromPyObject<'_, 'py> for $held<'py> {
            type Error = PyErr;
            fn extract(array: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
                $(if let Ok(array) = array.cast::<PyArray1<$item>>() {
                    return Ok($held::$variant(array.$open()?));
                })+
                Err(type_error(wrong(&array, $expected)))
            }
        }
    };
}

coded!(HeldCodes, try_readonly, "uint8, uint16 or uint32" { U8: u8, U16: u16, U32: u32 });
coded!(HeldCodesMut, try_readwrite, "uint8 or uint16" { U8: u8, U16: u16 });

/// Types of which every pattern of bits is a value, for [`Lent`].
pub trait Bits {}
impl Bits for u8 {}
impl Bits for u16 {}
impl Bits for f32 {}
impl Bits for f64 {}

/// The elements of one array, to read, and of another of its shape, to write, while Python does nothing: for functions that
/// keep the GIL, and do not call back. It costs a tenth of what borrows of the two do.
pub struct Lent<'a> {
    read: Place<'a>,
    written: Place<'a>,
}

impl<'a> Lent<'a> {
    /// `None` unless arrays are plain, of just these dtypes, and apart in memory, and no other call runs without the GIL,
    /// which might write what is read here.
    pub fn new(
        src: &'a Object<'_>,
        out: &'a Object<'_>,
        [src_dtype, out_dtype]: &[Py<PyAny>; 2],
    ) -> Option<Lent<'a>> {
        let read = Place::of(src, src_dtype, 0)?;
        let written = Place::of(out, out_dtype, NPY_ARRAY_WRITEABLE)?;
        let (first, second) = (read.start as usize, written.start as usize);
        let apart = first + read.bytes() <= second || second + written.bytes() <= first;
        let alone = WITHOUT_GIL.load(Ordering::Acquire) == 0;
        (read.shape == written.shape && apart && alone).then_some(Lent { read, written })
    }

    /// Elements of each.
    pub fn len(&self) -> usize {
        self.read.len
    }

    /// The elements; `None` where types are of another size than the arrays'.
    pub fn slices<A: Bits, B: Bits>(&mut self) -> Option<(&[A], &mut [B])> {
        let Lent { read, written } = self;
        if (read.width, written.width) != (size_of::<A>(), size_of::<B>()) {
            return None;
        }
        // SAFETY: so many elements lie there, aligned, and every pattern of bits is one; the arrays keep the memory. Nobody
        // else reads or writes it while the GIL is held and no call runs without it, and the two do not overlap.
        Some(unsafe {
            let read = std::slice::from_raw_parts(read.start.cast(), read.len);
            (read, std::slice::from_raw_parts_mut(written.start.cast(), written.len))
        })
    }
}

/// Where the elements of a plain array are.
struct Place<'a> {
    start: *mut u8,
    len: usize,
    width: usize,
    shape: &'a [usize],
}

impl<'a> Place<'a> {
    /// `None` unless the array has elements and just this dtype, is C-contiguous and aligned, and has these flags.
    fn of(array: &'a Object<'_>, dtype: &Py<PyAny>, flags: i32) -> Option<Place<'a>> {
        let flags = flags | NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED;
        let array = array.cast::<PyUntypedArray>().ok()?;
        let found = array.dtype();
        // SAFETY: it is an array, whose fields NumPy keeps valid.
        let fields = unsafe { &*numpy::npyffi::_PyArray_GET_ITEM_DATA(array.as_array_ptr().cast_const()) };
        let plain = fields.flags & flags == flags && found.is(dtype) && !found.has_object();
        let (shape, width) = (array.shape(), found.itemsize());
        let len = shape.iter().product();
        (plain && len > 0).then_some(Place { start: fields.data.cast(), len, width, shape })
    }

    fn bytes(&self) -> usize {
        self.len * self.width
    }
}
