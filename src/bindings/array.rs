//! NumPy arrays as the core's inputs and outputs.

use super::type_error;
use crate::formats::{Codes, CodesMut, Input, Output};
use numpy::{Element, PyArray1, PyArrayMethods, PyReadonlyArray1, PyReadwriteArray1};
use pyo3::prelude::*;

fn wrong(name: &str, array: &Bound<'_, PyAny>, expected: &str) -> PyErr {
    let found = array.get_type().name().map_or_else(|_| "an object".to_owned(), |n| n.to_string());
    let dtype = array.getattr("dtype").map_or_else(|_| String::new(), |d| format!(" of {d}"));
    type_error(format!("{name}: found {found}{dtype}, expected a one-dimensional {expected} array"))
}

/// A readable array.
pub fn readonly<'py, T: Element>(
    name: &str,
    array: &Bound<'py, PyAny>,
    expected: &str,
) -> PyResult<PyReadonlyArray1<'py, T>> {
    let array = array.cast::<PyArray1<T>>().map_err(|_| wrong(name, array, expected))?;
    Ok(array.try_readonly()?)
}

/// A writable array.
pub fn readwrite<'py, T: Element>(
    name: &str,
    array: &Bound<'py, PyAny>,
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
            pub fn new(name: &str, array: &Bound<'py, PyAny>, dtype: &str) -> PyResult<Self> {
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

impl HeldInput<'_> {
    /// The slice.
    pub fn view(&self) -> PyResult<Input<'_>> {
        Ok(match self {
            HeldInput::F32(a) => Input::F32(a.as_slice()?),
            HeldInput::F64(a) => Input::F64(a.as_slice()?),
            HeldInput::F16(a) => Input::F16(a.as_slice()?),
            HeldInput::Bf16(a) => Input::Bf16(a.as_slice()?),
        })
    }
}

impl HeldOutput<'_> {
    /// The slice.
    pub fn view(&mut self) -> PyResult<Output<'_>> {
        Ok(match self {
            HeldOutput::F32(a) => Output::F32(a.as_slice_mut()?),
            HeldOutput::F64(a) => Output::F64(a.as_slice_mut()?),
            HeldOutput::F16(a) => Output::F16(a.as_slice_mut()?),
            HeldOutput::Bf16(a) => Output::Bf16(a.as_slice_mut()?),
        })
    }
}

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
    pub fn new(array: &Bound<'py, PyAny>) -> PyResult<Self> {
        if array.cast::<PyArray1<u8>>().is_ok() {
            return Ok(HeldCodes::U8(readonly("codes", array, "uint8")?));
        }
        if array.cast::<PyArray1<u32>>().is_ok() {
            return Ok(HeldCodes::U32(readonly("codes", array, "uint32")?));
        }
        Ok(HeldCodes::U16(readonly("codes", array, "uint8 or uint16")?))
    }

    /// The slice.
    pub fn view(&self) -> PyResult<Codes<'_>> {
        Ok(match self {
            HeldCodes::U8(a) => Codes::U8(a.as_slice()?),
            HeldCodes::U16(a) => Codes::U16(a.as_slice()?),
            HeldCodes::U32(a) => Codes::U32(a.as_slice()?),
        })
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
    pub fn new(array: &Bound<'py, PyAny>) -> PyResult<Self> {
        if array.cast::<PyArray1<u8>>().is_ok() {
            return Ok(HeldCodesMut::U8(readwrite("codes_out", array, "uint8")?));
        }
        Ok(HeldCodesMut::U16(readwrite("codes_out", array, "uint8 or uint16")?))
    }

    /// The slice.
    pub fn view(&mut self) -> PyResult<CodesMut<'_>> {
        Ok(match self {
            HeldCodesMut::U8(a) => CodesMut::U8(a.as_slice_mut()?),
            HeldCodesMut::U16(a) => CodesMut::U16(a.as_slice_mut()?),
        })
    }
}
