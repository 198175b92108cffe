//! The largest lane of each of as many vectors as they have lanes: half the number of vectors at a time, by maxima of
//! neighbours in 32 bits, in 64, in 128 and in 256.

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{avx2, avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::avx2::Avx2;
    use super::super::avx512::Avx512;
    use std::arch::x86_64::*;

    /// Maxima of neighbours: those of `x` beside those of `y`, pair by pair.
    macro_rules! neighbours {
        ($($name:ident: $vector:ty = $max:ident of $low:ident, $high:ident;)+) => {$(
            #[inline(always)]
            fn $name(x: $vector, y: $vector) -> $vector {
                // SAFETY: the level is proved by the token of the caller.
                unsafe { $max($low(x, y), $high(x, y)) }
            }
        )+};
    }

    neighbours! {
        max_pairs: __m512i = _mm512_max_epu32 of _mm512_unpacklo_epi32, _mm512_unpackhi_epi32;
        max_wide_pairs: __m512i = _mm512_max_epu32 of _mm512_unpacklo_epi64, _mm512_unpackhi_epi64;
        max_pairs_8: __m256i = _mm256_max_epi32 of _mm256_unpacklo_epi32, _mm256_unpackhi_epi32;
        max_wide_pairs_8: __m256i = _mm256_max_epi32 of _mm256_unpacklo_epi64, _mm256_unpackhi_epi64;
    }

    /// Sixteen vectors of sixteen lanes.
    #[inline(always)]
    pub fn avx512(_: Avx512, a: &[__m512i]) -> __m512i {
        let a: &[__m512i; 16] = a[..16].try_into().expect("as many");
        let low = max_quarters(max_four(a, 0), max_four(a, 4));
        let high = max_quarters(max_four(a, 8), max_four(a, 12));
        let all = max_quarters(low, high);
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_shuffle_epi32::<0b11_01_10_00>(all) }
    }

    /// Maxima of neighbouring 128 bits, those of `x` below those of `y`.
    #[inline(always)]
    fn max_quarters(x: __m512i, y: __m512i) -> __m512i {
        // SAFETY: AVX-512 is proved by the token of the caller.
        unsafe {
            let even = _mm512_shuffle_i32x4::<0b10_00_10_00>(x, y);
            _mm512_max_epu32(even, _mm512_shuffle_i32x4::<0b11_01_11_01>(x, y))
        }
    }

    /// The largest lanes of four vectors, within each 128 bits.
    #[inline(always)]
    fn max_four(a: &[__m512i; 16], i: usize) -> __m512i {
        max_wide_pairs(max_pairs(a[i], a[i + 2]), max_pairs(a[i + 1], a[i + 3]))
    }

    /// Eight vectors of eight lanes.
    #[inline(always)]
    pub fn avx2(_: Avx2, a: &[__m256i]) -> __m256i {
        let a: &[__m256i; 8] = a[..8].try_into().expect("as many");
        // SAFETY: the token proves AVX2, FMA and F16C.
        unsafe {
            let low = max_wide_pairs_8(max_pairs_8(a[0], a[2]), max_pairs_8(a[1], a[3]));
            let high = max_wide_pairs_8(max_pairs_8(a[4], a[6]), max_pairs_8(a[5], a[7]));
            let both = _mm256_max_epi32(
                _mm256_permute2x128_si256::<0x20>(low, high),
                _mm256_permute2x128_si256::<0x31>(low, high),
            );
            _mm256_shuffle_epi32::<0b11_01_10_00>(both)
        }
    }
}
