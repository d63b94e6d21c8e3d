//! The lives of the workers: events in, actions out. No process, fd or clock is known here.
//!
//! A *seat* is a worker's number, for good; who sits in it is a *worker*: one process (a guard and
//! its brains), known by the number of its ring. While a seat is relieved it has two. Read
//! [`Phase`], then [`Supervisor::on`]: one flat list of "if this happens, do that".

mod leave;
mod worker;

use protocol::ids::Seat;
use protocol::row::MAX_RINGS;

use leave::bit;
pub use worker::{Marks, Part, Phase, Worker};

/// How long things may take, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// From the start of a worker, or of its next brain, to readiness.
    pub ready: u64,
    /// Without progress of a worker's loop.
    pub hung: u64,
    /// For the connections of one worker to be moved.
    pub moving: u64,
    /// From the order to retire to its end.
    pub retire: u64,
}

/// Between SIGABRT and SIGKILL: time for a core dump to begin and a last word in the log.
const ABORTING: u64 = 500;
/// A worker that was killed and is not gone is killed again.
const KILL_AGAIN: u64 = 1_000;
const FIRST_DELAY: u64 = 100;
const LONGEST_DELAY: u64 = 30_000;
/// Ticks come every second or so. A longer pause was ours (or the machine slept): a standstill of
/// a worker cannot be told from it.
const LONGEST_TICK: u64 = 3_000;

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// So many seats are wanted; those that were given up, too.
    Seats(u16),
    /// A new brain has adopted what its predecessor had, and so many seats are wanted.
    Resume(u16),
    /// Give this seat a new worker in place of its holder.
    Relieve(Seat),
    /// [`Action::Spawn`] could not be done.
    SpawnFailed {
        ring: u16,
        why: String,
    },
    /// A brain said hello: the first, or the next after its death.
    Hello {
        ring: u16,
    },
    Ready {
        ring: u16,
    },
    /// It says that brain after brain of it died: this one serves nobody.
    Evacuates {
        ring: u16,
    },
    /// All connections of one that is parting have gone elsewhere.
    Parted {
        ring: u16,
    },
    /// They cannot.
    Stuck {
        ring: u16,
        why: String,
    },
    /// The guard is dead. Its brain is not: it becomes the guard of the next brain and says hello.
    GuardDied {
        ring: u16,
    },
    /// Guard and brain are gone: the channel has ended.
    Gone {
        ring: u16,
        why: String,
    },
    /// It broke a rule (a bad ring, a message that is none).
    Hostile {
        ring: u16,
    },
    /// Time passes. Comes at least every second.
    Tick,
    /// The loop of this worker has turned so often.
    Turns {
        ring: u16,
        turns: u64,
    },
    /// All are to go.
    Stop {
        fast: bool,
    },
}

/// Something that is to be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a process.
    Spawn { seat: Seat, ring: u16, part: Part },
    /// Tell it to let its connections go and end.
    Retire { ring: u16, within: u64 },
    /// It hangs: SIGABRT to its brain, whose last words go to its log.
    Abort { ring: u16, standstill: u64 },
    /// SIGKILL to its brain: the guard makes another, which goes on.
    KillBrain { ring: u16 },
    /// SIGKILL to guard and brain.
    Kill { ring: u16, why: &'static str },
    /// For the log, for whoever waits, for `start`.
    Tell(News),
}

/// What others want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The seat is served by a new worker.
    Seated(Seat),
    /// A relief ended, or could not take over all of the old worker's connections; the old one
    /// goes on.
    ReliefFailed { seat: Seat, why: String },
    /// A leaver has ended.
    Left(Seat),
    /// A leaver's connections could not be moved: it stays.
    Stayed { seat: Seat, why: String },
    /// A leaver's connections could not be moved, and it cannot stay: its clients are sent away.
    LetGo { seat: Seat, why: String },
    /// The seat is not served any more; its connections go to the other workers.
    GivenUp(Seat),
    /// A holder ended, and is started again after so many milliseconds.
    Again {
        seat: Seat,
        delay: u64,
        why: String,
        was_ready: bool,
    },
    /// Stopping is done.
    AllGone,
}

/// All workers, and what becomes of each.
#[derive(Debug)]
pub struct Supervisor {
    patience: Patience,
    workers: Vec<Worker>,
    /// For each seat, the delay of its next restart.
    delays: Vec<u64>,
    /// A bit for each seat that was given up, the first for seat 1.
    given_up: u64,
    last_ring: u16,
    last_tick: u64,
    stopping: bool,
}

impl Supervisor {
    #[must_use]
    pub fn new(patience: Patience) -> Supervisor {
        Supervisor {
            patience,
            workers: Vec::new(),
            delays: Vec::new(),
            given_up: 0,
            last_ring: MAX_RINGS - 1,
            last_tick: 0,
            stopping: false,
        }
    }

