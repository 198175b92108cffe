//! Base-2 logarithm and power of two in float64, made of `+ - * /` and bit moves in one stated order: nothing is fused
//! and no system library is asked, so that NumPy and every CPU agree to the last bit. Without branches, so that
//! compilers can use their vectors.

use crate::simd::Lanes;

const SQRT_HALF: f64 = std::f64::consts::FRAC_1_SQRT_2;
const TWO_OVER_LN2: f64 = 2.885_390_081_777_926_8;
const LN2: f64 = std::f64::consts::LN_2;

/// `1 / (2 k + 1)`, and `1 / k!`.
const ATANH: [f64; 11] = {
    let mut c = [0.0; 11];
    let mut k = 0;
    while k < c.len() {
        c[k] = 1.0 / (2 * k + 1) as f64;
        k += 1;
    }
    c
};
const EXP: [f64; 14] = {
    let (mut c, mut factorial) = ([0.0; 14], 1.0);
    let mut k = 0;
    while k < c.len() {
        factorial *= if k == 0 { 1.0 } else { k as f64 };
        c[k] = 1.0 / factorial;
        k += 1;
    }
    c
};

/// Horner's rule: a product and a sum rounded at each step.
#[inline(always)]
fn polynomial<const N: usize>(x: f64, c: &[f64; N]) -> f64 {
    let mut p = c[N - 1];
    let mut k = N - 1;
    while k > 0 {
        k -= 1;
        p = p * x + c[k];
    }
    p
}

/// The base-2 logarithm of a normal positive number: exact for powers of two, otherwise within a few units of
/// 2^-53, relatively. `log2 m = 2 atanh(u) / ln 2` with `u = (m - 1) / (m + 1)` and m from sqrt(1/2) to sqrt(2).
#[inline(always)]
pub fn log2(x: f64) -> f64 {
    const FIELD: u64 = 0x7FF;
    let bits = x.to_bits();
    // The exponent field as a float: the integer added to 2^52, then 2^52 and the bias taken off.
    let e = f64::from_bits((bits >> 52) & FIELD | 0x4330_0000_0000_0000) - (4_503_599_627_370_496.0 + 1022.0);
    let m = f64::from_bits(bits & 0x000F_FFFF_FFFF_FFFF | 0x3FE0_0000_0000_0000);
    let low = m < SQRT_HALF;
    let (m, e) = (if low { m * 2.0 } else { m }, if low { e - 1.0 } else { e });
    let u = (m - 1.0) / (m + 1.0);
    e + (u * polynomial(u * u, &ATANH)) * TWO_OVER_LN2
}

/// `2^y` for `|y| < 1000`: exact for whole y, otherwise within a few units of 2^-53, relatively.
#[inline(always)]
pub fn exp2(y: f64) -> f64 {
    const ROUND: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52: sums are whole, and their low bits count
    let sum = y + ROUND;
    let power = f64::from_bits(sum.to_bits().wrapping_add(1023) << 52);
    let z = (y - (sum - ROUND)) * LN2;
    polynomial(z, &EXP) * power
}

/// [`exp2`] of each number.
#[inline(always)]
pub fn exp2_each<L: Lanes>(l: L, y: &mut [f64]) {
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let (mut z, mut p) = ([0f64; EACH], [0f64; EACH]);
    for y in y.chunks_mut(EACH) {
        let n = y.len();
        for (z, y) in z.iter_mut().zip(y.iter()) {
            *z = (y - ((y + ROUND) - ROUND)) * LN2;
        }
        l.polynomial(&EXP, &z[..n], &mut p[..n]);
        for (y, p) in y.iter_mut().zip(&p) {
            *y = p * f64::from_bits((*y + ROUND).to_bits().wrapping_add(1023) << 52);
        }
    }
}

/// Numbers taken at a time.
const EACH: usize = 128;

/// The float32 of `bits`, which are not negative: in integers, as a thread's control word may make zero of
/// subnormal operands.
#[inline(always)]
pub fn widen(bits: u32) -> f64 {
    let normal = f64::from_bits((u64::from(bits) << 29) + (896 << 52));
    let subnormal = f64::from(bits as i32) * f64::from_bits((1023 - 149) << 52);
    if bits >= 0x0080_0000 {
        normal
    } else {
        subnormal
    }
}

/// The bits of the float32 nearest to `x`, which is not negative; subnormal results are rounded in integers too.
#[inline(always)]
pub fn narrow(x: f64) -> u32 {
    const UNITS: f64 = f64::from_bits((1023 + 149) << 52); // 2^-149 is float32's smallest
    const WHOLE: f64 = 4_503_599_627_370_496.0; // 2^52
    const NORMAL: f64 = f64::from_bits((1023 - 126) << 52);
    if x >= NORMAL {
        (x as f32).to_bits()
    } else {
        (x * UNITS + WHOLE).to_bits() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::{exp2, log2, narrow, widen};

    #[test]
    fn powers_of_two_are_exact() {
        for k in -1022i32..=1023 {
            let power = f64::from_bits(((1023 + k) as u64) << 52);
            assert_eq!(log2(power), f64::from(k));
            assert!(k.abs() > 1000 || exp2(f64::from(k)) == power);
        }
    }

    /// The series were cut where their next term is below 2^-53; a handful of roundings remain.
    #[test]
    fn close_to_the_system_library() {
        let mut x = 1.0f64;
        for i in 0..200_000 {
            x = if x > 1e60 { 1e-60 } else { x * 1.000_923 + 1e-70 };
            let (found, want) = (log2(x), x.log2());
            assert!((found - want).abs() <= 4e-16 * want.abs().max(0.25), "log2({x:e}): {found} {want}");
            let y = f64::from(i) * 0.001_234_567 - 120.0;
            let (found, want) = (exp2(y), y.exp2());
            assert!((found / want - 1.0).abs() <= 1e-15, "exp2({y}): {found:e} {want:e}");
        }
    }

    #[test]
    fn float32_and_back() {
        for bits in (0..0x0100_0000u32).step_by(251).chain((0..0x7F80_0000).step_by(65_537)) {
            assert_eq!(widen(bits), f64::from(f32::from_bits(bits)));
            assert_eq!(narrow(widen(bits)), bits);
            let between = widen(bits) * 1.000_000_03;
            assert_eq!(narrow(between), (between as f32).to_bits());
        }
    }
}
