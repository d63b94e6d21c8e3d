//! Back ends of the user's that are asked, over HTTP, whether something may happen.
//!
//! Nothing of it is kept for the next brain, and nothing need be: a request that is asked about is
//! left unread in its connection's input, as if it had not come yet. When the answer is there, it is
//! read again, and the answer is found by the connection and the place in its input. So the next
//! brain, or another worker after a move, reads the request and asks about it, perhaps once more; it
//! happens once. What the connection sends behind it waits, and order is kept.
//!
//! Read in this order: this file (who waits for which answer), `consult` (what connections do with
//! it), [`desk`] (one back end: queue, time-outs, retries; [`breaker`]: when it is down),
//! [`question`], [`response`] and [`answer`] (what goes over the wire), `lines` (the sockets).

pub mod answer;
pub mod breaker;
pub(crate) mod consult;
pub mod desk;
mod lines;
pub mod question;
pub mod response;

use std::sync::atomic::{AtomicU64, Ordering};

use mio::{Registry, Token};
use protocol::ids::Cid;
use protocol::row::Figure;
use protocol::settings::{Event, Fail, Settings};
use rustc_hash::FxHashMap;

use self::answer::{Answer, Limits};
use self::desk::{Desk, Outcome, Told};
use self::lines::Line;
use self::question::{Asker, Question, Subject};

/// Bytes of answers that are held for requests that are still to be read again. What is above is
/// forgotten, and asked again.
const HELD_BYTES: usize = 16 << 20;

/// What is known about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody is to be asked.
    Free,
    /// It has been asked, and is to be read again.
    Waits,
    Said(Answer),
    /// Without an answer it is refused.
    Unavailable,
}

/// A connection that waits for an answer, or for its turn to read it.
#[derive(Debug)]
struct Waiting {
    offset: u64,
    desk: usize,
    outcome: Option<Outcome>,
}

/// How often.
#[derive(Clone, Copy, Debug)]
struct Counts {
    asked: u64,
    denied: u64,
    failed: u64,
}

/// All back ends, and who waits for them.
#[derive(Debug)]
pub struct Hooks {
    desks: Vec<Desk>,
    lines: Vec<Line>,
    /// Each connection waits for one answer at most.
    waiting: FxHashMap<Cid, Waiting>,
    held_bytes: usize,
    counts: Counts,
}

