//! A back end that publishes through the HTTP API, with keys. It cuts off some of its requests, in the middle
//! or before they are answered, and makes them again; and some that were answered.

use std::net::SocketAddr;

use serde_json::Value;

use super::ledger::Message;
use super::post::Answers;
use super::world::World;
use crate::api::TOKEN;
use crate::load::{Fault, Heard, Kind, Random, Talk};

/// What of it outlives its connections.
#[derive(Debug)]
pub struct BackEnd {
    /// The admin listener.
    pub to: SocketAddr,
    publisher: usize,
    random: Random,
    /// What it wants to publish, until it is answered.
    wants: Option<Message>,
    answered: u64,
}

impl BackEnd {
    pub fn new(to: SocketAddr, publisher: usize, random: Random) -> BackEnd {
        BackEnd {
            to,
            publisher,
            random,
            wants: None,
            answered: 0,
        }
    }

    /// What its messages are from.
    #[must_use]
    pub fn name(publisher: usize) -> String {
        format!("back end {publisher}")
    }
}

/// One of its connections.
pub struct Call {
    /// `None`: it is over.
    back_end: Option<BackEnd>,
    answers: Answers,
    /// It waits for an answer.
    asked: bool,
    /// It goes away when no more than so much is still to be written.
    cut: Option<usize>,
}

impl Call {
    pub fn new(back_end: BackEnd) -> Call {
        Call {
            back_end: Some(back_end),
            answers: Answers::default(),
            asked: false,
            cut: None,
        }
    }
}

impl Talk<World> for Call {
    fn name(&self) -> String {
        format!("{:?}", self.back_end)
    }

    fn speak(&mut self, world: &mut World, out: &mut Vec<u8>) {
        let Some(back_end) = &mut self.back_end else {
            return;
        };
        if self.asked || (world.quiet || !world.publishing) && back_end.wants.is_none() {
            return;
        }
        match back_end.wants {
            Some(_) => world.counts.retried += 1,
            None => world.counts.posted += 1,
        }
        let message = *back_end
            .wants
            .get_or_insert_with(|| world.ledger.publish(back_end.publisher));
        put(world, message, out);
        self.asked = true;
        if !world.quiet && back_end.random.percent(20) {
            self.cut = Some(match back_end.random.percent(70) {
                true => 0,
                false => back_end.random.between(1, out.len()),
            });
        }
    }

    fn hear(&mut self, world: &mut World, bytes: &[u8]) -> Result<Heard, Fault> {
        self.answers.unread.extend(bytes);
        while let Some(body) = self.answers.take()? {
            let Some(back_end) = &mut self.back_end else {
                break;
            };
            let wanted = back_end.wants.filter(|_| std::mem::take(&mut self.asked));
            let Some(message) = wanted else {
                return Err(Fault::new(Kind::Doubled, "an answer to no request"));
            };
            judge(world, message, &body)?;
            back_end.answered += 1;
            // Now and then it has not understood.
            if world.quiet || back_end.random.percent(90) {
                back_end.wants = None;
            }
        }
        Ok(Heard::On)
    }

    fn ended(&mut self, _: &mut World) -> Result<(), Fault> {
        Err(Fault::new(Kind::Closed, "the stream ended"))
    }

    fn expects(&self) -> bool {
        self.asked
    }

    fn leaves(&self, world: &World, rest: usize) -> bool {
        match self.cut {
            Some(most) if self.asked => rest <= most,
            _ => world.ending && !self.asked,
        }
    }

    fn over(&mut self, world: &mut World) {
        world.away.extend(self.back_end.take());
    }
}

fn put(world: &World, message: Message, out: &mut Vec<u8>) {
    let Message { publisher, number } = message;
    let homes = world.ledger.homes(publisher);
    let rooms: Vec<&str> = homes.map(|room| world.ledger.name(room)).collect();
    let mut body = match rooms[..] {
        [room] => format!("{{\"room\":{room:?}"),
        _ => format!("{{\"rooms\":{rooms:?}"),
    }
    .into_bytes();
    let from = BackEnd::name(publisher);
    body.extend(format!(",\"from\":{from:?},\"data\":").as_bytes());
    world.ledger.put_data(message, &mut body);
    body.push(b'}');
    out.extend(
        format!(
            "POST /api/v1/publish HTTP/1.1\r\nHost: chaos\r\nAuthorization: Bearer {TOKEN}\r\n\
             Content-Type: application/json\r\nIdempotency-Key: {publisher}-{number}\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        )
        .as_bytes(),
    );
    out.extend(body);
}

/// Each room has the message once, and where others were told that it is.
fn judge(world: &mut World, message: Message, body: &[u8]) -> Result<(), Fault> {
    let wrong = || {
        let body = String::from_utf8_lossy(body);
        Fault::new(Kind::Wrong, format!("{message:?} is answered {body}"))
    };
    let said: Value = serde_json::from_slice(body).map_err(|_| wrong())?;
    let published = said["published"].as_array().ok_or_else(wrong)?;
    let homes: Vec<usize> = world.ledger.homes(message.publisher).collect();
    if published.len() != homes.len() {
        return Err(wrong());
    }
    for (room, entry) in homes.into_iter().zip(published) {
        let position = entry["pos"].as_str().ok_or_else(wrong)?;
        if entry["room"] != world.ledger.name(room) {
            return Err(wrong());
        }
        world.ledger.place(room, position, message)?;
    }
    Ok(())
}
