//! Runs one kernel some times, so that an emulator can count its instructions: `kernels NAME LEVEL REPEATS`, or
//! `kernels` for the names and how many elements (of products: multiplications) a run has.
//!
//! The difference of two counts is the kernel's own: what prepares the inputs is in both.

use dsv3_numerics::formats::{
    decode, encode, table, Codes, CodesMut, EncodeOptions, Format, Input, Output, Rounding,
};
use dsv3_numerics::gemm::{matmul_nt, Accumulator, Operand, Options, Shape};
use dsv3_numerics::quant::logfmt::{logfmt_decode, logfmt_encode, LogOptions, Precision, Tiles, TilesMut};
use dsv3_numerics::quant::{
    amax, dequantize, quantize, Blocks, Global, QuantizeOptions, Rule, ScaleKind, ScaleSource,
};
use dsv3_numerics::simd::{set_level, Level};
use dsv3_numerics::threads::set_num_threads;
use std::process::ExitCode;

/// Elements of an array, in rows of [`COLS`].
const LEN: usize = 64 * 1024;
const COLS: usize = 4096;

/// A kernel: elements of a run, and runs it so many times.
type Kernel = (&'static str, usize, fn(usize));

const KERNELS: &[Kernel] = &[
    ("cast float32 to e4m3fn", LEN, |n| cast(&table::E4M3FN, Rounding::NearestEven, n)),
    ("cast float32 to e5m2", LEN, |n| cast(&table::E5M2, Rounding::NearestEven, n)),
    ("cast float32 to e2m1fn", LEN, |n| cast(&table::E2M1FN, Rounding::NearestEven, n)),
    ("cast float32 to int8", LEN, |n| cast(&table::INT8, Rounding::NearestEven, n)),
    ("cast float32 to e4m3fn, stochastic", LEN, |n| cast(&table::E4M3FN, Rounding::Stochastic, n)),
    ("cast bfloat16 to e4m3fn", LEN, cast_bf16),
    ("cast e4m3fn to float32", LEN, |n| back(&table::E4M3FN, n)),
    ("cast e5m2 to float32", LEN, |n| back(&table::E5M2, n)),
    ("cast e4m3fn to bfloat16", LEN, back_bf16),
    ("largest magnitudes of 1 x 128", LEN, largest),
    ("quantize to e4m3fn by 1 x 128", LEN, |n| {
        quantizer(&table::E4M3FN, [1, 128], ScaleKind::Float32, "deepseek_v3", n);
    }),
    ("quantize to e4m3fn by 128 x 128", LEN, |n| {
        quantizer(&table::E4M3FN, [128, 128], ScaleKind::Float32, "deepseek_v3", n);
    }),
    ("quantize to mxfp8 (e4m3fn)", LEN, |n| quantizer(&table::E4M3FN, [1, 32], ScaleKind::Mx, "floor", n)),
    ("quantize to nvfp4", LEN, |n| quantizer(&table::E2M1FN, [1, 16], ScaleKind::Nvfp4, "nvfp4", n)),
    ("dequantize e4m3fn by 128 x 128", LEN, |n| dequantizer([128, 128], n)),
    ("dequantize e4m3fn by 1 x 128", LEN, |n| dequantizer([1, 128], n)),
    ("LogFMT, 8 bits, encode", LEN, log_encode),
    ("LogFMT, 8 bits, decode", LEN, |n| log_decode(Precision::Exact, n)),
    ("LogFMT, 8 bits, decode quickly", LEN, |n| log_decode(Precision::Quick, n)),
    ("product, float32, 64 rows", 64 * ROWS * DEEP, |n| product("float32", 64, n)),
    ("product, float32, 4 rows", 4 * ROWS * DEEP, |n| product("float32", 4, n)),
    ("product, hopper_fp8, 64 rows", 64 * ROWS * DEEP, |n| product("hopper_fp8", 64, n)),
    ("product, blackwell_fp8, 64 rows", 64 * ROWS * DEEP, |n| product("blackwell_fp8", 64, n)),
];

/// The right-hand side of products.
const ROWS: usize = 64;
const DEEP: usize = 512;

/// Numbers with the density of a bell.
fn numbers(len: usize) -> Vec<f32> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..len).map(|_| (0..12).map(|_| uniform()).sum()).collect()
}

fn codes(format: &'static Format, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    encode(Input::F32(&numbers(len)), format, &EncodeOptions::default(), CodesMut::U8(&mut out)).unwrap();
    out
}

fn cast(format: &'static Format, rounding: Rounding, repeats: usize) {
    let (x, mut out) = (numbers(LEN), vec![0; LEN]);
    let options = EncodeOptions { rounding, ..EncodeOptions::default() };
    for _ in 0..repeats {
        encode(Input::F32(&x), format, &options, CodesMut::U8(&mut out)).unwrap();
    }
}

