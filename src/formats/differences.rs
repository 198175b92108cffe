//! Two arrays of codes side by side: counts of what differs, in one pass.
//!
//! A tile is `edge` codes of a row. Tasks are runs of whole tiles, of about [`CHUNK`] codes, and their figures are added
//! in order: results depend on neither threads nor levels. Within a task, blocks of [`BLOCK`] equal codes only add to the
//! signal; all others go to one histogram of pairs (differing bits, bin of the distance).

use super::code_meaning::{Bfloat16, Float16, Float32, Float64, Integer, Meaning, Table};
use crate::error::{elements, same_length, Error};
use crate::simd::{dispatch, Kernel, Lanes};
use crate::threads::run_tasks;
use std::marker::PhantomData;

const CHUNK: usize = 1 << 18;
const BLOCK: usize = 64;
const LANES: usize = 16;
const TABLES: usize = 4;
const DISTANCES: usize = 66;
const ONLY_A: usize = DISTANCES;
const ONLY_B: usize = DISTANCES + 1;
const BOTH: usize = DISTANCES + 2;
const ZEROS: usize = DISTANCES + 3;
/// Bins of a row of the histogram: distances, NaN on either side or both, zeros.
const BINS: usize = DISTANCES + 4;
const MAX_EDGE: usize = 1 << 16;

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

/// Rows of codes, cut into tiles.
#[derive(Clone, Copy, Debug)]
pub struct TileGrid {
    /// Codes of a row.
    pub cols: usize,
    /// Codes of a tile; the last of a row may be shorter.
    pub edge: usize,
    /// Index of the first tile, counted along rows.
    pub first: usize,
}

impl TileGrid {
    fn wide(&self) -> usize {
        self.cols.div_ceil(self.edge)
    }

    /// Place of a tile's first code in the whole.
    fn begin(&self, tile: usize) -> usize {
        (tile / self.wide()) * self.cols + (tile % self.wide()) * self.edge
    }
}

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
    fn new() -> Self {
        Self { bits: vec![0; 65], distances: vec![0; DISTANCES], ..Self::default() }
    }

    fn add(&mut self, other: &Self) {
        self.bits.iter_mut().zip(&other.bits).for_each(|(a, b)| *a += b);
        self.distances.iter_mut().zip(&other.distances).for_each(|(a, b)| *a += b);
        self.zeros += other.zeros;
        self.nan_a += other.nan_a;
        self.nan_b += other.nan_b;
        self.nan_payloads += other.nan_payloads;
        self.saturated_a += other.saturated_a;
        self.saturated_b += other.saturated_b;
        self.first = self.first.or(other.first);
        self.max_abs = self.max_abs.max(other.max_abs);
        self.max_rel = self.max_rel.max(other.max_rel);
        self.signal += other.signal;
        self.noise += other.noise;
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
            run($a, $b, $meaning, grid, counts, worst)
        };
    }
    match pair {
        Pair::Float32(a, b) => compared!(a, b, Float32),
        Pair::Float64(a, b) => compared!(a, b, Float64),
        Pair::Bfloat16(a, b) => compared!(a, b, Bfloat16),
        Pair::Float16(a, b) => compared!(a, b, Float16),
        Pair::Int8(a, b, true) => compared!(a, b, Integer::<true>),
        Pair::Int8(a, b, false) => compared!(a, b, Integer::<false>),
        Pair::Int16(a, b, true) => compared!(a, b, Integer::<true>),
        Pair::Int16(a, b, false) => compared!(a, b, Integer::<false>),
        Pair::Int32(a, b, true) => compared!(a, b, Integer::<true>),
        Pair::Int32(a, b, false) => compared!(a, b, Integer::<false>),
        Pair::Int64(a, b, true) => compared!(a, b, Integer::<true>),
        Pair::Int64(a, b, false) => compared!(a, b, Integer::<false>),
        Pair::Bytes(a, b, table) if table.measured => compared!(a, b, Table::<true>::new(table, 1 << 8)?),
        Pair::Bytes(a, b, table) => compared!(a, b, Table::<false>::new(table, 1 << 8)?),
        Pair::Words(a, b, table) if table.measured => compared!(a, b, Table::<true>::new(table, 1 << 16)?),
        Pair::Words(a, b, table) => compared!(a, b, Table::<false>::new(table, 1 << 16)?),
    }
}

