//! Whoever asks for an answer has one, or is told to come again: whatever else is said meanwhile.

use std::io::Write;
use std::thread;

use harness::faults::Faults;
use harness::rooms::Client;
use harness::websocket::frame;
use harness::{Baton, process};
use serde_json::json;

/// A worker's clients say no more than it can read of in the log, which comes after what they say.
#[test]
fn publishers_do_not_overrun_their_own_worker() {
    let config = "[memory]\nlog = \"4 MiB\"\nring = \"1 MiB\"\n";
    let baton = Baton::builder().workers(1).config(config).start();
    let message = frame(0x81, br#"{"send":"r","data":0}"#);
    let many = message.repeat(10_000);
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let mut client = Client::connect(baton.public);
                client.socket.stream().write_all(&many).unwrap();
                client.publish("r", json!("the last"));
            });
        }
    });
    let log = baton.log("worker-1");
    assert!(!log.contains("overrun"), "{log}");
}

/// What another worker's clients say overtakes a worker that stands still: of its own, those are told
/// whose answers may be gone, and nobody else.
#[test]
fn who_waits_for_an_answer_that_is_lost_comes_again() {
    let faults = Faults::new();
    let config = "[memory]\nlog = \"1 MiB\"\nring = \"256 KiB\"\n";
    let baton = faults.builder().workers(2).config(config).start();
    let mut publisher = Client::on_worker(baton.public, 2);
    let mut answered = Client::on_worker(baton.public, 1);
    let mut silent = Client::on_worker(baton.public, 1);
    let mut asker = Client::on_worker(baton.public, 1);
    for client in [&mut publisher, &mut answered] {
        client.publish("r", json!("once"));
    }
    silent.tell(json!({"send": "r", "data": "no answer is wanted"}));
    silent.ok(json!({"ping": true}));
    let brain = baton.status().worker(1).pid;
    faults.arm_as("worker:commit", "1 stop");
    asker.tell(json!({"id": 1, "send": "r", "data": "asked"}));
    faults.wait_for("worker:commit");
    let data = json!("x".repeat(20_000));
    for _ in 0..150 {
        publisher.publish("r", data.clone());
    }
    process::go_on(brain);
    assert_eq!(asker.close_code(), 4200);
    for client in [&mut answered, &mut silent] {
        client.publish("r", json!("as before"));
    }
}
