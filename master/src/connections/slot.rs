//! One connection, as its slot says: eight words of the state.

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
const LOCAL: usize = 5; // two words
const REST: usize = 7; // ports

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
    /// The worker that gave it away, touches nothing of it, and has not been told what has become
    /// of it.
    pub from: Option<u16>,
    /// While it is given: a worker has read from it, so that nobody can go on with it without what
    /// that worker knew.
    pub lived: bool,
    pub peer: SocketAddr,
    pub local: SocketAddr,
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
            local: self.local,
            proxy: self.proxy,
            refuse: self.refuse,
            remote: self.remote,
            past,
            cookie: self.cookie,
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

// META: fd + 1 (32 bits) · ring (8) · ring that it is from, + 1 (8) · holder (3) · proxy (2)
// · admin · refuse · peer is IPv4 · local is IPv4 · lived · remote
const RING: u32 = 32;
const FROM: u32 = 40;
const HOLDER: u32 = 48;
const PROXY: u32 = 51;
const ADMIN: u64 = 1 << 53;
const REFUSE: u64 = 1 << 54;
const PEER_V4: u64 = 1 << 55;
const LOCAL_V4: u64 = 1 << 56;
const LIVED: u64 = 1 << 57;
const REMOTE: u64 = 1 << 58;

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
        Proxy::None => 0,
        Proxy::Read => 1,
        Proxy::ReadAndReturn => 2,
    };
    let flag = |is: bool, bit: u64| if is { bit } else { 0 };
    c.fd.map_or(0, |fd| fd as u64 + 1)
        | u64::from(ring) << RING
        | c.from.map_or(0, |ring| u64::from(ring) + 1) << FROM
        | holder << HOLDER
        | proxy << PROXY
        | flag(c.role == Role::Admin, ADMIN)
        | flag(c.refuse, REFUSE)
        | flag(c.peer.is_ipv4(), PEER_V4)
        | flag(c.local.is_ipv4(), LOCAL_V4)
        | flag(c.lived, LIVED)
        | flag(c.remote, REMOTE)
}

pub(super) fn write(record: &mut Record, slot: u32, c: &Connection) {
    let mut set = |field, value| record.set(state::connection(slot, field), value);
    set(META, pack_meta(c));
    set(CID, c.cid.0);
    set(COOKIE, c.cookie);
    for (at, address) in [(PEER, c.peer), (LOCAL, c.local)] {
        let bits = match address.ip() {
            IpAddr::V4(v4) => u128::from(v4.to_ipv6_mapped()),
            IpAddr::V6(v6) => u128::from(v6),
        };
        set(at, (bits >> 64) as u64);
        set(at + 1, bits as u64);
    }
    let ports = u64::from(c.peer.port()) | u64::from(c.local.port()) << 16;
    set(REST, ports);
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
    let rest = get(REST);
    let address = |at: usize, v4: u64, port: u16| {
        let bits = u128::from(get(at)) << 64 | u128::from(get(at + 1));
        let v6 = Ipv6Addr::from(bits);
        let ip = v6.to_ipv4_mapped().filter(|_| meta & v4 != 0);
        SocketAddr::new(ip.map_or(IpAddr::V6(v6), IpAddr::V4), port)
    };
    Some(Connection {
        cid: Cid(get(CID)),
        cookie: get(COOKIE),
        holder,
        fd: (meta as u32).checked_sub(1).map(|fd| fd as RawFd),
        role: if meta & ADMIN != 0 {
            Role::Admin
        } else {
            Role::Public
        },
        proxy: match meta >> PROXY & 3 {
            0 => Proxy::None,
            1 => Proxy::Read,
            _ => Proxy::ReadAndReturn,
        },
        refuse: meta & REFUSE != 0,
        remote: meta & REMOTE != 0,
        from: ((meta >> FROM) as u8).checked_sub(1).map(u16::from),
        lived: meta & LIVED != 0,
        peer: address(PEER, PEER_V4, rest as u16),
        local: address(LOCAL, LOCAL_V4, (rest >> 16) as u16),
    })
}
