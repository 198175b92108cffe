//! Rotary position embedding, with YaRN's stretched frequencies.

use super::attention::Round;
use super::real::Real;
use crate::error::{same_length, Error};
use crate::threads::run_tasks;
use std::f64::consts::PI;

/// YaRN's settings, as `rope_scaling` in a published config names them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yarn {
    /// How many times longer contexts become.
    pub factor: f64,
    /// Turns within the original context above which a pair of channels keeps its frequency.
    pub beta_fast: f64,
    /// Turns below which it is slowed by the whole factor.
    pub beta_slow: f64,
    /// Coefficient of the amplitude.
    pub mscale: f64,
    /// Coefficient of the amplitude, inverted, and of the softmax scale, squared.
    pub mscale_all_dim: f64,
    /// The original context.
    pub original: f64,
}

impl Yarn {
    fn temperature(&self, mscale: f64) -> f64 {
        if self.factor <= 1.0 {
            1.0
        } else {
            0.1 * mscale * self.factor.ln() + 1.0
        }
    }
}

/// Which channels turn together, and how fast.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Radians for each position, a number for each pair of channels.
    pub frequencies: Vec<f64>,
    /// Factor of cosine and sine.
    pub amplitude: f64,
    /// Factor of the softmax scale.
    pub temperature: f64,
    /// True: channels `2j` and `2j + 1` are a pair, as in the released weights; otherwise `j` and `j + dim / 2`.
    pub interleaved: bool,
}

/// The most channels of a head that turn.
pub const MAX_DIM: usize = 1 << 20;

impl Rope {
    /// The frequencies of `dim` rotary channels (an even number).
    ///
    /// # Errors
    /// [`Error::Range`] for more than [`MAX_DIM`] channels.
    pub fn new(dim: usize, theta: f64, yarn: Option<Yarn>, interleaved: bool) -> Result<Rope, Error> {
        if dim > MAX_DIM {
            let expected = "at most 1048576 rotary channels";
            return Err(Error::Range { what: "rope dim", found: dim.to_string(), expected });
        }
        let pairs = dim / 2;
        let plain = |j: usize| theta.powf(-(2.0 * j as f64) / dim as f64);
        let Some(yarn) = yarn else {
            let frequencies = (0..pairs).map(plain).collect();
            return Ok(Rope { frequencies, amplitude: 1.0, temperature: 1.0, interleaved });
        };
        let turning =
            |times: f64| dim as f64 * (yarn.original / (2.0 * PI * times)).ln() / (2.0 * theta.ln());
        let low = turning(yarn.beta_fast).floor().max(0.0);
        let high = turning(yarn.beta_slow).ceil().min(dim as f64 - 1.0);
        let width = if high == low { 0.001 } else { high - low };
        let frequencies = (0..pairs).map(|j| {
            let ramp = ((j as f64 - low) / width).clamp(0.0, 1.0);
            plain(j) * (1.0 - ramp) + plain(j) / yarn.factor * ramp
        });
        let all = yarn.temperature(yarn.mscale_all_dim);
        let amplitude = yarn.temperature(yarn.mscale) / all;
        Ok(Rope { frequencies: frequencies.collect(), amplitude, temperature: all * all, interleaved })
    }

    /// Cosine and sine of a position's angles, computed in float64: float32 angles are off by 1e-4 within 4096.
    pub fn turn<T: Real>(&self, position: usize) -> Vec<(T, T)> {
        let turn = |f: &f64| {
            let (sin, cos) = (position as f64 * f).sin_cos();
            (T::near(cos * self.amplitude), T::near(sin * self.amplitude))
        };
        self.frequencies.iter().map(turn).collect()
    }

    /// Rotates one head's channels in place.
    #[inline]
    pub fn rotate<T: Real>(&self, x: &mut [T], turn: &[(T, T)]) {
        let half = turn.len();
        for (j, &(cos, sin)) in turn.iter().enumerate() {
            let (a, b) = if self.interleaved { (2 * j, 2 * j + 1) } else { (j, j + half) };
            (x[a], x[b]) = (x[a] * cos - x[b] * sin, x[a] * sin + x[b] * cos);
        }
    }

    /// Rotates the last channels of every head of `x`, (tokens, heads, width), each token by its position, and rounds all
    /// of `x`.
    ///
    /// # Errors
    /// [`Error::Length`] where `x` has not as many tokens as `positions`, [`Error::Unsupported`] where heads
    /// are narrower than what turns.
    pub fn rotate_all<T: Real>(
        &self,
        x: &mut [T],
        positions: &[usize],
        heads: usize,
        width: usize,
        round: Option<Round<T>>,
    ) -> Result<(), Error> {
        let dim = 2 * self.frequencies.len();
        if width < dim || width == 0 || heads == 0 {
            return Err(Error::Unsupported(format!(
                "rotate: found {heads} heads of {width} channels, expected at least 1 of at least {}",
                dim.max(1)
            )));
        }
        let token = heads.saturating_mul(width);
        same_length("x", x.len(), positions.len().saturating_mul(token))?;
        let elements = x.len();
        let tasks = x.chunks_exact_mut(token).zip(positions).collect();
        run_tasks(elements, tasks, |(token, position): (&mut [T], &usize)| {
            let turn = self.turn::<T>(*position);
            token.chunks_exact_mut(width).for_each(|head| self.rotate(&mut head[width - dim..], &turn));
            round.inspect(|round| round(token));
        });
        Ok(())
    }
}
