//! The layers of the reference forward.

use super::array::{readonly, readwrite, HeldInput, Object, Slice, SliceMut};
use super::{detached, type_error};
use crate::formats::{bfloat16, Format};
use crate::model::{
    self, Data, ExpertOrder, ExpertOutputs, GateRule, IndexShape, MlaShape, Real, Rope, Round, Routing,
    Scoring, Selection, Sequence, Up, Yarn,
};
use numpy::PyReadonlyArray1;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// Runs a body with `T` standing for the type of an argument, float32 or float64.
macro_rules! each_real {
    ($name:ident, $t:ident => $body:expr) => {
        if $name.cast::<numpy::PyArray1<f32>>().is_ok() {
            type $t = f32;
            $body
        } else if $name.cast::<numpy::PyArray1<f64>>().is_ok() {
            type $t = f64;
            $body
        } else {
            let told = crate::bindings::array::wrong($name, "float32 or float64");
            Err(type_error(format!("{}: {told}", stringify!($name))))
        }
    };
}
pub(super) use each_real;

/// A matrix as a checkpoint holds it. It keeps the arrays alive; nothing is copied.
#[pyclass(frozen, module = "dsv3_numerics._core")]
pub struct Weight {
    array: Py<PyAny>,
    dtype: String,
    shape: (usize, usize),
    scaling: Option<Scaling>,
}

/// Scales of codes.
struct Scaling {
    scales: Py<PyAny>,
    block: [usize; 2],
    rounded: bool,
}

#[pymethods]
impl Weight {
    /// dtype names a float type, or the format of codes that come with scales.
    #[new]
    #[pyo3(signature = (array, dtype, rows, cols, scales=None, block=[1, 1], rounded=false))]
    fn new(
        py: Python<'_>,
        array: Py<PyAny>,
        dtype: String,
        rows: usize,
        cols: usize,
        scales: Option<Py<PyAny>>,
        block: [usize; 2],
        rounded: bool,
    ) -> PyResult<Weight> {
        let scaling = scales.map(|scales| Scaling { scales, block, rounded });
        let weight = Weight { array, dtype, shape: (rows, cols), scaling };
        weight.hold(py)?.view()?;
        Ok(weight)
    }

    #[getter]
    fn shape(&self) -> (usize, usize) {
        self.shape
    }

    /// The matrix, widened to out's type.
    fn numbers(&self, py: Python<'_>, out: &Object<'_>) -> PyResult<()> {
        each_real!(out, T => {
            let (held, mut out) = (self.hold(py)?, readwrite::<T>("out", out)?);
            let (weight, out) = (held.view()?, out.as_slice_mut()?);
            crate::error::same_length("out", out.len(), weight.rows() * weight.cols())?;
            detached(py, || weight.panel::<T>(0, weight.rows()).map(|x| out.copy_from_slice(&x)))
        })
    }
}

enum Numbers<'py> {
    Plain(HeldInput<'py>),
    Scaled {
        codes: PyReadonlyArray1<'py, u8>,
        format: &'static Format,
        scales: PyReadonlyArray1<'py, f32>,
        block: [usize; 2],
        rounded: bool,
    },
}

/// A weight whose arrays are held for reading.
pub struct HeldWeight<'py> {
    numbers: Numbers<'py>,
    shape: (usize, usize),
}

impl Weight {
    pub fn hold<'py>(&self, py: Python<'py>) -> PyResult<HeldWeight<'py>> {
        let (array, dtype) = (self.array.bind(py), &self.dtype);
        let numbers = match &self.scaling {
            None => Numbers::Plain(HeldInput::new("weight", array, dtype)?),
            Some(Scaling { scales, block, rounded }) => Numbers::Scaled {
                scales: readonly("scales", scales.bind(py))?,
                codes: readonly("weight", array)?,
                format: Format::by_name(dtype)?,
                block: *block,
                rounded: *rounded,
            },
        };
        Ok(HeldWeight { numbers, shape: self.shape })
    }
}

impl HeldWeight<'_> {
    pub fn view(&self) -> PyResult<model::Weight<'_>> {
        let data = match &self.numbers {
            Numbers::Plain(numbers) => Data::Plain(numbers.view()?),
            Numbers::Scaled { codes, format, scales, block, rounded } => {
                let (codes, scales) = (codes.as_slice()?, scales.as_slice()?);
                Data::Scaled { codes, format, scales, block: *block, rounded: *rounded }
            }
        };
        Ok(model::Weight::new(self.shape.0, self.shape.1, data)?)
    }
}

