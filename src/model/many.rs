//! Products of many rows.

use super::real::Real;
use crate::formats::{Input, Output};
use crate::gemm::times_rows;
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
        if out.len() == a.len() && times_rows(&a, &b, out, add) {
            return;
        }
    }
    general_mat_mul(T::one(), a, &b.t(), if add { T::one() } else { T::zero() }, out);
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
