//! What rooms retain, and clients that come back: nothing is missed and nothing comes twice, whatever
//! happens meanwhile.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use harness::faults::Faults;
use harness::load::random::Random;
use harness::rooms::{Client, Position};
use harness::websocket::WebSocket;
use harness::{Baton, eventually, process};
use serde_json::{Value, json};

const RETAIN: &str = "[[room]]\nmatch = \"few.*\"\nhistory = 5\n\
                      [[room]]\nmatch = \"one.*\"\nhistory = 1\n\
                      [[room]]\nmatch = \"chat.*\"\nhistory = 100\n\
                      [[room]]\nmatch = \"stream\"\nhistory = 100000\nhistory_bytes = \"16 MiB\"\n";

fn baton() -> Baton {
    Baton::builder().config(RETAIN).start()
}

fn publish(client: &mut Client, room: &str, numbers: std::ops::Range<u64>) -> Position {
    let positions: Vec<_> = numbers.map(|n| client.publish(room, json!(n))).collect();
    positions.last().expect("some").clone()
}

fn back(position: &Position, by: u64) -> String {
    format!("{}:{}", position.epoch, position.offset - by)
}

/// Joins as this says: the data of what comes before the answer, and the answer.
#[track_caller]
fn join(client: &mut Client, mut object: Value) -> (Vec<Value>, Value) {
    object["id"] = "join".into();
    client.tell(object);
    let mut before = Vec::new();
    loop {
        let said = client.read();
        if said["id"] == "join" {
            assert!(said["ok"].is_object(), "{said}");
            return (before, said["ok"].clone());
        }
        before.push(said["data"].clone());
    }
}

#[test]
fn what_was_missed_comes_before_the_answer() {
    let baton = baton();
    let mut sender = Client::on_worker(baton.public, 1);
    sender.join("chat.a");
    let seen = publish(&mut sender, "chat.a", 0..10);
    let last = publish(&mut sender, "chat.a", 10..30);
    // On the worker that holds the room, and on the one that does not yet.
    for worker in [1, 2, 2] {
        let mut client = Client::on_worker(baton.public, worker);
        let since = json!({ "join": "chat.a", "since": seen.to_string() });
        let (missed, ok) = join(&mut client, since);
        assert_eq!(missed, (10..30).map(Value::from).collect::<Vec<_>>());
        assert_eq!(ok["recovered"], true);
        assert_eq!(ok["pos"], last.to_string());
        let since = json!({ "join": "chat.a", "since": last.to_string() });
        let (missed, ok) = join(&mut Client::on_worker(baton.public, worker), since);
        assert_eq!((missed.len(), &ok["recovered"]), (0, &json!(true)));
        client.nothing();
    }
}

#[test]
fn what_cannot_be_recovered_is_said() {
    let baton = baton();
    let mut sender = Client::on_worker(baton.public, 1);
    let last = publish(&mut sender, "few.a", 0..10);
    let epoch: u64 = last.epoch[1..].parse().unwrap();
    for (since, recovered) in [
        (back(&last, 6), false),
        (back(&last, 5), true),
        (back(&last, 0), true),
        (format!("{}:{}", last.epoch, last.offset + 1), false),
        (format!("e{}:{}", epoch + 1, last.offset), false),
    ] {
        let mut client = Client::on_worker(baton.public, 2);
        let (missed, ok) = join(&mut client, json!({ "join": "few.a", "since": since }));
        assert_eq!(ok["recovered"], recovered, "{since}");
        assert_eq!(ok["pos"], last.to_string());
        assert!(recovered || missed.is_empty());
        // Live from here on, once.
        let (missed, _) = join(&mut client, json!({ "join": "few.a", "since": since }));
        assert!(missed.is_empty(), "it is in the room already");
    }
    for since in [json!("3:7"), json!("e3:-1"), json!(7), json!("e3")] {
        let mut client = Client::connect(baton.public);
        assert_eq!(
            client.error(json!({ "join": "few.a", "since": since })),
            "bad_request"
        );
    }
    // A room that retains nothing: only who has missed nothing has recovered.
    let last = publish(&mut sender, "other", 0..3);
    for (by, recovered) in [(0, true), (1, false)] {
        let mut client = Client::on_worker(baton.public, 2);
        let since = json!({ "join": "other", "since": back(&last, by) });
        assert_eq!(join(&mut client, since).1["recovered"], recovered);
    }
}

