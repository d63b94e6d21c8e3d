//! One connection: when its turn comes, it is read, steps are taken on what was read
//! ([`steps`](crate::steps)), and what it is to be told goes out ([`flush`](crate::flush)); its end is
//! [`ending`](crate::ending)'s.

use nix::sys::socket::{MsgFlags, recv};
use protocol::fault;
use protocol::journal::Record;
use protocol::output::Full;

use crate::brain::Brain;
use crate::buffers;
use crate::close::CloseReason;
use crate::local::Mark;
use crate::poison::InHand;
use crate::proxy;
use crate::slots::{Field, Flag, Meta, MetaWord, Phase, Slots};
use crate::state::Head;
use crate::steps::{Progress, SESSION};
use crate::websocket::Session;

/// Output that may wait before its connection's input waits too.
pub(crate) const HIGH_WATER: usize = 64 << 10;
/// Reads of one connection in a turn: then the others come first.
const READS: usize = 8;

impl Brain {
    /// Goes on with a connection as far as its turn allows.
    pub fn drive(&mut self, slot: u32) {
        let Some(meta) = self.slots.known(slot) else {
            return;
        };
        if meta.has(Flag::Unacked) || meta.has(Flag::Given) {
            return;
        }
        self.note_in_hand(InHand::Connection(slot));
        self.inflate.begin_turn();
        match meta.phase() {
            // It is about to be given away.
            _ if self.local(slot).is(Mark::Parting) => {}
            Phase::Closing => self.drain(slot),
            Phase::Proxy => self.read_proxy_header(slot, meta.meta()),
            Phase::Http | Phase::Echo | Phase::Rooms => {
                self.serve(slot, meta);
                buffers::shrink_input(&self.arena, &self.slots, &self.journal, slot);
            }
        }
        // Whatever waits goes out in this turn, and a socket that was full may have room now: at once,
        // while it is in the processor's cache, unless the log may have something for it, too.
        match meta.phase() {
            Phase::Rooms => self.touch(slot),
            _ => self.flush_one(slot),
        }
    }

    fn serve(&mut self, slot: u32, meta: MetaWord) {
        let mut reads = 0;
        let mut progress = self.first(slot, meta);
        loop {
            match progress {
                Progress::More => {
                    reads += 1;
                    if reads >= READS {
                        self.again.push(slot);
                        return;
                    }
                }
                Progress::Yields => {
                    self.again.push(slot);
                    return;
                }
                Progress::Ends => return,
                Progress::Waits => {
                    self.local(slot).set(Mark::Waits, true);
                    return;
                }
                Progress::WaitsForOthers => return,
                Progress::NeedInput(want) => {
                    if self.has_said_all(slot) {
                        return self.begin_close(slot, CloseReason::GoingAway);
                    }
                    let local = self.local(slot);
                    local.want = want as u32;
                    if !local.is(Mark::Readable) {
                        return;
                    }
                    reads += 1;
                    if reads > READS {
                        self.again.push(slot);
                        return;
                    }
                    if !self.read(slot, want) {
                        return;
                    }
                }
            }
            progress = self.steps(slot);
        }
    }

    /// With nothing unread there is no step to be taken before a read.
    fn first(&mut self, slot: u32, meta: MetaWord) -> Progress {
        let local = *self.local(slot);
        let has_read_all =
            self.slots.get(slot, Field::Parsed) == self.slots.get(slot, Field::Consumed);
        match self.held_back(slot, meta) {
            Some(why) => why,
            None if local.is(Mark::Readable) && has_read_all && !self.holds_message(slot, meta) => {
                Progress::NeedInput(local.want as usize)
            }
            None => self.steps(slot),
        }
    }

    /// There is a message, compressed, whose step was not taken in its turn.
    fn holds_message(&self, slot: u32, meta: MetaWord) -> bool {
        meta.window().is_some()
            && matches!(meta.phase(), Phase::Echo | Phase::Rooms)
            && Session::holds_message(SESSION.map(|field| self.slots.get(slot, field)))
    }

    /// Why no steps are taken now, whatever is unread.
    fn held_back(&self, slot: u32, meta: MetaWord) -> Option<Progress> {
        if meta.phase() == Phase::Closing {
            Some(Progress::Ends)
        } else if meta.has(Flag::Lagging) || self.is_full(slot, meta.phase()) {
            Some(Progress::Waits)
        } else if meta.has(Flag::Opening) || self.is_asked(slot) || self.is_unready(slot) {
            Some(Progress::WaitsForOthers)
        } else if meta.phase() == Phase::Rooms && self.is_ahead(slot) {
            Some(Progress::Yields)
        } else {
            None
        }
    }

    fn is_full(&self, slot: u32, phase: Phase) -> bool {
        let pending = self.slots.pending(slot);
        pending > HIGH_WATER && pending > self.high_water(phase)
    }

    /// A brain before has given it more of the log than this one has read. A room that it joined now
    /// would begin where this one is, and what was said there in between would be taken for given.
    fn is_ahead(&self, slot: u32) -> bool {
        self.slots.get(slot, Field::Cursor) > self.state.get(Head::LogRead)
    }

