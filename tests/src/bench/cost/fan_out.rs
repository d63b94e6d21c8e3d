//! The clients of a fan-out: members of rooms, one of each publishes.
//!
//! In each room so many messages are said at once, and the next when all members have got all of
//! them; a member wants the messages one by one in their order, so what is lost, doubled or out of
//! order is a failure. Members of each room are spread over the threads. Whichever thread sees the
//! last delivery says the next messages, by the publisher's socket.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::clients::Got;
use super::dialect::Dialect;
use super::members::Thread;

/// For all to join, and for what is still to come at the end.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at who has joined.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub rooms: usize,
    /// Of each room.
    pub members: usize,
    /// Messages that are said at once.
    pub depth: usize,
}

impl Shape {
    /// Not always the first: where connections go in turn, all would have the same worker.
    pub fn publisher(&self, room: usize) -> usize {
        room % self.members
    }
}

/// Members at work.
pub struct FanOut {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<Got, String>>>,
}

/// What the threads share.
pub struct Shared {
    pub to: SocketAddr,
    pub dialect: Dialect,
    pub shape: Shape,
    pub start: Instant,
    pub rooms: Vec<Room>,
    pub joined: AtomicUsize,
    /// Rooms in which messages are under way.
    pub busy: AtomicUsize,
    /// What each thread's members have got.
    pub done: Vec<AtomicU64>,
    pub measure: AtomicBool,
    stop: AtomicBool,
    /// Somebody has failed: nobody needs to wait for the others.
    failed: AtomicBool,
}

#[derive(Default)]
pub struct Room {
    pub publisher: OnceLock<TcpStream>,
    /// Deliveries that are still to come before the next messages are said.
    pub left: AtomicU64,
    /// Messages that were said, and when the last of them were, in nanoseconds.
    said: AtomicU64,
    pub said_at: AtomicU64,
}

impl FanOut {
    /// Returns when all have joined, and begins.
    pub fn start(
        to: SocketAddr,
        dialect: Dialect,
        shape: Shape,
        threads: usize,
    ) -> Result<FanOut, String> {
        let shared = Arc::new(Shared {
            to,
            dialect,
            shape,
            start: Instant::now(),
            rooms: (0..shape.rooms).map(|_| Room::default()).collect(),
            joined: AtomicUsize::new(0),
            busy: AtomicUsize::new(shape.rooms),
            done: (0..threads).map(|_| AtomicU64::new(0)).collect(),
            measure: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        });
        let spawn = |number| {
            let shared = shared.clone();
            thread::spawn(move || {
                let got = Thread::new(shared.clone(), number).and_then(Thread::run);
                shared.failed.fetch_or(got.is_err(), Ordering::Relaxed);
                got
            })
        };
        let fan_out = FanOut {
            threads: (0..threads).map(spawn).collect(),
            shared,
        };
        let shared = &fan_out.shared;
        let all = shape.rooms * shape.members;
        while shared.joined.load(Ordering::Acquire) < all {
            if shared.is_failed() || shared.start.elapsed() > PATIENCE {
                shared.failed.store(true, Ordering::Relaxed);
                let joined = shared.joined.load(Ordering::Acquire);
                fan_out.end()?;
                return Err(format!("only {joined} of {all} could join"));
            }
            thread::sleep(PAUSE);
        }
        for room in 0..shape.rooms {
            shared.publish(room)?;
        }
        Ok(fan_out)
    }

    /// Deliveries so far.
    pub fn done(&self) -> u64 {
        let done = self.shared.done.iter();
        done.map(|done| done.load(Ordering::Relaxed)).sum()
    }

    pub fn measure(&self, on: bool) {
        self.shared.measure.store(on, Ordering::Relaxed);
    }

    /// Lets all get what was said.
    pub fn end(self) -> Result<Got, String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut all = Got::default();
        let mut failure = None;
        for thread in self.threads {
            match thread.join().expect("a thread of clients ends") {
                Ok(got) => all.merge(&got),
                Err(reason) => {
                    failure.get_or_insert(reason);
                }
            }
        }
        failure.map_or(Ok(all), Err)
    }
}

