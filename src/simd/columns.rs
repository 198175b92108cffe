//! Transposed lookup: steps of codes to columns of values, one lane for each step (or row) of the operand.

use super::lanes::{ColumnSink, Lanes, STEP};
use super::lookup::Lookup;

/// Definition, for `W` steps, one for each lane.
#[inline(always)]
pub(super) fn portable<L: Lanes, const W: usize>(
    l: L,
    table: &Lookup,
    codes: &[u8],
    mut each: impl ColumnSink<L>,
) {
    let codes = &codes[..W * STEP];
    for k in 0..STEP {
        let mut column = [0.0; W];
        for (lane, value) in column.iter_mut().enumerate() {
            *value = table.values[usize::from(codes[lane * STEP + k])];
        }
        each.column(k, l.load_f32(&column));
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{avx2, avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::avx2::Avx2;
    use super::super::avx512::{pair_of, Avx512};
    use super::super::lanes::ColumnSink;
    use super::super::lookup::{F16Shift, Lookup};
    use super::{portable, STEP};
    use std::arch::x86_64::*;

    /// Loads sixteen bytes of each of four steps: `step`, `step + 4`, `step + 8`, `step + 12`.
    ///
    /// # Safety
    /// AVX-512; sixteen bytes can be read at the four steps.
    #[inline(always)]
    unsafe fn quad(codes: *const u8, step: usize) -> __m512i {
        // SAFETY: as the function's own.
        unsafe {
            let codes = codes.add(step * STEP);
            let x = _mm512_castsi128_si512(_mm_loadu_si128(codes.cast()));
            let x = _mm512_inserti32x4::<1>(x, _mm_loadu_si128(codes.add(4 * STEP).cast()));
            let x = _mm512_inserti32x4::<2>(x, _mm_loadu_si128(codes.add(8 * STEP).cast()));
            _mm512_inserti32x4::<3>(x, _mm_loadu_si128(codes.add(12 * STEP).cast()))
        }
    }

    /// Looks up two words of codes of each of sixteen steps: values `k` to `k + 3` of each.
    ///
    /// # Safety
    /// AVX-512.
    #[inline(always)]
    unsafe fn two_words<const SYMMETRIC: bool>(
        table: &Lookup,
        words: __m512i,
        k: usize,
        each: &mut impl ColumnSink<Avx512>,
    ) {
        // SAFETY: as the function's own.
        unsafe {
            let (low, high) = pair_of::<SYMMETRIC>(table, words);
            let top = _mm512_set1_epi32(0xFFFF_0000_u32 as i32);
            let (x, y) = (_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high));
            each.column(k, _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x)));
            each.column(k + 1, _mm512_castsi512_ps(_mm512_and_si512(x, top)));
            each.column(k + 2, _mm512_castsi512_ps(_mm512_slli_epi32::<16>(y)));
            each.column(k + 3, _mm512_castsi512_ps(_mm512_and_si512(y, top)));
        }
    }

    /// Looks up sixteen steps.
    #[inline(always)]
    pub fn avx512(_: Avx512, table: &Lookup, codes: &[u8], each: impl ColumnSink<Avx512>) {
        let codes: &[u8; 16 * STEP] = codes[..16 * STEP].try_into().expect("as many");
        if table.symmetric {
            // SAFETY: the token proves AVX-512.
            unsafe { sixteen::<true>(table, codes, each) }
        } else {
            // SAFETY: the token proves AVX-512.
            unsafe { sixteen::<false>(table, codes, each) }
        }
    }

    /// Transposes pairs of codes as 16-bit words: two unpacks bring the words of four steps into 128 bits, a third the
    /// bytes of their bfloat16.
    ///
    /// # Safety
    /// AVX-512.
    #[inline(always)]
    unsafe fn sixteen<const SYMMETRIC: bool>(
        table: &Lookup,
        codes: &[u8; 16 * STEP],
        mut each: impl ColumnSink<Avx512>,
    ) {
        // SAFETY: as the function's own; reads end with the last of 16 steps.
        unsafe {
            for half in 0..2 {
                let (k, from) = (16 * half, codes.as_ptr().add(16 * half));
                let (r0, r1, r2, r3) = (quad(from, 0), quad(from, 1), quad(from, 2), quad(from, 3));
                let (a, b) = (_mm512_unpacklo_epi16(r0, r1), _mm512_unpacklo_epi16(r2, r3));
                two_words::<SYMMETRIC>(table, _mm512_unpacklo_epi32(a, b), k, &mut each);
                two_words::<SYMMETRIC>(table, _mm512_unpackhi_epi32(a, b), k + 4, &mut each);
                let (a, b) = (_mm512_unpackhi_epi16(r0, r1), _mm512_unpackhi_epi16(r2, r3));
                two_words::<SYMMETRIC>(table, _mm512_unpacklo_epi32(a, b), k + 8, &mut each);
                two_words::<SYMMETRIC>(table, _mm512_unpackhi_epi32(a, b), k + 12, &mut each);
            }
        }
    }

    /// Looks up eight steps: through float16 where the format allows it and no special code occurs.
    #[inline(always)]
    pub fn avx2(l: Avx2, table: &Lookup, codes: &[u8], mut each: impl ColumnSink<Avx2>) {
        let codes: &[u8; 8 * STEP] = codes[..8 * STEP].try_into().expect("as many");
        let mut halves = F16Columns([[0; 8]; STEP]);
        // No closure: one that is not inlined would be compiled without AVX2.
        let scale = match table.half {
            // SAFETY: the token proves AVX2.
            Some(half) if half.shift == 0 => unsafe { f16_columns::<0>(half, codes, &mut halves) },
            // SAFETY: as above.
            Some(half) if half.shift == 1 => unsafe { f16_columns::<1>(half, codes, &mut halves) },
            // SAFETY: as above.
            Some(half) if half.shift == 2 => unsafe { f16_columns::<2>(half, codes, &mut halves) },
            _ => None,
        };
        let Some(scale) = scale else {
            return portable::<Avx2, 8>(l, table, codes, each);
        };
        // SAFETY: a column is 16 bytes, and aligned to them; the token proves AVX2 and F16C.
        let value = |k: usize| unsafe {
            _mm256_mul_ps(_mm256_cvtph_ps(_mm_load_si128(halves.0[k].as_ptr().cast())), _mm256_set1_ps(scale))
        };
        // Pairs of k, so that the compiler knows which are even.
        for i in 0..STEP / 2 {
            each.column(2 * i, value(2 * i));
            each.column(2 * i + 1, value(2 * i + 1));
        }
    }

    /// The float16 of eight steps, for each k.
    #[repr(align(32))]
    struct F16Columns([[u16; 8]; STEP]);

    /// Bytewise maximum of magnitudes and the magnitudes of codes.
    ///
    /// # Safety
    /// AVX2.
    #[inline(always)]
    unsafe fn larger(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: as the function's own.
        unsafe { _mm256_max_epu8(a, _mm256_and_si256(b, _mm256_set1_epi8(0x7F))) }
    }

    /// Converts a word of codes of each of eight steps, in either half: float16 `k`, `k + 1`, and sixteen further on.
    ///
    /// # Safety
    /// AVX2; `k + 17` is inside.
    #[inline(always)]
    unsafe fn word<const SHIFT: i32>(x: __m256i, k: usize, out: &mut F16Columns) {
        // SAFETY: as the function's own.
        unsafe {
            let keep = _mm256_set1_epi16(0x8000_u16 as i16 | (0x7F00 >> SHIFT));
            let even = _mm256_and_si256(_mm256_srai_epi16::<SHIFT>(_mm256_slli_epi16::<8>(x)), keep);
            let odd = _mm256_and_si256(_mm256_srai_epi16::<SHIFT>(x), keep);
            for (k, x) in [(k, even), (k + 1, odd)] {
                _mm_store_si128(out.0[k].as_mut_ptr().cast(), _mm256_castsi256_si128(x));
                _mm_store_si128(out.0[k + 16].as_mut_ptr().cast(), _mm256_extracti128_si256::<1>(x));
            }
        }
    }

    /// Transposes eight steps to float16. Returns the factor to multiply them by, or `None` on a special code.
    ///
    /// # Safety
    /// AVX2.
    #[inline(always)]
    unsafe fn f16_columns<const SHIFT: i32>(
        half: F16Shift,
        codes: &[u8; 8 * STEP],
        out: &mut F16Columns,
    ) -> Option<f32> {
        // SAFETY: as the function's own.
        unsafe {
            let mut r = [_mm256_setzero_si256(); 8];
            let mut top = _mm256_setzero_si256();
            for (r, codes) in r.iter_mut().zip(codes.chunks_exact(STEP)) {
                *r = _mm256_loadu_si256(codes.as_ptr().cast());
                top = larger(top, *r);
            }
            if _mm256_movemask_epi8(_mm256_cmpgt_epi8(top, _mm256_set1_epi8(half.limit as i8 - 1))) != 0 {
                return None;
            }
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
                let k = 8 * side;
                let (x, y) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
                word::<SHIFT>(_mm256_unpacklo_epi64(x, y), k, out);
                word::<SHIFT>(_mm256_unpackhi_epi64(x, y), k + 2, out);
                let (x, y) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
                word::<SHIFT>(_mm256_unpacklo_epi64(x, y), k + 4, out);
                word::<SHIFT>(_mm256_unpackhi_epi64(x, y), k + 6, out);
            }
        }
        Some(half.scale)
    }
}

