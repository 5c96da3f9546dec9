//! Between the host's IP stack and the bridge networks: masquerade, published ports, forwarding, and what firewalls
//! beside us need to let it pass.
//!
//! All rules are in one nftables table of the instance's own, which is replaced as a whole in one transaction. An
//! established connection keeps the translation that it began with, so a replacement disturbs none. Forwarding, once
//! switched on, stays on after `down`: others may rely on it by then, and nobody can tell.
//!
//! ::1 cannot be published: IPv6 has no route_localnet, so nothing with that address leaves the loopback device.
//! `localhost` is still answered, by 127.0.0.1.

mod apply;
mod error;
mod firewall;
mod follow;
mod forwarding;
mod nft;
mod reserve;
mod ruleset;
mod wanted;

pub use apply::{Outside, OutsideStatus, remove};
pub use error::OutsideError;
pub use forwarding::ForwardingStatus;
pub use reserve::{Holder, Reservations, ReserveError};
pub use wanted::{OutsideNetwork, PortForward, Wanted};
