//! TCP in both directions. Every byte is compared with the one expected at its position.

use std::{
    io::{Read, Write},
    net::{IpAddr, Shutdown, TcpListener, TcpStream},
    sync::OnceLock,
};

use super::{Netns, PATIENCE};

/// Bytes handed to the kernel at once; large enough for full GSO packets.
pub(super) const CHUNK: usize = 1 << 18;

/// Connects from one namespace to an address in another, sends `bytes` bytes in each direction, and
/// checks all of them.
#[track_caller]
pub fn tcp(from: &Netns, to: &Netns, address: impl Into<IpAddr>, bytes: u64) {
    let address = address.into();
    let listener =
        to.inside(|| TcpListener::bind((address, 0))).unwrap_or_else(|error| panic!("listening on {address}: {error}"));
    let target = listener.local_addr().expect("it is bound");
    std::thread::scope(|scope| {
        let server = scope.spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            limit(&stream);
            receive(&mut stream, bytes, 1);
            send(&mut stream, bytes, 2);
        });
        // The time limit keeps a test from hanging if the listener is not reached.
        let connected = from.inside(|| TcpStream::connect_timeout(&target, PATIENCE));
        let mut stream = match connected {
            Ok(stream) => stream,
            Err(error) => {
                let _wakes_the_server = to.inside(|| TcpStream::connect(target)).map(drop);
                panic!("connecting to {target}: {error}");
            }
        };
        limit(&stream);
        send(&mut stream, bytes, 1);
        receive(&mut stream, bytes, 2);
        assert!(server.join().is_ok(), "the server at {target} failed");
    });
}

fn limit(stream: &TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    stream.set_write_timeout(Some(PATIENCE)).expect("a time limit");
}

fn send(stream: &mut TcpStream, bytes: u64, direction: usize) {
    let mut sent = 0;
    for number in 0.. {
        let length = usize::try_from(bytes - sent).unwrap_or(CHUNK).min(CHUNK);
        if length == 0 {
            break;
        }
        let chunk = &chunk(number, direction)[..length];
        stream.write_all(chunk).unwrap_or_else(|error| panic!("sending after {sent} bytes: {error}"));
        sent += length as u64;
    }
    stream.shutdown(Shutdown::Write).expect("the connection stands");
}

fn receive(stream: &mut TcpStream, bytes: u64, direction: usize) {
    let mut received = 0;
    let mut buffer = vec![0; CHUNK];
    for number in 0.. {
        let mut length = 0;
        while length < CHUNK {
            match stream.read(&mut buffer[length..]) {
                Ok(0) => break,
                Ok(more) => length += more,
                Err(error) => panic!("receiving after {} bytes: {error}", received + length as u64),
            }
        }
        if length == 0 {
            break;
        }
        let expected = &chunk(number, direction)[..length];
        if buffer[..length] != *expected {
            let wrong = (0..length).find(|index| buffer[*index] != expected[*index]).unwrap_or_default();
            panic!("byte {} of {bytes} differs from the one sent", received + wrong as u64);
        }
        received += length as u64;
    }
    assert_eq!(received, bytes, "bytes received");
}

/// Returns bytes that identify their position in the stream: a window that moves over a table
/// without a repeating pattern. The table is computed once, so that nothing is computed while the
/// traffic runs.
pub(super) fn chunk(number: usize, direction: usize) -> &'static [u8] {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let words = (1..=2 * CHUNK as u64 / 8)
            .map(|index| index.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(index | 1));
        words.flat_map(u64::to_le_bytes).collect()
    });
    let start = (number * 4099 + direction * 77_777) % CHUNK;
    &table[start..start + CHUNK]
}
