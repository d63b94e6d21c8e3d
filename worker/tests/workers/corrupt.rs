//! A worker's memory is corrupted on purpose, between two brains: what cannot be believed costs its
//! own connection, which is told if that is still possible, and nobody else notices.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::random::Random;
use protocol::roles;
use protocol::settings::Settings;
use worker::rooms::ROOM_WORDS;
use worker::slots::{Field, Meta, SLOT_WORDS, Slots};
use worker::state::{ROOMS, State};

use crate::master::{Master, PATIENCE, UPGRADE, exchange, frame};

/// A worker with three clients that are to notice nothing: two in the room, one at `/echo`.
struct Fixture {
    master: Master,
    state: State,
    bystanders: [TcpStream; 2],
    echo: TcpStream,
    asked: u32,
}

const ALL: [Field; SLOT_WORDS] = [
    Field::Meta,
    Field::Cid,
    Field::Cookie,
    Field::Consumed,
    Field::Parsed,
    Field::Input,
    Field::Written,
    Field::Produced,
    Field::Output,
    Field::Message,
    Field::Session0,
    Field::Session1,
    Field::Session2,
    Field::Cursor,
    Field::Heard,
    Field::Since,
    Field::Stalled,
    Field::Cells,
    Field::PeerHigh,
    Field::PeerLow,
    Field::Misc,
];

impl Fixture {
    fn new() -> Fixture {
        let settings = Settings {
            short_lives: 1_000_000,
            ..Settings::default()
        };
        let mut master = Master::start(settings);
        let path = format!("/proc/{}/fd/{}", master.workers[0].guard(), roles::STATE);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .unwrap();
        let state = State::adopt(OwnedFd::from(file)).unwrap();
        let bystanders = [member(&mut master), member(&mut master)];
        let echo = master.connect();
        let upgrade = format!("GET /echo HTTP/1.1\r\n{UPGRADE}");
        exchange(&mut master, &echo, upgrade.as_bytes(), b"\r\n\r\n");
        Fixture {
            master,
            state,
            bystanders,
            echo,
            asked: 10,
        }
    }

    /// The slot of the client that connected last.
    fn last_slot(&self) -> u32 {
        let slots = Slots::new(self.state.clone());
        (0..slots.used())
            .filter(|slot| slots.meta(*slot).is_some())
            .max_by_key(|slot| slots.cid(*slot))
            .unwrap()
    }

    fn get(&self, slot: u32, field: Field) -> u64 {
        let index = Slots::word(slot, field).index as usize;
        self.state.segment().word(index).load(Ordering::Relaxed)
    }

    fn set(&self, slot: u32, field: Field, value: u64) {
        let index = Slots::word(slot, field).index as usize;
        self.state
            .segment()
            .word(index)
            .store(value, Ordering::Relaxed);
    }

    /// Bytes that wait for more: without any, its input is nowhere, and cannot be corrupt.
    fn half_a_frame(&mut self, mut client: &TcpStream, slot: u32) {
        let before = self.get(slot, Field::Consumed);
        client.write_all(&[0x81]).unwrap();
        let end = Instant::now() + PATIENCE;
        while self.get(slot, Field::Consumed) == before {
            assert!(Instant::now() < end, "it is not read");
            self.master.turn();
        }
    }

    /// What `corrupt` does, no brain sees happen.
    fn between_two_brains(&mut self, corrupt: impl FnOnce(&Fixture)) {
        let brain = self.master.workers[0].brain;
        kill(Pid::from_raw(brain), Signal::SIGSTOP).unwrap();
        let stat = format!("/proc/{brain}/stat");
        let stopped = || std::fs::read_to_string(&stat).unwrap().contains(") T ");
        let end = Instant::now() + PATIENCE;
        while !stopped() {
            assert!(Instant::now() < end, "the brain cannot be stopped");
            std::thread::yield_now();
        }
        corrupt(self);
        self.master.kill(0, brain);
    }

    /// The others are served as before, and by the very next brain.
    fn others_go_on(&mut self, life: u32) {
        let [first, second] = &self.bystanders;
        self.asked += 1;
        let send = format!(
            r#"{{"id":{},"send":"r","data":{}}}"#,
            self.asked, self.asked
        );
        let heard = format!("\"data\":{}}}", self.asked);
        let got = exchange(&mut self.master, first, &frame(&send), heard.as_bytes());
        assert!(
            got.contains(&format!("\"id\":{},\"ok\"", self.asked)),
            "{got}"
        );
        exchange(&mut self.master, second, b"", heard.as_bytes());
        let text = format!("echo {}", self.asked);
        exchange(&mut self.master, &self.echo, &frame(&text), text.as_bytes());
        assert_eq!(self.master.workers[0].life, life);
    }

