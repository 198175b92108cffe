//! Rows that are read next, prefetched beside other work.

use super::lanes::Lanes;
use std::ops::Range;

/// Bytes of a cache line.
const LINE: usize = 64;

/// The cache lines of some k of some rows. A CPU drops what exceeds the few that it waits for, so that they are prefetched
/// a few at a time.
#[derive(Clone, Copy)]
pub struct Ahead {
    /// The next line, and the end of its row.
    at: *const u8,
    end: *const u8,
    /// Bytes of a row that are wanted, and from one row to the next.
    length: usize,
    stride: usize,
    /// Lines that are left, and how many of them at a time.
    left: usize,
    each: usize,
}

impl Ahead {
    /// The items `k` of `rows`, each of `stride` items.
    pub fn new<T>(items: &[T], stride: usize, rows: Range<usize>, k: Range<usize>) -> Ahead {
        let (each, start) = (std::mem::size_of::<T>(), items.as_ptr().cast::<u8>());
        let (first, length) = (start.wrapping_add((rows.start * stride + k.start) * each), k.len() * each);
        let left = rows.len() * length.div_ceil(LINE);
        Ahead { at: first, end: first.wrapping_add(length), length, stride: stride * each, left, each: left }
    }

    /// The items `k` of rows that are as far from each other as the first two.
    pub fn of_rows<T>(rows: &[&[T]], k: Range<usize>) -> Ahead {
        rows.first().map_or(Ahead::none(), |first| Ahead::of_many(first, rows.get(1).copied(), rows.len(), k))
    }

    /// The items `k` of so many rows, of which the first two are given.
    pub fn of_many<T>(first: &[T], second: Option<&[T]>, count: usize, k: Range<usize>) -> Ahead {
        let stride =
            second.map_or(0, |second| (second.as_ptr() as usize).wrapping_sub(first.as_ptr() as usize));
        Ahead { stride, ..Ahead::new(first, 0, 0..count, k) }
    }

    /// Nothing.
    pub fn none() -> Ahead {
        Ahead::new::<u8>(&[], 0, 0..0, 0..0)
    }

    /// The same, shared out to some parts of the work beside it.
    #[inline(always)]
    #[must_use]
    pub fn beside(self, parts: usize) -> Ahead {
        Ahead { each: self.left.div_ceil(parts.max(1)), ..self }
    }

    /// Prefetches the lines of one part.
    #[inline(always)]
    pub fn prefetch<L: Lanes>(&mut self, l: L) {
        self.next_part(|line| l.prefetch_at(line));
    }

    /// The same into the second-level cache, for rows that share few places of the first.
    #[inline(always)]
    pub fn prefetch_far<L: Lanes>(&mut self, l: L) {
        self.next_part(|line| l.prefetch_far_at(line));
    }

    /// The lines of one part.
    #[inline(always)]
    fn next_part(&mut self, each: impl Fn(*const u8)) {
        let lines = self.each.min(self.left);
        self.left -= lines;
        for _ in 0..lines {
            each(self.at);
            self.at = self.at.wrapping_add(LINE);
            if self.at >= self.end {
                self.end = self.end.wrapping_add(self.stride);
                self.at = self.end.wrapping_sub(self.length);
            }
        }
    }
}
