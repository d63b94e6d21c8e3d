use std::collections::{BTreeMap, BTreeSet};

use protocol::random::Random;
use protocol::settings::{Event, Rights, Rooms};

use super::*;

const TIMEOUT: u64 = 200;

fn hook() -> Hook {
    Hook {
        on: vec![Event::Send],
        timeout_ms: TIMEOUT,
        batch: 4,
        in_flight: 2,
        queue: 10,
        ..Hook::default()
    }
}

fn limits() -> Limits {
    Limits {
        rooms: Rooms::default(),
        rights: Rights::default(),
    }
}

fn desk() -> Desk {
    Desk::new(hook(), limits())
}

fn question(n: u64, now: u64) -> Question {
    Question {
        cid: Cid(n),
        slot: n as u32,
        offset: 7,
        asked: now,
        json: format!(",\"x\":{n}").into_bytes(),
    }
}

/// An answer that allows all of `count`.
fn yes(count: usize) -> Vec<u8> {
    let results: Vec<_> = (0..count)
        .map(|n| format!("{{\"n\":{n},\"allow\":true}}"))
        .collect();
    let body = format!("{{\"results\":[{}]}}", results.join(","));
    response("200 OK", &body)
}

fn response(status: &str, body: &str) -> Vec<u8> {
    let len = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {len}\r\n\r\n{body}").into_bytes()
}

fn cids(told: &[Told], is: impl Fn(&Outcome) -> bool) -> Vec<u64> {
    told.iter()
        .filter(|told| is(&told.outcome))
        .map(|told| told.cid.0)
        .collect()
}

fn failed(outcome: &Outcome) -> bool {
    *outcome == Outcome::Failed
}

fn allowed(outcome: &Outcome) -> bool {
    *outcome == Outcome::Said(Answer::YES)
}

/// Writes all of a request; how many questions are in it.
fn write(desk: &mut Desk, ix: usize) -> usize {
    let request = String::from_utf8(desk.unwritten(ix).to_vec()).unwrap();
    desk.wrote(ix, request.len());
    assert!(desk.unwritten(ix).is_empty());
    request.matches("\"x\":").count()
}

#[test]
fn many_questions_share_a_request() {
    let mut desk = desk();
    for n in 0..7 {
        assert!(desk.ask(question(n, 0), 0));
    }
    let first = desk.begin(0).unwrap();
    let second = desk.begin(0).unwrap();
    assert_eq!((write(&mut desk, first), write(&mut desk, second)), (4, 3));
    assert!(desk.begin(0).is_none());
    let mut told = Vec::new();
    assert!(desk.received(second, &yes(3), 1, &mut told));
    assert_eq!(cids(&told, allowed), [4, 5, 6]);
    assert!(desk.received(first, &yes(4), 1, &mut told));
    assert_eq!(told.len(), 7);
    assert_eq!(desk.next(), None);
    // What was not asked for ends the connection.
    assert!(!desk.received(first, b"x", 1, &mut told));
}

#[test]
fn some_wait_for_others_to_share_with() {
    let mut desk = Desk::new(
        Hook {
            wait_ms: 10,
            ..hook()
        },
        limits(),
    );
    desk.ask(question(1, 0), 0);
    assert!(desk.begin(9).is_none());
    assert_eq!(desk.next(), Some(10));
    assert!(desk.begin(10).is_some());
    for n in 2..6 {
        desk.ask(question(n, 10), 10);
    }
    assert!(desk.begin(10).is_some(), "there are as many as fit");
}

#[test]
fn what_is_too_much_is_decided_at_once() {
    let mut desk = desk();
    for n in 0..10 {
        assert!(desk.ask(question(n, 0), 0));
    }
    assert!(!desk.ask(question(10, 0), 0));
    let large = |n| Question {
        json: vec![b' '; 5 << 20],
        ..question(n, 0)
    };
    let mut desk = super::tests::desk();
    assert!(desk.ask(large(0), 0) && !desk.ask(large(1), 0));
}

#[test]
fn each_is_decided_when_its_time_is_over() {
    let mut desk = desk();
    desk.ask(question(0, 0), 0);
    desk.ask(question(1, 50), 50);
    let ix = desk.begin(50).unwrap();
    write(&mut desk, ix);
    for n in 2..4 {
        desk.ask(question(n, 60), 60);
    }
    let other = desk.begin(60).unwrap();
    desk.ask(question(4, 70), 70);
    assert!(desk.begin(70).is_none(), "both are busy");
    let mut told = Vec::new();
    assert_eq!(desk.next(), Some(TIMEOUT));
    assert!(desk.tick(TIMEOUT, &mut told).is_empty());
    assert_eq!(cids(&told, failed), [0]);
    // The other one of that request can still be answered, and nobody hears twice.
    assert!(desk.received(ix, &yes(2), 210, &mut told));
    assert_eq!(cids(&told, allowed), [1]);
    assert_eq!(desk.begin(210), Some(ix));
    assert_eq!(desk.tick(260, &mut told), [other]);
    assert_eq!(desk.tick(270, &mut told), [ix]);
    assert_eq!(cids(&told, failed), [0, 2, 3, 4]);
    assert_eq!(desk.next(), None);
}

