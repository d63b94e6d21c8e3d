//! What a message takes when it is held against limits, or a back end is asked about it, beside one of
//! which nothing is checked.
//!
//! Many clients send one message each and wait until it is acknowledged, and again: so the back end is
//! asked about many at once. It is a thread of the bench that allows everything, and not counted.

use std::io;
use std::time::{Duration, Instant};

use serde_json::json;

use super::gauge::{Gauge, Taken, median_of};
use super::publish::{Batch, Publisher};
use super::{Cell, Options, Subject, Table};
use crate::Baton;
use crate::back_end::BackEnd;

pub const SUBJECT: Subject = Subject {
    name: "checks",
    about: "a message that is held against limits, or that a back end is asked about",
    peers: &[],
    run,
};

const CLIENTS: usize = 200;
/// Bytes of what is published, as JSON.
const DATA: usize = 100;
const WARM_UP: Duration = Duration::from_secs(1);

/// None is ever reached, and each is counted.
const LIMITS: &str = "[limits]\nexempt = []\n\
    [rates.connection]\nmessages = 1000000000\nbytes = \"16 GiB\"\n\
    [rates.address]\nmessages = 1000000000\nbytes = \"16 GiB\"\n\
    [rates.user]\nmessages = 1000000000\nbytes = \"16 GiB\"\n\
    [rates.room]\nmessages = 1000000000\nbytes = \"16 GiB\"\n";

#[derive(Clone, Copy)]
enum Check {
    Nothing,
    Limits,
    Hook,
}

/// Messages, what they took, requests to the back end.
type Sample = (u64, Taken, usize);

fn run(options: &Options) -> Result<Vec<Table>, String> {
    let clients = options.connections(CLIENTS);
    let title = format!(
        "checks: {DATA} bytes, {clients} clients that wait for each acknowledgement, {} workers, median \
        of {} rounds of {} s",
        options.workers, options.rounds, options.seconds
    );
    let columns = [
        "send",
        "messages/s",
        "CPU µs",
        "questions a request",
        "others %",
    ];
    let mut table = Table::new(title, &columns);
    for (name, check) in [
        ("nothing is checked", Check::Nothing),
        ("everything is limited", Check::Limits),
        ("a back end is asked", Check::Hook),
    ] {
        let samples = options.measured(|| measure(options, clients, check));
        let samples = samples.map_err(|error| format!("{name}: {error}"))?;
        let of = |figure: fn(&Sample) -> f64| median_of(&samples, figure);
        table.push(vec![
            Cell::text(name),
            Cell::number(of(|(done, taken, _)| taken.rate(*done)), 0),
            Cell::number(of(|(done, taken, _)| taken.each(*done)), 2),
            match check {
                Check::Hook => {
                    let each =
                        |(done, _, requests): &Sample| *done as f64 / (*requests).max(1) as f64;
                    Cell::number(of(each), 1)
                }
                Check::Nothing | Check::Limits => Cell::text(""),
            },
            Cell::number(of(|(_, taken, _)| taken.others), 0),
        ]);
    }
    Ok(vec![table])
}

fn measure(options: &Options, clients: usize, check: Check) -> io::Result<Sample> {
    let back_end = BackEnd::start(|_| json!({ "allow": true }));
    let config = match check {
        Check::Nothing => String::new(),
        Check::Limits => LIMITS.to_owned(),
        Check::Hook => format!("[[hook]]\non = [\"send\"]\nurl = \"{}\"\n", back_end.url()),
    };
    let baton = Baton::builder()
        .workers(options.workers)
        .config(&config)
        .start();
    let data = format!("\"{}\"", ".".repeat(DATA - 2));
    let one = Batch::new("r", &data, 1, true);
    let mut publishers = (0..clients)
        .map(|_| Publisher::connect(baton.public))
        .collect::<io::Result<Vec<_>>>()?;
    let mut go_on = |time: Duration| {
        let begin = Instant::now();
        let mut done = 0;
        while begin.elapsed() < time {
            publishers
                .iter_mut()
                .try_for_each(|each| each.publish(&one))?;
            publishers.iter_mut().try_for_each(|each| each.hear(&one))?;
            done += clients as u64;
        }
        io::Result::Ok(done)
    };
    go_on(WARM_UP)?;
    let (before, requests) = (Gauge::now(&baton), back_end.requests().len());
    let done = go_on(Duration::from_secs(options.seconds))?;
    let taken = Gauge::now(&baton).since(&before);
    Ok((done, taken, back_end.requests().len() - requests))
}
