//! The master's brain: one loop, poll → match → call. How it begins, and its guard before it, is
//! [`birth`]. What the calls do is next to it: [`accept`], [`give`] and [`moving`] (connections),
//! [`crew`] and [`hear`] (workers: their processes, and what they say), [`operate`] (signals and
//! commands), [`status`] (what these are told of workers), [`api`] (what is asked over HTTP), [`feed`]
//! (what operators see), [`prepare`] (what a reload reads), [`sweep`] (what the last brain left),
//! [`inherit`] (a brain whose guard is dead becomes the guard) and [`upgrade`] (another program takes
//! over).

mod accept;
mod api;
mod birth;
mod crew;
mod feed;
mod give;
mod hear;
mod inherit;
mod moving;
mod operate;
mod prepare;
mod status;
mod sweep;
mod upgrade;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use protocol::clock::{monotonic_ms, monotonic_us, unix_ms};
use protocol::guard::{self, Life, Page};
use protocol::ids::{Cid, Seat};
use protocol::logging::Logging;
use protocol::random::Random;

use self::birth::Context;
use crate::config::{Config, Source};
use crate::connections::Connections;
use crate::control::server::Server;
use crate::kept::Keeper;
use crate::link::Link;
use crate::moves::Moves;
use crate::pasts::Pasts;
use crate::poison::{self, Verdict};
use crate::reload::Orders;
use crate::ring_set::RingSet;
use crate::sequencer::Sequencer;
use crate::state::{State, read_index};
use crate::supervise::Supervisor;

pub use birth::run;
pub use inherit::{look, run_again};

/// Ticks: the workers' loops are looked at.
const TICK: u64 = 1_000;
/// Microseconds after which a connection is no sample any more: it was not acknowledged.
const SAMPLE: u64 = 10_000_000;
/// Changes of presence are drawn together for so long.
const PRESENCE: u64 = 100;

/// Where an event comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Doorbell,
    /// Our own guard.
    OwnGuard,
    Control,
    Waker,
    Listener(usize),
    Channel(u16),
    Ring(u16),
    Guard(u16),
    Client(usize),
}

impl Origin {
    fn token(self) -> Token {
        let (kind, index) = match self {
            Origin::Doorbell => (0, 0),
            Origin::Control => (1, 0),
            Origin::Waker => (2, 0),
            Origin::OwnGuard => (8, 0),
            Origin::Listener(index) => (3, index),
            Origin::Channel(ring) => (4, usize::from(ring)),
            Origin::Ring(ring) => (5, usize::from(ring)),
            Origin::Guard(ring) => (6, usize::from(ring)),
            Origin::Client(index) => (7, index),
        };
        Token(kind << 32 | index)
    }

    fn of(Token(token): Token) -> Origin {
        let index = token & 0xffff_ffff;
        match token >> 32 {
            0 => Origin::Doorbell,
            1 => Origin::Control,
            2 => Origin::Waker,
            3 => Origin::Listener(index),
            4 => Origin::Channel(index as u16),
            5 => Origin::Ring(index as u16),
            6 => Origin::Guard(index as u16),
            8 => Origin::OwnGuard,
            _ => Origin::Client(index),
        }
    }
}

struct Brain<'a> {
    context: &'a Context,
    state: &'a State,
    page: Page,
    life: Life,
    logging: Logging,
    poll: Poll,
    waker: Arc<Waker>,
    born: Instant,
    /// Milliseconds since this brain began; never goes back.
    now: u64,
    config: Config,
    source: Source,
    supervisor: Supervisor,
    orders: Orders,
    links: BTreeMap<u16, Link>,
    sequencer: Sequencer,
    verdict: Verdict,
    connections: Connections,
    moves: Moves,
    pasts: Pasts,
    gate: accept::Gate,
    server: Server,
    callers: operate::Callers,
    preparation: prepare::Preparation,
    upgrades: upgrade::Upgrades,
    keeper: Keeper,
    last_seat: Option<Seat>,
    /// Which of two workers to look at.
    random: Random,
    feed: feed::Feed,
    /// A connection whose hand-off is measured, and when it was accepted (in microseconds).
    sample: Option<(Cid, u64)>,
    /// Channels that were not read to their end.
    again: Vec<u16>,
    /// Whom the guard has reaped lately.
    reaped: Vec<guard::Reaped>,
    next_tick: u64,
    next_presence: u64,
    /// There is more to do at once.
    busy: bool,
    stopping: Option<operate::Stop>,
    /// Our guard is dead.
    orphaned: bool,
}

impl<'a> Brain<'a> {
    fn register(&self) -> io::Result<()> {
        self.watch(self.context.doorbell.as_raw_fd(), Origin::Doorbell)?;
        self.watch(self.life.guard.as_raw_fd(), Origin::OwnGuard)?;
        self.watch(self.context.control.as_raw_fd(), Origin::Control)?;
        for (index, listener) in self.context.listeners.iter().enumerate() {
            self.watch(listener.fd.as_raw_fd(), Origin::Listener(index))?;
        }
        Ok(())
    }

    fn watch(&self, fd: RawFd, origin: Origin) -> io::Result<()> {
        let interest = match origin {
            Origin::Client(_) => Interest::READABLE | Interest::WRITABLE,
            _ => Interest::READABLE,
        };
        self.poll
            .registry()
            .register(&mut SourceFd(&fd), origin.token(), interest)
    }

