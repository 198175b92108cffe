//! NumPy arrays as the core's inputs and outputs.

use super::type_error;
use crate::formats::{Codes, CodesMut, Input, Output};
use numpy::{Element, PyArray1, PyArrayMethods, PyReadonlyArray1, PyReadwriteArray1};
use pyo3::prelude::*;

/// An object of Python's, from outside: nothing is known of it.
pub type Object<'py> = Bound<'py, PyAny>;

fn wrong(name: &str, array: &Object<'_>, expected: &str) -> PyErr {
    let found = array.get_type().name().map_or_else(|_| "an object".to_owned(), |n| n.to_string());
    let dtype = array.getattr("dtype").map_or_else(|_| String::new(), |d| format!(" of {d}"));
    type_error(format!("{name}: found {found}{dtype}, expected a one-dimensional {expected} array"))
}

/// A readable array.
pub fn readonly<'py, T: Element>(
    name: &str,
    array: &Object<'py>,
    expected: &str,
) -> PyResult<PyReadonlyArray1<'py, T>> {
    let array = array.cast::<PyArray1<T>>().map_err(|_| wrong(name, array, expected))?;
    Ok(array.try_readonly()?)
}

/// A writable array.
pub fn readwrite<'py, T: Element>(
    name: &str,
    array: &Object<'py>,
    expected: &str,
) -> PyResult<PyReadwriteArray1<'py, T>> {
    let array = array.cast::<PyArray1<T>>().map_err(|_| wrong(name, array, expected))?;
    Ok(array.try_readwrite()?)
}

macro_rules! held {
    ($(#[$doc:meta])* $held:ident, $array:ident, $open:ident
     { $($name:literal => $variant:ident: $item:ty, $width:literal;)* }) => {
        $(#[$doc])*
        pub enum $held<'py> { $($variant($array<'py, $item>),)* }
        impl<'py> $held<'py> {
            /// Takes the array, whose elements are to be read as `dtype`.
            pub fn new(name: &str, array: &Object<'py>, dtype: &str) -> PyResult<Self> {
                match dtype {
                    $($name => Ok(Self::$variant($open(name, array, $width)?)),)*
                    _ => Err(type_error(format!(
                        "{name}: found dtype {dtype:?}, expected one of {}", [$($name),*].join(", ")
                    ))),
                }
            }
        }
    };
}

held! {
    /// An array to encode.
    HeldInput, PyReadonlyArray1, readonly {
        "float32" => F32: f32, "float32";
        "float64" => F64: f64, "float64";
        "float16" => F16: u16, "uint16";
        "bfloat16" => Bf16: u16, "uint16";
    }
}

held! {
    /// An array to decode into.
    HeldOutput, PyReadwriteArray1, readwrite {
        "float32" => F32: f32, "float32";
        "float64" => F64: f64, "float64";
        "float16" => F16: u16, "uint16";
        "bfloat16" => Bf16: u16, "uint16";
    }
}

/// Gives held arrays a `view`: their slices, as the core takes them.
macro_rules! view {
    ($held:ident(& $($mut:ident)?) => $view:ident { $($variant:ident),+ }, $slice:ident) => {
        impl $held<'_> {
            /// The slice.
            pub fn view(& $($mut)? self) -> PyResult<$view<'_>> {
                Ok(match self {
                    $($held::$variant(a) => $view::$variant(a.$slice()?),)+
                })
            }
        }
    };
}

view!(HeldInput(&) => Input { F32, F64, F16, Bf16 }, as_slice);
view!(HeldOutput(&mut) => Output { F32, F64, F16, Bf16 }, as_slice_mut);
view!(HeldCodes(&) => Codes { U8, U16, U32 }, as_slice);
view!(HeldCodesMut(&mut) => CodesMut { U8, U16 }, as_slice_mut);

/// Codes to read: bytes, or words.
pub enum HeldCodes<'py> {
    /// Bytes.
    U8(PyReadonlyArray1<'py, u8>),
    /// 16-bit words.
    U16(PyReadonlyArray1<'py, u16>),
    /// 32-bit words.
    U32(PyReadonlyArray1<'py, u32>),
}

impl<'py> HeldCodes<'py> {
    /// Takes the array.
    pub fn new(array: &Object<'py>) -> PyResult<Self> {
        if array.cast::<PyArray1<u8>>().is_ok() {
            return Ok(HeldCodes::U8(readonly("codes", array, "uint8")?));
        }
        if array.cast::<PyArray1<u32>>().is_ok() {
            return Ok(HeldCodes::U32(readonly("codes", array, "uint32")?));
        }
        Ok(HeldCodes::U16(readonly("codes", array, "uint8 or uint16")?))
    }
}

/// Codes to write.
pub enum HeldCodesMut<'py> {
    /// Bytes.
    U8(PyReadwriteArray1<'py, u8>),
    /// 16-bit words.
    U16(PyReadwriteArray1<'py, u16>),
}

impl<'py> HeldCodesMut<'py> {
    /// Takes the array.
    pub fn new(array: &Object<'py>) -> PyResult<Self> {
        if array.cast::<PyArray1<u8>>().is_ok() {
            return Ok(HeldCodesMut::U8(readwrite("codes_out", array, "uint8")?));
        }
        Ok(HeldCodesMut::U16(readwrite("codes_out", array, "uint8 or uint16")?))
    }
}
