//! AVX2 with FMA and F16C: eight lanes.

use super::lanes::{f64_to_f32_odd, horner, ByteFormat, ColumnSink, Kernel, Lanes, MIDPOINT};
use super::lookup::{F16Shift, Lookup};
use super::onto;
use super::philox::PhiloxKeys;
use super::plain::Plain;
use super::products::{self, Products};
use super::register_table::{shifted_words, F16Table};
use std::arch::x86_64::*;

/// Proof that this CPU has AVX2, FMA, F16C, BMI1, BMI2 and LZCNT.
#[derive(Clone, Copy)]
pub struct Avx2(());

token!(Avx2: "avx2" "fma" "f16c" "bmi1" "bmi2" "lzcnt");

const N: usize = 8;

/// Stores 32 bytes at the start of `out`, which must hold them.
#[inline(always)]
pub(super) fn store<T>(v: __m256i, out: &mut [T], stream: bool) {
    assert!(std::mem::size_of_val(out) >= 32);
    let p = out.as_mut_ptr().cast::<__m256i>();
    // SAFETY: the slice holds 32 bytes; the streamed store is only used on a 32-byte boundary. AVX2 is proved
    // by the token of the caller.
    unsafe {
        if stream && (p as usize).is_multiple_of(32) {
            _mm256_stream_si256(p, v);
        } else {
            _mm256_storeu_si256(p, v);
        }
    }
}

/// Eight table values chosen by bytes, which always lie inside the 256.
#[inline(always)]
fn gather(table: &Lookup, codes: &[u8]) -> __m256 {
    let codes = &codes[..N];
    // SAFETY: eight bytes are read from a slice of eight; AVX2 is proved by the token of the caller.
    unsafe {
        let index = _mm256_cvtepu8_epi32(_mm_loadl_epi64(codes.as_ptr().cast()));
        _mm256_i32gather_ps::<4>(table.values.as_ptr(), index)
    }
}

/// A group of table values.
#[inline(always)]
fn gather_group(table: &Lookup, codes: &[u8]) -> [__m256; 4] {
    let codes = &codes[..4 * N];
    [
        gather(table, &codes[..N]),
        gather(table, &codes[N..2 * N]),
        gather(table, &codes[2 * N..3 * N]),
        gather(table, &codes[3 * N..]),
    ]
}

/// The same, out of line: for groups with codes that are rare.
#[cold]
#[inline(never)]
#[target_feature(enable = "avx2")]
pub(super) fn gather_rare(table: &Lookup, codes: &[u8]) -> [__m256; 4] {
    gather_group(table, codes)
}

/// Sixteen words of two vectors of lanes below 65536, in order.
#[inline(always)]
pub(super) fn words(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: AVX2 is proved by the token of the caller.
    unsafe { ordered(_mm256_packus_epi32(a, b)) }
}

/// Words of two vectors, which the instructions pack half by half, in order.
#[inline(always)]
fn ordered(words: __m256i) -> __m256i {
    // SAFETY: AVX2 is proved by the token of the caller.
    unsafe { _mm256_permute4x64_epi64::<0b11_01_10_00>(words) }
}

/// Sixteen float32 as float16, nearest even; NaNs are quiet, and keep some of their bits.
#[inline(always)]
fn halves(a: __m256, b: __m256) -> __m256i {
    const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT;
    // SAFETY: AVX2 and F16C are proved by the token of the caller.
    unsafe { _mm256_set_m128i(_mm256_cvtps_ph::<NEAREST>(b), _mm256_cvtps_ph::<NEAREST>(a)) }
}

/// The magnitudes of words of float16 or bfloat16.
#[inline(always)]
fn magnitudes(words: __m256i) -> __m256i {
    // SAFETY: AVX2 is proved by the token of the caller.
    unsafe { _mm256_and_si256(words, _mm256_set1_epi16(0x7FFF)) }
}

/// True if the magnitude of any word of two vectors is above `most`.
#[inline(always)]
fn special(a: __m256i, b: __m256i, most: u16) -> bool {
    // SAFETY: AVX2 is proved by the token of the caller.
    unsafe {
        let larger = _mm256_max_epi16(magnitudes(a), magnitudes(b));
        _mm256_movemask_epi8(_mm256_cmpgt_epi16(larger, _mm256_set1_epi16(most as i16))) != 0
    }
}

