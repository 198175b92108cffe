//! Matrix products give the bytes of the definition at every level and thread count: exhaustive pairs of codes against
//! accumulators of every exponent, adversarial exponents, specials, long chains, ragged shapes, scales and intervals.

use dsv3_numerics::formats::{table, Codes, Format, Output};
use dsv3_numerics::gemm::{
    fused_step, matmul_grouped_nt, matmul_nt, Accumulator, Operand, Options, ResultType, Shape, Unit,
    ACCUMULATORS,
};
use dsv3_numerics::simd::{set_level, Level};
use dsv3_numerics::threads::set_num_threads;
use std::sync::{Mutex, MutexGuard};

/// Level and threads are settings of the process: one test at a time.
fn settings() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(|e| e.into_inner())
}

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// Codes in the integers they come in.
#[derive(Clone)]
enum Held {
    Bytes(Vec<u8>),
    Words(Vec<u16>),
}

impl Held {
    fn new(format: &Format, codes: impl Iterator<Item = u32>) -> Held {
        if format.bits() <= 8 {
            Held::Bytes(codes.map(|c| c as u8).collect())
        } else {
            Held::Words(codes.map(|c| c as u16).collect())
        }
    }
    fn codes(&self) -> Codes<'_> {
        match self {
            Held::Bytes(x) => Codes::U8(x),
            Held::Words(x) => Codes::U16(x),
        }
    }
}

/// How codes are drawn.
#[derive(Clone, Copy, Debug)]
enum Data {
    /// All codes, specials too.
    Any,
    /// Every finite code.
    Finite,
    /// Mostly small and zero, some large: most terms are cut, sums cancel.
    Spread,
    /// Like any trained tensor: exponents near each other.
    Near,
}

const DATA: [Data; 4] = [Data::Any, Data::Finite, Data::Spread, Data::Near];

fn draw(rng: &mut Rng, format: &Format, n: usize, data: Data) -> Held {
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
fn draw_c(rng: &mut Rng, accumulator: &Accumulator, n: usize) -> Vec<f32> {
    let half = accumulator.result == ResultType::Float16;
    let one = |rng: &mut Rng| {
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

struct Case {
    accumulator: &'static Accumulator,
    formats: [&'static Format; 2],
    shape: Shape,
    held: [Held; 2],
    scales: [Option<Vec<f32>>; 2],
    groups: [(usize, usize); 2],
    promote_every: Option<usize>,
    c: Option<Vec<f32>>,
    b_stacked: bool,
}

impl Case {
    fn operand(&self, side: usize) -> Operand<'_> {
        Operand {
            codes: self.held[side].codes(),
            format: self.formats[side],
            scales: self.scales[side].as_deref(),
            group: self.groups[side],
        }
    }

    fn options(&self) -> Options {
        Options { accumulator: self.accumulator, promote_every: self.promote_every }
    }

    fn run(&self, level: Level, threads: usize) -> Vec<u32> {
        set_level(level).unwrap();
        set_num_threads(threads).unwrap();
        let mut out = vec![0f32; self.shape.stack * self.shape.m * self.shape.n];
        let (a, b, c) = (self.operand(0), self.operand(1), self.c.as_deref());
        matmul_nt(&a, &b, self.shape, self.b_stacked, c, &self.options(), Output::F32(&mut out)).unwrap();
        out.into_iter().map(f32::to_bits).collect()
    }

    /// Every level and one or two threads against the definition.
    fn check(&self) {
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

fn plain(
    accumulator: &'static Accumulator,
    formats: [&'static Format; 2],
    shape: Shape,
    held: [Held; 2],
) -> Case {
    Case {
        accumulator,
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

fn static_format(format: &Format) -> &'static Format {
    Format::by_name(format.name).unwrap()
}

/// All accumulators, all pairs of a few formats, all kinds of data, random shapes, intervals, scales and C.
#[test]
fn random_products_agree() {
    let _settings = settings();
    let mut rng = Rng(0x9E37_79B9_7F4A_7C15);
    for accumulator in ACCUMULATORS {
        for round in 0..24 {
            let data = DATA[round % 4];
            let formats =
                [0, 1].map(|_| static_format(&accumulator.inputs[rng.below(accumulator.inputs.len())]));
            let shape = Shape {
                stack: 1 + rng.below(2),
                m: 1 + rng.below(40),
                n: 1 + rng.below(40),
                k: [7, 32, 40, 128, 129, 256, 300, 384, 517][rng.below(9)],
            };
            let b_stacked = rng.below(2) == 0;
            let held = [
                draw(&mut rng, formats[0], shape.stack * shape.m * shape.k, data),
                draw(&mut rng, formats[1], if b_stacked { shape.stack } else { 1 } * shape.n * shape.k, data),
            ];
            let mut case = Case { b_stacked, ..plain(accumulator, formats, shape, held) };
            case.promote_every = [None, Some(32), Some(96), Some(128), Some(160), Some(256)][rng.below(6)];
            if round % 3 > 0 {
                case.c = Some(draw_c(&mut rng, accumulator, shape.stack * shape.m * shape.n));
            }
            if round % 2 == 0 {
                for side in 0..2 {
                    let rows = [shape.m, shape.n][side];
                    let matrices = if side == 0 || b_stacked { shape.stack } else { 1 };
                    let group_k = case.promote_every.map_or(shape.k, |p| p * (1 + rng.below(2)));
                    let group = ([1, 5, 128][rng.below(3)], group_k);
                    let count = matrices * rows.div_ceil(group.0) * shape.k.div_ceil(group.1);
                    case.groups[side] = group;
                    case.scales[side] =
                        Some((0..count).map(|_| (1 + rng.below(1000)) as f32 * 2f32.powi(-12)).collect());
                }
            }
            case.check();
        }
    }
}
