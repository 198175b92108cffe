//! Steps of units that scale sums of sixteen products: the operands, and the step in portable code.
//!
//! Sums of four-bit products are exact in float32, sums times scales in float64, where a truncation cuts what stands
//! below the last place. An accumulator must be zero, or have an exponent from -100 to 100, and two scales of groups
//! that meet exponents from [`LEAST`] to [`MOST`] together.

use super::{Floats, COLUMNS};

/// Products of a group.
pub const GROUP: usize = 16;
/// Groups of a step.
pub const GROUPS: usize = 4;
/// Products of a step.
pub const STEP: usize = GROUP * GROUPS;
/// The least exponent of a step: 35 places below it float32 is still normal.
pub const LEAST: i32 = -91;
/// The largest.
pub const MOST: i32 = 90;
/// Fraction bits.
pub const FRACTION: i32 = 35;

/// A group of a row: the factor of its sum, the exponent of its scale, and a bit for each code that is not zero.
#[derive(Clone, Copy, Debug, Default)]
pub struct Group {
    /// The factor.
    pub scale: f64,
    /// The exponent.
    pub exp: i32,
    /// The bits; none where the scale is zero.
    pub mask: u32,
}

/// The same of sixteen columns.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct GroupColumns {
    /// The factors.
    pub scale: [f64; COLUMNS],
    /// The exponents.
    pub exp: [i32; COLUMNS],
    /// The bits.
    pub mask: [u32; COLUMNS],
}

/// Rows, some steps to each.
#[derive(Clone, Debug, Default)]
pub struct GroupRows {
    /// Codes in halves.
    pub values: Vec<f32>,
    /// Their groups.
    pub groups: Vec<Group>,
}

/// Sixteen columns, k by k.
#[derive(Clone, Debug)]
pub struct GroupPanel {
    /// Codes in halves.
    pub values: Vec<Floats>,
    /// Their groups.
    pub groups: Vec<GroupColumns>,
}

/// Panics unless operands of `steps` steps and `count` rows are there.
pub(super) fn check(rows: &GroupRows, panel: &GroupPanel, steps: usize, count: usize) {
    let all = steps.checked_mul(count).filter(|n| *n <= usize::MAX / STEP).expect("steps that can be");
    assert!(rows.values.len() >= all * STEP && rows.groups.len() >= all * GROUPS, "rows that fit");
    assert!(panel.values.len() / STEP >= steps && panel.groups.len() / GROUPS >= steps, "columns that fit");
}

/// `2^exp`, of a normal number.
#[inline(always)]
pub fn power(exp: i32) -> f64 {
    f64::from_bits(((1023 + exp) as u64) << 52)
}

/// The chains of some rows, continued by some steps.
#[inline(always)]
pub(super) fn portable(rows: &GroupRows, panel: &GroupPanel, steps: usize, state: &mut [Floats]) {
    for (row, state) in state.iter_mut().enumerate() {
        let values = rows.values[row * steps * STEP..(row + 1) * steps * STEP].chunks_exact(STEP);
        let groups = rows.groups[row * steps * GROUPS..(row + 1) * steps * GROUPS].chunks_exact(GROUPS);
        let b = panel.values.chunks_exact(STEP).zip(panel.groups.chunks_exact(GROUPS));
        for ((a, a_groups), (b, b_groups)) in values.zip(groups).zip(b) {
            state.0 = step(a, a_groups, b, b_groups, state.0);
        }
    }
}

/// One step of sixteen outputs.
#[inline(always)]
fn step(
    a: &[f32],
    a_groups: &[Group],
    b: &[Floats],
    b_groups: &[GroupColumns],
    c: [f32; COLUMNS],
) -> [f32; COLUMNS] {
    let mut top = [LEAST; COLUMNS];
    for (top, c) in top.iter_mut().zip(&c) {
        *top = LEAST.max((c.to_bits() >> 23 & 255) as i32 - 127);
    }
    for (x, y) in a_groups.iter().zip(b_groups) {
        for ((top, mask), exp) in top.iter_mut().zip(&y.mask).zip(&y.exp) {
            *top = (*top).max(if x.mask & mask != 0 { x.exp + exp } else { LEAST });
        }
    }
    let (mut there, mut sum) = ([0f64; COLUMNS], [0f64; COLUMNS]);
    for i in 0..COLUMNS {
        there[i] = power(FRACTION - top[i]);
        sum[i] = (f64::from(c[i]) * there[i]).trunc() + 0.0;
    }
    let parts = a.chunks_exact(GROUP).zip(a_groups).zip(b.chunks_exact(GROUP).zip(b_groups));
    for ((a, x), (b, y)) in parts {
        let mut group = [0f32; COLUMNS];
        for (a, b) in a.iter().zip(b) {
            for (group, b) in group.iter_mut().zip(&b.0) {
                *group += a * b;
            }
        }
        for i in 0..COLUMNS {
            sum[i] += (f64::from(group[i]) * (x.scale * y.scale[i]) * there[i]).trunc();
        }
    }
    let mut out = [0f32; COLUMNS];
    for i in 0..COLUMNS {
        let kept = (sum[i] * power(top[i] - FRACTION)).to_bits() & !((1 << 29) - 1);
        out[i] = f64::from_bits(kept) as f32;
    }
    out
}
