//! Connects the bridge networks with the host's IP stack: masquerade, published ports, forwarding,
//! and the rules that other firewalls need to let the networks' packets pass.
//!
//! All rules are in one nftables table of the instance, which is replaced as a whole in one
//! transaction. An established connection keeps its translation, so a replacement disturbs no
//! connection. Forwarding, once enabled, stays enabled after `down`, because other programs may
//! rely on it by then.
//!
//! ::1 is refused: IPv6 has no route_localnet, so no packet with that address leaves the
//! loopback device. `localhost` still works, through 127.0.0.1.

mod apply;
mod error;
mod firewall;
mod follow;
mod forwarding;
mod nft;
mod reserve;
mod ruleset;
mod wanted;

pub use apply::{Nat, NatStatus, remove};
pub use error::NatError;
pub use firewall::FirewallStatus;
pub use forwarding::ForwardingStatus;
pub use reserve::{BindHook, EphemeralError, Holder, HookError, Reservations, ReserveError};
pub use wanted::{NatNetwork, PortForward, Wanted};
