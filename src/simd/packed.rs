//! Operands of products, as kernels read them.

/// Packed columns: panels of a vector of columns each, with all that is packed of a k, or of a pair of them, beside each other.
#[derive(Clone, Copy)]
pub struct PackedColumns<'a> {
    /// The panels.
    pub items: &'a [f32],
    /// From one panel to the next.
    pub panel: usize,
}
