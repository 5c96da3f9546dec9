//! End-to-end tests: the command line, a real kernel, real namespaces, real traffic. One module a behaviour.
//!
//! They need root, and nothing else of the machine: each test makes its own hosts and containers, under names that no
//! other has, so all run side by side and beside whatever else there is.

mod harness;

mod accounting;
mod accounting_load;
mod attach;
mod concurrency;
mod connect;
mod control;
mod crash;
mod doctor;
mod down;
mod fdb;
mod fdb_watch;
mod flood;
mod guards;
mod instances;
mod ipv6;
mod ipvlan;
mod isolation;
mod lifecycle;
mod macvlan;
mod metrics;
mod moving;
mod mtu;
mod multicast;
mod names;
mod networks;
mod openapi;
mod options;
mod outside;
mod overlay;
mod overlay_errors;
mod overlay_lives;
mod overlay_path_mtu;
mod overlay_strangers;
mod overlay_wire;
mod parent;
mod parent_dhcp;
mod parent_endpoints;
mod parent_errors;
mod parent_vlans;
mod published;
mod reach;
mod reaping;
mod refused_attach;
mod refused_up;
mod run;
mod run_terminal;
mod state;
mod storm;
mod suppress;
mod takeover;
mod top;
mod trace;
mod traffic;
mod uplink;
mod vlan;
mod vlan_ports;
mod watching;
