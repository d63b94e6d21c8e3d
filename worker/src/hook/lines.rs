//! The connections to back ends: opened, written and read without waiting. They are this brain's
//! own; what a dead brain leaves open the next one closes, as it does with whatever no slot names.

use std::io::{self, ErrorKind, Read, Write};

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use protocol::settings::Server;

use super::desk::{Desk, Told};

/// In a token: it is none of a client's connection. The number of a line is beside it, its
/// generation above it.
const MARK: usize = 1 << 31;

#[must_use]
pub fn token(line: usize, generation: u32) -> Token {
    Token(MARK | line | (generation as usize) << 32)
}

/// The line that a token is for, and its generation.
#[must_use]
pub fn place(token: Token) -> Option<(usize, u32)> {
    let low = token.0 & 0xffff_ffff;
    (low & MARK != 0).then_some((low & !MARK, (token.0 >> 32) as u32))
}

/// A connection, for one exchange of one desk after the other.
#[derive(Debug)]
pub struct Line {
    pub desk: usize,
    ix: usize,
    stream: Option<Stream>,
    /// So often it has been opened: an event of one before is known by it.
    generation: u32,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn open(server: &Server) -> io::Result<Stream> {
        match server {
            Server::Tcp(address) => {
                let stream = TcpStream::connect(*address)?;
                // What is written is all there is to be written.
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Server::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path)?)),
        }
    }

    fn source(&mut self) -> &mut dyn Source {
        match self {
            Stream::Tcp(stream) => stream,
            Stream::Unix(stream) => stream,
        }
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            Stream::Tcp(stream) => stream.take_error(),
            Stream::Unix(stream) => stream.take_error(),
        }
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(into),
            Stream::Unix(stream) => stream.read(into),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        }
    }
}

/// Nothing more can be done with the connection now.
enum End {
    /// An event will come.
    Blocked,
    /// It is over, and why.
    Over(String),
    /// The desk wants it closed.
    Unwanted,
}

impl Line {
    #[must_use]
    pub fn new(desk: usize, ix: usize) -> Line {
        Line {
            desk,
            ix,
            stream: None,
            generation: 0,
        }
    }

    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The exchange has a new request: writes it, over a new connection if there is none.
    pub fn begin(
        &mut self,
        registry: &Registry,
        token: Token,
        desk: &mut Desk,
        now: u64,
        told: &mut Vec<Told>,
    ) {
        if self.stream.is_none() {
            let interest = Interest::READABLE | Interest::WRITABLE;
            let opened = Stream::open(&desk.hook().server).and_then(|mut stream| {
                registry.register(stream.source(), token, interest)?;
                Ok(stream)
            });
            match opened {
                Ok(stream) => self.stream = Some(stream),
                Err(error) => {
                    let why = format!("it cannot be reached: {error}");
                    return desk.lost(self.ix, &why, now, told);
                }
            }
        }
        self.go_on(registry, desk, now, told);
    }

    /// Writes and reads as much as is possible now.
    pub fn go_on(&mut self, registry: &Registry, desk: &mut Desk, now: u64, told: &mut Vec<Told>) {
        let end = loop {
            match self.step(desk, now, told) {
                Ok(()) => {}
                Err(end) => break end,
            }
        };
        match end {
            End::Blocked => {}
            End::Unwanted => self.close(registry),
            End::Over(why) => {
                self.close(registry);
                desk.lost(self.ix, &why, now, told);
            }
        }
    }

    fn step(&mut self, desk: &mut Desk, now: u64, told: &mut Vec<Told>) -> Result<(), End> {
        let Some(stream) = &mut self.stream else {
            return Err(End::Blocked);
        };
        // That it could not be opened is told by this alone.
        if let Ok(Some(error)) = stream.take_error() {
            return Err(End::Over(format!("it cannot be reached: {error}")));
        }
        let unwritten = desk.unwritten(self.ix);
        if !unwritten.is_empty() {
            match stream.write(unwritten) {
                Ok(n) => {
                    desk.wrote(self.ix, n);
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
                Err(error) if is_not_yet(&error) => {}
                // Its answer, or its end, may be there to be read.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                Err(error) => return Err(End::Over(error.to_string())),
            }
        }
        let mut bytes = [0; 16 << 10];
        match stream.read(&mut bytes) {
            Ok(0) => {
                let why = "it closed the connection before it had answered";
                Err(End::Over(why.to_owned()))
            }
            Ok(n) => match desk.received(self.ix, &bytes[..n], now, told) {
                true => Ok(()),
                false => Err(End::Unwanted),
            },
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) if is_not_yet(&error) => Err(End::Blocked),
            Err(error) => Err(End::Over(error.to_string())),
        }
    }

    /// Events of it that are still to come are another's.
    pub fn close(&mut self, registry: &Registry) {
        if let Some(mut stream) = self.stream.take() {
            self.generation = self.generation.wrapping_add(1);
            let _ = registry.deregister(stream.source());
        }
    }
}

/// It is being opened, or its buffers are full or empty.
fn is_not_yet(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::NotConnected
    )
}
