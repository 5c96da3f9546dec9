//! Parses queries and encodes the answers to them.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::{DNSClass, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder, BinEncodable as _, BinEncoder};

use super::error::Transport;

/// Length of the message header in bytes (RFC 1035 section 4.1.1).
const HEADER: usize = 12;
/// Length of the type and class that follow the name of a question, in bytes.
const TYPE_AND_CLASS: usize = 4;
/// Maximum length of a UDP answer to a client without EDNS, in bytes (RFC 1035 section 2.3.4). A
/// smaller value in EDNS counts as this value (RFC 6891 section 6.2.3).
const MIN_ANSWER_LIMIT: u16 = 512;
/// UDP payload size in bytes that the server advertises in EDNS: a datagram of this size is not
/// fragmented on usual links.
const ADVERTISED_LIMIT: u16 = 1232;

/// A query that the server supports: a well-formed message with exactly one question.
#[derive(Clone, Debug)]
pub(super) struct Query {
    raw: Vec<u8>,
    metadata: Metadata,
    question: Question,
    question_end: usize,
    edns: Option<Edns>,
    transport: Transport,
}

/// Result for a message that is not a supported query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rejected {
    /// The message gets no answer. An answer to a response could make two servers answer each other
    /// for ever.
    Ignore,
    /// The message is a query, and this is the error answer to its sender.
    Answer(Vec<u8>),
}

impl Query {
    /// Parses a received message.
    ///
    /// # Errors
    /// The message is not a supported query; the error says whether its sender gets an error
    /// answer.
    pub(super) fn parse(raw: &[u8], transport: Transport) -> Result<Self, Rejected> {
        let mut decoder = BinDecoder::new(raw);
        let Header { metadata, counts } = Header::read(&mut decoder).map_err(|_| Rejected::Ignore)?;
        if metadata.message_type != MessageType::Query {
            return Err(Rejected::Ignore);
        }
        let refuse = |code| Rejected::Answer(header_only(&metadata, code));
        if metadata.op_code != OpCode::Query {
            return Err(refuse(ResponseCode::NotImp));
        }
        // RFC 9619: a query has exactly one question. The count is checked before any record is
        // read, because the decoder allocates room for as many records as the counts claim.
        if counts.queries != 1 {
            return Err(refuse(ResponseCode::FormErr));
        }
        let malformed = |_| refuse(ResponseCode::FormErr);
        let question = Question::read(&mut decoder).map_err(malformed)?;
        let question_end = decoder.index();
        let mut edns = None;
        for (count, additional) in [(counts.answers, false), (counts.authorities, false), (counts.additionals, true)] {
            let (_, found, _) = Message::read_records(&mut decoder, usize::from(count), additional, metadata.op_code)
                .map_err(malformed)?;
            edns = found.or(edns);
        }
        let query = Self { raw: raw.to_vec(), metadata, question, question_end, edns, transport };
        let refuse = |code| Rejected::Answer(query.encode(query.response(code)));
        // RFC 6891 section 6.1.3.
        if query.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return Err(refuse(ResponseCode::BADVERS));
        }
        if matches!(query.question.query_type, RecordType::AXFR | RecordType::IXFR) {
            return Err(refuse(ResponseCode::Refused));
        }
        Ok(query)
    }

    /// Returns the question.
    pub(super) fn question(&self) -> &Question {
        &self.question
    }

    /// Returns the transport protocol over which the query arrived.
    pub(super) fn transport(&self) -> Transport {
        self.transport
    }

    /// Returns the queried name in lower case and without the final dot, or `None` if it cannot be
    /// an endpoint's name.
    pub(super) fn name(&self) -> Option<String> {
        if !matches!(self.question.query_class, DNSClass::IN | DNSClass::ANY) || self.question.name.is_root() {
            return None;
        }
        let mut name = String::new();
        for label in &self.question.name {
            // A dot inside a label must not be mistaken for a separator of labels.
            if !label.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'.') {
                return None;
            }
            if !name.is_empty() {
                name.push('.');
            }
            name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
        }
        Some(name)
    }

    /// Returns the address of a reverse query (a full name below `in-addr.arpa` or `ip6.arpa`).
    pub(super) fn reversed_address(&self) -> Option<IpAddr> {
        let net = self.question.name.parse_arpa_name().ok()?;
        (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
    }

    /// Returns a response that holds only the question and, if the query has it, EDNS.
    pub(super) fn response(&self, code: ResponseCode) -> Message {
        let mut message = Message::response(self.metadata.id, self.metadata.op_code);
        message.metadata = Metadata::response_from_request(&self.metadata);
        message.metadata.response_code = code;
        message.add_query(self.question.clone());
        if let Some(edns) = self.response_edns() {
            message.set_edns(edns);
        }
        message
    }

    /// Encodes a response. Records that exceed the client's limit are removed, and the TC bit is
    /// set then.
    pub(super) fn encode(&self, mut message: Message) -> Vec<u8> {
        // Length of an AAAA record whose name is a pointer to the question's name; an A record has
        // 16 bytes. Dividing by the larger length never removes too many records.
        const LARGEST_RECORD: usize = 28;
        loop {
            let bytes = match message.to_vec() {
                Ok(bytes) => bytes,
                Err(error) => {
                    tracing::warn!("cannot encode the DNS answer for {}: {error}", self.question.name);
                    return header_only(&self.metadata, ResponseCode::ServFail);
                }
            };
            let excess = bytes.len().saturating_sub(self.max_answer_length());
            if excess == 0 || message.answers.is_empty() {
                return bytes;
            }
            message.metadata.truncation = true;
            message.answers.truncate(message.answers.len().saturating_sub(excess.div_ceil(LARGEST_RECORD)));
        }
    }

    /// Returns the bytes of the query with another message id, for forwarding.
    pub(super) fn with_id(&self, id: u16) -> Vec<u8> {
        let mut bytes = self.raw.clone();
        bytes[..2].copy_from_slice(&id.to_be_bytes());
        bytes
    }

    /// Reports whether `answer` answers the query that was forwarded with `id` (RFC 5452 section
    /// 9.1).
    pub(super) fn is_answered_by(&self, answer: &[u8], id: u16) -> bool {
        let mut decoder = BinDecoder::new(answer);
        let Ok(Header { metadata, counts }) = Header::read(&mut decoder) else {
            return false;
        };
        let Some(question) = answer.get(HEADER..self.question_end) else {
            return false;
        };
        let (name, rest) = question.split_at(question.len().saturating_sub(TYPE_AND_CLASS));
        let (query_name, query_rest) = self.raw_question().split_at(name.len());
        metadata.id == id
            && metadata.message_type == MessageType::Response
            && metadata.op_code == OpCode::Query
            && counts.queries == 1
            // Some servers change the case of the name that they repeat.
            && name.eq_ignore_ascii_case(query_name)
            && rest == query_rest
    }

    /// Gives a resolver's answer the id and the question of this query. The caller must have
    /// checked the answer with [`Self::is_answered_by`].
    pub(super) fn adopt(&self, mut answer: Vec<u8>) -> Vec<u8> {
        answer[..2].copy_from_slice(&self.raw[..2]);
        answer[HEADER..self.question_end].copy_from_slice(self.raw_question());
        answer
    }

    /// Reports whether an answer is within the length that the client accepts.
    pub(super) fn fits(&self, answer: &[u8]) -> bool {
        answer.len() <= self.max_answer_length()
    }

    /// Replaces an adopted answer that is too long by one without records and with the TC bit set
    /// (RFC 2181 section 9).
    pub(super) fn truncate(&self, answer: &[u8]) -> Vec<u8> {
        let mut metadata = match Header::read(&mut BinDecoder::new(answer)) {
            Ok(header) => header.metadata,
            Err(_) => return header_only(&self.metadata, ResponseCode::ServFail),
        };
        metadata.truncation = true;
        let mut message = self.response(metadata.response_code);
        message.metadata = metadata;
        self.encode(message)
    }

    fn raw_question(&self) -> &[u8] {
        &self.raw[HEADER..self.question_end]
    }

    /// Returns the maximum length of an answer that the client accepts, in bytes.
    fn max_answer_length(&self) -> usize {
        match self.transport {
            Transport::Udp => {
                let advertised = self.edns.as_ref().map_or(MIN_ANSWER_LIMIT, Edns::max_payload);
                usize::from(advertised.max(MIN_ANSWER_LIMIT))
            }
            Transport::Tcp => usize::from(u16::MAX),
        }
    }

    /// Returns the EDNS record of the answer, or `None` if the query has none (RFC 6891 section
    /// 6.1.1). The DO bit of the query is repeated (RFC 3225 section 3).
    fn response_edns(&self) -> Option<Edns> {
        let requested = self.edns.as_ref()?;
        let mut edns = Edns::new();
        edns.set_max_payload(ADVERTISED_LIMIT).set_dnssec_ok(requested.flags().dnssec_ok);
        Some(edns)
    }
}

