//! What a room's message costs when its members hear it compressed, and what it saves: processor time
//! and bytes of each delivery, beside members who hear it plain.
//!
//! The messages are chat: words of a common language in some JSON, another text each time.

use std::io;
use std::time::{Duration, Instant};

use super::gauge::{Gauge, median_of};
use super::plain::{Plain, TEXT};
use super::{Cell, Options, Subject, Table};
use crate::websocket::frame;
use crate::{Baton, deflate, process};

pub const SUBJECT: Subject = Subject {
    name: "compression",
    about: "a room's messages plain and compressed: processor time and bytes",
    peers: &[],
    run,
};

const MEMBERS: usize = 1_000;
/// Bytes of what is published.
const SIZES: [usize; 4] = [100, 300, 1024, 8192];
/// Said before any of them is heard.
const AT_ONCE: usize = 4;

const WORDS: &[&str] = &[
    "the", "stream", "is", "great", "hello", "everyone", "what", "a", "goal", "nice", "so", "good",
    "where", "can", "I", "watch", "this", "again", "tomorrow", "with", "my", "friends", "from",
    "Berlin", "today", "never", "seen", "anything", "like", "it", "really", "amazing", "play",
    "by", "number", "seven", "does", "anybody", "know", "when", "next", "match", "begins", "😀",
    "thanks",
];

/// Of one measurement.
struct Sample {
    micros: f64,
    bytes: f64,
    rate: f64,
    memory: f64,
    others: f64,
}

fn run(options: &Options) -> Result<Vec<Table>, String> {
    process::raise_open_files();
    let members = options.connections(MEMBERS);
    let title = format!(
        "compression: a room of {members}, {} workers, {AT_ONCE} messages at once, median of {} rounds of {} s",
        options.workers, options.rounds, options.seconds
    );
    let columns = [
        "published bytes",
        "members hear it",
        "CPU µs a delivery",
        "bytes a delivery",
        "deliveries/s",
        "MiB a worker",
        "others %",
    ];
    let mut table = Table::new(title, &columns);
    for size in SIZES {
        for (how, from) in [
            ("plain", None),
            ("compressed, if of 256 bytes", Some(256)),
            ("compressed", Some(0)),
        ] {
            let samples = options.measured(|| measure(options, members, size, from))?;
            let of = |figure: fn(&Sample) -> f64| median_of(&samples, figure);
            table.push(vec![
                Cell::count(size as u64),
                Cell::text(how),
                Cell::number(of(|s| s.micros), 2),
                Cell::number(of(|s| s.bytes), 0),
                Cell::number(of(|s| s.rate), 0),
                Cell::number(of(|s| s.memory), 1),
                Cell::number(of(|s| s.others), 0),
            ]);
        }
    }
    Ok(vec![table])
}

/// `from`: they offer compression, and messages of so many bytes are.
fn measure(
    options: &Options,
    members: usize,
    size: usize,
    from: Option<usize>,
) -> io::Result<Sample> {
    let config = format!("websocket.compress_from = {}\n", from.unwrap_or_default());
    let baton = Baton::builder()
        .workers(options.workers)
        .config(&config)
        .start();
    let mut room = Vec::new();
    for _ in 0..members {
        let mut member = match from {
            None => Plain::connect(baton.public, "/rooms")?,
            Some(_) => Plain::deflated(baton.public, "/rooms")?,
        };
        member.hear()?;
        member.say(&frame(TEXT, br#"{"id":1,"join":"r"}"#))?;
        member.hear()?;
        room.push(member);
    }
    let (mut publisher, _) = Plain::greeted(baton.public)?;
    let mut seed = options.seed;
    let (mut deliveries, mut bytes) = (0, 0);
    let mut turn = |room: &mut [Plain]| -> io::Result<(u64, u64)> {
        let said: Vec<String> = (0..AT_ONCE).map(|_| chat(&mut seed, size)).collect();
        for data in &said {
            publisher.say(&frame(
                TEXT,
                format!(r#"{{"send":"r","data":{data}}}"#).as_bytes(),
            ))?;
        }
        let mut bytes = 0;
        for (number, member) in room.iter_mut().enumerate() {
            for data in &said {
                let heard = member.hear()?;
                bytes += heard.len() as u64 + if heard.len() < 126 { 2 } else { 4 };
                // The others are sent the same bytes.
                if number < 4 {
                    let text = match heard.first() {
                        Some(b'{') => heard.to_vec(),
                        _ => deflate::inflate(heard, 15)?,
                    };
                    if !text.ends_with(format!("{data}}}").as_bytes()) {
                        return Err(io::Error::other(String::from_utf8_lossy(&text)));
                    }
                }
            }
        }
        Ok(((room.len() * said.len()) as u64, bytes))
    };
    turn(&mut room)?;
    let gauge = Gauge::now(&baton);
    let end = Instant::now() + Duration::from_secs(options.seconds);
    while Instant::now() < end {
        let (more, more_bytes) = turn(&mut room)?;
        deliveries += more;
        bytes += more_bytes;
    }
    let taken = Gauge::now(&baton).since(&gauge);
    let brains = baton.status().brains();
    let memory: u64 = brains
        .iter()
        .map(|brain| process::proportional(*brain))
        .sum();
    Ok(Sample {
        micros: taken.each(deliveries),
        bytes: bytes as f64 / deliveries as f64,
        rate: taken.rate(deliveries),
        memory: memory as f64 / brains.len() as f64 / f64::from(1 << 20),
        others: taken.others,
    })
}

/// Somebody's message, as JSON of about so many bytes.
fn chat(seed: &mut u64, size: usize) -> String {
    let mut next = |below: usize| {
        *seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 33) as usize % below
    };
    let (nick, color) = (next(1000), next(1 << 24));
    let mut text = String::new();
    loop {
        let word = WORDS[next(WORDS.len())];
        let json =
            format!(r##"{{"text":"{text}{word}","nick":"anna{nick}","color":"#{color:06x}"}}"##);
        if json.len() >= size {
            return json;
        }
        text += word;
        text.push(' ');
    }
}