/// The upper words of two vectors of float32, cut off and rounded to nearest even, half by half; quiet NaNs, whose low bits
/// are zero, stay as they are, others are not for this.
#[inline(always)]
fn tops(a: __m256i, b: __m256i) -> (__m256i, __m256i) {
    // SAFETY: AVX2 is proved by the token of the caller.
    unsafe {
        let high = _mm256_packus_epi32(_mm256_srli_epi32::<16>(a), _mm256_srli_epi32::<16>(b));
        let zero = _mm256_setzero_si256();
        let low =
            _mm256_packus_epi32(_mm256_blend_epi16::<0xAA>(a, zero), _mm256_blend_epi16::<0xAA>(b, zero));
        // Adds one where the lower word is above the half, or at it beside an odd upper word.
        let odd = _mm256_and_si256(high, _mm256_set1_epi16(1));
        let above = _mm256_subs_epu16(low, _mm256_sub_epi16(_mm256_set1_epi16(i16::MIN), odd));
        (high, _mm256_add_epi16(high, _mm256_min_epu16(above, _mm256_set1_epi16(1))))
    }
}

/// Words with one less for those of magnitude `infinite`.
#[inline(always)]
fn bounded(words: __m256i, infinite: u16) -> __m256i {
    // SAFETY: AVX2 is proved by the token of the caller.
    unsafe {
        let less = _mm256_cmpeq_epi16(magnitudes(words), _mm256_set1_epi16(infinite as i16));
        _mm256_add_epi16(words, less)
    }
}

/// Words of float16 with the quiet NaN of each sign.
#[inline(always)]
fn quiet_halves(words: __m256i) -> __m256i {
    // SAFETY: AVX2 is proved by the token of the caller.
    unsafe { _mm256_sub_epi16(words, _mm256_subs_epu16(magnitudes(words), _mm256_set1_epi16(0x7E00))) }
}

/// Bytes of two vectors of words each, which the instructions pack half by half, in order.
#[inline(always)]
fn in_order(bytes: __m256i) -> __m256i {
    // SAFETY: AVX2 is proved by the token of the caller.
    unsafe { _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)) }
}

/// Magnitudes in multiples of the quanta of a format, as words with `cut - 16` bits behind the point and a binade more for
/// each exponent: `2^cut` times its binade makes a magnitude's sum end in a number of quanta.
#[inline(always)]
fn fixed(l: Avx2, a: __m256, f: ByteFormat) -> __m256i {
    let binade = l.fmax(l.float(l.and(l.bits(a), l.u32(0x7F80_0000))), l.float(l.u32(f.least)));
    let sum = l.bits(l.fma(binade, l.float(l.u32((127 + f.cut) << 23)), a));
    // SAFETY: the token proves AVX2.
    unsafe { _mm256_madd_epi16(sum, l.u32(1 << 16 | 1 << (f.cut - 16))) }
}

/// The codes of two such vectors, as words; the smallest normal number's own binade is `f.least`'s.
#[inline(always)]
fn fixed_codes(a: __m256i, b: __m256i, f: ByteFormat) -> __m256i {
    // SAFETY: AVX2 is proved by the token of the caller.
    unsafe {
        let least = _mm256_set1_epi16(((f.least >> 16) + (f.cut << 7)) as i16);
        let codes = _mm256_sub_epi16(_mm256_packus_epi32(a, b), least);
        _mm256_srl_epi16(codes, _mm_cvtsi32_si128(f.cut as i32 - 16))
    }
}

/// Lanes within `near` float64 ulps of a float32 rounding midpoint.
#[inline(always)]
pub(super) fn near_midpoint(x: __m256d, near: u32) -> __m256i {
    // SAFETY: AVX2 is proved by the token of the caller.
    unsafe {
        let start = _mm256_set1_epi64x(i64::from(MIDPOINT - near));
        let mask = _mm256_set1_epi64x(i64::from(2 * MIDPOINT - 1));
        let off = _mm256_and_si256(_mm256_sub_epi64(_mm256_castpd_si256(x), start), mask);
        _mm256_cmpgt_epi64(_mm256_set1_epi64x(i64::from(2 * near)), off)
    }
}

impl Lanes for Avx2 {
    const N: usize = N;
    type F = __m256;
    type U = __m256i;
    type M = __m256i;
    type RegisterTable = F16Table<'static>;

