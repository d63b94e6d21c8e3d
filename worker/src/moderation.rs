//! What is decided about users: who is told, who has to leave, and who is not let in.
//!
//! A decision is a record of the log, behind which it counts. All in the room are told from the
//! record itself, as of a message. Whoever has to leave is given everything up to and with that record, and
//! leaves in the very record of the journal by which it has that ([`on_decision`](Brain::on_decision)): so
//! it has happened or not, whenever a brain dies, and a brain that reads the same part again does it to nobody
//! twice. A connection that is on its way to another worker meanwhile meets the decision there, when it is
//! given what it missed ([`lagging`](crate::lagging)).
//!
//! Who is banned is in memory that the master writes ([`protocol::sanctions`]): it is looked at when
//! somebody comes. Whether somebody may send is the master's to say.

use std::net::IpAddr;

use protocol::format::Data;
use protocol::ids::{Cid, Role};
use protocol::moderation::{Act, Scope, Whom};
use protocol::output::{Full, Output};
use protocol::record::{Asker, Down};
use protocol::sanctions::{Kind, Sanctions};
use protocol::settings::Right;

use crate::auth::grant::Packed;
use crate::authorize::Access;
use crate::brain::Brain;
use crate::client::{Code, ToClient};
use crate::close::CloseReason;
use crate::encoding::Each;
use crate::frames;
use crate::requests::{Client, Flow};
use crate::rooms::RoomIx;
use crate::skipped::Skipped;
use crate::slots::{Field, Flag, Phase};

// For people.
pub const MUTED: &str = "who sends is muted";
pub const BANNED: &str = "who asks is banned";
pub const MASTER_IS_OLD: &str = "the master is of a version that cannot do this";

/// In place of a room's name: only who may do it in all rooms may do it here.
pub const EVERYWHERE: &str = "*";

/// What somebody leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaves {
    Room(RoomIx),
    Baton(CloseReason),
}

/// Somebody who is to leave at the end of the turn, say because it has come to where it is banned.
#[derive(Clone, Copy, Debug)]
pub struct Leaver {
    slot: u32,
    cid: Cid,
    leaves: Leaves,
}

impl Client<'_> {
    /// Who may not decide about others there is told so.
    pub(crate) fn refuse_moderator(
        &mut self,
        out: &mut impl Output,
        id: &[u8],
        room: &str,
        access: Access<'_>,
    ) -> Result<Option<Flow>, Full> {
        let refused = match access.refuses(room, Right::Moderate) {
            Some(_) if room == EVERYWHERE => "the right to moderate all rooms is missing",
            Some(message) => message,
            None if self.settings.rooms.moderation => return Ok(None),
            None => {
                self.error(out, id, Code::Unavailable, MASTER_IS_OLD)?;
                return Ok(Some(Flow::Next));
            }
        };
        self.error(out, id, Code::Forbidden, refused)?;
        Ok(Some(Flow::Next))
    }

    /// Who is banned from a room is told so.
    pub(crate) fn refuse_banned(
        &mut self,
        out: &mut impl Output,
        id: &[u8],
        room: &str,
        user: Option<&str>,
    ) -> Result<Option<Flow>, Full> {
        self.sanctions.refresh();
        if self.sanctions.is_empty() {
            return Ok(None);
        }
        let who = self.name(user);
        let banned = (self.sanctions).find(Kind::Ban, room, &who, self.unix_ms);
        let Some(left) = banned.map(|ban| ban.left_ms(self.unix_ms)) else {
            return Ok(None);
        };
        let error = ToClient::Error {
            id,
            code: Code::Forbidden,
            message: BANNED,
            retry_after_ms: (left != 0).then_some(left),
        };
        error.put_frame(out, self.meta.encoding())?;
        Ok(Some(Flow::Next))
    }

    /// A user is banned everywhere.
    pub(crate) fn is_banned(&mut self, user: &str) -> bool {
        self.sanctions.refresh();
        let found = self.sanctions.find(Kind::Ban, "", user, self.unix_ms);
        found.is_some()
    }

    pub(crate) fn is_from_banned_address(&mut self) -> bool {
        let address = self.slots.peer(self.slot).ip();
        is_banned(self.sanctions, self.meta.role, || address, self.unix_ms)
    }
}

