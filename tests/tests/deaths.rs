//! Brains die while a connection is at its edges: ended by either side or by a reset, with bytes that
//! are urgent, with a peer that takes nothing. What was said is heard, once, and the end is the end.
//!
//! What a test does between two brains no brain sees happen: the first is stopped, and then killed.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use harness::http::{self, Client};
use harness::rooms;
use harness::socket::{self, Options};
use harness::traffic::Random;
use harness::websocket::{Raw, frame};
use harness::{Baton, eventually, process};
use serde_json::json;

/// One worker, whose brains die.
fn one_worker(config: &str) -> Baton {
    let config = format!("limits.short_lives = 1000\n{config}");
    Baton::builder().workers(1).config(&config).start()
}

/// Stops the brain, does it, and kills the brain. Returns when there is the next one.
fn between_two_brains(baton: &Baton, deed: impl FnOnce()) {
    let guard = guard(baton);
    let brain = process::brain_of(guard);
    process::stop(brain);
    deed();
    process::kill(brain);
    eventually("there is a next brain", || {
        process::brain_of(guard) != brain
    });
}

/// The worker's; its state may be anything.
fn guard(baton: &Baton) -> i32 {
    baton.status().workers[0].guard_pid
}

fn kill_brain(baton: &Baton) {
    between_two_brains(baton, || {});
}

/// No connection is left, and the worker serves.
fn ends_well(baton: &Baton) {
    baton.status_when("no connection is left", |status| {
        status.ready().len() == 1 && status.worker(1).connections == 0
    });
    assert_eq!(http::get(baton.public, "/healthz").status, 200);
    assert!(!baton.log("worker-1").contains("corrupt"));
}

fn post(body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// Everything up to the end of the stream.
fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream
        .read_to_end(&mut bytes)
        .expect("the end, and no reset");
    bytes
}

/// Payloads of the frames in `bytes`, control frames left out; and the code of a Close frame.
fn messages(mut bytes: &[u8]) -> (Vec<Vec<u8>>, Option<u16>) {
    let (mut messages, mut code) = (vec![Vec::new()], None);
    while let [first, length, after @ ..] = bytes {
        let (length, after) = match length {
            126 => (
                usize::from(u16::from_be_bytes([after[0], after[1]])),
                &after[2..],
            ),
            127 => panic!("no frame here is so long"),
            short => (usize::from(*short), after),
        };
        let (payload, after) = after.split_at(length);
        match first & 0x0f {
            8 => code = payload.first_chunk().copied().map(u16::from_be_bytes),
            9 | 10 => {}
            _ => messages.last_mut().unwrap().extend(payload),
        }
        if first & 0x88 == 0x80 {
            messages.push(Vec::new());
        }
        bytes = after;
    }
    messages.retain(|message| !message.is_empty());
    (messages, code)
}

#[test]
fn a_request_and_the_fin_behind_it_come_between_two_brains() {
    let baton = one_worker("");
    let body = vec![b'x'; 30_000];
    let mut client = Client::connect(baton.public);
    assert_eq!(client.get("/healthz").status, 200);
    between_two_brains(&baton, || {
        client.send(post(&body)).unwrap();
        client.shutdown_write();
    });
    let response = client.response().expect("what was asked is answered");
    assert!(response.status == 200 && response.body == body);
    assert!(client.ends());
    drop(client);
    ends_well(&baton);
}

#[test]
fn a_fin_in_the_middle_of_a_request_ends_it() {
    let baton = one_worker("");
    let request = post(b"0123456789");
    for cut in [0, 1, 20, request.len() - 1] {
        let mut client = Client::connect(baton.public);
        assert_eq!(client.get("/healthz").status, 200);
        between_two_brains(&baton, || {
            client.send(&request[..cut]).unwrap();
            client.shutdown_write();
        });
        // Not a byte of an answer to half a request, unless to say that it is one.
        let said = String::from_utf8(client.rest().unwrap()).unwrap();
        assert!(
            said.is_empty() || said.starts_with("HTTP/1.1 400 "),
            "{cut}: {said}"
        );
        drop(client);
        ends_well(&baton);
    }
}

