//! LogFMT's fast encoder gives the codes of the float64 definition: the bound of its estimate holds for every float32
//! significand, and numbers beside thresholds are decided right, at every level.

mod random;

use dsv3_numerics::formats::{Codes, CodesMut, Input, Output};
use dsv3_numerics::quant::logfmt::{
    exp2, log2, logfmt_decode, logfmt_encode, narrow, widen, Finder, LinearEstimate, LogOptions, LogRounding,
    Precision, TileGrid, Tiles, TilesMut,
};
use dsv3_numerics::simd::{dispatch_at, set_level, Kernel, Lanes, Level};
use random::Random;

const ABSOLUTE: u32 = 0x7FFF_FFFF;

/// The largest distance of an estimate from `u` in float64, over consecutive float32.
struct Worst<'a> {
    line: &'a LinearEstimate,
    finder: &'a Finder,
    bits: std::ops::Range<u32>,
}

impl Kernel for Worst<'_> {
    type Out = f64;
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> f64 {
        let (mut worst, mut u) = (0f64, [0u32; 16]);
        for first in self.bits.step_by(L::N) {
            let x: [u32; 16] = std::array::from_fn(|i| first + i as u32);
            let lanes = l.load_u32(&x);
            let estimate = if self.line.deep {
                self.line.estimate::<L, true>(l, lanes)
            } else {
                self.line.estimate::<L, false>(l, lanes)
            };
            l.store_u32(l.bits(estimate), &mut u);
            for (x, u) in x.iter().zip(&u).take(L::N) {
                let Finder { grid, inverse, below } = self.finder;
                let want = log2(widen(*x) / grid.lo) * inverse + 1.5 - below;
                worst = worst.max((f64::from(f32::from_bits(*u)) - want).abs());
            }
        }
        worst
    }
}

fn line(finder: &Finder, bits: u32, subnormal: bool) -> LinearEstimate {
    let top = (1 << (bits - 1)) - 1;
    LinearEstimate::new(log2(finder.grid.lo), finder.inverse, finder.below, top, subnormal)
}

/// Every significand, in the binades of a narrow, a common and a full range, for few and many codes.
#[test]
fn estimates_keep_their_bound() {
    for (bits, low, high) in
        [(8, 120u32, 127u32), (8, 95, 127), (3, 100, 120), (10, 126, 127), (16, 100, 132)]
    {
        let finder = Finder::new(TileGrid::new(low << 23, (high + 1) << 23, bits), LogRounding::Linear);
        let (line, bound) =
            (line(&finder, bits, false), LinearEstimate::error(finder.inverse, finder.grid.top));
        for level in Level::all_available() {
            for binade in [low, (low + high) / 2, high] {
                let range = binade << 23..(binade + 1) << 23;
                let worst = dispatch_at(level, Worst { line: &line, finder: &finder, bits: range });
                assert!(worst < bound, "{} bits {bits} binade {binade}: {worst:e} {bound:e}", level.name());
            }
        }
    }
}

/// Every subnormal number.
#[test]
fn subnormal_estimates_keep_their_bound() {
    let finder = Finder::new(TileGrid::new(1, 0x0080_0000, 8), LogRounding::Linear);
    let (line, bound) = (line(&finder, 8, true), LinearEstimate::error(finder.inverse, finder.grid.top));
    assert!(line.deep);
    for level in Level::all_available() {
        let worst = dispatch_at(level, Worst { line: &line, finder: &finder, bits: 16..0x0080_0000 });
        assert!(worst < bound, "{}: {worst:e} {bound:e}", level.name());
    }
}

fn below(random: &mut Random, n: u32) -> u32 {
    random.bits() % n
}

/// A tile of some kind: wide or narrow, subnormal, with zeros, in bfloat16; half of it beside thresholds.
fn tile(random: &mut Random, n: usize, bits: u32, log: bool) -> Vec<u32> {
    let (kind, exponent) = (below(random, 8), below(random, 250));
    let spread = [0, 1, 3, 8, 20, 36, 60][random.below(7)];
    let mut x: Vec<u32> = (0..n)
        .map(|_| {
            let field = (exponent + below(random, spread + 1)).min(253);
            let significand = below(random, 1 << 23);
            match kind {
                0 => significand,
                1 if below(random, 3) == 0 => 0,
                2 => exponent << 23 | below(random, 1 << 10),
                3 => (field << 23 | significand) & 0xFFFF_0000,
                _ => field << 23 | significand,
            }
        })
        .collect();
    let hi = x.iter().copied().max().unwrap_or(0);
    let lo = x.iter().copied().filter(|x| *x > 0).min().unwrap_or(0);
    if lo > 0 && n > 8 {
        let clip = (f64::from(f32::from_bits(hi)) / 4_294_967_296.0) as f32;
        let grid = TileGrid::new(lo.max(clip.to_bits()), hi, bits);
        for x in x.iter_mut().skip(2) {
            let k = below(random, (1 << (bits - 1)) - 1);
            let beside = (grid.threshold(f64::from(k), log) as f32).to_bits() + below(random, 7);
            if below(random, 2) == 0 {
                *x = (beside.saturating_sub(3)).clamp(lo, hi);
            }
        }
        (x[0], x[1]) = (lo, hi);
    }
    x.iter().map(|x| x | below(random, 2) << 31).collect()
}

