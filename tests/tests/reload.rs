//! Reload and scale: what the commands say is true, what fails changes nothing, and nothing leaks.
//! That no connection is closed by them is shown in `moves.rs`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use harness::process::{self, Signal};
use harness::{Baton, eventually, http, programs, rooms};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_reload_with_a_wrong_configuration_changes_nothing() {
    let baton = Baton::builder().config("[rooms]\nmax_rooms = 5\n").start();
    let before = baton.status();
    baton.write_config("[rooms]\nmax_rooms = 0\n");
    let output = baton.run(&["reload"]);
    assert!(
        [Some(1), Some(2)].contains(&output.status.code()),
        "{output:?}"
    );
    let said = text(&output.stderr);
    assert!(said.contains("baton.toml:2: rooms.max_rooms"), "{said}");
    let after = baton.status();
    assert_eq!(after.serving(), before.serving());
    let last = after.json["reload"]["last_result"].as_str().unwrap();
    assert!(last.contains("max_rooms"), "{last}");
    assert_eq!(
        rooms::Client::connect(baton.public).hello["max"]["rooms"],
        5
    );
}

#[test]
fn a_reload_takes_up_the_configuration() {
    let baton = Baton::builder().config("[rooms]\nmax_rooms = 5\n").start();
    let before = baton.status();
    baton.write_config("[rooms]\nmax_rooms = 6\n");
    baton.expect(&["reload"], 0);
    let after = baton.status();
    assert!(
        after.serving().is_disjoint(&before.serving()),
        "{}",
        after.json
    );
    assert_eq!(after.master_pid, before.master_pid);
    assert_eq!(after.ready().len(), 2);
    assert_eq!(after.json["reload"]["last_result"], "ok");
    assert_eq!(
        rooms::Client::connect(baton.public).hello["max"]["rooms"],
        6
    );
}

#[test]
fn a_reload_refuses_what_needs_a_restart() {
    let config = |port: u16| format!("[[listen]]\naddress = \"127.0.0.1:{port}\"\nbacklog = 100\n");
    let baton = Baton::builder()
        .listeners_from_config()
        .config(&config(0))
        .start();
    baton.write_config(&config(baton.public.port()));
    let output = baton.run(&["reload"]);
    assert_ne!(output.status.code(), Some(0));
    let said = text(&output.stderr);
    assert!(
        said.contains("listen") && said.contains("restart"),
        "{said}"
    );
    assert_eq!(http::get(baton.public, "/whoami").status, 200);
}

#[test]
fn a_worker_that_cannot_boot_fails_the_reload_and_the_old_ones_serve() {
    let programs = programs::copies();
    let baton = Baton::builder().programs(programs.path()).start();
    let before = baton.status();
    programs::break_worker(programs.path());
    let output = baton.run(&["reload"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(!text(&output.stderr).is_empty());
    let after = baton.status();
    assert_eq!(after.serving(), before.serving());
    assert_ne!(after.json["reload"]["last_result"], "ok");
    for _ in 0..10 {
        assert_eq!(http::get(baton.public, "/whoami").status, 200);
    }
    eventually("failed workers are gone", || baton.processes().len() == 6);
}

/// It says hello in a version of the channel that the master cannot know.
#[test]
fn a_worker_of_a_strange_version_fails_the_reload() {
    let programs = programs::copies();
    let baton = Baton::builder().programs(programs.path()).start();
    let before = baton.status();
    // MessagePack of {"Hello": {"version": 77, "guard_pid": 1, …}}, to the channel.
    let hello = "\\201\\245Hello\\205\\247version\\115\\251guard_pid\\001\\251brain_pid\\001\
                 \\244life\\001\\251evacuates\\302";
    let script = format!("printf '{hello}' >&3; exec sleep 1000");
    programs::script_worker(programs.path(), &script);
    let said = baton.expect(&["reload"], 1);
    assert!(said.contains("version 77"), "{said}");
    assert_eq!(baton.status().serving(), before.serving());
    eventually("it is gone", || baton.processes().len() == 6);
}

#[test]
fn hup_reloads() {
    let baton = Baton::started();
    let before = baton.status();
    process::signal(before.master_pid, Signal::SIGHUP);
    baton.status_when("all workers are new", |status| {
        status.ready().len() == 2 && status.serving().is_disjoint(&before.serving())
    });
}

/// The signal was counted, and its reload begun.
#[test]
fn hup_is_obeyed_though_the_masters_brain_dies_over_it() {
    let baton = Baton::started();
    let before = baton.status();
    process::signal(before.master_pid, Signal::SIGHUP);
    baton.wait_for_log("master", "worker-1 starts (");
    process::kill(before.master_brain_pid);
    let after = baton.status_when("all workers are new", |status| {
        status.workers.len() == 2
            && status.ready().len() == 2
            && status.serving().is_disjoint(&before.serving())
    });
    assert_ne!(after.master_brain_pid, before.master_brain_pid);
    baton.status_when("it is done", |status| {
        status.json["reload"]["last_result"] == "ok"
    });
}

#[test]
fn requests_are_answered_through_reloads() {
    let baton = Baton::started();
    let to = baton.public;
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let done = done.clone();
            std::thread::spawn(move || {
                let mut answered = 0;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    http::whoami(to);
                    answered += 1;
                }
                answered
            })
        })
        .collect();
    for _ in 0..5 {
        baton.expect(&["reload"], 0);
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    for thread in threads {
        assert!(thread.join().expect("every request is answered") > 0);
    }
}