#[test]
fn what_a_lost_connection_was_asked_is_asked_again() {
    let mut desk = desk();
    let mut told = Vec::new();
    for n in 0..3 {
        desk.ask(question(n, 0), 0);
    }
    let ix = desk.begin(0).unwrap();
    desk.lost(ix, "refused", 0, &mut told);
    assert!(desk.begin(0).is_none(), "not at once");
    assert_eq!(desk.next(), Some(RETRY_MS));
    let ix = desk.begin(RETRY_MS).unwrap();
    assert_eq!(write(&mut desk, ix), 3);
    // Half an answer is none.
    let half = yes(3);
    assert!(desk.received(ix, &half[..half.len() / 2], 11, &mut told));
    desk.lost(ix, "closed", 11, &mut told);
    assert_eq!(desk.next(), Some(11 + 2 * RETRY_MS));
    let ix = desk.begin(40).unwrap();
    assert_eq!(write(&mut desk, ix), 3);
    assert!(told.is_empty());
    desk.received(ix, &yes(3), 41, &mut told);
    assert_eq!(cids(&told, allowed), [0, 1, 2]);
    // A connection that was kept and is gone when it is used is no fault, and nothing is waited for.
    desk.ask(question(5, 50), 50);
    assert_eq!(desk.begin(50), Some(ix));
    desk.lost(ix, "closed", 50, &mut told);
    let again = desk.begin(50).unwrap();
    assert_eq!(write(&mut desk, again), 1);
    desk.received(again, &yes(1), 51, &mut told);
    assert_eq!(cids(&told, allowed), [0, 1, 2, 5]);
}

