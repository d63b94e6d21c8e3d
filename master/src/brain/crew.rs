//! The workers: what the supervisor wants is done, what happens to them is told to it, and their
//! messages are read.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protocol::channel::{Channel, Received};
use protocol::fault;
use protocol::guard;
use protocol::ids::{Cid, Seat};
use protocol::journal::Record;
use protocol::logging;
use protocol::message::{Parted, ToMaster, VERSION};
use protocol::roles::WorkerArgs;
use protocol::row::Figure;
use protocol::settings::Settings;

use super::{Brain, Origin};
use crate::config::{Config, Format};
use crate::link::Link;
use crate::poison::{self, DEATHS, InHand};
use crate::run_dir::open_log;
use crate::sequencer::Turn;
use crate::spawn::{self, Birth};
use crate::state::{self, Head};
use crate::supervise::{Action, Event, Marks, News, Part, Patience};

/// Messages of one worker in one turn; then it is the next one's turn.
const TURN: usize = 256;
/// A worker whose channel has ended has ended, or is helped.
const ENDING: u64 = 1_000;

pub(super) fn patience(config: &Config) -> Patience {
    Patience {
        ready: config.timeouts.ready_ms,
        hung: config.timeouts.hung_ms,
        moving: config.timeouts.move_ms,
        retire: config.timeouts.retire_ms,
    }
}

/// So long the guard waits for a sign of its brain, which gives one each tick.
pub(super) fn patience_of_guard(config: &Config) -> Duration {
    Duration::from_millis(config.timeouts.hung_ms + 2 * super::TICK)
}

