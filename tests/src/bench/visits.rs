//! Connections that ask one thing and are closed by the server: by so many clients that come again at
//! once, or so many a second whatever becomes of those before (an open loop, which alone shows what
//! overload does: nobody holds back because he waits).
//!
//! A visit is served (200, and the whole body), refused (503), cut (closed or reset before an answer),
//! or given up by the client. What the clients themselves have no files for is not sent, and counted.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::socket::{self, loopback};

const REQUEST: &[u8] = b"GET /whoami HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";
/// Ports of closed connections are blocked for a while, but there are many addresses.
const OF_AN_ADDRESS: u32 = 5_000;
/// A visit that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(5);
/// Visits that are begun before it is looked what has come of the others.
const IN_A_TURN: u64 = 512;
/// Visits of a thread that are under way at most: the limit of open files. What is due beyond it is
/// not sent.
const MOST: usize = 9_000;

#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// So many clients in all, each of which comes again at once.
    Clients(usize),
    /// So many visits a second in all.
    Rate(f64),
}

/// What has come of the visits so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub begun: u64,
    pub served: u64,
    /// An answer that says no.
    pub refused: u64,
    /// Closed or reset before an answer.
    pub cut: u64,
    /// Not answered in time.
    pub given_up: u64,
    /// Due, and not begun because too many were under way.
    pub held_back: u64,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    measure: AtomicBool,
    begun: AtomicU64,
    served: AtomicU64,
    refused: AtomicU64,
    cut: AtomicU64,
    given_up: AtomicU64,
    held_back: AtomicU64,
}

pub struct Visits {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<io::Result<Vec<f64>>>>,
}

impl Visits {
    #[must_use]
    pub fn start(to: SocketAddr, pace: Pace, threads: usize) -> Visits {
        let shared = Arc::new(Shared::default());
        let thread = |number| {
            let shared = shared.clone();
            thread::spawn(move || {
                let pace = match pace {
                    Pace::Clients(all) => Pace::Clients((all + number) / threads),
                    Pace::Rate(all) => Pace::Rate(all / threads as f64),
                };
                Thread::new(to, pace, shared, number)?.run()
            })
        };
        Visits {
            threads: (0..threads).map(thread).collect(),
            shared,
        }
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts {
            begun: get(&self.shared.begun),
            served: get(&self.shared.served),
            refused: get(&self.shared.refused),
            cut: get(&self.shared.cut),
            given_up: get(&self.shared.given_up),
            held_back: get(&self.shared.held_back),
        }
    }

    /// Latencies are kept, or not any more.
    pub fn measure(&self, on: bool) {
        self.shared.measure.store(on, Ordering::Relaxed);
    }

    /// The latencies of those that were served, in microseconds.
    pub fn end(self) -> io::Result<Vec<f64>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for thread in self.threads {
            all.extend(thread.join().expect("a thread of clients ends")?);
        }
        Ok(all)
    }
}

impl Counts {
    /// Of those that were begun, the ones that nothing has come of.
    #[must_use]
    pub fn under_way(&self) -> u64 {
        let over = self.served + self.refused + self.cut + self.given_up;
        self.begun.saturating_sub(over)
    }
}

impl std::ops::Sub for Counts {
    type Output = Counts;

    fn sub(self, before: Counts) -> Counts {
        Counts {
            begun: self.begun - before.begun,
            served: self.served - before.served,
            refused: self.refused - before.refused,
            cut: self.cut - before.cut,
            given_up: self.given_up - before.given_up,
            held_back: self.held_back - before.held_back,
        }
    }
}

struct Visit {
    stream: TcpStream,
    began: Instant,
    asked: bool,
    answer: Vec<u8>,
}

struct Thread {
    to: SocketAddr,
    pace: Pace,
    shared: Arc<Shared>,
    number: usize,
    poll: Poll,
    visits: Vec<Option<Visit>>,
    free: Vec<usize>,
    /// Who began when, oldest first; a place may have been taken anew since.
    began: VecDeque<(Instant, usize)>,
    opened: u32,
    buffer: Vec<u8>,
    latencies: Vec<f64>,
}

enum Outcome {
    Served,
    Refused,
    Cut,
    GivenUp,
}

impl Thread {
    fn new(to: SocketAddr, pace: Pace, shared: Arc<Shared>, number: usize) -> io::Result<Thread> {
        Ok(Thread {
            to,
            pace,
            shared,
            number,
            poll: Poll::new()?,
            visits: Vec::new(),
            free: Vec::new(),
            began: VecDeque::new(),
            opened: 0,
            buffer: vec![0; 4096],
            latencies: Vec::new(),
        })
    }

