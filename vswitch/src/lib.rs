//! The control plane of vswitch.

pub mod datapath;
