//! A process of baton dies on each side of every step of a planned move, in the midst of traffic
//! that checks every byte: no connection is closed, nothing is lost, doubled or changed, and the
//! command that ordered the move says the truth.

use harness::faults::Faults;
use harness::traffic::Traffic;
use harness::{Baton, eventually, process};

/// Sockets that each guard has open: brains share these.
fn sockets(baton: &Baton) -> Vec<usize> {
    let status = baton.status();
    let guards = [status.master_pid].into_iter();
    let guards = guards.chain(status.workers.iter().map(|worker| worker.guard_pid));
    let count = |pid| {
        let files = process::open_files(pid);
        let is_socket = |file: &&String| file.starts_with("socket:");
        files.iter().filter(is_socket).count()
    };
    guards.map(count).collect()
}

/// Dies at the point, by itself, while workers are replaced; each time at another pass.
fn dies_at(point: &str, passes: &[u64]) {
    let faults = Faults::new();
    let baton = faults.builder().start();
    // The fds of a worker that took over are as many as those of one that was there at the start.
    baton.expect(&["reload"], 0);
    let before = sockets(&baton);
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
        sockets(&baton) == before
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
}
