//! The two factors that every value of a tile is a product of, by multiplication from one power.
//!
//! With `q = 2^-step`, the value m steps below the largest is `hi q^m`. The definition computes `lo 2^((k - 1) step)`
//! instead, so the two differ by some roundings; how many can be bounded, so that float32 roundings of the factors and of
//! their products are the definition's unless they come near the middle between two float32. Of a tile that spans less
//! than E = 64 octaves, in units of 2^-53, relatively:
//!
//! | what differs | at most |
//! |---|---|
//! | the definition: rounding of `(k - 1) step`, a power, a product | `0.7 E + 5` |
//! | `(top - 1) step` beside `log2(hi / lo)` | `0.7 (4 E + 4)` |
//! | `q^m` for m from 0 to 127: `step` is off by 1 and `q` by 5, m times; as many products | `0.7 E + 6 m` |
//!
//! In all less than 2^11 units, which is [`NEAR`].

use crate::simd::Lanes;

/// Units in the last place of a float64 by which a product of factors and a value can differ.
pub(super) const NEAR: u32 = 1 << 11;

/// Codes of at most 8 bits in groups of `2^(bits / 2)`: the last value of each group, then the same with a minus sign, and
/// the way down from it to each code. Narrower codes find their factors repeated, as whatever stands above their magnitude
/// is looked up with it.
pub(super) struct Factors {
    pub last: [f64; 16],
    pub down: [f64; 16],
}

impl Factors {
    #[inline(always)]
    pub fn new<L: Lanes>(l: L, q: f64, hi: f64, bits: u32) -> Factors {
        if bits == 8 {
            let [last, down] = l.powers(q, 4, hi);
            return Factors { last, down };
        }
        let [last, down] = l.powers(q, bits / 2, hi);
        let (groups, size) = (1usize << (bits - 1 - bits / 2), 1usize << (bits / 2));
        Factors {
            last: std::array::from_fn(|i| last[8 * (i / groups % 2) + 8 - groups + i % groups]),
            down: std::array::from_fn(|j| down[16 - size + j % size]),
        }
    }
}

/// Whether a number is so near to the middle between two float32 that a factor's error could matter.
#[inline(always)]
pub(super) fn doubtful(x: f64) -> bool {
    const MIDDLE: u32 = 1 << 28;
    (x.to_bits() as u32).wrapping_sub(MIDDLE - NEAR) & (2 * MIDDLE - 1) < 2 * NEAR
}
