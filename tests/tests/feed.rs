//! What baton says of itself in a room of its own, for operators: the counts go on over deaths and
//! reloads, and what happened is told.

use std::net::SocketAddr;

use harness::api::{TOKEN, with_api};
use harness::crowd::Crowd;
use harness::faults::Faults;
use harness::rooms::Client;
use harness::{Baton, eventually, http, process};
use serde_json::{Value, json};

const FEED: &str = "$baton";

fn operator(baton: &Baton) -> Client {
    let mut operator = Client::connect(baton.admin);
    operator.join(FEED);
    operator
}

/// What is said next.
#[track_caller]
fn next(operator: &mut Client) -> Value {
    let message = operator.message();
    assert_eq!(
        (&message["room"], &message["from"]),
        (&json!(FEED), &json!("baton"))
    );
    message["data"].clone()
}

/// What is said until it is as wanted.
#[track_caller]
fn until(operator: &mut Client, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    for _ in 0..30 {
        last = next(operator);
        if wanted(&last) {
            return last;
        }
    }
    panic!("{what}: {last:#}");
}

fn happened(said: &Value, what: &str) -> bool {
    said["events"]
        .as_array()
        .unwrap()
        .iter()
        .any(|event| event["what"] == what)
}

/// Numbers that never go back, with where they are.
fn counts(said: &Value, path: &str, into: &mut Vec<(String, u64)>) {
    match said {
        Value::Number(n) => into.extend(n.as_u64().map(|n| (path.to_owned(), n))),
        Value::Object(fields) => {
            for (name, value) in fields
                .iter()
                .filter(|(name, _)| *name != "connections" && *name != "rooms")
            {
                counts(value, &format!("{path}.{name}"), into);
            }
        }
        _ => {}
    }
}

#[track_caller]
fn none_went_back(before: &Value, after: &Value) {
    let (mut old, mut new) = (Vec::new(), Vec::new());
    counts(&before["totals"], "", &mut old);
    counts(&after["totals"], "", &mut new);
    for (path, before) in old {
        let after = new.iter().find(|(p, _)| *p == path);
        assert!(
            after.is_some_and(|(_, n)| *n >= before),
            "{path}: {before}, then {after:?}"
        );
    }
}

fn traffic(to: SocketAddr) {
    let mut reader = Client::connect(to);
    reader.join("r");
    let mut writer = Client::connect(to);
    for n in 0..10 {
        writer.publish("r", json!(n));
        reader.message();
    }
}

#[test]
fn operators_see_what_baton_does() {
    let baton = Baton::started();
    let mut operator = operator(&baton);
    let mut members: Vec<Client> = (0..3).map(|_| Client::connect(baton.public)).collect();
    members
        .iter_mut()
        .for_each(|member| _ = member.join("large"));
    members[0].join("small");
    traffic(baton.public);
    let said = until(&mut operator, "the traffic is counted", |said| {
        said["totals"]["deliveries"].as_u64() >= Some(10)
            && said["rooms"][0] == json!({"room": "large", "count": 3})
    });
    assert_eq!(
        said["rooms"][1],
        json!({"room": "small", "count": 1}),
        "{said:#}"
    );
    let totals = &said["totals"];
    assert!(totals["messages_in"].as_u64() >= Some(15), "{said:#}");
    assert!(totals["accepted"].as_u64() >= Some(6), "{said:#}");
    assert_eq!(totals["gaps"]["slow"], 0);
    assert_eq!(said["workers"].as_array().unwrap().len(), 2);
    for worker in said["workers"].as_array().unwrap() {
        assert_eq!(worker["state"], "ready");
        assert!(worker["memory_bytes"].as_u64() > Some(1 << 18), "{worker}");
        assert!(worker["age_s"].as_u64() < Some(600), "{worker}");
    }
    assert!(happened(&said, "start"));
    // Two clients are gone, who said so or not.
    let said = until(&mut operator, "who left is counted", |said| {
        let closes = said["totals"]["closes"].as_object().unwrap();
        closes.values().filter_map(Value::as_u64).sum::<u64>() >= 2
    });
    assert!(said["latency"]["delivery"]["count"].is_u64(), "{said:#}");
}

