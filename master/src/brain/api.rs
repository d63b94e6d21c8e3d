//! What the HTTP API asks that is the brain's to answer: of workers and connections, and what it orders.

use std::collections::BTreeMap;

use protocol::api::{Ask, Kind, error};
use protocol::ids::{Cid, Seat};
use protocol::journal::Record;
use protocol::row::Figure;
use serde_json::json;

use super::operate::Caller;
use super::{Brain, feed};
use crate::link::Link;
use crate::metrics;
use crate::reload::Order;
use crate::sequencer::Asking;
use crate::state::{Head, read_index};
use crate::supervise::{Part, Phase};

/// [`Head::ApiOrder`] for a reload; a scale is its number of workers, times two.
const RELOAD: u64 = 1;
/// What was ordered is begun so often, if brain after brain dies over it.
const BEGINS: u64 = 3;
const ONCE: u64 = 1 << 32;

impl Brain<'_> {
    /// The record in the ring that asks this ends at `next`, and is read when it is answered, or noted.
    pub(super) fn on_asked(&mut self, asking: Asking, what: Ask, next: u64) {
        let asker = asking.asker();
        match what {
            Ask::Metrics => {
                let text = metrics::encode(&self.measured());
                let answer = (200, Kind::Metrics, text.as_bytes());
                self.sequencer
                    .finish_asked(self.state, asker, Some(next), answer);
            }
            Ask::Cluster => {
                let body = self.cluster().to_string();
                self.sequencer
                    .tell(self.state, asker, Some(next), 200, body.as_bytes());
            }
            Ask::Connection { cid } => {
                let slot = self.connections.find(self.state, Cid(cid));
                let held = slot.and_then(|slot| self.connections.get(self.state, slot));
                match held.and_then(|connection| connection.held_by()) {
                    Some(ring) => self.sequencer.look(self.state, asker, next, ring, &what),
                    None => self.refuse_asked(
                        asking,
                        next,
                        404,
                        "not_found",
                        "there is no such connection",
                    ),
                }
            }
            Ask::Connections { .. } => self.on_connections(asking, what, next),
            Ask::Reload => self.on_api_order(asking, RELOAD, next),
            Ask::Scale { workers } => self.on_api_order(asking, u64::from(workers) << 1, next),
            _ => self.refuse_asked(asking, next, 500, "internal", "this is our fault"),
        }
    }

    fn refuse_asked(&mut self, asking: Asking, next: u64, status: u32, code: &str, message: &str) {
        let body = error(code, message);
        self.sequencer
            .tell(self.state, asking.asker(), Some(next), status, &body);
    }

    /// A page is of one worker: of the one asked for, or the first from there on.
    fn on_connections(&mut self, asking: Asking, mut what: Ask, next: u64) {
        let Ask::Connections {
            worker,
            at,
            ref mut after,
            ..
        } = what
        else {
            return;
        };
        let workers = self.supervisor.workers().iter();
        let mut serving: Vec<(u16, u16)> = workers
            .filter(|w| w.part != Part::Relief && self.links.contains_key(&w.ring))
            .map(|w| (w.seat.0, w.ring))
            .collect();
        serving.sort_unstable();
        let first = at.unwrap_or(0);
        let found = serving.into_iter().find(|(seat, _)| match worker {
            Some(worker) => *seat == worker && first <= worker,
            None => *seat >= first,
        });
        match found {
            Some((seat, ring)) => {
                if at != Some(seat) {
                    // It is a number of a worker that is gone.
                    *after = 0;
                }
                self.sequencer
                    .look(self.state, asking.asker(), next, ring, &what);
            }
            None => {
                let body = json!({"connections": [], "next": null}).to_string();
                self.sequencer
                    .tell(self.state, asking.asker(), Some(next), 200, body.as_bytes());
            }
        }
    }

    fn cluster(&self) -> serde_json::Value {
        let status = self.status();
        let mut shown = serde_json::to_value(&status).unwrap_or_default();
        if let Some(shown) = shown.as_object_mut() {
            shown.insert("workers".to_owned(), self.worker_rows().into());
            shown.insert("connections".to_owned(), self.connections.len().into());
            shown.insert("rooms".to_owned(), self.sequencer.rooms().len().into());
        }
        shown
    }

    /// In one record with the request: it is noted who ordered what, so that another brain goes on
    /// with it and tells the one that waits.
    fn on_api_order(&mut self, asking: Asking, order: u64, next: u64) {
        if self.state.head(Head::ApiOrder) != 0 {
            let message = "a reload or scale that was ordered here is under way";
            return self.refuse_asked(asking, next, 409, "conflict", message);
        }
        let mut record = Record::new();
        for (head, value) in [
            (Head::ApiOrder, order + ONCE),
            (Head::ApiCid, asking.cid.0),
            (
                Head::ApiPlace,
                u64::from(asking.ring) << 32 | u64::from(asking.slot),
            ),
            (Head::ApiId, u64::from_le_bytes(asking.id)),
        ] {
            record.set(head.word(), value);
        }
        record.set(read_index(asking.ring), next);
        self.state.commit(&mut record);
        self.begin_api_order();
    }

    fn begin_api_order(&mut self) {
        let order = self.state.head(Head::ApiOrder) as u32;
        let order = match u64::from(order) {
            RELOAD => Order::Reload,
            scale => Order::Scale((scale >> 1) as u16),
        };
        self.order(Caller::Api, order);
    }

    /// For a new brain: what was ordered over HTTP is ordered again, unless that is what brains die of.
    pub(super) fn order_again(&mut self) {
        let order = self.state.head(Head::ApiOrder);
        if order == 0 {
            return;
        }
        if order / ONCE >= BEGINS {
            log::error!("what was ordered over HTTP is off: brains died over it");
            return self.answer_api(&Err(
                "brain after brain of the master died over it".to_owned()
            ));
        }
        self.state.set(Head::ApiOrder.word(), order + ONCE);
        self.begin_api_order();
    }

    /// What was ordered over HTTP is done, or not.
    pub(super) fn answer_api(&mut self, result: &Result<(), String>) {
        let head = |head| self.state.head(head);
        let place = head(Head::ApiPlace);
        let asking = Asking {
            cid: Cid(head(Head::ApiCid)),
            ring: (place >> 32) as u16,
            slot: place as u32,
            id: head(Head::ApiId).to_le_bytes(),
        };
        let (status, body) = match result {
            Ok(()) => {
                let workers = head(Head::Seats);
                (
                    200,
                    json!({"ok": true, "workers": workers})
                        .to_string()
                        .into_bytes(),
                )
            }
            Err(why) => (409, error("failed", why)),
        };
        self.sequencer
            .tell(self.state, asking.asker(), None, status, &body);
    }

    /// The name of a seat is its number.
    pub(super) fn measured(&self) -> metrics::Measured {
        let head = |head| self.state.head(head);
        let workers = self.supervisor.workers().iter();
        let waits = |ring: u16| self.connections.load(ring).given;
        let mut pending = BTreeMap::<Seat, u64>::new();
        let mut memory = BTreeMap::<Seat, u64>::new();
        let mut ready = 0;
        for worker in workers {
            ready += u64::from(matches!(worker.phase, Phase::Ready));
            if let Some(link) = self.links.get(&worker.ring) {
                *pending.entry(worker.seat).or_default() += u64::from(waits(worker.ring));
                *memory.entry(worker.seat).or_default() +=
                    feed::memory(link.brain_pid).unwrap_or(0);
            }
        }
        let log_head = self.sequencer.log_head();
        let lag = |link: &Link| log_head.saturating_sub(link.figure(Figure::LogRead));
        let ring = |link: &Link| {
            let read = self.state.get(read_index(link.number));
            link.ring.head().saturating_sub(read)
        };
        let mut lags = BTreeMap::<Seat, [u64; 2]>::new();
        for link in self.links.values() {
            let of = lags.entry(link.seat).or_default();
            of[0] = of[0].max(lag(link));
            of[1] += ring(link);
        }
        let listeners = self.context.listeners.iter();
        let backlogs = listeners.filter_map(|l| Some((l.address.to_string(), l.backlog()?)));
        let backlogs = backlogs.collect();
        metrics::Measured {
            version: self.upgrades.history.build.version.clone(),
            started_at: head(Head::StartedAt),
            workers_ready: ready,
            workers_wanted: head(Head::Seats),
            connections: self.connections.len() as u64,
            waiting: self.connections.waiting() as u64,
            rooms: self.sequencer.rooms().len() as u64,
            accepted: head(Head::NextCid).saturating_sub(1),
            moved: head(Head::Moved),
            reloads: head(Head::Reloads),
            reloads_failed: head(Head::ReloadsFailed),
            losses: head(Head::Losses),
            master_recoveries: self.life.number.saturating_sub(1),
            master_memory: feed::memory(std::process::id().cast_signed()).unwrap_or(0),
            log_bytes: log_head,
            seats: self.seats(),
            pending,
            memory,
            lags,
            backlogs,
        }
    }
}
