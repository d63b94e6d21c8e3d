//! Twice as much as baton can do: what is served then, how long that takes, and what becomes of the
//! rest.
//!
//! First the best, by clients that wait for their answers; then open loops, which send half of it, as
//! much, and twice as much, whatever comes back. The clients share the cores with baton: under twice
//! the load it has less of them than at its best, and the figures are the worse for it, not the better.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use super::flood::Flood;
use super::gauge::{Gauge, quantile, verdict};
use super::visits::{Pace, Visits};
use super::{Cell, Options, Subject, Table};
use crate::{Baton, eventually, process};

pub const SUBJECT: Subject = Subject {
    name: "overload",
    about: "what is served, refused and still in order at twice what it can do",
    peers: &[],
    run,
};

/// Of the best: this much is still served.
const GOAL: f64 = 0.9;
const CLIENTS: usize = 256;
const THREADS: usize = 2;
const WARM_UP: Duration = Duration::from_secs(1);
const OFFERS: [f64; 3] = [0.5, 1.0, 2.0];

fn run(options: &Options) -> Result<Vec<Table>, String> {
    process::raise_open_files();
    let connections = connections(options).map_err(|error| error.to_string())?;
    let messages = messages(options).map_err(|error| error.to_string())?;
    Ok(vec![connections, messages])
}

fn connections(options: &Options) -> io::Result<Table> {
    let title = format!(
        "overload: connect, GET, close; {} workers, {} s each",
        options.workers, options.seconds
    );
    let columns = [
        "load",
        "wanted/s",
        "sent/s",
        "served/s",
        "p50 ms",
        "p99 ms",
        "max ms",
        "refused/s",
        "given up/s",
        "status ms",
        "next brain ms",
        "others %",
        "goal",
    ];
    let mut table = Table::new(title, &columns);
    let mut best = 0.0;
    let paces = std::iter::once(None).chain(OFFERS.into_iter().map(Some));
    for offer in paces {
        let baton = Baton::builder().workers(options.workers).start();
        let offered = offer.map(|times| times * best);
        let pace = offered.map_or(Pace::Clients(CLIENTS), Pace::Rate);
        let visits = Visits::start(baton.public, pace, THREADS);
        thread::sleep(WARM_UP);
        visits.measure(true);
        let (before, gauge) = (visits.counts(), Gauge::now(&baton));
        thread::sleep(Duration::from_secs(options.seconds));
        let (counts, taken) = (visits.counts() - before, Gauge::now(&baton).since(&gauge));
        visits.measure(false);
        // In the midst of it.
        let status = millis(|| drop(baton.status()));
        let brain = millis(|| replace_a_brain(&baton));
        let latencies = visits.end()?;
        let served = taken.rate(counts.served);
        if offer.is_none() {
            best = served;
        }
        let latency = |part| Cell::number(quantile(&latencies, part) / 1e3, 1);
        table.push(vec![
            Cell::text(offer.map_or_else(|| "best".to_owned(), |times| format!("x {times}"))),
            offered.map_or_else(Cell::none, |offered| Cell::number(offered, 0)),
            Cell::number(taken.rate(counts.begun), 0),
            Cell::number(served, 0),
            latency(0.5),
            latency(0.99),
            latency(1.0),
            Cell::number(taken.rate(counts.refused + counts.cut), 0),
            Cell::number(taken.rate(counts.given_up), 0),
            Cell::number(status, 0),
            Cell::number(brain, 0),
            Cell::number(taken.others, 0),
            goal(offer, served / best),
        ]);
    }
    Ok(table)
}

fn goal(offer: Option<f64>, part: f64) -> Cell {
    match offer {
        Some(2.0) => verdict(&format!("{part:.2} ≥ {GOAL} of the best"), part >= GOAL),
        _ => Cell::text(""),
    }
}

fn messages(options: &Options) -> io::Result<Table> {
    let title = format!(
        "overload: one room, {} subscribers at {} workers, {} s each",
        Flood::SUBSCRIBERS,
        options.workers,
        options.seconds
    );
    let columns = [
        "load",
        "offered/s",
        "published/s",
        "delivered/s",
        "p50 ms",
        "p99 ms",
        "max ms",
        "lost, and said so",
        "status ms",
        "next brain ms",
        "others %",
        "goal",
    ];
    let mut table = Table::new(title, &columns);
    let (mut best, mut best_published) = (0.0, 0.0);
    for offer in std::iter::once(None).chain(OFFERS.into_iter().map(Some)) {
        let baton = Baton::builder().workers(options.workers).start();
        let offered = offer.map(|times| times * best_published);
        let flood = Flood::start(baton.public, offered)?;
        thread::sleep(WARM_UP);
        flood.measure(true);
        let (before, gauge) = (flood.counts(), Gauge::now(&baton));
        thread::sleep(Duration::from_secs(options.seconds));
        let (counts, taken) = (flood.counts() - before, Gauge::now(&baton).since(&gauge));
        flood.measure(false);
        let status = millis(|| drop(baton.status()));
        let brain = millis(|| replace_a_brain(&baton));
        let latencies = flood.end()?;
        let delivered = taken.rate(counts.delivered);
        if offer.is_none() {
            best = delivered;
            best_published = taken.rate(counts.published);
        }
        let latency = |part| Cell::number(quantile(&latencies, part) / 1e3, 1);
        table.push(vec![
            Cell::text(offer.map_or_else(|| "best".to_owned(), |times| format!("x {times}"))),
            offered.map_or_else(Cell::none, |offered| Cell::number(offered, 0)),
            Cell::number(taken.rate(counts.published), 0),
            Cell::number(delivered, 0),
            latency(0.5),
            latency(0.99),
            latency(1.0),
            Cell::count(counts.lost),
            Cell::number(status, 0),
            Cell::number(brain, 0),
            Cell::number(taken.others, 0),
            goal(offer, delivered / best),
        ]);
    }
    Ok(table)
}

fn millis(act: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    act();
    begin.elapsed().as_secs_f64() * 1e3
}

/// Kills a worker's brain, and returns when there is another.
fn replace_a_brain(baton: &Baton) {
    let Some(guard) = baton
        .status()
        .workers
        .first()
        .map(|worker| worker.guard_pid)
    else {
        return;
    };
    let before = process::brain_of(guard);
    process::kill(before);
    eventually("there is another brain", || {
        process::children(guard)
            .into_iter()
            .any(|brain| brain != before && process::is_alive(brain))
    });
}
