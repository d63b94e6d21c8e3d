//! What the master says: connections are taken into slots, and the rest of the channel's messages.
//!
//! A connection that is given is first committed to its slot, then acknowledged, and only then
//! read: the sent acknowledgement decides whose it is. One that has lived in another worker brings
//! a snapshot along ([`arrive`](crate::arrive)).

use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};

use mio::Interest;
use mio::unix::SourceFd;
use protocol::address::Shown;
use protocol::channel::{self, Received, cookie};
use protocol::fault;
use protocol::ids::Cid;
use protocol::journal::Record;
use protocol::message::{Given, MAX_BATCH, Past, Proxy, ToMaster, ToWorker};
use protocol::record::{Cids, Up, cid_bytes};
use protocol::row::Figure;

use crate::arrive;
use crate::auth::Keys;
use crate::brain::Brain;
use crate::close::CloseReason;
use crate::local::Mark;
use crate::logs;
use crate::poison::InHand;
use crate::slots::{Field, Flag, Meta, Phase, Slots};
use crate::state::Head;
use crate::websocket::deflate::{Deflater, Level};

impl Brain {
    /// Reads the channel to its end.
    pub fn take(&mut self) {
        // Whoever had its turn before has nothing to do with what comes.
        self.nothing_in_hand();
        loop {
            match self.channel.receive::<ToWorker>() {
                Ok(Received::Message { message, fds }) => self.on_message(message, fds),
                Ok(Received::Empty) => break,
                Ok(Received::Closed) => {
                    // The master is wholly gone, guard and brain: nobody will ever give or
                    // sequence again.
                    if !self.is_retiring() {
                        log::warn!("the master is gone");
                        self.retire(self.settings.retire_ms);
                    }
                    break;
                }
                // A master of the next version may have words that we do not know.
                Err(channel::Error::Decode(e)) => log::warn!("from the master: {e}"),
                Err(channel::Error::Io(e)) => {
                    log::error!("from the master: {e}");
                    break;
                }
            }
        }
    }

    fn on_message(&mut self, message: ToWorker, mut fds: Vec<OwnedFd>) {
        match message {
            ToWorker::Welcome { settings, .. } => {
                if let Err(e) = self.state.set_settings(&settings) {
                    log::error!("cannot keep the settings: {e}");
                }
                let other_words = settings.filters != self.settings.filters;
                self.settings = *settings;
                if other_words {
                    self.make_filters();
                }
                self.rooms.set_presence(&self.settings.presence);
                self.rooms.set_options(&self.settings.options);
                self.keys = Keys::new(&self.settings.auth);
                // The next brain compresses by these, too: what this one writes a part of, it goes on with.
                self.deflater = Deflater::new(Level::of(&self.settings.websocket));
            }
            ToWorker::Give { connections } => {
                let mut fds = fds.into_iter();
                for given in connections {
                    let fd = fds.next();
                    let file = match given.past {
                        Past::File => fds.next(),
                        Past::None | Past::Here(_) | Past::Lost => None,
                    };
                    match fd {
                        Some(fd) => self.take_one(&given, fd, file),
                        // It was lost on the way.
                        None => self.refused.push(given.cid),
                    }
                }
                self.nothing_in_hand();
                self.send_acks();
            }
            ToWorker::Part { cids } => self.part(&cids),
            ToWorker::Took { cids } => self.took(&cids),
            ToWorker::Keep { cids } => self.keep(&cids),
            ToWorker::Reopen => match fds.pop() {
                Some(file) => logs::reopen(file),
                None => log::error!("cannot reopen the log: the file was lost on the way"),
            },
            ToWorker::Retire { within_ms } => self.retire(within_ms),
        }
    }

