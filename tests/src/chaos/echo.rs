//! A WebSocket on `/echo`: every message must come back as it was sent.

use std::collections::VecDeque;

use super::world::{World, closed, same};
use crate::deflate::OFFER;
use crate::load::wire::{self, Incomer, Incoming};
use crate::load::{Fault, Heard, Kind, Random, Talk};

/// Messages that may be on their way, and their bytes.
const IN_FLIGHT: usize = 4;
const BYTES_IN_FLIGHT: usize = 128 << 10;

pub struct Echo {
    number: u64,
    random: Random,
    incoming: Incoming,
    /// Some messages are compressed.
    deflates: bool,
    asked: bool,
    /// What has been said and not come back.
    messages: VecDeque<Message>,
    pings: VecDeque<u64>,
    /// The server's pings, to be answered.
    pongs: Vec<Vec<u8>>,
    said: u64,
    heard: u64,
    /// It closes in the orderly way after so many messages.
    closes_after: Option<u64>,
    closing: bool,
}

/// What a message holds follows from its seed.
#[derive(Clone, Copy)]
struct Message {
    opcode: u8,
    length: usize,
    seed: u64,
}

impl Message {
    fn put(self, out: &mut Vec<u8>) {
        let mut random = Random::new(self.seed);
        match self.opcode {
            wire::TEXT => random.text(self.length, out),
            _ => random.bytes(self.length, out),
        }
    }
}

impl Echo {
    pub fn new(number: u64, mut random: Random, closes_after: Option<u64>) -> Echo {
        Echo {
            number,
            deflates: random.percent(20),
            random,
            incoming: Incoming::default(),
            asked: false,
            messages: VecDeque::new(),
            pings: VecDeque::new(),
            pongs: Vec::new(),
            said: 0,
            heard: 0,
            closes_after,
            closing: false,
        }
    }

    fn put_message(&mut self, world: &mut World, out: &mut Vec<u8>) {
        let random = &mut self.random;
        let text = random.percent(30);
        let message = Message {
            opcode: if text { wire::TEXT } else { wire::BINARY },
            length: random.size(64 << 10),
            seed: random.next(),
        };
        world.scratch.clear();
        message.put(&mut world.scratch);
        let frames = if random.percent(30) {
            random.between(2, 5)
        } else {
            1
        };
        let pings = &mut self.pings;
        let between = |random: &mut Random, out: &mut Vec<u8>| {
            if random.percent(30) {
                let payload = random.next();
                wire::put_control(random, wire::PING, &payload.to_be_bytes(), out);
                pings.push_back(payload);
            }
        };
        let (opcode, bytes) = (message.opcode, &world.scratch);
        match self.deflates && random.percent(80) {
            true => wire::put_deflated(random, opcode, bytes, frames, out, between),
            false => wire::put_message(random, opcode, bytes, frames, out, between),
        }
        self.messages.push_back(message);
        self.said += 1;
    }

    fn hear_one(&mut self, world: &mut World, heard: Incomer) -> Result<Heard, Fault> {
        match heard.opcode {
            wire::PING => self.pongs.push(heard.payload),
            wire::PONG => {
                let wanted = self.pings.pop_front();
                let wanted = wanted.map(u64::to_be_bytes);
                if wanted.as_ref().map(|bytes| &bytes[..]) != Some(&heard.payload) {
                    let what = format!("a pong {:?} instead of {wanted:?}", heard.payload);
                    return Err(Fault::new(Kind::Wrong, what));
                }
            }
            wire::CLOSE if self.closing && self.messages.is_empty() => {
                same("the close", &1000u16.to_be_bytes(), &heard.payload)?;
                world.counts.closed_in_order += 1;
                return Ok(Heard::Done);
            }
            wire::CLOSE => return Err(closed(&heard.payload)),
            opcode => {
                let Some(message) = self.messages.pop_front() else {
                    let what = format!("a message of {} bytes too many", heard.payload.len());
                    return Err(Fault::new(Kind::Doubled, what));
                };
                let name = format!("message {} (opcode {opcode})", self.heard);
                if opcode != message.opcode {
                    let what = format!("{name}: should have opcode {}", message.opcode);
                    return Err(Fault::new(Kind::Wrong, what));
                }
                world.scratch.clear();
                message.put(&mut world.scratch);
                same(&name, &world.scratch, &heard.payload)?;
                self.heard += 1;
                world.counts.echoes += 1;
                world.counts.bytes_verified += message.length as u64;
            }
        }
        Ok(Heard::On)
    }
}

impl Talk<World> for Echo {
    fn name(&self) -> String {
        let Echo {
            number,
            said,
            heard,
            closing,
            ..
        } = self;
        format!("echo {number}, said {said}, heard {heard}, closing {closing}")
    }

    fn speak(&mut self, world: &mut World, out: &mut Vec<u8>) {
        if !self.asked {
            self.asked = true;
            let fields = self.deflates.then_some(OFFER);
            wire::put_handshake_with(world.to, "/echo", fields.as_slice(), out);
            // What follows need not wait for the answer.
            if self.random.percent(50) {
                return;
            }
        }
        for pong in self.pongs.drain(..) {
            wire::put_control(&mut self.random, wire::PONG, &pong, out);
        }
        let done = world.ending
            || self
                .closes_after
                .is_some_and(|after| world.quiet || self.said >= after);
        if self.closing {
        } else if done {
            self.closing = true;
            wire::put_control(&mut self.random, wire::CLOSE, &1000u16.to_be_bytes(), out);
        } else if !world.quiet {
            let bytes: usize = self.messages.iter().map(|message| message.length).sum();
            if self.messages.len() < IN_FLIGHT && bytes < BYTES_IN_FLIGHT {
                self.put_message(world, out);
            }
        }
    }

    fn hear(&mut self, world: &mut World, bytes: &[u8]) -> Result<Heard, Fault> {
        self.incoming.push(bytes);
        while let Some(heard) = self.incoming.take()? {
            if self.hear_one(world, heard)? == Heard::Done {
                return Ok(Heard::Done);
            }
        }
        world.counts.inflated += std::mem::take(&mut self.incoming.inflated);
        Ok(Heard::On)
    }

    fn ended(&mut self, _: &mut World) -> Result<(), Fault> {
        let what = format!(
            "the stream ended, {} messages were to come",
            self.messages.len()
        );
        Err(Fault::new(Kind::Closed, what))
    }

    fn expects(&self) -> bool {
        !self.incoming.is_open()
            || !self.messages.is_empty()
            || !self.pings.is_empty()
            || self.closing
    }
}
