//! The worker's brain: one loop, poll → match → call.
//!
//! A turn: what has become readable is read and parsed; then the log is read and what it says is
//! handed to those whom it concerns ([`fan_out`](crate::fan_out)); then everything that waits goes
//! out, one write a connection ([`owed`](crate::owed)); then the deadlines.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use protocol::arena::Arena;
use protocol::channel::{Channel, Received};
use protocol::guard::{self, Life, Page};
use protocol::ids::{Cid, Seat};
use protocol::journal::Journal;
use protocol::memory::{Access, Segment};
use protocol::message::{self, ToMaster, ToWorker};
use protocol::roles::{self, WorkerArgs};
use protocol::row::{self, Figure};
use protocol::settings::Settings;
use protocol::stream::{Reader, Writer};

use crate::clock::{self, Clock, HttpDate};
use crate::owed::Turn;
use crate::rooms::{RoomIx, Rooms};
use crate::slots::{Flag, Slots};
use crate::state::{self, Head, MAX_ARENA, State};
use crate::timers::Timers;
use crate::{logs, recover};

/// The journal's number of the ring.
pub const RING: u8 = 1;

/// The loop turns at least so often: that shows that it lives, and its clock counts turns.
const LONGEST_WAIT_MS: u64 = 1_000;
const _: () = assert!(LONGEST_WAIT_MS < clock::LONGEST_TURN_MS);

const CHANNEL: Token = Token(usize::MAX - 1);
const LOG_BELL: Token = Token(usize::MAX - 2);
const GUARD_BELL: Token = Token(usize::MAX - 3);
const GUARD_DEATH: Token = Token(usize::MAX - 4);

/// What a connection is to this brain alone; the slot is what counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Local {
    /// Of the slot's present user, so that an event for the one before is known.
    pub generation: u32,
    /// It is in the list of those to be flushed in this turn.
    pub touched: bool,
    /// Its kernel side may have more to read than was read.
    pub readable: bool,
    /// Its input waits for its output to go.
    pub waits: bool,
    /// As the slot's flag.
    pub lagging: bool,
    /// Its end was announced with the last event: read on to it.
    pub ended: bool,
    /// Bytes that must be unread together for its parser to go on.
    pub want: u32,
    /// First and last of what it is owed in this turn, in [`Turn`]; 0: none.
    pub first: u32,
    pub last: u32,
    /// Bytes of messages that wait for it in the log, about.
    pub owed: u32,
}

pub struct Brain {
    pub args: WorkerArgs,
    pub seat: Seat,
    pub ring_number: u16,
    pub life: Life,
    pub pid: i32,
    pub state: State,
    pub journal: Journal,
    pub slots: Slots,
    pub arena: Arena,
    pub rooms: Rooms,
    pub ring: Writer,
    pub ring_segment: Arc<Segment>,
    pub log: Reader,
    pub log_segment: Arc<Segment>,
    pub channel: Channel,
    pub settings: Settings,
    pub poll: Poll,
    clock: Clock,
    pub timers: Timers,
    pub locals: Vec<Local>,
    pub turn: Turn,
    /// Connections to be driven again in the next turn, without an event.
    pub again: Vec<u32>,
    /// Publishers that found the ring full.
    pub ring_waiters: Vec<u32>,
    /// Connections that are owed something from the log.
    pub lagging: Vec<u32>,
    /// Said to the master as soon as the channel takes it.
    pub acks: Vec<Cid>,
    pub refused: Vec<Cid>,
    /// Taken, and not to be read before the ack is sent.
    pub unacked: Vec<u32>,
    pub highest_cid: Cid,
    pub now: u64,
    pub date: HttpDate,
    pub published: bool,
    pub page: Page,
    pub members_told_at: u64,
    /// The master is to forget what it knows of our rooms, before it is told anew.
    pub forget_row: bool,
    /// Rooms whose position is to be asked for again.
    pub reopen: Vec<RoomIx>,
    pub deliveries: u64,
    pub messages_in: u64,
    pub gaps: u64,
    /// Hello (of a later brain) and Ready, until they are said.
    pub to_say: Vec<ToMaster>,
}

/// What a brain inherits from its guard.
pub struct Birth {
    pub args: WorkerArgs,
    pub state: State,
    pub page: Page,
}

/// Runs in the guard's child and never returns.
pub fn run(birth: &Birth, life: Life) -> ! {
    match Brain::start(birth, life) {
        Ok(mut brain) => brain.live(),
        Err(e) => {
            log::error!("cannot start: {e}");
            logs::flush();
            guard::exit(1)
        }
    }
}

