//! One room with many subscribers, and publishers that wait for nothing but, where they are not read,
//! for room to write. Each message says when it was written.

use std::io;
use std::net::SocketAddr;
use std::ops::Sub;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::plain::{Plain, TEXT, offset};
use crate::websocket::frame;

const PUBLISHERS: usize = 4;
/// Threads that hear.
const EARS: usize = 2;
/// Messages that are written in one go at most; and those that a publisher who waits for replies has
/// under way.
const BATCH: u64 = 32;
const PAUSE: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug)]
pub struct Counts {
    pub published: u64,
    pub delivered: u64,
    /// To subscribers, each of whom was told.
    pub lost: u64,
}

impl Sub for Counts {
    type Output = Counts;

    fn sub(self, before: Counts) -> Counts {
        Counts {
            published: self.published - before.published,
            delivered: self.delivered - before.delivered,
            lost: self.lost - before.lost,
        }
    }
}

struct Shared {
    began: Instant,
    silent: AtomicBool,
    measure: AtomicBool,
    published: AtomicU64,
    delivered: AtomicU64,
    lost: AtomicU64,
}

pub struct Flood {
    shared: Arc<Shared>,
    publishers: Vec<JoinHandle<io::Result<()>>>,
    ears: Vec<JoinHandle<io::Result<Vec<f64>>>>,
    last: Plain,
}

impl Flood {
    pub const SUBSCRIBERS: usize = 200;

    /// So many messages a second in all; none: each publisher waits for the replies to what it has
    /// said before it says more.
    pub fn start(to: SocketAddr, rate: Option<f64>) -> io::Result<Flood> {
        let shared = Arc::new(Shared {
            began: Instant::now(),
            silent: AtomicBool::new(false),
            measure: AtomicBool::new(false),
            published: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        });
        let mut ears = Vec::new();
        for _ in 0..EARS {
            let mut subscribers = Vec::new();
            for _ in 0..Flood::SUBSCRIBERS / EARS {
                let (mut plain, _) = Plain::greeted(to)?;
                plain.ask(r#"{"id":1,"join":"r"}"#)?;
                subscribers.push(plain);
            }
            let shared = shared.clone();
            ears.push(thread::spawn(move || hear(subscribers, &shared)));
        }
        let mut publishers = Vec::new();
        for _ in 0..PUBLISHERS {
            let (plain, _) = Plain::greeted(to)?;
            let shared = shared.clone();
            publishers.push(thread::spawn(move || match rate {
                Some(rate) => publish(plain, rate / PUBLISHERS as f64, &shared),
                None => publish_and_wait(plain, &shared),
            }));
        }
        Ok(Flood {
            shared,
            publishers,
            ears,
            last: Plain::greeted(to)?.0,
        })
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts {
            published: get(&self.shared.published),
            delivered: get(&self.shared.delivered),
            lost: get(&self.shared.lost),
        }
    }

    /// Latencies are kept, or not any more.
    pub fn measure(&self, on: bool) {
        self.shared.measure.store(on, Ordering::Relaxed);
    }

    /// Lets all subscribers hear, or be told that they have lost, everything. From the write to the
    /// delivery, in microseconds.
    pub fn end(mut self) -> io::Result<Vec<f64>> {
        self.shared.silent.store(true, Ordering::Relaxed);
        for publisher in self.publishers {
            publisher.join().expect("a thread of clients ends")?;
        }
        self.last
            .ask(&format!(r#"{{"id":1,"send":"r","data":{LAST}}}"#))?;
        let mut all = Vec::new();
        for ear in self.ears {
            all.extend(ear.join().expect("a thread of clients ends")?);
        }
        Ok(all)
    }
}

/// In place of a time: nothing comes behind it.
const LAST: u64 = 0;

fn message(id: Option<u64>, shared: &Shared) -> Vec<u8> {
    let now = shared.began.elapsed().as_micros();
    let id = id.map_or_else(String::new, |id| format!(r#""id":{id},"#));
    frame(
        TEXT,
        format!(r#"{{{id}"send":"r","data":{now}}}"#).as_bytes(),
    )
}

/// So many a second; what cannot be written is late, and what is late is written as soon as it can be.
fn publish(mut plain: Plain, rate: f64, shared: &Shared) -> io::Result<()> {
    let start = Instant::now();
    let mut sent = 0;
    while !shared.silent.load(Ordering::Relaxed) {
        let due = (start.elapsed().as_secs_f64() * rate) as u64;
        let now = BATCH.min(due - sent);
        if now == 0 {
            thread::sleep(PAUSE);
            continue;
        }
        let frames: Vec<u8> = (0..now).flat_map(|_| message(None, shared)).collect();
        plain.say(&frames)?;
        sent += now;
        shared.published.fetch_add(now, Ordering::Relaxed);
    }
    // All of it has been read.
    plain.ask(r#"{"id":1,"ping":true}"#).map(drop)
}

fn publish_and_wait(mut plain: Plain, shared: &Shared) -> io::Result<()> {
    while !shared.silent.load(Ordering::Relaxed) {
        let frames: Vec<u8> = (0..BATCH)
            .flat_map(|id| message(Some(id), shared))
            .collect();
        plain.say(&frames)?;
        for _ in 0..BATCH {
            plain.hear()?;
        }
        shared.published.fetch_add(BATCH, Ordering::Relaxed);
    }
    Ok(())
}

/// Hears the next message of each, again and again; all must hear the same, but for what they are
/// told that they have lost.
fn hear(mut subscribers: Vec<Plain>, shared: &Shared) -> io::Result<Vec<f64>> {
    let mut latencies = Vec::new();
    let mut at = vec![0; subscribers.len()];
    let mut over = vec![false; subscribers.len()];
    while over.contains(&false) {
        let (mut delivered, mut lost) = (0, 0);
        for ((plain, at), over) in subscribers.iter_mut().zip(&mut at).zip(&mut over) {
            // As much as one read has brought.
            let mut first = true;
            while !*over && (first || plain.has_heard()) {
                first = false;
                let heard = plain.hear()?;
                match number(heard, br#""data":"#) {
                    Some(written) => {
                        let offset = offset(heard).unwrap_or(0);
                        if offset != *at + 1 {
                            let what = format!("{offset} behind {at}");
                            return Err(io::Error::other(what));
                        }
                        *at = offset;
                        *over = written == LAST;
                        delivered += 1;
                        if shared.measure.load(Ordering::Relaxed) {
                            let now = shared.began.elapsed().as_micros() as u64;
                            latencies.push(now.saturating_sub(written) as f64);
                        }
                    }
                    None => {
                        let to = gap(heard).filter(|to| to > at).ok_or_else(|| {
                            io::Error::other(String::from_utf8_lossy(heard).into_owned())
                        })?;
                        lost += to - *at;
                        *at = to;
                    }
                }
            }
        }
        shared.delivered.fetch_add(delivered, Ordering::Relaxed);
        shared.lost.fetch_add(lost, Ordering::Relaxed);
    }
    Ok(latencies)
}

/// The offset of the last message that was lost, if this says so.
fn gap(heard: &[u8]) -> Option<u64> {
    let heard: serde_json::Value = serde_json::from_slice(heard).ok()?;
    let to = heard["gap"]["to"].as_str()?;
    to.split_once(':')?.1.parse().ok()
}

/// The number behind a key.
fn number(message: &[u8], key: &[u8]) -> Option<u64> {
    let digits = &message[memchr::memmem::find(message, key)? + key.len()..];
    let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}
