//! Thousands of clients in one thread.
//!
//! 1. [`Talk`]: what one client says and hears, without a socket or a clock.
//! 2. [`Load`]: the loop that drives them: it writes in pieces of odd sizes at moments of its own,
//!    reads what comes, and notes what goes wrong and how long each client was left waiting.
//! 3. [`wire`]: the WebSocket's bytes; [`random`]: dice with a seed.

mod connection;
pub mod random;
pub mod wire;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use connection::Connection;
pub use connection::Manner;
pub use random::Random;

/// One client, as bytes in and bytes out. `W` is what all of them share.
pub trait Talk<W> {
    /// Who it is, for reports.
    fn name(&self) -> String;

    /// Appends the next that it has to say, if anything: a message, or some.
    fn speak(&mut self, world: &mut W, out: &mut Vec<u8>);

    fn hear(&mut self, world: &mut W, bytes: &[u8]) -> Result<Heard, Fault>;

    /// The server has ended the stream. Is that right?
    fn ended(&mut self, world: &mut W) -> Result<(), Fault>;

    /// The server has been asked something and owes an answer.
    fn expects(&self) -> bool;

    /// It goes away now by itself, whatever it waits for; so many bytes of what it says are not written.
    fn leaves(&self, _world: &W, _rest: usize) -> bool {
        false
    }

    /// Its connection is gone, by a fault or not.
    fn over(&mut self, _world: &mut W) {}
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The talk goes on.
    On,
    /// It is over, and the client closes.
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The server ended the connection.
    Closed,
    /// A reset, or another error of the network.
    Broken,
    /// No connection, or an answer that says no.
    Refused,
    /// Bytes that should not be.
    Wrong,
    /// A message never came.
    Lost,
    /// A message came twice.
    Doubled,
    /// A message came before another that it should follow.
    Disorder,
    /// No answer.
    Silent,
    /// A command of the operator did not do what it should.
    Command,
    /// A brain of baton panicked.
    Panic,
}

/// Something that must not happen.
#[derive(Clone, Debug)]
pub struct Fault {
    pub kind: Kind,
    pub what: String,
}

impl Fault {
    pub fn new(kind: Kind, what: impl Into<String>) -> Fault {
        Fault {
            kind,
            what: what.into(),
        }
    }
}

/// A fault, with whose it is and when it was seen.
#[derive(Clone, Debug)]
pub struct Failure {
    pub at: Instant,
    pub who: String,
    pub fault: Fault,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?}: {}: {}",
            self.fault.kind, self.who, self.fault.what
        )
    }
}

/// The longest pause of those who are in a hurry.
const HURRY: Duration = Duration::from_millis(20);

/// All clients, and what drives them.
pub struct Load<W> {
    /// What the talks share.
    pub world: W,
    pub failures: Vec<Failure>,
    hurry: bool,
    to: SocketAddr,
    poll: Poll,
    connections: Vec<Option<Connection<W>>>,
    free: Vec<usize>,
    /// When who acts next; the serial tells a connection from the one before it at this index.
    due: BinaryHeap<Reverse<(Instant, usize, u64)>>,
    serial: u64,
    random: Random,
    buffer: Vec<u8>,
    /// The longest wait of every connection that is gone.
    waits: Vec<Duration>,
}

impl<W> Load<W> {
    pub fn new(to: SocketAddr, random: Random, world: W) -> io::Result<Load<W>> {
        Ok(Load {
            world,
            failures: Vec::new(),
            hurry: false,
            to,
            poll: Poll::new()?,
            connections: Vec::new(),
            free: Vec::new(),
            due: BinaryHeap::new(),
            serial: 0,
            random,
            buffer: vec![0; 64 << 10],
            waits: Vec::new(),
        })
    }

    /// Connects one more.
    pub fn open(&mut self, talk: Box<dyn Talk<W>>, manner: Manner) {
        self.open_to(self.to, talk, manner);
    }

