//! Panels, a handful of neighbouring blocks: how large they are, and their scales, ready for the lane code.

use super::place::{spread, Shifted};
use super::rule::ScaleKind;
use super::scale::{e4m3_code, Global, ScaleArrays, Scaler};
use super::transform::RunScales;
use crate::formats::table::Format;
use crate::simd::{caches, Kernel, Lanes};

/// Elements of a panel of a single row: half of a first-level cache, in float32.
pub(super) const PANEL: usize = 4096;

/// Bytes of a panel of more than one row, and true where the next one is fetched while one is encoded. Where prefetchers follow
/// whole rows as fast as memory goes, and fall behind on parts of them, a panel is what a third-level cache has room for. Such
/// prefetchers fall behind on rows that lie apart too: there two panels are in a second-level cache, one of them fetched. Others
/// leave memory idle while a panel is encoded: there it is smaller, and the next one is fetched if it
/// `may` be, where a second-level cache has places for the rows of two, so many rows so many bytes apart.
pub(super) fn tall_panel(apart: bool, may: bool, rows: usize, stride: usize) -> (usize, bool) {
    const SECOND: usize = 512 * 1024;
    const MOST: usize = 4 * 1024 * 1024;
    match caches() {
        Some(found) if found.one_stream && apart => (SECOND / 2, true),
        Some(found) if found.one_stream => ((found.third / found.sharing).clamp(SECOND, MOST), false),
        Some(found) if may && 2 * rows < found.second.places(stride) => (SECOND / 4, true),
        _ => (SECOND, false),
    }
}

/// Divisors between these bounds keep the corrected reciprocal exact (`a * r` corrected by one residual):
/// nothing in it is subnormal or overflows. Quotients below 2^-76, which only subnormal elements give, are
/// zero in the formats of [`Limits`].
const SAFE_DIVISORS: std::ops::RangeInclusive<f32> = 8.881_784e-16..=1.267_650_6e30; // 2^-50, 2^100

/// How far the fast lane code goes in a format.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Quotients of the largest element may not be beyond this: twice the largest number at the least.
    quotient: f32,
}

impl Limits {
    pub fn new(format: &Format) -> Limits {
        const LEAST: f64 = 2.6e-23; // above 2^-75: half of it is more than 2^-76
        const MOST: f32 = 1.0e18;
        let ordinary =
            format.grid(1).max(f64::MIN_POSITIVE) >= LEAST && format.subnormals && format.max() <= MOST;
        Limits { quotient: if ordinary { (2.0 * format.max()).max(131_072.0) } else { -1.0 } }
    }
}

/// The scales of some blocks, found, stored and settled: a kernel of its own, compiled once for all kinds of input and codes.
pub(super) struct Prepare<'a> {
    pub scales: &'a mut BlockScales,
    pub scaler: &'a Scaler,
    /// Magnitudes that scales are made of, and those that there really are.
    pub amax: &'a [u32],
    pub found: &'a [u32],
    pub global: Global<'a>,
    pub stored: &'a mut [u8],
    pub limits: Limits,
    pub fold: f32,
}

impl Kernel for Prepare<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, _l: L) {
        let Prepare { scales, scaler, amax, found, global, stored, limits, fold } = self;
        scales.find(scaler, amax, global);
        scales.store(scaler.kind, stored);
        scales.settle(found, limits, fold);
    }
}

/// Scales of blocks, and of elements where blocks are narrow.
pub(super) struct BlockScales {
    stored: Vec<f32>,
    divisor: Vec<f32>,
    factor: Vec<f32>,
    each_divisor: Vec<f32>,
    each_factor: Vec<f32>,
    /// True where the fast lane code may run: every element finite, every quotient ordinary.
    pub safe: bool,
}

impl BlockScales {
    pub fn new() -> BlockScales {
        let empty = Vec::new;
        BlockScales {
            stored: empty(),
            divisor: empty(),
            factor: empty(),
            each_divisor: empty(),
            each_factor: empty(),
            safe: false,
        }
    }

