//! vswitch with real engines, in front of it and beside it. One module an engine; the names of tests begin with the row
//! of the list of cases.
//!
//! They need root, and the root file systems that `cargo xtask setup --engines` makes.

mod harness;

mod cni;
mod docker;
mod hosts;
mod others;
mod podman;
