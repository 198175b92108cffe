//! THE table of accumulators: one line each, everything else is computed from the line.

use crate::error::{by_name, Error};
use crate::formats::table::*;

/// How a sum of products is formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A tensor core: the products and the accumulator, aligned to the largest exponent and cut, in one sum.
    TensorCore,
    /// Two float16 tensor-core steps from zero, then an ordinary addition of the accumulator.
    Software,
    /// Groups of sixteen products of four-bit codes, each summed exactly and multiplied by its scales; the groups and
    /// the accumulator, aligned to the largest exponent of the scales and cut, in one sum.
    ScaledGroups,
    /// An AMD matrix core on FP8: products of even and of odd k aligned apart, then together with the accumulator.
    MatrixCoreFp8,
    /// An AMD matrix core on 16-bit formats: all products aligned, then together with the accumulator.
    MatrixCore,
    /// Infinitely precise, rounded once to nearest even.
    Exact,
    /// Two chains of float32 sums, over even and over odd k, added to the accumulator: the order of AMX.
    Float32,
    /// Fused steps in float32, the second k of each two first, subnormal numbers taken as zero: `VDPBF16PS`.
    Bf16Dot,
}

impl Unit {
    /// The name that Python sees.
    pub fn name(self) -> &'static str {
        match self {
            Unit::TensorCore => "tensor_core",
            Unit::Software => "software",
            Unit::ScaledGroups => "scaled_groups",
            Unit::MatrixCoreFp8 => "matrix_core_fp8",
            Unit::MatrixCore => "matrix_core",
            Unit::Exact => "exact",
            Unit::Float32 => "float32",
            Unit::Bf16Dot => "bf16_dot",
        }
    }
}

/// The type of the accumulator between two steps.
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

/// Scales that a unit takes with the codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitScale {
    /// The format of a scale.
    pub format: Format,
    /// How much of k may share a scale in one step.
    pub blocks: &'static [usize],
}

/// Evidence that a row of the table is how the hardware adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Results of the hardware agree bit for bit.
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
    /// Scales that it takes with the codes, if it does.
    pub scale: Option<UnitScale>,
    /// Evidence for the row.
    pub evidence: Evidence,
}

impl Accumulator {
    /// Looks an accumulator up by name.
    ///
    /// # Errors
    /// [`Error::UnknownName`], listing the names there are.
    pub fn by_name(name: &str) -> Result<&'static Accumulator, Error> {
        by_name("accumulator", name, ACCUMULATORS, |a| a.name)
    }

    /// Products between two promotions are a multiple of this: whole steps, and half ones where a step is the caller's.
    pub fn interval(&self) -> usize {
        match self.unit {
            Unit::Exact | Unit::Float32 => self.products / 2,
            _ => self.products,
        }
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
const FOUR: &[Format] = &[E2M1FN];
const FNUZ: &[Format] = &[E4M3FNUZ, E5M2FNUZ];
const FLOAT: &[Format] = &[TF32];
const NONE: Option<UnitScale> = None;
const MX: Option<UnitScale> = Some(UnitScale { format: E8M0FNU, blocks: &[32] });
const MX4: Option<UnitScale> = Some(UnitScale { format: E8M0FNU, blocks: &[32, 16] });
const NV4: Option<UnitScale> = Some(UnitScale { format: E4M3FN, blocks: &[16] });
/// Formats that bfloat16 holds exactly, with products that are normal float32 numbers.
const NARROW: &[Format] =
    &[E4M3FN, E5M2, E4M3, E3M4, E4M3FNUZ, E5M2FNUZ, E4M3B11FNUZ, E2M3FN, E3M2FN, E2M1FN, INT8, INT4];
/// Formats that bfloat16 holds exactly, and bfloat16.
const WORDS: &[Format] = &[
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
    INT8,
    INT4,
];
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
       $inputs:ident $scale:ident $evidence:ident;)*) => {
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
            scale: $scale,
            evidence: Evidence::$evidence,
        }),*];
    };
}