#[test]
fn what_is_not_understood_is_no_answer() {
    for answer in [
        response("500 Internal Server Error", ""),
        response("204 No Content", ""),
        response("200 OK", "<html>"),
        response(
            "200 OK",
            "{\"results\":[{\"n\":0,\"allow\":true},{\"n\":0,\"allow\":true}]}",
        ),
        response("200 OK", "{\"results\":[{\"n\":9,\"allow\":true}]}"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n".to_vec(),
        b"no HTTP\r\n".to_vec(),
    ] {
        let mut desk = desk();
        let mut told = Vec::new();
        desk.ask(question(0, 0), 0);
        desk.ask(question(1, 0), 0);
        let ix = desk.begin(0).unwrap();
        write(&mut desk, ix);
        let keep = desk.received(ix, &answer, 1, &mut told);
        assert!(!keep);
        assert_eq!(cids(&told, failed), [0, 1], "{}", answer.escape_ascii());
        assert_eq!(desk.next(), None);
    }
    // What is missing, or wrong by itself, costs nobody else the answer.
    let mut desk = desk();
    let mut told = Vec::new();
    for n in 0..4 {
        desk.ask(question(n, 0), 0);
    }
    let ix = desk.begin(0).unwrap();
    write(&mut desk, ix);
    let body = "{\"results\":[{\"n\":3,\"allow\":true},{\"n\":1,\"allow\":false},\
        {\"n\":0,\"allow\":true,\"rooms\":{}}]}";
    assert!(desk.received(ix, &response("200 OK", body), 1, &mut told));
    assert_eq!(cids(&told, failed), [0, 2]);
    assert_eq!(cids(&told, allowed), [3]);
    assert_eq!(told.len(), 4);
}

#[test]
fn who_is_down_is_not_waited_for() {
    let mut desk = desk();
    let mut told = Vec::new();
    let mut now = 0;
    let mut n = 0;
    // It takes connections and never answers.
    while desk.breaker.is_up() {
        assert!(desk.ask(question(n, now), now));
        n += 1;
        desk.begin(now).unwrap();
        now += TIMEOUT;
        assert_eq!(desk.tick(now, &mut told).len(), 1);
        assert!(n < 10);
    }
    assert_eq!(n, 3);
    assert!(!desk.ask(question(n, now), now), "at once");
    assert_eq!(told.len(), 3);
    now += 1_000;
    assert!(desk.ask(question(n, now), now), "to see");
    assert!(!desk.ask(question(n + 1, now), now), "once");
    let ix = desk.begin(now).unwrap();
    write(&mut desk, ix);
    assert!(desk.received(ix, &yes(1), now, &mut told));
    assert!(desk.ask(question(n, now), now));
    // One that cannot be reached.
    let mut desk = super::tests::desk();
    told.clear();
    let mut now = 0;
    desk.ask(question(0, 0), 0);
    let mut attempts = 0;
    while desk.breaker.is_up() {
        match desk.begin(now) {
            Some(ix) => {
                attempts += 1;
                desk.lost(ix, "refused", now, &mut told);
            }
            None => now += 1,
        }
        desk.tick(now, &mut told);
    }
    assert_eq!(cids(&told, failed), [0]);
    assert!(
        (3..10).contains(&attempts) && now <= TIMEOUT,
        "{attempts} {now}"
    );
}

/// Whatever a back end does: each question that was taken is decided once, in its time or a tick
/// later; bounds are kept; and when it answers again, most are answered again.
#[test]
fn simulation() {
    for seed in 0..40 {
        simulate(seed);
    }
}

fn simulate(seed: u64) {
    let mut random = Random::new(seed);
    let hook = Hook {
        batch: 1 + random.below(8) as usize,
        in_flight: 1 + random.below(4) as usize,
        queue: 1 + random.below(20) as usize,
        wait_ms: random.below(3) * 5,
        ..hook()
    };
    let mut desk = Desk::new(hook.clone(), limits());
    let mut told = Vec::new();
    let mut open: BTreeMap<u64, u64> = BTreeMap::new();
    let mut busy: BTreeSet<usize> = BTreeSet::new();
    let (mut n, mut now) = (0, 0);
    let mut answered = 0;
    while now < 20_000 {
        // For a while it is well, then not.
        let is_well = now > 15_000 || now / 1_000 % 3 == 0;
        for _ in 0..random.below(4) {
            n += 1;
            if desk.ask(question(n, now), now) {
                open.insert(n, now);
            }
        }
        assert!(desk.queue.len() <= hook.queue + hook.batch * hook.in_flight);
        for ix in desk.tick(now, &mut told) {
            assert!(busy.remove(&ix));
        }
        while let Some(ix) = desk.begin(now) {
            assert!(busy.insert(ix), "it was free");
            assert!(busy.len() <= hook.in_flight);
            assert!(desk.exchanges.len() == hook.in_flight);
        }
        for ix in busy.clone() {
            let count = write_some(&mut desk, ix);
            let answer = match (is_well, random.below(8)) {
                (true, 0..4) => Some(yes(count)),
                (false, 0) => Some(yes(count)),
                (false, 1) => Some(response("503 Unavailable", "")),
                (false, 2) => Some(response(
                    "200 OK",
                    "{\"results\":[{\"n\":0,\"allow\":true}]}",
                )),
                (false, 3) => {
                    desk.lost(ix, "reset", now, &mut told);
                    busy.remove(&ix);
                    None
                }
                _ => None,
            };
            let Some(answer) = answer else {
                continue;
            };
            let cut = random.below(answer.len() as u64) as usize;
            desk.received(ix, &answer[..cut], now, &mut told);
            // What was broken at the cut is over already.
            if matches!(desk.exchanges[ix], Exchange::Busy(_)) {
                desk.received(ix, &answer[cut..], now, &mut told);
            }
            assert!(!matches!(desk.exchanges[ix], Exchange::Busy(_)));
            busy.remove(&ix);
        }
        for Told { cid, outcome, .. } in told.drain(..) {
            let asked = open.remove(&cid.0).expect("it was asked, and not decided");
            assert!(now <= asked + TIMEOUT + 10, "seed {seed}");
            answered += u64::from(outcome != Outcome::Failed);
        }
        let bytes: usize = desk.queue.iter().map(|q| q.json.len()).sum();
        assert_eq!(desk.queued_bytes, bytes);
        if let Some(next) = desk.next() {
            assert!(next <= now + TIMEOUT, "seed {seed}");
        }
        now += 1 + random.below(10);
    }
    assert!(answered > 100, "seed {seed}: {answered}");
    while let Some(next) = desk.next() {
        now = now.max(next) + 1;
        desk.tick(now, &mut told);
        desk.begin(now);
    }
    for told in told {
        assert!(open.remove(&told.cid.0).is_some());
    }
    assert!(open.is_empty(), "seed {seed}: {open:?}");
}

/// Questions in the request; all of it is written.
fn write_some(desk: &mut Desk, ix: usize) -> usize {
    let Exchange::Busy(busy) = &desk.exchanges[ix] else {
        panic!("it is busy");
    };
    let count = busy.asked.len();
    let left = desk.unwritten(ix).len();
    desk.wrote(ix, left);
    count
}
