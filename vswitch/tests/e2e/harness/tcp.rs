//! TCP both ways, every byte checked at its place.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
};

use super::{Netns, PATIENCE};

/// How much is handed to the kernel at once; large enough for full GSO packets.
const CHUNK: usize = 1 << 18;

/// Connects from one namespace to an address in another, sends so many bytes there and so many back, checks them all.
#[track_caller]
pub fn tcp(from: &Netns, to: &Netns, address: Ipv4Addr, bytes: u64) {
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
        // With a time limit, so that a listener nobody reaches does not keep the test.
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

fn send(stream: &mut TcpStream, bytes: u64, seed: u64) {
    let mut sent = 0;
    let mut chunk = vec![0; CHUNK];
    while sent < bytes {
        let length = usize::try_from(bytes - sent).unwrap_or(CHUNK).min(CHUNK);
        fill(&mut chunk[..length], seed, sent);
        stream.write_all(&chunk[..length]).unwrap_or_else(|error| panic!("sending after {sent} bytes: {error}"));
        sent += length as u64;
    }
    stream.shutdown(Shutdown::Write).expect("the connection stands");
}

fn receive(stream: &mut TcpStream, bytes: u64, seed: u64) {
    let mut received = 0;
    let (mut chunk, mut expected) = (vec![0; CHUNK], vec![0; CHUNK]);
    loop {
        // Whole chunks, so that each is compared from a multiple of eight on.
        let mut length = 0;
        while length < CHUNK {
            match stream
                .read(&mut chunk[length..])
                .unwrap_or_else(|error| panic!("receiving after {received} bytes: {error}"))
            {
                0 => break,
                more => length += more,
            }
        }
        if length == 0 {
            break;
        }
        fill(&mut expected[..length], seed, received);
        if let Some(wrong) = (0..length).find(|index| chunk[*index] != expected[*index]) {
            panic!("byte {} of {bytes} is not the one that was sent", received + wrong as u64);
        }
        received += length as u64;
    }
    assert_eq!(received, bytes, "bytes received");
}

/// Bytes that tell their place in the stream; `offset` is a multiple of eight.
fn fill(chunk: &mut [u8], seed: u64, offset: u64) {
    for (index, word) in chunk.chunks_mut(8).enumerate() {
        let value = (offset / 8 + index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(seed);
        word.copy_from_slice(&value.to_le_bytes()[..word.len()]);
    }
}
