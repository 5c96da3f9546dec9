//! Tests of the module `kernel` on real namespaces: namespaces, links, routes, settings and address
//! probes.

mod links;
mod namespaces;
mod probes;
mod routes;
mod settings;
mod shared;
