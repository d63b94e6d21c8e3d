//! What the workers say: their channels are read, and each word is passed to whom it concerns.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protocol::channel::{Channel, Received};
use protocol::fault;
use protocol::guard;
use protocol::ids::Cid;
use protocol::message::{Parted, ToMaster, VERSION};
use protocol::settings::Settings;

use super::{Brain, Origin};
use crate::figures::What;
use crate::poison::{self, DEATHS, InHand};
use crate::state::Head;
use crate::supervise::Event;

/// Messages of one worker in one turn; then it is the next one's turn.
const TURN: usize = 256;

impl Brain<'_> {
    /// Reads what a worker says, and says what waits for it.
    pub(super) fn on_channel(&mut self, ring: u16) {
        // It may be about what the ring says has come before.
        self.sequence_up_to_now(ring);
        for _ in 0..TURN {
            self.say_words(ring);
            let Some(link) = self.links.get_mut(&ring) else {
                return;
            };
            match look_ahead(&mut link.channel) {
                Ahead::Give(connections) => {
                    self.on_giving(ring, &connections);
                    fault::point("master:giving");
                }
                Ahead::Word(message) => {
                    self.heed(ring, message);
                    fault::point("master:heard");
                    if let Some(link) = self.links.get_mut(&ring) {
                        let _ = link.channel.receive::<ToMaster>();
                    }
                    continue;
                }
                Ahead::Nothing => return,
                Ahead::Other => {}
            }
            let Some(link) = self.links.get_mut(&ring) else {
                return;
            };
            match link.channel.receive::<ToMaster>() {
                Ok(Received::Message { message, fds }) => {
                    fault::point("master:receive");
                    self.on_message(ring, message, fds);
                }
                Ok(Received::Empty) => return,
                Ok(Received::Closed) => {
                    self.on_closed_channel(ring);
                    return;
                }
                Err(error) => {
                    log::error!("{}: {error}", self.name(ring));
                    self.supervise(Event::Hostile { ring });
                    return;
                }
            }
        }
        self.busy = true;
        self.again.push(ring);
    }

    /// What a worker has said, unless it has killed one brain after another.
    fn heed(&mut self, ring: u16, message: ToMaster) {
        let mark = mark(&message);
        let place = InHand::Word { ring, mark };
        if self.verdict.convicts(place) {
            let what: String = format!("{message:?}").chars().take(256).collect();
            log::error!(
                "{}: what it said has killed {DEATHS} brains: dropped: {what}",
                self.name(ring)
            );
            return;
        }
        poison::take_in_hand(self.state, place);
        fault::poison("master:poison-word", &mark.to_le_bytes());
        self.on_message(ring, message, Vec::new());
    }

    fn on_message(&mut self, ring: u16, message: ToMaster, fds: Vec<OwnedFd>) {
        match message {
            ToMaster::Hello {
                guard_pid,
                brain_pid,
                life,
                version,
                evacuates,
            } => {
                if is_neighbour(version) {
                    self.on_hello(ring, guard_pid, brain_pid, life, evacuates);
                } else {
                    self.on_stranger(ring, version);
                }
            }
            ToMaster::Ready => self.supervise(Event::Ready { ring }),
            ToMaster::Refuse { cids } => self.on_refuse(ring, &cids),
            ToMaster::Give { connections } => self.on_give(ring, connections, fds),
            ToMaster::Retired => log::debug!("{}: retired", self.name(ring)),
        }
    }

    /// It may be a program of a version that is too old or too new for us.
    fn on_stranger(&mut self, ring: u16, version: u32) {
        let fault = format!("it speaks version {version} of the channel, the master {VERSION}");
        log::error!("{}: {fault}", self.name(ring));
        if let Some(link) = self.links.get_mut(&ring) {
            link.fault = Some(fault);
        }
        self.supervise(Event::Hostile { ring });
    }

    fn on_hello(&mut self, ring: u16, guard: i32, brain: i32, life: u32, evacuates: bool) {
        let settings = self.settings(ring);
        let Some(link) = self.links.get_mut(&ring) else {
            return;
        };
        let (seat, number) = (link.seat.0.to_string(), ring.to_string());
        // Pids are what we kill: they are believed as far as they can be checked. A new guard is
        // the brain that we knew, under its pid; or, if that has died before we read what it said,
        // one that runs with this ring's arguments, as no process does that is not its own.
        let is_known = guard == link.guard_pid
            || guard == link.brain_pid
            || arguments(guard).is_some_and(|is| is.starts_with(&[seat, number]));
        if !is_known || guard::parent(brain) != Some(guard) {
            // Said by one that has died since, mostly: the one after it speaks for itself.
            log::warn!(
                "{}: says that {brain} is its brain, and {guard} its guard",
                self.name(ring)
            );
            return;
        }
        link.brain_pid = brain;
        if guard != link.guard_pid {
            let old = link.pidfd.as_ref().map(AsRawFd::as_raw_fd);
            if let Err(error) = link.set_guard(guard, self.state) {
                log::warn!("{ring}: cannot watch guard {guard}: {error}");
            }
            let new = link.pidfd.as_ref().map(AsRawFd::as_raw_fd);
            old.into_iter().for_each(|fd| self.unwatch(fd));
            let watched = new.map_or(Ok(()), |fd| self.watch(fd, Origin::Guard(ring)));
            if let Err(error) = watched {
                log::warn!("{}: cannot watch guard {guard}: {error}", self.name(ring));
            }
        }
        let Some(link) = self.links.get_mut(&ring) else {
            return;
        };
        // What it had given away this one gives once more; what it was asked for else this one may
        // not have seen.
        self.moves.restarted(ring);
        link.welcome(settings);
        let seat = link.seat;
        let lives = Head::lives(seat.0);
        self.state.set(lives, self.state.get(lives) + 1);
        let name = self.name(ring);
        log::info!("{name}: brain {brain} of guard {guard} says hello (its {life}.)");
        if life > 1 {
            self.happens(What::Recovery, Some(seat));
        }
        if evacuates {
            log::error!(
                "{name}: its brains died, one after the other: its connections go elsewhere"
            );
            self.supervise(Event::Evacuates { ring });
        } else {
            self.supervise(Event::Hello { ring });
        }
        self.repeat(ring);
    }

    /// What a worker is told of the configuration that serves, or, if it is new, is about to.
    fn settings(&self, ring: u16) -> Settings {
        let is_new = self.links.get(&ring).is_some_and(|link| link.is_new);
        let next = self.preparation.next.as_ref().filter(|_| is_new);
        let config = next.map_or(&self.config, |next| &next.config);
        let mut settings = config.settings.clone();
        // Those that are refused politely come on top.
        settings.max_connections = settings
            .max_connections
            .saturating_add(config.limits.refused);
        // Long before a worker can be given no more.
        settings.unrung = settings.unrung.min(config.limits.window / 8);
        settings
    }
}

