//! Matrix products give the bytes of the definition at every level and thread count: exhaustive pairs of codes against
//! accumulators of every exponent, adversarial exponents, specials, long chains, ragged shapes, scales and intervals.

mod cases;
mod process;
mod random;

use cases::{draw, draw_c, draw_scales, plain, Case, Data, Held, DATA};
use dsv3_numerics::formats::{table, Codes, Format, Output};
use dsv3_numerics::gemm::{
    matmul_grouped_nt, matmul_nt, mma_step, Accumulator, Operand, Options, ResultType, Shape, Unit,
    UnitScales, ACCUMULATORS,
};
use dsv3_numerics::simd::{set_level, Level};
use process::settings;
use random::Random;

/// All accumulators, all pairs of a few formats, all kinds of data, random shapes, intervals, scales and C.
#[test]
fn random_products_agree() {
    let _settings = settings();
    let mut rng = Random(0x9E37_79B9_7F4A_7C15);
    for accumulator in ACCUMULATORS {
        for round in 0..24 {
            let data = DATA[round % 4];
            let formats = [0, 1].map(|_| &accumulator.inputs[rng.below(accumulator.inputs.len())]);
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
            let every = [None, Some(16), Some(48), Some(96), Some(128), Some(160), Some(256)][rng.below(7)];
            case.promote_every = every.map(|p: usize| p.next_multiple_of(accumulator.interval()));
            if let Some(scale) = accumulator.scale {
                // one scale may last for several blocks
                case.block = scale.blocks[rng.below(scale.blocks.len())] << rng.below(2);
                for (side, rows) in [shape.m, if b_stacked { shape.n } else { 0 }].into_iter().enumerate() {
                    let rows = if rows == 0 { shape.n } else { rows * shape.stack };
                    let count = rows * shape.k.div_ceil(case.block);
                    case.unit[side] = draw_scales(&mut rng, accumulator, count, data);
                }
            }
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

/// Every pair of codes of every pair of FP8 formats beside accumulators of every exponent that matters, signs and
/// mantissas drawn: 16 million steps.
#[test]
fn pairs_of_codes_agree() {
    let _settings = settings();
    let mut rng = Random(0x1234_5678_9ABC_DEF1);
    for name in ["hopper_fp8", "hopper_fp8_f16", "blackwell_fp8", "blackwell_fp8_f16", "hopper_mma_fp8"] {
        let accumulator = Accumulator::by_name(name).unwrap();
        let half = accumulator.result == ResultType::Float16;
        for formats in
            [[&table::E4M3FN, &table::E4M3FN], [&table::E5M2, &table::E5M2], [&table::E4M3FN, &table::E5M2]]
        {
            let shape = Shape { stack: 1, m: 256, n: 256, k: 1 };
            let held = formats.map(|f| Held::new(f, 0..256));
            let mut case = plain(accumulator, formats, shape, held);
            // beyond the products' own exponents by more than the bits that are kept
            for exponent in (-46..58).step_by(if half { 4 } else { 3 }) {
                let c = (0..1 << 16).map(|_| {
                    let x = rng.next() as u32;
                    if half {
                        let field = (exponent + 15).clamp(0, 30) as u32; // a subnormal where there is no such exponent
                        return table::FLOAT16.value((x & 0x83FF) | field << 10);
                    }
                    f32::from_bits((x & 0x807F_FFFF) | ((exponent + 127) as u32) << 23)
                });
                case.c = Some(c.collect());
                case.check();
            }
        }
    }
}

/// Every pair of codes of every pair of formats that scaled units take, with scales at both ends of their range and in
/// the middle, beside no accumulator and beside accumulators of many exponents.
#[test]
fn scaled_pairs_of_codes_agree() {
    let _settings = settings();
    let mut rng = Random(0x5CA1_ED00_5CA1_ED01);
    for accumulator in ACCUMULATORS.iter().filter(|a| a.scale.is_some() && !a.name.starts_with("rtx")) {
        let wide = accumulator.scale.unwrap().format == table::E8M0FNU;
        let scales: &[u8] = if wide {
            &[0, 1, 66, 67, 100, 127, 150, 187, 188, 253, 254, 255]
        } else {
            &[0, 1, 7, 8, 0x38, 0x3F, 0x77, 0x7D, 0x7E, 0x7F, 0x80, 0x88, 0xFE, 0xFF]
        };
        for [a, b] in accumulator.inputs.iter().flat_map(|a| accumulator.inputs.iter().map(move |b| [a, b])) {
            // wide formats: some scales at a time; four-bit ones: all in one product
            let rows = |f: &Format| f.n_codes() * if f.bits() == 4 { scales.len() } else { 1 };
            let shape = Shape { stack: 1, m: rows(a), n: rows(b), k: 1 };
            let held = [a, b].map(|f| Held::new(f, (0..rows(f)).map(|i| (i % f.n_codes()) as u32)));
            let mut case = plain(accumulator, [a, b], shape, held);
            let turns = if a.bits() == 4 && b.bits() == 4 { 1 } else { scales.len() };
            for turn in 0..turns {
                for (side, format) in [a, b].into_iter().enumerate() {
                    let at = |i: usize| (i / format.n_codes() + turn * (1 + 4 * side)) % scales.len();
                    case.unit[side] = (0..rows(format)).map(|i| scales[at(i)]).collect();
                }
                case.c = None;
                case.check();
                case.c = Some(draw_c(&mut rng, accumulator, shape.m * shape.n));
                case.check();
            }
        }
    }
}

/// Scales for the unit that do not fit, or that it does not take: errors that name the side.
#[test]
fn bad_unit_scales_are_errors() {
    let _settings = settings();
    let codes = [0u8; 128];
    let run = |name: &str, scales: Option<UnitScales<'_>>, format: &'static Format| {
        let side = |unit_scales| Operand {
            codes: Codes::U8(&codes),
            format,
            scales: None,
            group: (1, 1),
            unit_scales,
            prepared: None,
        };
        let good = UnitScales { codes: &codes[..2 * 4], group: (1, 16) };
        let good = Accumulator::by_name(name).unwrap().scale.map(|_| good);
        let shape = Shape { stack: 1, m: 2, n: 2, k: 64 };
        let options = Options { accumulator: Accumulator::by_name(name).unwrap(), promote_every: None };
        let out = Output::F32(&mut [0.0; 4]);
        matmul_nt(&side(scales), &side(good), shape, true, None, &options, out).map_err(|e| e.to_string())
    };
    let scales = |n: usize, group| Some(UnitScales { codes: &codes[..n], group });
    let four = &table::E2M1FN;
    assert!(run("blackwell_nvfp4", scales(8, (1, 16)), four).is_ok());
    assert!(run("blackwell_nvfp4", scales(2, (1, 64)), four).is_ok());
    assert!(run("blackwell_nvfp4", scales(1, (9, usize::MAX)), four).is_ok());
    for bad in [None, scales(7, (1, 16)), scales(8, (1, 0)), scales(8, (0, 16)), scales(14, (1, 10))] {
        assert!(run("blackwell_nvfp4", bad, four).unwrap_err().contains('a'), "{bad:?}");
    }
    assert!(run("blackwell_fp8", scales(4, (1, 32)), four).unwrap_err().contains("takes none"));
    assert!(run("blackwell_nvfp4", scales(8, (1, 16)), &table::E4M3FN)
        .unwrap_err()
        .contains("float4_e2m1fn"));
}

/// bfloat16 of any exponents: in reach of the vectors, at the edge, beyond.
#[test]
fn bfloat16_of_any_exponent_agrees() {
    let _settings = settings();
    let mut rng = Random(0x0BAD_5EED_0BAD_5EED);
    for name in ["hopper_bf16", "ada_bf16", "exact", "vdpbf16ps"] {
        let accumulator = Accumulator::by_name(name).unwrap();
        for (low, high) in
            [(80, 170), (60, 130), (120, 190), (70, 80), (168, 176), (0, 254), (0, 3), (250, 254)]
        {
            let shape = Shape { stack: 1, m: 20, n: 35, k: 160 };
            let code = |rng: &mut Random, row: usize| {
                let (low, high) =
                    if row.is_multiple_of(3) { (low, high) } else { (low, (low + 12).min(high)) };
                let x = rng.next() as u32;
                x & 0x807F | (low + (x >> 16) % (high - low + 1)) << 7
            };
            let held = [shape.m, shape.n].map(|rows| {
                Held::new(&table::BFLOAT16, (0..rows * shape.k).map(|i| code(&mut rng, i / shape.k)))
            });
            let mut case = plain(accumulator, [&table::BFLOAT16; 2], shape, held);
            case.check();
            case.promote_every = Some(64);
            case.c = Some(draw_c(&mut rng, accumulator, shape.m * shape.n));
            case.check();
            case.promote_every = None;
            case.check();
        }
    }
}

/// Few rows beside weights that end anywhere: rows and columns that fill no vector, an odd k, intervals of any even length,
/// subnormal numbers, both zeros, and sums that begin with them.
#[test]
fn few_rows_of_pairs_agree() {
    let _settings = settings();
    let mut rng = Random(0x0FE3_7085_0FE3_7085);
    let accumulator = Accumulator::by_name("vdpbf16ps").unwrap();
    for round in 0..160 {
        let k = [0, 1, 2, 3, 30, 31, 32, 33, 63, 64, 65, 95, 97, 130, 288][rng.below(15)];
        let shape = Shape { stack: 1, m: 1 + round % 26, n: 1 + rng.below(40), k };
        let formats = [(); 2].map(|()| match rng.below(4) {
            0 => accumulator.inputs[rng.below(accumulator.inputs.len())],
            _ => table::BFLOAT16,
        });
        let formats = formats.map(|format| accumulator.inputs.iter().find(|f| **f == format).unwrap());
        let special = [0x0000, 0x8000, 0x0001, 0x807F, 0x0080, 0x7F80, 0xFFC0, 0x3F80];
        let held = [0, 1].map(|side| {
            let n = [shape.m, shape.n][side] * k;
            if *formats[side] != table::BFLOAT16 {
                return draw(&mut rng, formats[side], n, DATA[round % 4]);
            }
            let low = [60, 100, 126][rng.below(3)];
            let code = |x: u32| match x % 64 {
                0 if round % 3 == 0 => special[(x >> 8) as usize % special.len()],
                1..4 => special[(x >> 8) as usize % 2],
                4 if round % 2 == 0 => x >> 16 & 0x807F,
                _ => x >> 16 & 0x807F | (low + (x >> 8) % 8) << 7,
            };
            Held::new(&table::BFLOAT16, (0..n).map(|_| code(rng.next() as u32)))
        });
        let mut case = plain(accumulator, formats, shape, held);
        case.promote_every = [None, Some(2), Some(6), Some(32), Some(34), Some(64), Some(96)][rng.below(7)];
        if rng.below(2) == 0 {
            case.c = Some(draw_c(&mut rng, accumulator, shape.m * shape.n));
        }
        case.check();
    }
}

/// Chains of thousands of steps, where a single wrong bit would stay.
#[test]
fn long_chains_agree() {
    let _settings = settings();
    let mut rng = Random(0xC0FF_EE00_C0FF_EE01);
    for accumulator in ACCUMULATORS.iter().filter(|a| a.unit != Unit::Float32) {
        for data in [Data::Near, Data::Spread, Data::Finite] {
            let format = &accumulator.inputs[0];
            let shape = Shape { stack: 1, m: 3, n: 19, k: 20_000 };
            let held = [shape.m, shape.n].map(|rows| draw(&mut rng, format, rows * shape.k, data));
            plain(accumulator, [format; 2], shape, held).check();
        }
    }
}

/// A step is a product of one step's length.
#[test]
fn step_is_a_short_product() {
    let _settings = settings();
    let mut rng = Random(0xFEED_FACE_CAFE_BEEF);
    for accumulator in ACCUMULATORS {
        for data in DATA {
            let (l, count) = (accumulator.products, 50);
            let formats = [0, 1].map(|_| &accumulator.inputs[rng.below(accumulator.inputs.len())]);
            let held = formats.map(|f| draw(&mut rng, f, count * l, data));
            let c = draw_c(&mut rng, accumulator, count);
            let mut steps = vec![0f32; count];
            let shape = Shape { stack: count, m: 1, n: 1, k: l };
            let mut case = Case { c: Some(c), ..plain(accumulator, formats, shape, held) };
            for unit in &mut case.unit {
                *unit = draw_scales(&mut rng, accumulator, unit.len(), data);
            }
            let c = case.c.as_deref().unwrap();
            mma_step(accumulator, &case.operand(0), &case.operand(1), c, &mut steps).unwrap();
            let found =
                case.run(Level::Avx512.min(*Level::all_available().collect::<Vec<_>>().last().unwrap()), 1);
            let steps: Vec<u32> = steps.into_iter().map(f32::to_bits).collect();
            assert_eq!(found, steps, "{} {data:?}", accumulator.name);
        }
    }
}

/// Each expert's rows are a product of their own; some have none.
#[test]
fn experts_take_their_rows() {
    let _settings = settings();
    let mut rng = Random(0xDEAD_BEEF_1234_5677);
    let (m, n, k, group) = (45, 33, 256, (1, 128));
    let offsets = [0i64, 7, 7, 40, 45];
    for name in ["hopper_fp8", "blackwell_fp8", "hopper_mma_fp8_f16", "exact", "float32", "vdpbf16ps"] {
        let accumulator = Accumulator::by_name(name).unwrap();
        let (a, b) = (
            draw(&mut rng, &table::E4M3FN, m * k, Data::Any),
            draw(&mut rng, &table::E5M2, 4 * n * k, Data::Any),
        );
        let scales: Vec<f32> = (0..m * 2).map(|i| 0.25 + i as f32).collect();
        let options = Options { accumulator, promote_every: Some(128) };
        let left = |codes, scales| Operand {
            codes,
            format: &table::E4M3FN,
            scales: Some(scales),
            group,
            unit_scales: None,
            prepared: None,
        };
        let right = |codes| Operand {
            codes,
            format: &table::E5M2,
            scales: None,
            group: (1, 1),
            unit_scales: None,
            prepared: None,
        };
        let (Held::Bytes(a), Held::Bytes(b)) = (&a, &b) else { unreachable!() };
        for level in Level::all_available() {
            set_level(level).unwrap();
            let mut found = vec![0u16; m * n];
            let shape = Shape { stack: 4, m, n, k };
            let (x, y) = (left(Codes::U8(a), &scales), right(Codes::U8(b)));
            matmul_grouped_nt(&x, &y, shape, &offsets, None, &options, Output::Bf16(&mut found)).unwrap();
            for (e, w) in offsets.windows(2).enumerate() {
                let (from, to) = (w[0] as usize, w[1] as usize);
                let mut expected = vec![0u16; (to - from) * n];
                let shape = Shape { stack: 1, m: to - from, n, k };
                let x = left(Codes::U8(&a[from * k..to * k]), &scales[from * 2..to * 2]);
                let y = right(Codes::U8(&b[e * n * k..(e + 1) * n * k]));
                matmul_nt(&x, &y, shape, true, None, &options, Output::Bf16(&mut expected)).unwrap();
                assert_eq!(found[from * n..to * n], expected, "{name} {level:?} expert {e}");
            }
        }
    }
}

/// Known steps: zeros take no part in the largest exponent, zero has no sign, NaN has one code.
#[test]
fn known_steps() {
    let step = |name: &str, a: [u8; 2], b: [u8; 2], c: f32| {
        let accumulator = Accumulator::by_name(name).unwrap();
        let pad = |x: [u8; 2]| {
            let mut out = vec![0u8; accumulator.products];
            out[..2].copy_from_slice(&x);
            out
        };
        let (a, b, mut out) = (pad(a), pad(b), [0f32]);
        let format = &table::E4M3FN;
        let side =
            |codes| Operand { codes, format, scales: None, group: (1, 1), unit_scales: None, prepared: None };
        mma_step(accumulator, &side(Codes::U8(&a)), &side(Codes::U8(&b)), &[c], &mut out).unwrap();
        out[0].to_bits()
    };
    assert_eq!(step("hopper_fp8", [0x00, 0x39], [0x7E, 0x09], 0.0), 0x3CA2_0000);
    assert_eq!(step("hopper_fp8", [0x80, 0x80], [0x38, 0x38], -0.0), 0);
    assert_eq!(step("hopper_fp8", [0x7F, 0], [0, 0], 1.0), 0x7FFF_FFFF);
    assert_eq!(step("exact", [0x38, 0x7F], [0x38, 0], 1.0), 0x7FFF_FFFF);
    assert_eq!(step("float32", [0x38, 0x7F], [0x38, 0], 1.0), 0x7FC0_0000);
    // 1 + 2^-13 is kept, 1 + 2^-14 is cut
    assert_eq!(step("hopper_fp8", [0x38, 0], [0x38, 0], 2f32.powi(-13)), (1.0 + 2f32.powi(-13)).to_bits());
    assert_eq!(step("hopper_fp8", [0x38, 0], [0x38, 0], 2f32.powi(-14)), 1f32.to_bits());
}

/// Sizes of 0, sizes that overflow, and every kind of argument that does not fit: errors, never a panic.
#[test]
fn bad_arguments_are_errors() {
    let _settings = settings();
    let codes = [0u8; 64];
    let side = |scales, group| Operand {
        codes: Codes::U8(&codes),
        format: &table::E4M3FN,
        scales,
        group,
        unit_scales: None,
        prepared: None,
    };
    let run = |a: &Operand<'_>, shape: [usize; 4], promote_every, name: &str, out: &mut [f32]| {
        let [stack, m, n, k] = shape;
        let options = Options { accumulator: Accumulator::by_name(name).unwrap(), promote_every };
        let b = Operand { codes: Codes::U8(&codes[..n.saturating_mul(k).min(64)]), ..side(None, (1, 1)) };
        let shape = Shape { stack, m, n, k };
        matmul_nt(a, &b, shape, false, None, &options, Output::F32(out)).map_err(|e| e.to_string())
    };
    let fits = side(None, (1, 1));
    for level in Level::all_available() {
        set_level(level).unwrap();
        for name in ["hopper_fp8", "blackwell_fp8", "hopper_mma_fp8", "exact", "float32"] {
            let none = Operand { codes: Codes::U8(&[]), ..fits };
            for shape in [[0, 2, 2, 32], [1, 0, 2, 32], [1, 2, 2, 0], [3, 0, 0, 0], [0, 0, 0, usize::MAX]] {
                let mut out = vec![7f32; shape[0] * shape[1] * shape[2]];
                let found = run(&none, shape, None, name, &mut out);
                assert!(found.is_ok() || shape[3] == usize::MAX, "{shape:?}: {found:?}");
                assert!(found.is_err() || out.iter().all(|x| *x == 0.0));
            }
            let max = usize::MAX;
            for shape in
                [[max, max, 1, 1], [1, max, 2, 2], [1, 2, max, 1], [2, 1, 1, max], [max / 2, 2, 2, 0]]
            {
                assert!(run(&fits, shape, None, name, &mut []).is_err(), "{shape:?}");
            }
            assert!(run(&fits, [1, 2, 2, 32], Some(40), name, &mut [0.0; 4]).is_err());
            assert!(run(&fits, [1, 2, 2, 32], Some(max - max % 32), name, &mut [0.0; 4]).is_ok());
            assert!(run(&fits, [1, 2, 2, 32], Some(32), name, &mut [0.0; 5]).is_err());
            assert!(run(&side(None, (0, 1)), [1, 2, 2, 32], None, name, &mut [0.0; 4]).is_err());
            assert!(run(&side(Some(&[1.0; 3]), (1, 32)), [1, 2, 2, 32], None, name, &mut [0.0; 4]).is_err());
            assert!(run(&side(Some(&[1.0; 4]), (1, 16)), [1, 2, 2, 32], None, name, &mut [0.0; 4]).is_err());
            assert!(
                run(&side(Some(&[1.0; 4]), (1, 16)), [1, 2, 2, 32], Some(32), name, &mut [0.0; 4]).is_err()
            );
            assert!(run(&side(Some(&[1.0; 1]), (max, max)), [1, 2, 2, 32], None, name, &mut [0.0; 4]).is_ok());
        }
        let f16 = Operand { format: &table::FLOAT16, ..fits };
        assert!(run(&f16, [1, 2, 2, 32], None, "hopper_fp8", &mut [0.0; 4]).unwrap_err().contains("float16"));
        assert!(run(&f16, [1, 2, 2, 32], None, "hopper_f16", &mut [0.0; 4]).is_err(), "bytes for words");
        let options =
            Options { accumulator: Accumulator::by_name("hopper_fp8_f16").unwrap(), promote_every: None };
        let shape = Shape { stack: 1, m: 2, n: 2, k: 32 };
        let mut out = [0.0; 4];
        let mut with_c = |c: [f32; 4]| {
            matmul_nt(&fits, &fits, shape, true, Some(&c), &options, Output::F32(&mut out)).is_ok()
        };
        assert!(with_c([1.0, -0.0, f32::NAN, 65504.0]) && !with_c([1.0, 1e-9, 0.0, 0.0]));
        assert!(!with_c([65520.0, 0.0, 0.0, 0.0]) && with_c([f32::INFINITY, 2f32.powi(-24), 0.0, 0.0]));
        for offsets in [&[0i64, 2][..], &[1, 1, 2], &[0, 3, 2], &[0, -1, 2], &[0, 1, i64::MAX], &[]] {
            let shape = Shape { stack: 2, m: 2, n: 1, k: 32 };
            let found =
                matmul_grouped_nt(&fits, &fits, shape, offsets, None, &options, Output::F32(&mut [0.0; 2]));
            assert!(found.is_err(), "{offsets:?}");
        }
    }
}
