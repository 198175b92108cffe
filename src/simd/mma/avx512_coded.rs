//! The steps on codes in AVX-512: lookups of 128 bytes, arithmetic on bytes for as long as it goes.

use super::avx512::{factors, narrow_sum, wide_sum};
use super::codes::{CodeTables, CodedRow, NARROW_LEAST, QUAD};
use super::{Floats, Unit, COLUMNS};
use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

/// Names each quad of a step, so that the compiler sees them one by one: a loop it would leave rolled, and spill.
macro_rules! each_quad {
    ($each:ident) => {
        $each!(0 1 2 3 4 5 6 7)
    };
}

/// A lookup by magnitude.
#[derive(Clone, Copy)]
struct Table([__m512i; 2]);

impl Table {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(bytes: &[u8; 128]) -> Table {
        let p = bytes.as_ptr().cast::<__m512i>();
        // SAFETY: two vectors are 128 bytes.
        unsafe { Table([_mm512_loadu_si512(p), _mm512_loadu_si512(p.add(1))]) }
    }

    /// Looks up bytes, whose sign does not count.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vbmi")]
    fn of(self, codes: __m512i) -> __m512i {
        _mm512_permutex2var_epi8(self.0[0], codes, self.0[1])
    }
}

/// The tables of a step, in registers.
#[derive(Clone, Copy)]
struct Tables {
    exp: Table,
    sig: Table,
    low: Table,
    high: Table,
}

/// Continues the chains of some quads of a row, in steps of `QUADS`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub(super) fn coded<const QUADS: usize, const HALF: bool, const WIDE: bool>(
    unit: Unit,
    row: &CodedRow,
    place: Range<usize>,
    tables: &CodeTables,
    columns: &[f32],
    state: &mut Floats,
) {
    let of = |bytes| Table::new(bytes);
    let tables =
        Tables { exp: of(&tables.exp), sig: of(&tables.sig), low: of(&tables.low), high: of(&tables.high) };
    // SAFETY: a line is 64 bytes, and aligned to them.
    let mut sum = unsafe { _mm512_load_ps(state.0.as_ptr()) };
    for (step, columns) in columns.as_chunks::<COLUMNS>().0.as_chunks::<QUADS>().0.iter().enumerate() {
        // SAFETY: sixteen float32 are a vector.
        let quads = columns.each_ref().map(|quad| unsafe { _mm512_loadu_si512(quad.as_ptr().cast()) });
        let at = place.start + step * QUADS;
        sum = coded_step::<QUADS, HALF, WIDE>(unit, row, at, tables, quads, sum);
    }
    // SAFETY: as above.
    unsafe { _mm512_store_ps(state.0.as_mut_ptr(), sum) };
}

/// One step.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn coded_step<const QUADS: usize, const HALF: bool, const WIDE: bool>(
    unit: Unit,
    row: &CodedRow,
    at: usize,
    tables: Tables,
    quads: [__m512i; QUADS],
    c: __m512,
) -> __m512 {
    let least = if WIDE { unit.least() as u8 } else { NARROW_LEAST };
    let below = &row.below[at..at + QUADS];
    let values = if WIDE { &row.values[at..at + QUADS] } else { &[] };
    let (signs, sigs) =
        if WIDE { (&[][..], &[][..]) } else { (&row.signs[at..at + QUADS], &row.sigs[at..at + QUADS]) };
    let mut exps = [_mm512_setzero_si512(); QUADS];
    let mut most = [_mm512_set1_epi8(least as i8); 2];
    macro_rules! exponents {
        ($($q:literal)*) => {$(
            if $q < QUADS {
                exps[$q] = _mm512_subs_epu8(tables.exp.of(quads[$q]), _mm512_set1_epi32(below[$q] as i32));
                most[$q % 2] = _mm512_max_epu8(most[$q % 2], exps[$q]);
            }
        )*};
    }
    each_quad!(exponents);
    let top = top::<HALF>(_mm512_max_epu8(most[0], most[1]), c);
    let factors = factors(_mm512_and_si512(top, _mm512_set1_epi32(255)), unit.fraction);
    let mut sums = [[_mm512_setzero_si512(); 2]; 2];
    macro_rules! terms {
        ($($q:literal)*) => {$(
            if WIDE {
                wide_terms(&values[$q % QUADS], quads[$q % QUADS], tables, factors.0, &mut sums[$q / 4]);
            } else if $q < QUADS {
                let shifts = _mm512_sub_epi8(top, exps[$q]);
                narrow_terms((signs[$q], sigs[$q]), quads[$q], tables, shifts, &mut sums[$q % 2]);
            }
        )*};
    }
    each_quad!(terms);
    let [[s, t], [u, v]] = sums;
    if WIDE {
        return wide_sum::<16, HALF>([s, t, u, v], factors, c);
    }
    let sum = _mm512_add_epi32(_mm512_add_epi32(s, t), _mm512_add_epi32(u, v));
    narrow_sum::<HALF>(_mm512_srai_epi32::<8>(sum), factors, c)
}

