//! The workers' processes: what the supervisor wants is done, and what happens to them is told to it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use protocol::fault;
use protocol::ids::Seat;
use protocol::journal::Record;
use protocol::roles::WorkerArgs;
use protocol::row::Figure;

use super::birth::log_format;
use super::{Brain, Origin};
use crate::config::{Config, Format};
use crate::figures::{self, What};
use crate::link::Link;
use crate::ring_set::RingSet;
use crate::run_dir::open_log;
use crate::sequencer::{Said, Turn};
use crate::spawn::{self, Birth};
use crate::state::{self, Head};
use crate::supervise::{Action, Event, Marks, News, Part, Patience};

/// A worker whose channel has ended has ended, or is helped.
const ENDING: u64 = 1_000;
/// Times that a worker speaks of its connections in one turn; then it is the next one's turn.
const SAID: usize = 64;

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
                    self.happens(What::Hung, Some(link.seat));
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
            News::GivenUp(seat) => self.happens(What::GivenUp, Some(*seat)),
            News::Again { seat, .. } => {
                figures::count(self.state, Head::Losses);
                self.happens(What::WorkerLost, Some(*seat));
            }
            _ => {}
        }
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
            history: self.state.history().open_read_only()?,
            ring_bell: link.bell.as_fd(),
            log_bell: link.log_bell.as_fd(),
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

    fn watch_link(&self, link: &Link) -> io::Result<()> {
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

    pub(super) fn on_closed_channel(&mut self, ring: u16) {
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
        let why = self.how_it_ended(ring);
        if let Some(link) = self.links.remove(&ring) {
            figures::fold(self.state, ring, link.seat, &link.figures());
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
        let mut turn = Turn::Empty;
        for _ in 0..SAID {
            let Some(link) = self.links.get(&ring).filter(|link| !link.is_hostile) else {
                return Turn::Empty;
            };
            turn = self.sequencer.turn(self.state, &link.ring);
            let (said, next) = match turn {
                Turn::Said { said, next } => (said, next),
                Turn::Asked { asking, what, next } => {
                    self.on_asked(asking, what, next);
                    turn = Turn::More;
                    continue;
                }
                _ => break,
            };
            match said {
                Said::Ack(cids) => self.on_ack(ring, &cids),
                Said::Closed(cids) => self.on_closed(ring, &cids),
            }
            fault::point("master:heard");
            self.sequencer.heeded(self.state, ring, next);
            turn = Turn::More;
        }
        match turn {
            Turn::More => self.busy = true,
            Turn::Hostile => {
                log::error!("{}: its ring is not what a worker writes", self.name(ring));
                if let Some(link) = self.links.get_mut(&ring) {
                    link.is_hostile = true;
                }
                self.supervise(Event::Hostile { ring });
            }
            Turn::Empty | Turn::Said { .. } | Turn::Asked { .. } => {}
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
        self.ring_log_bells(RingSet::ALL);
        self.tick();
    }

    pub(super) fn tick(&mut self) {
        self.supervise(Event::Tick);
    }

    /// One line in a worker's own log, in its format.
    fn write_last_word(&self, seat: Seat, what: &str) {
        use std::io::Write;
        let mut line = Vec::new();
        log_format(&self.config).write(
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
        }
        self.supervisor.set_given_up(self.state.head(Head::GivenUp));
        Ok(())
    }
}
