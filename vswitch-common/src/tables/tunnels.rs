//! Where tunnels end on this host, and how their packets leave it.

/// How tunnels end at an address of this host. All zeros if none do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct TunnelEnd {
    /// The UDP port.
    pub port: u16,
    /// Bits: [`TunnelEnd::TRAINS`].
    pub flags: u16,
    /// The device into which TCP is unwrapped, so that GRO makes few packets of many behind it; 0 if there is none.
    pub receiver: u32,
}

impl TunnelEnd {
    /// Trains of segments have arrived here: somebody before us makes few packets of many already.
    pub const TRAINS: u16 = 1;
}

/// How packets of a tunnel leave when its device is left out. All zeros if they do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Way {
    /// This host's IPv4 address on that way, its bytes in the order of the wire.
    pub source: u32,
    /// The device that they leave by.
    pub ifindex: u32,
    /// The UDP port of the tunnels.
    pub port: u16,
    /// The longest inner IP packet that need not be cut into fragments on its way.
    pub mtu: u16,
}
