//! The stream of `GET /frames`: newline-delimited JSON, one [`FrameMessage`] per line, until the
//! client closes the connection or the daemon ends.

use std::fmt;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

use crate::model::Direction;

/// The selection of frames to stream; all frames if no field is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub struct FramesFilter {
    /// Only frames of this endpoint, device or network.
    pub of: Option<String>,
    /// Only frames of this network.
    pub network: Option<String>,
    /// Only frames from and to this endpoint or device.
    pub port: Option<String>,
    /// Dropped frames only.
    pub drops: bool,
    /// Also frames as they leave: after the verdict, one per port.
    pub leaving: bool,
    /// The first 1984 bytes of each frame instead of 192.
    pub whole: bool,
    /// The most frames per second and CPU; 1000 by default. Further frames are only counted.
    pub rate: Option<u32>,
}

/// A line of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FrameMessage {
    /// A frame.
    Frame(FrameView),
    /// Frames that were not shown, because they exceeded the rate or the reader was too slow. They
    /// may have been for other observers.
    Lost {
        /// Number of frames.
        frames: u64,
    },
}

/// A frame at a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FrameView {
    /// The time of the observation.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub time: OffsetDateTime,
    /// Whether the frame was observed before or after the verdict.
    pub direction: Direction,
    /// The network; absent if the frame came from a device that is no port.
    pub network: Option<String>,
    /// The port by which the frame came in or leaves: an endpoint or a device. Absent if the device
    /// is no port.
    pub port: Option<String>,
    /// The kind of the port: `endpoint`, `host` or `uplink`.
    pub kind: Option<String>,
    /// For a frame that leaves: the port by which it came in.
    pub from: Option<String>,
    /// For a frame that enters: the verdict.
    pub verdict: Option<VerdictView>,
    /// Length of the frame in bytes, with all tags.
    pub length: u32,
    /// Payload bytes per segment, for a packet that becomes several frames on the wire.
    pub segment: Option<u32>,
    /// The first bytes of the frame, with all tags; base64.
    #[serde(with = "base64_bytes")]
    #[schema(value_type = String, format = Byte)]
    pub bytes: Vec<u8>,
}

/// The verdict about a frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum VerdictView {
    /// Forwarded to one port.
    Redirect {
        /// The port.
        to: String,
    },
    /// Passed to the host's stack.
    Host,
    /// Flooded to several ports.
    Flood {
        /// The set of ports: `group` (all), `unknown_unicast` (all that may have unknown stations
        /// behind them), `apart` (all but the host), `listeners` (of the group), `listeners_apart`,
        /// `routers` (multicast routers).
        to: String,
    },
    /// Answered by the switch.
    Answer {
        /// The protocol of the request: `arp` or `neighbor`.
        protocol: String,
        /// The port in whose name the switch answers.
        r#for: String,
    },
    /// Passed to the stack of the device that the frame came from.
    Pass,
    /// Dropped.
    Drop {
        /// The reason, by its name in the counters.
        reason: String,
    },
}

impl fmt::Display for VerdictView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redirect { to } => write!(f, "-> {to}"),
            Self::Host => write!(f, "host"),
            Self::Flood { to } => write!(f, "flood {to}"),
            Self::Answer { protocol, r#for } => write!(f, "answered ({protocol}, for {for})"),
            Self::Pass => write!(f, "passed"),
            Self::Drop { reason } => write!(f, "drop: {reason}"),
        }
    }
}

mod base64_bytes {
    //! Serializes bytes as base64.

    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64_STANDARD.decode(text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_an_object_with_its_type() {
        let frame = FrameView {
            time: OffsetDateTime::UNIX_EPOCH + time::Duration::nanoseconds(123_456_789),
            direction: Direction::Entering,
            network: Some("bridge".to_owned()),
            port: Some("web1".to_owned()),
            kind: Some("endpoint".to_owned()),
            from: None,
            verdict: Some(VerdictView::Drop { reason: "ip_spoofed".to_owned() }),
            length: 3,
            segment: None,
            bytes: vec![1, 2, 3],
        };
        let message = FrameMessage::Frame(frame);
        let json = serde_json::to_value(&message).expect("JSON");
        assert_eq!(
            json,
            serde_json::json!({
                "type": "frame", "time": "1970-01-01T00:00:00.123456789Z", "direction": "entering", "network": "bridge",
                "port": "web1", "kind": "endpoint", "from": null,
                "verdict": {"action": "drop", "reason": "ip_spoofed"}, "length": 3, "segment": null, "bytes": "AQID"
            })
        );
        assert_eq!(serde_json::from_value::<FrameMessage>(json).expect("the same"), message);
        let lost = serde_json::to_string(&FrameMessage::Lost { frames: 7 }).expect("JSON");
        assert_eq!(lost, r#"{"type":"lost","frames":7}"#);
    }

    #[test]
    fn verdicts_are_readable() {
        let answer = VerdictView::Answer { protocol: "arp".to_owned(), r#for: "web2".to_owned() };
        let verdicts = [
            VerdictView::Redirect { to: "web2".to_owned() },
            VerdictView::Host,
            VerdictView::Flood { to: "group".to_owned() },
            answer,
            VerdictView::Pass,
            VerdictView::Drop { reason: "storm".to_owned() },
        ];
        let texts = verdicts.map(|verdict| verdict.to_string());
        assert_eq!(texts, ["-> web2", "host", "flood group", "answered (arp, for web2)", "passed", "drop: storm"]);
    }
}
