//! Tests of the cluster client against a real etcd: each test starts three members on loopback
//! addresses of its own. No root privileges needed.

mod addresses;
mod harness;
mod membership;
mod networks;
mod outage;
mod security;
mod watching;
