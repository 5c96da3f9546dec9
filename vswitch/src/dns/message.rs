//! Queries as they came, and answers to them, as bytes.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::{DNSClass, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder, BinEncodable as _, BinEncoder};

use super::error::Transport;

/// Of a message, before anything else (RFC 1035 section 4.1.1).
const HEADER: usize = 12;
/// Type and class, behind the name of a question.
const TYPE_AND_CLASS: usize = 4;
/// What fits into a datagram for a client that does not say (RFC 1035 section 2.3.4), and more than any may ask for less of
/// (RFC 6891 section 6.2.3).
const SMALLEST_LIMIT: u16 = 512;
/// The largest query that is worth sending us in one datagram: one that no link fragments.
const OUR_LIMIT: u16 = 1232;

/// A query that can be answered: one question, and nothing that we do not understand around it.
#[derive(Clone, Debug)]
pub(super) struct Query {
    raw: Vec<u8>,
    metadata: Metadata,
    question: Question,
    question_end: usize,
    edns: Option<Edns>,
    transport: Transport,
}

/// What is no such query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unanswerable {
    /// Nothing to say. An answer to an answer could go back and forth for ever.
    Silence,
    /// A query all the same, and this is what its sender is told.
    Refusal(Vec<u8>),
}

impl Query {
    /// Reads what came.
    pub(super) fn read(raw: &[u8], transport: Transport) -> Result<Self, Unanswerable> {
        let mut decoder = BinDecoder::new(raw);
        let Header { metadata, counts } = Header::read(&mut decoder).map_err(|_| Unanswerable::Silence)?;
        if metadata.message_type != MessageType::Query {
            return Err(Unanswerable::Silence);
        }
        let refuse = |code| Unanswerable::Refusal(bare(&metadata, code));
        if metadata.op_code != OpCode::Query {
            return Err(refuse(ResponseCode::NotImp));
        }
        // RFC 9619: exactly one. Before anything is read, for the count claims room for as many.
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
        let refuse = |code| Unanswerable::Refusal(query.encode(query.response(code)));
        // RFC 6891 section 6.1.3.
        if query.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return Err(refuse(ResponseCode::BADVERS));
        }
        if matches!(query.question.query_type, RecordType::AXFR | RecordType::IXFR) {
            return Err(refuse(ResponseCode::Refused));
        }
        Ok(query)
    }

    /// What is asked.
    pub(super) fn question(&self) -> &Question {
        &self.question
    }

    /// How it came.
    pub(super) fn transport(&self) -> Transport {
        self.transport
    }

    /// The name that is asked for, in lower case and without the final dot, if it could be the name of an endpoint.
    pub(super) fn name(&self) -> Option<String> {
        if !matches!(self.question.query_class, DNSClass::IN | DNSClass::ANY) || self.question.name.is_root() {
            return None;
        }
        let mut name = String::new();
        for label in &self.question.name {
            // A dot within a label is not one between two.
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

    /// The address whose name is asked for, below `in-addr.arpa` or `ip6.arpa`.
    pub(super) fn reversed_address(&self) -> Option<IpAddr> {
        let net = self.question.name.parse_arpa_name().ok()?;
        (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
    }

    /// A response with nothing but the question in it.
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

    /// The bytes of a response. Records are left out, and the client told so, until it fits.
    pub(super) fn encode(&self, mut message: Message) -> Vec<u8> {
        // An AAAA record whose name is a pointer to the question's; an A record is 16. So never too many are left out.
        const LARGEST: usize = 28;
        loop {
            let bytes = match message.to_vec() {
                Ok(bytes) => bytes,
                Err(error) => {
                    tracing::warn!("cannot write an answer about {}: {error}", self.question.name);
                    return bare(&self.metadata, ResponseCode::ServFail);
                }
            };
            let excess = bytes.len().saturating_sub(self.limit());
            if excess == 0 || message.answers.is_empty() {
                return bytes;
            }
            message.metadata.truncation = true;
            message.answers.truncate(message.answers.len().saturating_sub(excess.div_ceil(LARGEST)));
        }
    }

    /// The query, to be sent on under another id.
    pub(super) fn with_id(&self, id: u16) -> Vec<u8> {
        let mut bytes = self.raw.clone();
        bytes[..2].copy_from_slice(&id.to_be_bytes());
        bytes
    }

    /// Whether this answers the query that was sent on under `id` (RFC 5452 section 9.1).
    pub(super) fn is_answered_by(&self, answer: &[u8], id: u16) -> bool {
        let mut decoder = BinDecoder::new(answer);
        let Ok(Header { metadata, counts }) = Header::read(&mut decoder) else {
            return false;
        };
        let Some(question) = answer.get(HEADER..self.question_end) else {
            return false;
        };
        let (name, rest) = question.split_at(question.len().saturating_sub(TYPE_AND_CLASS));
        let (own_name, own_rest) = self.raw_question().split_at(name.len());
        metadata.id == id
            && metadata.message_type == MessageType::Response
            && metadata.op_code == OpCode::Query
            && counts.queries == 1
            // Some servers change the case of what they repeat.
            && name.eq_ignore_ascii_case(own_name)
            && rest == own_rest
    }

    /// An answer to the query that was sent on, made the answer to this one. It must be one ([`Self::is_answered_by`]).
    pub(super) fn adopt(&self, mut answer: Vec<u8>) -> Vec<u8> {
        answer[..2].copy_from_slice(&self.raw[..2]);
        answer[HEADER..self.question_end].copy_from_slice(self.raw_question());
        answer
    }

    /// Whether an answer is no longer than the client can take.
    pub(super) fn fits(&self, answer: &[u8]) -> bool {
        answer.len() <= self.limit()
    }

    /// What remains of an adopted answer that is longer: that it was (RFC 2181 section 9).
    pub(super) fn cut(&self, answer: &[u8]) -> Vec<u8> {
        let mut metadata = match Header::read(&mut BinDecoder::new(answer)) {
            Ok(header) => header.metadata,
            Err(_) => return bare(&self.metadata, ResponseCode::ServFail),
        };
        metadata.truncation = true;
        let mut message = self.response(metadata.response_code);
        message.metadata = metadata;
        self.encode(message)
    }

    fn raw_question(&self) -> &[u8] {
        &self.raw[HEADER..self.question_end]
    }

    /// The longest answer that the client can take, in bytes.
    fn limit(&self) -> usize {
        match self.transport {
            Transport::Udp => {
                let asked = self.edns.as_ref().map_or(SMALLEST_LIMIT, Edns::max_payload);
                usize::from(asked.max(SMALLEST_LIMIT))
            }
            Transport::Tcp => usize::from(u16::MAX),
        }
    }

    /// RFC 6891 section 6.1.1: in each answer to a query that has one. DO is repeated (RFC 3225 section 3).
    fn response_edns(&self) -> Option<Edns> {
        let asked = self.edns.as_ref()?;
        let mut edns = Edns::new();
        edns.set_max_payload(OUR_LIMIT).set_dnssec_ok(asked.flags().dnssec_ok);
        Some(edns)
    }
}

/// Whether a server says in this answer that it could not, or would not; another may know (as in glibc's resolver).
pub(super) fn is_failure(answer: &[u8]) -> bool {
    Header::read(&mut BinDecoder::new(answer)).is_ok_and(|header| {
        matches!(header.metadata.response_code, ResponseCode::ServFail | ResponseCode::NotImp | ResponseCode::Refused)
    })
}

/// Whether there is more to the answer than is in it.
pub(super) fn is_truncated(answer: &[u8]) -> bool {
    Header::read(&mut BinDecoder::new(answer)).is_ok_and(|header| header.metadata.truncation)
}

/// A header, and nothing else: for a query of which no more is understood.
fn bare(query: &Metadata, code: ResponseCode) -> Vec<u8> {
    let mut metadata = Metadata::response_from_request(query);
    metadata.response_code = code;
    let mut bytes = Vec::with_capacity(HEADER);
    let header = Header { metadata, counts: Default::default() };
    if let Err(error) = header.emit(&mut BinEncoder::new(&mut bytes)) {
        tracing::warn!("cannot write a DNS header: {error}");
    }
    bytes
}

/// The record of an answer to this question.
pub(super) fn record(question: &Question, ttl: u32, data: hickory_proto::rr::RData) -> Record {
    Record::from_rdata(question.name.clone(), ttl, data)
}