#[test]
fn frames_and_the_fin_behind_them_come_between_two_brains() {
    let baton = one_worker("");
    for death_before in [false, true] {
        let mut raw = Raw::connect(baton.public, "/echo");
        raw.send(&frame(0x81, b"first")).unwrap();
        assert_eq!(raw.message().1, b"first");
        let last_words = || {
            (&raw.stream)
                .write_all(&[frame(0x81, b"second"), frame(0x82, &[7; 20_000])].concat())
                .unwrap();
            // Half of a frame: it is lost, being none.
            (&raw.stream)
                .write_all(&frame(0x81, b"cut off")[..9])
                .unwrap();
            raw.stream.shutdown(Shutdown::Write).unwrap();
        };
        if death_before {
            kill_brain(&baton);
            last_words();
        } else {
            between_two_brains(&baton, last_words);
        }
        let (messages, _) = messages(&rest(&mut raw.stream));
        assert_eq!(messages, [b"second".to_vec(), vec![7; 20_000]]);
        drop(raw);
        ends_well(&baton);
    }
}

/// The peer ends, with a Close frame, and then we do: it has nothing more to say, and is not waited
/// for.
#[test]
fn a_closing_handshake_survives() {
    let baton = one_worker("[http]\nlinger = \"60s\"\n");
    for path in ["/echo", "/rooms"] {
        let mut raw = Raw::connect(baton.public, path);
        between_two_brains(&baton, || {
            raw.send(&frame(0x88, &1000u16.to_be_bytes())).unwrap();
        });
        assert_eq!(raw.close_code(), 1000);
        assert_eq!(rest(&mut raw.stream), b"");
        ends_well(&baton);
    }
}

/// We end first; what the peer still sends meanwhile is read, or our Close frame would be lost to a
/// reset.
#[test]
fn our_own_end_survives() {
    let baton = one_worker("[http]\nlinger = \"60s\"\n");
    let mut raw = Raw::connect(baton.public, "/echo");
    // Not masked: a fault, 1002.
    between_two_brains(&baton, || raw.send(&[0x81, 1, b'x']).unwrap());
    between_two_brains(&baton, || raw.send(&[0; 50_000]).unwrap());
    kill_brain(&baton);
    let (_, code) = messages(&rest(&mut raw.stream));
    assert_eq!(code, Some(1002));
    // Our FIN is out, the peer's is not: it is awaited.
    let mut kept = Client::connect(baton.public);
    kill_brain(&baton);
    kill_brain(&baton);
    for _ in 0..2 {
        assert_eq!(kept.get("/healthz").status, 200);
    }
    assert_eq!(baton.status().workers[0].connections, 2);
    drop(kept);
    between_two_brains(&baton, || drop(raw));
    ends_well(&baton);
}

#[test]
fn a_reset_is_the_end() {
    let baton = one_worker("");
    // With nothing on the way, with a request, with an answer that nobody has read.
    for (say, wait) in [(false, false), (true, false), (true, true)] {
        let mut raw = Raw::connect(baton.public, "/echo");
        let mut other = rooms::Client::connect(baton.public);
        other.join("r");
        if say && wait {
            raw.send(&frame(0x82, &[1; 60_000])).unwrap();
            let unread = || socket::unread(&raw.stream);
            eventually("there is an answer", || unread() > 60_000);
        }
        between_two_brains(&baton, || {
            if say && !wait {
                raw.send(&frame(0x82, &[1; 60_000])).unwrap();
            }
            socket::reset(raw.stream);
        });
        other.publish("r", json!("still here"));
        assert_eq!(other.message()["data"], "still here");
        drop(other);
        ends_well(&baton);
    }
}

/// A reset comes while the brain that lives writes.
#[test]
fn resets_at_any_time_close_their_own() {
    let baton = one_worker("");
    let mut random = Random::new(3);
    let mut kept = Raw::connect(baton.public, "/echo");
    for _ in 0..6 {
        let mut many: Vec<Raw> = (0..10)
            .map(|_| Raw::connect(baton.public, "/echo"))
            .collect();
        for raw in &mut many {
            raw.send(&frame(0x82, &random.bytes(60_000))).unwrap();
        }
        process::kill(process::brain_of(guard(&baton)));
        for raw in many {
            socket::reset(raw.stream);
        }
        kept.send(&frame(0x81, b"kept")).unwrap();
        assert_eq!(kept.message().1, b"kept");
    }
    drop(kept);
    ends_well(&baton);
}

