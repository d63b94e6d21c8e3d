//! What kills whoever works on it is found, named and given up, and nothing else suffers. The bytes
//! that kill are a marker that the programs of these tests look for.

use harness::faults::Faults;
use harness::rooms::{Client, Position};
use harness::socket::{self, Options, loopback};
use harness::tokens::token;
use harness::traffic::{Random, Traffic};
use harness::websocket::{Raw, frame};
use harness::{Baton, eventually, http, process};
use serde_json::{Value, json};

const MARKER: &str = "<poison>";

fn request(object: &Value) -> Vec<u8> {
    frame(0x81, object.to_string().as_bytes())
}

/// How many brains worker 1 has had.
fn life(baton: &Baton) -> u64 {
    baton
        .status_when("worker 1 is ready", |status| {
            status.ready().iter().any(|worker| worker.worker == 1)
        })
        .worker(1)
        .life
}

#[test]
fn a_request_that_kills_closes_its_connection_alone() {
    let faults = Faults::new();
    let baton = faults.builder().workers(1).start();
    let mut listener = Client::connect(baton.public);
    let joined = listener.join("r");
    let traffic = Traffic::start(baton.public);
    let lives = life(&baton);

    faults.arm_as("worker:poison", MARKER);
    let mut poisonous = Client::connect(baton.public);
    let cid = poisonous.cid().to_owned();
    // What stands before it in the same bytes is done.
    let mut bytes: Vec<u8> = (1..=3)
        .flat_map(|n| request(&json!({ "send": "r", "data": n })))
        .collect();
    bytes.extend(request(
        &json!({ "send": "r", "data": format!("\u{1b}{MARKER}") }),
    ));
    bytes.extend(request(&json!({ "send": "r", "data": "behind it" })));
    std::io::Write::write_all(poisonous.socket.stream(), &bytes).unwrap();
    assert_eq!(poisonous.close_code(), 1011);
    assert!(faults.is_reached("worker:poison"));

    let line = baton.wait_for_log("worker-1", "has killed 3 brains");
    assert!(line.contains(&format!("{cid} from 127.0.0.1:")), "{line}");
    assert!(line.contains(MARKER), "{line}");
    assert!(!line.contains('\u{1b}'), "{line}");
    for n in 1..=3 {
        let message = listener.message();
        assert_eq!(message["data"], n);
        assert_eq!(Position::parse(&message["pos"]).offset, joined.offset + n);
    }
    listener.nothing();
    assert!(life(&baton) - lives <= 4);
    traffic.go_on(3);
    traffic.stop();
}

/// Who was convicted by a request with a token is named without it.
#[test]
fn a_token_that_kills_is_not_shown() {
    let faults = Faults::new();
    let baton = faults.builder().workers(1).start();
    let token = token(MARKER);
    faults.arm_as("worker:poison", MARKER);
    let mut in_words = Client::connect(baton.public);
    in_words.tell(json!({ "auth": token, "else": MARKER }));
    assert_eq!(in_words.close_code(), 1011);
    let mut in_head = http::Client::connect(baton.public);
    let head = format!(
        "GET /rooms?token={token} HTTP/1.1\r\nHost: {MARKER}\r\nCookie: id={token}\r\n\r\n"
    );
    in_head.send(head).unwrap();
    assert!(in_head.ends());
    eventually("both are named", || {
        baton.log("worker-1").matches("has killed 3 brains").count() == 2
    });
    let log = baton.log("worker-1");
    assert!(log.contains(MARKER) && log.contains("[a token]"), "{log}");
    let signature = token.rsplit('.').next().expect("its last part");
    assert!(!log.contains(signature) && !log.contains("eyJ"), "{log}");
}

