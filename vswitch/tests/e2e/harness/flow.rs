//! A numbered flow of datagrams that continues while a test changes the instance. At its end no
//! number may be missing.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{Ipv4Addr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{Netns, PATIENCE, eventually, udp::large_buffer};

/// Sends numbered datagrams until it is stopped.
pub struct Flow {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    sender: Option<JoinHandle<u64>>,
    receiver: Option<JoinHandle<Vec<u64>>>,
}

impl Flow {
    /// Starts the flow, about a thousand datagrams per second.
    pub fn start(from: &Netns, to: &Netns, address: Ipv4Addr) -> Self {
        let (stop, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let sink = to.inside(|| UdpSocket::bind((address, 0))).expect("binding the sink");
        large_buffer(&sink);
        sink.set_read_timeout(Some(Duration::from_millis(200))).expect("a time limit");
        let target = sink.local_addr().expect("it is bound");
        let source = from.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).expect("binding the source");

        let stopped = stop.clone();
        let sender = thread::spawn(move || {
            let mut number = 0_u64;
            while !stopped.load(Ordering::Relaxed) {
                source.send_to(&number.to_be_bytes(), target).expect("sending");
                number += 1;
                thread::sleep(Duration::from_millis(1));
            }
            // The end mark is sent several times, so that the receiver need not guess when the flow
            // is over.
            for _ in 0..10 {
                source.send_to(&u64::MAX.to_be_bytes(), target).expect("sending");
            }
            number
        });
        let count = received.clone();
        let receiver = thread::spawn(move || {
            let mut numbers = Vec::new();
            let mut silence = Duration::ZERO;
            while silence < PATIENCE {
                let mut buffer = [0; 8];
                match sink.recv(&mut buffer) {
                    Ok(_) if u64::from_be_bytes(buffer) == u64::MAX => break,
                    Ok(_) => {
                        numbers.push(u64::from_be_bytes(buffer));
                        count.fetch_add(1, Ordering::Relaxed);
                        silence = Duration::ZERO;
                    }
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                        silence += Duration::from_millis(200);
                    }
                    Err(error) => panic!("receiving: {error}"),
                }
            }
            numbers
        });
        Self { stop, received, sender: Some(sender), receiver: Some(receiver) }
    }

    /// Waits until `more` further datagrams have arrived.
    #[track_caller]
    pub fn goes_on(&self, more: u64) {
        let before = self.received.load(Ordering::Relaxed);
        eventually("the flow goes on", || (self.received.load(Ordering::Relaxed) >= before + more).then_some(()));
    }

    /// Stops the flow. Every datagram sent must have arrived exactly once and in order.
    #[track_caller]
    pub fn assert_complete(self) {
        let received = self.assert_none_lost();
        let late: Vec<u64> = received.windows(2).filter(|two| two[0] > two[1]).map(|two| two[1]).collect();
        assert!(late.is_empty(), "of {} datagrams these arrived after later ones: {late:?}", received.len());
    }

    /// Stops the flow. Every datagram sent must have arrived exactly once; returns their numbers in
    /// the order of arrival.
    #[track_caller]
    pub fn assert_none_lost(mut self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.take().expect("finished once").join().expect("the sender runs to its end");
        let received = self.receiver.take().expect("finished once").join().expect("the receiver runs to its end");
        let arrived: BTreeSet<u64> = received.iter().copied().collect();
        let missing: Vec<u64> = (0..sent).filter(|number| !arrived.contains(number)).collect();
        assert!(sent > 0 && missing.is_empty(), "{} of {sent} datagrams did not arrive: {missing:?}", missing.len());
        assert_eq!(received.len() as u64, sent, "datagrams arrived twice");
        received
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
