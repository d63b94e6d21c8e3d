//! Which workers are to be there: reload and scale, one at a time. Orders and news of the
//! [`Supervisor`](crate::supervise::Supervisor) in, steps out.
//!
//! A reload relieves one seat at a time, the new worker before the old one: start → ready → the old
//! one's connections move to it → the old one ends → next seat. If a new one fails, or cannot take
//! them, the reload ends there and the old one serves on. Fewer workers: those that go give their
//! connections away first; if they cannot, they stay. More: then all get their share.
//! A reload during a reload joins one queued run, scaling queues behind it, an upgrade of the master
//! behind all; a stop wins over all.

use std::collections::VecDeque;
use std::fmt;

use protocol::ids::Seat;

use crate::config::MAX_WORKERS;
use crate::supervise::News;

/// Who waits for the result of an order; numbered by the caller.
pub type Ticket = u64;

/// What can be ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Reload,
    Scale(u16),
    /// One more than there are to be by then.
    More,
    Fewer,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Order::Reload => f.write_str("the reload"),
            Order::Scale(1) => f.write_str("scaling to 1 worker"),
            Order::Scale(workers) => write!(f, "scaling to {workers} workers"),
            Order::More => f.write_str("one worker more"),
            Order::Fewer => f.write_str("one worker fewer"),
        }
    }
}

/// What the caller does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read the configuration and the worker's program anew; answered by [`Orders::prepared`].
    Prepare,
    /// What was prepared serves: it is what workers are started with from now on.
    Adopt,
    /// The master's program may be replaced: nothing else is under way, nor is to be. If it is not,
    /// [`Orders::stayed`] follows.
    GiveWay,
    /// Every worker is to have its share of the connections; answered by [`Orders::balanced`].
    EvenOut,
    /// To the supervisor.
    Relieve(Seat),
    /// To the supervisor.
    Seats(u16),
    /// The order is done, or not, and why.
    Answer {
        tickets: Vec<Ticket>,
        result: Result<(), String>,
    },
}

/// What is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Run {
    Nothing,
    Preparing,
    /// The new worker of the first seat of `left` is coming up.
    Relieving {
        left: VecDeque<Seat>,
        wanted: u16,
    },
    /// The connections of the old one of that seat move, and it is on its way out.
    Leaving {
        left: VecDeque<Seat>,
        wanted: u16,
    },
    /// These seats are to be served, or left, for there to be `seats` instead of `before`.
    Scaling {
        before: u16,
        pending: Vec<Seat>,
        reload: bool,
    },
    /// There are more workers now.
    EveningOut {
        reload: bool,
    },
    /// The master's program is replaced.
    GivingWay,
    Stopped,
}

/// The order that runs, and those that wait.
#[derive(Debug)]
pub struct Orders {
    run: Run,
    tickets: Vec<Ticket>,
    /// How many seats there are, or will be when what runs is done.
    seats: u16,
    queued_reload: Option<Vec<Ticket>>,
    queued_scale: Option<(u16, Vec<Ticket>)>,
    queued_upgrade: bool,
}

impl Orders {
    /// With so many seats, all of them served.
    #[must_use]
    pub fn new(seats: u16) -> Orders {
        Orders {
            run: Run::Nothing,
            tickets: Vec::new(),
            seats,
            queued_reload: None,
            queued_scale: None,
            queued_upgrade: false,
        }
    }

    #[must_use]
    pub fn reloading(&self) -> bool {
        match self.run {
            Run::Preparing | Run::Relieving { .. } | Run::Leaving { .. } => true,
            Run::Scaling { reload, .. } | Run::EveningOut { reload } => reload,
            Run::Nothing | Run::GivingWay | Run::Stopped => false,
        }
    }

    /// The answer to [`Step::EvenOut`]: as far as can be.
    pub fn balanced(&mut self, steps: &mut Vec<Step>) {
        if matches!(self.run, Run::EveningOut { .. }) {
            self.end(Ok(()), steps);
        }
    }

