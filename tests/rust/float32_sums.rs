//! The accumulator `float32`: one order of additions, the same bytes from every level and any cutting of the work.
//!
//! The expectation is written out here once more, from the words of the definition: for each 32 of k one sum over the
//! even and one over the odd k, then accumulator + (even + odd); each interval from +0 and then one fused step.

mod process;
mod random;

use dsv3_numerics::formats::{table, Codes, Format, Input, Output};
use dsv3_numerics::gemm::{matmul_grouped_nt, matmul_nt, times_rows, Accumulator, Operand, Options, Shape};
use dsv3_numerics::model::{linear, Data, Weight};
use dsv3_numerics::simd::{fma, set_level, Level};
use process::{set_threads, settings};
use random::Random;

fn seeded(seed: u64) -> Random {
    Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
}

/// One matrix of either side, and how its product is formed.
struct Case {
    formats: [&'static Format; 2],
    rows: [usize; 2],
    k: usize,
    codes: [Vec<u8>; 2],
    scales: [Option<Vec<f32>>; 2],
    groups: [(usize, usize); 2],
    c: Option<Vec<f32>>,
    every: Option<usize>,
}

const NAN: f32 = f32::from_bits(0x7FC0_0000);

impl Case {
    fn chain(&self, i: usize, j: usize, begin: usize, end: usize, start: f32) -> f32 {
        let [a, b] = [(0, i), (1, j)].map(|(side, row)| {
            let codes = &self.codes[side][row * self.k + begin..row * self.k + end];
            codes.iter().map(|c| self.formats[side].value(u32::from(*c))).collect::<Vec<f32>>()
        });
        let mut sum = start;
        for (a, b) in a.chunks(32).zip(b.chunks(32)) {
            let mut of = [0f32; 2];
            for (k, (a, b)) in a.iter().zip(b).enumerate() {
                of[k % 2] += a * b;
            }
            sum += of[0] + of[1];
        }
        sum
    }

    fn element(&self, i: usize, j: usize) -> f32 {
        let start = self.c.as_ref().map_or(0.0, |c| c[i * self.rows[1] + j]);
        let scale = |side: usize, row: usize, k: usize| {
            let (rows, deep) = self.groups[side];
            let at = row / rows * self.k.div_ceil(deep) + k / deep;
            self.scales[side].as_ref().map_or(1.0, |s| s[at])
        };
        let unscaled = self.scales.iter().all(Option::is_none);
        let result = if unscaled && self.every.is_none() {
            self.chain(i, j, 0, self.k, start)
        } else {
            let every = self.every.unwrap_or(self.k.max(1));
            (0..self.k).step_by(every).fold(start, |sum, begin| {
                let partial = self.chain(i, j, begin, self.k.min(begin + every), 0.0);
                (scale(0, i, begin) * scale(1, j, begin)).mul_add(partial, sum)
            })
        };
        if result.is_nan() {
            NAN
        } else {
            result
        }
    }

    fn expected(&self) -> Vec<u32> {
        let n = self.rows[1];
        (0..self.rows[0] * n).map(|at| self.element(at / n, at % n).to_bits()).collect()
    }

    fn operand(&self, side: usize) -> Operand<'_> {
        Operand {
            codes: Codes::U8(&self.codes[side]),
            format: self.formats[side],
            scales: self.scales[side].as_deref(),
            group: self.groups[side],
            unit_scales: None,
            prepared: None,
        }
    }

    fn shape(&self) -> Shape {
        Shape { stack: 1, m: self.rows[0], n: self.rows[1], k: self.k }
    }

    /// Compares every level, one and three threads, and both types of output.
    fn check(&self, what: &str) {
        let want = self.expected();
        let options = options(self.every);
        let (a, b) = (self.operand(0), self.operand(1));
        for level in Level::all_available() {
            set_level(level).unwrap();
            for threads in [1, 3] {
                set_threads(threads);
                let mut out = vec![7f32; want.len()];
                let c = self.c.as_deref();
                matmul_nt(&a, &b, self.shape(), false, c, &options, Output::F32(&mut out)).unwrap();
                let wrong = want.iter().zip(&out).position(|(w, x)| *w != x.to_bits());
                if let Some(at) = wrong {
                    let (i, j) = (at / self.rows[1], at % self.rows[1]);
                    panic!("{what} {level:?}: ({i}, {j}): {:#x}, not {:#x}", out[at].to_bits(), want[at]);
                }
                let mut out = vec![7u16; want.len()];
                matmul_nt(&a, &b, self.shape(), false, c, &options, Output::Bf16(&mut out)).unwrap();
                let near = |bits: u32| ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) as u16;
                let same = want.iter().zip(&out).all(|(w, x)| near(*w) == *x);
                assert!(same, "{what} {level:?}: as bfloat16");
            }
        }
    }
}