#[test]
fn counts_go_on_over_deaths_and_reloads() {
    let baton = Baton::started();
    let mut operator = operator(&baton);
    traffic(baton.public);
    let before = until(&mut operator, "the traffic is counted", |said| {
        said["totals"]["deliveries"].as_u64() >= Some(10)
    });
    for worker in baton.status().workers {
        process::kill(worker.pid);
    }
    let killed = until(&mut operator, "both went on", |said| {
        said["totals"]["recoveries"].as_u64() >= Some(2)
    });
    none_went_back(&before, &killed);
    assert!(happened(&killed, "recovery"));
    baton.expect(&["reload"], 0);
    let reloaded = until(&mut operator, "the reload is counted", |said| {
        said["totals"]["reloads"] == 1
    });
    none_went_back(&killed, &reloaded);
    assert!(happened(&reloaded, "reload"));
    process::kill(baton.status().master_brain_pid);
    let recovered = until(&mut operator, "the master went on", |said| {
        happened(said, "master-recovery")
    });
    none_went_back(&reloaded, &recovered);
    traffic(baton.public);
    until(&mut operator, "it counts on", |said| {
        said["totals"]["deliveries"].as_u64()
            >= recovered["totals"]["deliveries"].as_u64().map(|n| n + 10)
    });
}

/// A new worker that stands still takes none of those that the old one gives away.
#[test]
fn who_is_on_the_move_is_counted() {
    let faults = Faults::new();
    let config =
        "[limits]\nwindow = 16\n[timeouts]\nmove = \"1m\"\nhung = \"1m\"\nready = \"1m\"\n";
    let baton = faults.builder().config(config).start();
    // Worker 1 is replaced first.
    let mut operator = Client::on_worker(baton.admin, 2);
    operator.join(FEED);
    let mut crowd = Crowd::gather(&baton, 400);
    let number = |value: &Value| value.as_u64().unwrap();
    next(&mut operator);
    faults.arm_as("worker:arrive", "1 stop");
    let mut reload = baton.command(&["reload"]).spawn().unwrap();
    faults.wait_for("worker:arrive");
    let new = baton.stopped();
    for _ in 0..3 {
        let said = next(&mut operator);
        let (totals, workers) = (&said["totals"], said["workers"].as_array().unwrap());
        let held: u64 = workers.iter().map(|row| number(&row["connections"])).sum();
        let all = number(&totals["connections"]);
        assert_eq!(held + number(&totals["moving"]), all, "{said:#}");
        assert!(all > 400, "{said:#}");
    }
    process::go_on(new);
    assert!(reload.wait().unwrap().success());
    crowd.ask();
}

/// Who shows a token of the API sees what baton does where others need one for anything.
#[test]
fn a_token_of_the_api_lets_in() {
    let config = "[auth]\nanonymous = \"none\"\n";
    let baton = with_api(config).start();
    let mut guest = Client::connect(baton.admin);
    guest.tell(json!({"id": 1, "join": FEED}));
    assert_eq!(guest.close_code(), 4000);
    let mut one = Client::connect(baton.admin);
    assert_eq!(one.ok(json!({"auth": TOKEN})), json!({"user": "api"}));
    one.join(FEED);
    next(&mut one);
    // It does not expire, and goes along.
    baton.expect(&["reload"], 0);
    one.publish("r", json!(1));
    next(&mut one);
    let mut wrong = Client::connect(baton.admin);
    wrong.tell(json!({"id": 1, "auth": TOKEN.replace('0', "1")}));
    assert_eq!(wrong.close_code(), 4000);
    // For clients it is none.
    let mut public = Client::connect(baton.public);
    public.tell(json!({"id": 1, "auth": TOKEN}));
    assert_eq!(public.close_code(), 4000);
}

#[test]
fn only_operators_join_it_and_nobody_sends() {
    let baton = Baton::started();
    let mut guest = Client::connect(baton.public);
    assert_eq!(guest.error(json!({"join": FEED})), "forbidden");
    let mut operator = operator(&baton);
    for verb in ["send", "who", "history"] {
        let request = json!({verb: FEED, "data": 1});
        assert_eq!(guest.error(request.clone()), "forbidden");
        assert_eq!(operator.error(request), "forbidden");
    }
    next(&mut operator);
    operator.ok(json!({"leave": FEED}));
    assert!(http::get(baton.admin, "/").text().contains("operators.js"));
    eventually("nobody is in it any more", || {
        let status = baton.status();
        status.workers.iter().all(|worker| worker.rooms == 0)
    });
}
