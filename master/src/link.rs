//! One worker's process, as the master holds it: its channel, its ring, its pids.
//!
//! What the channel cannot take now is kept, the latest of a kind, and said when it can. Nothing
//! overtakes a word on what has become of a connection (`Took`, `Keep`): else one that comes back to
//! a worker could be forgotten by a word that meant the time before.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::Signal;
use protocol::channel::Channel;
use protocol::fault;
use protocol::ids::{Cid, Seat};
use protocol::journal::Record;
use protocol::memory::{Access, Segment};
use protocol::message::{self, MAX_BATCH, ToWorker};
use protocol::row::{self, Figure};
use protocol::settings::Settings;
use protocol::stream::{self, FIRST_FREE_WORD};

use crate::figures::Row;
use crate::pidfd;
use crate::sequencer::Ring;
use crate::state::{self, State};
use crate::supervise::{Marks, Part};

/// What the master holds of one worker.
#[derive(Debug)]
pub struct Link {
    pub seat: Seat,
    pub number: u16,
    pub channel: Channel,
    pub ring: Ring,
    segment: Arc<Segment>,
    /// Rung by the worker: its ring has something new.
    pub bell: OwnedFd,
    /// Rung for the worker: the log has something for it, or its ring has room again.
    pub log_bell: OwnedFd,
    pub guard_pid: i32,
    /// 0: it has not said hello.
    pub brain_pid: i32,
    /// Of its guard; none until it is started.
    pub pidfd: Option<OwnedFd>,
    /// How its guard ended.
    pub ended: Option<Option<ExitStatus>>,
    /// The channel has ended: guard and brain are gone, or about to be. Since then.
    pub closed: Option<u64>,
    /// It refused a connection: it gets no more before this time.
    pub refuses_until: u64,
    /// Of what it was given it has taken nothing since.
    pub silent_since: u64,
    /// Slots that are given with the next batch.
    pub batch: Vec<u32>,
    /// Slots that are given once more, to a brain that may not have seen them.
    pub repeats: Vec<u32>,
    /// Slots of connections that it gave away, and is to be told of once they are decided.
    pub owed: VecDeque<u32>,
    /// It was started with what a reload has prepared.
    pub is_new: bool,
    /// It is not fit to work with, and why.
    pub fault: Option<String>,
    /// Its ring is not read any more.
    pub is_hostile: bool,
    say: Outbox,
}

/// What is to be said and has not been.
#[derive(Debug, Default)]
struct Outbox {
    welcome: Option<Box<Settings>>,
    /// Of connections that have no slot any more.
    took: Vec<Cid>,
    reopen: Option<File>,
    part: Vec<Cid>,
    retire: Option<u64>,
}

/// Words of a worker's row in the state.
const SEAT: usize = 0; // 0: nothing here; seat · part · marks
const PIDS: usize = 1;
const FDS: usize = 2; // channel, ring
const MORE_FDS: usize = 3; // bell, pidfd + 1
const LOG_BELL: usize = 4;

const RETIRES: u64 = 1 << 24;
const EVACUATES: u64 = 1 << 25;
const YIELDS: u64 = 1 << 26;

/// Two numbers in one word.
fn both(low: i32, high: i32) -> u64 {
    u64::from(low as u32) | u64::from(high as u32) << 32
}

fn bell() -> io::Result<OwnedFd> {
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    EventFd::from_flags(flags)?.as_fd().try_clone_to_owned()
}

impl Link {
    /// Makes what a new worker needs; the second value is its end of the channel.
    pub fn new(seat: Seat, number: u16, ring_size: usize) -> io::Result<(Link, OwnedFd)> {
        let (ours, theirs) = Channel::pair()?;
        let theirs = theirs.as_fd().try_clone_to_owned()?;
        let segment = Segment::create(c"baton-ring", stream::segment_size(ring_size))?;
        let link = Link::over(seat, number, ours, segment, [bell()?, bell()?]);
        Ok((link, theirs))
    }

    fn over(
        seat: Seat,
        number: u16,
        channel: Channel,
        segment: Segment,
        [bell, log_bell]: [OwnedFd; 2],
    ) -> Link {
        let segment = Arc::new(segment);
        Link {
            seat,
            number,
            channel,
            ring: Ring::new(number, segment.clone()),
            segment,
            bell,
            log_bell,
            guard_pid: 0,
            brain_pid: 0,
            pidfd: None,
            ended: None,
            closed: None,
            refuses_until: 0,
            silent_since: 0,
            batch: Vec::new(),
            repeats: Vec::new(),
            owed: VecDeque::new(),
            is_new: false,
            fault: None,
            is_hostile: false,
            say: Outbox::default(),
        }
    }

