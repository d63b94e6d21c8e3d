//! Connections are given to workers, and what workers say of them.
//!
//! A slot says that a connection is given before the channel does; the worker's acknowledgement
//! decides; until then the master has its fd, and if the worker ends, another one gets it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd};

use protocol::fault;
use protocol::ids::{Cid, Role};
use protocol::message::{MAX_BATCH, ToWorker};

use super::Brain;
use crate::connections::{Connections, Holder};
use crate::link::Link;
use crate::schedule::{Candidate, Occasion, choose};
use crate::state::State;
use crate::supervise::{Part, Phase};

/// A worker that refused a connection, or whose channel was full, is passed over for so long.
const REST: u64 = 50;

impl Brain<'_> {
    /// How many connections more can be given just now, beyond those that wait to be.
    pub(super) fn capacity(&self) -> usize {
        let window = self.config.limits.window;
        let rooms = self
            .serving()
            .map(|ring| window.saturating_sub(self.connections.load(ring).given));
        let all: u32 = rooms.sum();
        (all as usize).saturating_sub(self.connections.waiting())
    }

    /// Every worker that can take connections has as many as it may.
    pub(super) fn workers_are_at_their_limit(&self) -> bool {
        let limit = self.config.settings.max_connections;
        self.serving().all(|ring| self.has(ring) >= limit)
    }

    /// When a worker that is passed over for a moment can be chosen again, if somebody waits.
    pub(super) fn next_chance(&self) -> Option<u64> {
        let resting = self.links.values().map(|link| link.refuses_until);
        resting.filter(|at| *at > self.now).min()
    }

    /// Rings of the workers that can be given connections, in the order of seats.
    fn serving(&self) -> impl Iterator<Item = u16> {
        let ready = self.supervisor.workers().iter();
        let ready = ready.filter(|w| w.part == Part::Holder && w.phase == Phase::Ready);
        ready.map(|w| w.ring).filter(|ring| {
            self.links
                .get(ring)
                .is_some_and(|link| link.closed.is_none() && link.refuses_until <= self.now)
        })
    }

    /// How many connections a worker has or was given.
    pub(super) fn has(&self, ring: u16) -> u32 {
        let load = self.connections.load(ring);
        load.given + load.held
    }

    /// Gives what waits, as far as workers have room.
    pub(super) fn assign(&mut self) {
        while let Some(slot) = self.connections.first_waiting() {
            if !self.assign_one(slot) {
                break;
            }
        }
        let rings: Vec<u16> = self.links.keys().copied().collect();
        for ring in rings {
            self.flush_gives(ring);
        }
    }

    /// While many are accepted in one turn: batches that are full go at once.
    pub(super) fn assign_full_batches(&mut self) {
        if self.connections.waiting() >= MAX_BATCH {
            self.assign();
        }
    }

    /// False: nobody can take it now.
    fn assign_one(&mut self, slot: u32) -> bool {
        let Some(connection) = self.connections.get(self.state, slot) else {
            return false;
        };
        let limits = &self.config.limits;
        // One that is refused is gone soon, and an operator is to come in when all is full.
        let may_exceed = connection.refuse || connection.role == Role::Admin;
        let most = match may_exceed {
            true => u32::MAX,
            false => self.config.settings.max_connections,
        };
        let mut rings: Vec<(u16, Candidate)> = self
            .serving()
            .filter_map(|ring| Some((ring, self.links.get(&ring)?)))
            .map(|(ring, link)| {
                let connections = self.has(ring);
                let open = self.connections.load(ring).given < limits.window && connections < most;
                let seat = link.seat;
                let candidate = Candidate {
                    seat,
                    open,
                    connections,
                };
                (ring, candidate)
            })
            .collect();
        rings.sort_unstable_by_key(|(_, c)| c.seat);
        let table: Vec<Candidate> = rings.iter().map(|(_, c)| *c).collect();
        let occasion = Occasion {
            last: self.last_seat,
            random: self.random(),
            address: connection.peer.ip(),
        };
        let Some(chosen) = choose(self.config.policy, &table, &occasion) else {
            return false;
        };
        let (ring, candidate) = rings[chosen];
        self.last_seat = Some(candidate.seat);
        self.connections.give(self.state, slot, ring);
        if let Some(link) = self.links.get_mut(&ring) {
            link.batch.push(slot);
            if link.batch.len() >= MAX_BATCH {
                self.flush_gives(ring);
            }
        }
        true
    }

    /// Sends what this worker is given: first what it is given once more.
    pub(super) fn flush_gives(&mut self, ring: u16) {
        let Some(link) = self.links.get_mut(&ring) else {
            return;
        };
        while !link.repeats.is_empty() {
            let now = &link.repeats[..link.repeats.len().min(MAX_BATCH)];
            // It may have these, and then nobody else can: they stay given, and are sent when the
            // channel takes them.
            match send(self.state, &self.connections, link, now) {
                Ok(true) => _ = link.repeats.drain(..link.repeats.len().min(MAX_BATCH)),
                Ok(false) | Err(_) => break,
            }
        }
        let mut batch = std::mem::take(&mut link.batch);
        while !batch.is_empty() {
            let now: Vec<u32> = batch.drain(..batch.len().min(MAX_BATCH)).collect();
            fault::point("master:give");
            match send(self.state, &self.connections, link, &now) {
                Ok(true) => fault::point("master:given"),
                // They were not sent, so they were not given.
                Ok(false) | Err(_) => {
                    link.refuses_until = self.now + REST;
                    for slot in now.into_iter().chain(batch.drain(..)) {
                        self.connections.take_back(self.state, slot);
                    }
                }
            }
        }
    }

    /// To a brain that says hello, everything that its worker was given and did not acknowledge,
    /// once more.
    pub(super) fn repeat(&mut self, ring: u16) {
        let slots = self.connections.given_to(self.state, ring);
        let took = self.connections.took_from(self.state, ring);
        if let Some(link) = self.links.get_mut(&ring) {
            link.batch.clear();
            link.repeats = slots;
            if !took.is_empty() {
                link.took(took);
            }
        }
        self.flush_gives(ring);
    }

    pub(super) fn on_ack(&mut self, ring: u16, cids: &[Cid]) {
        for cid in cids {
            fault::point("master:ack");
            // Dropping it closes the master's copy.
            drop(self.connections.acknowledged(self.state, *cid, ring));
        }
    }

    pub(super) fn on_refuse(&mut self, ring: u16, cids: &[Cid]) {
        log::warn!("{}: refused {} connections", self.name(ring), cids.len());
        for cid in cids {
            let slot = self.slot_of(ring, *cid);
            if let Some((slot, Holder::Given { .. })) = slot {
                self.connections.take_back(self.state, slot);
            }
        }
        if let Some(link) = self.links.get_mut(&ring) {
            link.refuses_until = self.now + REST;
        }
    }

    pub(super) fn on_closed(&mut self, ring: u16, cids: &[Cid]) {
        for cid in cids {
            fault::point("master:closed");
            if let Some((slot, _)) = self.slot_of(ring, *cid) {
                drop(self.connections.remove(self.state, slot));
            }
        }
    }

    /// The next message gives a connection back: noted before it is received.
    pub(super) fn on_returning(&mut self, ring: u16, cid: Cid, peer: SocketAddr, consumed: u64) {
        let consumed = u32::try_from(consumed).unwrap_or(u32::MAX);
        let known = self
            .connections
            .returning(self.state, cid, ring, peer, consumed);
        if !known {
            log::warn!(
                "{}: gave back {cid}, which it does not have",
                self.name(ring)
            );
        }
    }

    pub(super) fn on_return(&mut self, ring: u16, cid: Cid, fd: Option<OwnedFd>) {
        let Some((slot, Holder::Returning { .. })) = self.slot_of(ring, cid) else {
            return;
        };
        match fd {
            Some(fd) => {
                fault::point("master:return");
                self.connections
                    .returned(self.state, slot, ring, fd.into_raw_fd());
                self.say_took(ring, slot, cid);
            }
            // There was no room for its fd here; the worker still has the connection, and closes it
            // as any other when it is told that it was taken.
            None => {
                log::warn!("{cid}: lost on its way back: no fd was free");
                drop(self.connections.remove(self.state, slot));
                if let Some(link) = self.links.get_mut(&ring) {
                    link.took(vec![cid]);
                }
            }
        }
    }

    pub(super) fn say_took(&mut self, ring: u16, slot: u32, cid: Cid) {
        if let Some(link) = self.links.get_mut(&ring) {
            link.took(vec![cid]);
            fault::point("master:took");
            self.connections.told_took(self.state, slot);
        }
    }

    /// The worker is gone: what it had not taken goes to another, what it had is gone with it.
    pub(super) fn take_back_all(&mut self, ring: u16) {
        let slots: Vec<u32> = self.connections.slots().collect();
        let (mut again, mut lost) = (0, 0);
        for slot in slots {
            let holder = self.connections.get(self.state, slot).map(|c| c.holder);
            match holder {
                Some(Holder::Given { ring: r }) if r == ring => {
                    self.connections.take_back(self.state, slot);
                    again += 1;
                }
                Some(Holder::Worker { ring: r } | Holder::Returning { ring: r }) if r == ring => {
                    drop(self.connections.remove(self.state, slot));
                    lost += 1;
                }
                _ => {}
            }
        }
        if again + lost > 0 {
            let name = self.name(ring);
            log::info!("{name}: {lost} connections ended with it, {again} go to another");
        }
    }

    /// The slot and the holder of a connection that this worker has or was given.
    fn slot_of(&self, ring: u16, cid: Cid) -> Option<(u32, Holder)> {
        let slot = self.connections.find(cid)?;
        let holder = self.connections.get(self.state, slot)?.holder;
        match holder {
            Holder::Given { ring: r }
            | Holder::Worker { ring: r }
            | Holder::Returning { ring: r } => (r == ring).then_some((slot, holder)),
            Holder::Nobody => None,
        }
    }
}

/// One message that gives these slots' connections.
fn send(state: &State, connections: &Connections, link: &Link, slots: &[u32]) -> io::Result<bool> {
    let given = slots
        .iter()
        .filter_map(|slot| connections.get(state, *slot));
    // One that was acknowledged meanwhile has no fd here any more.
    let given = given.filter_map(|connection| Some((connection.given(), connection.fd?)));
    let (connections, fds): (Vec<_>, Vec<_>) = given.unzip();
    // SAFETY: their slots own them, and give up none before this returns.
    let fds = fds
        .into_iter()
        .map(|fd| unsafe { BorrowedFd::borrow_raw(fd) });
    link.channel
        .send(&ToWorker::Give { connections }, &fds.collect::<Vec<_>>())
}
