//! THE table of scale rules: how each project gets from a block's largest magnitude to its scale and codes.
//!
//! A rule is a row of columns; kernels take the columns, so that a row made at run time is as good as a named one. All
//! arithmetic is float32, operation by operation as the columns say: rules differ in the last bit.

use crate::error::{by_name, Error};
use crate::formats::round::{named_enum, Rounding};
use crate::formats::table::{Format, Top};

named_enum! {
    /// Kind of a scale.
    ScaleKind, "scale" {
        /// A float32.
        Float32 = "float32",
        /// A power of two (UE8M0), from the float32 scale.
        Ue8m0 = "ue8m0",
        /// A power of two, as OCP Microscaling has it.
        Mx = "mx",
        /// An E4M3 number under a float32 scale of scales (NVFP4).
        Nvfp4 = "nvfp4",
    }
}

named_enum! {
    /// Effect of a NaN on its block's amax.
    AmaxNan, "amax_nan" {
        /// It is the amax, and spoils the block.
        Keep = "keep",
        /// It is passed over, as CUDA's `fmaxf` does.
        Skip = "skip",
    }
}

named_enum! {
    /// The float32 scale `s` of a block whose amax is `a`.
    ScaleOp, "scale_op" {
        /// `a / max`.
        Divide = "divide",
        /// `a * (1 / max)`.
        Multiply = "multiply",
        /// `1 / min(max / a, FLT_MAX)`.
        Inverse = "inverse",
        /// There is none: powers of two come from amax itself.
        Absent = "none",
    }
}

named_enum! {
    /// The quotient of an element by a float32 scale.
    ApplyOp, "apply_op" {
        /// `x / s`.
        Divide = "divide",
        /// `x * (1 / s)`.
        MultiplyInverse = "multiply_inverse",
        /// `x * min(max / a, FLT_MAX)`.
        MultiplyRatio = "multiply_ratio",
    }
}

named_enum! {
    /// The exponent of a power-of-two scale.
    Pow2Op, "pow2_op" {
        /// From the bits of `s`: its exponent, plus one if there is a mantissa.
        Bit = "bit",
        /// `ceil(log2(s))` with log2 rounded to float32, which loses numbers a few ulp above a power of two.
        FloatLog2 = "float_log2",
        /// The negative exponent of `min(max / a, FLT_MAX)`, whose mantissa is dropped.
        Ratio = "ratio",
        /// The exponent of amax less that of the format's largest number (OCP Microscaling 1.0, 6.3).
        Floor = "floor",
        /// The same, plus one if amax has a mantissa.
        Ceil = "ceil",
        /// The same of amax rounded to the format's mantissa, ties upward.
        Even = "even",
        /// There is none.
        Absent = "none",
    }
}

named_enum! {
    /// The scale of a block of zeros.
    ZeroTile, "zero_tile" {
        /// That of the least amax.
        Floor = "floor",
        /// One.
        One = "one",
    }
}

named_enum! {
    /// Divisor of elements where a power-of-two scale is its least, 2^-127 (byte 0).
    Byte0, "byte0" {
        /// The scale.
        Scale = "scale",
        /// 2^-126, the least normal float32.
        Normal = "normal",
        /// One.
        One = "one",
    }
}

named_enum! {
    /// How NVFP4 brings a block's amax `a` to a target.
    BlockOp, "block_op" {
        /// `(a / target) * g`, with g the scale of scales.
        Divide = "divide",
        /// `(a * (1 / target)) * g`.
        Multiply = "multiply",
        /// `a * (g * (1 / target))`.
        MultiplyGlobal = "multiply_global",
    }
}

named_enum! {
    /// Bits that decide the rounding of quotients below a format's smallest normal number.
    Subnormals, "subnormals" {
        /// The bits that fall off, as everywhere else.
        Nearest = "nearest",
        /// For E5M6 the low 17 bits of the float32, wherever the cut is (TileKernels); of other formats the bits that fall off.
        Float32Tail = "float32_tail",
    }
}

named_enum! {
    /// Factor of elements where an E4M3 block scale is zero.
    ZeroScale, "zero_scale" {
        /// FLT_MAX: codes saturate.
        Max = "max",
        /// Zero.
        Zero = "zero",
    }
}

/// The most values that [`Rule::candidates`] holds.
pub const CANDIDATES: usize = 8;

