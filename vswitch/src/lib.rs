//! The control plane of vswitch.

pub mod datapath;
pub mod drivers;
pub mod ipam;
pub mod kernel;
pub mod model;
pub mod plan;
pub mod store;
