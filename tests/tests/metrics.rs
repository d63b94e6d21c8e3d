//! `/metrics`, as a Prometheus reads it.

use std::collections::BTreeMap;
use std::path::Path;

use harness::api::{TOKEN, with_api};
use harness::rooms::Client;
use harness::{Baton, DEADLINE, eventually, http, process, socket};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Samples by name and labels.
type Samples = BTreeMap<String, f64>;

#[track_caller]
fn scrape(baton: &Baton) -> Samples {
    let answer = http::get(baton.admin, "/metrics");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let kind = answer.field("content-type").unwrap();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    let text = answer.text();
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

/// All of a name, whatever their labels.
fn sum(samples: &Samples, name: &str, label: &str) -> f64 {
    let is = |key: &str| key.split('{').next() == Some(name) && key.contains(label);
    samples
        .iter()
        .filter(|(key, _)| is(key))
        .map(|(_, value)| value)
        .sum()
}

/// What counts never goes back.
#[track_caller]
fn none_went_back(before: &Samples, after: &Samples) {
    let counts = |name: &&String| {
        let name = name.split('{').next().unwrap();
        ["_total", "_bucket", "_sum", "_count"]
            .iter()
            .any(|end| name.ends_with(end))
    };
    for name in before.keys().filter(counts) {
        let (old, new) = (before[name], after.get(name));
        assert!(
            new.is_some_and(|new| *new >= old),
            "{name}: {old}, then {new:?}"
        );
    }
}

fn traffic(baton: &Baton, messages: u64) {
    let mut reader = Client::connect(baton.public);
    reader.join("r");
    let mut writer = Client::connect(baton.public);
    for n in 0..messages {
        writer.publish("r", json!(n));
        reader.message();
    }
    writer.socket.close();
}

#[test]
fn counts_go_on_over_deaths_and_reloads() {
    let baton = Baton::started();
    traffic(&baton, 20);
    eventually("it is counted", || {
        let seen = scrape(&baton);
        sum(&seen, "baton_deliveries_total", "") >= 20.0
            && sum(&seen, "baton_messages_received_total", "") >= 21.0
            && sum(&seen, "baton_closed_connections_total", "peer_close") >= 1.0
            && sum(&seen, "baton_delivery_latency_seconds_count", "") >= 1.0
            && sum(&seen, "baton_handoff_latency_seconds_count", "") >= 1.0
    });
    let before = scrape(&baton);
    for worker in baton.status().workers {
        process::kill(worker.pid);
    }
    eventually("both went on", || {
        let seen = scrape(&baton);
        none_went_back(&before, &seen);
        sum(&seen, "baton_worker_recoveries_total", "") >= 2.0
    });
    let before = scrape(&baton);
    baton.expect(&["reload"], 0);
    let reloaded = scrape(&baton);
    none_went_back(&before, &reloaded);
    assert!(sum(&reloaded, "baton_reloads_total", "") == 1.0);
    process::kill(baton.status().master_brain_pid);
    eventually("the master went on", || {
        let seen = scrape(&baton);
        none_went_back(&reloaded, &seen);
        sum(&seen, "baton_master_recoveries_total", "") == 1.0
    });
    traffic(&baton, 5);
    let counted = sum(&reloaded, "baton_deliveries_total", "") + 5.0;
    eventually("it counts on", || {
        sum(&scrape(&baton), "baton_deliveries_total", "") >= counted
    });
    // A seat that is no more keeps what it had counted.
    let before = scrape(&baton);
    baton.expect(&["scale", "1"], 0);
    none_went_back(&before, &scrape(&baton));
}

#[test]
fn closes_are_counted_by_reason() {
    let baton = Baton::started();
    let seen = |reason: &str| {
        let label = format!("reason=\"{reason}\"");
        sum(&scrape(&baton), "baton_closed_connections_total", &label)
    };
    assert_eq!(seen("bad_request_line"), 0.0);
    http::exchange(baton.public, "nonsense\r\n\r\n");
    let mut client = Client::connect(baton.public);
    client.socket.binary(vec![1]);
    assert_eq!(client.close_code(), 1003);
    drop(client);
    eventually("both are counted", || {
        seen("bad_request_line") == 1.0 && seen("wrong_kind") == 1.0
    });
}

/// What finds no room in the kernel's backlog is dropped there, where no process of baton sees it.
#[test]
fn what_the_kernel_drops_is_counted() {
    let config = "[[listen]]\naddress = \"127.0.0.1:0\"\nrole = \"public\"\nbacklog = 1\n\
        [[listen]]\naddress = \"127.0.0.1:0\"\nrole = \"admin\"";
    let baton = Baton::builder()
        .config(config)
        .listeners_from_config()
        .start();
    let label = format!("listener=\"{}\"", baton.public);
    let seen = |name: &str| sum(&scrape(&baton), name, &label);
    assert_eq!(seen("baton_backlog_limit_connections"), 1.0);
    assert_eq!(seen("baton_backlog_drops_total"), 0.0);
    let brain = baton.status().master_brain_pid;
    process::stop(brain);
    let comers: Vec<_> = (0..4)
        .map(|_| socket::connect_later(baton.public, None).unwrap())
        .collect();
    process::signal(brain, Signal::SIGCONT);
    let before = scrape(&baton);
    assert!(seen("baton_backlog_drops_total") >= 2.0);
    process::kill(brain);
    // Who was dropped tries again by itself.
    for comer in comers {
        comer.set_nonblocking(false).unwrap();
        comer.set_read_timeout(Some(DEADLINE)).unwrap();
        http::Client::over(comer).get("/whoami");
    }
    none_went_back(&before, &scrape(&baton));
    assert_eq!(seen("baton_backlog_connections"), 0.0);
}

#[test]
fn who_may_see_it() {
    let baton = with_api("").start();
    assert_eq!(http::get(baton.admin, "/metrics").status, 200);
    assert_eq!(http::get(baton.public, "/metrics").status, 404);
    let with = |token: &str| {
        let mut client = http::Client::connect(baton.admin);
        let request =
            format!("GET /metrics HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n");
        client.send(request).unwrap();
        client.response().unwrap().status
    };
    assert_eq!(with(TOKEN), 200);
    assert_eq!(with("another"), 401);
}

/// Every query of the dashboard names what is there.
#[test]
fn the_dashboard_asks_for_what_there_is() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/grafana.json");
    let text = std::fs::read_to_string(file).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let baton = Baton::started();
    traffic(&baton, 1);
    let known = scrape(&baton);
    let known: Vec<&str> = known
        .keys()
        .map(|name| name.split('{').next().unwrap())
        .collect();
    let mut queries = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            queries += 1;
            let query = target["expr"].as_str().unwrap();
            let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let asked: Vec<&str> = words.filter(|word| word.starts_with("baton_")).collect();
            assert!(!asked.is_empty(), "{query}");
            for name in asked {
                assert!(known.contains(&name), "{name} in {query}");
            }
        }
    }
    assert!(queries >= 15);
}