impl Brain {
    fn start(birth: &Birth, life: Life) -> io::Result<Brain> {
        let state = birth.state.clone();
        logs::start(&birth.args, &state)?;
        let ring_segment = Arc::new(Segment::map(owned(roles::RING), Access::ReadWrite)?);
        let log_segment = Arc::new(Segment::map(owned(roles::LOG), Access::Read)?);
        let journal = Journal::new(
            state::JOURNAL,
            vec![state.segment().clone(), ring_segment.clone()],
        );
        journal.recover().map_err(io::Error::other)?;
        if life.number == 1 {
            state.set(Head::LogRead, Reader::new(log_segment.clone()).head());
        }
        let mut channel = Channel::from(owned(roles::CHANNEL));
        let settings = settings(&mut channel, life, birth.args.seat, &state)?;
        let slots = Slots::new(state.clone());
        let rooms = Rooms::new(state.clone(), &slots);
        let arena_len = settings.memory.min(MAX_ARENA) as usize;
        let poll = Poll::new()?;
        let mut clock = Clock::new(clock::monotonic_ms(), state.get(Head::Skipped));
        let now = clock.now_ms(clock::monotonic_ms());
        let mut brain = Brain {
            args: birth.args.clone(),
            seat: birth.args.seat,
            ring_number: birth.args.ring,
            pid: std::process::id() as i32,
            arena: Arena::new(state.segment().clone(), state::ARENA, arena_len),
            ring: Writer::new(ring_segment.clone()),
            log: Reader::new(log_segment.clone()),
            locals: vec![Local::default(); slots.used() as usize],
            now,
            clock,
            timers: Timers::new(now),
            page: birth.page,
            life,
            state,
            journal,
            slots,
            rooms,
            ring_segment,
            log_segment,
            channel,
            settings,
            poll,
            turn: Turn::default(),
            again: Vec::new(),
            ring_waiters: Vec::new(),
            lagging: Vec::new(),
            acks: Vec::new(),
            refused: Vec::new(),
            unacked: Vec::new(),
            highest_cid: Cid(0),
            date: HttpDate::new(now),
            published: false,
            members_told_at: 0,
            forget_row: false,
            reopen: Vec::new(),
            deliveries: 0,
            messages_in: 0,
            gaps: 0,
            to_say: Vec::new(),
        };
        brain.deliveries = brain.figure(Figure::Deliveries).load(Ordering::Relaxed);
        brain.messages_in = brain.figure(Figure::MessagesIn).load(Ordering::Relaxed);
        brain.gaps = brain.figure(Figure::Gaps).load(Ordering::Relaxed);
        if life.number > 1 {
            brain.to_say.push(hello(life));
        }
        brain.to_say.push(ToMaster::Ready);
        brain.register()?;
        recover::recover(&mut brain);
        Ok(brain)
    }

