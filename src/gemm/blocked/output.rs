//! The region of the result that one task writes, and aligned buffers.

use super::runs::KSegment;
use crate::gemm::definition;
use crate::gemm::job::{Job, Row, Tile};
#[cfg(target_arch = "x86_64")]
use crate::simd::Ahead;
use crate::simd::Lanes;
use std::cell::RefCell;
#[cfg(target_arch = "x86_64")]
use std::ops::Range;
use std::thread::LocalKey;

/// A tile of the result, and the sums that outlive a segment of k.
pub(in crate::gemm) struct Region<'o> {
    tile: Tile<'o>,
    /// Rows and columns.
    pub size: (usize, usize),
    /// Sums between segments, if the result cannot hold them.
    sums: Vec<f32>,
    /// Partial sums between segments, if an interval is longer than a segment.
    partial: Vec<f32>,
    /// True where results are added to what there is.
    begun: bool,
}

impl<'o> Region<'o> {
    pub fn new(tile: Tile<'o>) -> Self {
        let size = (tile.rows(), tile.cols());
        Region { tile, size, sums: Vec::new(), partial: Vec::new(), begun: false }
    }

    /// The same, with results that are added to the float32 there.
    pub fn begun(tile: Tile<'o>) -> Self {
        Region { begun: true, ..Region::new(tile) }
    }

    /// The row of `a` of the tile's row `i`.
    #[inline(always)]
    pub fn a_row(&self, i: usize) -> usize {
        self.tile.a_row + i
    }

    /// The row of `b` of the tile's column `j`.
    #[inline(always)]
    pub fn b_row(&self, j: usize) -> usize {
        self.tile.b_row + j
    }

    /// Tests if there are initial sums.
    pub fn has_c(&self) -> bool {
        self.tile.c_from(0, 0).is_some()
    }

    /// Tests if sums begin with numbers of any kind.
    pub fn starts(&self) -> bool {
        self.begun || self.has_c()
    }

    /// Allocates the sums that outlive a segment.
    pub fn prepare(&mut self, segments: &[KSegment]) {
        let size = self.size.0 * self.size.1;
        if segments.len() > 1 && matches!(self.tile.out.first(), Some(Row::Bf16(_))) {
            self.sums = vec![0.0; size];
        }
        if segments.iter().any(KSegment::splits) {
            self.partial = vec![0.0; size];
        }
    }

    /// The number of columns from `j` on inside the tile; 0 if row `i` is outside.
    #[inline(always)]
    fn inside(&self, i: usize, j: usize, most: usize) -> usize {
        if i < self.size.0 {
            self.size.1.saturating_sub(j).min(most)
        } else {
            0
        }
    }

    /// Prefetches the outputs of row `i` from column `j` on, where a segment reads or writes them.
    #[inline(always)]
    pub fn prefetch<L: Lanes>(&self, l: L, segment: &KSegment, i: usize, j: usize) {
        match self.tile.out.get(i) {
            Some(Row::F32(row)) => l.prefetch(row, 4 * j),
            Some(Row::Bf16(row)) if segment.last => l.prefetch(row, 2 * j),
            _ => {}
        }
    }

    /// The outputs of some rows and columns, to be prefetched where a segment reads or writes them.
    #[cfg(target_arch = "x86_64")]
    pub fn ahead(&self, segment: &KSegment, rows: Range<usize>, columns: Range<usize>) -> Ahead {
        let columns = columns.start.min(self.size.1)..columns.end.min(self.size.1);
        let out = self.tile.out.get(rows.start..rows.end.min(self.size.0)).unwrap_or_default();
        match out {
            [Row::F32(first), Row::F32(second), ..] => {
                Ahead::of_many(first, Some(second), out.len(), columns)
            }
            [Row::Bf16(first), Row::Bf16(second), ..] if segment.last => {
                Ahead::of_many(first, Some(second), out.len(), columns)
            }
            _ => Ahead::none(),
        }
    }

    /// The final sums of row `i` from column `j` on, as many as `line` has: where they are, or read to `line`.
    #[inline(always)]
    pub fn line<'a>(&'a self, segment: &KSegment, i: usize, j: usize, line: &'a mut [f32]) -> &'a [f32] {
        match self.source(segment, i, j) {
            Some(from) if self.inside(i, j, line.len()) == line.len() => &from[..line.len()],
            _ => {
                self.load(segment, i, j, line);
                line
            }
        }
    }

