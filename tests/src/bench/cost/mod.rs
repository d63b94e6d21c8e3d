//! What serving costs: processor time for a million of everything that a client may want, of all
//! processes of a server together.
//!
//! Beside baton, in turn and under the same load, serve [`bare`](super::bare), the floor, and what
//! people use, where it can. A server with one worker has a core to itself and the clients have another, with two all
//! share both. Each measurement has a server of its own and begins when it is warm. Latencies are
//! those of clients that ask again at once: what a loaded server lets wait.
//!
//! To be read in this order: [`loads`], [`servers`], [`programs`], [`script`], [`driver`]; for rooms [`dialect`],
//! [`fan_out`], [`members`]. [`instructions`] counts under the same loads what no noise can change.

use std::thread;
use std::time::{Duration, Instant};

use self::clients::{Clients, Got};
use self::loads::{LOADS, Load, SERVERS_CORE};
use self::servers::{KINDS, Kind, PEERS, Server};
use super::{Cell, Options, Subject, Table};
use crate::process;

mod clients;
pub mod dialect;
mod driver;
pub mod fan_out;
pub mod instructions;
pub mod loads;
mod members;
mod programs;
mod script;
pub mod servers;
mod waits;

pub const SUBJECT: Subject = Subject {
    name: "cost",
    about: "processor time of HTTP and WebSocket, beside the least that it can be",
    peers: &PEERS,
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
    "user",
    "x bare",
    "core %",
    "others %",
    "p50 µs",
    "p99 µs",
    "p99.9 µs",
    "in one",
    "MiB",
];

