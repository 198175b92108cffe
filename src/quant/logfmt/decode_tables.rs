//! Decoding from tables: small tables of a tile's values, where the tile is long enough to pay for them.
//!
//! A value is a product of two factors, which are powers by multiplication.
//! With `q = 2^-step`, the value m steps below the largest is `hi q^m`. The definition computes `lo 2^((k - 1) step)`
//! instead. The difference is bounded, so float32 roundings of the factors and of their products are the definition's
//! unless they are near a rounding midpoint. For a tile that spans less than E = 64 octaves, in relative units of 2^-53:
//!
//! | difference | at most |
//! |---|---|
//! | the definition: rounding of `(k - 1) step`, a power, a product | `0.7 E + 5` |
//! | `(top - 1) step` beside `log2(hi / lo)` | `0.7 (4 E + 4)` |
//! | `q^m`: `step` is off by 1 and `q` by 5, m times; as many products, and one | `0.7 E + 6 m + 1` |
//!
//! In all less than 2^11 units for codes of 8 bits (m to 127), less than 2^12 for those of 10 (m to 511): [`NEAR`].

use super::definition::{direct, top, Precision, TileGrid};
use crate::formats::source::Code;
use crate::simd::{map_groups, GroupMap, Kernel, Lanes, Walk};
use std::marker::PhantomData;

/// Decodes from tables.
#[inline(always)]
pub(super) fn look_up<L: Lanes, K: TableLookup, C: Code>(
    l: L,
    table: &TileTables,
    grid: &TileGrid,
    bits: u32,
    codes: &[C],
    out: &mut [f32],
) {
    let map = TableMap::<K, C> { table, grid, bits, marker: PhantomData };
    map_groups(l, &map, 0, codes, out, Walk::CACHED);
}

/// The tables of a tile; the path fills those that it uses.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct TileTables {
    /// The value of each byte.
    all: [f32; 256],
    /// The last values of groups; of bytes, their negatives too.
    last: FactorTable,
    /// The ratios to them; the second half is for codes of more than 8 bits.
    down: [FactorTable; 2],
}

/// Some factors, laid out for permutations.
#[derive(Clone, Copy)]
struct FactorTable {
    near: [f32; 16],
    /// Their float32 remainders.
    rest: [f32; 16],
}

impl TileTables {
    pub const NONE: TileTables = {
        let none = FactorTable { near: [0.0; 16], rest: [0.0; 16] };
        TileTables { all: [0.0; 256], last: none, down: [none; 2] }
    };

    /// Fills the table of all values. False if one of them is in doubt.
    #[inline(always)]
    pub fn exact<L: Lanes>(&mut self, l: L, q: f64, hi: f64, bits: u32) -> bool {
        let [rows, steps] = l.powers(q, 4, hi);
        let doubt = l.products(&rows[..8], &steps, NEAR[0], &mut self.all[..128]);
        let values = 1usize << (bits - 1);
        if values < 128 {
            self.all.copy_within(128 - values..128, 0);
        }
        self.complete(values);
        !doubt
    }

    /// Fills the table of all quick values. False if a factor is in doubt.
    #[inline(always)]
    pub fn quick(&mut self, factors: &Factors, bits: u32) -> bool {
        let (last, down) = (&factors.last[..8], &factors.down()[0]);
        let mut sure = true;
        for x in last.iter().chain(down) {
            sure &= !doubtful(*x);
        }
        let down = down.map(|x| x as f32);
        for (row, last) in self.all[..128].chunks_exact_mut(16).zip(last) {
            let last = *last as f32;
            for (to, down) in row.iter_mut().zip(&down) {
                *to = last * down;
            }
        }
        let (values, size) = (1usize << (bits - 1), 1usize << (bits / 2));
        if size < 16 {
            for k in 0..values {
                self.all[k] = self.all[k / size * 16 + k % size];
            }
        }
        self.complete(values);
        sure
    }

    /// Adds zero, the negatives and the repeats.
    #[inline(always)]
    fn complete(&mut self, values: usize) {
        self.all[0] = 0.0;
        if values == 128 {
            let (positive, negative) = self.all.split_at_mut(128);
            for (to, x) in negative.iter_mut().zip(positive) {
                *to = -*x;
            }
            return;
        }
        for k in 0..values {
            self.all[values + k] = -self.all[k];
        }
        for i in 2 * values..256 {
            self.all[i] = self.all[i - 2 * values];
        }
    }

    /// Fills the tables of factors. False if one of them is in doubt.
    #[inline(always)]
    pub fn factors<L: Lanes>(&mut self, l: L, factors: &Factors, near: u32) -> bool {
        let mut doubt = l.lay_out(&factors.last, near, &mut self.last.near);
        for (table, down) in self.down.iter_mut().zip(factors.down()) {
            doubt |= l.lay_out(down, near, &mut table.near);
        }
        !doubt
    }

