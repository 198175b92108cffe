//! The steps in NEON: four columns to a vector, so every panel is done in four quarters, beside each other.

use super::super::neon::through_f16;
use super::*;
use std::arch::aarch64::*;

/// Vectors of a line.
const QUARTERS: usize = COLUMNS / 4;

/// A line of float32.
type Line = [float32x4_t; QUARTERS];

level!(Neon, doubled: false, extra: 0);

/// Adds partial sums to totals.
#[target_feature(enable = "neon")]
fn promote(totals: &mut [Floats], partial: &[Floats], scales: Option<(&[f32], &Floats)>) {
    let rows = totals.iter_mut().zip(partial);
    match scales {
        None => {
            for (total, partial) in rows {
                let (mut sums, partial) = (floats(total), floats(partial));
                for i in 0..QUARTERS {
                    sums[i] = vaddq_f32(sums[i], partial[i]);
                }
                store(total, sums);
            }
        }
        Some((row_scales, column_scales)) => {
            let columns = floats(column_scales);
            for ((total, partial), row) in rows.zip(row_scales) {
                let (mut sums, partial) = (floats(total), floats(partial));
                for i in 0..QUARTERS {
                    sums[i] = vfmaq_f32(sums[i], vmulq_n_f32(columns[i], *row), partial[i]);
                }
                store(total, sums);
            }
        }
    }
}

/// Two neighbouring 16-bit numbers in every lane.
///
/// # Safety
/// `p` must point to both.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn pair(p: *const i16) -> int16x8_t {
    // SAFETY: as above.
    vreinterpretq_s16_s32(vdupq_n_s32(unsafe { p.cast::<i32>().read_unaligned() }))
}

/// A quarter of a line.
#[inline]
#[target_feature(enable = "neon")]
fn quarter(words: &Words, i: usize) -> int16x8_t {
    assert!(i < QUARTERS);
    // SAFETY: a quarter is eight words, inside the line.
    unsafe { vld1q_s16(words.0.as_ptr().add(8 * i)) }
}

/// A line.
#[inline]
#[target_feature(enable = "neon")]
fn floats(floats: &Floats) -> Line {
    let mut line = [vdupq_n_f32(0.0); QUARTERS];
    for (i, quarter) in line.iter_mut().enumerate() {
        // SAFETY: a quarter is four float32, inside the line.
        *quarter = unsafe { vld1q_f32(floats.0.as_ptr().add(4 * i)) };
    }
    line
}

/// Writes a line.
#[inline]
#[target_feature(enable = "neon")]
fn store(out: &mut Floats, line: Line) {
    for (i, quarter) in line.into_iter().enumerate() {
        // SAFETY: a quarter is four float32, inside the line.
        unsafe { vst1q_f32(out.0.as_mut_ptr().add(4 * i), quarter) };
    }
}

/// The largest of two 16-bit exponents and the accumulator's, biased by 127, in both halves of each lane. A float16
/// accumulator that is not zero has an exponent of at least -14.
#[inline]
#[target_feature(enable = "neon")]
fn top<const HALF: bool>(most: int16x8_t, c: float32x4_t) -> int16x8_t {
    let most = vmaxq_s16(most, vrev32q_s16(most));
    let magnitude = vshlq_n_u32::<1>(vreinterpretq_u32_f32(c));
    let field = vshrq_n_u32::<24>(magnitude);
    let field = if HALF {
        vmaxq_u32(field, vandq_u32(vtstq_u32(magnitude, magnitude), vdupq_n_u32(127 - 14)))
    } else {
        field
    };
    let words = vreinterpretq_s16_u32(field);
    vmaxq_s16(most, vtrn1q_s16(words, words))
}

