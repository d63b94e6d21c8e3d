//! The connections table: every connection that baton has accepted and not yet closed, who has it,
//! and, until it is acknowledged, its fd.
//!
//! The table is in the [state](crate::state); what is kept here is rebuilt from it. A slot gives up
//! its fd's number before the fd is closed: else the next fd of that number would answer for it.
//!
//! A live connection that moves from worker A to worker B goes
//! `Worker{A} → Returning{A} → Nobody → Given{B} → Worker{B}`, with `from: A` until A has been told
//! that it was taken; or back, `→ Worker{A}`, until A has been told to keep it.

mod slot;

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};

use hashbrown::HashTable;
use protocol::ids::{Cid, Role};
use protocol::journal::Record;
use protocol::memory;
use protocol::message::Proxy;
use protocol::row::MAX_RINGS;

use rustc_hash::FxBuildHasher;

pub use slot::{Connection, Holder, Word};
use slot::{META, pack_meta, read, write};

use crate::state::{self, Head, MAX_CONNECTIONS, State};

/// What one worker has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Given and not acknowledged.
    pub given: u32,
    /// Acknowledged and not closed.
    pub held: u32,
    /// Given away by it, with their past, and not decided.
    pub leaving: u32,
}

/// So many slots at the end that nobody uses are worth being given back.
const MANY: u32 = 256;

/// What is kept beside the table, to find things in it.
#[derive(Debug)]
pub struct Connections {
    /// Slots by their connections' numbers, which are in the slots only: there may be many.
    by_cid: HashTable<u32>,
    free: Vec<u32>,
    /// Slots of those that nobody has had, the oldest first.
    waiting: VecDeque<u32>,
    /// Slots of those that have lived, and that nobody has.
    moving: BTreeSet<u32>,
    loads: Vec<Load>,
    by_address: HashMap<IpAddr, u32>,
    public: u32,
    refusing: u32,
    /// So many slots were in use when the heap was trimmed last.
    trimmed_at: u32,
}

