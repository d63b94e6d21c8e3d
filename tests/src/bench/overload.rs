//! Twice as much as baton can do: what is served then, how long that takes, and what becomes of the
//! rest.
//!
//! First the best, by clients that wait for their answers; then open loops, which send half of it, as
//! much, and twice as much, whatever comes back. A connection costs its client as much as its server:
//! so that two cores are enough for twice of what baton can do, it has a tenth of one of them, the rest of
//! which a thread takes that does nothing, and the clients have the other. With messages, of which a client's
//! part is less, all share both.
//!
//! And a server that is full, to which many more come: who is refused early, and what those notice who
//! are there.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::flood::Flood;
use super::gauge::{Gauge, quantile, verdict};
use super::held::Held;
use super::plain::{Plain, TEXT};
use super::visits::{Pace, Visits};
use super::{Cell, Options, Subject, Table};
use crate::websocket::frame;
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
const SERVERS_CORE: usize = 0;
const CLIENTS_CORE: usize = 1;
/// Who is there when the server is full, and how many more come in a second.
const FULL: usize = 1_000;
const STORM: f64 = 10_000.0;
const OFFERS: [f64; 3] = [0.5, 1.0, 2.0];

fn run(options: &Options) -> Result<Vec<Table>, String> {
    process::raise_open_files();
    let tables = [connections, messages, storm];
    let tables = tables.map(|table| table(options).map_err(|error| error.to_string()));
    tables.into_iter().collect()
}

fn connections(options: &Options) -> io::Result<Table> {
    let title = format!(
        "overload: connect, GET, close; {} workers on a tenth of a core, {} s each",
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
        let builder = Baton::builder().workers(options.workers);
        let baton = process::on_core(SERVERS_CORE, || builder.start());
        process::be_nice(baton.status().master_pid)?;
        let _burden = Burden::on(SERVERS_CORE);
        let offered = offer.map(|times| times * best);
        let pace = offered.map_or(Pace::Clients(CLIENTS), Pace::Rate);
        let visits = process::on_core(CLIENTS_CORE, || Visits::start(baton.public, pace, THREADS));
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

/// Connections beyond the limit: they are to be refused at once, and nobody who is there is to wait.
fn storm(options: &Options) -> io::Result<Table> {
    let title = format!(
        "overload: a limit of {FULL} connections is reached, {STORM} more come in a second; {} workers, \
        {} s each",
        options.workers, options.seconds
    );
    let columns = [
        "more",
        "come/s",
        "503/s",
        "closed/s",
        "given up/s",
        "CPU µs each",
        "echo p50 ms",
        "echo p99 ms",
        "status ms",
        "others %",
    ];
    let mut table = Table::new(title, &columns);
    for (name, comes) in [("nobody", 0.0), ("a storm", STORM)] {
        let limits = format!("[limits]\nconnections = {FULL}");
        let baton = Baton::builder()
            .workers(options.workers)
            .config(&limits)
            .start();
        let mut held = Held::connect(baton.public, FULL - 1)?;
        let mut guest = Plain::connect(baton.public, "/echo")?;
        let visits = Visits::start(baton.public, Pace::Rate(comes), THREADS);
        thread::sleep(WARM_UP);
        let (before, gauge) = (visits.counts(), Gauge::now(&baton));
        let mut waits = Vec::new();
        let end = Instant::now() + Duration::from_secs(options.seconds);
        while Instant::now() < end {
            let begin = Instant::now();
            guest.say(&frame(TEXT, b"question"))?;
            guest.hear()?;
            waits.push(begin.elapsed().as_secs_f64() * 1e3);
            thread::sleep(Duration::from_millis(5));
        }
        let (counts, taken) = (visits.counts() - before, Gauge::now(&baton).since(&gauge));
        let status = millis(|| drop(baton.status()));
        visits.end()?;
        // Nobody had to go for those who came.
        held.ask()?;
        table.push(vec![
            Cell::text(name),
            Cell::number(taken.rate(counts.begun), 0),
            Cell::number(taken.rate(counts.refused), 0),
            Cell::number(taken.rate(counts.cut), 0),
            Cell::number(taken.rate(counts.given_up), 0),
            match counts.begun {
                0 => Cell::none(),
                begun => Cell::number(taken.each(begun), 1),
            },
            Cell::number(quantile(&waits, 0.5), 2),
            Cell::number(quantile(&waits, 0.99), 2),
            Cell::number(status, 0),
            Cell::number(taken.others, 0),
        ]);
    }
    Ok(table)
}

/// A thread that keeps a core busy; dropped, it ends.
struct Burden {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Burden {
    fn on(core: usize) -> Burden {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let spin = move || {
            while !stopped.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        };
        let thread = process::on_core(core, || thread::spawn(spin));
        Burden {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Burden {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
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
