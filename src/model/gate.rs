//! The gate: which experts a token goes to, and how sure that is.

use super::attention::Round;
use super::real::Real;
use crate::error::{elements, same_length, Error};

/// Scores made of logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// Each on its own, as DeepSeek-V3 has it.
    Sigmoid,
    /// Over all experts, as DeepSeek-V2 has it.
    Softmax,
}

/// How experts are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GateRule {
    /// Scores made of logits.
    pub scoring: Scoring,
    /// Experts of a group whose scores are added to the group's: two in DeepSeek-V3, one in DeepSeek-V2.
    pub best: usize,
    /// Experts.
    pub experts: usize,
    /// Groups of neighbouring experts (nodes, in deployment).
    pub groups: usize,
    /// Groups that a token may use.
    pub kept: usize,
    /// Experts that a token uses.
    pub top: usize,
    /// True: weights are divided by their sum.
    pub normalised: bool,
    /// Factor of the weights.
    pub factor: f64,
    /// Biased score of experts outside the kept groups: minus infinity, or 0 as in the first
    /// release.
    pub masked: f64,
}

impl GateRule {
    /// Checks that the numbers fit together.
    ///
    /// # Errors
    /// [`Error::Unsupported`] that says what does not.
    pub fn check(&self) -> Result<(), Error> {
        let GateRule { experts, groups, kept, top, .. } = *self;
        let wrong = |what: String| Err(Error::Unsupported(what));
        if groups == 0 || !experts.is_multiple_of(groups) {
            return wrong(format!("n_group: found {groups}, expected a divisor of {experts} experts"));
        }
        if kept == 0 || kept > groups {
            return wrong(format!("topk_group: found {kept}, expected 1 to n_group ({groups})"));
        }
        if !matches!(self.best, 1 | 2) {
            return wrong(format!("best: found {}, expected 1 or 2 experts of a group", self.best));
        }
        if top == 0 || top > kept.saturating_mul(experts / groups) {
            let open = kept.saturating_mul(experts / groups);
            return wrong(format!(
                "num_experts_per_tok: found {top}, expected 1 to {open}, the experts of topk_group groups"
            ));
        }
        Ok(())
    }
}

/// Where the results go.
pub struct Routing<'a, T> {
    /// (tokens, top): experts by descending biased score, the lower index first among equals.
    pub indices: &'a mut [i64],
    /// (tokens, top): unbiased scores, normalised and multiplied.
    pub weights: &'a mut [T],
    /// (tokens): the least difference of two scores that, closed, would change the set of experts.
    pub gap: &'a mut [T],
}

/// Chooses experts from `logits` of (tokens, experts) and a `bias` that only takes part in the choice (empty: none). `round` is what
/// scores, the sum of those chosen and both steps of the weights pass through; biased scores do not.
///
/// # Errors
/// [`Error::Length`], what [`GateRule::check`] finds, [`Error::NonFinite`] for NaN among the scores.
pub fn gate<T: Real>(
    logits: &[T],
    bias: &[T],
    rule: &GateRule,
    round: Option<Round<T>>,
    out: Routing<'_, T>,
) -> Result<(), Error> {
    let round = round.unwrap_or(|_| {});
    rule.check()?;
    if !bias.is_empty() {
        same_length("e_score_correction_bias", bias.len(), rule.experts)?;
        if let Some(index) = bias.iter().position(|x| x.wide().is_nan()) {
            return Err(Error::NonFinite { what: "e_score_correction_bias", value: "NaN", index });
        }
    }
    let tokens = out.gap.len();
    same_length("logits", logits.len(), elements("logits", &[tokens, rule.experts])?)?;
    same_length("indices", out.indices.len(), elements("indices", &[tokens, rule.top])?)?;
    same_length("weights", out.weights.len(), elements("weights", &[tokens, rule.top])?)?;
    let per_group = rule.experts / rule.groups;
    let results = out.indices.chunks_exact_mut(rule.top).zip(out.weights.chunks_exact_mut(rule.top));
    for (token, ((indices, weights), gap)) in results.zip(out.gap.iter_mut()).enumerate() {
        let logits = &logits[token * rule.experts..][..rule.experts];
        let mut scores: Vec<T> = match rule.scoring {
            Scoring::Sigmoid => logits.iter().map(|x| sigmoid(*x)).collect(),
            Scoring::Softmax => softmax(logits),
        };
        round(&mut scores);
        let mut choice = scores.clone();
        choice.iter_mut().zip(bias).for_each(|(score, bias)| *score += *bias);
        if let Some(i) = scores.iter().position(|score| score.wide().is_nan()) {
            let index = token * rule.experts + logits.iter().position(|x| x.wide().is_nan()).unwrap_or(i);
            return Err(Error::NonFinite { what: "gate logits", value: "NaN", index });
        }
        let groups: Vec<T> = choice.chunks_exact(per_group).map(|group| best_of(group, rule.best)).collect();
        let order = ranked(&groups);
        for group in &order[rule.kept..] {
            choice[group * per_group..][..per_group].fill(T::near(rule.masked));
        }
        let best = ranked(&choice);
        *gap = least(margin(&groups, &order, rule.kept), margin(&choice, &best, rule.top));
        let mut sum = [T::zero()];
        for (place, expert) in best[..rule.top].iter().enumerate() {
            indices[place] = *expert as i64;
            weights[place] = scores[*expert];
            sum[0] += scores[*expert];
        }
        round(&mut sum);
        let divisor = if rule.normalised { sum[0] + T::near(1e-20) } else { T::one() };
        weights.iter_mut().for_each(|weight| *weight = *weight / divisor);
        round(weights);
        weights.iter_mut().for_each(|weight| *weight *= T::near(rule.factor));
        round(weights);
    }
    Ok(())
}

/// `1 / (1 + exp(-x))`, without overflow.
pub fn sigmoid<T: Real>(x: T) -> T {
    let e = (if x < T::zero() { x } else { -x }).exp();
    if x < T::zero() {
        e / (T::one() + e)
    } else {
        T::one() / (T::one() + e)
    }
}

/// `exp(x - max)` over its sum.
fn softmax<T: Real>(logits: &[T]) -> Vec<T> {
    let largest = logits.iter().fold(T::NEG_INF, |most, &x| if x > most { x } else { most });
    let mut scores: Vec<T> = logits.iter().map(|x| (*x - largest).exp()).collect();
    let mut sum = T::zero();
    scores.iter().for_each(|score| sum += *score);
    scores.iter_mut().for_each(|score| *score = *score / sum);
    scores
}

/// Indices from the largest down; among equals the lower index first. Both zeros are equal.
fn ranked<T: Real>(x: &[T]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|&a, &b| (x[b] + T::zero()).order(&(x[a] + T::zero())).then(a.cmp(&b)));
    order
}

/// The largest of a group, or the sum of its two largest (of the only one, in a group of one).
fn best_of<T: Real>(x: &[T], count: usize) -> T {
    let (mut first, mut second) = (T::NEG_INF, T::NEG_INF);
    for &x in x {
        if x > first {
            (first, second) = (x, first);
        } else if x > second {
            second = x;
        }
    }
    if x.len() == 1 || count == 1 {
        first
    } else {
        first + second
    }
}

/// By how much the last that was taken leads the first that was not.
fn margin<T: Real>(x: &[T], order: &[usize], taken: usize) -> T {
    match order.get(taken) {
        Some(&next) => x[order[taken - 1]] - x[next],
        None => -T::NEG_INF,
    }
}

fn least<T: Real>(a: T, b: T) -> T {
    if b < a {
        b
    } else {
        a
    }
}
