//! How many messages get their place in a room in a second, from publishers at all workers, with
//! nobody who listens; and what each costs.
//!
//! A client of its own asks for the offset that the room is at, at both ends of the time. In the end
//! every publisher has its last message acknowledged, and the room's offset must be the number of all
//! that were sent: none was lost, none came twice.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::gauge::{Gauge, Taken, median, verdict};
use super::publish::{Batch, Publisher};
use super::{Cell, Options, Subject, Table};
use crate::Baton;

pub const SUBJECT: Subject = Subject {
    name: "sequencing",
    about: "messages published a second in one room, and what one costs",
    peers: &[],
    run,
};

const GOAL: f64 = 500_000.0;
const ROOM: &str = "r";
/// Bytes of what is published, as JSON.
const DATA: usize = 100;
/// Publishers at each worker.
const PUBLISHERS: u32 = 4;
/// Messages that a publisher sends in one go.
const BATCH: u64 = 250;
const WARM_UP: Duration = Duration::from_secs(1);

fn run(options: &Options) -> Result<Vec<Table>, String> {
    let publishers = PUBLISHERS * options.workers;
    let title = format!(
        "sequencing: {DATA} bytes, one room, no subscriber, {publishers} publishers at {} workers, \
        median of {} rounds of {} s",
        options.workers, options.rounds, options.seconds
    );
    let columns = [
        "publish",
        "messages/s",
        "min..max",
        "CPU s/million",
        "core %",
        "others %",
        "goal",
    ];
    let mut table = Table::new(title, &columns);
    let ways = [("without id", false), ("with id", true)];
    let mut all = [Vec::new(), Vec::new()];
    for round in 1..=options.rounds {
        for ((name, with_ids), samples) in ways.iter().zip(&mut all) {
            let sample = measure(options.workers, *with_ids, options.seconds)
                .map_err(|error| format!("{name}: {error}"))?;
            let (done, taken): (u64, Taken) = sample;
            eprintln!("round {round}: {name} {:.0}/s", taken.rate(done));
            samples.push(sample);
        }
    }
    for ((name, _), samples) in ways.iter().zip(&all) {
        let of = |figure: fn(&(u64, Taken)) -> f64| samples.iter().map(figure).collect::<Vec<_>>();
        let rates = of(|(done, taken)| taken.rate(*done));
        let (least, most) = rates
            .iter()
            .fold((f64::MAX, 0.0_f64), |(least, most), rate| {
                (least.min(*rate), most.max(*rate))
            });
        table.push(vec![
            Cell::text(*name),
            Cell::number(median(&rates), 0),
            Cell::text(format!("{least:.0}..{most:.0}")),
            Cell::number(median(&of(|(done, taken)| taken.each(*done))), 3),
            Cell::number(median(&of(|(_, taken)| taken.percent())), 0),
            Cell::number(median(&of(|(_, taken)| taken.others)), 0),
            verdict("500,000/s", median(&rates) >= GOAL),
        ]);
    }
    Ok(vec![table])
}

fn measure(workers: u32, with_ids: bool, seconds: u64) -> io::Result<(u64, Taken)> {
    let baton = Baton::builder().workers(workers).start();
    let to = baton.public;
    let data = format!("\"{}\"", ".".repeat(DATA - 2));
    let batch = Batch::new(ROOM, &data, BATCH, with_ids);
    let one = Batch::new(ROOM, &data, 1, true);
    let stop = AtomicBool::new(false);
    let mut probe = Publisher::connect(to)?;
    thread::scope(|scope| {
        let publishers: Vec<_> = (0..PUBLISHERS * workers)
            .map(|_| scope.spawn(|| publish(to, &batch, &one, &stop)))
            .collect();
        let mut look = |pause| {
            thread::sleep(pause);
            let offset = probe.ask(&one)?;
            io::Result::Ok((offset, Gauge::now(&baton)))
        };
        let looks =
            look(WARM_UP).and_then(|before| Ok((before, look(Duration::from_secs(seconds))?)));
        stop.store(true, Ordering::Relaxed);
        let mut sent = 0;
        for publisher in publishers {
            sent += publisher.join().expect("a thread of ours ends")?;
        }
        let ((first, before), (last, after)) = looks?;
        let offset = probe.ask(&one)?;
        match offset == sent + probe.published {
            true => Ok((last - first, after.since(&before))),
            false => Err(io::Error::other(format!(
                "{} were sent, and the room is at {offset}",
                sent + probe.published
            ))),
        }
    })
}

/// Publishes until it is to stop, and the last one is acknowledged; how many that were.
fn publish(to: SocketAddr, batch: &Batch, one: &Batch, stop: &AtomicBool) -> io::Result<u64> {
    let mut publisher = Publisher::connect(to)?;
    while !stop.load(Ordering::Relaxed) {
        publisher.publish(batch)?;
    }
    publisher.hear(batch)?;
    publisher.ask(one)?;
    Ok(publisher.published)
}