fn run(options: &Options) -> Result<Vec<Table>, String> {
    process::raise_open_files();
    let title = format!(
        "cost: processor time of all processes, median of {} rounds of {} s",
        options.rounds, options.seconds
    );
    let mut table = Table::new(title, &COLUMNS);
    for load in LOADS.iter().filter(|load| options.wants_load(load.name)) {
        let mut all = servers(load, options);
        all.iter().try_for_each(|(kind, _)| missing(*kind))?;
        for round in 1..=options.rounds {
            for (kind, figures) in &mut all {
                let name = kind.name();
                if figures.has_failed {
                    continue;
                }
                let sample = match measure_in_peace(load, *kind, options.seconds) {
                    Ok(Some(sample)) => sample,
                    Ok(None) => continue,
                    // What the others cost is worth knowing all the same.
                    Err(reason) => {
                        figures.has_failed = true;
                        table.fail(format!("{}: {name}: {reason}", load.name));
                        continue;
                    }
                };
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
    let kinds = KINDS.into_iter();
    kinds
        .filter(|kind| wanted(kind) && load.is_for(*kind))
        .map(|kind| (kind, Figures::default()))
        .collect()
}

fn missing(kind: Kind) -> Result<(), String> {
    match kind.is_there() {
        true => Ok(()),
        false => Err(format!(
            "there is no {}: scripts/bench gets it, `--against` does without",
            kind.name()
        )),
    }
}

/// One measurement.
struct Sample {
    rate: f64,
    /// Seconds of processor time a million.
    cost: f64,
    /// Of these, outside of the kernel.
    user: f64,
    /// Of one core.
    percent: f64,
    /// Bytes of all its processes at the end.
    memory: u64,
    /// What neither the server nor the clients took of a core: where it is much, figures say little.
    others: f64,
    got: Got,
}

/// All measurements of one server under one load.
#[derive(Default)]
struct Figures {
    rates: Vec<f64>,
    costs: Vec<f64>,
    users: Vec<f64>,
    percents: Vec<f64>,
    others: Vec<f64>,
    memories: Vec<f64>,
    got: Got,
    /// It could not be measured (any more).
    has_failed: bool,
}

impl Figures {
    fn add(&mut self, sample: Sample) {
        self.rates.push(sample.rate);
        self.costs.push(sample.cost);
        self.users.push(sample.user);
        self.percents.push(sample.percent);
        self.others.push(sample.others);
        self.memories.push(sample.memory as f64);
        self.got.merge(&sample.got);
    }

    /// It was measured.
    fn is_there(&self) -> bool {
        !self.costs.is_empty()
    }

    fn cost(&self) -> f64 {
        median(&self.costs)
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

/// Measures until the others keep quiet, but not for ever: then the least disturbed counts. `None`:
/// the server is absent.
fn measure_in_peace(load: &Load, kind: Kind, seconds: u64) -> Result<Option<Sample>, String> {
    let mut best: Option<Sample> = None;
    for _ in 0..TRIES {
        let Some(sample) = measure(load, kind, seconds)? else {
            return Ok(None);
        };
        let is_better = |best: &Sample| sample.others < best.others;
        if best.as_ref().is_none_or(is_better) {
            best = Some(sample);
        }
        if best.as_ref().is_some_and(|best| best.others < QUIET) {
            break;
        }
    }
    Ok(best)
}

fn measure(load: &Load, kind: Kind, seconds: u64) -> Result<Option<Sample>, String> {
    let Some(server) = start(load, kind) else {
        return Ok(None);
    };
    let clients = load.clients(&server)?;
    thread::sleep(WARM_UP);
    clients.measure(true);
    let before = Moment::now(&server, &clients);
    thread::sleep(Duration::from_secs(seconds));
    let after = Moment::now(&server, &clients);
    clients.measure(false);
    let memory = server.memory();
    let got = clients.end()?;
    let done = (after.done - before.done) as f64;
    let time = (after.at - before.at).as_secs_f64();
    let cpu = (after.cpu - before.cpu).as_secs_f64();
    let others = (after.others - before.others).max(0.0);
    Ok(Some(Sample {
        memory,
        rate: done / time,
        cost: cpu * 1e6 / done,
        user: (after.user - before.user) * 1e6 / done,
        percent: cpu * 100.0 / time,
        others: others * 100.0 / time,
        got,
    }))
}

/// `None`: it is absent.
fn start(load: &Load, kind: Kind) -> Option<Server> {
    match load.workers {
        1 => process::on_core(SERVERS_CORE, || kind.start(1)),
        workers => kind.start(workers),
    }
}

struct Moment {
    at: Instant,
    cpu: Duration,
    user: f64,
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
            user: server.user_time(),
            cpu,
        }
    }
}

fn say(load: &Load, all: &[(Kind, Figures)], table: &mut Table) {
    let cost = |wanted: Kind| {
        let found = all.iter().find(|(kind, _)| *kind == wanted);
        let figures = found.map(|(_, figures)| figures);
        figures
            .filter(|figures| figures.is_there())
            .map(Figures::cost)
    };
    for (kind, figures) in all {
        if !figures.is_there() {
            let mut row = vec![Cell::none(); COLUMNS.len()];
            let why = if figures.has_failed {
                "failed"
            } else {
                "absent"
            };
            row[..3].clone_from_slice(&[load.name, kind.name(), why].map(Cell::text));
            table.push(row);
            continue;
        }
        let mine = figures.cost();
        let times = |than: Kind| cost(than).map(|cost| mine / cost);
        let (least, most) = extremes(&figures.costs);
        table.push(vec![
            Cell::text(load.name),
            Cell::text(kind.name()),
            Cell::number(median(&figures.rates), 0),
            Cell::number(mine, digits(mine)),
            Cell::text(format!("{least:.0$}..{most:.0$}", digits(mine))),
            Cell::number(median(&figures.users), digits(mine)),
            times(Kind::Bare).map_or_else(Cell::none, |times| Cell::number(times, 2)),
            Cell::number(median(&figures.percents), 0),
            Cell::number(median(&figures.others), 0),
            figures.wait(500),
            figures.wait(990),
            figures.wait(999),
            figures.in_one(),
            Cell::number(median(&figures.memories) / f64::from(1 << 20), 1),
        ]);
    }
    for goal in load.goals {
        if let (Some(mine), Some(than)) = (cost(Kind::Baton), cost(goal.than)) {
            let (is, name) = (mine / than, goal.than.name());
            // What is within 3 % cannot be told from it.
            let verdict = match is <= goal.times * 1.03 {
                true => "met",
                false => "missed",
            };
            table.note(format!(
                "{}: baton : {name} is {is:.2}, wanted {:.2}: {verdict}",
                load.name, goal.times
            ));
        }
    }
    if let Some(floor) = load.floor
        && let (Some(bare), Some(beside)) = (cost(Kind::Bare), cost(floor.beside))
    {
        let (is, name) = (bare / beside, floor.beside.name());
        let verdict = match floor.times {
            Some(times) if (is / times - 1.0).abs() <= 0.1 => {
                format!(", expected {times:.2}: confirmed")
            }
            Some(times) => format!(", expected {times:.2}: not confirmed"),
            None => String::new(),
        };
        let load = load.name;
        table.note(format!("{load}: bare : {name} is {is:.2}{verdict}"));
    }
}

/// Three that say something.
fn digits(number: f64) -> usize {
    match number {
        ..1.0 => 3,
        ..10.0 => 2,
        _ => 1,
    }
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