/// By which one word of a worker's is known from the next, about.
fn mark(message: &ToMaster) -> u64 {
    let first = |cids: &[Cid]| cids.first().map_or(0, |cid| cid.0);
    let (kind, which) = match message {
        ToMaster::Hello { life, .. } => (1, u64::from(*life)),
        ToMaster::Refuse { cids } => (2, first(cids)),
        _ => (0, 0),
    };
    which | kind << 56
}

/// What comes next on a channel.
enum Ahead {
    /// A message without fds.
    Word(ToMaster),
    /// Connections that are given away.
    Give(Vec<Parted>),
    Nothing,
    Other,
}

/// Looks before a message is received, so that what is given away is never received unnoted: when
/// the first look finds nothing and something comes meanwhile, it looks again. A message without
/// fds is heeded before it is received: should this brain die in between, the next one heeds it
/// once more, which does no harm, where one that was received and not heeded would be lost.
fn look_ahead(channel: &mut Channel) -> Ahead {
    let mut ahead = channel.peek::<ToMaster>();
    if ahead.is_none() {
        let mut ready = [PollFd::new(channel.as_fd(), PollFlags::POLLIN)];
        if !matches!(poll(&mut ready, PollTimeout::ZERO), Ok(1)) {
            return Ahead::Nothing;
        }
        ahead = channel.peek();
    }
    match ahead {
        Some(ToMaster::Give { connections }) => Ahead::Give(connections),
        Some(word) => Ahead::Word(word),
        // One that is none, or the end, behind which nothing comes.
        None => Ahead::Other,
    }
}

/// What a process was started with, behind its program's name.
fn arguments(pid: i32) -> Option<Vec<String>> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let arguments = bytes.split(|byte| *byte == 0).skip(1);
    Some(
        arguments
            .map(|argument| String::from_utf8_lossy(argument).into_owned())
            .collect(),
    )
}

/// Neighbouring versions work together.
fn is_neighbour(version: u32) -> bool {
    version.abs_diff(VERSION) <= 1
}
