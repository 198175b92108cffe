//! The lane code of quantization: the largest magnitude of a run, and the codes of a run whose scales are
//! known.

use crate::formats::near::Near;
use crate::formats::source::{Code, Source};
use crate::simd::{map_groups, GroupMap, Kernel, Lanes};
use std::marker::PhantomData;

const ABSOLUTE: u32 = 0x7FFF_FFFF;

/// The largest magnitude bits of a run; NaN orders above infinity.
#[inline(always)]
pub(super) fn run_amax<L: Lanes, S: Source>(l: L, src: &[S::Item]) -> u32 {
    let absolute = l.u32(ABSOLUTE);
    let mut m = [l.u32(0); 4];
    let groups = src.chunks_exact(L::GROUP);
    let rest = groups.remainder();
    for group in groups {
        m[0] = l.max(m[0], l.and(l.bits(S::load(l, &group[..L::N])), absolute));
        m[1] = l.max(m[1], l.and(l.bits(S::load(l, &group[L::N..2 * L::N])), absolute));
        m[2] = l.max(m[2], l.and(l.bits(S::load(l, &group[2 * L::N..3 * L::N])), absolute));
        m[3] = l.max(m[3], l.and(l.bits(S::load(l, &group[3 * L::N..])), absolute));
    }
    let vectors = rest.chunks_exact(L::N);
    let tail = vectors.remainder();
    for vector in vectors {
        m[0] = l.max(m[0], l.and(l.bits(S::load(l, vector)), absolute));
    }
    if !tail.is_empty() {
        let mut padded = [S::Item::default(); 16];
        padded[..tail.len()].copy_from_slice(tail);
        m[1] = l.max(m[1], l.and(l.bits(S::load(l, &padded)), absolute));
    }
    l.hmax(l.max(l.max(m[0], m[1]), l.max(m[2], m[3])))
}

/// Raises each of `amax` to the magnitude bits of the element beside it.
#[inline(always)]
pub(super) fn raise_each<L: Lanes, S: Source>(l: L, src: &[S::Item], amax: &mut [u32]) {
    let absolute = l.u32(ABSOLUTE);
    let mut i = 0;
    while i + L::N <= src.len() {
        let a = l.bits(S::load(l, &src[i..i + L::N]));
        let m = l.load_u32(&amax[i..i + L::N]);
        l.store_u32(l.max(m, l.and(a, absolute)), &mut amax[i..i + L::N]);
        i += L::N;
    }
    for (x, m) in src[i..].iter().zip(&mut amax[i..]) {
        let mut padded = [S::Item::default(); 16];
        padded[0] = *x;
        let mut bits = [0u32; 16];
        l.store_u32(l.bits(S::load(l, &padded)), &mut bits);
        *m = (*m).max(bits[0] & ABSOLUTE);
    }
}

/// How an element becomes a quotient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// `x * factor`.
    Multiply,
    /// `x / divisor`, with the help of `factor = RN(1 / divisor)`. Needs [`SAFE`](EncodeRun).
    DivideBy,
    /// `x / divisor`.
    Divide,
}

/// Where the scale of an element stands.
pub(super) trait Scales: Copy + Send + Sync {
    /// (divisor, factor) of the `j`-th vector of the group at element `at`.
    fn vector<L: Lanes>(&self, l: L, at: usize, j: usize) -> (L::F, L::F);
}

/// One scale for the whole run.
#[derive(Clone, Copy)]
pub(super) struct Uniform {
    pub divisor: f32,
    pub factor: f32,
}

impl Scales for Uniform {
    #[inline(always)]
    fn vector<L: Lanes>(&self, l: L, _at: usize, _j: usize) -> (L::F, L::F) {
        (l.f32(self.divisor), l.f32(self.factor))
    }
}

/// A scale for each element; the slices reach a group beyond the last one.
#[derive(Clone, Copy)]
pub(super) struct Each<'a> {
    pub divisor: &'a [f32],
    pub factor: &'a [f32],
}

impl Scales for Each<'_> {
    #[inline(always)]
    fn vector<L: Lanes>(&self, l: L, at: usize, j: usize) -> (L::F, L::F) {
        let i = at + j * L::N;
        (l.load_f32(&self.divisor[i..]), l.load_f32(&self.factor[i..]))
    }
}