struct Run<'a, C, M> {
    a: &'a [C],
    b: &'a [C],
    meaning: M,
    grid: TileGrid,
    counts: &'a mut [u32],
    worst: &'a mut [f64],
}

fn run<C: Copy + Eq + Default + Sync, M: Meaning<C>>(
    a: &[C],
    b: &[C],
    meaning: M,
    grid: TileGrid,
    counts: &mut [u32],
    worst: &mut [f64],
) -> Result<Differences, Error> {
    same_length("b", b.len(), a.len())?;
    let mut all = Differences::new();
    if counts.is_empty() || grid.cols == 0 {
        same_length("counts", counts.len(), 0)?;
        same_length("a", a.len(), 0)?;
        return Ok(all);
    }
    let rows = (grid.first.saturating_add(counts.len()) / grid.wide()).saturating_add(2);
    elements("first", &[rows, grid.cols])?;
    let begin = |tile: usize| grid.begin(grid.first + tile) - grid.begin(grid.first);
    same_length("a", a.len(), begin(counts.len()))?;
    let tiles = (CHUNK / grid.edge.min(grid.cols).max(1)).max(1);
    let tasks: Vec<_> = counts.chunks_mut(tiles).zip(worst.chunks_mut(tiles)).enumerate().collect();
    let found = run_tasks(a.len(), tasks, |(task, (counts, worst))| {
        let from = begin(task * tiles);
        let span = from..begin(task * tiles + counts.len());
        let grid = TileGrid { first: grid.first + task * tiles, ..grid };
        let (a, b) = (&a[span.clone()], &b[span]);
        let mut found = dispatch(Run { a, b, meaning, grid, counts, worst });
        found.first = found.first.map(|at| at + from);
        found
    });
    found.iter().for_each(|part| all.add(part));
    Ok(all)
}

/// Figures of one task.
struct Sums<C> {
    /// Codes by differing bits and bin, in several tables: increments of one place wait for each other.
    pairs: [Vec<u32>; TABLES],
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
        let mut walk = TileWalk::new(self.grid);
        let (whole_a, rest_a) = self.a.as_chunks::<BLOCK>();
        let (whole_b, rest_b) = self.b.as_chunks::<BLOCK>();
        for (i, (a, b)) in whole_a.iter().zip(whole_b).enumerate() {
            sums.square(self.meaning, a);
            if a == b {
                walk.skip(BLOCK);
                continue;
            }
            sums.note(a, b, i * BLOCK);
            let errors = sums.block(self.meaning, a, b);
            walk.count(a, b, &errors, BLOCK, self.counts, self.worst);
        }
        if !rest_a.is_empty() {
            let (mut a, mut b) = ([C::default(); BLOCK], [C::default(); BLOCK]);
            a[..rest_a.len()].copy_from_slice(rest_a);
            b[..rest_b.len()].copy_from_slice(rest_b);
            sums.square(self.meaning, rest_a);
            if a != b {
                sums.note(&a, &b, whole_a.len() * BLOCK);
                let errors = sums.block(self.meaning, &a, &b);
                walk.count(&a, &b, &errors, rest_a.len(), self.counts, self.worst);
            }
        }
        sums.told()
    }
}

