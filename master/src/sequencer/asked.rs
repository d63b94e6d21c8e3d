//! What the HTTP API asks, and its answers: to [`publish`], to decide, and what is known of rooms
//! ([`list`]). What concerns connections and workers is the brain's ([`Turn::Asked`](super::Turn)).

mod list;
pub(super) mod publish;

use protocol::api::{self, Ask, Decision, Found, Kind, error};
use protocol::fault;
use protocol::ids::{Cid, Position};
use protocol::journal::Record;
use protocol::moderation::{Act, Whom};
use protocol::record::{Asker, Down, Refusal};
use serde_json::{Value, json};

use super::say::Saying;
use super::{Sequencer, append};
use crate::ring_set::RingSet;
use crate::state::{Head, State};
use publish::Message;

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
            Ask::Room { room } => self.known(&room, |this, number| {
                (200, Kind::Json, this.describe_room(state, &room, number))
            }),
            Ask::History {
                room,
                before,
                limit,
            } => self.known(&room, |this, number| {
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
            Ask::Members { room, limit } => self.known(&room, |this, number| {
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
            Some(next) => self.done = Some((ring, next)),
            None => self.record.set(Head::ApiOrder.word(), 0),
        }
    }

    /// What is said of a room, if there is one of this name.
    fn known(
        &mut self,
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
