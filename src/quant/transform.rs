//! The lane code of quantization: the largest magnitude of a run, and the codes of a run whose scales are
//! known.

use super::place::{Each, Place, Shifted};
use crate::formats::lanes::LaneRounder;
use crate::formats::near::Near;
use crate::formats::source::{Code, Source};
use crate::simd::{GroupMap, Kernel, Laid, Lanes, Narrow, MAX_GROUP};
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

/// Blocks of a few vectors each, as many at a time as there are lanes: raises their maxima and returns how many they are.
struct RaiseNarrow<'a, S: Source, const VECTORS: usize> {
    run: &'a [S::Item],
    amax: &'a mut [u32],
    /// Bytes to prefetch ahead of loads; 0 where they are in cache.
    ahead: usize,
}

impl<S: Source, const VECTORS: usize> Kernel for RaiseNarrow<'_, S, VECTORS> {
    type Out = usize;
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> usize {
        let RaiseNarrow { run, amax, ahead } = self;
        let absolute = l.u32(ABSOLUTE);
        let runs = run.chunks_exact(VECTORS * L::N * L::N);
        let done = runs.len() * L::N;
        for (run, amax) in runs.zip(amax.chunks_exact_mut(L::N)) {
            let mut most = [l.u32(0); WIDEST];
            for (i, most) in most[..L::N].iter_mut().enumerate() {
                for j in VECTORS * i..VECTORS * (i + 1) {
                    let vector = &run[j * L::N..(j + 1) * L::N];
                    if ahead > 0 {
                        l.prefetch(vector, ahead);
                    }
                    *most = l.max(*most, l.and(l.bits(S::load(l, vector)), absolute));
                }
            }
            l.store_u32(l.max(l.load_u32(amax), l.hmax_each(&most)), amax);
        }
        done
    }
}

/// Bytes to prefetch ahead of loads where runs are followed by their neighbours; more of them lead to the next row.
pub(super) const AHEAD: usize = 2048;

/// Raises each block's maximum over a run that begins with a block; `ahead` as for [`RaiseNarrow`].
#[inline(always)]
pub(super) fn raise_blocks<L: Lanes, S: Source>(
    l: L,
    run: &[S::Item],
    block_cols: usize,
    amax: &mut [u32],
    ahead: usize,
) {
    if block_cols == 1 {
        return raise_each::<L, S>(l, run, amax);
    }
    let mut done = 0;
    if block_cols == L::N {
        done = l.call(RaiseNarrow::<S, 1> { run, amax, ahead });
    } else if block_cols == 2 * L::N {
        done = l.call(RaiseNarrow::<S, 2> { run, amax, ahead });
    } else if block_cols == 4 * L::N {
        done = l.call(RaiseNarrow::<S, 4> { run, amax, ahead });
    } else if block_cols.is_multiple_of(L::N) {
        // As many blocks at a time as there are lanes, so that each lane of a vector becomes the maximum of one.
        let absolute = l.u32(ABSOLUTE);
        for run in run.chunks_exact(block_cols.saturating_mul(L::N)) {
            let mut most = [l.u32(0); WIDEST];
            for (most, block) in most.iter_mut().zip(run.chunks_exact(block_cols)) {
                let mut m = l.u32(0);
                let mut raise = |vector: &[S::Item]| {
                    if ahead > AHEAD {
                        l.prefetch_far(vector, ahead);
                    }
                    m = l.max(m, l.and(l.bits(S::load(l, vector)), absolute));
                };
                let groups = block.chunks_exact(L::GROUP);
                let rest = groups.remainder();
                for group in groups {
                    raise(&group[..L::N]);
                    raise(&group[L::N..2 * L::N]);
                    raise(&group[2 * L::N..3 * L::N]);
                    raise(&group[3 * L::N..]);
                }
                rest.chunks_exact(L::N).for_each(raise);
                *most = m;
            }
            let amax = &mut amax[done..done + L::N];
            l.store_u32(l.max(l.load_u32(amax), l.hmax_each(&most)), amax);
            done += L::N;
        }
    }
    for (block, amax) in run[(done * block_cols).min(run.len())..].chunks(block_cols).zip(&mut amax[done..]) {
        *amax = (*amax).max(run_amax::<L, S>(l, block));
    }
}

/// The most lanes of any level.
const WIDEST: usize = MAX_GROUP / 4;

