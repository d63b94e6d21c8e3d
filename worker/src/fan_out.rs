//! What the log says, handed to those whom it concerns.
//!
//! Each turn reads the records that are new. A message becomes a frame once, whatever the number of
//! its subscribers; each of them is owed a reference to it ([`owed`](crate::owed)). One that still
//! waits for its socket is owed nothing by reference: it goes on later from its cursor in the log.
//!
//! A brain that dies in the middle of it leaves the log position where the turn began, and the next
//! one reads on from there: everything here can be done twice. Who has been given a record already
//! has a cursor behind it.

use protocol::api::{Kind, error};
use protocol::fault;
use protocol::format::Data;
use protocol::ids::{Cid, Position};
use protocol::journal::Record;
use protocol::record::{Asker, Down, Refusal};

use crate::brain::Brain;
use crate::client::{Code, Lost as Why, ToClient};
use crate::close::CloseReason;
use crate::encoding::Each;
use crate::frames::{FULL, given_up, is_always_said, is_full, opened, put, refused};
use crate::local::Mark;
use crate::poison::InHand;
use crate::rooms::held::Waiting;
use crate::rooms::{Entrant, RoomIx};
use crate::skipped::Skipped;
use crate::slots::{Field, Flag};
use crate::state::Head;

/// Asks in the worker's own name.
pub const NOBODY: Cid = Cid(0);

/// Records and bytes of frames in one turn.
const RECORDS: usize = 4096;
const FRAMES: usize = 1 << 20;

impl Brain {
    #[must_use]
    pub fn log_is_ahead(&self) -> bool {
        self.log.head() != self.state.get(Head::LogRead)
    }

    /// Reads what is new in the log, as much as a turn takes.
    pub fn fan_out(&mut self) {
        self.turn.begin(self.state.get(Head::LogRead));
        self.look_at_stamp();
        for room in std::mem::take(&mut self.awaiting) {
            // Whoever wanted it has come by now, or does not come.
            self.rooms.mark(room);
        }
        self.refusals.clear();
        // The ring first: what the master had read of it then has been answered in a log so long.
        let now = (self.ring_read(), self.log.head());
        let (asked, by) = *self.answered_by.get_or_insert(now);
        let mut bytes = Vec::new();
        for _ in 0..RECORDS {
            let at = self.turn.read;
            bytes.clear();
            match self.log.next(at, &mut bytes) {
                Ok(Some(next)) => {
                    self.note_in_hand(InHand::Log(at));
                    match Down::decode(&bytes) {
                        Some(down) if self.is_given_up(at) => self.on_given_up(at, next, down),
                        Some(down) => self.on_record(at, next, down),
                        None => log::error!("the record at {at} of the log is not one"),
                    }
                    fault::point("worker:fan-out");
                    self.turn.read = next;
                }
                Ok(None) => break,
                Err(lost) => {
                    self.on_lost(at, lost);
                    break;
                }
            }
            if self.turn.size() > FRAMES {
                break;
            }
        }
        self.deliveries += self.end_run();
        self.turn_back();
        self.release_due();
        if self.turn.read >= by {
            self.answered_by = None;
            self.turn.answered = Some(asked);
        }
        self.tell_of_rooms();
    }

    /// A record that killed one brain after another: whom it concerns is told that it is lost.
    fn on_given_up(&mut self, at: u64, next: u64, down: Down<'_>) {
        match down {
            Down::Message { .. } => self.on_record(at, next, down),
            Down::Listed { room, asker, .. } => {
                // The answer is lost, and the list comes by another record.
                if let Some(room) = self.begin_to_watch(at, room, asker) {
                    self.relist.push(room);
                }
            }
            Down::List { room, .. } | Down::Changes { room, .. } => {
                let watched = self.rooms.numbered(room);
                self.relist
                    .extend(watched.filter(|room| self.rooms.is_watched(*room)));
            }
            Down::Opened { asker, .. }
            | Down::Held { asker, .. }
            | Down::Count { asker, .. }
            | Down::Sent { asker, .. }
            | Down::Moderated { asker, .. }
            | Down::Withheld { asker, .. }
            | Down::Refused { asker, .. } => {
                self.opening_ends(asker, Some(Refusal::Internal));
                self.answer(at, next, asker, refused(asker.id, Refusal::Internal));
            }
            Down::Told { asker, .. } => {
                let body = error("internal", "this is our fault");
                self.on_told(next, asker, 500, Kind::Json, &body);
            }
            Down::Presence { .. } | Down::Look { .. } => {}
        }
    }

