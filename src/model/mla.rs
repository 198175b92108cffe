//! Multi-head latent attention of one sequence over its latents.

use super::attention::{attend, How, Keys, Round, Sees, FEW, QUERIES};
use super::linear::{combine, matrix, matrix_mut, products, Combine, RowProducts};
use super::many::product;
use super::real::Real;
use super::weight::Weight;
use crate::error::{elements, same_length, Error};
use crate::interrupt::poll;
use crate::simd::dispatch;
use crate::threads::run_tasks;
use ndarray::linalg::general_mat_mul;
use ndarray::{s, ArrayView2, ArrayView3, ArrayViewMut3, Axis};
use std::borrow::Cow;

/// The sizes of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MlaShape {
    /// Heads.
    pub heads: usize,
    /// Channels of the latent.
    pub rank: usize,
    /// Channels of a query and key without position.
    pub nope: usize,
    /// Channels of a query and key with position.
    pub rope: usize,
    /// Channels of a value.
    pub v: usize,
    /// Softmax scale: the factor of every score.
    pub scale: f64,
}

impl MlaShape {
    /// Channels that are cached for a token.
    pub fn width(&self) -> usize {
        self.rank.saturating_add(self.rope)
    }

    /// Channels of a query.
    fn query(&self) -> usize {
        self.nope.saturating_add(self.rope)
    }

    /// Channels of a head's key without position, and of its value.
    fn up(&self) -> usize {
        self.nope.saturating_add(self.v)
    }
}

/// Where keys and values come from: the latents, and which of these.
#[derive(Clone, Copy, Debug)]
pub enum Up<'a, T> {
    /// The up-projection, applied to queries and results instead of to the latents.
    Absorbed(Weight<'a>),
    /// The up-projection, applied to the latents head by head.
    Naive(Weight<'a>),
    /// Its product with the latents, (positions, heads, nope + v).
    Expanded(&'a [T]),
}

/// One sequence: its new queries and all that they may see.
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'a, T> {
    /// The layer's sizes.
    pub shape: MlaShape,
    /// Positions before the new tokens, which see all of those and each other causally.
    pub past: usize,
    /// (new, heads, nope + rope), the last channels rotated.
    pub q: &'a [T],
    /// (positions, rank + rope): latents, normalised, and keys, rotated, side by side.
    pub seen: &'a [T],
    /// (new, positions): the positions that each new token attends to, of those that it may see; None: all of them.
    pub selected: Option<&'a [bool]>,
}

impl<T: Real> Sequence<'_, T> {
    /// Writes the attention of all heads to `out`, (new, heads, v), and where asked the probabilities, (new, heads,
    /// positions). `round` is what each result of an eager program passes through: expanded keys and values,
    /// scores, those times the scale, probabilities, weighted sums; where the up-projection is absorbed, its products
    /// with queries and with sums, and both parts of a score.
    ///
    /// # Errors
    /// [`Error::Length`] and [`Error::Unsupported`] where sizes do not fit each other.
    pub fn attend(
        &self,
        up: &Up<'_, T>,
        round: Option<Round<T>>,
        out: &mut [T],
        probs: Option<&mut [T]>,
    ) -> Result<(), Error> {
        let MlaShape { heads, rank, nope, rope, v, scale } = self.shape;
        if heads == 0 || rank == 0 || v == 0 || (nope == 0 && rope == 0) {
            return Err(Error::Unsupported(format!("attention: found a size of 0 in {:?}", self.shape)));
        }
        let width = elements("attention", &[heads, self.shape.query()])?;
        let new = self.q.len() / width;
        let positions = self.past.saturating_add(new);
        same_length("q", self.q.len(), new * width)?;
        same_length("seen", self.seen.len(), elements("attention", &[positions, self.shape.width()])?)?;
        same_length("out", out.len(), elements("attention", &[new, heads, v])?)?;
        if let Some(selected) = self.selected {
            same_length("selected", selected.len(), elements("attention", &[new, positions])?)?;
        }
        if new == 0 {
            return Ok(());
        }
        let parts = Parts {
            shape: self.shape,
            past: self.past,
            selected: self.selected,
            q: ArrayView3::from_shape((new, heads, self.shape.query()), self.q).map_err(layout)?,
            seen: matrix("seen", self.seen, positions, self.shape.width())?,
            scale: T::near(scale),
            round: round.unwrap_or(|_| {}),
            apart: round.is_some(),
        };
        let probs = match probs {
            Some(probs) => {
                same_length("probs", probs.len(), elements("attention", &[new, heads, positions])?)?;
                Some(ArrayViewMut3::from_shape((new, heads, positions), probs).map_err(layout)?)
            }
            None => None,
        };
        if let Up::Absorbed(w) | Up::Naive(w) = up {
            same_length("kv_b_proj rows", w.rows(), elements("attention", &[heads, self.shape.up()])?)?;
            same_length("kv_b_proj columns", w.cols(), rank)?;
        }
        if let Up::Expanded(expanded) = up {
            same_length(
                "expanded",
                expanded.len(),
                elements("attention", &[positions, heads, self.shape.up()])?,
            )?;
        }
        let out = ArrayViewMut3::from_shape((new, heads, v), out).map_err(layout)?;
        match up {
            Up::Absorbed(w) => parts.absorbed(w, out, probs),
            Up::Naive(_) | Up::Expanded(_) => parts.naive(up, out, probs),
        }
    }
}

