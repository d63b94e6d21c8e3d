//! The part of the sequencer that decides about users and what they have said: a decision counts from
//! its place in the log on, for what is said and for all workers.

use protocol::ids::Position;
use protocol::moderation::{Act, Scope, Whom};
use protocol::record::{Asker, Down, Refusal};
use protocol::sanctions::{Kind, Sanction, Sanctions};
use serde_json::{Value, json};

use super::{Sequencer, append};
use crate::ring_set::RingSet;
use crate::state::State;

impl Sequencer {
    /// Who is muted and banned.
    #[must_use]
    pub fn sanctions(&self) -> &Sanctions {
        self.sanctions.sanctions()
    }

    /// Milliseconds since 1970, by which mutes and bans end.
    pub fn set_unix(&mut self, unix_ms: u64) {
        self.unix_ms = unix_ms;
    }

    /// Takes out which of them are over.
    pub fn expire_sanctions(&mut self, state: &State) {
        self.sanctions.expire(state, self.unix_ms);
    }

    /// For the API: who is muted and banned, of this room and this user, from an entry on, and from
    /// which to go on.
    pub(super) fn list_sanctions(
        &self,
        (room, user): (Option<&str>, Option<&str>),
        from: u32,
        limit: u32,
    ) -> Vec<u8> {
        let is_of = |s: &Sanction| {
            room.is_none_or(|room| *s.room == *room)
                && user.is_none_or(|user| s.kind != Kind::BanAddress && *s.who == *user)
        };
        let all = self.sanctions().each();
        let mut asked = all
            .filter(|(entry, s)| *entry >= from && !s.is_over(self.unix_ms) && is_of(s))
            .peekable();
        let page: Vec<Value> = asked
            .by_ref()
            .take(limit as usize)
            .map(|(_, sanction)| told(sanction))
            .collect();
        let next = asked.peek().map(|(entry, _)| entry);
        json!({"sanctions": page, "next": next})
            .to_string()
            .into_bytes()
    }

    pub(super) fn moderate<'a>(
        &mut self,
        state: &State,
        asker: Asker<'a>,
        name: &[u8],
        by: &[u8],
        act: Act<'_>,
    ) -> Result<(), (Refusal, Asker<'a>)> {
        let refused = |reason| (reason, asker);
        let room = self.rooms.find(name);
        let scope = match room {
            _ if name.is_empty() => Scope::Everywhere,
            Some(room) => Scope::Room(room),
            None => Scope::Nowhere,
        };
        let (Ok(name), Ok(by)) = (str::from_utf8(name), str::from_utf8(by)) else {
            return Err(refused(Refusal::Internal));
        };
        let text = |who| str::from_utf8(who).unwrap_or_default();
        let act = match act {
            Act::Mute { who, ms } => {
                let until = self.sanction(state, Kind::Mute, name, text(who), ms, by);
                let ms = until.map_err(refused)?;
                Act::Mute { who, ms }
            }
            Act::Ban { whom, ms } => {
                let (kind, who) = banned(&whom);
                let until = self.sanction(state, kind, name, &who, ms, by);
                let ms = until.map_err(refused)?;
                Act::Ban { whom, ms }
            }
            Act::Unmute { who } => {
                let (record, who) = (&mut self.record, text(who));
                self.sanctions.remove(state, record, Kind::Mute, name, who);
                act
            }
            Act::Unban { whom } => {
                let (kind, who) = banned(&whom);
                self.sanctions
                    .remove(state, &mut self.record, kind, name, &who);
                act
            }
            Act::Kick { .. } => act,
            Act::Delete { position } => {
                let room = room.ok_or(refused(Refusal::Unknown))?;
                let last = self.rooms.position(state, &self.record, room);
                let is_one = (1..=last.offset).contains(&position.offset);
                if position.epoch != last.epoch || !is_one {
                    return Err(refused(Refusal::Unknown));
                }
                self.history
                    .delete(state, &mut self.record, room, position.offset);
                act
            }
            Act::Clear { .. } => {
                let room = room.ok_or(refused(Refusal::Unknown))?;
                let position = self.rooms.position(state, &self.record, room);
                self.history.clear(state, &mut self.record, room);
                Act::Clear { position }
            }
        };
        let told = Down::Moderated { scope, asker, act };
        let told = append(&mut self.log, &mut self.answer, &told);
        debug_assert!(told, "a small record fits into the log");
        log::info!("{by} decides: {}", shown(name, &act));
        match scope {
            Scope::Room(room) => self.news.extend(self.rooms.holders(room)),
            Scope::Everywhere => self.news = RingSet::ALL,
            Scope::Nowhere => {}
        }
        self.news.insert(asker.ring);
        Ok(())
    }

    /// For so long (0: for good); until when that is.
    fn sanction(
        &mut self,
        state: &State,
        kind: Kind,
        room: &str,
        who: &str,
        for_ms: u64,
        by: &str,
    ) -> Result<u64, Refusal> {
        let until_ms = match for_ms {
            0 => 0,
            for_ms => self.unix_ms.saturating_add(for_ms),
        };
        let sanction = Sanction {
            kind,
            room: room.into(),
            who: who.into(),
            until_ms,
            at_ms: self.unix_ms,
            by: by.into(),
        };
        let put = self.sanctions.put(state, &mut self.record, &sanction);
        put.map_err(|_| Refusal::Full).map(|()| until_ms)
    }
}

/// As the API tells it: without a room it is everywhere, without an end for good.
fn told(sanction: &Sanction) -> Value {
    let (kind, whom) = match sanction.kind {
        Kind::Mute => ("mute", "user"),
        Kind::Ban => ("ban", "user"),
        Kind::BanAddress => ("ban", "address"),
    };
    json!({
        "kind": kind,
        whom: sanction.who,
        "room": (!sanction.room.is_empty()).then_some(&sanction.room),
        "until_ms": (sanction.until_ms != 0).then_some(sanction.until_ms),
        "at_ms": sanction.at_ms,
        "by": sanction.by,
    })
}

fn banned(whom: &Whom<'_>) -> (Kind, String) {
    match whom {
        Whom::User(who) => (Kind::Ban, String::from_utf8_lossy(who).into_owned()),
        Whom::Address(range) => (Kind::BanAddress, range.to_string()),
    }
}

/// For the log.
fn shown(room: &str, act: &Act<'_>) -> String {
    let place = match room {
        "" => "everywhere".to_owned(),
        room => format!("in room \"{}\"", room.escape_debug()),
    };
    let until = |ms: u64| match ms {
        0 => "for good".to_owned(),
        ms => format!("until {ms} ms"),
    };
    let name = |who: &[u8]| String::from_utf8_lossy(who).escape_debug().to_string();
    let at = |Position { epoch, offset }: Position| format!("e{epoch}:{offset}");
    match *act {
        Act::Mute { who, ms } => format!("{} is muted {place} {}", name(who), until(ms)),
        Act::Unmute { who } => format!("{} is not muted {place} any more", name(who)),
        Act::Ban { whom, ms } => format!("{} is banned {place} {}", banned(&whom).1, until(ms)),
        Act::Unban { whom } => format!("{} is not banned {place} any more", banned(&whom).1),
        Act::Kick { who } => format!("{} is kicked {place}", name(who)),
        Act::Delete { position } => format!("message {} {place} is deleted", at(position)),
        Act::Clear { position } => format!("all up to {} {place} is cleared", at(position)),
    }
}

#[cfg(test)]
#[path = "moderate_tests.rs"]
mod tests;
