//! Two arrays of codes side by side: counts of what differs, in one pass.
//!
//! A tile is `edge` codes of a row. Tasks are runs of whole tiles, of about [`CHUNK`] codes, and their figures are added
//! in order: results depend on neither threads nor levels. Within a task, blocks of [`BLOCK`] equal codes only add to the
//! signal; all others go to one histogram of pairs (differing bits, bin of the distance).

use super::code_meaning::{Bfloat16, Float16, Float32, Float64, Integer, Meaning, Table};
use super::code_pairs;
use super::code_tiles::{largest, split, TileWalk, Tiles, BLOCK, MAX_EDGE};
use crate::error::{same_length, Error};
use crate::simd::{dispatch, portable, Kernel, Lanes};
use std::marker::PhantomData;

pub use super::code_tiles::TileGrid;

const CHUNK: usize = 1 << 18;
const LANES: usize = 16;
const TABLES: usize = 4;
const DISTANCES: usize = 66;
const ONLY_A: usize = DISTANCES;
const ONLY_B: usize = DISTANCES + 1;
const BOTH: usize = DISTANCES + 2;
const ZEROS: usize = DISTANCES + 3;
/// Bins of a row of the histogram: distances, NaN on either side or both, zeros.
const BINS: usize = DISTANCES + 4;
/// Places of a histogram: more than 65 rows of bins, and a power of two.
const PLACES: usize = 1 << 13;

/// Two slices of codes, by their meaning.
#[derive(Clone, Copy, Debug)]
pub enum Pair<'a> {
    /// float32.
    Float32(&'a [u32], &'a [u32]),
    /// float64.
    Float64(&'a [u64], &'a [u64]),
    /// bfloat16.
    Bfloat16(&'a [u16], &'a [u16]),
    /// float16.
    Float16(&'a [u16], &'a [u16]),
    /// Integers of 8 bits; signed where the flag says so.
    Int8(&'a [u8], &'a [u8], bool),
    /// Integers of 16 bits.
    Int16(&'a [u16], &'a [u16], bool),
    /// Integers of 32 bits.
    Int32(&'a [u32], &'a [u32], bool),
    /// Integers of 64 bits.
    Int64(&'a [u64], &'a [u64], bool),
    /// Codes of a small format in bytes.
    Bytes(&'a [u8], &'a [u8], CodeTable<'a>),
    /// Codes of a small format in words of 16 bits.
    Words(&'a [u16], &'a [u16], CodeTable<'a>),
}

/// A small format, code by code.
#[derive(Clone, Copy, Debug)]
pub struct CodeTable<'a> {
    /// The number of each code.
    pub numbers: &'a [f64],
    /// Its place on the line of codes.
    pub places: &'a [i32],
    /// True: errors of numbers are counted.
    pub measured: bool,
}

/// Adds fields of one record to those of another.
macro_rules! add_fields {
    ($to:ident += $from:ident: $($field:ident)+) => { $($to.$field += $from.$field;)+ };
}
pub(crate) use add_fields;

/// Counts of what differs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Differences {
    /// Codes by the number of their differing bits, 0 for none.
    pub bits: Vec<u64>,
    /// Codes by their distance: 0, 1, 2, up to 4, up to 8, and so on.
    pub distances: Vec<u64>,
    /// Zeros of unlike bits.
    pub zeros: u64,
    /// NaN on the left only.
    pub nan_a: u64,
    /// NaN on the right only.
    pub nan_b: u64,
    /// NaN of unlike bits on both sides.
    pub nan_payloads: u64,
    /// Differing codes of the largest finite number, on the left.
    pub saturated_a: u64,
    /// Differing codes of the largest finite number, on the right.
    pub saturated_b: u64,
    /// Place of the first difference, from the first code of the slices.
    pub first: Option<usize>,
    /// Largest absolute error of finite numbers.
    pub max_abs: f64,
    /// Largest error relative to the left.
    pub max_rel: f64,
    /// Sum of squares of finite numbers on the left.
    pub signal: f64,
    /// Sum of squares of errors.
    pub noise: f64,
}

impl Differences {
    pub(super) fn new() -> Self {
        Self { bits: vec![0; 65], distances: vec![0; DISTANCES], ..Self::default() }
    }

    fn add(&mut self, other: &Self) {
        self.bits.iter_mut().zip(&other.bits).for_each(|(a, b)| *a += b);
        self.distances.iter_mut().zip(&other.distances).for_each(|(a, b)| *a += b);
        add_fields!(self += other: zeros nan_a nan_b nan_payloads saturated_a saturated_b signal noise);
        self.first = self.first.or(other.first);
        self.max_abs = self.max_abs.max(other.max_abs);
        self.max_rel = self.max_rel.max(other.max_rel);
    }
}

