//! A process of baton dies at one place after another, each between a deed and the word that says
//! so, while clients check every byte: no connection is closed, nothing is lost, doubled or changed.

use harness::faults::Faults;
use harness::rooms::Position;
use harness::socket::Options;
use harness::traffic::Traffic;
use harness::websocket::WebSocket;
use harness::{Baton, eventually, http, process, rooms};
use serde_json::json;

/// Dies at the point, by itself, in the midst of traffic; each time at another pass.
fn dies_at(point: &str, passes: &[u64]) {
    dies_by(point, passes, |_| {});
}

/// The same, with something that makes a process come by.
fn dies_by(point: &str, passes: &[u64], cause: impl Fn(&Baton)) {
    let faults = Faults::new();
    let baton = faults.builder().start();
    let before = baton.sockets();
    let traffic = Traffic::start(baton.public);
    traffic.go_on(2);
    for passes in passes {
        faults.arm(point, *passes);
        cause(&baton);
        faults.wait_for(point);
        traffic.go_on(3);
    }
    traffic.stop();
    leaves_nothing(&baton, &before);
}

fn leaves_nothing(baton: &Baton, before: &[usize]) {
    // Neither a connection nor a copy of one is left.
    eventually("all sockets of clients are closed", || {
        baton.sockets() == before
    });
    baton.status_when("no connection is counted any more", |status| {
        status.workers.iter().all(|worker| worker.connections == 0) && status.ready().len() == 2
    });
}

/// The same for connections behind a proxy, which says who the client is.
fn dies_behind_a_proxy(point: &str, policy: &str) {
    let faults = Faults::new();
    let baton = faults
        .builder()
        .listeners_from_config()
        .config(&format!(
            "policy = \"{policy}\"\n[[listen]]\naddress = \"127.0.0.1:0\"\n\
             proxy_protocol = true\nproxy_trusted = [\"127.0.0.0/8\"]\n"
        ))
        .start();
    let before = baton.sockets();
    let to = baton.public;
    let mut traffic = Traffic::none(to);
    for client in 1..5 {
        let mut count = 0;
        traffic.spawn(move || {
            let mut connection = http::Client::connect(to);
            count += 1;
            let header = format!(
                "PROXY TCP4 198.51.{client}.{} 192.0.2.1 40000 80\r\n",
                count % 250
            );
            // What is behind the header is not lost either, wherever the connection goes.
            let request = "GET /whoami HTTP/1.1\r\nHost: test\r\n\r\n";
            connection.send(header + request).expect("it is read");
            assert_eq!(connection.response().expect("an answer").status, 200);
            assert_eq!(connection.get("/healthz").status, 200);
        });
    }
    for passes in [1, 4, 9] {
        faults.arm(point, passes);
        faults.wait_for(point);
        traffic.go_on(3);
    }
    traffic.stop();
    leaves_nothing(&baton, &before);
}

#[test]
fn worker_read_a_proxy_header_and_did_not_note_it() {
    dies_behind_a_proxy("worker:proxy", "round-robin");
}

#[test]
fn worker_read_a_proxy_header_and_gave_nothing_back_yet() {
    dies_behind_a_proxy("worker:proxy", "ip-hash");
}

#[test]
fn worker_about_to_give_back() {
    dies_behind_a_proxy("worker:given", "ip-hash");
}

#[test]
fn master_has_one_back_and_did_not_note_it() {
    dies_behind_a_proxy("master:arrived", "ip-hash");
}

#[test]
fn master_said_that_it_took_one_back() {
    dies_behind_a_proxy("master:took", "ip-hash");
}

