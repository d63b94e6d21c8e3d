//! What a back end says for a user: it is held to all that the user is held to.

use protocol::api::Kind;
use protocol::format::Data;
use protocol::ids::{Cid, Position};
use protocol::record::{Asker, Lane, Up};
use serde_json::json;

use super::Sequencer;
use super::asked::publish::own_key;
use super::asked::refused;
use super::own::NOBODY;
use crate::keys;
use crate::state::State;

/// A user's back end asks: no connection is called so, and unlike [`NOBODY`] it is judged.
const SOMEBODY: Asker<'_> = Asker {
    cid: Cid(u64::MAX),
    ..NOBODY
};

/// What is said, and for whom.
pub(super) struct Saying<'a> {
    pub room: &'a str,
    pub user: &'a str,
    pub key: Option<&'a str>,
    /// It is shown to those only who moderate the room.
    pub held: bool,
    pub data: &'a [u8],
}

impl Sequencer {
    /// Puts it into the record, where the answer goes as well: it has happened with it, or not.
    pub(super) fn say_for(
        &mut self,
        state: &State,
        ring: u16,
        saying: &Saying<'_>,
    ) -> (u32, Kind, Vec<u8>) {
        let (room, from) = (saying.room.as_bytes(), saying.user.as_bytes());
        let key = saying.key.map(|key| own_key(key.as_bytes()));
        let key = key.unwrap_or_default();
        let asker = Asker { ring, ..SOMEBODY };
        let data = Data::json(saying.data);
        let find = |hash| match key.is_empty() {
            true => None,
            false => self.keys.find(state, hash, self.now_ms),
        };
        let answer =
            |status, json: serde_json::Value| (status, Kind::Json, json.to_string().into_bytes());
        if let Some(position) = find(keys::hash(room, from, &key)) {
            return answer(200, json!({"pos": position.to_string()}));
        }
        // What is held back has no position, so that it is remembered by another key: none that is
        // shown ends so.
        let held_key = keys::hash(room, from, &[&key[..], &[0]].concat());
        if find(held_key).is_some() {
            return answer(200, json!({"held": true}));
        }
        let up = match saying.held {
            true => Up::Withhold {
                asker,
                room,
                from,
                data,
            },
            false => Up::Publish {
                asker,
                room,
                from,
                key: &key,
                lane: Lane::default(),
                data,
            },
        };
        if let Err((refusal, _)) = self.sequence(state, ring, &up) {
            let (status, error) = refused(Some(refusal));
            return answer(status, json!({"error": error}));
        }
        if saying.held {
            if !key.is_empty() {
                let (record, now) = (&mut self.record, self.now_ms);
                let nowhere = Position {
                    epoch: 0,
                    offset: 0,
                };
                self.keys.remember(state, record, held_key, nowhere, now);
            }
            return answer(200, json!({"held": true}));
        }
        let Some(room) = self.rooms.find(room) else {
            let (status, error) = refused(None);
            return answer(status, json!({"error": error}));
        };
        let position = self.rooms.position(state, &self.record, room);
        answer(200, json!({"pos": position.to_string()}))
    }
}