/// An operator is not locked out. If no address is banned, that is a load.
fn is_banned(
    sanctions: &mut Sanctions,
    role: Role,
    address: impl FnOnce() -> IpAddr,
    unix_ms: u64,
) -> bool {
    sanctions.refresh();
    sanctions.bans_addresses()
        && role == Role::Public
        && sanctions.banned_address(address(), unix_ms).is_some()
}

impl Brain {
    /// As the connection's address is.
    pub(crate) fn is_from_banned(&mut self, slot: u32, role: Role) -> bool {
        let address = || self.slots.peer(slot).ip();
        let now = self.date.unix_ms(self.now);
        is_banned(&mut self.sanctions, role, address, now)
    }

    /// The room that a decision is about, if it is held here.
    pub(crate) fn room_in(&self, scope: Scope) -> Option<RoomIx> {
        match scope {
            Scope::Room(room) => self.rooms.numbered(room),
            Scope::Everywhere | Scope::Nowhere => None,
        }
    }

    /// Is a connection told of a decision? All in its room are; what counts everywhere, only whom it is
    /// about, if it does not end with it anyway.
    pub(crate) fn hears_of(&self, slot: u32, scope: Scope, act: &Act<'_>) -> bool {
        match (scope, act) {
            (Scope::Room(_), _) => {
                let room = self.room_in(scope);
                room.is_some_and(|room| self.rooms.is_member(&self.slots, slot, room))
            }
            (Scope::Everywhere, Act::Mute { who, .. } | Act::Unmute { who }) => {
                self.is_at_rooms(slot) && self.is_called(slot, who)
            }
            _ => false,
        }
    }

    fn is_at_rooms(&self, slot: u32) -> bool {
        let meta = self.slots.meta(slot);
        meta.is_some_and(|meta| meta.phase == Phase::Rooms && meta.reason.is_none())
    }

    /// Is it this user's, or this connection itself?
    fn is_called(&self, slot: u32, who: &[u8]) -> bool {
        cid(who) == Some(self.slots.cid(slot))
            || own_room(who, |name| self.rooms.find(name))
                .is_some_and(|room| self.rooms.is_member(&self.slots, slot, room))
    }

    /// All connections here that are called so.
    fn called(&self, who: &[u8]) -> Vec<u32> {
        let mut slots = Vec::new();
        if let Some(cid) = cid(who) {
            let mut used = 0..self.slots.used();
            let is_it =
                |slot: &u32| self.slots.meta(*slot).is_some() && self.slots.cid(*slot) == cid;
            slots.extend(used.find(is_it));
        } else if let Some(room) = own_room(who, |name| self.rooms.find(name)) {
            let members = self.rooms.members(room).iter();
            slots.extend(members.map(|member| member.slot));
        }
        slots
    }

    /// May its owner decide about others in the room, which it is in?
    pub(crate) fn moderates(&self, slot: u32, room: RoomIx) -> bool {
        let Some(pass) = self.slots.pass(slot) else {
            return false;
        };
        self.rooms.is_member(&self.slots, slot, room) && {
            let bytes = self.passes.bytes(pass);
            let rights = Packed::read(&bytes).map(|p| p.rights(&self.rooms.name(room)));
            rights.is_some_and(|rights| rights.has(Right::Moderate))
        }
    }

