//! The lightning indexer of DeepSeek Sparse Attention: which earlier tokens a token attends to.

use super::many::row_product;
use super::real::Real;
use crate::error::{same_length, Error};
use crate::simd::{dispatch, Kernel, Lanes};
use crate::threads::run_tasks;

/// Sizes of an indexer, and the sequence that it looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexShape {
    /// Heads.
    pub heads: usize,
    /// Channels of a head.
    pub channels: usize,
    /// Positions before the new tokens.
    pub past: usize,
}

/// Scores of `q`, (new, heads, channels), against `k`, (positions, channels): the sum over heads of
/// `w[t, h] * max(0, scale * q[t, h] . k[s])`, in the order of the heads. `out` is (new, positions); what a token may
/// not see is minus infinity.
///
/// Source: DeepSeek-V3.2-Exp, `inference/model.py`, and the report's equation 1.
///
/// # Errors
/// [`Error::Length`] and [`Error::Shape`] where sizes do not fit each other.
pub fn index_scores<T: Real>(
    q: &[T],
    k: &[T],
    w: &[T],
    shape: IndexShape,
    scale: f64,
    out: &mut [T],
) -> Result<(), Error> {
    let IndexShape { heads, channels, past } = shape;
    let overflow = Error::Shape { what: "indexer", why: "the element count overflows" };
    let width = heads.checked_mul(channels).filter(|width| *width > 0).ok_or(overflow)?;
    let (new, positions) = (q.len() / width, k.len() / channels);
    same_length("q", q.len(), new * width)?;
    same_length("k", k.len(), past.saturating_add(new).saturating_mul(channels))?;
    same_length("w", w.len(), new * heads)?;
    same_length("scores", out.len(), new * positions)?;
    if new == 0 {
        return Ok(());
    }
    let tasks: Vec<_> = out.chunks_exact_mut(positions).enumerate().collect();
    let scale = T::near(scale);
    run_tasks(new.saturating_mul(k.len()).saturating_mul(heads), tasks, |(token, out)| {
        let (seen, beyond) = out.split_at_mut(past + token + 1);
        beyond.fill(T::NEG_INF);
        let (q, w) = (&q[token * width..][..width], &w[token * heads..][..heads]);
        dispatch(TokenScores { q, k, w, channels, scale, seen });
    });
    Ok(())
}

/// The scores of one token.
struct TokenScores<'a, T> {
    q: &'a [T],
    k: &'a [T],
    w: &'a [T],
    channels: usize,
    scale: T,
    seen: &'a mut [T],
}

impl<T: Real> Kernel for TokenScores<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let TokenScores { q, k, w, channels, scale, seen } = self;
        for (score, k) in seen.iter_mut().zip(k.chunks_exact(channels)) {
            *score = T::zero();
            for (q, w) in q.chunks_exact(channels).zip(w) {
                let product = row_product(l, q, k) * scale;
                *score += if product > T::zero() { product * *w } else { T::zero() };
            }
        }
    }
}

/// Where a selection goes.
pub struct Selection<'a, T> {
    /// (new, positions): the positions that are kept.
    pub flags: &'a mut [bool],
    /// (new): by how much the last position that was kept leads the first that was not; infinite where none was left
    /// out.
    pub gap: &'a mut [T],
}

/// Keeps the `top` largest of `scores`, (new, positions), among the positions that each token sees; among equals the
/// lower position.
///
/// # Errors
/// [`Error::Length`] where sizes do not fit each other, [`Error::NonFinite`] for NaN among the scores.
pub fn select<T: Real>(scores: &[T], past: usize, top: usize, out: Selection<'_, T>) -> Result<(), Error> {
    let new = out.gap.len();
    let positions = past.saturating_add(new);
    same_length("scores", scores.len(), new.saturating_mul(positions))?;
    same_length("flags", out.flags.len(), scores.len())?;
    if let Some(index) = scores.iter().position(|score| score.wide().is_nan()) {
        return Err(Error::NonFinite { what: "index scores", value: "NaN", index });
    }
    if new == 0 {
        return Ok(());
    }
    let rows = scores.chunks_exact(positions).zip(out.flags.chunks_exact_mut(positions)).zip(out.gap);
    let tasks: Vec<_> = rows.enumerate().collect();
    run_tasks(scores.len(), tasks, |(token, ((scores, flags), gap))| {
        let seen = past + token + 1;
        flags.fill(false);
        if seen <= top {
            flags[..seen].fill(true);
            *gap = -T::NEG_INF;
            return;
        }
        let mut order: Vec<usize> = (0..seen).collect();
        // Both zeros are equal: the ReLU makes many of them.
        order.sort_by(|&a, &b| (scores[b] + T::zero()).order(&(scores[a] + T::zero())).then(a.cmp(&b)));
        order[..top].iter().for_each(|position| flags[*position] = true);
        *gap = match top {
            0 => -T::NEG_INF,
            _ => scores[order[top - 1]] - scores[order[top]],
        };
    });
    Ok(())
}