    /// How many workers there are to be once all is done that has been ordered.
    #[must_use]
    pub fn wanted(&self) -> u16 {
        self.queued_scale.as_ref().map_or(self.seats, |(n, _)| *n)
    }

    pub fn ask(&mut self, order: Order, ticket: Ticket, steps: &mut Vec<Step>) {
        let refuse = |why: String, steps: &mut Vec<Step>| {
            steps.push(Step::Answer {
                tickets: vec![ticket],
                result: Err(why),
            });
        };
        if self.run == Run::Stopped {
            return refuse("baton stops".to_owned(), steps);
        }
        let n = match order {
            Order::Reload => {
                self.queued_reload.get_or_insert_default().push(ticket);
                return;
            }
            Order::Scale(n) => n,
            Order::More => self.wanted() + 1,
            Order::Fewer => self.wanted().saturating_sub(1),
        };
        if n == 0 {
            return refuse("there must be at least one worker".to_owned(), steps);
        }
        if n > MAX_WORKERS {
            return refuse(format!("there can be {MAX_WORKERS} workers at most"), steps);
        }
        if let Some((_, tickets)) = self.queued_scale.take() {
            steps.push(Step::Answer {
                tickets,
                result: Err(format!("overtaken by a later order of {n} workers")),
            });
        }
        self.queued_scale = Some((n, vec![ticket]));
    }

    /// Begins what is queued, if nothing is under way. To be called when the supervisor has
    /// [settled](crate::supervise::Supervisor::is_settled): what failed, or was cut off by the death
    /// of a brain, comes to its end first.
    pub fn begin(&mut self, steps: &mut Vec<Step>) {
        if self.run != Run::Nothing {
            return;
        }
        if let Some(tickets) = self.queued_reload.take() {
            self.tickets = tickets;
            self.run = Run::Preparing;
            steps.push(Step::Prepare);
        } else if let Some((n, tickets)) = self.queued_scale.take() {
            self.tickets = tickets;
            self.scale(n, false, steps);
        } else if std::mem::take(&mut self.queued_upgrade) {
            self.run = Run::GivingWay;
            steps.push(Step::GiveWay);
        }
    }

    /// Asks for [`Step::GiveWay`], behind all other orders.
    pub fn upgrade(&mut self) {
        self.queued_upgrade = self.run != Run::Stopped;
    }

    /// The master's program is not replaced.
    pub fn stayed(&mut self) {
        self.queued_upgrade = false;
        if self.run == Run::GivingWay {
            self.run = Run::Nothing;
        }
    }

    /// The answer to [`Step::Prepare`]: how many workers the new configuration wants.
    pub fn prepared(&mut self, result: Result<u16, String>, steps: &mut Vec<Step>) {
        if self.run != Run::Preparing {
            return;
        }
        match result {
            Ok(wanted) => {
                let left = (1..=self.seats).map(Seat).collect();
                self.relieve(left, wanted, steps);
            }
            Err(why) => self.end(Err(why), steps),
        }
    }

