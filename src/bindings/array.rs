//! NumPy arrays as the core's inputs and outputs.

use super::{type_error, WITHOUT_GIL};
use crate::formats::{Array, Codes, CodesMut, Input, Output, Places};
use numpy::npyffi::{get_type_object, npy_intp, NpyTypes};
use numpy::npyffi::{NPY_ARRAY_ALIGNED, NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_WRITEABLE, PY_ARRAY_API};
use numpy::{Element, PyArray1, PyArrayDescr, PyArrayMethods, PyReadonlyArray1, PyReadwriteArray1};
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

/// A new array whose elements nobody has set.
pub fn empty<'py>(shape: &[usize], dtype: &Bound<'py, PyArrayDescr>) -> PyResult<Object<'py>> {
    let py = dtype.py();
    let make = || {
        let (mut lengths, dtype) = (shape.to_vec(), dtype.clone().into_ptr());
        let (axes, lengths) = (shape.len() as i32, lengths.as_mut_ptr().cast());
        // SAFETY: so many lengths are there; NumPy takes its own reference to the dtype, and checks the rest.
        unsafe {
            Bound::from_owned_ptr_or_err(py, PY_ARRAY_API.PyArray_Empty(py, axes, lengths, dtype.cast(), 0))
        }
    };
    #[cfg(target_os = "linux")]
    if super::kept::is_worth(
        shape.iter().fold(dtype.itemsize(), |bytes, &length| bytes.saturating_mul(length)),
    ) {
        return super::kept::in_block(py, make);
    }
    make()
}

/// Types of numbers.
#[derive(Clone, Copy)]
pub enum Real {
    F32,
    F64,
    F16,
    Bf16,
}

impl Real {
    /// The type by its name.
    pub fn parse(name: &str) -> PyResult<Real> {
        Ok(match name {
            "float32" => Real::F32,
            "float64" => Real::F64,
            "float16" => Real::F16,
            "bfloat16" => Real::Bf16,
            _ => return Err(type_error(format!("real: found {name:?}, expected a type of numbers"))),
        })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Real::F32 => "float32",
            Real::F64 => "float64",
            Real::F16 => "float16",
            Real::Bf16 => "bfloat16",
        }
    }
}

/// Types of which every pattern of bits is a value, for [`Lent`].
pub trait Bits {}
impl Bits for u8 {}
impl Bits for u16 {}
impl Bits for f32 {}
impl Bits for f64 {}

/// An array to read, while Python does nothing: for functions that keep the GIL, and do not call back. It costs a tenth of
/// what a borrow does.
pub struct Lent<'a>(Place<'a>);

/// An array to write, in the same way.
pub struct LentMut<'a>(Place<'a>);

/// Lends the elements of arrays; `None` where one that is written is not apart from the others, and while another call
/// runs without the GIL, which might write what is read here.
pub fn lend<'a, const R: usize, const W: usize>(
    read: [Place<'a>; R],
    written: [Place<'a>; W],
) -> Option<([Lent<'a>; R], [LentMut<'a>; W])> {
    let alone = WITHOUT_GIL.load(Ordering::Acquire) == 0;
    let apart = (0..W).all(|i| read.iter().chain(&written[..i]).all(|other| other.is_apart(&written[i])));
    (alone && apart).then(|| (read.map(Lent), written.map(LentMut)))
}

impl Lent<'_> {
    /// The elements; `None` where the type is of another size than the array's.
    pub fn slice<T: Bits>(&self) -> Option<&[T]> {
        let Place { start, len, width, .. } = self.0;
        // SAFETY: so many elements lie there, aligned, and every pattern of bits is one; the array keeps the memory. Nobody
        // writes it while the GIL is held and no call runs without it, as what is written was found apart from it.
        (width == size_of::<T>()).then(|| unsafe { std::slice::from_raw_parts(start.cast(), len) })
    }

    /// The elements as numbers.
    pub fn numbers(&self, real: Real) -> Option<Input<'_>> {
        Some(match real {
            Real::F32 => Input::F32(self.slice()?),
            Real::F64 => Input::F64(self.slice()?),
            Real::F16 => Input::F16(self.slice()?),
            Real::Bf16 => Input::Bf16(self.slice()?),
        })
    }

    /// The elements as codes, of one byte or two.
    pub fn codes(&self) -> Option<Codes<'_>> {
        match self.slice() {
            Some(bytes) => Some(Codes::U8(bytes)),
            None => Some(Codes::U16(self.slice()?)),
        }
    }
}