/// Each row of x over its root mean square, times weight.
#[pyfunction]
fn rms_norm(
    py: Python<'_>,
    x: &Object<'_>,
    weight: &Bound<'_, Weight>,
    eps: f64,
    bfloat16: bool,
    out: &Object<'_>,
) -> PyResult<()> {
    let weight = weight.get().hold(py)?;
    each_real!(x, T => {
        let (x, mut out) = (readonly::<T>("x", x)?, readwrite::<T>("out", out)?);
        let (x, w, out) = (x.as_slice()?, weight.view()?, out.as_slice_mut()?);
        let round = rounding::<T>(bfloat16)?;
        detached(py, || w.panel::<T>(0, w.rows()).and_then(|w| model::rms_norm(x, &w, eps, round, out)))
    })
}

/// Each row of x less its mean, over its standard deviation, times weight, plus bias.
#[pyfunction]
fn layer_norm(
    py: Python<'_>,
    x: &Object<'_>,
    weight: &Bound<'_, Weight>,
    bias: &Bound<'_, Weight>,
    eps: f64,
    bfloat16: bool,
    out: &Object<'_>,
) -> PyResult<()> {
    let (weight, bias) = (weight.get().hold(py)?, bias.get().hold(py)?);
    each_real!(x, T => {
        let (x, mut out) = (readonly::<T>("x", x)?, readwrite::<T>("out", out)?);
        let (w, b) = (vector::<T>(&weight)?, vector::<T>(&bias)?);
        let (x, out) = (x.as_slice()?, out.as_slice_mut()?);
        let round = rounding::<T>(bfloat16)?;
        detached(py, || model::layer_norm(x, (&w, &b), eps, round, out))
    })
}

/// The settings of rotary embedding: rope_dim, theta, interleaved, and yarn's six numbers or None.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct RopeSettings {
    dim: usize,
    theta: f64,
    interleaved: bool,
    yarn: Option<(f64, f64, f64, f64, f64, f64)>,
}

impl RopeSettings {
    fn rope(&self) -> PyResult<Rope> {
        let yarn = self.yarn.map(|(factor, beta_fast, beta_slow, mscale, mscale_all_dim, original)| Yarn {
            factor,
            beta_fast,
            beta_slow,
            mscale,
            mscale_all_dim,
            original,
        });
        Ok(Rope::new(self.dim, self.theta, yarn, self.interleaved)?)
    }
}

/// Radians per position of each pair of channels; amplitude; factor of the softmax scale.
#[pyfunction]
fn rope_frequencies(settings: RopeSettings) -> PyResult<(Vec<f64>, f64, f64)> {
    let Rope { frequencies, amplitude, temperature, .. } = settings.rope()?;
    Ok((frequencies, amplitude, temperature))
}

/// Where tokens stand.
#[derive(FromPyObject)]
enum Positions<'py> {
    #[pyo3(transparent)]
    Array(PyReadonlyArray1<'py, i64>),
    #[pyo3(transparent)]
    List(Vec<usize>),
}

impl Positions<'_> {
    fn numbers(self) -> PyResult<Vec<usize>> {
        match self {
            Positions::List(list) => Ok(list),
            Positions::Array(array) => {
                let number = |p: &i64| usize::try_from(*p).map_err(|_| *p);
                array.as_slice()?.iter().map(number).collect::<Result<_, _>>().map_err(|found| {
                    PyValueError::new_err(format!("positions: found {found}, expected 0 or more"))
                })
            }
        }
    }
}

/// Turns the last channels of every head of x, (tokens, heads, width), in place.
#[pyfunction]
fn rotate(
    py: Python<'_>,
    x: &Object<'_>,
    settings: RopeSettings,
    positions: Positions<'_>,
    heads: usize,
    width: usize,
    bfloat16: bool,
) -> PyResult<()> {
    let (rope, positions) = (settings.rope()?, positions.numbers()?);
    each_real!(x, T => {
        let mut x = readwrite::<T>("x", x)?;
        let x = x.as_slice_mut()?;
        let round = rounding::<T>(bfloat16)?;
        detached(py, || rope.rotate_all(x, &positions, heads, width, round))
    })
}

/// The sizes of an attention layer.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct MlaSettings {
    heads: usize,
    rank: usize,
    nope: usize,
    v: usize,
    rope: RopeSettings,
}

