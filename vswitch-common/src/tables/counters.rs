//! The counters of ports.

/// The number of drop counters: more than reasons exist, so that a new reason does not change the
/// layout.
pub const DROP_REASONS: usize = 32;

/// The counters of a port on one CPU. In frames, `rx_frames = forwarded + flooded + to_host +
/// passed + drops`. A GSO packet counts as one frame with all its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PortCounters {
    /// Frames that came in by the port.
    pub rx_frames: u64,
    /// The bytes of those frames, with the Ethernet header, without the FCS.
    pub rx_bytes: u64,
    /// Frames handed to the port's device.
    pub tx_frames: u64,
    /// The bytes of those frames.
    pub tx_bytes: u64,
    /// Received frames that were sent to one port other than the host's.
    pub forwarded: u64,
    /// Received frames that were flooded.
    pub flooded: u64,
    /// Received frames that were sent to the host's stack, or answered by the switch itself.
    pub to_host: u64,
    /// The part of `to_host` that was answered by the switch itself.
    pub answered: u64,
    /// Received frames that passed to the host's stack on the device itself (uplinks and parents).
    pub passed: u64,
    /// Stations learned from this port.
    pub learned: u64,
    /// Stations not learned, because the FDB was full or the port's limit was reached.
    pub learn_failed: u64,
    /// Frames for this port and copies of floods that the kernel could not deliver.
    pub tx_failed: u64,
    /// Received frames that were dropped, by drop reason.
    pub drops: [u64; DROP_REASONS],
}

impl Default for PortCounters {
    fn default() -> Self {
        Self {
            rx_frames: 0,
            rx_bytes: 0,
            tx_frames: 0,
            tx_bytes: 0,
            forwarded: 0,
            flooded: 0,
            to_host: 0,
            answered: 0,
            passed: 0,
            learned: 0,
            learn_failed: 0,
            tx_failed: 0,
            drops: [0; DROP_REASONS],
        }
    }
}

impl PortCounters {
    /// Returns the sum of two, field by field. The daemon adds up the CPUs with it.
    pub fn plus(mut self, other: &Self) -> Self {
        self.rx_frames += other.rx_frames;
        self.rx_bytes += other.rx_bytes;
        self.tx_frames += other.tx_frames;
        self.tx_bytes += other.tx_bytes;
        self.forwarded += other.forwarded;
        self.flooded += other.flooded;
        self.to_host += other.to_host;
        self.answered += other.answered;
        self.passed += other.passed;
        self.learned += other.learned;
        self.learn_failed += other.learn_failed;
        self.tx_failed += other.tx_failed;
        for (sum, drops) in self.drops.iter_mut().zip(other.drops) {
            *sum += drops;
        }
        self
    }
}
