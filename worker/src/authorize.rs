//! Who may do what at `/rooms`: a token is shown and becomes the connection's [pass](crate::passes),
//! and whatever it asks is held against that. And when its time comes, it is asked for the next
//! token, and then closed.

use protocol::fault;
use protocol::ids::Role;
use protocol::journal::Record;
use protocol::output::{Full, Output};
use protocol::record::Up;
use protocol::settings::{Anonymous, Right, Rights, Settings};

use crate::api::access;
use crate::auth::grant::Packed;
use crate::auth::{Grant, Refused};
use crate::brain::Brain;
use crate::buffers;
use crate::client::request::FEED;
use crate::client::{Code, ToClient};
use crate::close::CloseReason;
use crate::frames;
use crate::hook::consult::Asked;
use crate::http;
use crate::passes::{Pass, PassIx, Passes, Spent, TableFull};
use crate::requests::{self, Client, Flow};
use crate::slots::{Flag, Meta, Phase};
use crate::snapshot;

/// Who asks, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access<'a> {
    Nobody(Anonymous),
    User(Packed<'a>),
}

impl<'a> Access<'a> {
    /// Of a connection whose pass has these bytes.
    #[must_use]
    pub fn of(pass: &'a [u8], anonymous: Anonymous) -> Access<'a> {
        Packed::read(pass).map_or(Access::Nobody(anonymous), Access::User)
    }

    #[must_use]
    pub fn user(self) -> Option<&'a str> {
        match self {
            Access::Nobody(_) => None,
            Access::User(packed) => Some(packed.user),
        }
    }

    /// What it may do in the room of this name.
    #[must_use]
    pub fn rights(self, room: &str) -> Rights {
        match self {
            // Only who has a token can be let write to users.
            Access::Nobody(_) if room.starts_with('@') => Rights::default(),
            Access::Nobody(anonymous) => anonymous.rights(),
            Access::User(packed) => packed.rights(room.as_bytes()),
        }
    }

    /// What is said to who has joined the room of this name: what it may do there, besides. `None`,
    /// and nothing is said: all but moderate, as who has no token where nothing else is configured.
    #[must_use]
    pub fn may(self, room: &str) -> Option<Rights> {
        let rights = match room {
            FEED => Rights::default(),
            _ => self.rights(room).without(Right::Join),
        };
        (rights != Anonymous::Full.rights().without(Right::Join)).then_some(rights)
    }

    /// Why it may not, if so.
    #[must_use]
    pub fn refuses(self, room: &str, right: Right) -> Option<&'static str> {
        (!self.rights(room).has(right)).then_some(match right {
            Right::Join => "the right to join this room is missing",
            Right::Send => "the right to send to this room is missing",
            Right::Presence => "the right to see who is in this room is missing",
            Right::History => "the right to read what was said in this room is missing",
            Right::Moderate => "the right to moderate this room is missing",
        })
    }
}

/// What a connection may do that has shown no token.
#[must_use]
pub fn anonymous(settings: &Settings, meta: Meta) -> Anonymous {
    // The permissions of the file have let it in.
    if meta.has(Flag::Unix) {
        return Anonymous::Full;
    }
    let otherwise = match meta.has(Flag::Remote) {
        true => Anonymous::Nothing,
        false => Anonymous::Full,
    };
    settings.auth.anonymous.unwrap_or(otherwise)
}

/// The pass that a connection begins with at `/rooms`, if it needs one.
#[must_use]
pub fn first_pass(settings: &Settings, meta: Meta, unix_ms: u64) -> Option<Pass> {
    let expires_ms = match anonymous(settings, meta) {
        // Until then it has to show a token.
        Anonymous::Nothing => unix_ms + settings.auth.timeout_ms,
        _ if settings.rates.is_any() => 0,
        _ => return None,
    };
    Some(Pass {
        expires_ms,
        ..Pass::default()
    })
}

