//! A WebSocket client with deadlines, and one that sends frames byte by byte as a test wants them.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::client::{Request, Response};
use tungstenite::http::{HeaderName, HeaderValue};
pub use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{Role, WebSocketConfig};
pub use tungstenite::{Error, Message};

use crate::deflate::{self, Deflated, OFFER};
use crate::socket::{self, Options};
use crate::wait::DEADLINE;

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Deflated(Box<Deflated>),
}

impl Read for Stream {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.read(to),
            Stream::Deflated(stream) => stream.read(to),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.write(bytes),
            Stream::Deflated(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An open WebSocket. A read that finds nothing within the deadline panics.
#[derive(Debug)]
pub struct WebSocket {
    inner: tungstenite::WebSocket<Stream>,
    pub response: Response,
}

impl WebSocket {
    #[track_caller]
    pub fn connect(to: SocketAddr, path: &str) -> WebSocket {
        WebSocket::try_connect(to, path, &[], Options::default())
            .unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// With more header fields; `Err` holds the refusal.
    pub fn try_connect(
        to: SocketAddr,
        path: &str,
        fields: &[(&str, &str)],
        options: Options,
    ) -> Result<WebSocket, Box<Error>> {
        let stream = socket::connect_with(to, options).map_err(Error::Io)?;
        WebSocket::over(stream, to, path, fields)
    }

    /// Over a connection that exists, and may have been used before.
    pub fn over(
        stream: TcpStream,
        to: SocketAddr,
        path: &str,
        fields: &[(&str, &str)],
    ) -> Result<WebSocket, Box<Error>> {
        let request = request(to, path, fields)?;
        let stream = Stream::Plain(stream);
        match tungstenite::client::client_with_config(request, stream, Some(config())) {
            Ok((inner, response)) => Ok(WebSocket { inner, response }),
            Err(tungstenite::HandshakeError::Failure(error)) => Err(Box::new(error)),
            Err(tungstenite::HandshakeError::Interrupted(_)) => {
                Err(Box::new(Error::Io(io::ErrorKind::TimedOut.into())))
            }
        }
    }

    /// One whose messages are compressed, both ways.
    #[track_caller]
    pub fn deflated(
        to: SocketAddr,
        path: &str,
        fields: &[(&str, &str)],
        options: Options,
    ) -> WebSocket {
        WebSocket::deflated_as(to, path, fields, options, OFFER.1, 15)
    }

    /// The same, with this offer and the window that it leads to.
    #[track_caller]
    pub fn deflated_as(
        to: SocketAddr,
        path: &str,
        fields: &[(&str, &str)],
        options: Options,
        offer: &str,
        window: u8,
    ) -> WebSocket {
        let stream = socket::connect_with(to, options).expect("the daemon takes connections");
        let stream = Deflated::connect(stream, to, path, fields, offer, window)
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        let stream = Stream::Deflated(Box::new(stream));
        WebSocket {
            inner: tungstenite::WebSocket::from_raw_socket(stream, Role::Client, Some(config())),
            response: Response::default(),
        }
    }

    /// Messages that came compressed.
    pub fn compressed(&self) -> usize {
        match self.inner.get_ref() {
            Stream::Plain(_) => 0,
            Stream::Deflated(stream) => stream.received,
        }
    }

    pub fn send(&mut self, message: Message) -> Result<(), Box<Error>> {
        self.inner.send(message).map_err(Box::new)
    }

    #[track_caller]
    pub fn text(&mut self, text: &str) {
        self.send(Message::text(text)).expect("the daemon reads");
    }

    #[track_caller]
    pub fn binary(&mut self, bytes: Vec<u8>) {
        self.send(Message::binary(bytes)).expect("the daemon reads");
    }

    /// The next message of any kind, pings left out.
    pub fn receive(&mut self) -> Result<Message, Box<Error>> {
        // A server that only pings says nothing.
        let begin = Instant::now();
        loop {
            match self.inner.read().map_err(Box::new)? {
                Message::Ping(_) if begin.elapsed() < DEADLINE => {}
                Message::Ping(_) => {
                    let error = io::Error::from(io::ErrorKind::TimedOut);
                    return Err(Box::new(Error::Io(error)));
                }
                message => return Ok(message),
            }
        }
    }

    #[track_caller]
    pub fn receive_text(&mut self) -> String {
        match self.receive() {
            Ok(Message::Text(text)) => text.as_str().to_owned(),
            other => panic!("no text: {other:?}"),
        }
    }

    /// Reads on until the Close frame, and returns its code; 1005: it has none, 1006: it never came.
    #[track_caller]
    pub fn close_code(&mut self) -> u16 {
        loop {
            match self.receive().map_err(|error| *error) {
                Ok(Message::Close(frame)) => {
                    // Our own Close, which is due now.
                    let _ = self.inner.flush();
                    return frame.map_or(1005, |frame| frame.code.into());
                }
                Ok(_) => {}
                Err(Error::Io(error)) if !socket::is_closed(&error) => panic!("no close: {error}"),
                Err(_) => return 1006,
            }
        }
    }

    /// Closes in the orderly way.
    pub fn close(mut self) {
        let _ = self.inner.close(None);
        while self.inner.read().is_ok() {}
    }

    /// The connection, to break the rules with. What the client has read ahead is lost.
    pub fn stream(&mut self) -> &mut TcpStream {
        match self.inner.get_mut() {
            Stream::Plain(stream) => stream,
            Stream::Deflated(stream) => stream.stream(),
        }
    }
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(64 << 20))
        .max_frame_size(Some(64 << 20))
}

fn request(to: SocketAddr, path: &str, fields: &[(&str, &str)]) -> Result<Request, Box<Error>> {
    let mut request = format!("ws://{to}{path}").into_client_request()?;
    for (name, value) in fields {
        let name: HeaderName = name.parse().expect("a field's name");
        let value: HeaderValue = value.parse().expect("a field's value");
        request.headers_mut().insert(name, value);
    }
    Ok(request)
}

/// A connection that has shaken hands, for frames that no client would send.
#[derive(Debug)]
pub struct Raw {
    pub stream: TcpStream,
}

impl Raw {
    #[track_caller]
    pub fn connect(to: SocketAddr, path: &str) -> Raw {
        Raw::connect_with(to, path, Options::default())
    }

    #[track_caller]
    pub fn connect_with(to: SocketAddr, path: &str, options: Options) -> Raw {
        Raw::shake(to, options, &handshake(to, path))
    }

    /// Messages may be compressed, both ways.
    #[track_caller]
    pub fn deflated(to: SocketAddr, path: &str) -> Raw {
        let request = handshake(to, path);
        let (name, offer) = OFFER;
        let request = request.replacen("\r\n\r\n", &format!("\r\n{name}: {offer}\r\n\r\n"), 1);
        Raw::shake(to, Options::default(), &request)
    }

    #[track_caller]
    fn shake(to: SocketAddr, options: Options, request: &str) -> Raw {
        let mut stream = socket::connect_with(to, options).expect("the daemon takes connections");
        stream
            .write_all(request.as_bytes())
            .expect("the daemon reads");
        // Byte by byte: what follows the head is the test's.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a whole head");
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        Raw { stream }
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next frame: its first byte (FIN, reserved bits, opcode) and its payload.
    pub fn frame(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head)?;
        assert_eq!(head[1] & 0x80, 0, "a server masks nothing");
        let length = match head[1] {
            126 => {
                let mut length = [0; 2];
                self.stream.read_exact(&mut length)?;
                u64::from(u16::from_be_bytes(length))
            }
            127 => {
                let mut length = [0; 8];
                self.stream.read_exact(&mut length)?;
                u64::from_be_bytes(length)
            }
            short => u64::from(short),
        };
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload)?;
        Ok((head[0], payload))
    }

    /// The next message: its opcode, and the payloads of all its frames. Control frames are left out.
    #[track_caller]
    pub fn message(&mut self) -> (u8, Vec<u8>) {
        let mut opcode = 0;
        let mut message = Vec::new();
        loop {
            let (first, payload) = self.frame().expect("a frame");
            if first & 0x08 != 0 {
                continue;
            }
            opcode |= first & 0x0f;
            message.extend(payload);
            if first & 0x80 != 0 {
                return (opcode, message);
            }
        }
    }

    /// The next message, which must come compressed and in one frame. Control frames are left out.
    #[track_caller]
    pub fn inflated(&mut self) -> Vec<u8> {
        loop {
            let (first, payload) = self.frame().expect("a frame");
            if first & 0x08 == 0 {
                assert_eq!(first & 0xf0, 0xc0, "a whole message, compressed");
                return deflate::inflate(&payload, 15).expect("a message");
            }
        }
    }

    /// Reads on until the Close frame or the end, and returns the code: 1005 without, 1006 none came.
    #[track_caller]
    pub fn close_code(&mut self) -> u16 {
        loop {
            match self.frame() {
                Ok((0x88, payload)) => match payload.first_chunk() {
                    Some(code) => return u16::from_be_bytes(*code),
                    None => return 1005,
                },
                Ok(_) => {}
                Err(error) if socket::is_closed(&error) => return 1006,
                Err(error) => panic!("neither a close nor an end: {error}"),
            }
        }
    }
}

/// A handshake's request.
pub fn handshake(to: SocketAddr, path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// A masked frame of a client: `first` is FIN, reserved bits and opcode.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..=125 => bytes.push(0x80 | short as u8),
        medium @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend((medium as u16).to_be_bytes());
        }
        long => {
            bytes.push(0x80 | 127);
            bytes.extend((long as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    bytes
}
