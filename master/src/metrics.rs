//! What is measured, in Prometheus' text format: names and units by its conventions, each worker's with
//! its seat as the label `worker`.

use std::collections::BTreeMap;
use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, prometheus_text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use protocol::close::CloseReason;
use protocol::histogram::{self, BOUNDS_US};
use protocol::ids::Seat;
use protocol::row::{Figure, GAP_REASONS};

use crate::figures::{self, Row};
use crate::listener::backlog::Backlog;

/// All that is measured, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    pub version: String,
    /// Seconds since 1970.
    pub started_at: u64,
    pub workers_ready: u64,
    pub workers_wanted: u64,
    pub connections: u64,
    /// Of these, those that no worker has.
    pub waiting: u64,
    pub rooms: u64,
    pub accepted: u64,
    pub moved: u64,
    pub reloads: u64,
    pub reloads_failed: u64,
    pub losses: u64,
    pub master_recoveries: u64,
    pub master_memory: u64,
    /// That were ever written to the log.
    pub log_bytes: u64,
    pub seats: Vec<(Seat, Row)>,
    /// Connections given and not acknowledged.
    pub pending: BTreeMap<Seat, u64>,
    pub memory: BTreeMap<Seat, u64>,
    /// Bytes of the log that are not read, and of the ring.
    pub lags: BTreeMap<Seat, [u64; 2]>,
    /// Behind each TCP listener, by its address.
    pub backlogs: Vec<(String, Backlog)>,
}

/// As `/metrics` says it.
#[must_use]
pub fn encode(measured: &Measured) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(measured.clone()));
    let mut text = String::new();
    // A string takes all that is written into it.
    let _ = prometheus_text::encode(&mut text, &registry);
    text
}

type Labels = Vec<(&'static str, String)>;

fn of(seat: Seat) -> (&'static str, String) {
    ("worker", seat.0.to_string())
}

/// Counts of each worker: name, what it means, where it is.
const COUNTERS: [(&str, &str, Figure); 7] = [
    (
        "messages_received",
        "Messages received from clients",
        Figure::MessagesIn,
    ),
    (
        "deliveries",
        "Messages delivered to clients",
        Figure::Deliveries,
    ),
    (
        "connections_taken",
        "Connections taken over fresh from the master",
        Figure::Taken,
    ),
    (
        "worker_recoveries",
        "Brains that went on where another had died",
        Figure::Recoveries,
    ),
    (
        "hook_questions",
        "Questions that back ends were asked",
        Figure::HookAsked,
    ),
    (
        "hook_denials",
        "Questions that were answered with a refusal",
        Figure::HookDenied,
    ),
    (
        "hook_failures",
        "Questions without an answer, decided by fail",
        Figure::HookFailed,
    ),
];

/// What each worker has now.
const GAUGES: [(&str, &str, Figure); 5] = [
    (
        "worker_connections",
        "Connections that the worker holds",
        Figure::Connections,
    ),
    ("worker_rooms", "Rooms that the worker holds", Figure::Rooms),
    (
        "lagging_connections",
        "Connections whose sockets do not take all that they are owed",
        Figure::Lagging,
    ),
    (
        "ring_waiting_connections",
        "Publishers that wait for room in the ring",
        Figure::RingWaiting,
    ),
    (
        "hook_waiting_questions",
        "Questions that wait for a back end",
        Figure::HookWaiting,
    ),
];

/// One metric after the other.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn family<M: EncodeMetric>(
        &mut self,
        (name, help, unit): (&str, &str, Option<Unit>),
        kind: MetricType,
        samples: impl IntoIterator<Item = (Labels, M)>,
    ) -> Result<(), Error> {
        let name = &format!("baton_{name}");
        let mut family = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, value) in samples {
            value.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, u64)>,
    ) -> Result<(), Error> {
        let samples = samples.into_iter();
        let samples = samples.map(|(labels, n)| (labels, ConstCounter::new(n)));
        self.family((name, help, None), MetricType::Counter, samples)
    }

    fn gauges(
        &mut self,
        (name, help, unit): (&str, &str, Option<Unit>),
        samples: impl IntoIterator<Item = (Labels, u64)>,
    ) -> Result<(), Error> {
        let samples = samples.into_iter();
        let samples = samples.map(|(labels, n)| (labels, ConstGauge::new(n as i64)));
        self.family((name, help, unit), MetricType::Gauge, samples)
    }

    fn histograms(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, Vec<u64>)>,
    ) -> Result<(), Error> {
        let samples = samples.into_iter();
        let samples = samples.map(|(labels, words)| (labels, Latencies(words)));
        let named = (name, help, Some(Unit::Seconds));
        self.family(named, MetricType::Histogram, samples)
    }
}

