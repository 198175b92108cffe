//! Codes widened to bfloat16, in the order of tiles.

use super::{ByteOperand, STEP};
use crate::simd::{words, Kernel, Lanes, Lookup};
use std::ops::Range;

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
    pub side: ByteOperand<'a>,
    pub row: usize,
    pub count: usize,
}

impl<'a> OperandRows<'a> {
    /// Codes from one row to the next.
    #[inline(always)]
    pub fn stride(self) -> usize {
        self.side.of.k
    }

    /// Some codes of row `i`.
    #[inline(always)]
    fn codes(self, i: usize, k: Range<usize>) -> &'a [u8] {
        &self.side.codes[(self.row + i) * self.stride()..][k]
    }
}

/// Rows that are widened to a left-hand operand, padded with zeros to 32 rows and a multiple of 64 k; a few groups of codes at
/// a time, where it is done beside other work.
pub(super) struct Widening<'a> {
    rows: OperandRows<'a>,
    k: Range<usize>,
    /// Codes from what is widened to what is prefetched.
    ahead: usize,
    /// Words between the rows.
    stride: usize,
    /// Groups that are left of the current row, and where they go.
    groups: &'a [[u8; GROUP]],
    out: &'a mut [[u16; GROUP]],
    /// The rows after it, and the number of the first of them.
    after: &'a mut [u16],
    next: usize,
    /// Groups of a part.
    each: usize,
}

impl<'a> Widening<'a> {
    /// Some k of up to 32 rows.
    pub fn new(
        rows: OperandRows<'a>,
        k: Range<usize>,
        ahead: usize,
        stride: usize,
        out: &'a mut [u16],
    ) -> Self {
        let each = usize::MAX;
        Widening { rows, k, ahead, stride, groups: &[], out: &mut [], after: out, next: 0, each }
    }

    /// The same, shared out to some parts of the work beside it.
    #[must_use]
    pub fn beside(self, parts: usize) -> Self {
        let each = (self.rows.count * (self.k.len() / GROUP)).div_ceil(parts.max(1));
        Widening { each, ..self }
    }

    /// Widens the next part.
    #[inline(always)]
    pub fn part<L: Lanes>(&mut self, l: L) {
        let mut left = self.each;
        loop {
            left -= self.groups(l, left);
            // the next row is a function of its own: groups need few registers
            if left == 0 || !l.call(NextRow(self)) {
                return;
            }
        }
    }

    /// Widens so many groups of the current row, or as many as are left of it; their number.
    #[inline(always)]
    fn groups<L: Lanes>(&mut self, l: L, most: usize) -> usize {
        let (table, ahead, count) = (self.rows.side.table, self.ahead, most.min(self.groups.len()));
        let (groups, after) = self.groups.split_at(count);
        let (out, beyond) = std::mem::take(&mut self.out).split_at_mut(count);
        for (codes, out) in groups.iter().zip(out) {
            l.prefetch_far(codes, ahead);
            l.lookup_bf16(table, codes, out, false);
        }
        (self.groups, self.out) = (after, beyond);
        count
    }

    /// Goes on to the next row, and widens what fills no group of it; false if there is none.
    #[inline(always)]
    fn turn<L: Lanes>(&mut self, l: L) -> bool {
        if self.next == self.rows.count {
            return false;
        }
        let (row, after) = std::mem::take(&mut self.after).split_at_mut(self.stride);
        let (groups, rest) = self.rows.codes(self.next, self.k.clone()).as_chunks();
        let (out, beyond) = row.as_chunks_mut().0.split_at_mut(groups.len());
        if let Some(out) = beyond.first_mut().filter(|_| !rest.is_empty()) {
            widen_part(l, self.rows.side.table, rest, out);
        }
        (self.groups, self.out, self.after) = (groups, out, after);
        self.next += 1;
        true
    }
}

/// Goes on to the next row, if there is one.
struct NextRow<'a, 'w>(&'a mut Widening<'w>);

impl Kernel for NextRow<'_, '_> {
    type Out = bool;
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> bool {
        self.0.turn(l)
    }
}

/// Widens all that is left of some rows.
pub(super) struct Finish<'a>(pub Widening<'a>);

impl Kernel for Finish<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let mut rows = self.0;
        rows.groups(l, usize::MAX);
        while rows.turn(l) {
            rows.groups(l, usize::MAX);
        }
        rows.after.fill(0);
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
    pub k: Range<usize>,
    /// Tiles of a step.
    pub tiles: usize,
    pub out: &'a mut [u16],
}

impl Kernel for WidenRhs<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let WidenRhs { rows, k, tiles, out } = self;
        let mut words = [0u8; 512];
        for (i, out) in out.chunks_exact_mut(TILE).enumerate() {
            let (from, tile) = (k.start + i / tiles * STEP, i % tiles);
            let count = rows.count.saturating_sub(tile * 16).min(16);
            if from.is_multiple_of(LINE) {
                // the next line of each row: more rows than the hardware follows
                for i in tile * 16..tile * 16 + count {
                    l.prefetch(rows.codes(i, from..k.end), LINE);
                }
            }
            if count == 16 && k.end - from >= STEP {
                let codes = &rows.side.codes[(rows.row + tile * 16) * rows.stride() + from..];
                words::transpose(codes, rows.stride(), &mut words);
            } else {
                let mut padded = [0u8; 512];
                for (i, padded) in padded.chunks_exact_mut(STEP).enumerate().take(count) {
                    let codes = rows.codes(tile * 16 + i, from..k.end.min(from + STEP));
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
