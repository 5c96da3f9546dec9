//! Detects changes of the rules by other programs, and restores the rules.
//!
//! The kernel reports every change of nftables (NFNLGRP_NFTABLES), our own ones, too; after those
//! the comparison finds no difference. The legacy interface of iptables sends no reports, so its
//! rules are compared once in a second.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use netlink_packet_core::{NetlinkBuffer, NlasIterator};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::time::{Instant, sleep, timeout_at};

use super::Nat;

/// `NFNLGRP_NFTABLES` (linux/netfilter/nfnetlink.h), as a bit of the legacy groups.
const GROUP: u32 = 1 << 6;
/// `NFNL_SUBSYS_NFTABLES`, the upper half of a message's type.
const NFTABLES: u16 = 10;
/// `NFT_MSG_*` (linux/netfilter/nf_tables.h), the lower half: of tables, chains and rules.
const RULES: std::ops::RangeInclusive<u16> = 6..=8;
const TABLES_AND_CHAINS: std::ops::RangeInclusive<u16> = 0..=5;
const NEWGEN: u16 = 15;
/// `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE` and so on: the table is the first attribute of all that is
/// in one.
const TABLE: u16 = 1;
/// struct nlmsghdr and struct nfgenmsg.
const HEADERS: usize = 16 + 4;

/// A flush is one transaction with many messages, and a firewall changes in several transactions.
const SETTLE: Duration = Duration::from_millis(50);
/// The least time between two listings of the other firewalls.
const FIREWALL_PAUSE: Duration = Duration::from_secs(1);
/// The least share of the time in which the other firewalls are not listed, as a multiple of the
/// time that a listing takes: some programs change their rules all the time.
const REST: u32 = 9;
/// The interval at which firewalls without reports are polled.
const POLL: Duration = Duration::from_secs(1);
/// The receive buffer of the socket, and the largest datagram.
const BACKLOG: usize = 1 << 20;
const DATAGRAM: usize = 64 << 10;

/// The rules that may have changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Changed {
    ours: bool,
    firewall: bool,
}

impl Nat {
    /// Restores rules that other programs change, for as long as it is polled.
    pub async fn follow(self: Arc<Self>) {
        loop {
            if let Err(error) = watch(&self).await {
                tracing::error!("changes of nftables are not reported to us: {error}");
            }
            // Without reports, the rules are polled.
            restore(&self, Changed { ours: true, firewall: true }).await;
            sleep(FIREWALL_PAUSE).await;
        }
    }
}

async fn watch(nat: &Nat) -> io::Result<()> {
    let table = nat.table();
    let mut socket = open()?;
    let mut buffer = BytesMut::new();
    let mut firewall_due = Instant::now() + POLL;
    // Changes before the socket was open.
    let mut changed = Changed { ours: true, firewall: true };
    loop {
        if changed.ours || changed.firewall && firewall_due <= Instant::now() {
            let settled = Instant::now() + SETTLE;
            while let Some(more) = receive(&mut socket, &mut buffer, &table, settled).await? {
                changed = changed.and(more);
            }
            // A program that restores its own flushed rules does so at the same moment.
            let begun = Instant::now();
            let look = Changed { firewall: changed.firewall && firewall_due <= begun, ..changed };
            restore(nat, look).await;
            changed = Changed { ours: false, firewall: changed.firewall && !look.firewall };
            if look.firewall {
                firewall_due = Instant::now() + FIREWALL_PAUSE.max(begun.elapsed() * REST);
            }
        }
        let wait = if changed.firewall { firewall_due } else { Instant::now() + POLL };
        match receive(&mut socket, &mut buffer, &table, wait).await? {
            Some(more) => changed = changed.and(more),
            None => changed.firewall = changed.firewall || nat.firewall_changed_silently().await,
        }
    }
}

async fn restore(nat: &Nat, changed: Changed) {
    if changed.ours {
        match nat.restore_table().await {
            Ok(true) => tracing::warn!("another program changed the table {}: it is restored", nat.table()),
            Ok(false) => {}
            Err(error) => tracing::error!("the table {} may be another than it should be: {error}", nat.table()),
        }
    }
    if changed.firewall
        && let Err(error) = nat.restore_firewall().await
    {
        tracing::error!("firewalls beside us: {error}");
    }
}

fn open() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
    // SAFETY: the descriptor is the socket's, which outlives the borrow.
    let descriptor = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    if let Err(errno) = setsockopt(&descriptor, sockopt::RcvBufForce, &BACKLOG) {
        tracing::warn!("changes of nftables have less room than wanted: {errno}");
    }
    socket.socket_mut().bind(&SocketAddr::new(0, GROUP))?;
    Ok(socket)
}

