//! The floor: a server that accepts, reads, answers, unmasks and writes, as any server must, and
//! does nothing else. What it costs is the kernel's price of a load; what another costs above it is
//! that server's own. Run by `src/bin/bare.rs`.
//!
//! A worker is a thread with a listener and an edge-triggered epoll of its own. Each readiness is
//! one read and one write, however many requests or frames came with it; each member of a room gets
//! all that came in a turn with one write ([`rooms`]). Clients are trusted: it has no limits, no
//! timers, no logs, and sees nothing but what [`cost`](super::cost) sends.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use socket2::{Domain, Socket, Type};

use self::protocol::Protocol;
use self::rooms::{Inbox, Rooms};

mod protocol;
mod rooms;

/// What `GET /whoami` is answered; as long as a real one.
pub const BODY: &str = "handled by worker 1 (pid 12345)\n";

const LISTENER: Token = Token(usize::MAX);
const INBOX: Token = Token(usize::MAX - 1);
const BUFFER: usize = 128 << 10;

/// Workers of one address, which serve as long as the program runs.
pub fn workers(count: u32) -> io::Result<(SocketAddr, Vec<Worker>)> {
    let mut address = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut polls = Vec::new();
    let mut inboxes = Vec::new();
    for _ in 0..count {
        let listener = listen(address)?;
        address = listener.local_addr()?;
        let poll = Poll::new()?;
        inboxes.push(Inbox::new(Waker::new(poll.registry(), INBOX)?));
        polls.push((poll, listener));
    }
    let inboxes = Arc::new(inboxes);
    let workers = polls.into_iter().enumerate();
    let worker = |(number, (poll, listener))| Worker {
        poll,
        listener: TcpListener::from_std(listener),
        connections: Vec::new(),
        free: Vec::new(),
        rooms: Rooms::new(number, inboxes.clone()),
        input: vec![0; BUFFER],
        out: Vec::with_capacity(BUFFER),
    };
    Ok((address, workers.map(worker).collect()))
}

/// A listener that shares its address with others.
fn listen(at: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    // What is accepted has it, too.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&at.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

pub struct Worker {
    poll: Poll,
    listener: TcpListener,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    rooms: Rooms,
    input: Vec<u8>,
    out: Vec<u8>,
}

impl Worker {
    pub fn serve(mut self) -> io::Result<()> {
        let registry = self.poll.registry();
        registry.register(&mut self.listener, LISTENER, Interest::READABLE)?;
        let mut events = Events::with_capacity(1024);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    INBOX => self.rooms.take(),
                    Token(index) => self.turn(index, event.is_read_closed()),
                }
            }
            self.deliver()?;
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
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

    fn turn(&mut self, index: usize, ends: bool) {
        // An event of a connection that was closed in this very turn.
        let Some(connection) = &mut self.connections[index] else {
            return;
        };
        let before = connection.protocol;
        let next = connection.turn(&mut self.input, &mut self.out, &mut self.rooms, ends);
        if let Protocol::Room(room) = connection.protocol
            && before != connection.protocol
        {
            self.rooms.join(room, index);
        }
        self.goes_on(index, next);
    }

    /// What came for rooms goes to their members.
    fn deliver(&mut self) -> io::Result<()> {
        self.rooms.post()?;
        while let Some((room, bytes)) = self.rooms.next() {
            for place in 0..self.rooms.members(room).len() {
                let index = self.rooms.members(room)[place];
                if let Some(connection) = &mut self.connections[index] {
                    let next = connection.say(&bytes);
                    if !matches!(next, Ok(Next::Read)) {
                        self.goes_on(index, next);
                    }
                }
            }
            self.rooms.done(room, bytes);
        }
        Ok(())
    }

    fn goes_on(&mut self, index: usize, next: io::Result<Next>) {
        let Some(connection) = &mut self.connections[index] else {
            return;
        };
        let both = Interest::READABLE | Interest::WRITABLE;
        let (registry, token) = (self.poll.registry(), Token(index));
        let goes_on = match next {
            Ok(Next::Read) => true,
            Ok(Next::Write) => registry
                .reregister(&mut connection.stream, token, both)
                .is_ok(),
            Ok(Next::Close) | Err(_) => false,
        };
        if !goes_on {
            if let Protocol::Room(room) = connection.protocol {
                self.rooms.leave(room, index);
            }
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
    fn turn(
        &mut self,
        input: &mut [u8],
        out: &mut Vec<u8>,
        rooms: &mut Rooms,
        ends: bool,
    ) -> io::Result<Next> {
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
            let was = self.protocol;
            self.answer(&input[..read], out);
            if let Protocol::Room(room) = was {
                rooms.say(room, out);
                out.clear();
            }
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

    fn say(&mut self, bytes: &[u8]) -> io::Result<Next> {
        if !self.unsent.is_empty() {
            self.unsent.extend(bytes);
            return Ok(Next::Write);
        }
        match self.write(bytes)? {
            true => Ok(Next::Read),
            false => Ok(Next::Write),
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
