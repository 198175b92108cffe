//! The scales of a handful of neighbouring blocks, ready for the lane code.

use super::place::{spread, Shifted};
use super::scale::{Rule, ScaleKind, Scaler, RULES};
use super::transform::RunScales;
use crate::simd::{Kernel, Lanes};

/// Divisors between these bounds keep the corrected reciprocal exact (`a * r` corrected by one residual):
/// nothing in it is subnormal or overflows. Quotients below 2^-76, which only subnormal elements give, are
/// zero in every format that takes a scale.
const SAFE_DIVISORS: std::ops::RangeInclusive<f32> = 8.881_784e-16..=1.267_650_6e30; // 2^-50, 2^100
/// And quotients of the largest element may not be beyond this: twice the largest format.
const SAFE_QUOTIENT: f32 = 131_072.0;

/// [`BlockScales::prepare`] as a kernel of its own: compiled once for all kinds of input and codes.
pub(super) struct Prepare<'a> {
    pub scales: &'a mut BlockScales,
    pub scaler: &'a Scaler,
    pub amax: &'a [u32],
    pub trusted: bool,
    pub stored: Option<&'a mut [f32]>,
    pub fold: f32,
}

impl Kernel for Prepare<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, _l: L) {
        let Prepare { scales, scaler, amax, trusted, stored, fold } = self;
        scales.prepare(scaler, amax, trusted, stored, fold);
    }
}

/// Scales of blocks, and of elements where blocks are narrow.
pub(super) struct BlockScales {
    divisor: Vec<f32>,
    factor: Vec<f32>,
    each_divisor: Vec<f32>,
    each_factor: Vec<f32>,
    /// Whether the fast lane code may run: every element finite, every quotient ordinary.
    pub safe: bool,
}

impl BlockScales {
    pub fn new() -> BlockScales {
        BlockScales {
            divisor: Vec::new(),
            factor: Vec::new(),
            each_divisor: Vec::new(),
            each_factor: Vec::new(),
            safe: false,
        }
    }

    /// Computes the scales of blocks from the bits of their largest magnitudes, and stores them. `trusted` says
    /// that these really are the largest magnitudes. Where `safe`, quotients come out multiplied by `fold`.
    #[inline(always)]
    fn prepare(
        &mut self,
        scaler: &Scaler,
        amax: &[u32],
        trusted: bool,
        stored: Option<&mut [f32]>,
        fold: f32,
    ) {
        let n = amax.len();
        self.divisor.resize(n, 0.0);
        self.factor.resize(n, 0.0);
        let finite = amax.iter().fold(0, |m, a| if *a > m { *a } else { m }) < 0x7F80_0000;
        if finite && matches!(scaler.kind, ScaleKind::Float32 | ScaleKind::Ue8m0) {
            float_scales(scaler, amax, &mut self.divisor, &mut self.factor);
            if let Some(stored) = stored {
                stored.copy_from_slice(&self.divisor);
            }
        } else {
            let blocks = amax.iter().zip(&mut self.divisor).zip(&mut self.factor);
            let mut stored = stored.into_iter().flatten();
            for ((amax, divisor), factor) in blocks {
                let block = scaler.block(*amax);
                (*divisor, *factor) = (block.divisor, block.factor);
                if let Some(stored) = stored.next() {
                    *stored = block.stored;
                }
            }
        }
        let mut safe = trusted && finite;
        for ((a, d), f) in amax.iter().zip(&self.divisor).zip(&self.factor) {
            safe &= SAFE_DIVISORS.contains(d) & (f32::from_bits(*a) * f <= SAFE_QUOTIENT);
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

/// Float32 and UE8M0 scales of finite blocks: one loop for each kind and rule, so that these are constants in it and
/// the compiler can use its vectors.
#[inline(always)]
fn float_scales(scaler: &Scaler, amax: &[u32], divisor: &mut [f32], factor: &mut [f32]) {
    for kind in [ScaleKind::Float32, ScaleKind::Ue8m0] {
        for rule in RULES {
            if scaler.kind == kind && scaler.rule.name == rule.name {
                let scaler = Scaler { kind, rule: Rule { floor: scaler.rule.floor, ..*rule }, ..*scaler };
                for ((a, d), f) in amax.iter().zip(divisor.iter_mut()).zip(factor.iter_mut()) {
                    let block = scaler.finite_block(*a);
                    (*d, *f) = (block.divisor, block.factor);
                }
            }
        }
    }
}