/// It had an answer of its own for the client, and messages of a room behind it: both are out, and
/// the answer's buffer was still in the slot, which then named more bytes than the buffer has.
#[test]
fn worker_wrote_an_answer_and_messages_together() {
    let faults = Faults::new();
    let baton = faults.builder().start();
    let before = baton.sockets();
    let mut traffic = Traffic::start(baton.public);
    let mut publisher = rooms::Client::connect(baton.public);
    traffic.spawn(move || {
        for _ in 0..20 {
            publisher.tell(json!({ "send": "busy", "data": "x".repeat(500) }));
        }
        publisher.publish("busy", json!("the last of them"));
    });
    let mut member = rooms::Client::connect(baton.public);
    member.join("busy");
    traffic.spawn(move || {
        member.ok(json!({ "ping": true }));
    });
    for passes in [1, 3, 7] {
        faults.arm("worker:written", passes);
        faults.wait_for("worker:written");
        traffic.go_on(3);
    }
    traffic.stop();
    leaves_nothing(&baton, &before);
}

/// Whose brain is to die, so that another recovers.
fn kill_worker(baton: &Baton) {
    process::kill(process::brain_of(baton.status().workers[0].guard_pid));
}

fn kill_guard(baton: &Baton) {
    process::kill(baton.status().worker(1).guard_pid);
}

fn kill_master(baton: &Baton) {
    process::kill(baton.status().master_brain_pid);
}

/// One test for each point.
macro_rules! points {
    ($($name:ident: $point:literal, $passes:expr $(, $cause:expr)?;)*) => {
        $(
            #[test]
            fn $name() {
                points!(@ $point, $passes $(, $cause)?);
            }
        )*
    };
    (@ $point:literal, $passes:expr) => { dies_at($point, &$passes) };
    (@ $point:literal, $passes:expr, $cause:expr) => { dies_by($point, &$passes, $cause) };
}

points! {
    // A connection on its way in.
    master_accepted_and_not_noted: "master:accept", [1, 3];
    master_noted_and_not_given: "master:note", [1, 3];
    master_about_to_give: "master:give", [1, 3];
    master_has_given: "master:given", [1, 3];
    master_heeded_and_not_received: "master:heard", [1, 3, 4];
    master_hears_an_ack: "master:ack", [1, 3];
    master_hears_of_an_end: "master:closed", [1, 3];
    worker_received_and_not_in_a_slot: "worker:receive", [1, 3];
    worker_in_a_slot_and_not_acknowledged: "worker:take", [1, 3];
    worker_acknowledged_and_not_read: "worker:ack", [1, 3];
    // Bytes in, bytes out.
    worker_read_and_not_noted: "worker:read", [1, 20, 50];
    worker_stepped_and_not_committed: "worker:step", [1, 20, 50];
    worker_published_and_not_committed: "worker:publish", [1, 5, 11];
    worker_committed_and_not_written: "worker:commit", [1, 20, 50];
    worker_wrote_and_did_not_note: "worker:write", [1, 20, 50];
    worker_in_the_log: "worker:fan-out", [1, 5, 11];
    worker_wrote_a_turn: "worker:flushed", [1, 20, 50];
    worker_counted_its_members: "worker:members", [1, 2];
    worker_gives_up_a_slot: "worker:close", [1, 2];
    worker_said_that_one_is_gone: "worker:closed", [1, 2];
    // Inside of a record.
    worker_before_a_record_is_whole: "worker:journal-pair", [1, 7, 40];
    worker_before_a_record_is_valid: "worker:journal-before", [1, 7, 40];
    worker_before_a_record_is_applied: "worker:journal-valid", [1, 7, 40];
    worker_while_a_record_is_applied: "worker:journal-store", [1, 7, 40];
    master_before_a_record_is_whole: "master:journal-pair", [1, 7, 40];
    master_before_a_record_is_valid: "master:journal-before", [1, 7, 40];
    master_before_a_record_is_applied: "master:journal-valid", [1, 7, 40];
    master_while_a_record_is_applied: "master:journal-store", [1, 7, 40];
    // The log.
    master_appended_and_not_committed: "master:append", [1, 5];
    master_committed_and_rang_no_bell: "master:appended", [1, 5];
    // Whose pidfd takes the place of the one before.
    master_knows_a_new_guard: "master:guard", [1, 1, 1], kill_guard;
    // Recovery, in the middle of it.
    worker_while_it_recovers: "worker:recover", [1, 1], kill_worker;
    worker_while_it_goes_on_with_each: "worker:recover-each", [1, 2], kill_worker;
    master_while_it_recovers: "master:recover", [1, 1], kill_master;
    master_after_its_sweep: "master:recover-swept", [1, 1], kill_master;
}

