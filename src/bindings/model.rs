//! The layers of the reference forward.

use super::array::{readonly, readwrite};
use super::type_error;
use crate::formats::Format;
use crate::model::mla::Call;
use crate::model::{
    self, Cache, Data, Expert, GateRule, MlaShape, MlaWeights, Query, Real, Rope, Routing, Yarn,
};
use numpy::{PyReadonlyArray1, PyReadwriteArray1};
use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::collections::BTreeMap;

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
/// A matrix as a checkpoint holds it. It keeps the arrays alive; nothing is copied.
#[pyclass(frozen, module = "dsv3_numerics._core")]
struct Weight {
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
    #[allow(clippy::too_many_arguments)] // the keywords of one Python class
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
    fn numbers(&self, py: Python<'_>, out: &Bound<'_, PyAny>, dtype: &str) -> PyResult<()> {
        each_real!(dtype, T => {
            let (held, mut out) = (self.hold(py)?, readwrite::<T>("out", out, dtype)?);
            let (weight, out) = (held.view()?, out.as_slice_mut()?);
            crate::error::same_length("out", out.len(), weight.rows() * weight.cols())?;
            py.detach(|| weight.panel::<T>(0, weight.rows()).map(|x| out.copy_from_slice(&x)))?;
            Ok(())
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
struct HeldWeight<'py> {
    numbers: Numbers<'py>,
    rows: usize,
    cols: usize,
    block: (usize, usize),
    rounded: bool,
}

impl Weight {
    fn hold<'py>(&self, py: Python<'py>) -> PyResult<HeldWeight<'py>> {
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
    fn view(&self) -> PyResult<model::Weight<'_>> {
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

fn held<'py>(weights: &Bound<'py, PyDict>, key: &str) -> PyResult<HeldWeight<'py>> {
    match weights.get_item(key)? {
        Some(value) => value.cast::<Weight>().map_err(PyErr::from)?.get().hold(weights.py()),
        None => Err(PyKeyError::new_err(key.to_owned())),
    }
}

/// out = x W^T for rows of x.
#[pyfunction]
fn linear(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    dtype: &str,
    rows: usize,
    weight: &Bound<'_, Weight>,
    out: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let weight = weight.get().hold(py)?;
    each_real!(dtype, T => {
        let (x, mut out) = (readonly::<T>("x", x, dtype)?, readwrite::<T>("out", out, dtype)?);
        let (x, w, out) = (x.as_slice()?, weight.view()?, out.as_slice_mut()?);
        Ok(py.detach(|| model::linear(x, rows, &w, out))?)
    })
}

/// Each row of x over its root mean square, times weight.
#[pyfunction]
fn rms_norm(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    dtype: &str,
    weight: &Bound<'_, Weight>,
    eps: f64,
    out: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let weight = weight.get().hold(py)?;
    each_real!(dtype, T => {
        let (x, mut out) = (readonly::<T>("x", x, dtype)?, readwrite::<T>("out", out, dtype)?);
        let (x, w, out) = (x.as_slice()?, weight.view()?, out.as_slice_mut()?);
        Ok(py.detach(|| w.panel::<T>(0, w.rows()).and_then(|w| model::rms_norm(x, &w, eps, out)))?)
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
    fn rope(&self) -> Rope {
        let yarn = self.yarn.map(|(factor, beta_fast, beta_slow, mscale, mscale_all_dim, original)| Yarn {
            factor,
            beta_fast,
            beta_slow,
            mscale,
            mscale_all_dim,
            original,
        });
        Rope::new(self.dim, self.theta, yarn, self.interleaved)
    }
}

/// Radians per position of each pair of channels; amplitude; factor of the softmax scale.
#[pyfunction]
fn rope_frequencies(settings: RopeSettings) -> (Vec<f64>, f64, f64) {
    let Rope { frequencies, amplitude, temperature, .. } = settings.rope();
    (frequencies, amplitude, temperature)
}

/// The sizes of an attention layer.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct MlaSettings {
    heads: usize,
    rank: usize,
    nope: usize,
    v: usize,
    eps: f64,
    rope: RopeSettings,
}

/// A cache that can be written.
enum HeldCache<'py> {
    F32(PyReadwriteArray1<'py, f32>),
    F64(PyReadwriteArray1<'py, f64>),
    Bf16(PyReadwriteArray1<'py, u16>),
}

/// Attention of new tokens over a cache, to which they are added.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // the keywords of one Python function
fn mla(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    dtype: &str,
    weights: &Bound<'_, PyDict>,
    settings: MlaSettings,
    cache: &Bound<'_, PyAny>,
    cache_dtype: &str,
    new: usize,
    past: Vec<usize>,
    capacity: usize,
    absorbed: bool,
    out: &Bound<'_, PyAny>,
    heads: &Bound<'_, PyAny>,
    probs: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let MlaSettings { heads: n_heads, rank, nope, v, eps, rope } = settings;
    let shape = MlaShape { heads: n_heads, rank, nope, rope_dim: rope.dim, v, eps, rope: rope.rope() };
    let compressed = weights.contains("q_a_proj")?;
    let query = if compressed { &["q_a_proj", "q_a_layernorm", "q_b_proj"][..] } else { &["q_proj"][..] };
    let query = query.iter().map(|name| held(weights, name)).collect::<PyResult<Vec<_>>>()?;
    let (kv_down, kv_norm) = (held(weights, "kv_a_proj_with_mqa")?, held(weights, "kv_a_layernorm")?);
    let (kv_up, o) = (held(weights, "kv_b_proj")?, held(weights, "o_proj")?);
    let mut cache = match cache_dtype {
        "float32" => HeldCache::F32(readwrite("cache", cache, "float32")?),
        "float64" => HeldCache::F64(readwrite("cache", cache, "float64")?),
        "bfloat16" => HeldCache::Bf16(readwrite("cache", cache, "uint16")?),
        other => {
            return Err(type_error(format!("cache: found {other}, expected float32, float64 or bfloat16")))
        }
    };
    let mut cache = match &mut cache {
        HeldCache::F32(x) => Cache::F32(x.as_slice_mut()?),
        HeldCache::F64(x) => Cache::F64(x.as_slice_mut()?),
        HeldCache::Bf16(x) => Cache::Bf16(x.as_slice_mut()?),
    };
    each_real!(dtype, T => {
        let x = readonly::<T>("x", x, dtype)?;
        let (mut out, mut heads) =
            (readwrite::<T>("out", out, dtype)?, readwrite::<T>("heads", heads, dtype)?);
        let mut probs = probs.map(|p| readwrite::<T>("probs", p, dtype)).transpose()?;
        let q_norm = if compressed { vector::<T>(&query[1])? } else { Vec::new() };
        let kv_norm = vector::<T>(&kv_norm)?;
        let query = match query.as_slice() {
            [down, _, up] => Query::Compressed { down: down.view()?, norm: &q_norm, up: up.view()? },
            [direct, ..] => Query::Direct(direct.view()?),
            [] => return Err(PyKeyError::new_err("q_proj")),
        };
        let (kv_down, kv_up, o) = (kv_down.view()?, kv_up.view()?, o.view()?);
        let weights = MlaWeights { query, kv_down, kv_norm: &kv_norm, kv_up, out: o };
        let probs = probs.as_mut().map(|p| p.as_slice_mut()).transpose()?;
        let (x, out, heads) = (x.as_slice()?, out.as_slice_mut()?, heads.as_slice_mut()?);
        let call = Call { x, new, past: &past, capacity, absorbed, out, heads, probs };
        Ok(py.detach(|| model::mla(&shape, &weights, &mut cache, call))?)
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
    experts: usize,
    groups: usize,
    kept: usize,
    top: usize,
    normalised: bool,
    factor: f64,
    masked: f64,
}

/// Chooses experts by logits.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // the keywords of one Python function
fn gate(
    py: Python<'_>,
    logits: &Bound<'_, PyAny>,
    dtype: &str,
    bias: &Bound<'_, Weight>,
    settings: GateSettings,
    indices: &Bound<'_, PyAny>,
    weights: &Bound<'_, PyAny>,
    gap: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let GateSettings { experts, groups, kept, top, normalised, factor, masked } = settings;
    let rule = GateRule { experts, groups, kept, top, normalised, factor, masked };
    let bias = bias.get().hold(py)?;
    let mut indices = readwrite::<i64>("indices", indices, "int64")?;
    each_real!(dtype, T => {
        let logits = readonly::<T>("logits", logits, dtype)?;
        let (mut weights, mut gap) =
            (readwrite::<T>("weights", weights, dtype)?, readwrite::<T>("gap", gap, dtype)?);
        let bias = vector::<T>(&bias)?;
        let (logits, indices) = (logits.as_slice()?, indices.as_slice_mut()?);
        let out = Routing { indices, weights: weights.as_slice_mut()?, gap: gap.as_slice_mut()? };
        Ok(py.detach(|| model::gate(logits, &bias, &rule, out))?)
    })
}

type Three<'py> = (Bound<'py, Weight>, Bound<'py, Weight>, Bound<'py, Weight>);

struct HeldExpert<'py>([HeldWeight<'py>; 3]);

impl<'py> HeldExpert<'py> {
    fn new(py: Python<'py>, (gate, up, down): &Three<'py>) -> PyResult<Self> {
        Ok(HeldExpert([gate.get().hold(py)?, up.get().hold(py)?, down.get().hold(py)?]))
    }

    fn view(&self) -> PyResult<Expert<'_>> {
        let [gate, up, down] = &self.0;
        Ok(Expert { gate: gate.view()?, up: up.view()?, down: down.view()? })
    }
}

/// One SwiGLU for rows of x.
#[pyfunction]
fn swiglu<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    dtype: &str,
    rows: usize,
    expert: Three<'py>,
    out: &Bound<'py, PyAny>,
) -> PyResult<()> {
    let expert = HeldExpert::new(py, &expert)?;
    each_real!(dtype, T => {
        let (x, mut out) = (readonly::<T>("x", x, dtype)?, readwrite::<T>("out", out, dtype)?);
        let (x, expert, out) = (x.as_slice()?, expert.view()?, out.as_slice_mut()?);
        Ok(py.detach(|| model::swiglu(x, rows, &expert, out))?)
    })
}

/// Adds the outputs of each token's experts to out.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // the keywords of one Python function
fn experts<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    dtype: &str,
    indices: &Bound<'py, PyAny>,
    weights: &Bound<'py, PyAny>,
    top: usize,
    table: BTreeMap<i64, Three<'py>>,
    out: &Bound<'py, PyAny>,
) -> PyResult<()> {
    let indices = readonly::<i64>("indices", indices, "int64")?;
    let held: BTreeMap<i64, HeldExpert<'py>> =
        table.iter().map(|(i, e)| Ok((*i, HeldExpert::new(py, e)?))).collect::<PyResult<_>>()?;
    let table: BTreeMap<i64, Expert<'_>> =
        held.iter().map(|(i, e)| Ok((*i, e.view()?))).collect::<PyResult<_>>()?;
    each_real!(dtype, T => {
        let (x, weights) = (readonly::<T>("x", x, dtype)?, readonly::<T>("weights", weights, dtype)?);
        let mut out = readwrite::<T>("out", out, dtype)?;
        let (x, indices, weights) = (x.as_slice()?, indices.as_slice()?, weights.as_slice()?);
        let out = out.as_slice_mut()?;
        Ok(py.detach(|| model::experts(x, indices, weights, top, &table, out))?)
    })
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Weight>()?;
    m.add_function(wrap_pyfunction!(linear, m)?)?;
    m.add_function(wrap_pyfunction!(rms_norm, m)?)?;
    m.add_function(wrap_pyfunction!(rope_frequencies, m)?)?;
    m.add_function(wrap_pyfunction!(mla, m)?)?;
    m.add_function(wrap_pyfunction!(gate, m)?)?;
    m.add_function(wrap_pyfunction!(swiglu, m)?)?;
    m.add_function(wrap_pyfunction!(experts, m)?)
}