/// Compares whole tiles, and counts for each the differing codes and its worst error.
///
/// The worst error is absolute where numbers are measured, else a distance on the line of codes. A number beside NaN or
/// infinity is infinitely wrong.
///
/// # Errors
/// [`Error::Length`] unless the slices hold the tiles that `counts` and `worst` have places for, and tables a number and
/// a place for every code; [`Error::Range`] for an edge that is 0 or above 65536.
pub fn differences(
    pair: Pair<'_>,
    grid: TileGrid,
    counts: &mut [u32],
    worst: &mut [f64],
) -> Result<Differences, Error> {
    if grid.edge == 0 || grid.edge > MAX_EDGE {
        return Err(Error::Range {
            what: "tile",
            found: grid.edge.to_string(),
            expected: "a whole number from 1 to 65536",
        });
    }
    same_length("worst", worst.len(), counts.len())?;
    macro_rules! compared {
        ($a:expr, $b:expr, $meaning:expr) => {
            run(Tiles { a: $a, b: $b, grid, counts, worst }, $meaning)
        };
    }
    match pair {
        Pair::Float32(a, b) => compared!(a, b, Float32),
        Pair::Float64(a, b) => compared!(a, b, Float64),
        Pair::Bfloat16(a, b) => compared!(a, b, Bfloat16),
        Pair::Float16(a, b) => compared!(a, b, Float16),
        Pair::Int8(a, b, signed) => compared!(a, b, Integer { signed }),
        Pair::Int16(a, b, signed) => compared!(a, b, Integer { signed }),
        Pair::Int32(a, b, signed) => compared!(a, b, Integer { signed }),
        Pair::Int64(a, b, signed) => compared!(a, b, Integer { signed }),
        Pair::Bytes(a, b, table) if table.measured => compared!(a, b, Table::<true>::new(table, 1 << 8)?),
        Pair::Bytes(a, b, table) => code_pairs::run(Tiles { a, b, grid, counts, worst }, table),
        Pair::Words(a, b, table) if table.measured => compared!(a, b, Table::<true>::new(table, 1 << 16)?),
        Pair::Words(a, b, table) => compared!(a, b, Table::<false>::new(table, 1 << 16)?),
    }
}

fn run<C: Copy + Eq + Default + Sync, M: Meaning<C>>(
    whole: Tiles<'_, C>,
    meaning: M,
) -> Result<Differences, Error> {
    let found = split(whole, CHUNK, |from, task| {
        let task = Run { task, meaning };
        let mut found = if M::RARE { portable(task) } else { dispatch(task) };
        found.first = found.first.map(|at| at + from);
        found
    })?;
    let mut all = Differences::new();
    found.iter().for_each(|part| all.add(part));
    Ok(all)
}

struct Run<'a, C, M> {
    task: Tiles<'a, C>,
    meaning: M,
}

/// Figures of one task.
struct Sums<C> {
    /// Codes by differing bits and bin, in several tables: increments of one place wait for each other.
    pairs: [Box<[u32; PLACES]>; TABLES],
    saturated: [u32; 2],
    max_abs: f64,
    max_rel: f64,
    first: Option<usize>,
    signal: [f64; LANES],
    noise: [f64; LANES],
    code: PhantomData<C>,
}

impl<C: Copy + Eq + Default, M: Meaning<C>> Kernel for Run<'_, C, M> {
    type Out = Differences;

    // Operations on each element, and sums in lanes of their own: the compiler makes vectors of them, and every level
    // gives the same.
    #[inline(always)]
    fn run<L: Lanes>(self, _: L) -> Differences {
        let mut sums = Sums::<C>::new();
        let Tiles { a, b, grid, counts, worst } = self.task;
        let mut walk = TileWalk::new(grid);
        let (whole_a, rest_a) = a.as_chunks::<BLOCK>();
        let (whole_b, rest_b) = b.as_chunks::<BLOCK>();
        // The last block is padded, so that there is one body.
        let (mut last_a, mut last_b) = ([C::default(); BLOCK], [C::default(); BLOCK]);
        last_a[..rest_a.len()].copy_from_slice(rest_a);
        last_b[..rest_b.len()].copy_from_slice(rest_b);
        for at in (0..a.len()).step_by(BLOCK) {
            let (i, count) = (at / BLOCK, BLOCK.min(a.len() - at));
            let (a, b) = (whole_a.get(i).unwrap_or(&last_a), whole_b.get(i).unwrap_or(&last_b));
            sums.square(self.meaning, &a[..count]);
            if a == b {
                walk.skip(count);
                continue;
            }
            sums.note(a, b, at);
            let errors = sums.block(self.meaning, a, b);
            walk.count(a, b, &errors, count, counts, worst);
        }
        sums.told()
    }
}

