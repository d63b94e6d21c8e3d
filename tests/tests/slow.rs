//! Members that read slowly, or seem to: what is held against them is what they could have read, and
//! what they are not given is said.

use harness::faults::Faults;
use harness::rooms::{self, Position};
use harness::socket::Options;
use harness::status::Worker;
use harness::{Baton, process};
use serde_json::json;

/// A member of a room that stopped reading, with more than a MiB said since, in a log of a MiB that
/// wraps several times: what it is given when it reads again has no hole that is not said.
#[test]
fn a_member_that_stopped_reading_while_the_log_wraps() {
    for (policy, slow_bytes) in [("gap", "256 KiB"), ("gap", "8 MiB"), ("close", "256 KiB")] {
        let config = format!(
            "limits.short_lives = 1000\n[memory]\nlog = \"1 MiB\"\nring = \"256 KiB\"\n[rooms]\nslow_bytes = \"{slow_bytes}\"\n\
             slow = \"{policy}\"\n"
        );
        let baton = Baton::builder().workers(1).config(&config).start();
        let options = Options {
            receive_buffer: Some(4096),
            ..Options::default()
        };
        let mut slow = rooms::Client::connect_with(baton.public, options);
        let mut swift = rooms::Client::connect(baton.public);
        let mut next = slow.join("r").offset + 1;
        let data = json!("x".repeat(20_000));
        for round in 0..500 {
            swift.publish("r", data.clone());
            if round % 100 == 50 {
                baton.kill_brain(1);
            }
        }
        let last = swift.publish("r", json!("end")).offset;
        baton.kill_brain(1);
        if policy == "close" {
            assert_eq!(slow.close_code(), 4101);
            continue;
        }
        let (mut gaps, mut deaths) = (0, 0);
        while next <= last {
            let event = slow.event();
            if event["gap"].is_object() {
                assert_eq!(
                    Position::parse(&event["gap"]["from"]).offset,
                    next,
                    "{event}"
                );
                next = Position::parse(&event["gap"]["to"]).offset + 1;
                gaps += 1;
            } else {
                assert_eq!(Position::parse(&event["pos"]).offset, next);
                next += 1;
            }
            if deaths < 3 {
                deaths += 1;
                baton.kill_brain(1);
            }
        }
        // Ten MB are more than its socket takes, and than 256 KiB.
        assert!(
            gaps > 0 || slow_bytes == "8 MiB",
            "everything was kept for it"
        );
        slow.nothing();
        swift.nothing();
    }
}

/// Its worker is away, while far more is said than may wait for who reads slowly: its brain dies
/// and none is made, or it stands still.
#[test]
fn a_member_is_not_slow_because_its_worker_was_away() {
    is_not_slow(|worker| {
        // A guard that is stopped makes no brain.
        process::stop(worker.guard_pid);
        process::kill(worker.pid);
        worker.guard_pid
    });
    is_not_slow(|worker| {
        process::stop(worker.pid);
        worker.pid
    });
}

/// `goes` makes the member's worker go away, and says whom to wake for its return.
fn is_not_slow(goes: impl Fn(&Worker) -> i32) {
    let config = "[rooms]\nslow_bytes = \"128 KiB\"\n";
    let baton = Baton::builder().workers(2).config(config).start();
    // Its socket takes little at once, so the rest waits.
    let options = Options {
        receive_buffer: Some(4096),
        ..Options::default()
    };
    let mut member = rooms::Client::connect_with(baton.public, options);
    let number = member.hello["worker"].as_u64().expect("a number");
    let mut next = member.join("r").offset;
    let mut publisher = rooms::Client::on_worker(baton.public, 3 - number);
    let status = baton.status();
    let worker = status.worker(number);
    let sleeper = goes(worker);
    let data = json!("x".repeat(20_000));
    let last = (0..500)
        .map(|_| publisher.publish("r", data.clone()))
        .last();
    process::go_on(sleeper);
    while Some(next) < last.as_ref().map(|last| last.offset) {
        next += 1;
        let message = member.message();
        assert_eq!(Position::parse(&message["pos"]).offset, next);
    }
}