impl Shared {
    pub fn is_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    pub fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Says the next messages of a room, of which all earlier ones were delivered.
    fn publish(&self, number: usize) -> Result<(), String> {
        let room = &self.rooms[number];
        let depth = self.shape.depth as u64;
        let packs = self.dialect.packs(self.shape.publisher(number));
        let first = room.said.fetch_add(depth, Ordering::Relaxed);
        let mut bytes = Vec::with_capacity(self.shape.depth * 256);
        for message in first..first + depth {
            self.dialect.publish(number, message, packs, &mut bytes);
        }
        let left = depth * self.shape.members as u64;
        room.left.store(left, Ordering::Relaxed);
        let now = self.start.elapsed().as_nanos() as u64;
        room.said_at.store(now, Ordering::Release);
        let Some(mut publisher) = room.publisher.get() else {
            return Err("a room has no publisher".to_owned());
        };
        // All that it said was read, so there is room for it.
        match publisher.write(&bytes) {
            Ok(written) if written == bytes.len() => Ok(()),
            other => Err(format!("a publisher cannot write: {other:?}")),
        }
    }

    /// Members of a room have got so many messages.
    pub fn delivered(&self, number: usize, count: u64) -> Result<(), String> {
        let before = self.rooms[number].left.fetch_sub(count, Ordering::AcqRel);
        if before > count {
            return Ok(());
        }
        match self.is_stopping() {
            true => {
                self.busy.fetch_sub(1, Ordering::Relaxed);
                Ok(())
            }
            false => self.publish(number),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;
    use crate::bench::bare;
    use crate::bench::cost::dialect;
    use crate::eventually;

    #[test]
    fn what_is_said_is_delivered() {
        let (address, workers) = bare::workers(2).unwrap();
        for worker in workers {
            thread::spawn(|| worker.serve());
        }
        let shape = Shape {
            rooms: 3,
            members: 7,
            depth: 4,
        };
        let fan_out = FanOut::start(address, Dialect::Bare, shape, 2).unwrap();
        eventually("much is delivered", || fan_out.done() > 1000);
        fan_out.measure(true);
        let before = fan_out.done();
        eventually("more is delivered", || fan_out.done() > before + 1000);
        let got = fan_out.end().unwrap();
        assert!(got.deliveries > 0 && got.waits.at(500).is_some());
    }

    /// What one member says of a server that delivers these.
    fn deliver(numbers: &'static [u64]) -> Option<String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).unwrap();
            let head = format!("HTTP/1.1 101 Switching Protocols{}\r\n", dialect::ACCEPT);
            stream.write_all(head.as_bytes()).unwrap();
            let _ = stream.read(&mut buffer).unwrap();
            for number in numbers {
                let data = dialect::message(0, *number);
                let text = format!("{{\"room\":\"r0\",\"pos\":\"\",\"data\":{data}}}");
                let head = [0x81, 126, 0, text.len() as u8];
                stream.write_all(&head).unwrap();
                stream.write_all(text.as_bytes()).unwrap();
            }
            // Until the member has gone.
            let _ = stream.read(&mut buffer);
        });
        let shape = Shape {
            rooms: 1,
            members: 1,
            depth: 2,
        };
        let end = FanOut::start(address, Dialect::Bare, shape, 1).unwrap();
        eventually("it fails", || end.threads[0].is_finished());
        let end = end.end();
        server.join().unwrap();
        end.err()
    }

    #[test]
    fn what_is_lost_or_doubled_is_a_failure() {
        for (numbers, due) in [(&[1_u64][..], 0), (&[0, 0], 1)] {
            let failure = deliver(numbers).unwrap();
            let due = format!("a member of room 0: message {due} is due, it got ");
            assert!(failure.starts_with(&due), "{failure}");
        }
    }
}