impl<C: Copy + Eq> Sums<C> {
    fn new() -> Self {
        let pairs = || vec![0; (8 * std::mem::size_of::<C>() + 1) * BINS];
        Self {
            pairs: std::array::from_fn(|_| pairs()),
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
        let mut places = [0u32; BLOCK];
        let mut saturated = [0u32; 2];
        for (place, (&x, &y)) in places.iter_mut().zip(a.iter().zip(b)) {
            let (nan_x, nan_y) = (meaning.nan(x), meaning.nan(y));
            let zeros = meaning.zero(x) && meaning.zero(y);
            let plain = if zeros { ZEROS as u32 } else { meaning.bin(x, y) };
            let nan = if nan_x && nan_y {
                BOTH
            } else if nan_x {
                ONLY_A
            } else {
                ONLY_B
            };
            let bin = if nan_x | nan_y { nan as u32 } else { plain };
            *place = meaning.changed(x, y) * BINS as u32 + bin;
            saturated[0] += u32::from(meaning.most(x) & (x != y));
            saturated[1] += u32::from(meaning.most(y) & (x != y));
        }
        self.saturated[0] += saturated[0];
        self.saturated[1] += saturated[1];
        for group in places.as_chunks::<TABLES>().0 {
            for (table, &place) in self.pairs.iter_mut().zip(group) {
                table[place as usize] += 1;
            }
        }
        let mut errors = [0.0; BLOCK];
        if !M::MEASURED {
            for (error, (&x, &y)) in errors.iter_mut().zip(a.iter().zip(b)) {
                let one_nan = meaning.nan(x) != meaning.nan(y);
                *error = if one_nan { f64::INFINITY } else { meaning.distance(x, y) };
            }
            return errors;
        }
        let mut sizes = [0.0; BLOCK];
        let mut finite = [0.0; BLOCK];
        for (i, (&x, &y)) in a.iter().zip(b).enumerate() {
            let (p, q) = (meaning.number(x), meaning.number(y));
            let counted = p.abs() < f64::INFINITY && q.abs() < f64::INFINITY;
            let same = x == y || p.is_nan() & q.is_nan();
            sizes[i] = if counted { p.abs() } else { 1.0 };
            finite[i] = if counted { (q - p).abs() } else { 0.0 };
            errors[i] = if counted | same { finite[i] } else { f64::INFINITY };
        }
        let mut noise = self.noise;
        for group in finite.as_chunks::<LANES>().0 {
            noise.iter_mut().zip(group).for_each(|(sum, e)| *sum += e * e);
        }
        self.noise = noise;
        self.max_abs = largest(&finite).max(self.max_abs);
        // Divides only where an error may be the largest yet: rounding down the factor keeps all that are.
        let factor = self.max_rel * (1.0 - f64::EPSILON * 4.0);
        let mut any = false;
        for (&e, &size) in finite.iter().zip(&sizes) {
            any |= (e > 0.0) & (e >= factor * size);
        }
        if any {
            let mut ratios = [0.0; BLOCK];
            for (ratio, (&e, &size)) in ratios.iter_mut().zip(finite.iter().zip(&sizes)) {
                *ratio = if e > 0.0 { e / size } else { 0.0 };
            }
            self.max_rel = largest(&ratios).max(self.max_rel);
        }
        errors
    }
}

/// The largest of numbers that are not negative, nor NaN: their bits are in the order of the numbers.
#[inline(always)]
fn largest(numbers: &[f64]) -> f64 {
    f64::from_bits(numbers.iter().fold(0, |most, x| most.max(x.to_bits())))
}

/// Counts the codes that differ.
#[inline(always)]
fn unlike<C: Eq>(a: &[C], b: &[C]) -> u32 {
    a.iter().zip(b).map(|(x, y)| u32::from(x != y)).sum()
}

/// A place among tiles.
struct TileWalk {
    grid: TileGrid,
    last: usize,
    short: usize,
    column: usize,
    tile: usize,
    left: usize,
}

impl TileWalk {
    #[inline(always)]
    fn new(grid: TileGrid) -> Self {
        let last = grid.wide() - 1;
        let column = grid.first % grid.wide();
        let mut walk = Self { grid, last, short: grid.cols - last * grid.edge, column, tile: 0, left: 0 };
        walk.left = walk.length();
        walk
    }

    #[inline(always)]
    fn length(&self) -> usize {
        if self.column == self.last {
            self.short
        } else {
            self.grid.edge
        }
    }

    /// Goes on by at most what is left of the tile.
    #[inline(always)]
    fn advance(&mut self, by: usize) {
        self.left -= by;
        if self.left == 0 {
            self.tile += 1;
            self.column = if self.column == self.last { 0 } else { self.column + 1 };
            self.left = self.length();
        }
    }

    #[inline(always)]
    fn skip(&mut self, mut codes: usize) {
        while codes > 0 {
            let by = codes.min(self.left);
            self.advance(by);
            codes -= by;
        }
    }

    /// Gives each tile its part of a block.
    #[inline(always)]
    fn count<C: Copy + Eq>(
        &mut self,
        a: &[C; BLOCK],
        b: &[C; BLOCK],
        errors: &[f64; BLOCK],
        used: usize,
        counts: &mut [u32],
        worst: &mut [f64],
    ) {
        if used == BLOCK && self.left >= BLOCK {
            counts[self.tile] += unlike(a, b);
            worst[self.tile] = worst[self.tile].max(largest(errors));
            return self.advance(BLOCK);
        }
        let mut at = 0;
        while at < used {
            let end = used.min(at + self.left);
            counts[self.tile] += unlike(&a[at..end], &b[at..end]);
            worst[self.tile] = worst[self.tile].max(largest(&errors[at..end]));
            self.advance(end - at);
            at = end;
        }
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
