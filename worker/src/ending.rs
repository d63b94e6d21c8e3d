//! How a connection ends: our last words, our FIN, the peer's FIN, and the deadlines for each.

use mio::unix::SourceFd;
use nix::sys::socket::{MsgFlags, Shutdown, recv, shutdown};
use protocol::address::Shown;
use protocol::fault;
use protocol::ids::Role;
use protocol::journal::Record;
use protocol::output::Full;

use crate::authorize::Lapse;
use crate::brain::Brain;
use crate::buffers;
use crate::client::ToClient;
use crate::close::CloseReason;
use crate::http::{self, Wait};
use crate::local::Mark;
use crate::poison::InHand;
use crate::slots::{Field, Flag, Meta, Phase, Slots};
use crate::websocket::{self, Session};

/// A connection for which a back end is asked is looked at again after this.
const ASKED_MS: u64 = 1_000;
/// Bytes that a goodbye may add.
const LAST_WORDS: usize = 16 << 20;

/// What is due for a connection at its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// An HTTP request does not come, or not to its end.
    Request,
    Ping,
    /// It is asked for the next token.
    Ask,
    End(CloseReason),
}

impl Brain {
    /// Nothing more is taken from the connection: what waits goes out, then our FIN.
    pub fn begin_close(&mut self, slot: u32, reason: CloseReason) {
        self.give_held(slot);
        let Some(meta) = self.slots.meta(slot) else {
            return;
        };
        if meta.phase == Phase::Closing {
            return;
        }
        self.leave_rooms(slot);
        // A protocol that is open says why first.
        self.put_close(slot, meta, reason);
        let meta = self.slots.meta(slot).unwrap_or(meta);
        let mut record = Record::new();
        let meta = meta
            .in_phase(Phase::Closing)
            .because(reason)
            .with(Flag::Lagging, false)
            .with(Flag::Opening, false);
        Slots::change(&mut record, slot, Field::Meta, meta.pack());
        Slots::change(
            &mut record,
            slot,
            Field::Parsed,
            self.slots.get(slot, Field::Consumed),
        );
        Slots::change(&mut record, slot, Field::Since, self.now);
        self.journal.commit(&mut record);
        self.reschedule(slot);
        self.touch(slot);
    }

    /// `bye` and a Close frame to a client of ours, who is then given time to answer.
    pub fn say_goodbye(&mut self, slot: u32) {
        self.give_held(slot);
        let Some(meta) = self.slots.meta(slot) else {
            return;
        };
        match meta.phase {
            Phase::Rooms | Phase::Echo => {
                self.leave_rooms(slot);
                if meta.phase == Phase::Rooms {
                    // Spread over the time by a hash of the connection's number: a crowd comes
                    // back evenly, and a goodbye that is said again says the same.
                    let spread = self.settings.retry_spread_ms.max(1);
                    let after = self.slots.cid(slot).0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
                    let bye = ToClient::Bye {
                        retry_after_ms: (after * spread) >> 32,
                    };
                    self.put(slot, |out| bye.put_frame(out, meta.encoding()));
                }
                self.put_close(slot, meta, CloseReason::GoingAway);
                let meta = meta
                    .because(CloseReason::GoingAway)
                    .with(Flag::Leaving, true);
                let mut record = Record::new();
                Slots::change(&mut record, slot, Field::Meta, meta.pack());
                Slots::change(&mut record, slot, Field::Since, self.now);
                self.journal.commit(&mut record);
                self.reschedule(slot);
                self.touch(slot);
            }
            // A request that has begun is answered; the answer is the last.
            Phase::Http if self.http_wait(slot) != Wait::Idle || meta.has(Flag::Opening) => {
                self.slots.set_meta(slot, meta.with(Flag::Leaving, true));
            }
            Phase::Http | Phase::Proxy => self.begin_close(slot, CloseReason::GoingAway),
            Phase::Closing => {}
        }
    }

    /// A request was under way when its client was told to go away, and now it is answered.
    pub fn has_said_all(&self, slot: u32) -> bool {
        self.slots.has(slot, Flag::Leaving)
            && (self.slots.meta(slot))
                .is_some_and(|meta| meta.phase == Phase::Http && !meta.has(Flag::Opening))
            && self.http_wait(slot) == Wait::Idle
    }

