//! Rounding to formats of at most three mantissa bits in NEON.
//!
//! The upper half of a float32 has all of its exponent and more mantissa than such a format: there it is rounded, eight
//! numbers to a register, by adding just below half of the last place, or just half where that place is odd or the number
//! beyond half. Numbers below the format's smallest normal one and beyond its largest are rare: a group that has any is
//! done over for them.

use super::lanes::Narrow;
use super::neon::{low_bytes, Neon, Two};
use std::arch::aarch64::*;
use std::arch::asm;

/// Sixteen bytes, to the codes of two vectors.
type Codes = [uint8x16_t; 2];

/// All ones where a lane has a bit of `mask`. Written out because the compiler takes the test apart.
#[inline(always)]
fn test(x: float32x4_t, mask: uint32x4_t) -> uint16x8_t {
    let found;
    // SAFETY: the instruction is NEON's, which the token of the callers proves, and touches no memory.
    unsafe {
        asm!("cmtst {0:v}.4s, {1:v}.4s, {2:v}.4s", out(vreg) found, in(vreg) x, in(vreg) mask,
             options(pure, nomem, nostack));
    }
    found
}

/// Codes with some bits taken from another vector. Written out because the compiler takes it apart.
#[inline(always)]
fn insert(mut codes: uint8x16_t, from: uint8x16_t, bits: uint8x16_t) -> uint8x16_t {
    // SAFETY: the instruction is NEON's, which the token of the callers proves, and touches no memory.
    unsafe {
        asm!("bit {0:v}.16b, {1:v}.16b, {2:v}.16b", inout(vreg) codes, in(vreg) from, in(vreg) bits,
             options(pure, nomem, nostack));
    }
    codes
}

/// Magnitudes of float32 as sixteen bits: the upper half without its sign, and below it whether the number rounds up if
/// it is half beyond. Written out because the compiler has no such instruction for its own shifts.
#[inline(always)]
fn magnitudes(top: uint16x8_t, mut up: uint16x8_t) -> uint16x8_t {
    // SAFETY: the instruction is NEON's, which the token of the callers proves, and touches no memory.
    unsafe {
        asm!("sli {0:v}.8h, {1:v}.8h, #1", inout(vreg) up, in(vreg) top, options(pure, nomem, nostack));
    }
    up
}

/// A format in registers.
#[derive(Clone, Copy)]
struct Rounder {
    /// The bits of a float32 that make a number round up if it is half beyond: the odd place, and all below half.
    up: uint32x4_t,
    /// The magnitude at which codes begin, less what is just below half of the last place.
    first: uint16x8_t,
    /// Brings codes to the upper byte.
    left: int16x8_t,
}

impl Rounder {
    #[inline(always)]
    fn new(f: Narrow) -> Rounder {
        let cut = f.cut - 2; // of the eight bits below the exponent's
        let (last, half) = (1u32 << (15 + cut), 1u32 << (14 + cut));
        let first = (f.normal >> 15) - (1 << 8) - ((1 << (cut - 1)) - 1);
        // SAFETY: NEON is proved by the token of the callers.
        unsafe {
            Rounder {
                up: vdupq_n_u32(last | (half - 1)),
                first: vdupq_n_u16(first as u16),
                left: vdupq_n_s16(8 - cut as i16),
            }
        }
    }

    /// Codes of normal numbers in upper bytes, or a byte beyond them, and the upper halves of the numbers.
    #[inline(always)]
    fn codes(self, x: Two<float32x4_t>) -> (uint16x8_t, uint16x8_t) {
        // SAFETY: NEON is proved by the token of the callers.
        unsafe {
            let up = vuzp1q_u16(test(x.0, self.up), test(x.1, self.up));
            let top = vuzp2q_u16(vreinterpretq_u16_f32(x.0), vreinterpretq_u16_f32(x.1));
            (vqshlq_u16(vqsubq_u16(magnitudes(top, up), self.first), self.left), top)
        }
    }
}

/// The upper bytes of sixteen words, in order.
#[inline(always)]
fn high_bytes(a: uint16x8_t, b: uint16x8_t) -> uint8x16_t {
    // SAFETY: NEON is proved by the token of the callers.
    unsafe { vuzp2q_u8(vreinterpretq_u8_u16(a), vreinterpretq_u8_u16(b)) }
}

/// Rounds a group of float32 to nearest even and stores its codes.
#[inline(always)]
pub(super) fn store(_: Neon, x: [Two<float32x4_t>; 4], f: Narrow, out: &mut [u8]) {
    let out = &mut out[..32];
    let [first, second] = if f.four_bits { by_table(x, f) } else { by_shift(x, f) };
    // SAFETY: 32 bytes are written to a slice of 32; NEON is proved by the token.
    unsafe { vst1q_u8_x2(out.as_mut_ptr(), uint8x16x2_t(first, second)) };
}

