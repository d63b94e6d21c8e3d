//! What grows with what: the price of one thing with few and with many of another.
//!
//! Each figure is of a daemon of its own. What is flat is so because nothing is looked through; why the
//! others are not is said in the README.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::cost::dialect::Dialect;
use super::cost::fan_out::{FanOut, Shape};
use super::gauge::{Gauge, Taken, all_are_reaped, median};
use super::held::Held;
use super::messages::{Kind, Messages, Room};
use super::plain::Plain;
use super::publish::{Batch, Publisher};
use super::visits::{Pace, Visits};
use super::{Cell, Options, Subject, Table};
use crate::{Baton, process};

pub const SUBJECT: Subject = Subject {
    name: "growth",
    about: "what grows with workers, rooms, members, subscriptions and connections",
    peers: &[],
    run,
};

const THREADS: usize = 2;
const PUBLISHERS: usize = 4;
const GUESTS: usize = 100;
const WARM_UP: Duration = Duration::from_millis(300);

/// One line: the price of something, with so many of something.
struct Line {
    what: &'static str,
    unit: &'static str,
    with: &'static str,
    many: &'static [usize],
    price: fn(usize, &Options) -> io::Result<f64>,
}

const WORKERS: &[usize] = &[1, 2, 4, 8, 16, 32];

const LINES: [Line; 15] = [
    Line {
        what: "connection, request, close",
        unit: "CPU µs",
        with: "workers",
        many: WORKERS,
        price: visit_by_workers,
    },
    Line {
        what: "message published, nobody there",
        unit: "CPU µs",
        with: "workers",
        many: WORKERS,
        price: publish_by_workers,
    },
    Line {
        what: "start",
        unit: "ms",
        with: "workers",
        many: WORKERS,
        price: start_by_workers,
    },
    Line {
        what: "message published, nobody there",
        unit: "CPU µs",
        with: "rooms",
        many: &[10, 1_000, 90_000],
        price: publish_by_rooms,
    },
    Line {
        what: "room, without members",
        unit: "bytes",
        with: "rooms",
        many: &[1_000, 90_000],
        price: room_memory,
    },
    Line {
        what: "retained message, 100 bytes",
        unit: "bytes",
        with: "messages, in 100 rooms",
        many: &[10_000, 200_000],
        price: retained_memory,
    },
    Line {
        what: "message delivered",
        unit: "CPU µs",
        with: "members of the room",
        many: &[10, 100, 1_000, 5_000],
        price: deliver_by_members,
    },
    Line {
        what: "message delivered, room of 1,000",
        unit: "CPU µs",
        with: "% of the members speak MessagePack",
        many: &[0, 50, 100],
        price: deliver_by_format,
    },
    Line {
        what: "join and leave",
        unit: "CPU µs",
        with: "members of the room",
        many: &[10, 1_000, 10_000, 30_000],
        price: join_by_members,
    },
    Line {
        what: "join and leave",
        unit: "CPU µs",
        with: "rooms that the client is in",
        many: &[1, 10, 99],
        price: join_by_subscriptions,
    },
    Line {
        what: "member who is told the names of a hundred that come or go",
        unit: "CPU µs",
        with: "members of the room",
        many: &[100, 1_000, 9_900],
        price: |members, options| watch_by_members(members, 10_000, options),
    },
    Line {
        what: "member who is told how many there are when a hundred come or go",
        unit: "CPU µs",
        with: "members of the room",
        many: &[2_000, 10_000],
        price: |members, options| watch_by_members(members, 1_000, options),
    },
    Line {
        what: "echo",
        unit: "CPU µs",
        with: "idle connections",
        many: &[100, 1_000, 10_000],
        price: echo_by_connections,
    },
    Line {
        what: "idle connection",
        unit: "bytes",
        with: "connections",
        many: &[1_000, 10_000],
        price: connection_memory,
    },
    Line {
        what: "reload",
        unit: "CPU µs a connection",
        with: "connections",
        many: &[1_000, 10_000],
        price: reload_by_connections,
    },
];