impl Brain<'_> {
    /// Something has happened to a worker.
    pub(super) fn supervise(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.supervisor.on(self.now, event, &mut actions);
        for action in actions {
            self.act(action);
        }
        self.save_rows();
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Spawn { seat, ring, part } => {
                if let Err(error) = self.spawn(seat, ring, part) {
                    // If it runs, it sees its channel end, and ends.
                    Link::forget(ring, self.state);
                    let why = format!("cannot start it: {error}");
                    self.supervise(Event::SpawnFailed { ring, why });
                }
            }
            Action::Retire { ring, within } => {
                if let Some(link) = self.links.get_mut(&ring) {
                    link.retire(within);
                }
            }
            Action::Abort { ring, standstill } => {
                let line = format!("its loop has stood still for {standstill} ms: it is aborted");
                log::error!("{}: {line}", self.name(ring));
                if let Some(link) = self.links.get(&ring) {
                    self.write_last_word(link.seat, &line);
                    link.abort_brain();
                }
            }
            Action::KillBrain { ring } => {
                if let Some(link) = self.links.get(&ring) {
                    link.kill_brain();
                }
            }
            Action::Kill { ring, why } => {
                log::warn!("{}: killed: {why}", self.name(ring));
                if let Some(link) = self.links.get(&ring) {
                    link.kill();
                }
            }
            Action::Tell(news) => self.on_news(&news),
        }
    }

    fn on_news(&mut self, news: &News) {
        match news {
            News::Seated(seat) => log::info!("{seat} is ready"),
            News::ReliefFailed { seat, why } => log::error!("the new {seat} failed: {why}"),
            News::Left(seat) => log::info!("{seat}: the old one has left"),
            News::Stayed { seat, why } => log::error!("{seat} stays: {why}"),
            News::LetGo { seat, why } => {
                log::error!("{seat} sends its clients away, for it can neither go nor stay: {why}");
            }
            News::GivenUp(seat) => log::error!("{seat} is given up until it is ordered again"),
            News::Again {
                seat, delay, why, ..
            } => log::warn!("{seat} ended: {why}; the next starts in {delay} ms"),
            News::AllGone => self.end(),
        }
        let mut steps = Vec::new();
        self.orders.news(news, &mut steps);
        self.take_steps(steps);
    }

    fn spawn(&mut self, seat: Seat, ring: u16, part: Part) -> io::Result<()> {
        let next = self
            .preparation
            .next
            .as_ref()
            .filter(|_| part == Part::Relief);
        let is_new = next.is_some();
        let config = next.map_or(&self.config, |next| &next.config);
        let args = WorkerArgs {
            seat,
            ring,
            user: config.identity.as_ref().map(|i| (i.uid, i.gid)),
            log_filter: config.log.level.to_string(),
            log_json: config.log.format == Format::Json,
        };
        let kept = self.state.head(Head::ProgramFd) as RawFd - 1;
        let program = match next {
            Some(next) => next.program.as_fd(),
            // SAFETY: the state owns it; it is closed only when another takes its place.
            None => unsafe { BorrowedFd::borrow_raw(kept) },
        };
        let log_file = open_log(&self.context.run.worker_log(seat)).map_err(io::Error::other)?;
        let (mut link, channel) = Link::new(seat, ring, config.memory.ring as usize)?;
        let birth = Birth {
            log_file,
            channel: spawn::above_low(channel)?,
            ring: link.ring_fd(),
            log: self.state.log().open_read_only()?,
            ring_bell: link.bell.as_fd(),
            log_bell: self.context.log_bell.as_fd(),
            program,
        };
        // Its ring is new: nothing of it has been read.
        self.state.set(state::read_index(ring), 0);
        fault::point("master:spawn");
        let pid = spawn::spawn(&args, &birth)?;
        fault::point("master:spawned");
        drop(birth);
        // It is not reaped before we do it, so the pid is still its.
        link.set_guard(pid, self.state)?;
        link.is_new = is_new;
        let mut record = Record::new();
        link.save(self.state, &mut record, part, Marks::default());
        self.state.commit(&mut record);
        log::info!("{seat} starts (pid {pid}, ring {ring})");
        self.watch_link(&link)?;
        self.links.insert(ring, link);
        Ok(())
    }

    pub(super) fn watch_link(&self, link: &Link) -> io::Result<()> {
        let ring = link.number;
        self.watch(link.channel.as_fd().as_raw_fd(), Origin::Channel(ring))?;
        self.watch(link.bell.as_raw_fd(), Origin::Ring(ring))?;
        match &link.pidfd {
            Some(pidfd) => self.watch(pidfd.as_raw_fd(), Origin::Guard(ring)),
            None => Ok(()),
        }
    }

    /// What the next brain must know of the workers: in one record, so that it finds no seat with
    /// two holders.
    fn save_rows(&self) {
        let mut record = Record::new();
        for worker in self.supervisor.workers() {
            if worker.has_process()
                && let Some(link) = self.links.get(&worker.ring)
            {
                link.save(self.state, &mut record, worker.part, worker.marks);
            }
        }
        if !record.is_empty() {
            self.state.commit(&mut record);
        }
        let given_up = self.supervisor.given_up();
        if self.state.head(Head::GivenUp) != given_up {
            self.state.set(Head::GivenUp.word(), given_up);
        }
    }

    /// Reads what a worker says, and says what waits for it.
    pub(super) fn on_channel(&mut self, ring: u16) {
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
            ToMaster::Ack { cids } => self.on_ack(ring, &cids),
            ToMaster::Refuse { cids } => self.on_refuse(ring, &cids),
            ToMaster::Closed { cids } => self.on_closed(ring, &cids),
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
        // The last brain may have died before it rang for what is in its ring.
        self.rung.push(ring);
        // What it had given away this one gives once more; what it was asked for else this one may
        // not have seen.
        self.moves.restarted(ring);
        link.welcome(settings);
        let lives = Head::lives(link.seat.0);
        self.state.set(lives, self.state.get(lives) + 1);
        let name = self.name(ring);
        log::info!("{name}: brain {brain} of guard {guard} says hello (its {life}.)");
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
        settings
    }

    pub(super) fn on_guard_death(&mut self, ring: u16) {
        let Some(link) = self.links.get_mut(&ring) else {
            return;
        };
        if link.ended.is_some() {
            return;
        }
        link.ended = Some(link.reap());
        if link.closed.is_some() {
            self.gone(ring);
        } else {
            log::warn!("{}: its guard is dead", self.name(ring));
            self.supervise(Event::GuardDied { ring });
            // If its brain is dead too, the end of the channel is there already.
            self.on_channel(ring);
        }
    }

    fn on_closed_channel(&mut self, ring: u16) {
        let Some(link) = self.links.get_mut(&ring) else {
            return;
        };
        link.closed.get_or_insert(self.now);
        if link.ended.is_some() {
            self.gone(ring);
        }
    }

    /// Guard and brain are dead, and the channel has been read to its end.
    fn gone(&mut self, ring: u16) {
        // What it published is sequenced; then it is in no room any more.
        while self.sequence_one(ring) == Turn::More {}
        self.sequencer.drop_row(self.state, ring);
        self.take_back_all(ring);
        self.recounting.retain(|(r, _)| *r != ring);
        let why = self.how_it_ended(ring);
        Link::forget(ring, self.state);
        if let Some(link) = self.links.remove(&ring) {
            link.fds().into_iter().for_each(|fd| self.unwatch(fd));
        }
        self.supervise(Event::Gone { ring, why });
    }

    fn how_it_ended(&mut self, ring: u16) -> String {
        let Some(link) = self.links.get(&ring) else {
            return String::new();
        };
        if let Some(fault) = &link.fault {
            return fault.clone();
        }
        let log = self.context.run.worker_log(link.seat);
        let reaped = self.reaped.iter().find(|r| r.pid == link.guard_pid);
        match link.ended.flatten().or(reaped.map(|r| r.status)) {
            Some(status) => format!("{status}; see {}", log.display()),
            None => format!("see {}", log.display()),
        }
    }

    /// A turn of one ring.
    pub(super) fn sequence_one(&mut self, ring: u16) -> Turn {
        let Some(link) = self.links.get(&ring) else {
            return Turn::Empty;
        };
        let turn = self.sequencer.turn(self.state, &link.ring);
        match turn {
            Turn::Empty => {}
            Turn::More => self.rung.push(ring),
            Turn::Hostile => {
                log::error!("{}: its ring is not what a worker writes", self.name(ring));
                self.supervise(Event::Hostile { ring });
            }
        }
        turn
    }

    /// Once a second: have all loops turned? The bell makes those turn that have nothing to do.
    pub(super) fn look_after_workers(&mut self) {
        let seen: Vec<(u16, u64)> = self
            .links
            .iter()
            .map(|(ring, link)| (*ring, link.figure(Figure::Turns)))
            .collect();
        for (ring, turns) in seen {
            self.supervise(Event::Turns { ring, turns });
        }
        for link in self.links.values() {
            let late = link.closed.is_some_and(|at| self.now >= at + ENDING);
            if late && link.ended.is_none() {
                link.kill();
            }
        }
        self.ring_log_bell();
        self.tick();
    }

    pub(super) fn tick(&mut self) {
        self.supervise(Event::Tick);
    }

    /// One line in a worker's own log, in its format.
    fn write_last_word(&self, seat: Seat, what: &str) {
        use std::io::Write;
        let format = match self.config.log.format {
            Format::Text => logging::Format::Text,
            Format::Json => logging::Format::Json,
        };
        let mut line = Vec::new();
        format.write(
            &mut line,
            std::time::SystemTime::now(),
            "master",
            &log::Record::builder()
                .level(log::Level::Error)
                .args(format_args!("{seat}: {what}"))
                .build(),
        );
        let written = open_log(&self.context.run.worker_log(seat))
            .and_then(|mut file| file.write_all(&line).map_err(|error| error.to_string()));
        if let Err(error) = written {
            log::warn!("cannot write to the log of {seat}: {error}");
        }
    }

    /// For log lines.
    pub(super) fn name(&self, ring: u16) -> String {
        match self.links.get(&ring) {
            Some(link) => link.seat.to_string(),
            None => format!("ring {ring}"),
        }
    }

    /// What the guard has reaped for us: workers' guards that lost their parent.
    pub(super) fn note_reaped(&mut self) {
        while let Some(reaped) = self.page.next_reaped() {
            self.page.dealt_reaped();
            if self.reaped.len() >= 64 {
                self.reaped.remove(0);
            }
            self.reaped.push(reaped);
        }
    }

    /// For a new brain: the workers of the last one.
    pub(super) fn adopt_workers(&mut self) -> io::Result<()> {
        for ring in 0..protocol::row::MAX_RINGS {
            let Some((link, part, marks)) = Link::recover(self.state, ring)? else {
                continue;
            };
            self.supervisor
                .adopt(self.now, link.seat, ring, part, marks);
            self.watch_link(&link)?;
            self.links.insert(ring, link);
            self.rung.push(ring);
        }
        self.supervisor.set_given_up(self.state.head(Head::GivenUp));
        Ok(())
    }
}

/// By which one word of a worker's is known from the next, about.
fn mark(message: &ToMaster) -> u64 {
    let first = |cids: &[Cid]| cids.first().map_or(0, |cid| cid.0);
    let (kind, which) = match message {
        ToMaster::Hello { life, .. } => (1, u64::from(*life)),
        ToMaster::Ack { cids } => (2, first(cids)),
        ToMaster::Refuse { cids } => (3, first(cids)),
        ToMaster::Closed { cids } => (4, first(cids)),
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