/// Reports whether a resolver's answer has a code after which the next resolver is tried, as
/// glibc's resolver does.
pub(super) fn is_failure(answer: &[u8]) -> bool {
    Header::read(&mut BinDecoder::new(answer)).is_ok_and(|header| {
        matches!(header.metadata.response_code, ResponseCode::ServFail | ResponseCode::NotImp | ResponseCode::Refused)
    })
}

/// Reports whether the TC bit of the answer is set.
pub(super) fn is_truncated(answer: &[u8]) -> bool {
    Header::read(&mut BinDecoder::new(answer)).is_ok_and(|header| header.metadata.truncation)
}

/// Returns an answer that is only a header, for a query whose question could not be parsed.
fn header_only(query: &Metadata, code: ResponseCode) -> Vec<u8> {
    let mut metadata = Metadata::response_from_request(query);
    metadata.response_code = code;
    let mut bytes = Vec::with_capacity(HEADER);
    let header = Header { metadata, counts: Default::default() };
    if let Err(error) = header.emit(&mut BinEncoder::new(&mut bytes)) {
        tracing::warn!("cannot encode a DNS header: {error}");
    }
    bytes
}

/// Returns an answer record for the name of `question`.
pub(super) fn record(question: &Question, ttl: u32, data: hickory_proto::rr::RData) -> Record {
    Record::from_rdata(question.name.clone(), ttl, data)
}
