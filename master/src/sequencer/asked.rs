//! What the HTTP API asks: to publish, and what is known of rooms. What concerns connections and
//! workers is the brain's ([`Turn::Asked`](super::Turn)).
//!
//! To publish to many rooms takes a step for each. How far it is, and where the messages are, is in the
//! state, by the ring and the request's place in it, and changes in the record that publishes: a brain
//! that dies is gone on from, so that each room gets the message once and the answer says all.

use protocol::api::{self, Ask, Decision, Found, Kind, error};
use protocol::fault;
use protocol::format::Data;
use protocol::ids::{Cid, Position};
use protocol::journal::Record;
use protocol::moderation::{Act, Whom};
use protocol::names::Names;
use protocol::pattern::Pattern;
use protocol::record::{Asker, Down, Lane, Refusal, Up, Who};

use serde_json::{Value, json};

use super::say::Saying;
use super::{Sequencer, append};
use crate::keys;
use crate::ring_set::RingSet;
use crate::rooms;
use crate::state::{self, Head, State};

/// Rooms of a broadcast in one turn.
const AT_ONCE: u32 = 128;
const LOOKED_AT: u32 = 4_096;
/// Of all that a broadcast appends to the log, at most so much of it.
const PART_OF_LOG: u64 = 4;

// Words of a request that takes several steps.
const AT: usize = 0; // its place in the ring, plus one
const DONE: usize = 1; // rooms that are done; of a broadcast: the next room, and how many were reached
const RESULTS: usize = 2; // two for each room: its position, or 0 and why not

/// How far a request is.
pub(super) enum Asked {
    /// It is answered.
    Done,
    /// It goes on in the next turn.
    Again,
    /// It is not the sequencer's.
    Other(Ask),
}

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asking {
    pub cid: Cid,
    pub ring: u16,
    pub slot: u32,
    /// The request's.
    pub id: [u8; 8],
}

impl Asking {
    /// `None`: it is not as the API's are.
    #[must_use]
    pub fn of(asker: Asker<'_>) -> Option<Asking> {
        Some(Asking {
            cid: asker.cid,
            ring: asker.ring,
            slot: asker.slot,
            id: asker.id.try_into().ok()?,
        })
    }

    #[must_use]
    pub fn asker(&self) -> Asker<'_> {
        Asker {
            cid: self.cid,
            ring: self.ring,
            slot: self.slot,
            id: &self.id,
        }
    }
}

/// What an API publishes.
struct Message<'a> {
    from: &'a [u8],
    /// Empty: none.
    key: Vec<u8>,
    lane: Lane,
    data: Data<'a>,
}

