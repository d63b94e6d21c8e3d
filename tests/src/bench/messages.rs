//! Clients that say something together and wait together until all is heard: messages as a load that
//! costs its clients little.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::plain::{Plain, TEXT, offset};
use crate::websocket::frame;

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Each says 20 bytes and hears them.
    Echo,
    /// Rooms of so many, and one of each says something that all of them hear.
    Room { members: usize },
}

pub struct Messages {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<io::Result<Vec<f64>>>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Messages that were said and wholly heard.
    done: AtomicU64,
}

impl Messages {
    /// So many clients in all; when it returns, they are connected.
    pub fn start(
        to: SocketAddr,
        kind: Kind,
        clients: usize,
        threads: usize,
    ) -> io::Result<Messages> {
        let shared = Arc::new(Shared::default());
        let mut running = Vec::new();
        for number in 0..threads {
            let shared = shared.clone();
            let clients = clients / threads;
            let mut talk: Box<dyn Talk> = match kind {
                Kind::Echo => Box::new(Echoes::connect(to, clients)?),
                Kind::Room { members } => Box::new(Rooms::connect(to, number, clients, members)?),
            };
            running.push(thread::spawn(move || {
                let mut waits = Vec::new();
                while !shared.stop.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    let done = talk.round()?;
                    waits.push(begin.elapsed().as_secs_f64() * 1e6);
                    shared.done.fetch_add(done, Ordering::Relaxed);
                }
                Ok(waits)
            }));
        }
        Ok(Messages {
            shared,
            threads: running,
        })
    }

    #[must_use]
    pub fn done(&self) -> u64 {
        self.shared.done.load(Ordering::Relaxed)
    }

    /// How long each time took, until all had heard all, in microseconds.
    pub fn end(self) -> io::Result<Vec<f64>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for thread in self.threads {
            all.extend(thread.join().expect("a thread of clients ends")?);
        }
        Ok(all)
    }
}

trait Talk: Send {
    /// All say it and all hear it; how many messages that were.
    fn round(&mut self) -> io::Result<u64>;
}

struct Echoes {
    clients: Vec<Plain>,
    frame: Vec<u8>,
}

const ECHO: &[u8] = b"twenty bytes of text";

impl Echoes {
    fn connect(to: SocketAddr, clients: usize) -> io::Result<Echoes> {
        let connect = |_| Plain::connect(to, "/echo");
        Ok(Echoes {
            clients: (0..clients).map(connect).collect::<io::Result<_>>()?,
            frame: frame(TEXT, ECHO),
        })
    }
}

impl Talk for Echoes {
    fn round(&mut self) -> io::Result<u64> {
        for client in &mut self.clients {
            client.say(&self.frame)?;
        }
        for client in &mut self.clients {
            let heard = client.hear()?;
            if heard != ECHO {
                return Err(io::Error::other(String::from_utf8_lossy(heard)));
            }
        }
        Ok(self.clients.len() as u64)
    }
}

struct Rooms {
    rooms: Vec<Room>,
}

/// With members at such workers as are wanted.
pub struct Room {
    members: Vec<Plain>,
    frame: Vec<u8>,
    offset: u64,
}

impl Rooms {
    fn connect(to: SocketAddr, thread: usize, clients: usize, members: usize) -> io::Result<Rooms> {
        let room = |number| Room::connect(to, &format!("{thread}-{number}"), members, |_| true);
        Ok(Rooms {
            rooms: (0..clients / members)
                .map(room)
                .collect::<io::Result<_>>()?,
        })
    }
}

impl Room {
    pub fn connect(
        to: SocketAddr,
        name: &str,
        members: usize,
        is_wanted: impl Fn(u64) -> bool,
    ) -> io::Result<Room> {
        let mut room = Room {
            members: Vec::new(),
            frame: frame(
                TEXT,
                format!(r#"{{"send":"{name}","data":"a message"}}"#).as_bytes(),
            ),
            offset: 0,
        };
        while room.members.len() < members {
            let (mut member, worker) = Plain::greeted(to)?;
            if !is_wanted(worker) {
                continue;
            }
            let joined = member.ask(&format!(r#"{{"id":1,"join":"{name}"}}"#))?;
            let at = offset(joined.as_bytes());
            room.offset = at.ok_or_else(|| io::Error::other(joined))?;
            room.members.push(member);
        }
        Ok(room)
    }

    /// The first member publishes.
    pub fn say(&mut self) -> io::Result<()> {
        match self.members.first_mut() {
            Some(member) => member.say(&self.frame),
            None => Ok(()),
        }
    }

    /// All hear the next message, and no other.
    pub fn hear(&mut self) -> io::Result<()> {
        self.offset += 1;
        for member in &mut self.members {
            let heard = member.hear()?;
            if offset(heard) != Some(self.offset) {
                return Err(io::Error::other(String::from_utf8_lossy(heard)));
            }
        }
        Ok(())
    }
}

impl Talk for Rooms {
    fn round(&mut self) -> io::Result<u64> {
        self.rooms.iter_mut().try_for_each(Room::say)?;
        self.rooms.iter_mut().try_for_each(Room::hear)?;
        Ok(self.rooms.len() as u64)
    }
}
