//! The worker's brain: one loop, poll → match → call.
//!
//! A turn: what has become readable is read and parsed; then the log is read and what it says is
//! handed to those whom it concerns ([`fan_out`](crate::fan_out)); then everything that waits goes
//! out, one write a connection ([`flush`](crate::flush)); then the deadlines. How it begins is
//! [`birth`](crate::birth)'s.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use protocol::arena::Arena;
use protocol::channel::Channel;
use protocol::fault;
use protocol::guard::{self, Life, Page};
use protocol::history;
use protocol::ids::{Cid, Seat};
use protocol::journal::{Journal, Record};
use protocol::memory::{self, Segment};
use protocol::message::{MAX_BATCH, ToMaster};
use protocol::record::{Cids, Refusal, Up, cid_bytes};
use protocol::roles::{self, WorkerArgs};
use protocol::row::{self, Figure, GAPS};
use protocol::sanctions::Sanctions;
use protocol::settings::Settings;
use protocol::stream::{Reader, Writer};
use rustc_hash::FxHashMap;

use crate::api::look::Unsaid;
use crate::arrive::Arrivals;
use crate::auth::Keys;
use crate::birth::borrowed;
use crate::clock::{self, Clock, HttpDate};
use crate::filter::Filters;
use crate::hook::Hooks;
use crate::inflate::Inflate;
use crate::limits::Addresses;
use crate::lists::Making;
use crate::local::{Local, Mark};
use crate::moderation::{Leaver, Leaves};
use crate::owed::{Credits, Turn};
use crate::part::Parting;
use crate::passes::Passes;
use crate::poison::Verdict;
use crate::rooms::held::Part;
use crate::rooms::{RoomIx, Rooms};
use crate::slots::{Flag, MANY, Slots};
use crate::state::{Head, State};
use crate::timers::Timers;
use crate::websocket::Deflater;
use crate::{logs, recover};

/// The journal's number of the ring.
pub const RING: u8 = 1;

/// The loop turns at least so often: that shows that it lives, and its clock counts turns.
pub(crate) const LONGEST_WAIT_MS: u64 = 1_000;
const _: () = assert!(LONGEST_WAIT_MS < clock::LONGEST_TURN_MS);

/// What the ring says of connections is read when the master is awake anyway, or it is woken so long
/// after.
const RING_WITHIN_MS: u64 = 20;

/// A brain that has lived for so long was not born into a crash loop.
pub const A_WHILE_MS: u64 = 1_000;

const CHANNEL: Token = Token(usize::MAX - 1);
const LOG_BELL: Token = Token(usize::MAX - 2);
const GUARD_BELL: Token = Token(usize::MAX - 3);
const GUARD_DEATH: Token = Token(usize::MAX - 4);

/// The ring, when it was last looked at for memory to be given back.
#[derive(Debug, Default)]
pub(crate) struct RingRested {
    head: u64,
    /// What is before has been given back.
    read: u64,
}

