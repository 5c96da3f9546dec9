//! Hosts that share networks through etcd: the time until a new endpoint is reached from another
//! host, and the memory and speed of a daemon among 1,000 hosts with 100,000 endpoints.

mod etcd;
mod hosts;
mod population;
mod reach;
mod scale;

pub use reach::{ATTACHES, reach};
pub use scale::scale;
