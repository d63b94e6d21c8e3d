//! Rooms in which much is said: how fast somebody may speak there, and how much at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use harness::faults::Faults;
use harness::rooms::{Client, MSGPACK, Position, SUBPROTOCOL};
use harness::socket::Options;
use harness::tokens::{self, with_key};
use harness::{Baton, Builder, eventually, process};
use serde_json::{Value, json};

/// What is special about room `r`.
fn room(options: &str) -> String {
    format!("[[room]]\nmatch = \"r\"\n{options}\n")
}

fn builder(options: &str) -> Builder {
    with_key(Baton::builder().config(&room(options)))
}

/// Something else is special about it from now on.
fn change(baton: &Baton, options: &str) {
    baton.write_config(&(room(options) + &tokens::section()));
    baton.expect(&["reload"], 0);
}

fn user(baton: &Baton, worker: u64, name: &str) -> Client {
    with_rights(baton, worker, name, &["join", "send"])
}

fn with_rights(baton: &Baton, worker: u64, name: &str, rights: &[&str]) -> Client {
    let token = tokens::with_rights(name, json!({ "*": rights }));
    Client::on_worker(baton.public, worker).shown(&token)
}

/// Milliseconds that it has to wait until it may say something in room `r`; `None`: it was said.
#[track_caller]
fn must_wait(client: &mut Client) -> Option<u64> {
    let reply = client.ask(json!({"send": "r", "data": 1}));
    if reply["ok"].is_object() {
        return None;
    }
    assert_eq!(reply["error"]["code"], "rate", "{reply}");
    assert_eq!(reply["error"]["retry"], true, "{reply}");
    Some(reply["error"]["retry_after_ms"].as_u64().expect("when"))
}

fn kill_master(baton: &Baton) {
    let brain = baton.status().master_brain_pid;
    process::kill(brain);
    baton.status_when("the next brain of the master", |status| {
        status.master_brain_pid != brain
    });
}

#[test]
fn slow_mode_is_kept_over_workers_and_the_death_of_the_master() {
    let baton = builder("slow_mode = \"1h\"").start();
    let (mut one, mut other) = (user(&baton, 1, "u7"), user(&baton, 2, "u7"));
    let mut somebody = user(&baton, 2, "u8");
    let mut moderator = with_rights(&baton, 1, "m", &["send", "moderate"]);
    let begin = Instant::now();
    assert_eq!(must_wait(&mut one), None);
    for shake in 0..3 {
        let wait = must_wait(&mut other).expect("it has just spoken");
        let passed = begin.elapsed().as_millis() as u64;
        assert!(
            (3_600_000 - passed - 5..=3_600_000).contains(&wait),
            "{wait} after {passed}"
        );
        assert!(must_wait(&mut one).is_some());
        // Elsewhere it may, and others may.
        one.publish("other", json!(1));
        if shake == 0 {
            assert_eq!(must_wait(&mut somebody), None);
        }
        assert_eq!(must_wait(&mut moderator), None);
        assert_eq!(must_wait(&mut moderator), None);
        match shake {
            0 => kill_master(&baton),
            _ => _ = baton.expect(&["reload"], 0),
        }
    }
    // A retry of what was said is answered, and not refused.
    let mut keyed = user(&baton, 1, "u9");
    let said = json!({"send": "r", "key": "k", "data": 1});
    assert_eq!(keyed.ok(said.clone()), keyed.ok(said));
    // A reload changes it for who has spoken already.
    change(&baton, "slow_mode = \"300ms\"");
    let mut before = Instant::now();
    eventually("it may speak again", || {
        before = Instant::now();
        must_wait(&mut other).is_none()
    });
    let wait = must_wait(&mut one).expect("it has just spoken");
    assert!(wait <= 300, "{wait}");
    eventually("it may again", || must_wait(&mut one).is_none());
    assert!(before.elapsed() >= Duration::from_millis(299));
}

