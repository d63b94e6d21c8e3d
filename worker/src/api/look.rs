//! What only a worker knows: its connections. The master asks for it, and passes the answer on.

use protocol::address::Shown;
use protocol::api::{Ask, error};
use protocol::ids::Cid;
use protocol::record::{Asker, Up};
use serde_json::{Value, json};

use crate::auth::grant::Packed;
use crate::brain::Brain;
use crate::slots::{Field, Flag, Phase};

/// An answer that found no room in the ring.
#[derive(Debug)]
pub struct Unsaid(Vec<u8>);

/// Of these there are few; who asked for more is told after a while that there was no answer.
const MAX_UNSAID: usize = 64;

impl Brain {
    /// The master wants to know something for who asks.
    pub(crate) fn on_look(&mut self, asker: Asker<'_>, what: &[u8]) {
        let (status, body) = match serde_json::from_slice::<Ask>(what) {
            Ok(Ask::Connection { cid }) => self.look_at(Cid(cid)),
            Ok(Ask::Connections {
                after,
                user,
                room,
                limit,
                worker,
                ..
            }) => (
                200,
                self.look_at_all(worker, after, user.as_deref(), room.as_deref(), limit),
            ),
            _ => (500, error("internal", "this is our fault")),
        };
        let up = Up::Told {
            asker,
            status,
            body: &body,
        };
        let mut bytes = Vec::new();
        up.encode(&mut bytes);
        if self.unsaid.len() < MAX_UNSAID {
            self.unsaid.push(Unsaid(bytes));
        }
        self.say_unsaid();
    }

    /// As far as the ring has room.
    pub(crate) fn say_unsaid(&mut self) {
        while let Some(Unsaid(bytes)) = self.unsaid.first() {
            if !self.ring.stage(self.ring_kept(), bytes) {
                return;
            }
            self.commit_told();
            self.unsaid.remove(0);
        }
    }

    fn look_at(&mut self, cid: Cid) -> (u32, Vec<u8>) {
        let found = self.slots.find(cid).and_then(|slot| self.shown(slot, true));
        match found {
            Some(shown) => (200, shown.to_string().into_bytes()),
            None => (404, error("not_found", "there is no such connection")),
        }
    }

    /// Up to `limit` of them behind `after`, in the order of their numbers.
    fn look_at_all(
        &mut self,
        only: Option<u16>,
        after: u64,
        user: Option<&str>,
        room: Option<&str>,
        limit: u32,
    ) -> Vec<u8> {
        let in_room = room.map(|name| self.rooms.find(name.as_bytes()));
        let slots: Vec<u32> = match in_room {
            Some(None) => Vec::new(),
            Some(Some(room)) => self.rooms.members(room).iter().map(|m| m.slot).collect(),
            None => (0..self.slots.used()).collect(),
        };
        let is_users = |slot: u32| {
            let name = self
                .slots
                .pass(slot)
                .and_then(|pass| self.passes.user(pass));
            let cid = || self.slots.cid(slot).to_string();
            user.is_none_or(|user| name.as_deref().map_or_else(|| cid() == user, |n| n == user))
        };
        let mut found: Vec<(u64, u32)> = slots
            .into_iter()
            .filter(|slot| self.slots.meta(*slot).is_some_and(|m| !m.has(Flag::Given)))
            .map(|slot| (self.slots.cid(slot).0, slot))
            .filter(|(cid, slot)| *cid > after && is_users(*slot))
            .collect();
        let limit = limit as usize;
        let is_more = found.len() > limit;
        if is_more {
            found.select_nth_unstable(limit);
            found.truncate(limit);
        }
        found.sort_unstable();
        let shown: Vec<Value> = found
            .iter()
            .filter_map(|(_, slot)| self.shown(*slot, false))
            .collect();
        let next = match found.last().filter(|_| is_more) {
            Some((cid, _)) => Some(format!("{}:c{cid}", self.seat.0)),
            // Those of the next one, if all are wanted.
            None => only.is_none().then(|| format!("{}:c0", self.seat.0 + 1)),
        };
        json!({"connections": shown, "next": next})
            .to_string()
            .into_bytes()
    }

    fn shown(&self, slot: u32, in_full: bool) -> Option<Value> {
        let meta = self.slots.meta(slot)?;
        let get = |field| self.slots.get(slot, field);
        let pass = self.slots.pass(slot).map(|pass| self.passes.bytes(pass));
        let user = pass
            .as_deref()
            .and_then(Packed::read)
            .map(|packed| packed.user.to_owned());
        let mut shown = json!({
            "cid": self.slots.cid(slot).to_string(),
            "worker": self.seat.0,
            "address": Shown(self.slots.peer(slot)).to_string(),
            "user": user,
            "protocol": match meta.phase {
                Phase::Proxy | Phase::Http => "http",
                Phase::Echo => "echo",
                Phase::Rooms if meta.has(Flag::Msgpack) => "rooms.v1.msgpack",
                Phase::Rooms => "rooms.v1.json",
                Phase::Closing => "closing",
            },
            "rooms": self.rooms.count_of(&self.slots, slot),
        });
        if in_full {
            let rooms = self.rooms.rooms_of(&self.slots, slot).into_iter();
            let names =
                rooms.map(|(room, _)| String::from_utf8_lossy(&self.rooms.name(room)).into_owned());
            let more = json!({
                "rooms": names.collect::<Vec<_>>(),
                "received_bytes": get(Field::Consumed),
                "sent_bytes": get(Field::Written),
                "waiting_bytes": self.slots.pending(slot),
                "lagging": meta.has(Flag::Lagging),
                "silent_ms": self.now.saturating_sub(get(Field::Heard)),
                "admin": meta.role == protocol::ids::Role::Admin,
                "compressed": meta.window.is_some(),
            });
            let (Value::Object(shown), Value::Object(more)) = (&mut shown, more) else {
                return None;
            };
            shown.extend(more);
        }
        Some(shown)
    }
}
