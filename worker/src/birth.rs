//! How a brain comes to be: from what its guard hands it, the fds at their numbers, and what the
//! brain before left in the state.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use mio::Poll;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use protocol::arena::Arena;
use protocol::channel::{Channel, Received};
use protocol::guard::{self, Life, Page};
use protocol::history;
use protocol::ids::{Cid, Seat};
use protocol::journal::Journal;
use protocol::memory::{Access, Segment};
use protocol::message::{self, ToMaster, ToWorker};
use protocol::roles::{self, WorkerArgs};
use protocol::row::GAPS;
use protocol::sanctions::Sanctions;
use protocol::scheduling;
use protocol::settings::Settings;
use protocol::stream::{Reader, Writer};
use rustc_hash::FxHashMap;

use crate::arrive::Arrivals;
use crate::auth::Keys;
use crate::brain::{A_WHILE_MS, Brain, LONGEST_WAIT_MS, RingRested};
use crate::clock::{self, Clock, HttpDate};
use crate::filter::Filters;
use crate::hook::Hooks;
use crate::inflate::Inflate;
use crate::limits::Addresses;
use crate::lists::Making;
use crate::owed::{Credits, Turn};
use crate::part::Parting;
use crate::passes::Passes;
use crate::poison::Verdict;
use crate::rooms::Rooms;
use crate::slots::Slots;
use crate::state::{self, Head, MAX_ARENA, State};
use crate::timers::Timers;
use crate::websocket::deflate::{Deflater, Level};
use crate::{http, logs, recover};

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
        let short_lives = state.get(Head::ShortLives);
        state.set(Head::ShortLives, short_lives + 1);
        logs::start(&birth.args, &state)?;
        let ring_segment = Arc::new(Segment::map(owned(roles::RING), Access::ReadWrite)?);
        let log_segment = Arc::new(Segment::map(owned(roles::LOG), Access::Read)?);
        let journal = Journal::new(
            state::JOURNAL,
            vec![state.segment().clone(), ring_segment.clone()],
        );
        if let Err(e) = journal.recover() {
            // A step that was under way is lost; the slots are checked, each by itself.
            log::error!("{e}: cleared");
            journal.clear();
        }
        if life.number == 1 {
            state.set(Head::LogRead, Reader::new(log_segment.clone()).head());
        }
        let mut channel = Channel::from(owned(roles::CHANNEL));
        let settings = settings(&mut channel, life, birth.args.seat, &state)?;
        birth.page.set_patience(patience_of_guard(&settings));
        if settings.batch
            && let Err(e) = scheduling::batch()
        {
            log::warn!("cannot be scheduled in batches: {e}");
        }
        let slots = Slots::new(state.clone());
        let log = Reader::new(log_segment.clone());
        let retained = Arc::new(Segment::map(owned(roles::HISTORY), Access::Read)?);
        if !history::Blocks::fits(&retained) {
            return Err(io::Error::other("the history is laid out in another way"));
        }
        let passes = Passes::new(state.clone(), &slots);
        let user_of = |slot| passes.user(slots.pass(slot)?);
        let mut rooms = Rooms::new(state.clone(), &slots, &settings.presence, user_of);
        rooms.set_options(&settings.options);
        let arena_len = settings.memory.min(MAX_ARENA) as usize;
        let poll = Poll::new()?;
        let mut clock = Clock::new(clock::monotonic_ms(), state.get(Head::Skipped));
        let now = clock.now_ms(clock::monotonic_ms());
        let evacuates = short_lives >= u64::from(settings.short_lives);
        let pid = std::process::id() as i32;
        let mut brain = Brain {
            args: birth.args.clone(),
            seat: birth.args.seat,
            ring_number: birth.args.ring,
            pid,
            whoami: http::whoami(birth.args.seat, pid),
            arena: Arena::new(state.segment().clone(), state::ARENA, arena_len),
            asked: Writer::new(ring_segment.clone()).head(),
            ring: Writer::new(ring_segment.clone()),
            log,
            locals: Vec::new(),
            credits: Credits::default(),
            sanctions: Sanctions::new(retained.clone(), history::SANCTIONS),
            retained: retained.clone(),
            leavers: Vec::new(),
            met: None,
            history: history::Reader::new(retained.clone()),
            now,
            clock,
            timers: Timers::new(now),
            inflate: Inflate::default(),
            deflater: Deflater::new(Level::of(&settings.websocket)),
            page: birth.page,
            settled_at: (!evacuates).then_some(now + A_WHILE_MS),
            evacuates,
            rests_at: now,
            ring_rested: RingRested::default(),
            trimmed_at: 0,
            verdict: Verdict::default(),
            life,
            state,
            journal,
            slots,
            rooms,
            passes,
            keys: Keys::new(&settings.auth),
            filters: Filters::not_yet(&settings.filters),
            making: (!settings.filters.is_empty())
                .then(|| Making::begin(&settings.filters, &retained)),
            hooks: Hooks::new(&settings, |figure| ring_segment.word(figure.word())),
            addresses: Addresses::default(),
            ring_segment,
            log_segment,
            channel,
            settings,
            poll,
            turn: Turn::default(),
            again: Vec::new(),
            unwatched: Vec::new(),
            ring_waiters: Vec::new(),
            answered_by: None,
            lagging: Vec::new(),
            acks: Vec::new(),
            refused: Vec::new(),
            unacked: Vec::new(),
            highest_cid: Cid(0),
            arrivals: Arrivals::default(),
            parting: Parting::default(),
            date: HttpDate::new(now),
            published: false,
            unrung: 0,
            ring_by: None,
            told_at: 0,
            forget_row: false,
            awaiting: Vec::new(),
            refusals: FxHashMap::default(),
            asking: FxHashMap::default(),
            unsaid: Vec::new(),
            reopen: Vec::new(),
            relist: Vec::new(),
            recounts: false,
            deliveries: 0,
            messages_in: 0,
            gaps: [0; GAPS],
            stamp: None,
            release_at: u64::MAX,
            released: Vec::new(),
            parts: Vec::new(),
            to_say: Vec::new(),
        };
        if !brain.ring.can_be_read_at(brain.ring_read()) {
            // What the clients of this worker have published is not to be had any more.
            return Err(io::Error::other("the ring is corrupt"));
        }
        brain.take_up_figures();
        if life.number > 1 {
            brain.to_say.push(hello(life, evacuates));
        }
        if evacuates {
            log::error!("{short_lives} brains died soon: giving all connections away");
        } else {
            brain.to_say.push(ToMaster::Ready);
        }
        brain.register()?;
        recover::recover(&mut brain);
        Ok(brain)
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

/// So long the guard waits for a sign of its brain. The master, which says more about it, is given
/// time to be the first; but it may be away.
fn patience_of_guard(settings: &Settings) -> Duration {
    Duration::from_millis(settings.hung_ms + 2 * LONGEST_WAIT_MS)
}

/// The first brain asks the master for the settings, and can do nothing before it has them. Later
/// ones find them in the state, and go on even while the master is away.
fn settings(channel: &mut Channel, life: Life, seat: Seat, state: &State) -> io::Result<Settings> {
    if let Some(settings) = state.settings() {
        return Ok(settings);
    }
    wait_for(channel, PollFlags::POLLOUT)?;
    channel.send(&hello(life, false), &[])?;
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

fn hello(life: Life, evacuates: bool) -> ToMaster {
    ToMaster::Hello {
        version: message::VERSION,
        guard_pid: life.guard_pid,
        brain_pid: std::process::id() as i32,
        life: life.number as u32,
        evacuates,
    }
}

fn wait_for(channel: &Channel, what: PollFlags) -> io::Result<()> {
    let mut fds = [PollFd::new(channel.as_fd(), what)];
    match nix::poll::poll(&mut fds, PollTimeout::NONE) {
        Ok(_) | Err(nix::Error::EINTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
