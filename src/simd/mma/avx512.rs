//! The steps in AVX-512: sixteen columns to a vector.

use super::avx512_coded::coded;
use super::groups::{Group, GroupColumns, FRACTION, GROUP, GROUPS, LEAST, STEP};
use super::*;
use std::arch::asm;
use std::arch::x86_64::*;

level!(Avx512, doubled: false, extra: 0, groups, coded);

/// Adds partial sums to totals.
#[target_feature(enable = "avx512f")]
fn promote(totals: &mut [Floats], partial: &[Floats], scales: Option<(&[f32], &Floats)>) {
    let rows = totals.iter_mut().zip(partial);
    match scales {
        None => {
            for (total, partial) in rows {
                // SAFETY: a line is 64 bytes, and aligned to them.
                unsafe {
                    let p = total.0.as_mut_ptr();
                    _mm512_store_ps(p, _mm512_add_ps(_mm512_load_ps(p), _mm512_load_ps(partial.0.as_ptr())));
                }
            }
        }
        Some((row_scales, column_scales)) => {
            // SAFETY: a line is 64 bytes, and aligned to them.
            let column = unsafe { _mm512_load_ps(column_scales.0.as_ptr()) };
            for ((total, partial), row) in rows.zip(row_scales) {
                let scale = _mm512_mul_ps(_mm512_set1_ps(*row), column);
                // SAFETY: a line is 64 bytes, and aligned to them.
                unsafe {
                    let p = total.0.as_mut_ptr();
                    let sum = _mm512_fmadd_ps(scale, _mm512_load_ps(partial.0.as_ptr()), _mm512_load_ps(p));
                    _mm512_store_ps(p, sum);
                }
            }
        }
    }
}

/// Two neighbouring 16-bit numbers in every lane.
///
/// # Safety
/// `p` must point to both.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn pair(p: *const i16) -> __m512i {
    // SAFETY: as above.
    _mm512_set1_epi32(unsafe { p.cast::<i32>().read_unaligned() })
}

/// A line.
#[inline]
#[target_feature(enable = "avx512f")]
fn line(words: &Words) -> __m512i {
    // SAFETY: a line is 64 bytes, and aligned to them.
    unsafe { _mm512_load_si512(words.0.as_ptr().cast()) }
}

/// The largest of two 16-bit exponents and the accumulator's, biased by 127, in both halves of each lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn top(max: __m512i, c: __m512) -> __m512i {
    let max = _mm512_max_epi16(max, _mm512_rol_epi32::<16>(max));
    // the exponent field, shifted to the top byte, goes to bytes 0 and 2
    let spread = _mm512_set4_epi32(
        0x800F_800Fu32 as i32,
        0x800B_800Bu32 as i32,
        0x8007_8007u32 as i32,
        0x8003_8003u32 as i32,
    );
    let field = _mm512_slli_epi32::<1>(_mm512_castps_si512(c));
    _mm512_max_epi16(max, _mm512_shuffle_epi8(field, spread))
}

/// As [`top`] where the accumulator is a float16: one that is not zero has an exponent of at least -14.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn top_half(max: __m512i, c: __m512) -> __m512i {
    let not_zero = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(c, _mm512_setzero_ps());
    let least = _mm512_maskz_mov_epi32(not_zero, _mm512_set1_epi32((127 - 14) * 0x10001));
    top(_mm512_max_epi16(max, least), c)
}

/// The factor that brings the last fraction bit of the largest term to 1, and its inverse.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn factors(top: __m512i, fraction: i32) -> (__m512, __m512) {
    let power = _mm512_slli_epi32::<23>(top); // the low half: what is above is shifted out
    let there = _mm512_sub_epi32(_mm512_set1_epi32((254 + fraction) << 23), power);
    let back = _mm512_sub_epi32(power, _mm512_set1_epi32(fraction << 23));
    (_mm512_castsi512_ps(there), _mm512_castsi512_ps(back))
}

/// Rounds to float16; a result of zero has no sign.
#[inline]
#[target_feature(enable = "avx512f")]
fn rounded(x: __m512) -> __m512 {
    const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    _mm512_add_ps(_mm512_cvtph_ps(_mm512_cvtps_ph::<NEAREST>(x)), _mm512_setzero_ps())
}

/// The float16 result of a step. An infinite accumulator stays what it is.
#[inline]
#[target_feature(enable = "avx512f")]
fn to_half(x: __m512, c: __m512) -> __m512 {
    let x = rounded(x);
    let infinite = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(_mm512_abs_ps(c), _mm512_set1_ps(f32::INFINITY));
    _mm512_mask_mov_ps(x, infinite, c)
}

