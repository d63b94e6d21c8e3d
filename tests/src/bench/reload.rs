//! What a reload of many live connections costs: processor time of every process that takes part, of
//! those that end with it, too.

use std::io;
use std::time::Instant;

use super::gauge::{Gauge, Taken, all_are_reaped, median_of, verdict};
use super::plain::{Plain, TEXT, offset};
use super::{Cell, Options, Subject, Table};
use crate::socket::loopback;
use crate::websocket::frame;
use crate::{Baton, process};

pub const SUBJECT: Subject = Subject {
    name: "reload",
    about: "processor time of a reload with 10,000 live connections",
    peers: &[],
    run,
};

const GOAL_US: f64 = 20.0;
const CONNECTIONS: u32 = 10_000;
/// Reloads in a round, one behind the other: the time of those that ended is known by ticks only.
const RELOADS: u32 = 5;
const PORTS: u32 = 5_000;

/// What the connections are.
#[derive(Clone, Copy)]
enum Kind {
    Echo,
    /// In one room together.
    Member,
}

struct Sample {
    taken: Taken,
    longest_ms: f64,
}

fn run(options: &Options) -> Result<Vec<Table>, String> {
    process::raise_open_files();
    let title = format!(
        "reload: {CONNECTIONS} connections, {} workers, {RELOADS} reloads a round, median of {} rounds",
        options.workers, options.rounds
    );
    let columns = ["connections", "CPU µs each", "took ms", "others %", "goal"];
    let mut table = Table::new(title, &columns);
    for (name, kind) in [("/echo", Kind::Echo), ("members of a room", Kind::Member)] {
        let mut samples = Vec::new();
        for round in 1..=options.rounds {
            let sample = measure(kind, options.workers).map_err(|error| error.to_string())?;
            eprintln!("round {round}: {name} {:.1} µs", each(&sample));
            samples.push(sample);
        }
        let of = |figure: fn(&Sample) -> f64| median_of(&samples, figure);
        table.push(vec![
            Cell::text(name),
            Cell::number(of(each), 1),
            Cell::number(of(|sample| sample.longest_ms), 0),
            Cell::number(of(|sample| sample.taken.others), 0),
            verdict("20 µs", of(each) <= GOAL_US),
        ]);
    }
    Ok(vec![table])
}

fn each(sample: &Sample) -> f64 {
    sample.taken.each(u64::from(CONNECTIONS * RELOADS))
}

fn measure(kind: Kind, workers: u32) -> io::Result<Sample> {
    let baton = Baton::builder().workers(workers).start();
    let mut clients = Clients::connect(&baton, kind)?;
    clients.ask()?;
    all_are_reaped(&baton);
    let before = Gauge::now(&baton);
    let mut longest_ms = 0.0_f64;
    for _ in 0..RELOADS {
        let begin = Instant::now();
        baton.expect(&["reload"], 0);
        longest_ms = longest_ms.max(begin.elapsed().as_secs_f64() * 1e3);
    }
    all_are_reaped(&baton);
    let taken = Gauge::now(&baton).since(&before);
    clients.ask()?;
    Ok(Sample { taken, longest_ms })
}

struct Clients {
    kind: Kind,
    all: Vec<Plain>,
    asked: u64,
}

impl Clients {
    fn connect(baton: &Baton, kind: Kind) -> io::Result<Clients> {
        let connect = |number| {
            let from = Some(loopback(number / PORTS));
            match kind {
                Kind::Echo => Plain::connect_from(baton.public, "/echo", from, 1024),
                Kind::Member => {
                    let mut plain = Plain::connect_from(baton.public, "/rooms", from, 1024)?;
                    plain.greeting()?;
                    plain.ask(r#"{"id":1,"join":"r"}"#)?;
                    Ok(plain)
                }
            }
        };
        let all = (0..CONNECTIONS).map(connect).collect::<io::Result<_>>()?;
        Ok(Clients {
            kind,
            all,
            asked: 0,
        })
    }

    /// Each of them lives, and hears what it must hear.
    fn ask(&mut self) -> io::Result<()> {
        self.asked += 1;
        let wrong = |heard: &[u8]| Err(io::Error::other(String::from_utf8_lossy(heard)));
        match self.kind {
            Kind::Echo => {
                let message = format!("question {}", self.asked);
                for client in &mut self.all {
                    let heard = client.ask(&message)?;
                    if heard != message {
                        return wrong(heard.as_bytes());
                    }
                }
            }
            Kind::Member => {
                let message = format!(r#"{{"send":"r","data":{}}}"#, self.asked);
                self.all[0].say(&frame(TEXT, message.as_bytes()))?;
                for client in &mut self.all {
                    let heard = client.hear()?;
                    if offset(heard) != Some(self.asked) {
                        return wrong(heard);
                    }
                }
            }
        }
        Ok(())
    }
}
