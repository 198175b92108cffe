//! Products with scaled codes, decoded in registers, beside the definition: rows widened first, then dot products.

mod process;
mod random;

use dsv3_numerics::formats::{table, Format, Input, FORMATS};
use dsv3_numerics::gemm::interleaved::dot;
use dsv3_numerics::model::{linear, Data, MlaShape, Sequence, Up, Weight};
use dsv3_numerics::simd::{set_level, Level};
use process::{set_threads, settings};
use random::Random;

/// A matrix of codes and scales.
struct Matrix {
    format: &'static Format,
    rows: usize,
    cols: usize,
    block: [usize; 2],
    codes: Vec<u8>,
    scales: Vec<f32>,
}

impl Matrix {
    /// Finite codes; scales of either sign, a few of them so large or small that products overflow or are subnormal.
    fn new(format: &'static Format, [rows, cols]: [usize; 2], block: [usize; 2]) -> Matrix {
        let mut random = Random(cols as u64 * 31 + rows as u64);
        let codes = (0..rows * cols)
            .map(|_| loop {
                let code = random.bits() & ((1 << format.bits()) - 1);
                if format.value(code).is_finite() {
                    break code as u8;
                }
            })
            .collect();
        let scales = (0..rows.div_ceil(block[0]) * cols.div_ceil(block[1]))
            .map(|i| {
                random.floats::<f32>(1)[0] * [1.0, 1e-3, 1e-40, 1e37][if i % 29 == 7 { i % 4 } else { i % 2 }]
            })
            .collect();
        Matrix { format, rows, cols, block, codes, scales }
    }

    fn weight(&self, rounded: bool) -> Weight<'_> {
        let data = Data::Scaled {
            codes: &self.codes,
            format: self.format,
            scales: &self.scales,
            block: self.block,
            rounded,
        };
        Weight::new(self.rows, self.cols, data).unwrap()
    }
}

/// Bits, with one NaN for all: which of two NaN an addition passes on is the processor's choice.
fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }).collect()
}

fn at_every_level(mut body: impl FnMut(Level)) {
    let _one = settings();
    for level in Level::all_available() {
        set_level(level).unwrap();
        body(level);
    }
}

/// Products with one to eight rows are dot products with the widened weight.
fn check(matrix: &Matrix) {
    for rounded in [false, true] {
        let w = matrix.weight(rounded);
        let x = Random(9).floats::<f32>(8 * matrix.cols);
        at_every_level(|level| {
            let wide = w.panel::<f32>(0, matrix.rows).unwrap();
            for rows in 1..=8 {
                set_threads(1 + rows % 3);
                let mut out = vec![0f32; rows * matrix.rows];
                linear(&x[..rows * matrix.cols], rows, &w, &mut out).unwrap();
                let cols = matrix.cols.max(1);
                let expected: Vec<f32> = x[..rows * matrix.cols]
                    .chunks(cols)
                    .flat_map(|x| wide.chunks(cols).map(|w| dot(x, w)).collect::<Vec<_>>())
                    .collect();
                let (name, block) = (matrix.format.name, matrix.block);
                assert_eq!(bits(&out), bits(&expected), "{name} {block:?} {rows} {rounded} {level:?}");
            }
        });
    }
}

#[test]
fn every_format_is_multiplied_as_if_widened() {
    for format in FORMATS.iter().filter(|f| f.bits() <= 8) {
        check(&Matrix::new(format, [7, 256], [128, 128]));
    }
}

#[test]
fn so_is_every_length_of_a_row() {
    for cols in [1, 15, 64, 100, 128, 576, 1000, 1024, 1300, 2048, 2123] {
        check(&Matrix::new(&table::E4M3FN, [9, cols], [128, 128]));
    }
}

#[test]
fn so_is_every_block() {
    for block in [[1, 16], [1, 32], [2, 48], [3, 40], [1, 1], [5, 4096], [4096, 128], [4096, 4096]] {
        check(&Matrix::new(&table::E4M3FN, [11, 1300], block));
        check(&Matrix::new(&table::E5M2, [11, 200], block));
    }
}

#[test]
fn codes_of_nan_give_nan() {
    let mut matrix = Matrix::new(&table::E4M3FN, [4, 1300], [128, 128]);
    matrix.scales.fill(0.5);
    for (row, (col, code)) in [(3, 0x7F), (1299, 0x7F), (700, 0xFF)].into_iter().enumerate() {
        matrix.codes[row * 1300 + col] = code;
    }
    check(&matrix);
}

#[test]
fn absorbed_attention_decodes_what_it_would_have_read() {
    let shape = MlaShape { heads: 3, rank: 320, nope: 24, rope: 8, v: 20, scale: 0.2 };
    for (block, rounded) in [([128, 128], false), ([128, 128], true), ([1, 32], false), ([7, 9], false)] {
        let matrix = Matrix::new(&table::E4M3FN, [3 * 44, 320], block);
        let coded = matrix.weight(rounded);
        for (past, new) in [(5, 1), (0, 3), (4, 8)] {
            let mut random = Random(3);
            let q = random.floats::<f32>(new * 3 * 32);
            let seen = random.floats::<f32>((past + new) * shape.width());
            at_every_level(|_| {
                let wide = coded.panel::<f32>(0, 3 * 44).unwrap();
                let plain = Weight::new(3 * 44, 320, Data::Plain(Input::F32(&wide))).unwrap();
                let [found, expected] = [coded, plain].map(|w| {
                    let mut out = vec![0f32; new * 3 * 20];
                    let sequence = Sequence { shape, past, q: &q, seen: &seen, selected: None };
                    sequence.attend(&Up::Absorbed(w), None, &mut out, None).unwrap();
                    bits(&out)
                });
                assert_eq!(found, expected);
            });
        }
    }
}
