//! Clients of every kind that go on and on, check every byte that they get and never reconnect.
//! Whatever is lost, doubled, changed, out of order or closed panics.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use serde_json::{Value, json};

use crate::rooms::{Client, Position};
use crate::websocket::{Raw, frame};
use crate::{deflate, eventually, http, socket};

/// Numbers that are the same each time.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }

    /// From 1 byte to `most`; small ones are as frequent as large ones.
    pub fn bytes(&mut self, most: usize) -> Vec<u8> {
        let bits = 1 + self.below(most.ilog2() as usize);
        let length = (1 + self.below(1 << (bits + 1))).min(most);
        (0..length).map(|_| self.below(256) as u8).collect()
    }
}

/// Clients at work.
#[derive(Debug)]
pub struct Traffic {
    to: SocketAddr,
    room: String,
    stop: Arc<AtomicBool>,
    clients: Vec<(Arc<AtomicU64>, JoinHandle<()>)>,
    subscribers: Vec<(Arc<AtomicU64>, JoinHandle<()>)>,
}

impl Traffic {
    /// Nobody yet.
    #[must_use]
    pub fn none(to: SocketAddr) -> Traffic {
        Traffic {
            to,
            room: "traffic".to_owned(),
            stop: Arc::default(),
            clients: Vec::new(),
            subscribers: Vec::new(),
        }
    }

    /// Some clients of each kind.
    #[track_caller]
    pub fn start(to: SocketAddr) -> Traffic {
        let mut traffic = Traffic::of_those_that_stay(to);
        traffic.spawn(move || newcomer(to));
        traffic
    }

    /// The same eleven connections from the beginning to the end.
    #[track_caller]
    fn of_those_that_stay(to: SocketAddr) -> Traffic {
        let mut traffic = Traffic::none(to);
        let room = traffic.room.clone();
        for number in 0..3 {
            // The same is said to all of them, in three ways.
            let mut client = match number {
                0 => Client::deflated(to),
                1 => Client::msgpack(to),
                _ => Client::connect(to),
            };
            let joined = client.join(&room);
            let rounds = Arc::new(AtomicU64::new(0));
            let counter = rounds.clone();
            let thread = thread::spawn(move || subscribe(client, joined, &counter));
            traffic.subscribers.push((rounds, thread));
        }
        for number in 0..3 {
            let mut raw = Raw::connect(to, "/echo");
            let mut random = Random::new(number + 1);
            traffic.spawn(move || echo(&mut raw, &mut random));
        }
        let mut raw = Raw::deflated(to, "/echo");
        let mut random = Random::new(4);
        traffic.spawn(move || echo_deflated(&mut raw, &mut random));
        let mut client = http::Client::connect(to);
        let mut random = Random::new(77);
        traffic.spawn(move || post(&mut client, &mut random));
        for number in 0..2 {
            let mut client = match number {
                0 => Client::deflated(to),
                _ => Client::msgpack(to),
            };
            let (room, mut next) = (room.clone(), 0);
            let mut random = Random::new(99 + number);
            traffic.spawn(move || {
                let padding = "x".repeat(random.below(3000));
                let data = json!({ "publisher": number, "number": next, "padding": padding });
                client.publish(&room, data);
                next += 1;
            });
        }
        let mut client = Client::connect(to);
        let mut round = 0;
        traffic.spawn(move || {
            round += 1;
            come_and_go(&mut client, round);
        });
        traffic
    }

    /// One more client, which does this again and again.
    pub fn spawn(&mut self, mut round: impl FnMut() + Send + 'static) {
        let (stop, rounds) = (self.stop.clone(), Arc::new(AtomicU64::new(0)));
        let counter = rounds.clone();
        let thread = thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                round();
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        self.clients.push((rounds, thread));
    }

    /// Waits until each client has done so many more rounds.
    #[track_caller]
    pub fn go_on(&self, rounds: u64) {
        let all = || self.clients.iter().chain(&self.subscribers);
        let wanted: Vec<u64> = all()
            .map(|(done, _)| done.load(Ordering::Relaxed) + rounds)
            .collect();
        eventually("all clients go on", || {
            // Its own panic has told why.
            assert!(
                !all().any(|(_, thread)| thread.is_finished()),
                "a client of the traffic has failed"
            );
            all()
                .zip(&wanted)
                .all(|((done, _), wanted)| done.load(Ordering::Relaxed) >= *wanted)
        });
    }