    /// For a new brain: the worker that its predecessor had under this number, if any.
    pub fn recover(state: &State, number: u16) -> io::Result<Option<(Link, Part, Marks)>> {
        let get = |field| state.get(state::worker(number, field));
        let row = get(SEAT);
        if row == 0 {
            return Ok(None);
        }
        let part = match row >> 16 & 0xff {
            1 => Part::Holder,
            2 => Part::Relief,
            _ => Part::Leaver,
        };
        let marks = Marks {
            retires: row & RETIRES != 0,
            evacuates: row & EVACUATES != 0,
            yields: row & YIELDS != 0,
        };
        let (fds, more, pids) = (get(FDS), get(MORE_FDS), get(PIDS));
        // SAFETY: the numbers were written when the fds were made, and are taken out of the row
        // before the fds are closed; no one else in this brain knows them.
        let own = |fd: u64| unsafe { OwnedFd::from_raw_fd(fd as u32 as RawFd) };
        let channel = Channel::from(own(fds));
        let segment = Segment::map(own(fds >> 32), Access::ReadWrite)?;
        let bells = [own(more), own(get(LOG_BELL))];
        let mut link = Link::over(Seat(row as u16), number, channel, segment, bells);
        link.guard_pid = pids as i32;
        link.brain_pid = (pids >> 32) as i32;
        link.pidfd = (more >> 32).checked_sub(1).map(own);
        Ok(Some((link, part, marks)))
    }

    /// What the next brain must know, as far as its row does not say it, for the record.
    pub fn save(&self, state: &State, record: &mut Record, part: Part, marks: Marks) {
        let part = match part {
            Part::Holder => 1,
            Part::Relief => 2,
            Part::Leaver => 3,
        };
        let pidfd = self.pidfd.as_ref().map_or(0, |fd| fd.as_raw_fd() + 1);
        let mark = |is: bool, bit: u64| if is { bit } else { 0 };
        let marks = mark(marks.retires, RETIRES)
            | mark(marks.evacuates, EVACUATES)
            | mark(marks.yields, YIELDS);
        let row = [
            (SEAT, u64::from(self.seat.0) | part << 16 | marks),
            (PIDS, both(self.guard_pid, self.brain_pid)),
            (
                FDS,
                both(
                    self.channel.as_fd().as_raw_fd(),
                    self.segment.as_fd().as_raw_fd(),
                ),
            ),
            (MORE_FDS, both(self.bell.as_raw_fd(), pidfd)),
            (LOG_BELL, both(self.log_bell.as_raw_fd(), 0)),
        ];
        if record.room() < row.len() {
            state.commit(record);
        }
        for (field, value) in row {
            let word = state::worker(self.number, field);
            if state.get(word) != value {
                record.set(word, value);
            }
        }
    }

    /// Nobody has this number any more. To be called before the link is dropped, which closes its
    /// fds.
    pub fn forget(number: u16, state: &State) {
        state.set(state::worker(number, SEAT), 0);
    }

    /// The fds that its row names.
    pub fn fds(&self) -> Vec<RawFd> {
        let mut fds = vec![
            self.channel.as_fd().as_raw_fd(),
            self.segment.as_fd().as_raw_fd(),
            self.bell.as_raw_fd(),
            self.log_bell.as_raw_fd(),
        ];
        fds.extend(self.pidfd.as_ref().map(AsRawFd::as_raw_fd));
        fds
    }

    /// Wakes the worker. A bell that is full has rung.
    pub fn ring_log_bell(&self) {
        let _ = nix::unistd::write(&self.log_bell, &1u64.to_ne_bytes());
    }