/// # Safety
/// The rows must fit.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn narrow<const PAIRS: usize, const HALF: bool>(
    rows: &NarrowRows,
    at: At,
    columns: &[NarrowColumns],
    state: &mut [Floats],
) {
    // Step by step and row by row: the rows do not depend on each other, so their chains overlap.
    for (step, columns) in columns.chunks_exact(PAIRS).enumerate() {
        for (row, state) in state.iter_mut().enumerate() {
            let k = at.first + row * at.stride + 2 * PAIRS * step;
            // SAFETY: the rows fit, and so do the steps; a line is 64 bytes.
            unsafe {
                let (sig, exp) = (rows.sig.as_ptr().add(k), rows.exp.as_ptr().add(k));
                let signs = rows.signs.as_ptr().add(k / 2);
                let c = _mm512_load_ps(state.0.as_ptr());
                let c = narrow_step::<PAIRS, HALF>(sig, exp, signs, columns, c);
                _mm512_store_ps(state.0.as_mut_ptr(), c);
            }
        }
    }
}

/// # Safety
/// The pointers must be good for `2 * PAIRS`, or for the signs `PAIRS`, elements.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn narrow_step<const PAIRS: usize, const HALF: bool>(
    sig: *const i16,
    exp: *const i16,
    signs: *const u8,
    columns: &[NarrowColumns],
    c: __m512,
) -> __m512 {
    let columns = &columns[..PAIRS];
    let mut exps = [_mm512_setzero_si512(); 16];
    macro_rules! exponents {
        ($($q:literal)*) => {$(
            if $q < PAIRS {
                // SAFETY: pair q of the step.
                exps[$q] = _mm512_add_epi16(line(&columns[$q].exp), unsafe { pair(exp.add(2 * $q)) });
            }
        )*};
    }
    each_pair!(exponents);
    let max = |a, b| _mm512_max_epi16(a, b);
    let max4 = |i: usize| max(max(exps[i], exps[i + 1]), max(exps[i + 2], exps[i + 3]));
    let mut most = max(max4(0), max4(4));
    if PAIRS > 8 {
        most = max(most, max(max4(8), max4(12)));
    }
    let top = if HALF { top_half(most, c) } else { top(most, c) };
    let mut sums = [_mm512_setzero_si512(); 4];
    macro_rules! terms {
        ($($q:literal)*) => {$(
            if $q < PAIRS {
                let column = &columns[$q];
                // SAFETY: pair q of the step.
                let (row, sign) = unsafe { (pair(sig.add(2 * $q)), usize::from(*signs.add($q) & 0xC0)) };
                let magnitude = _mm512_mullo_epi16(line(&column.sig), row);
                let term = _mm512_srlv_epi16(magnitude, _mm512_sub_epi16(top, exps[$q]));
                // SAFETY: reads one of the four lines of signs. Written out because the compiler splits the
                // intrinsic in two instructions.
                unsafe {
                    let line = column.signs.as_ptr().cast::<u8>().add(sign);
                    asm!("vpdpwssd {0}, {1}, [{2}]", inout(zmm_reg) sums[$q % 4], in(zmm_reg) term, in(reg) line,
                        options(pure, readonly, nostack, preserves_flags));
                }
            }
        )*};
    }
    each_pair!(terms);
    let sum = _mm512_add_epi32(_mm512_add_epi32(sums[0], sums[1]), _mm512_add_epi32(sums[2], sums[3]));
    narrow_sum::<HALF>(sum, factors(top, 13), c)
}

/// The accumulator after a narrow step, from the sum of its terms.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn narrow_sum<const HALF: bool>(
    sum: __m512i,
    (there, back): (__m512, __m512),
    c: __m512,
) -> __m512 {
    let carried = _mm512_cvttps_epi32(_mm512_mul_ps(c, there));
    let sum = _mm512_cvtepi32_ps(_mm512_add_epi32(sum, carried)); // below 2^21: exact
    if HALF {
        return to_half(_mm512_mul_ps(sum, back), c);
    }
    let kept = _mm512_and_ps(sum, _mm512_castsi512_ps(_mm512_set1_epi32(!0x3FF)));
    _mm512_mul_ps(kept, back)
}

/// # Safety
/// The rows must fit.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
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
            // SAFETY: the rows fit, and so do the steps; a line is 64 bytes.
            unsafe {
                let (values, exp) = (rows.values.as_ptr().add(k), rows.exp.as_ptr().add(k));
                let c = _mm512_load_ps(state.0.as_ptr());
                let c = if SOFTWARE {
                    let zero = _mm512_setzero_ps();
                    let sum = wide_step::<PAIRS, HALF>(unit, values, exp, columns, zero);
                    let (values, exp) = (values.add(2 * PAIRS), exp.add(2 * PAIRS));
                    let sum = wide_step::<PAIRS, HALF>(unit, values, exp, &columns[PAIRS..], sum);
                    let sum = _mm512_add_ps(c, sum);
                    if HALF {
                        rounded(sum)
                    } else {
                        sum
                    }
                } else {
                    wide_step::<PAIRS, HALF>(unit, values, exp, columns, c)
                };
                _mm512_store_ps(state.0.as_mut_ptr(), c);
            }
        }
    }
}

