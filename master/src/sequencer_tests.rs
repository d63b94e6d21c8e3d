use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command};
use std::sync::atomic::Ordering;

use protocol::format::Data;
use protocol::ids::{Cid, Position};
use protocol::journal::{Journal, WORDS};
use protocol::memory::Access;
use protocol::names::Names;
use protocol::pattern::Pattern;
use protocol::random::Random;
use protocol::record::{Cids, Lane, Who};
use protocol::settings::RoomOptions;
use protocol::share::Share;
use protocol::stream::{HEADER, Lost, segment_size};

use super::*;

const ROOMS: u32 = 64;

/// As the brain that takes over would make it.
fn born(state: &State, rooms: u32) -> Sequencer {
    let bounds = Bounds {
        rooms,
        history: 64 << 10,
        rules: vec![Rule {
            rooms: Pattern::new("a*"),
            messages: 20,
            age_ms: 0,
            bytes: 32 << 10,
        }],
        keys: 100,
        key_age_ms: 1_000,
        presence: Default::default(),
        users: 1 << 20,
        options: Options(vec![RoomOptions {
            rooms: Pattern::new("slow"),
            slow_ms: 500,
            ..RoomOptions::default()
        }]),
        sanctions: 10,
    };
    Sequencer::recover(state, bounds, poison::note_death(state), 1, 0)
}

/// One worker's end of its ring.
struct Worker {
    number: u16,
    segment: Arc<Segment>,
    writer: Writer,
    journal: Journal,
    sent: u64,
}

impl Worker {
    fn new(number: u16, ring: usize) -> Worker {
        let size = (WORDS * 8).next_multiple_of(4096);
        let state = Arc::new(Segment::create(c"worker", size).unwrap());
        let segment = Arc::new(Segment::create(c"ring", segment_size(ring)).unwrap());
        Worker {
            number,
            writer: Writer::new(segment.clone()),
            journal: Journal::new(0, vec![state, segment.clone()]),
            segment,
            sent: 0,
        }
    }

    fn ring(&self) -> Ring {
        Ring::new(self.number, self.segment.clone())
    }

    /// False: the ring is full.
    fn send(&mut self, state: &State, up: &Up<'_>) -> bool {
        let mut bytes = Vec::new();
        up.encode(&mut bytes);
        let keep = state.get(state::read_index(self.number));
        let staged = self.writer.stage(keep, &bytes);
        if staged {
            let mut record = Record::new();
            self.writer.commit_into(&mut record, 1);
            self.journal.commit(&mut record);
            self.writer.committed();
        }
        staged
    }

    /// The next numbered message to a room; its length varies with the number.
    fn publish(&mut self, state: &State, room: &str) -> bool {
        let mut data = self.sent.to_string().into_bytes();
        data.resize(data.len() + (self.sent * 131 % 500) as usize, b' ');
        let up = Up::Publish {
            asker: asker(self.number, self.sent),
            room: room.as_bytes(),
            from: b"u",
            key: b"",
            lane: Lane::default(),
            data: as_sent(self.sent, &data),
        };
        let sent = self.send(state, &up);
        self.sent += u64::from(sent);
        sent
    }
}

/// Every third comes as MessagePack.
fn as_sent(number: u64, bytes: &[u8]) -> Data<'_> {
    match number % 3 {
        0 => Data::msgpack(bytes),
        _ => Data::json(bytes),
    }
}

fn asker(ring: u16, number: u64) -> Asker<'static> {
    Asker {
        cid: Cid(number),
        ring,
        slot: 7,
        id: b"1",
    }
}

/// A subscriber to everything: each message of each ring once, in its order, and each room's
/// offsets consecutive.
#[derive(Default)]
struct Checker {
    cursor: u64,
    next: HashMap<u16, u64>,
    rooms: HashMap<u32, Position>,
}

