//! From a publish at one worker to its delivery at another, on a machine that does nothing else,
//! beside an echo, which needs the one worker alone.
//!
//! One thread says and hears all, one message at a time, and each time a publish and an echo: whatever
//! the machine needs to wake up and to fall asleep, both need it. How much that is says the floor
//! ([`relay`](super::relay)): a delivery wakes the worker, the master and the other worker.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use super::gauge::{Gauge, quantile, verdict};
use super::plain::{Plain, TEXT, offset};
use super::relay::Relay;
use super::{Cell, Options, Subject, Table};
use crate::Baton;
use crate::websocket::frame;

pub const SUBJECT: Subject = Subject {
    name: "delivery",
    about: "from a publish to its delivery by another worker, on an idle machine",
    peers: &[],
    run,
};

/// More than an echo, in the median.
const GOAL_US: f64 = 60.0;
const GOAL_P99_US: f64 = 1_000.0;
/// Between one message and the next.
const PAUSE: Duration = Duration::from_millis(2);

fn run(options: &Options) -> Result<Vec<Table>, String> {
    let baton = Baton::builder().workers(options.workers.max(2)).start();
    let before = Gauge::now(&baton);
    let mut times = [const { Vec::new() }; 5];
    for _ in 0..options.rounds {
        let end = Instant::now() + Duration::from_secs(options.seconds);
        round(&baton, end, &mut times).map_err(|error| error.to_string())?;
    }
    let taken = Gauge::now(&baton).since(&before);
    let title = format!(
        "delivery: one message at a time, {} of each, others {:.0} %",
        times[0].len(),
        taken.others
    );
    let columns = ["what", "p50 µs", "p90 µs", "p99 µs", "max µs", "goal"];
    let mut table = Table::new(title, &columns);
    let names = [
        "echo",
        "publish to a subscriber at the same worker",
        "publish to a subscriber at another worker",
        "floor of an echo: one thread that only writes back",
        "floor of the last: three threads that only wake each other",
    ];
    let echo = quantile(&times[0], 0.5);
    for (name, times) in names.into_iter().zip(&times) {
        let (p50, p99) = (quantile(times, 0.5), quantile(times, 0.99));
        table.push(vec![
            Cell::text(name),
            Cell::number(p50, 0),
            Cell::number(quantile(times, 0.9), 0),
            Cell::number(p99, 0),
            Cell::number(quantile(times, 1.0), 0),
            match name.starts_with("publish") {
                false => Cell::text(""),
                true => verdict(
                    "p50 ≤ echo + 60 µs, p99 ≤ 1 ms",
                    p50 <= echo + GOAL_US && p99 <= GOAL_P99_US,
                ),
            },
        ]);
    }
    Ok(vec![table])
}

/// Echoes, publishes to the same worker and to another one, and the floors, in turn.
fn round(baton: &Baton, end: Instant, times: &mut [Vec<f64>; 5]) -> io::Result<()> {
    let [echoes, near, far, one, three] = times;
    let mut echo = Plain::connect(baton.public, "/echo")?;
    let message = frame(TEXT, b"a message of some length");
    let (mut publisher, here) = Plain::greeted(baton.public)?;
    let mut rooms = [
        (Room::join(baton, "near", |worker| worker == here)?, near),
        (Room::join(baton, "far", |worker| worker != here)?, far),
    ];
    let mut floors = [(Relay::start(0)?, one), (Relay::start(2)?, three)];
    while Instant::now() < end {
        thread::sleep(PAUSE);
        echoes.push(micros(|| {
            echo.say(&message)?;
            echo.hear().map(drop)
        })?);
        for (room, times) in &mut rooms {
            thread::sleep(PAUSE);
            times.push(micros(|| {
                publisher.say(&room.publish)?;
                room.hear()
            })?);
        }
        for (relay, times) in &mut floors {
            thread::sleep(PAUSE);
            times.push(micros(|| relay.ask())?);
        }
    }
    Ok(())
}

fn micros(act: impl FnOnce() -> io::Result<()>) -> io::Result<f64> {
    let begin = Instant::now();
    act()?;
    Ok(begin.elapsed().as_secs_f64() * 1e6)
}

/// A room with one subscriber.
struct Room {
    subscriber: Plain,
    publish: Vec<u8>,
    offset: u64,
}

impl Room {
    fn join(baton: &Baton, name: &str, is_wanted: impl Fn(u64) -> bool) -> io::Result<Room> {
        let mut subscriber = loop {
            let (plain, worker) = Plain::greeted(baton.public)?;
            if is_wanted(worker) {
                break plain;
            }
        };
        let joined = subscriber.ask(&format!(r#"{{"id":1,"join":"{name}"}}"#))?;
        let message = format!(r#"{{"send":"{name}","data":"a message"}}"#);
        Ok(Room {
            subscriber,
            publish: frame(TEXT, message.as_bytes()),
            offset: offset(joined.as_bytes()).ok_or_else(|| io::Error::other(joined))?,
        })
    }

    /// The next message, and no other.
    fn hear(&mut self) -> io::Result<()> {
        let message = self.subscriber.hear()?;
        self.offset += 1;
        match offset(message) == Some(self.offset) {
            true => Ok(()),
            false => Err(io::Error::other(String::from_utf8_lossy(message))),
        }
    }
}