/// Raises the maxima of blocks of short rows that lie apart: of whole columns first, some at a time, whose lines memory serves
/// one after the other.
pub(super) struct RaiseColumns<'a, S: Source> {
    pub src: &'a [S::Item],
    pub stride: usize,
    pub cols: usize,
    pub block_cols: usize,
    pub amax: &'a mut [u32],
}

impl<S: Source> Kernel for RaiseColumns<'_, S> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let RaiseColumns { src, stride, cols, block_cols, amax } = self;
        let absolute = l.u32(ABSOLUTE);
        for at in (0..cols).step_by(L::GROUP) {
            let width = L::GROUP.min(cols - at);
            let (mut m, mut each) = ([l.u32(0); 4], [0u32; MAX_GROUP]);
            if width == L::GROUP {
                for row in src[at..].chunks(stride) {
                    let row = &row[..L::GROUP];
                    m[0] = l.max(m[0], l.and(l.bits(S::load(l, row)), absolute));
                    m[1] = l.max(m[1], l.and(l.bits(S::load(l, &row[L::N..])), absolute));
                    m[2] = l.max(m[2], l.and(l.bits(S::load(l, &row[2 * L::N..])), absolute));
                    m[3] = l.max(m[3], l.and(l.bits(S::load(l, &row[3 * L::N..])), absolute));
                }
                m.iter().enumerate().for_each(|(i, m)| l.store_u32(*m, &mut each[i * L::N..]));
            } else {
                src[at..].chunks(stride).for_each(|row| raise_each::<L, S>(l, &row[..width], &mut each));
            }
            for (i, bits) in each[..width].iter().enumerate() {
                let most = &mut amax[(at + i) / block_cols];
                *most = (*most).max(*bits);
            }
        }
    }
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

/// The quotients of a run.
///
/// `DIVIDE` is whether elements are divided by the divisor; else they are multiplied by the factor. `SAFE` promises
/// finite elements whose quotients need no care (see [`BlockScales`](super::panel::BlockScales)): subnormal elements
/// are then made zero beforehand, which is what they would become, because float units take a hundred times longer over
/// them; and a division may be a multiplication that is corrected once.
#[derive(Clone, Copy)]
struct Quotients<'a, P, const SAFE: bool, const DIVIDE: bool> {
    place: P,
    divisor: &'a [f32],
    factor: &'a [f32],
}

impl<P: Place, const SAFE: bool, const DIVIDE: bool> Quotients<'_, P, SAFE, DIVIDE> {
    /// The quotients of a vector.
    #[inline(always)]
    fn of<L: Lanes>(&self, l: L, at: usize, j: usize, x: L::F) -> L::F {
        let divisor = || self.place.load(l, self.divisor, at, j);
        let factor = || self.place.load(l, self.factor, at, j);
        match (SAFE, DIVIDE) {
            (_, false) => l.fmul(x, factor()),
            (true, true) => l.fdiv_by(x, divisor(), factor()),
            (false, true) => l.fdiv(x, divisor()),
        }
    }
}

/// The codes of a run by [`Lanes::store_narrow`].
#[derive(Clone, Copy)]
struct EncodeNarrow<'a, P, S, C, const DIVIDE: bool> {
    narrow: Narrow,
    quotients: Quotients<'a, P, true, DIVIDE>,
    marker: PhantomData<(S, C)>,
}

impl<P: Place, S: Source, C: Code, const DIVIDE: bool> EncodeNarrow<'_, P, S, C, DIVIDE> {
    #[inline(always)]
    fn ready<L: Lanes>(&self, l: L, at: usize, j: usize, src: &[S::Item]) -> L::F {
        let x = l.flush(S::load(l, &src[j * L::N..]));
        self.quotients.of(l, at, j, x)
    }
}

impl<P: Place, S: Source, C: Code, const DIVIDE: bool> GroupMap for EncodeNarrow<'_, P, S, C, DIVIDE> {
    type In = S::Item;
    type Out = C;
    #[inline(always)]
    fn group<L: Lanes>(&self, l: L, at: usize, src: &[S::Item], out: &mut [C], stream: bool) {
        let x = [
            self.ready(l, at, 0, src),
            self.ready(l, at, 1, src),
            self.ready(l, at, 2, src),
            self.ready(l, at, 3, src),
        ];
        C::store_narrow(l, x, self.narrow, out, stream);
    }
}