impl Checker {
    fn read(&mut self, reader: &Reader) -> usize {
        let mut bytes = Vec::new();
        let mut messages = 0;
        while let Some(next) = reader.next(self.cursor, &mut bytes).unwrap() {
            self.cursor = next;
            if let Some(Down::Message {
                room,
                position,
                asker,
                data,
                ..
            }) = Down::decode(&bytes)
            {
                let expected = self.next.entry(asker.ring).or_insert(0);
                assert_eq!(asker.cid.0, *expected, "ring {}", asker.ring);
                assert!(data.bytes.starts_with(expected.to_string().as_bytes()));
                assert_eq!(data, as_sent(*expected, data.bytes));
                *expected += 1;
                let last = self.rooms.insert(room, position);
                let after = last.map_or(1, |last| last.offset + 1);
                assert_eq!(position.offset, after, "room {room}");
                messages += 1;
            }
            bytes.clear();
        }
        messages
    }
}

fn answers(state: &State) -> Vec<Vec<u8>> {
    let reader = Reader::new(state.log().clone());
    let (mut at, mut all) = (0, Vec::new());
    loop {
        let mut bytes = Vec::new();
        match reader.next(at, &mut bytes).unwrap() {
            Some(next) => at = next,
            None => return all,
        }
        all.push(bytes);
    }
}

#[test]
fn questions_are_answered_at_a_place_in_the_log() {
    let state = State::create(1 << 16, 3).unwrap();
    let mut sequencer = born(&state, 1);
    let mut worker = Worker::new(5, 1 << 14);
    let asker = asker(5, 0);
    for up in [
        Up::Publish {
            asker,
            room: b"r",
            from: b"u",
            key: b"",
            lane: Lane::default(),
            data: Data::json(b"1"),
        },
        Up::Open { asker, room: b"r" },
        Up::Members {
            room: 0,
            count: 2,
            watched: false,
        },
        Up::Who {
            asker,
            room: b"r",
            limit: 9,
        },
        Up::Who {
            asker,
            room: b"nobody is here",
            limit: 9,
        },
        Up::Open {
            asker,
            room: b"one too many",
        },
        Up::Open { asker, room: b"" },
    ] {
        assert!(worker.send(&state, &up));
    }
    assert_eq!(sequencer.turn(&state, &worker.ring()), Turn::Empty);
    assert!(!sequencer.tell_presence(&state));
    let position = Position {
        epoch: 3,
        offset: 1,
    };
    let nobody = Who {
        total: 0,
        distinct: Some(0),
        users: Some(Names::default()),
    };
    let expected = [
        Down::Message {
            room: 0,
            position,
            asker,
            from: b"u",
            share: Share::All,
            data: Data::json(b"1"),
        },
        Down::Opened {
            room: 0,
            position,
            total: 0,
            asker,
            name: b"r",
        },
        Down::Count {
            who: Who { total: 2, ..nobody },
            asker,
        },
        Down::Count { who: nobody, asker },
        Down::Refused {
            reason: Refusal::Limit,
            asker,
        },
        Down::Refused {
            reason: Refusal::Internal,
            asker,
        },
        Down::Presence { room: 0, total: 2 },
    ];
    let answers = answers(&state);
    let answers: Vec<_> = answers.iter().map(|a| Down::decode(a).unwrap()).collect();
    assert_eq!(answers, expected);
    assert_ne!(sequencer.take_news(), RingSet::NONE);
    assert_eq!(sequencer.take_news(), RingSet::NONE);
}

/// What a worker says of its connections is said to the brain, again and again until that has heeded
/// it, in its place among the rest; no worker is woken for it.
#[test]
fn words_on_connections_wait_until_they_are_heeded() {
    let state = State::create(1 << 16, 3).unwrap();
    let mut sequencer = born(&state, 1);
    let mut worker = Worker::new(5, 1 << 14);
    let cids = [Cid(3), Cid(u64::MAX)].map(protocol::record::cid_bytes);
    let cids = Cids::new(&cids);
    worker.send(&state, &Up::Ack { cids });
    worker.send(&state, &Up::Closed { cids });
    worker.publish(&state, "r");
    sequencer.take_news();
    let both = vec![Cid(3), Cid(u64::MAX)];
    for said in [Said::Ack(both.clone()), Said::Closed(both)] {
        let first = sequencer.turn(&state, &worker.ring());
        // A brain that dies before it has heeded it leaves it to the next one.
        sequencer = born(&state, 1);
        sequencer.take_news();
        let again = sequencer.turn(&state, &worker.ring());
        assert_eq!(first, again);
        let Turn::Said { said: is, next } = again else {
            panic!("{again:?}");
        };
        assert_eq!(is, said);
        assert_eq!(sequencer.take_news(), RingSet::NONE);
        sequencer.heeded(&state, 5, next);
    }
    assert_eq!(answers(&state).len(), 0);
    assert_eq!(sequencer.turn(&state, &worker.ring()), Turn::Empty);
    assert_eq!(answers(&state).len(), 1);
    assert_eq!(sequencer.take_news(), rings(&[5]));
}