    fn run(mut self) -> io::Result<Vec<f64>> {
        let start = Instant::now();
        let mut begun = 0_u64;
        let mut events = Events::with_capacity(1024);
        while !self.shared.stop.load(Ordering::Relaxed) {
            match self.pace {
                Pace::Clients(clients) => {
                    while self.under_way() < clients {
                        self.begin(Instant::now())?;
                    }
                }
                Pace::Rate(rate) => {
                    let due = (start.elapsed().as_secs_f64() * rate) as u64;
                    let most = begun + IN_A_TURN;
                    while begun < due.min(most) {
                        match self.under_way() < MOST {
                            true => self.begin(Instant::now())?,
                            false => add(&self.shared.held_back),
                        }
                        begun += 1;
                    }
                }
            }
            match self.poll.poll(&mut events, Some(Duration::from_millis(1))) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                polled => polled?,
            }
            for event in &events {
                self.ready(event.token().0);
            }
            self.give_up();
        }
        Ok(self.latencies)
    }

    fn under_way(&self) -> usize {
        self.visits.len() - self.free.len()
    }

    fn begin(&mut self, began: Instant) -> io::Result<()> {
        let address = self.number as u32 * 100_000 + self.opened / OF_AN_ADDRESS;
        self.opened += 1;
        add(&self.shared.begun);
        let stream = socket::connect_later(self.to, Some(loopback(address)))?;
        let index = self.free.pop().unwrap_or_else(|| {
            self.visits.push(None);
            self.visits.len() - 1
        });
        let mut visit = Visit {
            stream: TcpStream::from_std(stream),
            began,
            asked: false,
            answer: Vec::new(),
        };
        let both = Interest::READABLE | Interest::WRITABLE;
        let registry = self.poll.registry();
        registry.register(&mut visit.stream, Token(index), both)?;
        self.visits[index] = Some(visit);
        self.began.push_back((began, index));
        // On loopback it is mostly connected by now.
        self.ready(index);
        Ok(())
    }

    fn ready(&mut self, index: usize) {
        let Some(visit) = &mut self.visits[index] else {
            return;
        };
        if let Some(outcome) = visit.go_on(&mut self.buffer) {
            self.over(index, outcome);
        }
    }

    fn over(&mut self, index: usize, outcome: Outcome) {
        let Some(visit) = self.visits[index].take() else {
            return;
        };
        self.free.push(index);
        match outcome {
            Outcome::Served => {
                add(&self.shared.served);
                if self.shared.measure.load(Ordering::Relaxed) {
                    self.latencies
                        .push(visit.began.elapsed().as_secs_f64() * 1e6);
                }
            }
            Outcome::Refused => add(&self.shared.refused),
            Outcome::Cut => add(&self.shared.cut),
            Outcome::GivenUp => add(&self.shared.given_up),
        }
    }

    fn give_up(&mut self) {
        while let Some((began, index)) = self.began.front().copied()
            && began.elapsed() > PATIENCE
        {
            self.began.pop_front();
            if self.visits[index]
                .as_ref()
                .is_some_and(|visit| visit.began == began)
            {
                self.over(index, Outcome::GivenUp);
            }
        }
    }
}

fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

impl Visit {
    /// `None`: it is not over.
    fn go_on(&mut self, buffer: &mut [u8]) -> Option<Outcome> {
        let is_later = |error: &io::Error| {
            matches!(
                error.kind(),
                ErrorKind::WouldBlock | ErrorKind::NotConnected
            )
        };
        if !self.asked {
            match self.stream.write(REQUEST) {
                Ok(_) => self.asked = true,
                Err(error) if is_later(&error) => return None,
                // What the server may have said before it closed is there to be read.
                Err(_) => self.asked = true,
            }
        }
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Some(self.outcome()),
                Ok(read) => self.answer.extend(&buffer[..read]),
                Err(error) if is_later(&error) => return None,
                Err(_) => return Some(self.outcome()),
            }
        }
    }

    fn outcome(&self) -> Outcome {
        let is_whole = self.answer.ends_with(b")\n");
        if self.answer.starts_with(b"HTTP/1.1 200 ") && is_whole {
            Outcome::Served
        } else if self.answer.starts_with(b"HTTP/1.1 503 ") {
            Outcome::Refused
        } else {
            Outcome::Cut
        }
    }
}