/// # Safety
/// The pointers must be good for `2 * PAIRS` elements.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn wide_step<const PAIRS: usize, const HALF: bool>(
    unit: Unit,
    values: *const f32,
    exp: *const i16,
    columns: &[WideColumns],
    c: __m512,
) -> __m512 {
    let columns = &columns[..PAIRS];
    let mut most = [_mm512_set1_epi16(unit.least()); 2];
    macro_rules! exponents {
        ($($q:literal)*) => {$(
            if $q < PAIRS {
                // SAFETY: pair q of the step.
                let exps = _mm512_add_epi16(line(&columns[$q].exp), unsafe { pair(exp.add(2 * $q)) });
                most[$q % 2] = _mm512_max_epi16(most[$q % 2], exps);
            }
        )*};
    }
    each_pair!(exponents);
    let most = _mm512_max_epi16(most[0], most[1]);
    let top = if HALF { top_half(most, c) } else { top(most, c) };
    let (there, back) = factors(top, unit.fraction);
    // Two sums of at most 16 terms below 2^27, each in two halves.
    let mut sums = [_mm512_setzero_si512(); 4];
    macro_rules! terms {
        ($($q:literal)*) => {$(
            if $q < PAIRS {
                for t in 0..2 {
                    // SAFETY: pair q of the step; a line is 64 bytes.
                    let (x, y) = unsafe {
                        (_mm512_set1_ps(*values.add(2 * $q + t)), _mm512_load_ps(columns[$q].values[t].0.as_ptr()))
                    };
                    let term = _mm512_cvttps_epi32(_mm512_mul_ps(_mm512_mul_ps(x, y), there));
                    let half = &mut sums[$q / 8 * 2 + t];
                    *half = _mm512_add_epi32(*half, term);
                }
            }
        )*};
    }
    each_pair!(terms);
    wide_sum::<PAIRS, HALF>(sums, (there, back), c)
}

/// The accumulator after a wide step, from the sums of its terms: of eight pairs, each in two halves, and of the others.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
pub(super) fn wide_sum<const PAIRS: usize, const HALF: bool>(
    sums: [__m512i; 4],
    (there, back): (__m512, __m512),
    c: __m512,
) -> __m512 {
    let carried = _mm512_cvttps_epi32(_mm512_mul_ps(c, there));
    let sum = _mm512_add_epi32(sums[0], sums[1]);
    const CUT: i32 = _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC;
    if PAIRS <= 4 && !HALF {
        // eight terms and an accumulator fit 32 bits
        let sum = _mm512_cvt_roundepi32_ps::<CUT>(_mm512_add_epi32(sum, carried));
        return _mm512_mul_ps(sum, back);
    }
    let (sum_lo, sum_hi) = to_f64(sum);
    let (carried_lo, carried_hi) = to_f64(carried);
    let (mut lo, mut hi) = (_mm512_add_pd(sum_lo, carried_lo), _mm512_add_pd(sum_hi, carried_hi));
    if PAIRS > 8 {
        let (sum_lo, sum_hi) = to_f64(_mm512_add_epi32(sums[2], sums[3]));
        (lo, hi) = (_mm512_add_pd(lo, sum_lo), _mm512_add_pd(hi, sum_hi));
    }
    let cut = |x: __m512d| {
        let kept = _mm512_cvt_roundpd_ps::<CUT>(x);
        if !HALF {
            return kept;
        }
        // rounded to odd, so that the float16 is the sum rounded once
        let lost = _mm512_cmp_pd_mask::<_CMP_NEQ_OQ>(_mm512_cvtps_pd(kept), x);
        let bits = _mm256_castps_si256(kept);
        _mm256_castsi256_ps(_mm256_mask_or_epi32(bits, lost, bits, _mm256_set1_epi32(1)))
    };
    let sum = _mm512_insertf32x8::<1>(_mm512_castps256_ps512(cut(lo)), cut(hi));
    let sum = _mm512_mul_ps(sum, back);
    if HALF {
        to_half(sum, c)
    } else {
        sum
    }
}

/// Sixteen integers as two times eight float64.
#[inline]
#[target_feature(enable = "avx512f")]
fn to_f64(x: __m512i) -> (__m512d, __m512d) {
    let (lo, hi) = (_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64::<1>(x));
    (_mm512_cvtepi32_pd(lo), _mm512_cvtepi32_pd(hi))
}