/// Returns the changes of the next datagram; `None` at the deadline.
async fn receive(
    socket: &mut TokioSocket,
    buffer: &mut BytesMut,
    table: &str,
    until: Instant,
) -> io::Result<Option<Changed>> {
    buffer.clear();
    buffer.reserve(DATAGRAM);
    match timeout_at(until, socket.recv_from(buffer)).await {
        Err(_time_is_up) => Ok(None),
        // Any process may send to the socket.
        Ok(Ok(sender)) if sender.port_number() != 0 => Ok(Some(Changed::default())),
        Ok(Ok(_)) => Ok(Some(changes(buffer, table))),
        Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {
            discard(socket, buffer);
            Ok(Some(Changed { ours: true, firewall: true }))
        }
        Ok(Err(error)) => Err(error),
    }
}

/// Drains the socket: until it is empty the kernel drops further reports without notice.
fn discard(socket: &TokioSocket, buffer: &mut BytesMut) {
    loop {
        buffer.clear();
        buffer.reserve(DATAGRAM);
        match socket.socket_ref().recv(buffer, libc::MSG_DONTWAIT) {
            Err(error) if error.raw_os_error() != Some(libc::ENOBUFS) => return,
            _ => {}
        }
    }
}

/// Returns the changes in one datagram.
fn changes(mut datagram: &[u8], table: &str) -> Changed {
    let mut changed = Changed::default();
    while let Ok(header) = NetlinkBuffer::new_checked(datagram) {
        let (length, kind) = (header.length() as usize, header.message_type());
        let attributes = datagram.get(HEADERS..length).unwrap_or_default();
        let named = NlasIterator::new(attributes).flatten().find(|attribute| attribute.kind() == TABLE);
        let named = named.as_ref().map(|attribute| attribute.value().strip_suffix(b"\0").unwrap_or(attribute.value()));
        let message = kind & 0xff;
        if kind >> 8 == NFTABLES && message != NEWGEN {
            let ours = named == Some(table.as_bytes());
            let others = named.is_some() && !ours;
            changed.ours |= ours;
            // New chains and rules may drop packets; changed rules may have removed those in
            // iptables' table.
            changed.firewall |= others && (RULES.contains(&message) || TABLES_AND_CHAINS.contains(&message));
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    changed
}

impl Changed {
    const fn and(self, other: Self) -> Self {
        Self { ours: self.ours || other.ours, firewall: self.firewall || other.firewall }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, table: &str) -> Vec<u8> {
        let value = [table.as_bytes(), b"\0"].concat();
        let mut attribute = (4 + value.len() as u16).to_ne_bytes().to_vec();
        attribute.extend(TABLE.to_ne_bytes());
        attribute.extend(&value);
        attribute.resize(attribute.len().next_multiple_of(4), 0);
        let mut bytes = ((HEADERS + attribute.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend((NFTABLES << 8 | kind).to_ne_bytes());
        bytes.extend([0; 10]);
        // struct nfgenmsg: inet.
        bytes.extend([1, 0, 0, 0]);
        bytes.extend(attribute);
        bytes
    }

    #[test]
    fn changes_are_told_apart() {
        let told = |messages: &[(u16, &str)]| {
            let datagram: Vec<u8> = messages.iter().flat_map(|(kind, table)| message(*kind, table)).collect();
            let Changed { ours, firewall } = changes(&datagram, "vswitch-a");
            (ours, firewall)
        };
        assert_eq!(told(&[(8, "vswitch-a")]), (true, false));
        assert_eq!(told(&[(14, "vswitch-a")]), (true, false));
        // The rules of another instance are those of another program.
        assert_eq!(told(&[(8, "vswitch-ab"), (14, "vswitch-a")]), (true, true));
        assert_eq!(told(&[(6, "filter")]), (false, true));
        assert_eq!(told(&[(3, "mine")]), (false, true));
        assert_eq!(told(&[(6, "mine")]), (false, true));
        // Changes of set elements in the tables of other programs are ignored.
        assert_eq!(told(&[(12, "mine")]), (false, false));
        assert_eq!(told(&[(2, "vswitch-a"), (5, "filter")]), (true, true));
        assert_eq!(told(&[]), (false, false));
    }

    #[test]
    fn what_cannot_be_read_is_passed_over() {
        assert_eq!(changes(&[0; 7], "vswitch-a"), Changed::default());
        assert_eq!(changes(&[16, 0, 0, 0, 6, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "vswitch-a"), Changed::default());
    }
}
