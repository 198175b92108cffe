//! RMSNorm, and the layer norm of an indexer's keys.

use super::attention::Round;
use super::real::Real;
use crate::error::{same_length, Error};
use crate::gemm::interleaved::dot;

/// The rows of `x` beside those of `out`, as long as it.
fn rows<'a, T>(
    x: &'a [T],
    channels: usize,
    out: &'a mut [T],
) -> Result<impl Iterator<Item = (&'a [T], &'a mut [T])>, Error> {
    if channels == 0 || !x.len().is_multiple_of(channels) {
        same_length("x", x.len(), 0)?;
    }
    let channels = channels.max(1);
    Ok(x.chunks_exact(channels).zip(out.chunks_exact_mut(channels)))
}

/// Each row of `x` divided by the root of its mean square (plus `eps`), times a weight for each channel, rounded.
///
/// # Errors
/// [`Error::Length`] where `x` is not whole rows of `w.len()` or `out` is not as long as `x`.
pub fn rms_norm<T: Real>(
    x: &[T],
    w: &[T],
    eps: f64,
    round: Option<Round<T>>,
    out: &mut [T],
) -> Result<(), Error> {
    same_length("out", out.len(), x.len())?;
    let count = T::near(w.len() as f64);
    for (x, out) in rows(x, w.len(), out)? {
        let root = (dot(x, x) / count + T::near(eps)).sqrt();
        for ((out, x), w) in out.iter_mut().zip(x).zip(w) {
            *out = *w * (*x / root);
        }
    }
    round.inspect(|round| round(out));
    Ok(())
}

/// Each row of `x` less its mean and divided by its standard deviation (`eps` added to the variance), times `w`, plus
/// `b`, rounded.
///
/// # Errors
/// As [`rms_norm`].
pub fn layer_norm<T: Real>(
    x: &[T],
    (w, b): (&[T], &[T]),
    eps: f64,
    round: Option<Round<T>>,
    out: &mut [T],
) -> Result<(), Error> {
    same_length("out", out.len(), x.len())?;
    same_length("bias", b.len(), w.len())?;
    let count = T::near(w.len() as f64);
    for (x, out) in rows(x, w.len(), out)? {
        let mean = x.iter().copied().sum::<T>() / count;
        out.iter_mut().zip(x).for_each(|(out, x)| *out = *x - mean);
        let deviation = (dot(out, out) / count + T::near(eps)).sqrt();
        for ((out, w), b) in out.iter_mut().zip(w).zip(b) {
            *out = *w * (*out / deviation) + *b;
        }
    }
    round.inspect(|round| round(out));
    Ok(())
}
