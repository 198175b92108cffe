//! Intervals that end inside a step: each is filled up with zeros, which change no sum, so that it is whole steps.

use super::super::job::{Job, Side};
use super::{bytes, STEP};
use crate::formats::Codes;

/// Both sides with their intervals filled up.
pub(super) struct Filled {
    a: Vec<u8>,
    b: Vec<u8>,
    k: usize,
    interval: usize,
}

impl Filled {
    /// Lays the sides out anew, if intervals end inside steps.
    pub fn new(job: &Job<'_>) -> Option<Filled> {
        if job.chained || job.interval >= job.k || job.interval.is_multiple_of(STEP) {
            return None;
        }
        let interval = job.interval.next_multiple_of(STEP);
        let k = job.k.div_ceil(job.interval) * interval;
        let fill = |side: &Side<'_>| {
            let codes = bytes(side.codes);
            let mut out = vec![0; codes.len() / job.k * k];
            for (codes, out) in codes.chunks(job.k).zip(out.chunks_mut(k)) {
                for (codes, out) in codes.chunks(job.interval).zip(out.chunks_mut(interval)) {
                    out[..codes.len()].copy_from_slice(codes);
                }
            }
            out
        };
        Some(Filled { a: fill(&job.a), b: fill(&job.b), k, interval })
    }

    /// The same product.
    pub fn job<'a>(&'a self, job: &Job<'a>) -> Job<'a> {
        let side = |side: &Side<'a>, codes: &'a [u8]| {
            // a scale spans whole intervals, or all of k
            let span = if side.blocks.1 > 1 { side.group.1 / job.interval * self.interval } else { self.k };
            Side { codes: Codes::U8(codes), k: self.k, group: (side.group.0, span), ..*side }
        };
        Job { a: side(&job.a, &self.a), b: side(&job.b, &self.b), k: self.k, interval: self.interval, ..*job }
    }
}
