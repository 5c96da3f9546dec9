//! Datagrams that are sent in one system call (UDP_SEGMENT, udp(7)): of one length but for the last, to one endpoint.

use std::net::SocketAddr;
use std::ops::Range;

/// Datagrams in one call (`UDP_MAX_SEGMENTS`, linux/udp.h, before 6.9).
const MOST: usize = 64;
/// Bytes in one call: the longest payload of UDP over IPv4.
const BYTES: usize = 65_507;
/// What the buffer has beyond: room for the next datagram, of which nobody knows whether it fits.
const ROOM: usize = 65_536 + 64;

/// Datagrams that belong together.
pub(super) struct Batch {
    buffer: Box<[u8]>,
    used: usize,
    segment: usize,
    count: usize,
    endpoint: Option<SocketAddr>,
    /// Its last one is shorter than the others.
    closed: bool,
}

impl Batch {
    pub(super) fn new() -> Self {
        let buffer = vec![0; BYTES + ROOM].into_boxed_slice();
        Self { buffer, used: 0, segment: 0, count: 0, endpoint: None, closed: false }
    }

    /// Where the next datagram is to be made.
    pub(super) fn room(&mut self) -> &mut [u8] {
        let used = self.used;
        self.buffer.get_mut(used..).unwrap_or_default()
    }

    /// Takes in a datagram that was made in the room, if it belongs to the others. If not, they are to be sent first, and
    /// then it is taken by [`Batch::restart`].
    pub(super) fn add(&mut self, length: usize, endpoint: SocketAddr) -> bool {
        if self.count == 0 {
            (self.segment, self.endpoint) = (length, Some(endpoint));
        }
        let fits = self.endpoint == Some(endpoint)
            && !self.closed
            && length <= self.segment
            && self.count < MOST
            && (self.count == 0 || self.used + length <= BYTES);
        if fits {
            self.used += length;
            self.count += 1;
            self.closed = length < self.segment;
        }
        fits
    }

    /// Forgets what was sent, and begins with the datagram in the room.
    pub(super) fn restart(&mut self, length: usize, endpoint: SocketAddr) {
        let made = self.used..self.used + length;
        self.clear();
        self.buffer.copy_within(made, 0);
        self.add(length, endpoint);
    }

    /// Forgets what was sent.
    pub(super) fn clear(&mut self) {
        (self.used, self.count, self.endpoint, self.closed) = (0, 0, None, false);
    }

    /// What is to be sent, where to, and how long each of the datagrams is but for the last.
    pub(super) fn contents(&self) -> Option<(&[u8], SocketAddr, usize)> {
        let bytes: Range<usize> = 0..self.used;
        Some((self.buffer.get(bytes)?, self.endpoint?, self.segment)).filter(|_| self.count > 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn endpoint(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 51820).into()
    }

    proptest! {
        #[test]
        fn every_datagram_comes_out_whole_and_in_order(
            wanted in proptest::collection::vec((1..4_usize, 0..3_u8, any::<u8>()), 1..300)
        ) {
            let mut batch = Batch::new();
            let mut sent = Vec::new();
            let mut flush = |batch: &Batch| {
                if let Some((bytes, to, segment)) = batch.contents() {
                    assert!(bytes.len() <= BYTES && bytes.chunks(segment).count() <= MOST);
                    sent.extend(bytes.chunks(segment).map(|datagram| (datagram.to_vec(), to)));
                }
            };
            let datagrams: Vec<_> =
                wanted.iter().map(|(size, to, byte)| (vec![*byte; size * 700], endpoint(*to))).collect();
            for (datagram, to) in &datagrams {
                batch.room()[..datagram.len()].copy_from_slice(datagram);
                if !batch.add(datagram.len(), *to) {
                    flush(&batch);
                    batch.restart(datagram.len(), *to);
                }
            }
            flush(&batch);
            prop_assert_eq!(sent, datagrams);
        }
    }

    #[test]
    fn the_largest_datagram_has_room_behind_a_full_batch() {
        let mut batch = Batch::new();
        assert!(batch.contents().is_none());
        while batch.add(1452, endpoint(1)) {}
        assert!(batch.room().len() >= 65_535 + 32);
        batch.clear();
        assert!(batch.contents().is_none());
    }
}
