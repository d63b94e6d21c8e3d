//! A worker alone: the test is its master. It gives connections over a real channel, reads the
//! ring, writes the log, and kills brains and guards while clients count bytes.

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
use protocol::message::{Given, Proxy, ToMaster, ToWorker};
use protocol::record::{Down, Up};
use protocol::roles::{self, WorkerArgs};
use protocol::settings::Settings;
use protocol::stream::{Reader, Writer, segment_size};

const PATIENCE: Duration = Duration::from_secs(20);

struct Master {
    child: Child,
    channel: Channel,
    listener: TcpListener,
    ring: Reader,
    ring_read: u64,
    log: Writer,
    journal: Journal,
    log_bell: EventFd,
    next_cid: u64,
    offset: u64,
    brain: i32,
    life: u32,
    ready: bool,
    acked: Vec<Cid>,
    closed: Vec<Cid>,
    unacked: Vec<(Given, TcpStream)>,
}

impl Master {
    fn start(settings: Settings) -> Master {
        let (ours, theirs) = Channel::pair().unwrap();
        let ring = Arc::new(Segment::create(c"ring", segment_size(1 << 20)).unwrap());
        let log = Arc::new(Segment::create(c"log", segment_size(1 << 20)).unwrap());
        let state = Arc::new(Segment::create(c"state", 4096).unwrap());
        let log_for_worker = log.open_read_only().unwrap();
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let (ring_bell, log_bell) = (
            EventFd::from_flags(flags).unwrap(),
            EventFd::from_flags(flags).unwrap(),
        );
        let program = held_program(env!("CARGO_BIN_EXE_baton-worker").as_ref()).unwrap();
        let stderr: OwnedFd = std::io::stderr().as_fd().try_clone_to_owned().unwrap();
        let born: Vec<OwnedFd> = [
            stderr.as_fd(),
            theirs.as_fd(),
            ring.as_fd(),
            log_for_worker.as_fd(),
            ring_bell.as_fd(),
            log_bell.as_fd(),
            program.as_fd(),
        ]
        .map(|fd: BorrowedFd<'_>| high(fd))
        .into();
        let args = WorkerArgs {
            seat: Seat(1),
            ring: 0,
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
        let child = command.spawn().unwrap();
        let mut master = Master {
            child,
            channel: ours,
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            ring: Reader::new(ring),
            ring_read: 0,
            journal: Journal::new(0, vec![state, log.clone()]),
            log: Writer::new(log),
            log_bell,
            next_cid: 1,
            offset: 0,
            brain: 0,
            life: 0,
            ready: false,
            acked: Vec::new(),
            closed: Vec::new(),
            unacked: Vec::new(),
        };
        master.settings(settings);
        master
    }

    fn settings(&mut self, settings: Settings) {
        self.until("hello", |m| m.brain != 0);
        let welcome = ToWorker::Welcome {
            version: 1,
            worker: Seat(1),
            settings: Box::new(settings),
        };
        assert!(self.channel.send(&welcome, &[]).unwrap());
        self.until("ready", |m| m.ready);
    }

    fn until(&mut self, what: &str, mut condition: impl FnMut(&Master) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            self.turn();
            if condition(self) {
                return;
            }
            assert!(Instant::now() < end, "waited in vain for {what}");
            let mut fds = [nix::poll::PollFd::new(
                self.channel.as_fd(),
                nix::poll::PollFlags::POLLIN,
            )];
            let _ = nix::poll::poll(&mut fds, 1u16);
        }
    }

    /// What a master does: listens to the worker, and sequences.
    fn turn(&mut self) {
        loop {
            match self.channel.receive::<ToMaster>().unwrap() {
                Received::Message { message, .. } => match message {
                    ToMaster::Hello {
                        brain_pid, life, ..
                    } => {
                        (self.brain, self.life, self.ready) = (brain_pid, life, false);
                        for (given, stream) in &self.unacked {
                            let give = ToWorker::Give {
                                connections: vec![given.clone()],
                            };
                            assert!(self.channel.send(&give, &[stream.as_fd()]).unwrap());
                        }
                    }
                    ToMaster::Ready => self.ready = true,
                    ToMaster::Ack { cids } => {
                        self.unacked.retain(|(given, _)| !cids.contains(&given.cid));
                        self.acked.extend(cids);
                    }
                    ToMaster::Closed { cids } => self.closed.extend(cids),
                    other => panic!("{other:?}"),
                },
                Received::Empty => break,
                Received::Closed => panic!("the worker is gone"),
            }
        }
        let mut bytes = Vec::new();
        while let Some(next) = self.ring.next(self.ring_read, &mut bytes).unwrap() {
            let mut down = Vec::new();
            match Up::decode(&bytes).unwrap() {
                Up::Publish {
                    asker, from, data, ..
                } => {
                    self.offset += 1;
                    let position = Position {
                        epoch: 1,
                        offset: self.offset,
                    };
                    Down::Message {
                        room: 7,
                        position,
                        asker,
                        from,
                        data,
                    }
                    .encode(&mut down);
                }
                Up::Open { asker, room } => {
                    let position = Position {
                        epoch: 1,
                        offset: self.offset,
                    };
                    Down::Opened {
                        room: 7,
                        position,
                        total: 1,
                        asker,
                        name: room,
                    }
                    .encode(&mut down);
                }
                Up::Who { asker, .. } => Down::Count { total: 1, asker }.encode(&mut down),
                Up::Members { .. } => {}
            }
            self.ring_read = next;
            bytes.clear();
            let mut record = Record::new();
            if !down.is_empty() {
                assert!(self.log.stage(self.log.head(), &down));
                self.log.commit_into(&mut record, 1);
            }
            let word = protocol::journal::Word {
                segment: 1,
                index: protocol::row::read_index(0) as u32,
            };
            record.set(word, next);
            self.journal.commit(&mut record);
            self.log.committed();
            self.log_bell.write(1).unwrap();
        }
    }

    fn connect(&mut self) -> TcpStream {
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
            local: server.local_addr().unwrap(),
            proxy: Proxy::None,
            refuse: false,
            consumed: 0,
            past: protocol::message::Past::None,
        };
        let give = ToWorker::Give {
            connections: vec![given.clone()],
        };
        assert!(self.channel.send(&give, &[server.as_fd()]).unwrap());
        self.unacked.push((given, server));
        self.until("an ack", |m| m.acked.contains(&cid));
        client
    }