    /// Where `n` final sums of row `i` from column `j` on are written, if they are all inside and float32 there.
    #[inline(always)]
    pub fn place(&mut self, segment: &KSegment, i: usize, j: usize, n: usize) -> Option<&mut [f32]> {
        if self.inside(i, j, n) < n {
            return None;
        }
        match &mut self.tile.out[i] {
            Row::F32(row) => Some(&mut row[j..j + n]),
            Row::Bf16(_) if segment.last => None,
            Row::Bf16(_) => Some(&mut self.sums[i * self.size.1 + j..][..n]),
        }
    }

    /// Where up to `n` results of row `i` from column `j` on are written, if they are bfloat16 and the last segment makes them.
    #[inline(always)]
    pub fn words(&mut self, segment: &KSegment, i: usize, j: usize, n: usize) -> Option<&mut [u16]> {
        let n = self.inside(i, j, n);
        match self.tile.out.get_mut(i) {
            Some(Row::Bf16(row)) if segment.last && n > 0 => Some(&mut row[j..j + n]),
            _ => None,
        }
    }

    /// Where the final sums of row `i` from column `j` on are read; `None` where they begin with zeros.
    #[inline(always)]
    fn source(&self, segment: &KSegment, i: usize, j: usize) -> Option<&[f32]> {
        match self.tile.out.get(i) {
            None => None,
            _ if segment.first && !self.begun => self.tile.c_from(i, j),
            Some(Row::F32(row)) => row.get(j..),
            _ => self.sums.get(i * self.size.1 + j..),
        }
    }

    /// Reads the final sums of row `i` from column `j` on; zeros beyond the tile. Not inlined: it would be in many kernels.
    #[inline(never)]
    pub fn load(&self, segment: &KSegment, i: usize, j: usize, to: &mut [f32]) {
        let n = self.inside(i, j, to.len());
        let (inside, beyond) = to.split_at_mut(n);
        beyond.fill(0.0);
        match if n == 0 { None } else { self.source(segment, i, j) } {
            Some(from) => inside.copy_from_slice(&from[..n]),
            None => inside.fill(0.0),
        }
    }

    /// Writes the final sums of row `i` from column `j` on; columns beyond the tile are dropped.
    #[inline(never)]
    pub fn store(&mut self, segment: &KSegment, i: usize, j: usize, from: &[f32]) {
        let n = self.inside(i, j, from.len());
        if n == 0 {
            return;
        }
        match self.place(segment, i, j, n) {
            Some(to) if !segment.last => to.copy_from_slice(&from[..n]),
            _ => self.put(i, j, &from[..n]),
        }
    }

    /// Writes results: every NaN becomes the canonical one, and bfloat16 is rounded to nearest even.
    pub fn put(&mut self, i: usize, j: usize, results: &[f32]) {
        match &mut self.tile.out[i] {
            Row::F32(row) => {
                for (out, x) in row[j..j + results.len()].iter_mut().zip(results) {
                    *out = if x.is_nan() { f32::from_bits(NAN) } else { *x };
                }
            }
            Row::Bf16(row) => {
                for (out, x) in row[j..j + results.len()].iter_mut().zip(results) {
                    let bits = if x.is_nan() { NAN } else { x.to_bits() };
                    *out = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) as u16;
                }
            }
        }
    }

    /// Tests if any output is wanted.
    pub fn any(&self, wanted: impl Fn(usize, usize) -> bool) -> bool {
        (0..self.size.0).any(|i| (0..self.size.1).any(|j| wanted(i, j)))
    }

    /// Replaces wanted outputs by those of the definition.
    pub fn redo(&mut self, job: &Job<'_>, wanted: impl Fn(usize, usize) -> bool) {
        let (rows, columns) = self.size;
        if !self.any(&wanted) {
            return;
        }
        let mut results = vec![0.0; rows * columns];
        definition::outputs(job, &self.tile, &wanted, &mut results);
        for (i, results) in results.chunks(columns).enumerate() {
            for (j, result) in results.iter().enumerate().filter(|(j, _)| wanted(i, *j)) {
                self.put(i, j, std::slice::from_ref(result));
            }
        }
    }

    /// The initial sums.
    pub fn initial(&self) -> impl Fn(usize, usize) -> f32 + 'o {
        self.tile.initial()
    }

    /// Loads the kept partial sums.
    #[inline(never)]
    pub fn load_partial(&self, i: usize, j: usize, to: &mut [f32]) {
        let n = self.inside(i, j, to.len());
        to.fill(0.0);
        if n > 0 {
            to[..n].copy_from_slice(&self.partial[i * self.size.1 + j..][..n]);
        }
    }

    /// Keeps partial sums for the next segment.
    #[inline(never)]
    pub fn keep_partial(&mut self, i: usize, j: usize, from: &[f32]) {
        let n = self.inside(i, j, from.len());
        if n > 0 {
            self.partial[i * self.size.1 + j..][..n].copy_from_slice(&from[..n]);
        }
    }
}

