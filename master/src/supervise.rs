//! The lives of the workers: events in, actions out. No process, fd or clock is known here.
//!
//! A *seat* is a worker's number, for good; who sits in it is a *worker*: one process (a guard and
//! its brains), known by the number of its ring. While a seat is relieved it has two. Read
//! [`Phase`], then [`Supervisor::on`]: one flat list of "if this happens, do that".

use protocol::ids::Seat;
use protocol::row::MAX_RINGS;

/// How long things may take, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// From the start of a worker, or of its next brain, to readiness.
    pub ready: u64,
    /// Without progress of a worker's loop.
    pub hung: u64,
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

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// There is no process; one is started at this time.
    Waiting {
        at: u64,
    },
    /// Started, or its next brain is, and not ready.
    Starting {
        until: u64,
    },
    Ready,
    /// It hung and was told to abort; its brain is killed at this time.
    Aborting {
        until: u64,
    },
    /// It was told to retire: its connections end, it is killed at this time.
    Retiring {
        until: u64,
    },
    /// SIGKILL has been sent; sent again at this time.
    Killed {
        until: u64,
    },
}

/// What a worker is to its seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// It serves the seat, and is replaced when it ends.
    Holder,
    /// It is to take over from the holder once it is ready; until then nobody depends on it.
    Relief,
    /// It is to go, and is not replaced.
    Leaver,
}

/// One worker, or the place of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worker {
    pub seat: Seat,
    pub part: Part,
    pub phase: Phase,
    /// The number of its ring, which names it as long as it has a process.
    pub ring: u16,
    /// Turns of its loop when they were last seen to move, and when that was.
    turns: u64,
    moved: u64,
    /// Its guard is dead; its brain must have become one by then.
    orphaned: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// So many seats are wanted.
    Seats(u16),
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
    /// A relief ended before it was ready; the holder goes on.
    ReliefFailed { seat: Seat, why: String },
    /// A leaver has ended.
    Left(Seat),
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

