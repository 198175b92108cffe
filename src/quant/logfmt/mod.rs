//! LogFMT: codes whose logarithms are evenly spaced between the least and the largest magnitude of a tile ("Insights into
//! DeepSeek-V3", ISCA '25, section 3.2).
//!
//! [`TileGrid`] holds the values of a tile and [`Finder`] finds their codes: the definition, in float64.
//! [`logfmt_encode`] and [`logfmt_decode`] apply it to arrays, by float32 estimates and by tables wherever these give the
//! same bits; [`logfmt_pack`] drops unused bits.
//!
//! Not here: DeepEP's fallback to bfloat16, which is policy and stands in Python.

mod decode;
mod decode_tables;
mod definition;
mod encode;
mod layout;
mod pack;
mod prepared_tiles;

pub use decode::logfmt_decode;
pub use definition::{exp2, log2, narrow, widen, Finder, LogRounding, Precision, TileGrid, BITS};
pub use encode::{logfmt_encode, LogOptions, TilesMut};
pub use layout::Tiles;
pub use pack::{logfmt_pack, logfmt_unpack, LogLayout, PackedRows};
pub use prepared_tiles::{LinearEstimate, LOG2_ERROR};
