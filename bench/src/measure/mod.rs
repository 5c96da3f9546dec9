//! The measurements, one file per method.

pub mod attach;
#[cfg(feature = "full")]
pub mod cluster;
pub mod connections;
pub mod cost;
pub mod fdb;
pub mod flood;
pub mod frames;
pub mod iperf;
pub mod monitor;
pub mod names;
pub mod pingpong;
pub mod scale;
pub mod start;
pub mod udp;
