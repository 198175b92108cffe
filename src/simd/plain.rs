//! Elements of memory that are read 32 bits at a time.

/// Integers, without padding, of which some make 32 bits, the first of them below.
pub trait Plain: Copy {
    /// Elements of 32 bits.
    const PER_WORD: usize;
    /// The 32 bits of as many elements.
    fn word(elements: &[Self]) -> u32;
}

impl Plain for f32 {
    const PER_WORD: usize = 1;
    #[inline(always)]
    fn word(e: &[f32]) -> u32 {
        e[0].to_bits()
    }
}

impl Plain for u8 {
    const PER_WORD: usize = 4;
    #[inline(always)]
    fn word(e: &[u8]) -> u32 {
        u32::from_le_bytes([e[0], e[1], e[2], e[3]])
    }
}

impl Plain for u16 {
    const PER_WORD: usize = 2;
    #[inline(always)]
    fn word(e: &[u16]) -> u32 {
        u32::from(e[0]) | u32::from(e[1]) << 16
    }
}