/// The words of a [histogram].
struct Latencies(Vec<u64>);

impl EncodeMetric for Latencies {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), Error> {
        let seconds = |us: u64| us as f64 / 1e6;
        let bounds = BOUNDS_US.iter().map(|us| seconds(*us));
        let bounds = bounds.chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(self.0.iter().copied()).collect();
        let sum = self.0.get(histogram::SUM).copied().unwrap_or(0);
        let count = histogram::count(&self.0);
        encoder.encode_histogram::<NoLabelSet>(seconds(sum), count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

impl Collector for Measured {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut page = Page(encoder);
        let none: fn(u64) -> [(Labels, u64); 1] = |n| [(Vec::new(), n)];
        let build = (vec![("version", self.version.clone())], 1);
        page.gauges(
            ("build_info", "The version of baton's master", None),
            [build],
        )?;
        let start = (
            "start_time",
            "When baton was started, since 1970",
            Some(Unit::Seconds),
        );
        page.gauges(start, none(self.started_at))?;
        for (name, help, value) in [
            (
                "connections",
                "Connections that are not closed",
                self.connections,
            ),
            (
                "waiting_connections",
                "Accepted connections that no worker has",
                self.waiting,
            ),
            ("rooms", "Rooms that are known", self.rooms),
            ("workers", "Workers that serve", self.workers_ready),
            (
                "workers_wanted",
                "Workers that are to serve",
                self.workers_wanted,
            ),
        ] {
            page.gauges((name, help, None), none(value))?;
        }
        for (name, help, value) in [
            (
                "accepted_connections",
                "Connections accepted",
                self.accepted,
            ),
            (
                "handovers",
                "Live connections moved from one worker to another",
                self.moved,
            ),
            ("reloads", "Reloads that were done", self.reloads),
            (
                "reload_failures",
                "Reloads that failed, and changed nothing",
                self.reloads_failed,
            ),
            (
                "worker_losses",
                "Workers that ended, guard and brain, and were not meant to",
                self.losses,
            ),
            (
                "master_recoveries",
                "Brains of the master that went on where another had died",
                self.master_recoveries,
            ),
        ] {
            page.counters(name, help, none(value))?;
        }
        let log = "Bytes that were ever written to the log";
        page.counters("log_written_bytes", log, none(self.log_bytes))?;
        let memory = "Resident memory, what is shared with other processes included";
        let master = (vec![("process", "master".to_owned())], self.master_memory);
        let workers = self
            .memory
            .iter()
            .map(|(seat, bytes)| (vec![("process", format!("worker-{}", seat.0))], *bytes));
        let all = std::iter::once(master).chain(workers);
        page.gauges(("memory", memory, Some(Unit::Bytes)), all)?;
        self.of_listeners(&mut page)?;
        self.of_workers(&mut page)
    }
}

impl Measured {
    fn of_listeners(&self, page: &mut Page<'_>) -> Result<(), Error> {
        let each = |count: fn(&Backlog) -> u32| {
            let backlogs = self.backlogs.iter();
            backlogs.map(move |(address, backlog)| {
                let labels = vec![("listener", address.clone())];
                (labels, u64::from(count(backlog)))
            })
        };
        let waiting = "Connections that wait in the kernel to be accepted";
        let waits = each(|backlog| backlog.waiting);
        page.gauges(("backlog_connections", waiting, None), waits)?;
        let limit = "How many may wait there";
        let limits = each(|backlog| backlog.limit);
        page.gauges(("backlog_limit_connections", limit, None), limits)?;
        let dropped = "Attempts to connect that the kernel dropped because too many wait";
        page.counters("backlog_drops", dropped, each(|backlog| backlog.dropped))
    }