impl MlaSettings {
    fn shape(&self) -> PyResult<MlaShape> {
        let MlaSettings { heads, rank, nope, v, ref rope } = *self;
        let scale = rope.rope()?.temperature / (nope.saturating_add(rope.dim) as f64).sqrt();
        Ok(MlaShape { heads, rank, nope, rope: rope.dim, v, scale })
    }
}

/// The rounding to bfloat16, where asked.
pub fn rounding<T: Real>(bfloat16: bool) -> PyResult<Option<Round<T>>> {
    if bfloat16 && T::ROUND_BFLOAT16.is_none() {
        return Err(type_error("dtype: found float64, expected float32 for bfloat16".to_owned()));
    }
    Ok(T::ROUND_BFLOAT16.filter(|_| bfloat16))
}

/// Attention of a sequence's new tokens to the past ones and, causally, to each other.
#[pyfunction]
fn attend(
    py: Python<'_>,
    q: &Object<'_>,
    seen: &Object<'_>,
    settings: MlaSettings,
    past: usize,
    absorbed: bool,
    kv_b: Option<&Bound<'_, Weight>>,
    expanded: Option<&Object<'_>>,
    bfloat16: bool,
    out: &Object<'_>,
    probs: Option<&Object<'_>>,
    selected: Option<Slice<'_, bool>>,
) -> PyResult<()> {
    let shape = settings.shape()?;
    let kv_b = kv_b.map(|w| w.get().hold(py)).transpose()?;
    each_real!(q, T => {
        let (q, seen) = (readonly::<T>("q", q)?, readonly::<T>("seen", seen)?);
        let expanded = expanded.map(|x| readonly::<T>("expanded", x)).transpose()?;
        let mut out = readwrite::<T>("out", out)?;
        let mut probs = probs.map(|p| readwrite::<T>("probs", p)).transpose()?;
        let up = match (&kv_b, &expanded) {
            (Some(w), None) if absorbed => Up::Absorbed(w.view()?),
            (Some(w), None) => Up::Naive(w.view()?),
            (None, Some(x)) if !absorbed => Up::Expanded(x.as_slice()?),
            _ => return Err(type_error("attend: expected kv_b or, unless absorbed, expanded".to_owned())),
        };
        let (q, seen, out) = (q.as_slice()?, seen.as_slice()?, out.as_slice_mut()?);
        let probs = probs.as_mut().map(|p| p.as_slice_mut()).transpose()?;
        let round = rounding::<T>(bfloat16)?;
        let selected = selected.as_ref().map(Slice::view).transpose()?;
        let sequence = Sequence { shape, past, q, seen, selected };
        detached(py, || sequence.attend(&up, round, out, probs))
    })
}

/// Scores of an indexer: q (new, heads, channels) against k (positions, channels), weighted by w (new, heads).
#[pyfunction]
fn index_scores(
    py: Python<'_>,
    q: &Object<'_>,
    k: &Object<'_>,
    w: &Object<'_>,
    shape: (usize, usize, usize),
    scale: f64,
    out: &Object<'_>,
) -> PyResult<()> {
    let (heads, channels, past) = shape;
    let shape = IndexShape { heads, channels, past };
    each_real!(q, T => {
        let (q, k) = (readonly::<T>("q", q)?, readonly::<T>("k", k)?);
        let (w, mut out) = (readonly::<T>("w", w)?, readwrite::<T>("out", out)?);
        let (q, k, w, out) = (q.as_slice()?, k.as_slice()?, w.as_slice()?, out.as_slice_mut()?);
        detached(py, || model::index_scores(q, k, w, shape, scale, out))
    })
}

/// The largest scores of each new token, as flags over positions.
#[pyfunction]
fn select(
    py: Python<'_>,
    scores: &Object<'_>,
    past: usize,
    top: usize,
    mut flags: SliceMut<'_, bool>,
    gap: &Object<'_>,
) -> PyResult<()> {
    each_real!(scores, T => {
        let (scores, mut gap) = (readonly::<T>("scores", scores)?, readwrite::<T>("gap", gap)?);
        let scores = scores.as_slice()?;
        let out = Selection { flags: flags.view()?, gap: gap.as_slice_mut()? };
        detached(py, || model::select(scores, past, top, out))
    })
}

