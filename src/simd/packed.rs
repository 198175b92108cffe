//! Operands of products, as kernels read them.

/// Packed columns: panels of a vector of columns each, with all that is packed of a k, or of a pair of them, beside each other.
#[derive(Clone, Copy)]
pub struct PackedColumns<'a> {
    /// The panels.
    pub items: &'a [f32],
    /// From one panel to the next.
    pub panel: usize,
}

/// Does something for each row below a number known to the compiler, at most 24: a loop over rows that it leaves as one keeps
/// sums in memory.
macro_rules! each_row {
    ($row:ident < $rows:ident, $what:block) => {
        each_row!($row < $rows, $what, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23);
    };
    ($row:ident < $rows:ident, $what:block, $($i:literal)+) => {$(
        if const { $i < $rows } {
            const $row: usize = $i;
            $what
        }
    )+};
}
pub(crate) use each_row;