/// The codes of a run.
#[derive(Clone, Copy)]
struct EncodeRun<'a, P, S, C, const SAFE: bool, const DIVIDE: bool, const PLAIN: bool> {
    near: Near,
    quotients: Quotients<'a, P, SAFE, DIVIDE>,
    marker: PhantomData<(S, C)>,
}

impl<P: Place, S: Source, C: Code, const SAFE: bool, const DIVIDE: bool, const PLAIN: bool>
    EncodeRun<'_, P, S, C, SAFE, DIVIDE, PLAIN>
{
    /// The bits of a vector of elements.
    #[inline(always)]
    fn load<L: Lanes>(&self, l: L, j: usize, src: &[S::Item]) -> L::U {
        l.bits(S::load(l, &src[j * L::N..]))
    }

    /// The quotients of the magnitudes of elements.
    #[inline(always)]
    fn quotient<L: Lanes>(&self, l: L, at: usize, j: usize, x: L::U) -> L::F {
        let mut a = self.near.magnitude(l, x);
        if SAFE {
            a = l.select(l.gt(a, l.u32(0x007F_FFFF)), a, l.u32(0));
        }
        self.quotients.of(l, at, j, l.float(a))
    }

    #[inline(always)]
    fn vector<L: Lanes>(&self, l: L, at: usize, j: usize, src: &[S::Item]) -> L::U {
        let x = self.load(l, j, src);
        let q = l.bits(self.quotient(l, at, j, x));
        let code =
            if SAFE { self.near.round_number(l, q) } else { self.near.round(l, self.near.magnitude(l, q)) };
        self.near.sign::<L, PLAIN>(l, code, x)
    }
}

impl<P: Place, S: Source, C: Code, const SAFE: bool, const DIVIDE: bool, const PLAIN: bool> GroupMap
    for EncodeRun<'_, P, S, C, SAFE, DIVIDE, PLAIN>
{
    type In = S::Item;
    type Out = C;
    #[inline(always)]
    fn group<L: Lanes>(&self, l: L, at: usize, src: &[S::Item], out: &mut [C], stream: bool) {
        if SAFE && PLAIN && C::BYTE && L::NEAREST_BYTES {
            let x = [self.load(l, 0, src), self.load(l, 1, src), self.load(l, 2, src), self.load(l, 3, src)];
            let q = [
                self.quotient(l, at, 0, x[0]),
                self.quotient(l, at, 1, x[1]),
                self.quotient(l, at, 2, x[2]),
                self.quotient(l, at, 3, x[3]),
            ];
            return C::store_nearest(l, q, x, self.near.bytes(), out, stream);
        }
        let codes = [
            self.vector(l, at, 0, src),
            self.vector(l, at, 1, src),
            self.vector(l, at, 2, src),
            self.vector(l, at, 3, src),
        ];
        C::store(l, codes, out, stream);
    }
}

/// The scales of a run: of its blocks, where every vector has one scale; else of its elements.
#[derive(Clone, Copy)]
pub(super) struct RunScales<'a> {
    pub shifted: Option<Shifted>,
    pub divisor: &'a [f32],
    pub factor: &'a [f32],
}

impl RunScales<'_> {
    /// The same from an element on, a multiple of any group.
    #[inline(always)]
    pub fn after(self, n: usize) -> Self {
        match self.shifted {
            Some(shifted) => RunScales { shifted: Some(shifted.after(n)), ..self },
            None => RunScales { divisor: &self.divisor[n..], factor: &self.factor[n..], ..self },
        }
    }
}

/// Encodes runs of the same scales. A kernel of its own, so that it is compiled once for all who need it.
pub(super) struct Encode<'a, S: Source, C: Code, const SAFE: bool, const DIVIDE: bool, const PLAIN: bool> {
    pub near: &'a Near,
    pub narrow: Option<&'a Narrow>,
    pub scales: RunScales<'a>,
    pub rows: Laid,
    pub src: &'a [S::Item],
    pub out: &'a mut [C],
}

