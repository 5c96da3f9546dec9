//! The control plane of vswitch: a daemon that serves an API on a Unix socket, and the command line that uses it.
//!
//! Dependencies point downwards: `cli` and `api` to `switch`, `switch` to `drivers`, `ipam`, `apply` and `store`, those to
//! `model`, `plan`, `datapath` and `kernel`.

pub mod api;
pub mod apply;
pub mod cli;
pub mod cluster;
pub mod daemon;
pub mod datapath;
pub mod dns;
pub mod drivers;
pub mod etc;
pub mod ipam;
pub mod kernel;
pub mod lock;
pub mod model;
pub mod multicast;
pub mod outside;
pub mod plan;
pub mod reconcile;
pub mod served;
pub mod store;
pub mod switch;
pub mod watching;
pub mod wireguard;