/// A way of scaling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// Its name; empty for a row made at run time.
    pub name: &'static str,
    /// NaN in amax.
    pub amax_nan: AmaxNan,
    /// The least amax.
    pub amax_floor: f32,
    /// Value that amax is brought to, where that is not the format's largest number.
    pub max: Option<f32>,
    /// The float32 scale.
    pub scale_op: ScaleOp,
    /// The least float32 scale.
    pub scale_floor: f32,
    /// The least float32 scale of which a power of two is made.
    pub pow2_floor: f32,
    /// The power of two.
    pub pow2_op: Pow2Op,
    /// The least exponent: -126, where no scale is subnormal (amax is at least `max * 2^-126`), or -127.
    pub least_exponent: i32,
    /// The quotient.
    pub apply_op: ApplyOp,
    /// Quotients under byte 0.
    pub byte0: Byte0,
    /// Zeros.
    pub zero_tile: ZeroTile,
    /// How quotients become codes.
    pub rounding: Rounding,
    /// True: there is a negative zero.
    pub negative_zero: bool,
    /// NVFP4: the block scale that the tensor's amax gets.
    pub block_max: f32,
    /// NVFP4: what a block's amax may become; the least squared error decides. Zeros fill the rest.
    pub candidates: [f32; CANDIDATES],
    /// NVFP4: quotients under a scale of zero.
    pub zero_scale: ZeroScale,
    /// NVFP4: from a block's amax to its scale.
    pub block_op: BlockOp,
    /// Rounding of subnormal quotients.
    pub subnormals: Subnormals,
}