/// The factor that brings the last fraction bit of the largest term to 1, and its inverse.
#[inline]
#[target_feature(enable = "neon")]
fn factors(top: int16x8_t, fraction: i32) -> (float32x4_t, float32x4_t) {
    let power = vshlq_n_s32::<23>(vreinterpretq_s32_s16(top)); // the low half: what is above is shifted out
    let there = vsubq_s32(vdupq_n_s32((254 + fraction) << 23), power);
    let back = vsubq_s32(power, vdupq_n_s32(fraction << 23));
    (vreinterpretq_f32_s32(there), vreinterpretq_f32_s32(back))
}

/// Rounds to float16; a result of zero has no sign.
#[inline]
#[target_feature(enable = "neon")]
fn rounded(x: float32x4_t) -> float32x4_t {
    vaddq_f32(through_f16(x), vdupq_n_f32(0.0))
}

/// The float16 result of a step. An infinite accumulator stays what it is.
#[inline]
#[target_feature(enable = "neon")]
fn to_half(x: float32x4_t, c: float32x4_t) -> float32x4_t {
    let infinite = vceqq_f32(vabsq_f32(c), vdupq_n_f32(f32::INFINITY));
    vbslq_f32(infinite, c, rounded(x))
}

/// # Safety
/// The rows must fit.
#[target_feature(enable = "neon")]
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
            let next = unsafe {
                let (sig, exp) = (rows.sig.as_ptr().add(k), rows.exp.as_ptr().add(k));
                narrow_step::<PAIRS, HALF>(sig, exp, rows.signs.as_ptr().add(k / 2), columns, floats(state))
            };
            store(state, next);
        }
    }
}

/// # Safety
/// The pointers must be good for `2 * PAIRS`, or for the signs `PAIRS`, elements.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn narrow_step<const PAIRS: usize, const HALF: bool>(
    sig: *const i16,
    exp: *const i16,
    signs: *const u8,
    columns: &[NarrowColumns],
    c: Line,
) -> Line {
    let columns = &columns[..PAIRS];
    let mut tops = [vdupq_n_s16(0); QUARTERS];
    for (q, column) in columns.iter().enumerate() {
        // SAFETY: pair q of the step.
        let row = unsafe { pair(exp.add(2 * q)) };
        for (i, top) in tops.iter_mut().enumerate() {
            *top = vmaxq_s16(*top, vaddq_s16(quarter(&column.exp, i), row));
        }
    }
    for (top_of, c) in tops.iter_mut().zip(c) {
        *top_of = top::<HALF>(*top_of, c);
    }
    let mut sums = [vdupq_n_s32(0); QUARTERS];
    for (q, column) in columns.iter().enumerate() {
        // SAFETY: pair q of the step.
        let (row_exp, row_sig, sign) =
            unsafe { (pair(exp.add(2 * q)), pair(sig.add(2 * q)), usize::from(*signs.add(q) >> 6)) };
        for i in 0..QUARTERS {
            // Negative: how far to the right. Below -240 none is, so that a byte of it says enough.
            let shift = vsubq_s16(vaddq_s16(quarter(&column.exp, i), row_exp), tops[i]);
            let magnitude = vreinterpretq_u16_s16(vmulq_s16(quarter(&column.sig, i), row_sig));
            let term = vreinterpretq_s16_u16(vshlq_u16(magnitude, shift));
            sums[i] = vpadalq_s16(sums[i], vmulq_s16(term, quarter(&column.signs[sign], i)));
        }
    }
    let mut next = c;
    for i in 0..QUARTERS {
        let (there, back) = factors(tops[i], 13);
        let carried = vcvtq_s32_f32(vmulq_f32(c[i], there));
        let sum = vcvtq_f32_s32(vaddq_s32(sums[i], carried)); // below 2^21: exact
        next[i] = if HALF {
            to_half(vmulq_f32(sum, back), c[i])
        } else {
            let kept = vandq_u32(vreinterpretq_u32_f32(sum), vdupq_n_u32(!0x3FF));
            vmulq_f32(vreinterpretq_f32_u32(kept), back)
        };
    }
    next
}

