//! The steps in AVX2: eight columns to a vector, so every panel is done in two halves.
//!
//! There is no shift of 16-bit lanes by different amounts. Narrow exponents stand in both bytes of a lane instead, and
//! a table of 16 bytes turns their distances s from the largest into the two bytes of 2^(15-s), by which the
//! magnitudes are multiplied; the upper half of the product is the shifted term.

use super::groups::{Group, GroupColumns, FRACTION, GROUP, GROUPS, LEAST, STEP};
use super::*;
use std::arch::x86_64::*;

level!(Avx2, doubled: true, extra: 1, groups);

/// # Safety
/// Rows and columns must have as many steps.
#[target_feature(enable = "avx2,fma")]
unsafe fn group_steps(rows: &GroupRows, panel: &GroupPanel, steps: usize, state: &mut [Floats]) {
    for (row, state) in state.iter_mut().enumerate() {
        for step in 0..steps {
            let at = row * steps + step;
            // SAFETY: the rows and columns have as many steps.
            unsafe {
                let (a, b) = (rows.values.as_ptr().add(STEP * at), panel.values.as_ptr().add(STEP * step));
                let x = rows.groups.as_ptr().add(GROUPS * at);
                let y = panel.groups.as_ptr().add(GROUPS * step);
                // All sums, of either half, before their scales: chains enough to hide what an addition takes.
                let mut sums = [_mm256_setzero_ps(); 2 * GROUPS];
                for k in 0..GROUP {
                    macro_rules! group {
                        ($($g:literal)*) => {$(
                            let value = _mm256_broadcast_ss(&*a.add(GROUP * $g + k));
                            let columns = &*b.add(GROUP * $g + k);
                            sums[2 * $g] = _mm256_fmadd_ps(value, floats(columns, 0), sums[2 * $g]);
                            sums[2 * $g + 1] = _mm256_fmadd_ps(value, floats(columns, 1), sums[2 * $g + 1]);
                        )*};
                    }
                    group!(0 1 2 3);
                }
                let (low, high) = (floats(state, 0), floats(state, 1));
                store(state, 0, group_step::<0>(&sums, x, y, low));
                store(state, 1, group_step::<1>(&sums, x, y, high));
            }
        }
    }
}

/// 2^e of four exponents, biased by 1023.
#[inline]
#[target_feature(enable = "avx2")]
fn powers(e: __m128i) -> __m256d {
    _mm256_castsi256_pd(_mm256_slli_epi64::<52>(_mm256_cvtepi32_epi64(e)))
}

