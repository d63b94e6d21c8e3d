//! What operators say: signals, which the guard has counted, and commands over the control socket.

use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::{Shutdown, shutdown};
use protocol::guard;

use super::Brain;
use crate::control::server::Heard;
use crate::control::{Answer, Request, Stopping};
use crate::figures::{self, What};
use crate::reload::{Order, Step, Ticket};
use crate::run_dir::open_log;
use crate::state::Head;
use crate::supervise::Event;

/// A stop is under way.
#[derive(Clone, Copy, Debug)]
pub struct Stop {
    pub fast: bool,
    /// The exit status.
    code: i32,
    /// By then all is over, whatever is left.
    pub by: Option<u64>,
}

impl Stop {
    pub fn is_due(&self, now: u64) -> bool {
        self.by.is_some_and(|by| by <= now)
    }
}

/// Who gave an order and is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// The start itself.
    Start,
    Signal(Signal),
    /// Over HTTP.
    Api,
    /// Of the control socket.
    Client(usize),
}

#[derive(Debug, Default)]
pub struct Callers {
    waiting: HashMap<Ticket, (Caller, Order)>,
    last: Ticket,
    /// What came of the last reload.
    pub(super) last_reload: Option<String>,
}

/// Over all, a stop takes no longer than it was told, and this.
const MARGIN: u64 = 3_000;

