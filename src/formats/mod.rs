//! Floor 1: a number on its own.
//!
//! [`table`] holds THE table of formats; [`round`] the definition of every rounding mode on one number and
//! [`near`] its fast form for nearest even, [`lanes`] that for any mode; [`encode()`], [`decode()`] and [`pack`] apply them to arrays, and
//! [`differences()`] compares arrays. Nothing here knows about scales: that is the next floor, [`crate::quant`].

pub mod bfloat16;
mod code_meaning;
mod code_pairs;
mod code_tiles;
mod custom;
pub mod decode;
pub mod differences;
pub mod encode;
mod fixed;
pub mod lanes;
pub mod near;
pub mod pack;
pub mod philox;
pub mod round;
pub mod source;
pub mod strided;
pub mod table;
mod turned;
pub(crate) mod turned_codes;

pub use custom::custom;
pub use decode::decode;
pub use differences::differences;
pub use encode::{encode, EncodeOptions};
pub use round::{NanPolicy, Overflow, Rounder, Rounding};
pub use source::{Codes, CodesMut, Input, Output};
pub use strided::{Array, Places};
pub use table::{Format, Top, FORMATS};
