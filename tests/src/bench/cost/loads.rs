//! The loads, and what baton wants to cost under each.

use super::clients::Clients;
use super::dialect::ACCEPT;
use super::driver::{Driver, Threads};
use super::fan_out::{FanOut, Shape};
use super::script::{Answer, Script, learn};
use super::servers::{Can, Kind, Server};
use crate::websocket::{frame, handshake};

pub struct Load {
    pub name: &'static str,
    pub about: &'static str,
    /// One: the server has one core to itself, and the clients another. Two: all share both.
    pub workers: u32,
    clients: usize,
    talk: Talk,
    pub goals: &'static [Goal],
    /// Whom the floor is compared with, to see whether it is one.
    pub floor: Option<Floor>,
}

enum Talk {
    /// One request, and the end.
    Close,
    /// One request after the other.
    KeepAlive,
    /// A WebSocket is opened, and closed.
    Handshake,
    /// So many messages of so many bytes, again when all have come back.
    Echo { bytes: usize, depth: usize },
    /// Rooms, in each of which one publishes.
    FanOut(Shape),
}

/// At most so many times as much as this one.
#[derive(Clone, Copy)]
pub struct Goal {
    pub than: Kind,
    pub times: f64,
}

/// The floor costs so many times as much as this one, as it was measured elsewhere; `None`: that
/// is not known.
#[derive(Clone, Copy)]
pub struct Floor {
    pub beside: Kind,
    pub times: Option<f64>,
}

const fn goal(times: f64, than: Kind) -> Goal {
    Goal { than, times }
}

const fn floor(beside: Kind, times: Option<f64>) -> Option<Floor> {
    Some(Floor { beside, times })
}

const fn echo(
    name: &'static str,
    about: &'static str,
    clients: usize,
    bytes: usize,
    depth: usize,
    floor: Option<Floor>,
) -> Load {
    Load {
        name,
        about,
        workers: 1,
        clients,
        talk: Talk::Echo { bytes, depth },
        goals: const { &[goal(1.0, Kind::Bare)] },
        floor,
    }
}

const fn fan_out(
    name: &'static str,
    about: &'static str,
    rooms: usize,
    members: usize,
    goals: &'static [Goal],
) -> Load {
    let shape = Shape {
        rooms,
        members,
        depth: 8,
    };
    Load {
        name,
        about,
        workers: 2,
        clients: rooms * members,
        talk: Talk::FanOut(shape),
        goals,
        floor: floor(Kind::Tungstenite, None),
    }
}

pub const LOADS: [Load; 9] = [
    Load {
        name: "http-close",
        about: "HTTP: connection, request, close",
        workers: 2,
        clients: 64,
        talk: Talk::Close,
        goals: &[goal(1.35, Kind::Bare)],
        floor: floor(Kind::Nginx, Some(13.0 / 17.8)),
    },
    Load {
        name: "http-keepalive",
        about: "HTTP: request on a connection that stays",
        workers: 1,
        clients: 64,
        talk: Talk::KeepAlive,
        goals: &[goal(0.8, Kind::Nginx)],
        floor: floor(Kind::Nginx, None),
    },
    Load {
        name: "handshake",
        about: "WebSocket: opened and closed",
        workers: 2,
        clients: 64,
        talk: Talk::Handshake,
        goals: &[goal(1.25, Kind::Bare)],
        floor: floor(Kind::Tungstenite, Some(21.2 / 26.6)),
    },
    echo(
        "echo-20",
        "Echo of 20 bytes",
        64,
        20,
        1,
        floor(Kind::Tungstenite, None),
    ),
    echo(
        "echo-1k",
        "Echo of 1 KiB",
        64,
        1 << 10,
        1,
        floor(Kind::Tungstenite, None),
    ),
    echo(
        "echo-16k",
        "Echo of 16 KiB",
        64,
        16 << 10,
        1,
        floor(Kind::Tungstenite, None),
    ),
    echo(
        "echo-deep",
        "Echo of 20 bytes, eight at once",
        200,
        20,
        8,
        floor(Kind::Tungstenite, Some(0.69 / 3.0)),
    ),
    fan_out(
        "fanout-1x1000",
        "Delivery in a room of 1,000",
        1,
        1_000,
        &[goal(1.2, Kind::Bare), goal(1.0, Kind::Tungstenite)],
    ),
    fan_out(
        "fanout-100x50",
        "Delivery in 100 rooms of 50",
        100,
        50,
        &[goal(1.2, Kind::Bare)],
    ),
];

/// The core of a server with one worker, and that of its clients.
pub const SERVERS_CORE: usize = 0;
const CLIENTS_CORE: usize = 1;

/// FIN and the opcode.
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;

impl Load {
    pub fn is_for(&self, server: Kind) -> bool {
        let what = match self.talk {
            Talk::Close | Talk::KeepAlive => Can::Http,
            Talk::Handshake | Talk::Echo { .. } => Can::Echo,
            Talk::FanOut(_) => Can::Rooms,
        };
        server.can(what, self.workers)
    }

    fn threads(&self) -> Threads {
        match self.workers {
            1 => Threads::OnCore(CLIENTS_CORE),
            workers => Threads::Anywhere(workers as usize),
        }
    }

    /// Sets them to work.
    pub fn clients(&self, server: &Server) -> Result<Clients, String> {
        let to = server.address;
        let request = |end| format!("GET /whoami HTTP/1.1\r\nHost: {to}\r\n{end}\r\n").into_bytes();
        let open = handshake(to, "/echo").into_bytes();
        let pages = |request: &[u8]| learn(to, request, "HTTP/1.1 200 OK\r\n", &server.bodies);
        let opens = || learn(to, &open, ACCEPT, &[String::new()]);
        let script = match self.talk {
            Talk::FanOut(shape) => {
                let fan_out = FanOut::start(to, server.dialect, shape, self.threads().count())?;
                return Ok(Clients::Together(fan_out));
            }
            Talk::Close => {
                let request = request("Connection: close\r\n");
                let answers = pages(&request)?;
                Script::once().then(request, answers)
            }
            Talk::KeepAlive => {
                let request = request("");
                let answers = pages(&request)?;
                Script::forever(1).then(request, answers)
            }
            Talk::Handshake => {
                let answers = opens()?;
                let normal = 1000_u16.to_be_bytes();
                let closed = Answer::exactly(unmasked(CLOSE, &normal));
                Script::once()
                    .then(open, answers)
                    .then(frame(CLOSE, &normal), vec![closed])
            }
            Talk::Echo { bytes, depth } => {
                let answers = opens()?;
                let payload: Vec<u8> = (0..bytes).map(|number| number as u8).collect();
                let echoes = Answer::exactly(unmasked(BINARY, &payload).repeat(depth));
                Script::forever(depth as u64)
                    .then(open, answers)
                    .then(frame(BINARY, &payload).repeat(depth), vec![echoes])
            }
        };
        let driver = Driver::start(to, script, self.clients, self.threads());
        Ok(Clients::Alone(driver))
    }
}

/// A frame of a server.
fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match u8::try_from(payload.len()) {
        Ok(short @ 0..=125) => bytes.push(short),
        _ => {
            let length = u16::try_from(payload.len()).expect("a message of less than 64 KiB");
            bytes.push(126);
            bytes.extend(length.to_be_bytes());
        }
    }
    bytes.extend(payload);
    bytes
}
