//! Looking codes up: small tables of a tile's values, where the tile is long enough to pay for them.

use super::float64::{exp2_each, narrow, widen};
use super::tile::{step, top, Span};
use super::values::{exact, quick, Precision};
use crate::formats::source::Code;
use crate::simd::{map_groups, GroupMap, Kernel, Lanes, Walk, MAX_GROUP};
use std::marker::PhantomData;

/// The most tiles of a panel: so many that what fills one table does not wait for what empties another.
const TILES: usize = 16;

/// Tables of some neighbouring tiles, of codes of at most 8 bits.
pub(super) struct Panel {
    bits: u32,
    precision: Precision,
    len: usize,
    lo: [u32; TILES],
    hi: [u32; TILES],
    /// Elements.
    n: [usize; TILES],
    step: [f64; TILES],
    tables: [Table; TILES],
}

/// One tile's tables.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Table {
    /// All values, exactly.
    all: [f32; 128],
    /// Quick: the last values of groups, then the same with a minus sign.
    last: [f32; 16],
    /// Quick: the ways down from them.
    down: [f32; 16],
}

/// The least normal float32: nothing smaller is left to float32 lanes.
const NORMAL: u32 = 0x0080_0000;

impl Panel {
    pub fn new(bits: u32, precision: Precision) -> Panel {
        let table = Table { all: [0.0; 128], last: [0.0; 16], down: [0.0; 16] };
        let (lo, hi, n, step) = ([0; TILES], [0; TILES], [0; TILES], [0.0; TILES]);
        Panel { bits, precision, len: 0, lo, hi, n, step, tables: [table; TILES] }
    }

    pub fn clear(&mut self) {
        self.len = 0;
    }

    pub fn is_full(&self) -> bool {
        self.len == TILES
    }

    /// Adds `n` elements of a tile with these magnitude bits.
    #[inline(always)]
    pub fn push(&mut self, lo: u32, hi: u32, n: usize) {
        (self.lo[self.len], self.hi[self.len], self.n[self.len]) = (lo, hi, n);
        self.len += 1;
    }

    /// Whether tile `i` is looked up in tables, which cost as much as half as many values. Quick products must be normal.
    #[inline(always)]
    fn tabled(&self, i: usize) -> bool {
        let (lo, hi) = (self.lo[i], self.hi[i]);
        let normal = lo >= NORMAL && hi - lo < 64 << 23;
        let long = self.bits <= 8 && self.n[i] >= 1 << (self.bits - 2);
        long && (normal || self.precision == Precision::Exact)
    }

    #[inline(always)]
    fn span(&self, i: usize) -> Span {
        let (lo, hi) = (widen(self.lo[i]), widen(self.hi[i]));
        Span { lo, hi, step: self.step[i], top: f64::from(top(self.bits)) }
    }

    /// Fills the tables of all tiles that have some.
    #[inline(always)]
    fn prepare<L: Lanes>(&mut self, l: L) {
        let top = top(self.bits);
        for ((lo, hi), s) in self.lo.iter().zip(&self.hi).zip(&mut self.step) {
            *s = step(widen(*lo), widen(*hi), top);
        }
        if (0..self.len).all(|i| !self.tabled(i)) {
            return;
        }
        // Exponents of rows, which begin at `lo`, and of steps along them: then all powers in one loop, as each takes long
        // and many can be under way.
        let size = self.row();
        let first = if self.precision == Precision::Exact { -1.0 } else { size - 2.0 };
        let last = if self.precision == Precision::Exact { 0.0 } else { size - 1.0 };
        let (mut rows, mut steps) = ([[0f64; ROWS]; TILES], [[0f64; STEPS]; TILES]);
        for ((rows, steps), step) in rows[..self.len].iter_mut().zip(&mut steps).zip(&self.step) {
            for (i, y) in rows.iter_mut().enumerate() {
                *y = (size * i as f64 + first) * step;
            }
            for (j, y) in steps.iter_mut().enumerate() {
                *y = (j as f64 - last) * step;
            }
        }
        exp2_each(l, rows[..self.len].as_flattened_mut());
        exp2_each(l, steps[..self.len].as_flattened_mut());
        for (i, (rows, steps)) in rows[..self.len].iter().zip(&steps).enumerate() {
            let span = self.span(i);
            match (self.tabled(i), self.precision) {
                (false, _) => {}
                (true, Precision::Exact) => self.tables[i].fill(l, &span, self.bits, rows, steps),
                (true, Precision::Quick) => self.tables[i].fill_quick(&span, self.bits, rows, steps),
            }
        }
    }

    /// Values of a row of the tables.
    #[inline(always)]
    fn row(&self) -> f64 {
        match self.precision {
            Precision::Exact => STEPS as f64,
            Precision::Quick => f64::from(1 << (self.bits / 2)),
        }
    }
}

/// Rows, and values of a row, at most.
const ROWS: usize = 8;
const STEPS: usize = 16;

