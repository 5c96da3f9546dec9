//! A TCP connection that is busy both ways while things happen to the switch; every byte is checked at its place.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{
    Netns, PATIENCE, eventually,
    tcp::{CHUNK, chunk},
};

/// How much is sent at once. Not all that is possible: other tests want the processors, too.
const PIECE: usize = 4096;

/// Sends until it is finished; the other side sends all of it back.
pub struct Stream {
    stop: Arc<AtomicBool>,
    returned: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<u64, String>>>,
}

impl Stream {
    /// Connects, and begins.
    #[track_caller]
    pub fn start(from: &Netns, to: &Netns, address: impl Into<IpAddr>) -> Self {
        let address = address.into();
        let listener = to.inside(|| TcpListener::bind((address, 0))).expect("listening");
        let target = listener.local_addr().expect("it is bound");
        let stream = from.inside(|| TcpStream::connect_timeout(&target, PATIENCE)).expect("connecting");
        let (echo, _) = listener.accept().expect("a connection");
        for end in [&stream, &echo] {
            end.set_read_timeout(Some(PATIENCE)).expect("a time limit");
            end.set_write_timeout(Some(PATIENCE)).expect("a time limit");
        }
        let (stop, returned) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (sender, receiver) = (stream.try_clone().expect("a descriptor"), stream);
        let (stopped, counted) = (stop.clone(), returned.clone());
        let threads = vec![
            thread::spawn(move || send(sender, &stopped)),
            thread::spawn(move || send_back(echo)),
            thread::spawn(move || receive(receiver, &counted)),
        ];
        Self { stop, returned, threads }
    }

    /// Waits until so many bytes more have come back.
    #[track_caller]
    pub fn goes_on(&self, more: u64) {
        let before = self.returned.load(Ordering::Relaxed);
        eventually("the stream goes on", || (self.returned.load(Ordering::Relaxed) >= before + more).then_some(()));
    }

    /// Ends it; every byte sent must have come back, and no end have seen an error.
    #[track_caller]
    pub fn assert_complete(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ends: Vec<_> = self.threads.drain(..).map(|thread| thread.join().expect("it runs to its end")).collect();
        assert!(matches!(ends[0], Ok(1..)), "{ends:?}");
        assert!(ends.iter().all(|end| *end == ends[0]), "sent, passed on, returned: {ends:?}");
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn send(mut stream: TcpStream, stop: &AtomicBool) -> Result<u64, String> {
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(piece(sent)).map_err(|error| format!("sending after {sent} bytes: {error}"))?;
        sent += PIECE as u64;
        thread::sleep(Duration::from_micros(500));
    }
    stream.shutdown(Shutdown::Write).map_err(|error| error.to_string())?;
    Ok(sent)
}

fn send_back(mut stream: TcpStream) -> Result<u64, String> {
    let mut passed = 0;
    let mut buffer = vec![0; CHUNK];
    loop {
        let failed = |error| format!("passing on after {passed} bytes: {error}");
        let length = stream.read(&mut buffer).map_err(failed)?;
        if length == 0 {
            return stream.shutdown(Shutdown::Write).map(|()| passed).map_err(failed);
        }
        stream.write_all(&buffer[..length]).map_err(failed)?;
        passed += length as u64;
    }
}

fn receive(mut stream: TcpStream, returned: &AtomicU64) -> Result<u64, String> {
    let mut received = 0;
    let mut buffer = vec![0; PIECE];
    loop {
        let mut length = 0;
        while length < PIECE {
            match stream.read(&mut buffer[length..]).map_err(|error| format!("receiving after {received}: {error}"))? {
                0 => break,
                more => length += more,
            }
        }
        if length == 0 {
            return Ok(received);
        }
        if buffer[..length] != piece(received)[..length] {
            return Err(format!("what came back after {received} bytes is not what was sent"));
        }
        received += length as u64;
        returned.store(received, Ordering::Relaxed);
    }
}

/// The bytes at this place of the stream.
fn piece(position: u64) -> &'static [u8] {
    &chunk(usize::try_from(position).unwrap_or_default() / PIECE, 3)[..PIECE]
}
