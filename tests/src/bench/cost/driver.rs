//! The clients of a load: a few threads, each with an epoll loop of its own, that say bytes which
//! were made before, and compare what comes with the bytes that must come.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::clients::Got;
use super::script::{self, Heard, Script};
use super::waits::Waits;
use crate::process;
use crate::socket::{self, loopback};

/// Ports of closed connections are blocked for a while, but there are many addresses.
const CONNECTIONS_OF_AN_ADDRESS: u32 = 5000;
/// For what is unanswered at the end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Clients at work.
pub struct Driver {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<Waits, String>>>,
}

#[derive(Default)]
struct Shared {
    /// What each thread has done.
    done: Vec<AtomicU64>,
    /// What they wait counts from now on.
    measure: AtomicBool,
    stop: AtomicBool,
}

impl Driver {
    /// So many clients in all.
    pub fn start(to: SocketAddr, script: Script, clients: usize, threads: Threads) -> Driver {
        let script = Arc::new(script);
        let count = threads.count();
        let shared = Arc::new(Shared {
            done: (0..count).map(|_| AtomicU64::new(0)).collect(),
            ..Shared::default()
        });
        let threads = (0..count).map(|number| {
            let (script, shared) = (script.clone(), shared.clone());
            let clients = (clients + number) / count;
            thread::spawn(move || {
                let drive = || Thread::new(to, script, shared, number)?.run(clients);
                match threads {
                    Threads::OnCore(core) => process::on_core(core, drive),
                    Threads::Anywhere(_) => drive(),
                }
            })
        });
        Driver {
            threads: threads.collect(),
            shared,
        }
    }

    pub fn done(&self) -> u64 {
        let done = self.shared.done.iter();
        done.map(|done| done.load(Ordering::Relaxed)).sum()
    }

    pub fn measure(&self, on: bool) {
        self.shared.measure.store(on, Ordering::Relaxed);
    }

    /// Lets all hear what they wait for.
    pub fn end(self) -> Result<Got, String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut all = Got::default();
        for thread in self.threads {
            let waits = thread.join().expect("a thread of clients ends")?;
            all.waits.merge(&waits);
        }
        Ok(all)
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Threads {
    OnCore(usize),
    Anywhere(usize),
}

impl Threads {
    pub fn count(self) -> usize {
        match self {
            Threads::OnCore(_) => 1,
            Threads::Anywhere(count) => count,
        }
    }
}

struct Thread {
    to: SocketAddr,
    script: Arc<Script>,
    shared: Arc<Shared>,
    number: usize,
    poll: Poll,
    clients: Vec<Option<Client>>,
    buffer: Vec<u8>,
    /// Connections that were made.
    opened: u32,
    /// Clients that have not ended.
    left: usize,
    done: u64,
    waits: Waits,
}

struct Client {
    stream: TcpStream,
    step: usize,
    /// Of what the step says.
    sent: usize,
    /// Of the answer, if it comes in pieces.
    partial: Vec<u8>,
    since: Instant,
}

impl Thread {
    fn new(
        to: SocketAddr,
        script: Arc<Script>,
        shared: Arc<Shared>,
        number: usize,
    ) -> Result<Thread, String> {
        Ok(Thread {
            to,
            script,
            shared,
            number,
            poll: Poll::new().map_err(|error| format!("no epoll: {error}"))?,
            clients: Vec::new(),
            buffer: vec![0; 256 << 10],
            opened: 0,
            left: 0,
            done: 0,
            waits: Waits::default(),
        })
    }

    fn run(mut self, clients: usize) -> Result<Waits, String> {
        for index in 0..clients {
            self.clients.push(None);
            self.left += 1;
            self.open(index)?;
        }
        let mut events = Events::with_capacity(1024);
        let mut deadline = None;
        while self.left > 0 {
            match self.poll.poll(&mut events, Some(Duration::from_millis(50))) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                polled => polled.map_err(|error| format!("epoll: {error}"))?,
            }
            for event in &events {
                self.ready(event.token().0, event.is_read_closed())?;
            }
            self.shared.done[self.number].store(self.done, Ordering::Relaxed);
            if self.is_stopping() {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
                if Instant::now() > deadline {
                    return Err(self.tell_who_waits());
                }
            }
        }
        Ok(self.waits)
    }

    fn open(&mut self, index: usize) -> Result<(), String> {
        let from = self.script.ends().then(|| self.next_address());
        self.opened += 1;
        let broken = |error: io::Error| format!("a client cannot connect: {error}");
        let since = Instant::now();
        let stream = socket::connect_later(self.to, from).map_err(broken)?;
        let mut client = Client {
            stream: TcpStream::from_std(stream),
            step: 0,
            sent: 0,
            partial: Vec::new(),
            since,
        };
        let registry = self.poll.registry();
        registry
            .register(&mut client.stream, Token(index), Interest::READABLE)
            .map_err(broken)?;
        self.clients[index] = Some(client);
        self.say(index)
    }

    fn next_address(&self) -> IpAddr {
        loopback(self.number as u32 * 100_000 + self.opened / CONNECTIONS_OF_AN_ADDRESS)
    }

