//! ByteTables held in registers: what kernels need that look up in one table and do little else with what they find.

#[cfg(target_arch = "x86_64")]
pub(super) use x86::shifted_words;
#[cfg(target_arch = "x86_64")]
pub use x86::{ByteTables, F16Table};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::avx2::{gather_rare, Avx2};
    use super::super::avx512::Avx512;
    use super::super::lookup::Lookup;
    use std::arch::x86_64::*;

    /// The low and high bytes of 128 bfloat16 values; their negatives are the upper half of the table.
    #[derive(Clone, Copy)]
    pub struct ByteTables {
        low: [__m512i; 2],
        high: [__m512i; 2],
        order: __m512i,
    }

    /// Byte permutation after which two unpacks leave four vectors in order: even words first, then odd ones.
    static ORDER: [u8; 64] = {
        let mut order = [0; 64];
        let mut i = 0;
        while i < 64 {
            let (vector, lane, place) = (i / 16, i % 16 / 4, i % 4);
            order[16 * lane + 8 * (vector / 2) + 2 * place + vector % 2] = i as u8;
            i += 1;
        }
        order
    };

    impl ByteTables {
        /// Loads a symmetric table; `None` for any other.
        #[inline(always)]
        pub(in crate::simd) fn new(_: Avx512, table: &Lookup) -> Option<ByteTables> {
            // SAFETY: 64 bytes are read from arrays of 64; the token proves AVX-512.
            let load = |bytes: &[u8; 64]| unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) };
            let two = |bytes: &[u8; 256]| {
                let (quarters, _) = bytes.as_chunks::<64>();
                [load(&quarters[0]), load(&quarters[1])]
            };
            table.symmetric.then(|| ByteTables {
                low: two(&table.low),
                high: two(&table.high),
                order: load(&ORDER),
            })
        }

        /// Looks up 64 codes.
        #[inline(always)]
        pub(in crate::simd) fn values(self, _: Avx512, codes: &[u8]) -> [__m512; 4] {
            let codes = &codes[..64];
            // SAFETY: 64 bytes are read from a slice of 64; the token proves AVX-512 VBMI.
            unsafe {
                let index = _mm512_loadu_si512(codes.as_ptr().cast());
                let index = _mm512_permutexvar_epi8(self.order, index);
                let low = _mm512_permutex2var_epi8(self.low[0], index, self.low[1]);
                let high = _mm512_permutex2var_epi8(self.high[0], index, self.high[1]);
                // high | index & 0x80
                let high = _mm512_ternarylogic_epi32::<0xF8>(high, index, _mm512_set1_epi8(-128));
                let (a, b) = (_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high));
                let top = _mm512_set1_epi32(0xFFFF_0000_u32 as i32);
                [
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(a)),
                    _mm512_castsi512_ps(_mm512_and_si512(a, top)),
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(b)),
                    _mm512_castsi512_ps(_mm512_and_si512(b, top)),
                ]
            }
        }
    }

    /// The upper halves of 32 table values by [`WordShift`](super::super::lookup::WordShift), if it holds for all of them.
    #[inline(always)]
    pub(in crate::simd) fn shifted_words(_: Avx2, table: &Lookup, codes: &[u8]) -> Option<[__m256i; 2]> {
        let (rule, codes) = (table.words?, &codes[..32]);
        // SAFETY: 32 bytes are read from a slice of 32, and 16 from arrays of 256; the token proves AVX2.
        unsafe {
            let all = _mm256_loadu_si256(codes.as_ptr().cast());
            let low_bits = _mm256_set1_epi8(0x7F);
            let last = _mm256_set1_epi8((rule.limit - 1) as i8);
            if _mm256_movemask_epi8(_mm256_cmpgt_epi8(_mm256_and_si256(all, low_bits), last)) != 0 {
                return None;
            }
            // Quarters first, as bytes are interleaved within halves.
            let (all, zero) = (_mm256_permute4x64_epi64::<0b11_01_10_00>(all), _mm256_setzero_si256());
            let shift = _mm_cvtsi32_si128(rule.shift as i32);
            let keep = _mm256_set1_epi16(0x8000_u16 as i16 | (0x7F00 >> rule.shift));
            let add = _mm256_set1_epi16(rule.add as i16);
            let (a, b) = (_mm256_unpacklo_epi8(zero, all), _mm256_unpackhi_epi8(zero, all));
            let a = _mm256_add_epi16(_mm256_and_si256(_mm256_sra_epi16(a, shift), keep), add);
            let b = _mm256_add_epi16(_mm256_and_si256(_mm256_sra_epi16(b, shift), keep), add);
            if !rule.apart {
                return Some([a, b]);
            }
            let low = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.low.as_ptr().cast()));
            let high = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.high.as_ptr().cast()));
            let magnitude = _mm256_and_si256(all, low_bits);
            let small = _mm256_cmpgt_epi8(_mm256_set1_epi8(16), magnitude);
            let (low, high) = (_mm256_shuffle_epi8(low, magnitude), _mm256_shuffle_epi8(high, magnitude));
            let high = _mm256_or_si256(high, _mm256_andnot_si256(low_bits, all));
            let (first, second) = (_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high));
            Some([
                _mm256_blendv_epi8(a, first, _mm256_unpacklo_epi8(small, small)),
                _mm256_blendv_epi8(b, second, _mm256_unpackhi_epi8(small, small)),
            ])
        }
    }

    /// Decoding by shift to float16, with the table as fallback for special codes.
    #[derive(Clone, Copy)]
    pub struct F16Table<'a> {
        table: &'a Lookup,
        shift: __m128i,
        keep: __m256i,
        scale: __m256,
        last: __m256i,
    }

    impl<'a> F16Table<'a> {
        /// Prepares a format that decodes by [`F16Shift`](super::super::lookup::F16Shift); `None` for any other.
        #[inline(always)]
        pub(in crate::simd) fn new(_: Avx2, table: &'a Lookup) -> Option<F16Table<'a>> {
            let half = table.half?;
            // SAFETY: the token proves AVX2.
            unsafe {
                Some(F16Table {
                    table,
                    shift: _mm_cvtsi32_si128(half.shift as i32),
                    keep: _mm256_set1_epi16(0x8000_u16 as i16 | (0x7F00 >> half.shift)),
                    scale: _mm256_set1_ps(half.scale),
                    last: _mm256_set1_epi8(half.limit as i8 - 1),
                })
            }
        }

        /// Looks up 32 codes.
        #[inline(always)]
        pub(in crate::simd) fn values(self, _: Avx2, codes: &[u8]) -> [__m256; 4] {
            let codes = &codes[..32];
            // SAFETY: 32 bytes are read from a slice of 32; the token proves AVX2 and F16C.
            unsafe {
                let all = _mm256_loadu_si256(codes.as_ptr().cast());
                let magnitude = _mm256_and_si256(all, _mm256_set1_epi8(0x7F));
                if _mm256_movemask_epi8(_mm256_cmpgt_epi8(magnitude, self.last)) != 0 {
                    return gather_rare(self.table, codes);
                }
                // Each code on top of a word; quarters first, as bytes are interleaved within halves.
                let (all, zero) = (_mm256_permute4x64_epi64::<0b11_01_10_00>(all), _mm256_setzero_si256());
                let word = |x| _mm256_and_si256(_mm256_sra_epi16(x, self.shift), self.keep);
                let (a, b) = (word(_mm256_unpacklo_epi8(zero, all)), word(_mm256_unpackhi_epi8(zero, all)));
                let wide = |x| _mm256_mul_ps(_mm256_cvtph_ps(x), self.scale);
                [
                    wide(_mm256_castsi256_si128(a)),
                    wide(_mm256_extracti128_si256::<1>(a)),
                    wide(_mm256_castsi256_si128(b)),
                    wide(_mm256_extracti128_si256::<1>(b)),
                ]
            }
        }
    }
}
