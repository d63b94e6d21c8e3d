//! Twice as much as baton can do: what is served then, how long that takes, and what becomes of the
//! rest.
//!
//! In each round first the best, by clients that wait for their answers; then open loops, which send half
//! of it, as much, and twice as much, whatever comes back. A connection costs its client as much as its server:
//! so that two cores are enough for twice of what baton can do, it has a tenth of one of them, the rest of
//! which a thread takes that does nothing, and the clients have the other. (It takes root.) With messages, of which a client's
//! part is less, all share both.
//!
//! And a server that is full, to which many more come: who is refused early, and what those notice who
//! are there.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::flood::Flood;
use super::gauge::{Gauge, median, median_of, quantile, verdict};
use super::held::Held;
use super::plain::{Plain, TEXT};
use super::visits::{Pace, Visits};
use super::{Cell, Options, Subject, Table};
use crate::websocket::frame;
use crate::{Baton, eventually, http, process};

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
const TWICE: f64 = 2.0;
const OFFERS: [f64; 3] = [0.5, 1.0, TWICE];

fn run(options: &Options) -> Result<Vec<Table>, String> {
    process::raise_open_files();
    let tables = [connections, messages, storm];
    let tables = tables.map(|table| table(options).map_err(|error| error.to_string()));
    tables.into_iter().collect()
}

fn connections(options: &Options) -> io::Result<Table> {
    let title = format!(
        "overload: connect, GET, close; {} workers on a tenth of a core, median of {} rounds of {} s",
        options.workers, options.rounds, options.seconds
    );
    let load = Load {
        title,
        columns: &[
            ("sent/s", 0),
            ("served/s", 0),
            ("p50 ms", 1),
            ("p99 ms", 1),
            ("max ms", 1),
            ("refused/s", 0),
            ("given up/s", 0),
            ("dropped/s", 0),
            ("of its core %", 1),
            ("CPU µs each", 1),
            ("status ms", 0),
            ("next brain ms", 0),
            ("others %", 0),
        ],
        sent: 1,
        served: 1,
    };
    load.measured(options, |offered| {
        let builder = Baton::builder().workers(options.workers);
        let baton = process::on_core(SERVERS_CORE, || builder.start());
        let _burden = Burden::on(SERVERS_CORE)?;
        let pace = offered.map_or(Pace::Clients(CLIENTS), Pace::Rate);
        let visits = process::on_core(CLIENTS_CORE, || Visits::start(baton.public, pace, THREADS));
        thread::sleep(WARM_UP);
        visits.measure(true);
        let dropped = drops(&baton);
        let (before, gauge) = (visits.counts(), Gauge::now(&baton));
        thread::sleep(Duration::from_secs(options.seconds));
        let (counts, taken) = (visits.counts() - before, Gauge::now(&baton).since(&gauge));
        let dropped = drops(&baton) - dropped;
        visits.measure(false);
        // In the midst of it.
        let status = millis(|| drop(baton.status()));
        let brain = millis(|| replace_a_brain(&baton));
        let latencies = visits.end()?;
        let latency = |part| quantile(&latencies, part) / 1e3;
        Ok(vec![
            taken.rate(counts.begun),
            taken.rate(counts.served),
            latency(0.5),
            latency(0.99),
            latency(1.0),
            taken.rate(counts.refused + counts.cut),
            taken.rate(counts.given_up),
            taken.rate(dropped),
            taken.percent(),
            taken.each(counts.served),
            status,
            brain,
            taken.others,
        ])
    })
}

fn messages(options: &Options) -> io::Result<Table> {
    let title = format!(
        "overload: one room, {} subscribers at {} workers, median of {} rounds of {} s",
        Flood::SUBSCRIBERS,
        options.workers,
        options.rounds,
        options.seconds
    );
    let load = Load {
        title,
        columns: &[
            ("published/s", 0),
            ("delivered/s", 0),
            ("p50 ms", 1),
            ("p99 ms", 1),
            ("max ms", 1),
            ("lost, and said so", 0),
            ("CPU µs each", 2),
            ("status ms", 0),
            ("next brain ms", 0),
            ("others %", 0),
        ],
        sent: 0,
        served: 1,
    };
    load.measured(options, |offered| {
        let baton = Baton::builder().workers(options.workers).start();
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
        let latency = |part| quantile(&latencies, part) / 1e3;
        Ok(vec![
            taken.rate(counts.published),
            taken.rate(counts.delivered),
            latency(0.5),
            latency(0.99),
            latency(1.0),
            counts.lost as f64,
            taken.each(counts.delivered),
            status,
            brain,
            taken.others,
        ])
    })
}