    /// The log says what was decided.
    pub(crate) fn on_decision(
        &mut self,
        at: u64,
        next: u64,
        scope: Scope,
        act: Act<'_>,
        asker: Asker<'_>,
    ) {
        self.deliveries += self.end_run();
        let down = Down::Moderated { scope, asker, act };
        let concerned = match act {
            Act::Ban {
                whom: Whom::Address(_),
                ..
            } => (0..self.slots.used()).collect(),
            _ => act.who().map(|who| self.called(who)).unwrap_or_default(),
        };
        for slot in concerned {
            self.make_leave(slot, at, next, &down);
        }
        // Those who have left are behind it by now.
        let room = self.room_in(scope);
        let told = match (scope, room) {
            (Scope::Room(_), Some(room)) => {
                let members = self.rooms.members(room).iter();
                members.map(|member| member.slot).collect()
            }
            (Scope::Everywhere, _) => act.who().map(|who| self.called(who)).unwrap_or_default(),
            _ => Vec::new(),
        };
        let name = room.map(|room| self.rooms.name(room));
        let room = name.as_deref();
        let said = ToClient::Decided { room, act };
        self.tell_some(at, next, &told, said, |brain, slot| {
            brain.hears_of(slot, scope, &act)
        });
    }

    /// A message was held back: who moderates the room is shown it.
    pub(crate) fn on_withheld(
        &mut self,
        at: u64,
        next: u64,
        room: RoomIx,
        from: &[u8],
        data: Data<'_>,
    ) {
        self.deliveries += self.end_run();
        let members = self.rooms.members(room).iter();
        let members: Vec<u32> = members.map(|member| member.slot).collect();
        let name = &self.rooms.name(room);
        let said = ToClient::Held {
            at,
            room: name,
            from,
            data,
        };
        self.tell_some(at, next, &members, said, |brain, slot| {
            brain.moderates(slot, room)
        });
    }

    /// Says the same to those of these connections who are to hear it.
    fn tell_some(
        &mut self,
        at: u64,
        next: u64,
        slots: &[u32],
        said: ToClient<'_>,
        hears: impl Fn(&Brain, u32) -> bool,
    ) {
        let mut made: Each<Option<(u32, u32)>> = Each::default();
        for &slot in slots {
            if self.slots.get(slot, Field::Cursor) > at || !hears(self, slot) {
                continue;
            }
            let encoding = self.slots.encoding(slot);
            let frame = match made[encoding] {
                Some(frame) => frame,
                None => self.make_answer(said, encoding),
            };
            made[encoding] = Some(frame);
            self.owe_made(slot, at, next, frame);
        }
    }

    /// What a decision takes a connection out of, if it does.
    pub(crate) fn leaves(&self, slot: u32, down: &Down<'_>) -> Option<Leaves> {
        let Down::Moderated { scope, act, .. } = down else {
            return None;
        };
        let (who, reason) = match act {
            Act::Kick { who } => (*who, CloseReason::Kicked),
            Act::Ban {
                whom: Whom::User(who),
                ..
            } => (*who, CloseReason::Banned),
            Act::Ban {
                whom: Whom::Address(range),
                ..
            } => {
                let meta = self.slots.meta(slot)?;
                let may_stay = !matches!(meta.phase, Phase::Rooms | Phase::Echo)
                    || meta.role != Role::Public
                    || !range.contains(self.slots.peer(slot).ip());
                return (!may_stay).then_some(Leaves::Baton(CloseReason::Banned));
            }
            _ => return None,
        };
        if !self.is_called(slot, who) {
            return None;
        }
        match scope {
            Scope::Everywhere => Some(Leaves::Baton(reason)),
            Scope::Room(_) => {
                let room = self.room_in(*scope)?;
                let is_in = self.rooms.is_member(&self.slots, slot, room);
                is_in.then_some(Leaves::Room(room))
            }
            Scope::Nowhere => None,
        }
    }

