//! The connections table: every connection that baton has accepted and not yet closed, who has it,
//! and, until it is acknowledged, its fd.
//!
//! The table is in the [state](crate::state); what is kept here is rebuilt from it. A slot gives up
//! its fd's number before the fd is closed: else the next fd of that number would answer for it.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use protocol::ids::{Cid, Role};
use protocol::journal::Record;
use protocol::message::{Given, Past, Proxy};
use protocol::row::MAX_RINGS;

use rustc_hash::FxHashMap;

use crate::state::{self, Head, MAX_CONNECTIONS, State};

// Words of a slot.
const META: usize = 0;
const CID: usize = 1;
const COOKIE: usize = 2;
const PEER: usize = 3; // two words
const LOCAL: usize = 5; // two words
const REST: usize = 7; // ports, bytes consumed

/// Who has a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The master: it is to be given.
    Nobody,
    /// This worker was given it and has not said that it took it; the master has the fd as well.
    Given { ring: u16 },
    /// This worker has it, and alone the fd.
    Worker { ring: u16 },
    /// This worker gives it back: its fd is on the way, or has just arrived.
    Returning { ring: u16 },
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
    /// It came back, and the worker that gave it back has not been told that it arrived.
    pub took_from: Option<u16>,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub consumed: u32,
}

impl Connection {
    #[must_use]
    pub fn given(&self) -> Given {
        Given {
            cid: self.cid,
            role: self.role,
            peer: self.peer,
            local: self.local,
            proxy: self.proxy,
            refuse: self.refuse,
            consumed: self.consumed.into(),
            past: Past::None,
        }
    }
}

/// What one worker has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Given and not acknowledged.
    pub given: u32,
    /// Acknowledged and not closed.
    pub held: u32,
}

#[derive(Debug)]
pub struct Connections {
    by_cid: FxHashMap<Cid, u32>,
    free: Vec<u32>,
    /// Slots of those that nobody has, the oldest first.
    waiting: VecDeque<u32>,
    loads: Vec<Load>,
    by_address: HashMap<IpAddr, u32>,
    public: u32,
    refusing: u32,
}

impl Connections {
    #[must_use]
    pub fn recover(state: &State) -> Connections {
        let mut connections = Connections {
            by_cid: FxHashMap::default(),
            free: Vec::new(),
            waiting: VecDeque::new(),
            loads: vec![Load::default(); MAX_RINGS as usize],
            by_address: HashMap::new(),
            public: 0,
            refusing: 0,
        };
        for slot in 0..used(state) {
            match read(state, slot) {
                Some(connection) => connections.count_in(slot, &connection),
                None => connections.free.push(slot),
            }
        }
        connections
    }

