//! Validated types: invalid values cannot be constructed. Input is parsed once, where it enters.

mod endpoint;
mod engine;
mod id;
mod instance;
mod key;
mod mac;
mod name;
mod network;
mod observe;
mod options;
mod peer;
mod pool;
mod port;
mod publish;
mod subnet;
mod vlan;
mod vni;
mod xdp;

pub use endpoint::{Endpoint, EndpointAddress, NetnsRecord, Phase, WaitingPorts};
pub use engine::{EngineEndpoint, EngineKey, EngineNetwork, InvalidEngineKey, LeftInterface, check_owner};
pub use id::{EndpointId, HostId, InvalidId, NetworkId, PoolId, SHORT_DIGITS, random_error};
pub use instance::{Instance, Owner};
pub use key::{KEY_LENGTH, KeyError, PublicKey};
pub use mac::{InvalidStationMac, StationMac};
pub use name::{EndpointName, InstanceName, InterfaceName, InvalidInterfaceName, InvalidName, NetworkName};
pub use network::{Driver, InvalidDriver, InvalidRecord, LEAST_IPV6, Network, NetworkKind, UplinkBefore, predefined};
pub use observe::{Direction, FdbChangeKind, PeerState, StationKind, TraceProtocol};
pub use options::{
    BridgeOptions, DEFAULT_AGEING, EndpointOptions, GatewayMode, InvalidOption, Layer, Learning, OverlayOptions,
    ParentOptions, Passage, PortOptions, SwitchOptions, UplinkOptions, XdpChoice,
};
pub use peer::{InvalidPeer, Peer, PeerHost};
pub use pool::{Lease, Pool};
pub use port::{ParentRules, PortRules, Trunk};
pub use publish::{HostPort, InvalidPortRange, InvalidPublish, PortRange, Protocol, PublishSpec, Published};
pub use subnet::{InvalidSubnet, Subnet, SubnetConfig};
pub use vlan::{InvalidVlan, TrunkVlans, VlanId};
pub use vni::{InvalidVni, Vni};
pub use xdp::{Mode, Xdp};