/// The codes of a run. `SAFE` promises finite elements whose quotients need no care (see
/// [`BlockScales::safe`](super::panel::BlockScales)): subnormal elements are then rounded to zero beforehand, which they would become
/// anyway, because float units take a hundred times longer over them.
#[derive(Clone, Copy)]
pub(super) struct EncodeRun<Q, S, C, const SAFE: bool, const PLAIN: bool> {
    pub near: Near,
    pub how: How,
    pub scales: Q,
    pub marker: PhantomData<(S, C)>,
}

impl<Q: Scales, S: Source, C: Code, const SAFE: bool, const PLAIN: bool> EncodeRun<Q, S, C, SAFE, PLAIN> {
    #[inline(always)]
    fn vector<L: Lanes>(&self, l: L, at: usize, j: usize, src: &[S::Item]) -> L::U {
        let x = l.bits(S::load(l, &src[j * L::N..]));
        let mut a = self.near.magnitude(l, x);
        if SAFE {
            a = l.select(l.gt(a, l.u32(0x007F_FFFF)), a, l.u32(0));
        }
        let (divisor, factor) = self.scales.vector(l, at, j);
        let q = match self.how {
            How::Multiply => l.fmul(l.float(a), factor),
            How::DivideBy if SAFE => l.fdiv_by(l.float(a), divisor, factor),
            How::DivideBy | How::Divide => l.fdiv(l.float(a), divisor),
        };
        let code = if SAFE {
            self.near.round_number(l, l.bits(q))
        } else {
            self.near.round(l, self.near.magnitude(l, l.bits(q)))
        };
        self.near.sign::<L, PLAIN>(l, code, x)
    }
}

impl<Q: Scales, S: Source, C: Code, const SAFE: bool, const PLAIN: bool> GroupMap
    for EncodeRun<Q, S, C, SAFE, PLAIN>
{
    type In = S::Item;
    type Out = C;
    #[inline(always)]
    fn group<L: Lanes>(&self, l: L, at: usize, src: &[S::Item], out: &mut [C], stream: bool) {
        let codes = [
            self.vector(l, at, 0, src),
            self.vector(l, at, 1, src),
            self.vector(l, at, 2, src),
            self.vector(l, at, 3, src),
        ];
        C::store(l, codes, out, stream);
    }
}

/// Blocks at least this wide have their scale in a register; narrower ones are spread over the elements.
pub(super) const WIDE: usize = 64;

/// The scales of the blocks that a run of elements crosses.
pub(super) struct RunScales<'a> {
    /// Columns of a block.
    pub block_cols: usize,
    /// Elements of the first block that lie before the run.
    pub phase: usize,
    /// Of each block, for blocks of [`WIDE`] columns or more; else of each element, with a group to spare.
    pub divisor: &'a [f32],
    /// Likewise.
    pub factor: &'a [f32],
}

/// Encodes a run. A kernel of its own, so that it is compiled once for all who need it.
pub(super) struct Encode<'a, S: Source, C: Code, const SAFE: bool, const PLAIN: bool> {
    pub near: Near,
    pub how: How,
    pub scales: RunScales<'a>,
    pub src: &'a [S::Item],
    pub out: &'a mut [C],
}

impl<S: Source, C: Code, const SAFE: bool, const PLAIN: bool> Kernel for Encode<'_, S, C, SAFE, PLAIN> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Encode { near, how, scales, src, out } = self;
        if scales.block_cols < WIDE {
            let scales = Each { divisor: scales.divisor, factor: scales.factor };
            let map = EncodeRun::<_, S, C, SAFE, PLAIN> { near, how, scales, marker: PhantomData };
            return map_groups(l, &map, 0, src, out, false);
        }
        let (mut start, mut block) = (0, 0);
        while start < src.len() {
            let end = ((block + 1) * scales.block_cols - scales.phase).min(src.len());
            let scales = Uniform { divisor: scales.divisor[block], factor: scales.factor[block] };
            let map = EncodeRun::<_, S, C, SAFE, PLAIN> { near, how, scales, marker: PhantomData };
            map_groups(l, &map, 0, &src[start..end], &mut out[start..end], false);
            (start, block) = (end, block + 1);
        }
    }
}
