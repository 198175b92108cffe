//! Products that are drawn, and compared with the definition at every level.

use crate::process::set_threads;
use crate::random::Random;
use dsv3_numerics::formats::{table, Codes, Format, Output};
use dsv3_numerics::gemm::{matmul_nt, Accumulator, Operand, Options, ResultType, Shape, UnitScales};
use dsv3_numerics::simd::{set_level, Level};

/// Codes in the integers they come in.
#[derive(Clone)]
pub enum Held {
    Bytes(Vec<u8>),
    Words(Vec<u16>),
    Floats(Vec<u32>),
}

impl Held {
    pub fn new(format: &Format, codes: impl Iterator<Item = u32>) -> Held {
        if format.bits() <= 8 {
            Held::Bytes(codes.map(|c| c as u8).collect())
        } else if format.bits() > 16 {
            // bits of float32, the low ones of which are cut off
            let low = |c: u32| if c >> 10 & 255 == 255 { 0 } else { c.wrapping_mul(0x9E37_79B9) >> 19 };
            Held::Floats(codes.map(|c| c << 13 | low(c)).collect())
        } else {
            Held::Words(codes.map(|c| c as u16).collect())
        }
    }
    pub fn codes(&self) -> Codes<'_> {
        match self {
            Held::Bytes(x) => Codes::U8(x),
            Held::Words(x) => Codes::U16(x),
            Held::Floats(x) => Codes::U32(x),
        }
    }
}

/// How codes are drawn.
#[derive(Clone, Copy, Debug)]
pub enum Data {
    /// All codes, specials too.
    Any,
    /// Every finite code.
    Finite,
    /// Mostly small and zero, some large: most terms are cut, sums cancel.
    Spread,
    /// Like any trained tensor: exponents near each other.
    Near,
}

pub const DATA: [Data; 4] = [Data::Any, Data::Finite, Data::Spread, Data::Near];

pub fn draw(rng: &mut Random, format: &Format, n: usize, data: Data) -> Held {
    let (bits, max) = (format.bits(), u64::from(format.max_code()));
    Held::new(
        format,
        (0..n).map(|_| {
            let (x, sign) = (rng.next(), (rng.next() as u32 & 1) << (bits - 1));
            let magnitude = match data {
                // one in a few thousand is special, so that most rows are not
                Data::Any if x % 4096 == 0 => (x >> 20) % (1 << (bits - 1)),
                Data::Spread if x % 5 != 0 => (x >> 20) % (max / 8 + 1),
                Data::Near => max / 2 + (x >> 20) % (max / 4 + 1),
                _ => (x >> 20) % (max + 1),
            };
            magnitude as u32 | sign
        }),
    )
}

/// Accumulators of every kind: zeros of both signs, any bits, subnormals, and ordinary ones. Float16 where they must be.
pub fn draw_c(rng: &mut Random, accumulator: &Accumulator, n: usize) -> Vec<f32> {
    let half = accumulator.result == ResultType::Float16;
    let one = |rng: &mut Random| {
        let x = rng.next();
        let word = (x >> 10) as u32;
        if half {
            return match x % 4 {
                0 => 0.0,
                1 => table::FLOAT16.value(word & 0xFFFF),
                _ => table::FLOAT16.value(word & 0xBFFF),
            };
        }
        f32::from_bits(match x % 8 {
            0 => 0,
            1 => word & 0x8000_0000,
            2 => word,
            3 => word & 0x807F_FFFF,
            _ => (word & 0x807F_FFFF) | (100 + (x >> 42) as u32 % 48) << 23,
        })
    };
    (0..n).map(|_| one(rng)).collect()
}

pub struct Case {
    pub accumulator: &'static Accumulator,
    pub formats: [&'static Format; 2],
    pub shape: Shape,
    pub held: [Held; 2],
    pub scales: [Option<Vec<f32>>; 2],
    pub groups: [(usize, usize); 2],
    pub promote_every: Option<usize>,
    pub c: Option<Vec<f32>>,
    pub b_stacked: bool,
    /// Codes of the unit's scales, and how much of k each spans.
    pub unit: [Vec<u8>; 2],
    pub block: usize,
}

impl Case {
    pub fn unit_scales(&self, side: usize) -> Option<UnitScales<'_>> {
        let codes = &self.unit[side][..];
        self.accumulator.scale.map(|_| UnitScales { codes, group: (1, self.block) })
    }

    pub fn operand(&self, side: usize) -> Operand<'_> {
        Operand {
            codes: self.held[side].codes(),
            format: self.formats[side],
            scales: self.scales[side].as_deref(),
            group: self.groups[side],
            unit_scales: self.unit_scales(side),
            prepared: None,
        }
    }

    pub fn options(&self) -> Options {
        Options { accumulator: self.accumulator, promote_every: self.promote_every }
    }

    pub fn run(&self, level: Level, threads: usize) -> Vec<u32> {
        set_level(level).unwrap();
        set_threads(threads);
        let mut out = vec![0f32; self.shape.stack * self.shape.m * self.shape.n];
        let (a, b, c) = (self.operand(0), self.operand(1), self.c.as_deref());
        matmul_nt(&a, &b, self.shape, self.b_stacked, c, &self.options(), Output::F32(&mut out)).unwrap();
        out.into_iter().map(f32::to_bits).collect()
    }

    /// Every level and one or two threads against the definition.
    pub fn check(&self) {
        let expected = self.run(Level::Scalar, 1);
        for level in Level::all_available() {
            for threads in [1, 2] {
                let found = self.run(level, threads);
                if let Some(at) = (0..found.len()).find(|i| found[*i] != expected[*i]) {
                    let c = self.c.as_ref().map(|c| c[at].to_bits());
                    panic!(
                        "{} {:?} {:?} promote {:?} {level:?} {threads}: [{at}] {:08x}, expected {:08x}, c {c:08x?}",
                        self.accumulator.name,
                        self.formats.map(|f| f.name),
                        self.shape,
                        self.promote_every,
                        found[at],
                        expected[at],
                    );
                }
            }
        }
    }
}

pub fn plain(
    accumulator: &'static Accumulator,
    formats: [&'static Format; 2],
    shape: Shape,
    held: [Held; 2],
) -> Case {
    // scales of 1 for the unit
    let block = accumulator.scale.map_or(1, |scale| scale.blocks[0]);
    let one = accumulator.scale.map_or(0, |scale| if scale.format == table::E8M0FNU { 127 } else { 0x38 });
    let unit = [shape.m, shape.n].map(|rows| vec![one; shape.stack * rows * shape.k.div_ceil(block)]);
    Case {
        accumulator,
        unit,
        block,
        formats,
        shape,
        held,
        scales: [None, None],
        groups: [(1, 1); 2],
        promote_every: None,
        c: None,
        b_stacked: true,
    }
}

/// Codes of scales: any, or (where the data are near each other) such as trained tensors have.
pub fn draw_scales(rng: &mut Random, accumulator: &Accumulator, n: usize, data: Data) -> Vec<u8> {
    let wide = accumulator.scale.is_some_and(|scale| scale.format == table::E8M0FNU);
    let one = |rng: &mut Random| {
        let x = rng.next() as u8;
        match (data, wide) {
            (Data::Any, _) if rng.below(20) == 0 => x,
            (Data::Spread, true) => 127 - 70 + x % 140,
            (Data::Spread | Data::Finite, false) => x % 0x7F,
            (_, true) => 122 + x % 10,
            (_, false) => 0x28 + x % 0x20,
        }
    };
    (0..n).map(|_| one(rng)).collect()
}
