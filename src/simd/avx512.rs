//! AVX-512 F/BW/DQ/VL/CD with VBMI and VNNI: sixteen lanes.

use super::avx512_halves::{halves, store_halves};
use super::lanes::{horner, ByteFormat, ColumnSink, Kernel, Lanes, Narrow, MAX_GROUP, MIDPOINT};
use super::lookup::Lookup;
use super::onto;
use super::philox::PhiloxKeys;
use super::plain::Plain;
use std::arch::x86_64::*;

/// Proof that this CPU has AVX-512 F, BW, DQ, VL, CD, VBMI and VNNI, and all that AVX2 stands for.
#[derive(Clone, Copy)]
pub struct Avx512(());

token! {
    Avx512: "avx512f" "avx512bw" "avx512dq" "avx512vl" "avx512cd" "avx512vbmi" "avx512vnni"
        "avx2" "fma" "f16c" "bmi1" "bmi2" "lzcnt"
}

const N: usize = 16;

/// Stores 64 bytes at the start of `out`, which must hold them.
#[inline(always)]
pub(super) fn store<T>(v: __m512i, out: &mut [T], stream: bool) {
    assert!(std::mem::size_of_val(out) >= 64);
    let p = out.as_mut_ptr().cast::<__m512i>();
    // SAFETY: the slice holds 64 bytes; the streamed store is only used on a 64-byte boundary. AVX-512 is
    // proved by the token of the caller.
    unsafe {
        if stream && (p as usize).is_multiple_of(64) {
            _mm512_stream_si512(p, v);
        } else {
            _mm512_storeu_si512(p, v);
        }
    }
}

/// One byte of each table entry, chosen by 64 bytes. A permutation chooses among 128: the upper half of the table is the
/// lower one with `sign` set, or takes a permutation of its own.
#[inline(always)]
fn lookup256(table: &[u8; 256], sign: Option<u8>, index: __m512i) -> __m512i {
    // SAFETY: the table is 256 bytes; AVX-512 VBMI is proved by the token of the caller.
    unsafe {
        let p = table.as_ptr().cast::<__m512i>();
        let low = _mm512_permutex2var_epi8(_mm512_loadu_si512(p), index, _mm512_loadu_si512(p.add(1)));
        if let Some(sign) = sign {
            return _mm512_or_si512(low, _mm512_and_si512(index, _mm512_set1_epi8(sign as i8)));
        }
        let high =
            _mm512_permutex2var_epi8(_mm512_loadu_si512(p.add(2)), index, _mm512_loadu_si512(p.add(3)));
        _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), low, high)
    }
}

/// The low and high bytes of table values.
#[inline(always)]
pub(super) fn pair(table: &Lookup, index: __m512i) -> (__m512i, __m512i) {
    if table.symmetric {
        pair_of::<true>(table, index)
    } else {
        pair_of::<false>(table, index)
    }
}

/// The same where it is known whether the table is symmetric.
#[inline(always)]
pub(super) fn pair_of<const SYMMETRIC: bool>(table: &Lookup, index: __m512i) -> (__m512i, __m512i) {
    let sign = |bit: u8| SYMMETRIC.then_some(bit);
    (lookup256(&table.low, sign(0), index), lookup256(&table.high, sign(0x80), index))
}

/// The bfloat16 of 64 codes, in order.
#[inline(always)]
fn words_of(table: &Lookup, codes: &[u8]) -> [__m512i; 2] {
    let codes = &codes[..4 * N];
    // SAFETY: the slice is 64 bytes; AVX-512 is proved by the token of the caller.
    unsafe {
        // Interleave the qwords first, so that the unpacks end in natural order.
        let order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
        let index = _mm512_permutexvar_epi64(order, _mm512_loadu_si512(codes.as_ptr().cast()));
        let (low, high) = pair(table, index);
        [_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)]
    }
}

/// Eight float64, rounded to odd.
#[inline(always)]
fn odd(src: &[f64]) -> __m256i {
    const TO_ZERO: i32 = _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC;
    let src = &src[..8];
    // SAFETY: eight float64 are read from a slice of eight; AVX-512 is proved by the token of the caller.
    unsafe {
        let x = _mm512_loadu_pd(src.as_ptr());
        let cut = _mm512_cvt_roundpd_ps::<TO_ZERO>(x);
        let inexact = _mm512_cmp_pd_mask::<_CMP_NEQ_OQ>(_mm512_cvtps_pd(cut), x);
        let bits = _mm256_castps_si256(cut);
        _mm256_mask_or_epi32(bits, inexact, bits, _mm256_set1_epi32(1))
    }
}