    /// For a new brain: a worker that its predecessor had.
    pub fn adopt(&mut self, now: u64, seat: Seat, ring: u16, part: Part, marks: Marks) {
        self.last_ring = ring;
        let leave_by = (part == Part::Leaver).then_some(now + self.patience.moving);
        let phase = match (part, leave_by) {
            // What it said meanwhile is read next; a holder is taken for ready, for it serves.
            (Part::Holder, _) => Phase::Ready,
            (Part::Leaver, Some(until)) if !marks.retires => Phase::Parting { until },
            (Part::Leaver, _) => Phase::Retiring {
                until: now + self.patience.retire,
            },
            (Part::Relief, _) => Phase::Starting {
                until: now + self.patience.ready,
            },
        };
        self.workers.push(Worker {
            phase,
            ring,
            marks,
            served: part != Part::Relief,
            leave_by,
            ..Worker::new(now, seat, part)
        });
    }

    /// For a new brain: the seats that were given up.
    pub fn set_given_up(&mut self, given_up: u64) {
        self.given_up = given_up;
    }

    /// To be kept for the next brain.
    #[must_use]
    pub fn given_up(&self) -> u64 {
        self.given_up
    }

    #[must_use]
    pub fn is_given_up(&self, seat: Seat) -> bool {
        self.given_up & bit(seat) != 0
    }

