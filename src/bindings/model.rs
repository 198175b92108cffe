//! The layers of the reference forward.

use super::array::{readonly, readwrite, Object};
use super::{detached, type_error};
use crate::formats::{bfloat16, Format};
use crate::model::{
    self, Data, ExpertOrder, ExpertOutputs, GateRule, IndexShape, MlaShape, Real, Rope, Round, Routing,
    Scoring, Selection, Sequence, Up, Yarn,
};
use numpy::PyReadonlyArray1;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// Runs a body with `T` standing for the type that `dtype` names.
macro_rules! each_real {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            "float32" => {
                type $t = f32;
                $body
            }
            "float64" => {
                type $t = f64;
                $body
            }
            other => Err(type_error(format!("dtype: found {other:?}, expected float32 or float64"))),
        }
    };
}
pub(super) use each_real;

/// A matrix as a checkpoint holds it. It keeps the arrays alive; nothing is copied.
#[pyclass(frozen, module = "dsv3_numerics._core")]
pub struct Weight {
    array: Py<PyAny>,
    dtype: String,
    rows: usize,
    cols: usize,
    scales: Option<Py<PyAny>>,
    block: (usize, usize),
    rounded: bool,
}

#[pymethods]
impl Weight {
    /// dtype names a float type, or the format of codes that come with scales.
    #[new]
    #[pyo3(signature = (array, dtype, rows, cols, scales=None, block=(1, 1), rounded=false))]
    fn new(
        py: Python<'_>,
        array: Py<PyAny>,
        dtype: String,
        rows: usize,
        cols: usize,
        scales: Option<Py<PyAny>>,
        block: (usize, usize),
        rounded: bool,
    ) -> PyResult<Weight> {
        let weight = Weight { array, dtype, rows, cols, scales, block, rounded };
        weight.hold(py)?.view()?;
        Ok(weight)
    }

    #[getter]
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// The matrix, widened to out's type.
    fn numbers(&self, py: Python<'_>, out: &Object<'_>, dtype: &str) -> PyResult<()> {
        each_real!(dtype, T => {
            let (held, mut out) = (self.hold(py)?, readwrite::<T>("out", out, dtype)?);
            let (weight, out) = (held.view()?, out.as_slice_mut()?);
            crate::error::same_length("out", out.len(), weight.rows() * weight.cols())?;
            detached(py, || weight.panel::<T>(0, weight.rows()).map(|x| out.copy_from_slice(&x)))
        })
    }
}

enum Numbers<'py> {
    F32(PyReadonlyArray1<'py, f32>),
    F64(PyReadonlyArray1<'py, f64>),
    F16(PyReadonlyArray1<'py, u16>),
    Bf16(PyReadonlyArray1<'py, u16>),
    Scaled(PyReadonlyArray1<'py, u8>, &'static Format, PyReadonlyArray1<'py, f32>),
}

/// A weight whose arrays are held for reading.
pub struct HeldWeight<'py> {
    numbers: Numbers<'py>,
    rows: usize,
    cols: usize,
    block: (usize, usize),
    rounded: bool,
}

impl Weight {
    pub fn hold<'py>(&self, py: Python<'py>) -> PyResult<HeldWeight<'py>> {
        let array = self.array.bind(py);
        let numbers = match (self.dtype.as_str(), &self.scales) {
            ("float32", None) => Numbers::F32(readonly("weight", array, "float32")?),
            ("float64", None) => Numbers::F64(readonly("weight", array, "float64")?),
            ("float16", None) => Numbers::F16(readonly("weight", array, "uint16")?),
            ("bfloat16", None) => Numbers::Bf16(readonly("weight", array, "uint16")?),
            (name, Some(scales)) => {
                let scales = readonly("scales", scales.bind(py), "float32")?;
                Numbers::Scaled(readonly("weight", array, "uint8")?, Format::by_name(name)?, scales)
            }
            (name, None) => {
                return Err(type_error(format!(
                    "weight: found {name} without scales, expected float32, float64, float16 or bfloat16"
                )))
            }
        };
        let Weight { rows, cols, block, rounded, .. } = *self;
        Ok(HeldWeight { numbers, rows, cols, block, rounded })
    }
}

impl HeldWeight<'_> {
    pub fn view(&self) -> PyResult<model::Weight<'_>> {
        let data = match &self.numbers {
            Numbers::F32(x) => Data::F32(x.as_slice()?),
            Numbers::F64(x) => Data::F64(x.as_slice()?),
            Numbers::F16(x) => Data::F16(x.as_slice()?),
            Numbers::Bf16(x) => Data::Bf16(x.as_slice()?),
            Numbers::Scaled(codes, format, scales) => Data::Scaled {
                codes: codes.as_slice()?,
                format,
                scales: scales.as_slice()?,
                block: [self.block.0, self.block.1],
                rounded: self.rounded,
            },
        };
        Ok(model::Weight::new(self.rows, self.cols, data)?)
    }
}

