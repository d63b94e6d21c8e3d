//! The members of a fan-out that one thread speaks for.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::SockRef;

use super::clients::Got;
use super::dialect::{Opening, Room as Words, Until};
use super::fan_out::{PATIENCE, Shape, Shared};
use super::script;
use crate::socket::{self, loopback};

/// Members of a thread that join at the same time: servers keep only so many in their backlog.
const JOINING: usize = 32;
/// Who has not joined by then connects again.
const ANSWER: Duration = Duration::from_secs(5);
/// A thread looks around so often.
const PAUSE: Duration = Duration::from_millis(20);

const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;

pub struct Thread {
    shared: Arc<Shared>,
    number: usize,
    poll: Poll,
    /// For those who speak in texts, and for those who pack.
    words: [Vec<Words>; 2],
    members: Vec<Member>,
    buffer: Vec<u8>,
    /// Those that are about to join.
    joining: usize,
    measures: bool,
    done: u64,
    got: Got,
}

struct Member {
    stream: TcpStream,
    room: usize,
    packs: bool,
    publishes: bool,
    /// What it has still to say before it is in, and to hear, last first.
    openings: Vec<Opening>,
    /// It has said the last of them.
    said: bool,
    /// When it began to connect.
    since: Instant,
    /// The number of the message that is due.
    next: u64,
    /// The beginning of a frame.
    partial: Vec<u8>,
}

impl Thread {
    pub fn new(shared: Arc<Shared>, number: usize) -> Result<Thread, String> {
        let Shared { dialect, shape, .. } = *shared;
        Ok(Thread {
            words: [false, true].map(|packs| {
                let rooms = 0..shape.rooms;
                rooms.map(|room| dialect.room(room, packs)).collect()
            }),
            shared,
            number,
            poll: Poll::new().map_err(|error| format!("no epoll: {error}"))?,
            members: Vec::new(),
            buffer: vec![0; 256 << 10],
            joining: 0,
            measures: false,
            done: 0,
            got: Got::default(),
        })
    }

    pub fn run(mut self) -> Result<Got, String> {
        let Shape { rooms, members, .. } = self.shared.shape;
        let (number, threads) = (self.number, self.shared.done.len());
        let mut mine = (0..rooms * members)
            .map(|all| (all / members, all % members))
            .filter(move |(_, member)| member % threads == number);
        let mut events = Events::with_capacity(1024);
        let mut deadline = None;
        loop {
            while self.joining < JOINING
                && let Some((room, member)) = mine.next()
            {
                self.open(room, member)?;
            }
            match self.poll.poll(&mut events, Some(PAUSE)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                polled => polled.map_err(|error| format!("epoll: {error}"))?,
            }
            let mut buffer = std::mem::take(&mut self.buffer);
            for event in &events {
                self.ready(event.token().0, &mut buffer)?;
            }
            self.buffer = buffer;
            self.shared.done[self.number].store(self.done, Ordering::Relaxed);
            self.measure();
            if self.joining > 0 {
                self.come_again()?;
            }
            if self.shared.is_failed() {
                return Ok(self.got);
            }
            if self.shared.is_stopping() {
                if self.shared.busy.load(Ordering::Relaxed) == 0 {
                    return Ok(self.got);
                }
                if *deadline.get_or_insert_with(Instant::now) + PATIENCE < Instant::now() {
                    return Err(self.tell_who_waits());
                }
            }
        }
    }

    fn open(&mut self, room: usize, member: usize) -> Result<(), String> {
        let Shared {
            to, dialect, shape, ..
        } = *self.shared;
        let member = Member {
            stream: self.connect(self.members.len())?,
            room,
            packs: dialect.packs(member),
            publishes: member == shape.publisher(room),
            openings: dialect.openings(to, room, dialect.packs(member)),
            said: false,
            since: Instant::now(),
            next: 0,
            partial: Vec::new(),
        };
        self.members.push(member);
        self.joining += 1;
        Ok(())
    }