pub struct Brain {
    pub(crate) args: WorkerArgs,
    pub(crate) seat: Seat,
    pub(crate) ring_number: u16,
    pub(crate) life: Life,
    /// When it will have lived for a while.
    pub(crate) settled_at: Option<u64>,
    pub(crate) evacuates: bool,
    pub(crate) rests_at: u64,
    pub(crate) ring_rested: RingRested,
    /// So many slots were in use when the heap was trimmed last.
    pub(crate) trimmed_at: u32,
    pub(crate) verdict: Verdict,
    pub(crate) pid: i32,
    /// What `/whoami` is answered.
    pub(crate) whoami: String,
    pub(crate) state: State,
    pub(crate) journal: Journal,
    pub(crate) slots: Slots,
    pub(crate) arena: Arena,
    pub(crate) rooms: Rooms,
    pub(crate) passes: Passes,
    pub(crate) keys: Keys,
    pub(crate) filters: Filters,
    /// The next ones.
    pub(crate) making: Option<Making>,
    /// Nobody is asked, nearly always.
    pub(crate) hooks: Option<Box<Hooks>>,
    pub(crate) addresses: Addresses,
    pub(crate) ring: Writer,
    pub(crate) ring_segment: Arc<Segment>,
    pub(crate) log: Reader,
    pub(crate) history: history::Reader,
    pub(crate) sanctions: Sanctions,
    /// What of the master's memory a worker reads.
    pub(crate) retained: Arc<Segment>,
    /// Who has come, in this turn, to where it is banned.
    pub(crate) leavers: Vec<Leaver>,
    /// What a connection has to leave, by the record of the log that it was given last.
    pub(crate) met: Option<Leaves>,
    pub(crate) log_segment: Arc<Segment>,
    pub(crate) channel: Channel,
    pub(crate) settings: Settings,
    pub(crate) poll: Poll,
    pub(crate) clock: Clock,
    pub(crate) timers: Timers,
    pub(crate) inflate: Inflate,
    pub(crate) deflater: Deflater,
    pub(crate) locals: Vec<Local>,
    pub(crate) credits: Credits,
    pub(crate) turn: Turn,
    /// Connections to be driven again in the next turn, without an event.
    pub(crate) again: Vec<u32>,
    /// Connections that have begun and are to be watched, if they outlive the turn.
    pub(crate) unwatched: Vec<u32>,
    /// Publishers that found the ring full.
    pub(crate) ring_waiters: Vec<u32>,
    /// So much of the ring has been answered once the log has been read so far.
    pub(crate) answered_by: Option<(u64, u64)>,
    /// Connections that are owed something from the log.
    pub(crate) lagging: Vec<u32>,
    /// Said to the master as soon as the channel takes it.
    pub(crate) acks: Vec<Cid>,
    pub(crate) refused: Vec<Cid>,
    /// Taken, and not to be read before the ack is sent.
    pub(crate) unacked: Vec<u32>,
    pub(crate) highest_cid: Cid,
    pub(crate) arrivals: Arrivals,
    pub(crate) parting: Parting,
    pub(crate) now: u64,
    pub(crate) date: HttpDate,
    /// The place in the ring behind what clients have asked.
    pub(crate) asked: u64,
    /// The ring has something new that the master is to read at once.
    pub(crate) published: bool,
    /// Connections of which the ring says something that can wait, and until when.
    pub(crate) unrung: usize,
    pub(crate) ring_by: Option<u64>,
    pub(crate) page: Page,
    pub(crate) told_at: u64,
    /// The master is to forget what it knows of our rooms, before it is told anew.
    pub(crate) forget_row: bool,
    /// Rooms that are held for one who comes to them in the next turn, and who does not get its room.
    pub(crate) awaiting: Vec<RoomIx>,
    pub(crate) refusals: FxHashMap<Cid, Refusal>,
    /// Connections that wait for what the API answers, with their slots.
    pub(crate) asking: FxHashMap<Cid, u32>,
    /// Told of connections, and not said yet.
    pub(crate) unsaid: Vec<Unsaid>,
    /// Rooms whose position is to be asked for again.
    pub(crate) reopen: Vec<RoomIx>,
    /// Rooms of which those who watch are to be given the list anew.
    pub(crate) relist: Vec<RoomIx>,
    /// The master has forgotten what it knew of our rooms, and is to hear when all is told.
    pub(crate) recounts: bool,
    pub(crate) deliveries: u64,
    pub(crate) messages_in: u64,
    /// By [`Lost`](crate::client::Lost).
    pub(crate) gaps: [u64; GAPS],
    /// A place in the log and when what is behind it was appended ([`row::STAMP`]), until that is
    /// delivered.
    pub(crate) stamp: Option<(u64, u64)>,
    /// When something that is held back is to be given, and rooms of which all was given in this turn.
    pub(crate) release_at: u64,
    pub(crate) released: Vec<RoomIx>,
    /// Memory for [`windows`](crate::windows).
    pub(crate) parts: Vec<Part>,
    /// Hello (of a later brain) and Ready, until they are said.
    pub(crate) to_say: Vec<ToMaster>,
}

