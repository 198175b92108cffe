//! Transpose of an `N x N` float32 tile, N the lanes of a vector.

/// Definition, for `W` lanes.
#[inline(always)]
pub(super) fn portable<const W: usize>(rows: &[f32], out: &mut [f32]) {
    let (rows, out) = (&rows[..W * W], &mut out[..W * W]);
    for i in 0..W {
        for j in 0..W {
            out[j * W + i] = rows[i * W + j];
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{avx2, avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::avx2::Avx2;
    use super::super::avx512::Avx512;
    use std::arch::x86_64::*;

    /// Transposes a 4 x 4 tile in each 128-bit lane.
    macro_rules! quarter {
        ($r:expr, $unpacklo:ident, $unpackhi:ident, $lo:ident, $hi:ident, $double:ident, $single:ident) => {{
            let [a, b, c, d] = $r;
            let (x, y) = ($double($unpacklo(a, b)), $double($unpacklo(c, d)));
            let (z, w) = ($double($unpackhi(a, b)), $double($unpackhi(c, d)));
            [$single($lo(x, y)), $single($hi(x, y)), $single($lo(z, w)), $single($hi(z, w))]
        }};
    }

    /// Transposes an 8 x 8 tile.
    #[inline(always)]
    pub fn avx2(_: Avx2, rows: &[f32], out: &mut [f32]) {
        let (rows, out) = (&rows[..64], &mut out[..64]);
        // SAFETY: the token proves AVX2; halves of rows are read and whole rows written inside the 64.
        unsafe {
            for half in 0..2 {
                let row = |i: usize| {
                    let from = rows.as_ptr().add(8 * i + 4 * half);
                    _mm256_insertf128_ps::<1>(
                        _mm256_castps128_ps256(_mm_loadu_ps(from)),
                        _mm_loadu_ps(from.add(32)),
                    )
                };
                let columns = quarter!(
                    [row(0), row(1), row(2), row(3)],
                    _mm256_unpacklo_ps,
                    _mm256_unpackhi_ps,
                    _mm256_unpacklo_pd,
                    _mm256_unpackhi_pd,
                    _mm256_castps_pd,
                    _mm256_castpd_ps
                );
                for (i, column) in columns.into_iter().enumerate() {
                    _mm256_storeu_ps(out.as_mut_ptr().add(8 * (4 * half + i)), column);
                }
            }
        }
    }

    /// Transposes a 16 x 16 tile.
    #[inline(always)]
    pub fn avx512(_: Avx512, rows: &[f32], out: &mut [f32]) {
        let (rows, out) = (&rows[..256], &mut out[..256]);
        // SAFETY: the token proves AVX-512; quarters of rows are read and whole rows written inside the 256.
        unsafe {
            for part in 0..4 {
                let row = |i: usize| {
                    let from = rows.as_ptr().add(16 * i + 4 * part);
                    let x = _mm512_castps128_ps512(_mm_loadu_ps(from));
                    let x = _mm512_insertf32x4::<1>(x, _mm_loadu_ps(from.add(64)));
                    let x = _mm512_insertf32x4::<2>(x, _mm_loadu_ps(from.add(128)));
                    _mm512_insertf32x4::<3>(x, _mm_loadu_ps(from.add(192)))
                };
                let columns = quarter!(
                    [row(0), row(1), row(2), row(3)],
                    _mm512_unpacklo_ps,
                    _mm512_unpackhi_ps,
                    _mm512_unpacklo_pd,
                    _mm512_unpackhi_pd,
                    _mm512_castps_pd,
                    _mm512_castpd_ps
                );
                for (i, column) in columns.into_iter().enumerate() {
                    _mm512_storeu_ps(out.as_mut_ptr().add(16 * (4 * part + i)), column);
                }
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub(super) use arm::neon;

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::super::neon::Neon;
    use std::arch::aarch64::*;

    /// Transposes an 8 x 8 tile, a quarter at a time.
    #[inline(always)]
    pub fn neon(_: Neon, rows: &[f32], out: &mut [f32]) {
        let (rows, out) = (&rows[..64], &mut out[..64]);
        // SAFETY: the token proves NEON; quarters of rows are read and written inside the 64.
        unsafe {
            for (row, col) in [(0, 0), (0, 4), (4, 0), (4, 4)] {
                let from = |i: usize| vld1q_f32(rows.as_ptr().add(8 * (row + i) + col));
                let mut to = |i: usize, x: float64x2_t| {
                    vst1q_f32(out.as_mut_ptr().add(8 * (col + i) + row), vreinterpretq_f32_f64(x));
                };
                let double = |x: float32x4_t| vreinterpretq_f64_f32(x);
                let (a, b, c, d) = (from(0), from(1), from(2), from(3));
                let (even, odd) = (double(vtrn1q_f32(a, b)), double(vtrn2q_f32(a, b)));
                let (even_below, odd_below) = (double(vtrn1q_f32(c, d)), double(vtrn2q_f32(c, d)));
                to(0, vtrn1q_f64(even, even_below));
                to(1, vtrn1q_f64(odd, odd_below));
                to(2, vtrn2q_f64(even, even_below));
                to(3, vtrn2q_f64(odd, odd_below));
            }
        }
    }
}
