//! What the master says: connections are taken into slots, and the rest of the channel's messages.
//!
//! A connection that is given is first committed to its slot, then acknowledged, and only then
//! read: the sent acknowledgement decides whose it is.

use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};

use mio::Interest;
use mio::unix::SourceFd;
use protocol::channel::{Received, cookie};
use protocol::fault;
use protocol::ids::Cid;
use protocol::journal::Record;
use protocol::message::{Given, Proxy, ToMaster, ToWorker};

use crate::brain::Brain;
use crate::logs;
use crate::slots::{Field, Flag, Meta, Phase, Slots};

impl Brain {
    /// Reads the channel to its end.
    pub fn take(&mut self) {
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
                Err(e) => {
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
                self.settings = *settings;
            }
            ToWorker::Give { connections } => {
                // Fds that were lost on the way are the last ones.
                let lost = connections.iter().skip(fds.len()).map(|given| given.cid);
                self.refused.extend(lost);
                for (given, fd) in connections.iter().zip(fds) {
                    self.take_one(given, fd);
                }
                self.send_acks();
            }
            ToWorker::Took { cids } => {
                for cid in cids {
                    self.returned(cid);
                }
            }
            // Nobody asks for it yet.
            ToWorker::Part { .. } | ToWorker::Keep { .. } => {}
            ToWorker::Reopen => match fds.pop() {
                Some(file) => logs::reopen(file),
                None => log::error!("cannot reopen the log: the file was lost on the way"),
            },
            ToWorker::Retire { within_ms } => self.retire(within_ms),
        }
    }

    fn take_one(&mut self, given: &Given, fd: OwnedFd) {
        fault::point("worker:receive");
        let cookie = cookie(&fd);
        if self.has_taken(given.cid, cookie) {
            // Given again by a master that did not see the ack. This second fd of the same
            // connection is closed as it is dropped.
            self.acks.push(given.cid);
            return;
        }
        let full = self.slots.live() >= self.settings.max_connections || self.is_retiring();
        let Some(slot) = (!full).then(|| self.slots.take()).flatten() else {
            self.refused.push(given.cid);
            return;
        };
        let phase = match given.proxy {
            Proxy::None => Phase::Http,
            Proxy::Read | Proxy::ReadAndReturn => Phase::Proxy,
        };
        let meta = Meta::new(fd.as_raw_fd(), phase, given.role)
            .with(Flag::Unacked, true)
            .with(Flag::Refuse, given.refuse)
            .with(Flag::Return, given.proxy == Proxy::ReadAndReturn);
        let log_read = self.state.get(crate::state::Head::LogRead);
        let mut record = Record::new();
        for (field, value) in [
            (Field::Cid, given.cid.0),
            (Field::Cookie, cookie),
            (Field::Consumed, given.consumed),
            (Field::Parsed, given.consumed),
            (Field::InExtent, 0),
            (Field::InBase, 0),
            (Field::Written, 0),
            (Field::Produced, 0),
            (Field::OutExtent, 0),
            (Field::OutBase, 0),
            (Field::MessageExtent, 0),
            (Field::MessageLen, 0),
            (Field::Session0, 0),
            (Field::Session1, 0),
            (Field::Session2, 0),
            (Field::Cursor, log_read),
            (Field::Heard, self.now),
            (Field::Since, self.now),
            (Field::Stalled, 0),
            (Field::Cells, 0),
            (Field::Meta, meta.pack()),
        ] {
            Slots::change(&mut record, slot, field, value);
        }
        Slots::change_peer(&mut record, slot, given.peer);
        self.journal.commit(&mut record);
        fault::point("worker:take");
        // From here on the slot owns the fd.
        let _ = fd.into_raw_fd();
        let local = self.local(slot);
        let generation = local.generation.wrapping_add(1);
        *local = crate::brain::Local {
            generation,
            readable: true,
            ..Default::default()
        };
        self.acks.push(given.cid);
        self.unacked.push(slot);
    }

    /// Tells the master what was taken; then, and only then, those connections are read.
    pub fn send_acks(&mut self) {
        if !self.acks.is_empty() {
            let cids = std::mem::take(&mut self.acks);
            if !self.say(&ToMaster::Ack { cids: cids.clone() }) {
                self.acks = cids;
                return;
            }
            fault::point("worker:ack");
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
            log::debug!("{} from {}", self.slots.cid(slot), self.slots.peer(slot));
            self.begin(slot);
        }
    }

    /// Watches a connection's socket and tries it once: readiness does not survive a move.
    pub fn begin(&mut self, slot: u32) {
        let Some(meta) = self.slots.meta(slot) else {
            return;
        };
        let token = self.token(slot);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(e) = self
            .poll
            .registry()
            .register(&mut SourceFd(&meta.fd), token, interest)
        {
            log::error!("{} cannot be watched: {e}", self.slots.cid(slot));
            self.finish(slot, crate::close::CloseReason::Internal);
            return;
        }
        self.local(slot).readable = true;
        self.reschedule(slot);
        self.drive(slot);
    }

    /// Is this very connection in a slot? Numbers rise, so nearly always the first look says no.
    fn has_taken(&mut self, cid: Cid, cookie: u64) -> bool {
        if cid > self.highest_cid {
            self.highest_cid = cid;
            return false;
        }
        (0..self.slots.used()).any(|slot| {
            self.slots.cid(slot) == cid
                && self.slots.get(slot, Field::Cookie) == cookie
                && self.slots.meta(slot).is_some()
        })
    }

    /// Gives a connection back to the master, which chooses again by the address that its PROXY
    /// header named. Nothing behind the header has been read.
    pub fn give_back(&mut self, slot: u32) -> bool {
        let Some(meta) = self.slots.meta(slot) else {
            return false;
        };
        let message = ToMaster::Return {
            cid: self.slots.cid(slot),
            peer: self.slots.peer(slot),
            consumed: self.slots.get(slot, Field::Consumed),
        };
        fault::point("worker:give-back");
        match self.channel.send(&message, &[meta.socket().as_fd()]) {
            Ok(sent) => sent,
            Err(e) => {
                log::warn!("cannot give {} back: {e}", self.slots.cid(slot));
                false
            }
        }
    }

    /// The master has it: our copy goes, and nothing is said to the peer.
    fn returned(&mut self, cid: Cid) {
        let slot = (0..self.slots.used()).find(|&slot| {
            self.slots.cid(slot) == cid
                && self
                    .slots
                    .meta(slot)
                    .is_some_and(|meta| meta.has(Flag::Given))
        });
        if let Some(slot) = slot {
            self.forget(slot);
        }
    }
}