fn options(promote_every: Option<usize>) -> Options {
    Options { accumulator: Accumulator::by_name("float32").unwrap(), promote_every }
}

/// Random codes; NaN and infinity only now and then, if at all.
fn codes(random: &mut Random, format: &Format, count: usize, special: bool) -> Vec<u8> {
    let mask = (format.n_codes() - 1) as u32;
    let mut code = || {
        let code = random.bits() >> 7 & mask;
        let keep = format.value(code).is_finite() || (special && random.below(256) == 0);
        (if keep { code } else { 0x38 & mask }) as u8
    };
    (0..count).map(|_| code()).collect()
}

fn floats(random: &mut Random, count: usize, wild: bool) -> Vec<f32> {
    let tame = |bits: u32| (bits % 1000) as f32 * 1e-4 + 1e-3;
    (0..count).map(|_| random.bits()).map(|b| if wild { f32::from_bits(b) } else { tame(b) }).collect()
}

fn random_case(seed: u64) -> Case {
    use table::{E2M1FN, E3M4, E4M3, E4M3B11FNUZ, E4M3FN, E4M3FNUZ, E5M2, INT8};
    let r = &mut seeded(seed);
    let all = [&E4M3FN, &E5M2, &E4M3FN, &E5M2, &E3M4, &E4M3, &E4M3FNUZ, &E4M3B11FNUZ, &E2M1FN, &INT8];
    let formats = if r.below(2) == 0 { [&E4M3FN; 2] } else { [r.one(&all), r.one(&all)] };
    let tall = r.below(12) == 0;
    let m = if tall {
        500 + r.below(60)
    } else {
        r.one(&[1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 24, 25, 31, 32, 33, 40, 70])
    };
    let n = r.one(&[1, 15, 16, 17, 31, 33, 64, 65, 100, 130]);
    let deep = [0, 1, 2, 31, 32, 33, 64, 96, 127, 128, 160, 384, 500, 1000, 1056, 2100];
    let k: usize = if tall { r.one(&[33, 100]) } else { r.one(&deep) };
    let every =
        r.one(&[None, None, Some(32), Some(64), Some(96), Some(128), Some(128), Some(992), Some(2048)]);
    let per = every.unwrap_or(k.max(1));
    let groups = [0, 1].map(|_| {
        let times = if every.is_none() { 1 } else { r.one(&[1, 2, 3, 1000]) };
        (r.one(&[1, 128, 7, 3, 16, 1000]), per * times)
    });
    let (special, wild) = (r.below(3) == 0, r.below(4) == 0);
    let scaled = r.below(4);
    let scales = [0, 1].map(|side: usize| {
        let count = [m, n][side].div_ceil(groups[side].0) * k.div_ceil(groups[side].1);
        (scaled >> side & 1 == 1).then(|| floats(r, count, wild))
    });
    let c = (r.below(3) > 0).then(|| {
        let mut c = floats(r, m * n, wild);
        for c in &mut c {
            *c = r.one(&[*c, *c, *c, *c, *c, 0.0, -0.0, 1e-40, -1e-45, f32::MIN_POSITIVE, 3e38]);
        }
        c
    });
    let mut codes = [codes(r, formats[0], m * k, special), codes(r, formats[1], n * k, special)];
    if r.below(16) == 0 {
        codes[0].fill(0);
    }
    Case { formats, rows: [m, n], k, codes, scales, groups, c, every }
}

#[test]
fn every_level_adds_in_one_order() {
    let _one = settings();
    for seed in 1..=220 {
        let case = random_case(seed);
        let names = case.formats.map(|f| f.name);
        case.check(&format!("seed {seed}, {:?} by {}, {names:?}, {:?}", case.rows, case.k, case.every));
    }
}

