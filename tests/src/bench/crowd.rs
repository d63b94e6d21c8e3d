//! Does it cost more to serve somebody because many others are there? What a connection and a message
//! take with many idle connections, beside what they take with few.

use std::io;
use std::thread;
use std::time::Duration;

use super::gauge::{Gauge, median_of, quantile, verdict};
use super::held::Held;
use super::messages::{self, Messages};
use super::visits::{Pace, Visits};
use super::{Cell, Options, Subject, Table};
use crate::{Baton, process};

pub const SUBJECT: Subject = Subject {
    name: "crowd",
    about: "what a connection and a message cost with 36,000 live connections",
    peers: &[],
    run,
};

/// With the few, and with the many.
const LIVE: [usize; 2] = [1_000, 36_000];
const GOAL: f64 = 1.1;
/// No worker may have more connections than a process has files.
const WORKERS: u32 = 4;
const CLIENTS: usize = 64;
const THREADS: usize = 2;
const WARM_UP: Duration = Duration::from_millis(500);

/// What active clients do.
const LOADS: [&str; 3] = [
    "connect, GET, close",
    "echo of 20 bytes",
    "publish to 16 members",
];

/// Of one measurement.
struct Sample {
    /// Microseconds of processor time.
    cost: f64,
    rate: f64,
    p99: f64,
    others: f64,
}

fn run(options: &Options) -> Result<Vec<Table>, String> {
    process::raise_open_files();
    let title = format!(
        "crowd: {WORKERS} workers, {CLIENTS} active clients, median of {} rounds of {} s",
        options.rounds, options.seconds
    );
    let columns = [
        "load",
        "live",
        "CPU µs each",
        "rate/s",
        "p99 µs",
        "others %",
        "goal",
    ];
    let mut table = Table::new(title, &columns);
    let mut all: [[Vec<Sample>; 2]; 3] = Default::default();
    for round in 1..=options.rounds {
        for (many, live) in LIVE.into_iter().enumerate() {
            let samples = measure(live, options.seconds).map_err(|error| error.to_string())?;
            for ((sample, all), name) in samples.into_iter().zip(&mut all).zip(LOADS) {
                eprintln!("round {round}: {live} live, {name} {:.2} µs", sample.cost);
                all[many].push(sample);
            }
        }
    }
    for (samples, name) in all.iter().zip(LOADS) {
        let of = |many: usize, figure: fn(&Sample) -> f64| median_of(&samples[many], figure);
        let times = of(1, |sample| sample.cost) / of(0, |sample| sample.cost);
        for (many, live) in LIVE.into_iter().enumerate() {
            table.push(vec![
                Cell::text(name),
                Cell::count(live as u64),
                Cell::number(of(many, |sample| sample.cost), 2),
                Cell::number(of(many, |sample| sample.rate), 0),
                Cell::number(of(many, |sample| sample.p99), 0),
                Cell::number(of(many, |sample| sample.others), 0),
                match many {
                    0 => Cell::text(""),
                    _ => verdict(&format!("x {times:.2} ≤ {GOAL}"), times <= GOAL),
                },
            ]);
        }
    }
    Ok(vec![table])
}

/// Each load, with so many idle connections beside it, which in the end are still there.
fn measure(live: usize, seconds: u64) -> io::Result<[Sample; 3]> {
    let baton = Baton::builder().workers(WORKERS).start();
    let mut held = Held::connect(baton.public, live)?;
    let samples = [
        visit(&baton, seconds)?,
        talk(&baton, messages::Kind::Echo, seconds)?,
        talk(&baton, messages::Kind::Room { members: 16 }, seconds)?,
    ];
    held.ask()?;
    Ok(samples)
}

fn visit(baton: &Baton, seconds: u64) -> io::Result<Sample> {
    let visits = Visits::start(baton.public, Pace::Clients(CLIENTS), THREADS);
    thread::sleep(WARM_UP);
    visits.measure(true);
    let (before, gauge) = (visits.counts(), Gauge::now(baton));
    thread::sleep(Duration::from_secs(seconds));
    let (counts, taken) = (visits.counts() - before, Gauge::now(baton).since(&gauge));
    visits.measure(false);
    let latencies = visits.end()?;
    if counts.refused + counts.cut + counts.given_up > 0 {
        return Err(io::Error::other(format!("not all were served: {counts:?}")));
    }
    Ok(Sample {
        cost: taken.each(counts.served),
        rate: taken.rate(counts.served),
        p99: quantile(&latencies, 0.99),
        others: taken.others,
    })
}

fn talk(baton: &Baton, kind: messages::Kind, seconds: u64) -> io::Result<Sample> {
    let messages = Messages::start(baton.public, kind, CLIENTS, THREADS)?;
    thread::sleep(WARM_UP);
    let (before, gauge) = (messages.done(), Gauge::now(baton));
    thread::sleep(Duration::from_secs(seconds));
    let (done, taken) = (messages.done() - before, Gauge::now(baton).since(&gauge));
    let waits = messages.end()?;
    Ok(Sample {
        cost: taken.each(done),
        rate: taken.rate(done),
        p99: quantile(&waits, 0.99),
        others: taken.others,
    })
}
