//! Sends requests over one socket and collects their answers. Requests that belong together are
//! sent in one datagram.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket as _, SocketAddr, TokioSocket};
use nix::errno::Errno;
use rtnetlink::proto::{ConnectionHandle, NetlinkCodec, from_socket_with_codec};
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use super::NetlinkError;
use super::error::{Hint, Refusal};
use crate::kernel::netns::Netns;

/// Maximum time to wait for an answer. The kernel answers before sendto(2) returns, but sendto(2)
/// waits for all other changes of devices and for the RCU grace periods of removed devices. This
/// takes seconds on a busy machine.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum number of attempts to read a list that changes during the read.
const MAX_ATTEMPTS: usize = 20;
/// Error number used for the answer of a list that changed during the read.
const LIST_CHANGED: Errno = Errno::EINTR;

/// Flags of an acknowledgement, `NLM_F_CAPPED` and `NLM_F_ACK_TLVS` (linux/netlink.h): only the
/// header of the request is repeated; attributes follow.
const CAPPED: u16 = 0x100;
const ACK_TLVS: u16 = 0x200;
/// Attribute type `NLMSGERR_ATTR_MSG`.
const ATTR_MSG: u16 = 1;
/// Length of struct nlmsghdr in bytes.
const HEADER: usize = 16;

/// An open connection. Its task ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    handle: ConnectionHandle<RouteNetlinkMessage>,
    /// Lock for list requests. The kernel handles one list per socket at a time and answers EBUSY
    /// to others.
    listing: Arc<Mutex<()>>,
}

/// A request message with its flags.
#[derive(Clone, Debug)]
pub(super) struct Request {
    message: RouteNetlinkMessage,
    flags: u16,
}

/// Answer to one request: the requested messages (none for a change), or the kernel's refusal.
pub(super) type Answer = Result<Vec<RouteNetlinkMessage>, Refusal>;

impl Request {
    pub(super) const fn new(message: RouteNetlinkMessage, flags: u16) -> Self {
        Self { message, flags }
    }

    /// Creates a request about one existing object. Queries request an acknowledgement too, so that
    /// the caller does not wait for an answer that cannot be parsed.
    pub(super) const fn acknowledged(message: RouteNetlinkMessage) -> Self {
        Self::new(message, NLM_F_REQUEST | NLM_F_ACK)
    }
}

/// One of several changes that are sent together.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) operation: &'static str,
    pub(super) object: String,
    pub(super) request: Request,
    /// Error number that counts as success because the change is not needed.
    pub(super) ignored_errno: Option<Errno>,
}

impl Connection {
    /// Opens a connection. With `strict`, the kernel checks every field of requests for lists, and
    /// so filters some lists by the link that the request names.
    pub(super) fn open(netns: Option<&Netns>, strict: bool) -> Result<Self, NetlinkError> {
        let mut socket = open_socket(netns)?;
        let options = socket.socket_mut();
        // Acknowledgements have an explanation and do not repeat the request.
        options.set_ext_ack(true).and_then(|()| options.set_cap_ack(true)).map_err(NetlinkError::Socket)?;
        if strict {
            options.set_netlink_get_strict_chk(true).map_err(NetlinkError::Socket)?;
        }
        let (mut connection, handle, _) =
            from_socket_with_codec::<RouteNetlinkMessage, TokioSocket, NetlinkCodec>(socket);
        // These messages separate the answers of requests, and distinguish success from a broken
        // connection.
        connection.set_forward_ack(true);
        connection.set_forward_done(true);
        tokio::spawn(connection);
        Ok(Self { handle, listing: Arc::default() })
    }

    /// Sends requests in one system call and returns one answer for each. The kernel executes all
    /// of them in order, even if one fails.
    pub(super) async fn transact<const N: usize>(
        &self,
        operation: &'static str,
        requests: [Request; N],
    ) -> Result<[Answer; N], NetlinkError> {
        let no_answer = || NetlinkError::NoAnswer { operation, object: String::new() };
        let answers = self.exchange(requests.into()).await.ok_or_else(no_answer)?;
        answers.try_into().map_err(|_| no_answer())
    }