#[test]
fn the_last_value_comes_with_the_join() {
    let baton = baton();
    let mut sender = Client::on_worker(baton.public, 1);
    let last = publish(&mut sender, "one.rate", 0..7);
    for worker in [1, 2] {
        let mut client = Client::on_worker(baton.public, worker);
        let wish = json!({ "join": "one.rate", "last": true });
        let (before, ok) = join(&mut client, wish);
        assert_eq!(
            (before, &ok["pos"]),
            (vec![json!(6)], &json!(last.to_string()))
        );
        assert!(ok.get("recovered").is_none(), "{ok}");
        // Who has it already does not get it again.
        let mut client = Client::on_worker(baton.public, worker);
        let wish = json!({ "join": "one.rate", "last": true, "since": last.to_string() });
        assert_eq!(join(&mut client, wish).0, [] as [Value; 0]);
        // Who was away for too long does.
        let mut client = Client::on_worker(baton.public, worker);
        let wish = json!({ "join": "one.rate", "last": true, "since": back(&last, 4) });
        let (before, ok) = join(&mut client, wish);
        assert_eq!((before, &ok["recovered"]), (vec![json!(6)], &json!(false)));
    }
    let (before, _) = join(&mut sender, json!({ "join": "one.new", "last": true }));
    assert!(before.is_empty());
}

/// A ticker that never rests: the last value and what follows it are one sequence.
#[test]
fn the_last_value_and_what_follows_have_no_seam() {
    let baton = baton();
    let ends = Arc::new(AtomicBool::new(false));
    let to = baton.public;
    let ticker = thread::spawn({
        let ends = ends.clone();
        move || {
            let mut sender = Client::on_worker(to, 1);
            let mut number = 0;
            while !ends.load(Ordering::Relaxed) {
                number += 1;
                sender.publish("one.rate", json!(number));
            }
        }
    });
    for _ in 0..40 {
        let mut client = Client::on_worker(to, 2);
        client.tell(json!({ "id": 1, "join": "one.rate", "last": true }));
        let mut last = None;
        let mut messages = 0;
        while messages < 20 {
            let said = client.read();
            if let Some(ok) = said.get("ok") {
                let position = Position::parse(&ok["pos"]);
                assert!(last.is_none_or(|last| last == position.offset), "{ok}");
                last = Some(position.offset);
            } else {
                let offset = Position::parse(&said["pos"]).offset;
                assert!(last.is_none_or(|last| offset == last + 1), "{said}");
                last = Some(offset);
                messages += 1;
            }
        }
    }
    ends.store(true, Ordering::Relaxed);
    ticker.join().unwrap();
}

#[test]
fn history_comes_in_pages() {
    let baton = baton();
    let mut sender = Client::on_worker(baton.public, 1);
    let last = publish(&mut sender, "chat.a", 0..130);
    // It need not be in the room, and the room need not be known to its worker.
    let mut client = Client::on_worker(baton.public, 2);
    let (mut all, mut before) = (Vec::new(), None);
    loop {
        let mut wish = json!({ "history": "chat.a", "limit": 40 });
        if let Some(before) = before {
            wish["before"] = before;
        }
        let messages = client.ok(wish)["messages"].clone();
        let messages = messages.as_array().unwrap();
        let Some(first) = messages.first() else { break };
        assert!(messages.len() <= 40);
        assert_eq!(first["room"], "chat.a");
        assert_eq!(first["from"], sender.cid());
        before = Some(first["pos"].clone());
        all.splice(0..0, messages.iter().map(|m| m["data"].clone()));
    }
    assert_eq!(all, (30..130).map(Value::from).collect::<Vec<_>>());
    client.nothing();
    let newest = client.ok(json!({ "history": "chat.a", "limit": 1 }));
    assert_eq!(newest["messages"][0]["pos"], last.to_string());
    let page = client.ok(json!({ "history": "chat.a" }));
    assert_eq!(page["messages"].as_array().unwrap().len(), 50);
    for nothing in [
        json!({ "history": "chat.never" }),
        json!({ "history": "other" }),
        json!({ "history": "chat.a", "before": "e1:5" }),
    ] {
        assert_eq!(client.ok(nothing)["messages"], json!([]));
    }
    for limit in [json!(0), json!(-1), json!("7")] {
        let wish = json!({ "history": "chat.a", "limit": limit });
        assert_eq!(client.error(wish), "bad_request");
    }
    // Who only looked holds no room.
    baton.status_when("no room is held by worker 2", |status| {
        status.worker(2).rooms == 0
    });
}

