//! One connection, as its slot says: five words of the state.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::RawFd;

use protocol::ids::{Cid, Role};
use protocol::journal::Record;
use protocol::message::{Given, Past, Proxy};
use protocol::row::MAX_RINGS;

use crate::state::{self, State};

// Words of a slot.
pub(super) const META: usize = 0;
const CID: usize = 1;
const COOKIE: usize = 2;
const PEER: usize = 3; // two words

/// Who has a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The master: it is to be given.
    Nobody,
    /// This worker was given it and has not said that it took it; the master has the fd as well.
    Given { ring: u16 },
    /// This worker has it, and alone the fd.
    Worker { ring: u16 },
    /// This worker gives it away: its fd is on the way, or has just arrived.
    Returning { ring: u16 },
    /// It is closed; its slot stays until the worker that it came from has been told to forget it.
    Closed,
}

/// A connection, as its slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    pub cid: Cid,
    pub cookie: u64,
    pub holder: Holder,
    pub fd: Option<RawFd>,
    pub role: Role,
    pub proxy: Proxy,
    pub refuse: bool,
    /// It came through a listener that not only this machine can reach.
    pub remote: bool,
    /// It came through a unix socket.
    pub unix: bool,
    /// The worker that gave it away, touches nothing of it, and has not been told what has become
    /// of it.
    pub from: Option<u16>,
    /// While it is given: a worker has read from it, so that nobody can go on with it without what
    /// that worker knew.
    pub lived: bool,
    pub peer: SocketAddr,
}

/// What a worker that gave a connection away is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    Took,
    Keep,
}

impl Connection {
    #[must_use]
    pub fn given(&self, past: Past) -> Given {
        Given {
            cid: self.cid,
            role: self.role,
            peer: self.peer,
            proxy: self.proxy,
            refuse: self.refuse,
            remote: self.remote,
            unix: self.unix,
            past,
            accepted_us: 0,
            cookie: self.cookie,
        }
    }

    /// The worker that knows what there is to know of it.
    #[must_use]
    pub fn held_by(&self) -> Option<u16> {
        match self.holder {
            Holder::Given { ring } | Holder::Worker { ring } | Holder::Returning { ring } => {
                Some(ring)
            }
            Holder::Nobody => self.from,
            Holder::Closed => None,
        }
    }

    /// It has been given away with its past, and nobody has taken it for good.
    #[must_use]
    pub fn is_undecided(&self) -> bool {
        self.lived
            && match self.holder {
                Holder::Nobody | Holder::Given { .. } | Holder::Returning { .. } => true,
                Holder::Worker { .. } | Holder::Closed => false,
            }
    }

    /// What the worker that gave it away can be told by now.
    #[must_use]
    pub fn word(&self) -> Option<Word> {
        match self.holder {
            Holder::Worker { ring } if self.from == Some(ring) => Some(Word::Keep),
            Holder::Returning { .. } => None,
            _ if self.from.is_none() || self.is_undecided() => None,
            // One that has not lived is given by the master as if it had just been accepted.
            _ => Some(Word::Took),
        }
    }
}

// META: fd + 1 (22 bits: 4 million) · remote · admin · ring (8) · ring that it is from, + 1 (8)
// · holder (3) · proxy, or unix, where there is none (2) · refuse · peer is IPv4 · lived · the peer's port (16)
const FD: u64 = (1 << 22) - 1;
const REMOTE: u64 = 1 << 22;
const ADMIN: u64 = 1 << 23;
const RING: u32 = 24;
const FROM: u32 = 32;
const HOLDER: u32 = 40;
const PROXY: u32 = 43;
/// In the place of a proxy.
const UNIX: u64 = 3;
const REFUSE: u64 = 1 << 45;
const PEER_V4: u64 = 1 << 46;
const LIVED: u64 = 1 << 47;
const PORT: u32 = 48;

const _: () = assert!(MAX_RINGS < 255);

pub(super) fn pack_meta(c: &Connection) -> u64 {
    let (holder, ring) = match c.holder {
        Holder::Nobody => (1, 0),
        Holder::Given { ring } => (2, ring),
        Holder::Worker { ring } => (3, ring),
        Holder::Returning { ring } => (4, ring),
        Holder::Closed => (5, 0),
    };
    let proxy = match c.proxy {
        _ if c.unix => UNIX,
        Proxy::None => 0,
        Proxy::Read => 1,
        Proxy::ReadAndReturn => 2,
    };
    let flag = |is: bool, bit: u64| if is { bit } else { 0 };
    debug_assert!(c.fd.is_none_or(|fd| (fd as u64) < FD));
    c.fd.map_or(0, |fd| fd as u64 + 1)
        | u64::from(ring) << RING
        | c.from.map_or(0, |ring| u64::from(ring) + 1) << FROM
        | holder << HOLDER
        | proxy << PROXY
        | flag(c.role == Role::Admin, ADMIN)
        | flag(c.refuse, REFUSE)
        | flag(c.peer.is_ipv4(), PEER_V4)
        | flag(c.lived, LIVED)
        | flag(c.remote, REMOTE)
        | u64::from(c.peer.port()) << PORT
}

/// The number of the connection in this slot.
pub(super) fn cid(state: &State, slot: u32) -> Cid {
    Cid(state.get(state::connection(slot, CID)))
}

pub(super) fn write(record: &mut Record, slot: u32, c: &Connection) {
    let mut set = |field, value| record.set(state::connection(slot, field), value);
    set(META, pack_meta(c));
    set(CID, c.cid.0);
    set(COOKIE, c.cookie);
    let peer = match c.peer.ip() {
        IpAddr::V4(v4) => u128::from(v4.to_ipv6_mapped()),
        IpAddr::V6(v6) => u128::from(v6),
    };
    set(PEER, (peer >> 64) as u64);
    set(PEER + 1, peer as u64);
}

/// `None`: nothing is there.
pub(super) fn read(state: &State, slot: u32) -> Option<Connection> {
    let get = |field| state.get(state::connection(slot, field));
    let meta = get(META);
    let ring = (meta >> RING) as u8 as u16;
    let holder = match meta >> HOLDER & 7 {
        1 => Holder::Nobody,
        2 => Holder::Given { ring },
        3 => Holder::Worker { ring },
        4 => Holder::Returning { ring },
        5 => Holder::Closed,
        _ => return None,
    };
    let v6 = Ipv6Addr::from(u128::from(get(PEER)) << 64 | u128::from(get(PEER + 1)));
    let v4 = v6.to_ipv4_mapped().filter(|_| meta & PEER_V4 != 0);
    let ip = v4.map_or(IpAddr::V6(v6), IpAddr::V4);
    Some(Connection {
        cid: Cid(get(CID)),
        cookie: get(COOKIE),
        holder,
        fd: (meta & FD).checked_sub(1).map(|fd| fd as RawFd),
        role: if meta & ADMIN != 0 {
            Role::Admin
        } else {
            Role::Public
        },
        proxy: match meta >> PROXY & 3 {
            0 => Proxy::None,
            1 => Proxy::Read,
            2 => Proxy::ReadAndReturn,
            _ => Proxy::None,
        },
        refuse: meta & REFUSE != 0,
        remote: meta & REMOTE != 0,
        unix: meta >> PROXY & 3 == UNIX,
        from: ((meta >> FROM) as u8).checked_sub(1).map(u16::from),
        lived: meta & LIVED != 0,
        peer: SocketAddr::new(ip, (meta >> PORT) as u16),
    })
}
