//! What it saves that what is said in a busy room is given together: processor time of each delivery,
//! with windows of some lengths, while so much is said in a second.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::gauge::{Gauge, median_of};
use super::plain::{Plain, TEXT, offset};
use super::{Cell, Options, Subject, Table};
use crate::websocket::frame;
use crate::{Baton, process};

pub const SUBJECT: Subject = Subject {
    name: "merging",
    about: "a busy room with and without a window in which messages are merged",
    peers: &[],
    run,
};

const MEMBERS: usize = 1_000;
const WINDOWS_MS: [u64; 3] = [0, 50, 200];
/// Messages a second, of 100 bytes.
const RATES: [u64; 2] = [50, 500];
/// Heard of one member before the next one is listened to.
const AT_ONCE: u64 = 25;

fn run(options: &Options) -> Result<Vec<Table>, String> {
    process::raise_open_files();
    let members = options.connections(MEMBERS);
    let title = format!(
        "merging: a room of {members}, {} workers, median of {} rounds of {} s",
        options.workers, options.rounds, options.seconds
    );
    let columns = [
        "said/s",
        "merge ms",
        "deliveries/s",
        "CPU µs a delivery",
        "others %",
    ];
    let mut table = Table::new(title, &columns);
    for rate in RATES {
        for window in WINDOWS_MS {
            let samples = options.measured(|| measure(options, members, rate, window))?;
            let of = |figure: usize| median_of(&samples, |sample| sample[figure]);
            table.push(vec![
                Cell::count(rate),
                Cell::count(window),
                Cell::number(of(0), 0),
                Cell::number(of(1), 2),
                Cell::number(of(2), 0),
            ]);
        }
    }
    Ok(vec![table])
}

/// Deliveries a second, microseconds of each, and what others took.
fn measure(options: &Options, members: usize, rate: u64, window: u64) -> io::Result<[f64; 3]> {
    let config = format!("[[room]]\nmatch = \"r\"\nmerge = \"{window}ms\"\n");
    let baton = Baton::builder()
        .workers(options.workers)
        .config(&config)
        .start();
    let mut room = Vec::new();
    for _ in 0..members {
        let (mut member, _) = Plain::greeted(baton.public)?;
        member.ask(r#"{"id":1,"join":"r"}"#)?;
        room.push(member);
    }
    let (mut publisher, _) = Plain::greeted(baton.public)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let publishing = scope.spawn(|| {
            let data = "x".repeat(98);
            let said = frame(
                TEXT,
                format!(r#"{{"send":"r","data":"{data}"}}"#).as_bytes(),
            );
            let (begin, mut count) = (Instant::now(), 0);
            // Whole turns, so that nobody waits for what does not come.
            while !stop.load(Ordering::Relaxed) || count % AT_ONCE > 0 {
                let at = begin + Duration::from_secs_f64(count as f64 / rate as f64);
                thread::sleep(at.saturating_duration_since(Instant::now()));
                publisher.say(&said)?;
                count += 1;
            }
            Ok::<u64, io::Error>(count)
        });
        let mut next = 1;
        let mut turn = || -> io::Result<u64> {
            for member in &mut room {
                for place in next..next + AT_ONCE {
                    let heard = offset(member.hear()?);
                    if heard != Some(place) {
                        let what = format!("{heard:?} in place of {place}");
                        return Err(io::Error::other(what));
                    }
                }
            }
            next += AT_ONCE;
            Ok(next - 1)
        };
        let mut measured = || {
            turn()?;
            let gauge = Gauge::now(&baton);
            let (begin, mut deliveries) = (Instant::now(), 0);
            while begin.elapsed() < Duration::from_secs(options.seconds) {
                turn()?;
                deliveries += AT_ONCE * members as u64;
            }
            let taken = Gauge::now(&baton).since(&gauge);
            Ok([taken.rate(deliveries), taken.each(deliveries), taken.others])
        };
        let figures = measured();
        stop.store(true, Ordering::Relaxed);
        let said = publishing.join().expect("the publisher does not panic")?;
        while figures.is_ok() && turn()? < said {}
        figures
    })
}
