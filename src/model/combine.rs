//! The sum of a token over the experts that it went to.

use super::attention::Round;
use super::real::Real;
use crate::error::{same_length, Error};
use crate::threads::run_tasks;

/// Outputs of the experts.
#[derive(Clone, Copy, Debug)]
pub struct ExpertOutputs<'a, T> {
    /// (tokens * top, channels), expert by expert in ascending order, the tokens of one expert in order.
    pub parts: &'a [T],
    /// (tokens, top): the experts of each token.
    pub indices: &'a [i64],
    /// (tokens, top): their weights.
    pub shares: &'a [T],
    /// (tokens, channels): the shared expert's output.
    pub shared: Option<&'a [T]>,
    /// Experts of a token.
    pub top: usize,
    /// Channels.
    pub channels: usize,
}

/// The order in which a token's products are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpertOrder {
    /// By ascending expert, each product and each sum a result of its own that is rounded. The shared expert's output is
    /// what they are added to, or, where results are rounded, added last.
    Ascending,
    /// As `indices` has them, from zero; the sum is rounded once, then the shared expert's output is added and rounded.
    AsChosen,
}

impl<T: Real> ExpertOutputs<'_, T> {
    /// Sums over each token's experts, (tokens, channels).
    ///
    /// # Errors
    /// [`Error::Length`] where the slices do not fit each other.
    pub fn combine(&self, order: ExpertOrder, round: Option<Round<T>>, out: &mut [T]) -> Result<(), Error> {
        let ExpertOutputs { parts, indices, shares, shared, top, channels } = *self;
        same_length("shares", shares.len(), indices.len())?;
        same_length("parts", parts.len(), indices.len().saturating_mul(channels))?;
        let tokens = indices.len() / top.max(1);
        same_length("indices", indices.len(), tokens.saturating_mul(top))?;
        same_length("out", out.len(), tokens.saturating_mul(channels))?;
        if let Some(shared) = shared {
            same_length("shared", shared.len(), out.len())?;
        }
        if out.is_empty() {
            return Ok(());
        }
        let mut by_expert: Vec<usize> = (0..indices.len()).collect();
        by_expert.sort_by_key(|slot| indices[*slot]);
        let mut places = vec![0; indices.len()];
        by_expert.iter().enumerate().for_each(|(place, slot)| places[*slot] = place);
        let each = order == ExpertOrder::Ascending;
        let last = shared.filter(|_| !each || round.is_some());
        let tasks: Vec<_> = out.chunks_mut(channels).enumerate().collect();
        run_tasks(parts.len(), tasks, |(token, out)| {
            let mut slots: Vec<usize> = (token * top..(token + 1) * top).collect();
            if each {
                slots.sort_by_key(|slot| indices[*slot]);
            }
            match shared {
                Some(shared) if last.is_none() => {
                    out.copy_from_slice(&shared[token * channels..(token + 1) * channels]);
                }
                _ => out.fill(T::zero()),
            }
            let mut product = vec![T::zero(); if each && round.is_some() { channels } else { 0 }];
            for slot in slots {
                let (share, part) = (shares[slot], &parts[places[slot] * channels..][..channels]);
                match round {
                    Some(round) if each => {
                        product.iter_mut().zip(part).for_each(|(out, x)| *out = share * *x);
                        round(&mut product);
                        out.iter_mut().zip(&product).for_each(|(out, x)| *out += *x);
                        round(out);
                    }
                    _ => out.iter_mut().zip(part).for_each(|(out, x)| *out += share * *x),
                }
            }
            let round = round.unwrap_or(|_| {});
            if !each {
                round(out);
            }
            if let Some(shared) = last {
                let shared = &shared[token * channels..(token + 1) * channels];
                out.iter_mut().zip(shared).for_each(|(out, x)| *out += *x);
                round(out);
            }
        });
        Ok(())
    }
}