impl LentMut<'_> {
    /// The elements; `None` where the type is of another size than the array's.
    pub fn slice<T: Bits>(&mut self) -> Option<&mut [T]> {
        let Place { start, len, width, .. } = self.0;
        // SAFETY: as for `Lent`; nobody else reads or writes them either.
        (width == size_of::<T>()).then(|| unsafe { std::slice::from_raw_parts_mut(start.cast(), len) })
    }

    /// The elements as numbers.
    pub fn numbers(&mut self, real: Real) -> Option<Output<'_>> {
        Some(match real {
            Real::F32 => Output::F32(self.slice()?),
            Real::F64 => Output::F64(self.slice()?),
            Real::F16 => Output::F16(self.slice()?),
            Real::Bf16 => Output::Bf16(self.slice()?),
        })
    }

    /// The elements as codes, of one byte or two.
    pub fn codes(&mut self) -> Option<CodesMut<'_>> {
        match self.0.width {
            1 => Some(CodesMut::U8(self.slice()?)),
            _ => Some(CodesMut::U16(self.slice()?)),
        }
    }

    /// The bytes of the elements.
    pub fn bytes(&mut self) -> &mut [u8] {
        let Place { start, len, width, .. } = self.0;
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(start, len * width) }
    }
}

/// Where the elements of a plain array are.
pub struct Place<'a> {
    start: *mut u8,
    len: usize,
    width: usize,
    shape: &'a [usize],
}

impl<'a> Place<'a> {
    /// No array: it has elements of no type.
    pub const NONE: Place<'static> = Place { start: std::ptr::dangling_mut(), len: 0, width: 0, shape: &[] };

    /// `None` unless the array has elements and just this dtype, is C-contiguous and aligned, and has these flags.
    pub fn of(array: &'a Object<'_>, dtype: &Py<PyArrayDescr>, flags: i32) -> Option<Place<'a>> {
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

    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes of an element.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Lengths of the axes.
    pub fn shape(&self) -> &'a [usize] {
        self.shape
    }

    /// True where no byte is in both.
    pub fn is_apart(&self, other: &Place<'_>) -> bool {
        let (first, second) = (self.start as usize, other.start as usize);
        first + self.len * self.width <= second || second + other.len * other.width <= first
    }
}

/// A plain array with one axis, as the core knows its elements: as numbers of their type, as codes, or as bytes. It is made by NumPy's own
/// functions, as the methods `reshape` and `view` take longer than the casts of some thousand elements.
pub fn flat<'py>(array: &Object<'py>, width: usize) -> PyResult<Object<'py>> {
    let py = array.py();
    let dtype = match width {
        1 => numpy::dtype::<u8>(py),
        2 => numpy::dtype::<u16>(py),
        4 => numpy::dtype::<f32>(py),
        _ => numpy::dtype::<f64>(py),
    };
    let plain = array.cast::<PyUntypedArray>().ok().filter(|array| array.is_c_contiguous());
    let plain = plain.ok_or_else(|| type_error(wrong(array, "plain")))?;
    let mut length = (plain.len() * plain.dtype().itemsize() / width) as npy_intp;
    // SAFETY: the new array shows the bytes of the plain one, in its memory, as elements that need no more alignment, and keeps
    // it alive; NumPy takes the references to the dtype and to the base.
    unsafe {
        let fields = numpy::npyffi::_PyArray_GET_ITEM_DATA(plain.as_array_ptr().cast_const());
        let (data, flags) =
            ((*fields).data.cast(), (*fields).flags & (NPY_ARRAY_ALIGNED | NPY_ARRAY_WRITEABLE));
        let (class, dtype) = (get_type_object(py, NpyTypes::PyArray_Type), dtype.into_ptr().cast());
        let none = std::ptr::null_mut::<pyo3::ffi::PyObject>();
        let made = PY_ARRAY_API.PyArray_NewFromDescr(
            py,
            class,
            dtype,
            1,
            &mut length,
            none.cast(),
            data,
            flags,
            none,
        );
        let made = Bound::from_owned_ptr_or_err(py, made)?;
        match PY_ARRAY_API.PyArray_SetBaseObject(py, made.as_ptr().cast(), array.clone().into_ptr()) {
            0 => Ok(made),
            _ => Err(PyErr::fetch(py)),
        }
    }
}
