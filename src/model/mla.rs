//! Multi-head latent attention over a cache of latents.

use super::attention::{attend, Keys, FEW, QUERIES};
use super::linear::{linear, matrix, matrix_mut, Combine, Rows};
use super::norm::rms_norm;
use super::real::Real;
use super::rope::Rope;
use super::weight::{Data, Weight};
use crate::error::{same_length, Error};
use crate::simd::{dispatch, f64_to_f32_odd};
use crate::threads::run_tasks;
use ndarray::linalg::general_mat_mul;
use ndarray::{s, ArrayView2, ArrayView3, ArrayViewMut2, ArrayViewMut3, Axis};
use std::borrow::Cow;
use std::ops::Range;

/// The sizes and settings of an attention layer.
#[derive(Clone, Debug, PartialEq)]
pub struct MlaShape {
    /// Heads.
    pub heads: usize,
    /// Channels of the latent.
    pub rank: usize,
    /// Channels of a query and key without position.
    pub nope: usize,
    /// Channels of a query and key with position.
    pub rope_dim: usize,
    /// Channels of a value.
    pub v: usize,
    /// Of the norms.
    pub eps: f64,
    /// How positions turn channels.
    pub rope: Rope,
}

impl MlaShape {
    /// Channels that are cached for a token.
    pub fn width(&self) -> usize {
        self.rank + self.rope_dim
    }

    /// What attention logits are multiplied by.
    pub fn scale(&self) -> f64 {
        self.rope.temperature / ((self.nope + self.rope_dim) as f64).sqrt()
    }
}

/// How queries are made.
#[derive(Clone, Copy, Debug)]
pub enum Query<'a, T> {
    /// By one matrix.
    Direct(Weight<'a>),
    /// Through a narrow, normalised vector.
    Compressed {
        /// Down to it.
        down: Weight<'a>,
        /// Its norm.
        norm: &'a [T],
        /// Up from it.
        up: Weight<'a>,
    },
}

/// The weights of an attention layer.
#[derive(Clone, Copy, Debug)]
pub struct MlaWeights<'a, T> {
    /// To queries.
    pub query: Query<'a, T>,
    /// To the latent and the rotary key.
    pub kv_down: Weight<'a>,
    /// The latent's norm.
    pub kv_norm: &'a [T],
    /// From the latent to keys and values of all heads.
    pub kv_up: Weight<'a>,
    /// From all heads to the output.
    pub out: Weight<'a>,
}

/// The cache of a batch, (batch, capacity, width): latents, normalised, and keys, rotated, side by side.
#[derive(Debug)]
pub enum Cache<'a> {
    /// In float32.
    F32(&'a mut [f32]),
    /// In float64.
    F64(&'a mut [f64]),
    /// In bfloat16, rounded to nearest even.
    Bf16(&'a mut [u16]),
}

impl Cache<'_> {
    fn len(&self) -> usize {
        match self {
            Cache::F32(x) => x.len(),
            Cache::F64(x) => x.len(),
            Cache::Bf16(x) => x.len(),
        }
    }

    fn put<T: Real>(&mut self, at: usize, x: &[T]) {
        match self {
            Cache::F32(to) => to[at..][..x.len()].iter_mut().zip(x).for_each(|(to, x)| *to = x.wide() as f32),
            Cache::F64(to) => to[at..][..x.len()].iter_mut().zip(x).for_each(|(to, x)| *to = x.wide()),
            Cache::Bf16(to) => to[at..][..x.len()].iter_mut().zip(x).for_each(|(to, x)| *to = bf16(x.wide())),
        }
    }

    fn get<T: Real>(&self, range: Range<usize>) -> Cow<'_, [T]> {
        match self {
            Cache::F32(x) => Data::F32(x).numbers(range),
            Cache::F64(x) => Data::F64(x).numbers(range),
            Cache::Bf16(x) => Data::Bf16(x).numbers(range),
        }
    }
}

/// Nearest even, rounded once.
fn bf16(x: f64) -> u16 {
    let bits = f64_to_f32_odd(x).to_bits();
    if x.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) as u16
}

