//! Sums of products of float32 in the order of AMX, a step of k at a time.

use super::ahead::Ahead;
use super::lanes::{Lanes, STEP};
use super::packed::{each_row, PackedColumns};

/// Float32 from one packed row to the next: no power of two, which would map them to the same cache sets.
pub const STEP_STRIDE: usize = 1040;

/// Adds to `sums` for each step, of packed rows from its first k on, the sum of its products of the even k and that of the odd k, each in order from +0, of `R` rows
/// and `V` panels of columns, and prefetches beside it.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // plain counting: these arrays are registers
pub fn add_steps<L: Lanes, const R: usize, const V: usize>(
    l: L,
    rows: &[f32],
    columns: PackedColumns<'_>,
    steps: usize,
    ahead: &mut Ahead,
    sums: &mut [[L::F; V]; R],
) {
    assert!(rows.len() >= (R - 1) * STEP_STRIDE + steps * STEP);
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
    rows: &[f32],
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
        // SAFETY: these end where the first assertion of the caller says.
        let items = unsafe { rows.get_unchecked(k..k + (R - 1) * STEP_STRIDE + 1) };
        each_row!(ROW < R, {
            if const { V == 1 && !FIRST } {
                chain[ROW][0] = l.add_product_item::<{ ROW * STEP_STRIDE }>(items, each[0], chain[ROW][0]);
            } else {
                let x = l.f32(items[ROW * STEP_STRIDE]);
                for v in 0..V {
                    let sum = chain[ROW][v];
                    chain[ROW][v] =
                        if FIRST { l.fmul(x, each[v]) } else { l.add_product_onto(x, each[v], sum) };
                }
            }
        });
    }
}