/// Urgent bytes are bytes like others, in their place.
#[test]
fn urgent_data_is_data() {
    let baton = one_worker("");
    let mut raw = Raw::connect(baton.public, "/echo");
    let payload: Vec<u8> = (0..2000u32).map(|i| (i % 251) as u8).collect();
    let bytes = frame(0x82, &payload);
    for urgent in [1, 3, 900, bytes.len() - 1] {
        // Before a death, between two brains, and where a brain has read a part.
        let mut stream = &raw.stream;
        stream.write_all(&bytes[..urgent]).unwrap();
        let out_of_band = || socket::send_urgent(&raw.stream, bytes[urgent]).unwrap();
        if urgent % 2 == 1 {
            between_two_brains(&baton, out_of_band);
        } else {
            out_of_band();
            kill_brain(&baton);
        }
        stream.write_all(&bytes[urgent + 1..]).unwrap();
        kill_brain(&baton);
        assert!(raw.message() == (2, payload.clone()), "urgent at {urgent}");
    }
    drop(raw);
    ends_well(&baton);
}

/// The peer's window is shut: nothing goes out until it reads, whatever happens meanwhile.
#[test]
fn a_window_that_is_shut_opens_again() {
    let baton = one_worker("");
    let options = Options {
        receive_buffer: Some(4096),
        ..Options::default()
    };
    let mut raw = Raw::connect_with(baton.public, "/echo", options);
    let mut random = Random::new(11);
    let payloads: Vec<Vec<u8>> = (0..40)
        .map(|_| {
            let mut payload = random.bytes(60_000);
            payload.resize(60_000, 9);
            payload
        })
        .collect();
    // From another thread: at some point the worker reads no more.
    let writer = std::thread::spawn({
        let (mut stream, payloads) = (raw.stream.try_clone().unwrap(), payloads.clone());
        move || {
            payloads
                .iter()
                .for_each(|payload| stream.write_all(&frame(0x82, payload)).unwrap())
        }
    });
    for _ in 0..5 {
        kill_brain(&baton);
    }
    for (number, payload) in payloads.iter().enumerate() {
        if number % 8 == 0 {
            kill_brain(&baton);
        }
        assert!(raw.message() == (2, payload.clone()), "message {number}");
    }
    writer.join().unwrap();
    drop(raw);
    ends_well(&baton);
}

/// Accepted and given, and its brain dies with them in its channel; or so does everything of the
/// worker; or the master.
#[test]
fn connections_on_their_way_are_served() {
    let baton = one_worker("");
    for round in 0..4 {
        let status = baton.status();
        let guard = status.workers[0].guard_pid;
        let brain = process::brain_of(guard);
        process::stop(brain);
        let mut clients: Vec<Client> = (0..50).map(|_| Client::connect(baton.public)).collect();
        for client in &mut clients {
            client.send(post(b"on its way")).unwrap();
        }
        match round {
            0 => process::kill(brain),
            1 => {
                process::kill(status.master_brain_pid);
                process::kill(brain);
            }
            2 => {
                process::kill(guard);
                process::go_on(brain);
            }
            _ => {
                process::stop(guard);
                process::kill(brain);
                process::kill(guard);
            }
        }
        for client in &mut clients {
            assert_eq!(client.response().expect("an answer").body, b"on its way");
        }
        drop(clients);
        ends_well(&baton);
    }
}

/// After brains and guards have died in every way, `stop` ends all that is left, at once, and leaves
/// no file behind but the logs.
#[test]
fn stop_leaves_nothing_after_deaths() {
    let mut files = Vec::new();
    for deaths in [false, true] {
        let baton = Baton::started();
        let mut member = rooms::Client::connect(baton.public);
        member.join("r");
        if deaths {
            for _ in 0..2 {
                for victim in 0..4 {
                    let status =
                        baton.status_when("all are there", |status| status.ready().len() == 2);
                    let worker = status.worker(1);
                    let pid = [
                        status.master_brain_pid,
                        status.master_pid,
                        worker.pid,
                        worker.guard_pid,
                    ][victim];
                    process::kill(pid);
                    member.publish("r", json!(victim));
                }
            }
            // One worker wholly.
            let status = baton.status_when("all are there", |status| status.ready().len() == 2);
            let victim = status.worker(3 - member.worker());
            process::stop(victim.guard_pid);
            process::kill(victim.pid);
            process::kill(victim.guard_pid);
            // And some whom nobody has missed yet.
            let status = baton.status_when("it is there again", |status| status.ready().len() == 2);
            for worker in status.ready() {
                process::kill(worker.pid);
            }
        }
        baton.expect(&["stop"], 0);
        assert_eq!(baton.processes(), [] as [i32; 0]);
        let mut left: Vec<String> = walk(baton.run_dir());
        left.sort();
        files.push(left);
    }
    assert_eq!(files[0], files[1]);
}

fn walk(directory: &std::path::Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => files.extend(walk(&entry.path())),
            false => files.push(entry.file_name().to_string_lossy().into_owned()),
        }
    }
    files
}
