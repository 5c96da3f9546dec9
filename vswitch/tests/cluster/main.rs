//! The cluster's client against real etcd: three members each test, on loopback addresses of their own. No root needed.

mod addresses;
mod harness;
mod membership;
mod networks;
mod outage;
mod security;
mod watching;
