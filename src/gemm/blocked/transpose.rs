//! Columns of bytes: rows of an operand, looked up and transposed.

use crate::simd::{ColumnSink, Kernel, Lanes, Lookup, STEP};
use std::ops::Range;

/// Transposes some k of a vector of rows: for each k a vector of values.
pub(in crate::gemm) struct TransposeRun<'a> {
    pub codes: &'a [u8],
    pub table: &'static Lookup,
    /// Codes of a row.
    pub stride: usize,
    /// The first row, and how many there are; the others are zeros.
    pub row: usize,
    pub count: usize,
    pub k: Range<usize>,
    /// Room for the codes.
    pub near: &'a mut [u8],
    pub out: &'a mut [f32],
    /// 1: k that follow each other change places, two by two; else 0.
    pub swap: usize,
}

impl Kernel for TransposeRun<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let TransposeRun { codes, table, stride, row, count, k, near, out, swap } = self;
        // Copy rows next to each other first: each cache line is read once, even if rows share cache sets.
        let (length, step) = (k.len(), STEP * L::N);
        for i in 0..L::N {
            let codes: &[u8] = if i < count { &codes[(row + i) * stride..][k.clone()] } else { &[] };
            let (steps, rest) = codes.as_chunks::<STEP>();
            for (j, codes) in steps.iter().enumerate() {
                near[j * step + i * STEP..][..STEP].copy_from_slice(codes);
            }
            for from in (steps.len() * STEP..length).step_by(STEP) {
                let near = &mut near[from * L::N + i * STEP..][..STEP];
                near.fill(0);
                if i < count {
                    near[..rest.len()].copy_from_slice(rest);
                }
            }
        }
        for (near, out) in near.chunks_exact(step).zip(out.chunks_exact_mut(step)).take(length.div_ceil(STEP))
        {
            l.columns(table, near, StoreColumns { l, out, width: L::N, swap });
        }
    }
}

/// Writes columns, one every `width` values.
pub(in crate::gemm) struct StoreColumns<'a, L> {
    pub l: L,
    pub out: &'a mut [f32],
    pub width: usize,
    /// As that of [`TransposeRun`].
    pub swap: usize,
}

impl<L: Lanes> ColumnSink<L> for StoreColumns<'_, L> {
    #[inline(always)]
    fn column(&mut self, k: usize, values: L::F) {
        self.l.store_f32(values, &mut self.out[(k ^ self.swap) * self.width..], false);
    }
}