#[test]
fn a_request_without_a_protocol_that_could_say_so_ends() {
    let faults = Faults::new();
    let baton = faults.builder().workers(1).start();
    let mut bystander = http::Client::connect(baton.public);
    assert_eq!(bystander.get("/healthz").status, 200);
    faults.arm_as("worker:poison", MARKER);
    let mut poisonous = http::Client::connect(baton.public);
    let mut text = format!("POST /echo HTTP/1.1\r\nHost: {MARKER}\r\nContent-Length: 2\r\n\r\n");
    text += &"x".repeat(2000);
    poisonous.send(text).unwrap();
    assert!(poisonous.ends());
    let line = baton.wait_for_log("worker-1", "has killed 3 brains");
    assert!(
        line.contains("POST /echo HTTP/1.1\\r\\nHost: <poison>"),
        "{line}"
    );
    assert!(line.len() < 600, "{line}");
    assert_eq!(bystander.get("/healthz").status, 200);
}

/// Every brain of both workers that is to deliver it dies.
#[test]
fn a_message_that_kills_becomes_a_gap() {
    let faults = Faults::new();
    let baton = faults.builder().start();
    let mut members = [
        Client::on_worker(baton.public, 1),
        Client::on_worker(baton.public, 2),
    ];
    for member in &mut members {
        member.join("r");
    }
    let traffic = Traffic::start(baton.public);
    let mut publisher = Client::connect(baton.public);
    let before = publisher.publish("r", json!("before"));
    faults.arm_as("worker:poison-log", MARKER);
    // It has its place in the room, so the publisher is told so.
    let poison = publisher.publish("r", json!(MARKER));
    assert_eq!(poison.offset, before.offset + 1);
    let behind = publisher.publish("r", json!("behind"));
    for member in &mut members {
        assert_eq!(member.message()["data"], "before");
        let event = member.event();
        let gap = &event["gap"];
        assert_eq!(
            (&event["room"], &gap["why"]),
            (&json!("r"), &json!("internal"))
        );
        assert_eq!(Position::parse(&gap["from"]), poison);
        assert_eq!(Position::parse(&gap["to"]), poison);
        let message = member.message();
        assert_eq!(message["data"], "behind");
        assert_eq!(Position::parse(&message["pos"]), behind);
        member.nothing();
    }
    for worker in ["worker-1", "worker-2"] {
        let line = baton.wait_for_log(worker, "given up: message");
        assert!(line.contains(MARKER) && line.contains("\"r\""), "{line}");
    }
    traffic.go_on(3);
    traffic.stop();
}

#[test]
fn a_message_that_kills_the_master_is_refused() {
    let faults = Faults::new();
    let baton = faults.builder().start();
    let traffic = Traffic::start(baton.public);
    let mut member = Client::connect(baton.public);
    member.join("r");
    faults.arm_as("master:poison", MARKER);
    let mut publisher = Client::connect(baton.public);
    for object in [
        json!({ "send": "r", "data": MARKER }),
        json!({ "join": MARKER }),
        json!({ "who": MARKER }),
    ] {
        assert_eq!(publisher.error(object), "internal");
    }
    let line = baton.wait_for_log("master", "given up: a message");
    assert!(
        line.contains(MARKER) && line.contains(publisher.cid()),
        "{line}"
    );
    publisher.publish("r", json!("behind"));
    assert_eq!(member.message()["data"], "behind");
    traffic.go_on(3);
    traffic.stop();
}

/// A new brain says hello, and every brain of the master that hears it dies.
#[test]
fn a_word_that_kills_the_master_is_dropped() {
    let faults = Faults::new();
    let baton = faults.builder().start();
    // As the master tells words apart: this is the first kind, and the worker's second life.
    let mark = (2u64 | 1 << 56).to_le_bytes().to_vec();
    let line = kills_the_master(&faults, &baton, "master:poison-word", mark, || {
        process::kill(baton.status().worker(1).pid);
        baton.wait_for_log("master", "what it said has killed 3 brains")
    });
    assert!(
        line.contains("Hello {") && line.contains("life: 2"),
        "{line}"
    );
}

