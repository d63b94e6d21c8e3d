//! Some of the viewers, in a process of their own: it may have only so many open files.
//!
//! They are told by lines which part of the evening it is (`part 2`), and at the end which offset was
//! the last in each room (`end 311 80 …`). They say `joined` when all are in, and at the end, as JSON,
//! what they have seen. Every offset must come, each once and in order.

use std::io::{self, BufRead};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use mio::Events;
use serde::{Deserialize, Serialize};

use super::figures::{Seen, Wrong};
use super::{now_us, room_name};
use crate::load::wire::{self, Incoming};
use crate::load::{Fault, Heard, Kind, Load, Manner, Random, Talk};

/// What comes late comes by then.
const PATIENCE: Duration = Duration::from_secs(30);
/// Those that are on their way into their rooms at once.
const JOINING: usize = 100;

/// What a process of viewers says at the end.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    pub parts: Vec<Seen>,
    pub wrong: Wrong,
}

struct World {
    to: SocketAddr,
    part: usize,
    parts: Vec<Seen>,
    wrong: Wrong,
    joined: usize,
    /// Each viewer's room, and the offset that is to come next.
    next: Vec<(usize, Option<u64>)>,
}

impl World {
    fn seen(&mut self) -> &mut Seen {
        if self.parts.len() <= self.part {
            self.parts.resize_with(self.part + 1, Seen::default);
        }
        &mut self.parts[self.part]
    }
}

/// So many viewers of each room; returns when the evening is over.
pub fn run(to: SocketAddr, rooms: &[usize]) -> io::Result<Report> {
    crate::process::raise_open_files();
    let world = World {
        to,
        part: 0,
        parts: Vec::new(),
        wrong: Wrong::default(),
        joined: 0,
        next: Vec::new(),
    };
    let mut load = Load::new(to, Random::new(u64::from(std::process::id())), world)?;
    let mut events = Events::with_capacity(1024);
    let manner = Manner {
        // So often it looks whether there is something to say: a pong, as a rule.
        think: Duration::from_secs(4),
        in_pieces: false,
        reads_slowly: None,
    };
    let wanted: Vec<usize> = (rooms.iter().enumerate())
        .flat_map(|(room, many)| vec![room; *many])
        .collect();
    let lines = lines();
    let mut end: Option<(Vec<u64>, Instant)> = None;
    let mut said = false;
    loop {
        load.turn(Instant::now() + Duration::from_millis(5), &mut events)?;
        while load.world.next.len() < wanted.len()
            && load.world.next.len() < load.world.joined + JOINING
        {
            let number = load.world.next.len();
            let room = wanted[number];
            load.world.next.push((room, None));
            load.open(Box::new(Viewer::new(number, room)), manner);
        }
        if !said && load.world.joined == wanted.len() {
            println!("joined");
            said = true;
        }
        match lines.try_recv() {
            Ok(line) => match line.split_once(' ') {
                Some(("part", number)) => load.world.part = number.parse().unwrap_or(0),
                Some(("end", last)) => {
                    let last = last.split(' ').map(|offset| offset.parse().unwrap_or(0));
                    end = Some((last.collect(), Instant::now()));
                }
                _ => {}
            },
            Err(TryRecvError::Empty) => {}
            // Nobody wants to know any more.
            Err(TryRecvError::Disconnected) => return Ok(report(load, &[])),
        }
        if let Some((last, since)) = &end {
            let behind =
                |(room, next): &(usize, Option<u64>)| next.is_none_or(|next| next <= last[*room]);
            if !load.world.next.iter().any(behind) || since.elapsed() > PATIENCE {
                return Ok(report(load, last));
            }
        }
    }
}

fn lines() -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn report(mut load: Load<World>, last: &[u64]) -> Report {
    load.world.seen();
    let mut wrong = load.world.wrong;
    wrong.cut += load.failures.len() as u64;
    wrong.why = load.failures.first().map(ToString::to_string);
    // What has not come to those who are still there.
    for (room, next) in &load.world.next {
        let (Some(next), Some(last)) = (next, last.get(*room)) else {
            continue;
        };
        wrong.lost += (last + 1).saturating_sub(*next);
    }
    Report {
        parts: load.world.parts,
        wrong,
    }
}

struct Viewer {
    number: usize,
    room: usize,
    incoming: Incoming,
    random: Random,
    asked: bool,
    pongs: Vec<Vec<u8>>,
    /// When the last message came.
    heard: Option<u64>,
}

/// Everything that matters of what a server says.
#[derive(Deserialize)]
struct Said<'a> {
    pos: Option<&'a str>,
    data: Option<Data>,
    ok: Option<Ok_<'a>>,
    #[serde(borrow)]
    gap: Option<Gap<'a>>,
    deleted: Option<&'a str>,
}

#[derive(Deserialize)]
struct Data {
    /// When it was said.
    at: u64,
}

#[derive(Deserialize)]
struct Ok_<'a> {
    pos: &'a str,
}

#[derive(Deserialize)]
struct Gap<'a> {
    from: &'a str,
    to: &'a str,
}