impl Table {
    /// Fills the table of all values: each as a product of two powers, which is the definition's value but for some
    /// roundings. With an exponent of less than 2^8 octaves, three exponents are rounded by 2^-46 each and the powers and
    /// products by some 2^-51, so the product is within 2^-44 of the value, relatively: 2^9 of its units in the last
    /// place. Only where it is as near as 2^10 to the middle between two float32 could it round differently; then the
    /// definition is asked. Narrower codes find their table repeated, as whatever stands above their magnitude is looked up
    /// with it.
    #[inline(always)]
    fn fill<L: Lanes>(&mut self, l: L, span: &Span, bits: u32, rows: &[f64; ROWS], steps: &[f64; STEPS]) {
        const NEAR: u32 = 1 << 10;
        let values = 1usize << (bits - 1);
        let rows = rows.map(|power| power * span.lo);
        let unsure = l.products(&rows[..values.div_ceil(STEPS)], steps, NEAR, &mut self.all);
        if unsure || span.lo < widen(NORMAL) {
            for (k, out) in self.all[..values].iter_mut().enumerate() {
                *out = f32::from_bits(narrow(span.value(k as f64)));
            }
        }
        self.all[values - 1] = span.hi as f32;
        self.all[0] = 0.0;
        if bits < 8 {
            repeat(&mut self.all, values);
        }
    }

    /// Fills the quick tables, from the powers of the last codes of rows and of the ways down to the others.
    #[inline(always)]
    fn fill_quick(&mut self, span: &Span, bits: u32, rows: &[f64; ROWS], steps: &[f64; STEPS]) {
        let size = 1usize << (bits / 2);
        let groups = 1usize << (bits - 1 - bits / 2);
        for (last, power) in self.last[..ROWS].iter_mut().zip(rows) {
            *last = (span.lo * power) as f32;
        }
        for (down, power) in self.down.iter_mut().zip(steps) {
            *down = *power as f32;
        }
        self.last[groups - 1] = span.hi as f32;
        for i in 0..groups {
            self.last[groups + i] = -self.last[i];
        }
        if bits < 8 {
            repeat(&mut self.last, 2 * groups);
            repeat(&mut self.down, size);
        }
    }
}

/// Repeats the first `n` entries.
#[inline(always)]
fn repeat(table: &mut [f32], n: usize) {
    for i in n..table.len() {
        table[i] = table[i - n];
    }
}

/// Decodes the codes of a panel.
pub(super) struct Values<'a, C: Code> {
    pub panel: &'a mut Panel,
    pub codes: &'a [C],
    pub out: &'a mut [f32],
}

impl<C: Code> Kernel for Values<'_, C> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Values { panel, codes, out } = self;
        panel.prepare(l);
        let (bits, precision) = (panel.bits, panel.precision);
        let mut start = 0;
        for i in 0..panel.len {
            let end = start + panel.n[i];
            let (codes, out) = (&codes[start..end], &mut out[start..end]);
            let table = &panel.tables[i];
            match (panel.tabled(i), precision) {
                (false, _) => direct(l, &panel.span(i), bits, precision, codes, out),
                (true, Precision::Exact) => {
                    map_groups(
                        l,
                        &All::<C> { table, bits, marker: PhantomData },
                        0,
                        codes,
                        out,
                        Walk::CACHED,
                    );
                }
                (true, Precision::Quick) => {
                    map_groups(
                        l,
                        &Two::<C> { table, bits, marker: PhantomData },
                        0,
                        codes,
                        out,
                        Walk::CACHED,
                    );
                }
            }
            start = end;
        }
    }
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

/// Out of the table of all values.
struct All<'a, C> {
    table: &'a Table,
    bits: u32,
    marker: PhantomData<C>,
}

impl<C: Code> All<'_, C> {
    #[inline(always)]
    fn vector<L: Lanes>(&self, l: L, codes: &[C], out: &mut [f32]) {
        let code = C::load(l, codes);
        let sign = l.and(l.shl(code, 32 - self.bits), l.u32(1 << 31));
        let value = l.pick128(&self.table.all, code);
        l.store_f32(l.float(l.or(l.bits(value), sign)), out, false);
    }
}

impl<C: Code> GroupMap for All<'_, C> {
    type In = C;
    type Out = f32;
    #[inline(always)]
    fn group<L: Lanes>(&self, l: L, _at: usize, codes: &[C], out: &mut [f32], _stream: bool) {
        self.vector(l, codes, out);
        self.vector(l, &codes[L::N..], &mut out[L::N..]);
        self.vector(l, &codes[2 * L::N..], &mut out[2 * L::N..]);
        self.vector(l, &codes[3 * L::N..], &mut out[3 * L::N..]);
    }
}

/// As products out of the quick tables.
struct Two<'a, C> {
    table: &'a Table,
    bits: u32,
    marker: PhantomData<C>,
}

impl<C: Code> Two<'_, C> {
    #[inline(always)]
    fn vector<L: Lanes>(&self, l: L, codes: &[C], out: &mut [f32]) {
        let code = C::load(l, codes);
        let last = l.pick16(&self.table.last, l.shr(code, self.bits / 2));
        let down = l.pick16(&self.table.down, code);
        let value = l.bits(l.fmul(last, down));
        let some = l.gt(l.and(code, l.u32(top(self.bits))), l.u32(0));
        let value = l.select(some, value, l.and(value, l.u32(1 << 31)));
        l.store_f32(l.float(value), out, false);
    }
}

impl<C: Code> GroupMap for Two<'_, C> {
    type In = C;
    type Out = f32;
    #[inline(always)]
    fn group<L: Lanes>(&self, l: L, _at: usize, codes: &[C], out: &mut [f32], _stream: bool) {
        self.vector(l, codes, out);
        self.vector(l, &codes[L::N..], &mut out[L::N..]);
        self.vector(l, &codes[2 * L::N..], &mut out[2 * L::N..]);
        self.vector(l, &codes[3 * L::N..], &mut out[3 * L::N..]);
    }
}
