//! The steps of one connection, taken on what is unread of it, and committed.
//!
//! Steps are the sessions' ([`http`](crate::http), [`websocket`], [`requests`](crate::requests)); what
//! their outcome is to a connection is said by phase, in [`of_http`], [`of_echo`] and [`of_rooms`].
//! Several steps of one connection share a record, so that many small messages cost one commit;
//! whatever is not committed is taken again by the next brain.

use protocol::fault::{self, Naive};
use protocol::journal::Record;
use protocol::output::Full;

use crate::brain::{Brain, RING};
use crate::buffers::{self, Staged};
use crate::close::CloseReason;
use crate::http;
use crate::poison::InHand;
use crate::requests::Client;
use crate::slots::{Field, Flag, Meta, Phase, Slots};
use crate::state;
use crate::websocket::{self, Rules};

mod of_echo;
mod of_http;
mod of_rooms;

/// Bytes of an output or of a message at most: an answer with the largest body that can be allowed.
const MAX_OUTPUT: usize = 20 << 20;
/// Steps that share a record.
const STEPS: usize = 64;

/// How far the steps got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// What is there is parsed; so many unread bytes in all are needed for more.
    NeedInput(usize),
    /// More can be done with what is there.
    More,
    /// More can be done, but in another turn.
    Yields,
    /// Nothing more before its output has gone.
    Waits,
    /// Nothing more before the master has opened its room or read of the ring, a back end has answered
    /// or the words that are looked for are ready.
    WaitsForOthers,
    /// It is being closed.
    Ends,
}

