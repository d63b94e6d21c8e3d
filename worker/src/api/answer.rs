//! What the master has answered, given to who asked.

use protocol::api::{Found, Kind, error};
use protocol::fault;
use protocol::ids::Position;
use protocol::journal::Record;
use protocol::record::{Asker, Down};

use super::{Waiting, allow_origin, reply};
use crate::brain::Brain;
use crate::buffers;
use crate::client::ToClient;
use crate::close::CloseReason;
use crate::history;
use crate::http::{self, Reply};
use crate::slots::{Field, Flag, Phase, Slots};
use crate::state::Head;

/// Bytes of an answer at most.
const MAX_ANSWER: usize = 16 << 20;
/// An answer that has not come by then does not come.
const PATIENCE_MS: u64 = 15_000;
/// That of a reload, say, may take its time.
const LONG_MS: u64 = 900_000;

impl Brain {
    /// The request of this connection that waits for its answer.
    fn api_waits(&self, slot: u32) -> Option<Waiting> {
        let meta = self.slots.meta(slot)?;
        let is = meta.phase == Phase::Http && meta.has(Flag::Opening);
        is.then(|| Waiting::unpack(self.slots.get(slot, Field::Session2)))?
    }

    /// When it will have waited for too long.
    pub(crate) fn api_patience(&self, slot: u32) -> Option<u64> {
        let waiting = self.api_waits(slot)?;
        let patience = if waiting.is_slow {
            LONG_MS
        } else {
            PATIENCE_MS
        };
        Some(self.slots.get(slot, Field::Since) + patience)
    }

    /// From here on it is known that this one waits; what was answered while it was on its way lies in
    /// the log behind its cursor.
    pub(crate) fn api_goes_on(&mut self, slot: u32) {
        if self.api_waits(slot).is_none() {
            return;
        }
        let cid = self.slots.cid(slot);
        self.asking.insert(cid, slot);
        let mut bytes = Vec::new();
        let mut at = self.slots.get(slot, Field::Cursor);
        while at < self.state.get(Head::LogRead) && self.asking.contains_key(&cid) {
            bytes.clear();
            let Ok(Some(next)) = self.log.next(at, &mut bytes) else {
                // The log has overtaken it.
                return self.begin_close(slot, CloseReason::Reconnect);
            };
            if let Some(Down::Told {
                asker,
                status,
                kind,
                body,
            }) = Down::decode(&bytes)
            {
                self.on_told(next, asker, status, kind, body);
            }
            at = next;
        }
    }

    /// The answer to a request, maybe one of a connection that is here.
    pub(crate) fn on_told(
        &mut self,
        next: u64,
        asker: Asker<'_>,
        status: u32,
        kind: Kind,
        body: &[u8],
    ) {
        let Some(&slot) = self.asking.get(&asker.cid) else {
            return;
        };
        let here = self.slots.cid(slot) == asker.cid;
        let waiting = self.api_waits(slot).filter(|_| here);
        let Some(waiting) = waiting.filter(|waiting| Waiting::of(asker.id) == Some(*waiting))
        else {
            return;
        };
        // Another will answer, or this one when it has it again.
        let away = |meta: crate::slots::Meta| meta.has(Flag::Unacked) || meta.has(Flag::Given);
        if self.slots.meta(slot).is_none_or(away) {
            return;
        }
        let reply = match kind {
            Kind::Json => reply::json(status, body.to_vec()),
            Kind::Metrics => Reply {
                content_type: "text/plain; version=0.0.4; charset=utf-8",
                ..reply::json(status, body.to_vec())
            },
            Kind::History => self.history_found(body),
        };
        self.give_api(slot, next, waiting, reply);
    }

    /// It waits no more: it is answered so.
    fn give_api(&mut self, slot: u32, next: u64, waiting: Waiting, mut reply: Reply) {
        let Some(meta) = self.slots.meta(slot) else {
            return;
        };
        self.asking.remove(&self.slots.cid(slot));
        allow_origin(&mut reply, waiting.origin, &self.settings);
        let cx = self.answering(meta.role);
        let mut out = buffers::output(&self.arena, &self.slots, slot, MAX_ANSWER);
        if http::reply(&mut out, &cx, waiting.manner, &reply).is_err() {
            out.abandon();
            return self.begin_close(slot, CloseReason::Overloaded);
        }
        let ends = waiting.manner.ends();
        let mut meta = meta.with(Flag::Opening, false);
        if ends {
            meta = meta.because(CloseReason::Done);
        }
        let mut record = Record::new();
        buffers::change_output(&out, &self.slots, slot, &mut record);
        Slots::change(&mut record, slot, Field::Meta, meta.pack());
        Slots::change(&mut record, slot, Field::Session2, 0);
        Slots::change(&mut record, slot, Field::Cursor, next);
        Slots::change(&mut record, slot, Field::Heard, self.now);
        fault::point("worker:api-answer");
        self.journal.commit(&mut record);
        fault::point("worker:api-answered");
        out.settle();
        if ends {
            return self.begin_close(slot, CloseReason::Done);
        }
        self.reschedule(slot);
        self.touch(slot);
        self.again.push(slot);
    }

    /// What a room retains, of what was asked for.
    fn history_found(&self, body: &[u8]) -> Reply {
        let Ok(found) = serde_json::from_slice::<Found>(body) else {
            return reply::json(500, error("internal", "this is our fault"));
        };
        let room = history::Room {
            number: found.number,
            name: found.room.as_bytes(),
            position: Position {
                epoch: found.epoch,
                offset: found.last,
            },
        };
        let before = found
            .before
            .map(|(epoch, offset)| Position { epoch, offset });
        let messages = &history::page(&self.history, room, before, found.limit);
        let page = ToClient::History {
            id: b"0",
            room: room.name,
            epoch: found.epoch,
            messages,
        };
        // As at /rooms, without what is around it there.
        #[derive(serde::Deserialize)]
        struct Answer<'a> {
            #[serde(borrow)]
            ok: &'a serde_json::value::RawValue,
        }
        let page = page.json();
        match serde_json::from_slice::<Answer<'_>>(&page) {
            Ok(answer) => reply::json(200, answer.ok.get().as_bytes().to_vec()),
            Err(_) => reply::json(500, error("internal", "this is our fault")),
        }
    }

    /// Nobody has answered. (Who was to is dead, or has too much to do.)
    pub(crate) fn api_times_out(&mut self, slot: u32) {
        if let Some(waiting) = self.api_waits(slot) {
            let reply = reply::json(504, error("timeout", "there was no answer in time"));
            let read = self.state.get(Head::LogRead);
            self.give_api(slot, read, waiting, reply);
        }
    }
}
