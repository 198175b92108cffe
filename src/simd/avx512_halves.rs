//! float16 of float32 by AVX-512's instruction, nearest even.

use super::avx512::join;
use std::arch::x86_64::*;

/// Lanes.
const N: usize = 16;

/// Sixteen float32 as float16, nearest even; NaNs keep some of their bits.
#[inline(always)]
fn half_nearest(x: __m512) -> __m256i {
    const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    // SAFETY: AVX-512 is proved by the token of the caller.
    unsafe { _mm512_cvt_roundps_ph::<NEAREST>(x) }
}

/// 32 float32 as float16, nearest even, with the quiet NaN of each sign.
#[inline(always)]
pub(super) fn halves(a: __m512, b: __m512) -> __m512i {
    // SAFETY: AVX-512 is proved by the token of the caller.
    unsafe {
        let words = join(half_nearest(a), half_nearest(b));
        let magnitude = _mm512_and_si512(words, _mm512_set1_epi16(0x7FFF));
        // The instruction keeps the payload of a NaN, and makes it quiet.
        _mm512_sub_epi16(words, _mm512_subs_epu16(magnitude, _mm512_set1_epi16(0x7E00)))
    }
}

/// Writes 64 float32 as float16, nearest even; false, and nothing is done, if one is NaN, or infinite and is not to be.
#[inline(always)]
pub(super) fn store_halves(x: [__m512; 4], finite: bool, out: &mut [u16]) -> bool {
    let (h, out) = (x.map(half_nearest), &mut out[..4 * N]);
    // SAFETY: the slice has 128 bytes; AVX-512 is proved by the token of the caller.
    unsafe {
        let most = |a, b| _mm256_max_epu16(_mm256_slli_epi16::<1>(a), _mm256_slli_epi16::<1>(b));
        let bound = _mm256_set1_epi16(if finite { 0xF800u16 } else { 0xF801 } as i16);
        if _mm256_cmpge_epu16_mask(_mm256_max_epu16(most(h[0], h[1]), most(h[2], h[3])), bound) != 0 {
            return false;
        }
        (0..4).for_each(|i| _mm256_storeu_si256(out.as_mut_ptr().cast::<__m256i>().add(i), h[i]));
    }
    true
}