impl Brain {
    /// Takes steps on the unread input, and commits them. Nothing holds the connection back.
    pub(crate) fn steps(&mut self, slot: u32) -> Progress {
        self.hear_first(slot);
        let before = self.slots.known(slot);
        let Some(before) = before.filter(|meta| meta.phase() != Phase::Closing) else {
            return Progress::Ends;
        };
        // What killed the last brain is to be alone in its record when it kills again.
        let careful = self.verdict.suspects(InHand::Connection(slot));
        if before.phase() == Phase::Echo
            && !careful
            && let Some(progress) = self.echo_whole(slot)
        {
            return progress;
        }
        let before = before.meta();
        let banned = before.phase == Phase::Http && self.is_from_banned(slot, before.role);
        let owner = (slot, self.local(slot).generation);
        let input = buffers::unread(&self.arena, &self.slots, slot);
        let mut io = Io {
            out: buffers::output(&self.arena, &self.slots, slot, MAX_OUTPUT),
            message: buffers::message(&self.arena, &self.slots, slot, MAX_OUTPUT),
            record: Record::new(),
            words: SESSION.map(|field| self.slots.get(slot, field)),
            meta: before,
        };
        let pass = self.slots.pass(slot);
        let was_spent = pass.map(|pass| self.passes.spent(pass)).unwrap_or_default();
        let mut spent = was_spent;
        // What becomes a client at `/rooms`, or is one.
        macro_rules! client {
            ($offset:expr) => {
                Client {
                    slot,
                    cid: self.slots.cid(slot),
                    slots: &self.slots,
                    meta: before,
                    rooms: &mut self.rooms,
                    passes: &mut self.passes,
                    keys: &self.keys,
                    filters: &self.filters,
                    offset: $offset,
                    hooks: self.hooks.as_deref_mut(),
                    spent: &mut spent,
                    addresses: &mut self.addresses,
                    now: self.now,
                    unix_ms: self.date.unix_ms(self.now),
                    history: &self.history,
                    sanctions: &mut self.sanctions,
                    refused: self.refusals.remove(&self.slots.cid(slot)),
                    ring: &mut self.ring,
                    ring_number: self.ring_number,
                    ring_kept: self.state.get(state::Head::Answered),
                    settings: &self.settings,
                    worker: self.seat,
                    pid: self.pid as u32,
                    life: self.life.number as u32,
                    messages_in: &mut self.messages_in,
                }
            };
        }
        let mut at = 0;
        let parsed = self.slots.get(slot, Field::Parsed);
        let mut progress = Progress::More;
        let mut end = None;
        let high_water = self.high_water(before.phase);
        let most = if careful { 1 } else { STEPS };
        for _ in 0..most {
            if io.out.len() > high_water {
                progress = Progress::Waits;
                break;
            }
            let marks = (io.out.mark(), io.message.mark());
            let step = match io.meta.phase {
                Phase::Http => {
                    let cx = http::Context {
                        settings: &self.settings,
                        role: before.role,
                        whoami: &self.whoami,
                        date: self.date.as_str(),
                        refuse: before.has(Flag::Refuse),
                        banned,
                    };
                    let step =
                        of_http::step(&input[at..], &mut io, &cx, || client!(parsed + at as u64));
                    if matches!(step, Ok((_, Took::Opening))) {
                        // Its answer is not in the log that has been read.
                        let read = self.state.get(state::Head::LogRead);
                        Slots::change(&mut io.record, slot, Field::Cursor, read);
                        self.asking.insert(self.slots.cid(slot), slot);
                    }
                    step
                }
                Phase::Echo => {
                    let rules = Rules::echo(&self.settings.websocket);
                    let by = of_echo::Echoer {
                        owner,
                        now: self.now,
                        inflate: &mut self.inflate,
                        high_water,
                        most,
                    };
                    of_echo::steps(&input[at..], &mut io, rules, by)
                }
                Phase::Rooms => {
                    let step = of_rooms::step(
                        &input[at..],
                        &mut io,
                        &mut client!(parsed + at as u64),
                        &mut self.inflate,
                    );
                    if let Some(window) = before.window
                        && step.is_ok()
                    {
                        let spent =
                            of_rooms::squeeze(&mut io.out, marks.0, &mut self.deflater, window);
                        self.inflate.spend(spent);
                    }
                    step
                }
                Phase::Proxy | Phase::Closing => Ok((0, Took::Ends(CloseReason::Internal))),
            };
            let took = match step {
                Ok((consumed, took)) => {
                    at += consumed;
                    took
                }
                Err(Full) => {
                    io.out.rollback(marks.0);
                    io.message.rollback(marks.1);
                    // With nothing that waits to go out, no room will come.
                    match io.out.is_empty() {
                        true => Took::Ends(CloseReason::Overloaded),
                        false => Took::Waits,
                    }
                }
            };
            match took {
                Took::More => continue,
                Took::Commit => {}
                Took::NeedInput(total) => progress = Progress::NeedInput(total),
                Took::Yields => progress = Progress::Yields,
                Took::Waits => progress = Progress::Waits,
                Took::Opening => progress = Progress::WaitsForOthers,
                Took::Holding => {
                    io.out.rollback(marks.0);
                    io.message.rollback(marks.1);
                    io.meta = io.meta.with(Flag::Opening, true);
                    progress = Progress::WaitsForOthers;
                }
                Took::Asking => {
                    io.out.rollback(marks.0);
                    io.message.rollback(marks.1);
                    fault::point("worker:asking");
                    progress = Progress::WaitsForOthers;
                }
                Took::Unready => {
                    io.out.rollback(marks.0);
                    io.message.rollback(marks.1);
                    if let Some(making) = &mut self.making {
                        making.waiting.insert(slot);
                    }
                    progress = Progress::WaitsForOthers;
                }
                Took::RingFull => {
                    io.out.rollback(marks.0);
                    io.message.rollback(marks.1);
                    self.ring_waiters.push(slot);
                    progress = Progress::WaitsForOthers;
                }
                Took::Ends(reason) => end = Some(reason),
            }
            break;
        }
        // A brain that dies before the end has begun leaves word that it was to begin.
        if let Some(reason) = end {
            io.meta = io.meta.because(reason);
        }
        // What the steps did counts from this commit on, all at once.
        let deadline_moves = io.change(&self.slots, slot, at, before, self.now);
        fault::point("worker:step");
        fault::poison("worker:poison", &input[..at]);
        if self.ring.has_staged() {
            if fault::naive(Naive::Publish) {
                let mut alone = Record::new();
                self.ring.commit_into(&mut alone, RING);
                self.journal.commit(&mut alone);
            }
            fault::point("worker:publish");
        }
        self.ring.commit_into(&mut io.record, RING);
        if let Some(pass) = pass.filter(|_| spent != was_spent) {
            self.passes.change_spent(&mut io.record, pass, spent);
        }
        self.journal.commit(&mut io.record);
        let deadline_moves = deadline_moves || self.slots.pass(slot) != pass;
        if self.ring.committed() {
            self.published = true;
            self.asked = self.ring.head();
        }
        fault::point("worker:commit");
        buffers::settle(io.out, io.message);
        self.passes.settle();
        if deadline_moves {
            self.reschedule(slot);
        }
        match end {
            Some(reason) => {
                self.begin_close(slot, reason);
                Progress::Ends
            }
            None => progress,
        }
    }
}

