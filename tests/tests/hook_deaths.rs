//! While a back end is asked, brains die and connections move: what was asked is asked again, and
//! happens once.

use std::collections::BTreeSet;
use std::thread;

use harness::back_end::{BackEnd, hook, yes};
use harness::faults::Faults;
use harness::rooms::Client;
use harness::{Baton, baton, eventually, process};
use serde_json::json;

fn builder(config: &str) -> baton::Builder {
    Baton::builder().config(config)
}

#[test]
fn a_brain_that_dies_while_it_asks() {
    let back_end = BackEnd::start(yes);
    let on = "[\"connect\", \"join\", \"send\"]";
    let more = "timeout = \"20s\"";
    let baton = builder(&hook(&back_end.url(), on, more)).workers(1).start();
    let mut member = Client::connect(baton.public);
    member.join("r");
    let mut client = Client::connect(baton.public);
    let mut joins = Client::connect(baton.public);
    let sockets = baton.sockets();
    for n in 0..3 {
        back_end.hold();
        let before = back_end.events().len();
        client.tell(json!({"id": n, "send": "r", "data": n}));
        // What comes behind it, and in pieces, waits.
        client.tell(json!({"id": 100 + n, "ping": true}));
        joins.tell(json!({"id": n, "join": format!("j{n}")}));
        let public = baton.public;
        let connects = thread::spawn(move || Client::connect(public));
        let mut asked = Vec::new();
        eventually("all are asked", || {
            asked = back_end.events()[before..].to_vec();
            asked.len() == 3
        });
        let pid = baton.status().worker(1).pid;
        process::kill(pid);
        eventually("the brain is gone", || !process::is_alive(pid));
        for event in &asked {
            back_end.wait_for("the same again", 2, |other| other["ask"] == event["ask"]);
        }
        back_end.release();
        for id in [n, 100 + n] {
            assert!(client.reply(&json!(id))["ok"].is_object());
        }
        assert!(joins.reply(&json!(n))["ok"].is_object());
        let mut new = connects.join().expect("it is let in");
        new.publish("other", json!(n));
        assert_eq!(member.message()["data"], json!(n));
        member.nothing();
    }
    // Whatever dead brains had open is closed.
    back_end.hold();
    eventually("no socket is left", || baton.sockets()[1] <= sockets[1] + 4);
    back_end.release();
}

#[test]
fn deaths_at_every_place() {
    let faults = Faults::new();
    let back_end = BackEnd::start(yes);
    let on = "[\"connect\", \"join\", \"send\"]";
    let config = hook(&back_end.url(), on, "timeout = \"20s\"");
    let baton = faults.builder().config(&config).workers(1).start();
    let mut member = Client::connect(baton.public);
    member.join("r");
    let mut client = Client::connect(baton.public);
    let points = [
        "worker:asking",
        "worker:answered",
        "worker:step",
        "worker:publish",
        "worker:commit",
    ];
    for (n, point) in points.into_iter().enumerate() {
        faults.arm(point, 1);
        client.publish("r", json!(n));
        faults.wait_for(point);
        assert_eq!(member.message()["data"], json!(n), "{point}");
        member.nothing();
        if point == "worker:asking" || point == "worker:answered" {
            faults.arm(point, 1);
            let mut new = Client::connect(baton.public);
            faults.wait_for(point);
            faults.arm(point, 1);
            new.join("r");
            faults.wait_for(point);
            new.nothing();
            new.socket.close();
        }
    }
}

#[test]
fn reload_and_scale_while_it_is_asked() {
    let back_end = BackEnd::start(yes);
    let on = "[\"connect\", \"join\", \"send\"]";
    let baton = builder(&hook(
        &back_end.url(),
        on,
        "timeout = \"30s\"\nin_flight = 16",
    ))
    .start();
    let mut member = Client::connect(baton.public);
    member.join("r");
    let mut clients: Vec<_> = (0..10).map(|_| Client::connect(baton.public)).collect();
    for (round, command) in [
        &["reload"][..],
        &["scale", "1"],
        &["scale", "3"],
        &["reload"],
    ]
    .into_iter()
    .enumerate()
    {
        back_end.hold();
        let before = back_end.events().len();
        for (n, client) in clients.iter_mut().enumerate() {
            client.tell(json!({"id": round, "send": "r", "data": [round, n]}));
        }
        let public = baton.public;
        let connects = thread::spawn(move || Client::connect(public));
        eventually("all are asked", || back_end.events().len() >= before + 11);
        baton.expect(command, 0);
        back_end.release();
        for client in &mut clients {
            let reply = client.reply(&json!(round));
            assert!(reply["ok"].is_object(), "{reply}");
        }
        connects
            .join()
            .expect("it is let in")
            .publish("other", json!(1));
        let got: BTreeSet<_> = (0..10)
            .map(|_| member.message()["data"].to_string())
            .collect();
        assert_eq!(got.len(), 10, "{got:?}");
        member.nothing();
    }
}

