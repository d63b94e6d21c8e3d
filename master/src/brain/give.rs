//! Connections are given to workers, and what workers say of them.
//!
//! A slot says that a connection is given before the channel does; the worker's acknowledgement
//! decides; until then the master has its fd, and if the worker ends, another one gets it. What is
//! different for those that have lived is in [`moving`](super::moving).

use std::io;
use std::os::fd::BorrowedFd;

use protocol::fault;
use protocol::ids::{Cid, Role};
use protocol::message::{Given, MAX_BATCH, Past, Proxy, ToWorker};

use super::Brain;
use crate::connections::{Connections, Holder};
use crate::figures;
use crate::link::Link;
use crate::pasts::Pasts;
use crate::schedule::{Candidate, Occasion, choose};
use crate::sequencer::Turn;
use crate::state::{self, Head, State};
use crate::supervise::{Part, Phase};

/// A worker that refused a connection, or whose channel was full, is passed over for so long.
const REST: u64 = 50;
/// A worker that takes nothing of what it was given for so long is stopped, or is kept from running:
/// what it was given must wait for it, and nothing more shall.
const LATE: u64 = 250;
/// Bytes of pasts in one message at most, if it gives more than one connection.
const MAX_PASTS: usize = 64 << 10;

impl Brain<'_> {
    /// How many connections more can be given just now, beyond those that wait to be.
    pub(super) fn capacity(&self) -> usize {
        let window = self.config.limits.window;
        let rooms = self
            .serving()
            .filter(|ring| !self.is_late(*ring))
            .map(|ring| window.saturating_sub(self.connections.load(ring).given));
        let all: u32 = rooms.sum();
        (all as usize).saturating_sub(self.connections.waiting())
    }

    /// Every worker that can take connections has as many as it may.
    pub(super) fn workers_are_at_their_limit(&self) -> bool {
        let limit = self.config.settings.max_connections;
        self.serving()
            .all(|ring| self.has(ring) + self.is_to_come(ring) >= limit)
    }

    /// When a worker that is passed over for a moment can be chosen again, if somebody waits.
    pub(super) fn next_chance(&self) -> Option<u64> {
        let resting = self.links.values().map(|link| link.refuses_until);
        resting.filter(|at| *at > self.now).min()
    }

    /// Rings of the workers that can be given connections, in the order of seats.
    pub(super) fn serving(&self) -> impl Iterator<Item = u16> {
        let ready = self.supervisor.workers().iter();
        let ready = ready.filter(|w| w.part == Part::Holder && w.phase == Phase::Ready);
        ready.map(|w| w.ring).filter(|ring| {
            self.links
                .get(ring)
                .is_some_and(|link| link.closed.is_none() && link.refuses_until <= self.now)
        })
    }

    fn is_late(&self, ring: u16) -> bool {
        self.connections.load(ring).given > 0
            && self
                .links
                .get(&ring)
                .is_some_and(|link| self.now > link.silent_since + LATE)
    }

    /// How many connections a worker has or was given.
    pub(super) fn has(&self, ring: u16) -> u32 {
        let load = self.connections.load(ring);
        load.given + load.held
    }

    /// What the worker still has that this one relieves.
    fn is_to_come(&self, ring: u16) -> u32 {
        let taken = self.moves.relieved_by(ring);
        taken.map(|from| self.has(from)).sum()
    }

    /// Gives what waits, as far as workers have room.
    pub(super) fn assign(&mut self) {
        self.assign_moved();
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
                let connections = self.has(ring) + self.is_to_come(ring);
                let given = self.connections.load(ring).given;
                let open = given < limits.window && connections < most && !self.is_late(ring);
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
            random: self.random.next(),
            address: connection.peer.ip(),
        };
        let Some(chosen) = choose(self.config.policy, &table, &occasion) else {
            return false;
        };
        let (ring, candidate) = rings[chosen];
        self.last_seat = Some(candidate.seat);
        self.give(slot, ring);
        true
    }

    pub(super) fn give(&mut self, slot: u32, ring: u16) {
        let has_taken_all = self.connections.load(ring).given == 0;
        self.connections.give(self.state, slot, ring);
        if let Some(link) = self.links.get_mut(&ring) {
            if has_taken_all {
                link.silent_since = self.now;
            }
            link.batch.push(slot);
            if link.batch.len() >= MAX_BATCH {
                self.flush_gives(ring);
            }
        }
    }

    /// Sends what this worker is given: first what it is given once more.
    pub(super) fn flush_gives(&mut self, ring: u16) {
        self.say_words(ring);
        let Some(link) = self.links.get_mut(&ring) else {
            return;
        };
        // What it is to forget goes first: it may be given the same again.
        let is_behind = link.owes();
        while !link.repeats.is_empty() && !is_behind {
            let count = fit(&self.pasts, &link.repeats);
            // It may have these, and then nobody else can: they stay given, and are sent when the
            // channel takes them.
            let now = &link.repeats[..count];
            match send(self.state, &self.connections, &self.pasts, None, link, now) {
                Ok(true) => _ = link.repeats.drain(..count),
                Ok(false) | Err(_) => break,
            }
        }
        let mut batch = std::mem::take(&mut link.batch);
        while !batch.is_empty() {
            let count = fit(&self.pasts, &batch);
            let now: Vec<u32> = batch.drain(..count).collect();
            fault::point("master:give");
            let sent = match is_behind {
                true => Ok(false),
                false => send(
                    self.state,
                    &self.connections,
                    &self.pasts,
                    self.sample,
                    link,
                    &now,
                ),
            };
            match sent {
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
    /// once more. What has lived is given again when its past is here.
    pub(super) fn repeat(&mut self, ring: u16) {
        self.sequence_up_to_now(ring);
        let given = Holder::Given { ring };
        let slots = self.connections.those(self.state, |c| c.holder == given);
        let can_be_given = |slot: &u32| {
            let connection = self.connections.get(self.state, *slot);
            connection.is_some_and(|c| !c.lived) || self.pasts.get(*slot).is_some()
        };
        let slots = slots.into_iter().filter(can_be_given).collect();
        if let Some(link) = self.links.get_mut(&ring) {
            link.batch.clear();
            link.repeats = slots;
        }
        self.go_on_with_moves(ring);
        self.flush_gives(ring);
    }

    pub(super) fn on_ack(&mut self, ring: u16, cids: &[Cid]) {
        // Who takes a connection over has said so to its rooms before, in the same ring: that is in
        // order when the giver, which is told here, takes it out of them.
        if let Some(link) = self.links.get_mut(&ring) {
            link.silent_since = self.now;
        }
        let mut givers = Vec::new();
        for cid in cids {
            let Some((slot, Holder::Given { .. })) = self.slot_of(ring, *cid) else {
                continue;
            };
            let connection = self.connections.get(self.state, slot);
            let from = connection.and_then(|c| c.from);
            self.sample.take_if(|(sample, _)| sample == cid);
            fault::point("master:ack");
            // Dropping it closes the master's copy.
            drop(self.connections.acknowledged(self.state, *cid, ring));
            self.pasts.forget(slot);
            let is_new = connection.is_none_or(|c| c.proxy == Proxy::ReadAndReturn);
            if from.is_some_and(|from| from != ring) && !is_new {
                figures::count(self.state, Head::Moved);
            }
            if let Some(from) = from
                && let Some(link) = self.links.get_mut(&from)
            {
                link.owed.push_back(slot);
                givers.push(from);
            }
        }
        givers.sort_unstable();
        givers.dedup();
        for giver in givers {
            self.say_words(giver);
        }
    }

    /// What a worker has written into its ring by now is put in order.
    pub(super) fn sequence_up_to_now(&mut self, ring: u16) {
        let Some(end) = self.links.get(&ring).map(|link| link.ring.head()) else {
            return;
        };
        while self.state.get(state::read_index(ring)) < end {
            if self.sequence_one(ring) != Turn::More {
                break;
            }
        }
    }

    pub(super) fn on_refuse(&mut self, ring: u16, cids: &[Cid]) {
        log::warn!("{}: refused {} connections", self.name(ring), cids.len());
        let mut givers = Vec::new();
        for cid in cids {
            let Some((slot, Holder::Given { .. })) = self.slot_of(ring, *cid) else {
                continue;
            };
            self.connections.take_back(self.state, slot);
            if let Some(from) = self.connections.get(self.state, slot).and_then(|c| c.from)
                && !givers.contains(&from)
            {
                givers.push(from);
            }
            self.pasts.refused(slot);
        }
        for from in givers {
            self.moves.refused(from);
        }
        if let Some(link) = self.links.get_mut(&ring) {
            link.refuses_until = self.now + REST;
        }
    }

    pub(super) fn on_closed(&mut self, ring: u16, cids: &[Cid]) {
        for cid in cids {
            fault::point("master:closed");
            self.moves.closed(ring, *cid);
            if let Some((slot, _)) = self.slot_of(ring, *cid) {
                let from = self.connections.get(self.state, slot).and_then(|c| c.from);
                self.pasts.forget(slot);
                drop(self.connections.remove(self.state, slot));
                if let Some(from) = from.filter(|from| *from != ring) {
                    self.owe(from, slot);
                }
            }
        }
    }

    /// The worker is gone: what it had not taken goes to another, what it had is gone with it.
    pub(super) fn take_back_all(&mut self, ring: u16) {
        let slots: Vec<u32> = self.connections.slots().collect();
        let (mut again, mut lost) = (0, 0);
        for slot in slots {
            let Some(connection) = self.connections.get(self.state, slot) else {
                continue;
            };
            let from = connection.from;
            match connection.holder {
                Holder::Given { ring: r } if r == ring => {
                    self.connections.take_back(self.state, slot);
                    again += 1;
                }
                Holder::Worker { ring: r } | Holder::Returning { ring: r } if r == ring => {
                    drop(self.connections.remove(self.state, slot));
                    lost += 1;
                    if let Some(from) = from.filter(|from| *from != ring) {
                        self.owe(from, slot);
                    }
                }
                _ => {}
            }
            if from == Some(ring) {
                self.orphan(slot, ring);
            }
        }
        self.moves.end(ring);
        if again + lost > 0 {
            let name = self.name(ring);
            log::info!("{name}: {lost} connections ended with it, {again} go to another");
        }
    }

    /// The slot and the holder of a connection that this worker has or was given.
    fn slot_of(&self, ring: u16, cid: Cid) -> Option<(u32, Holder)> {
        let slot = self.connections.find(self.state, cid)?;
        let holder = self.connections.get(self.state, slot)?.holder;
        match holder {
            Holder::Given { ring: r }
            | Holder::Worker { ring: r }
            | Holder::Returning { ring: r } => (r == ring).then_some((slot, holder)),
            Holder::Nobody | Holder::Closed => None,
        }
    }
}

/// How many of these can be given in one message: one at least.
fn fit(pasts: &Pasts, slots: &[u32]) -> usize {
    let (mut fds, mut bytes) = (0, 0);
    let fits = |slot: &&u32| {
        let past = pasts.get(**slot);
        fds += 1 + usize::from(past.is_some_and(|past| past.file().is_some()));
        bytes += past.map_or(0, |past| past.size());
        fds <= MAX_BATCH && bytes <= MAX_PASTS
    };
    let count = slots.iter().take_while(fits).count();
    count.max(1).min(slots.len())
}

/// One message that gives these slots' connections. `sample`: one that is measured, and when it was
/// accepted.
fn send(
    state: &State,
    connections: &Connections,
    pasts: &Pasts,
    sample: Option<(Cid, u64)>,
    link: &Link,
    slots: &[u32],
) -> io::Result<bool> {
    let (mut given, mut fds) = (Vec::new(), Vec::new());
    for slot in slots {
        // One that was acknowledged meanwhile has no fd here any more.
        let connection = connections.get(state, *slot);
        let Some((connection, fd)) = connection.and_then(|c| Some((c, c.fd?))) else {
            continue;
        };
        let arrived = pasts.get(*slot).filter(|_| connection.lived);
        let past = arrived.map_or(Past::None, |arrived| arrived.past.clone());
        let accepted = sample.filter(|(cid, _)| *cid == connection.cid);
        given.push(Given {
            accepted_us: accepted.map_or(0, |(_, us)| us),
            ..connection.given(past)
        });
        // SAFETY: its slot owns it, and does not give it up before this returns.
        fds.push(unsafe { BorrowedFd::borrow_raw(fd) });
        fds.extend(arrived.and_then(|arrived| arrived.file()));
    }
    link.channel
        .send(&ToWorker::Give { connections: given }, &fds)
}