/// 32 words of two vectors of lanes below 65536, in order.
#[inline(always)]
fn words(a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: AVX-512 is proved by the token of the caller.
    unsafe {
        let order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
        _mm512_permutexvar_epi64(order, _mm512_packus_epi32(a, b))
    }
}

/// Sixteen float32 as float16, rounded to odd at the last bit that matters: rounding that again rounds once.
#[inline(always)]
fn half(x: __m512, sticky: u32) -> __m256i {
    // SAFETY: AVX-512 is proved by the token of the caller.
    unsafe {
        let bits = _mm512_castps_si512(x);
        let lost = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(sticky as i32));
        let odd = _mm512_mask_or_epi32(bits, lost, bits, _mm512_set1_epi32(sticky as i32 + 1));
        _mm512_cvt_roundps_ph::<{ _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC }>(_mm512_castsi512_ps(odd))
    }
}

/// The magnitude codes of 32 float16, cut off after an addition; `even` adds one more to odd ones.
#[inline(always)]
fn cut_off(h: __m512i, f: Narrow) -> __m512i {
    // SAFETY: AVX-512 is proved by the token of the caller.
    unsafe {
        let (cut, magnitude) =
            (_mm512_set1_epi16(f.cut as i16), _mm512_and_si512(h, _mm512_set1_epi16(0x7FFF)));
        if !f.even {
            let sum = _mm512_adds_epi16(magnitude, _mm512_set1_epi16(f.add as i16));
            return _mm512_srlv_epi16(sum, cut);
        }
        // An average adds one, and shifts by one: (odd & 1) | (add - 1), as add is odd.
        let (one, less) = (_mm512_set1_epi16(1), _mm512_set1_epi16(f.add as i16 - 1));
        let add = _mm512_ternarylogic_epi32::<0xEA>(_mm512_srlv_epi16(h, cut), one, less);
        _mm512_srlv_epi16(_mm512_avg_epu16(magnitude, add), _mm512_set1_epi16(f.cut as i16 - 1))
    }
}

/// Two halves of a vector.
#[inline(always)]
pub(super) fn join(lo: __m256i, hi: __m256i) -> __m512i {
    // SAFETY: AVX-512 is proved by the token of the caller.
    unsafe { _mm512_inserti64x4::<1>(_mm512_castsi256_si512(lo), hi) }
}

/// Words of float16 or bfloat16, with one less for those of magnitude `infinite`.
#[inline(always)]
fn bounded(words: __m512i, infinite: u16) -> __m512i {
    // SAFETY: AVX-512 is proved by the token of the caller.
    unsafe {
        let magnitude = _mm512_and_si512(words, _mm512_set1_epi16(0x7FFF));
        let most = _mm512_cmpeq_epi16_mask(magnitude, _mm512_set1_epi16(infinite as i16));
        _mm512_mask_sub_epi16(words, most, words, _mm512_set1_epi16(1))
    }
}

impl Lanes for Avx512 {
    const N: usize = N;
    type F = __m512;
    type U = __m512i;
    type M = __mmask16;
    type RegisterTable = super::register_table::ByteTables;