/// Adds the scaled sums of eight columns, which are the halves `HALF` of `sums`.
///
/// # Safety
/// The pointers must be good for the groups of a step.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn group_step<const HALF: usize>(
    sums: &[__m256; 2 * GROUPS],
    x: *const Group,
    y: *const GroupColumns,
    c: __m256,
) -> __m256 {
    const CUT: i32 = _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC;
    let field = _mm256_srli_epi32::<24>(_mm256_slli_epi32::<1>(_mm256_castps_si256(c)));
    let least = _mm256_set1_epi32(LEAST);
    let mut top = _mm256_max_epi32(_mm256_sub_epi32(field, _mm256_set1_epi32(127)), least);
    for g in 0..GROUPS {
        // SAFETY: a group of the step; half a line is 32 bytes, and aligned to them.
        let (x, exp, mask) = unsafe {
            let y = &*y.add(g);
            let half = |line: *const i32| _mm256_load_si256(line.add(8 * HALF).cast());
            (&*x.add(g), half(y.exp.as_ptr()), half(y.mask.as_ptr().cast()))
        };
        let common = _mm256_and_si256(_mm256_set1_epi32(x.mask as i32), mask);
        let none = _mm256_cmpeq_epi32(common, _mm256_setzero_si256());
        let exp = _mm256_add_epi32(_mm256_set1_epi32(x.exp), exp);
        top = _mm256_max_epi32(top, _mm256_blendv_epi8(exp, least, none));
    }
    // 2^(35 - top), and its inverse
    let there = _mm256_sub_epi32(_mm256_set1_epi32(1023 + FRACTION), top);
    let back = _mm256_add_epi32(_mm256_set1_epi32(1023 - FRACTION), top);
    let zero = _mm256_setzero_pd(); // no sum is -0
    macro_rules! quarter {
        ($part:literal) => {{
            let there = powers(_mm256_extracti128_si256::<$part>(there));
            let c = _mm256_cvtps_pd(_mm256_extractf128_ps::<$part>(c));
            let mut sum = _mm256_add_pd(zero, _mm256_round_pd::<CUT>(_mm256_mul_pd(c, there)));
            for g in 0..GROUPS {
                // SAFETY: a group of the step; its factors are four times 32 bytes, and aligned to them.
                let (x, y) = unsafe {
                    let y = (*y.add(g)).scale.as_ptr().add(8 * HALF + 4 * $part);
                    (_mm256_set1_pd((*x.add(g)).scale), _mm256_load_pd(y))
                };
                let group = _mm256_cvtps_pd(_mm256_extractf128_ps::<$part>(sums[2 * g + HALF]));
                let term = _mm256_mul_pd(_mm256_mul_pd(group, _mm256_mul_pd(x, y)), there);
                sum = _mm256_add_pd(sum, _mm256_round_pd::<CUT>(term));
            }
            let sum = _mm256_mul_pd(sum, powers(_mm256_extracti128_si256::<$part>(back)));
            // Cut to float32, whose results are normal numbers or zero.
            let kept = _mm256_set1_epi64x(!((1 << 29) - 1));
            _mm256_cvtpd_ps(_mm256_castsi256_pd(_mm256_and_si256(_mm256_castpd_si256(sum), kept)))
        }};
    }
    _mm256_set_m128(quarter!(1), quarter!(0))
}

/// Adds partial sums to totals.
#[target_feature(enable = "avx2,fma")]
fn promote(totals: &mut [Floats], partial: &[Floats], scales: Option<(&[f32], &Floats)>) {
    for (row, (total, partial)) in totals.iter_mut().zip(partial).enumerate() {
        for half in 0..2 {
            let (sum, partial) = (floats(total, half), floats(partial, half));
            let sum = match scales {
                None => _mm256_add_ps(sum, partial),
                Some((row_scales, column_scales)) => {
                    let scale = _mm256_mul_ps(_mm256_set1_ps(row_scales[row]), floats(column_scales, half));
                    _mm256_fmadd_ps(scale, partial, sum)
                }
            };
            store(total, half, sum);
        }
    }
}

/// Two neighbouring 16-bit numbers in every lane.
///
/// # Safety
/// `p` must point to both.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn pair(p: *const i16) -> __m256i {
    // SAFETY: as above.
    _mm256_set1_epi32(unsafe { p.cast::<i32>().read_unaligned() })
}

/// Half a line: 0 or 1.
#[inline]
#[target_feature(enable = "avx2")]
fn line(words: &Words, half: usize) -> __m256i {
    assert!(half < 2);
    // SAFETY: half a line is 32 bytes, and aligned to them.
    unsafe { _mm256_load_si256(words.0.as_ptr().cast::<__m256i>().add(half)) }
}

/// Half a line: 0 or 1.
#[inline]
#[target_feature(enable = "avx2")]
fn floats(floats: &Floats, half: usize) -> __m256 {
    assert!(half < 2);
    // SAFETY: half a line is 32 bytes, and aligned to them.
    unsafe { _mm256_load_ps(floats.0.as_ptr().add(8 * half)) }
}

/// Writes half a line.
#[inline]
#[target_feature(enable = "avx2")]
fn store(out: &mut Floats, half: usize, x: __m256) {
    assert!(half < 2);
    // SAFETY: half a line is 32 bytes, and aligned to them.
    unsafe { _mm256_store_ps(out.0.as_mut_ptr().add(8 * half), x) }
}