impl Hooks {
    /// `None`: nobody is ever asked. Counts go on from those of the brain before.
    pub fn new<'a>(
        settings: &Settings,
        figure: impl Fn(Figure) -> &'a AtomicU64,
    ) -> Option<Box<Hooks>> {
        let count = |name| figure(name).load(Ordering::Relaxed);
        let limits = Limits {
            rooms: settings.rooms.clone(),
            rights: settings.auth.rights,
        };
        let hooks = settings.hooks.iter().cloned();
        let desks: Vec<Desk> = hooks.map(|hook| Desk::new(hook, limits.clone())).collect();
        let lines = (desks.iter().enumerate())
            .flat_map(|(desk, of)| (0..of.hook().in_flight).map(move |ix| Line::new(desk, ix)))
            .collect();
        (!desks.is_empty()).then(|| {
            Box::new(Hooks {
                desks,
                lines,
                waiting: FxHashMap::default(),
                held_bytes: 0,
                counts: Counts {
                    asked: count(Figure::HookAsked),
                    denied: count(Figure::HookDenied),
                    failed: count(Figure::HookFailed),
                },
            })
        })
    }

    /// Puts its counts where the master sees them.
    pub fn show<'a>(&self, figure: impl Fn(Figure) -> &'a AtomicU64) {
        for (name, count) in [
            (Figure::HookAsked, self.counts.asked),
            (Figure::HookDenied, self.counts.denied),
            (Figure::HookFailed, self.counts.failed),
            (Figure::HookWaiting, self.waiting.len() as u64),
        ] {
            figure(name).store(count, Ordering::Relaxed);
        }
    }

    /// Is this connection's input held back for an answer?
    #[must_use]
    pub fn is_asked(&self, cid: Cid) -> bool {
        let waiting = self.waiting.get(&cid);
        waiting.is_some_and(|waiting| waiting.outcome.is_none())
    }

    /// Has this very request been asked about?
    #[must_use]
    pub fn knows(&self, cid: Cid, offset: u64) -> bool {
        let waiting = self.waiting.get(&cid);
        waiting.is_some_and(|waiting| waiting.offset == offset)
    }

    /// What is known about the request; if somebody is to be asked, that is done.
    pub fn consult(&mut self, asker: Asker<'_>, subject: Subject<'_>, now: u64) -> Verdict {
        let Asker { cid, offset, .. } = asker;
        if let Some(waiting) = self.waiting.get(&cid).filter(|w| w.offset == offset) {
            return match &waiting.outcome {
                None => Verdict::Waits,
                Some(Outcome::Said(answer)) => Verdict::Said(answer.clone()),
                Some(Outcome::Failed) => self.without_answer(waiting.desk),
            };
        }
        let Some(desk) = self.whom(subject.event(), subject.room()) else {
            return Verdict::Free;
        };
        self.counts.asked += 1;
        if !self.desks[desk].ask(Question::new(asker, subject, now), now) {
            self.counts.failed += 1;
            return self.without_answer(desk);
        }
        let waiting = Waiting {
            offset,
            desk,
            outcome: None,
        };
        if let Some(before) = self.waiting.insert(cid, waiting) {
            self.held_bytes -= before.bytes();
        }
        Verdict::Waits
    }

    /// The first that is to be asked.
    fn whom(&self, event: Event, room: Option<&str>) -> Option<usize> {
        self.desks.iter().position(|desk| {
            let hook = desk.hook();
            hook.on.contains(&event) && room.is_none_or(|room| hook.rooms.matches(room.as_bytes()))
        })
    }

    fn without_answer(&self, desk: usize) -> Verdict {
        match self.desks[desk].hook().fail {
            Fail::Open => Verdict::Said(Answer::YES),
            Fail::Closed => Verdict::Unavailable,
        }
    }

    /// The connection has read its request again and gone on, or it is gone.
    pub fn forget(&mut self, cid: Cid) {
        if let Some(waiting) = self.waiting.remove(&cid) {
            self.held_bytes -= waiting.bytes();
        }
    }

    /// What has come of questions; returns the connections that can go on.
    fn tell(&mut self, told: Vec<Told>) -> Vec<(Cid, u32)> {
        let mut wake = Vec::new();
        for Told {
            cid,
            slot,
            offset,
            outcome,
        } in told
        {
            match &outcome {
                Outcome::Said(Answer::Deny { .. }) => self.counts.denied += 1,
                Outcome::Said(Answer::Allow { .. }) => {}
                Outcome::Failed => self.counts.failed += 1,
            }
            // It may be gone, or have asked something else.
            let Some(waiting) = self.waiting.get_mut(&cid).filter(|w| w.offset == offset) else {
                continue;
            };
            waiting.outcome = Some(outcome);
            self.held_bytes += waiting.bytes();
            if self.held_bytes > HELD_BYTES {
                self.forget(cid);
            }
            wake.push((cid, slot));
        }
        wake
    }

    /// An event of a connection to a back end.
    pub fn on_event(&mut self, registry: &Registry, token: Token, now: u64) -> Vec<(Cid, u32)> {
        let mut told = Vec::new();
        if let Some((line, generation)) = lines::place(token)
            && let Some(line) = self.lines.get_mut(line)
            && line.generation() == generation
        {
            let desk = &mut self.desks[line.desk];
            line.go_on(registry, desk, now, &mut told);
        }
        self.tell(told)
    }

    /// At the end of a turn: what was asked in it is sent, and what has waited for too long decided.
    pub fn turn(&mut self, registry: &Registry, now: u64) -> Vec<(Cid, u32)> {
        let mut told = Vec::new();
        let mut first = 0;
        for desk in &mut self.desks {
            let lines = &mut self.lines[first..first + desk.hook().in_flight];
            for ix in desk.tick(now, &mut told) {
                lines[ix].close(registry);
            }
            while let Some(ix) = desk.begin(now) {
                let token = lines::token(first + ix, lines[ix].generation());
                lines[ix].begin(registry, token, desk, now, &mut told);
            }
            first += lines.len();
        }
        self.tell(told)
    }

    /// When there is something to do without an event.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        self.desks.iter().filter_map(Desk::next).min()
    }
}

impl Waiting {
    fn bytes(&self) -> usize {
        match &self.outcome {
            Some(Outcome::Said(answer)) => answer.size(),
            Some(Outcome::Failed) | None => 0,
        }
    }
}

#[cfg(test)]
mod tests;
