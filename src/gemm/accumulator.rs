//! THE table of accumulators: one line each, everything else is computed from the line.

use crate::error::Error;
use crate::formats::table::*;

/// How a sum of products is formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A tensor core: the products and the accumulator, aligned to the largest exponent and cut, in one sum.
    TensorCore,
    /// Two float16 tensor-core steps from zero, then an ordinary addition of the accumulator.
    Software,
    /// Infinitely precise, rounded once to nearest even.
    Exact,
    /// Two chains of float32 sums, over even and over odd k, added to the accumulator: the order of AMX.
    Float32,
}

impl Unit {
    /// The name that Python sees.
    pub fn name(self) -> &'static str {
        match self {
            Unit::TensorCore => "tensor_core",
            Unit::Software => "software",
            Unit::Exact => "exact",
            Unit::Float32 => "float32",
        }
    }
}

/// What the accumulator is between two steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultType {
    /// float32.
    Float32,
    /// float16.
    Float16,
}

impl ResultType {
    /// The name that Python sees.
    pub fn name(self) -> &'static str {
        match self {
            ResultType::Float32 => "float32",
            ResultType::Float16 => "float16",
        }
    }
}

/// A matrix unit, as far as its sums go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accumulator {
    /// Its name.
    pub name: &'static str,
    /// How it adds.
    pub unit: Unit,
    /// Products that one step adds.
    pub products: usize,
    /// Bits of a term below the binary point of the largest one that are kept; 0 where nothing is aligned.
    pub fraction: u32,
    /// Mantissa bits of a float32 result, the rest being cut off; `None` where the result is rounded to nearest even.
    pub keep: Option<u32>,
    /// The accumulator between two steps.
    pub result: ResultType,
    /// Formats that either side may have.
    pub inputs: &'static [Format],
}

impl Accumulator {
    /// Looks an accumulator up by name.
    ///
    /// # Errors
    /// [`Error::UnknownName`], listing the names there are.
    pub fn by_name(name: &str) -> Result<&'static Accumulator, Error> {
        ACCUMULATORS
            .iter()
            .find(|a| a.name == name)
            .ok_or_else(|| Error::unknown("accumulator", name, ACCUMULATORS.iter().map(|a| a.name)))
    }

    /// Checks that a side may have the format.
    ///
    /// # Errors
    /// [`Error::Unsupported`], listing the formats that it may have.
    pub fn accept(&self, side: &'static str, format: &Format) -> Result<(), Error> {
        if self.inputs.contains(format) {
            return Ok(());
        }
        let inputs: Vec<&str> = self.inputs.iter().map(|f| f.name).collect();
        Err(Error::Unsupported(format!(
            "{side}: found {}, but accumulator {:?} takes {}",
            format.name,
            self.name,
            inputs.join(", ")
        )))
    }
}

const FP8: &[Format] = &[E4M3FN, E5M2];
const SMALL: &[Format] = &[E4M3FN, E5M2, E2M3FN, E3M2FN, E2M1FN];
const HALF: &[Format] = &[FLOAT16];
const BRAIN: &[Format] = &[BFLOAT16];
/// What bfloat16 holds exactly, with products that are normal float32 numbers.
const NARROW: &[Format] =
    &[E4M3FN, E5M2, E4M3, E3M4, E4M3FNUZ, E5M2FNUZ, E4M3B11FNUZ, E2M3FN, E3M2FN, E2M1FN, INT8, INT4];
const ANY: &[Format] = &[
    E4M3FN,
    E5M2,
    E4M3,
    E3M4,
    E4M3FNUZ,
    E5M2FNUZ,
    E4M3B11FNUZ,
    E2M3FN,
    E3M2FN,
    E2M1FN,
    BFLOAT16,
    FLOAT16,
    E5M6,
    INT8,
    INT4,
];

macro_rules! accumulators {
    ($($name:literal $unit:ident $products:literal $fraction:literal $keep:expr, $result:ident $inputs:ident;)*) => {
        /// Every accumulator, in the order of the table.
        pub const ACCUMULATORS: &[Accumulator] = &[$(Accumulator {
            name: $name,
            unit: Unit::$unit,
            products: $products,
            fraction: $fraction,
            keep: $keep,
            result: ResultType::$result,
            inputs: $inputs,
        }),*];
    };
}

accumulators! {
//  name                  unit       L  F   keep      result  inputs
    "hopper_fp8"          TensorCore 32 13  Some(13), Float32 FP8;
    "hopper_fp8_f16"      TensorCore 32 13  None,     Float16 FP8;
    "ada_fp8"             TensorCore 16 13  Some(13), Float32 FP8;
    "ada_fp8_f16"         TensorCore 16 13  None,     Float16 FP8;
    "blackwell_fp8"       TensorCore 32 25  Some(23), Float32 SMALL;
    "blackwell_fp8_f16"   TensorCore 32 25  None,     Float16 SMALL;
    "hopper_f16"          TensorCore 16 25  Some(23), Float32 HALF;
    "hopper_f16_f16"      TensorCore 16 25  None,     Float16 HALF;
    "hopper_bf16"         TensorCore 16 25  Some(23), Float32 BRAIN;
    "blackwell_f16"       TensorCore 16 25  Some(23), Float32 HALF;
    "blackwell_f16_f16"   TensorCore 16 25  None,     Float16 HALF;
    "blackwell_bf16"      TensorCore 16 25  Some(23), Float32 BRAIN;
    "ada_f16"             TensorCore  8 24  Some(23), Float32 HALF;
    "ada_f16_f16"         TensorCore  8 24  None,     Float16 HALF;
    "ada_bf16"            TensorCore  8 24  Some(23), Float32 BRAIN;
    "ampere_f16"          TensorCore  8 24  Some(23), Float32 HALF;
    "ampere_f16_f16"      TensorCore  8 24  None,     Float16 HALF;
    "ampere_bf16"         TensorCore  8 24  Some(23), Float32 BRAIN;
    "hopper_mma_fp8"      Software   32 25  Some(23), Float32 FP8;
    "hopper_mma_fp8_f16"  Software   32 25  None,     Float16 FP8;
    "exact"               Exact      32  0  None,     Float32 ANY;
    "float32"             Float32    32  0  None,     Float32 NARROW;
}