/// # Safety
/// The rows must fit.
#[target_feature(enable = "neon")]
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
            let c = floats(state);
            // SAFETY: the rows fit, and so do the steps.
            let next = unsafe {
                let (values, exp) = (rows.values.as_ptr().add(k), rows.exp.as_ptr().add(k));
                if SOFTWARE {
                    let zero = [vdupq_n_f32(0.0); QUARTERS];
                    let sums = wide_step::<PAIRS, HALF>(unit, values, exp, columns, zero);
                    let (values, exp) = (values.add(2 * PAIRS), exp.add(2 * PAIRS));
                    let mut sums = wide_step::<PAIRS, HALF>(unit, values, exp, &columns[PAIRS..], sums);
                    for (sum, c) in sums.iter_mut().zip(c) {
                        let added = vaddq_f32(c, *sum);
                        *sum = if HALF { rounded(added) } else { added };
                    }
                    sums
                } else {
                    wide_step::<PAIRS, HALF>(unit, values, exp, columns, c)
                }
            };
            store(state, next);
        }
    }
}

/// # Safety
/// The pointers must be good for `2 * PAIRS` elements.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn wide_step<const PAIRS: usize, const HALF: bool>(
    unit: Unit,
    values: *const f32,
    exp: *const i16,
    columns: &[WideColumns],
    c: Line,
) -> Line {
    let columns = &columns[..PAIRS];
    let mut tops = [vdupq_n_s16(unit.least()); QUARTERS];
    for (q, column) in columns.iter().enumerate() {
        // SAFETY: pair q of the step.
        let row = unsafe { pair(exp.add(2 * q)) };
        for (i, top) in tops.iter_mut().enumerate() {
            *top = vmaxq_s16(*top, vaddq_s16(quarter(&column.exp, i), row));
        }
    }
    let (mut there, mut back) = (c, c);
    for i in 0..QUARTERS {
        (there[i], back[i]) = factors(top::<HALF>(tops[i], c[i]), unit.fraction);
    }
    // Sums of at most 16 terms below 2^27.
    let mut sums = [[vdupq_n_s32(0); QUARTERS]; 2];
    for (q, column) in columns.iter().enumerate() {
        for t in 0..2 {
            // SAFETY: pair q of the step.
            let x = unsafe { *values.add(2 * q + t) };
            let y = floats(&column.values[t]);
            for i in 0..QUARTERS {
                let term = vcvtq_s32_f32(vmulq_f32(vmulq_n_f32(y[i], x), there[i]));
                sums[q / 8][i] = vaddq_s32(sums[q / 8][i], term);
            }
        }
    }
    let mut next = c;
    for i in 0..QUARTERS {
        let carried = vcvtq_s32_f32(vmulq_f32(c[i], there[i]));
        let mut low = vaddl_s32(vget_low_s32(sums[0][i]), vget_low_s32(carried));
        let mut high = vaddl_high_s32(sums[0][i], carried);
        if PAIRS > 8 {
            low = vaddw_s32(low, vget_low_s32(sums[1][i]));
            high = vaddw_high_s32(high, sums[1][i]);
        }
        let sum = vmulq_f32(cut::<HALF>(vcvtq_f64_s64(low), vcvtq_f64_s64(high)), back[i]);
        next[i] = if HALF { to_half(sum, c[i]) } else { sum };
    }
    next
}

/// Float64 cut to float32; or rounded to odd, so that the float16 made of it is the sum rounded once.
#[inline]
#[target_feature(enable = "neon")]
fn cut<const ODD: bool>(low: float64x2_t, high: float64x2_t) -> float32x4_t {
    if ODD {
        return vcvtx_high_f32_f64(vcvtx_f32_f64(low), high);
    }
    let kept = |x: float64x2_t| {
        vreinterpretq_f64_u64(vandq_u64(vreinterpretq_u64_f64(x), vdupq_n_u64(!((1 << 29) - 1))))
    };
    vcvt_high_f32_f64(vcvt_f32_f64(kept(low)), kept(high))
}
