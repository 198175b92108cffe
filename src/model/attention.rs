//! Softmax attention of some queries over all the keys they may see, in memory that grows with the keys alone.

use super::linear::Combine;
use super::many;
use super::real::Real;
use crate::simd::{dispatch, Kernel, Lanes};
use ndarray::linalg::general_mat_mul;
use ndarray::{s, ArrayView1, ArrayView2, ArrayViewMut2};

/// Queries that are worked on together.
pub const QUERIES: usize = 64;

/// Keys and values: the part that all of them share with their neighbours in memory is up to the views.
#[derive(Clone, Copy)]
pub struct Keys<'a, T> {
    /// (positions, channels): multiplied with the first part of each query.
    pub first: ArrayView2<'a, T>,
    /// (positions, channels): multiplied with the second part.
    pub second: ArrayView2<'a, T>,
    /// (positions, channels): what is summed up.
    pub values: ArrayView2<'a, T>,
}

/// Queries of a head up to which dot products beat a matrix product, which would copy the keys.
pub const FEW: usize = 8;

/// How scores are made and summed.
#[derive(Clone, Copy)]
pub struct How<T> {
    /// Softmax scale: the factor of every score.
    pub scale: T,
    /// True: dot products replace matrix products. The caller decides, so that it does not depend on how queries are
    /// grouped.
    pub few: bool,
    /// Rounding of every result that an eager program would write: scores, scaled scores,
    /// probabilities, weighted sums.
    pub round: Round<T>,
    /// True: the two parts of a score are results of their own.
    pub apart: bool,
}

/// Positions that a query sees.
#[derive(Clone, Copy)]
pub struct Sees<'a> {
    /// The first so many.
    pub count: usize,
    /// The flagged ones of these; all of them where there are no flags.
    pub selected: Option<&'a [bool]>,
}

/// Rounds numbers in place.
pub type Round<T> = fn(&mut [T]);

/// Up to [`QUERIES`] queries, of which query `i` sees the positions `sees[i]`. Writes the weighted sums of values
/// to `out` and, where asked, the probabilities to `probs`, which has a column for every position.
pub fn attend<T: Real>(
    first: ArrayView2<'_, T>,
    second: ArrayView2<'_, T>,
    keys: &Keys<'_, T>,
    sees: &[Sees<'_>],
    how: How<T>,
    mut out: ArrayViewMut2<'_, T>,
    probs: Option<ArrayViewMut2<'_, T>>,
) {
    let seen = sees.iter().map(|sees| sees.count).max().unwrap_or(0);
    let mut p = vec![T::zero(); sees.len() * seen];
    if how.few {
        dispatch(FewScores { first, second, keys, seen: seen.max(1), p: &mut p });
    } else {
        let product = |q: ArrayView2<'_, T>, keys: ArrayView2<'_, T>, add: bool, p: &mut [T]| {
            if let Ok(mut p) = ArrayViewMut2::from_shape((sees.len(), seen), p) {
                many::product(&q, &keys.slice(s![..seen, ..]), add, &mut p);
            }
        };
        product(first, keys.first, false, &mut p);
        if how.apart {
            let mut other = vec![T::zero(); p.len()];
            product(second, keys.second, false, &mut other);
            (how.round)(&mut p);
            (how.round)(&mut other);
            p.iter_mut().zip(&other).for_each(|(p, other)| *p += *other);
        } else {
            product(second, keys.second, true, &mut p);
        }
    }
    (how.round)(&mut p);
    for (row, sees) in p.chunks_exact_mut(seen.max(1)).zip(sees) {
        let (row, beyond) = row.split_at_mut(sees.count);
        let flags = sees.selected.unwrap_or_default();
        row.iter_mut().zip(flags).filter(|(_, kept)| !**kept).for_each(|(score, _)| *score = T::NEG_INF);
        softmax(row, how.scale, how.round);
        beyond.fill(T::zero());
    }
    if let Ok(p) = ArrayView2::from_shape((sees.len(), seen), &p) {
        let values = keys.values.slice(s![..seen, ..]);
        if how.few {
            for (p, mut out) in p.rows().into_iter().zip(out.rows_mut()) {
                out.fill(T::zero());
                if let (Some(factors), Some(out)) = (p.to_slice(), out.as_slice_mut()) {
                    dispatch(Combine { factors, rows: values, out });
                }
            }
        } else {
            general_mat_mul(T::one(), &p, &values, T::zero(), &mut out);
        }
    }
    for mut out in out.rows_mut() {
        if let Some(out) = out.as_slice_mut() {
            (how.round)(out);
        }
    }
    if let Some(mut probs) = probs {
        probs.fill(T::zero());
        for (mut to, from) in probs.rows_mut().into_iter().zip(p.chunks_exact(seen.max(1))) {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        }
    }
}

#[inline(always)]
fn flat_dot<T: Real, L: Lanes>(l: L, a: ArrayView1<'_, T>, b: ArrayView1<'_, T>) -> T {
    match (a.to_slice(), b.to_slice()) {
        (Some(a), Some(b)) => many::row_product(l, a, b),
        _ => a.iter().zip(b).map(|(a, b)| *a * *b).sum(),
    }
}

/// The scores of a few queries: the products of either part with that of each key.
struct FewScores<'a, 'k, T> {
    first: ArrayView2<'a, T>,
    second: ArrayView2<'a, T>,
    keys: &'a Keys<'k, T>,
    /// Positions of a row of `p`.
    seen: usize,
    p: &'a mut [T],
}

impl<T: Real> Kernel for FewScores<'_, '_, T> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let FewScores { first, second, keys, seen, p } = self;
        for ((p, first), second) in p.chunks_exact_mut(seen).zip(first.rows()).zip(second.rows()) {
            for ((p, a), b) in p.iter_mut().zip(keys.first.rows()).zip(keys.second.rows()) {
                *p = flat_dot(l, first, a) + flat_dot(l, second, b);
            }
        }
    }
}

/// `softmax(scale * x)` in place, its input and its result rounded.
pub fn softmax<T: Real>(x: &mut [T], scale: T, round: Round<T>) {
    x.iter_mut().for_each(|x| *x *= scale);
    round(x);
    let mut largest = T::NEG_INF;
    for x in x.iter() {
        if *x > largest {
            largest = *x;
        }
    }
    let mut sum = T::zero();
    for x in x.iter_mut() {
        *x = (*x - largest).exp();
        sum += *x;
    }
    x.iter_mut().for_each(|x| *x = *x / sum);
    round(x);
}