    /// Connects one more to another listener.
    pub fn open_to(&mut self, to: SocketAddr, mut talk: Box<dyn Talk<W>>, manner: Manner) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        self.serial += 1;
        let random = Random::new(self.random.next());
        match connection::connect(to, manner, self.poll.registry(), Token(index)) {
            Ok(stream) => {
                let connection = Connection::new(stream, talk, manner, random, self.serial);
                self.connections[index] = Some(connection);
                self.act_at(index, Instant::now());
            }
            Err(error) => {
                self.free.push(index);
                talk.over(&mut self.world);
                let fault = Fault::new(Kind::Refused, format!("connect: {error}"));
                self.fail(talk.name(), fault);
            }
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.connections.len() - self.free.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those that have said something and wait for an answer, or are in the middle of a word.
    pub fn waiting(&self) -> impl Iterator<Item = &dyn Talk<W>> {
        let all = self.connections.iter().flatten();
        all.filter(|connection| connection.is_waiting())
            .map(|connection| &*connection.talk)
    }

    pub fn talks(&self) -> impl Iterator<Item = &dyn Talk<W>> {
        let all = self.connections.iter().flatten();
        all.map(|connection| &*connection.talk)
    }

    /// Lets so many say at once all that they were about to say, whose turn it is not.
    pub fn wave(&mut self, many: usize) {
        let now = Instant::now();
        if self.connections.is_empty() {
            return;
        }
        for _ in 0..many {
            let index = self.random.below(self.connections.len() as u64) as usize;
            if let Some(connection) = &mut self.connections[index] {
                connection.in_one = true;
            }
            self.act_at(index, now);
        }
    }

    /// From now on nobody thinks long, or reads slowly; or all do again what they did.
    pub fn hurry(&mut self, hurry: bool) {
        self.hurry = hurry;
        for index in 0..self.connections.len() {
            self.act_at(index, Instant::now());
        }
    }

    /// For each connection there has been, the longest that it waited for an answer; sorted.
    #[must_use]
    pub fn waits(&self) -> Vec<Duration> {
        let mut waits = self.waits.clone();
        waits.extend(self.connections.iter().flatten().filter_map(|c| c.longest));
        waits.sort_unstable();
        waits
    }

    /// Waits for what happens until then at the latest, and deals with it.
    pub fn turn(&mut self, until: Instant, events: &mut Events) -> io::Result<()> {
        let next = self.due.peek().map_or(until, |Reverse((at, ..))| *at);
        let timeout = next.min(until).saturating_duration_since(Instant::now());
        match self.poll.poll(events, Some(timeout)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        }
        for event in &*events {
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                self.with(event.token().0, Connection::read);
            }
        }
        let now = Instant::now();
        while let Some(Reverse((at, index, serial))) = self.due.peek().copied()
            && at <= now
        {
            self.due.pop();
            let current = self.connections[index].as_ref();
            if current.is_some_and(|c| c.serial == serial && c.due == at) {
                self.with(index, Connection::act);
                if let Some(connection) = &mut self.connections[index] {
                    let after = match self.hurry {
                        true => connection.pause().min(HURRY),
                        false => connection.pause(),
                    };
                    self.act_at(index, now + after);
                }
            }
        }
        Ok(())
    }

    /// Fails everybody who waits for an answer longer than `patience`.
    pub fn check(&mut self, patience: Duration) {
        let now = Instant::now();
        for index in 0..self.connections.len() {
            if let Some(connection) = &self.connections[index]
                && let Some(since) = connection.waiting
                && now - since > patience
            {
                let what = format!("nothing for {:?}", now - since);
                self.end(index, Err(Fault::new(Kind::Silent, what)));
            }
        }
    }

    /// Somebody's fault, who may be no connection of ours.
    pub fn fail(&mut self, who: String, fault: Fault) {
        self.failures.push(Failure {
            at: Instant::now(),
            who,
            fault,
        });
    }

    fn act_at(&mut self, index: usize, at: Instant) {
        if let Some(connection) = &mut self.connections[index] {
            connection.due = at;
            self.due.push(Reverse((at, index, connection.serial)));
        }
    }

    fn with(
        &mut self,
        index: usize,
        act: impl FnOnce(&mut Connection<W>, &mut W, &mut [u8]) -> Result<Heard, Fault>,
    ) {
        let Some(connection) = &mut self.connections[index] else {
            return;
        };
        match act(connection, &mut self.world, &mut self.buffer) {
            Ok(Heard::On) => {}
            Ok(Heard::Done) => self.end(index, Ok(())),
            Err(fault) => self.end(index, Err(fault)),
        }
    }

    fn end(&mut self, index: usize, how: Result<(), Fault>) {
        let Some(mut connection) = self.connections[index].take() else {
            return;
        };
        self.free.push(index);
        connection.talk.over(&mut self.world);
        self.waits.extend(connection.longest);
        if let Err(fault) = how {
            self.fail(connection.describe(), fault);
        }
    }
}
