//! The operations of attention and of experts: where results are rounded to bfloat16, and that levels, threads and the
//! form of the keys change no bit.
//!
//! The rounding points are held against a plain definition, written out here in float64, on numbers so small that no
//! product of matrices has anything to round: then every order of summation gives the same.

mod process;
mod random;

use dsv3_numerics::formats::bfloat16::round_bfloat16;
use dsv3_numerics::formats::table::BFLOAT16;
use dsv3_numerics::formats::{decode, encode, Codes, CodesMut, EncodeOptions, Input, Output, Overflow};
use dsv3_numerics::model::{linear, silu_product, Data, MlaShape, Real, Rope, Sequence, Up, Weight};
use dsv3_numerics::simd::{set_level, Level};
use process::{set_threads, settings};
use random::Random;

/// Runs a body at every level and with one to three threads; every time it has to give the same.
fn everywhere<R: PartialEq + std::fmt::Debug>(body: impl Fn() -> R) -> R {
    let _one = settings();
    let mut results = Vec::new();
    for level in Level::all_available() {
        for threads in 1..=3 {
            set_level(level).unwrap();
            set_threads(threads);
            results.push(body());
        }
    }
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
    results.swap_remove(0)
}

/// Whole numbers from `-most` to `most`.
fn whole(random: &mut Random, n: usize, most: u32) -> Vec<f32> {
    (0..n).map(|_| (random.bits() % (2 * most + 1)) as f32 - most as f32).collect()
}

