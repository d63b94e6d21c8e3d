//! One back end: what waits to be asked, what has been asked, and what is done when it does not
//! answer. No socket, no clock: its caller opens, writes and reads its exchanges' connections.
//!
//! A question waits in the queue until an exchange is free, which then asks as many as fit into one
//! request. So under load many questions share a request, and alone each goes at once. What a lost
//! connection had been asked goes back to the queue, as long as its time lasts: to be asked twice
//! harms nobody. When a question's time is over, the hook's `fail` decides it.

use std::collections::VecDeque;

use protocol::ids::Cid;
use protocol::settings::Hook;

use super::answer::{self, Answer, Limits};
use super::breaker::Breaker;
use super::question::{self, Question};
use super::response::{Reply, Response};

/// Bytes of questions that wait, whatever `queue` says.
const QUEUED_BYTES: usize = 8 << 20;
/// Bytes of an answer, for each question, besides the data that may be in it.
const PER_ANSWER: usize = 8 << 10;
/// Bytes of an answer's body, and at most.
const BODY: usize = 16 << 10;
const LARGEST_BODY: usize = 16 << 20;
/// Between two attempts to reach a back end that cannot be reached: at first, and at most.
const RETRY_MS: u64 = 10;
const LONGEST_RETRY_MS: u64 = 500;
/// Failures are said once in so long, and how many there were.
const SAY_EVERY_MS: u64 = 10_000;

/// What has become of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Said(Answer),
    /// It was not answered: the hook's `fail` decides.
    Failed,
}

/// The outcome, for the one that asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub cid: Cid,
    pub slot: u32,
    pub offset: u64,
    pub outcome: Outcome,
}

impl Told {
    fn new(question: &Question, outcome: Outcome) -> Told {
        Told {
            cid: question.cid,
            slot: question.slot,
            offset: question.offset,
            outcome,
        }
    }
}

/// One connection to the back end, as far as it matters here.
#[derive(Debug)]
enum Exchange {
    /// There is none.
    Closed,
    /// It can be used again.
    Idle,
    Busy(Busy),
}

#[derive(Debug)]
struct Busy {
    request: Vec<u8>,
    written: usize,
    /// In the order of their time.
    asked: Vec<Question>,
    /// So many of them are decided: their time is over.
    expired: usize,
    began: u64,
    /// The connection had been used before: that it is gone now is nobody's fault.
    reused: bool,
    response: Response,
}

/// All that is asked, or to be asked, of one back end.
#[derive(Debug)]
pub struct Desk {
    hook: Hook,
    limits: Limits,
    /// In the order of their time.
    queue: VecDeque<Question>,
    queued_bytes: usize,
    exchanges: Vec<Exchange>,
    breaker: Breaker,
    /// No new connection before, and how long the next wait is.
    retry_at: u64,
    retry_ms: u64,
    said_at: Option<u64>,
    unsaid: u64,
}

impl Desk {
    #[must_use]
    pub fn new(hook: Hook, limits: Limits) -> Desk {
        let exchanges = (0..hook.in_flight).map(|_| Exchange::Closed).collect();
        Desk {
            hook,
            limits,
            queue: VecDeque::new(),
            queued_bytes: 0,
            exchanges,
            breaker: Breaker::default(),
            retry_at: 0,
            retry_ms: RETRY_MS,
            said_at: None,
            unsaid: 0,
        }
    }

    #[must_use]
    pub fn hook(&self) -> &Hook {
        &self.hook
    }

    /// Takes a question; `false`: it is not asked, and `fail` decides at once.
    pub fn ask(&mut self, question: Question, now: u64) -> bool {
        let bytes = self.queued_bytes + question.json.len();
        if self.queue.len() >= self.hook.queue || bytes > QUEUED_BYTES && !self.queue.is_empty() {
            self.complain(now, "too many questions wait for it");
            return false;
        }
        if !self.breaker.admits(now) {
            self.complain(now, "it is down");
            return false;
        }
        self.queued_bytes = bytes;
        self.queue.push_back(question);
        true
    }

    /// A free exchange, with a request to be written; to be called until there is none.
    pub fn begin(&mut self, now: u64) -> Option<usize> {
        if !self.is_due(now) {
            return None;
        }
        let ix = self.free(now)?;
        let count = question::fit(self.queue.iter(), self.hook.batch);
        let asked: Vec<Question> = self.queue.drain(..count).collect();
        self.queued_bytes -= asked.iter().map(|q| q.json.len()).sum::<usize>();
        let reused = matches!(self.exchanges[ix], Exchange::Idle);
        let each = PER_ANSWER + self.limits.rooms.max_data;
        self.exchanges[ix] = Exchange::Busy(Busy {
            request: question::request(&self.hook, &asked),
            written: 0,
            expired: 0,
            began: now,
            reused,
            response: Response::new((BODY + each * count).min(LARGEST_BODY)),
            asked,
        });
        Some(ix)
    }

