//! Steps of tensor cores in vector registers: many rows against sixteen columns.
//!
//! Two forms of the same sum. *Narrow*: every aligned term of FP8 units that keep 13 bits fits 16 bits, so products are
//! integers in 16-bit lanes, two k beside each other. *Wide*: products are exact float32 numbers, and a conversion
//! toward zero aligns and cuts them. A level implements [`Mma`]; the portable one needs no vectors: there the
//! definition runs.
//!
//! An accumulator is a float32 between two steps. It must be zero, or finite with an exponent from
//! [`Unit::least_exponent`] to 100, when a chain begins, and the caller must keep NaN, infinity and (for products of
//! bfloat16) extreme exponents out of the operands: what comes out of such chains is not specified, but safe.

/// Calls a level's narrow step with what a unit is made of as constants: pairs of products, and halves.
macro_rules! each_narrow {
    ($unit:expr, $step:ident($($given:expr),*)) => {
        match ($unit.products, $unit.half) {
            (32, false) => $step::<16, false>($($given),*),
            (32, true) => $step::<16, true>($($given),*),
            (16, false) => $step::<8, false>($($given),*),
            (16, true) => $step::<8, true>($($given),*),
            _ => panic!("a narrow step has 16 or 32 products"),
        }
    };
}

/// Calls a level's wide step in the same way; the third constant is a sum of software.
macro_rules! each_wide {
    ($unit:expr, $step:ident($($given:expr),*)) => {
        match ($unit.products, $unit.half, $unit.software) {
            (32, false, false) => $step::<16, false, false>($($given),*),
            (32, true, false) => $step::<16, true, false>($($given),*),
            (16, false, false) => $step::<8, false, false>($($given),*),
            (16, true, false) => $step::<8, true, false>($($given),*),
            (8, false, false) => $step::<4, false, false>($($given),*),
            (8, true, false) => $step::<4, true, false>($($given),*),
            (4, false, false) => $step::<2, false, false>($($given),*),
            (4, true, false) => $step::<2, true, false>($($given),*),
            (16, false, true) => $step::<8, false, true>($($given),*),
            (16, true, true) => $step::<8, true, true>($($given),*),
            _ => panic!("a wide step has 4, 8, 16 or 32 products"),
        }
    };
}

/// Calls a level's step on codes: as the narrow one, or the wide one.
#[cfg(target_arch = "x86_64")]
macro_rules! each_coded {
    ($unit:expr, ($($given:expr),*)) => {
        match ($unit.fraction, $unit.products, $unit.half) {
            (13, 32, false) => coded::<8, false, false>($($given),*),
            (13, 32, true) => coded::<8, true, false>($($given),*),
            (13, 16, false) => coded::<4, false, false>($($given),*),
            (13, 16, true) => coded::<4, true, false>($($given),*),
            (_, 32, false) => coded::<8, false, true>($($given),*),
            (_, 32, true) => coded::<8, true, true>($($given),*),
            _ => panic!("a step on codes has 32 products, or 16 narrow ones"),
        }
    };
}

