//! Removes the clsact queueing discipline, to which tc programs are attached on kernels without tcx
//! (before 6.6).

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcHandle, TcMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// Removes the clsact discipline from a device of the calling thread's namespace, unless any filter
/// is attached to it. Succeeds if the discipline or the device does not exist.
///
/// # Errors
/// The netlink socket failed or the kernel refused a request.
pub fn remove_if_empty(ifindex: u32) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    for hook in [TcHandle::MIN_INGRESS, TcHandle::MIN_EGRESS] {
        let parent = TcHandle { major: TcHandle::CLSACT.major, minor: hook };
        let query = RouteNetlinkMessage::GetTrafficFilter(tc_message(ifindex, TcHandle::UNSPEC, parent));
        if send_request(&socket, query, NLM_F_REQUEST | NLM_F_DUMP)? {
            return Ok(());
        }
    }
    let handle = TcHandle { major: TcHandle::CLSACT.major, minor: 0 };
    let removal = RouteNetlinkMessage::DelQueueDiscipline(tc_message(ifindex, handle, TcHandle::CLSACT));
    send_request(&socket, removal, NLM_F_REQUEST | NLM_F_ACK).map(drop)
}

fn tc_message(ifindex: u32, handle: TcHandle, parent: TcHandle) -> TcMessage {
    let mut message = TcMessage::with_index(ifindex.cast_signed());
    message.header.handle = handle;
    message.header.parent = parent;
    message
}

/// Sends a request, reads the whole answer and reports whether it had any content. A missing
/// device, discipline or filter counts as an empty answer.
fn send_request(socket: &Socket, request: RouteNetlinkMessage, flags: u16) -> io::Result<bool> {
    let mut request = NetlinkMessage::from(request);
    request.header.flags = flags;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut found = false;
    loop {
        let (answer, _) = socket.recv_from_full()?;
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(found),
                NetlinkPayload::Error(error) => {
                    let error = error.to_io();
                    let not_found = [libc::ENOENT, libc::EINVAL, libc::ENODEV, libc::EOPNOTSUPP];
                    return match error.raw_os_error() {
                        Some(number) if not_found.contains(&number) => Ok(found),
                        _ => Err(error),
                    };
                }
                NetlinkPayload::InnerMessage(_) => found = true,
                _ => {}
            }
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}