impl<C: Copy + Eq> Sums<C> {
    fn new() -> Self {
        Self {
            pairs: std::array::from_fn(|_| Box::new([0; PLACES])),
            saturated: [0; 2],
            first: None,
            max_abs: 0.0,
            max_rel: 0.0,
            signal: [0.0; LANES],
            noise: [0.0; LANES],
            code: PhantomData,
        }
    }

    /// Keeps the place of the first difference.
    #[inline(always)]
    fn note(&mut self, a: &[C; BLOCK], b: &[C; BLOCK], at: usize) {
        if self.first.is_none() {
            self.first = a.iter().zip(b).position(|(x, y)| x != y).map(|i| at + i);
        }
    }

    fn told(&self) -> Differences {
        let mut found = Differences::new();
        found.signal = self.signal.iter().sum();
        if self.first.is_none() {
            return found;
        }
        for bits in 1..=8 * std::mem::size_of::<C>() {
            let at =
                |bin: usize| self.pairs.iter().map(|table| u64::from(table[bits * BINS + bin])).sum::<u64>();
            found.bits[bits] = (0..BINS).map(at).sum();
            found.distances.iter_mut().enumerate().for_each(|(bin, count)| *count += at(bin));
            found.distances[0] += at(ZEROS);
            found.zeros += at(ZEROS);
            found.nan_a += at(ONLY_A);
            found.nan_b += at(ONLY_B);
            found.nan_payloads += at(BOTH);
        }
        found.saturated_a = u64::from(self.saturated[0]);
        found.saturated_b = u64::from(self.saturated[1]);
        found.first = self.first;
        found.max_abs = self.max_abs;
        found.max_rel = self.max_rel;
        found.noise = self.noise.iter().sum();
        found
    }

    /// Adds the squares of finite numbers.
    #[inline(always)]
    fn square<M: Meaning<C>>(&mut self, meaning: M, codes: &[C]) {
        if !M::MEASURED {
            return;
        }
        let mut signal = self.signal; // in registers
        let add = |sum: &mut f64, code: C| {
            let x = meaning.number(code);
            *sum += if x.abs() < f64::INFINITY { x * x } else { 0.0 };
        };
        let (groups, rest) = codes.as_chunks::<LANES>();
        for group in groups {
            signal.iter_mut().zip(group).for_each(|(sum, &code)| add(sum, code));
        }
        signal.iter_mut().zip(rest).for_each(|(sum, &code)| add(sum, code));
        self.signal = signal;
    }

    /// Counts the pairs of a block, and returns each one's error.
    #[inline(always)]
    fn block<M: Meaning<C>>(&mut self, meaning: M, a: &[C; BLOCK], b: &[C; BLOCK]) -> [f64; BLOCK] {
        let finite = a.iter().zip(b).fold(true, |all, (&x, &y)| all & meaning.finite(x) & meaning.finite(y));
        if finite {
            self.count::<M, true>(meaning, a, b);
        } else {
            self.count::<M, false>(meaning, a, b);
        }
        if M::MEASURED {
            return self.measure(meaning, a, b, finite);
        }
        std::array::from_fn(|i| {
            let one_nan = meaning.nan(a[i]) != meaning.nan(b[i]);
            if one_nan {
                f64::INFINITY
            } else {
                meaning.distance(a[i], b[i])
            }
        })
    }

    /// Counts differing bits with distances, and saturated codes.
    #[inline(always)]
    fn count<M: Meaning<C>, const FINITE: bool>(&mut self, meaning: M, a: &[C; BLOCK], b: &[C; BLOCK]) {
        let mut places = [0u32; BLOCK];
        let mut saturated = [0u32; 2];
        for (place, (&x, &y)) in places.iter_mut().zip(a.iter().zip(b)) {
            let zeros = meaning.zero(x) & meaning.zero(y);
            let mut bin = if zeros { ZEROS as u32 } else { meaning.bin(x, y) };
            if !FINITE {
                let (nan_x, nan_y) = (meaning.nan(x), meaning.nan(y));
                bin = if nan_y { ONLY_B as u32 } else { bin };
                bin = if nan_x { ONLY_A as u32 } else { bin };
                bin = if nan_x & nan_y { BOTH as u32 } else { bin };
            }
            *place = meaning.changed(x, y) * BINS as u32 + bin;
            saturated[0] += u32::from(meaning.most(x) & (x != y));
            saturated[1] += u32::from(meaning.most(y) & (x != y));
        }
        self.saturated[0] += saturated[0];
        self.saturated[1] += saturated[1];
        for group in places.as_chunks::<TABLES>().0 {
            for (table, &place) in self.pairs.iter_mut().zip(group) {
                table[place as usize % PLACES] += 1;
            }
        }
    }

