//! A TCP connection that carries data both ways while a test changes the instance. Every byte is
//! compared with the one expected at its position.

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

/// Bytes sent at once. Not the maximum, because other tests need the processors, too.
const PIECE: usize = 4096;

/// Sends until it is stopped. The other side sends everything back.
pub struct Stream {
    stop: Arc<AtomicBool>,
    returned: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<u64, String>>>,
}

impl Stream {
    /// Connects and starts to send.
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

    /// Waits until `more` further bytes have come back.
    #[track_caller]
    pub fn goes_on(&self, more: u64) {
        let before = self.returned.load(Ordering::Relaxed);
        eventually("the stream goes on", || (self.returned.load(Ordering::Relaxed) >= before + more).then_some(()));
    }

    /// Stops the stream. Every byte sent must have come back, and neither end may have had an
    /// error.
    #[track_caller]
    pub fn assert_complete(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ends: Vec<_> = self.threads.drain(..).map(|thread| thread.join().expect("the thread ends")).collect();
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
        let failed = |error| format!("sending back after {passed} bytes: {error}");
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
            return Err(format!("the data returned after {received} bytes differ from those sent"));
        }
        received += length as u64;
        returned.store(received, Ordering::Relaxed);
    }
}

/// Returns the bytes expected at this position of the stream.
fn piece(position: u64) -> &'static [u8] {
    &chunk(usize::try_from(position).unwrap_or_default() / PIECE, 3)[..PIECE]
}