    pub fn news(&mut self, news: &News, steps: &mut Vec<Step>) {
        let run = std::mem::replace(&mut self.run, Run::Nothing);
        self.run = match (run, news) {
            (Run::Relieving { left, wanted }, News::Seated(seat)) if left.front() == Some(seat) => {
                Run::Leaving { left, wanted }
            }
            (
                Run::Relieving { left, .. } | Run::Leaving { left, .. },
                News::ReliefFailed { seat, why },
            ) if left.front() == Some(seat) => {
                return self.end(Err(failed(*seat, why, self.seats)), steps);
            }
            (Run::Leaving { mut left, wanted }, News::Left(seat)) if left.front() == Some(seat) => {
                if *seat == Seat(1) {
                    steps.push(Step::Adopt);
                }
                left.pop_front();
                return self.relieve(left, wanted, steps);
            }
            (
                Run::Scaling {
                    before,
                    mut pending,
                    reload,
                },
                News::Seated(seat) | News::Left(seat),
            ) => {
                pending.retain(|s| s != seat);
                if pending.is_empty() && self.seats > before {
                    steps.push(Step::EvenOut);
                    Run::EveningOut { reload }
                } else if pending.is_empty() {
                    return self.end(Ok(()), steps);
                } else {
                    Run::Scaling {
                        before,
                        pending,
                        reload,
                    }
                }
            }
            // One that was to come cannot, or one that was to go: all stays as it was.
            (
                Run::Scaling {
                    before, pending, ..
                },
                News::Again { seat, why, .. },
            ) if pending.contains(seat) && seat.0 > before => {
                return self.unscale(before, *seat, why, steps);
            }
            (
                Run::Scaling {
                    before, pending, ..
                },
                News::Stayed { seat, why },
            ) if pending.contains(seat) => {
                return self.unscale(before, *seat, why, steps);
            }
            (
                Run::Scaling {
                    before, pending, ..
                },
                News::GivenUp(seat),
            ) if pending.contains(seat) && seat.0 > before => {
                return self.unscale(before, *seat, "it is given up", steps);
            }
            // It was to go, in an order that a brain before this one had.
            (Run::Nothing, News::Stayed { seat, .. }) => {
                self.seats = self.seats.max(seat.0);
                steps.push(Step::Seats(self.seats));
                Run::Nothing
            }
            (
                run @ (Run::Nothing
                | Run::Preparing
                | Run::Relieving { .. }
                | Run::Leaving { .. }
                | Run::Scaling { .. }
                | Run::EveningOut { .. }
                | Run::GivingWay
                | Run::Stopped),
                _,
            ) => run,
        };
    }

    /// All that was ordered is off.
    pub fn stop(&mut self, steps: &mut Vec<Step>) {
        self.run = Run::Stopped;
        self.queued_upgrade = false;
        let mut tickets = std::mem::take(&mut self.tickets);
        tickets.extend(self.queued_reload.take().into_iter().flatten());
        tickets.extend(self.queued_scale.take().into_iter().flat_map(|(_, t)| t));
        if !tickets.is_empty() {
            steps.push(Step::Answer {
                tickets,
                result: Err("baton stops".to_owned()),
            });
        }
    }

    /// The next seat, or, when all are done, as many as are wanted now.
    fn relieve(&mut self, left: VecDeque<Seat>, wanted: u16, steps: &mut Vec<Step>) {
        match left.front() {
            Some(seat) => {
                steps.push(Step::Relieve(*seat));
                self.run = Run::Relieving { left, wanted };
            }
            None => self.scale(wanted, true, steps),
        }
    }

    fn scale(&mut self, n: u16, reload: bool, steps: &mut Vec<Step>) {
        let before = self.seats;
        self.seats = n;
        if n == before {
            return match reload {
                true => self.end(Ok(()), steps),
                // It may be asked for once more, because it was cut off.
                false => {
                    self.run = Run::EveningOut { reload };
                    steps.push(Step::EvenOut);
                }
            };
        }
        let pending = (before.min(n) + 1..=before.max(n)).map(Seat).collect();
        self.run = Run::Scaling {
            before,
            pending,
            reload,
        };
        steps.push(Step::Seats(n));
    }

    fn unscale(&mut self, before: u16, seat: Seat, why: &str, steps: &mut Vec<Step>) {
        self.seats = before;
        steps.push(Step::Seats(before));
        self.end(Err(format!("{seat}: {why}")), steps);
    }

    fn end(&mut self, result: Result<(), String>, steps: &mut Vec<Step>) {
        self.run = Run::Nothing;
        let tickets = std::mem::take(&mut self.tickets);
        steps.push(Step::Answer { tickets, result });
    }
}

fn failed(seat: Seat, why: &str, seats: u16) -> String {
    match seat.0 - 1 {
        0 => format!("the new {seat} failed: {why}; the old workers serve on"),
        done => format!(
            "the new {seat} failed: {why}; {done} of {seats} workers are new, the others serve on"
        ),
    }
}

#[cfg(test)]
#[path = "reload_tests.rs"]
mod tests;
