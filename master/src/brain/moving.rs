//! Live connections move: from the worker that has them through the master to another one.
//!
//! The giver is told to part with them; each arrives with its fd and its past, is given to a taker
//! as a fresh one is, and once that has acknowledged it the giver is told to forget it. Until then
//! the giver keeps everything, and if nobody can take it, goes on with it. Which go where is decided
//! in [`moves`](crate::moves).

use std::os::fd::OwnedFd;

use protocol::fault;
use protocol::ids::Cid;
use protocol::message::{MAX_BATCH, Parted, Past, Proxy, ToWorker};

use super::Brain;
use crate::connections::{Connection, Holder, Word};
use crate::moves::{self, Aim, Choice, Next, Place};
use crate::supervise::{Event, Part, Phase};

/// While connections move, the loop turns at least this often (ms).
pub(super) const TURN: u64 = 10;
/// A connection whose giver is gone and that so many refused is closed.
const REFUSALS: u32 = 3;
/// Words to a worker that gives what it has not.
const MOST_WORDS: usize = 4_096;

impl Brain<'_> {
    /// Orders what is to move next.
    pub(super) fn move_connections(&mut self) {
        let leavers = self.leavers();
        self.moves.set_leavers(&leavers);
        if self.moves.is_idle() {
            return;
        }
        let table = self.places();
        for from in self.moves.givers() {
            self.move_from(from, &table);
        }
        if self.moves.is_even(self.now) {
            let mut steps = Vec::new();
            self.orders.balanced(&mut steps);
            self.take_steps(steps);
        }
    }

    fn move_from(&mut self, from: u16, table: &[Place]) {
        let policy = self.config.policy;
        loop {
            let load = self.connections.load(from);
            let waiting = self.connections.moving_count();
            match self
                .moves
                .next(self.now, from, load, waiting, policy, table)
            {
                Next::Order(cids) => match self.links.get_mut(&from) {
                    Some(link) => {
                        link.part(&cids);
                        fault::point("master:part");
                    }
                    None => return,
                },
                Next::List => {
                    let has = Holder::Worker { ring: from };
                    let all = self
                        .connections
                        .those(self.state, |c| c.holder == has && c.from.is_none());
                    let all = all
                        .into_iter()
                        .filter_map(|slot| self.connections.get(self.state, slot));
                    let all = all.map(|c| (c.cid, c.peer.ip()));
                    self.moves.listed(from, all, policy, table);
                }
                Next::Nothing => return,
                Next::Done => {
                    let owes = self.links.get(&from).is_some_and(|link| link.owes());
                    match self.moves.aim(from) {
                        Some(Aim::Share) => self.moves.end(from),
                        _ if owes => {}
                        _ => self.supervise(Event::Parted { ring: from }),
                    }
                    return;
                }
                Next::Failed(why) => return self.supervise(Event::Stuck { ring: from, why }),
            }
        }
    }

    /// Who is to give everything, and to whom.
    fn leavers(&self) -> Vec<(u16, Aim)> {
        let workers = self.supervisor.workers();
        let parting = workers
            .iter()
            .filter(|w| matches!(w.phase, Phase::Parting { .. }));
        parting
            .filter_map(|leaver| {
                let holds =
                    |w: &&crate::supervise::Worker| w.part == Part::Holder && w.seat == leaver.seat;
                match workers.iter().find(holds) {
                    Some(holder) if holder.has_process() => {
                        Some((leaver.ring, Aim::Relief { to: holder.ring }))
                    }
                    // It is started soon.
                    Some(_) => None,
                    None => Some((leaver.ring, Aim::Leave)),
                }
            })
            .collect()
    }

    /// The workers that stay.
    pub(super) fn places(&self) -> Vec<Place> {
        let limits = &self.config.limits;
        let serving: Vec<u16> = self.serving().collect();
        let holders = self.supervisor.workers().iter();
        let holders = holders.filter(|w| w.part == Part::Holder && w.has_process());
        let place = |w: &crate::supervise::Worker| {
            let given = self.connections.load(w.ring).given;
            let room = match serving.contains(&w.ring) {
                true => limits.window.saturating_sub(given),
                false => 0,
            };
            let connections = self.has(w.ring);
            Place {
                ring: w.ring,
                seat: w.seat,
                connections,
                room,
                spare: self
                    .config
                    .settings
                    .max_connections
                    .saturating_sub(connections),
            }
        };
        holders.map(place).collect()
    }

    /// Shares are evened out; [`Orders::balanced`](crate::reload::Orders::balanced) follows.
    pub(super) fn even_out(&mut self) {
        let within = self.config.timeouts.move_ms;
        let pace = self.config.limits.rebalance;
        let table = self.places();
        self.moves
            .even_out(self.now, within, pace, self.config.policy, &table);
        self.busy = true;
    }

    /// The next message gives these away: noted before it is received.
    pub(super) fn on_giving(&mut self, ring: u16, connections: &[Parted]) {
        for parted in connections {
            self.say_what_is_owed_to_another(ring, parted.cid);
            // What it does not have is seen to when it has arrived.
            let _ = self
                .connections
                .parting(self.state, parted.cid, ring, parted.peer);
        }
    }

    pub(super) fn on_give(&mut self, ring: u16, connections: Vec<Parted>, fds: Vec<OwnedFd>) {
        let mut fds = fds.into_iter();
        for Parted { cid, peer, past } in connections {
            let fd = fds.next();
            let file = match past {
                Past::File => fds.next(),
                Past::None | Past::Here(_) | Past::Lost => None,
            };
            self.moves.given(ring, cid);
            if let Some(slot) = self.connections.find(self.state, cid)
                && self.holder(slot) == Some(Holder::Worker { ring })
            {
                self.say_what_is_owed_to_another(ring, cid);
                self.connections.parting(self.state, cid, ring, peer);
            }
            self.on_one_given(ring, cid, past, fd, file);
        }
    }

    fn on_one_given(
        &mut self,
        ring: u16,
        cid: Cid,
        past: Past,
        fd: Option<OwnedFd>,
        file: Option<OwnedFd>,
    ) {
        let slot = self.connections.find(self.state, cid);
        let connection = slot.and_then(|slot| self.connections.get(self.state, slot));
        let (Some(slot), Some(connection)) = (slot, connection) else {
            return self.say_took(ring, cid);
        };
        let is_whole = past != Past::File || file.is_some();
        let Connection { from, lived, .. } = connection;
        match (connection.holder, fd) {
            (Holder::Returning { .. }, Some(fd)) if lived && from == Some(ring) && is_whole => {
                self.connections.returned(self.state, slot, fd);
                fault::point("master:arrived");
                self.pasts.put(slot, past, file, self.now);
            }
            (Holder::Returning { .. }, _) if from == Some(ring) => {
                log::warn!("{cid} stays where it is: no fd is free for it here");
                self.keep(slot);
            }
            // Said once more; what came with it is closed.
            (Holder::Nobody | Holder::Given { .. }, _) if lived && from == Some(ring) => {
                if !is_whole {
                    if let Some(link) = self.links.get_mut(&ring) {
                        link.part(&[cid]);
                    }
                } else if self.pasts.get(slot).is_none() {
                    self.pasts.put(slot, past, file, self.now);
                    if let Holder::Given { ring: taker } = connection.holder {
                        self.give_again(taker, slot);
                    }
                }
            }
            // What it is to be told is on its way.
            _ if from == Some(ring) && connection.word().is_some() => {}
            _ => self.say_took(ring, cid),
        }
    }

    /// Gives what moves and has no taker, before anything fresh.
    pub(super) fn assign_moved(&mut self) {
        let slots = self.connections.moving();
        if slots.is_empty() {
            return;
        }
        let mut table = self.places();
        for slot in slots {
            let connection = self.connections.get(self.state, slot);
            // Without its past it waits: its giver has been asked again.
            let (Some(connection), Some(arrived)) = (connection, self.pasts.get(slot)) else {
                continue;
            };
            let is_orphan = connection.from.is_none();
            if is_orphan && (arrived.past == Past::Lost || arrived.refusals >= REFUSALS) {
                self.lose(slot, connection.cid);
                continue;
            }
            let waited = self.now.saturating_sub(arrived.at);
            let ip = connection.peer.ip();
            let choice = match connection.proxy {
                // Now that its header has been read, it is known whose it is.
                Proxy::ReadAndReturn => moves::by_header(connection.from, ip, waited, &table),
                Proxy::None | Proxy::Read => {
                    let policy = self.config.policy;
                    self.moves
                        .choose(connection.from, ip, waited, policy, &table)
                }
            };
            match choice {
                Choice::Give(ring) => {
                    if let Some(place) = table.iter_mut().find(|place| place.ring == ring) {
                        place.take_one();
                    }
                    self.give(slot, ring);
                }
                Choice::Wait => {}
                Choice::Keep => self.keep(slot),
            }
        }
    }

    /// Its giver goes on with it.
    fn keep(&mut self, slot: u32) {
        let Some(Connection {
            from: Some(from), ..
        }) = self.connections.get(self.state, slot)
        else {
            return;
        };
        self.pasts.forget(slot);
        // Dropping it closes the master's copy.
        drop(self.connections.keep(self.state, slot));
        fault::point("master:keep");
        self.owe(from, slot);
    }

    /// Nobody can go on with it.
    pub(super) fn lose(&mut self, slot: u32, cid: Cid) {
        log::error!(
            "{cid} is closed: its worker ended while it moved, and nobody can go on with it"
        );
        self.pasts.forget(slot);
        drop(self.connections.remove(self.state, slot));
    }

    /// The worker that gave it away is to be told what has become of it.
    pub(super) fn owe(&mut self, from: u16, slot: u32) {
        match self.links.get_mut(&from) {
            Some(link) => {
                link.owed.push_back(slot);
                self.say_words(from);
            }
            None => self.connections.told(self.state, &[slot], from),
        }
    }

    /// Tells a worker what has become of what it gave away, and whatever else waits to be said.
    pub(super) fn say_words(&mut self, ring: u16) {
        let Some(link) = self.links.get_mut(&ring) else {
            return;
        };
        loop {
            let word = |slot: &u32| {
                let connection = self.connections.get(self.state, *slot)?;
                let word = connection.word()?;
                (connection.from == Some(ring)).then_some((connection.cid, word))
            };
            // As many as are to be told the same.
            let mut first = None;
            let (mut cids, mut told) = (Vec::new(), Vec::new());
            let mut count = 0;
            for slot in link.owed.iter().take(MAX_BATCH) {
                if let Some((cid, word)) = word(slot) {
                    if *first.get_or_insert(word) != word {
                        break;
                    }
                    cids.push(cid);
                    told.push(*slot);
                }
                count += 1;
            }
            let message = match first {
                Some(Word::Took) => Some(ToWorker::Took { cids }),
                Some(Word::Keep) => Some(ToWorker::Keep { cids }),
                None => None,
            };
            // Of an end that is gone its end tells.
            let sent = message.is_none_or(|m| link.channel.send(&m, &[]).unwrap_or(false));
            if count == 0 || !sent {
                break;
            }
            fault::point("master:took");
            link.owed.drain(..count);
            self.connections.told(self.state, &told, ring);
        }
        link.say();
    }

    /// This worker is to forget a connection that has no slot from it any more.
    fn say_took(&mut self, ring: u16, cid: Cid) {
        let Some(link) = self.links.get_mut(&ring) else {
            return;
        };
        link.took(cid);
        if link.unsaid() > MOST_WORDS {
            log::error!("{}: gives away what it does not have", self.name(ring));
            self.supervise(Event::Hostile { ring });
        }
    }

    /// It leaves this worker before the one that had it before knows that it came here.
    fn say_what_is_owed_to_another(&mut self, ring: u16, cid: Cid) {
        let slot = self.connections.find(self.state, cid);
        let connection = slot.and_then(|slot| self.connections.get(self.state, slot));
        if let Some(connection) = connection
            && connection.holder == (Holder::Worker { ring })
            && let Some(from) = connection.from.filter(|from| *from != ring)
        {
            self.say_took(from, cid);
        }
    }

    /// To a brain that says hello, or from one that does: what its worker gave away and is to be
    /// told of; what it gave away and is to say once more, because the past of it is lost here.
    pub(super) fn go_on_with_moves(&mut self, ring: u16) {
        let from_it = |c: &Connection| c.from == Some(ring);
        let decided = |c: &Connection| from_it(c) && c.word().is_some();
        let owed = self.connections.those(self.state, decided);
        let undecided = |c: &Connection| from_it(c) && c.is_undecided();
        let asked = self.connections.those(self.state, undecided);
        let asked = asked.into_iter().filter(|s| self.pasts.get(*s).is_none());
        let asked = asked.filter_map(|slot| self.connections.get(self.state, slot));
        let asked: Vec<Cid> = asked.map(|c| c.cid).collect();
        if let Some(link) = self.links.get_mut(&ring) {
            link.owed = owed.into();
            if !asked.is_empty() {
                link.part(&asked);
            }
        }
        self.say_words(ring);
    }

    /// Its giver is gone: its past is what has arrived of it.
    pub(super) fn orphan(&mut self, slot: u32, from: u16) {
        let Some(connection) = self.connections.get(self.state, slot) else {
            return;
        };
        self.connections.told(self.state, &[slot], from);
        if connection.is_undecided() && self.pasts.get(slot).is_none() {
            self.pasts.put(slot, Past::Lost, None, self.now);
            if let Holder::Given { ring } = connection.holder {
                self.give_again(ring, slot);
            }
        }
    }

    fn give_again(&mut self, ring: u16, slot: u32) {
        if let Some(link) = self.links.get_mut(&ring) {
            link.repeats.push(slot);
        }
        self.flush_gives(ring);
    }

    /// For a new brain: what moved when the last one died and has no giver any more.
    pub(super) fn note_orphans(&mut self) {
        let orphan = |c: &Connection| c.is_undecided() && c.from.is_none();
        for slot in self.connections.those(self.state, orphan) {
            self.pasts.put(slot, Past::Lost, None, self.now);
        }
    }

    fn holder(&self, slot: u32) -> Option<Holder> {
        self.connections.get(self.state, slot).map(|c| c.holder)
    }
}