impl Brain {
    pub(crate) fn register(&self) -> io::Result<()> {
        let registry = self.poll.registry();
        let channel = self.channel.as_fd().as_raw_fd();
        registry.register(&mut SourceFd(&channel), CHANNEL, Interest::READABLE)?;
        registry.register(
            &mut SourceFd(&roles::LOG_BELL),
            LOG_BELL,
            Interest::READABLE,
        )?;
        registry.register(
            &mut SourceFd(&roles::GUARD_BELL),
            GUARD_BELL,
            Interest::READABLE,
        )?;
        let guard = self.life.guard.as_raw_fd();
        registry.register(&mut SourceFd(&guard), GUARD_DEATH, Interest::READABLE)
    }

    pub(crate) fn live(&mut self) -> ! {
        let mut events = Events::with_capacity(1024);
        loop {
            let timeout = self.timeout();
            if let Err(e) = self.poll.poll(&mut events, Some(timeout))
                && e.kind() != io::ErrorKind::Interrupted
            {
                log::error!("cannot wait for events: {e}");
                logs::flush();
                std::process::abort();
            }
            self.now = self.clock.now_ms(clock::monotonic_ms());
            self.state.set(Head::Skipped, self.clock.skipped_ms());
            self.date.tick(self.now);
            self.page.beat();
            self.figure(Figure::Turns).fetch_add(1, Ordering::Relaxed);
            for event in &events {
                self.on_event(event);
            }
            self.take_filters();
            if !self.evacuates {
                for slot in std::mem::take(&mut self.again) {
                    self.drive(slot);
                }
                self.fan_out();
                self.flush();
                self.has_delivered();
                self.on_time();
                self.tend_hooks();
                self.settle_down();
            }
            // A brain that dies from here on, or while it waits, dies of nothing that it has in hand.
            self.state.set(Head::InHand, 0);
            self.give_away();
            self.tell_master();
            self.watch();
            self.watch_channel();
            if self.retired() {
                log::info!("retired with {} connections left", self.slots.live());
                logs::flush();
                guard::exit(0);
            }
        }
    }

    fn watch_channel(&mut self) {
        let Some(awaits_room) = self.channel.awaits_room() else {
            return;
        };
        let interest = match awaits_room {
            true => Interest::READABLE | Interest::WRITABLE,
            false => Interest::READABLE,
        };
        let channel = self.channel.as_fd().as_raw_fd();
        let registry = self.poll.registry();
        if let Err(e) = registry.reregister(&mut SourceFd(&channel), CHANNEL, interest) {
            log::error!("the channel cannot be watched: {e}");
        }
    }

    fn timeout(&self) -> Duration {
        if !self.to_say.is_empty() && !self.channel.is_full() {
            return Duration::ZERO;
        }
        if self.evacuates {
            return Duration::from_millis(LONGEST_WAIT_MS);
        }
        if !self.again.is_empty() || self.log_is_ahead() {
            return Duration::ZERO;
        }
        let mut at = self.now + LONGEST_WAIT_MS;
        if let Some(next) = self.timers.next() {
            at = at.min(next);
        }
        if self.rooms.next_dirty().is_some() {
            at = at.min(self.told_at + crate::tell::EVERY_MS);
        }
        at = at.min(self.release_at);
        if let Some(by) = self.ring_by {
            at = at.min(by);
        }
        if let Some(next) = self.next_of_hooks() {
            at = at.min(next);
        }
        let retire_by = self.state.get(Head::RetireBy);
        if retire_by != 0 {
            at = at.min(retire_by);
        }
        Duration::from_millis(at.saturating_sub(self.now))
    }