impl Client<'_> {
    /// The connection is one at `/rooms` from here on, and has perhaps brought a token; `head` is
    /// its handshake's.
    pub fn greet(
        &mut self,
        out: &mut impl Output,
        record: &mut Record,
        head: &[u8],
    ) -> Result<Flow, Full> {
        if self.is_from_banned_address() {
            return Ok(Flow::Close(CloseReason::Banned));
        }
        requests::hello(self.cid, self.worker, self.settings)
            .put_frame(out, self.meta.encoding())?;
        let mut grant = match http::query_token(head).map(|token| self.check(token)) {
            None => None,
            Some(Ok(grant)) => Some(grant),
            Some(Err(refused)) => return self.refuse_token(out, record, b"", None, refused),
        };
        if self.hooks.is_some() {
            let user = grant.as_ref().map(|grant| grant.user.as_str());
            match self.ask_to_connect(out, head, user)? {
                Asked::On(given) => grant = given.map(|given| *given).or(grant),
                Asked::Ends(flow) => return Ok(flow),
            }
            self.forget_answer();
        }
        if let Some(grant) = grant {
            return self.admit(out, record, b"", &grant);
        }
        if let Some(pass) = first_pass(self.settings, self.meta, self.unix_ms) {
            let Ok(pass) = self.passes.stage(self.slot, &pass) else {
                return Ok(Flow::Close(CloseReason::Overloaded));
            };
            self.slots.change_pass(record, self.slot, Some(pass));
        }
        Ok(Flow::Commit)
    }

    /// A token is shown, the first or the next.
    pub fn authorize(
        &mut self,
        out: &mut impl Output,
        record: &mut Record,
        id: &[u8],
        token: &str,
    ) -> Result<Flow, Full> {
        let old = self.slots.pass(self.slot);
        let bytes = old.map(|old| self.passes.bytes(old)).unwrap_or_default();
        let user = Packed::read(&bytes).map(|packed| packed.user);
        let grant = match self.check(token) {
            Ok(grant) => grant,
            Err(refused) => return self.refuse_token(out, record, id, user, refused),
        };
        if user.is_some_and(|user| user != grant.user) {
            let message = "a connection stays its user's: the token is another's";
            self.error(out, id, Code::Forbidden, message)?;
            return Ok(Flow::Next);
        }
        self.admit(out, record, id, &grant)
    }

    fn check(&self, token: &str) -> Result<Grant, Refused> {
        // Who may do anything over HTTP may do so here, too.
        if self.meta.role == Role::Admin && access::is_token(token, &self.settings.api) {
            return Ok(Grant::of_api());
        }
        self.keys.check(token, self.unix_ms)
    }

    /// `user`: whose token it has shown before.
    fn refuse_token(
        &self,
        out: &mut impl Output,
        record: &mut Record,
        id: &[u8],
        user: Option<&str>,
        refused: Refused,
    ) -> Result<Flow, Full> {
        self.error(out, id, refused.code(), refused.message())?;
        Ok(match (user, refused) {
            // That one counts as long as it lasts.
            (Some(_), _) => self.count_error(record),
            (None, Refused::Expired) => Flow::Close(CloseReason::Expired),
            (None, _) => Flow::Close(CloseReason::Unauthorized),
        })
    }

    /// From here on it may do what is granted.
    fn admit(
        &mut self,
        out: &mut impl Output,
        record: &mut Record,
        id: &[u8],
        grant: &Grant,
    ) -> Result<Flow, Full> {
        if self.is_banned(&grant.user) {
            return Ok(Flow::Close(CloseReason::Banned));
        }
        let old = self.slots.pass(self.slot);
        let was_nobody = old.is_none_or(|old| !self.passes.has_token(old));
        let pass = Pass {
            spent: *self.spent,
            ..Pass::from(grant)
        };
        if let Some(room) = self.joined_against(&pass.bytes) {
            let room = String::from_utf8_lossy(&room);
            let message = format!("the token does not allow {room}, which must be left before");
            self.error(out, id, Code::Forbidden, &message)?;
            return Ok(Flow::Next);
        }
        let Ok(new) = self.passes.stage(self.slot, &pass) else {
            return Ok(Flow::Close(CloseReason::Overloaded));
        };
        let flow = self.enter_own_room(out, record, id, &grant.user);
        match flow {
            Ok(Flow::Commit | Flow::Opening) => {
                self.slots.change_pass(record, self.slot, Some(new));
                if was_nobody {
                    self.rooms.is_shown(self.slots, self.slot, &grant.user);
                }
                old.into_iter().for_each(|old| self.passes.leave(old));
            }
            _ => self.passes.free(new),
        }
        flow
    }

    /// A room that the connection is in, or watches, and that it may not with this pass.
    fn joined_against(&self, pass: &[u8]) -> Option<Vec<u8>> {
        let packed = Packed::read(pass)?;
        let rooms = self.rooms.rooms_of(self.slots, self.slot);
        let mut names = rooms.into_iter().map(|(room, _)| {
            let watches = self.rooms.watches(self.slots, self.slot, room);
            (self.rooms.name(room), watches.is_some())
        });
        let is_against = |(name, watches): &(Vec<u8>, bool)| {
            let rights = packed.rights(name);
            let allowed = rights.has(Right::Join) && (!watches || rights.has(Right::Presence));
            !name.starts_with(b"@") && !allowed
        };
        names.find(is_against).map(|(name, _)| name)
    }

    /// What is sent to its user is sent to it, too. The answer to the token is said when that is so.
    fn enter_own_room(
        &mut self,
        out: &mut impl Output,
        record: &mut Record,
        id: &[u8],
        user: &str,
    ) -> Result<Flow, Full> {
        let name = own_room(user);
        let Some(room) = self.rooms.find(name.as_bytes()) else {
            return Ok(self.open(id, name.as_bytes()));
        };
        let user = user.as_bytes();
        let is_in = self.rooms.is_member(self.slots, self.slot, room);
        let total = self.rooms.total(room);
        if !is_in && frames::is_full(name.as_bytes(), total, &self.settings.rates) {
            self.error(out, id, Code::Limit, frames::FULL)?;
            return Ok(Flow::Close(CloseReason::Overloaded));
        }
        self.answer(out, id, ToClient::Authorized { id, user })?;
        if !is_in {
            let after = self.rooms.position(room).offset;
            let who = self.entrant(None);
            let joined = self.rooms.join(record, self.slots, who, room, after, None);
            if joined.is_err() {
                return Ok(Flow::Close(CloseReason::Overloaded));
            }
        }
        Ok(Flow::Commit)
    }

    /// A room that nobody here is in yet: its position is the master's to say.
    pub fn open(&mut self, id: &[u8], room: &[u8]) -> Flow {
        let asker = self.asker(id);
        match self.stage(Up::Open { asker, room }) {
            Flow::Next => Flow::Opening,
            other => other,
        }
    }
}

