//! Floor 3: sums of products, as matrix units add them.
//!
//! [`accumulator`] holds THE table of units; [`mma`] defines one step of each in integers, [`exact`], [`float32`]
//! and [`bf16_dot`] the three that are no tensor core. [`product`] is the way in: it checks, cuts the work into tiles and sends them to
//! the fastest path that gives the same bytes as the definition ([`definition`]). [`skinny`] is the kernel of few rows by
//! many, in the order of `float32` or in the order of the model's products ([`interleaved`]). A matrix that is multiplied
//! again and again can be laid out once ([`prepared`]); few rows meet its codes as they are ([`coded`]).
//!
//! Not here: how numbers came by their scales ([`crate::quant`]), nor the lane operations ([`crate::simd`]).

pub mod accumulator;
mod bf16_dot;
mod blocked;
mod chains;
mod coded;
mod definition;
mod emulated;
mod exact;
mod exact_f64;
mod float32;
pub mod interleaved;
mod job;
mod layout;
mod matrix_core;
mod mma;
mod number;
mod pack;
mod prepared;
pub mod product;
mod scaled_groups;
mod skinny;

pub use accumulator::{Accumulator, Evidence, ResultType, Unit, UnitScale, ACCUMULATORS};
pub use chains::times_rows;
pub use mma::mma_step;
pub use prepared::Prepared;
pub use product::{matmul_grouped_nt, matmul_nt, Operand, Options, Shape, UnitScales};
