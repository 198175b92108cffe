//! `x W^T`, with the weight widened a panel at a time.

use super::many::{product, row_product};
use super::real::Real;
use super::weight::Weight;
use crate::error::{elements, same_length, Error};
use crate::formats::{Input, Output};
use crate::gemm::interleaved::{dot, float_products};
use crate::interrupt::poll;
use crate::simd::{dispatch, Kernel, Lanes};
use crate::threads::{run_tasks, threads_for};
use ndarray::{ArrayView2, ArrayViewMut2, Axis};

/// Rows of `x` up to which each weight is read once and multiplied by every row while it is in cache.
const FEW: usize = 8;

/// Elements of a panel of weights that stays in the second-level cache.
const PANEL: usize = 48 * 1024;

/// Rows of a panel that is widened for a matrix product.
const TALL_PANEL: usize = 256;

/// Products that cost as much as an element of a cast.
const PER_ELEMENT: usize = 2;

/// Products of a call that does not look at signals: some tenths of a second.
const CALL: usize = 1 << 31;

/// A matrix of slices, checked.
///
/// # Errors
/// [`Error::Length`] where the slice has not `rows * cols` elements.
pub fn matrix<'a, T>(
    what: &'static str,
    x: &'a [T],
    rows: usize,
    cols: usize,
) -> Result<ArrayView2<'a, T>, Error> {
    same_length(what, x.len(), elements(what, &[rows, cols])?)?;
    ArrayView2::from_shape((rows, cols), x).map_err(|e| Error::Unsupported(format!("{what}: {e}")))
}

/// As [`matrix`], to write to.
///
/// # Errors
/// As [`matrix`].
pub fn matrix_mut<'a, T>(
    what: &'static str,
    x: &'a mut [T],
    rows: usize,
    cols: usize,
) -> Result<ArrayViewMut2<'a, T>, Error> {
    same_length(what, x.len(), elements(what, &[rows, cols])?)?;
    ArrayViewMut2::from_shape((rows, cols), x).map_err(|e| Error::Unsupported(format!("{what}: {e}")))
}

/// `out = x W^T` for `x` of (rows, inputs) and `out` of (rows, outputs).
///
/// # Errors
/// [`Error::Length`] where the slices do not fit the weight.
pub fn linear<T: Real>(x: &[T], rows: usize, w: &Weight<'_>, out: &mut [T]) -> Result<(), Error> {
    let x2 = matrix("x", x, rows, w.cols())?;
    let mut out2 = matrix_mut("out", out, rows, w.rows())?;
    if rows == 0 || w.rows() == 0 {
        return Ok(());
    }
    let few = rows <= FEW;
    let height = if few {
        (PANEL / w.cols().max(1)).max(1)
    } else if w.widens::<T>() {
        TALL_PANEL
    } else {
        w.rows()
    };
    let work = w.rows().saturating_mul(w.cols()).saturating_mul(rows) / PER_ELEMENT;
    // A few parts for each thread, of whole panels: panels end where they end whatever the number of threads.
    let part =
        w.rows().div_ceil(PARTS * threads_for(work)).next_multiple_of(if few { height } else { TALL_PANEL });
    let tasks: Vec<_> = out2.axis_chunks_iter_mut(Axis(1), part).enumerate().collect();
    let done = run_tasks(work, tasks, |(i, mut out)| {
        let (mut from, mut scratch) = (i * part, Vec::new());
        if few && products(w, from, x, &mut out) {
            return Ok(());
        }
        for mut out in out.axis_chunks_iter_mut(Axis(1), height) {
            let to = from + out.ncols();
            let panel = w.read::<T>(from, to, &mut scratch)?;
            if few {
                Dots { x, w: panel, cols: w.cols(), out }.run();
            } else {
                let panel = matrix("weight", panel, to - from, w.cols())?;
                // Rows by themselves: whatever the number of them, a sum runs over the inputs.
                let high = (CALL / panel.len().max(1)).max(TALL_PANEL);
                for (x, mut out) in
                    x2.axis_chunks_iter(Axis(0), high).zip(out.axis_chunks_iter_mut(Axis(0), high))
                {
                    poll();
                    product(&x, &panel, false, &mut out);
                }
            }
            from = to;
        }
        Ok(())
    });
    done.into_iter().collect()
}

/// Rows of a weight from `from` on, as many as `out` has columns, times every row of `x`, without widening them:
/// whether that was possible.
pub(super) fn products<T: Real>(
    w: &Weight<'_>,
    from: usize,
    x: &[T],
    out: &mut ArrayViewMut2<'_, T>,
) -> bool {
    let (Input::F32(x), Some(w)) = (T::input(x), w.coded(from, from + out.ncols())) else { return false };
    w.products(x, &mut |row, column, product| out[[row, column]] = T::widen(product))
}

/// Adds to `out` each factor times a row of a weight, from `from` on, without widening the rows: whether that was
/// possible.
pub(super) fn combine<T: Real>(w: &Weight<'_>, from: usize, factors: &[T], out: &mut [T]) -> bool {
    match (T::input(factors), T::output(out), w.coded(from, from + factors.len())) {
        (Input::F32(factors), Output::F32(out), Some(w)) => w.combine(factors, out),
        _ => false,
    }
}

/// Parts that a thread gets: more of them even out, but each lays out `x` anew.
const PARTS: usize = 2;

/// Every row of `x` times every row of a panel.
struct Dots<'a, 'o, T> {
    x: &'a [T],
    w: &'a [T],
    cols: usize,
    out: ArrayViewMut2<'o, T>,
}

impl<T: Real> Dots<'_, '_, T> {
    fn run(mut self) {
        if self.cols == 0 {
            return self.out.fill(T::zero());
        }
        if let (Input::F32(x), Input::F32(w)) = (T::input(self.x), T::input(self.w)) {
            let mut put = |row: usize, column: usize, sum: f32| self.out[[row, column]] = T::widen(sum);
            return float_products(w, x, self.cols, &mut put);
        }
        dispatch(self);
    }
}

impl<T: Real> Kernel for Dots<'_, '_, T> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(mut self, _: L) {
        for (w, mut out) in self.w.chunks_exact(self.cols).zip(self.out.columns_mut()) {
            for (x, out) in self.x.chunks_exact(self.cols).zip(out.iter_mut()) {
                *out = dot(x, w);
            }
        }
    }
}

/// The dot product of `x` with each of some rows, as many as `out` has room for.
pub struct RowProducts<'a, T> {
    /// Rows as long as `x`.
    pub rows: &'a [T],
    /// The vector that they are multiplied with.
    pub x: &'a [T],
    /// Where the products go.
    pub out: &'a mut [T],
}

impl<T: Real> Kernel for RowProducts<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        for (row, out) in self.rows.chunks_exact(self.x.len().max(1)).zip(self.out) {
            *out = row_product(l, self.x, row);
        }
    }
}

/// Adds `factor[j] * rows[j]` to `out` for every `j` in turn.
pub struct Combine<'a, T> {
    /// A factor for each row.
    pub factors: &'a [T],
    /// Rows as long as `out`, each contiguous.
    pub rows: ArrayView2<'a, T>,
    /// The vector that is added to.
    pub out: &'a mut [T],
}

impl<T: Real> Kernel for Combine<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        for (factor, row) in self.factors.iter().zip(self.rows.rows()) {
            for (out, x) in self.out.iter_mut().zip(row.to_slice().unwrap_or_default()) {
                *out += *factor * *x;
            }
        }
    }
}
