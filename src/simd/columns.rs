//! Rows of codes into columns of values: what products at the vector levels need, where each lane is a row.

use super::lanes::Lookup;

/// Codes of a row that are turned at a time.
const RUN: usize = 32;

/// The definition, for `W` rows.
#[inline(always)]
pub(super) fn portable<const W: usize>(
    table: &Lookup,
    codes: &[u8],
    stride: usize,
    out: &mut [f32],
    width: usize,
) {
    for row in 0..W {
        let codes = &codes[row * stride..][..RUN];
        for (i, code) in codes.iter().enumerate() {
            out[i * width + row] = table.values[usize::from(*code)];
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{avx2, avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::avx2::Avx2;
    use super::super::avx512::{pair, Avx512};
    use super::super::lanes::{Half, Lookup};
    use super::{portable, RUN};
    use std::arch::x86_64::*;

    /// Sixteen bytes of four rows: `row`, and every fourth after it.
    ///
    /// # Safety
    /// AVX-512; sixteen bytes can be read at the four multiples of `stride`.
    #[inline(always)]
    unsafe fn quad(codes: *const u8, stride: usize, row: usize) -> __m512i {
        // SAFETY: as the function's own.
        unsafe {
            let codes = codes.add(row * stride);
            let x = _mm512_castsi128_si512(_mm_loadu_si128(codes.cast()));
            let x = _mm512_inserti32x4::<1>(x, _mm_loadu_si128(codes.add(4 * stride).cast()));
            let x = _mm512_inserti32x4::<2>(x, _mm_loadu_si128(codes.add(8 * stride).cast()));
            _mm512_inserti32x4::<3>(x, _mm_loadu_si128(codes.add(12 * stride).cast()))
        }
    }

    /// Two words of codes of each of sixteen rows, that is four values of each.
    ///
    /// # Safety
    /// AVX-512; sixteen values can be written at `out` and at three multiples of `width` after it.
    #[inline(always)]
    unsafe fn two_words(table: &Lookup, words: __m512i, out: *mut f32, width: usize) {
        // SAFETY: as the function's own.
        unsafe {
            let (low, high) = pair(table, words);
            let top = _mm512_set1_epi32(0xFFFF_0000_u32 as i32);
            let (x, y) = (_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high));
            _mm512_storeu_ps(out, _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x)));
            _mm512_storeu_ps(out.add(width), _mm512_castsi512_ps(_mm512_and_si512(x, top)));
            _mm512_storeu_ps(out.add(2 * width), _mm512_castsi512_ps(_mm512_slli_epi32::<16>(y)));
            _mm512_storeu_ps(out.add(3 * width), _mm512_castsi512_ps(_mm512_and_si512(y, top)));
        }
    }

    /// Sixteen rows. Pairs of codes are 16-bit words until the end: words of four rows meet in 128 bits by two
    /// interleavings, and the bytes of their bfloat16 by a third.
    #[inline(always)]
    pub fn avx512(_: Avx512, table: &Lookup, codes: &[u8], stride: usize, out: &mut [f32], width: usize) {
        assert!(codes.len() >= 15 * stride + RUN && out.len() >= (RUN - 1) * width + 16);
        // SAFETY: the token proves AVX-512. Reads end at 15 * stride + 32, stores at 31 * width + 16, both checked.
        unsafe {
            for half in 0..2 {
                let (from, to) = (codes.as_ptr().add(16 * half), out.as_mut_ptr().add(16 * half * width));
                let (r0, r1) = (quad(from, stride, 0), quad(from, stride, 1));
                let (r2, r3) = (quad(from, stride, 2), quad(from, stride, 3));
                let (a, b) = (_mm512_unpacklo_epi16(r0, r1), _mm512_unpacklo_epi16(r2, r3));
                two_words(table, _mm512_unpacklo_epi32(a, b), to, width);
                two_words(table, _mm512_unpackhi_epi32(a, b), to.add(4 * width), width);
                let (a, b) = (_mm512_unpackhi_epi16(r0, r1), _mm512_unpackhi_epi16(r2, r3));
                two_words(table, _mm512_unpacklo_epi32(a, b), to.add(8 * width), width);
                two_words(table, _mm512_unpackhi_epi32(a, b), to.add(12 * width), width);
            }
        }
    }

    /// Eight rows: through float16, where the format allows it and no special code stands in the rows.
    #[inline(always)]
    pub fn avx2(_: Avx2, table: &Lookup, codes: &[u8], stride: usize, out: &mut [f32], width: usize) {
        assert!(codes.len() >= 7 * stride + RUN && out.len() >= (RUN - 1) * width + 8);
        let done = match table.half {
            // SAFETY (all three): AVX2 is proved by the token; the lengths are checked above.
            Some(half @ Half { shift: 0, .. }) => unsafe { halves::<0>(half, codes, stride, out, width) },
            Some(half @ Half { shift: 1, .. }) => unsafe { halves::<1>(half, codes, stride, out, width) },
            Some(half @ Half { shift: 2, .. }) => unsafe { halves::<2>(half, codes, stride, out, width) },
            _ => false,
        };
        if !done {
            portable::<8>(table, codes, stride, out, width);
        }
    }

    /// The larger of a magnitude and that of a code, byte by byte.
    ///
    /// # Safety
    /// AVX2.
    #[inline(always)]
    unsafe fn larger(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: as the function's own.
        unsafe { _mm256_max_epu8(a, _mm256_and_si256(b, _mm256_set1_epi8(0x7F))) }
    }

    /// Eight float16 as float32, scaled.
    ///
    /// # Safety
    /// AVX2 and F16C; eight values can be written at `out`.
    #[inline(always)]
    unsafe fn widen<const SHIFT: i32>(h: __m128i, scale: __m256, out: *mut f32) {
        // SAFETY: as the function's own.
        unsafe {
            let x = _mm256_cvtph_ps(h);
            _mm256_storeu_ps(out, if SHIFT == 0 { x } else { _mm256_mul_ps(x, scale) });
        }
    }

    /// A word of codes of each of eight rows in either half: two values of each, and two more sixteen further on.
    ///
    /// # Safety
    /// AVX2 and F16C; eight values can be written at `out` and 1, 16 and 17 times `width` after it.
    #[inline(always)]
    unsafe fn word<const SHIFT: i32>(x: __m256i, scale: __m256, out: *mut f32, width: usize) {
        // SAFETY: as the function's own.
        unsafe {
            let keep = _mm256_set1_epi16(0x8000_u16 as i16 | (0x7F00 >> SHIFT));
            let even = _mm256_and_si256(_mm256_srai_epi16::<SHIFT>(_mm256_slli_epi16::<8>(x)), keep);
            let odd = _mm256_and_si256(_mm256_srai_epi16::<SHIFT>(x), keep);
            widen::<SHIFT>(_mm256_castsi256_si128(even), scale, out);
            widen::<SHIFT>(_mm256_castsi256_si128(odd), scale, out.add(width));
            widen::<SHIFT>(_mm256_extracti128_si256::<1>(even), scale, out.add(16 * width));
            widen::<SHIFT>(_mm256_extracti128_si256::<1>(odd), scale, out.add(17 * width));
        }
    }

    /// Whether it could be done: no special code.
    ///
    /// # Safety
    /// AVX2 and F16C; `codes` holds `7 * stride + 32` bytes, `out` `31 * width + 8` values.
    #[inline(always)]
    unsafe fn halves<const SHIFT: i32>(
        half: Half,
        codes: &[u8],
        stride: usize,
        out: &mut [f32],
        width: usize,
    ) -> bool {
        // SAFETY: as the function's own.
        unsafe {
            let mut r = [_mm256_setzero_si256(); 8];
            let mut top = _mm256_setzero_si256();
            for (i, r) in r.iter_mut().enumerate() {
                *r = _mm256_loadu_si256(codes.as_ptr().add(i * stride).cast());
                top = larger(top, *r);
            }
            if _mm256_movemask_epi8(_mm256_cmpgt_epi8(top, _mm256_set1_epi8(half.limit as i8 - 1))) != 0 {
                return false;
            }
            let scale = _mm256_set1_ps(half.scale);
            for side in 0..2 {
                let mut two = [_mm256_setzero_si256(); 4];
                for i in 0..4 {
                    two[i] = if side == 0 {
                        _mm256_unpacklo_epi16(r[2 * i], r[2 * i + 1])
                    } else {
                        _mm256_unpackhi_epi16(r[2 * i], r[2 * i + 1])
                    };
                }
                let [a, b, c, d] = two;
                let to = out.as_mut_ptr().add(8 * side * width);
                let (x, y) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
                word::<SHIFT>(_mm256_unpacklo_epi64(x, y), scale, to, width);
                word::<SHIFT>(_mm256_unpackhi_epi64(x, y), scale, to.add(2 * width), width);
                let (x, y) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
                word::<SHIFT>(_mm256_unpacklo_epi64(x, y), scale, to.add(4 * width), width);
                word::<SHIFT>(_mm256_unpackhi_epi64(x, y), scale, to.add(6 * width), width);
            }
        }
        true
    }
}