#[test]
fn less_may_be_said_at_once_than_elsewhere() {
    let baton = builder("max_data = \"100 B\"").start();
    let mut client = Client::connect(baton.public);
    client.join("r");
    let of = |bytes: usize| Value::from("x".repeat(bytes - 2));
    client.publish("r", of(100));
    let long = json!({"send": "r", "data": of(101)});
    assert_eq!(client.error(long.clone()), "too_large");
    client.publish("other", of(1_000));
    assert_eq!(client.message()["data"], of(100));
    client.nothing();
    change(&baton, "");
    client.ok(long);
    assert_eq!(client.message()["data"], of(101));
}

#[test]
fn who_may_not_moderate_has_no_priority() {
    let baton = builder("").start();
    let mut somebody = user(&baton, 1, "u7");
    let mut moderator = with_rights(&baton, 2, "m", &["send", "moderate"]);
    let said = json!({"send": "r", "data": 1, "priority": true});
    assert_eq!(somebody.error(said.clone()), "forbidden");
    assert_eq!(
        somebody.error(json!({"send": "r", "data": 1, "priority": "high"})),
        "bad_request"
    );
    somebody.ok(json!({"send": "r", "data": 1, "priority": false}));
    moderator.ok(said);
}

fn batched(to: SocketAddr, subprotocol: &str) -> Client {
    Client::open(to, "/rooms?batch=1", subprotocol, Options::default())
}

/// What comes in one frame.
#[track_caller]
fn frame(client: &mut Client) -> Vec<Value> {
    match client.read() {
        Value::Array(all) => all,
        one => vec![one],
    }
}

/// What a member of a room has been told: each message, or that it was left out, once, in order.
#[derive(Debug)]
struct Heard {
    room: &'static str,
    next: u64,
    messages: u64,
    left_out: u64,
}

impl Heard {
    #[track_caller]
    fn join(client: &mut Client, room: &'static str) -> Heard {
        Heard {
            room,
            next: client.join(room).offset + 1,
            messages: 0,
            left_out: 0,
        }
    }

    /// Of any room and of anything: what is about this room is checked.
    #[track_caller]
    fn hear(&mut self, said: &Value) {
        if said["room"] != self.room {
            return;
        }
        let gap = &said["gap"];
        if gap.is_object() {
            assert_eq!(gap["why"], "sampled", "{said}");
            let [from, to] = ["from", "to"].map(|end| Position::parse(&gap[end]).offset);
            assert!(from == self.next && from <= to, "{self:?}: {said}");
            self.left_out += to - from + 1;
            self.next = to + 1;
        } else if said.get("data").is_some() {
            let offset = Position::parse(&said["pos"]).offset;
            assert_eq!(offset, self.next, "{self:?}: {said}");
            self.messages += 1;
            self.next += 1;
        }
    }
}

#[test]
fn what_is_said_within_a_window_comes_together() {
    let baton = builder("merge = \"200ms\"").start();
    let mut members = [
        batched(baton.public, SUBPROTOCOL),
        batched(baton.public, MSGPACK),
        Client::on_worker(baton.public, 1),
        Client::on_worker(baton.public, 2),
    ];
    let mut heard: Vec<Heard> = members
        .iter_mut()
        .map(|member| Heard::join(member, "r"))
        .collect();
    let mut publisher = Client::connect(baton.public);
    let begin = Instant::now();
    // Each is answered at once, or this would take six seconds.
    let last = (0..30)
        .map(|n| publisher.publish("r", json!(n)))
        .last()
        .unwrap();
    let passed = begin.elapsed();
    let windows = passed.as_millis() as usize / 200 + 2;
    assert!(passed < Duration::from_secs(5), "{passed:?}");
    for (number, (member, heard)) in members.iter_mut().zip(&mut heard).enumerate() {
        let mut frames = 0;
        while heard.next <= last.offset {
            frame(member).iter().for_each(|said| heard.hear(said));
            frames += 1;
        }
        assert_eq!(heard.messages, 30);
        // Who wants no batches gets as many frames as there are messages.
        assert!(number > 1 || frames <= windows, "{frames} in {passed:?}");
    }
    // Elsewhere nothing waits.
    let mut other = batched(baton.public, SUBPROTOCOL);
    let mut heard = Heard::join(&mut other, "other");
    for n in 0..10 {
        publisher.publish("other", json!(n));
        frame(&mut other).iter().for_each(|said| heard.hear(said));
        assert_eq!(heard.messages, n + 1);
    }
}

