//! The API: JSON over HTTP/1.1 on the instance's Unix socket. The command line is a client of it like any other.

mod client;
mod frames;
mod messages;
mod metrics;
mod server;

pub use client::{Client, ClientError, Stream, path, query};
pub use frames::{Direction, FrameMessage, FrameView, FramesFilter, VerdictView};
pub use messages::{
    AllVlans, AttachRequest, ClusterView, ConnectRequest, Counters, DetachRequest, Detached, DisconnectRequest,
    DownRequest, ElsewhereView, EndpointDetails, EndpointView, ErrorBody, ErrorDocument, FdbChange, FdbChangeKind,
    FdbFilter, FdbFlush, FdbFlushed, FdbKeyRequest, FdbStatic, HooksView, InterfaceView, KeptNetwork, MdbFilter,
    MulticastGroupView, NetworkDetails, NetworkRequest, NetworkView, PeerRequest, PeerState, PeerView, PortHealth,
    PortView, Pruned, StationKind, StationView, StatsFilter, Status, SubnetView, TraceFrame, TraceProgram,
    TraceProtocol, TraceRequest, TraceStep, TraceVerdict, TraceView, TrunkVlan, UplinkView,
};
pub use metrics::{Measured, Stations};
pub use server::{DownCall, router};

/// The version of the API, the beginning of every path.
pub const PREFIX: &str = "/v1";