/// One to nine rows have kernels of their own. Ragged sizes, and NaN and infinity here and there.
#[test]
fn few_rows_of_any_number() {
    let _one = settings();
    let r = &mut seeded(31);
    for m in 1..=9 {
        for (n, k, every) in [(33, 1100, Some(128)), (150, 544, None), (17, 95, Some(32))] {
            let per = every.unwrap_or(k);
            let formats = [&table::E4M3FN, r.one(&[&table::E4M3FN, &table::E5M2, &table::INT8])];
            let codes = [codes(r, formats[0], m * k, false), codes(r, formats[1], n * k, m % 2 == 0)];
            let scales = [(m, 1), (n, 16)].map(|(rows, group): (usize, usize)| {
                every.map(|_| floats(r, rows.div_ceil(group) * k.div_ceil(per), false))
            });
            let groups = [(1, per), (16, per)];
            let c = (m % 3 == 0).then(|| floats(r, m * n, false));
            let case = Case { formats, rows: [m, n], k, codes, scales, groups, c, every };
            case.check(&format!("{m} rows by {n}, {k} k"));
        }
    }
}

/// Large cancelling terms, so that any other order of additions shows.
#[test]
fn order_shows_where_terms_cancel() {
    let _one = settings();
    let r = &mut seeded(77);
    for (m, n) in [(1, 40), (12, 70), (40, 33), (70, 64)] {
        let k = 640;
        let mut large = |count: usize| -> Vec<u8> {
            (0..count).map(|_| r.one(&[0x7B, 0xFB, 0x7A, 0xFA, 0x01, 0x81, 0x04, 0x3C, 0xBC])).collect()
        };
        let codes = [large(m * k), large(n * k)];
        for every in [None, Some(32), Some(128)] {
            let case = Case {
                formats: [&table::E5M2; 2],
                rows: [m, n],
                k,
                codes: codes.clone(),
                scales: [None, None],
                groups: [(1, k); 2],
                c: None,
                every,
            };
            case.check("cancelling");
        }
    }
}

#[test]
fn stacks_and_groups_are_products_side_by_side() {
    let _one = settings();
    let r = &mut seeded(5);
    let (experts, n, k) = (4, 70, 300);
    let (a_group, b_group) = ((1, 128), (128, 128));
    for offsets in [[0i64, 1, 1, 41, 50], [0, 0, 0, 0, 0], [0, 600, 601, 610, 700]] {
        let m = offsets[experts] as usize;
        let a = codes(r, &table::E4M3FN, m * k, false);
        let b = codes(r, &table::E5M2, experts * n * k, true);
        let (a_scales, b_scales) = (floats(r, m * 3, false), floats(r, experts * 3, false));
        let side = |codes, format, scales, group| Operand {
            codes: Codes::U8(codes),
            format,
            scales: Some(scales),
            group,
            unit_scales: None,
            prepared: None,
        };
        let whole =
            [side(&a, &table::E4M3FN, &a_scales, a_group), side(&b, &table::E5M2, &b_scales, b_group)];
        let shape = Shape { stack: experts, m, n, k };
        let mut want = Vec::new();
        for (e, rows) in offsets.windows(2).enumerate() {
            let rows = rows[0] as usize..rows[1] as usize;
            let case = Case {
                formats: [&table::E4M3FN, &table::E5M2],
                rows: [rows.len(), n],
                k,
                codes: [a[rows.start * k..rows.end * k].to_vec(), b[e * n * k..(e + 1) * n * k].to_vec()],
                scales: [
                    Some(a_scales[rows.start * 3..rows.end * 3].to_vec()),
                    Some(b_scales[e * 3..e * 3 + 3].to_vec()),
                ],
                groups: [a_group, b_group],
                c: None,
                every: Some(128),
            };
            want.extend(case.expected());
        }
        for level in Level::all_available() {
            set_level(level).unwrap();
            let mut out = vec![7f32; m * n];
            let out_view = Output::F32(&mut out);
            let [a, b] = &whole;
            matmul_grouped_nt(a, b, shape, &offsets, None, &options(Some(128)), out_view).unwrap();
            assert!(out.iter().map(|x| x.to_bits()).eq(want.iter().copied()), "{level:?}, {offsets:?}");
        }
    }
}

