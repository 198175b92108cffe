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

    /// Transposes a tile, a 4 x 4 tile in each 128-bit lane at a time. A level names its lanes, how quarters of rows that are
    /// below each other become a vector, and its intrinsics.
    macro_rules! transposed {
        ($(#[$doc:meta])* $name:ident($token:ty), $lanes:literal, |$from:ident| $row:expr,
         { $($intrinsic:ident as $word:ident),+ }) => {
            $(#[$doc])*
            #[inline(always)]
            pub fn $name(_: $token, rows: &[f32], out: &mut [f32]) {
                $(use $intrinsic as $word;)+
                let (rows, out) = (&rows[..$lanes * $lanes], &mut out[..$lanes * $lanes]);
                // SAFETY: the token proves the level; parts of rows are read and whole rows written inside the tiles.
                unsafe {
                    for part in 0..$lanes / 4 {
                        let row = |i: usize| {
                            let $from = rows.as_ptr().add($lanes * i + 4 * part);
                            $row
                        };
                        let (a, b, c, d) = (row(0), row(1), row(2), row(3));
                        let (x, y) = (double(low(a, b)), double(low(c, d)));
                        let (z, w) = (double(high(a, b)), double(high(c, d)));
                        let columns = [low_64(x, y), high_64(x, y), low_64(z, w), high_64(z, w)];
                        for (i, column) in columns.into_iter().enumerate() {
                            store(out.as_mut_ptr().add($lanes * (4 * part + i)), single(column));
                        }
                    }
                }
            }
        };
    }

    transposed! {
        /// Transposes an 8 x 8 tile.
        avx2(Avx2), 8, |from| {
            _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(_mm_loadu_ps(from)), _mm_loadu_ps(from.add(32)))
        }, {
            _mm256_unpacklo_ps as low, _mm256_unpackhi_ps as high, _mm256_unpacklo_pd as low_64,
            _mm256_unpackhi_pd as high_64, _mm256_castps_pd as double, _mm256_castpd_ps as single, _mm256_storeu_ps as store
        }
    }

    transposed! {
        /// Transposes a 16 x 16 tile.
        avx512(Avx512), 16, |from| {
            let x = _mm512_castps128_ps512(_mm_loadu_ps(from));
            let x = _mm512_insertf32x4::<1>(x, _mm_loadu_ps(from.add(64)));
            let x = _mm512_insertf32x4::<2>(x, _mm_loadu_ps(from.add(128)));
            _mm512_insertf32x4::<3>(x, _mm_loadu_ps(from.add(192)))
        }, {
            _mm512_unpacklo_ps as low, _mm512_unpackhi_ps as high, _mm512_unpacklo_pd as low_64,
            _mm512_unpackhi_pd as high_64, _mm512_castps_pd as double, _mm512_castpd_ps as single, _mm512_storeu_ps as store
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
