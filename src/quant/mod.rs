//! Floor 2: numbers that share a scale.
//!
//! One mechanism: an array is a stack of matrices, each cut into blocks of `block_rows x block_cols`
//! ([`Blocks`]); a 1xN tile, a tile along another axis, a 128x128 block, a row, a column and a whole tensor are
//! all such blocks. [`scale`] turns largest magnitudes into scales by the columns of a [`Rule`], a row of [`rule`]'s table;
//! [`quantize()`] and [`dequantize()`] apply it; [`error_stats()`] says what it cost. [`logfmt`] is the other way to share
//! a range: codes evenly spaced in the logarithm, between a tile's least and largest magnitude.
//!
//! Not here: how one number is rounded ([`crate::formats`]).

mod amax;
mod bands;
mod dequantize;
mod layout;
pub mod logfmt;
mod native;
mod nonfinite;
mod outgoing;
mod panel;
mod place;
mod quantize;
pub mod rule;
pub mod scale;
mod search;
mod stats;
mod transform;
mod turned;

pub use amax::amax;
pub use dequantize::{dequantize, dequantize_packed};
pub use layout::Blocks;
pub use quantize::{quantize, NonFinitePolicy, QuantizeOptions, ScaleSource};
pub use rule::{Rule, ScaleKind, RULES};
pub use scale::{nvfp4_global, Global};
pub use stats::{count_saturated, error_stats, Coded, ErrorStats};