    /// Says the next, or the rest of it.
    fn say(&mut self, index: usize) -> Result<(), String> {
        let Some(client) = &mut self.clients[index] else {
            return Ok(());
        };
        let rest = &self.script.says(client.step)[client.sent..];
        if rest.is_empty() {
            return Ok(());
        }
        if self.script.repeats(client.step) && client.sent == 0 {
            client.since = Instant::now();
        }
        match client.stream.write(rest) {
            Ok(written) => client.sent += written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(format!("a client cannot write: {error}")),
        }
        if client.sent == self.script.says(client.step).len() {
            return Ok(());
        }
        // It connects still, or the server does not read.
        let both = Interest::READABLE | Interest::WRITABLE;
        let registry = self.poll.registry();
        let registered = registry.reregister(&mut client.stream, Token(index), both);
        registered.map_err(|error| format!("epoll: {error}"))
    }

    /// Something has happened on its socket; `ends`: the server's FIN is there.
    fn ready(&mut self, index: usize, ends: bool) -> Result<(), String> {
        self.say(index)?;
        while let Some(client) = &mut self.clients[index] {
            match client.stream.read(&mut self.buffer) {
                Ok(0) => return self.ended(index),
                Ok(read) => {
                    self.hear(index, read)?;
                    // A read that did not fill the buffer has emptied the socket.
                    if read < self.buffer.len() && !ends {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(format!("a client cannot read: {error}")),
            }
        }
        Ok(())
    }

    fn hear(&mut self, index: usize, read: usize) -> Result<(), String> {
        let Some(client) = &mut self.clients[index] else {
            return Ok(());
        };
        let step = client.step;
        if !client.hear(&self.script, &self.buffer[..read])? {
            return Ok(());
        }
        if self.script.repeats(step) {
            let since = client.since;
            self.count(since);
            if self.is_stopping() {
                self.close(index);
                return Ok(());
            }
        }
        self.say(index)
    }

    /// The server has ended the connection.
    fn ended(&mut self, index: usize) -> Result<(), String> {
        let Some(client) = self.clients[index].take() else {
            return Ok(());
        };
        if !self.script.is_over(client.step) {
            let wanted = self.script.wanted(client.step);
            return Err(format!("a connection was closed before {wanted}"));
        }
        self.count(client.since);
        match self.is_stopping() {
            true => self.close(index),
            false => return self.open(index),
        }
        Ok(())
    }

    /// One thing is done.
    fn count(&mut self, since: Instant) {
        self.done += self.script.worth;
        if self.shared.measure.load(Ordering::Relaxed) {
            self.waits.add(since.elapsed().as_nanos() as u64, 1);
        }
    }

    fn close(&mut self, index: usize) {
        self.clients[index] = None;
        self.left -= 1;
    }

    fn is_stopping(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    fn tell_who_waits(&self) -> String {
        let first = self.clients.iter().flatten().next();
        let wanted = first.map_or_else(String::new, |client| self.script.wanted(client.step));
        format!(
            "{} clients were not answered within {PATIENCE:?}; the first waits for {wanted}",
            self.left
        )
    }
}

impl Client {
    /// Is the answer whole? Then it goes on to the next step.
    fn hear(&mut self, script: &Script, bytes: &[u8]) -> Result<bool, String> {
        // Mostly an answer comes in one piece, and is not copied.
        let heard = if self.partial.is_empty() {
            script.hear(self.step, bytes)
        } else {
            self.partial.extend(bytes);
            script.hear(self.step, &self.partial)
        };
        match heard {
            Heard::Whole => {
                self.partial.clear();
                self.step = script.behind(self.step);
                self.sent = 0;
                Ok(true)
            }
            Heard::Part => {
                if self.partial.is_empty() {
                    self.partial.extend(bytes);
                }
                Ok(false)
            }
            Heard::Wrong => {
                let got = match self.partial.is_empty() {
                    true => bytes,
                    false => &self.partial,
                };
                let got = script::show(got);
                Err(format!("got {got} instead of {}", script.wanted(self.step)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::bench::cost::script::Answer;
    use crate::eventually;

    /// One client of a server that answers so.
    fn drive(answer: &'static [u8]) -> (u64, Result<Got, String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            while stream.read_exact(&mut [0; 3]).is_ok() && stream.write_all(answer).is_ok() {}
        });
        let right = vec![Answer::exactly(b"yes".to_vec())];
        let script = Script::forever(5).then("ask", right);
        let driver = Driver::start(address, script, 1, Threads::Anywhere(1));
        eventually("it is answered", || {
            driver.done() > 0 || driver.threads[0].is_finished()
        });
        let done = driver.done();
        let end = driver.end();
        server.join().unwrap();
        (done, end)
    }

    #[test]
    fn right_answers_are_counted() {
        let (done, end) = drive(b"yes");
        assert!(done > 0 && done.is_multiple_of(5), "{done}");
        assert_eq!(end.err(), None);
    }

    #[test]
    fn a_wrong_answer_is_shown() {
        let (done, end) = drive(b"no!");
        assert_eq!(done, 0);
        let shown = "got 3 bytes, \"no!\" instead of 3 bytes, \"yes\"";
        assert_eq!(end.err().as_deref(), Some(shown));
    }
}