accumulators! {
//  name                   unit          L  F  floor       keep      result  inputs scale evidence
    "hopper_fp8"           TensorCore    32 13 Some(-133), Some(13), Float32 FP8    NONE  Hardware;
    "hopper_fp8_f16"       TensorCore    32 13 Some(-21),  None,     Float16 FP8    NONE  OneModel;
    "ada_fp8"              TensorCore    16 13 Some(-132), Some(13), Float32 FP8    NONE  Hardware;
    "ada_fp8_f16"          TensorCore    16 13 Some(-20),  None,     Float16 FP8    NONE  Hardware;
    "blackwell_fp8"        TensorCore    32 25 Some(-133), Some(23), Float32 SMALL  NONE  TwoModels;
    "blackwell_fp8_f16"    TensorCore    32 25 Some(-21),  None,     Float16 SMALL  NONE  OneModel;
    "blackwell_mxf8"       TensorCore    32 25 Some(-133), Some(23), Float32 SMALL  MX    OneModel;
    "blackwell_mxf4"       ScaledGroups  64 35 Some(-139), Some(23), Float32 FOUR   MX4   OneModel;
    "blackwell_nvfp4"      ScaledGroups  64 35 Some(-139), Some(23), Float32 FOUR   NV4   OneModel;
    "rtx_blackwell_mxf8"   TensorCore    32 25 Some(-133), Some(23), Float32 SMALL  MX    OneModel;
    "rtx_blackwell_mxf4"   ScaledGroups  64 35 Some(-139), Some(23), Float32 FOUR   MX4   OneModel;
    "rtx_blackwell_nvfp4"  ScaledGroups  64 35 Some(-139), Some(23), Float32 FOUR   NV4   OneModel;
    "hopper_f16"           TensorCore    16 25 Some(-133), Some(23), Float32 HALF   NONE  Hardware;
    "hopper_f16_f16"       TensorCore    16 25 Some(-21),  None,     Float16 HALF   NONE  Hardware;
    "hopper_bf16"          TensorCore    16 25 Some(-133), Some(23), Float32 BRAIN  NONE  Hardware;
    "hopper_tf32"          TensorCore     8 25 Some(-133), Some(23), Float32 FLOAT  NONE  Hardware;
    "blackwell_f16"        TensorCore    16 25 Some(-133), Some(23), Float32 HALF   NONE  Hardware;
    "blackwell_f16_f16"    TensorCore    16 25 Some(-21),  None,     Float16 HALF   NONE  Hardware;
    "blackwell_bf16"       TensorCore    16 25 Some(-133), Some(23), Float32 BRAIN  NONE  Hardware;
    "blackwell_tf32"       TensorCore     8 25 Some(-133), Some(23), Float32 FLOAT  NONE  Hardware;
    "ada_f16"              TensorCore     8 24 Some(-132), Some(23), Float32 HALF   NONE  Hardware;
    "ada_f16_f16"          TensorCore     8 24 Some(-20),  None,     Float16 HALF   NONE  Hardware;
    "ada_bf16"             TensorCore     8 24 Some(-132), Some(23), Float32 BRAIN  NONE  Hardware;
    "ada_tf32"             TensorCore     4 24 Some(-132), Some(23), Float32 FLOAT  NONE  Hardware;
    "ampere_f16"           TensorCore     8 24 Some(-132), Some(23), Float32 HALF   NONE  Hardware;
    "ampere_f16_f16"       TensorCore     8 24 Some(-20),  None,     Float16 HALF   NONE  Hardware;
    "ampere_bf16"          TensorCore     8 24 Some(-132), Some(23), Float32 BRAIN  NONE  Hardware;
    "ampere_tf32"          TensorCore     4 24 Some(-132), Some(23), Float32 FLOAT  NONE  Hardware;
    "turing_f16"           TensorCore     8 24 Some(-132), Some(23), Float32 HALF   NONE  OneModel;
    "turing_f16_f16"       TensorCore     8 24 Some(-20),  None,     Float16 HALF   NONE  OneModel;
    "volta_f16"            TensorCore     4 23 Some(-131), Some(23), Float32 HALF   NONE  Hardware;
    "volta_f16_f16"        TensorCore     4 23 Some(-19),  None,     Float16 HALF   NONE  Hardware;
    "hopper_mma_fp8"       Software      32 25 Some(-133), Some(23), Float32 FP8    NONE  Hardware;
    "hopper_mma_fp8_f16"   Software      32 25 Some(-21),  None,     Float16 FP8    NONE  Hardware;
    "cdna3_fp8"            MatrixCoreFp8 16 24 None,       None,     Float32 FNUZ   NONE  TwoModels;
    "cdna3_f16"            MatrixCore     8 24 None,       None,     Float32 HALF   NONE  OneModel;
    "cdna3_bf16"           MatrixCore     8 24 None,       None,     Float32 BRAIN  NONE  OneModel;
    "exact"                Exact         32  0 None,       None,     Float32 ANY    NONE  Definition;
    "float32"              Float32       32  0 None,       None,     Float32 NARROW NONE  Definition;
    "vdpbf16ps"            Bf16Dot        2  0 None,       None,     Float32 WORDS  NONE  Hardware;
}
