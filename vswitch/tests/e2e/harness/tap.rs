//! What can be read on the underlay of hosts by somebody who listens there.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{Cloud, Frame, Mac, RawPort};

/// Reads all that is on the underlay, at the ends of all hosts' cables, until it is asked what there was.
pub struct Tap {
    stop: Arc<AtomicBool>,
    readers: Vec<JoinHandle<Overheard>>,
}

/// What a tap has read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overheard {
    /// Frames with the secret, or the address of a station, in them.
    pub plain: u64,
    /// Messages of WireGuard's.
    pub encrypted: u64,
}

impl Overheard {
    fn look_at(&mut self, Frame(bytes): &Frame, secret: &[u8], stations: &[Mac]) {
        self.plain += u64::from(Tap::holds(bytes, secret) || stations.iter().any(|mac| Tap::holds(bytes, &mac.0)));
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
    /// Begins to listen for a secret, and for the addresses of stations.
    pub fn on(cloud: &Cloud, secret: &'static [u8], stations: &[Mac]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let readers = (0..cloud.hosts.len()).map(|number| {
            let port = RawPort::open(&cloud.underlay, &format!("u{number}"));
            let (stop, stations) = (stop.clone(), stations.to_vec());
            thread::spawn(move || {
                let mut read = Overheard::default();
                while !stop.load(Ordering::Relaxed) {
                    let frame = port.receive(Duration::from_millis(20));
                    frame.iter().for_each(|frame| read.look_at(frame, secret, &stations));
                }
                port.pending().iter().for_each(|frame| read.look_at(frame, secret, &stations));
                read
            })
        });
        Self { readers: readers.collect(), stop }
    }

    /// Stops listening; what there was.
    pub fn read(self) -> Overheard {
        self.stop.store(true, Ordering::Relaxed);
        let reads = self.readers.into_iter().map(|reader| reader.join().expect("it reads"));
        reads.fold(Overheard::default(), |sum, read| Overheard {
            plain: sum.plain + read.plain,
            encrypted: sum.encrypted + read.encrypted,
        })
    }

    /// Whether a part is anywhere in there.
    pub fn holds(bytes: &[u8], part: &[u8]) -> bool {
        memchr::memmem::find(bytes, part).is_some()
    }
}