#[test]
fn a_page_is_bounded_by_its_bytes() {
    let baton = baton();
    let mut sender = Client::connect(baton.public);
    let large = "x".repeat(60_000);
    for number in 0..8 {
        sender.publish("chat.a", json!([number, large]));
    }
    let page = sender.ok(json!({ "history": "chat.a" }));
    let messages = page["messages"].as_array().unwrap();
    assert!((1..=5).contains(&messages.len()), "{}", messages.len());
    assert_eq!(messages.last().unwrap()["data"][0], 7);
}

#[test]
fn what_is_retained_outlives_every_brain_and_a_reload() {
    let baton = baton();
    let mut sender = Client::on_worker(baton.public, 1);
    let seen = publish(&mut sender, "chat.a", 0..10);
    let status = baton.status();
    process::kill(status.master_brain_pid);
    publish(&mut sender, "chat.a", 10..20);
    for worker in &status.workers {
        process::kill(process::brain_of(worker.guard_pid));
    }
    publish(&mut sender, "chat.a", 20..30);
    baton.expect(&["reload"], 0);
    publish(&mut sender, "chat.a", 30..40);
    let mut client = Client::on_worker(baton.public, 2);
    let (missed, ok) = join(
        &mut client,
        json!({ "join": "chat.a", "since": seen.to_string() }),
    );
    assert_eq!(ok["recovered"], true);
    assert_eq!(missed, (10..40).map(Value::from).collect::<Vec<_>>());
}

#[test]
fn a_reload_takes_up_what_rooms_retain() {
    let baton = baton();
    let mut client = Client::connect(baton.public);
    publish(&mut client, "chat.a", 0..50);
    baton.write_config("[[room]]\nmatch = \"chat.*\"\nhistory = 3\n");
    baton.expect(&["reload"], 0);
    let page = client.ok(json!({ "history": "chat.a" }));
    assert_eq!(page["messages"].as_array().unwrap().len(), 3);
}

#[test]
fn a_retry_with_the_same_key_is_not_published_again() {
    let baton = baton();
    let mut member = Client::on_worker(baton.public, 2);
    member.join("r");
    let mut sender = Client::on_worker(baton.public, 1);
    let wish = json!({ "send": "r", "key": "k1", "data": "once" });
    let first = sender.ok(wish.clone());
    for round in 0..3 {
        assert_eq!(sender.ok(wish.clone()), first);
        if round == 0 {
            process::kill(baton.status().master_brain_pid);
        } else {
            baton.expect(&["reload"], 0);
        }
    }
    // Another's key, or one of another room, is another.
    assert_ne!(member.ok(wish), first);
    sender.ok(json!({ "send": "other", "key": "k1", "data": "once" }));
    sender.publish("r", json!("last"));
    let said: Vec<Value> = (0..3).map(|_| member.message()["data"].clone()).collect();
    assert_eq!(said, [json!("once"), json!("once"), json!("last")]);
    assert_eq!(
        sender.error(json!({ "send": "r", "key": "k".repeat(65), "data": 1 })),
        "bad_request"
    );
}

/// A client that takes messages in batches: what it hears, and how many came with others.
struct Batches {
    socket: WebSocket,
    together: usize,
}