    /// Reads once. `false`: nothing has come, or the connection ends.
    fn read(&mut self, slot: u32, want: usize) -> bool {
        let Some(meta) = self.slots.known(slot) else {
            return false;
        };
        let mut asked = 0;
        let read = |room: &mut [u8]| {
            asked = room.len();
            recv(meta.fd(), room, MsgFlags::empty())
        };
        let Ok(read) =
            buffers::fill_input(&self.arena, &self.slots, &self.journal, slot, want, read)
        else {
            self.begin_close(slot, CloseReason::Overloaded);
            return false;
        };
        match read {
            Ok(0) => {
                self.local(slot).set(Mark::Readable, false);
                self.slots
                    .set_meta(slot, meta.meta().with(Flag::PeerEnded, true));
                self.on_peer_end(slot);
                false
            }
            Ok(n) => {
                fault::point("worker:read");
                let consumed = self.slots.get(slot, Field::Consumed) + n as u64;
                self.slots.set(slot, Field::Consumed, consumed);
                self.heard(slot, meta);
                let local = self.local(slot);
                // A short read has emptied the socket, unless an end is behind it.
                local.set(Mark::Readable, n == asked || local.is(Mark::Ended));
                true
            }
            Err(nix::Error::EAGAIN) => {
                self.local(slot).set(Mark::Readable, false);
                false
            }
            Err(nix::Error::EINTR) => true,
            Err(e) => {
                log::debug!("{} read: {e}", self.slots.cid(slot));
                self.finish(slot, CloseReason::SocketError);
                false
            }
        }
    }

    /// The peer lives.
    fn heard(&mut self, slot: u32, meta: MetaWord) {
        self.slots.set(slot, Field::Heard, self.now);
        if meta.has(Flag::Pinged) {
            self.slots
                .set_meta(slot, meta.meta().with(Flag::Pinged, false));
        }
    }

    /// The peer says nothing more; what it has said is answered.
    fn on_peer_end(&mut self, slot: u32) {
        if self.slots.pending(slot) > 0 {
            self.begin_close(slot, CloseReason::PeerEnd);
        } else {
            self.finish(slot, CloseReason::PeerEnd);
        }
    }

    /// Output that may wait before the connection's input waits too. Who sends a long message to
    /// `/echo` and only then reads must get all of it back, so one message may wait, as long as
    /// there is plenty of memory.
    pub(crate) fn high_water(&self, phase: Phase) -> usize {
        match phase {
            Phase::Echo => {
                let plenty = self.arena.free_bytes() / 8;
                self.settings
                    .websocket
                    .echo_max_message
                    .min(plenty)
                    .max(HIGH_WATER)
            }
            _ => HIGH_WATER,
        }
    }

    /// The header that comes before everything else on a listener behind a proxy. It is peeked and
    /// then read by itself, so that nothing behind it has been read when the connection goes back.
    fn read_proxy_header(&mut self, slot: u32, meta: Meta) {
        let mut peeked = [0; proxy::MAX_HEADER];
        // A brain before may have read it and died.
        let read = buffers::unread(&self.arena, &self.slots, slot);
        let header = match read.is_empty() {
            false => read,
            true => match recv(meta.fd, &mut peeked, MsgFlags::MSG_PEEK) {
                Ok(0) => return self.finish(slot, CloseReason::PeerEnd),
                Ok(n) => &peeked[..n],
                Err(nix::Error::EAGAIN | nix::Error::EINTR) => return,
                Err(_) => return self.finish(slot, CloseReason::SocketError),
            },
        };
        let (len, source) = match proxy::parse(header) {
            Ok(proxy::Parsed::Incomplete) => return,
            Ok(proxy::Parsed::Header { len, source }) => (len, source),
            Err(_) => return self.finish(slot, CloseReason::BadProxyHeader),
        };
        if read.is_empty() {
            let read = |room: &mut [u8]| recv(meta.fd, &mut room[..len], MsgFlags::empty());
            match buffers::fill_input(&self.arena, &self.slots, &self.journal, slot, len, read) {
                Ok(Ok(n)) if n == len => fault::point("worker:proxy"),
                Ok(_) => return self.finish(slot, CloseReason::SocketError),
                Err(Full) => return self.finish(slot, CloseReason::Overloaded),
            }
        }
        let consumed = self.slots.get(slot, Field::Parsed) + len as u64;
        let meta = meta.in_phase(Phase::Http);
        let mut record = Record::new();
        Slots::change(&mut record, slot, Field::Consumed, consumed);
        Slots::change(&mut record, slot, Field::Parsed, consumed);
        Slots::change(&mut record, slot, Field::Meta, meta.pack());
        if let Some(source) = source {
            Slots::change_peer(&mut record, slot, source, None);
        }
        self.journal.commit(&mut record);
        if meta.has(Flag::Return) {
            return self.part_with(slot);
        }
        self.local(slot).set(Mark::Readable, true);
        if let Some(meta) = self.slots.known(slot) {
            self.serve(slot, meta);
        }
    }
}
