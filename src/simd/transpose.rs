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

/// Tests if so many rows of `width` elements, one every `stride`, lie in `length` elements.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
pub(super) fn rows_fit(rows: usize, width: usize, stride: usize, length: usize) -> bool {
    let end = stride.checked_mul(rows - 1).and_then(|last| last.checked_add(width));
    end.is_some_and(|end| end <= length)
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{avx2, avx2_into, avx2_rows, avx512, avx512_into};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::avx2::Avx2;
    use super::super::avx512::Avx512;
    use super::super::lanes::ColumnSink;
    use super::super::plain::Plain;
    use super::rows_fit;
    use std::arch::x86_64::*;

    /// Columns of four rows, a 4 x 4 tile in each 128-bit lane, by a level's unpacking of 32 and 64 bits and its cast.
    macro_rules! columns_of_four {
        ([$($row:expr),+], $low:ident, $high:ident, $low_64:ident, $high_64:ident, $cast:ident) => {{
            let [a, b, c, d] = [$($row),+];
            let (x, y) = ($cast($low(a, b)), $cast($low(c, d)));
            let (z, w) = ($cast($high(a, b)), $cast($high(c, d)));
            [$low_64(x, y), $high_64(x, y), $low_64(z, w), $high_64(z, w)]
        }};
    }

    /// Transposes an 8 x 8 tile.
    #[inline(always)]
    pub fn avx2(l: Avx2, rows: &[f32], out: &mut [f32]) {
        avx2_into(l, rows, 8, out, 8);
    }

    /// Transposes an 8 x 8 tile whose rows begin every `stride` elements to rows that begin every `pitch`.
    #[inline(always)]
    pub fn avx2_into<T: Plain>(_: Avx2, src: &[T], stride: usize, out: &mut [f32], pitch: usize) {
        let width = 32 / std::mem::size_of::<T>();
        assert!(rows_fit(8, width, stride, src.len()) && rows_fit(8, 8, pitch, out.len()), "eight rows");
        let each = StoreAt { out: out.as_mut_ptr(), pitch };
        // SAFETY: the token proves the level; the last row of either was just found to end in the slice.
        unsafe { avx2_at(src.as_ptr().cast(), stride * std::mem::size_of::<T>(), each) }
    }

    /// Transposes such a tile and passes its rows on, in order.
    #[inline(always)]
    pub fn avx2_rows<T: Plain>(_: Avx2, src: &[T], stride: usize, each: impl ColumnSink<Avx2>) {
        assert!(rows_fit(8, 32 / std::mem::size_of::<T>(), stride, src.len()), "eight rows");
        // SAFETY: the token proves the level; the last row was just found to end in the slice.
        unsafe { avx2_at(src.as_ptr().cast(), stride * std::mem::size_of::<T>(), each) }
    }

    /// Where eight rows go, one every `pitch` elements; there is room for them.
    struct StoreAt {
        out: *mut f32,
        pitch: usize,
    }

    impl ColumnSink<Avx2> for StoreAt {
        #[inline(always)]
        fn column(&mut self, i: usize, values: __m256) {
            // SAFETY: there is room for each of eight rows, and the level's token was there when this was made.
            unsafe { _mm256_storeu_ps(self.out.add(i * self.pitch), values) }
        }
    }

    /// Transposes eight rows of 32 bytes, a 4 x 4 tile in each 128-bit lane at a time.
    ///
    /// # Safety
    /// AVX2; there must be eight rows, one every `stride` bytes from `src` on.
    #[inline(always)]
    unsafe fn avx2_at(src: *const u8, stride: usize, mut each: impl ColumnSink<Avx2>) {
        // SAFETY: the rows are there.
        unsafe {
            for part in 0..2 {
                let row = |i: usize| {
                    let from = src.add(i * stride + 16 * part);
                    let low = _mm256_castps128_ps256(_mm_loadu_ps(from.cast()));
                    _mm256_insertf128_ps::<1>(low, _mm_loadu_ps(from.add(4 * stride).cast()))
                };
                let columns = columns_of_four!(
                    [row(0), row(1), row(2), row(3)],
                    _mm256_unpacklo_ps,
                    _mm256_unpackhi_ps,
                    _mm256_unpacklo_pd,
                    _mm256_unpackhi_pd,
                    _mm256_castps_pd
                );
                each.column(4 * part, _mm256_castpd_ps(columns[0]));
                each.column(4 * part + 1, _mm256_castpd_ps(columns[1]));
                each.column(4 * part + 2, _mm256_castpd_ps(columns[2]));
                each.column(4 * part + 3, _mm256_castpd_ps(columns[3]));
            }
        }
    }

    /// Transposes a 16 x 16 tile.
    #[inline(always)]
    pub fn avx512(l: Avx512, rows: &[f32], out: &mut [f32]) {
        avx512_into(l, rows, 16, out, 16);
    }

    /// Transposes a 16 x 16 tile whose rows begin every `stride` elements to rows that begin every `pitch`.
    #[inline(always)]
    pub fn avx512_into<T: Plain>(_: Avx512, src: &[T], stride: usize, out: &mut [f32], pitch: usize) {
        assert!(rows_fit(16, 64 / std::mem::size_of::<T>(), stride, src.len()), "sixteen rows");
        // SAFETY: the token proves the level; the last row was just found to end in the slice.
        unsafe { avx512_at(src.as_ptr().cast(), stride * std::mem::size_of::<T>(), out, pitch) }
    }

    /// Transposes sixteen rows of 64 bytes: four rows in each vector's quarters, then quarters.
    ///
    /// # Safety
    /// There must be sixteen rows, one every `stride` bytes from `src` on.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn avx512_at(src: *const u8, stride: usize, out: &mut [f32], pitch: usize) {
        assert!(rows_fit(16, 16, pitch, out.len()), "sixteen rows");
        // SAFETY: the rows are there, and the last row written was just found to end in the slice.
        unsafe {
            let row = |i: usize| _mm512_loadu_ps(src.add(i * stride).cast());
            let four = |i: usize| {
                columns_of_four!(
                    [row(i), row(i + 1), row(i + 2), row(i + 3)],
                    _mm512_unpacklo_ps,
                    _mm512_unpackhi_ps,
                    _mm512_unpacklo_pd,
                    _mm512_unpackhi_pd,
                    _mm512_castps_pd
                )
            };
            let (first, second, third, fourth) = (four(0), four(4), four(8), four(12));
            let mut store =
                |i: usize, x: __m512d| _mm512_storeu_pd(out.as_mut_ptr().add(pitch * i).cast(), x);
            macro_rules! quarters {
                ($($i:literal)*) => {$(
                    let even = |a, b| _mm512_shuffle_f64x2::<0x88>(a, b);
                    let odd = |a, b| _mm512_shuffle_f64x2::<0xDD>(a, b);
                    let (a, b, c, d) = (first[$i], second[$i], third[$i], fourth[$i]);
                    let (x, y, z, w) = (even(a, b), even(c, d), odd(a, b), odd(c, d));
                    store($i, even(x, y));
                    store($i + 4, even(z, w));
                    store($i + 8, odd(x, y));
                    store($i + 12, odd(z, w));
                )*};
            }
            quarters!(0 1 2 3);
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