impl Connections {
    #[must_use]
    pub fn recover(state: &State) -> Connections {
        let mut connections = Connections {
            by_cid: HashTable::new(),
            free: Vec::new(),
            waiting: VecDeque::new(),
            moving: BTreeSet::new(),
            loads: vec![Load::default(); MAX_RINGS as usize],
            by_address: HashMap::new(),
            public: 0,
            refusing: 0,
            trimmed_at: 0,
        };
        for slot in 0..used(state) {
            match read(state, slot) {
                Some(connection) => connections.count_in(state, slot, &connection),
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

    /// How many nobody has: they were just accepted, or move from one worker to another.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len() + self.moving.len()
    }

    /// Of those that nobody has had.
    #[must_use]
    pub fn first_waiting(&self) -> Option<u32> {
        self.waiting.front().copied()
    }

    /// Those that have lived, and that nobody has.
    #[must_use]
    pub fn moving(&self) -> Vec<u32> {
        self.moving.iter().copied().collect()
    }

    #[must_use]
    pub fn moving_count(&self) -> u32 {
        self.moving.len() as u32
    }

    #[must_use]
    pub fn get(&self, state: &State, slot: u32) -> Option<Connection> {
        read(state, slot)
    }

    #[must_use]
    pub fn find(&self, state: &State, cid: Cid) -> Option<u32> {
        let is = |slot: &u32| slot::cid(state, *slot) == cid;
        self.by_cid.find(hash(cid), is).copied()
    }

    /// All slots in use.
    pub fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        self.by_cid.iter().copied()
    }

    /// Those of which this holds, in the order of their numbers.
    #[must_use]
    pub fn those(&self, state: &State, which: impl Fn(&Connection) -> bool) -> Vec<u32> {
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
        self.count_in(state, slot, &connection);
        Some(slot)
    }

    /// To be called now and then: the memory of slots behind the last one in use goes, if they are many.
    pub fn rest(&mut self, state: &State) {
        let before = used(state);
        if before.abs_diff(self.trimmed_at) >= MANY {
            self.trimmed_at = before;
            memory::trim_heap();
        }
        let is_free = |slot: &u32| read(state, *slot).is_none();
        let behind = (0..before).rev().take_while(is_free).count() as u32;
        if behind < MANY {
            return;
        }
        let used = before - behind;
        state.set(Head::ConnectionsUsed.word(), used.into());
        // To the last that there can be: a part of the page where they ended was not given back before.
        let at = |slot: u32| state::connection(slot, META).index as usize * 8;
        state.segment().give_back(at(used)..at(MAX_CONNECTIONS));
        // The lowest are taken first, or the next gap at the end would be long in coming.
        self.free.retain(|slot| *slot < used);
        self.free.sort_unstable_by_key(|slot| Reverse(*slot));
        self.free.shrink_to_fit();
        self.by_cid
            .shrink_to(0, |slot| hash(slot::cid(state, *slot)));
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
        let slot = self.find(state, cid)?;
        let connection = read(state, slot).filter(|c| c.holder == Holder::Given { ring })?;
        self.hand_over(state, slot, ring);
        connection.fd.map(own)
    }

    /// Nobody can take it: the worker that gave it away has it again, and is to be told so. The
    /// master's copy is to be closed.
    pub fn keep(&mut self, state: &State, slot: u32) -> Option<OwnedFd> {
        let connection = read(state, slot)?;
        self.hand_over(state, slot, connection.from?);
        connection.fd.map(own)
    }

    fn hand_over(&mut self, state: &State, slot: u32, ring: u16) {
        self.change(state, slot, |c| {
            c.holder = Holder::Worker { ring };
            c.fd = None;
            // By now its header is read, or will be where it is.
            if std::mem::take(&mut c.lived) && c.proxy == Proxy::ReadAndReturn {
                c.proxy = Proxy::Read;
            }
        });
    }

    /// It is closed, or lost with its worker. What is returned is to be closed. If it came from
    /// another worker, which has not been told yet, its slot stays until then.
    pub fn remove(&mut self, state: &State, slot: u32) -> Option<OwnedFd> {
        let connection = read(state, slot)?;
        let is_its_giver = match connection.holder {
            Holder::Worker { ring } | Holder::Returning { ring } => Some(ring) == connection.from,
            Holder::Nobody | Holder::Given { .. } | Holder::Closed => false,
        };
        if connection.from.is_some() && !is_its_giver {
            self.change(state, slot, |c| {
                c.holder = Holder::Closed;
                c.fd = None;
            });
        } else {
            self.free(state, slot, &connection);
        }
        connection.fd.map(own)
    }

    fn free(&mut self, state: &State, slot: u32, connection: &Connection) {
        state.set(state::connection(slot, META), 0);
        self.count_out(slot, connection);
        self.free.push(slot);
    }

    /// The worker gives it away, with its past: noted before its fd is received, so that the fd is
    /// known when that is all that the next brain finds. False: the worker does not have it.
    pub fn parting(&mut self, state: &State, cid: Cid, ring: u16, peer: SocketAddr) -> bool {
        let slot = self.find(state, cid);
        let Some((slot, connection)) = slot.and_then(|slot| Some((slot, read(state, slot)?)))
        else {
            return false;
        };
        let has = matches!(connection.holder,
            Holder::Given { ring: r } | Holder::Worker { ring: r } | Holder::Returning { ring: r }
            if r == ring);
        if has {
            self.change(state, slot, |c| {
                c.holder = Holder::Returning { ring };
                c.from = Some(ring);
                c.peer = peer;
                c.lived = true;
            });
        }
        has
    }

    /// Its fd has arrived, and is the slot's from now on, unless it has one.
    pub fn returned(&mut self, state: &State, slot: u32, fd: OwnedFd) {
        self.change(state, slot, |c| {
            c.holder = Holder::Nobody;
            c.fd.get_or_insert_with(|| fd.into_raw_fd());
        });
    }

    /// The worker that these came from, if it is still this one, knows what has become of them.
    pub fn told(&mut self, state: &State, slots: &[u32], ring: u16) {
        for slot in slots {
            match read(state, *slot).filter(|c| c.from == Some(ring)) {
                Some(c) if c.holder == Holder::Closed => self.free(state, *slot, &c),
                Some(_) => self.change(state, *slot, |c| c.from = None),
                None => {}
            }
        }
    }

    /// One step of one connection.
    fn change(&mut self, state: &State, slot: u32, change: impl FnOnce(&mut Connection)) {
        let Some(before) = read(state, slot) else {
            return;
        };
        let mut connection = before;
        change(&mut connection);
        let mut record = Record::new();
        if connection.peer == before.peer {
            record.set(state::connection(slot, META), pack_meta(&connection));
        } else {
            write(&mut record, slot, &connection);
        }
        state.commit(&mut record);
        self.no_holder(slot, &before);
        self.count_holder(slot, &connection);
        if client(&before) != client(&connection) {
            self.no_client(&before);
            self.count_client(&connection);
        }
    }

    fn count_in(&mut self, state: &State, slot: u32, connection: &Connection) {
        let again = |slot: &u32| hash(slot::cid(state, *slot));
        self.by_cid.insert_unique(hash(connection.cid), slot, again);
        self.count_holder(slot, connection);
        self.count_client(connection);
    }

    fn count_out(&mut self, slot: u32, connection: &Connection) {
        let entry = self.by_cid.find_entry(hash(connection.cid), |s| *s == slot);
        if let Ok(entry) = entry {
            entry.remove();
        }
        self.no_holder(slot, connection);
        self.no_client(connection);
    }

    fn count_holder(&mut self, slot: u32, connection: &Connection) {
        match connection.holder {
            Holder::Nobody if connection.lived => _ = self.moving.insert(slot),
            Holder::Nobody => self.waiting.push_back(slot),
            Holder::Given { ring } => self.loads[usize::from(ring)].given += 1,
            Holder::Worker { ring } | Holder::Returning { ring } => {
                self.loads[usize::from(ring)].held += 1;
            }
            Holder::Closed => {}
        }
        if let (Some(ring), true) = (connection.from, connection.is_undecided()) {
            self.loads[usize::from(ring)].leaving += 1;
        }
    }

    fn no_holder(&mut self, slot: u32, connection: &Connection) {
        match connection.holder {
            Holder::Nobody if connection.lived => _ = self.moving.remove(&slot),
            Holder::Nobody if self.waiting.front() == Some(&slot) => {
                self.waiting.pop_front();
            }
            Holder::Nobody => self.waiting.retain(|s| *s != slot),
            Holder::Given { ring } => self.loads[usize::from(ring)].given -= 1,
            Holder::Worker { ring } | Holder::Returning { ring } => {
                self.loads[usize::from(ring)].held -= 1;
            }
            Holder::Closed => {}
        }
        if let (Some(ring), true) = (connection.from, connection.is_undecided()) {
            self.loads[usize::from(ring)].leaving -= 1;
        }
    }

    fn count_client(&mut self, connection: &Connection) {
        match client(connection) {
            Client::Refused => self.refusing += 1,
            Client::Public(ip) => {
                self.public += 1;
                *self.by_address.entry(ip).or_default() += 1;
            }
            Client::None => {}
        }
    }

    fn no_client(&mut self, connection: &Connection) {
        match client(connection) {
            Client::Refused => self.refusing -= 1,
            Client::Public(ip) => {
                self.public -= 1;
                if let Entry::Occupied(mut count) = self.by_address.entry(ip) {
                    *count.get_mut() -= 1;
                    if *count.get() == 0 {
                        count.remove();
                    }
                }
            }
            Client::None => {}
        }
    }
}

/// As what a connection counts against the limits.
#[derive(PartialEq, Eq)]
enum Client {
    Public(IpAddr),
    Refused,
    /// An operator, or closed.
    None,
}

fn client(connection: &Connection) -> Client {
    match connection.role {
        _ if connection.holder == Holder::Closed => Client::None,
        _ if connection.refuse => Client::Refused,
        Role::Public => Client::Public(connection.peer.ip()),
        Role::Admin => Client::None,
    }
}

fn hash(cid: Cid) -> u64 {
    FxBuildHasher.hash_one(cid)
}

fn used(state: &State) -> u32 {
    (state.head(Head::ConnectionsUsed) as u32).min(MAX_CONNECTIONS)
}

fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: a slot's fd is open and the slot's alone; the slot has just given it up.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests;