    fn on_event(&mut self, event: &Event) {
        match event.token() {
            CHANNEL => {
                if event.is_writable() {
                    self.channel.has_room();
                }
                self.take();
            }
            // The log is looked into in every turn.
            LOG_BELL => {}
            GUARD_BELL => self.on_signals(),
            GUARD_DEATH => self.become_guard(),
            token if self.on_hook_event(token) => {}
            Token(token) => {
                let (slot, generation) = (token as u32, (token >> 32) as u16);
                let Some(local) = self.locals.get_mut(slot as usize) else {
                    return;
                };
                if local.generation == generation {
                    if event.is_readable() || event.is_error() {
                        local.set(Mark::Readable, true);
                    }
                    if event.is_read_closed() || event.is_error() {
                        local.set(Mark::Ended, true);
                    }
                    self.drive(slot);
                }
            }
        }
    }

    /// What the terminal or an operator sends to a worker is not for it: the master decides.
    fn on_signals(&mut self) {
        let mut count = [0; 8];
        let _ = nix::unistd::read(borrowed(roles::GUARD_BELL), &mut count);
        for signal in nix::sys::signal::Signal::iterator() {
            let pending = self.page.pending(signal);
            if pending > 0 {
                self.page.dealt(signal, pending);
                log::info!("ignored {signal}: signals are for the master");
            }
        }
    }

    /// The guard is dead, and so would be every connection if this brain died now: it becomes the
    /// guard of the next brain.
    fn become_guard(&mut self) {
        log::warn!("the guard is gone: becoming the guard");
        logs::flush();
        // What the turn has done so far is noted.
        self.nothing_in_hand();
        let e = recover::become_guard(self);
        log::error!("cannot become the guard: {e}");
    }

    /// How far the master has read our ring.
    #[must_use]
    pub fn ring_read(&self) -> u64 {
        self.log_segment
            .word(row::read_index(self.ring_number))
            .load(Ordering::Acquire)
    }

    /// From here on our ring is not to be overwritten: answers to it are still to be read.
    #[must_use]
    pub fn ring_kept(&self) -> u64 {
        match self.evacuates {
            // It reads no log.
            true => self.ring_read(),
            false => self.state.get(Head::Answered),
        }
    }

    pub fn local(&mut self, slot: u32) -> &mut Local {
        let slot = slot as usize;
        if slot >= self.locals.len() {
            self.locals.resize(slot + 1, Local::default());
        }
        &mut self.locals[slot]
    }

    /// The slot is another connection's from now on, or nobody's.
    pub fn begin_anew(&mut self, slot: u32, readable: bool) {
        let local = self.local(slot);
        *local = local.next();
        local.set(Mark::Readable, readable);
        self.credits.clear(slot);
        self.inflate.forget(slot);
        if let Some(making) = &mut self.making {
            making.waiting.remove(&slot);
        }
    }

    /// To be flushed at the end of this turn.
    pub fn touch(&mut self, slot: u32) {
        if !self.local(slot).set(Mark::Touched, true) {
            self.turn.touched.push(slot);
        }
    }

    pub fn token(&self, slot: u32) -> Token {
        Token(slot as usize | (self.locals[slot as usize].generation as usize) << 32)
    }

    fn on_time(&mut self) {
        while let Some(slot) = self.timers.pop(self.now) {
            self.on_deadline(slot);
        }
    }

    /// Everything that the master is to know, as far as the channel takes it now.
    fn tell_master(&mut self) {
        self.send_acks();
        while let Some(message) = self.to_say.first().cloned() {
            if !self.say(&message) {
                break;
            }
            self.to_say.remove(0);
        }
        while !self.slots.untold().is_empty() {
            let untold = self.slots.untold().iter().take(MAX_BATCH);
            let cids: Vec<_> = untold.map(|(cid, _)| cid_bytes(*cid)).collect();
            if !self.say_in_ring(
                Up::Closed {
                    cids: Cids::new(&cids),
                },
                cids.len(),
            ) {
                break;
            }
            fault::point("worker:closed");
            self.slots.told(cids.len());
        }
        self.ring_the_bell();
        self.show_figures();
    }