    /// Adds up errors, and returns them: infinite for a number beside infinity or NaN.
    #[inline(always)]
    fn measure<M: Meaning<C>>(
        &mut self,
        meaning: M,
        a: &[C; BLOCK],
        b: &[C; BLOCK],
        finite: bool,
    ) -> [f64; BLOCK] {
        let (mut sizes, mut errors) = ([0.0; BLOCK], [0.0; BLOCK]);
        for ((size, error), (&x, &y)) in sizes.iter_mut().zip(&mut errors).zip(a.iter().zip(b)) {
            let (p, q) = (meaning.number(x), meaning.number(y));
            *size = p.abs();
            *error = (q - p).abs();
        }
        let mut shown = errors;
        if !finite {
            for (i, (&x, &y)) in a.iter().zip(b).enumerate() {
                let counted = meaning.finite(x) && meaning.finite(y);
                let same = x == y || meaning.nan(x) && meaning.nan(y);
                errors[i] = if counted { errors[i] } else { 0.0 };
                shown[i] = if counted || same { errors[i] } else { f64::INFINITY };
            }
        }
        let mut noise = self.noise;
        for group in errors.as_chunks::<LANES>().0 {
            noise.iter_mut().zip(group).for_each(|(sum, e)| *sum += e * e);
        }
        self.noise = noise;
        self.max_abs = largest(&errors).max(self.max_abs);
        // Divides only where an error may be the largest yet: rounding down the factor keeps all that are.
        let factor = self.max_rel * (1.0 - f64::EPSILON * 4.0);
        let any = errors
            .iter()
            .zip(&sizes)
            .fold(false, |any, (&e, &size)| any | ((e > 0.0) & (e >= factor * size)));
        if any {
            for (size, &e) in sizes.iter_mut().zip(&errors) {
                *size = if e > 0.0 { e / *size } else { 0.0 };
            }
            self.max_rel = largest(&sizes).max(self.max_rel);
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(pair: Pair<'_>, cols: usize, edge: usize, tiles: usize) -> (Differences, Vec<u32>, Vec<f64>) {
        let (mut counts, mut worst) = (vec![0; tiles], vec![0.0; tiles]);
        let grid = TileGrid { cols, edge, first: 0 };
        let found = differences(pair, grid, &mut counts, &mut worst);
        (found.unwrap_or_default(), counts, worst)
    }

    #[test]
    fn floats_are_counted() {
        let a = [1.0f32, 0.0, f32::NAN, 2.0, f32::MAX].map(f32::to_bits);
        let b = [1.0f32, -0.0, 1.0, 2.000_000_2, f32::INFINITY].map(f32::to_bits);
        let (found, tiles, worst) = compared(Pair::Float32(&a, &b), 5, 2, 3);
        assert_eq!(tiles, [1, 2, 1]);
        assert_eq!(worst, [0.0, f64::INFINITY, f64::INFINITY]);
        assert_eq!((found.zeros, found.nan_a, found.saturated_a, found.first), (1, 1, 1, Some(1)));
        assert_eq!((found.distances[0], found.distances[1]), (1, 2));
        assert_eq!(found.max_abs, f64::from(2.000_000_2f32) - 2.0);
    }

    #[test]
    fn signs_are_read() {
        let (found, _, worst) = compared(Pair::Int8(&[0xFF], &[1], true), 1, 1, 1);
        assert_eq!((found.distances[2], found.max_abs, worst[0]), (1, 2.0, 2.0));
        let (found, _, _) = compared(Pair::Int8(&[0xFF], &[1], false), 1, 1, 1);
        assert_eq!((found.distances[9], found.max_abs), (1, 254.0));
        let (found, _, _) = compared(Pair::Int64(&[u64::MAX >> 1], &[1 << 63], true), 1, 1, 1);
        assert_eq!(found.distances[65], 1);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let grid = TileGrid { cols: 2, edge: 2, first: 0 };
        let one =
            |pair, grid, tiles| differences(pair, grid, &mut vec![0; tiles], &mut vec![0.0; tiles]).is_err();
        assert!(one(Pair::Float32(&[1, 2], &[1]), grid, 1));
        assert!(one(Pair::Float32(&[1, 2], &[1, 2]), grid, 2));
        assert!(one(Pair::Float32(&[1, 2], &[1, 2]), TileGrid { edge: 0, ..grid }, 1));
        assert!(one(Pair::Float32(&[1, 2], &[1, 2]), TileGrid { cols: 0, ..grid }, 1));
        assert!(one(Pair::Float32(&[1, 2], &[1, 2]), TileGrid { first: usize::MAX, ..grid }, 1));
        let table = CodeTable { numbers: &[0.0; 4], places: &[0; 4], measured: false };
        assert!(one(Pair::Bytes(&[1, 2], &[1, 2], table), grid, 1));
    }
}
