//! The elements of sets and maps.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use nftables::expr::{Expression, NamedExpression, Prefix, Range};
use nftables::schema::SetType;

use crate::model::Protocol;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const fn is_of(self, address: IpAddr) -> bool {
        address.is_ipv4() == matches!(self, Self::V4)
    }

    pub(super) const fn set_type(self) -> SetType {
        match self {
            Self::V4 => SetType::Ipv4Addr,
            Self::V6 => SetType::Ipv6Addr,
        }
    }

    /// Returns nft's name for the header.
    pub(super) const fn header(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    /// Returns the name of this family's set, map or chain.
    pub(super) fn called(self, what: &str) -> String {
        let digit = match self {
            Self::V4 => '4',
            Self::V6 => '6',
        };
        format!("{what}{digit}")
    }

    /// Returns 127.0.0.0/8.
    pub(super) fn loopback() -> Expression<'static> {
        net(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8).into())
    }
}

pub(super) fn name(device: &str) -> Expression<'static> {
    Expression::String(device.to_owned().into())
}

pub(super) fn address(address: IpAddr) -> Expression<'static> {
    Expression::String(address.to_string().into())
}

pub(super) fn port(port: u16) -> Expression<'static> {
    Expression::Number(port.into())
}

pub(super) fn port_range(first: u16, last: u16) -> Expression<'static> {
    Expression::Range(Box::new(Range { range: [port(first), port(last)] }))
}

pub(super) fn protocol(protocol: Protocol) -> Expression<'static> {
    Expression::String(protocol.name().into())
}

pub(super) fn net(net: IpNet) -> Expression<'static> {
    Expression::Named(NamedExpression::Prefix(Prefix {
        addr: Box::new(address(net.addr())),
        len: net.prefix_len().into(),
    }))
}

pub(super) fn concatenated<const N: usize>(parts: [Expression<'static>; N]) -> Expression<'static> {
    Expression::Named(NamedExpression::Concat(parts.into()))
}

pub(super) fn mapped(key: Expression<'static>, value: Expression<'static>) -> Expression<'static> {
    Expression::List(vec![key, value])
}