fn rings(rings: &[u16]) -> RingSet {
    let mut set = RingSet::NONE;
    rings.iter().for_each(|ring| set.insert(*ring));
    set
}

/// A worker is woken for what its members are to hear, for what it has asked, and before the log is
/// far ahead of it.
#[test]
fn only_those_are_woken_whom_it_concerns() {
    let state = State::create(1 << 14, 3).unwrap();
    let mut sequencer = born(&state, ROOMS);
    let mut workers = [1, 2, 3].map(|number| Worker::new(number, 1 << 16));
    sequencer.take_news();
    let mut says = |sequencer: &mut Sequencer, ring: u16, up: Up<'_>| {
        let worker = &mut workers[usize::from(ring) - 1];
        assert!(worker.send(&state, &up));
        assert_eq!(sequencer.turn(&state, &worker.ring()), Turn::Empty);
        sequencer.take_news()
    };
    let message = |ring, id| Up::Publish {
        asker: Asker {
            id,
            ..asker(ring, 0)
        },
        room: b"r",
        from: b"u",
        key: b"",
        lane: Lane::default(),
        data: Data::json(b"1"),
    };
    // Nobody is there: who wants an answer gets it.
    assert_eq!(says(&mut sequencer, 1, message(1, b"")), RingSet::NONE);
    assert_eq!(says(&mut sequencer, 1, message(1, b"1")), rings(&[1]));
    let (asker, room) = (asker(2, 0), &b"r"[..]);
    assert_eq!(
        says(&mut sequencer, 2, Up::Open { asker, room }),
        rings(&[2])
    );
    assert_eq!(
        says(
            &mut sequencer,
            2,
            Up::Who {
                asker,
                room,
                limit: 1
            }
        ),
        rings(&[2])
    );
    assert_eq!(says(&mut sequencer, 1, message(1, b"")), rings(&[2]));
    // It may have taken members over, and slept when something was said that it is told of now.
    let members = |count| Up::Members {
        room: 0,
        count,
        watched: false,
    };
    assert_eq!(says(&mut sequencer, 3, members(2)), rings(&[3]));
    assert_eq!(says(&mut sequencer, 3, members(3)), RingSet::NONE);
    // The next brain knows it, too.
    sequencer = born(&state, ROOMS);
    assert_eq!(sequencer.take_news(), RingSet::ALL);
    assert_eq!(says(&mut sequencer, 1, message(1, b"1")), rings(&[1, 2, 3]));
    assert_eq!(says(&mut sequencer, 2, members(0)), RingSet::NONE);
    assert_eq!(says(&mut sequencer, 1, message(1, b"")), rings(&[3]));
    sequencer.drop_row(&state, 3);
    let far = (0..1 << 14).find(|_| says(&mut sequencer, 1, message(1, b"")) == RingSet::ALL);
    assert!(far.is_some_and(|messages| messages > 10), "{far:?}");
}

#[test]
fn what_is_too_long_for_the_log_is_refused_and_takes_no_place() {
    let state = State::create(1 << 13, 3).unwrap();
    let mut sequencer = born(&state, 10);
    let mut worker = Worker::new(5, 1 << 16);
    let asker = asker(5, 0);
    let (room, from) = (b"r", b"u");
    for data in [&[b' '; 5000][..], b"1"].map(Data::json) {
        assert!(worker.send(
            &state,
            &Up::Publish {
                asker,
                room,
                from,
                key: b"",
                lane: Lane::default(),
                data
            }
        ));
    }
    sequencer.turn(&state, &worker.ring());
    let answers = answers(&state);
    let reason = Refusal::Internal;
    assert_eq!(
        Down::decode(&answers[0]),
        Some(Down::Refused { reason, asker })
    );
    let Some(Down::Message { position, .. }) = Down::decode(&answers[1]) else {
        panic!()
    };
    assert_eq!(position.offset, 1);
}