    fn connect(&self, index: usize) -> Result<TcpStream, String> {
        let broken = |error| format!("a member cannot connect: {error}");
        let from = loopback(self.number as u32 * 100_000 + index as u32 / 5000);
        let stream = socket::connect_later(self.shared.to, Some(from)).map_err(broken)?;
        let mut stream = TcpStream::from_std(stream);
        let both = Interest::READABLE | Interest::WRITABLE;
        let registered = self
            .poll
            .registry()
            .register(&mut stream, Token(index), both);
        registered.map_err(broken)?;
        Ok(stream)
    }

    /// Lets those come again whom the server leaves without an answer. Socket.IO does, sometimes:
    /// what comes while a connection goes to another process may be lost.
    fn come_again(&mut self) -> Result<(), String> {
        for index in 0..self.members.len() {
            let member = &self.members[index];
            if member.openings.is_empty() || member.since.elapsed() < ANSWER {
                continue;
            }
            let stream = self.connect(index)?;
            let Shared { to, dialect, .. } = *self.shared;
            let openings = dialect.openings(to, member.room, member.packs);
            let member = &mut self.members[index];
            (member.stream, member.openings) = (stream, openings);
            (member.said, member.since) = (false, Instant::now());
            member.partial.clear();
        }
        Ok(())
    }

