//! How a worker leaves its seat: its connections move first (`Parting`), then it retires, having
//! none. If they cannot be moved, it stays.

use protocol::ids::Seat;

use super::{Action, News, Part, Phase, Supervisor, Worker};

impl Supervisor {
    /// This worker is not wanted any more.
    pub(super) fn dismiss(&mut self, now: u64, index: usize, actions: &mut Vec<Action>) {
        self.workers[index].part = Part::Leaver;
        match self.workers[index].phase {
            Phase::Waiting { .. } => {
                let seat = self.workers.remove(index).seat;
                actions.push(Action::Tell(News::Left(seat)));
            }
            Phase::Ready => self.let_part(now, index, actions),
            Phase::Starting { .. } if !self.workers[index].served => {
                let ring = self.workers[index].ring;
                self.kill(now, ring, "it is not wanted any more", actions);
            }
            // Its next brain gives away what it has.
            Phase::Starting { .. }
            | Phase::Aborting { .. }
            | Phase::Parting { .. }
            | Phase::Retiring { .. }
            | Phase::Killed { .. } => {}
        }
    }

    /// Its connections are moved, from now on or (it is its next brain) again.
    pub(super) fn let_part(&mut self, now: u64, index: usize, actions: &mut Vec<Action>) {
        if self.stopping {
            return self.retire(now, index, self.patience.retire, actions);
        }
        let w = &mut self.workers[index];
        let until = *w.leave_by.get_or_insert(now + self.patience.moving);
        w.phase = Phase::Parting { until };
    }

    /// It has no connection any more.
    pub(super) fn parted(&mut self, now: u64, ring: u16, actions: &mut Vec<Action>) {
        if let Some(index) = self.index(ring)
            && matches!(self.workers[index].phase, Phase::Parting { .. })
        {
            self.retire(now, index, self.patience.retire, actions);
        }
    }

    pub(super) fn retire(
        &mut self,
        now: u64,
        index: usize,
        within: u64,
        actions: &mut Vec<Action>,
    ) {
        let w = &mut self.workers[index];
        // A little longer than it is told, so that one that keeps its time is never killed.
        let until = now + within + super::KILL_AGAIN;
        w.phase = Phase::Retiring { until };
        w.marks.retires = true;
        actions.push(Action::Retire {
            ring: w.ring,
            within,
        });
    }

    /// Its connections cannot be moved: it stays, and who was to take its seat gives back what it
    /// has. Who can neither go nor stay lets its clients go.
    pub(super) fn stuck(&mut self, now: u64, index: usize, why: String, actions: &mut Vec<Action>) {
        let Worker { seat, marks, .. } = self.workers[index];
        if marks.evacuates || marks.yields {
            actions.push(Action::Tell(News::LetGo { seat, why }));
            return self.retire(now, index, self.patience.retire, actions);
        }
        match self.holder(seat) {
            Some(new) => self.take_seat_back(now, index, new, why, actions),
            None => {
                self.workers[index].stay();
                actions.push(Action::Tell(News::Stayed { seat, why }));
            }
        }
    }

    /// The old worker of a seat is its holder again; the new one is to go.
    fn take_seat_back(
        &mut self,
        now: u64,
        old: usize,
        new: usize,
        why: String,
        actions: &mut Vec<Action>,
    ) {
        let seat = self.workers[old].seat;
        self.workers[old].stay();
        let w = &mut self.workers[new];
        w.marks.yields = true;
        // If it hangs, it is helped first.
        w.leave_by = Some(now + self.patience.hung + self.patience.moving);
        actions.push(Action::Tell(News::ReliefFailed { seat, why }));
        // The last thing, since it may remove the new one from the list.
        self.dismiss(now, new, actions);
    }

    /// Brain after brain of it died: it serves nobody, and its connections go to another worker.
    pub(super) fn evacuate(&mut self, now: u64, ring: u16, actions: &mut Vec<Action>) {
        let Some(index) = self.index(ring) else {
            return;
        };
        let w = &mut self.workers[index];
        let (seat, part, again) = (w.seat, w.part, w.marks.evacuates);
        w.orphaned = None;
        w.moved = now;
        if self.stopping || matches!(w.phase, Phase::Retiring { .. } | Phase::Killed { .. }) {
            return;
        }
        w.marks.evacuates = true;
        if part == Part::Relief {
            return self.kill(now, ring, "its brains died, one after the other", actions);
        }
        w.part = Part::Leaver;
        self.let_part(now, index, actions);
        if again || part == Part::Leaver {
            return;
        }
        let why = "its brains died, one after the other";
        let old = |w: &Worker| w.seat == seat && w.part == Part::Leaver && w.could_stay();
        let others = |w: &Worker| w.part == Part::Holder && w.phase == Phase::Ready;
        if let Some(old) = self.workers.iter().position(old) {
            self.take_seat_back(now, old, index, why.to_owned(), actions);
        } else if self.workers.iter().any(others) {
            self.given_up |= bit(seat);
            actions.push(Action::Tell(News::GivenUp(seat)));
        } else {
            // There is nobody to take them but a fresh worker, which must come up first.
            let more = self.patience.ready;
            let w = &mut self.workers[index];
            w.leave_by = w.leave_by.map(|by| by + more);
            self.let_part(now, index, actions);
            self.add(now, seat, Part::Holder, actions);
        }
    }

    /// Of a worker that is gone and held its seat: one that was about to leave it takes it back.
    pub(super) fn reseat(&mut self, seat: Seat) -> bool {
        let old = |w: &&mut Worker| w.seat == seat && w.part == Part::Leaver && w.could_stay();
        let old = self.workers.iter_mut().find(old);
        old.map(Worker::stay).is_some()
    }

    pub(super) fn holder(&self, seat: Seat) -> Option<usize> {
        self.workers
            .iter()
            .position(|w| w.seat == seat && w.part == Part::Holder)
    }
}

pub(super) fn bit(seat: Seat) -> u64 {
    1u64.checked_shl(u32::from(seat.0) - 1).unwrap_or(0)
}