/// Members, one for each format, that read only when 6 MB have been said, more than their sockets take:
/// what they are owed goes out in parts, and is fetched out of the log again.
fn sluggish(traffic: &mut Traffic, baton: &Baton) {
    let mut publisher = rooms::Client::connect(baton.public);
    let options = Options {
        receive_buffer: Some(64 << 10),
        ..Options::default()
    };
    let mut members = [rooms::SUBPROTOCOL, rooms::MSGPACK]
        .map(|subprotocol| rooms::Client::open(baton.public, "/rooms", subprotocol, options));
    let mut last = 0;
    for member in &mut members {
        last = member.join("sluggish").offset;
    }
    // What is converted has small parts, too; with many, a round would take seconds.
    let data = json!([vec![0.5; 100], "x".repeat(58_000), { "n": -7 }]);
    traffic.spawn(move || {
        for _ in 0..100 {
            publisher.tell(json!({ "send": "sluggish", "data": data }));
        }
        let end = publisher.publish("sluggish", json!("end"));
        while last < end.offset {
            last += 1;
            for member in &mut members {
                let message = member.message();
                assert_eq!(rooms::Position::parse(&message["pos"]).offset, last);
                assert!(message["data"] == data || message["data"] == "end");
            }
        }
    });
}

fn dies_while_one_reads_slowly(point: &str, passes: &[u64]) {
    let faults = Faults::new();
    let config = "[rooms]\nslow_bytes = \"16 MiB\"\n";
    let baton = faults.builder().config(config).start();
    let before = baton.sockets();
    let mut traffic = Traffic::start(baton.public);
    sluggish(&mut traffic, &baton);
    traffic.go_on(1);
    for passes in passes {
        faults.arm(point, *passes);
        faults.wait_for(point);
        traffic.go_on(1);
    }
    traffic.stop();
    leaves_nothing(&baton, &before);
}

#[test]
fn worker_wrote_a_part_and_did_not_note_it() {
    dies_while_one_reads_slowly("worker:write-part", &[1, 2]);
}

#[test]
fn worker_cut_a_frame_and_did_not_commit_the_rest() {
    dies_while_one_reads_slowly("worker:cut", &[1, 2]);
}

/// The beginning of a request is committed. Its body comes together with another request, which is
/// to lie where the first one's beginning does; and the brain dies before that is committed.
#[test]
fn worker_answered_a_request_and_began_another() {
    let faults = Faults::new();
    let baton = faults.builder().workers(1).start();
    let head = |kind: &str, more: &str| {
        format!(
            "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Type: {kind}\r\n\
             Content-Length: 3\r\n{more}\r\n"
        )
    };
    let mut client = http::Client::connect(baton.public);
    let first = head("text/first", "Expect: 100-continue\r\n");
    client.send(first).unwrap();
    assert_eq!(client.head_response().unwrap().status, 100);
    faults.arm("worker:step", 1);
    let rest = format!("one{}two", head("text/other", ""));
    client.send(rest).unwrap();
    for (kind, body) in [("text/first", b"one"), ("text/other", b"two")] {
        let response = client.response().unwrap();
        assert_eq!(response.field("content-type"), Some(kind));
        assert_eq!(response.body, body);
    }
    assert!(faults.is_reached("worker:step"));
}