impl<'a, S: Source, C: Code, const SAFE: bool, const DIVIDE: bool, const PLAIN: bool>
    Encode<'a, S, C, SAFE, DIVIDE, PLAIN>
{
    #[inline(always)]
    fn at<L: Lanes, P: Place>(self, l: L, place: P) {
        let Encode { near, narrow, scales: RunScales { divisor, factor, .. }, rows, src, out } = self;
        let rows = rows.plain();
        if let (true, Some(narrow)) = (SAFE && PLAIN && C::BYTE && L::NARROW, narrow) {
            let quotients = Quotients::<P, true, DIVIDE> { place, divisor, factor };
            let marker = PhantomData::<(S, C)>;
            return narrow.in_loops::<L>(
                #[inline(always)]
                |narrow| {
                    rows.rows(
                        l,
                        src,
                        out,
                        #[inline(always)]
                        |_| (0, EncodeNarrow { narrow, quotients, marker }),
                    )
                },
            );
        }
        let quotients = Quotients { place, divisor, factor };
        let map = EncodeRun::<P, S, C, SAFE, DIVIDE, PLAIN> { near: *near, quotients, marker: PhantomData };
        rows.rows(
            l,
            src,
            out,
            #[inline(always)]
            |_| (0, map),
        );
    }
}

impl<S: Source, C: Code, const SAFE: bool, const DIVIDE: bool, const PLAIN: bool> Kernel
    for Encode<'_, S, C, SAFE, DIVIDE, PLAIN>
{
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        match self.scales.shifted.map(|place| (place, place.by_group::<L>())) {
            Some((_, Some(place))) => self.at(l, place),
            Some((place, None)) => self.at(l, place),
            None => self.at(l, Each),
        }
    }
}

/// Encodes runs of the same scales by any mode of rounding.
pub(super) struct EncodeAny<'a, S: Source, C: Code> {
    pub rounder: &'a LaneRounder,
    /// As for [`EncodeRun`].
    pub safe: bool,
    pub divide: bool,
    pub scales: RunScales<'a>,
    /// The index of an element chooses its random bits.
    pub rows: Laid,
    pub src: &'a [S::Item],
    pub out: &'a mut [C],
}

#[derive(Clone, Copy)]
struct EncodeAnyMap<'a, P, S, C> {
    rounder: LaneRounder,
    safe: bool,
    divide: bool,
    first: usize,
    place: P,
    divisor: &'a [f32],
    factor: &'a [f32],
    marker: PhantomData<(S, C)>,
}

impl<P: Place, S: Source, C: Code> GroupMap for EncodeAnyMap<'_, P, S, C> {
    type In = S::Item;
    type Out = C;
    #[inline(always)]
    fn group<L: Lanes>(&self, l: L, at: usize, src: &[S::Item], out: &mut [C], stream: bool) {
        let q = [
            self.quotient(l, at, 0, src),
            self.quotient(l, at, 1, src),
            self.quotient(l, at, 2, src),
            self.quotient(l, at, 3, src),
        ];
        self.rounder.store(l, (self.first + at) as u64, q, out, stream);
    }
}

impl<P: Place, S: Source, C: Code> EncodeAnyMap<'_, P, S, C> {
    /// The bits of the quotients of a vector.
    #[inline(always)]
    fn quotient<L: Lanes>(&self, l: L, at: usize, j: usize, src: &[S::Item]) -> L::U {
        let mut x = S::load(l, &src[j * L::N..]);
        if self.safe {
            x = l.flush(x);
        }
        let (divisor, factor) =
            (self.place.load(l, self.divisor, at, j), self.place.load(l, self.factor, at, j));
        let q = match (self.divide, self.safe) {
            (false, _) => l.fmul(x, factor),
            (true, true) => l.fdiv_by(x, divisor, factor),
            (true, false) => l.fdiv(x, divisor),
        };
        // A NaN that the quotient makes may have either sign, and a zero loses its own.
        l.or(l.and(l.bits(q), l.u32(ABSOLUTE)), l.and(l.bits(x), l.u32(!ABSOLUTE)))
    }
}

impl<S: Source, C: Code> EncodeAny<'_, S, C> {
    #[inline(always)]
    fn place<L: Lanes, P: Place>(self, l: L, place: P) {
        let EncodeAny { rounder, safe, divide, scales, rows, src, out } = self;
        let RunScales { divisor, factor, .. } = scales;
        let map = EncodeAnyMap::<P, S, C> {
            rounder: *rounder,
            // However small, an element may matter.
            safe: safe && !rounder.minds_tiny(),
            divide,
            first: 0,
            place,
            divisor,
            factor,
            marker: PhantomData,
        };
        rows.plain().rows(
            l,
            src,
            out,
            #[inline(always)]
            |first| (0, EncodeAnyMap { first, ..map }),
        );
    }
}

impl<S: Source, C: Code> Kernel for EncodeAny<'_, S, C> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        match self.scales.shifted {
            Some(place) => self.place(l, place),
            None => self.place(l, Each),
        }
    }
}
