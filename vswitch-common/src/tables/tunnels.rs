//! The ends of tunnels at this host, and the routes of packets that go to peers without the
//! tunnel's device.

/// How tunnels end at an address of this host; zeros if none do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct TunnelEnd {
    /// The UDP port of the tunnels.
    pub port: u16,
    /// Bits: [`TunnelEnd::GSO_ARRIVES`].
    pub flags: u16,
    /// The device into which unwrapped TCP goes, behind which GRO merges packets; 0 for none.
    pub receiver: u32,
}

impl TunnelEnd {
    /// GSO packets have arrived here: a driver or a virtual link merges packets already.
    pub const GSO_ARRIVES: u16 = 1;
}

/// How packets of a tunnel leave without the tunnel's device; zeros if they leave by the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct DirectRoute {
    /// The IPv4 address of this host on the route, in the byte order of the wire.
    pub source: u32,
    /// The device that the packets leave by.
    pub ifindex: u32,
    /// The UDP port of the tunnels.
    pub port: u16,
    /// The longest inner IP packet that is not fragmented on the path.
    pub mtu: u16,
}