/// New tokens, and where results go.
pub struct Call<'a, T> {
    /// (batch, new, channels).
    pub x: &'a [T],
    /// New tokens of each sequence.
    pub new: usize,
    /// Tokens of each sequence that the cache holds.
    pub past: &'a [usize],
    /// Tokens of a sequence that the cache has room for.
    pub capacity: usize,
    /// Whether the up-projections are applied to queries and results instead of to the cache.
    pub absorbed: bool,
    /// (batch, new, channels).
    pub out: &'a mut [T],
    /// (batch, new, heads, v): before the output projection.
    pub heads: &'a mut [T],
    /// (batch, new, heads, positions), where asked for, with room for the longest sequence.
    pub probs: Option<&'a mut [T]>,
}

/// Attention of new tokens, which see the cached ones and each other causally and are added to the cache.
///
/// # Errors
/// [`Error::Length`] and [`Error::Unsupported`] where sizes do not fit each other.
pub fn mla<T: Real>(
    shape: &MlaShape,
    w: &MlaWeights<'_, T>,
    cache: &mut Cache<'_>,
    call: Call<'_, T>,
) -> Result<(), Error> {
    let Call { x, new, past, capacity, absorbed, out, heads, mut probs } = call;
    let tokens = past.len() * new;
    let (width, head_q) = (shape.width(), shape.nope + shape.rope_dim);
    check(shape, w)?;
    same_length("cache", cache.len(), past.len() * capacity * width)?;
    same_length("heads", heads.len(), tokens * shape.heads * shape.v)?;
    if let Some(full) = past.iter().find(|past| **past + new > capacity) {
        return Err(Error::Unsupported(format!(
            "cache: found room for {capacity} tokens, expected at least {full} cached + {new} new"
        )));
    }
    let longest = past.iter().max().map_or(0, |past| past + new);
    if let Some(probs) = &probs {
        same_length("probs", probs.len(), tokens * shape.heads * longest)?;
    }
    let mut q = vec![T::zero(); tokens * shape.heads * head_q];
    match &w.query {
        Query::Direct(w) => linear(x, tokens, w, &mut q)?,
        Query::Compressed { down, norm, up } => {
            let mut narrow = vec![T::zero(); tokens * down.rows()];
            linear(x, tokens, down, &mut narrow)?;
            let mut normed = vec![T::zero(); narrow.len()];
            rms_norm(&narrow, norm, shape.eps, &mut normed)?;
            linear(&normed, tokens, up, &mut q)?;
        }
    }
    let mut joint = vec![T::zero(); tokens * width];
    linear(x, tokens, &w.kv_down, &mut joint)?;
    let mut latent = vec![T::zero(); shape.rank];
    for (b, past) in past.iter().enumerate() {
        for t in 0..new {
            let (token, position) = (b * new + t, past + t);
            let turn = shape.rope.turn::<T>(position);
            for head in q[token * shape.heads * head_q..][..shape.heads * head_q].chunks_exact_mut(head_q) {
                shape.rope.rotate(&mut head[shape.nope..], &turn);
            }
            let (compressed, key) = joint[token * width..][..width].split_at_mut(shape.rank);
            rms_norm(compressed, w.kv_norm, shape.eps, &mut latent)?;
            compressed.copy_from_slice(&latent);
            shape.rope.rotate(key, &turn);
            cache.put((b * capacity + position) * width, &joint[token * width..][..width]);
        }
    }
    let (per_q, per_out) = (new * shape.heads * head_q, new * shape.heads * shape.v);
    for (b, past) in past.iter().enumerate() {
        let begin = b * capacity * width;
        let seen = cache.get::<T>(begin..begin + (past + new) * width);
        let sequence = Sequence {
            shape,
            up: &w.kv_up,
            new,
            past: *past,
            q: ArrayView3::from_shape((new, shape.heads, head_q), &q[b * per_q..][..per_q])
                .map_err(layout)?,
            seen: matrix("cache", &seen, past + new, width)?,
        };
        let size = (new, shape.heads, shape.v);
        let out = ArrayViewMut3::from_shape(size, &mut heads[b * per_out..][..per_out]).map_err(layout)?;
        let per_probs = new * shape.heads * longest;
        let probs = match &mut probs {
            Some(probs) => {
                let rows = &mut probs[b * per_probs..][..per_probs];
                Some(ArrayViewMut3::from_shape((new, shape.heads, longest), rows).map_err(layout)?)
            }
            None => None,
        };
        if absorbed {
            sequence.absorbed(out, probs)?;
        } else {
            sequence.naive(out, probs)?;
        }
    }
    linear(heads, tokens, &w.out, out)
}

