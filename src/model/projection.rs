//! Linear layers as a recipe does them: activations put into codes, products in a unit's order, one rounding of what comes
//! out; and a SwiGLU made of three.

use super::attention::Round;
use super::elementwise::silu_product;
use super::linear::linear;
use super::real::Real;
use super::weight::Weight;
use crate::error::{same_length, Error};
use crate::formats::table::E8M0FNU;
use crate::formats::{Codes, CodesMut, Format, Output, Rounding};
use crate::gemm::{matmul_nt, Operand, Options, Shape, UnitScales};
use crate::quant::{quantize, Blocks, QuantizeOptions, Rule, ScaleKind};

/// A way to put rows into codes of at most eight bits, each row by itself.
#[derive(Clone, Copy, Debug)]
pub struct RowQuantizer {
    /// The codes' format.
    pub format: &'static Format,
    /// Elements that share a scale; `None` for a whole row.
    pub tile: Option<usize>,
    /// The kind of scale: any but NVFP4.
    pub scale: ScaleKind,
    /// The rule that makes it.
    pub rule: Rule,
    /// How quotients become codes; the rule's way where `None`.
    pub rounding: Option<Rounding>,
}

/// Rows in codes.
#[derive(Clone, Debug)]
pub struct QuantizedRows {
    codes: Vec<u8>,
    format: &'static Format,
    scales: Vec<f32>,
    stored: Vec<u8>,
    tile: usize,
}

impl RowQuantizer {
    /// Puts rows of `cols` into codes.
    ///
    /// # Errors
    /// As of [`quantize`], and [`Error::Unsupported`] for wider codes and for NVFP4.
    pub fn rows<T: Real>(&self, x: &[T], cols: usize) -> Result<QuantizedRows, Error> {
        if self.format.bits() > 8 || self.scale == ScaleKind::Nvfp4 {
            return Err(Error::Unsupported(format!(
                "projection: found {} with scales of kind {:?}, expected codes of at most 8 bits, and no nvfp4",
                self.format.name,
                self.scale.name()
            )));
        }
        let tile = self.tile.unwrap_or(cols).clamp(1, cols.max(1));
        let blocks = Blocks::new([1, x.len() / cols.max(1), cols], [1, tile])?;
        let count = blocks.scales();
        let options = QuantizeOptions {
            scale: self.scale,
            rule: self.rule,
            rounding: self.rounding,
            ..QuantizeOptions::default()
        };
        let mut codes = vec![0u8; x.len()];
        let mut stored = vec![0u8; count * if self.scale == ScaleKind::Float32 { 4 } else { 1 }];
        quantize(T::input(x), blocks, self.format, &options, CodesMut::U8(&mut codes), &mut stored)?;
        let scales = if self.scale == ScaleKind::Float32 {
            stored.as_chunks::<4>().0.iter().map(|bytes| f32::from_ne_bytes(*bytes)).collect()
        } else {
            stored.iter().map(|code| E8M0FNU.value(u32::from(*code))).collect()
        };
        Ok(QuantizedRows { codes, format: self.format, scales, stored, tile })
    }
}

impl QuantizedRows {
    /// The left operand of a product: the unit takes the scales, or its sums are multiplied by them.
    fn operand(&self, options: &Options) -> Operand<'_> {
        let group = (1, self.tile);
        let inside = options.accumulator.scale.is_some();
        Operand {
            codes: Codes::U8(&self.codes),
            format: self.format,
            scales: (!inside).then_some(&self.scales[..]),
            group: if inside { (1, 1) } else { group },
            unit_scales: inside.then_some(UnitScales { codes: &self.stored, group }),
            prepared: None,
        }
    }
}

/// The weight of a linear layer, (outputs, inputs).
#[derive(Clone, Copy, Debug)]
pub enum Matrix<'a> {
    /// Numbers, or codes that stand for them.
    Numbers(Weight<'a>),
    /// Codes that are multiplied as codes.
    Codes {
        /// The right operand.
        operand: Operand<'a>,
        /// Outputs.
        rows: usize,
        /// Inputs.
        cols: usize,
    },
}

impl Matrix<'_> {
    fn shape(&self) -> (usize, usize) {
        match self {
            Matrix::Numbers(w) => (w.rows(), w.cols()),
            Matrix::Codes { rows, cols, .. } => (*rows, *cols),
        }
    }
}

