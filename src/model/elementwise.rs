//! Element by element: the sums of residual connections, and the middle of a SwiGLU.

use super::attention::Round;
use super::gate::sigmoid;
use super::real::Real;
use crate::error::{same_length, Error};
use crate::threads::run_tasks;

/// Elements that one task takes.
const CHUNK: usize = 16 * 1024;

/// Computes parts of `out` from the same parts of two arrays, on all threads.
fn each_part<T: Real>(
    a: &[T],
    b: &[T],
    out: &mut [T],
    compute: impl Fn(&[T], &[T], &mut [T]) + Sync,
) -> Result<(), Error> {
    same_length("b", b.len(), a.len())?;
    same_length("out", out.len(), a.len())?;
    let tasks = out.chunks_mut(CHUNK).zip(a.chunks(CHUNK).zip(b.chunks(CHUNK))).collect();
    run_tasks(a.len(), tasks, |(out, (a, b)): (&mut [T], (&[T], &[T]))| compute(a, b, out));
    Ok(())
}

/// `a + b`, rounded.
///
/// # Errors
/// [`Error::Length`] where the slices are not as long as each other.
pub fn add<T: Real>(a: &[T], b: &[T], round: Option<Round<T>>, out: &mut [T]) -> Result<(), Error> {
    let round = round.unwrap_or(|_| {});
    each_part(a, b, out, |a, b, out| {
        out.iter_mut().zip(a.iter().zip(b)).for_each(|(out, (a, b))| *out = *a + *b);
        round(out);
    })
}

/// `silu(a) * b`. `round` is what both results, of the function and of the product, pass through.
///
/// # Errors
/// [`Error::Length`] where the slices are not as long as each other.
pub fn silu_product<T: Real>(a: &[T], b: &[T], round: Option<Round<T>>, out: &mut [T]) -> Result<(), Error> {
    let round = round.unwrap_or(|_| {});
    each_part(a, b, out, |a, b, out| {
        out.iter_mut().zip(a).for_each(|(out, a)| *out = *a * sigmoid(*a));
        round(out);
        out.iter_mut().zip(b).for_each(|(out, b)| *out *= *b);
        round(out);
    })
}