/// Random and adversarial tiles of all widths, encoded and decoded at every level, against the definition.
#[test]
fn fast_paths_equal_the_definition() {
    let mut random = Random(7);
    let mut compared = 0usize;
    for round in 0..400 {
        let bits = 3 + round % 14;
        let rounding = [LogRounding::Linear, LogRounding::Log][random.below(2)];
        let log = rounding == LogRounding::Log;
        let n = [128, 64, 128, 37, 256, 1, 1000][random.below(7)];
        let raw: Vec<u32> = (0..3).flat_map(|_| tile(&mut random, n, bits, log)).collect();
        let x: Vec<f32> = raw.iter().map(|x| f32::from_bits(*x)).collect();
        let tiles = Tiles::new(1, x.len(), n).unwrap();
        let options = LogOptions { bits, rounding, ..LogOptions::default() };
        for level in Level::all_available() {
            set_level(level).unwrap();
            let (mut narrow, mut wide) = (vec![0u8; x.len()], vec![0u16; x.len()]);
            let (mut amin, mut amax, mut flags) = ([0f32; 3], [0f32; 3], [9u8; 3]);
            let codes = if bits <= 8 { CodesMut::U8(&mut narrow[..]) } else { CodesMut::U16(&mut wide[..]) };
            let out = TilesMut { amin: &mut amin, amax: &mut amax, flags: &mut flags };
            logfmt_encode(Input::F32(&x), tiles, &options, codes, out).unwrap();
            assert_eq!(flags, [0; 3]);
            let codes = || if bits <= 8 { Codes::U8(&narrow) } else { Codes::U16(&wide) };
            let (mut exact, mut quick) = (vec![0f32; x.len()], vec![0f32; x.len()]);
            let to = Output::F32(&mut exact);
            logfmt_decode(codes(), bits, tiles, &amin, &amax, to, Precision::Exact).unwrap();
            let to = Output::F32(&mut quick);
            logfmt_decode(codes(), bits, tiles, &amin, &amax, to, Precision::Quick).unwrap();
            for i in 0..x.len() {
                let (lo, hi) = (amin[i / n].to_bits(), amax[i / n].to_bits());
                let finder = Finder::new(TileGrid::new(lo, hi, bits), rounding);
                let k = if lo == 0 { 0 } else { finder.nearest(widen(raw[i] & ABSOLUTE), log) };
                let found = if bits <= 8 { u32::from(narrow[i]) } else { u32::from(wide[i]) };
                let what = || format!("{} bits {bits} {rounding:?} n {n} x {:e}", level.name(), x[i]);
                assert_eq!(found, k | raw[i] >> 31 << (bits - 1), "{}", what());
                let value = if k == 0 { 0.0 } else { finder.grid.value(f64::from(k)) as f32 };
                assert_eq!(exact[i].to_bits(), value.to_bits() | raw[i] >> 31 << 31, "{}", what());
                assert!(quick[i].to_bits().abs_diff(exact[i].to_bits()) <= 2, "{}", what());
                compared += 1;
            }
        }
    }
    assert!(compared > 200_000, "{compared}");
}

#[test]
fn powers_of_two_are_exact() {
    for k in -1022i32..=1023 {
        let power = f64::from_bits(((1023 + k) as u64) << 52);
        assert_eq!(log2(power), f64::from(k));
        assert!(k.abs() > 1000 || exp2(f64::from(k)) == power);
    }
}

/// The series were cut where their next term is below 2^-53; a handful of roundings remain.
#[test]
fn close_to_the_system_library() {
    let mut x = 1.0f64;
    for i in 0..200_000 {
        x = if x > 1e60 { 1e-60 } else { x * 1.000_923 + 1e-70 };
        let (found, want) = (log2(x), x.log2());
        assert!((found - want).abs() <= 4e-16 * want.abs().max(0.25), "log2({x:e}): {found} {want}");
        let y = f64::from(i) * 0.001_234_567 - 120.0;
        let (found, want) = (exp2(y), y.exp2());
        assert!((found / want - 1.0).abs() <= 1e-15, "exp2({y}): {found:e} {want:e}");
    }
}

#[test]
fn float32_and_back() {
    for bits in (0..0x0100_0000u32).step_by(251).chain((0..0x7F80_0000).step_by(65_537)) {
        assert_eq!(widen(bits), f64::from(f32::from_bits(bits)));
        assert_eq!(narrow(widen(bits)), bits);
        let between = widen(bits) * 1.000_000_03;
        assert_eq!(narrow(between), (between as f32).to_bits());
    }
}
