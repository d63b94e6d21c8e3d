//! The feed: once a second, what operators want to see, said in a room of the master's own. Only who
//! comes through an admin listener can join it; without members nothing is made.

use std::collections::VecDeque;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use protocol::clock::unix_ms;
use protocol::close::CloseReason;
use protocol::format::Data;
use protocol::histogram;
use protocol::ids::Seat;
use protocol::row::{CLOSES, Figure, GAP_REASONS};
use serde_json::{Map, Value, json};

use super::Brain;
use crate::figures::{self, Row, What};
use crate::state::Head;

/// The room.
pub const ROOM: &str = "$baton";
/// Rooms that are named.
const ROOMS: usize = 20;
/// Quantiles are of so many seconds.
const SECONDS: usize = 10;

/// The histograms of the last seconds: deliveries, hand-offs.
#[derive(Debug, Default)]
pub struct Feed(VecDeque<[Vec<u64>; 2]>);

impl Brain<'_> {
    /// To be called once a second.
    pub(super) fn feed(&mut self) {
        if self.sequencer.members(self.state, ROOM.as_bytes()) == 0 {
            self.feed = Feed::default();
            return;
        }
        let said = self.overview().to_string();
        let data = Data::json(said.as_bytes());
        self.sequencer
            .say(self.state, ROOM.as_bytes(), b"baton", data);
    }

    /// Notes what operators want to know of.
    pub(super) fn happens(&self, what: What, seat: Option<Seat>) {
        figures::happens(self.state, unix_ms(), what, seat);
    }

    /// The figures of each seat that has or had a worker.
    pub(super) fn seats(&self) -> Vec<(Seat, Row)> {
        let rows: Vec<(u16, Seat, Row)> = self
            .links
            .values()
            .map(|link| (link.number, link.seat, link.figures()))
            .collect();
        let all = (1..=crate::config::MAX_WORKERS).map(Seat);
        let lived = all.filter(|seat| self.state.get(Head::lives(seat.0)) > 0);
        lived
            .map(|seat| {
                let of = rows.iter().filter(|(_, s, _)| *s == seat);
                let rows = of.map(|(ring, _, row)| (*ring, row));
                (seat, figures::of_seat(self.state, seat, rows))
            })
            .collect()
    }

    fn overview(&mut self) -> Value {
        let seats = self.seats();
        let all = figures::sum(seats.iter().map(|(_, row)| row));
        let head = |head| self.state.head(head);
        let recoveries = all[Figure::Recoveries as usize];
        let status = self.status();
        let rooms = self.sequencer.rooms();
        let largest: Vec<_> = rooms.largest(self.state, 0, ROOMS).collect();
        let lag = self.links.values().map(|link| link.figure(Figure::LogRead));
        let lag = lag
            .min()
            .map_or(0, |read| self.sequencer.log_head().saturating_sub(read));
        json!({
            "at_ms": unix_ms(),
            "version": status.version,
            "uptime_s": status.master.uptime_s,
            "draining": self.stopping.is_some(),
            "master": {
                "pid": status.master.pid,
                "brain_pid": status.master.brain_pid,
                "life": self.life.number,
                "memory_bytes": memory(status.master.brain_pid),
            },
            "workers": self.worker_rows(),
            "totals": {
                "connections": self.connections.len(),
                "moving": self.connections.waiting(),
                "rooms": self.sequencer.rooms().len(),
                "accepted": head(Head::NextCid).saturating_sub(1),
                "moved": head(Head::Moved),
                "messages_in": all[Figure::MessagesIn as usize],
                "deliveries": all[Figure::Deliveries as usize],
                "gaps": gaps(&all),
                "closes": closes(&all),
                "reloads": head(Head::Reloads),
                "crashes": recoveries + head(Head::Losses),
                "recoveries": recoveries,
            },
            "latency": self.latencies(&all),
            "rooms": largest.into_iter().map(|(name, count)| json!({
                "room": String::from_utf8_lossy(&name), "count": count,
            })).collect::<Vec<_>>(),
            "log": {"size_bytes": self.config.memory.log, "lag_bytes": lag},
            "reload": status.reload,
            "events": figures::events(self.state).into_iter().map(|event| {
                let (what, text) = event.what.words();
                json!({
                    "n": event.number, "at_ms": event.at_ms, "what": what, "text": text,
                    "worker": event.worker.map(|seat| seat.0),
                })
            }).collect::<Vec<_>>(),
        })
    }

    /// One for each life of a seat.
    pub(super) fn worker_rows(&self) -> Vec<Value> {
        let workers = self.supervisor.workers().iter();
        workers
            .map(|worker| {
                let status = self.worker_status(worker);
                let link = self
                    .links
                    .get(&worker.ring)
                    .filter(|_| worker.has_process());
                let row = link.map(|link| link.figures()).unwrap_or_default();
                let figure = |figure: Figure| row.get(figure as usize).copied().unwrap_or(0);
                let sum = |from: Figure, count: usize| -> u64 {
                    row.iter().skip(from as usize).take(count).sum()
                };
                json!({
                    "worker": status.worker,
                    "pid": status.pid,
                    "guard_pid": status.guard_pid,
                    "life": status.life,
                    "state": status.state,
                    "age_s": status.guard_pid.and_then(age),
                    "connections": status.connections,
                    "rooms": status.rooms,
                    "memory_bytes": status.pid.and_then(memory),
                    "messages_in": figure(Figure::MessagesIn),
                    "deliveries": figure(Figure::Deliveries),
                    "gaps": sum(Figure::Gaps, GAP_REASONS.len()),
                    "closes": sum(Figure::Closes, CLOSES),
                })
            })
            .collect()
    }

    fn latencies(&mut self, all: &Row) -> Value {
        let now = [Figure::Delivery, Figure::Handoff]
            .map(|figure| figures::words(all, figure, histogram::WORDS).to_vec());
        let then = self.feed.0.front().unwrap_or(&now).clone();
        self.feed.0.push_back(now.clone());
        if self.feed.0.len() > SECONDS {
            self.feed.0.pop_front();
        }
        let [delivery, handoff] = [0, 1].map(|i| {
            let pairs = now[i].iter().zip(&then[i]);
            let lately: Vec<u64> = pairs.map(|(now, then)| now.saturating_sub(*then)).collect();
            // In whole microseconds: more is not known.
            let ms = |q| histogram::quantile(&lately, q).map(|us| us.round() / 1_000.0);
            json!({"count": histogram::count(&lately), "p50_ms": ms(0.5), "p99_ms": ms(0.99)})
        });
        json!({"delivery": delivery, "handoff": handoff})
    }
}

pub(super) fn gaps(row: &Row) -> Map<String, Value> {
    let counts = &row[Figure::Gaps as usize..];
    let named = GAP_REASONS.iter().zip(counts);
    named
        .map(|(name, count)| ((*name).to_owned(), json!(count)))
        .collect()
}

/// Of those that have happened.
fn closes(row: &Row) -> Map<String, Value> {
    let counts = &row[Figure::Closes as usize..];
    let named = CloseReason::ALL
        .iter()
        .zip(counts)
        .filter(|(_, count)| **count > 0);
    named
        .map(|(reason, count)| (reason.as_str().to_owned(), json!(count)))
        .collect()
}

/// Bytes of a process that are in memory, those that it shares with others too.
pub(super) fn memory(pid: i32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

/// Seconds since a process was made.
pub(super) fn age(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind its name, which may hold anything, the 20th: in hundredths of a second, since the boot.
    let began: u64 = stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()?;
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?;
    Some(Duration::from(now).as_secs().saturating_sub(began / 100))
}