#[cfg(target_arch = "aarch64")]
pub(super) use arm::neon;

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::super::lanes::ColumnSink;
    use super::super::lookup::{F16Shift, Lookup};
    use super::super::neon::Neon;
    use super::super::neon_tables::ShiftDecoder;
    use super::{portable, STEP};
    use std::arch::aarch64::*;

    /// Looks up eight steps: through float16 where the format allows it and no special code occurs.
    #[inline(always)]
    pub fn neon(l: Neon, table: &Lookup, codes: &[u8], mut each: impl ColumnSink<Neon>) {
        let codes: &[u8; 8 * STEP] = codes[..8 * STEP].try_into().expect("as many");
        let Some(half) = table.half.filter(|half| ordinary(*half, codes)) else {
            return portable::<Neon, 8>(l, table, codes, each);
        };
        let decoder = ShiftDecoder::new(half);
        for k in [0, 16] {
            for (i, two) in transposed(codes, k).into_iter().enumerate() {
                let [even, odd] = decoder.values(two);
                each.column(k + 2 * i, even);
                each.column(k + 2 * i + 1, odd);
            }
        }
    }

    /// Tests if no code is special.
    #[inline(always)]
    fn ordinary(half: F16Shift, codes: &[u8; 8 * STEP]) -> bool {
        let (parts, _) = codes.as_chunks::<16>();
        // SAFETY: sixteen bytes are read from arrays of as many; NEON is proved by the token of the caller.
        unsafe {
            let magnitude = |part: &[u8; 16]| vandq_u8(vld1q_u8(part.as_ptr()), vdupq_n_u8(0x7F));
            let most = parts.iter().fold(vdupq_n_u8(0), |most, part| vmaxq_u8(most, magnitude(part)));
            vmaxvq_u8(most) < half.limit
        }
    }

    /// Sixteen codes of each of eight steps, from `k` on: for each two k, the bytes of the eight steps.
    #[inline(always)]
    fn transposed(codes: &[u8; 8 * STEP], k: usize) -> [uint8x16_t; 8] {
        assert!(k <= STEP - 16);
        // SAFETY: sixteen bytes are read inside each step; NEON is proved by the token of the caller.
        unsafe {
            let row = |step: usize| vld1q_u8(codes.as_ptr().add(step * STEP + k));
            let mut out = [vdupq_n_u8(0); 8];
            // Steps 0 and 4, 1 and 5 ..., interleaved; then their even and odd ones; then both.
            let (a, b) = (vzip1q_u8(row(0), row(4)), vzip2q_u8(row(0), row(4)));
            let (c, d) = (vzip1q_u8(row(1), row(5)), vzip2q_u8(row(1), row(5)));
            let (e, f) = (vzip1q_u8(row(2), row(6)), vzip2q_u8(row(2), row(6)));
            let (g, h) = (vzip1q_u8(row(3), row(7)), vzip2q_u8(row(3), row(7)));
            for (half, [a, c, e, g]) in [[a, c, e, g], [b, d, f, h]].into_iter().enumerate() {
                let (low, high) = (vzip1q_u8(a, e), vzip1q_u8(c, g));
                out[4 * half] = vzip1q_u8(low, high);
                out[4 * half + 1] = vzip2q_u8(low, high);
                let (low, high) = (vzip2q_u8(a, e), vzip2q_u8(c, g));
                out[4 * half + 2] = vzip1q_u8(low, high);
                out[4 * half + 3] = vzip2q_u8(low, high);
            }
            out
        }
    }
}
