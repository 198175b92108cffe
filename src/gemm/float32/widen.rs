//! Codes widened to bfloat16, in the order of tiles.

use super::{ByteOperand, STEP};
use crate::simd::{words, Kernel, Lanes, Lookup};
use std::slice::{Iter, IterMut};

/// Rows and columns of a product of tiles.
pub(super) const SIDE: usize = 32;
/// Codes widened at a time.
pub(super) const GROUP: usize = 64;
/// Padding between the rows of a left-hand operand, in words: a cache line.
pub(super) const ROW_GAP: usize = 32;
/// Bytes of a cache line.
const LINE: usize = 64;
/// Words of a right-hand tile.
pub(super) const TILE: usize = STEP * 16;

/// Some rows of a side.
#[derive(Clone, Copy)]
pub(super) struct OperandRows<'a> {
    pub side: &'a ByteOperand<'a>,
    pub row: usize,
    pub count: usize,
    pub stride: usize,
}

impl<'a> OperandRows<'a> {
    /// The codes of row `i` from k `begin` to `end`.
    #[inline(always)]
    pub fn codes(self, i: usize, begin: usize, end: usize) -> &'a [u8] {
        &self.side.codes[(self.row + i) * self.stride..][begin..end]
    }
}

/// Rows that are widened to a left-hand operand a few groups of codes at a time, beside other work. The same k of rows that
/// come 32 later are prefetched.
pub(super) struct Widening<'a> {
    rows: OperandRows<'a>,
    begin: usize,
    end: usize,
    /// Words between the rows.
    stride: usize,
    /// Groups of the current row, and where they go; the rows after it, and how many of them there are.
    groups: Iter<'a, [u8; GROUP]>,
    out: IterMut<'a, [u16; GROUP]>,
    after: &'a mut [u16],
    next: usize,
    /// Groups of a part.
    each: usize,
}

impl<'a> Widening<'a> {
    /// Up to 32 rows, from k `begin` to `end`, in so many parts.
    pub fn new(
        rows: OperandRows<'a>,
        begin: usize,
        end: usize,
        stride: usize,
        out: &'a mut [u16],
        parts: usize,
    ) -> Self {
        let each = (rows.count * ((end - begin) / GROUP)).div_ceil(parts.max(1));
        let (groups, none) = ([].iter(), [].iter_mut());
        Widening { rows, begin, end, stride, groups, out: none, after: out, next: 0, each }
    }

    /// Widens the next part.
    #[inline(always)]
    pub fn part<L: Lanes>(&mut self, l: L) {
        for _ in 0..self.each {
            if !self.group(l) {
                return;
            }
        }
    }

    /// Widens a group; false if none was left.
    #[inline(always)]
    fn group<L: Lanes>(&mut self, l: L) -> bool {
        while self.groups.len() == 0 {
            if !self.turn(l) {
                return false;
            }
        }
        if let (Some(codes), Some(out)) = (self.groups.next(), self.out.next()) {
            l.prefetch_far(codes, SIDE * self.rows.stride);
            l.lookup_bf16(self.rows.side.table, codes, out, false);
        }
        true
    }

    /// Goes on to the next row, and widens what fills no group of it; false if there is none.
    #[inline(always)]
    fn turn<L: Lanes>(&mut self, l: L) -> bool {
        if self.next == self.rows.count {
            return false;
        }
        let (row, after) = std::mem::take(&mut self.after).split_at_mut(self.stride);
        let (groups, rest) = self.rows.codes(self.next, self.begin, self.end).as_chunks();
        let (out, beyond) = row.as_chunks_mut().0.split_at_mut(groups.len());
        if let Some(out) = beyond.first_mut().filter(|_| !rest.is_empty()) {
            widen_part(l, self.rows.side.table, rest, out);
        }
        (self.groups, self.out, self.after) = (groups.iter(), out.iter_mut(), after);
        self.next += 1;
        true
    }

    /// Widens what is left, padded with zeros to 32 rows.
    #[inline(always)]
    pub fn finish<L: Lanes>(mut self, l: L) {
        while self.group(l) {}
        self.after.fill(0);
    }
}

/// Widens up to 32 rows to a left-hand operand, padded with zeros to 32 rows and a multiple of 64 k.
pub(super) struct WidenLhs<'a> {
    pub rows: OperandRows<'a>,
    pub begin: usize,
    pub end: usize,
    /// Prefetch distance of each row in bytes; 0 leaves it to the hardware.
    pub ahead: usize,
    /// Words between the rows.
    pub stride: usize,
    pub out: &'a mut [u16],
}

impl Kernel for WidenLhs<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let WidenLhs { rows, begin, end, ahead, stride, out } = self;
        let table = rows.side.table;
        let length = (end - begin).next_multiple_of(GROUP);
        for (i, out) in out.chunks_exact_mut(stride).enumerate() {
            let codes = if i < rows.count { rows.codes(i, begin, end) } else { &[] };
            let (groups, rest) = codes.as_chunks::<GROUP>();
            let (whole, beyond) = out[..length].split_at_mut(groups.len() * GROUP);
            for (codes, out) in groups.iter().zip(whole.chunks_exact_mut(GROUP)) {
                if ahead > 0 {
                    l.prefetch(codes, ahead);
                }
                l.lookup_bf16(table, codes, out, false);
            }
            for (j, out) in beyond.chunks_exact_mut(GROUP).enumerate() {
                widen_part(l, table, if j == 0 { rest } else { &[] }, out);
            }
        }
    }
}

/// Widens fewer than 64 codes, padded with zeros.
#[inline(always)]
fn widen_part<L: Lanes>(l: L, table: &Lookup, codes: &[u8], out: &mut [u16]) {
    let mut padded = [0u8; GROUP];
    padded[..codes.len()].copy_from_slice(codes);
    l.lookup_bf16(table, &padded, out, false);
}

/// Widens up to 32 rows to a right-hand operand: for each step one or two tiles, each of 16 pairs of k of 16 rows.
pub(super) struct WidenRhs<'a> {
    pub rows: OperandRows<'a>,
    pub begin: usize,
    pub end: usize,
    /// Tiles of a step.
    pub tiles: usize,
    pub out: &'a mut [u16],
}

impl Kernel for WidenRhs<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let rows = self.rows;
        let mut words = [0u8; 512];
        for (i, out) in self.out.chunks_exact_mut(TILE).enumerate() {
            let (from, tile) = (self.begin + i / self.tiles * STEP, i % self.tiles);
            let count = rows.count.saturating_sub(tile * 16).min(16);
            if from.is_multiple_of(LINE) {
                // the next line of each row: more rows than the hardware follows
                for i in tile * 16..tile * 16 + count {
                    l.prefetch(rows.codes(i, from, self.end), LINE);
                }
            }
            if count == 16 && self.end - from >= STEP {
                let codes = &rows.side.codes[(rows.row + tile * 16) * rows.stride + from..];
                words::transpose(codes, rows.stride, &mut words);
            } else {
                let mut padded = [0u8; 512];
                for (i, padded) in padded.chunks_exact_mut(STEP).enumerate().take(count) {
                    let codes = rows.codes(tile * 16 + i, from, self.end.min(from + STEP));
                    padded[..codes.len()].copy_from_slice(codes);
                }
                words::transpose(&padded, STEP, &mut words);
            }
            for (codes, out) in words.chunks_exact(GROUP).zip(out.chunks_exact_mut(GROUP)) {
                l.lookup_bf16(rows.side.table, codes, out, false);
            }
        }
    }
}