/// Functions of two arrays, element by element, by the core's names.
macro_rules! elementwise {
    ($($(#[$doc:meta])* $name:ident;)+) => {$(
        $(#[$doc])*
        #[pyfunction]
        fn $name(
            py: Python<'_>, a: &Object<'_>, b: &Object<'_>, bfloat16: bool, out: &Object<'_>,
        ) -> PyResult<()> {
            each_real!(a, T => {
                let (a, b) = (readonly::<T>("a", a)?, readonly::<T>("b", b)?);
                let mut out = readwrite::<T>("out", out)?;
                let (a, b, out) = (a.as_slice()?, b.as_slice()?, out.as_slice_mut()?);
                let round = rounding::<T>(bfloat16)?;
                detached(py, || model::$name(a, b, round, out))
            })
        }
    )+};
}

elementwise! {
    /// silu(a) * b.
    silu_product;
    /// a + b.
    add;
}

/// Sums over each token's experts, in ascending order or as indices have them.
#[pyfunction]
fn combine(
    py: Python<'_>,
    parts: &Object<'_>,
    indices: Slice<'_, i64>,
    shares: &Object<'_>,
    shared: Option<&Object<'_>>,
    top: usize,
    channels: usize,
    ascending: bool,
    bfloat16: bool,
    out: &Object<'_>,
) -> PyResult<()> {
    let order = if ascending { ExpertOrder::Ascending } else { ExpertOrder::AsChosen };
    each_real!(parts, T => {
        let (parts, shares) = (readonly::<T>("parts", parts)?, readonly::<T>("shares", shares)?);
        let shared = shared.map(|x| readonly::<T>("shared", x)).transpose()?;
        let mut out = readwrite::<T>("out", out)?;
        let given = ExpertOutputs {
            parts: parts.as_slice()?,
            indices: indices.view()?,
            shares: shares.as_slice()?,
            shared: shared.as_ref().map(|x| x.as_slice()).transpose()?,
            top,
            channels,
        };
        let (round, out) = (rounding::<T>(bfloat16)?, out.as_slice_mut()?);
        detached(py, || given.combine(order, round, out))
    })
}

/// Every number of x to the nearest bfloat16, in place.
#[pyfunction]
fn round_bfloat16(py: Python<'_>, mut x: SliceMut<'_, f32>) -> PyResult<()> {
    let x = x.view()?;
    detached(py, || {
        bfloat16::round_bfloat16(x);
        Ok(())
    })
}

fn vector<T: Real>(weight: &HeldWeight<'_>) -> PyResult<Vec<T>> {
    let weight = weight.view()?;
    Ok(weight.panel::<T>(0, weight.rows())?.into_owned())
}

/// The settings of a gate.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct GateSettings {
    scoring: String,
    best: usize,
    experts: usize,
    groups: usize,
    kept: usize,
    top: usize,
    normalised: bool,
    factor: f64,
    masked: f64,
    bfloat16: bool,
}

/// Chooses experts by logits.
#[pyfunction]
fn gate(
    py: Python<'_>,
    logits: &Object<'_>,
    bias: Option<&Bound<'_, Weight>>,
    settings: GateSettings,
    mut indices: SliceMut<'_, i64>,
    weights: &Object<'_>,
    gap: &Object<'_>,
) -> PyResult<()> {
    let GateSettings { scoring, best, experts, groups, kept, top, normalised, factor, masked, bfloat16 } =
        settings;
    let scoring = match scoring.as_str() {
        "sigmoid" => Scoring::Sigmoid,
        "softmax" => Scoring::Softmax,
        _ => return Err(type_error(format!("scoring: found {scoring:?}, expected sigmoid or softmax"))),
    };
    let rule = GateRule { scoring, best, experts, groups, kept, top, normalised, factor, masked };
    let bias = bias.map(|bias| bias.get().hold(py)).transpose()?;
    each_real!(logits, T => {
        let logits = readonly::<T>("logits", logits)?;
        let (mut weights, mut gap) =
            (readwrite::<T>("weights", weights)?, readwrite::<T>("gap", gap)?);
        let bias = bias.as_ref().map(vector::<T>).transpose()?.unwrap_or_default();
        let (logits, indices) = (logits.as_slice()?, indices.view()?);
        let out = Routing { indices, weights: weights.as_slice_mut()?, gap: gap.as_slice_mut()? };
        let round = rounding::<T>(bfloat16)?;
        detached(py, || model::gate(logits, &bias, &rule, round, out))
    })
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Weight>()?;
    functions!(
        m,
        [
            add,
            combine,
            rms_norm,
            rope_frequencies,
            rotate,
            attend,
            gate,
            index_scores,
            layer_norm,
            select,
            silu_product,
            round_bfloat16
        ]
    );
    Ok(())
}