    /// Ends it; whoever has failed fails the test.
    #[track_caller]
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for (_, thread) in self.clients {
            thread.join().expect("a client of the traffic has failed");
        }
        if self.subscribers.is_empty() {
            return;
        }
        // Behind everything that was published.
        Client::connect(self.to).publish(&self.room, json!("end"));
        for (_, thread) in self.subscribers {
            thread.join().expect("a subscriber has failed");
        }
    }
}

/// The sizes of the pieces are odd.
fn send_in_pieces(raw: &mut Raw, random: &mut Random, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let (piece, behind) = bytes.split_at((1 + random.below(30_000)).min(bytes.len()));
        raw.send(piece).expect("the echo is read");
        bytes = behind;
    }
}

/// A few messages at once in pieces of odd sizes, and all of them back.
fn echo(raw: &mut Raw, random: &mut Random) {
    let messages: Vec<Vec<u8>> = (0..1 + random.below(4))
        .map(|_| random.bytes(64 << 10))
        .collect();
    let bytes: Vec<u8> = messages
        .iter()
        .flat_map(|message| frame(0x82, message))
        .collect();
    send_in_pieces(raw, random, &bytes);
    for message in messages {
        let (opcode, echoed) = raw.message();
        assert!(
            opcode == 2 && echoed == message,
            "an echo of {} bytes came back wrong, with {}",
            message.len(),
            echoed.len()
        );
    }
}

/// The same, compressed; what repeats itself and what does not.
fn echo_deflated(raw: &mut Raw, random: &mut Random) {
    let messages: Vec<Vec<u8>> = (0..1 + random.below(4))
        .map(|_| {
            let part = random.bytes(8 << 10);
            part.repeat(1 + random.below(50))
        })
        .collect();
    let frames = (1..).zip(&messages).map(|(number, message)| {
        let payload = deflate::deflate(message, 1 + random.below(9) as u32);
        deflate::frames(0x82, &payload, number)
    });
    let bytes = frames.collect::<Vec<_>>().concat();
    send_in_pieces(raw, random, &bytes);
    for message in messages {
        let echoed = raw.inflated();
        assert!(
            echoed == message,
            "a compressed echo of {} bytes came back wrong, with {}",
            message.len(),
            echoed.len()
        );
    }
}

/// Two requests with bodies, one behind the other.
fn post(client: &mut http::Client, random: &mut Random) {
    let bodies = [random.bytes(20_000), random.bytes(200)];
    let mut bytes = Vec::new();
    for body in &bodies {
        let length = body.len();
        let head = format!("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n");
        bytes.extend(head.as_bytes());
        bytes.extend(body);
    }
    client.send(bytes).expect("requests are read");
    for body in bodies {
        let response = client.response().expect("a request is answered");
        assert_eq!(response.status, 200);
        assert_eq!(response.body, body);
    }
}

/// Joins and leaves, in rooms that come and go with it.
fn come_and_go(client: &mut Client, round: u64) {
    let room = format!("coming and going {}", round % 3);
    client.join(&room);
    let sent = client.publish(&room, json!(round));
    let message = client.message();
    assert_eq!(
        (&message["room"], &message["data"]),
        (&json!(room), &json!(round))
    );
    assert_eq!(Position::parse(&message["pos"]), sent);
    client.ok(json!({ "who": room }));
    client.ok(json!({ "leave": room }));
    client.publish(&room, json!("nobody hears it"));
}

/// A connection that comes, is served and goes.
fn newcomer(to: SocketAddr) {
    let stream = socket::connect(to).expect("connections are accepted");
    let mut client = http::Client::over(stream);
    assert_eq!(client.get("/healthz").status, 200);
}

/// All messages behind `joined`, each once, in order, and of each publisher all numbers.
fn subscribe(mut client: Client, joined: Position, rounds: &AtomicU64) {
    let mut last = joined;
    let mut numbers: [Option<u64>; 2] = [None; 2];
    loop {
        let message = client.message();
        let position = Position::parse(&message["pos"]);
        assert_eq!(position.epoch, last.epoch, "{message}");
        assert_eq!(position.offset, last.offset + 1, "{message}");
        last = position;
        let data = &message["data"];
        if *data == json!("end") {
            return;
        }
        let field = |name: &str| data.get(name).and_then(Value::as_u64).expect("a number");
        let (publisher, number) = (field("publisher") as usize, field("number"));
        let expected = numbers[publisher].map_or(0, |number| number + 1);
        assert_eq!(number, expected, "of publisher {publisher}");
        numbers[publisher] = Some(number);
        rounds.fetch_add(1, Ordering::Relaxed);
    }
}
