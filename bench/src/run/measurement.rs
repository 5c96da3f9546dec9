//! The measurements that `--only` selects.

use clap::ValueEnum;

/// A measurement as named by `--only`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Measurement {
    /// TCP throughput of one stream (iperf3)
    Tcp1,
    /// TCP throughput of four streams (iperf3)
    Tcp4,
    /// TCP request and response, 64 bytes each way
    Rr,
    /// UDP datagrams in 60-byte frames, counted by the receiver
    Udp,
    /// 60-byte frames from an uplink to a container
    Frames,
    /// Time of `vswitch attach` and memory of the daemon
    Attach,
    /// Time of `vswitch up`, and of an `up` that takes over after the daemon was killed
    Start,
    /// Cost of the switch's programs per frame
    Cost,
    /// TCP throughput and connections per second from outside to a published port, beside Docker
    Published,
    /// DNS lookups at the gateway of a network
    Names,
    /// Time until a new endpoint is reached from another host of a cluster, and a daemon among
    /// 1,000 hosts with 100,000 endpoints; requires etcd
    Cluster,
    /// Creating, attaching and removing 1,000 endpoints in 20 networks
    Scale,
    /// 60-byte frames with 10, 10,000 and 1,000,000 stations in the FDB
    Fdb,
    /// Stations learned per second
    Learn,
    /// Broadcasts to 2, 16 and 128 ports
    Flood,
    /// Cost of the guards
    Guards,
    /// Cost of `vswitch monitor`
    Monitor,
    /// The five measurements `fdb`, `learn`, `flood`, `guards` and `monitor`
    Operators,
    /// TCP throughput of one stream between the wire and a container on it, in both directions
    #[value(name = "wire_tcp1")]
    WireTcp1,
    /// TCP throughput of four streams between the wire and a container on it, in both directions
    #[value(name = "wire_tcp4")]
    WireTcp4,
    /// TCP request and response between the wire and a container on it
    #[value(name = "wire_rr")]
    WireRr,
    /// 60-byte frames from the wire to a container on it
    #[value(name = "wire_frames")]
    WireFrames,
    /// The four measurements whose names begin with `wire_`
    Wire,
    /// TCP throughput of one stream to a container on another host, in frames of the wire's MTU
    #[value(name = "overlay_tcp1")]
    OverlayTcp1,
    /// TCP throughput of four streams to a container on another host
    #[value(name = "overlay_tcp4")]
    OverlayTcp4,
    /// TCP request and response between containers on two hosts
    #[value(name = "overlay_rr")]
    OverlayRr,
    /// UDP datagrams in 60-byte frames to a container on another host
    #[value(name = "overlay_udp")]
    OverlayUdp,
    /// The four measurements whose names begin with `overlay_`
    Overlay,
}

impl Measurement {
    /// The measurements between two containers.
    pub const ON_PAIRS: [Self; 4] = [Self::Tcp1, Self::Tcp4, Self::Rr, Self::Udp];

    /// The measurements of [`Measurement::Operators`].
    pub const OF_OPERATORS: [Self; 5] = [Self::Fdb, Self::Learn, Self::Flood, Self::Guards, Self::Monitor];

    /// The measurements of [`Measurement::Wire`].
    pub const OF_WIRE: [Self; 4] = [Self::WireTcp1, Self::WireTcp4, Self::WireRr, Self::WireFrames];

    /// The measurements of [`Measurement::Overlay`].
    pub const OF_OVERLAY: [Self; 4] = [Self::OverlayTcp1, Self::OverlayTcp4, Self::OverlayRr, Self::OverlayUdp];

    /// Returns the name as spelled in `--only`.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}