    fn of_workers(&self, page: &mut Page<'_>) -> Result<(), Error> {
        let each = |figure: Figure| {
            let seats = self.seats.iter();
            seats.map(move |(seat, row)| (vec![of(*seat)], row[figure as usize]))
        };
        for (name, help, figure) in COUNTERS {
            page.counters(name, help, each(figure))?;
        }
        for (name, help, figure) in GAUGES {
            page.gauges((name, help, None), each(figure))?;
        }
        let arena = "Bytes of buffers that the worker holds for its connections";
        page.gauges(
            ("worker_buffer", arena, Some(Unit::Bytes)),
            each(Figure::Arena),
        )?;
        let named = |names: &'static [&'static str], from: Figure| {
            self.seats.iter().flat_map(move |(seat, row)| {
                let counts = figures::words(row, from, names.len());
                let named = names.iter().zip(counts);
                named.map(|(name, n)| (vec![of(*seat), ("reason", (*name).to_owned())], *n))
            })
        };
        let gaps = "Messages that were not delivered, and said with gap";
        page.counters("gap_messages", gaps, named(&GAP_REASONS, Figure::Gaps))?;
        let closes = "Connections closed; reasons that have not been met are missing";
        let all = self.seats.iter().flat_map(|(seat, row)| {
            let counts = figures::words(row, Figure::Closes, CloseReason::ALL.len());
            let met = CloseReason::ALL.iter().zip(counts).filter(|(_, n)| **n > 0);
            met.map(|(reason, n)| (vec![of(*seat), ("reason", reason.as_str().to_owned())], *n))
        });
        page.counters("closed_connections", closes, all)?;
        let pending = "Connections given to the worker and not acknowledged";
        let given = self.pending.iter().map(|(seat, n)| (vec![of(*seat)], *n));
        page.gauges(("unacknowledged_connections", pending, None), given)?;
        for (at, name, help) in [
            (
                0,
                "log_lag",
                "Bytes of the log that the worker has not read",
            ),
            (
                1,
                "ring",
                "Bytes of the worker's ring that the master has not read",
            ),
        ] {
            let lags = self
                .lags
                .iter()
                .map(|(seat, lag)| (vec![of(*seat)], lag[at]));
            page.gauges((name, help, Some(Unit::Bytes)), lags)?;
        }
        for (name, help, figure) in [
            (
                "delivery_latency",
                "From a message's place in the log to the sockets; some are measured",
                Figure::Delivery,
            ),
            (
                "handoff_latency",
                "From accepting a connection until the worker has taken it; some are measured",
                Figure::Handoff,
            ),
        ] {
            let all = self.seats.iter().map(|(seat, row)| {
                let words = figures::words(row, figure, histogram::WORDS);
                (vec![of(*seat)], words.to_vec())
            });
            page.histograms(name, help, all)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::row;

    #[test]
    fn names_units_and_labels() {
        let mut row = vec![0; row::FIGURES];
        row[Figure::Deliveries as usize] = 7;
        row[Figure::Gaps as usize + 1] = 3;
        row[Figure::Closes as usize + CloseReason::TooSlow as usize] = 2;
        row[Figure::Delivery as usize + 3] = 5;
        row[Figure::Handoff as usize] = 6;
        row[Figure::Delivery as usize + histogram::SUM] = 400;
        let full = Backlog {
            waiting: 9,
            limit: 8,
            dropped: 4,
        };
        let measured = Measured {
            connections: 9,
            seats: vec![(Seat(3), row)],
            backlogs: vec![("[::]:80".to_owned(), full)],
            ..Measured::default()
        };
        let text = encode(&measured);
        for line in [
            "# TYPE baton_connections gauge",
            "baton_connections 9",
            "baton_backlog_connections{listener=\"[::]:80\"} 9",
            "baton_backlog_limit_connections{listener=\"[::]:80\"} 8",
            "baton_backlog_drops_total{listener=\"[::]:80\"} 4",
            "# TYPE baton_deliveries_total counter",
            "baton_deliveries_total{worker=\"3\"} 7",
            "baton_gap_messages_total{worker=\"3\",reason=\"overrun\"} 3",
            "baton_closed_connections_total{worker=\"3\",reason=\"too_slow\"} 2",
            "# TYPE baton_delivery_latency_seconds histogram",
            "baton_delivery_latency_seconds_bucket{worker=\"3\",le=\"0.0001\"} 5",
            "baton_delivery_latency_seconds_bucket{worker=\"3\",le=\"+Inf\"} 5",
            "baton_delivery_latency_seconds_sum{worker=\"3\"} 0.0004",
            "baton_delivery_latency_seconds_count{worker=\"3\"} 5",
            "baton_handoff_latency_seconds_bucket{worker=\"3\",le=\"1e-05\"} 6",
        ] {
            assert!(
                text.lines().any(|is| is == line),
                "{line} is missing in\n{text}"
            );
        }
        assert!(!text.contains("reason=\"done\""), "{text}");
    }
}