    /// Nobody is coming or going: each seat has its one worker.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.workers.iter().all(|w| w.part == Part::Holder)
    }

    pub fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
    }

    /// In the order in which they were wanted.
    #[must_use]
    pub fn workers(&self) -> &[Worker] {
        &self.workers
    }

    #[must_use]
    pub fn by_ring(&self, ring: u16) -> Option<&Worker> {
        self.workers
            .iter()
            .find(|w| w.ring == ring && w.has_process())
    }

    /// The holders' seats.
    #[must_use]
    pub fn seats(&self) -> Vec<Seat> {
        let holders = self.workers.iter().filter(|w| w.part == Part::Holder);
        let mut seats: Vec<Seat> = holders.map(|w| w.seat).collect();
        seats.sort_unstable();
        seats
    }

    /// Every seat's holder is ready.
    #[cfg(test)]
    pub(crate) fn all_ready(&self) -> bool {
        let mut holders = self.workers.iter().filter(|w| w.part == Part::Holder);
        holders.all(|w| w.phase == Phase::Ready)
    }

    /// When [`Event::Tick`] is due, besides every second.
    #[must_use]
    pub fn due(&self) -> Option<u64> {
        self.workers.iter().filter_map(Worker::due).min()
    }

    /// What happens, and what is to be done then.
    pub fn on(&mut self, now: u64, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Seats(n) => {
                self.given_up = 0;
                self.set_seats(now, n, actions);
            }
            Event::Resume(n) => self.resume(now, n, actions),
            Event::Relieve(seat) => self.add(now, seat, Part::Relief, actions),
            Event::SpawnFailed { ring, why } | Event::Gone { ring, why } => {
                self.gone(now, ring, why, actions);
            }
            Event::Hello { ring } => self.hello(now, ring),
            Event::Ready { ring } => self.ready(now, ring, actions),
            Event::Evacuates { ring } => self.evacuate(now, ring, actions),
            Event::Parted { ring } => self.parted(now, ring, actions),
            Event::Stuck { ring, why } => {
                if let Some(index) = self.index(ring)
                    && matches!(self.workers[index].phase, Phase::Parting { .. })
                {
                    self.stuck(now, index, why, actions);
                }
            }
            Event::GuardDied { ring } => {
                let until = now + self.patience.ready;
                self.with(ring, |w| w.orphaned = Some(until));
            }
            Event::Hostile { ring } => self.kill(now, ring, "it broke the rules", actions),
            Event::Turns { ring, turns } => self.turns(now, ring, turns, actions),
            Event::Tick => self.tick(now, actions),
            Event::Stop { fast } => self.stop(now, fast, actions),
        }
    }

    fn set_seats(&mut self, now: u64, n: u16, actions: &mut Vec<Action>) {
        let seats = self.seats();
        let missing = |seat: &Seat| !seats.contains(seat) && self.given_up & bit(*seat) == 0;
        let missing: Vec<Seat> = (1..=n).map(Seat).filter(missing).collect();
        for seat in missing {
            // One that is still on its way out need not go.
            if !self.reseat(seat) {
                self.add(now, seat, Part::Holder, actions);
            }
        }
        for index in (0..self.workers.len()).rev() {
            let w = &self.workers[index];
            if w.seat.0 > n && w.part != Part::Leaver {
                self.dismiss(now, index, actions);
            }
        }
    }

    /// What the last brain was in the middle of comes to an end.
    fn resume(&mut self, now: u64, n: u16, actions: &mut Vec<Action>) {
        for index in (0..self.workers.len()).rev() {
            let w = self.workers[index];
            let first = self.holder(w.seat);
            match w.part {
                Part::Relief => self.kill(now, w.ring, "the reload was cut off", actions),
                Part::Holder if first != Some(index) => self.dismiss(now, index, actions),
                Part::Holder | Part::Leaver => {}
            }
        }
        self.set_seats(now, n, actions);
    }

    /// A new worker for a seat, at once.
    fn add(&mut self, now: u64, seat: Seat, part: Part, actions: &mut Vec<Action>) {
        self.workers.push(Worker::new(now, seat, part));
        let index = self.workers.len() - 1;
        self.spawn(now, index, actions);
    }

    fn spawn(&mut self, now: u64, index: usize, actions: &mut Vec<Action>) {
        let Some(ring) = self.free_ring() else {
            // Only while many that were killed are not gone yet.
            self.workers[index].phase = Phase::Waiting {
                at: now + FIRST_DELAY,
            };
            return;
        };
        self.last_ring = ring;
        let until = now + self.patience.ready;
        let w = &mut self.workers[index];
        w.phase = Phase::Starting { until };
        *w = Worker {
            phase: w.phase,
            ring,
            ..Worker::new(now, w.seat, w.part)
        };
        actions.push(Action::Spawn {
            seat: w.seat,
            ring,
            part: w.part,
        });
    }

    /// The next number that nobody has: what a worker that is gone had asked under its number is
    /// answered before the number comes again.
    fn free_ring(&self) -> Option<u16> {
        (1..=MAX_RINGS)
            .map(|step| (self.last_ring + step) % MAX_RINGS)
            .find(|ring| self.by_ring(*ring).is_none())
    }

    fn hello(&mut self, now: u64, ring: u16) {
        let until = now + self.patience.ready;
        self.with(ring, |w| {
            w.orphaned = None;
            w.moved = now;
            match w.phase {
                // Its next brain: it serves again, or gives away, once that is ready.
                Phase::Ready | Phase::Parting { .. } => w.phase = Phase::Starting { until },
                Phase::Starting { .. }
                | Phase::Waiting { .. }
                | Phase::Retiring { .. }
                | Phase::Killed { .. } => {}
                // The brain that hung is gone.
                Phase::Aborting { .. } => w.phase = Phase::Starting { until },
            }
        });
    }

    fn ready(&mut self, now: u64, ring: u16, actions: &mut Vec<Action>) {
        let Some(index) = self.index(ring) else {
            return;
        };
        if !matches!(self.workers[index].phase, Phase::Starting { .. }) {
            return;
        }
        let w = &mut self.workers[index];
        (w.phase, w.served) = (Phase::Ready, true);
        let Worker { seat, part, .. } = *w;
        match part {
            Part::Holder => {
                *self.delay(seat) = FIRST_DELAY;
                self.given_up &= !bit(seat);
                actions.push(Action::Tell(News::Seated(seat)));
            }
            Part::Relief => {
                *self.delay(seat) = FIRST_DELAY;
                self.given_up &= !bit(seat);
                self.workers[index].part = Part::Holder;
                let old = |w: &Worker| w.seat == seat && w.part == Part::Holder && w.ring != ring;
                let old = self.workers.iter().position(old);
                actions.push(Action::Tell(News::Seated(seat)));
                match old {
                    Some(old) => self.dismiss(now, old, actions),
                    None => actions.push(Action::Tell(News::Left(seat))),
                }
            }
            Part::Leaver => {
                if self.workers[index].marks.yields {
                    // The brain before may have hung until the time was over.
                    self.workers[index].leave_by = None;
                }
                self.let_part(now, index, actions);
            }
        }
    }

    fn kill(&mut self, now: u64, ring: u16, why: &'static str, actions: &mut Vec<Action>) {
        self.with(ring, |w| {
            w.phase = Phase::Killed {
                until: now + KILL_AGAIN,
            }
        });
        actions.push(Action::Kill { ring, why });
    }

    fn gone(&mut self, now: u64, ring: u16, why: String, actions: &mut Vec<Action>) {
        let Some(index) = self.index(ring) else {
            return;
        };
        let Worker {
            seat, part, phase, ..
        } = self.workers[index];
        match part {
            // The old one of its seat was still there.
            Part::Holder if !self.stopping && self.reseat(seat) => {
                self.workers.remove(index);
                actions.push(Action::Tell(News::ReliefFailed { seat, why }));
            }
            Part::Holder if !self.stopping => {
                let delay = *self.delay(seat);
                *self.delay(seat) = (delay * 3 / 2).min(LONGEST_DELAY);
                self.workers[index].phase = Phase::Waiting { at: now + delay };
                let was_ready = phase == Phase::Ready;
                actions.push(Action::Tell(News::Again {
                    seat,
                    delay,
                    why,
                    was_ready,
                }));
            }
            Part::Relief => {
                self.workers.remove(index);
                actions.push(Action::Tell(News::ReliefFailed { seat, why }));
            }
            Part::Holder | Part::Leaver => {
                self.workers.remove(index);
                actions.push(Action::Tell(News::Left(seat)));
            }
        }
        self.say_when_all_are_gone(actions);
    }

    fn say_when_all_are_gone(&self, actions: &mut Vec<Action>) {
        if self.stopping && self.workers.is_empty() {
            actions.push(Action::Tell(News::AllGone));
        }
    }

    fn turns(&mut self, now: u64, ring: u16, turns: u64, actions: &mut Vec<Action>) {
        let hung = self.patience.hung;
        let slept = now.saturating_sub(self.last_tick) > LONGEST_TICK;
        let Some(index) = self.index(ring) else {
            return;
        };
        let w = &mut self.workers[index];
        if w.turns != turns || slept {
            (w.turns, w.moved) = (turns, now);
        }
        let standstill = now.saturating_sub(w.moved);
        // One that is starting has its deadline, one that is to end as well.
        let turns = matches!(w.phase, Phase::Ready | Phase::Parting { .. });
        if standstill >= hung && turns {
            w.phase = Phase::Aborting {
                until: now + ABORTING,
            };
            actions.push(Action::Abort { ring, standstill });
        }
    }

    fn tick(&mut self, now: u64, actions: &mut Vec<Action>) {
        self.last_tick = now;
        for index in 0..self.workers.len() {
            // One may have left meanwhile.
            let Some(w) = self.workers.get(index).copied() else {
                break;
            };
            if w.due().is_none_or(|due| due > now) {
                continue;
            }
            match w.phase {
                Phase::Waiting { .. } => self.spawn(now, index, actions),
                Phase::Starting { .. } => {
                    self.kill(now, w.ring, "it was not ready in time", actions);
                }
                Phase::Parting { until } if until <= now => {
                    let why = format!(
                        "its connections were not moved in {} ms",
                        self.patience.moving
                    );
                    self.stuck(now, index, why, actions);
                }
                Phase::Ready | Phase::Parting { .. } => {
                    self.kill(now, w.ring, "it did not replace its guard", actions);
                }
                Phase::Aborting { .. } => {
                    let until = now + self.patience.ready;
                    self.workers[index].phase = Phase::Starting { until };
                    actions.push(Action::KillBrain { ring: w.ring });
                }
                Phase::Retiring { .. } => {
                    self.kill(now, w.ring, "it did not end in time", actions);
                }
                Phase::Killed { .. } => self.kill(now, w.ring, "it is not gone", actions),
            }
        }
    }

    fn stop(&mut self, now: u64, fast: bool, actions: &mut Vec<Action>) {
        self.stopping = true;
        self.workers.retain(Worker::has_process);
        for index in 0..self.workers.len() {
            let w = &mut self.workers[index];
            w.part = Part::Leaver;
            let ring = w.ring;
            match w.phase {
                Phase::Ready | Phase::Parting { .. } if !fast => {
                    self.retire(now, index, self.patience.retire, actions);
                }
                Phase::Retiring { .. } if !fast => {}
                Phase::Killed { .. } | Phase::Waiting { .. } => {}
                Phase::Ready
                | Phase::Parting { .. }
                | Phase::Retiring { .. }
                | Phase::Starting { .. }
                | Phase::Aborting { .. } => self.kill(now, ring, "baton stops", actions),
            }
        }
        self.say_when_all_are_gone(actions);
    }

    fn index(&self, ring: u16) -> Option<usize> {
        self.workers
            .iter()
            .position(|w| w.ring == ring && w.has_process())
    }

    fn with(&mut self, ring: u16, change: impl FnOnce(&mut Worker)) {
        if let Some(index) = self.index(ring) {
            change(&mut self.workers[index]);
        }
    }

    fn delay(&mut self, seat: Seat) -> &mut u64 {
        let index = usize::from(seat.0);
        if self.delays.len() <= index {
            self.delays.resize(index + 1, FIRST_DELAY);
        }
        &mut self.delays[index]
    }
}

#[cfg(test)]
#[path = "supervise_tests.rs"]
mod tests;
