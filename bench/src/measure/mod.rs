//! What is measured, one file per way of measuring.

pub mod attach;
pub mod cluster;
pub mod connections;
pub mod cost;
pub mod fdb;
pub mod flood;
pub mod frames;
pub mod iperf;
pub mod monitor;
pub mod names;
pub mod overlay;
pub mod pingpong;
pub mod scale;
pub mod udp;
pub mod wire;

use clap::ValueEnum;

/// A kind of measurement, as `--only` names it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum What {
    /// iperf3, TCP, one stream.
    Tcp1,
    /// iperf3, TCP, four streams.
    Tcp4,
    /// TCP request and response, 64 bytes each way.
    Rr,
    /// UDP datagrams in 60-byte frames, counted by the receiver.
    Udp,
    /// 60-byte frames from an uplink to a container.
    Frames,
    /// Time of `vswitch attach`, and the daemon's memory.
    Attach,
    /// What the switch's programs cost per frame.
    Cost,
    /// From outside to a published port: TCP throughput and connections per second, beside Docker.
    Published,
    /// Lookups of names at a network's gateway.
    Names,
    /// How soon a new endpoint is reached from another host of a cluster, and a daemon among 1,000 hosts with 100,000
    /// endpoints; needs etcd.
    Cluster,
    /// Create, attach and remove 1,000 endpoints in 20 networks.
    Scale,
    /// 60-byte frames with 10, 10,000 and 1,000,000 stations in the FDB.
    Fdb,
    /// Stations learned in a second.
    Learn,
    /// Broadcasts to 2, 16 and 128 ports.
    Flood,
    /// What the guards cost.
    Guards,
    /// What `vswitch monitor` costs.
    Monitor,
    /// All of `fdb`, `learn`, `flood`, `guards` and `monitor`.
    Operators,
    /// From the wire to a container on it and back, one stream of TCP.
    #[value(name = "wire_tcp1")]
    WireTcp1,
    /// The same with four streams.
    #[value(name = "wire_tcp4")]
    WireTcp4,
    /// TCP request and response between the wire and a container on it.
    #[value(name = "wire_rr")]
    WireRr,
    /// 60-byte frames from the wire to a container on it.
    #[value(name = "wire_frames")]
    WireFrames,
    /// All four of these.
    Wire,
    /// From a container to one on another host, one stream of TCP in frames of the wire's MTU.
    #[value(name = "overlay_tcp1")]
    OverlayTcp1,
    /// The same with four streams.
    #[value(name = "overlay_tcp4")]
    OverlayTcp4,
    /// TCP request and response between containers on two hosts.
    #[value(name = "overlay_rr")]
    OverlayRr,
    /// UDP datagrams in 60-byte frames from a container to one on another host.
    #[value(name = "overlay_udp")]
    OverlayUdp,
    /// All four of these.
    Overlay,
}

impl What {
    /// Measured on two containers.
    pub const ON_PAIRS: [Self; 4] = [Self::Tcp1, Self::Tcp4, Self::Rr, Self::Udp];

    /// What [`What::Operators`] is.
    pub const OF_OPERATORS: [Self; 5] = [Self::Fdb, Self::Learn, Self::Flood, Self::Guards, Self::Monitor];

    /// What [`What::Wire`] is.
    pub const OF_WIRE: [Self; 4] = [Self::WireTcp1, Self::WireTcp4, Self::WireRr, Self::WireFrames];

    /// What [`What::Overlay`] is.
    pub const OF_OVERLAY: [Self; 4] = [Self::OverlayTcp1, Self::OverlayTcp4, Self::OverlayRr, Self::OverlayUdp];

    /// As `--only` spells it.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// The CPU of whoever sends; the kernel's receive path of a veth runs there, too.
pub const CLIENT_CPU: usize = 0;

/// The CPU of whoever receives: another one where there is another one.
pub fn server_cpu() -> usize {
    usize::from(std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1))
}