/// Members of all kinds, who check what they hear, and some who speak on and on.
struct Evening {
    to: SocketAddr,
    stop: Arc<AtomicBool>,
    /// Each with how much it has heard.
    members: Vec<(Arc<AtomicU64>, JoinHandle<Heard>)>,
    publishers: Vec<JoinHandle<()>>,
}

/// What the last message says.
const END: &str = "the end";

impl Evening {
    fn begin(to: SocketAddr) -> Evening {
        let mut evening = Evening {
            to,
            stop: Arc::default(),
            members: Vec::new(),
            publishers: Vec::new(),
        };
        for number in 0..8 {
            let mut client = match number {
                0 => batched(to, SUBPROTOCOL),
                1 => batched(to, MSGPACK),
                2 => Client::msgpack(to),
                3 => Client::deflated(to),
                _ => Client::connect(to),
            };
            let heard = Heard::join(&mut client, "r");
            evening.listen(client, heard, number);
        }
        for room in ["r", "r", "other"] {
            let (stop, mut client) = (evening.stop.clone(), Client::connect(to));
            evening.publishers.push(thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for n in 0..10 {
                        client.tell(json!({"id": n, "send": room, "data": "said to everybody"}));
                    }
                    (0..10).for_each(|n| {
                        let reply = client.reply(&json!(n));
                        assert!(reply["ok"].is_object(), "{reply}");
                    });
                }
            }));
        }
        evening
    }

    fn listen(&mut self, mut client: Client, mut heard: Heard, number: u64) {
        // One is in a room beside, in which nothing waits; and one in one in which it does.
        let mut beside = match number {
            1 | 4 => Some(Heard::join(&mut client, "other")),
            2 | 5 => Some(Heard::join(&mut client, "r2")),
            _ => None,
        };
        let counter = Arc::new(AtomicU64::new(0));
        let hears = counter.clone();
        let member = thread::spawn(move || {
            let mut count = 0;
            loop {
                for said in frame(&mut client) {
                    count += 1;
                    hears.fetch_add(1, Ordering::Relaxed);
                    heard.hear(&said);
                    if let Some(beside) = &mut beside {
                        beside.hear(&said);
                    }
                    if said["data"] == END && said["room"] == "r" {
                        return heard;
                    }
                }
                // Two have something to say themselves, now and then.
                match number {
                    5 | 6 if count > 50 => client.tell(json!({"send": "r2", "data": count})),
                    7 if count > 50 => client.tell(json!({"send": "r", "data": count})),
                    _ => continue,
                }
                count = 0;
            }
        });
        self.members.push((counter, member));
    }

    /// Everybody hears something more.
    #[track_caller]
    fn goes_on(&self) {
        for (counter, _) in &self.members {
            let before = counter.load(Ordering::Relaxed);
            eventually("it hears more", || counter.load(Ordering::Relaxed) > before);
        }
    }

    /// Everybody has heard of every message.
    fn end(self) -> Vec<Heard> {
        self.stop.store(true, Ordering::Relaxed);
        for publisher in self.publishers {
            publisher.join().expect("all that was sent is answered");
        }
        let mut moderator = Client::with_rights(self.to, "m", &["send", "moderate"]);
        moderator.ok(json!({"send": "r", "data": END, "priority": true}));
        let members = self.members.into_iter();
        members
            .map(|(_, member)| member.join().expect("it has heard all"))
            .collect()
    }
}

/// Places at which a brain of a worker dies while something is held back.
const PLACES: [&str; 10] = [
    "worker:hold",
    "worker:released",
    "worker:fan-out",
    "worker:write",
    "worker:materialise",
    "worker:flushed",
    "worker:step",
    "worker:catch-up",
    "master:append",
    "master:appended",
];

