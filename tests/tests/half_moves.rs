//! A planned move that stands still, dies or hangs in the middle: what had moved is served where it is,
//! what had not where it was, and the command says what became of it.

use std::process::{Child, Stdio};

use harness::crowd::Crowd;
use harness::http::{self, Who};
use harness::process::{self, Signal};
use harness::status::Worker;
use harness::wait::{self, DEADLINE};
use harness::{Baton, eventually};

/// A reload that stands still in the middle of its first move.
struct Middle {
    command: Child,
    /// Stopped.
    old: Worker,
    new: Worker,
}

impl Middle {
    /// The old brain is stopped while it gives its connections away, one after the other.
    fn of(baton: &Baton) -> Middle {
        for _ in 0..20 {
            let mut command = baton
                .command(&["reload"])
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut middle = None;
            wait::until("it is in the middle, or over", DEADLINE, || {
                let status = baton.status();
                let rows = |state: &str| {
                    let mut rows = status.workers.iter();
                    rows.find(|w| w.worker == 1 && w.state == state).cloned()
                };
                if let (Some(old), Some(new)) = (rows("moving"), rows("ready"))
                    && old.connections > 20
                    && new.connections > 0
                {
                    middle = Some((old, new));
                    return Some(());
                }
                command.try_wait().unwrap().map(|_| ())
            });
            let Some((old, new)) = middle else {
                continue;
            };
            process::signal(old.pid, Signal::SIGSTOP);
            eventually("it is stopped, or gone", || {
                process::state(old.pid) == Some('T') || !process::is_alive(old.pid)
            });
            // One may still be on its way.
            let status = baton.status();
            let row = |pid| status.workers.iter().find(|w| w.pid == pid).cloned();
            if let (Some(old), Some(new)) = (row(old.pid), row(new.pid))
                && old.connections > 2
            {
                return Middle { command, old, new };
            }
            process::go_on(old.pid);
            command.wait().unwrap();
        }
        panic!("20 reloads were too fast");
    }

    /// Its exit status, and what it says.
    fn end(self) -> (Option<i32>, String) {
        let output = self.command.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    }
}

/// One at a time moves, and there are many.
fn slow(timeouts: &str, crowd: usize) -> (Baton, Crowd) {
    let config = format!("[limits]\nwindow = 1\n[timeouts]\n{timeouts}\n");
    let baton = Baton::builder().workers(1).config(&config).start();
    let crowd = Crowd::gather(&baton, crowd);
    (baton, crowd)
}

#[test]
fn a_reload_that_stands_still_goes_on() {
    let (baton, mut crowd) = slow("", 600);
    let middle = Middle::of(&baton);
    process::go_on(middle.old.pid);
    assert_eq!(middle.end().0, Some(0));
    crowd.ask();
}

/// Guard and brain: what it had taken is lost, which nobody can help. The others stay.
#[test]
fn a_new_worker_that_dies_in_the_middle_fails_the_reload() {
    let (baton, mut crowd) = slow("", 600);
    let middle = Middle::of(&baton);
    let (old, new) = (middle.old.clone(), middle.new.clone());
    process::stop(new.guard_pid);
    process::kill(new.pid);
    process::kill(new.guard_pid);
    process::go_on(old.pid);
    let (code, said) = middle.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("worker-1 failed"), "{said}");
    let status = baton.status_when("the old one serves", |status| status.ready().len() == 1);
    assert_eq!(status.brains(), [old.pid]);
    let lost = new.connections;
    let served = crowd.0.iter_mut().filter_map(|c| http::ask_whoami(c).ok());
    let served: Vec<Who> = served.collect();
    assert!(served.iter().all(|who| who.pid == old.pid));
    assert!((600 - lost).abs_diff(served.len() as u64) <= 2);
    baton.expect(&["reload"], 0);
}

#[test]
fn a_new_worker_that_hangs_in_the_middle_is_helped_and_goes_on() {
    let (baton, mut crowd) = slow("hung = \"1s\"\nmove = \"30s\"", 600);
    let middle = Middle::of(&baton);
    let new = middle.new.clone();
    process::stop(new.pid);
    process::go_on(middle.old.pid);
    assert_eq!(middle.end().0, Some(0));
    assert!(!process::is_alive(new.pid));
    crowd.ask();
}

#[test]
fn a_new_worker_that_hangs_for_too_long_gives_back_what_it_has() {
    let (baton, mut crowd) = slow("hung = \"5s\"\nmove = \"3s\"", 200);
    let middle = Middle::of(&baton);
    let (old, new) = (middle.old.clone(), middle.new.clone());
    process::stop(new.pid);
    process::go_on(old.pid);
    let (code, said) = middle.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("not moved"), "{said}");
    let status = baton.status_when("the old one is alone", |status| status.workers.len() == 1);
    assert_eq!(status.brains(), [old.pid]);
    assert!(crowd.ask().iter().all(|who| who.pid == old.pid));
    eventually("the new one is gone", || !process::is_alive(new.guard_pid));
}

#[test]
fn a_masters_brain_that_dies_in_the_middle_is_replaced_and_the_command_says_the_truth() {
    let (baton, mut crowd) = slow("", 600);
    let middle = Middle::of(&baton);
    let brain = baton.status().master_brain_pid;
    process::kill(brain);
    baton.status_when("the next one is there", |status| {
        status.master_brain_pid != brain
    });
    process::go_on(middle.old.pid);
    let (old, (code, said)) = (middle.old.clone(), middle.end());
    assert_eq!(code, Some(0), "{said}");
    let status = baton.status();
    assert_eq!(status.workers.len(), 1);
    assert_ne!(status.brains(), [old.pid]);
    crowd.ask();
}

#[test]
fn scaling_ends_as_it_says_though_the_masters_brain_dies() {
    let config = "[limits]\nwindow = 1\nrebalance = 100\n";
    let baton = Baton::builder().workers(1).config(config).start();
    let mut crowd = Crowd::gather(&baton, 100);
    for (workers, each) in [("4", 25), ("1", 100)] {
        let brain = baton.status().master_brain_pid;
        let mut command = baton.command(&["scale", workers]).spawn().unwrap();
        wait::until("connections move, or have moved", DEADLINE, || {
            let status = baton.status();
            let counts: Vec<u64> = status.workers.iter().map(|w| w.connections).collect();
            let move_now = counts.len() == 4 && counts.iter().all(|n| (1..100).contains(n));
            let ended = command.try_wait().unwrap().is_some();
            (move_now || ended).then_some(())
        });
        process::kill(brain);
        let status = wait::until("it ends", DEADLINE, || command.try_wait().unwrap());
        assert!(status.success());
        let counts = crowd.by_worker();
        assert_eq!(counts.len().to_string(), workers);
        let is_even = |count: &usize| count.abs_diff(each) * 10 <= each;
        assert!(counts.values().all(is_even), "{counts:?}");
    }
}

#[test]
fn an_old_brain_that_dies_in_the_middle_goes_on() {
    let (baton, mut crowd) = slow("", 600);
    let middle = Middle::of(&baton);
    process::kill(middle.old.pid);
    assert_eq!(middle.end().0, Some(0));
    crowd.ask();
}

#[test]
fn stop_wins_over_a_move() {
    let (baton, crowd) = slow("stop = \"2s\"", 600);
    let middle = Middle::of(&baton);
    process::go_on(middle.old.pid);
    baton.expect(&["stop"], 0);
    assert_eq!(baton.processes(), [] as [i32; 0]);
    middle.end();
    drop(crowd);
}