    /// Does the first of the queue wait for nothing but a connection?
    fn is_due(&self, now: u64) -> bool {
        self.due_at().is_some_and(|at| at <= now)
    }

    fn due_at(&self) -> Option<u64> {
        let first = self.queue.front()?;
        Some(match self.queue.len() >= self.hook.batch {
            true => first.asked,
            false => first.asked + self.hook.wait_ms,
        })
    }

    fn free(&self, now: u64) -> Option<usize> {
        let idle = (self.exchanges.iter()).position(|e| matches!(e, Exchange::Idle));
        idle.or_else(|| {
            let recovers = self.retry_ms > RETRY_MS || !self.breaker.is_up();
            let is_tried = || (self.exchanges.iter()).any(|e| matches!(e, Exchange::Busy(_)));
            // Of a back end that could not be reached only one connection is tried.
            if self.retry_at > now || recovers && is_tried() {
                return None;
            }
            (self.exchanges.iter()).position(|e| matches!(e, Exchange::Closed))
        })
    }

    /// What is left to be written; empty: nothing.
    #[must_use]
    pub fn unwritten(&self, ix: usize) -> &[u8] {
        match &self.exchanges[ix] {
            Exchange::Busy(busy) => &busy.request[busy.written..],
            Exchange::Closed | Exchange::Idle => b"",
        }
    }

    pub fn wrote(&mut self, ix: usize, n: usize) {
        if let Exchange::Busy(busy) = &mut self.exchanges[ix] {
            busy.written += n;
        }
    }

    /// Bytes have come. `false`: the connection is to be closed.
    pub fn received(&mut self, ix: usize, bytes: &[u8], now: u64, told: &mut Vec<Told>) -> bool {
        let Exchange::Busy(busy) = &mut self.exchanges[ix] else {
            // Nobody has asked.
            self.exchanges[ix] = Exchange::Closed;
            return false;
        };
        match busy.response.read(bytes) {
            Ok(None) => true,
            Ok(Some(reply)) => self.replied(ix, &reply, now, told),
            Err(broken) => {
                self.give_up(ix, broken.as_str(), now, told);
                false
            }
        }
    }

    /// The connection has ended, or could not be opened.
    pub fn lost(&mut self, ix: usize, why: &str, now: u64, told: &mut Vec<Told>) {
        let Exchange::Busy(busy) = &mut self.exchanges[ix] else {
            self.exchanges[ix] = Exchange::Closed;
            return;
        };
        if let Ok(reply) = busy.response.end() {
            self.replied(ix, &reply, now, told);
            return;
        }
        let is_fault = !(busy.reused && busy.response.is_empty());
        let began = busy.began;
        self.ask_again(ix);
        if is_fault {
            self.retry_at = now + self.retry_ms;
            self.retry_ms = (self.retry_ms * 2).min(LONGEST_RETRY_MS);
            self.failed(why, began, now, told);
        }
    }

    /// What is not decided of it goes back to the queue.
    fn ask_again(&mut self, ix: usize) {
        if let Exchange::Busy(busy) = std::mem::replace(&mut self.exchanges[ix], Exchange::Closed) {
            for question in busy.asked.into_iter().skip(busy.expired).rev() {
                self.queued_bytes += question.json.len();
                self.queue.push_front(question);
            }
            // Seen: older ones of another exchange may have come back before.
            let queue = self.queue.make_contiguous();
            queue.sort_by_key(|question| question.asked);
        }
    }