pub(crate) const SESSION: [Field; 3] = [Field::Session0, Field::Session1, Field::Session2];

/// What the steps of one connection change.
struct Io<'a> {
    out: Staged<'a>,
    message: Staged<'a>,
    record: Record,
    words: [u64; 3],
    meta: Meta,
}

impl Io<'_> {
    /// Puts all changes into the record. `true`: the deadline is another now.
    fn change(&mut self, slots: &Slots, slot: u32, parsed: usize, before: Meta, now: u64) -> bool {
        let record = &mut self.record;
        if parsed > 0 {
            let parsed = slots.get(slot, Field::Parsed) + parsed as u64;
            Slots::change(record, slot, Field::Parsed, parsed);
        }
        let words = SESSION.map(|field| slots.get(slot, field));
        let deadline_moves = self.meta.phase != before.phase
            || self.meta.phase == Phase::Http
                && (self.meta != before || waits_anew(words, self.words, parsed));
        for ((field, old), new) in SESSION.into_iter().zip(words).zip(self.words) {
            if old != new {
                Slots::change(record, slot, field, new);
            }
        }
        if deadline_moves {
            Slots::change(record, slot, Field::Since, now);
        }
        if self.meta != before {
            Slots::change(record, slot, Field::Meta, self.meta.pack());
        }
        buffers::change_output(&self.out, slots, slot, record);
        buffers::change_message(&mut self.message, slots, slot, record);
        deadline_moves
    }
}

/// Of a request: a head that drips in has one deadline, from its first byte; another request another. Who
/// waited for a request and does so again has one that is counted from what it has said last.
fn waits_anew(before: [u64; 3], now: [u64; 3], parsed: usize) -> bool {
    let wait = |words: [u64; 3]| {
        let state = http::State::unpack([words[0], words[1]]);
        state.map(http::State::waiting)
    };
    let (before, now) = (wait(before), wait(now));
    before != now || parsed > 0 && now != Some(http::Wait::Idle)
}

/// What one step took.
enum Took {
    More,
    /// It changed what a further step reads: commit first.
    Commit,
    NeedInput(usize),
    Yields,
    Waits,
    Opening,
    Holding,
    RingFull,
    Unready,
    Asking,
    Ends(CloseReason),
}

type Stepped = Result<(usize, Took), Full>;

/// What a step has taken that is no message.
fn took(next: websocket::Next, meta: Meta) -> Took {
    match next {
        websocket::Next::NeedInput { total } => Took::NeedInput(total),
        websocket::Next::Again => Took::More,
        websocket::Next::Close(reason) => Took::Ends(reason),
        websocket::Next::Closed => Took::Ends(meta.reason.unwrap_or(CloseReason::Done)),
        websocket::Next::Message(_) | websocket::Next::Compressed(_) => {
            Took::Ends(CloseReason::Internal)
        }
    }
}
