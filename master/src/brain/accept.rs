//! Connections are accepted: as many as workers can be given, no more; the rest waits in the
//! kernel's backlog.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockaddrLike, SockaddrStorage, UnixAddr, getpeername, getsockname,
};
use protocol::address::NOWHERE;
use protocol::bucket::{Buckets, PerSecond};
use protocol::channel::cookie;
use protocol::clock::monotonic_us;
use protocol::fault;
use protocol::ids::{Cid, Role};
use protocol::message::Proxy;

use super::Brain;
use crate::config::{Address, Policy};
use crate::connections::{Connection, Holder};
use crate::listener::Listener;

/// Connections of one listener in one turn; then it is the next one's turn.
const TURN: usize = 256;
/// Without a free fd, accepting pauses for so long.
const PAUSE: u64 = 50;

/// What is known of the listeners.
#[derive(Debug)]
pub struct Gate {
    /// Of each listener: it may have connections to be accepted.
    ready: Vec<bool>,
    paused_until: Option<u64>,
    /// Closed at once, being over a limit and over the quota of polite answers, since it was
    /// last reported.
    turned_away: u64,
    /// Given up for a moment, so that the control socket is answered when no fd is left.
    reserve: Option<File>,
    /// What each address has opened of late.
    comers: Buckets<IpAddr>,
}

impl Gate {
    pub fn new(listeners: usize) -> io::Result<Gate> {
        Ok(Gate {
            // Edges that the last brain saw do not come again.
            ready: vec![true; listeners],
            paused_until: None,
            turned_away: 0,
            reserve: Some(File::open("/dev/null")?),
            comers: Buckets::default(),
        })
    }

    pub fn ready(&mut self, listener: usize) {
        if let Some(ready) = self.ready.get_mut(listener) {
            *ready = true;
        }
    }

    pub fn resumes(&self) -> Option<u64> {
        self.paused_until
    }

    /// Frees one fd, until [`restore`](Gate::restore).
    pub fn give_up_reserve(&mut self) {
        self.reserve = None;
    }

    pub fn restore(&mut self) {
        if self.reserve.is_none() {
            self.reserve = File::open("/dev/null").ok();
        }
    }

    pub fn report(&mut self) {
        let count = std::mem::take(&mut self.turned_away);
        if count > 0 {
            log::warn!("closed {count} connections over the limits");
        }
        self.restore();
    }
}

/// What one attempt to accept has come to.
enum Accepted {
    Connection(OwnedFd, SocketAddr),
    /// It ended before it was accepted.
    Gone,
    None,
    /// There is no fd to be had.
    NoFd(Errno),
}

impl<'a> Brain<'a> {
    /// Takes what waits at the listeners, as long as a worker has room for it.
    pub(super) fn accept(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        if let Some(until) = self.gate.paused_until {
            if self.now < until {
                return;
            }
            self.gate.paused_until = None;
        }
        for index in 0..self.gate.ready.len() {
            if self.gate.ready[index] {
                self.accept_at(index);
            }
        }
    }

    fn accept_at(&mut self, index: usize) {
        let context = self.context;
        let listener = &context.listeners[index];
        for _ in 0..TURN {
            if self.capacity() == 0 {
                return;
            }
            match accept_one(listener) {
                Accepted::Connection(fd, peer) => self.admit(listener, fd, peer),
                Accepted::Gone => {}
                Accepted::None => {
                    self.gate.ready[index] = false;
                    return;
                }
                Accepted::NoFd(error) => {
                    log::warn!("cannot accept for the moment: {}", error.desc());
                    self.gate.paused_until = Some(self.now + PAUSE);
                    return;
                }
            }
        }
        self.busy = true;
    }

    /// A fresh connection gets its slot, or is turned away.
    fn admit(&mut self, listener: &Listener, fd: OwnedFd, peer: SocketAddr) {
        fault::point("master:accept");
        let Some(mut connection) = describe(listener, &fd, peer) else {
            return;
        };
        if connection.proxy != Proxy::None && self.config.policy == Policy::IpHash {
            connection.proxy = Proxy::ReadAndReturn;
        }
        if connection.role == Role::Public && self.is_over_a_limit(&connection) {
            if self.connections.refusing() >= self.config.limits.refused {
                self.gate.turned_away += 1;
                return;
            }
            connection.refuse = true;
        }
        connection.fd = Some(fd.as_raw_fd());
        match self.connections.add(self.state, connection) {
            // The slot owns it from now on.
            Some(slot) => {
                if self.sample.is_none() {
                    let known = self.connections.get(self.state, slot);
                    self.sample = known.map(|known| (known.cid, monotonic_us()));
                }
                fault::point("master:note");
                _ = fd.into_raw_fd();
            }
            None => self.gate.turned_away += 1,
        }
        self.assign_full_batches();
    }

