//! What may be done in a second: floods get as much as is allowed, are told when to come again, and
//! are closed if they do not heed it.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use harness::rooms::{Client, SUBPROTOCOL};
use harness::tokens::{token, with_key};
use harness::websocket::{Message, WebSocket};
use harness::{Baton, Builder, eventually, http, process, socket};
use serde_json::{Value, json};

fn builder(config: &str) -> Builder {
    with_key(Baton::builder().config(config))
}

/// What became of many requests that came at once.
#[derive(Debug, Default)]
struct Outcome {
    done: u64,
    refused: u64,
    /// The longest that one was told to wait.
    wait_ms: u64,
}

/// Sends all at once, then reads the answers.
fn flood(clients: &mut [Client], each: u64, request: impl Fn(u64) -> Value) -> Outcome {
    for n in 0..each {
        for client in &mut *clients {
            let mut request = request(n);
            request["id"] = json!(1_000_000 + n);
            client.tell(request);
        }
    }
    let mut outcome = Outcome::default();
    for client in clients {
        for n in 0..each {
            let reply = client.reply(&json!(1_000_000 + n));
            let error = &reply["error"];
            // Not a request, but no more than is allowed.
            if error.is_null() || error["code"] == "bad_request" {
                outcome.done += 1;
                continue;
            }
            assert_eq!(error["code"], "rate", "{reply}");
            assert_eq!(error["retry"], true, "{reply}");
            let wait = error["retry_after_ms"]
                .as_u64()
                .expect("when to come again");
            assert!(wait > 0, "{reply}");
            outcome.wait_ms = outcome.wait_ms.max(wait);
            outcome.refused += 1;
        }
    }
    outcome
}

/// A flood gets no more than this rate and its burst allow since `begin`, and is told to wait.
#[track_caller]
fn assert_kept(outcome: &Outcome, per_second: u64, burst: u64, begin: Instant) {
    let most = burst + begin.elapsed().as_millis() as u64 * per_second / 1_000 + 1;
    assert!(outcome.done <= most, "{outcome:?} of {most}");
    assert!(
        outcome.done + 1 >= burst.min(outcome.done + outcome.refused),
        "{outcome:?}"
    );
    assert!(
        outcome.refused > 0 && outcome.wait_ms <= 61_000,
        "{outcome:?}"
    );
}

/// Who waits as long as it was told is served.
#[track_caller]
fn served_in_time(client: &mut Client, request: &Value) {
    eventually("it is served again", || {
        client.ask(request.clone())["ok"].is_object()
    });
}

#[test]
fn messages_of_a_connection() {
    let config = "[rates]\nburst = \"1s\"\nrefusals = 100000\n[rates.connection]\nmessages = 20\n";
    let baton = builder(config).start();
    let mut others = [Client::connect(baton.public)];
    let mut client = [Client::connect(baton.public)];
    let begin = Instant::now();
    let first = flood(&mut client, 300, |n| json!({"send": "r", "data": n}));
    assert_kept(&first, 20, 20, begin);
    // Another brain, and another worker, know what has been done.
    let mut done = first.done;
    for shake in 0..3 {
        if shake == 2 {
            baton.expect(&["reload"], 0);
        } else {
            let brain = baton.status().worker(client[0].worker()).pid;
            process::kill(brain);
            eventually("the brain is gone", || !process::is_alive(brain));
        }
        done += flood(&mut client, 300, |_| json!({"ping": true})).done;
        let most = 20 + begin.elapsed().as_millis() as u64 * 20 / 1_000 + 1;
        assert!(done <= most, "{done} of {most}");
    }
    // What is no request is one message, too.
    done += flood(&mut client, 300, |n| json!({"dance": n, "data": 1})).done;
    let most = 20 + begin.elapsed().as_millis() as u64 * 20 / 1_000 + 1;
    assert!(done <= most, "{done} of {most}");
    others[0].publish("r", json!(1));
    served_in_time(&mut client[0], &json!({"ping": true}));
}

#[test]
fn bytes_and_joins_of_a_connection() {
    let config = "[rates]\nburst = \"1s\"\nrefusals = 100000\n[rates.connection]\n\
        bytes = 20000\njoins = 5\n";
    let baton = builder(config).start();
    let mut client = [Client::connect(baton.public)];
    let begin = Instant::now();
    let joins = flood(&mut client, 50, |n| json!({"join": format!("r{n}")}));
    assert_kept(&joins, 5, 5, begin);
    let large = "x".repeat(2_000);
    let mut client = [Client::connect(baton.public)];
    let begin = Instant::now();
    let sends = flood(&mut client, 100, |_| json!({"send": "r", "data": &large}));
    // Some 2,040 bytes each.
    assert_kept(&sends, 10, 9, begin);
}