#[derive(Debug)]
pub struct Supervisor {
    patience: Patience,
    workers: Vec<Worker>,
    /// For each seat, the delay of its next restart.
    delays: Vec<u64>,
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
            last_ring: MAX_RINGS - 1,
            last_tick: 0,
            stopping: false,
        }
    }

    /// For a new brain: a worker that its predecessor had.
    pub fn adopt(&mut self, now: u64, seat: Seat, ring: u16, part: Part) {
        self.last_ring = ring;
        let until = now + self.patience.ready;
        let phase = match part {
            // What it said meanwhile is read next; a holder is taken for ready, for it serves.
            Part::Holder => Phase::Ready,
            Part::Relief => Phase::Starting { until },
            Part::Leaver => Phase::Retiring {
                until: now + self.patience.retire,
            },
        };
        self.workers.push(Worker {
            seat,
            part,
            phase,
            ring,
            turns: 0,
            moved: now,
            orphaned: None,
        });
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
    #[must_use]
    pub fn all_ready(&self) -> bool {
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
            Event::Seats(n) => self.set_seats(now, n, actions),
            Event::Relieve(seat) => self.add(now, seat, Part::Relief, actions),
            Event::SpawnFailed { ring, why } | Event::Gone { ring, why } => {
                self.gone(now, ring, why, actions);
            }
            Event::Hello { ring } => self.hello(now, ring),
            Event::Ready { ring } => self.ready(now, ring, actions),
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
        for seat in (1..=n).map(Seat).filter(|seat| !seats.contains(seat)) {
            self.add(now, seat, Part::Holder, actions);
        }
        for index in (0..self.workers.len()).rev() {
            let w = &self.workers[index];
            if w.seat.0 > n && w.part != Part::Leaver {
                self.dismiss(now, index, actions);
            }
        }
    }

    /// A new worker for a seat, at once.
    fn add(&mut self, now: u64, seat: Seat, part: Part, actions: &mut Vec<Action>) {
        self.workers.push(Worker {
            seat,
            part,
            phase: Phase::Waiting { at: now },
            ring: 0,
            turns: 0,
            moved: now,
            orphaned: None,
        });
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
        (w.ring, w.turns, w.moved, w.orphaned) = (ring, 0, now, None);
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
                // Its next brain: it serves again once that is ready.
                Phase::Ready => w.phase = Phase::Starting { until },
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
        self.workers[index].phase = Phase::Ready;
        let Worker { seat, part, .. } = self.workers[index];
        match part {
            Part::Holder => {
                *self.delay(seat) = FIRST_DELAY;
                actions.push(Action::Tell(News::Seated(seat)));
            }
            Part::Relief => {
                *self.delay(seat) = FIRST_DELAY;
                self.workers[index].part = Part::Holder;
                let old = |w: &Worker| w.seat == seat && w.part == Part::Holder && w.ring != ring;
                let old = self.workers.iter().position(old);
                actions.push(Action::Tell(News::Seated(seat)));
                match old {
                    Some(old) => self.dismiss(now, old, actions),
                    None => actions.push(Action::Tell(News::Left(seat))),
                }
            }
            // It was dismissed while its next brain started: that one is told as well.
            Part::Leaver => self.retire(now, index, self.patience.retire, actions),
        }
    }

    /// This worker is not wanted any more.
    fn dismiss(&mut self, now: u64, index: usize, actions: &mut Vec<Action>) {
        self.workers[index].part = Part::Leaver;
        match self.workers[index].phase {
            Phase::Waiting { .. } => {
                let seat = self.workers.remove(index).seat;
                actions.push(Action::Tell(News::Left(seat)));
            }
            Phase::Ready => self.retire(now, index, self.patience.retire, actions),
            Phase::Starting { .. } => {
                let ring = self.workers[index].ring;
                self.kill(now, ring, "it is not wanted any more", actions);
            }
            Phase::Aborting { .. } | Phase::Retiring { .. } | Phase::Killed { .. } => {}
        }
    }

    fn retire(&mut self, now: u64, index: usize, within: u64, actions: &mut Vec<Action>) {
        let w = &mut self.workers[index];
        // A little longer than it is told, so that one that keeps its time is never killed.
        let until = now + within + KILL_AGAIN;
        w.phase = Phase::Retiring { until };
        actions.push(Action::Retire {
            ring: w.ring,
            within,
        });
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
        if standstill >= hung && w.phase == Phase::Ready {
            w.phase = Phase::Aborting {
                until: now + ABORTING,
            };
            actions.push(Action::Abort { ring, standstill });
        }
    }

    fn tick(&mut self, now: u64, actions: &mut Vec<Action>) {
        self.last_tick = now;
        for index in 0..self.workers.len() {
            let w = self.workers[index];
            if w.due().is_none_or(|due| due > now) {
                continue;
            }
            match w.phase {
                Phase::Waiting { .. } => self.spawn(now, index, actions),
                Phase::Starting { .. } => {
                    self.kill(now, w.ring, "it was not ready in time", actions);
                }
                Phase::Ready => {
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
                Phase::Ready if !fast => {
                    self.retire(now, index, self.patience.retire, actions);
                }
                Phase::Retiring { .. } if !fast => {}
                Phase::Killed { .. } | Phase::Waiting { .. } => {}
                Phase::Ready
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

impl Worker {
    #[must_use]
    pub fn has_process(&self) -> bool {
        !matches!(self.phase, Phase::Waiting { .. })
    }

    fn due(&self) -> Option<u64> {
        match self.phase {
            Phase::Waiting { at: until }
            | Phase::Starting { until }
            | Phase::Aborting { until }
            | Phase::Retiring { until }
            | Phase::Killed { until } => Some(until),
            Phase::Ready => self.orphaned,
        }
    }
}

#[cfg(test)]
#[path = "supervise_tests.rs"]
mod tests;