    /// Something has happened on its socket.
    fn ready(&mut self, index: usize, buffer: &mut [u8]) -> Result<(), String> {
        self.members[index].say()?;
        loop {
            match self.members[index].stream.read(buffer) {
                Ok(0) => return Err(self.tell(index, "it was closed")),
                Ok(read) => {
                    self.hear(index, &buffer[..read])?;
                    // A read that did not fill the buffer has emptied the socket.
                    if read < buffer.len() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(self.tell(index, &error.to_string())),
            }
        }
    }

    fn hear(&mut self, index: usize, bytes: &[u8]) -> Result<(), String> {
        let mut partial = std::mem::take(&mut self.members[index].partial);
        // Mostly frames come whole, and are not copied.
        if partial.is_empty() {
            let taken = self.hear_all(index, bytes)?;
            partial.extend(&bytes[taken..]);
        } else {
            partial.extend(bytes);
            let taken = self.hear_all(index, &partial)?;
            partial.drain(..taken);
        }
        self.members[index].partial = partial;
        Ok(())
    }

    /// Hears all that is whole; how much that is.
    fn hear_all(&mut self, index: usize, bytes: &[u8]) -> Result<usize, String> {
        let (mut taken, mut delivered) = (0, 0);
        while let Some(length) = self.hear_one(index, &bytes[taken..], &mut delivered)? {
            taken += length;
        }
        if delivered == 0 {
            return Ok(taken);
        }
        let room = self.members[index].room;
        self.done += delivered;
        if self.measures {
            let now = self.shared.start.elapsed().as_nanos() as u64;
            let said_at = self.shared.rooms[room].said_at.load(Ordering::Acquire);
            self.got.waits.add(now.saturating_sub(said_at), delivered);
            self.got.deliveries += delivered;
        }
        self.shared.delivered(room, delivered)?;
        Ok(taken)
    }

    /// The length of what these bytes begin with, if that is whole.
    fn hear_one(
        &mut self,
        index: usize,
        bytes: &[u8],
        delivered: &mut u64,
    ) -> Result<Option<usize>, String> {
        let member = &mut self.members[index];
        let opening = member.openings.last();
        if let Some(Opening {
            until: Until::Head(field),
            ..
        }) = opening
        {
            let Some(end) = find(bytes, b"\r\n\r\n") else {
                return Ok(None);
            };
            if find(bytes, field.as_bytes()).is_none() {
                return Err(self.tell(index, &format!("it got {}", script::show(bytes))));
            }
            self.goes_on(index)?;
            return Ok(Some(end + 4));
        }
        let Some((first, head, length)) = server_frame(bytes) else {
            return Ok(None);
        };
        let payload = &bytes[head..length];
        if let Some(pong) = self.shared.dialect.pong(first & 0x0f, payload) {
            let written = member.stream.write(&pong);
            written.map_err(|error| self.tell(index, &error.to_string()))?;
            return Ok(Some(length));
        }
        let is_word = first & 0x0f == if member.packs { BINARY } else { TEXT };
        match (is_word, opening) {
            (
                true,
                Some(Opening {
                    until: Until::Text(text),
                    ..
                }),
            ) => {
                if find(payload, text.as_bytes()).is_some() {
                    self.goes_on(index)?;
                }
            }
            (true, None) => {
                let words = &self.words[usize::from(member.packs)][member.room];
                if self.shared.dialect.delivered(words, payload) != Some(member.next) {
                    let (next, got) = (member.next, script::show(payload));
                    return Err(self.tell(index, &format!("message {next} is due, it got {got}")));
                }
                member.next += 1;
                *delivered += 1;
            }
            _ => return Err(self.tell(index, &format!("it got {}", script::show(bytes)))),
        }
        Ok(Some(length))
    }

    /// A member has heard what it waited for, and says the next, or has joined.
    fn goes_on(&mut self, index: usize) -> Result<(), String> {
        let member = &mut self.members[index];
        member.openings.pop();
        member.said = false;
        if member.openings.is_empty() {
            acknowledge_what_is_read(&member.stream)
                .map_err(|error| format!("a member has no TCP_QUICKACK: {error}"))?;
            if member.publishes {
                let stream = member.stream.as_fd().try_clone_to_owned();
                let stream = stream.map_err(|error| format!("a publisher: {error}"))?;
                let is_first = self.shared.rooms[member.room].publisher.set(stream.into());
                assert!(is_first.is_ok(), "a room has one publisher");
            }
            self.joining -= 1;
            self.shared.joined.fetch_add(1, Ordering::Release);
        }
        member.say()
    }

    /// Begins or ends to count, if that is wanted.
    fn measure(&mut self) {
        let measures = self.shared.measure.load(Ordering::Relaxed);
        if measures == self.measures {
            return;
        }
        self.measures = measures;
        let pieces = self.members.iter().map(|member| pieces(&member.stream));
        let pieces: u64 = pieces.sum();
        self.got.pieces = match measures {
            // What came before does not count.
            true => pieces,
            false => pieces - self.got.pieces,
        };
    }

    fn tell(&self, index: usize, what: &str) -> String {
        let room = self.members[index].room;
        format!("a member of room {room}: {what}")
    }

    fn tell_who_waits(&self) -> String {
        let rooms = self.shared.rooms.iter().enumerate();
        let mut left = rooms.map(|(number, room)| (number, room.left.load(Ordering::Relaxed)));
        match left.find(|(_, left)| *left > 0) {
            Some((room, left)) => format!("room {room}: {left} deliveries never came"),
            None => "all was delivered, and somebody waits".to_owned(),
        }
    }
}

impl Member {
    /// Says what is next, as soon as it has connected.
    fn say(&mut self) -> Result<(), String> {
        let Some(opening) = self.openings.last() else {
            return Ok(());
        };
        if self.said {
            return Ok(());
        }
        match self.stream.write(&opening.says) {
            Ok(written) if written == opening.says.len() => self.said = true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            other => return Err(format!("a member cannot write: {other:?}")),
        }
        Ok(())
    }
}

/// A frame of a server: its first byte, where its payload begins and ends.
fn server_frame(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let (head, length) = match second {
        126 => (
            4,
            usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)),
        ),
        // Too long to be one of those that are expected.
        127.. => (2, 0),
        short => (2, usize::from(short)),
    };
    (bytes.len() >= head + length).then_some((first, head, head + length))
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, what)
}

/// From here on it listens, as viewers do. A client that has just asked something holds its
/// acknowledgements back, to send them with what it says next; if it says nothing, every second one is
/// sent while the server writes, in the time of the server's process, and not in that of the client,
/// which reads. Servers differ in what is asked before one is a member, and must not differ in that
/// (tcp(7), `TCP_QUICKACK`).
fn acknowledge_what_is_read(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_tcp_quickack(true)
}

/// Segments with data that it has received. On loopback a write that is smaller than a segment, and
/// not held back, is one.
fn pieces(stream: &TcpStream) -> u64 {
    // SAFETY: numbers, for which zero is as good as any.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: getsockopt(2) writes no more than `length` bytes to `info`; both live over the call.
    let got = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    assert_eq!(got, 0, "TCP_INFO of a socket of ours");
    info.tcpi_data_segs_in.into()
}
