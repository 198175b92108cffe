//! Products of rows: of many in blocks, of two by itself.

use super::real::Real;
use crate::formats::{Input, Output};
use crate::gemm::interleaved::{dot, float_dot};
use crate::gemm::times_rows;
use crate::simd::Lanes;
use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2};

/// Computes `out = a b^T`, or adds it to what is there: float32 in blocks of our own, any other by matrixmultiply, of which
/// float32 has the order.
pub(super) fn product<T: Real>(
    a: &ArrayView2<'_, T>,
    b: &ArrayView2<'_, T>,
    add: bool,
    out: &mut ArrayViewMut2<'_, T>,
) {
    if let (Some(a), Some(b)) = (rows(a), rows(b)) {
        let out = out.rows_mut().into_iter().filter_map(|row| match row.into_slice().map(T::output) {
            Some(Output::F32(row)) => Some(row),
            _ => None,
        });
        let out: Vec<_> = out.collect();
        if times_rows(&a, &b, out, add) {
            return;
        }
    }
    general_mat_mul(T::one(), a, &b.t(), if add { T::one() } else { T::zero() }, out);
}

/// The product of two rows in interleaved order, at a level.
#[inline(always)]
pub(super) fn row_product<T: Real, L: Lanes>(l: L, a: &[T], b: &[T]) -> T {
    match (T::input(a), T::input(b)) {
        (Input::F32(a), Input::F32(b)) => T::widen(float_dot(l, a, b)),
        _ => dot(a, b),
    }
}

/// The rows, if they are float32 and each is contiguous.
fn rows<'a, T: Real>(x: &'a ArrayView2<'_, T>) -> Option<Vec<&'a [f32]>> {
    x.outer_iter()
        .map(|row| match row.to_slice().map(T::input) {
            Some(Input::F32(row)) => Some(row),
            _ => None,
        })
        .collect()
}
