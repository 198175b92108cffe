//! Products that are added to sums where they are, in the order of the program, by instructions that are named.
//!
//! Left to itself, the compiler loads all rows of a step at once, or puts sums into the registers of factors, and then has none
//! for sums. An instruction that may have effects beyond its registers, as far as the compiler knows, stays where it is.

use std::arch::{asm, x86_64::*};

/// A function that adds `a * b` to `c`.
macro_rules! add_onto {
    ($name:ident, $features:literal, $vector:ty, $register:ident, $instruction:literal) => {
        #[inline]
        #[target_feature(enable = $features)]
        pub(super) fn $name(a: $vector, b: $vector, mut c: $vector) -> $vector {
            // SAFETY: registers only.
            unsafe {
                asm!(concat!($instruction, " {c}, {a}, {b}"), a = in($register) a, b = in($register) b,
                    c = inout($register) c, options(nomem, nostack, preserves_flags));
            }
            c
        }
    };
}

add_onto!(avx2, "avx2,fma", __m256, ymm_reg, "vfmadd231ps");
add_onto!(avx512, "avx512f", __m512, zmm_reg, "vfmadd231ps");
add_onto!(pairs, "avx512f,avx512bf16", __m512, zmm_reg, "vdpbf16ps");

/// The same with an item that is read and put into every lane by the instruction itself.
macro_rules! add_item_onto {
    ($name:ident, $features:literal, $instruction:literal) => {
        #[inline]
        #[target_feature(enable = $features)]
        pub(super) fn $name<const I: usize>(items: &[f32], b: __m512, mut c: __m512) -> __m512 {
            assert!(I < items.len());
            // SAFETY: the item is there.
            unsafe {
                asm!(concat!($instruction, " {c}, {b}, dword ptr [{items} + {at}]{{1to16}}"),
                    items = in(reg) items.as_ptr(), at = const 4 * I, b = in(zmm_reg) b, c = inout(zmm_reg) c,
                    options(readonly, nostack, preserves_flags));
            }
            c
        }
    };
}

add_item_onto!(avx512_item, "avx512f", "vfmadd231ps");
add_item_onto!(pairs_item, "avx512f,avx512bf16", "vdpbf16ps");