/// Many workers publish as fast as their rings allow; brains come and go between any two turns;
/// one subscriber keeps up, one does not and learns it.
#[test]
fn everything_once_and_in_order_over_wraps_full_rings_and_new_brains() {
    for seed in 1..30u64 {
        let mut random = Random::new(seed);
        let mut next = move |n: u64| random.below(n);
        let state = State::create(1 << 15, 1).unwrap();
        let reader = Reader::new(state.log().clone());
        let mut sequencer = born(&state, ROOMS);
        let mut workers: Vec<Worker> = (0..4).map(|i| Worker::new(i, 1 << 12)).collect();
        let (mut full, mut overrun, mut seen) = (0, 0, 0);
        let (mut checker, mut slow) = (Checker::default(), 0);
        for _ in 0..2_000 {
            let worker = &mut workers[next(4) as usize];
            match next(10) {
                0..=6 => {
                    let room = format!("room {}", next(5));
                    full += u64::from(!worker.publish(&state, &room));
                }
                7 | 8 => {
                    sequencer.turn(&state, &worker.ring());
                    seen += checker.read(&reader);
                }
                _ => {
                    state.recover().unwrap();
                    sequencer = born(&state, ROOMS);
                    let mut bytes = Vec::new();
                    match reader.next(slow, &mut bytes) {
                        Ok(next) => slow = next.unwrap_or(slow),
                        Err(lost) => {
                            assert_eq!(lost, Lost::Overrun);
                            overrun += 1;
                            slow = checker.cursor;
                        }
                    }
                }
            }
        }
        for worker in &workers {
            assert_eq!(sequencer.turn(&state, &worker.ring()), Turn::Empty);
        }
        seen += checker.read(&reader);
        let sent: u64 = workers.iter().map(|w| w.sent).sum();
        assert_eq!(seen as u64, sent, "seed {seed}");
        assert!(full > 0 && overrun > 0, "seed {seed}: {full} {overrun}");
    }
}

#[test]
fn a_hostile_ring_costs_its_worker_only() {
    let state = State::create(1 << 16, 1).unwrap();
    let reader = Reader::new(state.log().clone());
    let mut checker = Checker::default();
    let mut sequencer = born(&state, ROOMS);
    let mut good = Worker::new(1, 1 << 13);
    let mut random = Random::new(99);
    let mut next = move |n: u64| random.below(n);
    let mut caught = 0;
    for _ in 0..2_000 {
        // A new worker under the number of the one that was killed.
        let bad = Worker::new(2, 1 << 12);
        state.set(state::read_index(2), 0);
        for _ in 0..20 {
            let value = match next(3) {
                0 => next(u64::MAX),
                1 => next(5),
                _ => next(512) | next(512) << 32,
            };
            let at = if next(4) == 0 {
                next(2)
            } else {
                HEADER as u64 / 8 + next(100)
            };
            bad.segment
                .word(at as usize)
                .store(value, Ordering::Relaxed);
        }
        let head = next(80) * 8;
        bad.segment.word(0).store(head, Ordering::Relaxed);
        bad.segment.word(1).store(head, Ordering::Relaxed);
        caught += u64::from(sequencer.turn(&state, &bad.ring()) == Turn::Hostile);
        sequencer.drop_row(&state, 2);
        assert!(good.publish(&state, "r"));
        assert_eq!(sequencer.turn(&state, &good.ring()), Turn::Empty);
        assert_eq!(checker.read(&reader), 1);
    }
    assert!(caught > 1_000, "{caught}");
}

/// Records that are well formed and lie.
#[test]
fn nobody_asks_in_anothers_name() {
    let state = State::create(1 << 16, 1).unwrap();
    let mut sequencer = born(&state, ROOMS);
    let mut worker = Worker::new(2, 1 << 13);
    let room = b"r";
    assert!(worker.send(
        &state,
        &Up::Members {
            room: 9_999_999,
            count: 1,
            watched: true,
        }
    ));
    assert_eq!(sequencer.turn(&state, &worker.ring()), Turn::Empty);
    assert!(worker.send(
        &state,
        &Up::Open {
            asker: asker(3, 0),
            room
        }
    ));
    assert_eq!(sequencer.turn(&state, &worker.ring()), Turn::Hostile);
    assert_eq!(answers(&state), Vec::<Vec<u8>>::new());
}