/// The room of all connections of a user.
fn own_room(user: &str) -> String {
    format!("@{user}")
}

impl Pass {
    /// As it goes to another worker, whose clock is another.
    #[must_use]
    pub fn travels(self, now_ms: u64) -> snapshot::Pass {
        snapshot::Pass {
            grant: self.bytes.into(),
            expires_ms: self.expires_ms,
            asked: self.asked,
            spent: self.spent.0.map(|at| at.saturating_sub(now_ms * 1000)),
        }
    }

    /// `None`: it is not one.
    #[must_use]
    pub fn arrives(pass: &snapshot::Pass, now_ms: u64) -> Option<Pass> {
        let sound = pass.grant.is_empty() || Packed::read(&pass.grant).is_some();
        let fits = pass.grant.len() <= crate::auth::MAX_TOKEN;
        (sound && fits).then(|| Pass {
            bytes: pass.grant.to_vec(),
            expires_ms: pass.expires_ms,
            asked: pass.asked,
            spent: Spent(pass.spent.map(|ahead| match ahead {
                0 => 0,
                ahead => (now_ms * 1000).saturating_add(ahead),
            })),
        })
    }
}

/// What becomes of a connection when the time of its pass has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lapse {
    /// It is asked for the next token.
    Ask,
    Ends(CloseReason),
}