    /// Our Close frame, if the protocol is one that has it, and it is open.
    fn put_close(&mut self, slot: u32, meta: Meta, reason: CloseReason) {
        if !matches!(meta.phase, Phase::Echo | Phase::Rooms) {
            return;
        }
        // Words that are no session's are no reason to end without a word.
        let mut session = self.session(slot).unwrap_or_default();
        if !session.is_open() {
            return;
        }
        let mut out = buffers::output(&self.arena, &self.slots, slot, LAST_WORDS);
        if session.close(&mut out, reason).is_err() {
            return out.abandon();
        }
        let mut record = Record::new();
        change_session(&mut record, slot, session);
        buffers::change_output(&out, &self.slots, slot, &mut record);
        self.journal.commit(&mut record);
        out.settle();
    }

    /// Adds to the output of a connection, outside of its steps. Nothing, if there is no room.
    pub fn put(
        &mut self,
        slot: u32,
        put: impl FnOnce(&mut buffers::Staged<'_>) -> Result<(), Full>,
    ) {
        let mut out = buffers::output(&self.arena, &self.slots, slot, LAST_WORDS);
        if put(&mut out).is_err() {
            return out.abandon();
        }
        let mut record = Record::new();
        buffers::change_output(&out, &self.slots, slot, &mut record);
        self.journal.commit(&mut record);
        out.settle();
        self.touch(slot);
    }

    fn session(&self, slot: u32) -> Option<Session> {
        let words = [Field::Session0, Field::Session1, Field::Session2];
        Session::unpack(words.map(|field| self.slots.get(slot, field)))
    }

    fn http_state(&self, slot: u32) -> http::State {
        let words = [Field::Session0, Field::Session1].map(|field| self.slots.get(slot, field));
        http::State::unpack(words).unwrap_or_default()
    }

    fn http_wait(&self, slot: u32) -> Wait {
        self.http_state(slot).waiting()
    }

    /// Reads on to the peer's end and takes nothing of it.
    pub fn drain(&mut self, slot: u32) {
        let mut waste = [0; 16 << 10];
        for _ in 0..16 {
            let Some(meta) = self.slots.meta(slot) else {
                return;
            };
            if meta.has(Flag::PeerEnded) {
                return self.end_if_all_is_said(slot);
            }
            match recv(meta.fd, &mut waste, MsgFlags::empty()) {
                Ok(0) => self.slots.set_meta(slot, meta.with(Flag::PeerEnded, true)),
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => {
                    self.local(slot).set(Mark::Readable, false);
                    return;
                }
                Err(_) => {
                    return self.finish(slot, meta.reason.unwrap_or(CloseReason::SocketError));
                }
            }
        }
        self.again.push(slot);
    }

    /// In the closing phase, once nothing waits: our FIN, and the end when nothing more can come.
    pub fn end_if_all_is_said(&mut self, slot: u32) {
        let Some(meta) = self.slots.meta(slot) else {
            return;
        };
        if meta.phase != Phase::Closing || self.slots.pending(slot) > 0 {
            return;
        }
        // Who has said that it will say nothing more, and of whom all is read, need not be waited for:
        // a close destroys nothing that is on its way to it. Others are read to their end first: what
        // comes in after a close is answered by a reset, which does (RFC 9112, 9.6).
        let has_agreed = matches!(
            meta.reason,
            Some(CloseReason::Done | CloseReason::PeerClose)
        );
        if meta.has(Flag::PeerEnded) || has_agreed && !self.local(slot).is(Mark::Readable) {
            return self.finish(slot, meta.reason.unwrap_or(CloseReason::Done));
        }
        if !meta.has(Flag::WeEnded) {
            let _ = shutdown(meta.fd, Shutdown::Write);
            self.slots.set(slot, Field::Since, self.now);
            self.slots.set_meta(slot, meta.with(Flag::WeEnded, true));
            self.reschedule(slot);
            if self.local(slot).is(Mark::Readable) {
                self.again.push(slot);
            }
        }
    }

    /// The end: socket, buffers, memberships and slot are given up.
    pub fn finish(&mut self, slot: u32, reason: CloseReason) {
        let Some(meta) = self.slots.meta(slot) else {
            return;
        };
        let reason = meta.reason.unwrap_or(reason);
        let (cid, peer) = (self.slots.cid(slot), Shown(self.slots.peer(slot)));
        if reason.is_fault() {
            log::info!("{cid} from {peer} closed: {}", reason.as_str());
        } else {
            log::debug!("{cid} from {peer} closed: {}", reason.as_str());
        }
        self.count_close(reason);
        self.leave_rooms(slot);
        if !meta.has(Flag::WeEnded) {
            // While another process has a copy of the fd, `close` sends no FIN.
            let _ = shutdown(meta.fd, Shutdown::Write);
        }
        self.forget(slot);
    }

    /// Gives up the slot and our copy of the socket, without a word to the peer.
    pub fn forget(&mut self, slot: u32) {
        if let Some(meta) = self.strip(slot) {
            self.slots.release(slot);
            fault::point("worker:close");
            let _ = nix::unistd::close(meta.fd);
        }
    }

    /// The same, of a connection that another worker has.
    pub fn forget_moved(&mut self, slot: u32) {
        if let Some(meta) = self.strip(slot) {
            self.slots.release_moved(&self.journal, slot);
            fault::point("worker:close-moved");
            let _ = nix::unistd::close(meta.fd);
        }
    }

    /// Takes from a slot everything but its words.
    fn strip(&mut self, slot: u32) -> Option<Meta> {
        let meta = self.slots.meta(slot)?;
        self.unwatch(slot, meta);
        self.asking.remove(&self.slots.cid(slot));
        if let Some(hooks) = &mut self.hooks {
            hooks.forget(self.slots.cid(slot));
        }
        buffers::release_all(&self.arena, &self.slots, slot);
        self.release_pass(slot);
        self.begin_anew(slot, false);
        Some(meta)
    }

    /// To be done before the close: while another copy of the socket lives, epoll would keep what it
    /// was told of ours.
    pub(crate) fn unwatch(&mut self, slot: u32, meta: Meta) {
        if self.local(slot).set(Mark::Watched, false) {
            let _ = self.poll.registry().deregister(&mut SourceFd(&meta.fd));
        }
    }

    pub fn leave_rooms(&mut self, slot: u32) {
        for (room, _) in self.rooms.rooms_of(&self.slots, slot) {
            let mut record = Record::new();
            self.rooms.leave(&mut record, &self.slots, slot, room);
            self.journal.commit(&mut record);
        }
    }

    /// When something is due for the connection, and what.
    fn due(&self, slot: u32, meta: Meta) -> (u64, Due) {
        let get = |field| self.slots.get(slot, field);
        let settings = &self.settings;
        let (http, ws) = (&settings.http, &settings.websocket);
        let by_phase = match meta.phase {
            Phase::Proxy => (
                get(Field::Since) + http.head_timeout_ms,
                Due::End(CloseReason::HeadTimeout),
            ),
            Phase::Http => match self.http_wait(slot) {
                Wait::Idle => (get(Field::Heard) + http.idle_timeout_ms, Due::Request),
                Wait::Head => (get(Field::Since) + http.head_timeout_ms, Due::Request),
                Wait::Body => (get(Field::Heard) + http.body_timeout_ms, Due::Request),
            },
            Phase::Echo | Phase::Rooms if meta.has(Flag::Leaving) => (
                get(Field::Since) + ws.close_timeout_ms,
                Due::End(CloseReason::CloseTimeout),
            ),
            Phase::Echo | Phase::Rooms if meta.has(Flag::Pinged) => (
                get(Field::Since) + ws.pong_timeout_ms,
                Due::End(CloseReason::PongTimeout),
            ),
            Phase::Echo | Phase::Rooms => (get(Field::Heard) + ws.ping_interval_ms, Due::Ping),
            Phase::Closing if meta.has(Flag::WeEnded) => (
                get(Field::Since) + http.linger_ms,
                Due::End(CloseReason::Done),
            ),
            Phase::Closing => (
                get(Field::Since) + ws.write_timeout_ms,
                Due::End(CloseReason::WriteTimeout),
            ),
        };
        let stalled = match get(Field::Stalled) {
            0 => None,
            since => Some((
                since + ws.write_timeout_ms,
                Due::End(CloseReason::WriteTimeout),
            )),
        };
        let lapse = self.lapse(slot, meta).map(|(at, lapse)| match lapse {
            Lapse::Ask => (at, Due::Ask),
            Lapse::Ends(reason) => (at, Due::End(reason)),
        });
        let first = |a: (u64, Due), b: (u64, Due)| if b.0 < a.0 { b } else { a };
        [stalled, lapse].into_iter().flatten().fold(by_phase, first)
    }

    /// The wheel is to look at the connection when something is due for it.
    pub fn reschedule(&mut self, slot: u32) {
        let Some(meta) = self.slots.meta(slot) else {
            return;
        };
        let at = self.api_patience(slot);
        let at = at.unwrap_or_else(|| self.due(slot, meta).0);
        self.timers.schedule(slot, at);
    }

    /// The wheel has come to the connection: something may be due.
    pub fn on_deadline(&mut self, slot: u32) {
        let Some(meta) = self.slots.meta(slot).filter(|m| !m.has(Flag::Given)) else {
            return;
        };
        if self.is_asked(slot) {
            // What it has said is not read for as long: that it says nothing is no fault of its own.
            return self.timers.schedule(slot, self.now + ASKED_MS);
        }
        if let Some(by) = self.api_patience(slot) {
            if by <= self.now {
                self.api_times_out(slot);
            }
            return self.timers.schedule(slot, self.now + ASKED_MS);
        }
        self.note_in_hand(InHand::Connection(slot));
        let (at, due) = self.due(slot, meta);
        if at > self.now {
            if due == Due::Ping {
                self.forgive_pings(slot);
            }
            return self.reschedule(slot);
        }
        match due {
            Due::Request => self.request_timed_out(slot, meta),
            Due::Ping => self.ping(slot, meta),
            Due::Ask => self.ask_for_token(slot),
            // There is nobody to say it to.
            Due::End(reason) if meta.phase == Phase::Closing || reason.code().is_none() => {
                self.finish(slot, reason);
            }
            Due::End(reason) => self.begin_close(slot, reason),
        }
        self.reschedule(slot);
    }

    /// For an answer that is given to whoever asks: to refuse is a step's.
    pub(crate) fn answering(&self, role: Role) -> http::Context<'_> {
        http::Context {
            settings: &self.settings,
            role,
            whoami: &self.whoami,
            date: self.date.as_str(),
            refuse: false,
            banned: false,
        }
    }