/// The same with what a worker says of a connection, which is in its ring.
#[test]
fn an_end_that_kills_the_master_is_given_up() {
    let faults = Faults::new();
    let baton = faults.builder().start();
    let gone = Client::connect(baton.public);
    let number: u64 = gone.cid()[1..].parse().unwrap();
    // The sixth kind of record, with one number of eight bytes.
    let record = [6, 8, number].map(u64::to_le_bytes).concat();
    let line = kills_the_master(&faults, &baton, "master:poison", record, || {
        drop(gone);
        baton.wait_for_log("master", "has killed 3 brains and more: given up")
    });
    assert!(line.ends_with(&format!("the end of c{number}")), "{line}");
}

fn kills_the_master(
    faults: &Faults,
    baton: &Baton,
    point: &str,
    marker: Vec<u8>,
    cause: impl FnOnce() -> String,
) -> String {
    let mut member = Client::connect(baton.public);
    member.join("r");
    faults.arm_as(point, &String::from_utf8(marker).expect("small numbers"));
    let line = cause();
    assert!(faults.is_reached(point));
    member.publish("r", json!("still here"));
    assert_eq!(member.message()["data"], "still here");
    assert_eq!(http::get(baton.public, "/healthz").status, 200);
    line
}

#[test]
fn a_connection_that_kills_whoever_takes_it_is_turned_away() {
    let faults = Faults::new();
    let baton = faults.builder().start();
    let traffic = Traffic::start(baton.public);
    faults.arm_as("worker:poison-take", "127.1.0.9:");
    let options = Options {
        from: Some(loopback(8)),
        ..Options::default()
    };
    let mut poisonous = http::Client::over(socket::connect_with(baton.public, options).unwrap());
    assert!(poisonous.ends());
    eventually("one worker says so", || {
        let says = |name: &str| baton.log(name).contains("turned away");
        says("worker-1") != says("worker-2")
    });
    traffic.go_on(3);
    traffic.stop();
    baton.status_when("nobody is left", |status| {
        status.workers.iter().all(|worker| worker.connections == 0)
    });
}

/// Dozens of deaths at any instant, also shortly after one another: each worker's brain is always
/// busy with somebody, and nobody is guilty.
#[test]
fn kills_at_any_instant_convict_nobody() {
    let baton = Baton::builder().config("limits.short_lives = 1000").start();
    let traffic = Traffic::start(baton.public);
    let status = baton.status();
    let guards: Vec<i32> = status.workers.iter().map(|w| w.guard_pid).collect();
    let mut guards_and_brains: Vec<(i32, i32)> = guards.iter().map(|guard| (*guard, 0)).collect();
    guards_and_brains.push((status.master_pid, 0));
    let mut random = Random::new(5);
    for _ in 0..30 {
        for (guard, last) in &mut guards_and_brains {
            eventually("there is a new brain", || {
                let brain = brain_of(*guard, &guards).filter(|brain| brain != last);
                brain.inspect(|brain| *last = *brain).is_some()
            });
            process::kill(*last);
        }
        traffic.go_on(random.below(3) as u64);
    }
    traffic.stop();
    for name in ["master", "worker-1", "worker-2"] {
        assert!(
            !baton.log(name).contains("has killed"),
            "{}",
            baton.log(name)
        );
    }
}

/// The child of a guard that is no guard itself: those of a dead brain's workers are the guard's.
fn brain_of(guard: i32, guards: &[i32]) -> Option<i32> {
    let mut children = process::children(guard).into_iter();
    children.find(|child| !guards.contains(child) && process::is_alive(*child))
}

#[test]
fn an_echo_that_kills_is_closed_while_others_go_on() {
    let faults = Faults::new();
    let baton = faults.builder().workers(1).start();
    let traffic = Traffic::start(baton.public);
    let mut raw = Raw::connect(baton.public, "/echo");
    // Without a mask, bytes in the input are what they are.
    let bytes = frame(0x82, MARKER.as_bytes());
    let masked = String::from_utf8_lossy(&bytes[6..]).into_owned();
    faults.arm_as("worker:poison", &masked);
    raw.send(&bytes).unwrap();
    assert_eq!(raw.close_code(), 1011);
    let line = baton.wait_for_log("worker-1", "has killed 3 brains");
    assert!(line.contains(MARKER), "shown without its mask: {line}");
    traffic.go_on(3);
    traffic.stop();
}
