//! The numerics of DeepSeek-V3 on any CPU: small number formats, quantization with shared scales, matrix products, and a
//! reference forward.
//!
//! The crate knows nothing of Python (the optional `bindings` do). Its floors, each using only those below:
//! [`model`] → [`gemm`] → [`quant`] → [`formats`] → [`simd`]. Every result is the same, byte for byte, at every instruction-set level
//! and thread count.
//!
//! ```
//! use dsv3_numerics::formats::{encode, table::E4M3FN, CodesMut, EncodeOptions, Input};
//!
//! let mut codes = [0u8; 3];
//! encode(Input::F32(&[1.0, 448.0, -0.3]), &E4M3FN, &EncodeOptions::default(), CodesMut::U8(&mut codes))?;
//! assert_eq!(codes, [0x38, 0x7E, 0xAA]);
//! # Ok::<(), dsv3_numerics::Error>(())
//! ```

#[cfg(feature = "python")]
#[allow(unsafe_code)] // what PyO3's macros expand to
mod bindings;
pub mod checkpoint;
pub mod error;
pub mod formats;
pub mod gemm;
pub mod interrupt;
pub mod model;
pub mod quant;
#[allow(unsafe_code)]
pub mod simd;
pub mod threads;

pub use error::Error;