#[test]
fn under_kills_nothing_is_lost_or_doubled() {
    let back_end = BackEnd::start(|event| json!({"allow": event["data"][1].as_u64() != Some(7)}));
    let baton = builder(&hook(&back_end.url(), "[\"send\"]", "timeout = \"30s\"")).start();
    let mut member = Client::connect(baton.public);
    member.join("r");
    let public = baton.public;
    let senders: Vec<_> = (0..8)
        .map(|s| {
            thread::spawn(move || {
                let mut client = Client::connect(public);
                for n in 0..200 {
                    client.tell(json!({"id": n, "send": "r", "data": [s, n % 10, n]}));
                }
                for n in 0..200 {
                    let reply = client.reply(&json!(n));
                    assert_eq!(reply["error"].is_object(), n % 10 == 7, "{reply}");
                }
            })
        })
        .collect();
    for _ in 0..5 {
        let before = back_end.events().len();
        eventually("some more is asked", || {
            back_end.events().len() > before + 20 || senders.iter().all(|s| s.is_finished())
        });
        for worker in baton.status().workers {
            process::kill(worker.pid);
        }
    }
    baton.expect(&["reload"], 0);
    for sender in senders {
        sender.join().expect("all is answered");
    }
    let mut next = [0; 8];
    for _ in 0..8 * 180 {
        let data = &member.message()["data"];
        let (s, n) = (
            data[0].as_u64().unwrap() as usize,
            data[2].as_u64().unwrap(),
        );
        while next[s] % 10 == 7 {
            next[s] += 1;
        }
        assert_eq!(next[s], n, "of {s}");
        next[s] += 1;
    }
    member.nothing();
}

#[test]
fn an_answer_comes_too_late() {
    let back_end = BackEnd::start(yes);
    let baton = builder(&hook(
        &back_end.url(),
        "[\"send\"]",
        "timeout = \"20s\"\nin_flight = 16",
    ))
    .workers(1)
    .start();
    let mut member = Client::connect(baton.public);
    member.join("r");
    back_end.hold();
    for _ in 0..5 {
        let mut client = Client::connect(baton.public);
        client.tell(json!({"id": 1, "send": "r", "data": "late"}));
    }
    back_end.wait_for("all", 5, |_| true);
    let mut others: Vec<_> = (0..5).map(|_| Client::connect(baton.public)).collect();
    back_end.release();
    for other in &mut others {
        other.nothing();
    }
    // What was sent before its client went is sent.
    for _ in 0..5 {
        assert_eq!(member.message()["data"], "late");
    }
    member.nothing();
}

#[test]
fn what_two_brains_ask_about_is_paid_for_once() {
    let back_end = BackEnd::start(yes);
    let rates = "[rates]\nburst = \"1s\"\n[rates.connection]\nmessages = 1\n";
    let hook = hook(&back_end.url(), "[\"send\"]", "timeout = \"20s\"");
    let baton = builder(&(rates.to_owned() + &hook)).workers(1).start();
    let mut client = Client::connect(baton.public);
    back_end.hold();
    client.tell(json!({"id": 1, "send": "r", "data": 1}));
    back_end.wait_for("the question", 1, |event| event["event"] == "send");
    let pid = baton.status().worker(1).pid;
    process::kill(pid);
    back_end.wait_for("it again", 2, |event| event["event"] == "send");
    back_end.release();
    let reply = client.reply(&json!(1));
    assert!(reply["ok"].is_object(), "{reply}");
}