/// # Safety
/// Rows and columns must have as many steps.
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn group_steps(rows: &GroupRows, panel: &GroupPanel, steps: usize, state: &mut [Floats]) {
    for (row, state) in state.iter_mut().enumerate() {
        // SAFETY: the rows and columns have as many steps; a line is 64 bytes, and aligned to them.
        unsafe {
            let mut c = _mm512_load_ps(state.0.as_ptr());
            for step in 0..steps {
                let at = row * steps + step;
                let a = (rows.values.as_ptr().add(STEP * at), rows.groups.as_ptr().add(GROUPS * at));
                let b = (panel.values.as_ptr().add(STEP * step), panel.groups.as_ptr().add(GROUPS * step));
                c = group_step(a, b, c);
            }
            _mm512_store_ps(state.0.as_mut_ptr(), c);
        }
    }
}

/// # Safety
/// The pointers must be good for a step.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn group_step(
    (a, a_groups): (*const f32, *const Group),
    (b, b_groups): (*const Floats, *const GroupColumns),
    c: __m512,
) -> __m512 {
    const CUT: i32 = _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC;
    let halves = |x: __m512| (_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
    // SAFETY: a line is 64 bytes, and aligned to them.
    let line = |p: *const i32| unsafe { _mm512_load_si512(p.cast()) };
    let field = _mm512_srli_epi32::<24>(_mm512_slli_epi32::<1>(_mm512_castps_si512(c)));
    let mut top = _mm512_max_epi32(_mm512_sub_epi32(field, _mm512_set1_epi32(127)), _mm512_set1_epi32(LEAST));
    for g in 0..GROUPS {
        // SAFETY: a group of the step.
        let (x, y) = unsafe { (&*a_groups.add(g), &*b_groups.add(g)) };
        let there = _mm512_test_epi32_mask(_mm512_set1_epi32(x.mask as i32), line(y.mask.as_ptr().cast()));
        let exp = _mm512_add_epi32(_mm512_set1_epi32(x.exp), line(y.exp.as_ptr()));
        top = _mm512_mask_max_epi32(top, there, top, exp);
    }
    // 2^(35 - top) and its inverse
    let power = |e: __m256i| _mm512_castsi512_pd(_mm512_slli_epi64::<52>(_mm512_cvtepi32_epi64(e)));
    let powers = |e: __m512i| (power(_mm512_castsi512_si256(e)), power(_mm512_extracti64x4_epi64::<1>(e)));
    let there = powers(_mm512_sub_epi32(_mm512_set1_epi32(1023 + FRACTION), top));
    let back = powers(_mm512_add_epi32(_mm512_set1_epi32(1023 - FRACTION), top));
    let cut = |x: __m512d| _mm512_roundscale_pd::<CUT>(x);
    let (lo, hi) = halves(c);
    let zero = _mm512_setzero_pd(); // no sum is -0
    let mut lo = _mm512_add_pd(zero, cut(_mm512_mul_pd(_mm512_cvtps_pd(lo), there.0)));
    let mut hi = _mm512_add_pd(zero, cut(_mm512_mul_pd(_mm512_cvtps_pd(hi), there.1)));
    for g in 0..GROUPS {
        let mut sum = _mm512_setzero_ps();
        for k in GROUP * g..GROUP * (g + 1) {
            // SAFETY: a product of the step; a line is 64 bytes, and aligned to them.
            let (x, y) = unsafe { (_mm512_set1_ps(*a.add(k)), _mm512_load_ps((*b.add(k)).0.as_ptr())) };
            sum = _mm512_fmadd_ps(x, y, sum);
        }
        // SAFETY: a group of the step; its factors are two lines.
        let (x, y_lo, y_hi) = unsafe {
            let y = (*b_groups.add(g)).scale.as_ptr();
            (_mm512_set1_pd((*a_groups.add(g)).scale), _mm512_load_pd(y), _mm512_load_pd(y.add(8)))
        };
        let (sum_lo, sum_hi) = halves(sum);
        let term = |sum: __m256, y: __m512d, there: __m512d| {
            cut(_mm512_mul_pd(_mm512_mul_pd(_mm512_cvtps_pd(sum), _mm512_mul_pd(x, y)), there))
        };
        lo = _mm512_add_pd(lo, term(sum_lo, y_lo, there.0));
        hi = _mm512_add_pd(hi, term(sum_hi, y_hi, there.1));
    }
    let (lo, hi) = (_mm512_mul_pd(lo, back.0), _mm512_mul_pd(hi, back.1));
    let (lo, hi) = (_mm512_cvt_roundpd_ps::<CUT>(lo), _mm512_cvt_roundpd_ps::<CUT>(hi));
    _mm512_insertf32x8::<1>(_mm512_castps256_ps512(lo), hi)
}
