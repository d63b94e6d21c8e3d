//! A message gets its place in its room, or is held back, if who sends it may say it now.

use protocol::bucket::Wait;
use protocol::format::Data;
use protocol::history::Retained;
use protocol::record::{Asker, Down, Lane, Refusal, Up};
use protocol::settings::Rates;

use super::{Sequencer, append, own};
use crate::keys;
use crate::pace;
use crate::ring_set::RingSet;
use crate::state::State;

/// A message that is to be published.
#[derive(Clone, Copy)]
pub(super) struct Message<'a> {
    asker: Asker<'a>,
    room: &'a [u8],
    /// Who sends it: for whom it is decided whether it may.
    by: &'a [u8],
    /// In whose name.
    from: &'a [u8],
    key: Option<keys::Hash>,
    lane: Lane,
    data: Data<'a>,
}

impl<'a> Message<'a> {
    /// What this publishes, if it is such a record.
    pub(super) fn of(up: &Up<'a>) -> Option<Message<'a>> {
        match *up {
            Up::Publish {
                asker,
                room,
                from,
                key,
                lane,
                data,
            } => Some(Message {
                asker,
                room,
                by: from,
                from,
                key: (!key.is_empty()).then(|| keys::hash(room, from, key)),
                lane,
                data,
            }),
            Up::Release {
                asker,
                room,
                by,
                from,
                key,
                lane,
                data,
            } => Some(Message {
                asker,
                room,
                by,
                from,
                key: (!key.is_empty()).then(|| keys::hash(room, from, &released_key(key))),
                lane,
                data,
            }),
            _ => None,
        }
    }
}

impl Sequencer {
    /// A message gets its place, or has one already.
    pub(super) fn publish<'a>(
        &mut self,
        state: &State,
        ring: u16,
        said: &Message<'a>,
    ) -> Result<(), (Refusal, Asker<'a>)> {
        let Message {
            asker,
            room: name,
            by,
            from,
            key,
            lane,
            data,
        } = *said;
        if let Some(position) = key.and_then(|key| self.keys.find(state, key, self.now_ms)) {
            let sent = Down::Sent { position, asker };
            let _ = append(&mut self.log, &mut self.answer, &sent);
            self.news.insert(ring);
            return Ok(());
        }
        let (now, bytes) = (self.now_ms, data.bytes.len() as u64);
        let (room, said) = self.accept(state, asker, name, by, lane, bytes)?;
        if self.rooms.holders(room) != RingSet::NONE {
            self.stamp(state);
        }
        let mut position = self.rooms.position(state, &self.record, room);
        position.offset += 1;
        let message = Down::Message {
            room,
            position,
            asker,
            from,
            share: self.pace.share(room, name, lane, now),
            data,
        };
        if !append(&mut self.log, &mut self.answer, &message) {
            return Err((Refusal::Internal, asker));
        }
        let message = Retained {
            offset: position.offset,
            at_ms: self.now_ms,
            from,
            data,
        };
        // A worker that sees the new position sees what is retained up to it: in this order.
        self.history
            .append(state, &mut self.record, room, name, &message);
        self.rooms.advance(&mut self.record, room, position.offset);
        self.pace.remember(state, &mut self.record, said, now);
        if let Some(key) = key {
            self.keys
                .remember(state, &mut self.record, key, position, self.now_ms);
        }
        self.news.extend(self.rooms.holders(room));
        // Without an id it wants no answer.
        if !asker.id.is_empty() {
            self.news.insert(ring);
        }
        if by != from {
            let [by, from, name] = [by, from, name].map(String::from_utf8_lossy);
            log::info!("{by} says {position} in \"{name}\" as {from}");
        }
        Ok(())
    }

    /// A message has no place in its room: those who moderate there are told of it.
    pub(super) fn withhold<'a>(
        &mut self,
        state: &State,
        ring: u16,
        asker: Asker<'a>,
        room: &[u8],
        from: &[u8],
        data: Data<'_>,
    ) -> Result<(), (Refusal, Asker<'a>)> {
        let (lane, bytes) = (Lane::default(), data.bytes.len() as u64);
        let (room, said) = self.accept(state, asker, room, from, lane, bytes)?;
        let withheld = Down::Withheld {
            room,
            asker,
            from,
            data,
        };
        if !append(&mut self.log, &mut self.answer, &withheld) {
            return Err((Refusal::Internal, asker));
        }
        let (record, now) = (&mut self.record, self.now_ms);
        self.pace.remember(state, record, said, now);
        self.news.extend(self.rooms.holders(room));
        self.news.insert(ring);
        Ok(())
    }

    /// The room that something is said in, if the sender may say it now.
    pub(super) fn accept<'a>(
        &mut self,
        state: &State,
        asker: Asker<'a>,
        name: &[u8],
        from: &[u8],
        lane: Lane,
        bytes: u64,
    ) -> Result<(u32, pace::Said), (Refusal, Asker<'a>)> {
        // The API is no user.
        let user = (asker.cid != own::NOBODY.cid).then_some(from);
        let is_refused = |user| self.sanctions.refuses(name, user, self.unix_ms);
        if let Some(reason) = user.and_then(is_refused) {
            return Err((reason, asker));
        }
        let room = self.open(state, name, asker)?;
        let now = self.now_ms;
        let may = self.pace.may_speak(state, room, name, from, lane, now);
        let said = may.and_then(|said| self.limit(room, user, bytes).map(|()| said));
        let said = said.map_err(|Wait(ms)| {
            let after_ms = u32::try_from(ms).unwrap_or(u32::MAX);
            (Refusal::Rate { after_ms }, asker)
        })?;
        Ok((room, said))
    }

    /// Here, and only here, all that a user sends comes by, and all that is sent to a room.
    fn limit(&mut self, room: u32, from: Option<&[u8]>, bytes: u64) -> Result<(), Wait> {
        let Rates {
            user,
            room: to_room,
            burst_ms,
            ..
        } = self.rates;
        if user.is_any()
            && let Some(from) = from.filter(|from| !is_cid(from))
        {
            self.users
                .take(from.into(), user, burst_ms, bytes, self.now_ms)?;
        }
        self.to_rooms
            .take(room, to_room, burst_ms, bytes, self.now_ms)
    }
}

/// Longer than any key of a client's, and not as the API's: so it is never the same.
fn released_key(key: &[u8]) -> Vec<u8> {
    [&[1; 65], key].concat()
}

/// The sender has shown no token, and is called as its connection is.
fn is_cid(from: &[u8]) -> bool {
    matches!(from, [b'c', number @ ..] if number.iter().all(u8::is_ascii_digit))
}
