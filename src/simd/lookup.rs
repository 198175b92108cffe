//! Tables of the values of all codes, and the rules by which arithmetic makes them.

use super::lanes::f16_to_f32;

/// 256 float32 values, and their upper 16 bits split into bytes (every value is a bfloat16).
#[derive(Clone)]
#[repr(C, align(64))]
pub struct Lookup {
    /// The values.
    pub values: [f32; 256],
    /// Bits 16..24 of each value.
    pub low: [u8; 256],
    /// Bits 24..32 of each value.
    pub high: [u8; 256],
    /// True if the upper half is the lower half with the sign bit set.
    pub symmetric: bool,
    /// The shift that makes float16 of the codes, for formats that allow it.
    pub half: Option<F16Shift>,
    /// The shift that makes upper 16 bits of the codes, for formats that allow it.
    pub words: Option<WordShift>,
}

/// The shift that turns codes into float16: a code in the top byte of a 16-bit word, its magnitude shifted right below
/// the sign, is a float16 of the same value up to a power of two.
#[derive(Clone, Copy, Debug)]
pub struct F16Shift {
    /// Bits to shift by: 5 minus the exponent bits of the format.
    pub shift: u32,
    /// The power of two to multiply the float16 by.
    pub scale: f32,
    /// The first magnitude code that the shift does not decode (infinity, NaN).
    pub limit: u8,
}

impl F16Shift {
    /// Returns the float16 bits of a code.
    pub fn word(self, code: u8) -> u16 {
        let (sign, magnitude) = (u16::from(code & 0x80) << 8, u16::from(code & 0x7F) << 8);
        sign | magnitude >> self.shift
    }

    /// Returns the shift that reproduces a table, if one does.
    fn of(values: &[f32; 256]) -> Option<F16Shift> {
        (0..3).find_map(|shift| {
            let half = F16Shift { shift, scale: 1.0, limit: 0 };
            let scale = values[1] / f16_to_f32(half.word(1));
            let same = |code: u8| {
                let value = f16_to_f32(half.word(code)) * scale;
                value.to_bits() == values[usize::from(code)].to_bits()
            };
            let limit = (0..0x80u8).take_while(|&m| same(m) && same(m | 0x80)).count() as u8;
            (limit >= 0x70).then_some(F16Shift { scale, limit, ..half })
        })
    }
}

/// The shift and the sum that turn codes into the upper 16 bits of their values: a code in the top byte of a word, its
/// magnitude shifted right below the sign, and added to.
#[derive(Clone, Copy, Debug)]
pub struct WordShift {
    /// Bits to shift by.
    pub shift: u32,
    /// A number to add.
    pub add: u16,
    /// True: not so for the first 16 magnitudes.
    pub apart: bool,
    /// The first magnitude code from which on it is not so.
    pub limit: u8,
}

impl WordShift {
    /// Returns the rule that reproduces a table, if one does.
    fn of(values: &[f32; 256]) -> Option<WordShift> {
        let top = |code: u8| (values[usize::from(code)].to_bits() >> 16) as u16;
        let moved = |shift: u32, magnitude: u8| u16::from(magnitude) << 8 >> shift;
        (0..=5).find_map(|shift| {
            let add = top(16).wrapping_sub(moved(shift, 16));
            let same = |m: &u8| {
                let word = moved(shift, *m).wrapping_add(add);
                (word, word | 0x8000) == (top(*m), top(*m | 0x80))
            };
            let signed = |m: u8| top(m) | 0x8000 == top(m | 0x80);
            let limit = 16 + (16..0x80).take_while(same).count() as u8;
            let apart = !(0..16).all(|m| same(&m));
            (limit >= 0x70 && (0..16).all(signed)).then_some(WordShift { shift, add, apart, limit })
        })
    }
}

impl Lookup {
    /// Splits a table of bfloat16-representable values.
    pub fn new(values: [f32; 256]) -> Lookup {
        let byte = |shift: u32| values.map(|v| (v.to_bits() >> shift) as u8);
        let (positive, negative) = values.split_at(128);
        let symmetric = positive.iter().zip(negative).all(|(p, n)| n.to_bits() == p.to_bits() | 1 << 31);
        let (half, words) = (F16Shift::of(&values), WordShift::of(&values));
        Lookup { low: byte(16), high: byte(24), values, symmetric, half, words }
    }
}