/// A shuffle that is the same in both 128-bit halves.
#[inline]
#[target_feature(enable = "avx2")]
fn order(a: u32, b: u32, c: u32, d: u32) -> __m256i {
    _mm256_broadcastsi128_si256(_mm_setr_epi32(a as i32, b as i32, c as i32, d as i32))
}

/// The two 16-bit halves of each lane exchanged.
#[inline]
#[target_feature(enable = "avx2")]
fn exchange(x: __m256i) -> __m256i {
    _mm256_shuffle_epi8(x, order(0x0100_0302, 0x0504_0706, 0x0908_0B0A, 0x0D0C_0F0E))
}

/// 113, the exponent -14 of float16 subnormals, times `ones`, where the accumulator is not zero.
#[inline]
#[target_feature(enable = "avx2")]
fn least_half(c: __m256, ones: i32) -> __m256i {
    let not_zero = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_NEQ_UQ>(c, _mm256_setzero_ps()));
    _mm256_and_si256(not_zero, _mm256_set1_epi32((127 - 14) * ones))
}

/// The factor that brings the last fraction bit of the largest term to 1, and its inverse; `top` is biased by 127.
#[inline]
#[target_feature(enable = "avx2")]
fn factors(top: __m256i, fraction: i32) -> (__m256, __m256) {
    let power = _mm256_slli_epi32::<23>(top);
    let there = _mm256_sub_epi32(_mm256_set1_epi32((254 + fraction) << 23), power);
    let back = _mm256_sub_epi32(power, _mm256_set1_epi32(fraction << 23));
    (_mm256_castsi256_ps(there), _mm256_castsi256_ps(back))
}

/// Rounds to float16; a result of zero has no sign.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn rounded(x: __m256) -> __m256 {
    let x = _mm256_cvtph_ps(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x));
    _mm256_add_ps(x, _mm256_setzero_ps())
}

/// The float16 result of a step. An infinite accumulator stays what it is.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn to_half(x: __m256, c: __m256) -> __m256 {
    let x = rounded(x);
    let magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0), c);
    let infinite = _mm256_cmp_ps::<_CMP_EQ_OQ>(magnitude, _mm256_set1_ps(f32::INFINITY));
    _mm256_blendv_ps(x, c, infinite)
}

/// # Safety
/// The rows must fit.
#[target_feature(enable = "avx2,f16c")]
unsafe fn narrow<const PAIRS: usize, const HALF: bool>(
    rows: &NarrowRows,
    at: At,
    columns: &[NarrowColumns],
    state: &mut [Floats],
) {
    for (step, columns) in columns.chunks_exact(PAIRS).enumerate() {
        for (row, state) in state.iter_mut().enumerate() {
            let k = at.first + row * at.stride + 2 * PAIRS * step;
            // SAFETY: the rows fit, and so do the steps.
            unsafe {
                let (sig, exp) = (rows.sig.as_ptr().add(k), rows.exp.as_ptr().add(k));
                let signs = rows.signs.as_ptr().add(k / 2);
                for half in 0..2 {
                    let c = floats(state, half);
                    store(state, half, narrow_step::<PAIRS, HALF>(sig, exp, signs, columns, half, c));
                }
            }
        }
    }
}