/// Against the instruction or the C library's, both of which round once.
#[test]
fn fused_step_without_a_fused_instruction() {
    let r = &mut seeded(99);
    let near =
        |r: &mut Random, low: u32| f32::from_bits(r.bits() & 0x807F_FFFF | (low + r.below(60) as u32) << 23);
    for i in 0..600_000 {
        let [a, b, c] = match i % 3 {
            0 => [r.bits(), r.bits(), r.bits()].map(f32::from_bits),
            1 => [near(r, 97), near(r, 97), near(r, 90)],
            // Around the subnormal numbers.
            _ => [near(r, 60), near(r, 30), f32::from_bits(r.bits() & 0x83FF_FFFF)],
        };
        let (got, want) = (fma(a, b, c), a.mul_add(b, c));
        assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{a:e} * {b:e} + {c:e}");
    }
}

/// A float32 of about one, or of any size, or a zero of either sign.
fn number(random: &mut Random) -> f32 {
    match random.below(12) {
        0 => 0.0,
        1 => -0.0,
        2 => f32::from_bits(random.bits() & 0xBFFF_FFFF),
        _ => random.floats::<f32>(1)[0],
    }
}

/// Sums of 256 products by fused steps, one added to the other.
fn many_rows(a: &[f32], b: &[f32], start: Option<f32>) -> f32 {
    let sum = |(a, b): (&[f32], &[f32])| a.iter().zip(b).fold(0.0, |sum, (a, b)| fma(*a, *b, sum));
    let mut sums = a.chunks(256).zip(b.chunks(256)).map(sum);
    let first = start.or_else(|| sums.next()).unwrap_or(0.0);
    sums.fold(first, |done, sum| done + sum)
}

#[test]
fn many_rows_have_one_order() {
    let _one = settings();
    for seed in 0..120 {
        let mut random = seeded(seed);
        let (m, n, k) =
            (9 + random.below(60), 1 + random.below(120), if seed == 0 { 0 } else { random.below(900) });
        let numbers = |random: &mut Random, count: usize| (0..count).map(|_| number(random)).collect();
        let (a, b): (Vec<f32>, Vec<f32>) = (numbers(&mut random, m * k), numbers(&mut random, n * k));
        let c: Vec<f32> = numbers(&mut random, m * n);
        let expected = |start: Option<&[f32]>| -> Vec<u32> {
            let each = (0..m * n).map(|at| {
                let (a, b) = (&a[at / n * k..][..k], &b[at % n * k..][..k]);
                many_rows(a, b, start.map(|start| start[at]))
            });
            each.map(f32::to_bits).collect()
        };
        let (product, sum) = (expected(None), expected(Some(&c)));
        let bits = |out: &[f32]| out.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let rows = |x: &[f32]| x.chunks(k.max(1)).map(<[f32]>::to_vec).collect::<Vec<_>>();
        let (a_rows, b_rows) = (rows(&a), rows(&b));
        for level in Level::all_available() {
            set_level(level).unwrap();
            for threads in [1, 3] {
                set_threads(threads);
                let mut out = vec![f32::NAN; m * n];
                linear(&a, m, &Weight::new(n, k, Data::Plain(Input::F32(&b))).unwrap(), &mut out).unwrap();
                assert_eq!(bits(&out), product, "{level:?} {threads} {m} {n} {k}");
            }
            for (add, expected) in [(false, &product), (true, &sum)] {
                let mut out = c.clone();
                let rows = [&a_rows, &b_rows].map(|x| x.iter().map(Vec::as_slice).collect::<Vec<_>>());
                if times_rows(&rows[0], &rows[1], out.chunks_mut(n).collect(), add) {
                    assert_eq!(&bits(&out), expected, "{level:?} {m} {n} {k} {add}");
                } else {
                    assert!(level == Level::Scalar || k == 0);
                }
            }
        }
    }
}

#[test]
fn rows_of_other_sizes_are_left_alone() {
    let _one = settings();
    let (a, b) = ([[1f32; 3]; 2], [[2f32; 3]; 4]);
    let (a, b): (Vec<&[f32]>, Vec<&[f32]>) =
        (a.iter().map(|x| &x[..]).collect(), b.iter().map(|x| &x[..]).collect());
    let short = [&b[..3], &[&b[3][..2]]].concat();
    for level in Level::all_available() {
        set_level(level).unwrap();
        for (b, rows, columns) in [(&short, 2, 4), (&b, 1, 4), (&b, 3, 4), (&b, 2, 3), (&b, 2, 5)] {
            let mut out = vec![7f32; rows * columns];
            assert!(!times_rows(&a, b, out.chunks_mut(columns).collect(), false));
            assert!(out.iter().all(|x| *x == 7.0));
        }
    }
}
