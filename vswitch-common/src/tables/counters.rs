//! What went through ports.

/// Room for drop counters; more than there are reasons, so that a new reason does not change the layout.
pub const DROP_REASONS: usize = 32;

/// What went through a port, per CPU. `in = forwarded + flooded + to_host + passed + drops`, in frames.
/// A GSO packet, the kernel's train of segments, counts as one frame with all its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PortCounters {
    /// Frames that came in by the port.
    pub rx_frames: u64,
    /// Their bytes, Ethernet header included, FCS not.
    pub rx_bytes: u64,
    /// Frames handed to the port's device.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Of the frames in: sent to one container or uplink.
    pub forwarded: u64,
    /// Of the frames in: flooded.
    pub flooded: u64,
    /// Of the frames in: sent to the host's port, or answered by the switch itself.
    pub to_host: u64,
    /// Of those: answered by the switch itself.
    pub answered: u64,
    /// Of the frames in: left to the host's stack on the device itself (uplinks).
    pub passed: u64,
    /// Stations learned from this port.
    pub learned: u64,
    /// Stations not learned because the table was full, or as many learned from this port as may be.
    pub learn_failed: u64,
    /// Copies of a flood, or frames for this port, that the kernel could not deliver.
    pub tx_failed: u64,
    /// Of the frames in: dropped, by [`crate::verdict::DropReason`].
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
    /// The sum of two, field by field: the daemon adds up the CPUs.
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