/// Implements [`Mma`] for a level by the functions of its module: `narrow`, `wide`, `promote` and, where it has vectors
/// for groups, `group_steps`; where it has steps on codes, `coded`.
macro_rules! level {
    ($level:ty, doubled: $doubled:literal, extra: $extra:literal $(, $groups:ident $(, $coded:ident)?)?) => {
        impl Mma for $level {
            const DOUBLED: bool = $doubled;
            const EXTRA: u32 = $extra;

            fn narrow(self, unit: Unit, rows: &NarrowRows, at: At, columns: &[NarrowColumns], state: &mut [Floats]) {
                check_narrow(unit, rows, at, columns.len(), state.len());
                // SAFETY: the token proves the features; the rows were just found to fit.
                unsafe { each_narrow!(unit, narrow(rows, at, columns, state)) }
            }

            fn wide(self, unit: Unit, rows: &WideRows, at: At, columns: &[WideColumns], state: &mut [Floats]) {
                check_wide(unit, rows, at, columns.len(), state.len());
                // SAFETY: the token proves the features; the rows were just found to fit.
                unsafe { each_wide!(unit, wide(unit, rows, at, columns, state)) }
            }

            $(fn $groups(self, rows: &GroupRows, panel: &GroupPanel, steps: usize, state: &mut [Floats]) {
                groups::check(rows, panel, steps, state.len());
                // SAFETY: the token proves the features; rows and columns were just found to have as many steps.
                unsafe { group_steps(rows, panel, steps, state) }
            }

            $(const CODED: bool = true;

            fn $coded(
                self,
                unit: Unit,
                row: &CodedRow,
                place: Range<usize>,
                tables: &CodeTables,
                columns: &[f32],
                c: &mut Floats,
            ) {
                codes::check(unit, &place, columns);
                // SAFETY: the token proves the features.
                unsafe { each_coded!(unit, (unit, row, place, tables, columns, c)) }
            })?)?

            fn promote(self, totals: &mut [Floats], partial: &[Floats], scales: Option<(&[f32], &Floats)>) {
                // SAFETY: the token proves the features.
                unsafe { promote(totals, partial, scales) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_coded;
pub mod codes;
pub mod groups;
#[cfg(target_arch = "aarch64")]
mod neon;

#[cfg(target_arch = "aarch64")]
use super::neon::Neon;
#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, avx512::Avx512};

use codes::{CodeTables, CodedRow};
use groups::{GroupPanel, GroupRows};

use super::Lanes;
use std::ops::Range;

/// Columns of a panel.
pub const COLUMNS: usize = 16;
/// 16-bit lanes of a line: two k of every column.
pub const LANES: usize = 2 * COLUMNS;

/// A cache line of 16-bit integers: for each column, one for k and one for k + 1.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Words(pub [i16; LANES]);

/// A cache line of float32, one for each column.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Floats(pub [f32; COLUMNS]);

/// Two k of sixteen columns, narrow.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct NarrowColumns {
    /// Magnitudes of the significands.
    pub sig: Words,
    /// Exponents; [`ZERO`] for zeros. See [`Mma::DOUBLED`].
    pub exp: Words,
    /// 1 or -1: the signs, and what they are where a row has its first (1), second (2) or both (3) of two k negative.
    pub signs: [Words; 4],
}

/// Rows, narrow: an even number of k in each.
#[derive(Clone, Debug, Default)]
pub struct NarrowRows {
    /// Magnitudes, shifted left until the last of the unit's fraction bits is bit 0 of a product (and by
    /// [`Mma::EXTRA`]).
    pub sig: Vec<i16>,
    /// Exponents, biased by 127; [`ZERO`] + 127 for zeros. See [`Mma::DOUBLED`].
    pub exp: Vec<i16>,
    /// For each two k, 64 times the index of [`NarrowColumns::signs`].
    pub signs: Vec<u8>,
}

/// The exponent of zero: so low that no product with it reaches that of any other, and none the byte's end.
pub const ZERO: i16 = -50;

/// Two k of sixteen columns, wide.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct WideColumns {
    /// The values at k and at k + 1.
    pub values: [Floats; 2],
    /// Their exponents; [`WIDE_ZERO`] for zeros.
    pub exp: Words,
}

/// Rows, wide: an even number of k in each.
#[derive(Clone, Debug, Default)]
pub struct WideRows {
    /// The values.
    pub values: Vec<f32>,
    /// Their exponents, biased by 127; [`WIDE_ZERO`] for zeros.
    pub exp: Vec<i16>,
}

/// The exponent of zero among wide operands.
pub const WIDE_ZERO: i16 = -4096;

/// Where in packed rows a block of them stands.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// Index of the first row's first k; even.
    pub first: usize,
    /// k from one row to the next; even.
    pub stride: usize,
}

impl At {
    /// Tests if `rows` rows of `k` elements lie within `len`, on even places.
    fn fits(self, rows: usize, k: usize, len: usize) -> bool {
        let last = rows.saturating_sub(1).checked_mul(self.stride);
        let end = last.and_then(|x| x.checked_add(self.first)).and_then(|x| x.checked_add(k));
        self.first.is_multiple_of(2) && self.stride.is_multiple_of(2) && end.is_some_and(|end| end <= len)
    }
}

/// A matrix unit, as the vectors implement it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Products of a step: 32 or 16, wide also 8 or 4.
    pub products: usize,
    /// Bits kept below the point of the largest term: 13 for narrow, at most 25 for wide.
    pub fraction: i32,
    /// The least exponent that terms are aligned to.
    pub floor: i32,
    /// True: results are rounded to float16. False: they are cut to 13 (narrow) or 23 (wide) bits.
    pub half: bool,
    /// True: two steps at a time start from zero and their result is added to the accumulator; wide only.
    pub software: bool,
}

impl Unit {
    /// The least exponent of wide steps, biased by 127: the vectors need none below -100, as smaller terms go elsewhere.
    fn least(&self) -> i16 {
        (self.floor.max(-100) + 127) as i16
    }

    /// The exponent of the smallest accumulator, apart from 0, that a chain may begin with.
    pub fn least_exponent(&self, wide: bool) -> i32 {
        if wide {
            -100
        } else {
            -34
        }
    }
}

/// A level that has the vectors.
pub trait Mma: Lanes {
    /// True: narrow exponents stand in both bytes of their 16 bits.
    const DOUBLED: bool;
    /// How much further to the left narrow rows are shifted.
    const EXTRA: u32;

    /// Continues the chains of `state.len()` rows by all of `columns`.
    ///
    /// # Panics
    /// If the rows do not fit, or `columns` are not whole steps.
    fn narrow(self, unit: Unit, rows: &NarrowRows, at: At, columns: &[NarrowColumns], state: &mut [Floats]);

    /// Continues the chains of `state.len()` rows by all of `columns`.
    ///
    /// # Panics
    /// If the rows do not fit, or `columns` are not whole steps.
    fn wide(self, unit: Unit, rows: &WideRows, at: At, columns: &[WideColumns], state: &mut [Floats]);

    /// Continues the chains of `state.len()` rows by so many steps of groups.
    ///
    /// # Panics
    /// If rows or columns do not have as many.
    fn groups(self, rows: &GroupRows, panel: &GroupPanel, steps: usize, state: &mut [Floats]) {
        groups::check(rows, panel, steps, state.len());
        groups::portable(rows, panel, steps, state);
    }

    /// True where there are steps on codes.
    const CODED: bool = false;

    /// Continues the chains of some quads of a row by columns that are codes, [`codes::QUAD`] k of each in a line.
    ///
    /// # Panics
    /// If the columns are not as many, or no whole steps; where there are no such steps.
    fn coded(
        self,
        _: Unit,
        _row: &CodedRow,
        _quads: Range<usize>,
        _: &CodeTables,
        _columns: &[f32],
        _: &mut Floats,
    ) {
        unreachable!("the level has no steps on codes")
    }

    /// Adds partial sums to totals, each multiplied by the product of its row's and its column's factor, if there are
    /// any, in one fused multiply-add.
    fn promote(self, totals: &mut [Floats], partial: &[Floats], scales: Option<(&[f32], &Floats)>);
}

/// A computation that runs at any level with vectors.
pub trait MmaTask {
    /// Runs at level `l`.
    fn run<L: Mma>(self, l: L);
}

/// Runs a task with vectors, if the level in force has them; else gives it back.
pub fn dispatch_mma<T: MmaTask>(task: T) -> Option<T> {
    #[cfg(target_arch = "x86_64")]
    {
        let level = super::level();
        if level >= super::Level::Avx512 {
            if let Some(l) = Avx512::detect() {
                task.run(l);
                return None;
            }
        }
        if level >= super::Level::Avx2 {
            if let Some(l) = Avx2::detect() {
                task.run(l);
                return None;
            }
        }
    }
    #[cfg(target_arch = "aarch64")]
    if super::level() >= super::Level::Neon {
        if let Some(l) = Neon::detect() {
            task.run(l);
            return None;
        }
    }
    Some(task)
}

/// Panics unless narrow operands fit.
fn check_narrow(unit: Unit, rows: &NarrowRows, at: At, columns: usize, count: usize) {
    let k = 2 * columns;
    assert!(k.is_multiple_of(unit.products), "whole steps");
    assert!(at.fits(count, k, rows.sig.len()) && rows.exp.len() == rows.sig.len(), "rows that fit");
    assert!(rows.signs.len() == rows.sig.len() / 2, "signs that fit");
}

/// Panics unless wide operands fit.
fn check_wide(unit: Unit, rows: &WideRows, at: At, columns: usize, count: usize) {
    let (k, steps) = (2 * columns, if unit.software { 2 } else { 1 });
    assert!(k.is_multiple_of(unit.products * steps), "whole steps");
    assert!(at.fits(count, k, rows.values.len()) && rows.exp.len() == rows.values.len(), "rows that fit");
}

/// Names each number below the number of pairs in a step, so that the compiler sees them one by one: a loop over an
/// array of registers it would leave rolled, and spill.
#[cfg(target_arch = "x86_64")]
macro_rules! each_pair {
    ($each:ident) => {
        $each!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
}
#[cfg(target_arch = "x86_64")]
use each_pair;
