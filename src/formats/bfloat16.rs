//! float32 whose values are bfloat16: what computing in bfloat16 and keeping float32 needs.

use crate::simd::{dispatch, Kernel, Lanes};
use crate::threads::run_tasks;

/// Elements that one task takes.
const CHUNK: usize = 64 * 1024;

/// The nearest bfloat16, ties to even, as a float32. Overflow gives infinity, NaN the quiet NaN of its sign.
#[inline(always)]
pub fn nearest(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) & 0xFFFF_0000;
    let nan = bits & 0x8000_0000 | 0x7FC0_0000;
    f32::from_bits(if bits & 0x7FFF_FFFF > 0x7F80_0000 { nan } else { rounded })
}

/// Replaces every number by the nearest bfloat16, as [`nearest`] says.
pub fn round_bfloat16(x: &mut [f32]) {
    run_tasks(x.len(), x.chunks_mut(CHUNK).collect(), |x| dispatch(Round(x)));
}

/// Writes the nearest bfloat16 of each number, as [`nearest`] says.
///
/// # Panics
/// Panics if the lengths differ.
pub fn to_bfloat16(src: &[f32], out: &mut [u16]) {
    assert_eq!(src.len(), out.len());
    dispatch(Narrow(src, out));
}

struct Narrow<'a>(&'a [f32], &'a mut [u16]);

impl Kernel for Narrow<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        for (x, out) in self.0.iter().zip(self.1) {
            *out = (nearest(*x).to_bits() >> 16) as u16;
        }
    }
}

struct Round<'a>(&'a mut [f32]);

impl Kernel for Round<'_> {
    type Out = ();
    // Whole-number operations on each element: the compiler makes the lanes, and every level gives the same.
    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        self.0.iter_mut().for_each(|x| *x = nearest(*x));
    }
}
