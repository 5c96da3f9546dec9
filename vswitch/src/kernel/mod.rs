//! The kernel as the control plane sees it: namespaces, links, addresses, routes, offloads, sysctls, bare frames, the MTU of paths, who has an address on a wire, and what it can do.

pub mod bpffs;
pub mod capabilities;
pub mod clsact;
pub mod conntrack;
pub mod ethtool;
pub mod link;
pub mod netlink;
pub mod netns;
pub mod packet;
pub mod path;
pub mod probe;
pub mod sysctl;
pub mod xfrm;
