//! Validated types: what an invalid value cannot be built of. Parse once at the edge, rely on it everywhere.

mod drop_reason;
mod endpoint;
mod id;
mod instance;
mod mac;
mod name;
mod network;
mod options;
mod peer;
mod publish;
mod subnet;
mod vlan;

pub use drop_reason::explanation;
pub use endpoint::{Endpoint, EndpointAddress, NetnsRecord, Phase};
pub use id::{EndpointId, HostId, InvalidId, NetworkId, random_error};
pub use instance::{Instance, Owner};
pub use mac::{InvalidStationMac, StationMac};
pub use name::{EndpointName, InstanceName, InterfaceName, InvalidInterfaceName, InvalidName, NetworkName};
pub use network::{Driver, InvalidDriver, Network, UplinkBefore, predefined};
pub use options::{
    BridgeOptions, DEFAULT_AGEING, EndpointOptions, InvalidOption, Layer, Learning, OverlayOptions, Passage,
    PortOptions, WireOptions, XdpChoice,
};
pub use peer::{InvalidPeer, Peer, PeerHost};
pub use publish::{HostPort, InvalidPortRange, InvalidPublish, PortRange, Protocol, PublishSpec, Published};
pub use subnet::{InvalidSubnet, Subnet, SubnetConfig};
pub use vlan::{InvalidVlan, TrunkVlans, VlanId};