    fn on_record(&mut self, at: u64, next: u64, down: Down<'_>) {
        match down {
            Down::Message {
                room,
                position,
                asker,
                from,
                share,
                data,
            } => {
                self.answer(
                    at,
                    next,
                    asker,
                    ToClient::Sent {
                        id: asker.id,
                        position,
                    },
                );
                if let Some(room) = self.rooms.numbered(room) {
                    let before = self.rooms.position(room);
                    if position.offset > before.offset + 1 && position.epoch == before.epoch {
                        self.on_gap(at, next, room, position.offset - 1, Some(down));
                        self.rooms.advance(room, position.offset);
                    } else if self.rooms.gives_at_once(room, share) {
                        self.on_room_message(at, next, room, position, from, data);
                    } else {
                        let waiting = Waiting {
                            at,
                            after: next,
                            offset: position.offset,
                            share,
                            said_by: asker.cid,
                        };
                        self.on_waiting(room, before.offset, waiting, data.bytes.len());
                    }
                }
            }
            Down::Opened {
                room,
                position,
                total,
                asker,
                name,
            } => {
                if asker.ring == self.ring_number {
                    self.on_opened(at, next, room, position, total, asker, name);
                }
            }
            Down::Held {
                room,
                position,
                total,
                asker,
                name,
            } => {
                if asker.ring == self.ring_number {
                    self.on_held(room, position, total, asker, name);
                }
            }
            Down::Count { who, asker } => {
                let id = asker.id;
                self.answer(at, next, asker, ToClient::Present { id, who });
            }
            Down::Listed { room, who, asker } => {
                if let Some(room) = self.begin_to_watch(at, room, asker) {
                    let room = &self.rooms.name(room);
                    self.tell(at, next, asker, ToClient::List { room, who });
                }
            }
            Down::List { room, who } => {
                if let Some(room) = self.rooms.numbered(room) {
                    let name = &self.rooms.name(room);
                    self.tell_watchers(at, next, room, ToClient::List { room: name, who });
                }
            }
            Down::Changes {
                room,
                total,
                distinct,
                names,
            } => {
                if let Some(room) = self.rooms.numbered(room) {
                    let name = &self.rooms.name(room);
                    let changes = ToClient::Changes {
                        room: name,
                        total,
                        distinct,
                        names,
                    };
                    self.tell_watchers(at, next, room, changes);
                }
            }
            Down::Presence { room, total } => {
                if let Some(room) = self.rooms.numbered(room) {
                    self.rooms.set_total(room, total);
                }
            }
            Down::Told {
                asker,
                status,
                kind,
                body,
            } => self.on_told(next, asker, status, kind, body),
            Down::Look { asker, ring, what } => {
                if ring == self.ring_number {
                    self.on_look(asker, what);
                }
            }
            Down::Sent { position, asker } => {
                let id = asker.id;
                self.answer(at, next, asker, ToClient::Sent { id, position });
            }
            Down::Moderated { scope, asker, act } => {
                let id = asker.id;
                self.answer(at, next, asker, ToClient::Done { id, act });
                self.on_decision(at, next, scope, act, asker);
            }
            Down::Withheld {
                room,
                asker,
                from,
                data,
            } => {
                self.answer(at, next, asker, ToClient::Withheld { id: asker.id });
                if let Some(room) = self.rooms.numbered(room) {
                    self.on_withheld(at, next, room, from, data);
                }
            }
            Down::Refused { reason, asker } => {
                self.opening_ends(asker, Some(reason));
                let message = refused(asker.id, reason);
                match is_always_said(reason) {
                    true => self.tell(at, next, asker, message),
                    false => self.answer(at, next, asker, message),
                }
                if matches!(reason, Refusal::Rate { .. }) && self.is_here(asker) {
                    self.on_rate(asker.slot);
                }
            }
        }
    }