    fn take_one(&mut self, given: &Given, fd: OwnedFd, file: Option<OwnedFd>) {
        fault::point("worker:receive");
        let cookie = match given.cookie {
            0 => cookie(&fd),
            known => known,
        };
        if let Some(slot) = self.has_taken(given, cookie) {
            // Given again by a master that did not see the ack. This second fd of the same
            // connection is closed as it is dropped. An ack that is still to come has its time: what
            // it stands for may not be told yet.
            if !self.slots.meta(slot).is_some_and(|m| m.has(Flag::Unacked)) {
                self.acks.push(given.cid);
            }
            return;
        }
        let place = InHand::Taking(given.cid);
        self.note_in_hand(place);
        if self.verdict.convicts(place) {
            return self.turn_away(given);
        }
        fault::poison("worker:poison-take", given.peer.to_string().as_bytes());
        let snapshot = match arrive::snapshot(&given.past, file) {
            Ok(snapshot) => snapshot,
            Err(unfit) => return self.refuse(given.cid, &unfit),
        };
        let full = self.slots.live() >= self.settings.max_connections
            || self.is_retiring()
            || self.evacuates;
        let Some(slot) = (!full).then(|| self.slots.take()).flatten() else {
            self.refused.push(given.cid);
            return;
        };
        let record = match &snapshot {
            None => Ok(self.fresh(given, fd.as_raw_fd(), slot)),
            Some(snapshot) => self.arrive(slot, given, fd.as_raw_fd(), snapshot),
        };
        let mut record = match record {
            Ok(record) => record,
            Err(unfit) => {
                self.slots.put_back(slot);
                return self.refuse(given.cid, &unfit);
            }
        };
        Slots::change(&mut record, slot, Field::Cookie, cookie);
        self.journal.commit(&mut record);
        self.slots.taken(slot);
        fault::point("worker:take");
        if snapshot.is_none() {
            self.count(Figure::Taken);
            if given.accepted_us > 0 {
                self.has_taken_over(given.accepted_us);
            }
        }
        // From here on the slot owns the fd.
        let _ = fd.into_raw_fd();
        self.begin_anew(slot, true);
        if self.slots.meta(slot).is_some_and(|m| m.has(Flag::Lagging)) {
            self.begin_to_lag(slot);
        }
        if snapshot.is_some() {
            self.await_ack(slot);
        } else {
            self.acks.push(given.cid);
            self.unacked.push(slot);
        }
    }

    /// Taking it has killed one brain after another. One that has lived elsewhere goes on there;
    /// a fresh one would kill the brains of the other workers, so it is nobody's any more.
    fn turn_away(&mut self, given: &Given) {
        let (cid, peer) = (given.cid, Shown(given.peer));
        log::error!("{cid} from {peer} kills whoever takes it: turned away");
        let is_fresh = matches!(given.past, Past::None);
        match is_fresh.then(|| self.slots.take()).flatten() {
            Some(slot) => {
                self.slots.set(slot, Field::Cid, cid.0);
                self.slots.release(slot);
            }
            None => self.refused.push(cid),
        }
    }

    fn refuse(&mut self, cid: Cid, unfit: &arrive::Unfit) {
        log::warn!("{cid} cannot be taken: {unfit}");
        self.refused.push(cid);
    }

    /// The record that makes the slot a connection's of which nothing has been read.
    fn fresh(&self, given: &Given, fd: RawFd, slot: u32) -> Record {
        let phase = match given.proxy {
            Proxy::None => Phase::Http,
            Proxy::Read | Proxy::ReadAndReturn => Phase::Proxy,
        };
        let meta = Meta::new(fd, phase, given.role)
            .with(Flag::Unacked, true)
            .with(Flag::Refuse, given.refuse)
            .with(Flag::Return, given.proxy == Proxy::ReadAndReturn)
            .with(Flag::Remote, given.remote)
            .with(Flag::Unix, given.unix);
        let mut record = Record::new();
        Slots::change_peer(&mut record, slot, given.peer, None);
        for (field, value) in [
            (Field::Cid, given.cid.0),
            (Field::Consumed, 0),
            (Field::Parsed, 0),
            (Field::Input, 0),
            (Field::Written, 0),
            (Field::Produced, 0),
            (Field::Output, 0),
            (Field::Message, 0),
            (Field::Session0, 0),
            (Field::Session1, 0),
            (Field::Session2, 0),
            (Field::Cursor, self.state.get(Head::LogRead)),
            (Field::Heard, self.now),
            (Field::Since, self.now),
            (Field::Stalled, 0),
            (Field::Cells, 0),
            (Field::Meta, meta.pack()),
        ] {
            Slots::change(&mut record, slot, field, value);
        }
        record
    }