fn layout(error: ndarray::ShapeError) -> Error {
    Error::Unsupported(format!("attention: {error}"))
}

/// A head's rows of the up-projection: (nope, rank) and (v, rank).
fn panel<'a, T: Real>(up: &Weight<'a>, shape: &MlaShape, head: usize) -> Result<Cow<'a, [T]>, Error> {
    up.panel(head * shape.up(), (head + 1) * shape.up())
}

/// A sequence, its sizes checked.
struct Parts<'a, T> {
    shape: MlaShape,
    past: usize,
    selected: Option<&'a [bool]>,
    q: ArrayView3<'a, T>,
    seen: ArrayView2<'a, T>,
    scale: T,
    round: Round<T>,
    /// True: an absorbed score is the sum of two parts that are each rounded first.
    apart: bool,
}

impl<T: Real> Parts<'_, T> {
    fn fresh(&self) -> usize {
        self.q.len_of(Axis(0))
    }

    /// Positions that a new token sees.
    fn sees(&self, token: usize) -> Sees<'_> {
        let positions = self.seen.nrows();
        let selected = self.selected.map(|flags| &flags[token * positions..][..positions]);
        Sees { count: self.past + token + 1, selected }
    }

    /// Rough count of operations, to decide whether threads pay.
    fn work(&self) -> usize {
        let MlaShape { heads, rank, .. } = self.shape;
        heads * (self.fresh() * self.seen.nrows() * self.shape.width() + self.shape.up() * rank)
    }

    /// A head's keys and values, (positions, nope) and (positions, v), made in `room` unless they are there.
    fn expanded<'s>(
        &self,
        up: &'s Up<'_, T>,
        head: usize,
        room: &'s mut [Vec<T>; 2],
    ) -> Result<[ArrayView2<'s, T>; 2], Error> {
        let MlaShape { heads, rank, nope, v, .. } = self.shape;
        let positions = self.seen.nrows();
        match up {
            Up::Expanded(all) => {
                let all = matrix("expanded", all, positions, heads * self.shape.up())?;
                let (from, middle) = (head * self.shape.up(), head * self.shape.up() + nope);
                Ok([all.slice_move(s![.., from..middle]), all.slice_move(s![.., middle..middle + v])])
            }
            Up::Absorbed(w) | Up::Naive(w) => {
                let panel = panel::<T>(w, &self.shape, head)?;
                let panel = matrix("kv_b_proj", &panel, nope + v, rank)?;
                let latent = self.seen.slice(s![.., ..rank]);
                let (keys, values) = panel.split_at(Axis(0), nope);
                for (up, to) in [keys, values].into_iter().zip(room.iter_mut()) {
                    to.resize(positions * up.nrows(), T::zero());
                    let mut to2 = matrix_mut("keys", to, positions, up.nrows())?;
                    product(&latent, &up, false, &mut to2);
                    (self.round)(to);
                }
                let [keys, values] = room;
                Ok([matrix("keys", keys, positions, nope)?, matrix("values", values, positions, v)?])
            }
        }
    }

    /// Keys and values of each head in turn.
    fn naive(
        &self,
        up: &Up<'_, T>,
        mut out: ArrayViewMut3<'_, T>,
        mut probs: Option<ArrayViewMut3<'_, T>>,
    ) -> Result<(), Error> {
        let MlaShape { heads, rank, nope, .. } = self.shape;
        let how = How { scale: self.scale, few: self.fresh() <= FEW, round: self.round, apart: false };
        let mut rows: Vec<_> = match &mut probs {
            Some(probs) => probs.axis_iter_mut(Axis(1)).map(Some).collect(),
            None => (0..heads).map(|_| None).collect(),
        };
        let tasks: Vec<_> = out.axis_iter_mut(Axis(1)).zip(rows.drain(..)).enumerate().collect();
        let done = run_tasks(self.work().saturating_mul(2), tasks, |(head, (mut out, mut probs))| {
            let mut room = [Vec::new(), Vec::new()];
            let [first, values] = self.expanded(up, head, &mut room)?;
            let keys = Keys { first, second: self.seen.slice(s![.., rank..]), values };
            let q = self.q.index_axis(Axis(1), head);
            let mut from = 0;
            for mut out in out.axis_chunks_iter_mut(Axis(0), QUERIES) {
                poll();
                let to = from + out.nrows();
                let (first, second) = q.slice_move(s![from..to, ..]).split_at(Axis(1), nope);
                let sees: Vec<_> = (from..to).map(|token| self.sees(token)).collect();
                let probs = probs.as_mut().map(|p| p.slice_mut(s![from..to, ..]));
                attend(first, second, &keys, &sees, how, out.view_mut(), probs);
                from = to;
            }
            Ok(())
        });
        done.into_iter().collect()
    }

    /// All heads over the latents themselves.
    fn absorbed(
        &self,
        up: &Weight<'_>,
        mut out: ArrayViewMut3<'_, T>,
        mut probs: Option<ArrayViewMut3<'_, T>>,
    ) -> Result<(), Error> {
        let MlaShape { heads, rank, nope, v, .. } = self.shape;
        let (new, queries) = (self.fresh(), self.fresh() * heads);
        let mut absorbed = vec![T::zero(); queries * rank];
        let mut split = ArrayViewMut3::from_shape((new, heads, rank), &mut absorbed).map_err(layout)?;
        let tasks: Vec<_> = split.axis_iter_mut(Axis(1)).enumerate().collect();
        let done = run_tasks(self.work(), tasks, |(head, mut to)| {
            let q = self.q.index_axis(Axis(1), head);
            let mut rows = q.rows().into_iter().zip(to.rows_mut());
            let coded = new <= FEW
                && rows.all(|(q, mut to)| match (q.to_slice(), to.as_slice_mut()) {
                    (Some(q), Some(to)) => combine(up, head * self.shape.up(), &q[..nope], to),
                    _ => false,
                });
            if coded {
                return Ok(());
            }
            let panel = panel::<T>(up, &self.shape, head)?;
            let up_k = matrix("kv_b_proj", &panel[..nope * rank], nope, rank)?;
            if new > FEW {
                let q = q.slice(s![.., ..nope]);
                general_mat_mul(T::one(), &q, &up_k, T::zero(), &mut to);
                return Ok(());
            }
            for (q, mut to) in q.rows().into_iter().zip(to.rows_mut()) {
                if let (Some(q), Some(out)) = (q.to_slice(), to.as_slice_mut()) {
                    dispatch(Combine { factors: &q[..nope], rows: up_k, out });
                }
            }
            Ok(())
        });
        done.into_iter().collect::<Result<(), Error>>()?;
        (self.round)(&mut absorbed);

        let (latent, k_pe) = self.seen.split_at(Axis(1), rank);
        let keys = Keys { first: latent, second: k_pe, values: latent };
        let how = How { scale: self.scale, few: false, round: self.round, apart: self.apart };
        let first = matrix("queries", &absorbed, queries, rank)?;
        let second = self.q.to_shape((queries, self.shape.query())).map_err(layout)?;
        let second = second.slice(s![.., nope..]);
        let mut sums = vec![T::zero(); queries * rank];
        let mut sums2 = matrix_mut("sums", &mut sums, queries, rank)?;
        let mut flat = match &mut probs {
            Some(probs) => {
                let positions = probs.len_of(Axis(2));
                let rows = probs.as_slice_mut().unwrap_or_default();
                Some(matrix_mut("probs", rows, queries, positions)?)
            }
            None => None,
        };
        let mut rows: Vec<_> = match &mut flat {
            Some(flat) => flat.axis_chunks_iter_mut(Axis(0), QUERIES).map(Some).collect(),
            None => (0..queries.div_ceil(QUERIES)).map(|_| None).collect(),
        };
        let tasks: Vec<_> =
            sums2.axis_chunks_iter_mut(Axis(0), QUERIES).zip(rows.drain(..)).enumerate().collect();
        run_tasks(self.work(), tasks, |(i, (out, probs))| {
            let (from, to) = (i * QUERIES, i * QUERIES + out.nrows());
            let (first, second) = (first.slice(s![from..to, ..]), second.slice(s![from..to, ..]));
            // Queries stand token by token, the heads of a token side by side.
            let sees: Vec<_> = (from..to).map(|row| self.sees(row / heads)).collect();
            attend(first, second, &keys, &sees, how, out, probs);
        });

        let sums = ArrayView3::from_shape((new, heads, rank), &sums).map_err(layout)?;
        let tasks: Vec<_> = out.axis_iter_mut(Axis(1)).enumerate().collect();
        let done = run_tasks(self.work(), tasks, |(head, mut to)| {
            let sums = sums.index_axis(Axis(1), head);
            let mut rows = sums.rows().into_iter().zip(to.axis_chunks_iter_mut(Axis(0), 1));
            let coded = new <= FEW
                && rows.all(|(sums, mut to)| {
                    let from = head * self.shape.up() + nope;
                    sums.to_slice().is_some_and(|sums| products(up, from, sums, &mut to))
                });
            if coded {
                return Ok(());
            }
            let panel = panel::<T>(up, &self.shape, head)?;
            let up_v = &panel[nope * rank..];
            if new > FEW {
                product(&sums, &matrix("up", up_v, v, rank)?, false, &mut to);
            } else {
                for (sums, mut to) in sums.rows().into_iter().zip(to.rows_mut()) {
                    if let Some(sums) = sums.to_slice() {
                        dispatch(RowProducts {
                            rows: up_v,
                            x: sums,
                            out: to.as_slice_mut().unwrap_or_default(),
                        });
                    }
                }
            }
            Ok(())
        });
        done.into_iter().collect::<Result<(), Error>>()?;
        (self.round)(out.as_slice_mut().unwrap_or_default());
        Ok(())
    }
}
