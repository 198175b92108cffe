//! Codes of 8 bits side by side: all pairs are counted, and figures made of the counts.
//!
//! A pair is a place in a histogram of 65536: two bytes say everything about a difference.

use super::code_meaning::bin32;
use super::code_tiles::{split, TileWalk, Tiles, BLOCK};
use super::differences::{CodeTable, Differences};
use crate::error::{same_length, Error};
use crate::simd::{dispatch, Kernel, Lanes};

const CODES: usize = 1 << 8;
const PAIRS: usize = 1 << 16;
const CHUNK: usize = 1 << 20;
/// Distance of NaN from a number.
const FAR: u16 = u16::MAX;

/// Compares codes that mean nothing without scales.
pub(super) fn run(whole: Tiles<'_, u8>, table: CodeTable<'_>) -> Result<Differences, Error> {
    same_length("numbers", table.numbers.len(), CODES)?;
    same_length("places", table.places.len(), CODES)?;
    let gap = |x: usize, y: usize| table.places[x].abs_diff(table.places[y]);
    let distances: Vec<u16> = (0..PAIRS)
        .map(|pair| {
            let (x, y) = (pair / CODES, pair % CODES);
            let nan = table.numbers[x].is_nan() != table.numbers[y].is_nan();
            let distance = gap(x, y).min(u32::from(FAR) - 1);
            if nan {
                FAR
            } else {
                distance as u16
            }
        })
        .collect();
    let found = split(whole, CHUNK, |from, task| {
        let (pairs, first) = dispatch(Run { task, distances: &distances });
        (pairs, first.map(|at| at + from))
    })?;
    let mut pairs = vec![0u64; PAIRS];
    let mut all = Differences::new();
    for (part, first) in found {
        pairs.iter_mut().zip(&part).for_each(|(sum, &count)| *sum += u64::from(count));
        all.first = all.first.or(first);
    }
    let most = table.numbers.iter().filter(|x| x.is_finite()).fold(0.0, |m: f64, x| m.max(x.abs()));
    for (pair, count) in pairs.into_iter().enumerate().filter(|&(pair, count)| pair % 257 != 0 && count > 0) {
        let (x, y) = (pair / CODES, pair % CODES);
        let (p, q) = (table.numbers[x], table.numbers[y]);
        all.bits[(x ^ y).count_ones() as usize] += count;
        match (p.is_nan(), q.is_nan()) {
            (true, true) => all.nan_payloads += count,
            (true, false) => all.nan_a += count,
            (false, true) => all.nan_b += count,
            (false, false) => all.distances[bin32(gap(x, y)) as usize] += count,
        }
        all.zeros += if p == 0.0 && q == 0.0 { count } else { 0 };
        all.saturated_a += if p.abs() == most { count } else { 0 };
        all.saturated_b += if q.abs() == most { count } else { 0 };
    }
    Ok(all)
}

struct Run<'a> {
    task: Tiles<'a, u8>,
    distances: &'a [u16],
}

impl Kernel for Run<'_> {
    type Out = (Vec<u32>, Option<usize>);

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) -> Self::Out {
        let Tiles { a, b, grid, counts, worst } = self.task;
        let mut pairs = vec![0u32; PAIRS];
        let mut first = None;
        let mut walk = TileWalk::new(grid);
        for (i, (a, b)) in a.chunks(BLOCK).zip(b.chunks(BLOCK)).enumerate() {
            if a == b {
                walk.skip(a.len());
                continue;
            }
            if first.is_none() {
                first = a.iter().zip(b).position(|(x, y)| x != y).map(|at| i * BLOCK + at);
            }
            let (mut left, mut right) = ([0; BLOCK], [0; BLOCK]);
            left[..a.len()].copy_from_slice(a);
            right[..b.len()].copy_from_slice(b);
            let mut far = [0; BLOCK];
            for (far, (&x, &y)) in far.iter_mut().zip(left.iter().zip(&right)) {
                let pair = usize::from(x) * CODES + usize::from(y);
                pairs[pair] += 1;
                *far = self.distances[pair];
            }
            let mut errors = [0.0; BLOCK];
            for (error, &far) in errors.iter_mut().zip(&far) {
                *error = if far == FAR { f64::INFINITY } else { f64::from(far) };
            }
            walk.count(&left, &right, &errors, a.len(), counts, worst);
        }
        (pairs, first)
    }
}
