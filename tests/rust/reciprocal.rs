//! The corrected reciprocal gives the codes of a true division: every case that could differ, at every level.
//!
//! With r = RN(1/s), q = RN(x r) and q' = RN(q + RN(x - q s) r), exact arithmetic says that q' is x/s with a relative
//! error below 2^-46 before its last rounding. So q' can differ from RN(x/s) only where x/s lies within 2^-46 of a
//! midpoint between two float32, and the codes can differ only if one of those two float32 is a rounding boundary of
//! the format (an odd number of half quanta, B times a power of two with B below 2^(man+2)) or touches it.
//! With 24-bit integers X and S for x and s that asks for `X 2^t = S B + D` with an integer D of at most 2^(man+2),
//! and for S so near to a multiple of 2^(24-j), j <= man + 1, that D can be half a unit in the last place: S within
//! 2^(man+4-j) of one. All such (S, B, D) are tried here, with margins: twice the distance in S, all D up to 2^(man+3).

use dsv3_numerics::formats::{encode, table, CodesMut, EncodeOptions, Format, Input, FORMATS};
use dsv3_numerics::quant::{quantize, Blocks, QuantizeOptions, Rule, RULES};
use dsv3_numerics::simd::{set_level, Level};

/// The significands near multiples of 2^(24-j).
fn scales(man: u32) -> Vec<u32> {
    let mut found: Vec<u32> = Vec::new();
    for j in 0..=man + 1 {
        let (step, reach) = (1u32 << (24 - j), 1u32 << (man + 5 - j.min(man + 5)));
        let mut centre = 1 << 23;
        while centre <= 1 << 24 {
            found.extend((centre - reach..=centre + reach).filter(|s| (1 << 23..1 << 24).contains(s)));
            centre += step;
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Numerators that land beside a rounding boundary when divided by `s`.
fn numerators(s: u32, man: u32, out: &mut Vec<f32>) {
    let reach = 1i64 << (man + 3);
    for b in 1..1i64 << (man + 2) {
        let product = i64::from(s) * b;
        let t = 64 - product.leading_zeros() as i64 - 24; // bring the product to 24 bits
        let t = t.max(0);
        for t in [t, t + 1] {
            let unit = 1i64 << t;
            let mut x = (product - reach) >> t;
            while x * unit <= product + reach {
                if (1 << 23..1 << 24).contains(&x) {
                    out.push((x as f64 * unit as f64) as f32);
                }
                x += 1;
            }
        }
    }
}

/// Checks a format at some binades of the scale and of the quotient; returns how many elements were compared.
fn hard_cases(format: &'static Format, powers: &[i32], shifts: &[i32]) -> usize {
    let (mut near, mut compared) = (Vec::new(), 0);
    for s in scales(format.man) {
        near.clear();
        numerators(s, format.man, &mut near);
        for power in powers {
            let scale = (f64::from(s) * f64::powi(2.0, *power)) as f32;
            let top = f64::from(format.max()) * f64::from(scale);
            for shift in shifts {
                let x = near.iter().map(|n| (f64::from(*n) * f64::powi(2.0, power - shift)) as f32);
                compared += check(format, x.filter(|x| f64::from(*x) <= top).collect(), scale);
            }
        }
    }
    compared
}

/// Quantizes `x` as one block whose amax is made to give exactly `scale`, and compares with dividing and casting.
fn check(format: &'static Format, mut x: Vec<f32>, scale: f32) -> usize {
    let amax = format.max() * scale;
    if amax / format.max() != scale {
        return 0; // no amax near this one gives this scale
    }
    x.push(amax);
    let n = x.len();
    let blocks = Blocks::new([1, 1, n], [1, n]).unwrap();
    let rule = Rule { amax_floor: 0.0, ..RULES[0] };
    let options = QuantizeOptions { rule, ..Default::default() };
    let divided: Vec<f32> = x.iter().map(|x| x / scale).collect();
    let (mut expected, mut codes, mut scales) = (vec![0u16; n], vec![0u16; n], [0u8; 4]);
    let (mut expected_bytes, mut bytes) = (vec![0u8; n], vec![0u8; n]);
    for level in Level::all_available() {
        set_level(level).unwrap();
        let cast = |out: CodesMut<'_>| encode(Input::F32(&divided), format, &EncodeOptions::default(), out);
        if format.bits() <= 8 {
            cast(CodesMut::U8(&mut expected_bytes)).unwrap();
            quantize(Input::F32(&x), blocks, format, &options, CodesMut::U8(&mut bytes), &mut scales)
                .unwrap();
        } else {
            cast(CodesMut::U16(&mut expected)).unwrap();
            quantize(Input::F32(&x), blocks, format, &options, CodesMut::U16(&mut codes), &mut scales)
                .unwrap();
        }
        assert_eq!(f32::from_ne_bytes(scales), scale);
        assert!(bytes == expected_bytes && codes == expected, "{} at {scale:e}, {level:?}", format.name);
    }
    n
}

/// Every format whose elements may be divided by a scale, at the least once for each width of mantissa.
#[test]
fn corrected_reciprocal_equals_division() {
    for format in [&table::E2M1FN, &table::E5M2, &table::E4M3FN, &table::E3M4, &table::INT4] {
        let compared = hard_cases(format, &[-20, 3], &[0, 2, 4]);
        assert!(compared > 50_000, "{}: {compared}", format.name);
    }
    for format in [&table::E5M6, &table::INT8] {
        let compared = hard_cases(format, &[-20], &[0]);
        assert!(compared > 10_000_000, "{}: {compared}", format.name);
    }
    let tried = [1, 2, 3, 4, 6, 7];
    assert!(FORMATS.iter().all(|f| tried.contains(&f.man) || f.bits() > 12 || f.name == "float8_e8m0fnu"));
}