#[test]
fn the_record_of_three_deaths_is_refused() {
    let state = State::create(1 << 16, 1).unwrap();
    let mut worker = Worker::new(0, 1 << 13);
    for _ in 0..3 {
        worker.publish(&state, "r");
    }
    for _ in 0..3 {
        // A brain takes the record in hand and dies of it.
        let _ = born(&state, ROOMS);
        poison::take_in_hand(&state, InHand::Record { ring: 0, at: 0 });
    }
    let mut sequencer = born(&state, ROOMS);
    sequencer.turn(&state, &worker.ring());
    assert_eq!(answers(&state).len(), 3);
    assert!(matches!(
        Down::decode(&answers(&state)[0]),
        Some(Down::Refused { .. })
    ));
    // Deaths at different places convict nobody.
    for at in [8, 16, 8, 16, 8] {
        let _ = born(&state, ROOMS);
        poison::take_in_hand(&state, InHand::Record { ring: 0, at });
    }
    let place = InHand::Record { ring: 0, at: 8 };
    assert!(!born(&state, ROOMS).verdict.convicts(place));
}

/// Real processes, really killed, at random instants of a loop that does nothing but steps: what
/// was published is in the log exactly once.
#[test]
fn killed_at_any_instant_a_step_has_happened_or_not() {
    if let Some(fds) = std::env::var_os("BATON_SEQUENCER_FDS") {
        sequence_until_killed(fds.to_str().unwrap());
    }
    let state = State::create(1 << 20, 1).unwrap();
    let reader = Reader::new(state.log().clone());
    let mut workers: Vec<Worker> = (0..2).map(|i| Worker::new(i, 1 << 14)).collect();
    let mut checker = Checker::default();
    let (mut seen, mut random) = (0, Random::new(7));
    for _ in 0..25 {
        let mut child = spawn_sequencer(&state, &workers);
        let enough = seen + 1 + random.below(2_000) as usize;
        while seen < enough {
            for worker in &mut workers {
                while worker.publish(&state, "a") && worker.publish(&state, "b") {}
            }
            seen += checker.read(&reader);
            assert_eq!(child.try_wait().unwrap(), None, "it ends by our hand only");
        }
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        seen += checker.read(&reader);
    }
    state.recover().unwrap();
    let mut sequencer = born(&state, ROOMS);
    for worker in &workers {
        assert_eq!(sequencer.turn(&state, &worker.ring()), Turn::Empty);
    }
    seen += checker.read(&reader);
    let sent: u64 = workers.iter().map(|w| w.sent).sum();
    assert_eq!(seen as u64, sent);
}