fn run(options: &Options) -> Result<Vec<Table>, String> {
    process::raise_open_files();
    let title = format!("growth: median of {} rounds", options.rounds);
    let columns = ["what", "unit", "with", "many", "price", "x the first"];
    let mut table = Table::new(title, &columns);
    for line in &LINES {
        let mut first = None;
        for many in line.many {
            let mut prices = Vec::new();
            for _ in 0..options.rounds {
                let price = (line.price)(*many, options);
                let failed = |error| format!("{} with {many} {}: {error}", line.what, line.with);
                prices.push(price.map_err(failed)?);
            }
            let price = median(&prices);
            eprintln!(
                "{}, {many} {}: {price:.3} {}",
                line.what, line.with, line.unit
            );
            table.push(vec![
                Cell::text(line.what),
                Cell::text(line.unit),
                Cell::text(line.with),
                Cell::count(*many as u64),
                Cell::number(price, 2),
                Cell::number(price / *first.get_or_insert(price), 2),
            ]);
        }
    }
    Ok(vec![table])
}

fn daemon(workers: usize) -> Baton {
    Baton::builder().workers(workers as u32).start()
}

fn visit_by_workers(workers: usize, options: &Options) -> io::Result<f64> {
    let baton = daemon(workers);
    let visits = Visits::start(baton.public, Pace::Clients(64), THREADS);
    let (done, taken) = measure(&baton, options, || visits.counts().served);
    visits.end()?;
    Ok(taken.each(done))
}

/// How many of them there are while it is measured.
fn measure(baton: &Baton, options: &Options, done: impl Fn() -> u64) -> (u64, Taken) {
    thread::sleep(WARM_UP);
    let (before, gauge) = (done(), Gauge::now(baton));
    thread::sleep(Duration::from_secs(options.seconds));
    (done() - before, Gauge::now(baton).since(&gauge))
}

/// What a message costs when each publisher has a batch of its own, once all that it is about is
/// there.
fn pump(baton: &Baton, batches: &[Batch], options: &Options) -> io::Result<f64> {
    let one = Batch::new("last", "1", 1, true);
    let connect = |_: &Batch| Publisher::connect(baton.public);
    let mut publishers = batches
        .iter()
        .map(connect)
        .collect::<io::Result<Vec<_>>>()?;
    let published = |publishers: &[Publisher]| publishers.iter().map(|p| p.published).sum::<u64>();
    let stop = AtomicBool::new(false);
    let run = |publishers: &mut Vec<Publisher>| -> io::Result<()> {
        thread::scope(|scope| {
            let each = publishers.iter_mut().zip(batches);
            let threads: Vec<_> = each
                .map(|(publisher, batch)| {
                    let (stop, one) = (&stop, &one);
                    scope.spawn(move || {
                        publisher.publish(batch)?;
                        while !stop.load(Ordering::Relaxed) {
                            publisher.publish(batch)?;
                        }
                        publisher.ask(one)
                    })
                })
                .collect();
            if !stop.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_secs(options.seconds));
                stop.store(true, Ordering::Relaxed);
            }
            for thread in threads {
                thread.join().expect("a thread of ours ends")?;
            }
            Ok(())
        })
    };
    // Once, so that the rooms are there.
    stop.store(true, Ordering::Relaxed);
    run(&mut publishers)?;
    stop.store(false, Ordering::Relaxed);
    let (before, gauge) = (published(&publishers), Gauge::now(baton));
    run(&mut publishers)?;
    let taken = Gauge::now(baton).since(&gauge);
    Ok(taken.each(published(&publishers) - before))
}

fn publish_by_workers(workers: usize, options: &Options) -> io::Result<f64> {
    let batch = || Batch::new("r", &data(), 250, false);
    let batches: Vec<Batch> = (0..PUBLISHERS).map(|_| batch()).collect();
    pump(&daemon(workers), &batches, options)
}

