//! The steps of one connection, taken on what is unread of it, and committed.
//!
//! Steps are the sessions' ([`http`], [`websocket`], [`requests`]). Several steps of one connection
//! share a record, so that many small messages cost one commit; whatever is not committed is taken
//! again by the next brain.

use std::sync::atomic::Ordering;

use protocol::fault::{self, Naive};
use protocol::journal::Record;
use protocol::output::{Buffer, Full, Output};
use protocol::row;

use crate::brain::{Brain, RING};
use crate::buffers::{self, Mark, Staged};
use crate::close::CloseReason;
use crate::http::{self, Endpoint, Subprotocol};
use crate::inflate::{Echo, Inflate, Owner};
use crate::poison::InHand;
use crate::requests::{self, Client, Flow};
use crate::slots::{Field, Flag, Meta, Phase, Slots};
use crate::state;
use crate::websocket::{self, Deflater, Head, Kind, Rules, Session, Window};

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
                    ring_read: self
                        .log_segment
                        .word(row::read_index(self.ring_number))
                        .load(Ordering::Acquire),
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
        // What killed the last brain is to be alone in its record when it kills again.
        let careful = self.verdict.suspects(InHand::Connection(slot));
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
                        http_step(&input[at..], &mut io, &cx, &mut client!(parsed + at as u64));
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
                    let by = Echoer {
                        owner,
                        now: self.now,
                        inflate: &mut self.inflate,
                        high_water,
                        most,
                    };
                    echo_steps(&input[at..], &mut io, rules, by)
                }
                Phase::Rooms => {
                    let step = frame_step(
                        &input[at..],
                        &mut io,
                        &mut client!(parsed + at as u64),
                        &mut self.inflate,
                    );
                    if let Some(window) = before.window
                        && step.is_ok()
                    {
                        let spent = squeeze(&mut io.out, marks.0, &mut self.deflater, window);
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

fn http_step(
    input: &[u8],
    io: &mut Io<'_>,
    cx: &http::Context<'_>,
    client: &mut Client<'_>,
) -> Stepped {
    let Some(mut state) = http::State::unpack([io.words[0], io.words[1]]) else {
        return Ok((0, Took::Ends(CloseReason::Internal)));
    };
    let step = http::step(&mut state, input, &mut io.message, &mut io.out, cx)?;
    let took = match step.next {
        http::Next::NeedInput => Took::NeedInput(0),
        http::Next::Again => Took::More,
        http::Next::Close(reason) => Took::Ends(reason),
        http::Next::Ask(manner) => {
            let behind = client.offset + step.consumed as u64;
            let body = io.message.bytes();
            let (flow, waiting) = client.ask_api(body, behind, manner, &mut io.out, cx)?;
            match flow {
                Flow::RingFull => return Ok((0, Took::RingFull)),
                Flow::Unready => return Ok((0, Took::Unready)),
                _ => {}
            }
            io.message.clear();
            let took = match flow {
                Flow::Close(reason) => Took::Ends(reason),
                Flow::Opening => {
                    io.meta = io.meta.with(Flag::Opening, true);
                    Took::Opening
                }
                _ if manner.ends() => Took::Ends(CloseReason::Done),
                _ => Took::More,
            };
            io.words = [0, 0, waiting.map_or(0, crate::api::Waiting::pack)];
            return Ok((step.consumed, took));
        }
        http::Next::Upgrade(upgrade) => {
            let mut session = Session::default();
            io.meta.window = upgrade.window;
            let (phase, took) = match upgrade.endpoint {
                Endpoint::Echo => (Phase::Echo, Took::Commit),
                Endpoint::Rooms => {
                    let head = &input[..step.consumed];
                    let batch = http::wants_batches(head);
                    let msgpack = upgrade.subprotocol == Subprotocol::RoomsMsgpack;
                    io.meta = io
                        .meta
                        .with(Flag::Batch, batch)
                        .with(Flag::Msgpack, msgpack);
                    client.meta = io.meta;
                    let flow = client.greet(&mut io.out, &mut io.record, head)?;
                    (Phase::Rooms, flowed(flow, &mut session, io)?)
                }
            };
            // The step is taken again when the ring has room, or a back end has answered.
            if matches!(took, Took::RingFull | Took::Asking) {
                return Ok((0, took));
            }
            io.meta.phase = phase;
            io.words = session.pack();
            return Ok((step.consumed, took));
        }
    };
    let [first, second] = state.pack();
    io.words = [first, second, 0];
    Ok((step.consumed, took))
}

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

/// Whose echo it is, and how much of it at once.
struct Echoer<'a> {
    owner: Owner,
    now: u64,
    inflate: &'a mut Inflate,
    high_water: usize,
    most: usize,
}

/// Some steps: nothing but the session connects them.
fn echo_steps(input: &[u8], io: &mut Io<'_>, rules: Rules, mut by: Echoer<'_>) -> Stepped {
    let Some(mut session) = Session::unpack(io.words) else {
        return Ok((0, Took::Ends(CloseReason::Internal)));
    };
    let rules = rules.deflating(io.meta.window.is_some());
    let (mut at, mut steps) = (0, 0);
    let mut progress = Took::More;
    while steps < by.most {
        let rest = &input[at..];
        let before = session;
        let (message, out) = (&mut io.message, &mut io.out);
        let (left, enough) = (by.most - steps, by.high_water.saturating_sub(out.len()));
        let (step, count) = match websocket::echo_run(&mut session, rest, out, &rules, left, enough)
        {
            Some(run) => (Ok(run.step), run.messages),
            None => {
                let step = websocket::step(&mut session, rest, message, out, &rules);
                (step, 1)
            }
        };
        let taken = step.and_then(|step| match step.next {
            websocket::Next::Compressed(kind) => echo(kind, &mut session, io, &rules, &mut by),
            next => {
                at += step.consumed;
                Ok(took(next, io.meta))
            }
        });
        match taken {
            // The steps before it are taken.
            Err(Full) if steps > 0 => {
                session = before;
                break;
            }
            taken => progress = taken?,
        }
        if matches!(progress, Took::Yields) {
            session = before;
        }
        if !matches!(progress, Took::More) || io.out.len() > by.high_water {
            break;
        }
        steps += count;
    }
    io.words = session.pack();
    Ok((at, progress))
}

/// Echoes the compressed message that is whole. What is good is sent as it came: it was compressed
/// without knowledge of any other, as all that is sent is, and to compress it again would take longer and
/// say the same.
fn echo(
    kind: Kind,
    session: &mut Session,
    io: &mut Io<'_>,
    rules: &Rules,
    by: &mut Echoer<'_>,
) -> Result<Took, Full> {
    let window = io.meta.window.unwrap_or_default();
    let payload = io.message.bytes();
    let most = rules.max_message();
    let echo = (by.inflate).echo(by.owner, by.now, kind, payload, window, most);
    let plain;
    let (head, payload) = match echo {
        Ok(None) => return Ok(Took::Yields),
        Ok(Some(Echo::Same)) => (Head::compressed(kind, payload.len()), payload),
        Ok(Some(Echo::Plain(all))) => {
            plain = all;
            (Head::message(kind, plain.len()), &plain[..])
        }
        Err(reason) => {
            session.close(&mut io.out, reason)?;
            io.message.clear();
            return Ok(Took::Ends(reason));
        }
    };
    let head = head.as_bytes();
    let space = io.out.space(head.len() + payload.len())?;
    let (to_head, to_payload) = space.split_at_mut(head.len());
    to_head.copy_from_slice(head);
    to_payload.copy_from_slice(payload);
    io.message.clear();
    Ok(Took::More)
}

/// What follows of a request for its connection.
fn flowed(flow: Flow, session: &mut Session, io: &mut Io<'_>) -> Result<Took, Full> {
    Ok(match flow {
        Flow::Next => Took::More,
        Flow::Commit => Took::Commit,
        Flow::Opening => {
            io.meta = io.meta.with(Flag::Opening, true);
            Took::Opening
        }
        Flow::Holding => Took::Holding,
        Flow::RingFull => Took::RingFull,
        Flow::Unready => Took::Unready,
        Flow::Asking => Took::Asking,
        Flow::Close(reason) => {
            session.close(&mut io.out, reason)?;
            Took::Ends(reason)
        }
    })
}

fn frame_step(
    input: &[u8],
    io: &mut Io<'_>,
    client: &mut Client<'_>,
    inflate: &mut Inflate,
) -> Stepped {
    let Some(mut session) = Session::unpack(io.words) else {
        return Ok((0, Took::Ends(CloseReason::Internal)));
    };
    let rules = requests::rules(client.settings).deflating(io.meta.window.is_some());
    let step = websocket::step(&mut session, input, &mut io.message, &mut io.out, &rules)?;
    let took = match step.next {
        websocket::Next::Compressed(_) if inflate.is_spent() => return Ok((0, Took::Yields)),
        websocket::Next::Message(kind) | websocket::Next::Compressed(kind) => {
            let message = match step.next {
                _ if kind != io.meta.encoding().kind() => Err(CloseReason::WrongKind),
                websocket::Next::Compressed(_) => {
                    // Its own last byte: what comes behind it is another request.
                    client.offset = client.offset.saturating_sub(1);
                    inflate.message(kind, io.message.bytes(), rules.max_message())
                }
                _ => Ok(io.message.bytes()),
            };
            let flow = match message {
                Ok(message) => client.request(message, &mut io.out, &mut io.record)?,
                Err(reason) => Flow::Close(reason),
            };
            // The step is taken again when the room is held, the ring has room, words are ready or a
            // back end has answered.
            match flow {
                Flow::Holding => return Ok((0, Took::Holding)),
                Flow::RingFull => return Ok((0, Took::RingFull)),
                Flow::Unready => return Ok((0, Took::Unready)),
                Flow::Asking => return Ok((0, Took::Asking)),
                _ => {}
            }
            let took = flowed(flow, &mut session, io)?;
            io.message.clear();
            took
        }
        next => took(next, io.meta),
    };
    io.words = session.pack();
    Ok((step.consumed, took))
}

/// What a step has answered goes out compressed, where that is worth it. Returns how many bytes were
/// looked at.
fn squeeze(out: &mut Staged<'_>, since: Mark, deflater: &mut Deflater, window: Window) -> usize {
    let said = &out.bytes()[since.at()..];
    if !deflater.is_worth(said.len()) {
        return 0;
    }
    let len = said.len();
    let mut frames = Vec::with_capacity(len);
    deflater.put_frames(said, window, &mut frames);
    out.rollback(since);
    // There was room for more.
    let put = out.put(&frames);
    debug_assert!(put.is_ok());
    len
}