    fn on_room_message(
        &mut self,
        at: u64,
        next: u64,
        room: RoomIx,
        position: Position,
        from: &[u8],
        data: Data<'_>,
    ) {
        let before = self.rooms.position(room);
        let name = self.rooms.name(room);
        if position.offset > before.offset {
            self.rooms.advance(room, position.offset);
        }
        if self.rooms.members(room).is_empty() {
            return;
        }
        if self.is_given_up(at) {
            self.deliveries += self.end_run();
            self.say_in_room(room, at, next, position.offset, given_up(&name, position));
            self.gaps[Why::Internal as usize] += self.end_run();
            return;
        }
        fault::poison("worker:poison-log", data.bytes);
        let message = ToClient::Message {
            room: &name,
            position,
            from,
            data,
        };
        self.say_in_room(room, at, next, position.offset, message);
    }

    /// As [`on_room_message`](Brain::on_room_message), of what is not given at once to all.
    fn on_waiting(&mut self, room: RoomIx, before: u64, waiting: Waiting, bytes: usize) {
        if waiting.offset > before {
            self.rooms.advance(room, waiting.offset);
        }
        if !self.rooms.members(room).is_empty() {
            self.wait_in_room(room, waiting, bytes);
        }
    }

    /// The log has lost the messages of a room that were said up to offset `to`: its members are told
    /// so, and are given what this record says with it (`then`), at once as bytes of their own. A
    /// brain that dies in between has told some; the next one finds the same gap and tells the others.
    fn on_gap(&mut self, at: u64, next: u64, room: RoomIx, to: u64, then: Option<Down<'_>>) {
        self.deliveries += self.end_run();
        let before = self.rooms.position(room);
        let name = self.rooms.name(room);
        let offset = |offset| Position { offset, ..before };
        for member in self.rooms.members(room).to_vec() {
            if self.slots.get(member.slot, Field::Cursor) > at {
                continue;
            }
            let mut frames = Vec::new();
            let encoding = member.encoding();
            let from = before.offset.max(member.after) + 1;
            if from <= to {
                self.gaps[Why::Overrun as usize] += to + 1 - from;
                let gap = ToClient::Gap {
                    room: &name,
                    from: offset(from),
                    to: offset(to),
                    why: Why::Overrun,
                };
                put(&mut frames, gap, encoding);
            }
            if let Some(down) = &then {
                let (mut skipped, slot) = (Skipped::default(), member.slot);
                self.frames_for(slot, at, down, &mut skipped, &mut frames);
                self.gaps[Why::Sampled as usize] +=
                    skipped.put(|room| self.rooms.name(room), encoding, &mut frames);
            }
            if !frames.is_empty() {
                self.give_frames(member.slot, next, &frames);
                fault::point("worker:gap");
            }
        }
    }

    /// The answer to whoever asked, if it is here.
    fn answer(&mut self, at: u64, next: u64, asker: Asker<'_>, answer: ToClient<'_>) {
        if !asker.id.is_empty() {
            self.tell(at, next, asker, answer);
        }
    }

    /// As an answer, but also said to who wants none.
    fn tell(&mut self, at: u64, next: u64, asker: Asker<'_>, answer: ToClient<'_>) {
        if !self.is_here(asker) {
            return;
        }
        self.owe_answer(asker.slot, at, next, answer);
    }

    /// The room in which the record at `at` says who is there to one who has asked; what changes behind
    /// it is told to it. `None`: it is not here, or not in the room.
    fn begin_to_watch(&mut self, at: u64, room: u32, asker: Asker<'_>) -> Option<RoomIx> {
        let room = self.rooms.numbered(room)?;
        if !self.is_here(asker) {
            return None;
        }
        self.rooms.is_listed(&self.slots, asker.slot, room, at + 1);
        self.is_told(asker.slot, room, at + 1).then_some(room)
    }

    /// What the record at `at` says to those who watch a room.
    fn tell_watchers(&mut self, at: u64, next: u64, room: RoomIx, said: ToClient<'_>) {
        if !self.rooms.is_watched(room) {
            return;
        }
        self.deliveries += self.end_run();
        let mut made: Each<Option<(u32, u32)>> = Each::default();
        for (slot, from) in self.rooms.watchers(room) {
            // Who lags is given it out of the log, drawn together: it does not count as what waits.
            if from <= at && !self.local(slot).is(Mark::Lagging) {
                let encoding = self.slots.encoding(slot);
                let frame = match made[encoding] {
                    Some(frame) => frame,
                    None => self.make_answer(said, encoding),
                };
                made[encoding] = Some(frame);
                self.owe_made(slot, at, next, frame);
            }
        }
    }

