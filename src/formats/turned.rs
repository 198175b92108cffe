//! Rows that lie in columns of memory, and elements apart from each other: read as float32 and transposed a tile at a time, so
//! that lines of memory are read whole.

use super::source::{Bf16, Input, Source, F16, F32, F64};
use crate::simd::{Kernel, Lanes, MAX_GROUP};

/// Rows that are read together where they lie in columns: memory serves four lines side by side as fast as long runs.
pub(super) const TURNED: usize = MAX_GROUP;
/// Columns that are read before they are transposed; the next ones are fetched meanwhile.
const STRIP: usize = 64;

/// Copies at most [`TURNED`] rows of `width` elements that lie in columns of memory: the place of the first element, and how
/// far columns are apart.
pub(super) struct Turn<'a> {
    pub memory: Input<'a>,
    pub odd: bool,
    pub from: (isize, isize),
    pub lines: usize,
    pub width: usize,
    pub out: &'a mut [f32],
    pub pitch: usize,
}

impl Kernel for Turn<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Turn { memory, odd, from: (first, step), lines, width, out, pitch } = self;
        let whole = match (memory, usize::try_from(first), usize::try_from(step)) {
            (Input::F32(src), Ok(first), Ok(step)) if lines.is_multiple_of(L::N) => {
                turn_whole(l, &src[first..], step, (lines, width), out, pitch)
            }
            _ => 0,
        };
        let mut strip = [0f32; STRIP * TURNED];
        for col in (whole..width).step_by(STRIP) {
            let cols = STRIP.min(width - col);
            let first = first + col as isize * step;
            read(l, memory, odd, Run { first, stride: 1, len: lines }, Some((step, cols)), &mut strip);
            // A few of the next columns with each tile.
            let fetched = (STRIP * L::N * L::N).div_ceil(STRIP * lines.next_multiple_of(L::N));
            let mut next = STRIP;
            for (row, strip) in (0..lines).step_by(L::N).zip(strip.chunks_exact(STRIP * L::N)) {
                let run = L::N.min(lines - row);
                for at in (0..cols).step_by(L::N) {
                    for _ in 0..fetched {
                        memory.fetch(l, first.wrapping_add(step.wrapping_mul(next as isize)), lines);
                        next += 1;
                    }
                    let (n, tile) = (L::N.min(cols - at), &strip[at * L::N..(at + L::N) * L::N]);
                    let out = &mut out[row * pitch + col + at..];
                    if (run, n) == (L::N, L::N) {
                        l.transpose_into(tile, L::N, out, pitch);
                        continue;
                    }
                    let mut turned = [0f32; MAX_GROUP * MAX_GROUP / 16];
                    l.transpose(tile, &mut turned[..L::N * L::N]);
                    for (out, turned) in out.chunks_mut(pitch).zip(turned[..run * L::N].chunks_exact(L::N)) {
                        out[..n].copy_from_slice(&turned[..n]);
                    }
                }
            }
        }
    }
}

/// Float32 of a cache line.
const LINE: usize = 16;
/// Columns from what is transposed to what is fetched.
const AHEAD: usize = 12;

/// Transposes whole tiles of columns that are float32 already, and returns how many columns they have.
#[inline(always)]
fn turn_whole<L: Lanes>(
    l: L,
    src: &[f32],
    step: usize,
    (lines, width): (usize, usize),
    out: &mut [f32],
    pitch: usize,
) -> usize {
    let whole = width / L::N * L::N;
    for col in (0..whole).step_by(L::N) {
        for row in (0..lines).step_by(L::N) {
            let from = &src[col * step + row..];
            if row % LINE == 0 {
                (0..L::N).for_each(|i| l.prefetch_far(from, (AHEAD + i) * step * std::mem::size_of::<f32>()));
            }
            l.transpose_into(from, step, &mut out[row * pitch + col..], pitch);
        }
    }
    whole
}

impl Input<'_> {
    /// Fetches some elements into the caches, if there are such.
    #[inline(always)]
    pub(super) fn fetch<L: Lanes>(self, l: L, at: isize, n: usize) {
        #[inline(always)]
        fn some<T>(src: &[T], at: isize, n: usize) -> &[T] {
            let at = usize::try_from(at).unwrap_or(usize::MAX).min(src.len());
            &src[at..at + n.min(src.len() - at)]
        }
        match self {
            Input::F32(src) => l.fetch(some(src, at, n), 0),
            Input::F64(src) => l.fetch(some(src, at, n), 0),
            Input::F16(src) | Input::Bf16(src) => l.fetch(some(src, at, n), 0),
        }
    }
}

/// Elements `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Run {
    pub first: isize,
    pub stride: isize,
    pub len: usize,
}

/// Reads a run as float32, or as many as are asked for, each so far after the one before: these are laid out a vector of each
/// of [`STRIP`] at a time.
#[inline(always)]
pub(super) fn read<L: Lanes>(
    l: L,
    memory: Input<'_>,
    odd: bool,
    run: Run,
    runs: Option<(isize, usize)>,
    out: &mut [f32],
) {
    match memory {
        Input::F32(src) => l.call(Read::<F32> { src, run, runs, out }),
        Input::F64(src) if odd => l.call(Read::<F64> { src, run, runs, out }),
        Input::F64(src) => l.call(Read::<Nearest> { src, run, runs, out }),
        Input::F16(src) => l.call(Read::<F16> { src, run, runs, out }),
        Input::Bf16(src) => l.call(Read::<Bf16> { src, run, runs, out }),
    }
}

/// float64, rounded to nearest float32.
#[derive(Clone, Copy)]
struct Nearest;

impl Source for Nearest {
    type Item = f64;
    #[inline(always)]
    fn load<L: Lanes>(l: L, src: &[f64]) -> L::F {
        let mut near = [0f32; MAX_GROUP / 4];
        for (y, x) in near.iter_mut().zip(&src[..L::N]) {
            *y = *x as f32;
        }
        l.load_f32(&near)
    }
}

struct Read<'a, S: Source> {
    src: &'a [S::Item],
    run: Run,
    runs: Option<(isize, usize)>,
    out: &'a mut [f32],
}

impl<S: Source> Kernel for Read<'_, S> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Read { src, run: Run { mut first, stride, len }, runs, out } = self;
        // Elements from one run to the next, and how far one vector of a run is from the next.
        let (step, count) = runs.unwrap_or((0, 1));
        let (pitch, apart) = if runs.is_some() { (L::N, STRIP) } else { (0, 1) };
        let mut room = [S::Item::default(); MAX_GROUP];
        for k in 0..count {
            let out = &mut out[k * pitch..];
            let mut done = 0;
            if stride == 1 {
                let src = &src[first as usize..][..len];
                while done + L::N <= len {
                    l.store_f32(S::load(l, &src[done..]), &mut out[done * apart..], false);
                    done += L::N;
                }
            }
            while done < len {
                let n = L::N.min(len - done);
                for (i, x) in room[..n].iter_mut().enumerate() {
                    *x = src[(first + (done + i) as isize * stride) as usize];
                }
                let mut wide = [0f32; MAX_GROUP / 4];
                l.store_f32(S::load(l, &room), &mut wide, false);
                out[done * apart..][..n].copy_from_slice(&wide[..n]);
                done += n;
            }
            first += step;
        }
    }
}
