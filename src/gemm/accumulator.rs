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

/// Evidence that a row of the table is how the hardware adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Published results of the hardware agree bit for bit.
    Hardware,
    /// Two independent public models agree.
    TwoModels,
    /// One public model says so.
    OneModel,
    /// No hardware: the row is its own definition.
    Definition,
}

impl Evidence {
    /// The name that Python sees.
    pub fn name(self) -> &'static str {
        match self {
            Evidence::Hardware => "hardware",
            Evidence::TwoModels => "two models",
            Evidence::OneModel => "one model",
            Evidence::Definition => "definition",
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
    /// The least exponent that terms are aligned to, however small all of them are; `None` where there is no such.
    pub floor: Option<i32>,
    /// Mantissa bits of a float32 result, the rest being cut off; `None` where the result is rounded to nearest even.
    pub keep: Option<u32>,
    /// The accumulator between two steps.
    pub result: ResultType,
    /// Formats that either side may have.
    pub inputs: &'static [Format],
    /// Evidence for the row.
    pub evidence: Evidence,
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
    ($($name:literal $unit:ident $products:literal $fraction:literal $floor:expr, $keep:expr, $result:ident
       $inputs:ident $evidence:ident;)*) => {
        /// Every accumulator, in the order of the table.
        pub const ACCUMULATORS: &[Accumulator] = &[$(Accumulator {
            name: $name,
            unit: Unit::$unit,
            products: $products,
            fraction: $fraction,
            floor: $floor,
            keep: $keep,
            result: ResultType::$result,
            inputs: $inputs,
            evidence: Evidence::$evidence,
        }),*];
    };
}

accumulators! {
//  name                  unit       L  F   floor       keep      result  inputs evidence
    "hopper_fp8"          TensorCore 32 13 Some(-133), Some(13), Float32 FP8    Hardware;
    "hopper_fp8_f16"      TensorCore 32 13 Some(-21),  None,     Float16 FP8    OneModel;
    "ada_fp8"             TensorCore 16 13 Some(-132), Some(13), Float32 FP8    Hardware;
    "ada_fp8_f16"         TensorCore 16 13 Some(-20),  None,     Float16 FP8    Hardware;
    "blackwell_fp8"       TensorCore 32 25 Some(-133), Some(23), Float32 SMALL  TwoModels;
    "blackwell_fp8_f16"   TensorCore 32 25 Some(-21),  None,     Float16 SMALL  OneModel;
    "hopper_f16"          TensorCore 16 25 Some(-133), Some(23), Float32 HALF   Hardware;
    "hopper_f16_f16"      TensorCore 16 25 Some(-21),  None,     Float16 HALF   Hardware;
    "hopper_bf16"         TensorCore 16 25 Some(-133), Some(23), Float32 BRAIN  Hardware;
    "blackwell_f16"       TensorCore 16 25 Some(-133), Some(23), Float32 HALF   Hardware;
    "blackwell_f16_f16"   TensorCore 16 25 Some(-21),  None,     Float16 HALF   Hardware;
    "blackwell_bf16"      TensorCore 16 25 Some(-133), Some(23), Float32 BRAIN  Hardware;
    "ada_f16"             TensorCore  8 24 Some(-132), Some(23), Float32 HALF   Hardware;
    "ada_f16_f16"         TensorCore  8 24 Some(-20),  None,     Float16 HALF   Hardware;
    "ada_bf16"            TensorCore  8 24 Some(-132), Some(23), Float32 BRAIN  Hardware;
    "ampere_f16"          TensorCore  8 24 Some(-132), Some(23), Float32 HALF   Hardware;
    "ampere_f16_f16"      TensorCore  8 24 Some(-20),  None,     Float16 HALF   Hardware;
    "ampere_bf16"         TensorCore  8 24 Some(-132), Some(23), Float32 BRAIN  Hardware;
    "hopper_mma_fp8"      Software   32 25 Some(-133), Some(23), Float32 FP8    Hardware;
    "hopper_mma_fp8_f16"  Software   32 25 Some(-21),  None,     Float16 FP8    Hardware;
    "exact"               Exact      32  0 None,       None,     Float32 ANY    Definition;
    "float32"             Float32    32  0 None,       None,     Float32 NARROW Definition;
}