/// All that could leak: processes, fds of each role, files.
fn belongings(baton: &Baton) -> (usize, Vec<usize>, Vec<usize>, usize) {
    let status = baton.status();
    let mut workers: Vec<usize> = status
        .ready()
        .iter()
        .map(|worker| process::fds(worker.pid))
        .collect();
    workers.sort_unstable();
    let files = walk(baton.run_dir());
    (
        baton.processes().len(),
        vec![
            process::fds(status.master_pid),
            process::fds(status.master_brain_pid),
        ],
        workers,
        files,
    )
}

fn walk(directory: &Path) -> usize {
    fs::read_dir(directory).map_or(0, |entries| {
        entries
            .filter_map(Result::ok)
            .map(|entry| 1 + walk(&entry.path()))
            .sum()
    })
}

#[test]
fn a_hundred_reloads_leak_nothing() {
    let baton = Baton::started();
    // The first ones may settle things.
    for _ in 0..3 {
        baton.expect(&["reload"], 0);
    }
    eventually("old workers are gone", || baton.processes().len() == 6);
    let before = belongings(&baton);
    for _ in 0..100 {
        baton.expect(&["reload"], 0);
    }
    eventually("old workers are gone", || baton.processes().len() == 6);
    // The socket of the last question may still be there for a moment.
    eventually("nothing is left", || belongings(&baton) == before);
    assert_eq!(http::get(baton.public, "/whoami").status, 200);
}

#[test]
fn scale_up_and_down() {
    let baton = Baton::started();
    let first = baton.status();
    baton.expect(&["scale", "4"], 0);
    let four = baton.status();
    let numbers: Vec<u64> = four.ready().iter().map(|worker| worker.worker).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    assert!(four.serving().is_superset(&first.serving()));
    let serving: BTreeSet<u64> = (0..20).map(|_| http::whoami(baton.public).worker).collect();
    assert_eq!(serving.len(), 4);

    baton.expect(&["scale", "1"], 0);
    baton.status_when("one is left", |status| status.workers.len() == 1);
    eventually("their processes are gone", || baton.processes().len() == 4);
    for _ in 0..10 {
        assert_eq!(http::whoami(baton.public).worker, 1);
    }
    // It holds over a reload.
    baton.expect(&["reload"], 0);
    assert_eq!(baton.status().ready().len(), 1);
    baton.expect(&["scale", "0"], 2);
}

#[test]
fn ttin_and_ttou() {
    let baton = Baton::builder().workers(1).start();
    let master = baton.status().master_pid;
    process::signal(master, Signal::SIGTTIN);
    baton.status_when("two workers", |status| status.ready().len() == 2);
    process::signal(master, Signal::SIGTTOU);
    baton.status_when("one worker", |status| status.workers.len() == 1);
    process::signal(master, Signal::SIGTTOU);
    baton.wait_for_log("master", "TTOU");
    assert_eq!(baton.status().ready().len(), 1);
}

/// A master that has become its own guard had numbers free below those that it sweeps: what it
/// opened there stayed open in the next brain, and whoever waited at the other end waited for good.
#[test]
fn a_command_outlives_first_the_guard_and_then_the_brain_of_the_master() {
    let baton = Baton::builder().workers(1).start();
    let before = baton.status();
    process::kill(before.master_pid);
    let status = baton.status_when("the brain has become the guard", |status| {
        status.master_pid == before.master_brain_pid
    });
    // Nothing moves as long as it stands still.
    let worker = status.worker(1).pid;
    process::stop(worker);
    let mut reload = baton.command(&["reload"]).spawn().unwrap();
    baton.status_when("the reload runs", |status| {
        status.json["reload"]["running"] == true
    });
    process::kill(status.master_brain_pid);
    baton.status_when("there is another brain", |after| {
        after.master_brain_pid != status.master_brain_pid
    });
    process::go_on(worker);
    let mut ended = None;
    eventually("the reload ends", || {
        ended = reload.try_wait().unwrap();
        ended.is_some()
    });
    assert_eq!(ended.unwrap().code(), Some(0));
    assert_ne!(baton.status().worker(1).pid, worker);
}
