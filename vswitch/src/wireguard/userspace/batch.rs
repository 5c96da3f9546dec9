//! Datagrams for one system call (UDP_SEGMENT, udp(7)): all to one endpoint and of one length,
//! except a shorter last one.

use std::net::SocketAddr;
use std::ops::Range;

/// Largest number of datagrams in one call (`UDP_MAX_SEGMENTS` in linux/udp.h before Linux 6.9).
const MAX_DATAGRAMS: usize = 64;
/// Largest number of bytes in one call: the longest UDP payload over IPv4.
const MAX_BYTES: usize = 65_507;
/// Additional bytes in the buffer, so that the next datagram can be written before it is known
/// whether it fits.
const SPARE_BYTES: usize = 65_536 + 64;

/// A batch of datagrams.
pub(super) struct Batch {
    buffer: Box<[u8]>,
    used: usize,
    segment: usize,
    count: usize,
    endpoint: Option<SocketAddr>,
    /// The last datagram is shorter than the others, so no other can follow.
    closed: bool,
}

impl Batch {
    pub(super) fn new() -> Self {
        let buffer = vec![0; MAX_BYTES + SPARE_BYTES].into_boxed_slice();
        Self { buffer, used: 0, segment: 0, count: 0, endpoint: None, closed: false }
    }

    /// Returns the buffer for the next datagram.
    pub(super) fn room(&mut self) -> &mut [u8] {
        let used = self.used;
        self.buffer.get_mut(used..).unwrap_or_default()
    }

    /// Adds a datagram that was written to [`Batch::room`]. Returns `false` if it does not fit the
    /// batch. Then the batch must be sent first, and [`Batch::restart`] adds the datagram.
    pub(super) fn add(&mut self, length: usize, endpoint: SocketAddr) -> bool {
        if self.count == 0 {
            (self.segment, self.endpoint) = (length, Some(endpoint));
        }
        let fits = self.endpoint == Some(endpoint)
            && !self.closed
            && length <= self.segment
            && self.count < MAX_DATAGRAMS
            && (self.count == 0 || self.used + length <= MAX_BYTES);
        if fits {
            self.used += length;
            self.count += 1;
            self.closed = length < self.segment;
        }
        fits
    }

    /// Empties the batch and adds the datagram that was written to [`Batch::room`].
    pub(super) fn restart(&mut self, length: usize, endpoint: SocketAddr) {
        let datagram = self.used..self.used + length;
        self.clear();
        self.buffer.copy_within(datagram, 0);
        self.add(length, endpoint);
    }

    /// Empties the batch.
    pub(super) fn clear(&mut self) {
        (self.used, self.count, self.endpoint, self.closed) = (0, 0, None, false);
    }

    /// Returns the bytes to send, the endpoint, and the length of every datagram but the last.
    /// `None` if the batch is empty.
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
        fn datagrams_are_sent_complete_and_in_order(
            wanted in proptest::collection::vec((1..4_usize, 0..3_u8, any::<u8>()), 1..300)
        ) {
            let mut batch = Batch::new();
            let mut sent = Vec::new();
            let mut flush = |batch: &Batch| {
                if let Some((bytes, to, segment)) = batch.contents() {
                    assert!(bytes.len() <= MAX_BYTES && bytes.chunks(segment).count() <= MAX_DATAGRAMS);
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
    fn the_longest_datagram_fits_behind_a_full_batch() {
        let mut batch = Batch::new();
        assert!(batch.contents().is_none());
        while batch.add(1452, endpoint(1)) {}
        assert!(batch.room().len() >= 65_535 + 32);
        batch.clear();
        assert!(batch.contents().is_none());
    }
}
