//! Sums of products of float32 in the order of AMX, a step of k at a time.

use super::ahead::Ahead;
use super::lanes::{Lanes, STEP};
use super::packed::PackedColumns;

/// Packed rows.
#[derive(Clone, Copy)]
pub struct StepRows<'a> {
    /// The rows, from the first k on.
    pub items: &'a [f32],
    /// From one row to the next.
    pub stride: usize,
}

/// Adds to `sums` for each step the sum of its products of the even k and that of the odd k, each in order from +0, of `R` rows
/// and `V` panels of columns, and prefetches beside it.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // plain counting: these arrays are registers
pub fn add_steps<L: Lanes, const R: usize, const V: usize>(
    l: L,
    rows: StepRows<'_>,
    columns: PackedColumns<'_>,
    steps: usize,
    ahead: &mut Ahead,
    sums: &mut [[L::F; V]; R],
) {
    assert!(rows.items.len() >= (R - 1) * rows.stride + steps * STEP);
    assert!(columns.items.len() >= (V - 1) * columns.panel + steps * STEP * L::N);
    let mut held = *sums;
    for r in 0..R {
        for v in 0..V {
            // Never minus zero, so that it does not matter which zero is added.
            held[r][v] = l.fadd(held[r][v], l.f32(0.0));
        }
    }
    for step in 0..steps {
        ahead.prefetch(l);
        // Both chains side by side, their first products in place of zeros.
        let mut chains = [[[l.f32(0.0); V]; R]; 2];
        two::<L, R, V, true>(l, rows, columns, step * STEP, &mut chains);
        for i in 1..STEP / 2 {
            two::<L, R, V, false>(l, rows, columns, step * STEP + 2 * i, &mut chains);
        }
        let [even, odd] = chains;
        for r in 0..R {
            for v in 0..V {
                held[r][v] = l.fadd(held[r][v], l.fadd(even[r][v], odd[r][v]));
            }
        }
    }
    *sums = held;
}

/// Adds the products of two k to their chains, or begins chains with them; both lie inside.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
fn two<L: Lanes, const R: usize, const V: usize, const FIRST: bool>(
    l: L,
    rows: StepRows<'_>,
    columns: PackedColumns<'_>,
    k: usize,
    chains: &mut [[[L::F; V]; R]; 2],
) {
    for odd in 0..2 {
        let (k, chain) = (k + odd, &mut chains[odd]);
        let mut each = [l.f32(0.0); V];
        for v in 0..V {
            let at = v * columns.panel + k * L::N;
            // SAFETY: the last of these ends where the second assertion of the caller says.
            each[v] = l.load_f32(unsafe { columns.items.get_unchecked(at..at + L::N) });
        }
        for r in 0..R {
            // SAFETY: the last of these is where the first assertion of the caller says.
            let x = l.f32(unsafe { *rows.items.get_unchecked(r * rows.stride + k) });
            for v in 0..V {
                let product = if FIRST { l.fmul(x, each[v]) } else { l.add_product(x, each[v], chain[r][v]) };
                chain[r][v] = product;
            }
        }
    }
}