/// 100 bytes.
fn data() -> String {
    format!("\"{}\"", ".".repeat(98))
}

/// Rooms that are each published to in turn.
fn rooms(many: usize) -> Vec<Batch> {
    let publisher = |number: usize| {
        let rooms = (number..many).step_by(PUBLISHERS).cycle();
        let send = |room| format!(r#"{{"send":"room {room}","data":{}}}"#, data());
        Batch::of(rooms.take((many / PUBLISHERS).max(250)).map(send))
    };
    (0..PUBLISHERS).map(publisher).collect()
}

fn publish_by_rooms(many: usize, options: &Options) -> io::Result<f64> {
    pump(&daemon(2), &rooms(many), options)
}

fn memory(baton: &Baton) -> f64 {
    let pids = baton.processes().into_iter();
    pids.map(process::proportional).sum::<u64>() as f64
}

fn room_memory(many: usize, options: &Options) -> io::Result<f64> {
    let brief = Options {
        seconds: 0,
        ..options.clone()
    };
    let baton = daemon(2);
    // The log and the rings have been all over once.
    pump(&baton, &rooms(100), options)?;
    let before = memory(&baton);
    pump(&baton, &rooms(many), &brief)?;
    Ok((memory(&baton) - before) / many as f64)
}

fn retained_memory(many: usize, options: &Options) -> io::Result<f64> {
    let keep = "[[room]]\nmatch = \"kept *\"\nhistory = 1000000\nhistory_bytes = \"64 MiB\"\n";
    let baton = Baton::builder().workers(2).config(keep).start();
    let kept = |room: usize| format!(r#"{{"send":"kept {room}","data":{}}}"#, data());
    let mut publisher = Publisher::connect(baton.public)?;
    let last = Batch::new("kept 0", &data(), 1, true);
    // The log and the rings have been all over once, and the rooms are there.
    pump(&baton, &rooms(100), options)?;
    publisher.publish(&Batch::of((0..100).map(kept)))?;
    publisher.ask(&last)?;
    let before = memory(&baton);
    for from in (0..many).step_by(1_000) {
        publisher.publish(&Batch::of((from..from + 1_000).map(|n| kept(n % 100))))?;
    }
    publisher.ask(&last)?;
    Ok((memory(&baton) - before) / many as f64)
}

fn deliver_by_members(members: usize, options: &Options) -> io::Result<f64> {
    let baton = daemon(2);
    let kind = Kind::Room { members };
    let clients = members.max(64) / members * members;
    let messages = Messages::start(baton.public, kind, clients, 1)?;
    let (done, taken) = measure(&baton, options, || messages.done());
    messages.end()?;
    Ok(taken.each(done * members as u64))
}

/// Said in JSON, unless nobody speaks that.
fn deliver_by_format(percent: usize, options: &Options) -> io::Result<f64> {
    let baton = daemon(2);
    let shape = Shape {
        rooms: 1,
        members: 1_000,
        depth: 8,
    };
    let dialect = Dialect::Formats { packed: percent };
    let fan_out = FanOut::start(baton.public, dialect, shape, THREADS);
    let fan_out = fan_out.map_err(io::Error::other)?;
    let (done, taken) = measure(&baton, options, || fan_out.done());
    fan_out.end().map_err(io::Error::other)?;
    Ok(taken.each(done))
}

/// In the room with so many others.
fn join_by_members(members: usize, options: &Options) -> io::Result<f64> {
    let baton = daemon(2);
    let mut room = Held::members(baton.public, members, "r")?;
    let join = [r#"{"join":"r"}"#, r#"{"leave":"r"}"#].map(str::to_owned);
    let batch = Batch::of(join.iter().cycle().take(200).cloned());
    let price = pump(&baton, &[batch], options)?;
    room.ask()?;
    Ok(2.0 * price)
}

/// One room more than so many others, all of which somebody else is in, too.
fn join_by_subscriptions(many: usize, options: &Options) -> io::Result<f64> {
    let baton = daemon(1);
    let _others = Room::connect(baton.public, "r", 10, |_| true)?;
    let mut messages: Vec<String> = (0..many)
        .map(|room| format!(r#"{{"join":"other {room}"}}"#))
        .collect();
    for _ in 0..1_000 {
        messages.extend([r#"{"join":"r"}"#, r#"{"leave":"r"}"#].map(str::to_owned));
    }
    let batch = Batch::of(messages.into_iter());
    let price = pump(&baton, &[batch], options)?;
    Ok(2.0 * price)
}

/// A hundred guests come in one second and go in the next, and every member is told so: by name in a
/// room of up to so many.
fn watch_by_members(members: usize, named: usize, options: &Options) -> io::Result<f64> {
    let config = format!("[rooms]\npresence = {named}\n");
    let baton = Baton::builder().workers(2).config(&config).start();
    let join = r#"{"id":1,"join":"r","presence":true}"#;
    let mut watchers = Vec::new();
    for _ in 0..members {
        let (mut watcher, _) = Plain::greeted(baton.public)?;
        watcher.ask(join)?;
        watchers.push(watcher);
    }
    let all_hear = |watchers: &mut Vec<Plain>, count: usize| {
        let ends = [b',', b'}'].map(|end| format!("\"count\":{count}{}", char::from(end)));
        let is_said = |said: &[u8]| {
            let find = |count: &String| memchr::memmem::find(said, count.as_bytes());
            ends.iter().any(|count| find(count).is_some())
        };
        watchers.iter_mut().try_for_each(|watcher| {
            while !is_said(watcher.hear()?) {}
            Ok::<(), io::Error>(())
        })
    };
    all_hear(&mut watchers, members)?;
    let mut guests = (0..GUESTS)
        .map(|_| Plain::greeted(baton.public).map(|(guest, _)| guest))
        .collect::<io::Result<Vec<_>>>()?;
    let mut turn = |verb: &str, count: usize| {
        let said = format!("{{\"id\":1,\"{verb}\":\"r\"}}");
        for guest in &mut guests {
            guest.ask(&said)?;
        }
        all_hear(&mut watchers, count)
    };
    let gauge = Gauge::now(&baton);
    for _ in 0..options.seconds {
        turn("join", members + GUESTS)?;
        turn("leave", members)?;
    }
    let told = 2 * options.seconds * members as u64;
    Ok(Gauge::now(&baton).since(&gauge).each(told))
}

fn echo_by_connections(many: usize, options: &Options) -> io::Result<f64> {
    let baton = daemon(2);
    let mut held = Held::connect(baton.public, many)?;
    let messages = Messages::start(baton.public, Kind::Echo, 64, THREADS)?;
    let (done, taken) = measure(&baton, options, || messages.done());
    messages.end()?;
    held.ask()?;
    Ok(taken.each(done))
}

fn connection_memory(many: usize, _: &Options) -> io::Result<f64> {
    let baton = daemon(2);
    let before = memory(&baton);
    let _held = Held::connect(baton.public, many)?;
    Ok((memory(&baton) - before) / many as f64)
}

fn reload_by_connections(many: usize, _: &Options) -> io::Result<f64> {
    let baton = daemon(2);
    let mut held = Held::connect(baton.public, many)?;
    let reloads = (20_000 / many).clamp(3, 20);
    all_are_reaped(&baton);
    let before = Gauge::now(&baton);
    for _ in 0..reloads {
        baton.expect(&["reload"], 0);
    }
    all_are_reaped(&baton);
    let taken = Gauge::now(&baton).since(&before);
    held.ask()?;
    Ok(taken.each((reloads * many) as u64))
}

fn start_by_workers(workers: usize, _: &Options) -> io::Result<f64> {
    let times = (0..5).map(|_| {
        let begin = Instant::now();
        let _baton = daemon(workers);
        begin.elapsed().as_secs_f64() * 1e3
    });
    Ok(median(&times.collect::<Vec<_>>()))
}