/// The canonical NaN.
const NAN: u32 = 0x7FC0_0000;

/// Results, with the canonical NaN for every NaN.
#[inline(always)]
pub(super) fn results<L: Lanes>(l: L, x: L::F) -> L::F {
    let bits = l.bits(x);
    let nan = l.gt(l.and(bits, l.u32(0x7FFF_FFFF)), l.u32(0x7F80_0000));
    l.float(l.select(nan, l.u32(NAN), bits))
}

/// Zeros that begin on a 64-byte boundary.
#[derive(Debug)]
pub(in crate::gemm) struct Scratch<T> {
    memory: Vec<T>,
    skip: usize,
    length: usize,
}

impl<T: Copy + Default> Scratch<T> {
    pub fn new(length: usize) -> Self {
        let memory = vec![T::default(); length + 64 / std::mem::size_of::<T>()];
        let skip = memory.as_ptr().align_offset(64).min(memory.len() - length);
        Scratch { memory, skip, length }
    }

    #[inline(always)]
    pub fn get(&self) -> &[T] {
        &self.memory[self.skip..self.skip + self.length]
    }

    #[inline(always)]
    pub fn get_mut(&mut self) -> &mut [T] {
        &mut self.memory[self.skip..self.skip + self.length]
    }
}

/// Numbers whose buffers a thread keeps.
pub(in crate::gemm) trait Kept: Copy + Default + 'static {
    /// The buffers that nobody uses.
    fn buffers() -> &'static LocalKey<RefCell<Vec<Vec<Self>>>>;
}

macro_rules! kept {
    ($($number:ty: $buffers:ident),*) => {$(
        thread_local! {
            static $buffers: RefCell<Vec<Vec<$number>>> = const { RefCell::new(Vec::new()) };
        }

        impl Kept for $number {
            fn buffers() -> &'static LocalKey<RefCell<Vec<Vec<$number>>>> {
                &$buffers
            }
        }
    )*};
}

kept!(f32: FLOATS, u16: WORDS);

/// Buffers of a kind that a thread keeps; a task has two.
const MOST_KEPT: usize = 2;
/// Bytes of the longest buffer that is kept.
const LONGEST_KEPT: usize = 16 << 20;

/// Numbers that nobody has set, on a 64-byte boundary, in memory that the thread keeps from task to task: fresh pages cost as
/// much as a tenth of a small product.
#[derive(Debug)]
pub(in crate::gemm) struct KeptScratch<T: Kept>(Scratch<T>);

impl<T: Kept> KeptScratch<T> {
    pub fn new(length: usize) -> Self {
        let mut memory = T::buffers().with_borrow_mut(Vec::pop).unwrap_or_default();
        let whole = length + 64 / std::mem::size_of::<T>();
        memory.resize(memory.len().max(whole), T::default());
        let skip = memory.as_ptr().align_offset(64).min(whole - length);
        KeptScratch(Scratch { memory, skip, length })
    }

    #[inline(always)]
    pub fn get(&self) -> &[T] {
        self.0.get()
    }

    #[inline(always)]
    pub fn get_mut(&mut self) -> &mut [T] {
        self.0.get_mut()
    }
}

impl<T: Kept> Drop for KeptScratch<T> {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.0.memory);
        // a thread that ends has no place for it
        let _ = T::buffers().try_with(|kept| {
            let mut kept = kept.borrow_mut();
            if kept.len() < MOST_KEPT && std::mem::size_of_val(&memory[..]) <= LONGEST_KEPT {
                kept.push(memory);
            }
        });
    }
}