    elsewhere!(avx2);
    streamed!(_mm256_loadu_si256);
    intrinsics! {
        f32(x: f32) -> __m256 = _mm256_set1_ps;
        bits(x: __m256) -> __m256i = _mm256_castps_si256;
        float(x: __m256i) -> __m256 = _mm256_castsi256_ps;
        fadd(a: __m256, b: __m256) -> __m256 = _mm256_add_ps;
        fmul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps;
        fma(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps;
        estimate(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps;
        fmin(a: __m256, b: __m256) -> __m256 = _mm256_min_ps;
        fmax(a: __m256, b: __m256) -> __m256 = _mm256_max_ps;
        fdiv(a: __m256, b: __m256) -> __m256 = _mm256_div_ps;
        and(a: __m256i, b: __m256i) -> __m256i = _mm256_and_si256;
        or(a: __m256i, b: __m256i) -> __m256i = _mm256_or_si256;
        xor(a: __m256i, b: __m256i) -> __m256i = _mm256_xor_si256;
        add(a: __m256i, b: __m256i) -> __m256i = _mm256_add_epi32;
        sub(a: __m256i, b: __m256i) -> __m256i = _mm256_sub_epi32;
        min(a: __m256i, b: __m256i) -> __m256i = _mm256_min_epi32;
        max(a: __m256i, b: __m256i) -> __m256i = _mm256_max_epi32;
        max_halves(a: __m256i, b: __m256i) -> __m256i = _mm256_max_epu16;
        shl_each(a: __m256i, n: __m256i) -> __m256i = _mm256_sllv_epi32;
        shr_each(a: __m256i, n: __m256i) -> __m256i = _mm256_srlv_epi32;
        gt(a: __m256i, b: __m256i) -> __m256i = _mm256_cmpgt_epi32;
    }
    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Out {
        self.enter(kernel)
    }
    #[inline(always)]
    fn u32(self, x: u32) -> __m256i {
        // SAFETY: the token proves AVX2, FMA and F16C.
        unsafe { _mm256_set1_epi32(x as i32) }
    }

    #[inline(always)]
    fn transpose_into<T: Plain>(self, src: &[T], stride: usize, out: &mut [f32], pitch: usize) {
        super::transpose::avx2_into(self, src, stride, out, pitch);
    }
    #[inline(always)]
    fn turn_rows<T: Plain>(self, src: &[T], stride: usize, each: impl ColumnSink<Self>) {
        super::transpose::avx2_rows(self, src, stride, each);
    }
    #[inline(always)]
    fn load_f32(self, src: &[f32]) -> __m256 {
        let src = &src[..N];
        // SAFETY: the slice lengths were checked; the token proves AVX2, FMA and F16C.
        unsafe { _mm256_loadu_ps(src.as_ptr()) }
    }
    #[inline(always)]
    fn load_u32(self, src: &[u32]) -> __m256i {
        let src = &src[..N];
        // SAFETY: the slice lengths were checked; the token proves AVX2, FMA and F16C.
        unsafe { _mm256_loadu_si256(src.as_ptr().cast()) }
    }
    #[inline(always)]
    fn load_f16(self, src: &[u16]) -> __m256 {
        let src = &src[..N];
        // SAFETY: the slice lengths were checked; the token proves AVX2, FMA and F16C.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(src.as_ptr().cast())) }
    }
    #[inline(always)]
    fn load_bf16(self, src: &[u16]) -> __m256 {
        let src = &src[..N];
        // SAFETY: the slice lengths were checked; the token proves AVX2, FMA and F16C.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(src.as_ptr().cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    fn load_f64(self, src: &[f64]) -> __m256 {
        let src = &src[..N];
        let odd: [f32; N] = std::array::from_fn(|i| f64_to_f32_odd(src[i]));
        self.load_f32(&odd)
    }
    #[inline(always)]
    fn load_u8(self, src: &[u8]) -> __m256i {
        let src = &src[..N];
        // SAFETY: the slice lengths were checked; the token proves AVX2, FMA and F16C.
        unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(src.as_ptr().cast())) }
    }
    #[inline(always)]
    fn polynomial(self, c: &[f64], x: &[f64], out: &mut [f64]) {
        const SIDE: usize = 16;
        for (x, out) in x.chunks_exact(SIDE).zip(out.chunks_exact_mut(SIDE)) {
            // SAFETY: four vectors are read from and written to slices of four; the token proves the features.
            unsafe {
                let x0 = _mm256_loadu_pd(x.as_ptr());
                let x1 = _mm256_loadu_pd(x.as_ptr().add(4));
                let x2 = _mm256_loadu_pd(x.as_ptr().add(8));
                let x3 = _mm256_loadu_pd(x.as_ptr().add(12));
                let zero = _mm256_setzero_pd();
                let (mut p0, mut p1, mut p2, mut p3) = (zero, zero, zero, zero);
                for c in c.iter().rev() {
                    let c = _mm256_set1_pd(*c);
                    p0 = _mm256_add_pd(_mm256_mul_pd(p0, x0), c);
                    p1 = _mm256_add_pd(_mm256_mul_pd(p1, x1), c);
                    p2 = _mm256_add_pd(_mm256_mul_pd(p2, x2), c);
                    p3 = _mm256_add_pd(_mm256_mul_pd(p3, x3), c);
                }
                _mm256_storeu_pd(out.as_mut_ptr(), p0);
                _mm256_storeu_pd(out.as_mut_ptr().add(4), p1);
                _mm256_storeu_pd(out.as_mut_ptr().add(8), p2);
                _mm256_storeu_pd(out.as_mut_ptr().add(12), p3);
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
        // SAFETY: four vectors are written to arrays of that size; the token proves the features.
        unsafe {
            let q = _mm256_set1_pd(q);
            let q2 = _mm256_mul_pd(q, q);
            let q4 = _mm256_mul_pd(q2, q2);
            let q8 = _mm256_mul_pd(q4, q4);
            // The exponents from 7 down to 0, bit by bit.
            let low = _mm256_blend_pd::<0b0101>(_mm256_set1_pd(1.0), q);
            let low = _mm256_blend_pd::<0b0011>(low, _mm256_mul_pd(low, q2));
            let near = [_mm256_mul_pd(low, q4), low];
            let mut power = near;
            for _ in 0..times {
                power = [_mm256_mul_pd(power[0], power[0]), _mm256_mul_pd(power[1], power[1])];
            }
            for (i, (power, near)) in power.into_iter().zip(near).enumerate() {
                _mm256_storeu_pd(last.as_mut_ptr().add(4 * i), _mm256_mul_pd(power, _mm256_set1_pd(x)));
                _mm256_storeu_pd(last.as_mut_ptr().add(4 * i + 8), _mm256_mul_pd(power, _mm256_set1_pd(-x)));
                _mm256_storeu_pd(all.as_mut_ptr().add(4 * i), _mm256_mul_pd(near, q8));
                _mm256_storeu_pd(all.as_mut_ptr().add(4 * i + 8), near);
            }
        }
        [last, all]
    }
    #[inline(always)]
    fn products(self, rows: &[f64], steps: &[f64; 16], near: u32, out: &mut [f32]) -> bool {
        // SAFETY: the slice lengths were checked; the token proves AVX2, FMA and F16C.
        unsafe {
            let mut found = _mm256_setzero_si256();
            for (row, out) in rows.iter().zip(out.chunks_exact_mut(16)) {
                let row = _mm256_set1_pd(*row);
                for (step, out) in steps.chunks_exact(4).zip(out.chunks_exact_mut(4)) {
                    let v = _mm256_mul_pd(row, _mm256_loadu_pd(step.as_ptr()));
                    found = _mm256_or_si256(found, near_midpoint(v, near));
                    _mm_storeu_ps(out.as_mut_ptr(), _mm256_cvtpd_ps(v));
                }
            }
            _mm256_movemask_epi8(found) != 0
        }
    }
    const PERMUTES: bool = true;
    #[inline(always)]
    fn gather256(self, table: &[f32; 256], index: __m256i) -> __m256 {
        // SAFETY: indices are masked to the table's size.
        unsafe {
            let index = _mm256_and_si256(index, _mm256_set1_epi32(255));
            _mm256_i32gather_ps::<4>(table.as_ptr(), index)
        }
    }
    #[inline(always)]
    fn lookup(self, table: &Lookup, codes: &[u8]) -> [__m256; 4] {
        match F16Table::new(self, table) {
            Some(registers) => registers.values(self, codes),
            None => gather_group(table, codes),
        }
    }
    #[inline(always)]
    fn register_table(self, table: &'static Lookup) -> Option<Self::RegisterTable> {
        F16Table::new(self, table)
    }
    #[inline(always)]
    fn lookup_registers(self, table: Self::RegisterTable, codes: &[u8]) -> [__m256; 4] {
        table.values(self, codes)
    }
    #[inline(always)]
    fn lookup_bf16(self, table: &Lookup, codes: &[u8], out: &mut [u16], stream: bool) {
        if let Some([a, b]) = shifted_words(self, table, codes) {
            let (lo, hi) = out[..4 * N].split_at_mut(2 * N);
            store(a, lo, stream);
            return store(b, hi, stream);
        }
        // SAFETY: the token proves AVX2.
        let x = unsafe { gather_rare(table, codes) };
        let top = [
            self.shr(self.bits(x[0]), 16),
            self.shr(self.bits(x[1]), 16),
            self.shr(self.bits(x[2]), 16),
            self.shr(self.bits(x[3]), 16),
        ];
        self.store_u16(top, out, stream);
    }

    const PRODUCTS: bool = true;
    #[inline(always)]
    fn product_table(self, values: &[f32; 256], scale: f32, out: &mut [u8; 32]) {
        products::avx2_table(self, values, scale, out);
    }
    #[inline(always)]
    fn lookup_products(
        self,
        half: F16Shift,
        products: (&Products, &Products, usize),
        codes: &[u8],
        out: &mut [u16],
        stream: bool,
    ) -> bool {
        products::avx2(self, half, products, codes, out, stream)
    }

    #[inline(always)]
    fn store_f32(self, x: __m256, out: &mut [f32], stream: bool) {
        store(self.bits(x), out, stream);
    }
    #[inline(always)]
    fn store_u32(self, x: __m256i, out: &mut [u32]) {
        store(x, out, false);
    }
    #[inline(always)]
    fn store_u8(self, x: [__m256i; 4], out: &mut [u8], stream: bool) {
        // SAFETY: the token proves AVX2, FMA and F16C.
        let v = unsafe {
            let words01 = _mm256_packus_epi32(x[0], x[1]);
            let words23 = _mm256_packus_epi32(x[2], x[3]);
            in_order(_mm256_packus_epi16(words01, words23))
        };
        store(v, out, stream);
    }
    const NEAREST_BYTES: bool = true;
    #[inline(always)]
    fn store_nearest(self, a: [__m256; 4], x: [__m256i; 4], f: ByteFormat, out: &mut [u8], stream: bool) {
        let a = [fixed(self, a[0], f), fixed(self, a[1], f), fixed(self, a[2], f), fixed(self, a[3], f)];
        // SAFETY: the token proves AVX2, FMA and F16C.
        let v = unsafe {
            let codes = _mm256_packus_epi16(fixed_codes(a[0], a[1], f), fixed_codes(a[2], a[3], f));
            let codes = _mm256_min_epu8(codes, _mm256_set1_epi8(f.limit as i8));
            // Saturation leaves a number its sign.
            let signs = _mm256_packs_epi16(_mm256_packs_epi32(x[0], x[1]), _mm256_packs_epi32(x[2], x[3]));
            let signs = _mm256_cmpgt_epi8(_mm256_setzero_si256(), signs);
            _mm256_or_si256(codes, _mm256_and_si256(signs, _mm256_set1_epi8(f.sign as i8)))
        };
        store(in_order(v), out, stream);
    }
    #[inline(always)]
    fn store_u16(self, x: [__m256i; 4], out: &mut [u16], stream: bool) {
        let (lo, hi) = out[..4 * N].split_at_mut(2 * N);
        store(words(x[0], x[1]), lo, stream);
        store(words(x[2], x[3]), hi, stream);
    }
    const ROUNDS_WORDS: bool = true;
    #[inline(always)]
    fn store_f16(self, x: [__m256; 4], finite: bool, out: &mut [u16], stream: bool) {
        let infinite = if finite { 0x7C00 } else { u16::MAX };
        let (mut a, mut b) = (halves(x[0], x[1]), halves(x[2], x[3]));
        if special(a, b, 0x7BFF) {
            (a, b) = (bounded(quiet_halves(a), infinite), bounded(quiet_halves(b), infinite));
        }
        let (lo, hi) = out[..4 * N].split_at_mut(2 * N);
        store(a, lo, stream);
        store(b, hi, stream);
    }
    #[inline(always)]
    fn store_bf16(self, x: [__m256; 4], finite: bool, out: &mut [u16], stream: bool) {
        let infinite = if finite { 0x7F80 } else { u16::MAX };
        let (high0, mut a) = tops(self.bits(x[0]), self.bits(x[1]));
        let (high1, mut b) = tops(self.bits(x[2]), self.bits(x[3]));
        if special(high0, high1, 0x7F7E) {
            let x = self.quiet(x);
            (_, a) = tops(self.bits(x[0]), self.bits(x[1]));
            (_, b) = tops(self.bits(x[2]), self.bits(x[3]));
            (a, b) = (bounded(a, infinite), bounded(b, infinite));
        }
        let (lo, hi) = out[..4 * N].split_at_mut(2 * N);
        store(ordered(a), lo, stream);
        store(ordered(b), hi, stream);
    }
    #[inline(always)]
    fn all_numbers(self, x: [__m256; 4]) -> bool {
        // SAFETY: the token proves AVX2, FMA and F16C.
        unsafe {
            let nan01 = _mm256_cmp_ps::<_CMP_UNORD_Q>(x[0], x[1]);
            let nan23 = _mm256_cmp_ps::<_CMP_UNORD_Q>(x[2], x[3]);
            _mm256_movemask_ps(_mm256_or_ps(nan01, nan23)) == 0
        }
    }
    #[inline(always)]
    fn fence(self) {
        // SAFETY: the token proves AVX2, FMA and F16C.
        unsafe { _mm_sfence() }
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
    fn add_toward_zero(self, a: __m256, b: __m256) -> __m256 {
        let (sum, rest) = self.sum_and_rest(a, b);
        // SAFETY: the token proves AVX2, FMA and F16C.
        unsafe {
            let above = _mm256_cmpgt_epi32(_mm256_castps_si256(rest), _mm256_castps_si256(a));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(sum), above))
        }
    }
    #[inline(always)]
    fn add_to_odd(self, a: __m256, b: __m256) -> __m256 {
        let (sum, rest) = self.sum_and_rest(a, b);
        // SAFETY: the token proves AVX2, FMA and F16C.
        unsafe {
            let (rest, a) = (_mm256_castps_si256(rest), _mm256_castps_si256(a));
            let sum = _mm256_add_epi32(_mm256_castps_si256(sum), _mm256_cmpgt_epi32(rest, a));
            let exact = _mm256_cmpeq_epi32(rest, a);
            _mm256_castsi256_ps(_mm256_or_si256(sum, _mm256_andnot_si256(exact, _mm256_set1_epi32(1))))
        }
    }
    #[inline(always)]
    fn fma_onto(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: the token proves AVX2, FMA and F16C.
        unsafe { onto::avx2(a, b, c) }
    }
    #[inline(always)]
    fn add_product(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        self.fma_onto(a, b, c)
    }
    #[inline(always)]
    fn fdiv_by(self, a: __m256, b: __m256, r: __m256) -> __m256 {
        // SAFETY: the token proves AVX2, FMA and F16C.
        unsafe {
            let q = _mm256_mul_ps(a, r);
            _mm256_fnmadd_ps(_mm256_fmsub_ps(q, b, a), r, q)
        }
    }

    #[inline(always)]
    fn shl(self, a: __m256i, n: u32) -> __m256i {
        // SAFETY: the token proves AVX2, FMA and F16C.
        unsafe { _mm256_sllv_epi32(a, _mm256_set1_epi32(n as i32)) }
    }
    #[inline(always)]
    fn shr(self, a: __m256i, n: u32) -> __m256i {
        // SAFETY: the token proves AVX2, FMA and F16C.
        unsafe { _mm256_srlv_epi32(a, _mm256_set1_epi32(n as i32)) }
    }
    #[inline(always)]
    fn select(self, m: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the token proves AVX2, FMA and F16C.
        unsafe { _mm256_blendv_epi8(b, a, m) }
    }
    #[inline(always)]
    fn any(self, m: __m256i) -> bool {
        // SAFETY: the token proves AVX2, FMA and F16C.
        unsafe { _mm256_movemask_epi8(m) != 0 }
    }
    #[inline(always)]
    fn hmax(self, a: __m256i) -> u32 {
        // SAFETY: the token proves AVX2, FMA and F16C.
        unsafe {
            let v = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256::<1>(a));
            let v = _mm_max_epi32(v, _mm_shuffle_epi32::<0b01_00_11_10>(v));
            let v = _mm_max_epi32(v, _mm_shuffle_epi32::<0b10_11_00_01>(v));
            _mm_cvtsi128_si32(v) as u32
        }
    }
}
