//! Frames as lines of text, or as one JSON object per line.

use std::io::{self, BufWriter, Write};

use serde_json::{Value, json};
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};

use super::sink::Sink;
use super::summary::summary;
use crate::api::{FrameMessage, FrameView};
use crate::cli::output::Format;
use crate::model::Direction;

/// A sink that prints frames.
#[derive(Debug)]
pub(super) struct Lines<W: Write> {
    writer: BufWriter<W>,
    format: Format,
    /// Whether the frames include those that leave a port, so that each line shows the direction.
    with_direction: bool,
    zone: UtcOffset,
}

impl<W: Write> Lines<W> {
    /// Creates a sink that writes to `writer` with times in the local time zone.
    pub(super) fn new(writer: W, format: Format, with_direction: bool) -> Self {
        let zone = UtcOffset::current_local_offset().unwrap_or(UtcOffset::UTC);
        Self { writer: BufWriter::new(writer), format, with_direction, zone }
    }
}

impl<W: Write> Sink for Lines<W> {
    fn frame(&mut self, frame: &FrameView) -> io::Result<()> {
        match self.format {
            Format::Json => writeln!(self.writer, "{}", json_object(frame)),
            Format::Table => writeln!(self.writer, "{}", format_line(frame, self.with_direction, self.zone)),
        }
    }

    fn lost(&mut self, frames: u64) -> io::Result<()> {
        match self.format {
            Format::Json => {
                serde_json::to_writer(&mut self.writer, &FrameMessage::Lost { frames })?;
                writeln!(self.writer)
            }
            Format::Table => writeln!(self.writer, "({frames} frames not shown)"),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Returns the API's JSON object of a frame, with a summary in place of its bytes.
fn json_object(frame: &FrameView) -> Value {
    let mut value = json!(FrameMessage::Frame(frame.clone()));
    if let Value::Object(fields) = &mut value {
        fields.remove("bytes");
        fields.insert("summary".to_owned(), summary(&frame.bytes, frame.length, frame.segment).into());
    }
    value
}

fn format_line(frame: &FrameView, with_direction: bool, zone: UtcOffset) -> String {
    let port = frame.port.as_deref().unwrap_or("-");
    let direction = match (with_direction, frame.direction) {
        (false, _) => "",
        (true, Direction::Entering) => " in ",
        (true, Direction::Leaving) => " out",
    };
    let summary = summary(&frame.bytes, frame.length, frame.segment);
    format!("{} {port}{direction}  {summary}  {}", format_time(frame.time.to_offset(zone)), outcome(frame))
}

/// Formats the verdict on an entering frame, or the path of a leaving one.
pub(super) fn outcome(frame: &FrameView) -> String {
    match (frame.direction, &frame.verdict) {
        (Direction::Entering, Some(verdict)) => verdict.to_string(),
        (Direction::Entering, None) => "unknown verdict".to_owned(),
        (Direction::Leaving, _) => {
            let to = format!("to {}", frame.port.as_deref().unwrap_or("-"));
            frame.from.as_ref().map_or_else(|| to.clone(), |from| format!("{to}, from {from}"))
        }
    }
}

fn format_time(time: OffsetDateTime) -> String {
    let format = format_description!("[hour]:[minute]:[second].[subsecond digits:6]");
    time.format(format).unwrap_or_else(|_| time.to_string())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::api::VerdictView;

    /// Returns a frame that entered at web1 and was dropped.
    pub(in super::super) fn frame(bytes: &[u8]) -> FrameView {
        FrameView {
            time: OffsetDateTime::UNIX_EPOCH + time::Duration::nanoseconds(3_723_123_456_789),
            direction: Direction::Entering,
            network: Some("lan".to_owned()),
            port: Some("web1".to_owned()),
            kind: Some("endpoint".to_owned()),
            from: None,
            verdict: Some(VerdictView::Drop { reason: "ip_spoofed".to_owned() }),
            length: 60,
            segment: None,
            bytes: bytes.to_vec(),
        }
    }

    #[test]
    fn line_has_time_port_frame_and_verdict() {
        let frame = frame(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5, 0]);
        let text = format_line(&frame, false, UtcOffset::UTC);
        let summary = "02:00:00:00:00:01 > 02:00:00:00:00:02, ethertype 0x88b5, length 60";
        assert_eq!(text, format!("01:02:03.123456 web1  {summary}  drop: ip_spoofed"));
        let leaving =
            FrameView { direction: Direction::Leaving, from: Some("web2".to_owned()), verdict: None, ..frame };
        let text = format_line(&leaving, true, UtcOffset::UTC);
        assert_eq!(text, format!("01:02:03.123456 web1 out  {summary}  to web1, from web2"));
    }

    #[test]
    fn json_has_one_object_per_line() {
        let mut lines = Lines {
            writer: BufWriter::new(Vec::new()),
            format: Format::Json,
            with_direction: false,
            zone: UtcOffset::UTC,
        };
        lines.lost(3).expect("to memory");
        lines.frame(&frame(&[0; 14])).expect("to memory");
        let text = String::from_utf8(lines.writer.into_inner().expect("to memory")).expect("text");
        let values: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(values[0], json!({"type": "lost", "frames": 3}));
        assert_eq!((&values[1]["port"], &values[1]["verdict"]["reason"]), (&json!("web1"), &json!("ip_spoofed")));
        assert_eq!((values.len(), values[1].get("bytes")), (2, None));
        assert!(values[1]["summary"].as_str().is_some_and(|summary| summary.contains("length 60")));
    }
}
