//! The floor: a server that accepts, reads, answers, unmasks and writes, as any server must, and
//! does nothing else. What it costs is the kernel's price of a load; what another costs above it is
//! that server's own. Run by `src/bin/bare.rs`.
//!
//! A worker is a thread with a listener and an edge-triggered epoll of its own. Each readiness is
//! one read and one write, however many requests or frames came with it. Clients are trusted: it has
//! no limits, no timers, no logs, and sees nothing but what [`cost`](super::cost) sends.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};
use tungstenite::handshake::derive_accept_key;

/// What `GET /whoami` is answered; as long as a real one.
pub const BODY: &str = "handled by worker 1 (pid 12345)\n";

const LISTENER: Token = Token(usize::MAX);
const BUFFER: usize = 128 << 10;
const CLOSE: u8 = 0x8;

/// A listener that shares its address with others.
pub fn listen(at: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    // What is accepted has it, too.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&at.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// Serves as long as the program runs.
pub fn serve(listener: std::net::TcpListener) -> io::Result<()> {
    let mut listener = TcpListener::from_std(listener);
    let mut worker = Worker {
        poll: Poll::new()?,
        connections: Vec::new(),
        free: Vec::new(),
        input: vec![0; BUFFER],
        out: Vec::with_capacity(BUFFER),
    };
    let registry = worker.poll.registry();
    registry.register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    loop {
        match worker.poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            match event.token() {
                LISTENER => worker.accept(&listener)?,
                Token(index) => worker.serve(index, event.is_read_closed()),
            }
        }
    }
}

struct Worker {
    poll: Poll,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    input: Vec<u8>,
    out: Vec<u8>,
}

impl Worker {
    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        loop {
            let mut stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let index = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            let registry = self.poll.registry();
            registry.register(&mut stream, Token(index), Interest::READABLE)?;
            self.connections[index] = Some(Connection::new(stream));
        }
    }

    fn serve(&mut self, index: usize, ends: bool) {
        // An event of a connection that was closed in this very turn.
        let Some(connection) = &mut self.connections[index] else {
            return;
        };
        let goes_on = match connection.turn(&mut self.input, &mut self.out, ends) {
            Ok(Next::Read) => Ok(true),
            Ok(Next::Write) => self
                .poll
                .registry()
                .reregister(
                    &mut connection.stream,
                    Token(index),
                    Interest::READABLE | Interest::WRITABLE,
                )
                .map(|()| true),
            Ok(Next::Close) => Ok(false),
            Err(error) => Err(error),
        };
        if !goes_on.unwrap_or(false) {
            self.connections[index] = None;
            self.free.push(index);
        }
    }
}

/// What a connection waits for.
enum Next {
    Read,
    Write,
    Close,
}

struct Connection {
    stream: TcpStream,
    protocol: Protocol,
    /// The beginning of a request or frame.
    partial: Vec<u8>,
    /// What the socket had no room for.
    unsent: Vec<u8>,
}

impl Connection {
    fn new(stream: TcpStream) -> Connection {
        Connection {
            stream,
            protocol: Protocol::Http,
            partial: Vec::new(),
            unsent: Vec::new(),
        }
    }

    /// Reads, answers all that is whole, writes; `ends`: the peer's FIN is there.
    fn turn(&mut self, input: &mut [u8], out: &mut Vec<u8>, ends: bool) -> io::Result<Next> {
        if !self.unsent.is_empty() {
            let unsent = std::mem::take(&mut self.unsent);
            if !self.write(&unsent)? {
                return Ok(Next::Write);
            }
        }
        loop {
            let read = match self.stream.read(input) {
                Ok(0) => return Ok(Next::Close),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Next::Read),
                Err(error) => return Err(error),
            };
            out.clear();
            self.answer(&input[..read], out);
            if !out.is_empty() && !self.write(out)? {
                return Ok(Next::Write);
            }
            if self.protocol == Protocol::Over {
                return Ok(Next::Close);
            }
            // A read that did not fill the buffer has emptied the socket.
            if read < input.len() && !ends {
                return Ok(Next::Read);
            }
        }
    }

    fn answer(&mut self, input: &[u8], out: &mut Vec<u8>) {
        if self.partial.is_empty() {
            let taken = self.protocol.answer(input, out);
            self.partial.extend(&input[taken..]);
        } else {
            self.partial.extend(input);
            let taken = self.protocol.answer(&self.partial, out);
            self.partial.drain(..taken);
        }
    }

    /// Was all of it written?
    fn write(&mut self, bytes: &[u8]) -> io::Result<bool> {
        let written = match self.stream.write(bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            written => written?,
        };
        self.unsent.extend(&bytes[written..]);
        Ok(self.unsent.is_empty())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http,
    WebSocket,
    /// When what is to be written is written, the connection is closed.
    Over,
}