    /// Makes changes in one system call. Returns the first failure; the changes after it may have
    /// been made.
    pub(super) async fn change(&self, changes: impl IntoIterator<Item = Change>) -> Result<(), NetlinkError> {
        let changes: Vec<_> = changes.into_iter().collect();
        let answers = self.exchange(changes.iter().map(|change| change.request.clone()).collect()).await;
        let mut answers = answers.into_iter().flatten();
        for Change { operation, object, ignored_errno, .. } in changes {
            match answers.next() {
                None => return Err(NetlinkError::NoAnswer { operation, object }),
                Some(Err(refusal)) if Some(refusal.errno) != ignored_errno => {
                    return Err(NetlinkError::refused(operation, &object, refusal));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Returns a complete list from the kernel. Reads it again if it changed during the read.
    pub(super) async fn dump(
        &self,
        operation: &'static str,
        request: Request,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let _listing = self.listing.lock().await;
        for _ in 0..MAX_ATTEMPTS {
            match self.transact(operation, [request.clone()]).await? {
                // EBUSY: the socket still delivers an earlier list whose reader was cancelled.
                [Err(refusal)] if matches!(refusal.errno, LIST_CHANGED | Errno::EBUSY) => {}
                [answer] => return answer.map_err(|refusal| NetlinkError::refused(operation, "", refusal)),
            }
        }
        Err(NetlinkError::Changing { operation })
    }

    async fn exchange(&self, requests: Vec<Request>) -> Option<Vec<Answer>> {
        let count = requests.len();
        let messages: Vec<_> = requests.into_iter().map(to_message).collect();
        let stream = self.handle.request_batch(messages, SocketAddr::new(0, 0)).ok()?;
        tokio::time::timeout(ANSWER_TIMEOUT, collect(stream, count)).await.ok()?
    }
}

/// Opens a socket in a namespace. For a foreign namespace, a thread does so that ends before this
/// function returns.
pub(super) fn open_socket(netns: Option<&Netns>) -> Result<TokioSocket, NetlinkError> {
    let runtime = Handle::try_current().map_err(|error| NetlinkError::Socket(io::Error::other(error)))?;
    let open = || {
        let _context = runtime.enter();
        TokioSocket::new(NETLINK_ROUTE)
    };
    let socket = match netns {
        Some(netns) => netns.enter(open)?,
        None => open(),
    };
    socket.map_err(NetlinkError::Socket)
}

fn to_message(request: Request) -> NetlinkMessage<RouteNetlinkMessage> {
    let mut message = NetlinkMessage::from(request.message);
    message.header.flags = request.flags;
    message
}

/// Groups received messages into one answer per request. Returns `None` if the stream ends too
/// early.
async fn collect(
    mut stream: impl futures::Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Unpin,
    count: usize,
) -> Option<Vec<Answer>> {
    let mut answers = Vec::with_capacity(count);
    let mut messages = Vec::new();
    let mut interrupted = false;
    while answers.len() < count {
        let NetlinkMessage { header, payload, .. } = stream.next().await?;
        interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
        let errno = match payload {
            NetlinkPayload::InnerMessage(message) => {
                messages.push(message);
                continue;
            }
            NetlinkPayload::Error(error) => {
                let errno = error.code.map(|code| Errno::from_raw(-code.get()));
                errno.map(|errno| Refusal { errno, hint: parse_hint(header.flags, &error) })
            }
            NetlinkPayload::Done(done) if done.code < 0 => {
                Some(Refusal { errno: Errno::from_raw(-done.code), hint: Hint::default() })
            }
            NetlinkPayload::Done(_) if interrupted => {
                interrupted = false;
                Some(Refusal { errno: LIST_CHANGED, hint: Hint::default() })
            }
            NetlinkPayload::Done(_) => None,
            _ => continue,
        };
        let messages = std::mem::take(&mut messages);
        answers.push(errno.map_or(Ok(messages), Err));
    }
    Some(answers)
}

/// Returns the text in an error message, which follows the repeated request or its header.
fn parse_hint(flags: u16, error: &ErrorMessage) -> Hint {
    if flags & ACK_TLVS == 0 {
        return Hint::default();
    }
    let offset = match error.header.first_chunk() {
        Some(length) if flags & CAPPED == 0 => (u32::from_ne_bytes(*length) as usize).next_multiple_of(4),
        _ => HEADER,
    };
    let attributes = error.header.get(offset..).unwrap_or_default();
    let text = NlasIterator::new(attributes).flatten().find(|attribute| attribute.kind() == ATTR_MSG);
    Hint(text.map(|text| String::from_utf8_lossy(text.value()).trim_end_matches('\0').into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    use netlink_packet_core::{ErrorBuffer, Parseable as _};

    fn error(code: i32, rest: &[u8]) -> ErrorMessage {
        let bytes = [&code.to_ne_bytes(), rest].concat();
        ErrorMessage::parse(&ErrorBuffer::new(&bytes)).unwrap()
    }

    fn text(words: &str) -> Vec<u8> {
        let mut bytes = (words.len() as u16 + 5).to_ne_bytes().to_vec();
        bytes.extend(ATTR_MSG.to_ne_bytes());
        bytes.extend(words.as_bytes());
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn reply(flags: u16, payload: NetlinkPayload<RouteNetlinkMessage>) -> NetlinkMessage<RouteNetlinkMessage> {
        let mut message = NetlinkMessage::new(Default::default(), payload);
        message.header.flags = flags;
        message
    }

    #[test]
    fn the_text_of_an_extended_acknowledgement_is_found() {
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&22_u32.to_ne_bytes());
        let capped = error(-22, &[&header[..], &text("no")].concat());
        assert_eq!(parse_hint(CAPPED | ACK_TLVS, &capped), Hint(Some("no".into())));
        let uncapped = error(-22, &[&header[..], &[0; 8], &text("not so")].concat());
        assert_eq!(parse_hint(ACK_TLVS, &uncapped), Hint(Some("not so".into())));
        assert_eq!(parse_hint(CAPPED, &capped), Hint(None));
        assert_eq!(parse_hint(ACK_TLVS, &error(-22, &[0xff; 7])), Hint(None));
    }

    #[tokio::test]
    async fn each_request_gets_its_answer() {
        let link = || NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(Default::default()));
        let acknowledged = || NetlinkPayload::Error(error(0, &[]));
        let replies = [
            reply(0, acknowledged()),
            reply(0, link()),
            reply(0, acknowledged()),
            reply(0, NetlinkPayload::Error(error(-17, &[]))),
        ];
        let answers = collect(futures::stream::iter(replies), 3).await.unwrap();
        assert_eq!(answers[0], Ok(vec![]));
        assert_eq!(answers[1].as_ref().unwrap().len(), 1);
        assert_eq!(answers[2].as_ref().unwrap_err().errno, Errno::EEXIST);
    }

    #[tokio::test]
    async fn a_broken_connection_gives_no_answer() {
        assert_eq!(collect(futures::stream::iter([]), 1).await, None);
    }

    #[tokio::test]
    async fn a_list_that_changed_during_the_read_is_refused() {
        let link = NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(Default::default()));
        let replies = [reply(NLM_F_DUMP_INTR, link), reply(0, NetlinkPayload::Done(Default::default()))];
        let answers = collect(futures::stream::iter(replies), 1).await.unwrap();
        assert_eq!(answers[0].as_ref().unwrap_err().errno, LIST_CHANGED);
    }

    #[tokio::test]
    async fn concurrent_list_requests_are_all_answered() {
        let connection = Connection::open(None, false).expect("a socket");
        let lists = (0..50).map(|_| connection.dump("list the routes", super::super::route::query_routes()));
        let lists = futures::future::join_all(lists).await;
        assert!(lists.iter().all(Result::is_ok), "{lists:?}");
    }
}