fn cast_bf16(repeats: usize) {
    let x: Vec<u16> = numbers(LEN).iter().map(|x| (x.to_bits() >> 16) as u16).collect();
    let mut out = vec![0; LEN];
    for _ in 0..repeats {
        let out = CodesMut::U8(&mut out);
        encode(Input::Bf16(&x), &table::E4M3FN, &EncodeOptions::default(), out).unwrap();
    }
}

fn back(format: &'static Format, repeats: usize) {
    let (codes, mut out) = (codes(format, LEN), vec![0f32; LEN]);
    for _ in 0..repeats {
        decode(Codes::U8(&codes), format, Output::F32(&mut out)).unwrap();
    }
}

fn back_bf16(repeats: usize) {
    let (codes, mut out) = (codes(&table::E4M3FN, LEN), vec![0; LEN]);
    for _ in 0..repeats {
        decode(Codes::U8(&codes), &table::E4M3FN, Output::Bf16(&mut out)).unwrap();
    }
}

fn blocks(block: [usize; 2]) -> Blocks {
    Blocks::new([1, LEN / COLS, COLS], block).unwrap()
}

fn largest(repeats: usize) {
    let (x, blocks) = (numbers(LEN), blocks([1, 128]));
    let mut out = vec![0f32; blocks.scales()];
    for _ in 0..repeats {
        amax(Input::F32(&x), blocks, &mut out).unwrap();
    }
}

fn quantizer(format: &'static Format, block: [usize; 2], scale: ScaleKind, rule: &str, repeats: usize) {
    let (x, blocks) = (numbers(LEN), blocks(block));
    let width = if scale == ScaleKind::Float32 { 4 } else { 1 };
    let (mut out, mut scales) = (vec![0; LEN], vec![0; width * blocks.scales()]);
    let options = QuantizeOptions {
        scale,
        rule: *Rule::by_name(rule).unwrap(),
        from: ScaleSource::Found,
        global: Global::ONE,
        ..QuantizeOptions::default()
    };
    for _ in 0..repeats {
        quantize(Input::F32(&x), blocks, format, &options, CodesMut::U8(&mut out), &mut scales).unwrap();
    }
}

fn dequantizer(block: [usize; 2], repeats: usize) {
    let (codes, blocks, mut out) = (codes(&table::E4M3FN, LEN), blocks(block), vec![0f32; LEN]);
    let scales = vec![0.37f32; blocks.scales()];
    for _ in 0..repeats {
        dequantize(Codes::U8(&codes), &table::E4M3FN, blocks, &scales, Output::F32(&mut out)).unwrap();
    }
}

/// Codes, and least and largest magnitudes, of tiles of 128.
fn log_codes(repeats: usize) -> (Tiles, Vec<u8>, Vec<f32>, Vec<f32>) {
    let (x, tiles) = (numbers(LEN), Tiles::new(LEN / COLS, COLS, 128).unwrap());
    let n = tiles.count();
    let (mut codes, mut low, mut high, mut flags) = (vec![0; LEN], vec![0.0; n], vec![0.0; n], vec![0; n]);
    for _ in 0..repeats {
        let out = TilesMut { amin: &mut low, amax: &mut high, flags: &mut flags };
        logfmt_encode(Input::F32(&x), tiles, &LogOptions::default(), CodesMut::U8(&mut codes), out).unwrap();
    }
    (tiles, codes, low, high)
}

fn log_encode(repeats: usize) {
    log_codes(repeats);
}

fn log_decode(precision: Precision, repeats: usize) {
    let (tiles, codes, low, high) = log_codes(1);
    let mut out = vec![0f32; LEN];
    for _ in 0..repeats {
        let out = Output::F32(&mut out);
        logfmt_decode(Codes::U8(&codes), 8, tiles, &low, &high, out, precision).unwrap();
    }
}

fn product(accumulator: &str, m: usize, repeats: usize) {
    let format = &table::E4M3FN;
    let (a, b, mut out) = (codes(format, m * DEEP), codes(format, ROWS * DEEP), vec![0f32; m * ROWS]);
    let side = |codes| Operand {
        codes: Codes::U8(codes),
        format,
        scales: None,
        group: (1, DEEP),
        unit_scales: None,
        prepared: None,
    };
    let options =
        Options { accumulator: Accumulator::by_name(accumulator).unwrap(), promote_every: Some(128) };
    let shape = Shape { stack: 1, m, n: ROWS, k: DEEP };
    for _ in 0..repeats {
        matmul_nt(&side(&a), &side(&b), shape, false, None, &options, Output::F32(&mut out)).unwrap();
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, level, repeats] = &arguments[..] else {
        for (name, elements, _) in KERNELS {
            println!("{elements} {name}");
        }
        return ExitCode::SUCCESS;
    };
    let kernel = KERNELS.iter().find(|kernel| kernel.0 == name.as_str());
    let (Some((_, _, run)), Ok(level), Ok(repeats)) = (kernel, Level::parse(level), repeats.parse()) else {
        eprintln!("usage: kernels NAME LEVEL REPEATS");
        return ExitCode::FAILURE;
    };
    set_level(level).unwrap();
    set_num_threads(1).unwrap();
    run(repeats);
    ExitCode::SUCCESS
}
