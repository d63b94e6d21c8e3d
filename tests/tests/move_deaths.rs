//! A process of baton dies on each side of every step of a planned move, in the midst of traffic
//! that checks every byte: no connection is closed, nothing is lost, doubled or changed, and the
//! command that ordered the move says the truth.

use harness::eventually;
use harness::faults::Faults;
use harness::rooms::Client;
use harness::socket::{self, Options};
use harness::traffic::Traffic;
use serde_json::json;

/// Dies at the point, by itself, while workers are replaced; each time at another pass.
fn dies_at(point: &str, passes: &[u64]) {
    let faults = Faults::new();
    let baton = faults.builder().start();
    // The fds of a worker that took over are as many as those of one that was there at the start.
    baton.expect(&["reload"], 0);
    let before = baton.sockets();
    let traffic = Traffic::start(baton.public);
    traffic.go_on(1);
    for passes in passes {
        faults.arm(point, *passes);
        for _ in 0..20 {
            baton.expect(&["reload"], 0);
            if faults.is_reached(point) {
                break;
            }
        }
        faults.wait_for(point);
        traffic.go_on(2);
    }
    traffic.stop();
    eventually("all sockets of clients are closed", || {
        baton.sockets() == before
    });
    baton.status_when("no connection is counted any more", |status| {
        status.workers.iter().all(|worker| worker.connections == 0) && status.ready().len() == 2
    });
}

/// One test for each point.
macro_rules! points {
    ($($name:ident: $point:literal, $passes:expr;)*) => {
        $(
            #[test]
            fn $name() {
                dies_at($point, &$passes);
            }
        )*
    };
}

points! {
    master_has_ordered_and_not_heard: "master:part", [1, 2];
    giver_is_about_to_give: "worker:part", [1, 4];
    giver_has_decided_to_give: "worker:parted", [1, 4];
    giver_has_packed_it: "worker:give", [1, 1];
    giver_has_sent_it: "worker:given", [1, 1];
    master_has_noted_that_one_comes: "master:giving", [1, 2];
    master_has_received_one: "master:receive", [1, 2];
    master_has_noted_its_fd: "master:arrived", [1, 5];
    master_is_about_to_give_it_on: "master:give", [1, 9];
    master_has_given_it_on: "master:given", [1, 9];
    taker_has_received_it: "worker:receive", [1, 9];
    taker_has_it_in_a_slot: "worker:take", [1, 9];
    taker_makes_room_for_it: "worker:arrive", [1, 5];
    taker_has_made_room_for_it: "worker:arrived", [1, 5];
    taker_has_acknowledged_it: "worker:ack", [1, 5];
    master_hears_the_ack: "master:ack", [1, 9];
    master_has_told_the_giver: "master:took", [1, 2];
    giver_forgets_it: "worker:took", [1, 5];
    giver_has_given_up_its_slot: "worker:close-moved", [1, 5];
    taker_has_counted_its_members: "worker:members", [1, 1];
}

/// Dies at the point when a connection has to be taken back: it kills whoever takes it.
fn dies_as_one_is_kept(point: &str) {
    let faults = Faults::new();
    let config = "[timeouts]\nmove = \"1s\"\n";
    let baton = faults.builder().workers(1).config(config).start();
    let traffic = Traffic::start(baton.public);
    let options = Options {
        from: Some(socket::loopback(4)),
        ..Options::default()
    };
    let mut client = Client::connect_with(baton.public, options);
    client.join("r");
    faults.arm_as("worker:poison-take", "127.1.0.5:");
    for _ in 0..2 {
        let old = baton.status().worker(1).guard_pid;
        traffic.go_on(1);
        faults.arm(point, 1);
        let said = baton.expect(&["reload"], 1);
        assert!(
            faults.is_reached(point),
            "{point} is not on the way: {said}"
        );
        let status = baton.status_when("the old one is alone", |now| now.workers.len() == 1);
        assert_eq!(status.worker(1).guard_pid, old);
        client.publish("r", json!("still here"));
        assert_eq!(client.message()["data"], "still here");
        traffic.go_on(2);
    }
    faults.disarm("worker:poison-take");
    baton.expect(&["reload"], 0);
    client.publish("r", json!("elsewhere"));
    assert_eq!(client.message()["data"], "elsewhere");
    traffic.stop();
}

#[test]
fn master_lets_the_giver_keep_it() {
    dies_as_one_is_kept("master:keep");
}

#[test]
fn giver_is_about_to_keep_it() {
    dies_as_one_is_kept("worker:keep");
}

#[test]
fn giver_has_kept_it() {
    dies_as_one_is_kept("worker:kept");
}
