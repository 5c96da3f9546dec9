//! The API: JSON over HTTP/1.1 on the instance's Unix socket. The command line is an ordinary
//! client of it.

mod client;
mod frames;
mod messages;
mod patience;

pub use client::{Client, ClientError, Stream, path, query};
pub use frames::{FrameMessage, FrameView, FramesFilter, VerdictView};
pub use messages::{
    AllVlans, AttachRequest, ClusterView, CollectRequest, ConnectRequest, Counters, DetachRequest, Detached,
    DisconnectRequest, DownRequest, ElsewhereView, EndpointDetails, EndpointFilter, EndpointView, ErrorBody,
    ErrorDocument, FdbChange, FdbFilter, FdbFlush, FdbFlushed, FdbKeyRequest, FdbStatic, HooksView, InterfaceView,
    KeptNetwork, LeaseRequest, LeaseView, MdbFilter, MulticastGroupView, NamesRequest, NetworkDetails,
    NetworkNameRequest, NetworkRequest, NetworkView, PeerRequest, PeerView, PoolRequest, PoolView, PortHealth,
    PortView, Pruned, PublishedRequest, Repaired, SandboxRequest, StationView, StatsFilter, Status, SubnetView,
    TraceFrame, TraceProgram, TraceRequest, TraceStep, TraceVerdict, TraceView, TrunkVlan, UplinkView,
};
pub use patience::{SENT_HEADER, STALE, age};

/// The version of the API, with which every path starts.
pub const PREFIX: &str = "/v1";
