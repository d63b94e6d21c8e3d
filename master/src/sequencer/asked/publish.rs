//! What the HTTP API publishes: to rooms that it names, and to all that match.
//!
//! To publish to many rooms takes a step for each. How far it is, and where the messages are, is in the
//! state, by the ring and the request's place in it, and changes in the record that publishes: a brain
//! that dies is gone on from, so that each room gets the message once and the answer says all.

use protocol::api::error;
use protocol::fault;
use protocol::format::Data;
use protocol::ids::Position;
use protocol::pattern::Pattern;
use protocol::record::{Asker, Lane, Refusal, Up};
use serde_json::{Value, json};

use super::refused;
use crate::keys;
use crate::rooms;
use crate::sequencer::{Sequencer, own};
use crate::state::{self, State};

/// Rooms that a broadcast reaches in one turn, and rooms that it looks at.
const AT_ONCE: u32 = 128;
const LOOKED_AT: u32 = 4_096;
/// Of all that a broadcast appends to the log, at most so much of it.
const PART_OF_LOG: u64 = 4;

// Words of a request that takes several steps.
const AT: usize = 0; // its place in the ring, plus one
const DONE: usize = 1; // rooms that are done; of a broadcast: the next room, and how many were reached
const RESULTS: usize = 2; // two for each room: its position, or 0 and why not

/// What an API publishes.
pub(super) struct Message<'a> {
    from: &'a [u8],
    /// Empty: none.
    key: Vec<u8>,
    lane: Lane,
    data: Data<'a>,
}

impl Message<'_> {
    pub(super) fn new<'a>(
        from: &'a str,
        key: Option<&str>,
        priority: bool,
        data: &'a [u8],
    ) -> Message<'a> {
        Message {
            from: from.as_bytes(),
            key: key.map(|key| own_key(key.as_bytes())).unwrap_or_default(),
            lane: Lane {
                first: priority,
                exempt: true,
            },
            data: Data::json(data),
        }
    }
}

/// Longer than any key of a client's: so it is never the same.
pub(in crate::sequencer) fn own_key(key: &[u8]) -> Vec<u8> {
    [&[0; 65], key].concat()
}

impl Sequencer {
    /// What has been done of this very request.
    fn done(&self, state: &State, ring: u16, at: u64) -> u64 {
        match state.get(state::asked(ring, AT)) == at + 1 {
            true => state.get(state::asked(ring, DONE)),
            false => 0,
        }
    }

    fn note_done(&mut self, ring: u16, at: u64, done: u64) {
        self.record.set(state::asked(ring, AT), at + 1);
        self.record.set(state::asked(ring, DONE), done);
    }

    /// To each of these rooms: the status, and the place in each room or why it has none.
    pub(super) fn publish_to(
        &mut self,
        state: &State,
        asker: Asker<'_>,
        at: u64,
        rooms: &[String],
        message: &Message<'_>,
    ) -> (u32, Vec<u8>) {
        let result = |i: usize, word: usize| state::asked(asker.ring, RESULTS + 2 * i + word);
        let done = self.done(state, asker.ring, at) as usize;
        for (i, room) in rooms.iter().enumerate().skip(done) {
            let [a, b] = match self.publish_one(state, asker.ring, room, message) {
                Ok(Position { epoch, offset }) => [epoch, offset],
                Err(refusal) => [0, refusal.pack()],
            };
            self.record.set(result(i, 0), a);
            self.record.set(result(i, 1), b);
            self.note_done(asker.ring, at, i as u64 + 1);
            fault::point("master:api-publish");
            self.commit(state);
            fault::point("master:api-published");
        }
        let mut first = None;
        let results: Vec<Value> = rooms
            .iter()
            .enumerate()
            .map(
                |(i, room)| match [0, 1].map(|word| state.get(result(i, word))) {
                    [0, why] => {
                        let (status, error) = refused(Refusal::unpack(why));
                        first.get_or_insert((status, error.clone()));
                        json!({"room": room, "error": error})
                    }
                    [epoch, offset] => {
                        json!({"room": room, "pos": Position { epoch, offset }.to_string()})
                    }
                },
            )
            .collect();
        let is_any = results.iter().any(|result| result.get("pos").is_some());
        match first.filter(|_| !is_any) {
            Some((status, error)) => (status, json!({"error": error}).to_string().into_bytes()),
            None => (200, json!({"published": results}).to_string().into_bytes()),
        }
    }

    /// Puts it into the record; nothing is committed.
    fn publish_one(
        &mut self,
        state: &State,
        ring: u16,
        room: &str,
        message: &Message<'_>,
    ) -> Result<Position, Refusal> {
        let nobody = Asker {
            ring,
            ..own::NOBODY
        };
        let (name, from) = (room.as_bytes(), message.from);
        if !message.key.is_empty() {
            let key = keys::hash(name, from, &message.key);
            if let Some(position) = self.keys.find(state, key, self.now_ms) {
                return Ok(position);
            }
        }
        let up = Up::Publish {
            asker: nobody,
            room: name,
            from,
            key: &message.key,
            lane: message.lane,
            data: message.data,
        };
        self.sequence(state, ring, &up)
            .map_err(|(refusal, _)| refusal)?;
        let room = self.rooms.find(name).ok_or(Refusal::Internal)?;
        Ok(self.rooms.position(state, &self.record, room))
    }

    /// To all rooms that match: the status, and how many these were. `None`: there are more rooms.
    pub(super) fn broadcast(
        &mut self,
        state: &State,
        asker: Asker<'_>,
        at: u64,
        pattern: &str,
        message: &Message<'_>,
    ) -> Option<(u32, Vec<u8>)> {
        // Users' rooms only where it says so, as in tokens.
        let of_users = pattern.starts_with('@');
        let pattern = Pattern::new(pattern);
        let matches = |name: &[u8]| {
            !name.starts_with(b"$") && name.starts_with(b"@") == of_users && pattern.matches(name)
        };
        let word = self.done(state, asker.ring, at);
        let (mut room, mut reached) = (word as u32, word >> 32);
        if word == 0 {
            let count = self.rooms.names().filter(|name| matches(name)).count();
            let bytes = (count as u64).saturating_mul(message.data.bytes.len() as u64 + 128);
            if bytes > self.log.size() / PART_OF_LOG {
                let why = "so much to so many rooms does not fit into the log (memory.log)";
                return Some((413, error("too_large", why)));
            }
        }
        let mut left = AT_ONCE;
        let end = rooms::used(state).min(room + LOOKED_AT);
        while room < end && left > 0 {
            let name = match rooms::exists(state, room) {
                true => rooms::name(state, room),
                false => Box::default(),
            };
            room += 1;
            if name.is_empty() || !matches(&name) {
                continue;
            }
            left -= 1;
            if let Ok(name) = std::str::from_utf8(&name)
                && self.publish_one(state, asker.ring, name, message).is_ok()
            {
                reached += 1;
            }
            self.note_done(asker.ring, at, u64::from(room) | reached << 32);
            fault::point("master:api-publish");
            self.commit(state);
        }
        if room < rooms::used(state) {
            self.note_done(asker.ring, at, u64::from(room) | reached << 32);
            self.commit(state);
            return None;
        }
        Some((200, json!({"rooms": reached}).to_string().into_bytes()))
    }
}
