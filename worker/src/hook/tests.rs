use std::sync::atomic::AtomicU64;

use protocol::pattern::Pattern;
use protocol::settings::Hook;

use super::*;

static ZERO: AtomicU64 = AtomicU64::new(0);

fn hooks(hooks: &[Hook]) -> Hooks {
    let settings = Settings {
        hooks: hooks.to_vec(),
        ..Settings::default()
    };
    *Hooks::new(&settings, |_| &ZERO).unwrap()
}

fn hook(on: &[Event], rooms: &str, fail: Fail) -> Hook {
    Hook {
        on: on.to_vec(),
        rooms: Pattern::new(rooms),
        fail,
        queue: 1,
        ..Hook::default()
    }
}

fn asker(cid: u64, offset: u64) -> Asker<'static> {
    Asker {
        cid: Cid(cid),
        slot: cid as u32,
        offset,
        user: None,
        address: [127, 0, 0, 1].into(),
    }
}

fn send(room: &str) -> Subject<'_> {
    Subject::Send {
        room,
        key: None,
        author: None,
        data: b"1",
    }
}

fn told(cid: u64, offset: u64, outcome: Outcome) -> Vec<Told> {
    vec![Told {
        cid: Cid(cid),
        slot: cid as u32,
        offset,
        outcome,
    }]
}

#[test]
fn the_first_that_matches_is_asked() {
    assert!(Hooks::new(&Settings::default(), |_| &ZERO).is_none());
    let mut hooks = hooks(&[
        hook(&[Event::Send], "a.*", Fail::Closed),
        hook(&[Event::Send, Event::Connect], "a.b", Fail::Open),
    ]);
    let ask = |hooks: &mut Hooks, subject| hooks.consult(asker(1, 5), subject, 0);
    assert_eq!(ask(&mut hooks, send("b")), Verdict::Free);
    assert_eq!(
        ask(&mut hooks, Subject::Join { room: "a.b" }),
        Verdict::Free
    );
    assert_eq!(ask(&mut hooks, send("a.b")), Verdict::Waits);
    assert_eq!(hooks.waiting[&Cid(1)].desk, 0);
    hooks.forget(Cid(1));
    assert_eq!(
        ask(&mut hooks, Subject::Connect { head: b"" }),
        Verdict::Waits
    );
    assert_eq!(hooks.waiting[&Cid(1)].desk, 1);
}

/// An answer is one to this request of this connection, and to nothing else.
#[test]
fn an_answer_is_for_one_request() {
    let hook = hook(&[Event::Send], "*", Fail::Closed);
    let mut hooks = hooks(&[Hook { queue: 10, ..hook }]);
    let answer = || Outcome::Said(Answer::YES);
    assert_eq!(hooks.consult(asker(1, 5), send("r"), 0), Verdict::Waits);
    assert!(hooks.is_asked(Cid(1)) && hooks.knows(Cid(1), 5) && !hooks.knows(Cid(1), 6));
    assert_eq!(hooks.consult(asker(1, 5), send("r"), 0), Verdict::Waits);
    assert_eq!(hooks.counts.asked, 1, "it is asked once");
    // For another connection, for another request, for one that is gone.
    assert!(hooks.tell(told(2, 5, answer())).is_empty());
    assert!(hooks.tell(told(1, 4, answer())).is_empty());
    assert!(hooks.is_asked(Cid(1)));
    assert_eq!(hooks.tell(told(1, 5, answer())), [(Cid(1), 1)]);
    assert!(!hooks.is_asked(Cid(1)));
    for _ in 0..2 {
        let verdict = hooks.consult(asker(1, 5), send("r"), 0);
        assert_eq!(verdict, Verdict::Said(Answer::YES), "until it is done");
    }
    // What comes behind it is another request.
    assert_eq!(hooks.consult(asker(1, 6), send("r"), 0), Verdict::Waits);
    assert!(hooks.tell(told(1, 5, answer())).is_empty());
    hooks.forget(Cid(1));
    assert!(hooks.tell(told(1, 6, answer())).is_empty());
    assert!(hooks.waiting.is_empty());
}

#[test]
fn without_an_answer_the_hook_decides() {
    for (fail, expected) in [
        (Fail::Open, Verdict::Said(Answer::YES)),
        (Fail::Closed, Verdict::Unavailable),
    ] {
        let mut hooks = hooks(&[hook(&[Event::Send], "*", fail)]);
        assert_eq!(hooks.consult(asker(1, 5), send("r"), 0), Verdict::Waits);
        // The queue is full.
        assert_eq!(hooks.consult(asker(2, 5), send("r"), 0), expected);
        assert!(!hooks.is_asked(Cid(2)));
        hooks.tell(told(1, 5, Outcome::Failed));
        assert_eq!(hooks.consult(asker(1, 5), send("r"), 0), expected);
        assert_eq!((hooks.counts.asked, hooks.counts.failed), (2, 2));
    }
}

#[test]
fn answers_are_not_held_without_bound() {
    let mut hooks = hooks(&[Hook {
        queue: 100_000,
        ..hook(&[Event::Send], "*", Fail::Closed)
    }]);
    let large = || {
        Outcome::Said(Answer::Allow {
            data: Some("x".repeat(1 << 20).into()),
            grant: None,
        })
    };
    for cid in 0..100 {
        assert_eq!(hooks.consult(asker(cid, 5), send("r"), 0), Verdict::Waits);
        assert_eq!(hooks.tell(told(cid, 5, large())), [(Cid(cid), cid as u32)]);
    }
    assert_eq!(hooks.waiting.len(), 16);
    assert_eq!(hooks.held_bytes, 16 << 20);
    // It asks again.
    assert_eq!(hooks.consult(asker(99, 5), send("r"), 0), Verdict::Waits);
    for cid in 0..100 {
        hooks.forget(Cid(cid));
    }
    assert_eq!(hooks.held_bytes, 0);
}