impl Protocol {
    /// Answers all that is whole, and says how much of the input that was.
    fn answer(&mut self, input: &[u8], out: &mut Vec<u8>) -> usize {
        let mut taken = 0;
        while taken < input.len() {
            let rest = &input[taken..];
            let whole = match self {
                Protocol::Http => self.request(rest, out),
                Protocol::WebSocket => self.frame(rest, out),
                Protocol::Over => break,
            };
            match whole {
                Some(length) => taken += length,
                None => break,
            }
        }
        taken
    }

    /// The length of the request, once it is whole.
    fn request(&mut self, input: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let end = find(input, b"\r\n\r\n")? + 4;
        let head = &input[..end];
        const KEY: &[u8] = b"\r\nSec-WebSocket-Key: ";
        if let Some(field) = find(head, KEY) {
            let key = &head[field + KEY.len()..];
            let key = &key[..find(key, b"\r\n")?];
            out.extend(
                b"HTTP/1.1 101 Switching Protocols\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
                Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
            );
            out.extend(derive_accept_key(key).as_bytes());
            out.extend(b"\r\n\r\n");
            *self = Protocol::WebSocket;
            return Some(end);
        }
        out.extend(
            b"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
            X-Content-Type-Options: nosniff\r\nContent-Type: text/plain; charset=utf-8\r\n\
            Content-Length: 32\r\nCache-Control: no-store\r\n",
        );
        if find(head, b"\r\nConnection: close\r\n").is_some() {
            out.extend(b"Connection: close\r\n");
            *self = Protocol::Over;
        }
        out.extend(b"\r\n");
        out.extend(BODY.as_bytes());
        Some(end)
    }

    /// The length of the frame, once it is whole. It is sent back without its mask.
    fn frame(&mut self, input: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let (first, second) = (*input.first()?, *input.get(1)?);
        let (head, length) = match second & 0x7f {
            126 => (
                4,
                usize::from(u16::from_be_bytes(*input[2..].first_chunk()?)),
            ),
            127 => (10, u64::from_be_bytes(*input[2..].first_chunk()?) as usize),
            short => (2, usize::from(short)),
        };
        let payload = input.get(head + 4..head + 4 + length)?;
        out.push(first);
        out.push(second & 0x7f);
        out.extend(&input[2..head]);
        unmask(payload, *input[head..].first_chunk()?, out);
        if first & 0x0f == CLOSE {
            *self = Protocol::Over;
        }
        Some(head + 4 + length)
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, what)
}

fn unmask(payload: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
    let word = u64::from(u32::from_ne_bytes(mask));
    let word = word << 32 | word;
    let start = out.len();
    out.extend(payload);
    let (words, rest) = out[start..].as_chunks_mut::<8>();
    for bytes in words {
        *bytes = (u64::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::websocket::{frame, handshake};

    fn answers(protocol: Protocol, pieces: &[&[u8]]) -> (Protocol, Vec<u8>) {
        let mut protocol = protocol;
        let (mut partial, mut out) = (Vec::new(), Vec::new());
        for piece in pieces {
            partial.extend(*piece);
            let taken = protocol.answer(&partial, &mut out);
            partial.drain(..taken);
        }
        assert!(partial.is_empty());
        (protocol, out)
    }

    #[test]
    fn frames_come_back_however_they_are_cut() {
        for length in [0, 1, 20, 125, 126, 1000, 70_000] {
            let payload: Vec<u8> = (0..length).map(|byte| byte as u8).collect();
            let bytes = frame(0x82, &payload).repeat(2);
            let (protocol, whole) = answers(Protocol::WebSocket, &[&bytes]);
            assert_eq!(protocol, Protocol::WebSocket);
            assert!(whole.ends_with(&payload));
            let cut = 2 * length as usize / 3 + 1;
            let pieces = [&bytes[..1], &bytes[1..cut], &bytes[cut..]];
            assert_eq!(answers(Protocol::WebSocket, &pieces).1, whole);
        }
    }

    #[test]
    fn a_close_frame_is_answered_by_one() {
        let (protocol, out) = answers(Protocol::WebSocket, &[&frame(0x88, &[3, 232])]);
        assert_eq!(protocol, Protocol::Over);
        assert_eq!(out, [0x88, 2, 3, 232]);
    }

    #[test]
    fn requests_are_answered() {
        let open = handshake(([127, 0, 0, 1], 80).into(), "/echo");
        let (protocol, out) = answers(Protocol::Http, &[open.as_bytes()]);
        assert_eq!(protocol, Protocol::WebSocket);
        assert!(
            find(
                &out,
                b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
            )
            .is_some()
        );
        let last = b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n";
        let (protocol, out) = answers(Protocol::Http, &[b"GET / HTTP/1.1\r\n\r\n", last]);
        assert_eq!(protocol, Protocol::Over);
        assert!(out.ends_with(BODY.as_bytes()));
        let length = format!("\r\nContent-Length: {}\r\n", BODY.len());
        assert!(find(&out, length.as_bytes()).is_some());
    }
}