fn bf16(x: f64) -> f32 {
    let mut code = [0u16];
    let options = EncodeOptions { overflow: Overflow::NonFinite, ..EncodeOptions::default() };
    encode(Input::F64(&[x]), &BFLOAT16, &options, CodesMut::U16(&mut code)).unwrap();
    f32::from_bits(u32::from(code[0]) << 16)
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn rounding_is_the_cast_there_and_back() {
    let low = [0u32, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF];
    let all: Vec<f32> =
        (0..=0xFFFFu32).flat_map(|high| low.map(|low| f32::from_bits(high << 16 | low))).collect();
    let mut codes = vec![0u16; all.len()];
    let options = EncodeOptions { overflow: Overflow::NonFinite, ..EncodeOptions::default() };
    encode(Input::F32(&all), &BFLOAT16, &options, CodesMut::U16(&mut codes)).unwrap();
    let mut expected = vec![0f32; all.len()];
    decode(Codes::U16(&codes), &BFLOAT16, Output::F32(&mut expected)).unwrap();
    let found = everywhere(|| {
        let mut x = all.clone();
        round_bfloat16(&mut x);
        bits(&x)
    });
    assert_eq!(found, bits(&expected));
}

/// The softmax of float32 scores, as it is defined, and its result in bfloat16.
fn softmax(scores: &[f32]) -> Vec<f32> {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let e: Vec<f32> = scores.iter().map(|s| (s - largest).exp()).collect();
    let sum = e.iter().fold(0f32, |sum, e| sum + e);
    e.iter().map(|e| bf16(f64::from(e / sum))).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

const SHAPE: MlaShape = MlaShape { heads: 3, rank: 8, nope: 4, rope: 2, v: 5, scale: 0.01 };

/// Attention in bfloat16 as an eager program computes it, a head and a token at a time.
fn eager(q: &[f32], seen: &[f32], kv_b: &[f32], past: usize, absorbed: bool) -> (Vec<f32>, Vec<f32>) {
    let MlaShape { heads, rank, nope, rope, v, scale } = SHAPE;
    let (width, positions) = (rank + rope, seen.len() / (rank + rope));
    let (mut out, mut probs) = (Vec::new(), Vec::new());
    for (row, q) in q.chunks(nope + rope).enumerate() {
        let (token, head) = (row / heads, row % heads);
        let up = &kv_b[head * (nope + v) * rank..][..(nope + v) * rank];
        let latent = |t: usize| &seen[t * width..][..rank];
        let expand = |t: usize| -> Vec<f32> { up.chunks(rank).map(|w| bf16(dot(w, latent(t)))).collect() };
        let q_up: Vec<f32> = (0..rank)
            .map(|r| bf16((0..nope).map(|j| f64::from(q[j]) * f64::from(up[j * rank + r])).sum()))
            .collect();
        let scores: Vec<f32> = (0..=past + token)
            .map(|t| {
                let by_place = dot(&q[nope..], &seen[t * width + rank..][..rope]);
                let score = if absorbed {
                    bf16(f64::from(bf16(dot(&q_up, latent(t)))) + f64::from(bf16(by_place)))
                } else {
                    bf16(dot(&q[..nope], &expand(t)[..nope]) + by_place)
                };
                bf16(f64::from(score * scale as f32))
            })
            .collect();
        let p = softmax(&scores);
        let sum = |channel: &dyn Fn(usize) -> f32| -> f32 {
            bf16(p.iter().enumerate().map(|(t, p)| f64::from(*p) * f64::from(channel(t))).sum())
        };
        if absorbed {
            let sums: Vec<f32> = (0..rank).map(|r| sum(&|t| latent(t)[r])).collect();
            out.extend(up[nope * rank..].chunks(rank).map(|w| bf16(dot(w, &sums))));
        } else {
            out.extend((0..v).map(|c| sum(&|t| expand(t)[nope + c])));
        }
        probs.extend(p.iter().copied().chain(std::iter::repeat(0.0)).take(positions));
    }
    (out, probs)
}

#[test]
fn results_are_rounded_where_an_eager_program_rounds_them() {
    for (past, new) in [(0, 1), (4, 1), (3, 5), (0, 9), (2, 11)] {
        let mut random = Random(1 + past as u64);
        let q = whole(&mut random, new * SHAPE.heads * 6, 63);
        let seen = whole(&mut random, (past + new) * SHAPE.width(), 15);
        let kv_b = whole(&mut random, SHAPE.heads * 9 * SHAPE.rank, 7);
        let w = Weight::new(SHAPE.heads * 9, SHAPE.rank, Data::Plain(Input::F32(&kv_b))).unwrap();
        for (up, absorbed) in [(Up::Absorbed(w), true), (Up::Naive(w), false)] {
            let found = everywhere(|| {
                let mut out = vec![0f32; new * SHAPE.heads * SHAPE.v];
                let mut probs = vec![0f32; new * SHAPE.heads * (past + new)];
                let sequence = Sequence { shape: SHAPE, past, q: &q, seen: &seen, selected: None };
                sequence.attend(&up, f32::ROUND_BFLOAT16, &mut out, Some(&mut probs)).unwrap();
                (bits(&out), bits(&probs))
            });
            let (out, probs) = eager(&q, &seen, &kv_b, past, absorbed);
            assert_eq!(found, (bits(&out), bits(&probs)), "{past} {new} {absorbed}");
        }
    }
}

/// Keys and values that a linear product made are those that attention makes itself.
fn expanded_is_naive<T: Real + std::fmt::Debug>() {
    let shape = MlaShape { heads: 3, rank: 40, nope: 16, rope: 8, v: 12, scale: 0.2 };
    for (past, new) in [(20, 1), (9, 3), (70, 20), (0, 130)] {
        let mut random = Random(7 + past as u64);
        let q = random.floats::<T>(new * shape.heads * 24);
        let seen = random.floats::<T>((past + new) * shape.width());
        let codes: Vec<u8> = (0..shape.heads * 28 * shape.rank).map(|_| random.bits() as u8 & 0xBF).collect();
        let scales = random.floats::<f32>(shape.heads * 28usize.div_ceil(16) * 2 * 3);
        let block = [16, 24];
        let data = Data::Scaled {
            codes: &codes,
            format: &dsv3_numerics::formats::table::E4M3FN,
            scales: &scales[..(shape.heads * 28usize).div_ceil(16) * 2],
            block,
            rounded: false,
        };
        let w = Weight::new(shape.heads * 28, shape.rank, data).unwrap();
        let latents: Vec<T> = seen.chunks(shape.width()).flat_map(|row| row[..shape.rank].to_vec()).collect();
        for round in [None, T::ROUND_BFLOAT16] {
            let results = [false, true].map(|made| {
                everywhere(|| {
                    let mut expanded = vec![T::zero(); (past + new) * w.rows()];
                    linear(&latents, past + new, &w, &mut expanded).unwrap();
                    if let Some(round) = round {
                        round(&mut expanded);
                    }
                    let up = if made { Up::Expanded(&expanded) } else { Up::Naive(w) };
                    let mut out = vec![T::zero(); new * shape.heads * shape.v];
                    let mut probs = vec![T::zero(); new * shape.heads * (past + new)];
                    let sequence = Sequence { shape, past, q: &q, seen: &seen, selected: None };
                    sequence.attend(&up, round, &mut out, Some(&mut probs)).unwrap();
                    (out, probs)
                })
            });
            assert_eq!(results[0], results[1], "{past} {new}");
        }
    }
}

#[test]
fn expanded_keys_and_values_are_those_of_the_weight() {
    expanded_is_naive::<f32>();
    expanded_is_naive::<f64>();
}

#[test]
fn silu_is_rounded_and_so_is_its_product() {
    let mut random = Random(3);
    let (a, b) = (random.floats::<f32>(40_000), random.floats::<f32>(40_000));
    let a: Vec<f32> = a.iter().map(|a| a * 20.0).collect();
    for round in [None, f32::ROUND_BFLOAT16] {
        let found = everywhere(|| {
            let mut out = vec![0f32; a.len()];
            silu_product(&a, &b, round, &mut out).unwrap();
            bits(&out)
        });
        let near = |x: f32| if round.is_some() { bf16(f64::from(x)) } else { x };
        let sigmoid = |x: f32| {
            let e = (-x.abs()).exp();
            (if x < 0.0 { e } else { 1.0 }) / (1.0 + e)
        };
        let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| near(near(a * sigmoid(*a)) * b)).collect();
        assert_eq!(found, bits(&expected));
    }
}

#[test]
fn the_last_channels_of_every_head_turn() {
    let rope = Rope::new(4, 10_000.0, None, true).unwrap();
    let (positions, heads, width) = ([0, 5, 3, 900], 150, 64);
    let x = Random(5).floats::<f64>(positions.len() * heads * width);
    let found = everywhere(|| {
        let mut x = x.clone();
        rope.rotate_all(&mut x, &positions, heads, width, None).unwrap();
        x
    });
    for (i, (found, x)) in found.chunks(width).zip(x.chunks(width)).enumerate() {
        assert_eq!(found[..width - 4], x[..width - 4]);
        for (j, frequency) in rope.frequencies.iter().enumerate() {
            let (sin, cos) = (positions[i / heads] as f64 * frequency).sin_cos();
            let (a, b) = (x[width - 4 + 2 * j], x[width - 3 + 2 * j]);
            let turned = [a * cos - b * sin, a * sin + b * cos];
            assert_eq!(found[width - 4 + 2 * j..][..2], turned);
        }
    }
    let mut short = vec![0.0; 7];
    assert!(rope.rotate_all(&mut short, &[0, 1], 1, 4, None).is_err());
    assert!(rope.rotate_all(&mut short, &[0], 1, 3, None).is_err());
    assert!(rope.rotate_all(&mut short, &[0], 0, 4, None).is_err());
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let kv_b = vec![0f32; SHAPE.heads * 9 * SHAPE.rank];
    let w = Weight::new(SHAPE.heads * 9, SHAPE.rank, Data::Plain(Input::F32(&kv_b))).unwrap();
    let flat = Weight::new(SHAPE.rank, SHAPE.heads * 9, Data::Plain(Input::F32(&kv_b))).unwrap();
    let (q, seen, huge) = (vec![0f32; 18], vec![0f32; 20], usize::MAX / 2);
    let try_it = |shape: MlaShape, past: usize, q: &[f32], seen: &[f32], up: &Up<'_, f32>, out: usize| {
        Sequence { shape, past, q, seen, selected: None }.attend(up, None, &mut vec![0f32; out], None)
    };
    let up = Up::Naive(w);
    assert!(try_it(SHAPE, 1, &q, &seen, &up, 15).is_ok());
    assert!(try_it(SHAPE, 1, &q[..0], &seen[..10], &up, 0).is_ok());
    assert!(try_it(SHAPE, 1, &q[1..], &seen, &up, 15).is_err());
    assert!(try_it(SHAPE, 2, &q, &seen, &up, 15).is_err());
    assert!(try_it(SHAPE, huge, &q, &seen, &up, 15).is_err());
    assert!(try_it(SHAPE, 1, &q, &seen, &up, 14).is_err());
    assert!(try_it(SHAPE, 1, &q, &seen, &Up::Absorbed(flat), 15).is_err());
    assert!(try_it(SHAPE, 1, &q, &seen, &Up::Expanded(&kv_b), 15).is_err());
    assert!(try_it(MlaShape { heads: 0, ..SHAPE }, 1, &q, &seen, &up, 15).is_err());
    assert!(try_it(MlaShape { rank: huge, ..SHAPE }, 1, &q, &seen, &up, 15).is_err());
    assert!(try_it(MlaShape { rope: huge, ..SHAPE }, 1, &q, &seen, &up, 15).is_err());
    assert!(try_it(MlaShape { v: huge, ..SHAPE }, 1, &q, &seen, &up, 15).is_err());
}