    /// Fills the tables of factors, each as the sum of two float32.
    #[inline(always)]
    pub fn pairs<L: Lanes>(&mut self, l: L, factors: &Factors) -> bool {
        l.lay_out_pairs(&factors.last, &mut self.last.near, &mut self.last.rest);
        for (table, down) in self.down.iter_mut().zip(factors.down()) {
            l.lay_out_pairs(down, &mut table.near, &mut table.rest);
        }
        true
    }

    /// Looks up the last values of the groups of codes, or their rests.
    #[inline(always)]
    fn last<L: Lanes, C: Code>(&self, l: L, rest: bool, codes: [L::U; 4], bits: u32) -> [L::F; 4] {
        let table = if rest { &self.last.rest } else { &self.last.near };
        if C::BYTE {
            l.permute_group(table, None, codes, bits / 2)
        } else {
            l.permute_signed(table, codes, bits / 2)
        }
    }

    /// Looks up the ratios of codes to those, or their rests.
    #[inline(always)]
    fn down<L: Lanes, C: Code>(&self, l: L, rest: bool, codes: [L::U; 4]) -> [L::F; 4] {
        let [low, high] = &self.down;
        let (low, high) = if rest { (&low.rest, &high.rest) } else { (&low.near, &high.near) };
        l.permute_group(low, if C::BYTE { None } else { Some(high) }, codes, 0)
    }
}

/// A lookup of the values of codes in the tables of their tile.
pub(super) trait TableLookup: Copy {
    /// Looks up a group of codes. Lanes of the second result are not zero if the value is in doubt.
    fn values<L: Lanes, C: Code>(
        l: L,
        table: &TileTables,
        bits: u32,
        codes: [L::U; 4],
    ) -> ([L::F; 4], [L::U; 4]);
    /// True if values can be in doubt.
    const DOUBT: bool;
}

/// Values from the table of all values.
#[derive(Clone, Copy)]
pub(super) struct All;

impl TableLookup for All {
    #[inline(always)]
    fn values<L: Lanes, C: Code>(
        l: L,
        table: &TileTables,
        _bits: u32,
        codes: [L::U; 4],
    ) -> ([L::F; 4], [L::U; 4]) {
        let [a, b, c, d] = codes;
        let all = &table.all;
        let values = [l.gather256(all, a), l.gather256(all, b), l.gather256(all, c), l.gather256(all, d)];
        (values, [l.u32(0); 4])
    }
    const DOUBT: bool = false;
}

/// Values as products of two float32.
#[derive(Clone, Copy)]
pub(super) struct Product;

impl TableLookup for Product {
    #[inline(always)]
    fn values<L: Lanes, C: Code>(
        l: L,
        table: &TileTables,
        bits: u32,
        codes: [L::U; 4],
    ) -> ([L::F; 4], [L::U; 4]) {
        let mut values = table.last::<L, C>(l, false, codes, bits);
        let down = table.down::<L, C>(l, false, codes);
        for ((value, down), code) in values.iter_mut().zip(&down).zip(&codes) {
            *value = or_zero(l, bits, *code, l.fmul(*value, *down));
        }
        (values, [l.u32(0); 4])
    }
    const DOUBT: bool = false;
}

/// Values as products of two pairs `a + b` of float32, each good to 2^-48, without the product of the two `b`. With the
/// roundings of the terms beside the product of the two `a`, and with the errors of factors, the relative error is at most
/// [`OFF`]. The sum rounds as the value does if sum and value plus or minus that error round alike.
#[derive(Clone, Copy)]
pub(super) struct PairProduct;

/// 2^-42, and 2^-41 for wide codes.
const OFF: [f32; 2] = [1.0 / 4_398_046_511_104.0, 1.0 / 2_199_023_255_552.0];

impl TableLookup for PairProduct {
    #[inline(always)]
    fn values<L: Lanes, C: Code>(
        l: L,
        table: &TileTables,
        bits: u32,
        codes: [L::U; 4],
    ) -> ([L::F; 4], [L::U; 4]) {
        let off = OFF[usize::from(!C::BYTE)];
        let (off, less_off) = (l.f32(off), l.f32(-off));
        // Tables one after the other: there are registers for no more.
        let down = table.down::<L, C>(l, false, codes);
        let mut rest = table.last::<L, C>(l, true, codes, bits);
        for (rest, down) in rest.iter_mut().zip(&down) {
            *rest = l.fmul(*rest, *down);
        }
        let mut values = table.last::<L, C>(l, false, codes, bits);
        let down_rest = table.down::<L, C>(l, true, codes);
        let mut doubts = codes;
        let factors = down.iter().zip(&down_rest).zip(&rest);
        for ((value, code), ((down, down_rest), rest)) in values.iter_mut().zip(&mut doubts).zip(factors) {
            let (last, rest) = (*value, l.estimate(*value, *down_rest, *rest));
            // `last` is not less than the value.
            let more = l.estimate(last, *down, l.estimate(last, off, rest));
            let less = l.estimate(last, *down, l.estimate(last, less_off, rest));
            (*value, *code) = (or_zero(l, bits, *code, more), l.xor(l.bits(more), l.bits(less)));
        }
        (values, doubts)
    }
    const DOUBT: bool = true;
}

