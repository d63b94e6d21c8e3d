//! A worker alone: the test is its master, and kills its brains and guards while clients count
//! bytes.

use std::io::Write;
use std::time::Instant;

use crate::master::{GET, Master, PATIENCE, UPGRADE, exchange, frame};
use protocol::settings::Settings;

#[test]
fn requests_go_on_over_dead_brains_and_guards() {
    let mut master = Master::start(Settings::default());
    let client = master.connect();
    let answer = exchange(&mut master, &client, GET, b")\n");
    assert!(
        answer.contains(&format!(
            "handled by worker 1 (pid {})",
            master.workers[0].brain
        )),
        "{answer}"
    );
    for round in 0..5 {
        let brain = master.workers[0].brain;
        match round % 2 {
            0 => master.kill(0, brain),
            _ => {
                let guard = master.workers[0].guard();
                if round == 1 {
                    master.kill(0, guard);
                } else {
                    master.kill(0, brain);
                }
            }
        }
        let answer = exchange(&mut master, &client, GET, b")\n");
        assert_ne!(brain, master.workers[0].brain);
        assert!(
            answer.contains(&format!("(pid {})", master.workers[0].brain)),
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
    let brain = master.workers[0].brain;
    master.kill(0, brain);
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
    publishers_wait(false);
    publishers_wait(true);
}

fn publishers_wait(is_silent: bool) {
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
    let (mut filled, mut bytes) = (master.workers[0].ring_read, Vec::new());
    while filled < master.workers[0].ring_read + (1 << 20) - 70_000 {
        assert!(Instant::now() < end, "only {filled} bytes are in the ring");
        filled = master.workers[0]
            .ring
            .next(filled, &mut bytes)
            .unwrap()
            .unwrap_or(filled);
    }
    master.is_silent = is_silent;
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