    fn request_timed_out(&mut self, slot: u32, meta: Meta) {
        let state = self.http_state(slot);
        let cx = self.answering(meta.role);
        let mut answer = Vec::new();
        let reason = http::timed_out(state, &mut answer, &cx);
        self.put(slot, |out| protocol::output::Output::put(out, &answer));
        self.begin_close(slot, reason);
    }

    /// The limit on pings is one for a ping interval: about as often the wheel comes to a
    /// connection that is never silent for so long.
    fn forgive_pings(&mut self, slot: u32) {
        let Some(mut session) = self.session(slot) else {
            return;
        };
        let before = session;
        session.forgive_pings();
        if session != before {
            let mut record = Record::new();
            change_session(&mut record, slot, session);
            self.journal.commit(&mut record);
        }
    }

    fn ping(&mut self, slot: u32, meta: Meta) {
        self.put(slot, |out| websocket::ping(out, b""));
        if let Some(mut session) = self.session(slot) {
            session.forgive_pings();
            let mut record = Record::new();
            change_session(&mut record, slot, session);
            Slots::change(&mut record, slot, Field::Since, self.now);
            Slots::change(
                &mut record,
                slot,
                Field::Meta,
                meta.with(Flag::Pinged, true).pack(),
            );
            self.journal.commit(&mut record);
        }
    }
}

fn change_session(record: &mut Record, slot: u32, session: Session) {
    let fields = [Field::Session0, Field::Session1, Field::Session2];
    for (field, word) in fields.into_iter().zip(session.pack()) {
        Slots::change(record, slot, field, word);
    }
}