/// Brains die at all places, and connections move, while an evening goes on.
fn survives(options: &str, more: &[&str]) -> Vec<Heard> {
    let faults = Faults::new();
    let config = format!("{}[[room]]\nmatch = \"r2\"\n{options}", room(options));
    let baton = with_key(faults.builder().config(&config)).start();
    let evening = Evening::begin(baton.public);
    for (number, place) in PLACES.iter().chain(more).enumerate() {
        for passes in [1, 7] {
            faults.arm(place, passes);
            faults.wait_for(place);
            // Or it would look as if somebody had killed one brain after the other.
            evening.goes_on();
        }
        if number % 3 == 0 {
            baton.expect(&["reload"], 0);
        }
    }
    baton.expect(&["scale", "3"], 0);
    baton.expect(&["scale", "1"], 0);
    evening.end()
}

#[test]
fn deaths_and_moves_in_the_middle_of_a_window() {
    for heard in survives("merge = \"50ms\"", &[]) {
        assert!(heard.left_out == 0 && heard.messages > 0, "{heard:?}");
    }
}

#[test]
fn deaths_and_moves_while_not_all_is_for_everybody() {
    for heard in survives("budget = 20", &["worker:left-out"]) {
        assert!(heard.left_out > 0 && heard.messages > 0, "{heard:?}");
    }
}

#[test]
fn deaths_and_moves_in_a_window_of_which_not_all_is_for_everybody() {
    for heard in survives("merge = \"20ms\"\nbudget = 50", &["worker:left-out"]) {
        assert!(heard.left_out > 0 && heard.messages > 0, "{heard:?}");
    }
}

fn moderator(baton: &Baton) -> Client {
    with_rights(baton, 1, "m", &["join", "send", "moderate"])
}

#[test]
fn what_has_priority_waits_for_no_window() {
    let baton = builder("merge = \"200ms\"").start();
    let mut members = [
        Client::on_worker(baton.public, 2),
        batched(baton.public, SUBPROTOCOL),
    ];
    let mut heard: Vec<Heard> = members
        .iter_mut()
        .map(|member| Heard::join(member, "r"))
        .collect();
    let (mut somebody, mut moderator) = (Client::connect(baton.public), moderator(&baton));
    let begin = Instant::now();
    for n in 0..30 {
        somebody.publish("r", json!(n));
        let said = moderator.ok(json!({"send": "r", "data": n, "priority": true}));
        let position = Position::parse(&said["pos"]);
        for (member, heard) in members.iter_mut().zip(&mut heard) {
            // What was said before it comes before it.
            while heard.next <= position.offset {
                frame(member).iter().for_each(|said| heard.hear(said));
            }
        }
    }
    // One after the other they would have waited for thirty windows.
    assert!(begin.elapsed() < Duration::from_secs(5), "{begin:?}");
}

#[test]
fn what_has_priority_is_left_out_for_nobody() {
    let baton = builder("budget = 10\nmerge = \"20ms\"").start();
    let evening = Evening::begin(baton.public);
    let mut member = Client::on_worker(baton.public, 2);
    let mut heard = Heard::join(&mut member, "r");
    let mut moderator = moderator(&baton);
    let mut said = Vec::new();
    for n in 0..20 {
        said.push(moderator.ok(json!({"send": "r", "data": n, "priority": true}))["pos"].clone());
        evening.goes_on();
    }
    let mut of_moderator = Vec::new();
    while of_moderator.len() < said.len() {
        let message = member.event();
        heard.hear(&message);
        if message["from"] == "m" {
            of_moderator.push(message["pos"].clone());
        }
    }
    assert_eq!(of_moderator, said);
    assert!(heard.left_out > 0, "{heard:?}");
    evening.end();
}

