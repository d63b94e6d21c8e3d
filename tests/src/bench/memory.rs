//! What a connection takes of memory: growth of all processes of a server, divided by the number of
//! connections, and what is left of it when all have gone.
//!
//! Memory is PSS without files on a disk: what several processes have mapped counts once. The
//! kernel's own, for sockets, is the same whoever serves and not in it. A server is looked at when its
//! memory does not change any more. Connections come from many addresses, and all are open at the
//! same time.
//!
//! A page of a worker's program (a copy in memory) counts from when it is first used; so do the stack,
//! and what the allocator keeps of what it got back. None of it is a connection's, so idle ones come
//! twice: what the first take more than the second is taken once.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use super::cost::dialect::{self, Opening, Until};
use super::cost::servers::{Can, Kind, Server};
use super::{Cell, Options, Subject, Table};
use crate::socket::{self, loopback};
use crate::websocket::{frame, handshake};
use crate::{eventually, process};

pub const SUBJECT: Subject = Subject {
    name: "memory",
    about: "bytes of memory that a connection takes, and gives back",
    peers: &[
        "bare",
        "tungstenite",
        "fastwebsockets",
        "uws",
        "ws",
        "ws-cluster",
        "socket.io",
    ],
    run,
};

const KINDS: [Kind; 8] = [
    Kind::Baton,
    Kind::Bare,
    Kind::Tungstenite,
    Kind::FastWebSockets,
    Kind::UWebSockets,
    Kind::Ws,
    Kind::WsCluster,
    Kind::SocketIo,
];

/// Unless it is said otherwise.
const CONNECTIONS: usize = 10_000;
/// What an idle connection may take of baton.
const GOAL: f64 = 256.0;
/// Rooms, over which members are spread.
const ROOMS: usize = 100;
/// Rooms that a client of baton joins.
const JOINED: usize = 10;
/// Memory that has not changed by a hundredth for so long changes no more, or it is given up.
const STILL: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(20);
/// A client that waits for longer connects anew.
const ANSWER: Duration = Duration::from_millis(500);

const COLUMNS: [&str; 6] = [
    "server",
    "what",
    "MiB before",
    "MiB full",
    "bytes each",
    "left",
];

fn run(options: &Options) -> Result<Vec<Table>, String> {
    process::raise_open_files();
    let (count, workers) = (options.connections(CONNECTIONS), options.workers);
    let title = format!("memory: {count} connections, {workers} workers");
    let mut table = Table::new(title, &COLUMNS);
    let wanted = |kind: &Kind| *kind == Kind::Baton || options.wants(kind.name());
    for kind in KINDS.into_iter().filter(wanted) {
        if !kind.is_there() {
            let name = kind.name();
            return Err(format!("there is no {name}: scripts/bench gets it"));
        }
        for what in kinds_of_clients(kind, workers) {
            let Some(server) = kind.start(workers) else {
                let mut row = vec![Cell::none(); COLUMNS.len()];
                row[..2].clone_from_slice(&[kind.name(), "absent"].map(Cell::text));
                table.push(row);
                break;
            };
            if let Err(reason) = measure(kind, &server, what, count, &mut table) {
                table.fail(format!("{}, {}: {reason}", kind.name(), name(what)));
            }
        }
    }
    Ok(vec![table])
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Echo,
    /// Members of rooms.
    Members,
    /// Of baton: those who have been greeted, and then join.
    Identities,
}

fn kinds_of_clients(kind: Kind, workers: u32) -> Vec<What> {
    let mut all = Vec::new();
    if kind.can(Can::Echo, workers) {
        all.push(What::Echo);
    }
    match kind {
        Kind::Baton => all.push(What::Identities),
        // Its rooms know nothing but who is in them.
        Kind::Bare => {}
        _ if kind.can(Can::Rooms, workers) => all.push(What::Members),
        _ => {}
    }
    all
}

/// Those who are idle come twice: what nobody brings along but the first ones is no connection's.
fn measure(
    kind: Kind,
    server: &Server,
    what: What,
    count: usize,
    table: &mut Table,
) -> Result<(), String> {
    let files = files(server);
    let waves: &[&str] = match what {
        What::Echo => &[name(what), "idle /echo, again"],
        What::Members | What::Identities => &[name(what)],
    };
    let mut empty = settled(server);
    for wave in waves {
        let mut clients = come(kind, server, what, count, table)?;
        let full = settled(server);
        let mut rows = vec![(*wave, empty, full, count)];
        if what == What::Identities {
            for (number, client) in clients.iter_mut().enumerate() {
                let joined = client.join(number);
                joined.map_err(|error| format!("member {number}: {error}"))?;
            }
            rows.push(("subscription", full, settled(server), count * JOINED));
        }
        drop(clients);
        eventually("all have gone", || self::files(server) <= files);
        let left = settled(server);
        if kind == Kind::Baton && what == What::Echo {
            let bytes = each(full, empty, count);
            let verdict = match bytes <= GOAL * 1.03 {
                true => "met",
                false => "missed",
            };
            table.note(format!(
                "{wave}: baton takes {bytes:.0} bytes of a connection, wanted {GOAL}: {verdict}"
            ));
        }
        let last = rows.len() - 1;
        for (number, (name, before, after, count)) in rows.into_iter().enumerate() {
            table.push(vec![
                Cell::text(kind.name()),
                Cell::text(name),
                mebibytes(before),
                mebibytes(after),
                Cell::number(each(after, before, count), 0),
                match number == last {
                    true => Cell::number(each(left, empty, count), 0),
                    false => Cell::none(),
                },
            ]);
        }
        empty = left;
    }
    Ok(())
}