fn layout(error: ndarray::ShapeError) -> Error {
    Error::Unsupported(format!("attention: {error}"))
}

fn check<T: Real>(shape: &MlaShape, w: &MlaWeights<'_, T>) -> Result<(), Error> {
    if shape.heads == 0 || shape.rank == 0 || shape.v == 0 || shape.nope + shape.rope_dim == 0 {
        return Err(Error::Unsupported(format!("attention: found a size of 0 in {shape:?}")));
    }
    if shape.rope.frequencies.len() * 2 != shape.rope_dim {
        return Err(Error::Unsupported(format!(
            "qk_rope_head_dim: found {}, expected an even number",
            shape.rope_dim
        )));
    }
    same_length("kv_a_proj_with_mqa", w.kv_down.rows(), shape.width())?;
    same_length("kv_a_layernorm", w.kv_norm.len(), shape.rank)?;
    same_length("kv_b_proj rows", w.kv_up.rows(), shape.heads * (shape.nope + shape.v))?;
    same_length("kv_b_proj columns", w.kv_up.cols(), shape.rank)?;
    same_length("o_proj", w.out.cols(), shape.heads * shape.v)?;
    let queries = match &w.query {
        Query::Direct(w) => w.rows(),
        Query::Compressed { up, down, norm } => {
            same_length("q_a_layernorm", norm.len(), down.rows())?;
            same_length("q_b_proj columns", up.cols(), down.rows())?;
            up.rows()
        }
    };
    same_length("query projection", queries, shape.heads * (shape.nope + shape.rope_dim))
}

/// One sequence: its new queries, rotated, and all that they may see.
struct Sequence<'a, T> {
    shape: &'a MlaShape,
    up: &'a Weight<'a>,
    new: usize,
    past: usize,
    /// (new, heads, nope + rope).
    q: ArrayView3<'a, T>,
    /// (past + new, rank + rope).
    seen: ArrayView2<'a, T>,
}

