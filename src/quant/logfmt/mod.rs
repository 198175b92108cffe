//! LogFMT: codes whose logarithms are evenly spaced between the least and the largest magnitude of a tile ("Insights into
//! DeepSeek-V3", ISCA '25, section 3.2).
//!
//! [`Span`] is a tile's table of values and [`Finder`] finds codes in it: the definition, in float64, by the functions of
//! [`float64`]. [`logfmt_encode`] and [`logfmt_decode`] apply it to arrays, [`logfmt_pack`] drops unused bits.
//!
//! Not here: DeepEP's fallback to bfloat16, which is policy and stands in Python.

mod decode;
mod encode;
pub mod estimate;
mod factors;
pub mod float64;
mod layout;
mod look;
mod pack;
mod range;
mod ready;
mod run;
mod tables;
mod tile;
mod values;

pub use decode::logfmt_decode;
pub use encode::{logfmt_encode, LogOptions, TilesMut};
pub use layout::Tiles;
pub use pack::{logfmt_pack, logfmt_unpack, LogLayout};
pub use tile::{Finder, LogRounding, Span, BITS};
pub use values::Precision;