/// The new brain keeps bytes for the one that was cut, and must not keep them where another's wait.
#[test]
fn worker_cut_a_frame_while_another_lags() {
    let faults = Faults::new();
    let config = "[rooms]\nslow_bytes = \"16 MiB\"\n";
    let baton = faults.builder().workers(1).config(config).start();
    let options = Options {
        receive_buffer: Some(64 << 10),
        ..Options::default()
    };
    // In the order of their slots; the one that comes last is adopted last.
    let mut members = ["cut", "lags"].map(|room| {
        let mut member = rooms::Client::connect_with(baton.public, options);
        member.join(room);
        member
    });
    let mut publisher = rooms::Client::connect(baton.public);
    let data = |room: &str, number: u32| json!([number, room.repeat(60_000 / room.len())]);
    for room in ["lags", "cut"] {
        if room == "cut" {
            faults.arm("worker:cut", 1);
        }
        for number in 0..150 {
            publisher.publish(room, data(room, number));
        }
    }
    assert!(faults.is_reached("worker:cut"));
    for (member, room) in members.iter_mut().zip(["cut", "lags"]) {
        for number in 0..150 {
            assert_eq!(member.message()["data"], data(room, number), "{room}");
        }
    }
}

/// What it was written lies further in the log than the next brain has read. It joins a room before
/// that has read so far: what is said behind the answer is for it, though the log has it before.
#[test]
fn worker_wrote_to_one_that_joins_meanwhile() {
    let faults = Faults::new();
    let baton = faults.builder().workers(2).start();
    let mut resident = rooms::Client::on_worker(baton.public, 1);
    resident.join("other");
    let mut member = rooms::Client::on_worker(baton.public, 1);
    member.join("mine");
    let mut publisher = rooms::Client::on_worker(baton.public, 2);
    let brain = process::brain_of(baton.status().worker(1).guard_pid);

    // One turn reads both, and writes to the member last.
    process::stop(brain);
    publisher.publish("other", json!("before"));
    publisher.publish("mine", json!("here"));
    faults.arm_as("worker:write", "2 stop");
    process::go_on(brain);
    assert_eq!(member.message()["data"], "here");
    faults.wait_for("worker:write");
    member.tell(json!({ "id": 1, "join": "other" }));
    process::kill(brain);

    let joined = Position::parse(&member.reply(&json!(1))["ok"]["pos"]);
    let last = publisher.publish("other", json!("behind"));
    for offset in joined.offset + 1..=last.offset {
        let message = member.message();
        assert_eq!(Position::parse(&message["pos"]).offset, offset, "{message}");
    }
}

#[test]
fn worker_wrote_to_one_that_lags() {
    dies_while_one_reads_slowly("worker:catch-up", &[1, 30]);
}

#[test]
fn worker_fetched_what_is_owed_and_did_not_commit_it() {
    dies_while_one_reads_slowly("worker:materialise", &[1, 30]);
}

/// Not only SIGKILL. Who is stopped is killed as one that hangs.
#[test]
fn deaths_of_every_kind() {
    let faults = Faults::new();
    let config = "[timeouts]\nhung = \"2s\"\n";
    let baton = faults.builder().config(config).start();
    let before = baton.sockets();
    let traffic = Traffic::start(baton.public);
    for point in ["worker:step", "worker:write", "master:append", "master:ack"] {
        for how in ["1 abort", "1 segv", "1 stop"] {
            faults.arm_as(point, how);
            faults.wait_for(point);
            traffic.go_on(2);
        }
    }
    traffic.stop();
    leaves_nothing(&baton, &before);
}

/// The guard dies, its brain becomes the guard, and the next brain dies as it takes over.
#[test]
fn a_brain_dies_that_has_a_new_guard() {
    let faults = Faults::new();
    let baton = faults.builder().start();
    let traffic = Traffic::start(baton.public);
    let status = baton.status();
    // These points only a new brain passes: no old one may die before its guard does.
    for (guard, point) in [
        (status.worker(1).guard_pid, "worker:recover"),
        (status.worker(2).guard_pid, "worker:recover-each"),
        (status.master_pid, "master:recover"),
    ] {
        faults.arm(point, 1);
        process::kill(guard);
        faults.wait_for(point);
        traffic.go_on(3);
    }
    traffic.stop();
}

