//! Tables of 16 float32 that groups are looked up in by permutations, as each level lays them out.

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{avx2, avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    /// Tables as the bytes of all values, one after the other: bytes are permuted 32 at a time, wider values eight at most.
    pub mod avx2 {
        use super::super::super::avx2::{near_midpoint, Avx2};
        use std::arch::x86_64::*;

        /// The bytes of 16 values by their place, the lowest first.
        type Planes = [f32; 16];

        /// Writes the planes of 16 values, which are given in quarters.
        #[inline(always)]
        fn store(x: [__m128; 4], out: &mut Planes) {
            // SAFETY: the table is 64 bytes; the token of the caller proves AVX2.
            unsafe {
                let by_place = _mm256_set_epi64x(
                    0x0F0B_0703_0E0A_0602,
                    0x0D09_0501_0C08_0400,
                    0x0F0B_0703_0E0A_0602,
                    0x0D09_0501_0C08_0400,
                );
                let a = _mm256_shuffle_epi8(_mm256_castps_si256(_mm256_set_m128(x[2], x[0])), by_place);
                let b = _mm256_shuffle_epi8(_mm256_castps_si256(_mm256_set_m128(x[3], x[1])), by_place);
                // Two planes of eight values in each half, then of all.
                let (low, high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
                let at = out.as_mut_ptr().cast::<__m256i>();
                _mm256_storeu_si256(at, _mm256_permute4x64_epi64::<0b11_01_10_00>(low));
                _mm256_storeu_si256(at.add(1), _mm256_permute4x64_epi64::<0b11_01_10_00>(high));
            }
        }

        /// `Lanes::lay_out`.
        #[inline(always)]
        pub fn lay_out(_: Avx2, x: &[f64; 16], near: u32, out: &mut Planes) -> bool {
            // SAFETY: four vectors are read from an array of four; the token proves AVX2.
            unsafe {
                let at = x.as_ptr();
                let (x0, x1) = (_mm256_loadu_pd(at), _mm256_loadu_pd(at.add(4)));
                let (x2, x3) = (_mm256_loadu_pd(at.add(8)), _mm256_loadu_pd(at.add(12)));
                let quarters =
                    [_mm256_cvtpd_ps(x0), _mm256_cvtpd_ps(x1), _mm256_cvtpd_ps(x2), _mm256_cvtpd_ps(x3)];
                store(quarters, out);
                let found = _mm256_or_si256(near_midpoint(x0, near), near_midpoint(x1, near));
                let found = _mm256_or_si256(found, near_midpoint(x2, near));
                _mm256_movemask_epi8(_mm256_or_si256(found, near_midpoint(x3, near))) != 0
            }
        }

        /// `Lanes::lay_out_pairs`.
        #[inline(always)]
        pub fn lay_out_pairs(_: Avx2, x: &[f64; 16], near: &mut Planes, rest: &mut Planes) {
            // SAFETY: four vectors are read from an array of four; the token proves AVX2.
            unsafe {
                let at = x.as_ptr();
                let (x0, x1) = (_mm256_loadu_pd(at), _mm256_loadu_pd(at.add(4)));
                let (x2, x3) = (_mm256_loadu_pd(at.add(8)), _mm256_loadu_pd(at.add(12)));
                let (n0, n1) = (_mm256_cvtpd_ps(x0), _mm256_cvtpd_ps(x1));
                let (n2, n3) = (_mm256_cvtpd_ps(x2), _mm256_cvtpd_ps(x3));
                let (r0, r1) =
                    (_mm256_sub_pd(x0, _mm256_cvtps_pd(n0)), _mm256_sub_pd(x1, _mm256_cvtps_pd(n1)));
                let (r2, r3) =
                    (_mm256_sub_pd(x2, _mm256_cvtps_pd(n2)), _mm256_sub_pd(x3, _mm256_cvtps_pd(n3)));
                let quarters =
                    [_mm256_cvtpd_ps(r0), _mm256_cvtpd_ps(r1), _mm256_cvtpd_ps(r2), _mm256_cvtpd_ps(r3)];
                store([n0, n1, n2, n3], near);
                store(quarters, rest);
            }
        }

        /// Five bits of each code of a group, as bytes whose order [`join`] undoes.
        #[inline(always)]
        fn indices(codes: [__m256i; 4], shift: u32) -> __m256i {
            // SAFETY: the token of the caller proves AVX2.
            unsafe {
                let (shift, five) = (_mm_cvtsi32_si128(shift as i32), _mm256_set1_epi16(31));
                let low = _mm256_srl_epi16(_mm256_packus_epi32(codes[0], codes[1]), shift);
                let high = _mm256_srl_epi16(_mm256_packus_epi32(codes[2], codes[3]), shift);
                _mm256_packus_epi16(_mm256_and_si256(low, five), _mm256_and_si256(high, five))
            }
        }

        /// Bytes whose sign is bit 4 of an index.
        #[inline(always)]
        fn fifth_bits(index: __m256i) -> __m256i {
            // SAFETY: the token of the caller proves AVX2.
            unsafe { _mm256_slli_epi16::<3>(index) }
        }

        /// Byte `i` of values, by four bits of each index.
        #[inline(always)]
        fn bytes(table: &Planes, i: usize, index: __m256i) -> __m256i {
            let (quarters, _) = table.as_chunks::<4>();
            // SAFETY: a quarter of a table of 64 bytes is read; the token of the caller proves AVX2.
            unsafe {
                let plane = _mm256_broadcastsi128_si256(_mm_loadu_si128(quarters[i].as_ptr().cast()));
                _mm256_shuffle_epi8(plane, index)
            }
        }

        /// Joins the bytes of a group's values.
        #[inline(always)]
        fn join(a: __m256i, b: __m256i, c: __m256i, d: __m256i) -> [__m256; 4] {
            // SAFETY: the token of the caller proves AVX2.
            unsafe {
                let (low01, low23) = (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b));
                let (high01, high23) = (_mm256_unpacklo_epi8(c, d), _mm256_unpackhi_epi8(c, d));
                [
                    _mm256_castsi256_ps(_mm256_unpacklo_epi16(low01, high01)),
                    _mm256_castsi256_ps(_mm256_unpackhi_epi16(low01, high01)),
                    _mm256_castsi256_ps(_mm256_unpacklo_epi16(low23, high23)),
                    _mm256_castsi256_ps(_mm256_unpackhi_epi16(low23, high23)),
                ]
            }
        }

        /// Byte `i` of values, of a second table where bit 4 of an index says so.
        #[inline(always)]
        fn bytes_of(low: &Planes, high: Option<&Planes>, i: usize, index: __m256i) -> __m256i {
            let first = bytes(low, i, index);
            match high {
                // SAFETY: the token of the caller proves AVX2.
                Some(high) => unsafe { _mm256_blendv_epi8(first, bytes(high, i, index), fifth_bits(index)) },
                None => first,
            }
        }

        /// `Lanes::permute_group`.
        #[inline(always)]
        pub fn permute_group(
            _: Avx2,
            low: &Planes,
            high: Option<&Planes>,
            codes: [__m256i; 4],
            shift: u32,
        ) -> [__m256; 4] {
            let index = indices(codes, shift);
            let (a, b) = (bytes_of(low, high, 0, index), bytes_of(low, high, 1, index));
            join(a, b, bytes_of(low, high, 2, index), bytes_of(low, high, 3, index))
        }

        /// `Lanes::permute_signed`.
        #[inline(always)]
        pub fn permute_signed(_: Avx2, table: &Planes, codes: [__m256i; 4], shift: u32) -> [__m256; 4] {
            let index = indices(codes, shift);
            let (a, b, c) = (bytes(table, 0, index), bytes(table, 1, index), bytes(table, 2, index));
            // SAFETY: the token proves AVX2.
            let d = unsafe {
                let negative = _mm256_and_si256(fifth_bits(index), _mm256_set1_epi8(-128));
                _mm256_xor_si256(bytes(table, 3, index), negative)
            };
            join(a, b, c, d)
        }
    }

    /// Tables as they are.
    pub mod avx512 {
        use super::super::super::avx512::{join, store, Avx512};
        use super::super::super::lanes::Lanes;
        use std::arch::x86_64::*;

        /// A group shifted right.
        #[inline(always)]
        fn shifted(l: Avx512, x: [__m512i; 4], shift: u32) -> [__m512i; 4] {
            [l.shr(x[0], shift), l.shr(x[1], shift), l.shr(x[2], shift), l.shr(x[3], shift)]
        }

        /// Permutes 32 values in two halves.
        #[inline(always)]
        fn permute32(low: __m512, high: __m512, index: [__m512i; 4]) -> [__m512; 4] {
            // SAFETY: AVX-512 is proved by the token of the caller.
            unsafe {
                [
                    _mm512_permutex2var_ps(low, index[0], high),
                    _mm512_permutex2var_ps(low, index[1], high),
                    _mm512_permutex2var_ps(low, index[2], high),
                    _mm512_permutex2var_ps(low, index[3], high),
                ]
            }
        }

        /// `Lanes::lay_out`.
        #[inline(always)]
        pub fn lay_out(l: Avx512, x: &[f64; 16], near: u32, out: &mut [f32; 16]) -> bool {
            l.products(&[1.0], x, near, out)
        }

        /// `Lanes::lay_out_pairs`.
        #[inline(always)]
        pub fn lay_out_pairs(_: Avx512, x: &[f64; 16], near: &mut [f32; 16], rest: &mut [f32; 16]) {
            // SAFETY: two vectors of float64 are read, and two of float32 written.
            unsafe {
                let (x0, x1) = (_mm512_loadu_pd(x.as_ptr()), _mm512_loadu_pd(x.as_ptr().add(8)));
                let (n0, n1) = (_mm512_cvtpd_ps(x0), _mm512_cvtpd_ps(x1));
                let r0 = _mm512_cvtpd_ps(_mm512_sub_pd(x0, _mm512_cvtps_pd(n0)));
                let r1 = _mm512_cvtpd_ps(_mm512_sub_pd(x1, _mm512_cvtps_pd(n1)));
                store(join(_mm256_castps_si256(n0), _mm256_castps_si256(n1)), near, false);
                store(join(_mm256_castps_si256(r0), _mm256_castps_si256(r1)), rest, false);
            }
        }

        /// `Lanes::permute_group`.
        #[inline(always)]
        pub fn permute_group(
            l: Avx512,
            low: &[f32; 16],
            high: Option<&[f32; 16]>,
            codes: [__m512i; 4],
            shift: u32,
        ) -> [__m512; 4] {
            let codes = shifted(l, codes, shift);
            let low = l.load_f32(low);
            match high {
                Some(high) => permute32(low, l.load_f32(high), codes),
                // SAFETY: the token proves AVX-512.
                None => unsafe {
                    [
                        _mm512_permutexvar_ps(codes[0], low),
                        _mm512_permutexvar_ps(codes[1], low),
                        _mm512_permutexvar_ps(codes[2], low),
                        _mm512_permutexvar_ps(codes[3], low),
                    ]
                },
            }
        }

        /// `Lanes::permute_signed`.
        #[inline(always)]
        pub fn permute_signed(l: Avx512, table: &[f32; 16], codes: [__m512i; 4], shift: u32) -> [__m512; 4] {
            let low = l.load_f32(table);
            let high = l.float(l.xor(l.bits(low), l.u32(1 << 31)));
            permute32(low, high, shifted(l, codes, shift))
        }
    }
}
