//! The headers of safetensors files, judged by the `safetensors` crate.
//!
//! Only headers: what the tensors hold is read by whoever asked. [`header`] reads and checks a file's, [`parse`] makes
//! tensors of its text, trusting nothing in it, and [`columns`] holds them.

mod columns;
mod header;
mod parse;

pub use header::{HeaderError, TensorHeader, TensorTable};