/// The same key, of the same sender and room, is published once; whoever is the brain.
#[test]
fn a_retry_is_answered_and_not_published() {
    let state = State::create(1 << 16, 1).unwrap();
    let mut worker = Worker::new(0, 1 << 13);
    let mut sequencer = born(&state, ROOMS);
    let mut id = 0;
    let mut send = |sequencer: &mut Sequencer, room: &[u8], from: &[u8], key: &[u8]| {
        id += 1;
        let up = Up::Publish {
            asker: asker(0, id),
            room,
            from,
            key,
            lane: Lane::default(),
            data: Data::json(b"1"),
        };
        assert!(worker.send(&state, &up));
        assert_eq!(sequencer.turn(&state, &worker.ring()), Turn::Empty);
        let last = answers(&state).pop().unwrap();
        match Down::decode(&last) {
            Some(Down::Message { position, .. }) => (true, position.offset),
            Some(Down::Sent { position, .. }) => (false, position.offset),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(send(&mut sequencer, b"a", b"u", b"k"), (true, 1));
    assert_eq!(send(&mut sequencer, b"a", b"u", b""), (true, 2));
    assert_eq!(send(&mut sequencer, b"a", b"u", b"k"), (false, 1));
    assert_eq!(send(&mut sequencer, b"a", b"v", b"k"), (true, 3));
    assert_eq!(send(&mut sequencer, b"b", b"u", b"k"), (true, 1));
    sequencer = born(&state, ROOMS);
    assert_eq!(send(&mut sequencer, b"a", b"u", b"k"), (false, 1));
    sequencer.set_now(1_001);
    assert_eq!(send(&mut sequencer, b"a", b"u", b"k"), (true, 4));
    assert_eq!(send(&mut sequencer, b"a", b"u", b"k"), (false, 4));
}

fn spawn_sequencer(state: &State, workers: &[Worker]) -> Child {
    let mut fds: Vec<RawFd> = vec![
        state.as_fd().as_raw_fd(),
        state.log().as_fd().as_raw_fd(),
        state.history().as_fd().as_raw_fd(),
    ];
    fds.extend(workers.iter().map(|w| w.segment.as_fd().as_raw_fd()));
    let list: Vec<String> = fds.iter().map(RawFd::to_string).collect();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "sequencer::tests::killed_at_any_instant_a_step_has_happened_or_not",
        ])
        .env("BATON_SEQUENCER_FDS", list.join(","))
        .stdout(std::process::Stdio::null());
    // SAFETY: fcntl only, which is async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            for fd in &fds {
                if libc::fcntl(*fd, libc::F_SETFD, 0) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        })
    };
    command.spawn().unwrap()
}

fn sequence_until_killed(fds: &str) -> ! {
    // SAFETY: inherited for this, and owned by nobody else here.
    let fds = fds
        .split(',')
        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd.parse().unwrap()) });
    let mut fds: Vec<OwnedFd> = fds.collect();
    let rings = fds.split_off(3);
    let [state, log, history] = <[OwnedFd; 3]>::try_from(fds).unwrap();
    let state = State::adopt(state, log, history).unwrap();
    state.recover().unwrap();
    let mut sequencer = born(&state, ROOMS);
    let rings: Vec<Ring> = rings
        .into_iter()
        .enumerate()
        .map(|(i, fd)| Ring::new(i as u16, Arc::new(Segment::map(fd, Access::Read).unwrap())))
        .collect();
    loop {
        for ring in &rings {
            assert_ne!(sequencer.turn(&state, ring), Turn::Hostile);
        }
        poison::rest(&state);
    }
}

/// Who may not speak yet is told when it may, whichever brain it meets.
#[test]
fn slow_mode_is_kept_over_the_death_of_a_brain() {
    let state = State::create(1 << 16, 3).unwrap();
    let mut sequencer = born(&state, 10);
    let mut worker = Worker::new(0, 1 << 14);
    let mut send = |sequencer: &mut Sequencer, room, from, exempt| {
        let up = Up::Publish {
            asker: asker(0, 1),
            room,
            from,
            key: b"",
            lane: Lane {
                first: false,
                exempt,
            },
            data: Data::json(b"1"),
        };
        assert!(worker.send(&state, &up));
        assert_eq!(sequencer.turn(&state, &worker.ring()), Turn::Empty);
        match Down::decode(answers(&state).last().unwrap()) {
            Some(Down::Message { .. }) => 0,
            Some(Down::Refused {
                reason: Refusal::Rate { after_ms },
                ..
            }) => after_ms,
            other => panic!("{other:?}"),
        }
    };
    sequencer.set_now(1_000);
    assert_eq!(send(&mut sequencer, b"slow", b"u", false), 0);
    sequencer.set_now(1_100);
    assert_eq!(send(&mut sequencer, b"slow", b"u", false), 400);
    assert_eq!(send(&mut sequencer, b"slow", b"v", false), 0);
    assert_eq!(send(&mut sequencer, b"slow", b"u", true), 0);
    assert_eq!(send(&mut sequencer, b"fast", b"u", false), 0);
    assert_eq!(send(&mut sequencer, b"fast", b"u", false), 0);
    let mut sequencer = born(&state, 10);
    sequencer.set_now(1_499);
    assert_eq!(send(&mut sequencer, b"slow", b"u", false), 1);
    sequencer.set_now(1_500);
    assert_eq!(send(&mut sequencer, b"slow", b"u", false), 0);
}
