//! What a start, a command and the API are told of the workers that are there.

use protocol::clock::unix_ms;
use protocol::ids::Seat;
use protocol::row::Figure;

use super::Brain;
use crate::config::MAX_WORKERS;
use crate::control::{self, Status};
use crate::listener::Listener;
use crate::readiness::{Listening, Served};
use crate::state::Head;
use crate::supervise::{Part, Phase, Worker};

impl Brain<'_> {
    /// What a start tells whoever waits for it.
    pub(super) fn served(&self) -> Served {
        Served {
            pid: self.life.guard_pid,
            workers: self.supervisor.seats().len() as u16,
            listen: self.listening(),
        }
    }

    /// Where clients can connect.
    fn listening(&self) -> Vec<Listening> {
        let listeners = self.context.listeners.iter();
        listeners.map(Listener::listening).collect()
    }

    pub(super) fn status(&self) -> Status {
        let started = self.state.head(Head::StartedAt);
        let uptime_s = (unix_ms() / 1_000).saturating_sub(started);
        let mut workers: Vec<control::Worker> = self
            .supervisor
            .workers()
            .iter()
            .map(|worker| self.worker_status(worker))
            .collect();
        let has_row = |seat: &Seat| self.supervisor.workers().iter().any(|w| w.seat == *seat);
        let given_up = (1..=MAX_WORKERS).map(Seat);
        let given_up = given_up.filter(|seat| self.supervisor.is_given_up(*seat) && !has_row(seat));
        workers.extend(given_up.map(|seat| self.no_worker_status(seat)));
        workers.sort_by_key(|worker| worker.worker);
        Status {
            running: true,
            version: self.upgrades.history.build.version.clone(),
            built: self.upgrades.history.build.written(),
            epoch: format!("e{}", self.state.head(Head::FirstEpoch)),
            master: control::Master {
                pid: self.life.guard_pid,
                brain_pid: std::process::id().cast_signed(),
                uptime_s,
            },
            listen: self.listening(),
            workers,
            moved: self.state.head(Head::Moved),
            reload: control::Reload {
                running: self.orders.reloading(),
                last_result: self.callers.last_reload.clone(),
            },
            upgrade: self.upgrades.history.status(),
        }
    }

    pub(super) fn worker_status(&self, worker: &Worker) -> control::Worker {
        let link = self
            .links
            .get(&worker.ring)
            .filter(|_| worker.has_process());
        let state = match (worker.phase, worker.part) {
            (Phase::Waiting { .. }, _) => control::State::Backoff,
            (Phase::Starting { .. }, Part::Holder | Part::Relief) => control::State::Starting,
            (Phase::Ready, Part::Holder | Part::Relief) => control::State::Ready,
            (Phase::Aborting { .. }, _) => control::State::Starting,
            (Phase::Parting { .. }, _) => control::State::Moving,
            (Phase::Retiring { .. } | Phase::Killed { .. }, _) | (_, Part::Leaver) => {
                control::State::Draining
            }
        };
        let figure = |figure| link.map_or(0, |link| link.figure(figure) as u32);
        control::Worker {
            worker: worker.seat.0,
            pid: link.map(|link| link.brain_pid).filter(|pid| *pid > 0),
            guard_pid: link.map(|link| link.guard_pid),
            life: self.state.get(Head::lives(worker.seat.0)) as u32,
            state,
            // By our own table: what has been accepted is never missing here.
            connections: link.map_or(0, |_| self.has(worker.ring)),
            rooms: figure(Figure::Rooms),
        }
    }

    /// Of a seat that was given up.
    fn no_worker_status(&self, seat: Seat) -> control::Worker {
        control::Worker {
            worker: seat.0,
            pid: None,
            guard_pid: None,
            life: self.state.get(Head::lives(seat.0)) as u32,
            state: control::State::GivenUp,
            connections: 0,
            rooms: 0,
        }
    }
}
