//! What comes between the messages that a room holds back, to give them together: decisions of a
//! moderator, and messages that nobody can deliver.

use harness::faults::Faults;
use harness::rooms::{Client, MSGPACK, Position, SUBPROTOCOL};
use harness::tokens::{with_key, with_rights};
use harness::{Baton, eventually, http};
use serde_json::{Value, json};

const CONFIG: &str = "[auth]\nanonymous = \"full\"\n[limits]\nshort_lives = 1000\n\
    [[room]]\nmatch = \"r\"\nmerge = \"200ms\"\nhistory = 100\n";

fn user(baton: &Baton, worker: u64, name: &str) -> Client {
    let mut rights = vec!["join", "send", "history"];
    if name == "moderator" {
        rights.push("moderate");
    }
    let token = with_rights(name, json!({ "*": rights }));
    Client::on_worker(baton.public, worker).shown(&token)
}

/// Members of `r`: one that speaks each format on each worker, and one that takes batches.
fn members(baton: &Baton) -> Vec<Client> {
    let mut members = Vec::new();
    for (path, subprotocol) in [
        ("/rooms", SUBPROTOCOL),
        ("/rooms", MSGPACK),
        ("/rooms?batch=1", SUBPROTOCOL),
    ] {
        for worker in [1, 2] {
            let mut client = Client::opened_on(worker, || {
                Client::open(baton.public, path, subprotocol, Default::default())
            });
            client.join("r");
            members.push(client);
        }
    }
    members
}

/// What it is told next, up to and with what says `last`.
#[track_caller]
fn heard(client: &mut Client, last: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    while all.last() != Some(last) {
        match client.event() {
            Value::Array(batch) => all.extend(batch),
            one => all.push(one),
        }
    }
    all
}

/// While three messages of a user wait, a moderator decides. All are told in that order, and what is decided
/// ends nothing that was said before. At `point`, a brain dies in the middle of it.
fn decides(baton: &Baton, round: usize, dies: impl Fn(), lives: impl Fn()) {
    let mut moderator = user(baton, 1, "moderator");
    let name = format!("u{round}");
    let mut speaker = user(baton, 2, &name);
    speaker.join("r");
    let mut members = members(baton);
    let last = json!({ "room": "r", "unbanned": &name });
    let positions: Vec<Position> = (0..3).map(|n| speaker.publish("r", json!(n))).collect();
    dies();
    let deleted = positions[1].to_string();
    moderator.ok(json!({ "delete": &deleted, "room": "r" }));
    let fourth = speaker.publish("r", json!("fourth"));
    moderator.ok(json!({ "mute": &name, "room": "r" }));
    assert_eq!(speaker.error(json!({"send": "r", "data": 1})), "forbidden");
    moderator.publish("r", json!("muted"));
    moderator.ok(json!({ "unmute": &name, "room": "r" }));
    speaker.publish("r", json!("sixth"));
    moderator.ok(json!({ "ban": &name, "room": "r" }));
    let seventh = moderator.publish("r", json!("banned"));
    let history = moderator.ok(json!({ "history": "r", "limit": 7 }));
    moderator.ok(json!({ "clear": "r" }));
    moderator.ok(json!({ "unban": &name, "room": "r" }));
    lives();
    // Positions are one behind the other, with the decisions between them.
    let said = |offset: u64, from: &str, data: Value| {
        let position = Position {
            offset: positions[0].offset + offset,
            ..positions[0].clone()
        };
        json!({ "room": "r", "pos": position.to_string(), "from": from, "data": data })
    };
    let told = |what: &str, whom: &str| json!({ "room": "r", what: whom });
    let expected = [
        said(0, &name, json!(0)),
        said(1, &name, json!(1)),
        said(2, &name, json!(2)),
        told("deleted", &deleted),
        said(3, &name, json!("fourth")),
        told("muted", &name),
        said(4, "moderator", json!("muted")),
        told("unmuted", &name),
        said(5, &name, json!("sixth")),
        told("banned", &name),
        said(6, "moderator", json!("banned")),
        told("cleared", &seventh.to_string()),
        last.clone(),
    ];
    assert_eq!(fourth.to_string(), expected[4]["pos"]);
    for member in &mut members {
        assert_eq!(heard(member, &last), expected);
    }
    // Who has to leave is given what was said before, and nothing that is said then.
    let banned = told("banned", &name);
    assert_eq!(heard(&mut speaker, &banned), expected[..10]);
    speaker.nothing();
    assert_eq!(speaker.error(json!({ "leave": "r" })), "not_joined");
    // What was deleted while it waited is not shown to who comes later.
    let mut kept: Vec<Value> = [0, 1, 2, 4, 6, 8, 10].map(|n| expected[n].clone()).into();
    kept[1] = told("deleted", &deleted);
    assert_eq!(history["messages"], Value::from(kept));
    assert_eq!(
        moderator.ok(json!({ "history": "r" })),
        json!({ "messages": [] })
    );
}

#[test]
fn a_moderator_decides_while_messages_wait() {
    let baton = with_key(Baton::builder().config(CONFIG)).start();
    decides(&baton, 0, || {}, || {});
}

#[test]
fn a_moderator_decides_while_messages_wait_and_brains_die() {
    let faults = Faults::new();
    let baton = with_key(faults.builder().config(CONFIG)).start();
    for (round, point) in [
        "worker:hold",
        "worker:fan-out",
        "worker:materialise",
        "worker:flushed",
        "worker:write",
        "worker:released",
        "master:append",
        "master:appended",
    ]
    .iter()
    .enumerate()
    {
        decides(
            &baton,
            round,
            || faults.arm(point, 1),
            || faults.wait_for(point),
        );
    }
}

/// Three brains of each worker die of it, with what waits before it and behind it.
#[test]
fn a_message_that_kills_among_those_that_wait_becomes_a_gap() {
    const MARKER: &str = "<poison>";
    let faults = Faults::new();
    let baton = with_key(faults.builder().config(CONFIG)).start();
    let mut members = members(&baton);
    let mut publisher = Client::connect(baton.public);
    faults.arm_as("worker:poison-log", MARKER);
    let said =
        ["first", "second", MARKER, "fourth"].map(|data| publisher.publish("r", json!(data)));
    let at = |n: usize| said[n].to_string();
    let message = |n: usize, data: &str| json!({ "room": "r", "pos": at(n), "from": publisher.cid(), "data": data });
    let gap = json!({ "from": at(2), "to": at(2), "why": "internal" });
    let expected = [
        message(0, "first"),
        message(1, "second"),
        json!({ "room": "r", "gap": gap }),
        message(3, "fourth"),
    ];
    for member in &mut members {
        assert_eq!(heard(member, &expected[3]), expected);
        member.nothing();
    }
    for worker in ["worker-1", "worker-2"] {
        let line = baton.wait_for_log(worker, "given up: message");
        assert!(line.contains(MARKER) && line.contains("\"r\""), "{line}");
    }
    eventually("it is counted, for each member", || {
        let text = http::get(baton.admin, "/metrics").text();
        let lines = text.lines().filter(|line| {
            line.starts_with("baton_gap_messages_total{") && line.contains("\"internal\"")
        });
        let counts = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<usize>().ok());
        counts.sum::<usize>() == members.len()
    });
}
