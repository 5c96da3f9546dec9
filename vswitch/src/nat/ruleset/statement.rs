//! The statements of rules.

use nftables::expr::{
    BinaryOperation, CT, Expression, Fib, FibFlag, FibResult, Map, Meta, MetaKey, NamedExpression, Payload,
    PayloadField,
};
use nftables::stmt::{JumpTarget, Mangle, Match, NAT, NATFamily, Operator, Statement};

use super::element::{Family, concatenated};

/// Matches packets of a connection whose destination was translated, in both directions.
pub(super) fn translated() -> Statement<'static> {
    matches(connection("status"), Operator::IN, word("dnat"))
}

/// Matches packets that belong to a known connection, in both directions.
pub(super) fn known() -> Statement<'static> {
    let states = Expression::List(vec![word("established"), word("related")]);
    matches(connection("state"), Operator::IN, states)
}

/// Matches packets that conntrack assigns to no connection.
pub(super) fn invalid() -> Statement<'static> {
    matches(connection("state"), Operator::IN, word("invalid"))
}

/// Matches packets that no translation applies to.
pub(super) fn of_no_connection() -> Statement<'static> {
    let states = Expression::List(vec![word("invalid"), word("untracked")]);
    matches(connection("state"), Operator::IN, states)
}

/// Matches TCP segments with the flag RST.
pub(super) fn reset() -> Statement<'static> {
    matches(payload("tcp", "flags"), Operator::IN, word("rst"))
}

/// Matches ICMPv6 messages of a type.
pub(super) fn icmpv6(name: &'static str) -> Statement<'static> {
    matches(payload("icmpv6", "type"), Operator::EQ, word(name))
}

/// Matches packets in the original direction of the connection.
pub(super) fn original_direction() -> Statement<'static> {
    matches(connection("direction"), Operator::EQ, word("original"))
}

/// Matches ICMP redirects.
pub(super) fn redirect() -> Statement<'static> {
    matches(payload("icmp", "type"), Operator::EQ, word("redirect"))
}

/// Matches packets that come in through a device of the set.
pub(super) fn comes_by(set: &str) -> Statement<'static> {
    matches(meta(MetaKey::Iifname), Operator::EQ, reference(set))
}

/// Matches packets that come in through no device of the set.
pub(super) fn comes_not_by(set: &str) -> Statement<'static> {
    matches(meta(MetaKey::Iifname), Operator::NEQ, reference(set))
}

/// Matches packets that leave through a device of the set.
pub(super) fn leaves_by(set: &str) -> Statement<'static> {
    matches(meta(MetaKey::Oifname), Operator::EQ, reference(set))
}

/// Matches packets to an address of the host.
pub(super) fn to_host() -> Statement<'static> {
    let fib = Fib { result: FibResult::Type, flags: [FibFlag::Daddr].into() };
    matches(Expression::Named(NamedExpression::Fib(fib)), Operator::EQ, word("local"))
}

/// Matches UDP datagrams.
pub(super) fn udp() -> Statement<'static> {
    matches(meta(MetaKey::L4proto), Operator::EQ, word("udp"))
}

/// Matches packets of a family.
pub(super) fn of_family(family: Family) -> Statement<'static> {
    let name = match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    };
    matches(meta(MetaKey::Nfproto), Operator::EQ, word(name))
}

/// Matches packets with this value in a header field.
pub(super) fn field_is(family: Family, field: &'static str, value: Expression<'static>) -> Statement<'static> {
    matches(payload(family.header(), field), Operator::EQ, value)
}

/// Matches packets whose header field has, or has not, a value of the set.
pub(super) fn field_in(family: Family, field: &'static str, set: &str, inside: bool) -> Statement<'static> {
    matches(payload(family.header(), field), equal(inside), reference(set))
}

/// Matches packets that leave through the device of the network that they come from, or through
/// another device.
pub(super) fn route(family: Family, set: &str, inside: bool) -> Statement<'static> {
    let pair = concatenated([meta(MetaKey::Oifname), payload(family.header(), "saddr")]);
    matches(pair, equal(inside), reference(set))
}

/// Matches packets of a transport protocol, `tcp` or `udp`, to this port.
pub(super) fn to_port(protocol: &'static str, port: u16) -> Statement<'static> {
    matches(payload(protocol, "dport"), Operator::EQ, Expression::Number(port.into()))
}

/// Excludes the packet from connection tracking.
pub(super) fn untracked() -> Statement<'static> {
    Statement::Notrack
}

pub(super) fn masquerade() -> Statement<'static> {
    Statement::Masquerade(None)
}

pub(super) fn return_from() -> Statement<'static> {
    Statement::Return(None)
}

pub(super) fn accept() -> Statement<'static> {
    Statement::Accept(None)
}

pub(super) fn drop_packet() -> Statement<'static> {
    Statement::Drop(None)
}

pub(super) fn jump(chain: &str) -> Statement<'static> {
    Statement::Jump(JumpTarget { target: chain.to_owned().into() })
}

/// Sets additional bits in the mark of the packet.
pub(super) fn mark_published(mark: u32) -> Statement<'static> {
    let both = BinaryOperation::OR(vec![meta(MetaKey::Mark), Expression::Number(mark)]);
    Statement::Mangle(Mangle { key: meta(MetaKey::Mark), value: Expression::BinaryOperation(Box::new(both)) })
}

/// Clears bits in the mark of the packet.
pub(super) fn unmark(mark: u32) -> Statement<'static> {
    let both = BinaryOperation::AND(meta(MetaKey::Mark), Expression::Number(!mark));
    Statement::Mangle(Mangle { key: meta(MetaKey::Mark), value: Expression::BinaryOperation(Box::new(both)) })
}

/// Translates the destination to the address and port in the maps, looked up by protocol and port,
/// and by the host's address for ports published at one address. Without a map of ports, the port
/// stays.
pub(super) fn dnat(family: Family, by_address: bool, addresses: &str, ports: Option<&str>) -> Statement<'static> {
    let look_up = |map: &str| {
        let (protocol, port) = (meta(MetaKey::L4proto), payload("th", "dport"));
        let key = if by_address {
            concatenated([protocol, payload(family.header(), "daddr"), port])
        } else {
            concatenated([protocol, port])
        };
        Some(Expression::Named(NamedExpression::Map(Box::new(Map { key, data: reference(map) }))))
    };
    let nat_family = match family {
        Family::V4 => NATFamily::IP,
        Family::V6 => NATFamily::IP6,
    };
    let (addr, port) = (look_up(addresses), ports.and_then(look_up));
    Statement::DNAT(Some(NAT { addr, family: Some(nat_family), port, flags: None }))
}

const fn word(word: &'static str) -> Expression<'static> {
    Expression::String(std::borrow::Cow::Borrowed(word))
}

fn matches(left: Expression<'static>, op: Operator, right: Expression<'static>) -> Statement<'static> {
    Statement::Match(Match { left, right, op })
}

const fn equal(wanted: bool) -> Operator {
    if wanted { Operator::EQ } else { Operator::NEQ }
}

fn reference(set: &str) -> Expression<'static> {
    Expression::String(format!("@{set}").into())
}

fn meta(key: MetaKey) -> Expression<'static> {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

fn payload(protocol: &'static str, field: &'static str) -> Expression<'static> {
    let field = PayloadField { protocol: protocol.into(), field: field.into() };
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(field)))
}

fn connection(key: &'static str) -> Expression<'static> {
    Expression::Named(NamedExpression::CT(CT { key: key.into(), family: None, dir: None }))
}
