//! One client's socket, and the pace at which it is used.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::SockRef;

use super::{Fault, Heard, Kind, Random, Talk};

/// How a client behaves on its socket.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Between one thing that it says and the next, on average.
    pub think: Duration,
    /// It writes in pieces, with pauses between them.
    pub in_pieces: bool,
    /// It reads so many bytes each time it acts, through a small buffer; none: all that comes,
    /// when it comes.
    pub reads_slowly: Option<usize>,
}

pub struct Connection<W> {
    pub talk: Box<dyn Talk<W>>,
    pub serial: u64,
    pub due: Instant,
    /// Since when it has heard nothing, though it has said all of something.
    pub waiting: Option<Instant>,
    /// The longest that this was.
    pub longest: Option<Duration>,
    /// It says the next without pauses.
    pub in_one: bool,
    stream: TcpStream,
    manner: Manner,
    random: Random,
    out: Vec<u8>,
    written: usize,
    wrote: Instant,
    /// The longest piece of what is in `out`.
    piece: usize,
}

/// Begins to connect. One that reads slowly reads when it acts, not when there is something.
pub fn connect(
    to: SocketAddr,
    manner: Manner,
    registry: &Registry,
    token: Token,
) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    match manner.reads_slowly {
        Some(bytes) => SockRef::from(&stream).set_recv_buffer_size(bytes)?,
        None => registry.register(&mut stream, token, Interest::READABLE)?,
    }
    Ok(stream)
}

impl<W> Connection<W> {
    pub fn new(
        stream: TcpStream,
        talk: Box<dyn Talk<W>>,
        manner: Manner,
        random: Random,
        serial: u64,
    ) -> Connection<W> {
        Connection {
            talk,
            serial,
            due: Instant::now(),
            waiting: None,
            longest: None,
            in_one: false,
            stream,
            manner,
            random,
            out: Vec::new(),
            written: 0,
            wrote: Instant::now(),
            piece: 0,
        }
    }

    /// Who it is, and how it stands.
    pub fn describe(&self) -> String {
        let port = self.stream.local_addr().map_or(0, |address| address.port());
        let waits = self.waiting.map_or(Duration::ZERO, |since| since.elapsed());
        format!(
            "{} (port {port}, {} of {} bytes are written, {:.3?} ago, it waits for {waits:.3?})",
            self.talk.name(),
            self.written,
            self.out.len(),
            self.wrote.elapsed(),
        )
    }

    pub fn is_waiting(&self) -> bool {
        !self.out.is_empty() || self.talk.expects()
    }

    /// Its time has come: it goes on with what it says, or begins to say something.
    pub fn act(&mut self, world: &mut W, buffer: &mut [u8]) -> Result<Heard, Fault> {
        if let Some(bytes) = self.manner.reads_slowly {
            let most = bytes.min(buffer.len());
            if self.read_once(world, &mut buffer[..most])? == Some(Heard::Done) {
                return Ok(Heard::Done);
            }
        }
        if self.out.is_empty() {
            if self.talk.leaves(world, 0) {
                return Ok(Heard::Done);
            }
            self.talk.speak(world, &mut self.out);
            self.piece = match self.random.below(4) {
                0..=2 if self.manner.in_pieces => {
                    let pieces = self.random.between(1, 9);
                    (2 * self.out.len() / pieces).max(1)
                }
                _ => self.out.len(),
            };
        }
        if self.out.is_empty() {
            return Ok(Heard::On);
        }
        let rest = &self.out[self.written..];
        let whole = std::mem::take(&mut self.in_one) || self.piece >= self.out.len();
        let size = match whole {
            true => rest.len(),
            false => self.random.between(1, self.piece).min(rest.len()),
        };
        match self.stream.write(&rest[..size]) {
            Ok(written) => {
                self.written += written;
                self.wrote = Instant::now();
            }
            Err(error) if is_later(&error) => {
                self.wait();
                return Ok(Heard::On);
            }
            // What the server said before it went is more telling.
            Err(error) => return self.read(world, buffer).and(Err(broken(&error))),
        }
        if self.talk.leaves(world, self.out.len() - self.written) {
            return Ok(Heard::Done);
        }
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
            if self.talk.expects() {
                self.wait();
            }
        }
        Ok(Heard::On)
    }

    /// Until it acts again.
    pub fn pause(&mut self) -> Duration {
        let micros = if self.out.is_empty() {
            self.random
                .below(2 * self.manner.think.as_micros().max(1) as u64)
        } else {
            // Mostly so short that the server sees pieces at all, sometimes so long that a good
            // deal happens between two of them.
            match self.random.below(20) {
                0 => self.random.below(200_000),
                _ => self.random.below(5_000),
            }
        };
        let pause = Duration::from_micros(micros);
        match self.manner.reads_slowly {
            Some(_) => pause.clamp(Duration::from_millis(20), Duration::from_millis(400)),
            None => pause,
        }
    }

    /// Reads all that there is.
    pub fn read(&mut self, world: &mut W, buffer: &mut [u8]) -> Result<Heard, Fault> {
        loop {
            match self.read_once(world, buffer)? {
                Some(Heard::On) => {}
                Some(Heard::Done) => return Ok(Heard::Done),
                None => return Ok(Heard::On),
            }
        }
    }

    /// `None`: there is nothing now.
    fn read_once(&mut self, world: &mut W, buffer: &mut [u8]) -> Result<Option<Heard>, Fault> {
        let read = match self.stream.read(buffer) {
            Ok(0) => {
                self.talk.ended(world)?;
                return Ok(Some(Heard::Done));
            }
            Ok(read) => read,
            Err(error) if is_later(&error) => return Ok(None),
            Err(error) => return Err(broken(&error)),
        };
        if let Some(since) = self.waiting.take()
            && self.manner.reads_slowly.is_none()
        {
            self.longest = self.longest.max(Some(since.elapsed()));
        }
        let heard = self.talk.hear(world, &buffer[..read])?;
        if self.out.is_empty() && self.talk.expects() {
            self.wait();
        }
        Ok(Some(heard))
    }

    fn wait(&mut self) {
        self.waiting.get_or_insert_with(Instant::now);
    }
}

fn is_later(error: &io::Error) -> bool {
    // A connection that is still being made: `NotConnected`.
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::NotConnected
    )
}

fn broken(error: &io::Error) -> Fault {
    let kind = match error.kind() {
        ErrorKind::ConnectionRefused => Kind::Refused,
        _ => Kind::Broken,
    };
    Fault::new(kind, error.to_string())
}