/// How a recipe multiplies.
#[derive(Clone, Copy, Debug)]
pub struct Projection<T> {
    /// Codes of activations; numbers where `None`.
    pub quantizer: Option<RowQuantizer>,
    /// How products of codes are added; needed for codes.
    pub unit: Option<Options>,
    /// Rounding of the results.
    pub round: Option<Round<T>>,
}

/// Rows on their way into products.
enum Activations<'a, T> {
    Numbers(&'a [T]),
    Codes(QuantizedRows),
}

impl<T: Real> Projection<T> {
    fn take<'a>(&self, x: &'a [T], cols: usize) -> Result<Activations<'a, T>, Error> {
        Ok(match &self.quantizer {
            None => Activations::Numbers(x),
            Some(quantizer) => Activations::Codes(quantizer.rows(x, cols)?),
        })
    }

    fn product(
        &self,
        x: &Activations<'_, T>,
        rows: usize,
        w: &Matrix<'_>,
        out: &mut [T],
    ) -> Result<(), Error> {
        match (x, w, &self.unit) {
            (Activations::Numbers(x), Matrix::Numbers(w), _) => linear(x, rows, w, out)?,
            (Activations::Codes(x), Matrix::Codes { operand, rows: n, cols: k }, Some(options)) => {
                let shape = Shape { stack: 1, m: rows, n: *n, k: *k };
                let multiply = |out: &mut [f32]| {
                    matmul_nt(&x.operand(options), operand, shape, false, None, options, Output::F32(out))
                };
                match T::output(out) {
                    Output::F32(out) => multiply(out)?,
                    _ => {
                        let mut narrow = vec![0f32; out.len()];
                        multiply(&mut narrow)?;
                        out.iter_mut().zip(narrow).for_each(|(out, x)| *out = T::widen(x));
                    }
                }
            }
            _ => {
                return Err(Error::Unsupported(
                    "projection: expected codes on both sides and an accumulator, or numbers on both"
                        .to_owned(),
                ))
            }
        }
        if let Some(round) = self.round {
            round(out);
        }
        Ok(())
    }

    /// `out = x W^T` for `rows` rows of `x`.
    ///
    /// # Errors
    /// [`Error::Length`] where slices do not fit the weight; as of [`RowQuantizer::rows`] and of [`matmul_nt`].
    pub fn apply(&self, x: &[T], rows: usize, w: &Matrix<'_>, out: &mut [T]) -> Result<(), Error> {
        let (n, k) = w.shape();
        same_length("x", x.len(), rows.saturating_mul(k))?;
        same_length("out", out.len(), rows.saturating_mul(n))?;
        self.product(&self.take(x, k)?, rows, w, out)
    }
}

/// The three weights of a SwiGLU.
#[derive(Clone, Copy, Debug)]
pub struct Swiglu<'a> {
    /// (inner, channels), what the SiLU is taken of.
    pub gate: Matrix<'a>,
    /// (inner, channels).
    pub up: Matrix<'a>,
    /// (channels, inner).
    pub down: Matrix<'a>,
}

impl Swiglu<'_> {
    /// `down(silu(gate(x)) * up(x))`: the first two products by `first`, whose codes serve both, the last by `last`.
    ///
    /// # Errors
    /// As of [`Projection::apply`].
    pub fn apply<T: Real>(
        &self,
        x: &[T],
        rows: usize,
        [first, last]: [&Projection<T>; 2],
        out: &mut [T],
    ) -> Result<(), Error> {
        let ((inner, k), (n, _)) = (self.gate.shape(), self.down.shape());
        same_length("x", x.len(), rows.saturating_mul(k))?;
        same_length("out", out.len(), rows.saturating_mul(n))?;
        for (found, expected) in [(self.up.shape(), (inner, k)), (self.down.shape(), (n, inner))] {
            same_length("weight", found.0, expected.0)?;
            same_length("weight", found.1, expected.1)?;
        }
        let held = first.take(x, k)?;
        let mut parts = [(); 3].map(|()| vec![T::zero(); rows * inner]);
        let [a, b, c] = &mut parts;
        first.product(&held, rows, &self.gate, a)?;
        first.product(&held, rows, &self.up, b)?;
        silu_product(a, b, last.round, c)?;
        last.apply(c, rows, &self.down, out)
    }
}
