//! A tile's tables, of codes of at most 8 bits, and what looks values up in them.

use super::factors::{doubtful, Factors, NEAR};
use super::tile::{top, Span};
use super::values::exact;
use crate::formats::source::Code;
use crate::simd::{GroupMap, Kernel, Lanes, MAX_GROUP};
use std::marker::PhantomData;

/// One tile's tables; which of them are filled depends on the way it is decoded.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Table {
    /// What each byte stands for.
    all: [f32; 256],
    /// The last values of groups, then the same with a minus sign; and what float32 cuts off them.
    last: [f32; 16],
    last_rest: [f32; 16],
    /// The ways down from them, and what float32 cuts off.
    down: [f32; 16],
    down_rest: [f32; 16],
}

impl Table {
    pub const NONE: Table = Table {
        all: [0.0; 256],
        last: [0.0; 16],
        last_rest: [0.0; 16],
        down: [0.0; 16],
        down_rest: [0.0; 16],
    };

    /// The table of all values. False if one of them is in doubt.
    #[inline(always)]
    pub fn exact<L: Lanes>(&mut self, l: L, q: f64, hi: f64, bits: u32) -> bool {
        let [rows, steps] = l.powers(q, 4, hi);
        let doubt = l.products(&rows[..8], &steps, NEAR, &mut self.all[..128]);
        let values = 1usize << (bits - 1);
        if values < 128 {
            self.all.copy_within(128 - values..128, 0);
        }
        self.complete(values);
        !doubt
    }

    /// The table of all quick values. False if a factor is in doubt.
    #[inline(always)]
    pub fn quick(&mut self, factors: &Factors, bits: u32) -> bool {
        let (last, down) = (&factors.last[..8], &factors.down);
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

    /// Adds zero, the negative values, and repeats.
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

    /// The tables of factors. False if one of them is in doubt.
    #[inline(always)]
    pub fn two<L: Lanes>(&mut self, l: L, factors: &Factors) -> bool {
        let last = l.products(&[1.0], &factors.last, NEAR, &mut self.last);
        let down = l.products(&[1.0], &factors.down, NEAR, &mut self.down);
        !(last | down)
    }

    /// The tables of factors, each as the sum of two float32.
    #[inline(always)]
    pub fn pairs<L: Lanes>(&mut self, l: L, factors: &Factors) -> bool {
        l.split(&factors.last, &mut self.last, &mut self.last_rest);
        l.split(&factors.down, &mut self.down, &mut self.down_rest);
        true
    }
}

/// What maps a tile's codes to values.
pub(super) trait Look: Copy {
    /// The values of a vector of codes, and bits other than zero where one is in doubt.
    fn values<L: Lanes>(l: L, table: &Table, bits: u32, code: L::U) -> (L::F, L::U);
    /// Whether there can be doubt.
    const DOUBT: bool;
}

/// Out of the table of all values.
#[derive(Clone, Copy)]
pub(super) struct All;

impl Look for All {
    #[inline(always)]
    fn values<L: Lanes>(l: L, table: &Table, _bits: u32, code: L::U) -> (L::F, L::U) {
        (l.gather256(&table.all, code), l.u32(0))
    }
    const DOUBT: bool = false;
}

/// As products of two float32.
#[derive(Clone, Copy)]
pub(super) struct Two;

impl Look for Two {
    #[inline(always)]
    fn values<L: Lanes>(l: L, table: &Table, bits: u32, code: L::U) -> (L::F, L::U) {
        let last = l.permute16(&table.last, l.shr(code, bits / 2));
        let down = l.permute16(&table.down, code);
        (or_zero(l, bits, code, l.fmul(last, down)), l.u32(0))
    }
    const DOUBT: bool = false;
}

/// As products of two pairs `a + b` of float32, each good to 2^-48, of which the product of the two `b` is left out. With
/// the roundings of what is added to the product of the two `a`, and with what factors are off by, the sum is within
/// [`OFF`] of the value, relatively. It rounds as the value does if a little more and a little less round alike.
#[derive(Clone, Copy)]
pub(super) struct Pairs;

/// 2^-42.
const OFF: f32 = 1.0 / 4_398_046_511_104.0;

impl Look for Pairs {
    #[inline(always)]
    fn values<L: Lanes>(l: L, table: &Table, bits: u32, code: L::U) -> (L::F, L::U) {
        let group = l.shr(code, bits / 2);
        let (last, last_rest) = (l.permute16(&table.last, group), l.permute16(&table.last_rest, group));
        let (down, down_rest) = (l.permute16(&table.down, code), l.permute16(&table.down_rest, code));
        let rest = l.estimate(last, down_rest, l.fmul(last_rest, down));
        // `last` is not less than the value.
        let more = l.estimate(last, down, l.estimate(last, l.f32(OFF), rest));
        let less = l.estimate(last, down, l.estimate(last, l.f32(-OFF), rest));
        (or_zero(l, bits, code, more), l.xor(l.bits(more), l.bits(less)))
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

/// Decodes codes of one tile.
pub(super) struct Map<'a, K, C> {
    pub table: &'a Table,
    pub span: Span,
    pub bits: u32,
    pub marker: PhantomData<(K, C)>,
}

impl<K: Look, C: Code> GroupMap for Map<'_, K, C> {
    type In = C;
    type Out = f32;
    #[inline(always)]
    fn group<L: Lanes>(&self, l: L, _at: usize, codes: &[C], out: &mut [f32], _stream: bool) {
        let Map { table, span, bits, .. } = self;
        let (x0, d0) = K::values(l, table, *bits, C::load(l, codes));
        let (x1, d1) = K::values(l, table, *bits, C::load(l, &codes[L::N..]));
        let (x2, d2) = K::values(l, table, *bits, C::load(l, &codes[2 * L::N..]));
        let (x3, d3) = K::values(l, table, *bits, C::load(l, &codes[3 * L::N..]));
        l.store_f32(x0, out, false);
        l.store_f32(x1, &mut out[L::N..], false);
        l.store_f32(x2, &mut out[2 * L::N..], false);
        l.store_f32(x3, &mut out[3 * L::N..], false);
        if K::DOUBT && l.any(l.gt(l.or(l.or(d0, d1), l.or(d2, d3)), l.u32(0))) {
            l.call(Again { span, bits: *bits, codes: &codes[..L::GROUP], out: &mut out[..L::GROUP] });
        }
    }
}

/// A group by the definition.
struct Again<'a, C: Code> {
    span: &'a Span,
    bits: u32,
    codes: &'a [C],
    out: &'a mut [f32],
}

impl<C: Code> Kernel for Again<'_, C> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let mut raw = [0u32; MAX_GROUP];
        for (raw, code) in raw.iter_mut().zip(self.codes) {
            *raw = code.to_u32();
        }
        exact(l, self.span, self.bits, &raw, self.out);
    }
}