/// What has neither guard nor brain any more is lost, and no more than that: what it had not taken is
/// served by another, the other worker notices nothing, and there is a new one.
fn dies_wholly(point: &str, victim: impl Fn(&harness::status::Worker) -> i32) {
    let faults = Faults::new();
    let baton = faults.builder().start();
    let mut lost = rooms::Client::on_worker(baton.public, 1);
    let mut kept = rooms::Client::on_worker(baton.public, 2);
    for client in [&mut lost, &mut kept] {
        client.join("r");
    }
    let status = baton.status();
    faults.arm(point, 1);
    process::kill(victim(status.worker(1)));
    faults.wait_for(point);
    assert_eq!(lost.close_code(), 1006);
    for _ in 0..20 {
        assert_eq!(http::get(baton.public, "/healthz").status, 200);
    }
    kept.publish("r", json!("still here"));
    assert_eq!(kept.message()["data"], "still here");
    let new = baton.status_when("there is a new worker 1", |now| {
        now.ready().len() == 2 && now.worker(1).guard_pid != status.worker(1).guard_pid
    });
    assert_eq!(new.worker(2).pid, status.worker(2).pid);
    // The dead one is counted among the members no more.
    eventually("one is in the room", || {
        kept.ok(json!({ "who": "r" }))["count"] == 1
    });
}

#[test]
fn worker_dies_as_it_becomes_a_guard() {
    dies_wholly("worker:exec", |worker| worker.guard_pid);
}

#[test]
fn worker_has_become_a_guard_and_has_no_brain_yet() {
    dies_wholly("worker:guard", |worker| worker.guard_pid);
}

#[test]
fn the_guard_of_a_dead_brain_dies_before_there_is_another() {
    dies_wholly("worker:guard", |worker| worker.pid);
}

/// A worker is started by a brain that dies of it: none is left that nobody knows, and the order is
/// carried out.
#[test]
fn master_dies_as_it_starts_a_worker() {
    for point in ["master:spawn", "master:spawned"] {
        let faults = Faults::new();
        let baton = faults.builder().start();
        let traffic = Traffic::start(baton.public);
        faults.arm(point, 1);
        // Whoever ordered it is not answered.
        let _ = baton.run(&["scale", "3"]);
        assert!(faults.is_reached(point));
        baton.status_when("there are three", |status| status.ready().len() == 3);
        traffic.go_on(3);
        traffic.stop();
        // Two of the master, and two of each worker.
        eventually("no process is left over", || baton.processes().len() == 8);
    }
}

/// In these two everything is as above, but that one thing is done in the naive way: so the tests
/// above would notice.
#[test]
fn without_the_kernels_counters_a_stream_breaks() {
    for naive in [false, true] {
        let faults = Faults::new();
        let said = if naive { "truth" } else { "" };
        let builder = faults.builder().workers(1);
        let baton = builder.environment("BATON_NAIVE", said).start();
        let mut client = WebSocket::connect(baton.public, "/echo");
        client.text("first");
        assert_eq!(client.receive_text(), "first");
        // The brain that dies has written it, the next one does not know.
        faults.arm("worker:write", 1);
        client.text("second");
        faults.wait_for("worker:write");
        client.text("third");
        let mut echoes = 1;
        while client.receive_text() != "third" {
            echoes += 1;
        }
        assert_eq!(echoes, if naive { 3 } else { 2 });
    }
}

#[test]
fn outside_of_the_record_a_message_is_published_twice() {
    for naive in [false, true] {
        let faults = Faults::new();
        let said = if naive { "publish" } else { "" };
        let builder = faults.builder().workers(1);
        let baton = builder.environment("BATON_NAIVE", said).start();
        let mut member = rooms::Client::connect(baton.public);
        member.join("r");
        faults.arm("worker:publish", 1);
        member.tell(json!({ "send": "r", "data": "once" }));
        faults.wait_for("worker:publish");
        assert_eq!(member.message()["data"], "once");
        member.publish("r", json!("behind"));
        let expected = if naive { "once" } else { "behind" };
        assert_eq!(member.message()["data"], expected);
    }
}
