//! The master's side of the control socket: clients, and one request of each at a time.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::socket::{SockFlag, accept4};

use super::{Answer, MAX_REQUEST, Request, may_ask};

/// Clients at once; one more is turned away.
const MAX_CLIENTS: usize = 64;
/// Bytes that may wait for a client that does not read.
const MAX_UNREAD: usize = 256 << 10;

/// Those who have connected, and what each has said.
#[derive(Debug)]
pub struct Server {
    clients: BTreeMap<usize, Client>,
    next: usize,
    fresh: Vec<usize>,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Its last request has not been answered.
    waits: bool,
    /// It says nothing more.
    ended: bool,
}

/// What a client has said.
#[derive(Debug)]
pub enum Heard {
    /// Nothing whole yet, or nothing before it is answered.
    Nothing,
    Request(Request),
    /// To be answered with this error.
    Nonsense(String),
    Gone,
}

impl Default for Server {
    fn default() -> Self {
        Server::new()
    }
}

impl Server {
    #[must_use]
    pub fn new() -> Server {
        Server {
            clients: BTreeMap::new(),
            next: 0,
            fresh: Vec::new(),
        }
    }

    /// Takes all who knock. An error: there is no fd to be had.
    pub fn accept(&mut self, listener: &OwnedFd) -> io::Result<()> {
        loop {
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let fd = match accept4(listener.as_raw_fd(), flags) {
                // SAFETY: the kernel has just made it for us.
                Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd) },
                Err(Errno::EAGAIN) => return Ok(()),
                Err(error @ (Errno::EMFILE | Errno::ENFILE)) => return Err(error.into()),
                Err(_) => continue,
            };
            if !may_ask(&fd) {
                log::warn!("the control socket is not for that user");
            } else if self.clients.len() >= MAX_CLIENTS {
                log::warn!("too many clients at the control socket");
            } else {
                let client = Client {
                    stream: UnixStream::from(fd),
                    input: Vec::new(),
                    output: Vec::new(),
                    waits: false,
                    ended: false,
                };
                self.clients.insert(self.next, client);
                self.fresh.push(self.next);
                self.next += 1;
            }
        }
    }

    /// Those who came since the last time, to be watched.
    pub fn take_fresh(&mut self) -> Vec<(usize, RawFd)> {
        let fresh = std::mem::take(&mut self.fresh).into_iter();
        fresh
            .filter_map(|index| Some((index, self.clients.get(&index)?.stream.as_raw_fd())))
            .collect()
    }

    /// Reads and writes what can be, and takes the next request.
    pub fn hear(&mut self, index: usize) -> Heard {
        let Some(client) = self.clients.get_mut(&index) else {
            return Heard::Gone;
        };
        let alive = client.write().is_ok() && client.read().is_ok();
        let heard = match client.waits {
            true => Heard::Nothing,
            false => client.next_line(),
        };
        let done = client.ended && !client.waits && client.output.is_empty();
        match heard {
            Heard::Nothing if !alive || done => {
                self.clients.remove(&index);
                Heard::Gone
            }
            heard => heard,
        }
    }

    /// The answer to the client's last request. Nobody may be there any more to hear it.
    pub fn answer(&mut self, index: usize, answer: &Answer) {
        if let Some(client) = self.clients.get_mut(&index) {
            client.waits = false;
            client.output.extend_from_slice(answer.line().as_bytes());
            if client.write().is_err() || client.output.len() > MAX_UNREAD {
                self.clients.remove(&index);
            }
        }
    }
}

impl Client {
    fn read(&mut self) -> io::Result<()> {
        let mut buffer = [0; MAX_REQUEST];
        // Beyond one request nothing is read before that one is answered.
        while !self.ended && self.input.len() < MAX_REQUEST {
            match self.stream.read(&mut buffer) {
                Ok(0) => self.ended = true,
                Ok(n) => self.input.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(n) => _ = self.output.drain(..n),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn next_line(&mut self) -> Heard {
        let Some(end) = self.input.iter().position(|byte| *byte == b'\n') else {
            if self.input.len() >= MAX_REQUEST {
                self.input.clear();
                self.ended = true;
                return Heard::Nonsense("the request is too long".to_owned());
            }
            return Heard::Nothing;
        };
        let line: Vec<u8> = self.input.drain(..=end).collect();
        match serde_json::from_slice(&line) {
            Ok(request) => {
                self.waits = true;
                Heard::Request(request)
            }
            Err(error) => Heard::Nonsense(format!("not a request: {error}")),
        }
    }
}
