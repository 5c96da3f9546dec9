//! Reads the traffic on the underlay of hosts, as an eavesdropper there does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{Cloud, Frame, Mac, RawPort};

/// Reads all frames at the underlay ends of all hosts' wires until [`read`](Self::read) is called.
pub struct Tap {
    stop: Arc<AtomicBool>,
    readers: Vec<JoinHandle<TapCounts>>,
}

/// Counts of the frames that a tap has read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TapCounts {
    /// Frames that contain the secret or the MAC address of a station.
    pub plain: u64,
    /// WireGuard messages.
    pub encrypted: u64,
}

impl TapCounts {
    fn count(&mut self, Frame(bytes): &Frame, secret: &[u8], stations: &[Mac]) {
        self.plain +=
            u64::from(Tap::contains(bytes, secret) || stations.iter().any(|mac| Tap::contains(bytes, &mac.0)));
        // UDP to WireGuard's port, in IPv4 or IPv6 without options.
        let port = match bytes.get(12..14) {
            Some([0x08, 0x00]) => bytes.get(36..38),
            Some([0x86, 0xdd]) => bytes.get(56..58),
            _ => None,
        };
        self.encrypted += u64::from(bytes.len() > 100 && port == Some(&51872_u16.to_be_bytes()));
    }
}

impl Tap {
    /// Starts to look for a secret and for the MAC addresses of stations.
    pub fn start(cloud: &Cloud, secret: &'static [u8], stations: &[Mac]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let readers = (0..cloud.hosts.len()).map(|number| {
            let port = RawPort::open(&cloud.underlay, &format!("u{number}"));
            let (stop, stations) = (stop.clone(), stations.to_vec());
            thread::spawn(move || {
                let mut read = TapCounts::default();
                while !stop.load(Ordering::Relaxed) {
                    let frame = port.receive(Duration::from_millis(20));
                    frame.iter().for_each(|frame| read.count(frame, secret, &stations));
                }
                port.pending().iter().for_each(|frame| read.count(frame, secret, &stations));
                read
            })
        });
        Self { readers: readers.collect(), stop }
    }

    /// Stops the tap, and returns its counts.
    pub fn read(self) -> TapCounts {
        self.stop.store(true, Ordering::Relaxed);
        let reads = self.readers.into_iter().map(|reader| reader.join().expect("the reader ends"));
        reads.fold(TapCounts::default(), |sum, read| TapCounts {
            plain: sum.plain + read.plain,
            encrypted: sum.encrypted + read.encrypted,
        })
    }

    /// Reports whether `bytes` contain `part`.
    pub fn contains(bytes: &[u8], part: &[u8]) -> bool {
        memchr::memmem::find(bytes, part).is_some()
    }
}