/// Attempts to connect that found the kernel's backlog full: they are tried again, each by its client's
/// kernel.
fn drops(baton: &Baton) -> u64 {
    let metrics = http::get(baton.admin, "/metrics").text();
    let named = format!(
        "baton_backlog_drops_total{{listener=\"{}\"}} ",
        baton.public
    );
    let found = metrics.lines().find_map(|line| line.strip_prefix(&named));
    found.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Of which more and more is offered.
struct Load {
    title: String,
    /// What is measured, and with how many digits it is shown.
    columns: &'static [(&'static str, usize)],
    /// The column of what is offered, and that of what shall not become less by it.
    sent: usize,
    served: usize,
}

impl Load {
    /// One round after the other, each beside its own best: how much of a core a daemon gets that shares
    /// it differs by more than what is looked for.
    ///
    /// `measure` is told how much a second is offered (`None`: whatever is answered), and returns a
    /// figure for each column.
    fn measured(
        &self,
        options: &Options,
        measure: impl Fn(Option<f64>) -> io::Result<Vec<f64>>,
    ) -> io::Result<Table> {
        let mut best = Vec::new();
        let mut more = OFFERS.map(|_| Vec::new());
        for _ in 0..options.rounds {
            let first = measure(None)?;
            for (times, samples) in OFFERS.iter().zip(&mut more) {
                samples.push(measure(Some(times * first[self.sent]))?);
            }
            best.push(first);
        }
        let mut columns = vec!["load", "wanted/s"];
        columns.extend(self.columns.iter().map(|(name, _)| *name));
        columns.push("goal");
        let mut table = Table::new(self.title.as_str(), &columns);
        table.push(self.row("best", None, &best, Cell::text("")));
        for (times, samples) in OFFERS.into_iter().zip(more) {
            let wanted = times * median_of(&best, |sample| sample[self.sent]);
            let pairs: Vec<f64> = samples
                .iter()
                .zip(&best)
                .map(|(sample, best)| sample[self.served] / best[self.served])
                .collect();
            let goal = match times {
                TWICE => {
                    let part = median(&pairs);
                    verdict(&format!("{part:.2} ≥ {GOAL} of the best"), part >= GOAL)
                }
                _ => Cell::text(""),
            };
            table.push(self.row(&format!("x {times}"), Some(wanted), &samples, goal));
        }
        Ok(table)
    }

    fn row(&self, name: &str, wanted: Option<f64>, samples: &[Vec<f64>], goal: Cell) -> Vec<Cell> {
        let wanted = wanted.map_or_else(Cell::none, |wanted| Cell::number(wanted, 0));
        let figures = self.columns.iter().enumerate();
        let figures = figures.map(|(column, (_, digits))| {
            Cell::number(median_of(samples, |sample| sample[column]), *digits)
        });
        let ends = [Cell::text(name), wanted];
        ends.into_iter().chain(figures).chain([goal]).collect()
    }
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

/// A thread that goes before all others on its core and leaves them a tenth of it; dropped, it ends.
///
/// (A daemon of little weight beside a busy thread would get a tenth as well, but more of it the more
/// often it sleeps, as schedulers are kind to who does: less in overload than with half of its load.)
struct Burden {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Burden {
    /// A tenth of it is about as long as a scheduler lets one of many run.
    const PERIOD: Duration = Duration::from_millis(20);

    fn on(core: usize) -> io::Result<Burden> {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, (said, hear)) = (stop.clone(), mpsc::channel());
        let thread = process::on_core(core, || {
            thread::spawn(move || {
                let is_first = process::go_first();
                let is_well = is_first.is_ok();
                let _ = said.send(is_first);
                let mut next = Instant::now();
                while is_well && !stopped.load(Ordering::Relaxed) {
                    next += Burden::PERIOD;
                    while Instant::now() + Burden::PERIOD / 10 < next {
                        std::hint::spin_loop();
                    }
                    thread::sleep(next.saturating_duration_since(Instant::now()));
                }
            })
        });
        hear.recv().unwrap_or(Ok(()))?;
        Ok(Burden {
            stop,
            thread: Some(thread),
        })
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
