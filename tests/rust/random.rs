//! Random numbers for tests: the same ones in every run.
#![allow(dead_code)] // each test has use for some

use dsv3_numerics::model::Real;

/// xorshift64*; the seed must not be zero.
pub struct Random(pub u64);

impl Random {
    /// 53 bits.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }
    /// The upper 32 of them.
    pub fn bits(&mut self) -> u32 {
        (self.next() >> 21) as u32
    }
    pub fn below(&mut self, n: usize) -> usize {
        self.bits() as usize % n
    }
    pub fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
    /// Numbers from -1 to 1.
    pub fn floats<T: Real>(&mut self, n: usize) -> Vec<T> {
        (0..n).map(|_| T::near(f64::from(self.bits()) / f64::from(1u32 << 31) - 1.0)).collect()
    }
}
