//! The kernel's side of the control plane, on real namespaces: what a path is, what a device is, and what is refused.

mod links;
mod namespaces;
mod probes;
mod routes;
mod settings;
mod shared;
