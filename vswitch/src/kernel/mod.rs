//! Access of the control plane to the kernel: namespaces, links, addresses, routes, offloads,
//! sysctls, raw frames, path MTU, address probes, connection tracking, control groups, limits, IPsec
//! policies and feature detection.

pub mod bpffs;
pub mod capabilities;
pub mod cgroup;
pub mod clsact;
pub mod conntrack;
pub mod ethtool;
pub mod limits;
pub mod link;
pub mod netlink;
pub mod netns;
pub mod packet;
pub mod path;
pub mod probe;
pub mod sysctl;
pub mod xfrm;