    /// The Close frame's code, or `None` if the connection ends without.
    fn end_of(&mut self, mut client: &TcpStream) -> Option<u16> {
        let mut got = Vec::new();
        let end = Instant::now() + PATIENCE;
        client
            .set_read_timeout(Some(Duration::from_millis(2)))
            .unwrap();
        loop {
            assert!(Instant::now() < end, "it goes on: {}", got.escape_ascii());
            self.master.turn();
            let mut piece = [0; 4096];
            match client.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => got.extend_from_slice(&piece[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
        let at = got
            .windows(2)
            .position(|two| two[0] == 0x88 && two[1] >= 2)?;
        Some(u16::from_be_bytes([got[at + 2], got[at + 3]]))
    }

    /// A victim's slot is corrupted: how it ends.
    fn ends_with(&mut self, corrupt: impl FnOnce(&Fixture, u32)) -> Option<u16> {
        let victim = member(&mut self.master);
        let slot = self.last_slot();
        self.half_a_frame(&victim, slot);
        let life = self.master.workers[0].life + 1;
        self.between_two_brains(|f| corrupt(f, slot));
        let end = self.end_of(&victim);
        self.others_go_on(life);
        end
    }
}

fn member(master: &mut Master) -> TcpStream {
    let client = master.connect();
    let upgrade = format!("GET /rooms HTTP/1.1\r\n{UPGRADE}");
    exchange(master, &client, upgrade.as_bytes(), b"\"hello\"");
    exchange(master, &client, &frame(r#"{"id":1,"join":"r"}"#), b"\"ok\"");
    client
}

const GARBAGE: u64 = 0xa5a5_a5a5_a5a5_a5a5;

#[test]
fn whose_output_is_sound_is_told() {
    let mut f = Fixture::new();
    for field in [
        Field::Input,
        Field::Parsed,
        Field::Message,
        Field::Session0,
        Field::Cursor,
        Field::Cells,
    ] {
        let code = f.ends_with(|f, slot| f.set(slot, field, GARBAGE));
        assert_eq!(code, Some(1011), "{field:?}");
    }
}

#[test]
fn whose_output_is_in_doubt_ends() {
    let mut f = Fixture::new();
    for field in [
        Field::Meta,
        Field::Cookie,
        Field::Written,
        Field::Produced,
        Field::Output,
    ] {
        let code = f.ends_with(|f, slot| f.set(slot, field, GARBAGE));
        assert_eq!(code, None, "{field:?}");
    }
}

#[test]
fn a_number_that_is_not_its_own_closes_nothing_else() {
    let mut f = Fixture::new();
    let with_fd = |f: &Fixture, slot: u32, fd: i32| {
        let mut meta = Meta::unpack(f.get(slot, Field::Meta)).unwrap();
        meta.fd = fd;
        f.set(slot, Field::Meta, meta.pack());
    };
    for role in 0..=roles::GUARD_BELL {
        assert_eq!(f.ends_with(|f, slot| with_fd(f, slot, role)), None);
    }
    let nobodys = f.ends_with(|f, slot| with_fd(f, slot, 60_000));
    assert_eq!(nobodys, None);
    // A bystander's.
    let theirs = f.ends_with(|f, slot| {
        let meta = Meta::unpack(f.get(0, Field::Meta)).unwrap();
        with_fd(f, slot, meta.fd);
    });
    assert_eq!(theirs, None);
    // All of it is a copy of a bystander's, or of its buffers alone.
    let copied = f.ends_with(|f, slot| {
        for field in ALL {
            f.set(slot, field, f.get(0, field));
        }
    });
    assert_eq!(copied, None);
    let cells = f.ends_with(|f, slot| f.set(slot, Field::Cells, f.get(0, Field::Cells)));
    assert_eq!(cells, Some(1011));
}

#[test]
fn a_room_that_cannot_be_costs_its_members() {
    let mut f = Fixture::new();
    let life = f.master.workers[0].life + 1;
    f.between_two_brains(|f| {
        for word in ROOMS..ROOMS + ROOM_WORDS {
            f.state
                .segment()
                .word(word)
                .store(GARBAGE, Ordering::Relaxed);
        }
    });
    for member in f.bystanders.each_ref().map(|m| m.try_clone().unwrap()) {
        assert_eq!(f.end_of(&member), Some(1011));
    }
    exchange(&mut f.master, &f.echo, &frame("still here"), b"still here");
    assert_eq!(f.master.workers[0].life, life);
    // The room is opened anew.
    member(&mut f.master);
}

#[test]
fn a_journal_that_cannot_be_is_cleared() {
    let mut f = Fixture::new();
    let life = f.master.workers[0].life + 1;
    f.between_two_brains(|f| {
        for word in 0..protocol::journal::WORDS {
            let word = worker::state::JOURNAL + word;
            f.state
                .segment()
                .word(word)
                .store(GARBAGE, Ordering::Relaxed);
        }
    });
    f.others_go_on(life);
}

/// Any words of a slot hold anything; whatever becomes of its connection, the others go on, and the
/// brain does not die of it more often than it takes to convict the slot.
#[test]
fn anything_in_a_slot_harms_nobody_else() {
    let mut f = Fixture::new();
    let mut random = Random::new(0x0005_eed0_0005_eed1);
    let mut random = move || random.next();
    for round in 0..120 {
        let victim = member(&mut f.master);
        let slot = f.last_slot();
        let life = f.master.workers[0].life;
        let mut done = Vec::new();
        for _ in 0..1 + random() % 3 {
            let field = ALL[(random() % SLOT_WORDS as u64) as usize];
            let now = f.get(slot, field);
            let value = match random() % 5 {
                0 => random(),
                1 => random() % 100,
                2 => now ^ 1 << (random() % 64),
                3 => now.wrapping_add(random() % 9).wrapping_sub(4),
                _ => u64::MAX,
            };
            done.push((field, value));
        }
        f.between_two_brains(|f| {
            done.iter()
                .for_each(|(field, value)| f.set(slot, *field, *value))
        });
        let told = format!("round {round}: {done:x?}");
        eprintln!("{told}");
        f.asked += 1;
        let lives = f.master.workers[0].life - life;
        assert!(lives <= 1 + 4, "{told}: {lives} lives");
        let life = f.master.workers[0].life;
        f.others_go_on(life);
        drop(victim);
    }
}
