//! The master alone is in front of all workers: what it takes of the processors when connections come
//! as fast as they can, and whether one worker that does nothing any more is felt by those who are
//! served by the others.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use super::gauge::{Gauge, quantile, verdict};
use super::messages::Room;
use super::visits::{Pace, Visits};
use super::{Cell, Options, Subject, Table};
use crate::{Baton, process};

pub const SUBJECT: Subject = Subject {
    name: "master",
    about: "its share at 40,000 connections a second, and what a stopped worker costs the others",
    peers: &[],
    run,
};

const RATE: f64 = 40_000.0;
const CLIENTS: usize = 256;
const THREADS: usize = 2;
const WARM_UP: Duration = Duration::from_secs(1);

/// With one of three workers stopped: connections that come in a second, whatever becomes of them.
const CALM: f64 = 500.0;
const WORKERS: u32 = 3;
const MEMBERS: usize = 16;
/// A brain that stands still for longer is replaced.
const LONGEST: u64 = 8;

fn run(options: &Options) -> Result<Vec<Table>, String> {
    process::raise_open_files();
    let share = share(options).map_err(|error| error.to_string())?;
    let stopped = stopped(options).map_err(|error| error.to_string())?;
    Ok(vec![share, stopped])
}

fn share(options: &Options) -> io::Result<Table> {
    let title = format!(
        "master: connect, GET, close; {} workers, {} s each",
        options.workers, options.seconds
    );
    let columns = [
        "load",
        "served/s",
        "master µs",
        "workers µs",
        "master: core %",
        "of baton %",
        "p99 ms",
        "others %",
    ];
    let mut table = Table::new(title, &columns);
    let loads = [
        ("40,000/s", Pace::Rate(RATE)),
        ("256 clients", Pace::Clients(CLIENTS)),
    ];
    for (name, pace) in loads {
        let baton = Baton::builder().workers(options.workers).start();
        let status = baton.status();
        let of_master = || -> Duration {
            let pids = [status.master_pid, status.master_brain_pid];
            pids.into_iter().map(process::cpu_time).sum()
        };
        let visits = Visits::start(baton.public, pace, THREADS);
        thread::sleep(WARM_UP);
        visits.measure(true);
        let (before, gauge, master) = (visits.counts(), Gauge::now(&baton), of_master());
        thread::sleep(Duration::from_secs(options.seconds));
        let master = of_master() - master;
        let (counts, taken) = (visits.counts() - before, Gauge::now(&baton).since(&gauge));
        let latencies = visits.end()?;
        let each = |time: Duration| time.as_secs_f64() * 1e6 / counts.served as f64;
        table.push(vec![
            Cell::text(name),
            Cell::number(taken.rate(counts.served), 0),
            Cell::number(each(master), 2),
            Cell::number(each(taken.baton - master), 2),
            Cell::number(master.as_secs_f64() * 100.0 / taken.time.as_secs_f64(), 0),
            Cell::number(master.as_secs_f64() * 100.0 / taken.baton.as_secs_f64(), 0),
            Cell::number(quantile(&latencies, 0.99) / 1e3, 1),
            Cell::number(taken.others, 0),
        ]);
    }
    Ok(table)
}

/// What is felt in such a time.
struct Felt {
    served: f64,
    /// Connections that were not answered by the end.
    waiting: u64,
    visits: Vec<f64>,
    messages: Vec<f64>,
    others: f64,
}

fn stopped(options: &Options) -> io::Result<Table> {
    let seconds = options.seconds.min(LONGEST);
    let title = format!(
        "master: one of {WORKERS} workers stopped for {seconds} s; {CALM} connections a second, and a room \
        with {MEMBERS} members at the others"
    );
    let columns = [
        "workers",
        "served/s",
        "waiting",
        "p50 ms",
        "p99 ms",
        "message p50 ms",
        "p99 ms",
        "others %",
        "goal",
    ];
    let mut table = Table::new(title, &columns);
    let baton = Baton::builder().workers(WORKERS).start();
    let status = baton.status();
    let victim = status.workers.first().ok_or(io::ErrorKind::NotFound)?;
    let mut room = Room::connect(baton.public, "r", MEMBERS, |worker| worker != victim.worker)?;
    // Warm.
    feel(&baton, &mut room, 1)?;
    let before = feel(&baton, &mut room, seconds)?;
    process::stop(victim.pid);
    let felt = feel(&baton, &mut room, seconds);
    process::go_on(victim.pid);
    let felt = felt?;
    let after = feel(&baton, &mut room, seconds)?;
    let times = quantile(&felt.messages, 0.99) / quantile(&before.messages, 0.99);
    let goal = verdict("message p99 ≤ 1.5 x", times <= 1.5);
    let rows = [
        ("all run", before, Cell::text("")),
        ("one stopped", felt, goal),
        ("all run again", after, Cell::text("")),
    ];
    for (name, felt, goal) in rows {
        let millis = |times: &[f64], part| Cell::number(quantile(times, part) / 1e3, 2);
        table.push(vec![
            Cell::text(name),
            Cell::number(felt.served, 0),
            Cell::count(felt.waiting),
            millis(&felt.visits, 0.5),
            millis(&felt.visits, 0.99),
            millis(&felt.messages, 0.5),
            millis(&felt.messages, 0.99),
            Cell::number(felt.others, 0),
            goal,
        ]);
    }
    Ok(table)
}

fn feel(baton: &Baton, room: &mut Room, seconds: u64) -> io::Result<Felt> {
    let visits = Visits::start(baton.public, Pace::Rate(CALM), 1);
    visits.measure(true);
    let gauge = Gauge::now(baton);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut messages = Vec::new();
    while Instant::now() < end {
        let begin = Instant::now();
        room.say()?;
        room.hear()?;
        messages.push(begin.elapsed().as_secs_f64() * 1e6);
        thread::sleep(Duration::from_millis(1));
    }
    let counts = visits.counts();
    let taken = Gauge::now(baton).since(&gauge);
    Ok(Felt {
        served: taken.rate(counts.served),
        waiting: counts.under_way(),
        visits: visits.end()?,
        messages,
        others: taken.others,
    })
}