impl Brain<'_> {
    /// The first brain: every worker is started; when all are ready, the start is done.
    pub(super) fn boot(&mut self) {
        self.keep_config();
        let workers = self.config.workers;
        self.order(Caller::Start, Order::Scale(workers));
    }

    pub(super) fn order(&mut self, caller: Caller, order: Order) {
        self.callers.last += 1;
        let ticket = self.callers.last;
        self.callers.waiting.insert(ticket, (caller, order));
        let mut steps = Vec::new();
        self.orders.ask(order, ticket, &mut steps);
        self.take_steps(steps);
    }

    /// Begins what was ordered, once nobody is coming or going.
    pub(super) fn begin_order(&mut self) {
        if self.supervisor.is_settled() {
            let mut steps = Vec::new();
            self.orders.begin(&mut steps);
            self.take_steps(steps);
        }
    }

    /// For a new brain: nobody waits for the reload that a signal has ordered, and asks for it
    /// again. Once: it may be what the last brain died of.
    pub(super) fn reload_again(&mut self) {
        match self.state.head(Head::Reload) {
            0 => {}
            1 => {
                self.state.set(Head::Reload.word(), 2);
                self.order(Caller::Signal(Signal::SIGHUP), Order::Reload);
            }
            _ => {
                self.state.set(Head::Reload.word(), 0);
                log::error!("the reload is off: two brains died over it");
            }
        }
    }

    pub(super) fn take_steps(&mut self, steps: Vec<Step>) {
        for step in steps {
            self.on_step(step);
        }
    }

    fn on_step(&mut self, step: Step) {
        match step {
            Step::Prepare => self.prepare(),
            Step::Adopt => self.adopt_next(),
            Step::Relieve(seat) => self.supervise(Event::Relieve(seat)),
            Step::EvenOut => self.even_out(),
            Step::GiveWay => self.on_upgrade_turn(),
            Step::Seats(n) => {
                self.state.set(Head::Seats.word(), n.into());
                self.supervise(Event::Seats(n));
            }
            Step::Answer { tickets, result } => {
                let waiting = |ticket| self.callers.waiting.remove(&ticket);
                let answered: Vec<_> = tickets.into_iter().filter_map(waiting).collect();
                if let Some((caller, order)) = answered.first() {
                    self.note_order(*caller, *order, result.is_ok());
                }
                for (caller, order) in answered {
                    self.answer(caller, order, &result);
                }
            }
        }
    }

    /// What was ordered, by several perhaps, has come to its end.
    fn note_order(&self, caller: Caller, order: Order, is_done: bool) {
        let what = match (order, is_done) {
            (Order::Reload, true) => What::Reload,
            (Order::Reload, false) => What::ReloadFailed,
            (_, true) if caller != Caller::Start => What::Scale,
            _ => return,
        };
        match what {
            What::Reload => figures::count(self.state, Head::Reloads),
            What::ReloadFailed => figures::count(self.state, Head::ReloadsFailed),
            _ => {}
        }
        self.happens(what, None);
    }

    fn answer(&mut self, caller: Caller, order: Order, result: &Result<(), String>) {
        match (order, result) {
            (Order::Reload, result) => {
                self.preparation.next = None;
                let said = result.clone().err().unwrap_or_else(|| "ok".to_owned());
                self.callers.last_reload = Some(said);
                if matches!(caller, Caller::Signal(_)) {
                    self.state.set(Head::Reload.word(), 0);
                }
            }
            (Order::Scale(_) | Order::More | Order::Fewer, Ok(())) if caller != Caller::Start => {
                self.source.overrides.workers = Some(self.state.head(Head::Seats) as u16);
                self.keep_config();
            }
            (Order::Scale(_) | Order::More | Order::Fewer, _) => {}
        }
        match result {
            Ok(()) => log::info!("{order}: done"),
            Err(why) => {
                for line in why.lines() {
                    log::error!("{order}: failed: {line}");
                }
            }
        }
        match (caller, result) {
            (Caller::Start, Ok(())) => {
                self.state.set(Head::Booted.word(), 1);
                self.happens(What::Start, None);
                let served = self.served();
                self.context.readiness.borrow_mut().ready(&served);
            }
            (Caller::Start, Err(why)) => {
                self.context.readiness.borrow_mut().failed(why);
                self.stop(true, 1);
            }
            (Caller::Signal(_), _) => {}
            (Caller::Api, result) => self.answer_api(result),
            (Caller::Client(index), result) => {
                let answer = match result {
                    Ok(()) => Answer::done(),
                    Err(why) => Answer::Error {
                        error: why.clone(),
                        configuration: order == Order::Reload && self.preparation.is_refused,
                    },
                };
                self.server.answer(index, &answer);
                // Its next request may be there already.
                self.on_client(index);
            }
        }
    }

    /// The guard has counted signals, or reaped somebody.
    pub(super) fn on_doorbell(&mut self) {
        let mut count = [0; 8];
        // What it counts is in the page; it is read only so that it does not fill.
        let _ = nix::unistd::read(&self.context.doorbell, &mut count);
        self.note_reaped();
        for signal in Signal::iterator() {
            let pending = self.page.pending(signal);
            if pending > 0 {
                self.on_signal(signal, pending);
                self.page.dealt(signal, pending);
            }
        }
    }

    fn on_signal(&mut self, signal: Signal, times: u64) {
        log::info!("{signal}");
        let caller = Caller::Signal(signal);
        match signal {
            Signal::SIGTERM | Signal::SIGQUIT => {
                let again = times > 1 || self.stopping.is_some();
                self.stop(again && signal == Signal::SIGTERM, 0);
            }
            Signal::SIGINT => self.stop(true, 0),
            Signal::SIGHUP => {
                self.state.set(Head::Reload.word(), 1);
                self.order(caller, Order::Reload);
            }
            Signal::SIGUSR1 => self.reopen_logs(),
            Signal::SIGUSR2 => self.upgrade(None),
            Signal::SIGTTIN => (0..times).for_each(|_| self.order(caller, Order::More)),
            Signal::SIGTTOU => (0..times).for_each(|_| self.order(caller, Order::Fewer)),
            _ => {}
        }
    }

    fn reopen_logs(&mut self) {
        match open_log(&self.context.run.master_log()) {
            Ok(file) => self.logging.reopen(file.into()),
            Err(error) => log::error!("{error}"),
        }
        for link in self.links.values_mut() {
            match open_log(&self.context.run.worker_log(link.seat)) {
                Ok(file) => link.reopen(file),
                Err(error) => log::error!("{error}"),
            }
        }
        log::info!("logs are reopened");
    }

    /// A stop that is under way can only become fast.
    pub(super) fn stop(&mut self, fast: bool, code: i32) {
        if self.stopping.is_some_and(|stop| stop.fast || !fast) {
            return;
        }
        let within = if fast {
            0
        } else {
            self.config.timeouts.stop_ms
        };
        log::info!("stopping{}", if fast { ", fast" } else { "" });
        self.state
            .set(Head::Stopping.word(), if fast { 2 } else { 1 });
        self.stopping = Some(Stop {
            fast,
            code,
            by: Some(self.now + within + MARGIN),
        });
        for listener in &self.context.listeners {
            self.unwatch(listener.fd.as_raw_fd());
            if listener.is_shared {
                continue;
            }
            // Closed for all who share it: nobody is to wait at a door that does not open.
            let _ = shutdown(listener.fd.as_raw_fd(), Shutdown::Both);
        }
        let mut steps = Vec::new();
        self.orders.stop(&mut steps);
        self.take_steps(steps);
        self.moves.stop();
        self.fail_upgrade("baton stops".to_owned());
        let mut patience = super::crew::patience(&self.config);
        patience.retire = within;
        self.supervisor.set_patience(patience);
        self.supervise(Event::Stop { fast });
    }

    /// All workers are gone, or the time is over: so is the master.
    pub(super) fn end(&mut self) {
        let Some(stop) = self.stopping else { return };
        for link in self.links.values() {
            link.kill();
        }
        log::info!("stopped");
        self.logging.flush(Duration::from_millis(500));
        let generation = self.sequencer.sanctions().generation();
        self.keeper.finish(generation, Duration::from_secs(1));
        guard::exit(stop.code)
    }

    pub(super) fn on_control(&mut self) {
        if self.server.accept(&self.context.control).is_err() {
            // No fd is left: one is kept for this.
            self.gate.give_up_reserve();
            if let Err(error) = self.server.accept(&self.context.control) {
                log::warn!("cannot be spoken to: {error}");
            }
        }
        for (index, fd) in self.server.take_fresh() {
            if let Err(error) = self.watch(fd, super::Origin::Client(index)) {
                log::warn!("cannot be spoken to: {error}");
            }
        }
    }

    pub(super) fn on_client(&mut self, index: usize) {
        loop {
            match self.server.hear(index) {
                Heard::Nothing | Heard::Gone => return,
                Heard::Request(request) => self.on_request(index, request),
                Heard::Nonsense(error) => self.server.answer(index, &Answer::error(error)),
            }
        }
    }

    fn on_request(&mut self, index: usize, request: Request) {
        match request {
            Request::Status => {
                let status = self.status();
                self.server.answer(index, &Answer::with(&status));
            }
            Request::Stop { fast } => {
                let within_ms = if fast {
                    0
                } else {
                    self.config.timeouts.stop_ms
                };
                self.server
                    .answer(index, &Answer::with(&Stopping { within_ms }));
                self.stop(fast, 0);
            }
            Request::Reload => self.order(Caller::Client(index), Order::Reload),
            Request::Scale { workers } => {
                self.order(Caller::Client(index), Order::Scale(workers));
            }
            Request::Upgrade { after } => self.on_upgrade_request(index, after),
        }
    }
}