/// Codes by shifts.
#[inline(always)]
fn by_shift(x: [Two<float32x4_t>; 4], f: Narrow) -> Codes {
    let (rounder, least) = (Rounder::new(f), 1u8 << (10 - f.cut));
    let (a, b) = (rounder.codes(x[0]), rounder.codes(x[1]));
    let (c, d) = (rounder.codes(x[2]), rounder.codes(x[3]));
    // SAFETY: NEON is proved by the token of the callers.
    unsafe {
        let mut codes = [high_bytes(a.0, b.0), high_bytes(c.0, d.0)];
        // From the least normal code on, and no further than the limit.
        let beyond = |codes: uint8x16_t| vsubq_u8(codes, vdupq_n_u8(least));
        if vmaxvq_u8(vmaxq_u8(beyond(codes[0]), beyond(codes[1]))) > f.limit.wrapping_sub(least) {
            codes = rare(x, f, least, codes);
        }
        let (sign, mut top) = (vdupq_n_u8(f.sign), [high_bytes(a.1, b.1), high_bytes(c.1, d.1)]);
        if f.sign != 0x80 {
            let down = vdupq_n_s8(f.sign.trailing_zeros() as i8 - 7);
            top = top.map(|top| vshlq_u8(top, down));
        }
        [insert(codes[0], top[0], sign), insert(codes[1], top[1], sign)]
    }
}

/// The codes of a format of four bits and one mantissa bit. An index has its exponent, counted from the binade that holds
/// half of the smallest number, two mantissa bits, and whether there is more below: the first two are all smaller numbers.
static FOUR_BITS: [u8; 64] = {
    let mut table = [7; 64];
    (table[0], table[1]) = (0, 0);
    let mut i = 2u32;
    while i < 42 {
        let (quarters, more) = (i / 2 - 1, i % 2);
        let number = (4 + quarters % 4) << (quarters / 4);
        table[i as usize] = four_bits(2 * number + more);
        i += 1;
    }
    table
};

/// The code nearest to a number that is given in sixteenths of the smallest one; ties to even.
const fn four_bits(number: u32) -> u8 {
    const VALUES: [u32; 8] = [0, 16, 32, 48, 64, 96, 128, 192];
    let mut code = 0;
    while code < 7 {
        let middle = VALUES[code] + VALUES[code + 1];
        if 2 * number < middle || (2 * number == middle && code % 2 == 0) {
            break;
        }
        code += 1;
    }
    code as u8
}

/// [`by_shift`] for four bits: what is rounded to them has few bits that matter.
#[inline(always)]
fn by_table(x: [Two<float32x4_t>; 4], f: Narrow) -> Codes {
    // SAFETY: 64 bytes are read from a table of 64; NEON is proved by the token of the callers.
    unsafe {
        let table = vld1q_u8_x4(FOUR_BITS.as_ptr());
        // Two binades below the smallest normal number, less a quarter.
        let first = vdupq_n_u16(((f.normal >> 15) - (2 << 8) - (1 << 6)) as u16);
        let below = vdupq_n_u32((1 << 21) - 1);
        let half = |x: Two<float32x4_t>| {
            let top = vuzp2q_u16(vreinterpretq_u16_f32(x.0), vreinterpretq_u16_f32(x.1));
            let index = vqshlq_n_u16::<2>(vqsubq_u16(vshlq_n_u16::<1>(top), first));
            (index, vuzp1q_u16(test(x.0, below), test(x.1, below)), top)
        };
        let code = |a: (uint16x8_t, uint16x8_t, uint16x8_t), b: (uint16x8_t, uint16x8_t, uint16x8_t)| {
            let index = vminq_u8(high_bytes(a.0, b.0), vdupq_n_u8(31));
            let index = vsliq_n_u8::<1>(low_bytes(a.1, b.1), index);
            let sign = vshrq_n_u8::<4>(high_bytes(a.2, b.2));
            insert(vqtbl4q_u8(table, index), sign, vdupq_n_u8(8))
        };
        let [a, b, c, d] = [half(x[0]), half(x[1]), half(x[2]), half(x[3])];
        [code(a, b), code(c, d)]
    }
}

/// The magnitude codes of a group where some are subnormal, too large, or NaN.
#[inline(always)]
fn rare(x: [Two<float32x4_t>; 4], f: Narrow, least: u8, codes: Codes) -> Codes {
    // 1.5 times the power of two that has the format's smallest number as its last place: sums count it, either sign.
    let counter =
        f32::from_bits(f.normal + (23 << 23) - (u32::from(least.trailing_zeros() as u8) << 23)) * 1.5;
    // SAFETY: NEON is proved by the token of the callers.
    unsafe {
        let counter = vdupq_n_f32(counter);
        let words = |x: Two<float32x4_t>| {
            let (low, high) = (vaddq_f32(x.0, counter), vaddq_f32(x.1, counter));
            vuzp1q_u16(vreinterpretq_u16_f32(low), vreinterpretq_u16_f32(high))
        };
        let large = vmaxvq_u8(vmaxq_u8(codes[0], codes[1])) > f.limit;
        let numbers = |x: Two<float32x4_t>| {
            let (low, high) = (vceqq_f32(x.0, x.0), vceqq_f32(x.1, x.1));
            vuzp1q_u16(vreinterpretq_u16_u32(low), vreinterpretq_u16_u32(high))
        };
        let mut out = codes;
        for (i, out) in out.iter_mut().enumerate() {
            let (a, b) = (x[2 * i], x[2 * i + 1]);
            let count = vabsq_s8(vreinterpretq_s8_u8(low_bytes(words(a), words(b))));
            // Larger numbers count as any byte; no normal number has a code below the least.
            let count = vminq_u8(vreinterpretq_u8_s8(count), vdupq_n_u8(least));
            *out = vmaxq_u8(*out, count);
            if large {
                let code = vminq_u8(*out, vdupq_n_u8(f.limit));
                *out = vbslq_u8(low_bytes(numbers(a), numbers(b)), code, vdupq_n_u8(f.nan));
            }
        }
        out
    }
}
