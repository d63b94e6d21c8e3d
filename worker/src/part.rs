//! A connection is given away while it lives: to the master, and by it to another worker.
//!
//! The master says which ([`ToWorker::Part`](protocol::message::ToWorker::Part)), or has asked for
//! it in advance: it chooses again when a PROXY header has named the client. Such a connection is
//! not read any more; once the master has sequenced everything that it had asked, so that the
//! answers are in the log wherever it will be, its slot is marked given and a [`Snapshot`] of it is
//! sent with its fd. From then on nothing of it is touched here, until the master says that another
//! worker has taken it, or that nobody could.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::memfd::{MFdFlags, memfd_create};
use protocol::fault;
use protocol::ids::Cid;
use protocol::journal::Record;
use protocol::message::{MAX_BATCH, Parted, Past, ToMaster};
use serde_bytes::ByteBuf;

use crate::brain::Brain;
use crate::buffers;
use crate::local::Mark;
use crate::slots::{Field, Flag, Meta, Phase, Slots};
use crate::snapshot::{self, Membership, Snapshot};
use crate::state::Head;
use crate::websocket::Window;

/// A larger snapshot travels in a file of its own.
const INLINE: usize = 16 << 10;
/// Bytes of the snapshots in one message.
const BATCH_BYTES: usize = 64 << 10;
/// By this name the next brain knows a file that was left open.
pub const FILE: &str = "baton-move";

/// Those that are on their way out.
#[derive(Debug, Default)]
pub struct Parting {
    /// Not read any more, each with the place in the ring behind what it has asked.
    asked: Vec<(u32, u64)>,
    /// Given, and not sent to the master yet.
    unsent: Vec<u32>,
}

impl Brain {
    /// The master wants these to be given away.
    pub fn part(&mut self, cids: &[Cid]) {
        for cid in cids {
            let Some(slot) = self.slots.find(*cid) else {
                continue;
            };
            match self.slots.meta(slot).is_some_and(|m| m.has(Flag::Given)) {
                true => self.parting.unsent.push(slot),
                false => self.part_with(slot),
            }
        }
    }

    /// From now on it is not read, and is given away when all that it has asked is in order.
    pub fn part_with(&mut self, slot: u32) {
        if !self.local(slot).set(Mark::Parting, true) {
            self.parting.asked.push((slot, self.asked));
        }
    }

    /// For a new brain: whether this was sent is not known, so it is sent again.
    pub fn give_again(&mut self, slot: u32) {
        self.parting.unsent.push(slot);
    }

    /// Gives away what can be given by now. To be called when everything of this turn is written.
    pub fn give_away(&mut self) {
        if self.parting.asked.is_empty() && self.parting.unsent.is_empty() {
            return;
        }
        let read = self.ring_read();
        let mut asked = std::mem::take(&mut self.parting.asked);
        asked.retain(|&(slot, behind)| {
            let Some(meta) = self
                .slots
                .meta(slot)
                .filter(|_| self.local(slot).is(Mark::Parting))
            else {
                return false; // it has ended meanwhile
            };
            if read < behind || meta.has(Flag::Unacked) {
                return true;
            }
            self.give(slot);
            false
        });
        asked.append(&mut self.parting.asked);
        self.parting.asked = asked;
        self.send_given();
    }

    /// From here on it is another's, unless the master says that we keep it.
    fn give(&mut self, slot: u32) {
        let Some(meta) = self.slots.meta(slot) else {
            return;
        };
        let mut cursor = self.slots.get(slot, Field::Cursor);
        if !meta.has(Flag::Lagging) {
            cursor = self.owed_from(slot);
        }
        let meta = meta
            .with(Flag::Given, true)
            .with(Flag::Return, false)
            .with(Flag::Lagging, false);
        let mut record = Record::new();
        Slots::change(&mut record, slot, Field::Cursor, cursor);
        Slots::change(&mut record, slot, Field::Meta, meta.pack());
        fault::point("worker:part");
        self.journal.commit(&mut record);
        fault::point("worker:parted");
        self.unwatch(slot, meta);
        let local = self.local(slot);
        let touched = local.is(Mark::Touched);
        *local = local.next();
        local.set(Mark::Touched, touched);
        self.inflate.forget(slot);
        self.parting.unsent.push(slot);
    }

