//! Long operations end where the hook says so: tasks that would never end, and products of every unit at every level.

mod process;

use dsv3_numerics::checkpoint::TensorTable;
use dsv3_numerics::formats::{Codes, Output};
use dsv3_numerics::gemm::{
    matmul_nt, Accumulator, Operand, Options, Prepared, Shape, UnitScales, ACCUMULATORS,
};
use dsv3_numerics::interrupt::{poll, watched, Interrupted};
use dsv3_numerics::simd::{set_level, Level};
use dsv3_numerics::threads::run_tasks;
use process::{set_threads, settings};
use std::panic::{catch_unwind, AssertUnwindSafe};

const LARGE: usize = 1 << 30;

/// Runs a check with one thread, two and three.
fn with_threads(check: impl Fn(usize)) {
    let _one = settings();
    for threads in [1, 2, 3] {
        set_threads(threads);
        check(threads);
    }
}

#[test]
fn tasks_without_an_end_are_ended() {
    with_threads(|threads| {
        let endless = || {
            run_tasks(LARGE, vec![(); 8], |()| loop {
                poll();
            })
        };
        assert_eq!(watched(|| true, endless).err(), Some(Interrupted), "{threads} threads");
    });
}

#[test]
fn tasks_that_nobody_stops_are_done_in_order() {
    with_threads(|_| {
        let work = || {
            run_tasks(LARGE, (0..1000).collect(), |i: u32| {
                poll();
                // tasks of tasks
                i + run_tasks(LARGE, vec![1, 2], |x: u32| x).iter().sum::<u32>()
            })
        };
        let wanted: Vec<u32> = (3..1003).collect();
        assert_eq!(watched(|| false, work), Ok(wanted.clone()));
        assert_eq!(work(), wanted, "nobody watches");
    });
}

#[test]
fn a_panic_is_no_interruption() {
    let _one = settings();
    set_threads(2);
    let broken = || run_tasks(LARGE, vec![0, 1, 2], |i| if i == 1 { panic!("broken") } else { i });
    let result = catch_unwind(AssertUnwindSafe(|| watched(|| false, broken)));
    assert_eq!(result.unwrap_err().downcast_ref::<&str>(), Some(&"broken"));
}

#[test]
fn a_hook_holds_for_its_call_alone() {
    let _one = settings();
    assert_eq!(watched(|| true, || 1), Ok(1), "nothing asked");
    poll();
    let inner = watched(
        || false,
        || {
            watched(
                || true,
                || loop {
                    poll()
                },
            )
            .err()
        },
    );
    assert_eq!(inner, Ok(Some(Interrupted)));
}

#[test]
fn products_of_every_unit_are_ended() {
    let _one = settings();
    // One tile of any unit; at the scalar level it takes most of them longer than the time between two looks.
    let (n, k, mut ended) = (64, 1 << 14, 0);
    let (bytes, words, unit) = (vec![1u8; n * k], vec![1u16; n * k], vec![127u8; n * k / 16]);
    for level in Level::all_available() {
        set_level(level).unwrap();
        for accumulator in ACCUMULATORS.iter() {
            let format = &accumulator.inputs[0];
            if format.bits() > 16 {
                continue;
            }
            let codes = if format.bits() <= 8 { Codes::U8(&bytes) } else { Codes::U16(&words) };
            let block = accumulator.scale.map_or(32, |scale| scale.blocks[0]);
            let unit_scales =
                accumulator.scale.map(|_| UnitScales { codes: &unit[..n * k / block], group: (1, block) });
            let side = Operand { codes, format, scales: None, group: (1, k), unit_scales, prepared: None };
            let options = Options { accumulator, promote_every: None };
            let (shape, mut out) = (Shape { stack: 1, m: n, n, k }, vec![0f32; n * n]);
            for threads in [1, 2] {
                set_threads(threads);
                let run = || matmul_nt(&side, &side, shape, true, None, &options, Output::F32(&mut out));
                match watched(|| true, run) {
                    Err(Interrupted) => ended += 1,
                    // faster than the first look
                    Ok(result) => assert_eq!(result, Ok(()), "{}", accumulator.name),
                }
            }
        }
    }
    assert!(ended > 0);
}

#[test]
fn a_layout_is_ended() {
    let _one = settings();
    let (codes, unit) = (vec![1; 64 * 64], Accumulator::by_name("hopper_fp8").unwrap());
    let operand = Operand {
        codes: Codes::U8(&codes),
        format: dsv3_numerics::formats::Format::by_name("float8_e4m3fn").unwrap(),
        scales: None,
        group: (1, 1),
        unit_scales: None,
        prepared: None,
    };
    for level in Level::all_available() {
        set_level(level).unwrap();
        let lay_out = || Prepared::new(unit, &operand, 64, 64).unwrap().map(|made| made.nbytes());
        let whole = lay_out();
        assert_eq!(watched(|| false, lay_out), Ok(whole));
        if whole.is_some() {
            assert_eq!(watched_at_once(lay_out), Err(Interrupted), "{}", level.name());
        }
    }
}

#[test]
fn a_header_is_ended_and_adds_nothing() {
    let names =
        |i: usize| format!("\"t{i}\":{{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[{i},{}]}}", i + 1);
    let text = format!("{{{}}}", (0..1000).map(names).collect::<Vec<_>>().join(","));
    let path = std::env::temp_dir().join(format!("interrupted-{}.safetensors", std::process::id()));
    let bytes = [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &[0; 1000]].concat();
    std::fs::write(&path, bytes).unwrap();
    let mut table = TensorTable::default();
    assert_eq!(watched_at_once(|| table.read(&path).map(|rows| rows.len()).ok()), Err(Interrupted));
    assert_eq!(table.len(), 0);
    assert_eq!(watched(|| false, || table.read(&path).map(|rows| rows.len()).ok()), Ok(Some(1000)));
    std::fs::remove_file(&path).unwrap();
}

/// Runs a call whose hook says stop at the first look, which comes an interval after its start.
fn watched_at_once<R>(body: impl FnOnce() -> R) -> Result<R, Interrupted> {
    watched(
        || true,
        || {
            std::thread::sleep(dsv3_numerics::interrupt::INTERVAL);
            body()
        },
    )
}