#[test]
fn who_does_not_heed_it_is_closed() {
    let config =
        "[rates]\nrefusals = 30\n[rates.connection]\nmessages = 5\n[rates.room]\nmessages = 5\n";
    let baton = builder(config).start();
    let mut client = Client::connect(baton.public);
    for _ in 0..200 {
        client.tell(json!({"ping": true}));
    }
    assert_eq!(client.close_code(), 4100);
    // Tokens that are wrong take time to look at, whatever else is limited.
    let baton = builder("[rates]\nrefusals = 10\n").start();
    let mut client = Client::with_token(baton.public, &token("u7"));
    for _ in 0..40 {
        client.tell(json!({"auth": token("u7")}));
    }
    assert_eq!(client.close_code(), 4100);
    // What the master refuses counts as well.
    let config = "[rates]\nrefusals = 30\n[rates.room]\nmessages = 5\n";
    let baton = builder(config).start();
    let mut client = Client::connect(baton.public);
    for n in 0..200 {
        client.tell(json!({"send": "r", "data": n}));
    }
    assert_eq!(client.close_code(), 4100);
}

/// Whatever was asked is answered before the end, also what was one too many.
#[test]
fn who_is_closed_for_it_has_its_answers_first() {
    let config = "[rates]\nrefusals = 30\n[rates.room]\nmessages = 5\n";
    let baton = builder(config).start();
    for _ in 0..5 {
        let mut client = Client::connect(baton.public);
        for n in 0..200 {
            client.tell(json!({"id": n, "send": "r", "data": n}));
        }
        let (mut refused, mut said) = (0, 0);
        let code = loop {
            match client.socket.receive() {
                Ok(Message::Text(text)) => {
                    let reply: Value = serde_json::from_str(&text).unwrap();
                    assert_eq!(reply["id"], said, "{reply}");
                    said += 1;
                    refused += u64::from(reply["error"]["code"] == "rate");
                }
                Ok(Message::Close(frame)) => break u16::from(frame.expect("a reason").code),
                Ok(_) => {}
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(code, 4100);
        assert!(refused > 30, "{refused} of {said} were refused");
    }
}

#[test]
fn what_a_user_sends_over_all_its_connections() {
    let config = "[rates]\nburst = \"1s\"\nrefusals = 100000\n[rates.user]\nmessages = 20\n";
    let baton = builder(config).start();
    let of = |user: &str, worker: u64| {
        let mut client = Client::on_worker(baton.public, worker);
        client.ok(json!({"auth": token(user)}));
        client
    };
    let mut mine = [of("ann", 1), of("ann", 2), of("ann", 1)];
    let mut other = of("ben", 1);
    let mut nobody = [Client::connect(baton.public)];
    let begin = Instant::now();
    let sent = flood(
        &mut mine,
        100,
        |n| json!({"send": format!("r{n}"), "data": n}),
    );
    assert_kept(&sent, 20, 20, begin);
    other.publish("r", json!(1));
    let free = flood(&mut nobody, 100, |n| json!({"send": "r", "data": n}));
    assert_eq!(free.done, 100, "who is nobody has other limits");
}

#[test]
fn what_is_sent_to_a_room() {
    let config = "[rates]\nburst = \"1s\"\nrefusals = 100000\n[rates.room]\nmessages = 20\n";
    let baton = builder(config).start();
    let mut hears = Client::connect(baton.public);
    hears.join("r");
    let mut all: Vec<Client> = [1, 2, 2]
        .iter()
        .map(|worker| Client::on_worker(baton.public, *worker))
        .collect();
    let begin = Instant::now();
    let sent = flood(&mut all, 100, |n| json!({"send": "r", "data": n}));
    assert_kept(&sent, 20, 20, begin);
    for n in 1..=sent.done {
        let position = hears.message()["pos"].as_str().unwrap().to_owned();
        assert!(
            position.ends_with(&format!(":{n}")),
            "what is refused has no place"
        );
    }
    all[0].publish("s", json!(1));
    // Who wants no answer is told all the same.
    for _ in 0..100 {
        all[0].tell(json!({"send": "r", "data": 1}));
    }
    assert_eq!(all[0].event()["error"]["code"], "rate");
    served_in_time(&mut all[1], &json!({"send": "r", "data": 1}));
}

#[test]
fn what_connections_of_an_address_do() {
    let config = "[rates]\nburst = \"1s\"\nrefusals = 100000\n[rates.address]\nmessages = 20\n\
        [auth]\nanonymous = \"full\"\n[[listen]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = true\n\
        proxy_trusted = [\"127.0.0.0/8\"]\n[[listen]]\naddress = \"127.0.0.1:0\"\nrole = \"admin\"\n";
    let baton = builder(config).listeners_from_config().workers(1).start();
    let from = |address: &str| connect_from(baton.public, address);
    let mut mine = [from("198.51.100.7"), from("198.51.100.7")];
    let mut other = [from("198.51.100.8")];
    let mut local = [from("127.0.0.1")];
    let begin = Instant::now();
    let sent = flood(&mut mine, 200, |_| json!({"ping": true}));
    assert_kept(&sent, 20, 20, begin);
    assert_eq!(flood(&mut other, 10, |_| json!({"ping": true})).done, 10);
    assert_eq!(flood(&mut local, 200, |_| json!({"ping": true})).done, 200);
}

/// What an address that is not exempt gets of this: served, refused.
fn knock(to: SocketAddr, from: IpAddr, times: u64) -> (u64, u64) {
    let options = socket::Options {
        from: Some(from),
        ..socket::Options::default()
    };
    let statuses = (0..times).map(|_| {
        let stream = socket::connect_with(to, options).expect("it is taken");
        let response = http::Client::over(stream).request("/healthz");
        response.expect("it is answered").status
    });
    let served = statuses.filter(|status| {
        assert!([200, 503].contains(status), "{status}");
        *status == 200
    });
    let served = served.count() as u64;
    (served, times - served)
}

#[test]
fn new_connections_of_an_address() {
    let config = "[limits]\nexempt = [\"127.0.0.1\"]\n[rates]\nburst = \"1s\"\n\
        [rates.address]\nconnections = 10\n";
    let baton = builder(config).start();
    let [one, other] = [7, 8].map(|last| IpAddr::from([127, 0, 0, last]));
    let begin = Instant::now();
    let (served, refused) = knock(baton.public, one, 100);
    let most = 10 + begin.elapsed().as_millis() as u64 * 10 / 1_000 + 1;
    assert!(
        (10..=most).contains(&served) && refused > 0,
        "{served} of {most}"
    );
    assert_eq!(knock(baton.public, other, 10), (10, 0));
    let exempt = IpAddr::from([127, 0, 0, 1]);
    assert_eq!(knock(baton.public, exempt, 100), (100, 0));
    eventually("it is served again", || knock(baton.public, one, 1).0 == 1);
}

#[test]
fn connections_of_an_address_at_once() {
    let baton = builder("[limits]\nexempt = []\nper_address = 3\n").start();
    let options = |last| socket::Options {
        from: Some(IpAddr::from([127, 0, 0, last])),
        ..socket::Options::default()
    };
    let held: Vec<_> = (0..3)
        .map(|_| Client::connect_with(baton.public, options(7)))
        .collect();
    assert_eq!(knock(baton.public, [127, 0, 0, 7].into(), 1), (0, 1));
    assert_eq!(knock(baton.public, [127, 0, 0, 8].into(), 1), (1, 0));
    drop(held);
    eventually("there is room again", || {
        knock(baton.public, [127, 0, 0, 7].into(), 1).0 == 1
    });
}

fn connect_from(to: SocketAddr, address: &str) -> Client {
    let mut stream = socket::connect(to).unwrap();
    let header = format!("PROXY TCP4 {address} 192.0.2.1 40000 80\r\n");
    stream.write_all(header.as_bytes()).unwrap();
    let fields = [("Sec-WebSocket-Protocol", SUBPROTOCOL)];
    Client::greet(WebSocket::over(stream, to, "/rooms", &fields).unwrap())
}

#[test]
fn connections_of_a_user_and_in_a_room() {
    let baton = builder("[limits]\nper_user = 3\nper_room = 4\n").start();
    let of = |user: &str, worker: u64| {
        let mut client = Client::on_worker(baton.public, worker);
        let reply = client.ask(json!({"auth": token(user)}));
        let code = reply["error"]["code"].as_str().unwrap_or("ok").to_owned();
        (client, code)
    };
    for worker in [1, 2] {
        // What another worker has is known once it has been counted.
        let user = format!("user-{worker}");
        let mut held = Vec::new();
        for _ in 0..3 {
            let (client, code) = of(&user, worker);
            assert_eq!(code, "ok");
            held.push(client);
        }
        for elsewhere in [1, 2] {
            eventually("one more is refused", || {
                let (mut client, code) = of(&user, elsewhere);
                if code == "limit" {
                    assert_eq!(client.close_code(), 4100);
                }
                code == "limit"
            });
        }
        drop(held);
        eventually("there is room again", || of(&user, worker).1 == "ok");
    }
    let mut inside: Vec<Client> = (0..4).map(|_| Client::connect(baton.public)).collect();
    for client in &mut inside {
        client.join("r");
        // Joined again, it is no other.
        client.join("r");
    }
    let mut one_more = Client::connect(baton.public);
    eventually("it is full", || {
        let mut client = Client::connect(baton.public);
        client.ask(json!({"join": "r"}))["error"]["code"] == "limit"
    });
    one_more.join("s");
}