    /// Sends what is given, as far as the channel takes it now.
    fn send_given(&mut self) {
        let mut unsent = std::mem::take(&mut self.parting.unsent);
        unsent.retain(|slot| self.slots.meta(*slot).is_some_and(|m| m.has(Flag::Given)));
        while !unsent.is_empty() {
            let first = unsent.iter().take(MAX_BATCH);
            let first: Vec<(u32, Meta)> = first
                .filter_map(|slot| Some((*slot, self.slots.meta(*slot)?)))
                .collect();
            let mut batch = Batch::default();
            for (slot, meta) in &first {
                let (cid, peer) = (self.slots.cid(*slot), self.slots.peer(*slot));
                match batch.add(cid, peer, meta.socket(), &self.snapshot(*slot).encode()) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(e) => {
                        // No fd is free just now.
                        log::warn!("{cid} cannot be given yet: {e}");
                        break;
                    }
                }
            }
            let count = batch.connections.len();
            fault::point("worker:give");
            if count == 0 || !batch.send(self) {
                break;
            }
            fault::point("worker:given");
            unsent.drain(..count);
        }
        self.parting.unsent = unsent;
    }

    fn snapshot(&self, slot: u32) -> Snapshot {
        let get = |field| self.slots.get(slot, field);
        let ago = |at: u64| self.now.saturating_sub(at);
        let is = |flag| self.slots.meta(slot).is_some_and(|meta| meta.has(flag));
        let meta = self.slots.meta(slot);
        let read = self.state.get(Head::LogRead);
        let membership = |(room, after)| Membership {
            number: self.rooms.number(room),
            name: ByteBuf::from(self.rooms.name(room)),
            after,
            watch: self.rooms.watches(&self.slots, slot, room).unwrap_or(0),
            position: self.rooms.position(room),
            read,
            total: self.rooms.total(room),
        };
        let rooms = self.rooms.rooms_of(&self.slots, slot);
        let message = buffers::message(&self.arena, &self.slots, slot, usize::MAX);
        Snapshot {
            version: snapshot::VERSION,
            role: meta.map_or(protocol::ids::Role::Public, |meta| meta.role),
            phase: meta.map_or(Phase::Closing, |meta| meta.phase),
            reason: meta
                .and_then(|meta| meta.reason)
                .map(|reason| reason.as_str().to_owned()),
            refuse: is(Flag::Refuse),
            pinged: is(Flag::Pinged),
            peer_ended: is(Flag::PeerEnded),
            we_ended: is(Flag::WeEnded),
            leaving: is(Flag::Leaving),
            opening: is(Flag::Opening),
            consumed: get(Field::Consumed),
            written: get(Field::Written),
            input: ByteBuf::from(buffers::unread(&self.arena, &self.slots, slot)),
            message: ByteBuf::from(protocol::output::Buffer::bytes(&message)),
            output: ByteBuf::from(buffers::unwritten(&self.arena, &self.slots, slot)),
            session: [Field::Session0, Field::Session1, Field::Session2].map(get),
            cursor: get(Field::Cursor),
            heard: ago(get(Field::Heard)),
            since: ago(get(Field::Since)),
            stalled: match self.slots.get(slot, Field::Stalled) {
                0 => None,
                at => Some(ago(at)),
            },
            rooms: rooms.into_iter().map(membership).collect(),
            remote: is(Flag::Remote),
            unix: is(Flag::Unix),
            batch: is(Flag::Batch),
            msgpack: is(Flag::Msgpack),
            window: meta.and_then(|meta| meta.window).map(Window::bits),
            pass: self
                .slots
                .pass(slot)
                .map(|pass| self.passes.read(pass).travels(self.now)),
        }
    }

    /// Another worker has these: our copies go, and nothing is said to the peers.
    pub fn took(&mut self, cids: &[Cid]) {
        for cid in cids {
            if let Some((slot, _)) = self.given(*cid) {
                fault::point("worker:took");
                self.leave_rooms(slot);
                self.forget_moved(slot);
            }
        }
    }

    /// Nobody could take these: they go on here.
    pub fn keep(&mut self, cids: &[Cid]) {
        for cid in cids {
            let Some((slot, meta)) = self.given(*cid) else {
                continue;
            };
            let lags = meta.phase == Phase::Rooms && meta.reason.is_none();
            let meta = meta.with(Flag::Given, false).with(Flag::Lagging, lags);
            fault::point("worker:keep");
            self.slots.set_meta(slot, meta);
            fault::point("worker:kept");
            self.parting.unsent.retain(|s| *s != slot);
            if lags {
                self.begin_to_lag(slot);
            }
            self.begin(slot);
            if self.is_retiring() {
                self.say_goodbye(slot);
            }
        }
    }

    fn given(&mut self, cid: Cid) -> Option<(u32, Meta)> {
        let slot = self.slots.find(cid)?;
        let meta = self.slots.meta(slot)?;
        meta.has(Flag::Given).then_some((slot, meta))
    }
}

/// What goes into one message.
#[derive(Default)]
struct Batch<'a> {
    connections: Vec<Parted>,
    fds: Vec<Attached<'a>>,
    bytes: usize,
}

enum Attached<'a> {
    Socket(BorrowedFd<'a>),
    Snapshot(OwnedFd),
}

impl<'a> Batch<'a> {
    /// `false`: there is no room for it in this one.
    fn add(
        &mut self,
        cid: Cid,
        peer: std::net::SocketAddr,
        socket: BorrowedFd<'a>,
        past: &[u8],
    ) -> io::Result<bool> {
        let (past, bytes, file) = if past.len() > INLINE {
            (Past::File, 0, Some(in_file(past)?))
        } else {
            (Past::Here(ByteBuf::from(past)), past.len(), None)
        };
        let fds = 1 + usize::from(file.is_some());
        if self.fds.len() + fds > MAX_BATCH || self.bytes + bytes > BATCH_BYTES {
            return Ok(false);
        }
        self.bytes += bytes;
        self.fds.push(Attached::Socket(socket));
        self.fds.extend(file.map(Attached::Snapshot));
        self.connections.push(Parted { cid, peer, past });
        Ok(true)
    }

    /// `false`: the channel is full, or the master is gone (which its end will tell).
    fn send(self, brain: &Brain) -> bool {
        let message = ToMaster::Give {
            connections: self.connections,
        };
        let fds: Vec<BorrowedFd<'_>> = self
            .fds
            .iter()
            .map(|fd| match fd {
                Attached::Socket(fd) => *fd,
                Attached::Snapshot(fd) => fd.as_fd(),
            })
            .collect();
        match brain.channel.send(&message, &fds) {
            Ok(sent) => sent,
            Err(e) => {
                log::debug!("cannot give connections away: {e}");
                false
            }
        }
    }
}

fn in_file(past: &[u8]) -> io::Result<OwnedFd> {
    let fd = memfd_create(FILE, MFdFlags::MFD_CLOEXEC)?;
    let mut file = File::from(fd);
    file.write_all(past)?;
    Ok(file.into())
}
