//! The control plane of vswitch: a daemon that serves an API on a Unix socket, and the command line
//! that uses it.
//!
//! Dependencies between these modules point downwards. A module imports modules of later rows only:
//!
//! | row | modules |
//! | --- | --- |
//! | 6 | `cli` |
//! | 5 | `daemon` |
//! | 4 | `docker`, `server` |
//! | 3 | `switch` |
//! | 2 | `api`, `observe`, `plan` |
//! | 1 | `cluster`, `datapath`, `dns`, `etc_files`, `nat`, `served_namespace`, `wireguard` |
//! | 0 | `kernel`, `lock`, `model`, `multicast` |
//!
//! A test in `rooms.rs` fails if modules import each other in a circle. `docs/architecture.md`
//! describes the modules, the way of a frame and of an attach, locks, tasks and state.

pub mod api;
pub mod cli;
pub mod cluster;
pub mod daemon;
pub mod datapath;
pub mod dns;
mod docker;
pub mod etc_files;
pub mod kernel;
pub mod lock;
pub mod model;
pub mod multicast;
pub mod nat;
pub mod observe;
pub mod plan;
#[cfg(test)]
mod rooms;
pub mod served_namespace;
pub mod server;
pub mod switch;
pub mod wireguard;