    /// Kills a process of the worker's and waits for the next brain.
    fn kill(&mut self, pid: i32) {
        let life = self.life;
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        self.until("the next brain", |m| m.life > life && m.ready);
    }
}

impl Drop for Master {
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
fn exchange(master: &mut Master, mut client: &TcpStream, send: &[u8], until: &[u8]) -> String {
    client.write_all(send).unwrap();
    client
        .set_read_timeout(Some(Duration::from_millis(2)))
        .unwrap();
    let mut got = Vec::new();
    let end = Instant::now() + PATIENCE;
    while !got
        .windows(until.len().max(1))
        .any(|window| window == until)
    {
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

const GET: &[u8] = b"GET /whoami HTTP/1.1\r\nHost: a\r\n\r\n";
const UPGRADE: &str = "Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

fn frame(text: &str) -> Vec<u8> {
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

#[test]
fn requests_go_on_over_dead_brains_and_guards() {
    let mut master = Master::start(Settings::default());
    let client = master.connect();
    let answer = exchange(&mut master, &client, GET, b")\n");
    assert!(
        answer.contains(&format!("handled by worker 1 (pid {})", master.brain)),
        "{answer}"
    );
    for round in 0..5 {
        let brain = master.brain;
        match round % 2 {
            0 => master.kill(brain),
            _ => {
                let guard = master.child.id() as i32;
                if round == 1 {
                    master.kill(guard);
                } else {
                    master.kill(brain);
                }
            }
        }
        let answer = exchange(&mut master, &client, GET, b")\n");
        assert_ne!(brain, master.brain);
        assert!(
            answer.contains(&format!("(pid {})", master.brain)),
            "{answer}"
        );
    }
}

#[test]
fn a_message_comes_back_to_its_room() {
    let mut master = Master::start(Settings::default());
    let client = master.connect();
    let upgrade = format!("GET /rooms HTTP/1.1\r\n{UPGRADE}");
    let hello = exchange(&mut master, &client, upgrade.as_bytes(), b"}}");
    assert!(
        hello.contains(r#"{"hello":{"cid":"c1","worker":1,"#),
        "{hello}"
    );
    let joined = exchange(
        &mut master,
        &client,
        &frame(r#"{"id":1,"join":"r"}"#),
        b"}}",
    );
    assert!(
        joined.contains(r#"{"id":1,"ok":{"pos":"e1:0","count":1}}"#),
        "{joined}"
    );
    let both = [
        frame(r#"{"id":2,"send":"r","data":[1.50]}"#),
        frame(r#"{"send":"r","data":"x"}"#),
    ]
    .concat();
    let got = exchange(&mut master, &client, &both, br#""x"}"#);
    let (ok, message) = (
        r#"{"id":2,"ok":{"pos":"e1:1"}}"#,
        r#"{"room":"r","pos":"e1:1","from":"c1","data":[1.50]}"#,
    );
    let (ok, message) = (got.find(ok).expect(&got), got.find(message).expect(&got));
    assert!(ok < message);
    let brain = master.brain;
    master.kill(brain);
    let got = exchange(
        &mut master,
        &client,
        &frame(r#"{"id":3,"send":"r","data":2}"#),
        br#""data":2}"#,
    );
    assert!(got.contains(r#"{"id":3,"ok":{"pos":"e1:3"}}"#), "{got}");
    let got = exchange(
        &mut master,
        &client,
        &frame(r#"{"id":4,"leave":"r"}"#),
        br#"}}"#,
    );
    assert!(got.contains(r#"{"id":4,"ok":{}}"#), "{got}");
}

#[test]
fn a_full_ring_makes_publishers_wait() {
    let mut master = Master::start(Settings::default());
    let client = master.connect();
    let request = format!("GET /rooms HTTP/1.1\r\n{UPGRADE}");
    exchange(&mut master, &client, request.as_bytes(), b"\"hello\"");
    let data = "d".repeat(60_000);
    let publish = frame(&format!("{{\"send\":\"r\",\"data\":\"{data}\"}}"));
    // The ring holds 1 MiB.
    let sender = std::thread::spawn({
        let mut client = client.try_clone().unwrap();
        move || client.write_all(&publish.repeat(60)).unwrap()
    });
    let end = Instant::now() + PATIENCE;
    let (mut filled, mut bytes) = (master.ring_read, Vec::new());
    while filled < master.ring_read + (1 << 20) - 70_000 {
        assert!(Instant::now() < end, "only {filled} bytes are in the ring");
        filled = master
            .ring
            .next(filled, &mut bytes)
            .unwrap()
            .unwrap_or(filled);
    }
    master.until("all messages", |m| m.offset == 60);
    sender.join().unwrap();
    exchange(
        &mut master,
        &client,
        &frame(r#"{"id":1,"ping":true}"#),
        b"\"id\":1",
    );
    assert_eq!(master.offset, 60);
}