/// All connections, open at the same time.
fn come(
    kind: Kind,
    server: &Server,
    what: What,
    count: usize,
    table: &mut Table,
) -> Result<Vec<Client>, String> {
    let mut clients = Vec::with_capacity(count);
    let mut again = 0;
    while clients.len() < count {
        let number = clients.len();
        match open(server, what, number) {
            Ok(client) => clients.push(client),
            Err(e) if e.kind() == ErrorKind::WouldBlock && again < count => again += 1,
            Err(error) => return Err(format!("connection {number}: {error}")),
        }
    }
    if again > 0 {
        let (server, ms) = (kind.name(), ANSWER.as_millis());
        table.note(format!(
            "{server}: {again} clients had no answer after {ms} ms, and connected anew"
        ));
    }
    Ok(clients)
}

/// By how much memory is more, for each of so many.
fn each(bytes: u64, than: u64, count: usize) -> f64 {
    (bytes as f64 - than as f64) / count as f64
}

fn name(what: What) -> &'static str {
    match what {
        What::Echo => "idle /echo",
        What::Members => "member of a room",
        What::Identities => "idle /rooms",
    }
}

fn mebibytes(bytes: u64) -> Cell {
    Cell::number(bytes as f64 / f64::from(1 << 20), 1)
}

/// Files that the server has open, in all of its processes.
fn files(server: &Server) -> usize {
    server.pids.iter().map(|pid| process::fds(*pid)).sum()
}

/// Its memory, when that does not change any more.
fn settled(server: &Server) -> u64 {
    let start = Instant::now();
    let mut memory = server.memory();
    let mut since = start;
    while since.elapsed() < STILL && start.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(200));
        let now = server.memory();
        if now.abs_diff(memory) > memory / 100 {
            since = Instant::now();
            memory = now;
        }
    }
    server.memory()
}

/// A client, and what it has heard that nobody waited for yet.
struct Client {
    stream: TcpStream,
    heard: Vec<u8>,
}

fn open(server: &Server, what: What, number: usize) -> std::io::Result<Client> {
    let to = server.address;
    let options = socket::Options {
        from: Some(loopback(number as u32 / 5000)),
        ..socket::Options::default()
    };
    let mut client = Client {
        stream: socket::connect_with(to, options)?,
        heard: Vec::new(),
    };
    client.stream.set_read_timeout(Some(ANSWER))?;
    let plain = |path| Opening {
        says: handshake(to, path).into_bytes(),
        until: Until::Head(dialect::ACCEPT),
    };
    match what {
        What::Echo => client.say(&plain("/echo"))?,
        What::Identities => client.say(&plain("/rooms"))?,
        What::Members => {
            let openings = server.dialect.openings(to, number % ROOMS, false);
            for opening in openings.iter().rev() {
                client.say(opening)?;
            }
        }
    }
    Ok(client)
}

impl Client {
    /// Joins rooms of its own choice.
    fn join(&mut self, number: usize) -> std::io::Result<()> {
        for room in (number..number + JOINED).map(|room| room % ROOMS) {
            let join = format!("{{\"id\":{room},\"join\":\"r{room}\"}}");
            self.say(&Opening {
                says: frame(0x81, join.as_bytes()),
                until: Until::Text("\"ok\":{\"pos\":"),
            })?;
        }
        Ok(())
    }

    /// Says it, and reads until it is answered. What comes behind the answer is for the next time.
    fn say(&mut self, opening: &Opening) -> std::io::Result<()> {
        self.stream.write_all(&opening.says)?;
        let (Until::Head(text) | Until::Text(text)) = opening.until;
        let mut buffer = [0; 4096];
        loop {
            if let Some(at) = memchr::memmem::find(&self.heard, text.as_bytes()) {
                self.heard.drain(..at + text.len());
                self.heard.shrink_to_fit();
                return Ok(());
            }
            match self.stream.read(&mut buffer)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                read => self.heard.extend(&buffer[..read]),
            }
        }
    }
}
