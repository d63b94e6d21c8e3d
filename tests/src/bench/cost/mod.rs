//! What serving costs: processor time for a million of everything that a client may want, of all
//! processes of a server together.
//!
//! Beside baton, in turn and under the same load, serve [`bare`](super::bare), the floor, and, where
//! it can, nginx. A server with one worker has a core to itself and the clients have another, with two all
//! share both. Each measurement has a server of its own and begins when it is warm. Latencies are
//! those of clients that ask again at once: what a loaded server lets wait.
//!
//! To be read in this order: [`loads`], [`servers`], [`script`], [`driver`]; for rooms [`dialect`],
//! [`fan_out`], [`members`].

use std::thread;
use std::time::{Duration, Instant};

use self::clients::{Clients, Got};
use self::loads::{Goal, LOADS, Load, SERVERS_CORE};
use self::servers::{Kind, Server};
use super::{Cell, Options, Subject, Table};
use crate::process;

mod clients;
mod dialect;
mod driver;
mod fan_out;
pub mod loads;
mod members;
mod script;
mod servers;
mod waits;

pub const SUBJECT: Subject = Subject {
    name: "cost",
    about: "processor time of HTTP and WebSocket, beside the least that it can be",
    peers: &["bare", "nginx"],
    run,
};

const WARM_UP: Duration = Duration::from_secs(1);

/// What others may take of a core, in percent.
const QUIET: f64 = 25.0;
const TRIES: u32 = 3;

const COLUMNS: [&str; 14] = [
    "load",
    "server",
    "rate/s",
    "CPU s/million",
    "min..max",
    "x bare",
    "x nginx",
    "goal",
    "core %",
    "others %",
    "p50 µs",
    "p99 µs",
    "p99.9 µs",
    "in one",
];

fn run(options: &Options) -> Result<Vec<Table>, String> {
    process::raise_open_files();
    let title = format!(
        "cost: processor time of all processes, median of {} rounds of {} s",
        options.rounds, options.seconds
    );
    let mut table = Table::new(title, &COLUMNS);
    let loads = || LOADS.iter().filter(|load| options.wants_load(load.name));
    let needs_nginx = loads().any(|load| {
        let all = servers(load, options);
        all.iter().any(|(kind, _)| *kind == Kind::Nginx)
    });
    if needs_nginx && !servers::has_nginx() {
        let reason = "there is no nginx: scripts/bench gets it, `--against bare` does without";
        return Err(reason.to_owned());
    }
    for load in loads() {
        let mut all = servers(load, options);
        for round in 1..=options.rounds {
            for (kind, figures) in &mut all {
                let name = kind.name();
                let sample = measure_in_peace(load, *kind, options.seconds)
                    .map_err(|reason| format!("{}: {name}: {reason}", load.name))?;
                eprintln!(
                    "{}, round {round}: {name} {:.3} s/million, {:.0}/s, others {:.0} %",
                    load.name, sample.cost, sample.rate, sample.others
                );
                figures.add(sample);
            }
            // Nobody is always the first.
            all.rotate_left(1);
        }
        all.sort_by_key(|(kind, _)| *kind);
        say(load, &all, &mut table);
    }
    Ok(vec![table])
}

/// Who is measured under this load.
fn servers(load: &Load, options: &Options) -> Vec<(Kind, Figures)> {
    let wanted = |kind: &Kind| *kind == Kind::Baton || options.wants(kind.name());
    [Kind::Baton, Kind::Bare, Kind::Nginx]
        .into_iter()
        .filter(|kind| wanted(kind) && load.is_for(*kind))
        .map(|kind| (kind, Figures::default()))
        .collect()
}

/// One measurement.
struct Sample {
    rate: f64,
    /// Seconds of processor time a million.
    cost: f64,
    /// Of one core.
    percent: f64,
    /// What neither the server nor the clients took of a core: where it is much, figures say little.
    others: f64,
    got: Got,
}

/// All measurements of one server under one load.
#[derive(Default)]
struct Figures {
    rates: Vec<f64>,
    costs: Vec<f64>,
    percents: Vec<f64>,
    others: Vec<f64>,
    got: Got,
}

impl Figures {
    fn add(&mut self, sample: Sample) {
        self.rates.push(sample.rate);
        self.costs.push(sample.cost);
        self.percents.push(sample.percent);
        self.others.push(sample.others);
        self.got.merge(&sample.got);
    }

