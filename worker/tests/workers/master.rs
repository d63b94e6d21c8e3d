//! A master that is the test itself: it gives connections over real channels, reads the rings and
//! writes the log of one worker or of several, and kills brains and guards.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::channel::{Channel, Received};
use protocol::guard::held_program;
use protocol::ids::{Cid, Position, Role, Seat};
use protocol::journal::{Journal, Record};
use protocol::memory::Segment;
use protocol::message::{Given, Parted, Past, Proxy, ToMaster, ToWorker};
use protocol::record::{Down, Up, Who};
use protocol::roles::{self, WorkerArgs};
use protocol::settings::Settings;
use protocol::share::Share;
use protocol::stream::{Reader, Writer, segment_size};

pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Master {
    pub workers: Vec<Worker>,
    listener: TcpListener,
    log: Writer,
    log_segment: Arc<Segment>,
    history: Segment,
    journal: Journal,
    bell: EventFd,
    settings: Settings,
    next_cid: u64,
    /// Of the one room that there is.
    pub offset: u64,
    /// It reads the rings and writes nothing, as for requests that no record answers.
    pub is_silent: bool,
}

/// A worker, and all that its master knows of it.
pub struct Worker {
    child: Child,
    channel: Channel,
    pub ring: Reader,
    pub ring_read: u64,
    number: u16,
    pub brain: i32,
    pub life: u32,
    pub ready: bool,
    pub evacuates: bool,
    pub acked: Vec<Cid>,
    pub refused: Vec<Cid>,
    pub closed: Vec<Cid>,
    /// What it gave away and nobody has taken yet.
    pub parted: Vec<(Parted, OwnedFd, Option<OwnedFd>)>,
    unacked: Vec<(Given, OwnedFd, Option<OwnedFd>)>,
}

