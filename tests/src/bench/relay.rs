//! The floor of a delivery: what the machine itself takes to wake one process after another.
//!
//! One thread reads a word of a connection and wakes the next, which wakes the next; the last writes
//! the word back. Nothing else is done: a system call to wait, and one to wake.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;

use nix::sys::eventfd::EventFd;

/// A connection to such threads; they end with it.
pub struct Relay(TcpStream);

impl Relay {
    /// `woken`: threads behind the one that reads.
    pub fn start(woken: usize) -> io::Result<Relay> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        let (server, _) = listener.accept()?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let mut from = File::from(OwnedFd::from(server.try_clone()?));
        for _ in 0..woken {
            let bell = File::from(OwnedFd::from(EventFd::new()?));
            pass_on(std::mem::replace(&mut from, bell.try_clone()?), bell);
        }
        pass_on(from, OwnedFd::from(server).into());
        Ok(Relay(client))
    }

    /// There and back.
    pub fn ask(&mut self) -> io::Result<()> {
        self.0.write_all(&1_u64.to_ne_bytes())?;
        self.0.read_exact(&mut [0; 8])
    }
}

/// A thread that does, until `from` ends.
fn pass_on(mut from: File, mut to: File) {
    thread::spawn(move || {
        let mut word = [0; 8];
        while from.read_exact(&mut word).is_ok() && to.write_all(&word).is_ok() {}
    });
}