/// The largest of four exponents and the accumulator's, biased by 127, in all bytes of each lane; a float16 that is not
/// zero has an exponent of at least -14.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn top<const HALF: bool>(max: __m512i, c: __m512) -> __m512i {
    let max = _mm512_max_epu8(max, _mm512_rol_epi32::<16>(max));
    let max = _mm512_max_epu8(max, _mm512_rol_epi32::<8>(max));
    let field = _mm512_slli_epi32::<1>(_mm512_castps_si512(c));
    let spread = _mm512_set4_epi32(0x0F0F_0F0F, 0x0B0B_0B0B, 0x0707_0707, 0x0303_0303);
    let max = _mm512_max_epu8(max, _mm512_shuffle_epi8(field, spread));
    if !HALF {
        return max;
    }
    let not_zero = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(c, _mm512_setzero_ps());
    _mm512_mask_max_epu32(max, not_zero, max, _mm512_set1_epi32((127 - 14) * 0x0101_0101))
}

/// Adds two times two terms of a narrow step, times 256, to two sums.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
fn narrow_terms(
    (signs, sigs): (u32, [u32; 2]),
    codes: __m512i,
    tables: Tables,
    shifts: __m512i,
    sums: &mut [__m512i; 2],
) {
    let below = _mm512_set1_epi16(0xFF);
    let sig = tables.sig.of(codes);
    let mut sign = _mm512_xor_si512(codes, _mm512_set1_epi32(signs as i32));
    let (one, minus) = (_mm512_set1_epi8(1), _mm512_set1_epi8(-1));
    // SAFETY: registers alone. Written out, as below, because the compiler makes twice the instructions of it.
    // A code of zero without a sign has a sign of zero, and no term.
    unsafe {
        asm!("vpminsb {0}, {0}, {1}", "vpmaxsb {0}, {0}, {2}", inout(zmm_reg) sign, in(zmm_reg) one, in(zmm_reg) minus,
            options(pure, nomem, nostack, preserves_flags));
    }
    let mut add = |at: usize, sig: __m512i, shift: __m512i, sign: __m512i| {
        let magnitude = _mm512_mullo_epi16(sig, _mm512_set1_epi32(sigs[at] as i32));
        // SAFETY: as above.
        unsafe {
            asm!("vpsrlvw {0}, {0}, {1}", "vpdpwssd {2}, {0}, {3}", inout(zmm_reg) magnitude => _, in(zmm_reg) shift,
                inout(zmm_reg) sums[at], in(zmm_reg) sign, options(pure, nomem, nostack, preserves_flags));
        }
    };
    let even = |x: __m512i| _mm512_and_si512(x, below);
    add(0, even(sig), even(shifts), _mm512_slli_epi16::<8>(sign));
    add(1, _mm512_srli_epi16::<8>(sig), _mm512_srli_epi16::<8>(shifts), _mm512_andnot_si512(below, sign));
}

/// Adds four terms of a wide step to two sums.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn wide_terms(row: &[f32; QUAD], codes: __m512i, tables: Tables, there: __m512, sums: &mut [__m512i; 2]) {
    let low = tables.low.of(codes);
    // the sign from the code, where the mask is set
    let high = _mm512_ternarylogic_epi32::<0xF8>(tables.high.of(codes), codes, _mm512_set1_epi8(-128));
    // Halves of float32 in 16-bit lanes: those of the first and third k, and of the second and fourth.
    let upper = _mm512_set1_epi16(-256);
    let even = _mm512_ternarylogic_epi32::<0xCA>(upper, _mm512_slli_epi16::<8>(high), low);
    let odd = _mm512_ternarylogic_epi32::<0xCA>(upper, high, _mm512_srli_epi16::<8>(low));
    let third = _mm512_set1_epi32(0xFFFF_0000u32 as i32);
    let columns = [
        _mm512_slli_epi32::<16>(even),
        _mm512_slli_epi32::<16>(odd),
        _mm512_and_si512(even, third),
        _mm512_and_si512(odd, third),
    ];
    for (k, (x, y)) in row.iter().zip(columns).enumerate() {
        let product = _mm512_mul_ps(_mm512_set1_ps(*x), _mm512_castsi512_ps(y));
        let term = _mm512_cvttps_epi32(_mm512_mul_ps(product, there));
        sums[k % 2] = _mm512_add_epi32(sums[k % 2], term);
    }
}
