//! A capture file in pcapng format (draft-ietf-opsawg-pcapng): one interface per port, the verdict
//! as the comment of each frame.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::time::Duration;

use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::pcapng::{PcapNgBlock, PcapNgWriter};
use pcap_file::{DataLink, Endianness, PcapError};

use super::lines::outcome;
use super::sink::Sink;
use crate::api::FrameView;
use crate::model::Direction;

/// Timestamps have a resolution of 10^-9 s (`if_tsresol`).
const NANOSECONDS: u8 = 9;
/// Values of the direction in `epb_flags`, from the view of the port.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// A pcapng file that receives frames.
pub(super) struct CaptureFile<W: Write> {
    writer: PcapNgWriter<BufWriter<W>>,
    /// The interface numbers, by network and port.
    interfaces: BTreeMap<(String, String), u32>,
}

impl<W: Write> CaptureFile<W> {
    /// Writes the header of the file.
    pub(super) fn new(writer: W) -> io::Result<Self> {
        let application = concat!("vswitch ", env!("CARGO_PKG_VERSION"));
        let section = SectionHeaderBlock {
            endianness: Endianness::native(),
            options: vec![SectionHeaderOption::UserApplication(Cow::Borrowed(application))],
            ..SectionHeaderBlock::default()
        };
        let writer = PcapNgWriter::with_section_header(BufWriter::new(writer), section).map_err(io_error)?;
        Ok(Self { writer, interfaces: BTreeMap::new() })
    }

    /// Returns the interface number of the frame's port. Writes the interface description before
    /// the first frame of a port.
    fn interface(&mut self, frame: &FrameView) -> io::Result<u32> {
        let network = frame.network.as_deref().unwrap_or("none");
        let port = frame.port.as_deref().unwrap_or("no port");
        let key = (network.to_owned(), port.to_owned());
        if let Some(number) = self.interfaces.get(&key) {
            return Ok(*number);
        }
        let description = format!("{} of network {network}", frame.kind.as_deref().unwrap_or("device"));
        let block = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: 0,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Borrowed(port)),
                InterfaceDescriptionOption::IfDescription(Cow::Owned(description)),
                InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
            ],
        };
        // The writer keeps a copy of the block for as long as it lives.
        self.writer.write_block(&block.into_block()).map_err(io_error)?;
        let number = self.interfaces.len() as u32;
        self.interfaces.insert(key, number);
        Ok(number)
    }
}

impl<W: Write> Sink for CaptureFile<W> {
    fn frame(&mut self, frame: &FrameView) -> io::Result<()> {
        let interface_id = self.interface(frame)?;
        let nanoseconds = u64::try_from(frame.time.unix_timestamp_nanos()).unwrap_or_default();
        let direction = match frame.direction {
            Direction::Entering => INBOUND,
            Direction::Leaving => OUTBOUND,
        };
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: Duration::from_nanos(nanoseconds),
            original_len: frame.length,
            data: Cow::Borrowed(&frame.bytes),
            options: vec![
                EnhancedPacketOption::Comment(Cow::Owned(outcome(frame))),
                EnhancedPacketOption::Flags(direction),
            ],
        };
        self.writer.write_pcapng_block(block).map_err(io_error)?;
        Ok(())
    }

    fn lost(&mut self, _frames: u64) -> io::Result<()> {
        // The format counts lost frames per interface, and the interface of these frames is
        // unknown.
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.get_mut().flush()
    }
}

fn io_error(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use pcap_file::pcapng::{Block, PcapNgReader};

    use super::super::lines::tests::frame;
    use super::*;

    #[test]
    fn written_capture_can_be_read() {
        let entering = FrameView { length: 1518, ..frame(&[7; 33]) };
        let leaving = FrameView {
            direction: Direction::Leaving,
            port: Some("web2".to_owned()),
            from: Some("web1".to_owned()),
            verdict: None,
            ..frame(&[8; 60])
        };
        let mut file = CaptureFile::new(Vec::new()).expect("to memory");
        for frame in [&entering, &leaving, &entering] {
            file.frame(frame).expect("to memory");
        }
        file.flush().expect("to memory");
        let bytes = file.writer.get_ref().get_ref().clone();

        let mut reader = PcapNgReader::new(bytes.as_slice()).expect("a section");
        let (mut interfaces, mut packets) = (Vec::new(), Vec::new());
        while let Some(block) = reader.next_block() {
            match block.expect("a block").into_owned() {
                Block::InterfaceDescription(interface) => interfaces.push(interface),
                Block::EnhancedPacket(packet) => packets.push(packet),
                other => panic!("{other:?}"),
            }
        }
        let names: Vec<_> = interfaces.iter().map(|interface| &interface.options[..2]).collect();
        let description = InterfaceDescriptionOption::IfDescription("endpoint of network lan".into());
        assert_eq!(
            names,
            ["web1", "web2"].map(|name| [InterfaceDescriptionOption::IfName(name.into()), description.clone()])
        );
        assert!(interfaces.iter().all(|interface| interface.options[2] == InterfaceDescriptionOption::IfTsResol(9)));
        let ports: Vec<_> = packets.iter().map(|packet| packet.interface_id).collect();
        assert_eq!(ports, [0, 1, 0]);
        assert_eq!((packets[0].original_len, &packets[0].data[..]), (1518, &[7; 33][..]));
        assert_eq!(packets[0].timestamp, Duration::from_nanos(3_723_123_456_789));
        let options = |comment: &str, flags| {
            [EnhancedPacketOption::Comment(comment.to_owned().into()), EnhancedPacketOption::Flags(flags)]
        };
        assert_eq!(packets[0].options, options("drop: ip_spoofed", INBOUND));
        assert_eq!(packets[1].options, options("to web2, from web1", OUTBOUND));
    }
}
