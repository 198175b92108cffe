//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): random bits as a
//! pure function of seed and element index, so that stochastic rounding does not depend on threads, chunks
//! or instruction sets.

/// One block: four words from a 128-bit counter and a 64-bit key.
#[inline(always)]
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    const MULTIPLIERS: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    for _ in 0..10 {
        let p0 = MULTIPLIERS[0] * u64::from(counter[0]);
        let p1 = MULTIPLIERS[1] * u64::from(counter[2]);
        counter = [
            (p1 >> 32) as u32 ^ counter[1] ^ key[0],
            p1 as u32,
            (p0 >> 32) as u32 ^ counter[3] ^ key[1],
            p0 as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// Fills `out` with the words of elements `first..`: element `i` gets word `i % 4` of block `i / 4`.
#[inline(always)]
pub fn random_words(seed: u64, first: u64, out: &mut [u32]) {
    let key = [seed as u32, (seed >> 32) as u32];
    let mut i = 0;
    while i < out.len() {
        let element = first + i as u64;
        let (block, word) = (element / 4, (element % 4) as usize);
        let words = philox4x32([block as u32, (block >> 32) as u32, 0, 0], key);
        let n = (4 - word).min(out.len() - i);
        out[i..i + n].copy_from_slice(&words[word..word + n]);
        i += n;
    }
}

#[cfg(test)]
mod tests {
    use super::philox4x32;

    /// The known-answer vectors published with the Random123 library.
    #[test]
    fn known_answers() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox4x32([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }
}