    /// A connection leaves by the decision at this place of the log, if it has to, and has not been given
    /// it before. One that another worker has, or will have, meets it there.
    fn make_leave(&mut self, slot: u32, at: u64, next: u64, down: &Down<'_>) {
        let meta = self.slots.meta(slot);
        let meta = meta.filter(|meta| !meta.has(Flag::Given) && meta.reason.is_none());
        let (Some(meta), Some(leaves)) = (meta, self.leaves(slot, down)) else {
            return;
        };
        if meta.phase != Phase::Rooms {
            self.has_left(slot, Some(leaves));
        } else if self.slots.get(slot, Field::Cursor) <= at {
            let mut frames = Vec::new();
            self.frames_for(slot, at, down, &mut Skipped::default(), &mut frames);
            self.give_last(slot, next, &frames, Some(leaves));
            self.has_left(slot, Some(leaves));
        }
    }

    /// Who has left baton, and been given what was before that, is closed.
    pub(crate) fn has_left(&mut self, slot: u32, leaves: Option<Leaves>) -> bool {
        match leaves {
            Some(Leaves::Baton(reason)) => {
                self.begin_close(slot, reason);
                true
            }
            Some(Leaves::Room(_)) | None => false,
        }
    }

    /// Who it is for others.
    fn name_of(&self, slot: u32) -> String {
        let pass = self.slots.pass(slot);
        let user = pass.and_then(|pass| self.passes.user(pass));
        user.unwrap_or_else(|| self.slots.cid(slot).to_string())
    }

    /// Somebody has come into a room by a record of the log, which it had asked for when it was not
    /// banned: it may be now.
    pub(crate) fn look_at_newcomer(&mut self, asker: Asker<'_>, room: RoomIx, name: &[u8]) {
        self.sanctions.refresh();
        if self.sanctions.is_empty() || !self.is_here(asker) {
            return;
        }
        let who = self.name_of(asker.slot);
        let (place, leaves) = match name {
            [b'@', ..] => ("", Leaves::Baton(CloseReason::Banned)),
            name => match str::from_utf8(name) {
                Ok(name) => (name, Leaves::Room(room)),
                Err(_) => return,
            },
        };
        let now = self.date.unix_ms(self.now);
        if self.sanctions.find(Kind::Ban, place, &who, now).is_some() {
            self.is_to_leave(asker.slot, leaves);
        }
    }

    /// It leaves at the end of the turn.
    pub(crate) fn is_to_leave(&mut self, slot: u32, leaves: Leaves) {
        let cid = self.slots.cid(slot);
        self.leavers.push(Leaver { slot, cid, leaves });
    }

    /// Those who are to leave do, with everything that this turn has for them.
    pub(crate) fn turn_back(&mut self) {
        for Leaver { slot, cid, leaves } in std::mem::take(&mut self.leavers) {
            let meta = self.slots.meta(slot);
            let Some(meta) = meta.filter(|meta| meta.reason.is_none()) else {
                continue;
            };
            if self.slots.cid(slot) != cid || meta.has(Flag::Given) {
                continue;
            }
            let mut told = Vec::new();
            if let Leaves::Room(room) = leaves {
                if !self.rooms.is_member(&self.slots, slot, room) {
                    continue;
                }
                let who = self.name_of(slot);
                let whom = Whom::User(who.as_bytes());
                let name = self.rooms.name(room);
                let room = Some(&name[..]);
                let act = Act::Ban { whom, ms: 0 };
                let encoding = meta.encoding();
                frames::put(&mut told, ToClient::Decided { room, act }, encoding);
            }
            self.give_last(slot, self.turn.read, &told, Some(leaves));
            self.has_left(slot, Some(leaves));
        }
    }
}

/// The connection that is called so.
fn cid(who: &[u8]) -> Option<Cid> {
    let number = str::from_utf8(who).ok()?.strip_prefix('c')?;
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
    let number = number.parse().ok().filter(|_| is_number)?;
    Some(Cid(number))
}

/// The room that all connections of a user are in.
fn own_room(who: &[u8], find: impl FnOnce(&[u8]) -> Option<RoomIx>) -> Option<RoomIx> {
    find(&[b"@", who].concat())
}