    elsewhere!(avx512);
    streamed!(_mm512_loadu_si512);
    #[inline(always)]
    fn transpose_into<T: Plain>(self, src: &[T], stride: usize, out: &mut [f32], pitch: usize) {
        super::transpose::avx512_into(self, src, stride, out, pitch);
    }
    intrinsics! {
        f32(x: f32) -> __m512 = _mm512_set1_ps;
        bits(x: __m512) -> __m512i = _mm512_castps_si512;
        float(x: __m512i) -> __m512 = _mm512_castsi512_ps;
        fadd(a: __m512, b: __m512) -> __m512 = _mm512_add_ps;
        fmul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps;
        fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps;
        estimate(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps;
        fmin(a: __m512, b: __m512) -> __m512 = _mm512_min_ps;
        fmax(a: __m512, b: __m512) -> __m512 = _mm512_max_ps;
        fdiv(a: __m512, b: __m512) -> __m512 = _mm512_div_ps;
        and(a: __m512i, b: __m512i) -> __m512i = _mm512_and_si512;
        or(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512;
        xor(a: __m512i, b: __m512i) -> __m512i = _mm512_xor_si512;
        add(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32;
        sub(a: __m512i, b: __m512i) -> __m512i = _mm512_sub_epi32;
        min(a: __m512i, b: __m512i) -> __m512i = _mm512_min_epu32;
        max(a: __m512i, b: __m512i) -> __m512i = _mm512_max_epu32;
        max_halves(a: __m512i, b: __m512i) -> __m512i = _mm512_max_epu16;
        shl_each(a: __m512i, n: __m512i) -> __m512i = _mm512_sllv_epi32;
        shr_each(a: __m512i, n: __m512i) -> __m512i = _mm512_srlv_epi32;
        gt(a: __m512i, b: __m512i) -> __mmask16 = _mm512_cmpgt_epu32_mask;
    }
    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Out {
        self.enter(kernel)
    }
    #[inline(always)]
    fn u32(self, x: u32) -> __m512i {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_set1_epi32(x as i32) }
    }

    #[inline(always)]
    fn load_f32(self, src: &[f32]) -> __m512 {
        let src = &src[..N];
        // SAFETY: the slice lengths were checked; the token proves AVX-512.
        unsafe { _mm512_loadu_ps(src.as_ptr()) }
    }
    #[inline(always)]
    fn load_u32(self, src: &[u32]) -> __m512i {
        let src = &src[..N];
        // SAFETY: the slice lengths were checked; the token proves AVX-512.
        unsafe { _mm512_loadu_si512(src.as_ptr().cast()) }
    }
    #[inline(always)]
    fn load_f16(self, src: &[u16]) -> __m512 {
        let src = &src[..N];
        // SAFETY: the slice lengths were checked; the token proves AVX-512.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(src.as_ptr().cast())) }
    }
    #[inline(always)]
    fn load_bf16(self, src: &[u16]) -> __m512 {
        let src = &src[..N];
        // SAFETY: the slice lengths were checked; the token proves AVX-512.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(src.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    fn load_f64(self, src: &[f64]) -> __m512 {
        let (lo, hi) = (odd(src), odd(&src[8..]));
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_castsi512_ps(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(lo), hi)) }
    }
    #[inline(always)]
    fn load_u8(self, src: &[u8]) -> __m512i {
        let src = &src[..N];
        // SAFETY: the slice lengths were checked; the token proves AVX-512.
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(src.as_ptr().cast())) }
    }
    #[inline(always)]
    fn polynomial(self, c: &[f64], x: &[f64], out: &mut [f64]) {
        const SIDE: usize = 32;
        for (x, out) in x.chunks_exact(SIDE).zip(out.chunks_exact_mut(SIDE)) {
            // SAFETY: four vectors are read from and written to slices of four; the token proves the features.
            unsafe {
                let x0 = _mm512_loadu_pd(x.as_ptr());
                let x1 = _mm512_loadu_pd(x.as_ptr().add(8));
                let x2 = _mm512_loadu_pd(x.as_ptr().add(16));
                let x3 = _mm512_loadu_pd(x.as_ptr().add(24));
                let zero = _mm512_setzero_pd();
                let (mut p0, mut p1, mut p2, mut p3) = (zero, zero, zero, zero);
                for c in c.iter().rev() {
                    let c = _mm512_set1_pd(*c);
                    p0 = _mm512_add_pd(_mm512_mul_pd(p0, x0), c);
                    p1 = _mm512_add_pd(_mm512_mul_pd(p1, x1), c);
                    p2 = _mm512_add_pd(_mm512_mul_pd(p2, x2), c);
                    p3 = _mm512_add_pd(_mm512_mul_pd(p3, x3), c);
                }
                _mm512_storeu_pd(out.as_mut_ptr(), p0);
                _mm512_storeu_pd(out.as_mut_ptr().add(8), p1);
                _mm512_storeu_pd(out.as_mut_ptr().add(16), p2);
                _mm512_storeu_pd(out.as_mut_ptr().add(24), p3);
            }
        }
        let done = x.len() / SIDE * SIDE;
        for (x, out) in x[done..].iter().zip(&mut out[done..]) {
            *out = horner(c, *x);
        }
    }
    #[inline(always)]
    fn powers(self, q: f64, times: u32, x: f64) -> [[f64; 16]; 2] {
        let (mut last, mut all) = ([0f64; 16], [0f64; 16]);
        // SAFETY: two vectors are written to arrays of that size.
        unsafe {
            let q = _mm512_set1_pd(q);
            let q2 = _mm512_mul_pd(q, q);
            let q4 = _mm512_mul_pd(q2, q2);
            // The exponents from 7 down to 0, bit by bit.
            let near = _mm512_mask_mov_pd(_mm512_set1_pd(1.0), 0b0101_0101, q);
            let near = _mm512_mask_mul_pd(near, 0b0011_0011, near, q2);
            let near = _mm512_mask_mul_pd(near, 0b0000_1111, near, q4);
            let mut power = near;
            for _ in 0..times {
                power = _mm512_mul_pd(power, power);
            }
            _mm512_storeu_pd(last.as_mut_ptr(), _mm512_mul_pd(power, _mm512_set1_pd(x)));
            _mm512_storeu_pd(last.as_mut_ptr().add(8), _mm512_mul_pd(power, _mm512_set1_pd(-x)));
            _mm512_storeu_pd(all.as_mut_ptr(), _mm512_mul_pd(near, _mm512_mul_pd(q4, q4)));
            _mm512_storeu_pd(all.as_mut_ptr().add(8), near);
        }
        [last, all]
    }
    #[inline(always)]
    fn products(self, rows: &[f64], steps: &[f64; 16], near: u32, out: &mut [f32]) -> bool {
        // SAFETY: the slice lengths were checked; the token proves AVX-512.
        unsafe {
            let start = _mm512_set1_epi64(i64::from(MIDPOINT - near));
            let (mask, width) =
                (_mm512_set1_epi64(i64::from(2 * MIDPOINT - 1)), _mm512_set1_epi64(i64::from(2 * near)));
            let (step0, step1) = (_mm512_loadu_pd(steps.as_ptr()), _mm512_loadu_pd(steps.as_ptr().add(8)));
            let mut found = 0;
            for (row, out) in rows.iter().zip(out.chunks_exact_mut(N)) {
                let row = _mm512_set1_pd(*row);
                let (v0, v1) = (_mm512_mul_pd(row, step0), _mm512_mul_pd(row, step1));
                let off0 = _mm512_and_si512(_mm512_sub_epi64(_mm512_castpd_si512(v0), start), mask);
                let off1 = _mm512_and_si512(_mm512_sub_epi64(_mm512_castpd_si512(v1), start), mask);
                found |= _mm512_cmplt_epu64_mask(off0, width) | _mm512_cmplt_epu64_mask(off1, width);
                let (lo, hi) = (_mm512_cvtpd_ps(v0), _mm512_cvtpd_ps(v1));
                store(join(_mm256_castps_si256(lo), _mm256_castps_si256(hi)), out, false);
            }
            found != 0
        }
    }
    const PERMUTES: bool = true;
    #[inline(always)]
    fn gather256(self, table: &[f32; 256], index: __m512i) -> __m512 {
        // SAFETY: indices are masked to the table's size.
        unsafe {
            let index = _mm512_and_si512(index, _mm512_set1_epi32(255));
            _mm512_i32gather_ps::<4>(index, table.as_ptr())
        }
    }
    #[inline(always)]
    fn lookup(self, table: &Lookup, codes: &[u8]) -> [__m512; 4] {
        let codes = &codes[..4 * N];
        // SAFETY: the slice lengths were checked; the token proves AVX-512.
        unsafe {
            // Transpose the 4x4 dwords first, so that the two unpacks below end in natural order.
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            let index = _mm512_permutexvar_epi32(order, _mm512_loadu_si512(codes.as_ptr().cast()));
            let (low, high) = pair(table, index);
            let (w0, w1) = (_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high));
            let zero = _mm512_setzero_si512();
            [
                _mm512_castsi512_ps(_mm512_unpacklo_epi16(zero, w0)),
                _mm512_castsi512_ps(_mm512_unpackhi_epi16(zero, w0)),
                _mm512_castsi512_ps(_mm512_unpacklo_epi16(zero, w1)),
                _mm512_castsi512_ps(_mm512_unpackhi_epi16(zero, w1)),
            ]
        }
    }
    #[inline(always)]
    fn register_table(self, table: &'static Lookup) -> Option<Self::RegisterTable> {
        super::register_table::ByteTables::new(self, table)
    }
    #[inline(always)]
    fn lookup_registers(self, table: Self::RegisterTable, codes: &[u8]) -> [__m512; 4] {
        table.values(self, codes)
    }
    #[inline(always)]
    fn lookup_bf16(self, table: &Lookup, codes: &[u8], out: &mut [u16], stream: bool) {
        let [first, second] = words_of(table, codes);
        let (to, rest) = out.split_at_mut(2 * N);
        store(first, to, stream);
        store(second, rest, stream);
    }
    #[inline(always)]
    fn lookup_pairs(self, table: &Lookup, codes: &[u8], out: &mut [f32]) {
        let [first, second] = words_of(table, codes);
        let (to, rest) = out.split_at_mut(N);
        store(first, to, false);
        store(second, rest, false);
    }

    #[inline(always)]
    fn store_f32(self, x: __m512, out: &mut [f32], stream: bool) {
        store(self.bits(x), out, stream);
    }
    #[inline(always)]
    fn store_u32(self, x: __m512i, out: &mut [u32]) {
        store(x, out, false);
    }
    #[inline(always)]
    fn store_u8(self, x: [__m512i; 4], out: &mut [u8], stream: bool) {
        // SAFETY: the token proves AVX-512.
        let v = unsafe {
            let words01 = _mm512_packus_epi32(x[0], x[1]);
            let words23 = _mm512_packus_epi32(x[2], x[3]);
            let bytes = _mm512_packus_epi16(words01, words23); // in 128-bit lanes: undo the interleaving
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            _mm512_permutexvar_epi32(order, bytes)
        };
        store(v, out, stream);
    }
    #[inline(always)]
    fn store_u16(self, x: [__m512i; 4], out: &mut [u16], stream: bool) {
        let (lo, hi) = out[..4 * N].split_at_mut(2 * N);
        store(words(x[0], x[1]), lo, stream);
        store(words(x[2], x[3]), hi, stream);
    }
    const ROUNDS_WORDS: bool = true;
    #[inline(always)]
    fn store_f16(self, x: [__m512; 4], finite: bool, out: &mut [u16], stream: bool) {
        if !stream && store_halves(x, finite, out) {
            return;
        }
        let (lo, hi) = out[..4 * N].split_at_mut(2 * N);
        let (a, b) = (halves(x[0], x[1]), halves(x[2], x[3]));
        store(if finite { bounded(a, 0x7C00) } else { a }, lo, stream);
        store(if finite { bounded(b, 0x7C00) } else { b }, hi, stream);
    }
    #[inline(always)]
    fn store_bf16(self, x: [__m512; 4], finite: bool, out: &mut [u16], stream: bool) {
        let x = self.quiet(x);
        let a = words(self.round_bf16(x[0]), self.round_bf16(x[1]));
        let b = words(self.round_bf16(x[2]), self.round_bf16(x[3]));
        let (lo, hi) = out[..4 * N].split_at_mut(2 * N);
        store(if finite { bounded(a, 0x7F80) } else { a }, lo, stream);
        store(if finite { bounded(b, 0x7F80) } else { b }, hi, stream);
    }
    #[inline(always)]
    fn all_numbers(self, x: [__m512; 4]) -> bool {
        // SAFETY: the token proves AVX-512.
        unsafe {
            let nan01 = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x[0], x[1]);
            nan01 | _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x[2], x[3]) == 0
        }
    }
    const NARROW: bool = true;
    const NARROW_MODES: bool = true;
    #[inline(always)]
    fn store_narrow(self, x: [__m512; 4], f: Narrow, out: &mut [u8], stream: bool) {
        let h0 = join(half(x[0], f.sticky), half(x[1], f.sticky));
        let h1 = join(half(x[2], f.sticky), half(x[3], f.sticky));
        // SAFETY: the token proves AVX-512.
        let v = unsafe {
            let codes = _mm512_packus_epi16(cut_off(h0, f), cut_off(h1, f));
            let mut limited = _mm512_min_epu8(codes, _mm512_set1_epi8(f.limit as i8));
            // float16's own NaNs stand above its infinity, and that above every overflow that is not rounded up to it
            if f.limit != f.infinite {
                let infinite = _mm512_cmpge_epu8_mask(codes, _mm512_set1_epi8((0x7C00 >> f.cut) as i8));
                limited = _mm512_mask_mov_epi8(limited, infinite, _mm512_set1_epi8(f.infinite as i8));
            }
            if f.infinite != f.nan {
                let nan = _mm512_cmpge_epu8_mask(codes, _mm512_set1_epi8((0x7E00 >> f.cut) as i8));
                limited = _mm512_mask_mov_epi8(limited, nan, _mm512_set1_epi8(f.nan as i8));
            }
            // Saturation leaves a word its sign.
            let negative = _mm512_movepi8_mask(_mm512_packs_epi16(h0, h1));
            let codes = _mm512_mask_add_epi8(limited, negative, limited, _mm512_set1_epi8(f.sign as i8));
            _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), codes)
        };
        store(v, out, stream);
    }
    const RANDOM_BYTES: bool = true;
    #[inline(always)]
    fn store_random(self, x: [[__m512i; 4]; 2], f: ByteFormat, out: &mut [u8], stream: bool) -> bool {
        super::avx512_random::store(self, x, f, out, stream)
    }
    #[inline(always)]
    fn store_random8(
        self,
        x: [__m512i; 4],
        random: &[u8; MAX_GROUP],
        f: ByteFormat,
        out: &mut [u8],
        stream: bool,
    ) -> bool {
        super::avx512_random::store8(self, x, random, f, out, stream)
    }
    #[inline(always)]
    fn flush(self, x: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512.
        unsafe {
            let subnormal = _mm512_fpclass_ps_mask::<0x20>(x);
            let bits = _mm512_castps_si512(x);
            let sign = _mm512_set1_epi32(i32::MIN);
            _mm512_castsi512_ps(_mm512_mask_and_epi32(bits, subnormal, bits, sign))
        }
    }
    #[inline(always)]
    fn fence(self) {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm_sfence() }
    }
    #[inline(always)]
    fn fma_onto(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512.
        unsafe { onto::avx512(a, b, c) }
    }
    #[inline(always)]
    fn fma_item<const I: usize>(self, items: &[f32], b: __m512, c: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512.
        unsafe { onto::avx512_item::<I>(items, b, c) }
    }
    #[inline(always)]
    fn prefetch_at(self, at: *const u8) {
        // SAFETY: a prefetch never faults; the token proves SSE.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    fn prefetch_far_at(self, at: *const u8) {
        // SAFETY: a prefetch never faults; the token proves SSE.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }

    #[inline(always)]
    fn add_toward_zero(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_add_round_ps::<{ _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC }>(a, b) }
    }
    #[inline(always)]
    fn add_to_odd(self, a: __m512, b: __m512) -> __m512 {
        // One of two neighbours is odd.
        // SAFETY: the token proves AVX-512.
        unsafe {
            let above = _mm512_add_round_ps::<{ _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC }>(a, b);
            let below = _mm512_castps_si512(self.add_toward_zero(a, b));
            let one = _mm512_set1_epi32(1);
            _mm512_castsi512_ps(_mm512_ternarylogic_epi32::<0xF8>(below, _mm512_castps_si512(above), one))
        }
    }
    #[inline(always)]
    fn add_product_onto(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        self.fma_onto(a, b, c)
    }
    #[inline(always)]
    fn add_product_item<const I: usize>(self, items: &[f32], b: Self::F, c: Self::F) -> Self::F {
        self.fma_item::<I>(items, b, c)
    }
    #[inline(always)]
    fn add_product(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        self.fma(a, b, c)
    }
    #[inline(always)]
    fn fdiv_by(self, a: __m512, b: __m512, r: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512.
        unsafe {
            let q = _mm512_mul_ps(a, r);
            _mm512_fnmadd_ps(_mm512_fmsub_ps(q, b, a), r, q)
        }
    }

    #[inline(always)]
    fn shl(self, a: __m512i, n: u32) -> __m512i {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_sllv_epi32(a, _mm512_set1_epi32(n as i32)) }
    }
    #[inline(always)]
    fn shr(self, a: __m512i, n: u32) -> __m512i {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_srlv_epi32(a, _mm512_set1_epi32(n as i32)) }
    }
    #[inline(always)]
    fn select(self, m: __mmask16, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_mask_mov_epi32(b, m, a) }
    }
    #[inline(always)]
    fn any(self, m: __mmask16) -> bool {
        m != 0
    }
    #[inline(always)]
    fn hmax(self, a: __m512i) -> u32 {
        // SAFETY: the token proves AVX-512.
        unsafe {
            let v = _mm256_max_epu32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64::<1>(a));
            let v = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
            let v = _mm_max_epu32(v, _mm_shuffle_epi32::<0b01_00_11_10>(v));
            let v = _mm_max_epu32(v, _mm_shuffle_epi32::<0b10_11_00_01>(v));
            _mm_cvtsi128_si32(v) as u32
        }
    }
}
