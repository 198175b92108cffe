//! Blocking of k: intervals into runs, the unit of a kernel, and runs into segments, whose operands stay in cache.

use super::Problem;
use std::ops::Range;

/// A stretch of k inside one interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gemm) struct KRun {
    /// Its first k.
    pub begin: usize,
    /// The k after its last.
    pub end: usize,
    /// True: the partial sum starts here, from +0.
    pub opens: bool,
    /// True: the partial sum is complete at the end, and is promoted.
    pub closes: bool,
}

/// Consecutive runs.
#[derive(Clone, Debug)]
pub(in crate::gemm) struct KSegment {
    pub runs: Vec<KRun>,
    /// True for the first segment.
    pub first: bool,
    /// True for the last segment.
    pub last: bool,
}

impl KSegment {
    /// The k that it covers.
    pub fn range(&self) -> Range<usize> {
        let bound = |run: Option<&KRun>, end: bool| run.map_or(0, |r| if end { r.end } else { r.begin });
        bound(self.runs.first(), false)..bound(self.runs.last(), true)
    }

    /// Tests if an interval goes on in the next segment.
    pub fn splits(&self) -> bool {
        !self.last && self.runs.last().is_some_and(|run| !run.closes)
    }
}

/// Runs of at most `run` k in segments of at most `segment` k, both multiples of 32. A sum that starts from `c` neither
/// opens nor closes: it is the final sum. There is always one segment, for a k of 0 without runs.
pub(in crate::gemm) fn segments<O>(p: &Problem<O>, run: usize, segment: usize) -> Vec<KSegment> {
    let (chained, interval) = (p.chained, p.interval);
    let mut segments = vec![KSegment { runs: Vec::new(), first: true, last: false }];
    let mut begin = 0;
    while begin < p.k {
        let close = p.k.min(begin / interval * interval + interval);
        let end = close.min(begin + run);
        let opens = !chained && begin % interval == 0;
        let piece = KRun { begin, end, opens, closes: !chained && end == close };
        match segments.last_mut() {
            Some(s) if s.runs.is_empty() || end - s.runs[0].begin <= segment => s.runs.push(piece),
            _ => segments.push(KSegment { runs: vec![piece], first: false, last: false }),
        }
        begin = end;
    }
    if let Some(s) = segments.last_mut() {
        s.last = true;
    }
    segments
}
