//! A connection moves from worker to worker while it lives, and its client notices nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::master::{GET, Master, UPGRADE, exchange, frame};
use protocol::ids::Cid;
use protocol::message::ToWorker;
use protocol::settings::Settings;

fn two_workers() -> Master {
    let mut master = Master::start(Settings::default());
    master.add_worker();
    master
}

/// A client in the room.
fn member(master: &mut Master) -> TcpStream {
    let client = master.connect();
    let upgrade = format!("GET /rooms HTTP/1.1\r\n{UPGRADE}");
    exchange(master, &client, upgrade.as_bytes(), b"\"hello\"");
    let join = frame(r#"{"id":1,"join":"r"}"#);
    exchange(master, &client, &join, b"\"ok\"");
    client
}

#[test]
fn a_request_goes_on_wherever_it_was() {
    let mut master = two_workers();
    let client = master.connect();
    let cid = Cid(1);
    let whole = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789";
    let (mut here, mut there) = (0, 1);
    for cut in 0..=whole.len() {
        exchange(&mut master, &client, &whole[..cut], b"");
        master.move_to(here, there, cid);
        (here, there) = (there, here);
        let answer = exchange(&mut master, &client, &whole[cut..], b"0123456789");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    // Pipelined: the move comes at some place between the answers.
    let many = GET.repeat(500);
    (&client).write_all(&many).unwrap();
    master.move_to(here, there, cid);
    let mut got = String::new();
    while got.matches("handled by").count() < 500 {
        got += &exchange(&mut master, &client, b"", b")\n");
    }
    assert_eq!(got.matches("200 OK").count(), 500);
}

/// It is kept as it came, and inflated when all of it is there.
#[test]
fn a_compressed_message_goes_on_wherever_it_was() {
    let mut master = two_workers();
    let client = master.connect();
    let offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
    let upgrade = format!("GET /echo HTTP/1.1\r\n{offer}{UPGRADE}");
    let answer = exchange(&mut master, &client, upgrade.as_bytes(), b"\r\n\r\n");
    assert!(answer.contains("permessage-deflate"), "{answer}");
    // "Hello" (RFC 7692, 7.2.3.1), in two frames.
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    let mut whole = vec![0x41, 0x80 | 3, 0, 0, 0, 0];
    whole.extend_from_slice(&hello[..3]);
    whole.extend_from_slice(&[0x80, 0x80 | 4, 0, 0, 0, 0]);
    whole.extend_from_slice(&hello[3..]);
    let (mut here, mut there) = (0, 1);
    for cut in 0..whole.len() {
        exchange(&mut master, &client, &whole[..cut], b"");
        master.move_to(here, there, Cid(1));
        (here, there) = (there, here);
        // Nothing but that comes: the head, too, is part of what is waited for.
        let echo = [&[0xc1, 7][..], &hello].concat();
        exchange(&mut master, &client, &whole[cut..], &echo);
    }
}

#[test]
fn a_websocket_goes_on_in_the_middle_of_a_character() {
    let mut master = two_workers();
    let client = master.connect();
    let upgrade = format!("GET /echo HTTP/1.1\r\n{UPGRADE}");
    let cut = upgrade.len() / 2;
    exchange(&mut master, &client, &upgrade.as_bytes()[..cut], b"");
    master.move_to(0, 1, Cid(1));
    exchange(
        &mut master,
        &client,
        &upgrade.as_bytes()[cut..],
        b"\r\n\r\n",
    );
    let (mut here, mut there) = (1, 0);
    let text = "aé😀z";
    // Two fragments, cut in a character; the second begins in the middle of it.
    let bytes = text.as_bytes();
    let mut whole = vec![0x01, 0x80 | 5, 0, 0, 0, 0];
    whole.extend_from_slice(&bytes[..5]);
    whole.extend_from_slice(&[0x80, 0x80 | (bytes.len() - 5) as u8, 0, 0, 0, 0]);
    whole.extend_from_slice(&bytes[5..]);
    for cut in 0..whole.len() {
        exchange(&mut master, &client, &whole[..cut], b"");
        master.move_to(here, there, Cid(1));
        (here, there) = (there, here);
        exchange(&mut master, &client, &whole[cut..], b"z");
    }
}

/// Much that is unread and unsent travels in a file of its own.
#[test]
fn what_waits_for_a_slow_reader_moves_with_it() {
    let mut master = two_workers();
    let mut client = master.connect();
    let upgrade = format!("GET /echo HTTP/1.1\r\n{UPGRADE}");
    exchange(&mut master, &client, upgrade.as_bytes(), b"\r\n\r\n");
    let messages = 2_000;
    let sender = std::thread::spawn({
        let mut client = client.try_clone().unwrap();
        move || {
            for n in 0..messages {
                let text = format!("{n:05}{}", "x".repeat(4_000));
                client.write_all(&frame(&text)).unwrap();
            }
        }
    });
    client
        .set_read_timeout(Some(Duration::from_millis(1)))
        .unwrap();
    let (mut here, mut there) = (0, 1);
    let mut got = Vec::new();
    let size = 4 + 5 + 4_000;
    while got.len() < messages * size {
        master.move_to(here, there, Cid(1));
        (here, there) = (there, here);
        let mut piece = vec![0; 100_000];
        match client.read(&mut piece) {
            Ok(0) => panic!("closed"),
            Ok(n) => got.extend_from_slice(&piece[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => panic!("{e}"),
        }
    }
    sender.join().unwrap();
    for (n, message) in got.chunks(size).enumerate() {
        let number = String::from_utf8_lossy(&message[4..9]);
        assert_eq!(number, format!("{n:05}"));
    }
}

#[test]
fn messages_and_answers_find_who_moves() {
    let mut master = two_workers();
    let client = member(&mut master);
    let cid = Cid(1);
    let (mut here, mut there) = (0, 1);
    for n in 1..60u64 {
        // Asked just before, while and after it moves.
        let send = |n| frame(&format!(r#"{{"id":{n},"send":"r","data":{n}}}"#));
        (&client).write_all(&send(3 * n)).unwrap();
        match n % 3 {
            0 => master.move_to(here, there, cid),
            1 => {
                master.part(here, cid);
                (&client).write_all(&send(3 * n + 1)).unwrap();
                master.pass_on(here, there, cid);
                master.until("an ack", |m| m.workers[there].acked.contains(&cid));
                master.workers[here].send(&ToWorker::Took { cids: vec![cid] });
            }
            _ => {
                // Nobody can take it.
                master.part(here, cid);
                master.workers[here].parted.clear();
                master.workers[here].send(&ToWorker::Keep { cids: vec![cid] });
                (here, there) = (there, here);
            }
        }
        (here, there) = (there, here);
        let mut expected = vec![3 * n];
        if n % 3 == 1 {
            expected.push(3 * n + 1);
        }
        expected.push(3 * n + 2);
        let last = format!(r#""data":{}}}"#, 3 * n + 2);
        let got = exchange(&mut master, &client, &send(3 * n + 2), last.as_bytes());
        for n in expected {
            assert_eq!(got.matches(&format!(r#""id":{n},"#)).count(), 1, "{got}");
            assert_eq!(got.matches(&format!(r#""data":{n}}}"#)).count(), 1, "{got}");
        }
        assert!(!got.contains("gap"), "{got}");
    }
}

/// The answer to a join comes while the connection is between two workers.
#[test]
fn a_join_goes_on() {
    let mut master = two_workers();
    let (mut here, mut there) = (0, 1);
    let client = master.connect();
    let upgrade = format!("GET /rooms HTTP/1.1\r\n{UPGRADE}");
    exchange(&mut master, &client, upgrade.as_bytes(), b"\"hello\"");
    for n in 0..20 {
        let join = frame(&format!(r#"{{"id":{n},"join":"r"}}"#));
        (&client).write_all(&join).unwrap();
        master.move_to(here, there, Cid(1));
        (here, there) = (there, here);
        let got = exchange(&mut master, &client, b"", b"\"ok\"");
        assert!(
            got.contains(&format!(r#"{{"id":{n},"ok":{{"pos""#)),
            "{got}"
        );
        let send = frame(r#"{"send":"r","data":"here"}"#);
        exchange(&mut master, &client, &send, br#""data":"here"}"#);
        let leave = frame(r#"{"id":99,"leave":"r"}"#);
        exchange(&mut master, &client, &leave, br#"{"id":99,"ok""#);
    }
}

/// Who moves and who does not, on either side, get the same messages.
#[test]
fn a_room_is_one_over_two_workers() {
    let mut master = two_workers();
    let (moving, staying) = (member(&mut master), member(&mut master));
    let (mut here, mut there) = (0, 1);
    for n in 0..40 {
        let from = if n % 2 == 0 { &staying } else { &moving };
        let data = format!(r#""data":"m{n}"}}"#);
        let mut from = from;
        let send = frame(&format!(r#"{{"send":"r",{data}"#));
        from.write_all(&send).unwrap();
        if n % 4 != 3 {
            master.move_to(here, there, Cid(1));
            (here, there) = (there, here);
        }
        for client in [&moving, &staying] {
            let got = exchange(&mut master, client, b"", data.as_bytes());
            assert_eq!(got.matches("data").count(), 1, "{got}");
        }
    }
}

#[test]
fn a_death_on_either_side_of_a_move_changes_nothing() {
    let mut master = Master::start(Settings {
        short_lives: 1_000,
        ..Settings::default()
    });
    master.add_worker();
    let client = member(&mut master);
    let cid = Cid(1);
    let (mut here, mut there) = (0, 1);
    for n in 0..12u64 {
        let send = frame(&format!(r#"{{"id":{n},"send":"r","data":{n}}}"#));
        (&client).write_all(&send).unwrap();
        master.part(here, cid);
        if n % 4 == 0 {
            // What it gave, its next brain gives again.
            let brain = master.workers[here].brain;
            master.workers[here].parted.clear();
            master.kill(here, brain);
            master.until("it again", |m| !m.workers[here].parted.is_empty());
        }
        master.pass_on(here, there, cid);
        if n % 4 == 1 {
            let brain = master.workers[there].brain;
            master.kill(there, brain);
        }
        master.until("an ack", |m| m.workers[there].acked.contains(&cid));
        if n % 4 == 2 {
            // It may be read by now: this brain must not look at it.
            let brain = master.workers[here].brain;
            master.kill(here, brain);
            master.workers[here].parted.clear();
        }
        master.workers[here].send(&ToWorker::Took { cids: vec![cid] });
        if n % 4 == 3 {
            let brain = master.workers[there].brain;
            master.kill(there, brain);
        }
        (here, there) = (there, here);
        let last = format!(r#""data":{n}}}"#);
        let got = exchange(&mut master, &client, b"", last.as_bytes());
        let answer = format!(r#"{{"id":{n},"ok""#);
        assert_eq!(got.matches(&answer).count(), 1, "{got}");
        assert_eq!(got.matches(&last).count(), 1, "{got}");
        master.workers[there].parted.clear();
    }
}

/// Brain after brain dies: the next ones serve nobody and give away what they have.
#[test]
fn a_worker_that_cannot_live_gives_away_what_it_has() {
    let mut master = two_workers();
    let client = member(&mut master);
    let mut deaths = 0;
    while !master.workers[0].evacuates {
        let brain = master.workers[0].brain;
        master.kill(0, brain);
        deaths += 1;
        assert!(deaths < 100, "it goes on and on");
    }
    let send = frame(r#"{"id":5,"send":"r","data":"x"}"#);
    (&client).write_all(&send).unwrap();
    master.move_to(0, 1, Cid(1));
    let got = exchange(&mut master, &client, b"", br#""data":"x"}"#);
    assert!(got.contains(r#"{"id":5,"ok""#), "{got}");
}