impl Batches {
    fn hear(&mut self, count: u64) -> Vec<Value> {
        let mut all = Vec::new();
        while (all.len() as u64) < count {
            match serde_json::from_str(&self.socket.receive_text()).unwrap() {
                Value::Array(some) => {
                    assert!(some.len() > 1, "one alone");
                    self.together += some.len();
                    all.extend(some);
                }
                one => all.push(one),
            }
        }
        assert_eq!(all.len() as u64, count);
        all
    }
}

#[test]
fn messages_that_come_together_come_in_one_frame() {
    let faults = Faults::new();
    let baton = faults.builder().config(RETAIN).start();
    let mut sender = Client::on_worker(baton.public, 2);
    let mut next = publish(&mut sender, "chat.a", 0..10).offset - 9;
    let mut client = loop {
        let mut socket = WebSocket::connect(baton.public, "/rooms?batch=1");
        let hello: Value = serde_json::from_str(&socket.receive_text()).unwrap();
        if hello["hello"]["worker"] == 1 {
            let together = 0;
            break Batches { socket, together };
        }
    };
    let since =
        sender.ok(json!({ "history": "chat.a", "limit": 10 }))["messages"][0]["pos"].clone();
    let wish = json!({ "id": 1, "join": "chat.a", "since": since });
    client.socket.text(&wish.to_string());
    let said = client.hear(10);
    assert_eq!(client.together, 9, "all that was missed in one frame");
    assert_eq!(said[9]["ok"]["recovered"], true);
    next += 10;
    for round in 0..4 {
        client.together = 0;
        let brain = baton.status().worker(1).pid;
        if round % 2 == 1 {
            faults.arm(["worker:materialise", "worker:catch-up"][round / 2], 1);
        }
        process::stop(brain);
        let last = publish(&mut sender, "chat.a", 0..200).offset;
        process::go_on(brain);
        for said in client.hear(200) {
            assert_eq!(Position::parse(&said["pos"]).offset, next);
            next += 1;
        }
        assert_eq!(next, last + 1);
        assert!(client.together > 100, "{} together", client.together);
        // It is so after a move, too; and one alone is no array.
        baton.expect(&["reload"], 0);
        sender.publish("chat.a", json!("alone"));
        assert_eq!(client.hear(1)[0]["data"], "alone");
        next += 1;
    }
}

/// What one that comes back again and again has seen of the stream.
struct Returning {
    to: SocketAddr,
    random: Random,
    epoch: String,
    last: u64,
    /// What all together have heard, by which the sender keeps pace.
    heard: Arc<AtomicU64>,
}

impl Returning {
    /// Joins with what it has, hears a while and is cut off.
    fn once(&mut self) {
        // Sometimes it is gone before it has heard anything.
        let left = self.random.below(60);
        self.hear(left, u64::MAX);
    }