impl<T: Real> Sequence<'_, T> {
    /// Rough count of operations, to decide whether threads pay.
    fn work(&self) -> usize {
        self.shape.heads * self.new * self.seen.nrows() * self.shape.width() + self.up.rows() * self.up.cols()
    }

    /// The two halves of a head's up-projection: (nope, rank) and (v, rank).
    fn panel(&self, head: usize) -> Result<Cow<'_, [T]>, Error> {
        let rows = self.shape.nope + self.shape.v;
        self.up.panel::<T>(head * rows, (head + 1) * rows)
    }

    /// Keys and values of each head in turn.
    fn naive(
        &self,
        mut out: ArrayViewMut3<'_, T>,
        mut probs: Option<ArrayViewMut3<'_, T>>,
    ) -> Result<(), Error> {
        let MlaShape { heads, rank, nope, v, .. } = *self.shape;
        let (latent, k_pe) = self.seen.split_at(Axis(1), rank);
        let positions = self.seen.nrows();
        let mut rows: Vec<_> = match &mut probs {
            Some(probs) => probs.axis_iter_mut(Axis(1)).map(Some).collect(),
            None => (0..heads).map(|_| None).collect(),
        };
        let tasks: Vec<_> = out.axis_iter_mut(Axis(1)).zip(rows.drain(..)).enumerate().collect();
        let done = run_tasks(self.work().saturating_mul(2), tasks, |(head, (mut out, mut probs))| {
            let panel = self.panel(head)?;
            let panel = matrix("kv_b_proj", &panel, nope + v, rank)?;
            let (up_k, up_v) = panel.split_at(Axis(0), nope);
            let (mut keys, mut values) = (vec![T::zero(); positions * nope], vec![T::zero(); positions * v]);
            let product = |w: ArrayView2<'_, T>, to: &mut ArrayViewMut2<'_, T>| {
                general_mat_mul(T::one(), &latent, &w.t(), T::zero(), to);
            };
            product(up_k, &mut matrix_mut("keys", &mut keys, positions, nope)?);
            product(up_v, &mut matrix_mut("values", &mut values, positions, v)?);
            let keys = Keys {
                first: matrix("keys", &keys, positions, nope)?,
                second: k_pe,
                values: matrix("values", &values, positions, v)?,
            };
            let q = self.q.index_axis(Axis(1), head);
            let mut from = 0;
            for mut out in out.axis_chunks_iter_mut(Axis(0), QUERIES) {
                let to = from + out.nrows();
                let (first, second) = q.slice_move(s![from..to, ..]).split_at(Axis(1), nope);
                let sees: Vec<usize> = (from..to).map(|t| self.past + t + 1).collect();
                let probs = probs.as_mut().map(|p| p.slice_mut(s![from..to, ..]));
                let scale = T::near(self.shape.scale());
                attend(first, second, &keys, &sees, scale, self.new <= FEW, out.view_mut(), probs);
                from = to;
            }
            Ok(())
        });
        done.into_iter().collect()
    }

    /// All heads over the latents themselves.
    fn absorbed(
        &self,
        mut out: ArrayViewMut3<'_, T>,
        mut probs: Option<ArrayViewMut3<'_, T>>,
    ) -> Result<(), Error> {
        let MlaShape { heads, rank, nope, v, .. } = *self.shape;
        let queries = self.new * heads;
        let mut absorbed = vec![T::zero(); queries * rank];
        let mut split = ArrayViewMut3::from_shape((self.new, heads, rank), &mut absorbed).map_err(layout)?;
        let tasks: Vec<_> = split.axis_iter_mut(Axis(1)).enumerate().collect();
        let done = run_tasks(self.work(), tasks, |(head, mut to)| {
            let panel = self.panel(head)?;
            let up_k = &panel[..nope * rank];
            let q = self.q.index_axis(Axis(1), head);
            if self.new > FEW {
                let q = q.slice(s![.., ..nope]);
                general_mat_mul(T::one(), &q, &matrix("up", up_k, nope, rank)?, T::zero(), &mut to);
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

        let (latent, k_pe) = self.seen.split_at(Axis(1), rank);
        let keys = Keys { first: latent, second: k_pe, values: latent };
        let first = matrix("queries", &absorbed, queries, rank)?;
        let second = self.q.to_shape((queries, nope + self.shape.rope_dim)).map_err(layout)?;
        let second = second.slice(s![.., nope..]);
        let mut sums = vec![T::zero(); queries * rank];
        let mut sums2 = matrix_mut("sums", &mut sums, queries, rank)?;
        let mut flat = match &mut probs {
            Some(probs) => {
                let longest = probs.len_of(Axis(2));
                let rows = probs.as_slice_mut().unwrap_or_default();
                Some(matrix_mut("probs", rows, queries, longest)?)
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
            let sees: Vec<usize> = (from..to).map(|row| self.past + row / heads + 1).collect();
            attend(first, second, &keys, &sees, T::near(self.shape.scale()), false, out, probs);
        });

        let sums = ArrayView3::from_shape((self.new, heads, rank), &sums).map_err(layout)?;
        let tasks: Vec<_> = out.axis_iter_mut(Axis(1)).enumerate().collect();
        let done = run_tasks(self.work(), tasks, |(head, mut to)| {
            let panel = self.panel(head)?;
            let up_v = &panel[nope * rank..];
            let sums = sums.index_axis(Axis(1), head);
            if self.new > FEW {
                general_mat_mul(T::one(), &sums, &matrix("up", up_v, v, rank)?.t(), T::zero(), &mut to);
                return Ok(());
            }
            for (sums, mut to) in sums.rows().into_iter().zip(to.rows_mut()) {
                if let Some(sums) = sums.to_slice() {
                    dispatch(Rows { rows: up_v, x: sums, out: to.as_slice_mut().unwrap_or_default() });
                }
            }
            Ok(())
        });
        done.into_iter().collect()
    }
}
