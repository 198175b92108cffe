//! Looking codes up: small tables of a tile's values, where the tile is long enough to pay for them.

use super::factors::Factors;
use super::float64::{exp2, widen};
use super::layout::Tilewise;
use super::tables::{All, Look, Map, Pairs, Table, Two};
use super::tile::{step, top, Span};
use super::values::{exact, quick, Precision};
use crate::formats::source::Code;
use crate::simd::{map_groups, Kernel, Lanes, Walk, MAX_GROUP};
use std::marker::PhantomData;

/// How the codes of a tile are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Value by value, in float64.
    Direct,
    /// Out of the table of all values.
    All,
    /// Quick: as products of two float32.
    Two,
    /// Exact: as products of two numbers, each of which is the sum of two float32.
    Pairs,
}

/// The most tiles of a panel: so many that the powers of one do not wait for those of another.
const TILES: usize = 64;

/// What there is to know of some neighbouring tiles.
pub(super) struct Panel {
    bits: u32,
    precision: Precision,
    /// The number of the first tile, and how many there are.
    first: usize,
    len: usize,
    lo: [u32; TILES],
    hi: [u32; TILES],
    step: [f64; TILES],
    /// `2^-step`.
    power: [f64; TILES],
    /// The tile whose table stands ready, and the way to use it.
    ready: Option<(usize, Way)>,
    table: Table,
}

/// Tables are for tiles of normal float32 that span less than 64 octaves.
const NORMAL: u32 = 0x0080_0000;
const FAR: u32 = 64 << 23;

/// Pairs are for numbers from 2^-64 to 2^127: the least part of a product is normal then, and none overflows.
const PAIRS: std::ops::Range<u32> = 63 << 23..254 << 23;

impl Panel {
    pub fn new(bits: u32, precision: Precision) -> Panel {
        let (none, zero) = ([0; TILES], [0.0; TILES]);
        let (lo, hi, step, power) = (none, none, zero, zero);
        Panel { bits, precision, first: 0, len: 0, lo, hi, step, power, ready: None, table: Table::NONE }
    }

    /// Whether it knows tile number `tile`.
    #[inline(always)]
    fn knows(&self, tile: usize) -> bool {
        tile.wrapping_sub(self.first) < self.len
    }

    /// Learns of the tiles from number `first` on.
    #[inline(always)]
    fn learn(&mut self, first: usize, amin: &[f32], amax: &[f32]) {
        let n = (amin.len() - first).min(TILES);
        for ((lo, hi), (amin, amax)) in self
            .lo
            .iter_mut()
            .zip(&mut self.hi)
            .zip(amin[first..first + n].iter().zip(&amax[first..first + n]))
        {
            (*lo, *hi) = (amin.to_bits(), amax.to_bits());
        }
        (self.first, self.len) = (first, n);
        let top = top(self.bits);
        for ((lo, hi), s) in self.lo.iter().zip(&self.hi).zip(&mut self.step) {
            *s = step(widen(*lo), widen(*hi), top);
        }
        for (q, s) in self.power.iter_mut().zip(&self.step) {
            *q = exp2(-s);
        }
    }

    /// How `n` elements of tile `i` are best decoded.
    #[inline(always)]
    fn best<L: Lanes>(&self, i: usize, n: usize) -> Way {
        let (lo, hi) = (self.lo[i], self.hi[i]);
        if self.bits > 8 || lo < NORMAL || hi - lo >= FAR {
            return Way::Direct;
        }
        let paired = PAIRS.contains(&lo) && PAIRS.contains(&hi);
        match self.precision {
            _ if L::PERMUTES && n < 16 => Way::Direct,
            Precision::Quick if L::PERMUTES => Way::Two,
            Precision::Exact if L::PERMUTES && paired => Way::Pairs,
            _ if n < 1 << (self.bits - 2) => Way::Direct,
            _ => Way::All,
        }
    }

    /// Fills tables for `n` elements of tile `i`, and says which.
    #[inline(always)]
    fn prepare<L: Lanes>(&mut self, l: L, i: usize, n: usize) -> Way {
        let way = self.best::<L>(i, n);
        let (hi, q) = (f64::from(f32::from_bits(self.hi[i])), self.power[i]);
        let (bits, table) = (self.bits, &mut self.table);
        let sure = match (way, self.precision) {
            (Way::Direct, _) => true,
            (Way::Two, _) => table.two(l, &Factors::new(l, q, hi, bits)),
            (Way::Pairs, _) => table.pairs(l, &Factors::new(l, q, hi, bits)),
            (Way::All, Precision::Exact) => table.exact(l, q, hi, bits),
            (Way::All, Precision::Quick) => table.quick(&Factors::new(l, q, hi, bits), bits),
        };
        if sure {
            way
        } else {
            Way::Direct
        }
    }

    #[inline(always)]
    fn span(&self, i: usize) -> Span {
        let (lo, hi) = (widen(self.lo[i]), widen(self.hi[i]));
        Span { lo, hi, step: self.step[i], top: f64::from(top(self.bits)) }
    }
}

/// Decodes codes, the first of which is the next in `walk`.
pub(super) struct Values<'a, C: Code> {
    pub panel: &'a mut Panel,
    pub walk: &'a mut Tilewise,
    pub amin: &'a [f32],
    pub amax: &'a [f32],
    pub codes: &'a [C],
    pub out: &'a mut [f32],
}

impl<C: Code> Kernel for Values<'_, C> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Values { panel, walk, amin, amax, codes, out } = self;
        let (bits, precision) = (panel.bits, panel.precision);
        let mut start = 0;
        while start < codes.len() {
            let tile = walk.tile();
            if !panel.knows(tile) {
                panel.learn(tile, amin, amax);
            }
            let i = tile - panel.first;
            let end = start + walk.take(codes.len() - start);
            let (codes, out) = (&codes[start..end], &mut out[start..end]);
            let way = match panel.ready {
                Some((ready, way)) if ready == tile => way,
                _ => panel.prepare(l, i, codes.len()),
            };
            panel.ready = Some((tile, way));
            let (span, table) = (panel.span(i), &panel.table);
            match way {
                Way::Direct => direct(l, &span, bits, precision, codes, out),
                Way::All => look::<L, All, C>(l, table, span, bits, codes, out),
                Way::Two => look::<L, Two, C>(l, table, span, bits, codes, out),
                Way::Pairs => look::<L, Pairs, C>(l, table, span, bits, codes, out),
            }
            start = end;
        }
    }
}

/// Out of tables.
#[inline(always)]
fn look<L: Lanes, K: Look, C: Code>(
    l: L,
    table: &Table,
    span: Span,
    bits: u32,
    codes: &[C],
    out: &mut [f32],
) {
    let map = Map::<K, C> { table, span, bits, marker: PhantomData };
    map_groups(l, &map, 0, codes, out, Walk::CACHED);
}

/// Value by value, in float64.
#[inline(always)]
fn direct<L: Lanes, C: Code>(
    l: L,
    span: &Span,
    bits: u32,
    precision: Precision,
    codes: &[C],
    out: &mut [f32],
) {
    for (codes, out) in codes.chunks(MAX_GROUP).zip(out.chunks_mut(MAX_GROUP)) {
        let mut raw = [0u32; MAX_GROUP];
        for (raw, code) in raw.iter_mut().zip(codes) {
            *raw = code.to_u32();
        }
        match precision {
            Precision::Exact => exact(l, span, bits, &raw, out),
            Precision::Quick => quick(l, span, bits, &raw, out),
        }
    }
}