    /// All that are not closed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_cid.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_cid.is_empty()
    }

    /// Those of the public that are not being refused.
    #[must_use]
    pub fn public(&self) -> u32 {
        self.public
    }

    /// Those that are being answered that baton is full.
    #[must_use]
    pub fn refusing(&self) -> u32 {
        self.refusing
    }

    #[must_use]
    pub fn of_address(&self, address: IpAddr) -> u32 {
        self.by_address.get(&address).copied().unwrap_or(0)
    }

    #[must_use]
    pub fn load(&self, ring: u16) -> Load {
        self.loads[usize::from(ring)]
    }

    /// How many nobody has.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    #[must_use]
    pub fn first_waiting(&self) -> Option<u32> {
        self.waiting.front().copied()
    }

    #[must_use]
    pub fn get(&self, state: &State, slot: u32) -> Option<Connection> {
        read(state, slot)
    }

    #[must_use]
    pub fn find(&self, cid: Cid) -> Option<u32> {
        self.by_cid.get(&cid).copied()
    }

    /// All slots in use.
    pub fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        self.by_cid.values().copied()
    }

    /// Given to this worker and not acknowledged, in the order of their numbers.
    #[must_use]
    pub fn given_to(&self, state: &State, ring: u16) -> Vec<u32> {
        self.those(state, |c| c.holder == Holder::Given { ring })
    }

    /// Came back from this worker, which has not been told so.
    #[must_use]
    pub fn took_from(&self, state: &State, ring: u16) -> Vec<Cid> {
        let slots = self.those(state, |c| c.took_from == Some(ring));
        let cids = slots.iter().filter_map(|slot| read(state, *slot));
        cids.map(|c| c.cid).collect()
    }

    fn those(&self, state: &State, which: impl Fn(&Connection) -> bool) -> Vec<u32> {
        let mut found: Vec<(Cid, u32)> = self
            .slots()
            .filter_map(|slot| read(state, slot).map(|c| (c, slot)))
            .filter(|(c, _)| which(c))
            .map(|(c, slot)| (c.cid, slot))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, slot)| slot).collect()
    }

    /// A fresh connection, whose fd belongs to its slot from now on; its number is the next one.
    /// `None`: the table is full.
    pub fn add(&mut self, state: &State, mut connection: Connection) -> Option<u32> {
        let mut record = Record::new();
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                let slot = used(state);
                if slot >= MAX_CONNECTIONS {
                    return None;
                }
                record.set(Head::ConnectionsUsed.word(), u64::from(slot) + 1);
                slot
            }
        };
        connection.cid = Cid(state.head(Head::NextCid));
        record.set(Head::NextCid.word(), connection.cid.0 + 1);
        write(&mut record, slot, &connection);
        state.commit(&mut record);
        self.count_in(slot, &connection);
        Some(slot)
    }

    /// It is this worker's from now on, or will be when it says so.
    pub fn give(&mut self, state: &State, slot: u32, ring: u16) {
        self.change(state, slot, |c| c.holder = Holder::Given { ring });
    }

    /// The worker was not given it after all, or refused it, or is gone with it unread.
    pub fn take_back(&mut self, state: &State, slot: u32) {
        self.change(state, slot, |c| c.holder = Holder::Nobody);
    }

    /// The worker has it; the master's copy is to be closed. `None`: it was not given this one.
    pub fn acknowledged(&mut self, state: &State, cid: Cid, ring: u16) -> Option<OwnedFd> {
        let slot = self.find(cid)?;
        let connection = read(state, slot).filter(|c| c.holder == Holder::Given { ring })?;
        self.change(state, slot, |c| {
            c.holder = Holder::Worker { ring };
            c.fd = None;
        });
        connection.fd.map(own)
    }

    /// It is closed, or lost with its worker. What is returned is to be closed.
    pub fn remove(&mut self, state: &State, slot: u32) -> Option<OwnedFd> {
        let connection = read(state, slot)?;
        state.set(state::connection(slot, META), 0);
        self.count_out(slot, &connection);
        self.free.push(slot);
        connection.fd.map(own)
    }

    /// The worker gives it back: noted before its fd is received, so that the fd is known when
    /// that is all that the next brain finds. False: the worker does not have it.
    pub fn returning(
        &mut self,
        state: &State,
        cid: Cid,
        ring: u16,
        peer: SocketAddr,
        consumed: u32,
    ) -> bool {
        let Some(slot) = self.find(cid) else {
            return false;
        };
        let Some(connection) = read(state, slot) else {
            return false;
        };
        let has = matches!(connection.holder,
            Holder::Given { ring: r } | Holder::Worker { ring: r } | Holder::Returning { ring: r }
            if r == ring);
        if has {
            self.change(state, slot, |c| {
                c.holder = Holder::Returning { ring };
                c.peer = peer;
                c.consumed = consumed;
                c.proxy = Proxy::None;
            });
        }
        has
    }

    /// Its fd has arrived, and is the slot's from now on.
    pub fn returned(&mut self, state: &State, slot: u32, ring: u16, fd: RawFd) {
        self.change(state, slot, |c| {
            c.holder = Holder::Nobody;
            c.fd = Some(fd);
            c.took_from = Some(ring);
        });
    }

    /// The worker that gave it back knows that it arrived.
    pub fn told_took(&mut self, state: &State, slot: u32) {
        self.change(state, slot, |c| c.took_from = None);
    }

    /// One step of one connection.
    fn change(&mut self, state: &State, slot: u32, change: impl FnOnce(&mut Connection)) {
        let Some(mut connection) = read(state, slot) else {
            return;
        };
        let before = connection;
        self.count_out(slot, &before);
        change(&mut connection);
        let mut record = Record::new();
        if (connection.peer, connection.consumed) == (before.peer, before.consumed) {
            record.set(state::connection(slot, META), pack_meta(&connection));
        } else {
            write(&mut record, slot, &connection);
        }
        state.commit(&mut record);
        self.count_in(slot, &connection);
    }

    fn count_in(&mut self, slot: u32, connection: &Connection) {
        self.by_cid.insert(connection.cid, slot);
        match connection.holder {
            Holder::Nobody => self.waiting.push_back(slot),
            Holder::Given { ring } => self.loads[usize::from(ring)].given += 1,
            Holder::Worker { ring } | Holder::Returning { ring } => {
                self.loads[usize::from(ring)].held += 1;
            }
        }
        if connection.refuse {
            self.refusing += 1;
        } else if connection.role == Role::Public {
            self.public += 1;
            *self.by_address.entry(connection.peer.ip()).or_default() += 1;
        }
    }

    fn count_out(&mut self, slot: u32, connection: &Connection) {
        self.by_cid.remove(&connection.cid);
        match connection.holder {
            Holder::Nobody if self.waiting.front() == Some(&slot) => {
                self.waiting.pop_front();
            }
            Holder::Nobody => self.waiting.retain(|s| *s != slot),
            Holder::Given { ring } => self.loads[usize::from(ring)].given -= 1,
            Holder::Worker { ring } | Holder::Returning { ring } => {
                self.loads[usize::from(ring)].held -= 1;
            }
        }
        if connection.refuse {
            self.refusing -= 1;
        } else if connection.role == Role::Public {
            self.public -= 1;
            let ip = connection.peer.ip();
            if let Some(count) = self.by_address.get_mut(&ip) {
                *count -= 1;
                if *count == 0 {
                    self.by_address.remove(&ip);
                }
            }
        }
    }
}

