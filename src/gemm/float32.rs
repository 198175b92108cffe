//! float32 sums in one canonical order, that of AMX: for each 32 of k a chain of sums over the even k and one over the
//! odd k, both from +0; then the accumulator plus the sum of the two. Products are exact.

use super::definition::Chain;
use crate::formats::{Codes, Format};

/// Products of a step.
const STEP: usize = 32;

/// The definition.
#[derive(Clone, Copy)]
pub(super) struct Float32Sum;

impl Chain for Float32Sum {
    type Item = f32;
    fn items(&self, codes: Codes<'_>, at: usize, len: usize, format: &Format) -> Vec<f32> {
        match codes {
            Codes::U8(codes) => codes[at..at + len].iter().map(|c| format.value(u32::from(*c))).collect(),
            Codes::U16(codes) => codes[at..at + len].iter().map(|c| format.value(u32::from(*c))).collect(),
        }
    }
    fn run(&self, a: &[f32], b: &[f32], c: f32) -> f32 {
        let chain = |a: &[f32], b: &[f32], odd: usize| -> f32 {
            let products = a.iter().zip(b).skip(odd).step_by(2);
            products.fold(0.0, |sum, (x, y)| sum + x * y)
        };
        a.chunks(STEP).zip(b.chunks(STEP)).fold(c, |c, (a, b)| c + (chain(a, b, 0) + chain(a, b, 1)))
    }
}
