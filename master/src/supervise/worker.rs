//! One worker, as far as its life goes.

use protocol::ids::Seat;

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
    /// It is to go, and gives its connections away; they must be gone by then.
    Parting {
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

/// What a new brain must know of a worker besides its [`Part`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// It was told to retire.
    pub retires: bool,
    /// Brain after brain of it died: it serves nobody.
    pub evacuates: bool,
    /// It had taken over, and gives back. If it cannot, it retires.
    pub yields: bool,
}

/// One worker, or the place of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worker {
    pub seat: Seat,
    pub part: Part,
    pub phase: Phase,
    /// The number of its ring, which names it as long as it has a process.
    pub ring: u16,
    pub marks: Marks,
    /// It has been ready, so that it may have connections.
    pub(super) served: bool,
    /// By then its connections must be gone.
    pub(super) leave_by: Option<u64>,
    /// Turns of its loop when they were last seen to move, and when that was.
    pub(super) turns: u64,
    pub(super) moved: u64,
    /// Its guard is dead; its brain must have become one by then.
    pub(super) orphaned: Option<u64>,
}

impl Worker {
    /// One that is yet to be started.
    pub(super) fn new(now: u64, seat: Seat, part: Part) -> Worker {
        Worker {
            seat,
            part,
            phase: Phase::Waiting { at: now },
            ring: 0,
            marks: Marks::default(),
            served: false,
            leave_by: None,
            turns: 0,
            moved: now,
            orphaned: None,
        }
    }

    #[must_use]
    pub fn has_process(&self) -> bool {
        !matches!(self.phase, Phase::Waiting { .. })
    }

    /// It is a holder, or would be again if it were not to go.
    pub(super) fn could_stay(&self) -> bool {
        let lives = match self.phase {
            Phase::Starting { .. }
            | Phase::Ready
            | Phase::Aborting { .. }
            | Phase::Parting { .. } => self.served,
            Phase::Waiting { .. } | Phase::Retiring { .. } | Phase::Killed { .. } => false,
        };
        lives && !self.marks.evacuates
    }

    /// It does not go, but serves its seat.
    pub(super) fn stay(&mut self) {
        self.part = Part::Holder;
        self.marks.yields = false;
        self.leave_by = None;
        if matches!(self.phase, Phase::Parting { .. }) {
            self.phase = Phase::Ready;
        }
    }

    pub(super) fn due(&self) -> Option<u64> {
        match self.phase {
            Phase::Waiting { at: until }
            | Phase::Starting { until }
            | Phase::Aborting { until }
            | Phase::Retiring { until }
            | Phase::Killed { until } => Some(until),
            Phase::Parting { until } => Some(self.orphaned.map_or(until, |by| by.min(until))),
            Phase::Ready => self.orphaned,
        }
    }
}