impl Worker {
    pub fn guard(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn send(&self, message: &impl serde::Serialize) {
        assert!(self.channel.send(message, &[]).unwrap());
    }

    fn give(&mut self, given: Given, fd: OwnedFd, file: Option<OwnedFd>) {
        self.unacked.push((given, fd, file));
        self.repeat(self.unacked.len() - 1);
    }

    fn repeat(&self, index: usize) {
        let (given, fd, file) = &self.unacked[index];
        let give = ToWorker::Give {
            connections: vec![given.clone()],
        };
        let fds = std::iter::once(fd.as_fd()).chain(file.iter().map(AsFd::as_fd));
        assert!(self.channel.send(&give, &fds.collect::<Vec<_>>()).unwrap());
    }

    /// Reads what it says.
    fn hear(&mut self) {
        loop {
            match self.channel.receive::<ToMaster>().unwrap() {
                Received::Message { message, fds } => self.on(message, fds),
                Received::Empty => break,
                Received::Closed => panic!("the worker is gone"),
            }
        }
    }

    fn on(&mut self, message: ToMaster, fds: Vec<OwnedFd>) {
        match message {
            ToMaster::Hello {
                brain_pid,
                life,
                evacuates,
                ..
            } => {
                (self.brain, self.life, self.ready) = (brain_pid, life, false);
                self.evacuates = evacuates;
                (0..self.unacked.len()).for_each(|index| self.repeat(index));
            }
            ToMaster::Ready => self.ready = true,
            ToMaster::Refuse { cids } => {
                self.unacked
                    .retain(|(given, ..)| !cids.contains(&given.cid));
                self.refused.extend(cids);
            }
            ToMaster::Give { connections } => {
                let mut fds = fds.into_iter();
                for parted in connections {
                    let fd = fds.next().unwrap();
                    let file = match parted.past {
                        Past::File => fds.next(),
                        _ => None,
                    };
                    // One that was said again replaces the first.
                    self.parted.retain(|(p, ..)| p.cid != parted.cid);
                    self.parted.push((parted, fd, file));
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

impl Master {
    pub fn start(settings: Settings) -> Master {
        let log_segment = Arc::new(Segment::create(c"log", segment_size(1 << 20)).unwrap());
        let state = Arc::new(Segment::create(c"state", 4096).unwrap());
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let mut master = Master {
            workers: Vec::new(),
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            journal: Journal::new(0, vec![state, log_segment.clone()]),
            log: Writer::new(log_segment.clone()),
            log_segment,
            history: protocol::history::create().unwrap(),
            bell: EventFd::from_flags(flags).unwrap(),
            settings,
            next_cid: 1,
            offset: 0,
            is_silent: false,
        };
        master.add_worker();
        master
    }

    /// One worker more, which is ready; its index.
    pub fn add_worker(&mut self) -> usize {
        let index = self.workers.len();
        let (ours, theirs) = Channel::pair().unwrap();
        let ring = Arc::new(Segment::create(c"ring", segment_size(1 << 20)).unwrap());
        let log_for_worker = self.log_segment.open_read_only().unwrap();
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let ring_bell = EventFd::from_flags(flags).unwrap();
        let program = held_program(env!("CARGO_BIN_EXE_baton-worker").as_ref()).unwrap();
        let stderr: OwnedFd = std::io::stderr().as_fd().try_clone_to_owned().unwrap();
        let born: Vec<OwnedFd> = [
            stderr.as_fd(),
            theirs.as_fd(),
            ring.as_fd(),
            log_for_worker.as_fd(),
            ring_bell.as_fd(),
            self.bell.as_fd(),
            program.as_fd(),
            self.history.as_fd(),
        ]
        .map(|fd: BorrowedFd<'_>| high(fd))
        .into();
        let number = index as u16;
        let seat = Seat(number + 1);
        let args = WorkerArgs {
            seat,
            ring: number,
            user: None,
            log_filter: std::env::var("BATON_LOG").unwrap_or("error".into()),
            log_json: false,
        };
        let mut command = Command::new(format!("/proc/self/fd/{}", born[6].as_raw_fd()));
        command.arg0("baton-worker").args(args.to_args());
        // SAFETY: dup2 is async-signal-safe; the fds stay open until the spawn.
        unsafe {
            let raw: Vec<i32> = born.iter().map(AsRawFd::as_raw_fd).collect();
            command.pre_exec(move || {
                for (from, to) in raw.iter().zip(roles::FROM_MASTER) {
                    if libc::dup2(*from, to) == -1 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        self.workers.push(Worker {
            child: command.spawn().unwrap(),
            channel: ours,
            ring: Reader::new(ring),
            ring_read: 0,
            number,
            brain: 0,
            life: 0,
            ready: false,
            evacuates: false,
            acked: Vec::new(),
            refused: Vec::new(),
            closed: Vec::new(),
            parted: Vec::new(),
            unacked: Vec::new(),
        });
        self.until("hello", |m| m.workers[index].brain != 0);
        self.workers[index].send(&ToWorker::Welcome {
            version: 1,
            worker: seat,
            settings: Box::new(self.settings.clone()),
        });
        self.until("ready", |m| m.workers[index].ready);
        index
    }

    pub fn until(&mut self, what: &str, mut condition: impl FnMut(&Master) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            self.turn();
            if condition(self) {
                return;
            }
            assert!(Instant::now() < end, "waited in vain for {what}");
            let mut fds: Vec<_> = self
                .workers
                .iter()
                .map(|w| nix::poll::PollFd::new(w.channel.as_fd(), nix::poll::PollFlags::POLLIN))
                .collect();
            let _ = nix::poll::poll(&mut fds, 1u16);
        }
    }

    /// What a master does: listens to the workers, and sequences.
    pub fn turn(&mut self) {
        for index in 0..self.workers.len() {
            self.workers[index].hear();
            self.sequence(index);
        }
    }

    /// Reads a ring to its end.
    pub fn sequence(&mut self, index: usize) {
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let worker = &self.workers[index];
            let Some(next) = worker.ring.next(worker.ring_read, &mut bytes).unwrap() else {
                return;
            };
            let mut down = Vec::new();
            match Up::decode(&bytes).unwrap() {
                Up::Publish {
                    asker, from, data, ..
                } => {
                    self.offset += 1;
                    let position = self.position();
                    Down::Message {
                        room: 7,
                        position,
                        asker,
                        from,
                        share: Share::All,
                        data,
                    }
                    .encode(&mut down);
                }
                Up::Open { asker, room } => Down::Opened {
                    room: 7,
                    position: self.position(),
                    total: 0,
                    asker,
                    name: room,
                }
                .encode(&mut down),
                Up::Hold { asker, room } => Down::Held {
                    room: 7,
                    position: self.position(),
                    total: 1,
                    asker,
                    name: room,
                }
                .encode(&mut down),
                Up::Who { asker, .. } => {
                    let who = Who {
                        total: 1,
                        ..Who::default()
                    };
                    Down::Count { who, asker }.encode(&mut down)
                }
                Up::Members { .. } | Up::Users { .. } | Up::Recounted => {}
                // Nobody moderates here.
                Up::Moderate { .. } | Up::Withhold { .. } | Up::Release { .. } => {}
                // Nobody watches here, or asks over HTTP.
                Up::Watch { .. } | Up::List { .. } | Up::Ask { .. } | Up::Told { .. } => {}
                Up::Ack { cids } => {
                    let worker = &mut self.workers[index];
                    worker
                        .unacked
                        .retain(|(given, ..)| !cids.iter().any(|cid| cid == given.cid));
                    worker.acked.extend(cids.iter());
                }
                Up::Closed { cids } => self.workers[index].closed.extend(cids.iter()),
            }
            let mut record = Record::new();
            if !down.is_empty() && !self.is_silent {
                assert!(self.log.stage(self.log.head(), &down));
                self.log.commit_into(&mut record, 1);
            }
            let worker = &mut self.workers[index];
            worker.ring_read = next;
            let word = protocol::journal::Word {
                segment: 1,
                index: protocol::row::read_index(worker.number) as u32,
            };
            record.set(word, next);
            self.journal.commit(&mut record);
            self.log.committed();
            self.bell.write(1).unwrap();
        }
    }

    fn position(&self) -> Position {
        Position {
            epoch: 1,
            offset: self.offset,
        }
    }

    /// A client of the first worker.
    pub fn connect(&mut self) -> TcpStream {
        let client = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        client.set_nodelay(true).unwrap();
        let (server, peer) = self.listener.accept().unwrap();
        server.set_nonblocking(true).unwrap();
        let cid = Cid(self.next_cid);
        self.next_cid += 1;
        let given = Given {
            cid,
            role: Role::Public,
            peer,
            proxy: Proxy::None,
            refuse: false,
            remote: false,
            unix: false,
            past: Past::None,
            accepted_us: 0,
            cookie: 0,
        };
        self.workers[0].give(given, server.into(), None);
        self.until("an ack", |m| m.workers[0].acked.contains(&cid));
        client
    }

    /// Orders a worker to give a connection away, and waits until it has.
    pub fn part(&mut self, from: usize, cid: Cid) {
        self.workers[from].send(&ToWorker::Part { cids: vec![cid] });
        self.until("a parted connection", |m| {
            m.workers[from].parted.iter().any(|(p, ..)| p.cid == cid)
        });
    }

    /// Passes on what one worker gave away.
    pub fn pass_on(&mut self, from: usize, to: usize, cid: Cid) {
        let parted = &mut self.workers[from].parted;
        let index = parted.iter().position(|(p, ..)| p.cid == cid).unwrap();
        let (parted, fd, file) = parted.remove(index);
        let given = Given {
            cid,
            role: Role::Public,
            peer: parted.peer,
            proxy: Proxy::None,
            refuse: false,
            remote: false,
            unix: false,
            past: parted.past,
            accepted_us: 0,
            cookie: 0,
        };
        self.workers[to].acked.clear();
        self.workers[to].give(given, fd, file);
    }

    /// A whole move.
    pub fn move_to(&mut self, from: usize, to: usize, cid: Cid) {
        self.part(from, cid);
        self.pass_on(from, to, cid);
        self.until("an ack", |m| m.workers[to].acked.contains(&cid));
        self.workers[from].send(&ToWorker::Took { cids: vec![cid] });
    }

    /// Kills a process of the worker's and waits for the next brain.
    pub fn kill(&mut self, index: usize, pid: i32) {
        let life = self.workers[index].life;
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        self.until("the next brain", |m| {
            let worker = &m.workers[index];
            worker.life > life && (worker.ready || worker.evacuates)
        });
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        if self.brain != 0 {
            let _ = kill(Pid::from_raw(self.brain), Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

/// Out of the way of the numbers that the worker is born with.
fn high(fd: BorrowedFd<'_>) -> OwnedFd {
    let raw = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(100)).unwrap();
    // SAFETY: a new fd.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(raw) }
}

/// Reads in another thread, so that the test can be the master meanwhile.
pub fn exchange(master: &mut Master, mut client: &TcpStream, send: &[u8], until: &[u8]) -> String {
    client.write_all(send).unwrap();
    client
        .set_read_timeout(Some(Duration::from_millis(2)))
        .unwrap();
    let mut got = Vec::new();
    let end = Instant::now() + PATIENCE;
    while !until.is_empty() && !got.windows(until.len()).any(|window| window == until) {
        assert!(
            Instant::now() < end,
            "got only {:?}",
            String::from_utf8_lossy(&got)
        );
        master.turn();
        let mut piece = [0; 65536];
        match client.read(&mut piece) {
            Ok(0) => panic!("closed after {:?}", String::from_utf8_lossy(&got)),
            Ok(n) => got.extend_from_slice(&piece[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => panic!("{e}"),
        }
    }
    String::from_utf8_lossy(&got).into_owned()
}

pub const GET: &[u8] = b"GET /whoami HTTP/1.1\r\nHost: a\r\n\r\n";
pub const UPGRADE: &str = "Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

pub fn frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81];
    match text.len() {
        n if n < 126 => frame.push(0x80 | n as u8),
        n => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(n as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(text.as_bytes());
    frame
}
