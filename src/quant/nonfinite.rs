//! NaN and infinity among numbers: where the first one is, and the largest magnitudes of the rest.

use super::layout::Blocks;
use crate::formats::encode::widen;
use crate::formats::source::Source;
use crate::simd::{dispatch, Kernel, Lanes, MAX_GROUP};

pub(super) const INFINITY: u32 = 0x7F80_0000;

/// Replaces each amax that is NaN by that of the block's numbers.
pub(super) fn numbers_amax<S: Source>(src: &[S::Item], flat: Blocks, amax: &mut [u32]) {
    if !amax.iter().any(|a| *a > INFINITY) {
        return;
    }
    let spoiled: Vec<bool> = amax.iter().map(|a| *a > INFINITY).collect();
    for (a, spoiled) in amax.iter_mut().zip(&spoiled) {
        *a = if *spoiled { 0 } else { *a };
    }
    let mut bits = [0; MAX_GROUP];
    for (row, src) in src.chunks(flat.cols).enumerate() {
        let first = flat.band_of_row(row) * flat.across();
        for (k, src) in src.chunks(MAX_GROUP).enumerate() {
            dispatch(Widen::<S> { src, bits: &mut bits });
            for (i, bits) in bits[..src.len()].iter().enumerate() {
                let block = first + (k * MAX_GROUP + i) / flat.block_cols;
                let magnitude = bits & 0x7FFF_FFFF;
                if spoiled[block] && magnitude <= INFINITY {
                    amax[block] = amax[block].max(magnitude);
                }
            }
        }
    }
}

/// The float32 bits of a group.
struct Widen<'a, S: Source> {
    src: &'a [S::Item],
    bits: &'a mut [u32; MAX_GROUP],
}

impl<S: Source> Kernel for Widen<'_, S> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        widen::<L, S>(l, self.src, self.bits);
    }
}

/// The largest magnitudes of the numbers in blocks whose amax is NaN.
pub(super) struct RaiseNumbers<'a, S: Source> {
    pub src: &'a [S::Item],
    pub stride: usize,
    pub start: usize,
    pub end: usize,
    pub block_cols: usize,
    pub amax: &'a mut [u32],
}

impl<S: Source> Kernel for RaiseNumbers<'_, S> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let blocks = self.amax.iter_mut().zip((self.start..self.end).step_by(self.block_cols));
        let mut bits = [0; MAX_GROUP];
        for (amax, from) in blocks.filter(|(amax, _)| **amax > INFINITY) {
            *amax = 0;
            let to = (from + self.block_cols).min(self.end);
            for src in self.src.chunks(self.stride).flat_map(|row| row[from..to].chunks(MAX_GROUP)) {
                widen::<L, S>(l, src, &mut bits);
                let magnitudes = bits[..src.len()].iter().map(|b| b & 0x7FFF_FFFF);
                *amax = magnitudes.filter(|b| *b <= INFINITY).fold(*amax, u32::max);
            }
        }
    }
}

/// The first element that is not finite, and whether it is NaN.
pub(super) struct FindNonFinite<'a, S: Source>(pub &'a [S::Item]);

impl<S: Source> Kernel for FindNonFinite<'_, S> {
    type Out = Option<(usize, bool)>;
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> Option<(usize, bool)> {
        for (k, src) in self.0.chunks(MAX_GROUP).enumerate() {
            let mut bits = [0u32; MAX_GROUP];
            widen::<L, S>(l, src, &mut bits);
            if let Some(i) = bits[..src.len()].iter().position(|b| b & 0x7FFF_FFFF >= 0x7F80_0000) {
                return Some((k * MAX_GROUP + i, bits[i] & 0x7FFF_FFFF > 0x7F80_0000));
            }
        }
        None
    }
}