impl Viewer {
    fn new(number: usize, room: usize) -> Viewer {
        Viewer {
            number,
            room,
            incoming: Incoming::default(),
            random: Random::new(number as u64),
            asked: false,
            pongs: Vec::new(),
            heard: None,
        }
    }

    fn message(&mut self, world: &mut World, text: &[u8]) -> Result<(), Fault> {
        let wrong = |what: String| Fault::new(Kind::Wrong, what);
        let said: Said = serde_json::from_slice(text)
            .map_err(|error| wrong(format!("{error}: {}", String::from_utf8_lossy(text))))?;
        let (_, next) = &mut world.next[self.number];
        if let Some(Ok_ { pos }) = said.ok {
            *next = Some(offset(pos)? + 1);
            world.joined += 1;
        } else if let (Some(pos), Some(data), Some(expected)) = (said.pos, said.data, *next) {
            let offset = offset(pos)?;
            world.wrong.twice += u64::from(offset < expected);
            world.wrong.lost += offset.saturating_sub(expected);
            *next = Some(expected.max(offset + 1));
            let now = now_us();
            let silence = self.heard.map_or(0, |heard| now.saturating_sub(heard));
            self.heard = Some(now);
            let is_large = self.room == 0;
            let seen = world.seen();
            seen.delivery(now.saturating_sub(data.at));
            if is_large {
                seen.silence_us = seen.silence_us.max(silence);
            }
        } else if let Some(Gap { from, to }) = said.gap {
            let (from, to) = (offset(from)?, offset(to)?);
            world.wrong.lost += to + 1 - from;
            *next = Some(to + 1);
        } else if said.deleted.is_some() {
            world.seen().deleted += 1;
        }
        Ok(())
    }
}

fn offset(pos: &str) -> Result<u64, Fault> {
    let offset = pos
        .split_once(':')
        .and_then(|(_, offset)| offset.parse().ok());
    offset.ok_or_else(|| Fault::new(Kind::Wrong, format!("no position: {pos}")))
}

impl Talk<World> for Viewer {
    fn name(&self) -> String {
        format!("viewer {} of {}", self.number, room_name(self.room))
    }

    fn speak(&mut self, world: &mut World, out: &mut Vec<u8>) {
        if !self.asked {
            self.asked = true;
            wire::put_handshake(world.to, "/rooms", out);
            let join = format!("{{\"id\":1,\"join\":\"{}\"}}", room_name(self.room));
            wire::put_message(
                &mut self.random,
                wire::TEXT,
                join.as_bytes(),
                1,
                out,
                |_, _| {},
            );
        }
        for payload in self.pongs.drain(..) {
            wire::put_control(&mut self.random, wire::PONG, &payload, out);
        }
    }

    fn hear(&mut self, world: &mut World, bytes: &[u8]) -> Result<Heard, Fault> {
        self.incoming.push(bytes);
        while let Some(heard) = self.incoming.take()? {
            match heard.opcode {
                wire::TEXT => self.message(world, &heard.payload)?,
                wire::PING => self.pongs.push(heard.payload),
                _ => {
                    return Err(Fault::new(
                        Kind::Closed,
                        format!("closed: {:?}", heard.payload),
                    ));
                }
            }
        }
        Ok(Heard::On)
    }

    fn ended(&mut self, _: &mut World) -> Result<(), Fault> {
        Err(Fault::new(Kind::Closed, "the connection ended"))
    }

    fn expects(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_comes_twice_is_counted() {
        let mut world = World {
            to: ([127, 0, 0, 1], 0).into(),
            part: 0,
            parts: Vec::new(),
            wrong: Wrong::default(),
            joined: 0,
            next: vec![(0, None)],
        };
        let mut viewer = Viewer::new(0, 0);
        let mut hear = |text: &str| {
            let heard = viewer.message(&mut world, text.as_bytes());
            heard.map(|()| (world.wrong.lost, world.wrong.twice, world.next[0].1))
        };
        let message = |offset: u64| {
            format!(r#"{{"room":"stage","pos":"e1:{offset}","data":{{"at":1,"text":"x"}}}}"#)
        };
        assert_eq!(hear(r#"{"hello":{"cid":"c7"}}"#).unwrap(), (0, 0, None));
        assert_eq!(
            hear(r#"{"id":1,"ok":{"pos":"e1:4","count":1}}"#).unwrap(),
            (0, 0, Some(5))
        );
        assert_eq!(hear(&message(5)).unwrap(), (0, 0, Some(6)));
        assert_eq!(hear(&message(8)).unwrap(), (2, 0, Some(9)));
        assert_eq!(hear(&message(8)).unwrap(), (2, 1, Some(9)));
        let gap = r#"{"room":"stage","gap":{"from":"e1:9","to":"e1:11","why":"slow"}}"#;
        assert_eq!(hear(gap).unwrap(), (5, 1, Some(12)));
        assert!(hear("{").is_err());
        hear(r#"{"room":"stage","deleted":"e1:5"}"#).unwrap();
        let seen = &world.parts[0];
        assert_eq!((seen.deliveries, seen.deleted, world.joined), (3, 1, 1));
    }
}