    pub fn ring_fd(&self) -> BorrowedFd<'_> {
        self.segment.as_fd()
    }

    /// What the worker shows of itself.
    #[must_use]
    pub fn figure(&self, figure: Figure) -> u64 {
        self.segment.word(figure.word()).load(Ordering::Relaxed)
    }

    /// All that it shows.
    #[must_use]
    pub fn figures(&self) -> Row {
        let words = self.segment.words(FIRST_FREE_WORD, row::FIGURES);
        words.iter().map(|w| w.load(Ordering::Relaxed)).collect()
    }

    pub fn welcome(&mut self, settings: Settings) {
        self.say.welcome = Some(Box::new(settings));
        self.say();
    }

    /// To be forgotten; we have no slot for it any more.
    pub fn took(&mut self, cid: Cid) {
        self.say.took.push(cid);
        self.say();
    }

    /// These are to be given away.
    pub fn part(&mut self, cids: &[Cid]) {
        self.say.part.extend(cids);
        self.say();
    }

    /// How many connections it is to forget that have no slot.
    #[must_use]
    pub fn unsaid(&self) -> usize {
        self.say.took.len()
    }

    /// Nothing waits that would be lost with this brain.
    #[must_use]
    pub fn has_said_all(&self) -> bool {
        let Outbox {
            welcome,
            took,
            reopen,
            part,
            retire,
        } = &self.say;
        welcome.is_none()
            && took.is_empty()
            && reopen.is_none()
            && part.is_empty()
            && retire.is_none()
    }

    /// Words on connections wait to be said.
    #[must_use]
    pub fn owes(&self) -> bool {
        !self.owed.is_empty() || !self.say.took.is_empty()
    }

    pub fn reopen(&mut self, file: File) {
        self.say.reopen = Some(file);
        self.say();
    }

    pub fn retire(&mut self, within: u64) {
        self.say.retire = Some(within);
        self.say();
    }

    /// Says what waits, as far as the channel takes it. Of an end that is gone its end tells.
    pub fn say(&mut self) {
        let Outbox {
            welcome,
            took,
            reopen,
            part,
            retire,
        } = &mut self.say;
        let channel = &self.channel;
        let send = |message: &ToWorker| channel.send(message, &[]).unwrap_or(true);
        welcome.take_if(|settings| {
            send(&ToWorker::Welcome {
                version: message::VERSION,
                worker: self.seat,
                settings: settings.clone(),
            })
        });
        reopen.take_if(|file| {
            let sent = channel.send(&ToWorker::Reopen, &[file.as_fd()]);
            sent.unwrap_or(true)
        });
        say_in_parts(took, |cids| send(&ToWorker::Took { cids }));
        if !took.is_empty() || !self.owed.is_empty() {
            return;
        }
        say_in_parts(part, |cids| send(&ToWorker::Part { cids }));
        retire.take_if(|within_ms| {
            send(&ToWorker::Retire {
                within_ms: *within_ms,
            })
        });
    }

    /// Its guard is dead: how, if we are told (it may have become a child of our guard).
    pub fn reap(&self) -> Option<ExitStatus> {
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        let got = unsafe { libc::waitpid(self.guard_pid, &mut status, libc::WNOHANG) };
        (got == self.guard_pid).then(|| ExitStatus::from_raw(status))
    }

    /// The process of this pid is its guard from now on.
    pub fn set_guard(&mut self, pid: i32, state: &State) -> io::Result<()> {
        let new = pidfd::open(pid)?;
        let mut record = Record::new();
        let word = |field| state::worker(self.number, field);
        record.set(word(PIDS), both(pid, self.brain_pid));
        record.set(
            word(MORE_FDS),
            both(self.bell.as_raw_fd(), new.as_raw_fd() + 1),
        );
        // Before the old one is closed: its number may be another's at once.
        state.commit(&mut record);
        self.pidfd = Some(new);
        self.guard_pid = pid;
        self.ended = None;
        fault::point("master:guard");
        Ok(())
    }

    /// SIGKILL to guard and brain. The guard is stopped first, so that it makes no other brain.
    pub fn kill(&self) {
        self.signal_guard(Signal::SIGSTOP);
        self.kill_brain();
        self.signal_guard(Signal::SIGKILL);
    }

    pub fn kill_brain(&self) {
        self.signal_brain(libc::SIGKILL);
    }

    pub fn abort_brain(&self) {
        self.signal_brain(libc::SIGABRT);
    }

    fn signal_guard(&self, signal: Signal) {
        if let (Some(pidfd), None) = (&self.pidfd, self.ended) {
            pidfd::send(pidfd, signal);
        }
    }

    fn signal_brain(&self, signal: i32) {
        let guard = self.guard_pid;
        let children = match self.ended {
            None => std::fs::read_to_string(format!("/proc/{guard}/task/{guard}/children")),
            Some(_) => Ok(String::new()),
        };
        let mut brains: Vec<i32> = children
            .unwrap_or_default()
            .split_ascii_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .collect();
        // One whose guard is dead is nobody's child that we could look up; while the channel is
        // open it is alive.
        if brains.is_empty() && self.brain_pid > 0 && self.closed.is_none() {
            brains.push(self.brain_pid);
        }
        for brain in brains {
            // SAFETY: no memory is involved. It fails for the dead only.
            unsafe { libc::kill(brain, signal) };
        }
    }
}

/// As many of them as the channel takes.
fn say_in_parts(cids: &mut Vec<Cid>, send: impl Fn(Vec<Cid>) -> bool) {
    while !cids.is_empty() {
        let count = cids.len().min(MAX_BATCH);
        if !send(cids[..count].to_vec()) {
            return;
        }
        cids.drain(..count);
    }
}
