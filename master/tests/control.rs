//! The command line against a master that is played by the test: it holds the pid file, answers on
//! the control socket as each test says, and its process is a shell.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};

use master::control::{self, Answer, Request, Stopping};
use master::pid_file::PidFile;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

struct Played {
    dir: PathBuf,
    pid: u32,
    /// Ends with the process, and lets go of the pid file.
    process: Option<JoinHandle<()>>,
    asked: Receiver<Request>,
}

impl Played {
    /// `script` is what its process does; `answers` what it says to one connection after the
    /// other, `None` to hang up.
    fn new(name: &str, script: &str, answers: Vec<Option<Answer>>) -> Played {
        let name = format!("baton-control-{}-{name}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        let mut process = Command::new("/bin/sh")
            .args(["-c", script])
            .current_dir(&dir)
            .spawn()
            .unwrap();
        let mut pid_file = PidFile::lock(&dir.join("baton.pid")).unwrap();
        let pid = process.id();
        pid_file.write(pid.cast_signed()).unwrap();
        let process = thread::spawn(move || {
            process.wait().unwrap();
            drop(pid_file);
        });

        let (tell, asked) = channel();
        if answers.is_empty() {
            // Nobody listens.
        } else {
            let socket = UnixListener::from(control::listen(&dir.join("baton.sock")).unwrap());
            socket.set_nonblocking(false).unwrap();
            thread::spawn(move || {
                for answer in answers {
                    let (mut stream, _) = socket.accept().unwrap();
                    assert!(control::may_ask(&stream));
                    let mut line = String::new();
                    BufReader::new(&stream).read_line(&mut line).unwrap();
                    tell.send(serde_json::from_str(&line).unwrap()).unwrap();
                    if let Some(answer) = answer {
                        stream.write_all(answer.line().as_bytes()).unwrap();
                    }
                }
            });
        }
        Played {
            dir,
            pid,
            process: Some(process),
            asked,
        }
    }

    fn call(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_baton-master"))
            .args(args)
            .env("BATON_RUN_DIR", &self.dir)
            .output()
            .unwrap()
    }

    fn expect(&self, args: &[&str], status: i32, out: &str, error: &str) {
        let output = self.call(args);
        let said = (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        );
        assert_eq!(said, (Some(status), out.to_owned(), error.to_owned()));
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        let process = self.process.take().unwrap();
        if !process.is_finished() {
            let pid = Pid::from_raw(self.pid.cast_signed());
            let _ = kill(pid, Signal::SIGKILL);
        }
        let _ = process.join();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn status(upgrade: serde_json::Value) -> Option<Answer> {
    Some(Answer::Ok {
        ok: json!({
            "running": true, "version": "0.1.0", "built": "2026-11-21T05:33:22.123Z", "epoch": "e1",
            "master": {"pid": 1, "brain_pid": 2, "uptime_s": 3},
            "listen": [{"role": "public", "addr": "127.0.0.1:8000"}],
            "workers": [], "moved": 0, "reload": {"running": false, "last_result": null}, "upgrade": upgrade,
        }),
    })
}

#[test]
fn answers_are_said_and_are_the_exit_status() {
    let answers = vec![
        Some(Answer::done()),
        Some(Answer::error("worker-1 was not ready in 10 s")),
        Some(Answer::done()),
        Some(Answer::Error {
            error: "b.toml:1: workers: no\nlisten: no".to_owned(),
            configuration: true,
        }),
    ];
    let master = Played::new("answers", "exec sleep 1000", answers);
    master.expect(&["reload"], 0, "reloaded\n", "");
    let error = "baton: worker-1 was not ready in 10 s\n";
    master.expect(&["reload"], 1, "", error);
    master.expect(&["scale", "3"], 0, "3 workers\n", "");
    let error = "b.toml:1: workers: no\nlisten: no\n";
    master.expect(&["reload"], 2, "", error);
    let asked: Vec<_> = master.asked.try_iter().collect();
    let scale = Request::Scale { workers: 3 };
    let reload = Request::Reload;
    assert_eq!(asked, [reload, reload, scale, reload]);
}

#[test]
fn a_second_start_is_told_who_runs() {
    let master = Played::new("second", "exec sleep 1000", vec![]);
    let error = format!("baton: baton is running already (pid {})\n", master.pid);
    master.expect(&["start"], 1, "", &error);
}

#[test]
fn what_is_asked_is_asked_again_if_the_brain_dies() {
    let answers = vec![
        None,
        None,
        Some(Answer::done()),
        None,
        Some(Answer::error("it failed")),
        None,
        Some(Answer::done()),
    ];
    let master = Played::new("brain-dies", "exec sleep 1000", answers);
    master.expect(&["reload"], 0, "reloaded\n", "");
    master.expect(&["reload"], 1, "", "baton: it failed\n");
    master.expect(&["scale", "3"], 0, "3 workers\n", "");
    let asked: Vec<_> = master.asked.try_iter().collect();
    let scale = Request::Scale { workers: 3 };
    let reload = Request::Reload;
    assert_eq!(
        asked,
        [reload, reload, reload, reload, reload, scale, scale]
    );
}

#[test]
fn brains_that_die_of_what_is_asked_are_not_asked_for_ever() {
    let answers = vec![None; 5];
    let master = Played::new("poison", "exec sleep 1000", answers);
    let error = "baton: the master ended before it answered; see its log\n";
    master.expect(&["reload"], 1, "", error);
}

#[test]
fn stop_is_asked_again_if_the_brain_dies() {
    let answer = Answer::with(&Stopping { within_ms: 10_000 });
    let master = Played::new("stop-again", "exec sleep 0.3", vec![None, Some(answer)]);
    master.expect(&["stop"], 0, "stopped\n", "");
    assert_eq!(master.asked.try_iter().count(), 2);
}

#[test]
fn status_for_programs_is_what_the_master_says() {
    let none = json!({"running": false, "attempted": 0, "done": 0, "last_result": null});
    let master = Played::new("status", "exec sleep 1000", vec![status(none.clone())]);
    let output = master.call(&["status", "--json"]);
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(Some(Answer::Ok { ok: said }), status(none));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn the_brain_behind_an_upgrade_tells_what_became_of_it() {
    let before = json!({"running": false, "attempted": 7, "done": 5, "last_result": "ok"});
    let done = json!({"from": "0.1.0 of then", "to": "0.2.0 of now"});
    let answers = vec![
        status(before.clone()),
        None,
        Some(Answer::Ok { ok: done }),
        status(before),
        None,
        Some(Answer::error("not upgraded: it said nothing")),
    ];
    let master = Played::new("upgrade", "exec sleep 1000", answers);
    let said = "upgraded: baton 0.2.0 of now in place of 0.1.0 of then\n";
    master.expect(&["upgrade"], 0, said, "");
    let said = "baton: not upgraded: it said nothing\n";
    master.expect(&["upgrade"], 1, "", said);
    let upgrade = Request::Upgrade { after: Some(7) };
    let once = [Request::Status, upgrade, upgrade];
    let asked: Vec<_> = master.asked.try_iter().collect();
    assert_eq!(asked, [once, once].concat());
}

#[test]
fn stop_waits_for_every_process() {
    let answer = Answer::with(&Stopping { within_ms: 10_000 });
    // Its child ends later than itself.
    let script = "sleep 0.5 & echo $! > child; exec sleep 0.1";
    let master = Played::new("waits", script, vec![Some(answer)]);
    let child = master.dir.join("child");
    while fs::read_to_string(&child).map_or(0, |text| text.len()) == 0 {
        thread::yield_now();
    }
    master.expect(&["stop"], 0, "stopped\n", "");
    let child = fs::read_to_string(child).unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.trim()));
    assert!(stat.is_err() || stat.unwrap().contains(") Z "));
    assert_eq!(
        master.asked.try_iter().collect::<Vec<_>>(),
        [Request::Stop { fast: false }]
    );
}

#[test]
fn stop_signals_a_master_that_does_not_answer() {
    let master = Played::new("signals", "exec sleep 0.2", vec![]);
    master.expect(&["stop"], 0, "stopped\n", "");
}

#[test]
fn stop_kills_what_does_not_end() {
    let answer = Answer::with(&Stopping { within_ms: 0 });
    let master = Played::new("kills", "sleep 1000 & wait", vec![Some(answer)]);
    let error = "baton does not stop by itself and is killed\n";
    master.expect(&["stop", "--fast"], 0, "stopped\n", error);
}