    /// Says something of so many connections, which can wait a moment. `false`: the ring is full.
    pub(crate) fn say_in_ring(&mut self, up: Up<'_>, connections: usize) -> bool {
        let mut bytes = Vec::new();
        up.encode(&mut bytes);
        if !self.ring.stage(self.ring_kept(), &bytes) {
            return false;
        }
        let mut record = Record::new();
        self.ring.commit_into(&mut record, RING);
        self.journal.commit(&mut record);
        if self.ring.committed() {
            self.unrung += connections;
            self.ring_by.get_or_insert(self.now + RING_WITHIN_MS);
        }
        true
    }

    /// The master looks into the ring whenever it is awake; it is woken for what clients have
    /// asked, and for the rest now and then.
    fn ring_the_bell(&mut self) {
        let ends = self.is_retiring();
        let is_time = self.ring_by.is_some_and(|by| by <= self.now || ends);
        if self.published || is_time || self.unrung > self.settings.unrung as usize {
            (self.published, self.unrung, self.ring_by) = (false, 0, None);
            let _ = nix::unistd::write(borrowed(roles::RING_BELL), &1u64.to_ne_bytes());
        }
    }

    /// `false`: the channel is full, or the master is gone (which its end will tell).
    pub fn say(&self, message: &ToMaster) -> bool {
        match self.channel.send(message, &[]) {
            Ok(sent) => sent,
            Err(e) => {
                log::debug!("cannot tell the master: {e}");
                false
            }
        }
    }

    /// Too many brains before this one died soon: it is not to serve, but to give everything away.
    #[must_use]
    pub fn evacuates(&self) -> bool {
        self.evacuates
    }

    /// A brain that has lived for a while ends a row of short lives, and what is not used is let
    /// go.
    fn settle_down(&mut self) {
        if self.settled_at.is_some_and(|at| self.now >= at) {
            self.settled_at = None;
            self.state.set(Head::ShortLives, 0);
        }
        if self.now >= self.rests_at {
            self.rests_at = self.now + LONGEST_WAIT_MS;
            self.rest();
        }
    }

    /// What has not been used for a while goes.
    fn rest(&mut self) {
        if self.slots.rest() {
            let used = self.slots.used();
            self.locals.truncate(used as usize);
            self.locals.shrink_to_fit();
            self.credits.rest(used);
            // One that came out would be looked up, in memory that has just been given back.
            self.timers.rest(used);
        }
        let used = self.slots.used();
        if used.abs_diff(self.trimmed_at) >= MANY {
            self.trimmed_at = used;
            memory::trim_heap();
        }
        self.arena.rest();
        let (head, read) = (self.ring.head(), self.ring_kept());
        if head == self.ring_rested.head && read > self.ring_rested.read {
            self.ring.give_back(self.ring_rested.read, read);
            // Of the page that the rest of is still to be read nothing has gone.
            self.ring_rested.read = read - read % memory::PAGE as u64;
        }
        self.ring_rested.head = head;
    }

    #[must_use]
    pub fn is_retiring(&self) -> bool {
        self.state.get(Head::RetireBy) != 0
    }

    fn retired(&self) -> bool {
        let by = self.state.get(Head::RetireBy);
        if by == 0 {
            return false;
        }
        let nothing_left = self.slots.live() == 0 && self.slots.untold().is_empty();
        if nothing_left || self.evacuates {
            self.say(&ToMaster::Retired);
            return true;
        }
        self.now >= by
    }

    /// Says goodbye to every connection, and ends when they are gone.
    pub fn retire(&mut self, within_ms: u64) {
        log::info!(
            "retiring {} connections within {within_ms} ms",
            self.slots.live()
        );
        self.state.set(Head::RetireBy, self.now + within_ms.max(1));
        for slot in 0..self.slots.used() {
            if let Some(meta) = self.slots.meta(slot)
                && !meta.has(Flag::Leaving)
                && !meta.has(Flag::Given)
            {
                self.say_goodbye(slot);
            }
        }
    }
}