    /// So many objects, or until it has this message.
    fn hear(&mut self, mut left: u64, last: u64) {
        let mut client = Client::connect(self.to);
        let since = format!("{}:{}", self.epoch, self.last);
        client.tell(json!({ "id": "join", "join": "stream", "since": since }));
        let mut joined = false;
        while left > 0 && self.last < last {
            left -= 1;
            let said = client.read();
            if said["id"] == "join" {
                let position = Position::parse(&said["ok"]["pos"]);
                assert_eq!(said["ok"]["recovered"], true, "{said}");
                assert_eq!(position.offset, self.last, "{said}");
                joined = true;
                continue;
            }
            let position = Position::parse(&said["pos"]);
            assert_eq!(position.offset, self.last + 1, "joined: {joined}: {said}");
            assert_eq!(said["data"], position.offset, "{said}");
            self.last = position.offset;
            self.heard.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Clients that are cut off so many times together while a room is never silent, brains die and
/// workers are replaced: each message comes to each of them once, in order.
fn cuts(count: u64) {
    const CLIENTS: u64 = 6;
    let baton = baton();
    let to = baton.public;
    let mut sender = Client::connect(to);
    // The sender hears nothing: it would have to keep all of it.
    let first = Client::connect(to).join("stream");
    let (ends, done) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let heard = Arc::new(AtomicU64::new(0));
    let sender = thread::spawn({
        let (ends, heard) = (ends.clone(), heard.clone());
        move || {
            let mut number = 0;
            while !ends.load(Ordering::Relaxed) {
                // Not so far ahead that what they miss is more than can be recovered at once.
                if number > heard.load(Ordering::Relaxed) / CLIENTS + 300 {
                    sender.ok(json!({ "ping": true }));
                    continue;
                }
                number += 1;
                let position = sender.publish("stream", json!(number));
                assert_eq!(position.offset, number);
            }
            number
        }
    });
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let mut returning = Returning {
                to,
                random: Random::of(11, number),
                epoch: first.epoch.clone(),
                last: first.offset,
                heard: heard.clone(),
            };
            let done = done.clone();
            thread::spawn(move || {
                while done.fetch_add(1, Ordering::Relaxed) < count {
                    returning.once();
                }
                returning
            })
        })
        .collect();
    let mut random = Random::new(5);
    let mut events = 0;
    while done.load(Ordering::Relaxed) < count {
        events += 1;
        let status = baton.status();
        match random.below(3) {
            0 => process::kill(status.master_brain_pid),
            1 => {
                let worker = &status.workers[random.below(2) as usize];
                process::kill(process::brain_of(worker.guard_pid));
            }
            _ => _ = baton.expect(&["reload"], 0),
        }
        let before = done.load(Ordering::Relaxed);
        eventually("clients come back", || {
            done.load(Ordering::Relaxed) >= (before + 20).min(count)
        });
    }
    let clients: Vec<Returning> = clients.into_iter().map(|t| t.join().unwrap()).collect();
    ends.store(true, Ordering::Relaxed);
    let sent = sender.join().unwrap();
    for mut returning in clients {
        // The rest, to the last message.
        returning.hear(u64::MAX, sent);
        assert_eq!(returning.last, sent);
    }
    println!("{count} cuts, {sent} messages, {events} deaths and reloads");
}

#[test]
fn clients_that_are_cut_off_miss_nothing_and_get_nothing_twice() {
    cuts(400);
}

#[test]
#[ignore = "takes minutes"]
fn ten_thousand_cuts() {
    cuts(10_000);
}

/// Dies at the point while clients come back to rooms that their worker does not hold.
fn dies_at(point: &str) {
    let faults = Faults::new();
    let baton = faults.builder().config(RETAIN).start();
    let mut sender = Client::on_worker(baton.public, 1);
    for passes in [1, 2, 3] {
        let room = format!("chat.{passes}");
        let seen = publish(&mut sender, &room, 0..1);
        publish(&mut sender, &room, 1..5);
        faults.arm(point, passes);
        let mut number = 0;
        while !faults.is_reached(point) {
            let mut client = Client::on_worker(baton.public, 2);
            let since = json!({ "join": room, "since": seen.to_string() });
            let (missed, ok) = join(&mut client, since);
            assert_eq!(missed.len(), 4 + number);
            assert_eq!(ok["recovered"], true);
            sender.publish(&room, json!("live"));
            assert_eq!(client.message()["data"], "live");
            client.nothing();
            number += 1;
            // The next one comes to a worker that does not hold the room any more.
            drop(client);
            baton.status_when("the room is given up", |status| status.worker(2).rooms == 0);
        }
    }
}

#[test]
fn worker_dies_when_a_room_is_held_for_one_that_comes_back() {
    dies_at("worker:held");
}

#[test]
fn worker_dies_before_a_recovery_counts() {
    dies_at("worker:step");
}

#[test]
fn worker_dies_when_a_recovery_counts() {
    dies_at("worker:commit");
}

#[test]
fn master_dies_before_a_message_is_retained() {
    dies_at("master:append");
}

#[test]
fn master_dies_in_the_record_that_retains_a_message() {
    dies_at("master:journal-store");
}
