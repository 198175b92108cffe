//! How k is cut: intervals into runs that a kernel takes at a time, runs into segments whose operands stay in cache.

use super::Problem;
use std::ops::Range;

/// A stretch of k inside one interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Its first k.
    pub begin: usize,
    /// The k after its last.
    pub end: usize,
    /// Whether the partial sum starts here, from +0.
    pub opens: bool,
    /// Whether the partial sum is complete at its end, and is added to the final one.
    pub closes: bool,
}

/// Consecutive runs.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub runs: Vec<Run>,
    /// Whether there is none before it.
    pub first: bool,
    /// Whether there is none after it.
    pub last: bool,
}

impl Segment {
    /// The k that it covers.
    pub fn range(&self) -> Range<usize> {
        let bound = |run: Option<&Run>, end: bool| run.map_or(0, |r| if end { r.end } else { r.begin });
        bound(self.runs.first(), false)..bound(self.runs.last(), true)
    }
}

/// Runs of at most `run` k in segments of at most `segment` k, both multiples of 32. A sum that starts from `c` neither
/// opens nor closes: it is the final sum. There is always one segment, for a k of 0 without runs.
pub(super) fn segments(p: &Problem, run: usize, segment: usize) -> Vec<Segment> {
    let (chained, interval) = (p.chained, p.interval);
    let mut segments = vec![Segment { runs: Vec::new(), first: true, last: false }];
    let mut begin = 0;
    while begin < p.k {
        let close = p.k.min(begin / interval * interval + interval);
        let end = close.min(begin + run);
        let opens = !chained && begin % interval == 0;
        let piece = Run { begin, end, opens, closes: !chained && end == close };
        match segments.last_mut() {
            Some(s) if s.runs.is_empty() || end - s.runs[0].begin <= segment => s.runs.push(piece),
            _ => segments.push(Segment { runs: vec![piece], first: false, last: false }),
        }
        begin = end;
    }
    if let Some(s) = segments.last_mut() {
        s.last = true;
    }
    segments
}
