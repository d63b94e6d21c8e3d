//! What the worker shows of itself to the master: words in its ring's header ([`row`]). They outlive
//! the brain, and the next one counts on.

use std::sync::atomic::{AtomicU64, Ordering};

use protocol::clock::monotonic_us;
use protocol::close::CloseReason;
use protocol::histogram;
use protocol::row::{self, Figure, GAPS};

use crate::brain::Brain;
use crate::state::Head;

impl Brain {
    #[must_use]
    pub fn figure(&self, figure: Figure) -> &AtomicU64 {
        self.ring_segment.word(figure.word())
    }

    pub(crate) fn count(&self, figure: Figure) {
        self.figure(figure).fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_close(&self, reason: CloseReason) {
        let word = Figure::Closes.word() + reason as usize;
        let words = self.ring_segment.word(word);
        words.fetch_add(1, Ordering::Relaxed);
    }

    fn gap_figures(&self) -> &[AtomicU64] {
        self.ring_segment.words(Figure::Gaps.word(), GAPS)
    }

    /// For a new brain: it counts on from where the last one was.
    pub(crate) fn take_up_figures(&mut self) {
        let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
        self.deliveries = load(self.figure(Figure::Deliveries));
        self.messages_in = load(self.figure(Figure::MessagesIn));
        let gaps = self.gap_figures().iter().map(load).collect::<Vec<_>>();
        self.gaps.copy_from_slice(&gaps);
        if self.life.number > 1 {
            self.count(Figure::Recoveries);
        }
    }

    /// To be called at the end of each turn.
    pub(crate) fn show_figures(&self) {
        for (figure, value) in [
            (Figure::Connections, self.slots.live().into()),
            (Figure::Rooms, self.rooms.held().into()),
            (Figure::LogRead, self.state.get(Head::LogRead)),
            (Figure::Lagging, self.lagging.len() as u64),
            (Figure::RingWaiting, self.ring_waiters.len() as u64),
            (Figure::Arena, self.arena.used_bytes() as u64),
            (Figure::MessagesIn, self.messages_in),
            (Figure::Deliveries, self.deliveries),
        ] {
            self.figure(figure).store(value, Ordering::Relaxed);
        }
        for (word, count) in self.gap_figures().iter().zip(self.gaps) {
            word.store(count, Ordering::Relaxed);
        }
        if let Some(hooks) = &self.hooks {
            hooks.show(|figure| self.figure(figure));
        }
    }

    /// Before the log is read: a place in it that has not been read, of which the master says when it
    /// was written.
    pub(crate) fn look_at_stamp(&mut self) {
        if self.stamp.is_none() {
            let [place, when] = [0, 1].map(|i| self.log_segment.word(row::STAMP + i));
            let at = place.load(Ordering::Acquire);
            if at >= self.turn.from {
                let stamp = (at, when.load(Ordering::Acquire));
                // One that is being changed will be there the next time.
                self.stamp = (place.load(Ordering::Acquire) == at).then_some(stamp);
            }
        }
    }

    /// A connection is taken that was accepted then.
    pub(crate) fn has_taken_over(&self, accepted_us: u64) {
        let words = self
            .ring_segment
            .words(Figure::Handoff.word(), histogram::WORDS);
        histogram::observe(words, monotonic_us().saturating_sub(accepted_us));
    }

    /// What was read of the log in this turn has gone to the sockets, or waits for them.
    pub(crate) fn has_delivered(&mut self) {
        if let Some((_, when)) = self.stamp.take_if(|(at, _)| *at < self.turn.read) {
            let words = self
                .ring_segment
                .words(Figure::Delivery.word(), histogram::WORDS);
            histogram::observe(words, monotonic_us().saturating_sub(when));
        }
    }
}