    /// Those that are full are watched for room.
    fn watch_channels(&mut self) {
        for (ring, link) in &mut self.links {
            let Some(awaits_room) = link.channel.awaits_room() else {
                continue;
            };
            let interest = match awaits_room {
                true => Interest::READABLE | Interest::WRITABLE,
                false => Interest::READABLE,
            };
            let (fd, token) = (
                link.channel.as_fd().as_raw_fd(),
                Origin::Channel(*ring).token(),
            );
            let registry = self.poll.registry();
            if let Err(error) = registry.reregister(&mut SourceFd(&fd), token, interest) {
                log::error!("{}: cannot watch its channel: {error}", link.seat);
            }
        }
    }

    fn unwatch(&self, fd: RawFd) {
        // It fails for what was never watched, which is as good.
        let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
    }

    fn live(&mut self) -> ! {
        let mut events = Events::with_capacity(1024);
        // A brain that died may have heard the bell and not looked.
        self.on_doorbell();
        loop {
            if let Err(error) = self.poll.poll(&mut events, Some(self.timeout()))
                && error.kind() != io::ErrorKind::Interrupted
            {
                log::error!("cannot wait for events: {error}");
                self.logging.flush(Duration::from_millis(100));
                std::process::abort();
            }
            self.now = self.born.elapsed().as_millis() as u64 + 1;
            self.sequencer.set_now(monotonic_ms());
            self.sequencer.set_unix(unix_ms());
            self.page.beat();
            self.busy = false;
            for event in &events {
                self.on_event(event);
            }
            for ring in std::mem::take(&mut self.again) {
                self.on_channel(ring);
            }
            self.on_time();
            self.sequence();
            self.begin_order();
            self.move_connections();
            self.accept();
            self.assign();
            self.watch_channels();
            poison::rest(self.state);
            self.give_way();
            if self.orphaned {
                self.become_guard();
            }
        }
    }

    fn on_event(&mut self, event: &Event) {
        match Origin::of(event.token()) {
            Origin::Doorbell => self.on_doorbell(),
            Origin::OwnGuard => self.orphaned = true,
            Origin::Control => self.on_control(),
            Origin::Client(index) => self.on_client(index),
            Origin::Waker => {
                self.on_prepared();
                self.on_tried();
            }
            Origin::Listener(index) => self.gate.ready(index),
            Origin::Channel(ring) => {
                if let Some(link) = self.links.get_mut(&ring).filter(|_| event.is_writable()) {
                    link.channel.has_room();
                }
                self.on_channel(ring);
            }
            // The rings are looked into in every turn.
            Origin::Ring(_) => {}
            Origin::Guard(ring) => self.on_guard_death(ring),
        }
    }

    fn timeout(&self) -> Duration {
        if self.busy {
            return Duration::ZERO;
        }
        let mut at = self.next_tick;
        let presence = self.sequencer.presence_has_changed();
        let moves = !self.moves.is_idle() || self.connections.moving_count() > 0;
        for other in [
            moves.then_some(self.now + moving::TURN),
            self.supervisor.due(),
            presence.then_some(self.next_presence),
            self.gate.resumes(),
            self.next_chance(),
            self.stopping.as_ref().and_then(|stop| stop.by),
            self.upgrades.due(),
        ] {
            at = at.min(other.unwrap_or(u64::MAX));
        }
        Duration::from_millis(at.saturating_sub(self.now))
    }

    fn on_time(&mut self) {
        if self.now >= self.next_tick {
            self.next_tick = self.now + TICK;
            self.look_after_workers();
            self.gate.report();
            self.connections.rest(self.state);
            self.feed();
            self.sample.take_if(|(_, at)| monotonic_us() - *at > SAMPLE);
            self.sequencer.expire_sanctions(self.state);
        } else if self.supervisor.due().is_some_and(|due| due <= self.now) {
            self.tick();
        }
        if self.now >= self.next_presence && self.sequencer.presence_has_changed() {
            self.next_presence = self.now + PRESENCE;
            self.busy |= self.sequencer.tell_presence(self.state);
        }
        self.busy |= self.sequencer.expire(self.state);
        let now = self.now;
        if self.upgrades.due().is_some_and(|due| due <= now) {
            self.on_upgrade_due();
        }
        if self.stopping.as_ref().is_some_and(|stop| stop.is_due(now)) {
            self.end();
        }
    }

    /// From the rings to the log, a turn for each that has something.
    fn sequence(&mut self) {
        let new = |link: &&Link| link.ring.head() != self.state.get(read_index(link.number));
        let rings: Vec<u16> = self
            .links
            .values()
            .filter(new)
            .map(|link| link.number)
            .collect();
        for ring in rings {
            self.sequence_one(ring);
        }
        self.keeper.note(self.sequencer.sanctions().generation());
        let news = self.sequencer.take_news();
        // Who gives connections away waits until what they have asked has been read.
        let moves = news != RingSet::NONE && !self.moves.is_idle();
        self.ring_log_bells(if moves { RingSet::ALL } else { news });
    }

    /// Wakes these workers.
    fn ring_log_bells(&self, rings: RingSet) {
        let links = self.links.values();
        for link in links.filter(|link| rings.contains(link.number)) {
            link.ring_log_bell();
        }
    }
}