/// Each row of x over its root mean square, times weight.
#[pyfunction]
fn rms_norm(
    py: Python<'_>,
    x: &Object<'_>,
    dtype: &str,
    weight: &Bound<'_, Weight>,
    eps: f64,
    bfloat16: bool,
    out: &Object<'_>,
) -> PyResult<()> {
    let weight = weight.get().hold(py)?;
    each_real!(dtype, T => {
        let (x, mut out) = (readonly::<T>("x", x, dtype)?, readwrite::<T>("out", out, dtype)?);
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
    dtype: &str,
    weight: &Bound<'_, Weight>,
    bias: &Bound<'_, Weight>,
    eps: f64,
    bfloat16: bool,
    out: &Object<'_>,
) -> PyResult<()> {
    let (weight, bias) = (weight.get().hold(py)?, bias.get().hold(py)?);
    each_real!(dtype, T => {
        let (x, mut out) = (readonly::<T>("x", x, dtype)?, readwrite::<T>("out", out, dtype)?);
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
    dtype: &str,
    settings: RopeSettings,
    positions: Positions<'_>,
    heads: usize,
    width: usize,
    bfloat16: bool,
) -> PyResult<()> {
    let (rope, positions) = (settings.rope()?, positions.numbers()?);
    each_real!(dtype, T => {
        let mut x = readwrite::<T>("x", x, dtype)?;
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
    dtype: &str,
    settings: MlaSettings,
    past: usize,
    absorbed: bool,
    kv_b: Option<&Bound<'_, Weight>>,
    expanded: Option<&Object<'_>>,
    bfloat16: bool,
    out: &Object<'_>,
    probs: Option<&Object<'_>>,
    selected: Option<&Object<'_>>,
) -> PyResult<()> {
    let shape = settings.shape()?;
    let selected = selected.map(|flags| readonly::<bool>("selected", flags, "bool")).transpose()?;
    let kv_b = kv_b.map(|w| w.get().hold(py)).transpose()?;
    each_real!(dtype, T => {
        let (q, seen) = (readonly::<T>("q", q, dtype)?, readonly::<T>("seen", seen, dtype)?);
        let expanded = expanded.map(|x| readonly::<T>("expanded", x, dtype)).transpose()?;
        let mut out = readwrite::<T>("out", out, dtype)?;
        let mut probs = probs.map(|p| readwrite::<T>("probs", p, dtype)).transpose()?;
        let up = match (&kv_b, &expanded) {
            (Some(w), None) if absorbed => Up::Absorbed(w.view()?),
            (Some(w), None) => Up::Naive(w.view()?),
            (None, Some(x)) if !absorbed => Up::Expanded(x.as_slice()?),
            _ => return Err(type_error("attend: expected kv_b or, unless absorbed, expanded".to_owned())),
        };
        let (q, seen, out) = (q.as_slice()?, seen.as_slice()?, out.as_slice_mut()?);
        let probs = probs.as_mut().map(|p| p.as_slice_mut()).transpose()?;
        let round = rounding::<T>(bfloat16)?;
        let selected = selected.as_ref().map(|flags| flags.as_slice()).transpose()?;
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
    dtype: &str,
    heads: usize,
    channels: usize,
    past: usize,
    scale: f64,
    out: &Object<'_>,
) -> PyResult<()> {
    let shape = IndexShape { heads, channels, past };
    each_real!(dtype, T => {
        let (q, k) = (readonly::<T>("q", q, dtype)?, readonly::<T>("k", k, dtype)?);
        let (w, mut out) = (readonly::<T>("w", w, dtype)?, readwrite::<T>("out", out, dtype)?);
        let (q, k, w, out) = (q.as_slice()?, k.as_slice()?, w.as_slice()?, out.as_slice_mut()?);
        detached(py, || model::index_scores(q, k, w, shape, scale, out))
    })
}

/// The largest scores of each new token, as flags over positions.
#[pyfunction]
fn select(
    py: Python<'_>,
    scores: &Object<'_>,
    dtype: &str,
    past: usize,
    top: usize,
    flags: &Object<'_>,
    gap: &Object<'_>,
) -> PyResult<()> {
    let mut flags = readwrite::<bool>("flags", flags, "bool")?;
    each_real!(dtype, T => {
        let (scores, mut gap) = (readonly::<T>("scores", scores, dtype)?, readwrite::<T>("gap", gap, dtype)?);
        let scores = scores.as_slice()?;
        let out = Selection { flags: flags.as_slice_mut()?, gap: gap.as_slice_mut()? };
        detached(py, || model::select(scores, past, top, out))
    })
}

/// Functions of two arrays, element by element, by the core's names.
macro_rules! elementwise {
    ($($(#[$doc:meta])* $name:ident;)+) => {$(
        $(#[$doc])*
        #[pyfunction]
        fn $name(
            py: Python<'_>, a: &Object<'_>, b: &Object<'_>, dtype: &str, bfloat16: bool, out: &Object<'_>,
        ) -> PyResult<()> {
            each_real!(dtype, T => {
                let (a, b) = (readonly::<T>("a", a, dtype)?, readonly::<T>("b", b, dtype)?);
                let mut out = readwrite::<T>("out", out, dtype)?;
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
    indices: &Object<'_>,
    shares: &Object<'_>,
    shared: Option<&Object<'_>>,
    dtype: &str,
    top: usize,
    channels: usize,
    ascending: bool,
    bfloat16: bool,
    out: &Object<'_>,
) -> PyResult<()> {
    let indices = readonly::<i64>("indices", indices, "int64")?;
    let order = if ascending { ExpertOrder::Ascending } else { ExpertOrder::AsChosen };
    each_real!(dtype, T => {
        let (parts, shares) = (readonly::<T>("parts", parts, dtype)?, readonly::<T>("shares", shares, dtype)?);
        let shared = shared.map(|x| readonly::<T>("shared", x, dtype)).transpose()?;
        let mut out = readwrite::<T>("out", out, dtype)?;
        let given = ExpertOutputs {
            parts: parts.as_slice()?,
            indices: indices.as_slice()?,
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
fn round_bfloat16(py: Python<'_>, x: &Object<'_>) -> PyResult<()> {
    let mut x = readwrite::<f32>("x", x, "float32")?;
    let x = x.as_slice_mut()?;
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
    dtype: &str,
    bias: Option<&Bound<'_, Weight>>,
    settings: GateSettings,
    indices: &Object<'_>,
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
    let mut indices = readwrite::<i64>("indices", indices, "int64")?;
    each_real!(dtype, T => {
        let logits = readonly::<T>("logits", logits, dtype)?;
        let (mut weights, mut gap) =
            (readwrite::<T>("weights", weights, dtype)?, readwrite::<T>("gap", gap, dtype)?);
        let bias = bias.as_ref().map(vector::<T>).transpose()?.unwrap_or_default();
        let (logits, indices) = (logits.as_slice()?, indices.as_slice_mut()?);
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