fn used(state: &State) -> u32 {
    (state.head(Head::ConnectionsUsed) as u32).min(MAX_CONNECTIONS)
}

fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: a slot's fd is open and the slot's alone; the slot has just given it up.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

// META: fd + 1 (32 bits) · ring (8) · ring that is to be told, + 1 (8) · holder (3) · proxy (2)
// · admin · refuse · peer is IPv4 · local is IPv4
const RING: u32 = 32;
const TOOK: u32 = 40;
const HOLDER: u32 = 48;
const PROXY: u32 = 51;
const ADMIN: u64 = 1 << 53;
const REFUSE: u64 = 1 << 54;
const PEER_V4: u64 = 1 << 55;
const LOCAL_V4: u64 = 1 << 56;

const _: () = assert!(MAX_RINGS < 255);

fn pack_meta(c: &Connection) -> u64 {
    let (holder, ring) = match c.holder {
        Holder::Nobody => (1, 0),
        Holder::Given { ring } => (2, ring),
        Holder::Worker { ring } => (3, ring),
        Holder::Returning { ring } => (4, ring),
    };
    let proxy = match c.proxy {
        Proxy::None => 0,
        Proxy::Read => 1,
        Proxy::ReadAndReturn => 2,
    };
    let flag = |is: bool, bit: u64| if is { bit } else { 0 };
    c.fd.map_or(0, |fd| fd as u64 + 1)
        | u64::from(ring) << RING
        | c.took_from.map_or(0, |ring| u64::from(ring) + 1) << TOOK
        | holder << HOLDER
        | proxy << PROXY
        | flag(c.role == Role::Admin, ADMIN)
        | flag(c.refuse, REFUSE)
        | flag(c.peer.is_ipv4(), PEER_V4)
        | flag(c.local.is_ipv4(), LOCAL_V4)
}

fn write(record: &mut Record, slot: u32, c: &Connection) {
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
    set(REST, ports | u64::from(c.consumed) << 32);
}

