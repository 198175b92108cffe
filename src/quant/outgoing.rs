//! Codes on their way past the caches, by way of a room in the first level.

use crate::formats::source::Code;
use crate::simd::Lanes;

/// Bytes of a line, which goes whole.
const LINE: usize = 64;
/// Codes that are made before they go: soon enough that stores do not come in bursts, for which loads would wait.
pub(super) const CHUNK: usize = 1024;

/// A row of codes. Of a line that is not complete, codes wait in the room for those that follow.
pub(super) struct Outgoing<'a, C> {
    room: &'a mut [C],
    waiting: usize,
    out: &'a mut [C],
}

impl<'a, C: Code> Outgoing<'a, C> {
    /// Makes a room.
    pub fn room() -> Vec<C> {
        vec![C::default(); CHUNK + LINE]
    }

    pub fn new(room: &'a mut [C], out: &'a mut [C]) -> Self {
        Outgoing { room, waiting: 0, out }
    }

    /// Where the next codes are to be made, no more than [`CHUNK`].
    #[inline(always)]
    pub fn place(&mut self, count: usize) -> &mut [C] {
        &mut self.room[self.waiting..self.waiting + count]
    }

    /// Sends codes that have been made.
    #[inline(always)]
    pub fn send<L: Lanes>(&mut self, l: L, count: usize) {
        let total = self.waiting + count;
        let begun = self.out[total..].as_ptr().addr() % LINE / std::mem::size_of::<C>();
        let ready = if total == self.out.len() { total } else { total.saturating_sub(begun) };
        let (now, later) = std::mem::take(&mut self.out).split_at_mut(ready);
        l.stream(&self.room[..ready], now);
        self.room.copy_within(ready..total, 0);
        (self.out, self.waiting) = (later, total - ready);
    }
}