    fn register(&self) -> io::Result<()> {
        let registry = self.poll.registry();
        let channel = self.channel.as_fd().as_raw_fd();
        registry.register(
            &mut SourceFd(&channel),
            CHANNEL,
            Interest::READABLE | Interest::WRITABLE,
        )?;
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

    fn live(&mut self) -> ! {
        let mut events = Events::with_capacity(1024);
        loop {
            // A brain that dies while it waits dies of nothing that it has in hand.
            self.state.set(Head::InHand, 0);
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
            for slot in std::mem::take(&mut self.again) {
                self.drive(slot);
            }
            self.fan_out();
            self.flush();
            self.on_time();
            self.tell_master();
            if self.retired() {
                log::info!("retired: no connection is left");
                logs::flush();
                guard::exit(0);
            }
        }
    }

    fn timeout(&self) -> Duration {
        if !self.again.is_empty() || self.log_is_ahead() {
            return Duration::ZERO;
        }
        let mut at = self.now + LONGEST_WAIT_MS;
        if let Some(next) = self.timers.next() {
            at = at.min(next);
        }
        if self.rooms.next_dirty().is_some() {
            at = at.min(self.members_told_at + crate::fan_out::MEMBERS_EVERY_MS);
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
                if event.is_readable() {
                    self.take();
                }
            }
            // The log is looked into in every turn.
            LOG_BELL => {}
            GUARD_BELL => self.on_signals(),
            GUARD_DEATH => self.become_guard(),
            Token(token) => {
                let (slot, generation) = (token as u32, (token >> 32) as u32);
                let Some(local) = self.locals.get_mut(slot as usize) else {
                    return;
                };
                if local.generation == generation {
                    local.readable |= event.is_readable() || event.is_error();
                    local.ended |= event.is_read_closed() || event.is_error();
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
        let e = recover::become_guard(self);
        log::error!("cannot become the guard: {e}");
    }

    #[must_use]
    pub fn figure(&self, figure: Figure) -> &std::sync::atomic::AtomicU64 {
        self.ring_segment.word(figure.word())
    }

    /// How far the master has read our ring: what is before may be overwritten.
    #[must_use]
    pub fn ring_read(&self) -> u64 {
        self.log_segment
            .word(row::read_index(self.ring_number))
            .load(Ordering::Acquire)
    }

    pub fn local(&mut self, slot: u32) -> &mut Local {
        let slot = slot as usize;
        if slot >= self.locals.len() {
            self.locals.resize(slot + 1, Local::default());
        }
        &mut self.locals[slot]
    }

    /// To be flushed at the end of this turn.
    pub fn touch(&mut self, slot: u32) {
        if !std::mem::replace(&mut self.local(slot).touched, true) {
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
        if std::mem::take(&mut self.published) {
            let _ = nix::unistd::write(borrowed(roles::RING_BELL), &1u64.to_ne_bytes());
        }
        self.send_acks();
        while let Some(message) = self.to_say.first().cloned() {
            if !self.say(&message) {
                break;
            }
            self.to_say.remove(0);
        }
        while !self.slots.untold().is_empty() {
            let cids: Vec<Cid> = self
                .slots
                .untold()
                .iter()
                .take(1000)
                .map(|(cid, _)| *cid)
                .collect();
            let count = cids.len();
            if !self.say(&ToMaster::Closed { cids }) {
                break;
            }
            self.slots.told(count);
        }
        self.figure(Figure::Connections)
            .store(self.slots.live().into(), Ordering::Relaxed);
        self.figure(Figure::Rooms)
            .store(self.rooms.held().into(), Ordering::Relaxed);
        self.figure(Figure::Deliveries)
            .store(self.deliveries, Ordering::Relaxed);
        self.figure(Figure::MessagesIn)
            .store(self.messages_in, Ordering::Relaxed);
        self.figure(Figure::Gaps)
            .store(self.gaps, Ordering::Relaxed);
        self.figure(Figure::LogRead)
            .store(self.state.get(Head::LogRead), Ordering::Relaxed);
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

    #[must_use]
    pub fn is_retiring(&self) -> bool {
        self.state.get(Head::RetireBy) != 0
    }

    fn retired(&self) -> bool {
        let by = self.state.get(Head::RetireBy);
        if by == 0 {
            return false;
        }
        if self.slots.live() == 0 && self.slots.untold().is_empty() {
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
            {
                self.say_goodbye(slot);
            }
        }
    }
}

/// A fd that this process was born with, or made at a fixed number; it stays open for good.
pub fn borrowed(fd: i32) -> BorrowedFd<'static> {
    // SAFETY: the numbers of `roles` are open from the guard's start to the process's end.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// The same, as its owner: for what lives as long as the brain, which never drops it.
pub fn owned(fd: i32) -> OwnedFd {
    // SAFETY: as above; a brain ends without dropping anything.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// The first brain asks the master for the settings, and can do nothing before it has them. Later
/// ones find them in the state, and go on even while the master is away.
fn settings(channel: &mut Channel, life: Life, seat: Seat, state: &State) -> io::Result<Settings> {
    if let Some(settings) = state.settings() {
        return Ok(settings);
    }
    wait_for(channel, PollFlags::POLLOUT)?;
    channel.send(&hello(life), &[])?;
    loop {
        match channel.receive::<ToWorker>().map_err(io::Error::other)? {
            Received::Message {
                message:
                    ToWorker::Welcome {
                        settings, worker, ..
                    },
                ..
            } => {
                if worker != seat {
                    return Err(io::Error::other(format!(
                        "welcomed as {worker}, not {seat}"
                    )));
                }
                state.set_settings(&settings)?;
                return Ok(*settings);
            }
            Received::Message { message, .. } => {
                return Err(io::Error::other(format!("{message:?} before the welcome")));
            }
            Received::Closed => return Err(io::Error::other("the master is gone")),
            Received::Empty => wait_for(channel, PollFlags::POLLIN)?,
        }
    }
}

fn hello(life: Life) -> ToMaster {
    ToMaster::Hello {
        version: message::VERSION,
        guard_pid: life.guard_pid,
        brain_pid: std::process::id() as i32,
        life: life.number as u32,
    }
}

fn wait_for(channel: &Channel, what: PollFlags) -> io::Result<()> {
    let mut fds = [PollFd::new(channel.as_fd(), what)];
    match nix::poll::poll(&mut fds, PollTimeout::NONE) {
        Ok(_) | Err(nix::Error::EINTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
