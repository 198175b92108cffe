//! Casts every float32 to a small format and prints a digest of the codes of each stripe of 2^26:
//! `sweep LEVEL FORMAT OVERFLOW [FIRST STRIPES]`. Equal digests of two machines are equal codes.

use dsv3_numerics::formats::{encode, CodesMut, EncodeOptions, Format, Input, NanPolicy, Overflow};
use dsv3_numerics::simd::{set_level, Level};
use dsv3_numerics::threads::set_num_threads;
use dsv3_numerics::Error;
use std::process::ExitCode;

const STRIPE: u64 = 1 << 26;
const STRIPES: u64 = 1 << 6;
const CHUNK: usize = 1 << 16;

/// A digest that changes with any byte: every step is a bijection.
fn add(digest: u64, codes: &[u8]) -> u64 {
    let (words, rest) = codes.as_chunks::<8>();
    assert!(rest.is_empty());
    words.iter().fold(digest, |digest, word| {
        (digest ^ u64::from_le_bytes(*word)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
    })
}

fn sweep(format: &'static Format, overflow: Overflow, stripes: std::ops::Range<u64>) -> Result<(), Error> {
    let options = EncodeOptions { overflow, nan: NanPolicy::Code, ..EncodeOptions::default() };
    let (mut x, mut codes) = (vec![0f32; CHUNK], vec![0u8; CHUNK]);
    for stripe in stripes {
        let mut digest = 0;
        for first in (stripe * STRIPE..(stripe + 1) * STRIPE).step_by(CHUNK) {
            for (i, x) in x.iter_mut().enumerate() {
                *x = f32::from_bits(first as u32 + i as u32);
            }
            encode(Input::F32(&x), format, &options, CodesMut::U8(&mut codes))?;
            digest = add(digest, &codes);
        }
        println!("{stripe:02} {digest:016x}");
    }
    Ok(())
}

fn run(arguments: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    let (&[level, format, overflow], stripes) = arguments.split_first_chunk().ok_or("too few arguments")?;
    let (first, count) = match stripes {
        [] => (0, STRIPES),
        [first, count] => (first.parse()?, count.parse()?),
        _ => return Err("FIRST and STRIPES go together".into()),
    };
    if first + count > STRIPES {
        return Err(format!("there are {STRIPES} stripes").into());
    }
    set_level(Level::parse(level)?)?;
    set_num_threads(1)?;
    Ok(sweep(Format::by_name(format)?, Overflow::parse(overflow)?, first..first + count)?)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sweep LEVEL FORMAT OVERFLOW [FIRST STRIPES]: {error}");
            ExitCode::FAILURE
        }
    }
}