    fn resize(&mut self, n: usize) {
        self.stored.resize(n, 0.0);
        self.divisor.resize(n, 0.0);
        self.factor.resize(n, 0.0);
    }

    /// Computes scales from the bits of largest magnitudes.
    #[inline(always)]
    pub fn find(&mut self, scaler: &Scaler, amax: &[u32], global: Global<'_>) {
        self.resize(amax.len());
        let out =
            ScaleArrays { stored: &mut self.stored, divisor: &mut self.divisor, factor: &mut self.factor };
        scaler.scales(amax, global, out);
    }

    /// Takes scales that are known.
    pub fn give(&mut self, scaler: &Scaler, stored: &[f32], global: Global<'_>) {
        self.resize(stored.len());
        self.stored.copy_from_slice(stored);
        scaler.applied(stored, global, &mut self.divisor, &mut self.factor);
    }

    /// Copies the scales of some of the blocks of `all`.
    pub fn copy(&mut self, all: &BlockScales, blocks: std::ops::Range<usize>) {
        self.resize(blocks.len());
        self.divisor.copy_from_slice(&all.divisor[blocks.clone()]);
        self.factor.copy_from_slice(&all.factor[blocks]);
    }

    /// Writes what is stored: bytes of float32, or codes of a byte.
    #[inline(always)]
    pub fn store(&self, kind: ScaleKind, out: &mut [u8]) {
        match kind {
            ScaleKind::Float32 => {
                for (s, out) in self.stored.iter().zip(out.chunks_exact_mut(4)) {
                    out.copy_from_slice(&s.to_ne_bytes());
                }
            }
            ScaleKind::Ue8m0 | ScaleKind::Mx => {
                for (s, out) in self.stored.iter().zip(out) {
                    *out = (s.to_bits() >> 23) as u8;
                }
            }
            ScaleKind::Nvfp4 => {
                for (s, out) in self.stored.iter().zip(out) {
                    *out = e4m3_code(*s);
                }
            }
        }
    }

    /// Settles whether quotients are ordinary, given the bits of the largest magnitudes that there really are. Where they
    /// are, quotients come out multiplied by `fold`.
    #[inline(always)]
    pub fn settle(&mut self, found: &[u32], limits: Limits, fold: f32) {
        let mut safe = found.iter().fold(0, |m, a| if *a > m { *a } else { m }) < 0x7F80_0000;
        for ((a, d), f) in found.iter().zip(&mut self.divisor).zip(&mut self.factor) {
            // Zeros stay zeros, whatever they are divided by.
            *d = if *a == 0 { 1.0 } else { *d };
            *f = if *a == 0 { 1.0 } else { *f };
            safe &= SAFE_DIVISORS.contains(d) & (f32::from_bits(*a) * *f <= limits.quotient);
        }
        self.safe = safe;
        if safe && fold != 1.0 {
            // A power of two, so that quotients are multiplied by it without another rounding.
            self.divisor.iter_mut().for_each(|d| *d *= 1.0 / fold);
            self.factor.iter_mut().for_each(|f| *f *= fold);
        }
    }

    /// The scales of a run of `n` elements that begins `phase` elements into the first block, as the lane code takes
    /// them. `fresh` says that the scales have changed since the last run.
    #[inline(always)]
    pub fn run(&mut self, block_cols: usize, phase: usize, n: usize, fresh: bool) -> RunScales<'_> {
        let shifted = Shifted::new(block_cols, phase, n);
        if shifted.is_some() {
            return RunScales { shifted, divisor: &self.divisor, factor: &self.factor };
        }
        if fresh {
            spread(&self.divisor, block_cols, phase, n, &mut self.each_divisor);
            spread(&self.factor, block_cols, phase, n, &mut self.each_factor);
        }
        RunScales { shifted, divisor: &self.each_divisor, factor: &self.each_factor }
    }
}