    /// `false`: the connection is to be closed.
    fn replied(&mut self, ix: usize, reply: &Reply, now: u64, told: &mut Vec<Told>) -> bool {
        let Exchange::Busy(busy) = &self.exchanges[ix] else {
            return false;
        };
        if reply.status != 200 {
            let why = format!("it has answered {}", reply.status);
            self.give_up(ix, &why, now, told);
            return false;
        }
        let answers = match answer::parse(&reply.body, busy.asked.len(), &self.limits) {
            Ok(answers) => answers,
            Err(misunderstood) => {
                self.give_up(ix, &misunderstood.to_string(), now, told);
                return false;
            }
        };
        let keep = reply.keep && busy.written == busy.request.len();
        let next = if keep {
            Exchange::Idle
        } else {
            Exchange::Closed
        };
        let Exchange::Busy(busy) = std::mem::replace(&mut self.exchanges[ix], next) else {
            return false;
        };
        for (question, answer) in busy.asked.iter().zip(answers).skip(busy.expired) {
            let outcome = match answer {
                Some(Ok(answer)) => Outcome::Said(answer),
                Some(Err(misunderstood)) => {
                    self.complain(now, &misunderstood.to_string());
                    Outcome::Failed
                }
                None => {
                    self.complain(now, "it has not answered all that was asked");
                    Outcome::Failed
                }
            };
            told.push(Told::new(question, outcome));
        }
        (self.retry_at, self.retry_ms) = (0, RETRY_MS);
        if self.breaker.answered() {
            log::warn!("hook {}: it answers again", self.hook);
        }
        keep
    }

    /// What it was asked is decided without an answer.
    fn give_up(&mut self, ix: usize, why: &str, now: u64, told: &mut Vec<Told>) {
        if let Exchange::Busy(busy) = std::mem::replace(&mut self.exchanges[ix], Exchange::Closed) {
            let undecided = &busy.asked[busy.expired..];
            told.extend(undecided.iter().map(|q| Told::new(q, Outcome::Failed)));
            self.failed(why, busy.began, now, told);
        }
    }

    fn failed(&mut self, why: &str, began: u64, now: u64, told: &mut Vec<Told>) {
        if self.breaker.failed(began, now, self.hook.timeout_ms) {
            let decided = self.decided();
            log::error!(
                "hook {}: it is down: {why}; what it is asked is {decided}",
                self.hook
            );
        } else {
            self.complain(now, why);
        }
        if !self.breaker.is_up() {
            let waiting = self.queue.drain(..);
            told.extend(waiting.map(|q| Told::new(&q, Outcome::Failed)));
            self.queued_bytes = 0;
        }
    }

    /// Time has passed. Exchanges of which nothing is waited for any more are to be closed.
    pub fn tick(&mut self, now: u64, told: &mut Vec<Told>) -> Vec<usize> {
        let timeout = self.hook.timeout_ms;
        let is_over = |question: &Question| question.asked + timeout <= now;
        let mut late = None;
        while let Some(question) = self.queue.pop_front_if(|question| is_over(question)) {
            self.queued_bytes -= question.json.len();
            late.get_or_insert(question.asked);
            told.push(Told::new(&question, Outcome::Failed));
        }
        let mut over = Vec::new();
        for (ix, exchange) in self.exchanges.iter_mut().enumerate() {
            let Exchange::Busy(busy) = exchange else {
                continue;
            };
            let expired = busy.expired;
            while let Some(question) = busy.asked.get(busy.expired).filter(|q| is_over(q)) {
                told.push(Told::new(question, Outcome::Failed));
                busy.expired += 1;
            }
            if busy.expired > expired {
                late.get_or_insert(busy.began);
            }
            if busy.expired == busy.asked.len() {
                *exchange = Exchange::Closed;
                over.push(ix);
            }
        }
        if let Some(began) = late {
            self.failed("it has not answered in time", began, now, told);
        }
        over
    }

    /// When [`tick`](Desk::tick) or [`begin`](Desk::begin) has something to do, without an event.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        let timeout = self.hook.timeout_ms;
        let undecided = |exchange: &Exchange| match exchange {
            Exchange::Busy(busy) => busy.asked.get(busy.expired).map(|q| q.asked + timeout),
            Exchange::Closed | Exchange::Idle => None,
        };
        let queued = self.queue.front().map(|q| q.asked + timeout);
        let due = self.due_at().filter(|_| self.free(u64::MAX).is_some());
        let due = due.map(|at| at.max(self.retry_at));
        let busy = self.exchanges.iter().filter_map(undecided);
        busy.chain(queued).chain(due).min()
    }

    fn decided(&self) -> &'static str {
        match self.hook.fail {
            protocol::settings::Fail::Open => "allowed",
            protocol::settings::Fail::Closed => "refused",
        }
    }

    /// Says what went wrong, if that has not been said just now.
    fn complain(&mut self, now: u64, why: &str) {
        if self.said_at.is_some_and(|at| now < at + SAY_EVERY_MS) {
            self.unsaid += 1;
            return;
        }
        self.said_at = Some(now);
        let more = match std::mem::take(&mut self.unsaid) {
            0 => String::new(),
            n => format!(" (and {n} times more before)"),
        };
        log::warn!("hook {}: {why}{more}", self.hook);
    }
}

#[cfg(test)]
#[path = "desk_tests.rs"]
mod tests;