const fn candidates(first: f32, second: f32) -> [f32; CANDIDATES] {
    [first, second, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
}

/// Value of a column where a row does not say it.
pub const PLAIN: Rule = Rule {
    name: "",
    amax_nan: AmaxNan::Keep,
    amax_floor: 0.0,
    max: None,
    scale_op: ScaleOp::Divide,
    scale_floor: 0.0,
    pow2_floor: 0.0,
    pow2_op: Pow2Op::Bit,
    least_exponent: -126,
    apply_op: ApplyOp::Divide,
    byte0: Byte0::Scale,
    zero_tile: ZeroTile::Floor,
    rounding: Rounding::NearestEven,
    negative_zero: true,
    block_max: 448.0,
    candidates: candidates(6.0, 0.0),
    zero_scale: ZeroScale::Max,
    block_op: BlockOp::Divide,
    subnormals: Subnormals::Nearest,
};

macro_rules! rules {
    ($($name:literal { $($column:ident: $value:expr),* $(,)? })*) => {
        /// Every named rule; the first is the default.
        pub const RULES: &[Rule] = &[$(Rule { name: $name, $($column: $value,)* ..PLAIN }),*];
    };
}

rules! {
    "deepseek_v3" { amax_floor: 1e-4 }
    "deepseek_v3_log2" { amax_floor: 1e-4, pow2_op: Pow2Op::FloatLog2 }
    "deepseek_v32_exp" { amax_floor: 1e-4, scale_op: ScaleOp::Multiply }
    "deepgemm" { amax_floor: 1e-4, apply_op: ApplyOp::MultiplyInverse }
    "deepgemm_fp4" {
        amax_floor: 1e-4, apply_op: ApplyOp::MultiplyInverse,
        rounding: Rounding::NearestTowardZero, negative_zero: false,
    }
    "deepep" {
        amax_nan: AmaxNan::Skip, amax_floor: 1e-4,
        scale_op: ScaleOp::Multiply, apply_op: ApplyOp::MultiplyRatio,
    }
    "vllm" {
        amax_nan: AmaxNan::Skip, amax_floor: 1e-10, pow2_floor: 1e-10, pow2_op: Pow2Op::FloatLog2,
    }
    "vllm_triton" { amax_floor: 1e-10, scale_op: ScaleOp::Multiply, pow2_op: Pow2Op::FloatLog2 }
    "vllm_per_token" { amax_nan: AmaxNan::Skip, scale_floor: 1.0 / (448.0 * 512.0), pow2_op: Pow2Op::Absent }
    "vllm_static" { apply_op: ApplyOp::MultiplyInverse, pow2_op: Pow2Op::Absent }
    "vllm_fp8_ds_mla" { amax_nan: AmaxNan::Skip, scale_floor: f32::MIN_POSITIVE, pow2_op: Pow2Op::Absent }
    "sglang_triton" { amax_floor: 1e-10, apply_op: ApplyOp::MultiplyInverse, pow2_op: Pow2Op::Absent }
    "sglang_cuda" {
        amax_nan: AmaxNan::Skip, amax_floor: 1e-10,
        scale_op: ScaleOp::Multiply, apply_op: ApplyOp::MultiplyRatio,
    }
    "sglang_colmajor" { amax_floor: 1e-10, pow2_op: Pow2Op::FloatLog2 }
    "tilekernels" { amax_floor: 1e-4, apply_op: ApplyOp::MultiplyRatio }
    "tilekernels_fp4" { apply_op: ApplyOp::MultiplyRatio }
    "tilekernels_e5m6" {
        amax_floor: 1e-4, apply_op: ApplyOp::MultiplyRatio, subnormals: Subnormals::Float32Tail,
    }
    "torchao" {
        amax_floor: 1e-12, scale_op: ScaleOp::Inverse, apply_op: ApplyOp::MultiplyRatio,
        pow2_op: Pow2Op::Absent,
    }
    "transformers" {
        scale_op: ScaleOp::Inverse, apply_op: ApplyOp::MultiplyRatio, zero_tile: ZeroTile::One,
        pow2_op: Pow2Op::Absent, least_exponent: -127,
    }
    "transformer_engine" {
        amax_nan: AmaxNan::Skip, scale_op: ScaleOp::Inverse, apply_op: ApplyOp::MultiplyRatio,
        zero_tile: ZeroTile::One, pow2_op: Pow2Op::Ratio, least_exponent: -127,
    }
    "fnuz_224" { amax_floor: 1e-10, max: Some(224.0) }
    "floor" { scale_op: ScaleOp::Absent, pow2_op: Pow2Op::Floor, least_exponent: -127 }
    "ceil" { scale_op: ScaleOp::Absent, pow2_op: Pow2Op::Ceil, least_exponent: -127 }
    "even" { scale_op: ScaleOp::Absent, pow2_op: Pow2Op::Even, least_exponent: -127 }
    "rceil" { least_exponent: -127 }
    "transformer_engine_mx" { amax_nan: AmaxNan::Skip, scale_op: ScaleOp::Multiply, least_exponent: -127 }
    "torchao_floor" {
        scale_op: ScaleOp::Absent, pow2_op: Pow2Op::Floor, least_exponent: -127, byte0: Byte0::Normal,
    }
    "torchao_ceil" {
        scale_op: ScaleOp::Absent, pow2_op: Pow2Op::Ceil, least_exponent: -127, byte0: Byte0::Normal,
    }
    "torchao_even" {
        scale_op: ScaleOp::Absent, pow2_op: Pow2Op::Even, least_exponent: -127, byte0: Byte0::Normal,
    }
    "torchao_rceil" { pow2_op: Pow2Op::FloatLog2, least_exponent: -127, byte0: Byte0::One }
    "nvfp4" {
        amax_nan: AmaxNan::Skip, scale_op: ScaleOp::Absent, pow2_op: Pow2Op::Absent,
        apply_op: ApplyOp::MultiplyInverse,
    }
    "transformer_engine_nvfp4" {
        amax_nan: AmaxNan::Skip, scale_op: ScaleOp::Absent, pow2_op: Pow2Op::Absent,
        apply_op: ApplyOp::MultiplyInverse, block_op: BlockOp::MultiplyGlobal,
    }
    "nvfp4_vllm" {
        amax_nan: AmaxNan::Skip, scale_op: ScaleOp::Absent, pow2_op: Pow2Op::Absent,
        apply_op: ApplyOp::MultiplyInverse, block_op: BlockOp::Multiply, zero_scale: ZeroScale::Zero,
    }
    "nvfp4_flashmla" { scale_op: ScaleOp::Absent, pow2_op: Pow2Op::Absent, scale_floor: 1.0 / 512.0 }
    "nvfp4_four_over_six" {
        amax_nan: AmaxNan::Skip, scale_op: ScaleOp::Absent, pow2_op: Pow2Op::Absent,
        apply_op: ApplyOp::MultiplyInverse, block_max: 256.0, candidates: candidates(6.0, 4.0),
    }
}

fn refuse(what: &str, found: impl std::fmt::Display, expected: impl std::fmt::Display) -> Error {
    Error::Unsupported(format!("{what}: found {found}, expected {expected}"))
}

impl Rule {
    /// Looks a rule up by name.
    ///
    /// # Errors
    /// [`Error::UnknownName`], listing the names there are.
    pub fn by_name(name: &str) -> Result<&'static Rule, Error> {
        by_name("rule", name, RULES, |r| r.name)
    }

    /// The candidates that count.
    pub fn targets(&self) -> &[f32] {
        let n = self.candidates.iter().position(|c| *c == 0.0).unwrap_or(CANDIDATES);
        &self.candidates[..n]
    }

    /// Settles whether the columns go together with each other, a kind of scale and a format. `searching` says that scales
    /// are found, not given.
    ///
    /// # Errors
    /// [`Error::Unsupported`] or [`Error::Range`], naming the column and what it could be.
    pub fn check(&self, kind: ScaleKind, format: &Format, searching: bool) -> Result<(), Error> {
        let floors = [
            ("amax_floor", self.amax_floor),
            ("scale_floor", self.scale_floor),
            ("pow2_floor", self.pow2_floor),
        ];
        for (what, floor) in floors {
            if !(floor.is_finite() && floor >= 0.0) {
                return Err(refuse(what, floor, "a finite number of at least 0"));
            }
        }
        if !matches!(self.least_exponent, -127 | -126) {
            return Err(refuse("least_exponent", self.least_exponent, "-127 or -126"));
        }
        if self.rounding.is_random() {
            return Err(refuse(
                "rule's rounding",
                format!("\"{}\"", self.rounding.name()),
                "a mode that takes no seed (rounding= does)",
            ));
        }
        let powers = matches!(self.pow2_op, Pow2Op::Floor | Pow2Op::Ceil | Pow2Op::Even);
        if let Some(max) = self.max {
            if !(max > 0.0 && max <= format.max()) {
                return Err(refuse(
                    "max",
                    max,
                    format!("above 0 and at most {}, {}'s own", format.max(), format.name),
                ));
            }
            if powers {
                return Err(refuse(
                    "pow2_op",
                    format!("{:?} with max={max}", self.pow2_op.name()),
                    "\"bit\", \"float_log2\" or \"ratio\", or no max: the others count exponents from the format's own",
                ));
            }
        }
        if format.top == Top::Integer && matches!(kind, ScaleKind::Mx | ScaleKind::Nvfp4) {
            return Err(refuse(
                "scale",
                format!("{:?}", kind.name()),
                format!("\"float32\" or \"ue8m0\" with {}", format.name),
            ));
        }
        if kind == ScaleKind::Nvfp4 && self.apply_op == ApplyOp::MultiplyRatio {
            return Err(refuse(
                "apply_op",
                "\"multiply_ratio\" with NVFP4",
                "\"multiply_inverse\", or \"divide\"",
            ));
        }
        match kind {
            _ if !searching => Ok(()),
            ScaleKind::Float32 if self.scale_op == ScaleOp::Absent => Err(refuse(
                "rule",
                format!("one whose scales are powers of two (pow2_op={:?})", self.pow2_op.name()),
                "scale=\"mx\" or \"ue8m0\" with it, or a rule with a scale_op",
            )),
            ScaleKind::Float32
                if self.least_exponent == -127
                    && self.amax_floor.max(self.scale_floor) < f32::MIN_POSITIVE
                    && (self.scale_op, self.zero_tile) != (ScaleOp::Inverse, ZeroTile::One) =>
            {
                Err(refuse(
                    "least_exponent",
                    "-127 with float32 scales that may become 0",
                    "-126, or a floor, or scale_op=\"inverse\" with zero_tile=\"one\"",
                ))
            }
            ScaleKind::Ue8m0 | ScaleKind::Mx if self.pow2_op == Pow2Op::Absent => Err(refuse(
                "rule",
                "one without powers of two (pow2_op=\"none\")",
                "scale=\"float32\" with it, or a rule with a pow2_op",
            )),
            ScaleKind::Ue8m0 | ScaleKind::Mx if self.scale_op == ScaleOp::Absent && !powers => Err(refuse(
                "scale_op",
                format!("\"none\" with pow2_op={:?}", self.pow2_op.name()),
                "another scale_op, or pow2_op \"floor\", \"ceil\" or \"even\"",
            )),
            ScaleKind::Mx if self.least_exponent != -127 => Err(refuse(
                "rule",
                "one of another standard than MX (least_exponent=-126)",
                "scale=\"ue8m0\" with it, or \"floor\", \"ceil\", \"even\" or \"rceil\"",
            )),
            ScaleKind::Nvfp4 if (self.scale_op, self.pow2_op) != (ScaleOp::Absent, Pow2Op::Absent) => {
                Err(refuse(
                    "rule",
                    "one with scales of its own (scale_op, pow2_op)",
                    "both \"none\" for NVFP4, as in rule=\"nvfp4\", or another scale",
                ))
            }
            ScaleKind::Nvfp4
                if self.targets().is_empty()
                    || self.targets().iter().any(|t| !(t.is_finite() && *t > 0.0)) =>
            {
                Err(refuse("candidates", format!("{:?}", self.targets()), "one or more numbers above 0"))
            }
            ScaleKind::Nvfp4 if !(self.block_max > 0.0 && self.block_max <= 448.0) => {
                Err(refuse("block_max", self.block_max, "above 0 and at most 448, E4M3's largest number"))
            }
            _ => Ok(()),
        }
    }
}