/// In how many milliseconds what happens to the owner of this pass; `None`: nothing ever does.
#[must_use]
pub fn lapse(
    passes: &Passes,
    pass: PassIx,
    ask_before_ms: u64,
    unix_ms: u64,
) -> Option<(u64, Lapse)> {
    let left = match passes.expires_ms(pass) {
        0 => return None,
        at => at.saturating_sub(unix_ms),
    };
    Some(match passes.has_token(pass) {
        false => (left, Lapse::Ends(CloseReason::Unauthorized)),
        true if passes.is_asked(pass) => (left, Lapse::Ends(CloseReason::Expired)),
        true => (left.saturating_sub(ask_before_ms), Lapse::Ask),
    })
}

impl Brain {
    /// What is said to it of what it may do in a room that it has joined: see [`Access::may`]. A pass
    /// is changed by input alone, and not before all that was said is noted: whoever says it again
    /// says the same.
    pub(crate) fn may(&self, slot: u32, room: &[u8]) -> Option<Rights> {
        let anonymous = anonymous(&self.settings, self.slots.meta(slot)?);
        let pass = self.slots.pass(slot);
        let pass = pass.map(|pass| self.passes.bytes(pass)).unwrap_or_default();
        Access::of(&pass, anonymous).may(std::str::from_utf8(room).ok()?)
    }

    /// When something is due for a connection because of its pass.
    pub(crate) fn lapse(&self, slot: u32, meta: Meta) -> Option<(u64, Lapse)> {
        let pass = self.slots.pass(slot)?;
        if meta.phase != Phase::Rooms || meta.has(Flag::Leaving) {
            return None;
        }
        let unix_ms = self.date.unix_ms(self.now);
        let before = self.settings.auth.ask_before_ms;
        let (away, lapse) = lapse(&self.passes, pass, before, unix_ms)?;
        Some((self.now.saturating_add(away), lapse))
    }

    /// Its client is asked for the next token, once.
    pub(crate) fn ask_for_token(&mut self, slot: u32) {
        let Some(pass) = self.slots.pass(slot) else {
            return;
        };
        let expires = self.passes.expires_ms(pass);
        let in_ms = expires.saturating_sub(self.date.unix_ms(self.now));
        let mut out = buffers::output(&self.arena, &self.slots, slot, usize::MAX);
        let mut record = Record::new();
        let encoding = self.slots.encoding(slot);
        match (ToClient::Expires { in_ms }).put_frame(&mut out, encoding) {
            Ok(()) => buffers::change_output(&out, &self.slots, slot, &mut record),
            // Without room for the question it is closed without having been asked.
            Err(Full) => return self.begin_close(slot, CloseReason::Overloaded),
        }
        self.passes.change_asked(&mut record, pass);
        fault::point("worker:ask-for-token");
        self.journal.commit(&mut record);
        out.settle();
        self.touch(slot);
    }

    /// It has shown a token, and does not get what is sent to its user.
    pub(crate) fn lacks_own_room(&self, slot: u32) -> bool {
        let Some(pass) = self.slots.pass(slot) else {
            return false;
        };
        let bytes = self.passes.bytes(pass);
        let Some(user) = Packed::read(&bytes).map(|packed| packed.user) else {
            return false;
        };
        let room = self.rooms.find(own_room(user).as_bytes());
        !room.is_some_and(|room| self.rooms.is_member(&self.slots, slot, room))
    }

    /// The slot has no pass any more.
    pub(crate) fn release_pass(&mut self, slot: u32) {
        if let Some(pass) = self.slots.pass(slot) {
            self.slots.forget_pass(slot);
            self.passes.free(pass);
        }
    }

    /// The pass that a connection brings along, or that it needs here, written for its slot.
    pub(crate) fn pass_of(
        &mut self,
        slot: u32,
        meta: Meta,
        brought: Option<&snapshot::Pass>,
    ) -> Result<Option<PassIx>, TableFull> {
        let pass = match brought {
            Some(pass) => Some(Pass::arrives(pass, self.now).ok_or(TableFull)?),
            None if meta.phase == Phase::Rooms => {
                first_pass(&self.settings, meta, self.date.unix_ms(self.now))
            }
            None => None,
        };
        pass.map(|pass| self.passes.stage(slot, &pass)).transpose()
    }
}
