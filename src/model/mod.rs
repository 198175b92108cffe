//! Floor 4: the operations of the reference forward, in float32 and in float64 throughout.
//!
//! Lives here: what one layer of DeepSeek-V3 does, each part a function of slices: [`norm`], [`rope`] with YaRN,
//! [`mla`] naive and absorbed over latents, the [`gate`], [`elementwise`] ones. All are generic over [`real::Real`], and nothing
//! passes through a narrower type than the requested one, unless a caller gives the rounding of results, where a
//! program that computes in that type would round. Weights ([`weight`]) stay in the form in which a checkpoint holds
//! them and are widened panel by panel when they are used ([`linear`]), or decoded in registers; a recipe's products on codes
//! are a [`projection`]. Not here: operations
//! put together to layers and a model, which is Python's part, as are caches, names, traces and sampling.
//!
//! Products of many rows ([`many`]) are in matrixmultiply's order, products of a few rows are those of
//! [`crate::gemm::interleaved`], in an order of sums that is the same at every instruction-set level. No result depends on the number of threads.

pub mod attention;
pub mod combine;
pub mod elementwise;
pub mod gate;
pub mod indexer;
pub mod linear;
mod many;
pub mod mla;
pub mod norm;
pub mod projection;
pub mod real;
pub mod rope;
pub mod weight;

pub use attention::Round;
pub use combine::{ExpertOrder, ExpertOutputs};
pub use elementwise::{add, silu_product};
pub use gate::{gate, GateRule, Routing, Scoring};
pub use indexer::{index_scores, select, IndexShape, Selection};
pub use linear::linear;
pub use mla::{MlaShape, Sequence, Up};
pub use norm::{layer_norm, rms_norm};
pub use projection::{Matrix, Projection, RowQuantizer, Swiglu};
pub use real::Real;
pub use rope::{Rope, Yarn};
pub use weight::{Data, Weight};