/// A budget holds for each member, evenly, and a reload ends it for rooms that are there.
#[test]
fn a_reload_changes_what_is_given_in_rooms_that_are_there() {
    let baton = builder("budget = 10").start();
    let mut members: Vec<Client> = (0..6).map(|_| Client::connect(baton.public)).collect();
    let mut heard: Vec<Heard> = members
        .iter_mut()
        .map(|member| Heard::join(member, "r"))
        .collect();
    let mut publisher = Client::connect(baton.public);
    let hear_all = |members: &mut [Client], heard: &mut [Heard], last: u64| {
        for (member, heard) in members.iter_mut().zip(heard) {
            // Within a second it is told of the last ones, whether they are for it or not.
            while heard.next <= last {
                heard.hear(&member.event());
            }
        }
    };
    let begin = Instant::now();
    let said = (0..400).map(|n| publisher.publish("r", json!(n))).last();
    hear_all(&mut members, &mut heard, said.expect("the last").offset);
    let seconds = begin.elapsed().as_secs() + 1;
    for heard in &mut heard {
        // As many as the budget allows, and what had not been used before.
        let most = 10 * seconds + 8 + 3;
        assert!((4..=most).contains(&heard.messages), "{heard:?} of {most}");
        (heard.messages, heard.left_out) = (0, 0);
    }
    change(&baton, "merge = \"10ms\"");
    let said = (0..100).map(|n| publisher.publish("r", json!(n))).last();
    hear_all(&mut members, &mut heard, said.expect("the last").offset);
    for heard in &heard {
        assert_eq!((heard.messages, heard.left_out), (100, 0));
    }
}

/// Its worker is away, in the middle of a window, until the log is overwritten: what is lost is said.
#[test]
fn what_was_held_back_is_lost_with_the_log_and_said_so() {
    let room = "merge = \"200ms\"\n[memory]\nlog = \"1 MiB\"\nring = \"1 MiB\"";
    for dies in [false, true] {
        let baton = builder(room).start();
        let mut member = Client::on_worker(baton.public, 1);
        let mut next = member.join("r").offset + 1;
        let mut publisher = Client::on_worker(baton.public, 2);
        let mut lost = 0;
        // Until it was away in the middle of one.
        for _ in 0..20 {
            (0..5).for_each(|n| _ = publisher.publish("r", json!(n)));
            let status = baton.status();
            let worker = status.worker(1);
            let sleeper = match dies {
                true => {
                    // A guard that is stopped makes no brain.
                    process::stop(worker.guard_pid);
                    process::kill(worker.pid);
                    worker.guard_pid
                }
                false => {
                    process::stop(worker.pid);
                    worker.pid
                }
            };
            let much = json!("x".repeat(50_000));
            (0..30).for_each(|_| _ = publisher.publish("elsewhere", much.clone()));
            let last = publisher.publish("r", json!("behind it"));
            process::go_on(sleeper);
            while next <= last.offset {
                let event = member.event();
                let gap = &event["gap"];
                if gap.is_object() {
                    assert_eq!(gap["why"], "overrun", "{event}");
                    assert_eq!(Position::parse(&gap["from"]).offset, next, "{event}");
                    let end = Position::parse(&gap["to"]).offset + 1;
                    lost += end - next;
                    next = end;
                } else {
                    assert_eq!(Position::parse(&event["pos"]).offset, next, "{event}");
                    next += 1;
                }
            }
            if lost > 0 {
                break;
            }
        }
        assert!((1..=6).contains(&lost), "{lost}");
        member.nothing();
    }
}

/// When all has been given, nobody is awake.
#[test]
fn who_has_nothing_to_give_sleeps() {
    let baton = builder("merge = \"20ms\"\nbudget = 1").start();
    let mut member = Client::on_worker(baton.public, 1);
    let mut heard = Heard::join(&mut member, "r");
    let mut publisher = Client::on_worker(baton.public, 2);
    let said = (0..100).map(|n| publisher.publish("r", json!(n))).last();
    while heard.next <= said.as_ref().expect("the last").offset {
        heard.hear(&member.event());
    }
    let brain = baton.status().worker(1).pid;
    let spent = || process::cpu_seconds(brain);
    eventually("its worker sleeps", || {
        let (before, begin) = (spent(), Instant::now());
        while begin.elapsed() < Duration::from_millis(300) {
            publisher.ok(json!({"ping": true}));
        }
        let (after, before) = (spent(), before);
        after.0 + after.1 <= before.0 + before.1 + 0.02
    });
}