/// # Safety
/// The pointers must be good for `2 * PAIRS`, or for the signs `PAIRS`, elements.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn narrow_step<const PAIRS: usize, const HALF: bool>(
    sig: *const i16,
    exp: *const i16,
    signs: *const u8,
    columns: &[NarrowColumns],
    half: usize,
    c: __m256,
) -> __m256 {
    let columns = &columns[..PAIRS];
    let mut most = [_mm256_setzero_si256(); 2];
    macro_rules! exponents {
        ($($q:literal)*) => {$(
            if $q < PAIRS {
                // SAFETY: pair q of the step.
                let exps = _mm256_add_epi8(line(&columns[$q].exp, half), unsafe { pair(exp.add(2 * $q)) });
                most[$q % 2] = _mm256_max_epu8(most[$q % 2], exps);
            }
        )*};
    }
    each_pair!(exponents);
    let mut most = _mm256_max_epu8(most[0], most[1]);
    if HALF {
        most = _mm256_max_epu8(most, least_half(c, 0x0101_0101));
    }
    let most = _mm256_max_epu8(most, exchange(most));
    let field = _mm256_slli_epi32::<1>(_mm256_castps_si256(c));
    let field = _mm256_shuffle_epi8(field, order(0x0303_0303, 0x0707_0707, 0x0B0B_0B0B, 0x0F0F_0F0F));
    let top = _mm256_max_epu8(most, field);
    // The low byte of 2^(15-s) is table[min(s, 15)], the high byte table[min(s + 8, 23) & 15].
    let table = order(0, 0, 0x1020_4080, 0x0102_0408);
    let limit = _mm256_set1_epi16(23 << 8 | 15);
    let top8 = _mm256_add_epi8(top, _mm256_set1_epi16(8 << 8));
    let mut sums = [_mm256_setzero_si256(); 2];
    macro_rules! terms {
        ($($q:literal)*) => {$(
            if $q < PAIRS {
                let column = &columns[$q];
                // SAFETY: pair q of the step.
                let (row, sign) = unsafe { (pair(sig.add(2 * $q)), usize::from(*signs.add($q) >> 6)) };
                // SAFETY: pair q of the step.
                let exps = unsafe { pair(exp.add(2 * $q)) };
                let exps = _mm256_add_epi8(line(&column.exp, half), exps);
                let weight = _mm256_min_epu8(_mm256_sub_epi8(top8, exps), limit);
                let weight = _mm256_shuffle_epi8(table, weight);
                let magnitude = _mm256_mullo_epi16(line(&column.sig, half), row);
                let term = _mm256_mulhi_epu16(magnitude, weight);
                let term = _mm256_madd_epi16(term, line(&column.signs[sign], half));
                sums[$q % 2] = _mm256_add_epi32(sums[$q % 2], term);
            }
        )*};
    }
    each_pair!(terms);
    let (there, back) = factors(_mm256_srli_epi32::<24>(top), 13);
    let carried = _mm256_cvttps_epi32(_mm256_mul_ps(c, there));
    let sum = _mm256_add_epi32(_mm256_add_epi32(sums[0], sums[1]), carried);
    let sum = _mm256_cvtepi32_ps(sum); // below 2^21: exact
    if HALF {
        return to_half(_mm256_mul_ps(sum, back), c);
    }
    let kept = _mm256_and_ps(sum, _mm256_castsi256_ps(_mm256_set1_epi32(!0x3FF)));
    _mm256_mul_ps(kept, back)
}

/// # Safety
/// The rows must fit.
#[target_feature(enable = "avx2,f16c")]
unsafe fn wide<const PAIRS: usize, const HALF: bool, const SOFTWARE: bool>(
    unit: Unit,
    rows: &WideRows,
    at: At,
    columns: &[WideColumns],
    state: &mut [Floats],
) {
    let steps = if SOFTWARE { 2 } else { 1 };
    for (step, columns) in columns.chunks_exact(PAIRS * steps).enumerate() {
        for (row, state) in state.iter_mut().enumerate() {
            let k = at.first + row * at.stride + 2 * PAIRS * steps * step;
            for half in 0..2 {
                let c = floats(state, half);
                // SAFETY: the rows fit, and so do the steps.
                let sum = unsafe {
                    let (values, exp) = (rows.values.as_ptr().add(k), rows.exp.as_ptr().add(k));
                    if SOFTWARE {
                        let zero = _mm256_setzero_ps();
                        let sum = wide_step::<PAIRS, HALF>(unit, values, exp, columns, half, zero);
                        let (values, exp) = (values.add(2 * PAIRS), exp.add(2 * PAIRS));
                        let sum = wide_step::<PAIRS, HALF>(unit, values, exp, &columns[PAIRS..], half, sum);
                        _mm256_add_ps(c, sum)
                    } else {
                        wide_step::<PAIRS, HALF>(unit, values, exp, columns, half, c)
                    }
                };
                store(state, half, if SOFTWARE && HALF { rounded(sum) } else { sum });
            }
        }
    }
}