impl Message<'_> {
    fn new<'a>(from: &'a str, key: Option<&str>, priority: bool, data: &'a [u8]) -> Message<'a> {
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
pub(super) fn own_key(key: &[u8]) -> Vec<u8> {
    [&[0; 65], key].concat()
}

impl Sequencer {
    /// Does what is asked, or a part of it. `place`: of the record in the ring, and behind it.
    pub(super) fn ask(
        &mut self,
        state: &State,
        asker: Asker<'_>,
        place: (u64, u64),
        what: &[u8],
        data: &[u8],
    ) -> Asked {
        let Ok(what) = serde_json::from_slice::<Ask>(what) else {
            self.tell(
                state,
                asker,
                Some(place.1),
                400,
                &error("bad_request", "it is not understood"),
            );
            return Asked::Done;
        };
        let (status, kind, body) = match what {
            Ask::Publish {
                rooms,
                from,
                key,
                priority,
            } => {
                let message = Message::new(&from, key.as_deref(), priority, data);
                let (status, body) = self.publish_to(state, asker, place.0, &rooms, &message);
                (status, Kind::Json, body)
            }
            Ask::Say {
                room,
                user,
                key,
                held,
            } => {
                let saying = Saying {
                    room: &room,
                    user: &user,
                    key: key.as_deref(),
                    held,
                    data,
                };
                self.say_for(state, asker.ring, &saying)
            }
            Ask::Broadcast {
                pattern,
                from,
                key,
                priority,
            } => {
                let message = Message::new(&from, key.as_deref(), priority, data);
                match self.broadcast(state, asker, place.0, &pattern, &message) {
                    Some((status, body)) => (status, Kind::Json, body),
                    None => return Asked::Again,
                }
            }
            Ask::Rooms { from, limit } => (200, Kind::Json, self.list_rooms(state, from, limit)),
            Ask::Room { room } => self.known(state, &room, |this, number| {
                (200, Kind::Json, this.describe_room(state, &room, number))
            }),
            Ask::History {
                room,
                before,
                limit,
            } => self.known(state, &room, |this, number| {
                let Position { epoch, offset } = this.rooms.position(state, &Record::new(), number);
                let found = Found {
                    room: room.clone(),
                    number,
                    epoch,
                    last: offset,
                    before,
                    limit,
                };
                let found = serde_json::to_vec(&found).unwrap_or_default();
                (200, Kind::History, found)
            }),
            Ask::Members { room, limit } => self.known(state, &room, |this, number| {
                (200, Kind::Json, this.list_members(state, number, limit))
            }),
            Ask::Sanctions {
                room,
                user,
                cursor,
                limit,
            } => {
                let of = (room.as_deref(), user.as_deref());
                (200, Kind::Json, self.list_sanctions(of, cursor, limit))
            }
            Ask::Decide { what, room } => {
                let (status, body) = self.decide(state, asker.ring, &what, room.as_deref());
                (status, Kind::Json, body)
            }
            other => return Asked::Other(other),
        };
        self.finish_asked(state, asker, Some(place.1), (status, kind, &body));
        Asked::Done
    }

    /// The answer to a request, with which its record in the ring has been read, up to `next`. `None`:
    /// that was read when the order was noted which is done now.
    pub fn tell(
        &mut self,
        state: &State,
        asker: Asker<'_>,
        next: Option<u64>,
        status: u32,
        body: &[u8],
    ) {
        self.finish_asked(state, asker, next, (status, Kind::Json, body));
    }

    /// As [`tell`](Sequencer::tell).
    pub fn finish_asked(
        &mut self,
        state: &State,
        asker: Asker<'_>,
        next: Option<u64>,
        (status, kind, body): (u32, Kind, &[u8]),
    ) {
        let told = |status, kind, body| Down::Told {
            asker,
            status,
            kind,
            body,
        };
        if !append(&mut self.log, &mut self.answer, &told(status, kind, body)) {
            let body = error("too_large", "the answer does not fit into the log");
            let _ = append(
                &mut self.log,
                &mut self.answer,
                &told(500, Kind::Json, &body),
            );
        }
        self.read(asker.ring, next);
        // Who asked may be held by another worker by now.
        self.news = RingSet::ALL;
        fault::point("master:told");
        self.commit(state);
    }

    /// The worker of this ring is asked to answer.
    pub fn look(&mut self, state: &State, asker: Asker<'_>, next: u64, ring: u16, what: &Ask) {
        let what = serde_json::to_vec(what).unwrap_or_default();
        let look = Down::Look {
            asker,
            ring,
            what: &what,
        };
        let _ = append(&mut self.log, &mut self.answer, &look);
        self.read(asker.ring, Some(next));
        self.news.insert(ring);
        self.commit(state);
    }

    fn read(&mut self, ring: u16, next: Option<u64>) {
        match next {
            Some(next) => self.record.set(state::read_index(ring), next),
            None => self.record.set(Head::ApiOrder.word(), 0),
        }
    }

    fn known(
        &mut self,
        _: &State,
        name: &str,
        of: impl FnOnce(&mut Sequencer, u32) -> (u32, Kind, Vec<u8>),
    ) -> (u32, Kind, Vec<u8>) {
        match self.rooms.find(name.as_bytes()) {
            Some(room) => of(self, room),
            None => {
                let body = error("not_found", "there is no such room");
                (404, Kind::Json, body)
            }
        }
    }

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

    fn publish_to(
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
            ..super::own::NOBODY
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

    /// `None`: there are more rooms.
    fn broadcast(
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

    /// Puts what is decided into the record.
    fn decide(
        &mut self,
        state: &State,
        ring: u16,
        what: &Decision,
        room: Option<&str>,
    ) -> (u32, Vec<u8>) {
        let act = match what {
            Decision::Mute { who, for_ms } => Act::Mute {
                who: who.as_bytes(),
                ms: *for_ms,
            },
            Decision::Unmute { who } => Act::Unmute {
                who: who.as_bytes(),
            },
            Decision::Ban { whom, for_ms } => Act::Ban {
                whom: banned(whom),
                ms: *for_ms,
            },
            Decision::Unban { whom } => Act::Unban { whom: banned(whom) },
            Decision::Kick { who } => Act::Kick {
                who: who.as_bytes(),
            },
            Decision::Delete {
                position: (epoch, offset),
            } => Act::Delete {
                position: Position {
                    epoch: *epoch,
                    offset: *offset,
                },
            },
            Decision::Clear => Act::Clear {
                position: Position {
                    epoch: 0,
                    offset: 0,
                },
            },
        };
        let name = room.unwrap_or_default();
        let nobody = Asker {
            ring,
            ..super::own::NOBODY
        };
        if let Err((refusal, _)) = self.moderate(state, nobody, name.as_bytes(), b"api", act) {
            let (status, error) = refused(Some(refusal));
            return (status, json!({"error": error}).to_string().into_bytes());
        }
        let mut done = json!({"ok": true});
        match act {
            Act::Mute { ms, .. } | Act::Ban { ms, .. } if ms > 0 => {
                done["until_ms"] = self.unix_ms.saturating_add(ms).into();
            }
            Act::Delete { position } => done["pos"] = position.to_string().into(),
            Act::Clear { .. } => {
                if let Some(room) = self.rooms.find(name.as_bytes()) {
                    let position = self.rooms.position(state, &self.record, room);
                    done["pos"] = position.to_string().into();
                }
            }
            _ => {}
        }
        (200, done.to_string().into_bytes())
    }

    fn list_rooms(&self, state: &State, from: u32, limit: u32) -> Vec<u8> {
        let (from, limit) = (from as usize, limit as usize);
        let largest = self.rooms.largest(state, from, limit + 1);
        let mut rooms: Vec<Value> = largest
            .map(|(name, count)| json!({"room": String::from_utf8_lossy(&name), "count": count}))
            .collect();
        let is_more = rooms.len() > limit;
        rooms.truncate(limit);
        let next = is_more.then_some(from + limit);
        let all = self.rooms.len();
        json!({"rooms": rooms, "next": next, "total": all})
            .to_string()
            .into_bytes()
    }

    fn describe_room(&self, state: &State, name: &str, room: u32) -> Vec<u8> {
        let position = self.rooms.position(state, &Record::new(), room);
        json!({
            "room": name,
            "count": self.rooms.total(state, room),
            "distinct": self.present.distinct(state, room),
            "pos": position.to_string(),
        })
        .to_string()
        .into_bytes()
    }

    fn list_members(&mut self, state: &State, room: u32, limit: u32) -> Vec<u8> {
        let mut names = Vec::new();
        let total = self.rooms.total(state, room);
        let who: Who<'_> = self.present.some(state, room, total, limit, 0, &mut names);
        let users = who.users.unwrap_or_default();
        json!({
            "count": who.total,
            "distinct": who.distinct,
            "users": listed(users),
            "whole": who.is_whole(),
        })
        .to_string()
        .into_bytes()
    }
}

fn listed(names: Names<'_>) -> Vec<String> {
    let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    names.iter().map(text).collect()
}

fn banned(whom: &api::Whom) -> Whom<'_> {
    match whom {
        api::Whom::User(who) => Whom::User(who.as_bytes()),
        api::Whom::Address(range) => Whom::Address(*range),
    }
}

/// The status and the error that says it.
pub(super) fn refused(why: Option<Refusal>) -> (u32, Value) {
    let error = |code, message| json!({"code": code, "message": message});
    let after = |after_ms: u32, mut error: Value| {
        if after_ms > 0 {
            error["retry_after_ms"] = after_ms.into();
        }
        error
    };
    match why {
        Some(Refusal::Limit) => (409, error("limit", "there are too many rooms")),
        Some(Refusal::Rate { after_ms }) => {
            let error = error("rate", "more than may be sent in a second");
            (429, after(after_ms, error))
        }
        Some(Refusal::Muted { after_ms }) => (
            403,
            after(after_ms, error("forbidden", "who sends is muted")),
        ),
        Some(Refusal::Banned { after_ms }) => (
            403,
            after(after_ms, error("forbidden", "who sends is banned")),
        ),
        Some(Refusal::Unknown) => (404, error("not_found", "there is no such message or room")),
        Some(Refusal::Full) => (
            409,
            error("limit", "as many are muted and banned as there can be"),
        ),
        _ => (500, error("internal", "this is our fault")),
    }
}
