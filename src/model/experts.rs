//! Feed-forward networks: one SwiGLU, and many with a share of the tokens each.

use super::gate::sigmoid;
use super::linear::linear;
use super::real::Real;
use super::weight::Weight;
use crate::error::{same_length, Error};
use std::collections::BTreeMap;

/// The three matrices of a SwiGLU.
#[derive(Clone, Copy, Debug)]
pub struct Expert<'a> {
    /// (inner, channels).
    pub gate: Weight<'a>,
    /// (inner, channels).
    pub up: Weight<'a>,
    /// (channels, inner).
    pub down: Weight<'a>,
}

/// `down(silu(gate(x)) * up(x))` for `rows` tokens.
///
/// # Errors
/// [`Error::Length`] where matrices and slices do not fit each other.
pub fn swiglu<T: Real>(x: &[T], rows: usize, expert: &Expert<'_>, out: &mut [T]) -> Result<(), Error> {
    let inner = expert.gate.rows();
    same_length("up_proj", expert.up.rows(), inner)?;
    same_length("down_proj", expert.down.cols(), inner)?;
    let (mut a, mut b) = (vec![T::zero(); rows * inner], vec![T::zero(); rows * inner]);
    linear(x, rows, &expert.gate, &mut a)?;
    linear(x, rows, &expert.up, &mut b)?;
    for (a, b) in a.iter_mut().zip(&b) {
        *a = *a * sigmoid(*a) * *b;
    }
    linear(&a, rows, &expert.down, out)
}

/// Adds to `out`, for each token, its experts' outputs times their weights, experts in ascending order.
///
/// `indices` and `weights` are (tokens, top); every index has to be in `table`.
///
/// # Errors
/// [`Error::Length`], or [`Error::Unsupported`] for an expert that is not there.
pub fn experts<T: Real>(
    x: &[T],
    indices: &[i64],
    weights: &[T],
    top: usize,
    table: &BTreeMap<i64, Expert<'_>>,
    out: &mut [T],
) -> Result<(), Error> {
    same_length("weights", weights.len(), indices.len())?;
    same_length("out", out.len(), x.len())?;
    let tokens = indices.len() / top.max(1);
    if tokens == 0 {
        return Ok(());
    }
    let channels = x.len() / tokens;
    same_length("x", x.len(), tokens * channels)?;
    let mut shares: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    for (slot, expert) in indices.iter().enumerate() {
        shares.entry(*expert).or_default().push(slot);
    }
    for (index, slots) in shares {
        let Some(expert) = table.get(&index) else {
            return Err(Error::Unsupported(format!("experts: found no expert {index}")));
        };
        let mut share = Vec::with_capacity(slots.len() * channels);
        for slot in &slots {
            share.extend_from_slice(&x[slot / top * channels..][..channels]);
        }
        let mut part = vec![T::zero(); share.len()];
        swiglu(&share, slots.len(), expert, &mut part)?;
        for (slot, part) in slots.iter().zip(part.chunks_exact(channels.max(1))) {
            let out = &mut out[slot / top * channels..][..channels];
            for (out, part) in out.iter_mut().zip(part) {
                *out += weights[*slot] * *part;
            }
        }
    }
    Ok(())
}
