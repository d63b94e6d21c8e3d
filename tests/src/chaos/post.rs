//! HTTP: `POST /echo` over and over on one connection, sometimes before the last answer is there,
//! and visitors who ask once and go.

use std::collections::VecDeque;

use super::world::{World, same};
use crate::http::Who;
use crate::load::{Fault, Heard, Kind, Random, Talk};

/// Requests that may wait for their answers, on a connection that pipelines.
const IN_FLIGHT: usize = 3;

const LAST_REQUEST: &[u8] = b"GET /whoami HTTP/1.1\r\nHost: chaos\r\nConnection: close\r\n\r\n";

pub struct Post {
    number: u64,
    random: Random,
    in_flight: usize,
    answers: Answers,
    asked: VecDeque<Asked>,
    heard: u64,
    /// It has asked for the end of the connection.
    closing: bool,
}

/// What an answer must hold.
#[derive(Clone, Copy)]
enum Asked {
    Whoami,
    Echo { length: usize, seed: u64 },
}

impl Post {
    pub fn new(number: u64, mut random: Random) -> Post {
        Post {
            number,
            in_flight: if random.percent(40) { IN_FLIGHT } else { 1 },
            random,
            answers: Answers::default(),
            asked: VecDeque::new(),
            heard: 0,
            closing: false,
        }
    }

    fn put_request(&mut self, out: &mut Vec<u8>) {
        let random = &mut self.random;
        if random.percent(10) {
            self.asked.push_back(Asked::Whoami);
            out.extend(b"GET /whoami HTTP/1.1\r\nHost: chaos\r\n\r\n");
            return;
        }
        let length = random.size(64 << 10);
        let seed = random.next();
        self.asked.push_back(Asked::Echo { length, seed });
        let mut body = Vec::new();
        Random::new(seed).bytes(length, &mut body);
        out.extend(b"POST /echo HTTP/1.1\r\nHost: chaos\r\n");
        if random.percent(60) {
            out.extend(format!("Content-Length: {length}\r\n\r\n").as_bytes());
            out.extend(body);
            return;
        }
        out.extend(b"Transfer-Encoding: chunked\r\n\r\n");
        let mut rest = &body[..];
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(random.size(rest.len()));
            out.extend(format!("{:x}\r\n", chunk.len()).as_bytes());
            out.extend(chunk);
            out.extend(b"\r\n");
            rest = after;
        }
        out.extend(b"0\r\n\r\n");
    }
}

impl Talk<World> for Post {
    fn name(&self) -> String {
        format!(
            "post {}, heard {}, waits for {}",
            self.number,
            self.heard,
            self.asked.len()
        )
    }

    fn speak(&mut self, world: &mut World, out: &mut Vec<u8>) {
        if world.ending && !self.closing {
            self.closing = true;
            self.asked.push_back(Asked::Whoami);
            out.extend(LAST_REQUEST);
        }
        if world.quiet {
            return;
        }
        while self.asked.len() < self.in_flight {
            self.put_request(out);
        }
    }

    fn hear(&mut self, world: &mut World, bytes: &[u8]) -> Result<Heard, Fault> {
        self.answers.unread.extend(bytes);
        while let Some(body) = self.answers.take()? {
            let name = format!("answer {}", self.heard);
            self.heard += 1;
            match self.asked.pop_front() {
                Some(Asked::Echo { length, seed }) => {
                    world.scratch.clear();
                    Random::new(seed).bytes(length, &mut world.scratch);
                    same(&name, &world.scratch, &body)?;
                    world.counts.posts += 1;
                    world.counts.bytes_verified += length as u64;
                }
                Some(Asked::Whoami) => {
                    whoami(&body)?;
                    world.counts.posts += 1;
                }
                None => return Err(Fault::new(Kind::Doubled, format!("{name}: to no request"))),
            }
        }
        Ok(Heard::On)
    }

    fn ended(&mut self, _: &mut World) -> Result<(), Fault> {
        if self.closing && self.asked.is_empty() {
            return Ok(());
        }
        let what = format!(
            "the stream ended, {} answers were to come",
            self.asked.len()
        );
        Err(Fault::new(Kind::Closed, what))
    }

    fn expects(&self) -> bool {
        !self.asked.is_empty() || self.closing
    }
}

/// One who asks `GET /whoami` on a connection of its own.
pub struct Visit {
    number: u64,
    asked: bool,
    answered: bool,
    answers: Answers,
}

impl Visit {
    pub fn new(number: u64) -> Visit {
        Visit {
            number,
            asked: false,
            answered: false,
            answers: Answers::default(),
        }
    }
}

impl Talk<World> for Visit {
    fn name(&self) -> String {
        format!("visit {}", self.number)
    }

    fn speak(&mut self, _: &mut World, out: &mut Vec<u8>) {
        if !self.asked {
            self.asked = true;
            out.extend(LAST_REQUEST);
        }
    }

    fn hear(&mut self, world: &mut World, bytes: &[u8]) -> Result<Heard, Fault> {
        self.answers.unread.extend(bytes);
        while let Some(body) = self.answers.take()? {
            if self.answered {
                return Err(Fault::new(Kind::Doubled, "a second answer"));
            }
            whoami(&body)?;
            self.answered = true;
            world.counts.visits += 1;
        }
        Ok(Heard::On)
    }

    fn ended(&mut self, _: &mut World) -> Result<(), Fault> {
        match self.answered {
            true => Ok(()),
            false => Err(Fault::new(
                Kind::Closed,
                "the stream ended without an answer",
            )),
        }
    }

    fn expects(&self) -> bool {
        true
    }
}

fn whoami(body: &[u8]) -> Result<(), Fault> {
    let text = String::from_utf8_lossy(body);
    match Who::parse(&text) {
        Some(_) => Ok(()),
        None => Err(Fault::new(Kind::Wrong, format!("/whoami says {text:?}"))),
    }
}

/// Answers, put together again.
#[derive(Debug, Default)]
pub struct Answers {
    pub unread: Vec<u8>,
}

impl Answers {
    /// The body of the next that is whole.
    pub fn take(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        let Some(end) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") else {
            return match self.unread.len() > 4096 {
                true => Err(Fault::new(Kind::Wrong, "an answer whose head has no end")),
                false => Ok(None),
            };
        };
        let head = String::from_utf8_lossy(&self.unread[..end]);
        if !head.starts_with("HTTP/1.1 200 ") {
            return Err(Fault::new(Kind::Refused, format!("{head:?}")));
        }
        let length = head
            .split("\r\n")
            .find_map(|line| line.strip_prefix("Content-Length: ")?.parse::<usize>().ok());
        let Some(length) = length else {
            return Err(Fault::new(Kind::Wrong, format!("no length: {head:?}")));
        };
        let start = end + 4;
        if self.unread.len() < start + length {
            return Ok(None);
        }
        let rest = self.unread.split_off(start + length);
        let answer = std::mem::replace(&mut self.unread, rest);
        Ok(Some(answer[start..].to_vec()))
    }
}