/// Zero, with the sign of `x`, for code 0.
#[inline(always)]
fn or_zero<L: Lanes>(l: L, bits: u32, code: L::U, x: L::F) -> L::F {
    let x = l.bits(x);
    let some = l.gt(l.and(code, l.u32(top(bits))), l.u32(0));
    l.float(l.select(some, x, l.and(x, l.u32(1 << 31))))
}

/// Decodes codes of one tile from its tables.
#[derive(Clone, Copy)]
struct TableMap<'a, K, C> {
    table: &'a TileTables,
    grid: &'a TileGrid,
    bits: u32,
    marker: PhantomData<(K, C)>,
}

impl<K: TableLookup, C: Code> GroupMap for TableMap<'_, K, C> {
    type In = C;
    type Out = f32;
    #[inline(always)]
    fn group<L: Lanes>(&self, l: L, _at: usize, codes: &[C], out: &mut [f32], _stream: bool) {
        let TableMap { table, grid, bits, .. } = self;
        let loaded = [
            C::load(l, codes),
            C::load(l, &codes[L::N..]),
            C::load(l, &codes[2 * L::N..]),
            C::load(l, &codes[3 * L::N..]),
        ];
        let ([x0, x1, x2, x3], [d0, d1, d2, d3]) = K::values::<L, C>(l, table, *bits, loaded);
        l.store_f32(x0, out, false);
        l.store_f32(x1, &mut out[L::N..], false);
        l.store_f32(x2, &mut out[2 * L::N..], false);
        l.store_f32(x3, &mut out[3 * L::N..], false);
        if K::DOUBT && l.any(l.gt(l.or(l.or(d0, d1), l.or(d2, d3)), l.u32(0))) {
            l.call(Fallback { grid, bits: *bits, codes: &codes[..L::GROUP], out: &mut out[..L::GROUP] });
        }
    }
}

/// A group by the definition.
struct Fallback<'a, C: Code> {
    grid: &'a TileGrid,
    bits: u32,
    codes: &'a [C],
    out: &'a mut [f32],
}

impl<C: Code> Kernel for Fallback<'_, C> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        direct(l, self.grid, self.bits, Precision::Exact, self.codes, self.out);
    }
}

/// Units in the last place of a float64 by which a product of factors and a value can differ, and those of wide codes.
pub(super) const NEAR: [u32; 2] = [1 << 11, 1 << 12];

/// Codes in groups of `2^(bits / 2)`: the last value of each group, and the ratios of the codes to the last value.
pub(super) struct Factors {
    pub last: [f64; 16],
    down: [[f64; 16]; 2],
    wide: bool,
}

impl Factors {
    /// The factors of codes of at most 8 bits. The negatives of last values are behind them. For codes of less than 8 bits
    /// both repeat, as bits above the magnitude are looked up with it.
    #[inline(always)]
    pub fn new<L: Lanes>(l: L, q: f64, hi: f64, bits: u32) -> Factors {
        let [mut last, mut down] = l.powers(q, bits / 2, hi);
        if bits < 8 {
            let (few, ratios) = (last, down);
            let (groups, size) = (1usize << (bits - 1 - bits / 2), 1usize << (bits / 2));
            for (i, last) in last.iter_mut().enumerate() {
                *last = few[8 * (i / groups % 2) + 8 - groups + i % groups];
            }
            for (j, down) in down.iter_mut().enumerate() {
                *down = ratios[16 - size + j % size];
            }
        }
        Factors { last, down: [down; 2], wide: false }
    }

    /// The factors of codes of 9 or 10 bits, by twice as many: the last values of 16 groups; and the ratios in a group,
    /// which repeat for 9 bits.
    #[inline(always)]
    pub fn wide<L: Lanes>(l: L, q: f64, hi: f64, bits: u32) -> Factors {
        let times = bits / 2;
        let [near, down] = l.powers(q, times, hi);
        let mut far = q;
        for _ in 0..times + 3 {
            far *= far; // to the power of 8 groups
        }
        let mut last = near;
        let (beyond, behind) = last.split_at_mut(8);
        behind.copy_from_slice(&near[..8]);
        for x in beyond {
            *x *= far;
        }
        let more = if bits == 10 { q * down[0] } else { 1.0 };
        let mut first = down;
        for x in &mut first {
            *x *= more;
        }
        Factors { last, down: [first, down], wide: true }
    }

    /// The ratios, in one table or two.
    #[inline(always)]
    pub fn down(&self) -> &[[f64; 16]] {
        &self.down[..if self.wide { 2 } else { 1 }]
    }
}

/// Tests if a number is within [`NEAR`] ulps of a float32 rounding midpoint.
#[inline(always)]
fn doubtful(x: f64) -> bool {
    const MIDPOINT: u32 = 1 << 28;
    (x.to_bits() as u32).wrapping_sub(MIDPOINT - NEAR[0]) & (2 * MIDPOINT - 1) < 2 * NEAR[0]
}
