//! A weight as a checkpoint holds it, and its rows widened to the type of the computation.

use super::real::Real;
use crate::error::{same_length, Error};
use crate::formats::{Codes, Format, Input, Output};
use crate::gemm::interleaved::CodedRows;
use crate::gemm::Operand;
use crate::quant::{dequantize, Blocks};
use crate::simd::f16_to_f32;
use std::borrow::Cow;
use std::ops::Range;

/// Where the numbers are.
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    /// Numbers that stand for themselves.
    Plain(Input<'a>),
    /// Codes of at most eight bits, and a float32 factor for each block of them.
    Scaled {
        /// The codes.
        codes: &'a [u8],
        /// Their format.
        format: &'static Format,
        /// Factor of each block: a weight is `code * scale`.
        scales: &'a [f32],
        /// Rows and columns of a block.
        block: [usize; 2],
        /// True: products are rounded to bfloat16, as a converted checkpoint would hold them.
        rounded: bool,
    },
}

impl<'a> Data<'a> {
    fn len(&self) -> usize {
        match self {
            Data::Plain(x) => x.len(),
            Data::Scaled { codes, .. } => codes.len(),
        }
    }

    /// The numbers, if they are stored in this type.
    fn stored<T: Real>(&self) -> Option<&'a [T]> {
        match self {
            Data::Plain(x) => T::stored(*x),
            Data::Scaled { .. } => None,
        }
    }
}

/// Numbers as they are or widened (narrowed, from float64 to float32).
fn numbers<T: Real>(x: Input<'_>, range: Range<usize>) -> Cow<'_, [T]> {
    if let Some(values) = T::stored(x) {
        return Cow::Borrowed(&values[range]);
    }
    Cow::Owned(match x {
        Input::F32(x) => x[range].iter().map(|x| T::widen(*x)).collect(),
        Input::F64(x) => x[range].iter().map(|x| T::near(*x)).collect(),
        Input::F16(x) => x[range].iter().map(|x| T::widen(f16_to_f32(*x))).collect(),
        Input::Bf16(x) => x[range].iter().map(|x| from_bf16(*x)).collect(),
    })
}

/// A bfloat16, exactly.
#[inline(always)]
fn from_bf16<T: Real>(bits: u16) -> T {
    T::widen(f32::from_bits(u32::from(bits) << 16))
}

/// A matrix of (outputs, inputs), row by row.
#[derive(Clone, Copy, Debug)]
pub struct Weight<'a> {
    rows: usize,
    cols: usize,
    data: Data<'a>,
}

impl<'a> Weight<'a> {
    /// Checks that there are as many numbers, and scales, as the shape asks for.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Shape`].
    pub fn new(rows: usize, cols: usize, data: Data<'a>) -> Result<Weight<'a>, Error> {
        let block = if let Data::Scaled { block, .. } = data { block } else { [1, 1] };
        let blocks = Blocks::new([1, rows, cols], block)?;
        same_length("weight", data.len(), blocks.len())?;
        if let Data::Scaled { scales, format, .. } = data {
            same_length("weight_scale_inv", scales.len(), blocks.scales())?;
            if format.bits() > 8 {
                return Err(Error::Unsupported(format!(
                    "weight: found {} with scales, expected a format of at most 8 bits",
                    format.name
                )));
            }
        }
        Ok(Weight { rows, cols, data })
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// True if [`Weight::panel`] has to copy.
    pub fn widens<T: Real>(&self) -> bool {
        self.data.stored::<T>().is_none()
    }

    /// Rows `from..to`, as they are or widened.
    ///
    /// # Errors
    /// None for a weight that [`Weight::new`] has checked.
    pub fn panel<T: Real>(&self, from: usize, to: usize) -> Result<Cow<'a, [T]>, Error> {
        if let Data::Plain(x) = self.data {
            return Ok(numbers(x, from * self.cols..to * self.cols));
        }
        let mut out = vec![T::zero(); (to - from) * self.cols];
        self.scaled(from, to, &mut out)?;
        Ok(Cow::Owned(out))
    }

    /// As [`Weight::panel`], widened into `scratch`: fresh memory for each panel costs more than widening it.
    ///
    /// # Errors
    /// As [`Weight::panel`].
    pub fn read<'s, T: Real>(
        &'s self,
        from: usize,
        to: usize,
        scratch: &'s mut Vec<T>,
    ) -> Result<&'s [T], Error> {
        let range = from * self.cols..to * self.cols;
        if let Some(values) = self.data.stored::<T>() {
            return Ok(&values[range]);
        }
        if let Data::Plain(x) = self.data {
            scratch.clear();
            scratch.extend_from_slice(&numbers(x, range));
        } else {
            scratch.resize(range.len(), T::zero());
            self.scaled(from, to, scratch)?;
        }
        Ok(scratch)
    }

    /// Rows `from..to` as codes, where there are codes and every vector of them has one scale.
    pub(super) fn coded(&self, from: usize, to: usize) -> Option<CodedRows<'a>> {
        let Data::Scaled { codes, format, scales, block, rounded } = self.data else { return None };
        let group = (block[0], block[1]);
        let codes = Codes::U8(codes);
        let matrix =
            Operand { codes, format, scales: Some(scales), unit_scales: None, group, prepared: None };
        CodedRows::new(&matrix, self.cols, from..to, rounded)
    }

    /// Rows of codes, a band of blocks at a time.
    fn scaled<T: Real>(&self, from: usize, to: usize, out: &mut [T]) -> Result<(), Error> {
        let Data::Scaled { codes, format, scales, block, rounded } = self.data else { return Ok(()) };
        let across = self.cols.div_ceil(block[1]);
        let mut row = from;
        while row < to {
            let band = row / block[0];
            let end = to.min((band + 1).saturating_mul(block[0]));
            let part = Blocks::new([1, end - row, self.cols], block)?;
            let codes = Codes::U8(&codes[row * self.cols..end * self.cols]);
            let scales = &scales[band * across..(band + 1) * across];
            let out = &mut out[(row - from) * self.cols..(end - from) * self.cols];
            if rounded {
                let mut bits = vec![0u16; out.len()];
                dequantize(codes, format, part, scales, Output::Bf16(&mut bits))?;
                out.iter_mut().zip(&bits).for_each(|(out, bits)| *out = from_bf16(*bits));
            } else {
                dequantize(codes, format, part, scales, T::output(out))?;
            }
            row = end;
        }
        Ok(())
    }
}