/// A turn may hold more pieces for a member than one write takes: it gets the rest as well, though
/// its socket is never full.
#[test]
fn a_member_that_only_listens_gets_all_of_a_turn() {
    // Nothing else makes its worker look at it.
    let config = "[websocket]\nping_interval = \"1h\"\n";
    let baton = Baton::builder().workers(2).config(config).start();
    let mut member = rooms::Client::on_worker(baton.public, 1);
    member.join("heard");
    // What it is not a member of lies between.
    let mut other = rooms::Client::on_worker(baton.public, 1);
    other.join("not heard");
    let mut publisher = rooms::Client::on_worker(baton.public, 2);
    let brain = baton.status().worker(1).pid;
    process::stop(brain);
    for number in 0..200 {
        publisher.publish("heard", json!(number));
        publisher.publish("not heard", json!(number));
    }
    process::go_on(brain);
    for client in [&mut member, &mut other] {
        for number in 0..200 {
            assert_eq!(client.message()["data"], number);
        }
    }
}

/// What a member of `r` has heard: each message once, or in a gap, in order.
struct Heard {
    client: rooms::Client,
    next: u64,
    lost: u64,
}

impl Heard {
    /// Up to this message.
    fn hear(&mut self, last: u64) {
        while self.next <= last {
            let event = self.client.event();
            if event["gap"].is_object() {
                let end = |end: &str| Position::parse(&event["gap"][end]).offset;
                assert_eq!(event["gap"]["why"], "overrun");
                assert_eq!(end("from"), self.next, "{event}");
                self.lost += end("to") + 1 - end("from");
                self.next = end("to") + 1;
            } else {
                assert_eq!(Position::parse(&event["pos"]).offset, self.next, "{event}");
                self.next += 1;
            }
        }
    }
}

/// Far more is said than the log holds while the members' worker stands still; and when it goes on, its
/// brain dies at this point, again and again.
fn all_is_heard_or_said_to_be_lost(point: &str, passes: &[u64], speaks_on: bool) {
    let faults = Faults::new();
    let config = "[memory]\nlog = \"1 MiB\"\nring = \"256 KiB\"\n";
    let baton = faults.builder().workers(2).config(config).start();
    let mut publisher = rooms::Client::on_worker(baton.public, 2);
    let mut members: Vec<Heard> = (0..4)
        .map(|_| {
            let mut client = rooms::Client::on_worker(baton.public, 1);
            let next = client.join("r").offset + 1;
            let lost = 0;
            Heard { client, next, lost }
        })
        .collect();
    let data = json!("x".repeat(20_000));
    for passes in passes {
        let first = publisher.publish("r", data.clone()).offset;
        members.iter_mut().for_each(|member| member.hear(first));
        let brain = baton.status().worker(1).pid;
        process::stop(brain);
        let positions: Vec<u64> = (0..150)
            .map(|_| publisher.publish("r", data.clone()).offset)
            .collect();
        faults.arm(point, *passes);
        process::go_on(brain);
        let mut last = positions[149];
        if speaks_on {
            last = publisher.publish("r", data.clone()).offset;
        }
        for member in &mut members {
            let lost = member.lost;
            member.hear(last);
            assert!(member.lost > lost, "nothing was lost");
        }
        faults.wait_for(point);
        members
            .iter_mut()
            .for_each(|member| member.client.nothing());
    }
}

#[test]
fn a_gap_is_said_though_the_brain_dies_among_those_who_hear_it() {
    all_is_heard_or_said_to_be_lost("worker:gap", &[1, 3, 4], false);
    all_is_heard_or_said_to_be_lost("worker:gap", &[1, 3, 4], true);
}

#[test]
fn a_gap_is_said_though_the_brain_dies_in_that_very_turn() {
    all_is_heard_or_said_to_be_lost("worker:fan-out", &[1, 1], false);
    all_is_heard_or_said_to_be_lost("worker:flushed", &[1, 2], false);
    all_is_heard_or_said_to_be_lost("worker:flushed", &[1, 2], true);
}