    /// So many of a thousand did not wait longer, in microseconds.
    fn wait(&self, per_mille: u64) -> Cell {
        let nanos = self.got.waits.at(per_mille);
        nanos.map_or_else(Cell::none, |nanos| Cell::number(nanos as f64 / 1e3, 0))
    }

    /// Messages that came with one write of the server.
    fn in_one(&self) -> Cell {
        match self.got.pieces {
            0 => Cell::none(),
            pieces => Cell::number(self.got.deliveries as f64 / pieces as f64, 1),
        }
    }
}

/// Measures until the others keep quiet, but not for ever: then the least disturbed counts.
fn measure_in_peace(load: &Load, kind: Kind, seconds: u64) -> Result<Sample, String> {
    let mut best = measure(load, kind, seconds)?;
    for _ in 1..TRIES {
        if best.others < QUIET {
            break;
        }
        let again = measure(load, kind, seconds)?;
        if again.others < best.others {
            best = again;
        }
    }
    Ok(best)
}

fn measure(load: &Load, kind: Kind, seconds: u64) -> Result<Sample, String> {
    let server = match load.workers {
        1 => process::on_core(SERVERS_CORE, || kind.start(1)),
        workers => kind.start(workers),
    };
    let clients = load.clients(&server)?;
    thread::sleep(WARM_UP);
    clients.measure(true);
    let before = Moment::now(&server, &clients);
    thread::sleep(Duration::from_secs(seconds));
    let after = Moment::now(&server, &clients);
    clients.measure(false);
    let got = clients.end()?;
    let done = (after.done - before.done) as f64;
    let time = (after.at - before.at).as_secs_f64();
    let cpu = (after.cpu - before.cpu).as_secs_f64();
    let others = (after.others - before.others).max(0.0);
    Ok(Sample {
        rate: done / time,
        cost: cpu * 1e6 / done,
        percent: cpu * 100.0 / time,
        others: others * 100.0 / time,
        got,
    })
}

struct Moment {
    at: Instant,
    cpu: Duration,
    /// Seconds of processor time of everybody else.
    others: f64,
    done: u64,
}

impl Moment {
    fn now(server: &Server, clients: &Clients) -> Moment {
        let cpu = server.cpu_time();
        let ours = cpu + process::cpu_time(std::process::id() as i32);
        Moment {
            done: clients.done(),
            at: Instant::now(),
            others: process::cpu_time_of_all().as_secs_f64() - ours.as_secs_f64(),
            cpu,
        }
    }
}

fn say(load: &Load, all: &[(Kind, Figures)], table: &mut Table) {
    let cost = |wanted: Kind| {
        let found = all.iter().find(|(kind, _)| *kind == wanted);
        found.map(|(_, figures)| median(&figures.costs))
    };
    for (kind, figures) in all {
        let mine = median(&figures.costs);
        let times = |than: Kind| cost(than).map(|cost| mine / cost);
        let ratio =
            |than: Kind| times(than).map_or_else(Cell::none, |times| Cell::number(times, 2));
        let (least, most) = extremes(&figures.costs);
        table.push(vec![
            Cell::text(load.name),
            Cell::text(kind.name()),
            Cell::number(median(&figures.rates), 0),
            Cell::number(mine, 3),
            Cell::text(format!("{least:.3}..{most:.3}")),
            ratio(Kind::Bare),
            ratio(Kind::Nginx),
            Cell::text(match kind {
                Kind::Baton => verdict(load.goal, times(load.goal.than)),
                _ => String::new(),
            }),
            Cell::number(median(&figures.percents), 0),
            Cell::number(median(&figures.others), 0),
            figures.wait(500),
            figures.wait(990),
            figures.wait(999),
            figures.in_one(),
        ]);
    }
}

fn verdict(goal: Goal, is: Option<f64>) -> String {
    let verdict = match is {
        Some(times) if times <= goal.times => "met",
        Some(_) => "missed",
        None => "?",
    };
    format!("{} x {}: {verdict}", goal.times, goal.than.name())
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn extremes(figures: &[f64]) -> (f64, f64) {
    let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let most = figures.iter().copied().fold(0.0, f64::max);
    (least, most)
}
