//! The codes of a run of elements, all of one tile.

use super::encode::LogOptions;
use super::estimate::Line;
use super::float64::widen as to_f64;
use super::ready::{Panel, Way};
use super::tile::{Finder, LogRounding};
use crate::formats::encode::widen;
use crate::formats::philox::{philox4x32, random_words};
use crate::formats::source::{Code, Source};
use crate::simd::{map_groups, GroupMap, Kernel, Lanes, Walk, MAX_GROUP};
use std::marker::PhantomData;

const ABSOLUTE: u32 = 0x7FFF_FFFF;
const INFINITY: u32 = 0x7F80_0000;

/// Which random bits an element draws.
#[derive(Clone, Copy, Debug)]
pub(super) struct Indices {
    /// Elements of a row.
    pub cols: usize,
    /// Rows that were neighbours before the axis was moved.
    pub inner: usize,
    /// The seed.
    pub seed: u64,
}

impl Indices {
    /// The words of elements `at..`.
    #[inline(always)]
    fn words(&self, at: usize, out: &mut [u32]) {
        if self.inner == 1 {
            return random_words(self.seed, at as u64, out);
        }
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        for (i, word) in out.iter_mut().enumerate() {
            let (row, col) = ((at + i) / self.cols, (at + i) % self.cols);
            let index = ((row / self.inner * self.cols + col) * self.inner + row % self.inner) as u64;
            let block = index / 4;
            *word = philox4x32([block as u32, (block >> 32) as u32, 0, 0], key)[(index % 4) as usize];
        }
    }
}

/// Encodes a run.
pub(super) struct Run<'a, S: Source, C: Code> {
    pub way: Way,
    pub indices: Indices,
    /// The number of the first element.
    pub at: usize,
    pub src: &'a [S::Item],
    pub codes: &'a mut [C],
}

impl<S: Source, C: Code> Kernel for Run<'_, S, C> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Run { way, indices, at, src, codes } = self;
        match way {
            Way::Flagged => codes.fill(C::default()),
            Way::Zero { sign } => {
                let mut bits = [0u32; MAX_GROUP];
                for (src, codes) in src.chunks(MAX_GROUP).zip(codes.chunks_mut(MAX_GROUP)) {
                    widen::<L, S>(l, src, &mut bits);
                    for (bits, code) in bits.iter().zip(codes) {
                        *code = C::from_u32(if bits >> 31 == 0 { 0 } else { sign });
                    }
                }
            }
            Way::Definition { finder, rounding, sign } => {
                let mut random = [0u32; MAX_GROUP];
                for (i, (src, codes)) in src.chunks(MAX_GROUP).zip(codes.chunks_mut(MAX_GROUP)).enumerate() {
                    if rounding == LogRounding::Stochastic {
                        indices.words(at + i * MAX_GROUP, &mut random);
                    }
                    define::<L, S, C>(l, &finder, rounding, sign, src, &random, codes);
                }
            }
            Way::Lanes { line, finder, rounding, bits } => {
                if line.deep {
                    let map = Estimated::<S, C, true> { line, finder, rounding, bits, marker: PhantomData };
                    map_groups(l, &map, 0, src, codes, Walk::CACHED);
                } else {
                    let map = Estimated::<S, C, false> { line, finder, rounding, bits, marker: PhantomData };
                    map_groups(l, &map, 0, src, codes, Walk::CACHED);
                }
            }
        }
    }
}

/// Codes by the estimate, a group at a time; a group that it cannot tell for sure goes to the definition.
pub(super) struct Estimated<S, C, const DEEP: bool> {
    line: Line,
    finder: Finder,
    rounding: LogRounding,
    bits: u32,
    marker: PhantomData<(S, C)>,
}

impl<S, C, const DEEP: bool> Estimated<S, C, DEEP> {
    /// For tile `i` of a panel.
    #[inline(always)]
    pub fn new(panel: &Panel, i: usize, options: &LogOptions) -> Self {
        let LogOptions { bits, rounding, .. } = *options;
        Estimated { line: panel.line(i), finder: panel.finder(i, bits), rounding, bits, marker: PhantomData }
    }
}

impl<S: Source, C: Code, const DEEP: bool> GroupMap for Estimated<S, C, DEEP> {
    type In = S::Item;
    type Out = C;
    #[inline(always)]
    fn group<L: Lanes>(&self, l: L, _at: usize, src: &[S::Item], out: &mut [C], stream: bool) {
        let (line, bits) = (&self.line, self.bits);
        let (k0, f0) = line.codes::<L, DEEP>(l, l.bits(S::load(l, src)), bits);
        let (k1, f1) = line.codes::<L, DEEP>(l, l.bits(S::load(l, &src[L::N..])), bits);
        let (k2, f2) = line.codes::<L, DEEP>(l, l.bits(S::load(l, &src[2 * L::N..])), bits);
        let (k3, f3) = line.codes::<L, DEEP>(l, l.bits(S::load(l, &src[3 * L::N..])), bits);
        C::store(l, [k0, k1, k2, k3], out, stream);
        let worst = l.max(l.max(f0, f1), l.max(f2, f3));
        if l.any(l.gt(worst, l.u32(line.limit))) {
            let Estimated { finder, rounding, bits, .. } = self;
            let sign = 1 << (bits - 1);
            l.call(Again::<S, C> { finder, rounding: *rounding, sign, src, codes: out });
        }
    }
}

/// A group by the definition.
struct Again<'a, S: Source, C: Code> {
    finder: &'a Finder,
    rounding: LogRounding,
    sign: u32,
    src: &'a [S::Item],
    codes: &'a mut [C],
}

impl<S: Source, C: Code> Kernel for Again<'_, S, C> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Again { finder, rounding, sign, src, codes } = self;
        define::<L, S, C>(
            l,
            finder,
            rounding,
            sign,
            &src[..L::GROUP],
            &[0; MAX_GROUP],
            &mut codes[..L::GROUP],
        );
    }
}

/// The codes of at most [`MAX_GROUP`] elements, by the definition.
#[inline(always)]
fn define<L: Lanes, S: Source, C: Code>(
    l: L,
    finder: &Finder,
    rounding: LogRounding,
    sign: u32,
    src: &[S::Item],
    random: &[u32; MAX_GROUP],
    codes: &mut [C],
) {
    let mut bits = [0u32; MAX_GROUP];
    let mut found = [0u32; MAX_GROUP];
    widen::<L, S>(l, src, &mut bits);
    for one in LogRounding::ALL {
        // One loop for each way to round, so that it is a constant in it and the compiler can use its vectors.
        if *one == rounding {
            for ((bits, random), code) in bits.iter().zip(random).zip(&mut found) {
                let a = bits & ABSOLUTE;
                let a = if a > INFINITY { 0 } else { a };
                let k = match one {
                    LogRounding::Linear => finder.nearest(to_f64(a), false),
                    LogRounding::Log => finder.nearest(to_f64(a), true),
                    LogRounding::Stochastic => finder.stochastic(to_f64(a), *random),
                };
                *code = k | if bits >> 31 == 0 { 0 } else { sign };
            }
        }
    }
    for (code, found) in codes.iter_mut().zip(&found) {
        *code = C::from_u32(*found);
    }
}