    fn is_over_a_limit(&mut self, connection: &Connection) -> bool {
        let limits = &self.config.limits;
        let ip = connection.peer.ip().to_canonical();
        let counted = limits.per_address > 0
            && self.config.settings.rates.counts(ip)
            // Behind a proxy the address is the proxy's.
            && connection.proxy == Proxy::None;
        self.connections.public() >= limits.connections
            || self.workers_are_at_their_limit()
            || counted && self.connections.of_address(connection.peer.ip()) >= limits.per_address
            || self.comes_too_often(connection, ip)
    }

    fn comes_too_often(&mut self, connection: &Connection, ip: IpAddr) -> bool {
        let rates = &self.config.settings.rates;
        let connects = PerSecond {
            messages: rates.connects,
            bytes: 0,
        };
        let (burst, now) = (rates.burst_ms, self.now);
        rates.counts(ip)
            && connection.proxy == Proxy::None
            && self.gate.comers.take(ip, connects, burst, 0, now).is_err()
    }

    /// For the sweep: a connected socket that no slot knows was accepted and not noted.
    pub(super) fn admit_unknown(&mut self, fd: OwnedFd) {
        let peer = getpeername::<SockaddrStorage>(fd.as_raw_fd()).ok();
        let peer = peer.as_ref().and_then(socket_address);
        if let (Some(listener), Some(peer)) = (self.listener_of(fd.as_fd()), peer) {
            self.admit(listener, fd, peer);
        }
    }

    /// Through which a connected socket came; `None`: through none of them.
    pub(super) fn listener_of(&self, fd: BorrowedFd<'_>) -> Option<&'a Listener> {
        let local = getsockname::<SockaddrStorage>(fd.as_raw_fd()).ok()?;
        let path = local.as_unix_addr().and_then(UnixAddr::path);
        let tcp = local
            .as_unix_addr()
            .is_none()
            .then(|| socket_address(&local));
        self.context.listeners.iter().find(|l| match &l.address {
            Address::Unix(own) => path == Some(own),
            Address::Tcp(own) => tcp.flatten().is_some_and(|local| {
                own.port() == local.port() && (own.ip().is_unspecified() || own.ip() == local.ip())
            }),
        })
    }
}

fn accept_one(listener: &Listener) -> Accepted {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let mut address = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    let to = address.as_mut_ptr().cast();
    // nix's does not ask for the address, which would cost another call.
    // SAFETY: the kernel writes at most `len` bytes of the address.
    match Errno::result(unsafe { libc::accept4(listener.fd.as_raw_fd(), to, &mut len, flags) }) {
        Ok(fd) => {
            // SAFETY: the kernel has just made it for us.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            // SAFETY: the kernel has written an address of `len` bytes.
            let peer = unsafe { SockaddrStorage::from_raw(to, Some(len)) };
            match peer.as_ref().and_then(socket_address) {
                Some(peer) => Accepted::Connection(fd, peer),
                None => Accepted::Gone,
            }
        }
        Err(Errno::EAGAIN) => Accepted::None,
        Err(error @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)) => {
            Accepted::NoFd(error)
        }
        // accept(2): errors of the new connection are reported here; the next one is another.
        Err(_) => Accepted::Gone,
    }
}

/// What its slot is to say. `None`: it has ended already.
fn describe(listener: &Listener, fd: &OwnedFd, peer: SocketAddr) -> Option<Connection> {
    let trusted = |ip: IpAddr| listener.listen.proxy_trusted.iter().any(|c| c.contains(ip));
    let proxy = if listener.listen.proxy_protocol && trusted(peer.ip().to_canonical()) {
        Proxy::Read
    } else {
        Proxy::None
    };
    Some(Connection {
        cid: Cid(0),
        cookie: cookie(fd),
        holder: Holder::Nobody,
        fd: None,
        role: listener.listen.role,
        proxy,
        refuse: false,
        remote: !listener.listen.is_local(),
        unix: listener.address.path().is_some(),
        from: None,
        lived: false,
        peer,
    })
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    if address.family()? == AddressFamily::Unix {
        return Some(NOWHERE);
    }
    let v4 = address
        .as_sockaddr_in()
        .map(|v4| SocketAddr::V4((*v4).into()));
    v4.or_else(|| {
        address
            .as_sockaddr_in6()
            .map(|v6| SocketAddr::V6((*v6).into()))
    })
}