/// # Safety
/// The pointers must be good for `2 * PAIRS` elements.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn wide_step<const PAIRS: usize, const HALF: bool>(
    unit: Unit,
    values: *const f32,
    exp: *const i16,
    columns: &[WideColumns],
    half: usize,
    c: __m256,
) -> __m256 {
    let columns = &columns[..PAIRS];
    let mut most = [_mm256_set1_epi16(unit.least()); 2];
    macro_rules! exponents {
        ($($q:literal)*) => {$(
            if $q < PAIRS {
                // SAFETY: pair q of the step.
                let exps = _mm256_add_epi16(line(&columns[$q].exp, half), unsafe { pair(exp.add(2 * $q)) });
                most[$q % 2] = _mm256_max_epi16(most[$q % 2], exps);
            }
        )*};
    }
    each_pair!(exponents);
    let mut most = _mm256_max_epi16(most[0], most[1]);
    if HALF {
        most = _mm256_max_epi16(most, least_half(c, 0x0001_0001));
    }
    let most = _mm256_max_epi16(most, exchange(most));
    let field = _mm256_slli_epi32::<1>(_mm256_castps_si256(c));
    let field = _mm256_shuffle_epi8(field, order(0x8003_8003, 0x8007_8007, 0x800B_800B, 0x800F_800F));
    let (there, back) = factors(_mm256_max_epi16(most, field), unit.fraction);
    // Two sums of at most 16 terms below 2^27, each in two halves.
    let mut sums = [_mm256_setzero_si256(); 4];
    macro_rules! terms {
        ($($q:literal)*) => {$(
            if $q < PAIRS {
                for t in 0..2 {
                    // SAFETY: pair q of the step.
                    let x = _mm256_set1_ps(unsafe { *values.add(2 * $q + t) });
                    let product = _mm256_mul_ps(x, floats(&columns[$q].values[t], half));
                    let term = _mm256_cvttps_epi32(_mm256_mul_ps(product, there));
                    let sum = &mut sums[$q / 8 * 2 + t];
                    *sum = _mm256_add_epi32(*sum, term);
                }
            }
        )*};
    }
    each_pair!(terms);
    let carried = to_f64(_mm256_cvttps_epi32(_mm256_mul_ps(c, there)));
    let sum = to_f64(_mm256_add_epi32(sums[0], sums[1]));
    let (mut lo, mut hi) = (_mm256_add_pd(sum.0, carried.0), _mm256_add_pd(sum.1, carried.1));
    if PAIRS > 8 {
        let sum = to_f64(_mm256_add_epi32(sums[2], sums[3]));
        (lo, hi) = (_mm256_add_pd(lo, sum.0), _mm256_add_pd(hi, sum.1));
    }
    let sum = _mm256_set_m128(cut::<HALF>(hi), cut::<HALF>(lo));
    let sum = _mm256_mul_ps(sum, back);
    if HALF {
        to_half(sum, c)
    } else {
        sum
    }
}

/// Eight integers as two times four float64.
#[inline]
#[target_feature(enable = "avx2")]
fn to_f64(x: __m256i) -> (__m256d, __m256d) {
    let (lo, hi) = (_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    (_mm256_cvtepi32_pd(lo), _mm256_cvtepi32_pd(hi))
}

/// Float64 cut to float32; or rounded to odd, so that the float16 made of it is the sum rounded once.
#[inline]
#[target_feature(enable = "avx2")]
fn cut<const ODD: bool>(x: __m256d) -> __m128 {
    let (bits, below) = (_mm256_castpd_si256(x), _mm256_set1_epi64x((1 << 29) - 1));
    let mut kept = _mm256_andnot_si256(below, bits);
    if ODD {
        let exact = _mm256_cmpeq_epi64(_mm256_and_si256(bits, below), _mm256_setzero_si256());
        kept = _mm256_or_si256(kept, _mm256_andnot_si256(exact, _mm256_set1_epi64x(1 << 29)));
    }
    _mm256_cvtpd_ps(_mm256_castsi256_pd(kept))
}
