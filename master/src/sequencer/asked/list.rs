//! What the HTTP API is told of rooms.

use protocol::journal::Record;
use protocol::names::Names;
use protocol::record::Who;
use serde_json::{Value, json};

use crate::sequencer::Sequencer;
use crate::state::State;

impl Sequencer {
    /// The largest rooms but for the first `from`, and where the next page begins.
    pub(super) fn list_rooms(&self, state: &State, from: u32, limit: u32) -> Vec<u8> {
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

    /// How many are in a room, and where it is.
    pub(super) fn describe_room(&self, state: &State, name: &str, room: u32) -> Vec<u8> {
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

    /// Who is in a room, `limit` of them by name.
    pub(super) fn list_members(&mut self, state: &State, room: u32, limit: u32) -> Vec<u8> {
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