    /// It is acknowledged when the log has been read as far as it goes now; by a brain that does
    /// not read it, at once.
    pub fn await_ack(&mut self, slot: u32) {
        if self.evacuates {
            self.acks.push(self.slots.cid(slot));
            self.unacked.push(slot);
        } else {
            self.arrivals.log = self.log.head();
            self.arrivals.slots.push(slot);
        }
    }

    /// Tells the master what was taken; then, and only then, those connections are read.
    pub fn send_acks(&mut self) {
        if !self.arrivals.slots.is_empty() && self.arrivals_are_settled() {
            for slot in std::mem::take(&mut self.arrivals.slots) {
                self.acks.push(self.slots.cid(slot));
                self.unacked.push(slot);
            }
            // Who gave them waits for the word.
            self.published = true;
        }
        while !self.acks.is_empty() {
            let count = self.acks.len().min(MAX_BATCH);
            let cids: Vec<_> = self.acks[..count].iter().copied().map(cid_bytes).collect();
            let cids = Cids::new(&cids);
            if !self.say_in_ring(Up::Ack { cids }, count) {
                return;
            }
            fault::point("worker:ack");
            self.acks.drain(..count);
        }
        if !self.refused.is_empty() {
            let cids = std::mem::take(&mut self.refused);
            if !self.say(&ToMaster::Refuse { cids: cids.clone() }) {
                self.refused = cids;
            }
        }
        for slot in std::mem::take(&mut self.unacked) {
            let Some(meta) = self.slots.meta(slot).filter(|meta| meta.has(Flag::Unacked)) else {
                continue;
            };
            self.slots.set_meta(slot, meta.with(Flag::Unacked, false));
            if meta.has(Flag::Lagging) {
                // It could not be written to before.
                self.begin_to_lag(slot);
            }
            let (cid, peer) = (self.slots.cid(slot), Shown(self.slots.peer(slot)));
            log::debug!("{cid} from {peer}");
            self.begin(slot);
        }
    }

    /// Tries a connection's socket once, readiness does not survive a move; if it lives on after
    /// this turn, it is watched.
    pub fn begin(&mut self, slot: u32) {
        if self.evacuates || self.slots.meta(slot).is_none() {
            return;
        }
        self.local(slot).set(Mark::Readable, true);
        self.api_goes_on(slot);
        self.unwatched.push(slot);
        self.drive(slot);
    }

    /// Watches what has begun in this turn. Most connections that only ask once are over by now.
    pub fn watch(&mut self) {
        for slot in std::mem::take(&mut self.unwatched) {
            let here = self.slots.meta(slot).filter(|m| !m.has(Flag::Given));
            let Some(meta) = here.filter(|_| !self.local(slot).is(Mark::Watched)) else {
                continue;
            };
            let token = self.token(slot);
            let interest = Interest::READABLE | Interest::WRITABLE;
            let registry = self.poll.registry();
            if let Err(e) = registry.register(&mut SourceFd(&meta.fd), token, interest) {
                log::error!("{} cannot be watched: {e}", self.slots.cid(slot));
                self.finish(slot, CloseReason::Internal);
                continue;
            }
            self.local(slot).set(Mark::Watched, true);
            self.reschedule(slot);
        }
    }

    /// The slot in which this very connection is. Numbers rise, so nearly always the first look says no.
    fn has_taken(&mut self, given: &Given, cookie: u64) -> Option<u32> {
        if given.cid > self.highest_cid {
            self.highest_cid = given.cid;
            return None;
        }
        let slot = self.slots.find(given.cid)?;
        let is_given = self.slots.meta(slot).is_some_and(|m| m.has(Flag::Given));
        if is_given && given.past != Past::None {
            // It was given away and now comes back, before the word that another had taken it.
            self.leave_rooms(slot);
            self.forget_moved(slot);
            return None;
        }
        (self.slots.get(slot, Field::Cookie) == cookie).then_some(slot)
    }
}
