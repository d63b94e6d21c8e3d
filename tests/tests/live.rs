//! Rooms in which much is said: how fast somebody may speak there, and how much at once.

use std::time::{Duration, Instant};

use harness::rooms::Client;
use harness::tokens::{Key, claims};
use harness::{Baton, baton, eventually, process};
use serde_json::{Value, json};

/// What is special about room `r`, and tokens that are good here.
fn config(room: &str) -> String {
    let key = Key::secret(1).section("k", "k");
    format!("[[room]]\nmatch = \"r\"\n{room}\n{key}")
}

fn builder(room: &str) -> baton::Builder {
    let key = Key::secret(1).file();
    Baton::builder().file("k", &key).config(&config(room))
}

fn user(baton: &Baton, worker: u64, name: &str) -> Client {
    with_rights(baton, worker, name, &["join", "send"])
}

fn with_rights(baton: &Baton, worker: u64, name: &str, rights: &[&str]) -> Client {
    let mut claims = claims(name, 600);
    claims["rooms"] = json!({ "*": rights });
    let mut client = Client::on_worker(baton.public, worker);
    client.ok(json!({ "auth": Key::secret(1).token("k", &claims) }));
    client
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
    baton.write_config(&config("slow_mode = \"300ms\""));
    baton.expect(&["reload"], 0);
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
    baton.write_config(&config(""));
    baton.expect(&["reload"], 0);
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