/// `None`: nothing is there.
fn read(state: &State, slot: u32) -> Option<Connection> {
    let get = |field| state.get(state::connection(slot, field));
    let meta = get(META);
    let ring = (meta >> RING) as u8 as u16;
    let holder = match meta >> HOLDER & 7 {
        1 => Holder::Nobody,
        2 => Holder::Given { ring },
        3 => Holder::Worker { ring },
        4 => Holder::Returning { ring },
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
        took_from: ((meta >> TOOK) as u8).checked_sub(1).map(u16::from),
        peer: address(PEER, PEER_V4, rest as u16),
        local: address(LOCAL, LOCAL_V4, (rest >> 16) as u16),
        consumed: (rest >> 32) as u32,
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;

    fn connection(peer: &str) -> Connection {
        let fd = std::fs::File::open("/dev/null").unwrap().into_raw_fd();
        Connection {
            cid: Cid(0),
            cookie: 77,
            holder: Holder::Nobody,
            fd: Some(fd),
            role: Role::Public,
            proxy: Proxy::None,
            refuse: false,
            took_from: None,
            peer: peer.parse().unwrap(),
            local: "[::1]:80".parse().unwrap(),
            consumed: 0,
        }
    }

    fn bench() -> (State, Connections) {
        let state = State::create(4096, 1).unwrap();
        let connections = Connections::recover(&state);
        (state, connections)
    }

    /// What is counted here is what the state says.
    fn check(state: &State, connections: &Connections) {
        let fresh = Connections::recover(state);
        assert_eq!(fresh.by_cid, connections.by_cid);
        assert_eq!(fresh.loads, connections.loads);
        assert_eq!(fresh.by_address, connections.by_address);
        let counts = |c: &Connections| (c.public, c.refusing, c.waiting.len());
        assert_eq!(counts(&fresh), counts(connections));
    }

    #[test]
    fn a_connection_of_any_kind_comes_back_as_it_was() {
        let (state, mut connections) = bench();
        for peer in ["1.2.3.4:5", "[2001:db8::1]:65535", "[::ffff:1.2.3.4]:1"] {
            for proxy in [Proxy::None, Proxy::Read, Proxy::ReadAndReturn] {
                for (role, refuse) in [(Role::Admin, false), (Role::Public, true)] {
                    let mut c = connection(peer);
                    (c.proxy, c.role, c.refuse) = (proxy, role, refuse);
                    (c.took_from, c.consumed) = (Some(127), 70_000);
                    let slot = connections.add(&state, c).unwrap();
                    c.cid = Cid(u64::from(slot) + 1);
                    assert_eq!(connections.get(&state, slot), Some(c));
                }
            }
        }
        check(&state, &connections);
    }

    #[test]
    fn given_acknowledged_closed() {
        let (state, mut connections) = bench();
        let slot = connections.add(&state, connection("1.2.3.4:5")).unwrap();
        assert_eq!(connections.first_waiting(), Some(slot));
        connections.give(&state, slot, 3);
        assert_eq!(connections.load(3), Load { given: 1, held: 0 });
        check(&state, &connections);
        assert!(connections.acknowledged(&state, Cid(1), 4).is_none());
        assert!(connections.acknowledged(&state, Cid(1), 3).is_some());
        assert!(connections.acknowledged(&state, Cid(1), 3).is_none());
        assert_eq!(connections.load(3), Load { given: 0, held: 1 });
        assert_eq!(connections.of_address([1, 2, 3, 4].into()), 1);
        check(&state, &connections);
        assert!(connections.remove(&state, slot).is_none());
        assert!(connections.is_empty());
        assert_eq!(connections.of_address([1, 2, 3, 4].into()), 0);
        check(&state, &connections);
    }

    #[test]
    fn what_is_taken_back_waits_again_and_numbers_are_never_used_twice() {
        let (state, mut connections) = bench();
        let slots: Vec<u32> = (0..3)
            .map(|_| connections.add(&state, connection("1.2.3.4:5")).unwrap())
            .collect();
        for slot in &slots {
            connections.give(&state, *slot, 0);
        }
        assert_eq!(connections.given_to(&state, 0), slots);
        connections.take_back(&state, slots[1]);
        assert_eq!(connections.first_waiting(), Some(slots[1]));
        assert!(connections.remove(&state, slots[1]).is_some());
        let again = connections.add(&state, connection("1.2.3.4:5")).unwrap();
        assert_eq!(again, slots[1]);
        assert_eq!(connections.get(&state, again).unwrap().cid, Cid(4));
        check(&state, &connections);
    }

    #[test]
    fn one_that_is_given_back_is_noted_before_its_fd_arrives() {
        let (state, mut connections) = bench();
        let slot = connections.add(&state, connection("1.2.3.4:5")).unwrap();
        connections.give(&state, slot, 3);
        connections.acknowledged(&state, Cid(1), 3);
        let peer = "9.9.9.9:9".parse().unwrap();
        assert!(!connections.returning(&state, Cid(1), 4, peer, 50));
        assert!(!connections.returning(&state, Cid(2), 3, peer, 50));
        assert!(connections.returning(&state, Cid(1), 3, peer, 50));
        check(&state, &connections);
        let fd = connection("1.2.3.4:5").fd.unwrap();
        connections.returned(&state, slot, 3, fd);
        let got = connections.get(&state, slot).unwrap();
        assert_eq!(
            (got.holder, got.peer, got.consumed),
            (Holder::Nobody, peer, 50)
        );
        assert_eq!(connections.took_from(&state, 3), [Cid(1)]);
        connections.told_took(&state, slot);
        assert_eq!(connections.took_from(&state, 3), []);
        assert_eq!(connections.of_address([9, 9, 9, 9].into()), 1);
        check(&state, &connections);
    }
}