    pub(crate) fn is_here(&self, asker: Asker<'_>) -> bool {
        asker.ring == self.ring_number
            && asker.slot < self.slots.used()
            && self.slots.cid(asker.slot) == asker.cid
            && self
                .slots
                .meta(asker.slot)
                .is_some_and(|meta| meta.reason.is_none())
    }

    /// From this record on this worker holds the room, and the one that asked for it is in it.
    #[expect(clippy::too_many_arguments, reason = "the fields of one record")]
    fn on_opened(
        &mut self,
        at: u64,
        next: u64,
        number: u32,
        position: Position,
        total: u32,
        asker: Asker<'_>,
        name: &[u8],
    ) {
        self.deliveries += self.end_run();
        let mut record = Record::new();
        let room = match self.rooms.numbered(number) {
            Some(room) => {
                // Asked for again after an overrun: what was missed is said.
                let before = self.rooms.position(room);
                if position.offset > before.offset && asker.cid == NOBODY {
                    self.on_gap(at, next, room, position.offset, None);
                    self.rooms.advance(room, position.offset);
                }
                Ok(room)
            }
            None => self.rooms.hold(&mut record, number, position, total, name),
        };
        self.journal.commit(&mut record);
        let here = self.is_here(asker);
        let waits = room.is_ok_and(|room| self.rooms.waiting(room).is_some());
        if here && waits && self.slots.get(asker.slot, Field::Cursor) <= at {
            // What is held back there was decided about others, and does not concern it.
            self.give_frames(asker.slot, at, &[]);
        }
        let rates = self.settings.rates.clone();
        let user = self.slots.pass(asker.slot).filter(|_| here);
        let user = user.and_then(|pass| self.passes.user(pass));
        let who = Entrant {
            slot: asker.slot,
            cid: asker.cid,
            encoding: self.slots.encoding(asker.slot),
            user: user.as_deref(),
        };
        let joined = room.and_then(|room| {
            self.rooms.mark(room);
            let is_full = is_full(name, total, &rates);
            if here && !is_full && !self.rooms.is_member(&self.slots, asker.slot, room) {
                self.rooms
                    .join(&mut record, &self.slots, who, room, position.offset, None)?;
                self.journal.commit(&mut record);
            }
            Ok(room)
        });
        self.opening_ends(asker, None);
        if let Ok(room) = joined {
            self.look_at_newcomer(asker, room, name);
        }
        let answer = match joined {
            Ok(_) => {
                let may = here.then(|| self.may(asker.slot, name)).flatten();
                opened(asker.id, name, position, total, &rates, may)
            }
            Err(_) => refused(asker.id, Refusal::Limit),
        };
        self.answer(at, next, asker, answer);
    }

    /// From this record on this worker holds the room; the one that asked goes on in the next turn,
    /// and until then the room is not given up.
    fn on_held(
        &mut self,
        number: u32,
        position: Position,
        total: u32,
        asker: Asker<'_>,
        name: &[u8],
    ) {
        let mut record = Record::new();
        let room = match self.rooms.numbered(number) {
            Some(room) => Ok(room),
            None => self.rooms.hold(&mut record, number, position, total, name),
        };
        self.journal.commit(&mut record);
        fault::point("worker:held");
        if let Ok(room) = room {
            self.awaiting.push(room);
        }
        self.opening_ends(asker, room.err().map(|_| Refusal::Limit));
    }

    /// The input of a connection that waited for a room goes on; `refused`: without that room.
    fn opening_ends(&mut self, asker: Asker<'_>, refused: Option<Refusal>) {
        if !self.is_here(asker) {
            return;
        }
        if let Some(meta) = self
            .slots
            .meta(asker.slot)
            .filter(|meta| meta.has(Flag::Opening))
        {
            // Who wants an answer from us by this record has been read; the others ask again.
            let refused = refused.filter(|_| asker.id.is_empty());
            refused.map(|reason| self.refusals.insert(asker.cid, reason));
            if self.lacks_own_room(asker.slot) {
                // What is sent to its user would not reach it.
                let full = ToClient::Error {
                    id: asker.id,
                    code: Code::Limit,
                    message: FULL,
                    retry_after_ms: None,
                };
                self.put(asker.slot, |out| full.put_frame(out, meta.encoding()));
                return self.begin_close(asker.slot, CloseReason::Overloaded);
            }
            self.slots
                .set_meta(asker.slot, meta.with(Flag::Opening, false));
            self.again.push(asker.slot);
        }
    }
}
