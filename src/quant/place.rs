//! Where the scale of an element stands, as the lane code looks it up.

use crate::simd::{Lanes, MAX_GROUP};

/// Finds the scales of a vector of elements.
pub(super) trait Place: Copy + Send + Sync {
    /// The values that belong to the `j`-th vector of the group at element `at` of the run.
    fn load<L: Lanes>(&self, l: L, values: &[f32], at: usize, j: usize) -> L::F;

    /// The values that belong to all vectors of that group.
    #[inline(always)]
    fn group<L: Lanes>(&self, l: L, values: &[f32], at: usize) -> [L::F; 4] {
        by_vector(self, l, values, at)
    }
}

/// The values of a group, each vector looked up by itself.
#[inline(always)]
fn by_vector<L: Lanes>(place: &impl Place, l: L, values: &[f32], at: usize) -> [L::F; 4] {
    let load = |j| place.load(l, values, at, j);
    [load(0), load(1), load(2), load(3)]
}

/// Blocks whose width is a power of two and no less than a vector, entered on a vector boundary; or a run inside a
/// single block. Every vector has one scale.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shifted {
    phase: usize,
    shift: u32,
}

/// The most lanes of any level.
const WIDEST: usize = MAX_GROUP / 4;

impl Shifted {
    /// For a run of `n` elements that begins `phase` elements into a block.
    pub fn new(block_cols: usize, phase: usize, n: usize) -> Option<Shifted> {
        if phase + n <= block_cols {
            return Some(Shifted { phase: 0, shift: usize::BITS - 1 });
        }
        let regular = Across::fits(block_cols) && phase.is_multiple_of(WIDEST);
        regular.then(|| Shifted { phase, shift: block_cols.trailing_zeros() })
    }
}

impl Place for Shifted {
    #[inline(always)]
    fn load<L: Lanes>(&self, l: L, values: &[f32], at: usize, j: usize) -> L::F {
        // The last vector of a padded group may lie beyond the last block; what it yields is thrown away.
        let block = (self.phase + at + j * L::N) >> self.shift;
        l.f32(values[block.min(values.len() - 1)])
    }
}

impl Shifted {
    /// The same for the rest of a run.
    #[inline(always)]
    pub fn after(self, n: usize) -> Shifted {
        Shifted { phase: self.phase + n, ..self }
    }

    /// The same where every group of a run has one scale.
    pub fn by_group<L: Lanes>(self) -> Option<ByGroup> {
        (1 << self.shift >= L::GROUP && self.phase.is_multiple_of(L::GROUP)).then_some(ByGroup(self))
    }
}

/// Blocks of whole groups, of runs whose groups begin on multiples of their length.
#[derive(Clone, Copy, Debug)]
pub(super) struct ByGroup(Shifted);

impl Place for ByGroup {
    #[inline(always)]
    fn load<L: Lanes>(&self, l: L, values: &[f32], at: usize, _j: usize) -> L::F {
        l.f32(values[(self.0.phase + at) >> self.0.shift])
    }
}

/// Blocks whose width is a power of two and no less than a vector, entered anywhere: a vector may end in the next block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Across {
    phase: usize,
    shift: u32,
}

impl Across {
    /// For runs of `n` elements that begin `phase` elements into a block.
    pub fn new(block_cols: usize, phase: usize, n: usize) -> Option<Across> {
        if phase + n <= block_cols {
            return Some(Across { phase: 0, shift: usize::BITS - 1 });
        }
        Across::fits(block_cols).then(|| Across { phase, shift: block_cols.trailing_zeros() })
    }

    /// Tests if runs of many blocks of a width have such places.
    pub fn fits(block_cols: usize) -> bool {
        block_cols.is_power_of_two() && block_cols >= WIDEST
    }

    /// The width of a block.
    pub fn width(self) -> usize {
        1 << self.shift
    }

    /// The block of an element of the run, and how many elements of it are left from there.
    #[inline(always)]
    pub fn block(self, at: usize) -> (usize, usize) {
        let from = self.phase + at;
        (from >> self.shift, self.width() - (from & (self.width() - 1)))
    }
}

/// The place of each lane.
static LANES: [u32; WIDEST] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

impl Place for Across {
    #[inline(always)]
    fn load<L: Lanes>(&self, l: L, values: &[f32], at: usize, j: usize) -> L::F {
        let (start, last) = (self.phase + at, values.len() - 1);
        let from = start + j * L::N;
        let value = |at: usize| l.bits(l.f32(values[(at >> self.shift).min(last)]));
        // The same for all vectors of a group: lanes up to the next multiple of a vector.
        let first = l.gt(l.u32((L::N - start % L::N) as u32), l.load_u32(&LANES));
        l.float(l.select(first, value(from), value(from + L::N - 1)))
    }

    /// Most groups lie in one block, where blocks are wide.
    #[inline(always)]
    fn group<L: Lanes>(&self, l: L, values: &[f32], at: usize) -> [L::F; 4] {
        if self.width() < L::GROUP {
            return by_vector(self, l, values, at);
        }
        let ((block, left), last) = (self.block(at), values.len() - 1);
        let here = l.f32(values[block.min(last)]);
        if left >= L::GROUP {
            return [here; 4];
        }
        let (next, lanes) = (l.f32(values[(block + 1).min(last)]), l.load_u32(&LANES));
        let load = |j| {
            let first = l.gt(l.u32(left.saturating_sub(j * L::N) as u32), lanes);
            l.float(l.select(first, l.bits(here), l.bits(next)))
        };
        [load(0), load(1), load(2), load(3)]
    }
}

/// A value for each element, as [`spread`] lays them out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Each;

impl Place for Each {
    #[inline(always)]
    fn load<L: Lanes>(&self, l: L, values: &[f32], at: usize, j: usize) -> L::F {
        l.load_f32(&values[at..at + L::GROUP][j * L::N..])
    }
}

/// The scale of each element of a run of `n` that begins `phase` elements into the first of `blocks`, and a group to
/// spare.
#[inline(always)]
pub(super) fn spread(blocks: &[f32], block_cols: usize, phase: usize, n: usize, each: &mut Vec<f32>) {
    each.clear();
    each.reserve(n + MAX_GROUP);
    if block_cols == 1 {
        each.extend_from_slice(&blocks[..n]);
    } else {
        let mut width = block_cols - phase;
        for scale in blocks {
            let left = n - each.len();
            if left == 0 {
                break;
            }
            each.extend(std::iter::repeat_n(*scale, width.min(left)));
            width = block_cols;
        }
    }
    each.extend(std::iter::repeat_n(0.0, MAX_GROUP));
}
