//! Start, signals, stop: what a command says is true, and nothing is left behind.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, Instant};

use harness::http::{self, Client};
use harness::process::{self, Signal};
use harness::rooms;
use harness::temp::TempDir;
use harness::{Baton, eventually, programs};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn start_says_what_serves_and_stop_leaves_nothing() {
    let mut baton = Baton::builder().prepare();
    let output = baton.try_start();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert!(said.contains(&format!("http://{}", baton.public)), "{said}");
    assert!(said.contains("logs"), "{said}");
    assert!(said.contains("stop"), "{said}");
    // At once, without waiting: start has returned.
    assert_eq!(http::get(baton.public, "/whoami").status, 200);

    let status = baton.status();
    assert_eq!(status.ready().len(), 2);
    assert!(process::is_alive(status.master_pid));
    assert!(process::children(status.master_pid).contains(&status.master_brain_pid));
    for worker in status.ready() {
        assert!(
            process::children(worker.guard_pid).contains(&worker.pid),
            "{}",
            status.json
        );
    }
    assert_eq!(status.json["reload"]["running"], false);
    let pid_file = fs::read_to_string(baton.run_dir().join("baton.pid")).unwrap();
    assert_eq!(pid_file.trim(), status.master_pid.to_string());
    let socket = fs::metadata(baton.run_dir().join("baton.sock")).unwrap();
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
    assert_eq!(baton.processes().len(), 6);

    baton.expect(&["stop"], 0);
    assert_eq!(baton.processes(), [] as [i32; 0]);
    assert!(!baton.run_dir().join("baton.pid").exists());
    let stopped = baton.run(&["status", "--json"]);
    assert_eq!(stopped.status.code(), Some(3));
    assert_eq!(text(&stopped.stdout).trim(), r#"{"running":false}"#);
    for verb in [&["status"][..], &["stop"], &["reload"], &["scale", "3"]] {
        baton.expect(verb, 3);
    }
}

#[test]
fn a_second_start_is_refused_and_harms_nothing() {
    let mut baton = Baton::started();
    let before = baton.status();
    let output = baton.try_start();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("running already"), "{said}");
    assert!(said.contains(&before.master_pid.to_string()), "{said}");
    assert_eq!(baton.status().serving(), before.serving());
}

#[test]
fn a_stale_pid_file_is_no_obstacle() {
    for content in ["1\n", "999999999\n", "", "nonsense"] {
        let mut baton = Baton::builder().prepare();
        fs::create_dir_all(baton.run_dir()).unwrap();
        fs::write(baton.run_dir().join("baton.pid"), content).unwrap();
        fs::write(baton.run_dir().join("baton.sock"), "").unwrap();
        baton.start();
        assert_eq!(http::get(baton.public, "/whoami").status, 200);
    }
}

#[test]
fn a_killed_baton_can_be_started_again() {
    let mut baton = Baton::started();
    // Brains become guards while others are killed; and a process that ends, or becomes another
    // program, is not seen for a moment.
    eventually("all are gone, and status says so", || {
        let all = baton.processes();
        all.iter().for_each(|pid| process::kill(*pid));
        all.is_empty() && baton.run(&["status"]).status.code() == Some(3)
    });
    baton.start();
    assert_eq!(http::get(baton.public, "/whoami").status, 200);
}

#[test]
fn a_run_directory_that_cannot_be_used_is_said() {
    let file = TempDir::new();
    let in_the_way = file.file("file", "");
    for run in [in_the_way.join("run"), "/proc/baton".into()] {
        let output = std::process::Command::new(programs::directory().join("baton-master"))
            .args([
                "start",
                "--listen",
                "127.0.0.1:0",
                "--admin",
                "127.0.0.1:0",
                "--run-dir",
            ])
            .arg(&run)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output.stderr);
        assert!(said.contains(&run.display().to_string()), "{said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    }
}

#[test]
fn a_port_in_use_is_said() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut baton = Baton::builder().flags(&["--listen", &address]).prepare();
    let output = baton.try_start();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains(&address), "{said}");
    assert_eq!(baton.processes(), [] as [i32; 0]);
    assert!(!baton.run_dir().join("baton.pid").exists());
}

#[test]
fn a_wrong_configuration_starts_nothing() {
    let mut baton = Baton::builder()
        .config("workers = 2\npolicy = \"random\"\n[http]\nmax_lime = 7\n")
        .prepare();
    let output = baton.try_start();
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.contains("baton.toml:2: policy"), "{said}");
    assert!(said.contains("baton.toml:4: http.max_lime"), "{said}");
    assert_eq!(baton.processes(), [] as [i32; 0]);
}

#[test]
fn a_worker_that_cannot_boot_fails_the_start() {
    let programs = programs::copies();
    programs::break_worker(programs.path());
    let mut baton = Baton::builder().programs(programs.path()).prepare();
    let output = baton.try_start();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("worker"), "{said}");
    assert_eq!(baton.processes(), [] as [i32; 0]);
    baton.expect(&["status"], 3);
}

#[test]
fn a_hung_worker_is_replaced() {
    let baton = Baton::builder()
        .config("[timeouts]\nhung = \"1s\"\n")
        .start();
    let before = baton.status();
    let hung = before.worker(1).clone();
    process::stop(hung.pid);
    let after = baton.status_when("worker 1 lives again", |status| {
        status
            .ready()
            .iter()
            .any(|worker| worker.worker == 1 && worker.pid != hung.pid)
    });
    assert!(!process::is_alive(hung.pid));
    assert!(after.worker(1).life > hung.life);
    assert_eq!(after.worker(2).pid, before.worker(2).pid);
    baton.wait_for_log("master", "stood still");
}

#[test]
fn a_hung_worker_is_replaced_while_the_master_is_away() {
    let baton = Baton::builder()
        .config("[timeouts]\nhung = \"1s\"\n")
        .start();
    let mut kept = http::Client::connect(baton.public);
    let who = http::ask_whoami(&mut kept).unwrap();
    let before = baton.status();
    let hung = before.worker(who.worker).clone();
    for pid in [before.master_pid, before.master_brain_pid, hung.pid] {
        process::stop(pid);
    }
    let next = http::ask_whoami(&mut kept).expect("its guard makes another");
    assert_ne!(next.pid, hung.pid);
    assert!(process::children(hung.guard_pid).contains(&next.pid));
    process::go_on(before.master_brain_pid);
    process::go_on(before.master_pid);
    baton.status_when("the master knows it", |status| {
        status.ready().iter().any(|worker| worker.pid == next.pid)
    });
}

#[test]
fn usr1_reopens_all_logs() {
    let baton = Baton::builder()
        .config("[log]\nlevel = \"debug\"\n")
        .start();
    let status = baton.status();
    for name in ["master", "worker-1", "worker-2"] {
        fs::rename(
            baton.log_file(name),
            baton.run_dir().join(format!("{name}.old")),
        )
        .unwrap();
    }
    process::signal(status.master_pid, Signal::SIGUSR1);
    eventually("the new files are there", || {
        ["master", "worker-1", "worker-2"]
            .iter()
            .all(|name| baton.log_file(name).exists())
    });
    // What happens next is in the new ones, and only there.
    eventually("workers write into the new files", || {
        http::exchange(baton.public, "BROKEN\r\n\r\n");
        ["worker-1", "worker-2"]
            .iter()
            .all(|name| baton.log(name).contains("bad_request_line"))
    });
    assert_eq!(baton.status().serving(), status.serving());
}

#[test]
fn reopening_loses_no_line() {
    const CONNECTIONS: usize = 2000;
    let baton = Baton::builder()
        .config("[log]\nlevel = \"debug\"\n")
        .start();
    let (to, master) = (baton.public, baton.status().master_pid);
    let clients = std::thread::spawn(move || {
        for _ in 0..CONNECTIONS {
            http::whoami(to);
        }
    });
    for number in 0..5 {
        for name in ["worker-1", "worker-2"] {
            fs::rename(
                baton.log_file(name),
                baton.run_dir().join(format!("{name}.{number}")),
            )
            .unwrap();
        }
        process::signal(master, Signal::SIGUSR1);
        eventually("the new files are there", || {
            ["worker-1", "worker-2"]
                .iter()
                .all(|name| baton.log_file(name).exists())
        });
    }
    clients.join().unwrap();
    // Every connection has its line, once, in one of all those files.
    let mut ended = Vec::new();
    eventually("every connection's end is logged", || {
        let mut all = baton.log("worker-1") + &baton.log("worker-2");
        for entry in fs::read_dir(baton.run_dir()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() && path.to_string_lossy().contains("worker-") {
                all += &fs::read_to_string(path).unwrap();
            }
        }
        ended = all
            .lines()
            .filter(|line| line.contains(" closed: "))
            .filter_map(|line| line.split(" from ").next()?.split(' ').next_back())
            .map(str::to_owned)
            .collect();
        ended.len() >= CONNECTIONS
    });
    let distinct: BTreeSet<&String> = ended.iter().collect();
    assert_eq!((ended.len(), distinct.len()), (CONNECTIONS, CONNECTIONS));
}

#[test]
fn a_full_disk_stops_no_service() {
    let mut baton = Baton::builder()
        .config("[log]\nlevel = \"debug\"\n")
        .prepare();
    fs::create_dir_all(baton.run_dir().join("logs")).unwrap();
    for name in ["master", "worker-1", "worker-2"] {
        symlink("/dev/full", baton.log_file(name)).unwrap();
    }
    baton.start();
    for _ in 0..200 {
        http::exchange(baton.public, "BROKEN\r\n\r\n");
        assert_eq!(http::get(baton.public, "/whoami").status, 200);
    }
    baton.expect(&["reload"], 0);
    assert_eq!(http::get(baton.public, "/whoami").status, 200);
    baton.expect(&["stop"], 0);
}

/// A client that has sent a part of its request: `hello`, of a body of ten bytes.
fn busy(baton: &Baton) -> Client {
    let mut busy = Client::connect(baton.public);
    busy.send("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nhello")
        .unwrap();
    busy
}

#[test]
fn term_lets_requests_end() {
    let baton = Baton::started();
    let master = baton.status().master_pid;
    let mut busy = busy(&baton);
    let mut member = rooms::Client::connect(baton.public);
    process::signal(master, Signal::SIGTERM);
    assert!(member.event()["bye"]["retry_after_ms"].is_u64());
    assert_eq!(member.close_code(), 1001);
    busy.send("world").unwrap();
    assert_eq!(busy.response().unwrap().text(), "helloworld");
    assert!(busy.ends());
    eventually("all are gone", || baton.processes().is_empty());
}

/// Guard and brain at once: nobody is left who could put messages in order, so the workers send
/// their clients away, each for a time of its own, and end.
#[test]
fn without_a_master_the_workers_say_goodbye_and_end() {
    let baton = Baton::builder()
        .config("[timeouts]\nretry_spread = \"2s\"\n")
        .start();
    let mut clients: Vec<rooms::Client> = (0..20)
        .map(|_| rooms::Client::connect(baton.public))
        .collect();
    let status = baton.status();
    // A guard that stands still makes no other brain.
    process::stop(status.master_pid);
    process::kill(status.master_brain_pid);
    process::kill(status.master_pid);
    let mut waits = BTreeSet::new();
    for client in &mut clients {
        let bye = client.event();
        let wait = bye["bye"]["retry_after_ms"].as_u64();
        waits.insert(wait.filter(|wait| *wait <= 2_000).expect("a short wait"));
        assert_eq!(client.close_code(), 1001);
    }
    assert!(waits.len() > 10, "all would be back at once: {waits:?}");
    drop(clients);
    eventually("all are gone", || baton.processes().is_empty());
}

#[test]
fn a_stop_is_bounded() {
    let baton = Baton::builder()
        .config("[timeouts]\nstop = \"1s\"\n")
        .start();
    // It will never send the rest.
    let busy = busy(&baton);
    let start = Instant::now();
    baton.expect(&["stop"], 0);
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(baton.processes(), [] as [i32; 0]);
    drop(busy);
}

#[test]
fn int_stops_fast() {
    let baton = Baton::builder()
        .config("[timeouts]\nstop = \"5m\"\n")
        .start();
    let _busy = busy(&baton);
    process::signal(baton.status().master_pid, Signal::SIGTERM);
    // Nobody new is let in, and it waits; a second TERM ends that.
    eventually("it does not listen any more", || {
        harness::socket::connect(baton.public).is_err()
    });
    if let Some(master) = baton.processes().first() {
        let pid = fs::read_to_string(baton.run_dir().join("baton.pid")).unwrap();
        assert!(process::is_alive(*master));
        process::signal(pid.trim().parse().unwrap(), Signal::SIGTERM);
    }
    eventually("all are gone", || baton.processes().is_empty());
}

#[test]
fn a_restart_is_a_new_baton() {
    let baton = Baton::started();
    let before = baton.status();
    baton.expect(
        &[
            "restart",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--workers",
            "1",
        ],
        0,
    );
    let after = baton.status();
    assert_ne!(after.master_pid, before.master_pid);
    assert_eq!(after.ready().len(), 1);
    assert_ne!(after.json["epoch"], before.json["epoch"]);
}

#[test]
fn in_the_foreground_it_says_what_serves_and_ends_by_int() {
    use std::io::{BufRead, BufReader};
    let baton = Baton::builder().prepare();
    let mut child = baton
        .command(&[
            "start",
            "--foreground",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--workers",
            "1",
        ])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = lines
        .find_map(|line| line.ok().filter(|line| line.contains("http://")))
        .unwrap();
    let address = said.split("http://").nth(1).unwrap();
    let address: String = address
        .chars()
        .take_while(|c| c.is_ascii_digit() || ".:".contains(*c))
        .collect();
    assert_eq!(http::get(address.parse().unwrap(), "/whoami").status, 200);
    assert_eq!(baton.status().master_pid, child.id() as i32);
    process::signal(child.id() as i32, Signal::SIGINT);
    let status = harness::wait::until("it ends", harness::DEADLINE, || child.try_wait().unwrap());
    assert!(status.success(), "{status}");
    eventually("all are gone", || baton.processes().is_empty());
}

#[test]
fn logs_follows_over_reopening() {
    use std::io::{BufRead, BufReader};
    let baton = Baton::started();
    eventually("worker 1 writes", || {
        http::exchange(baton.public, "BROKEN\r\n\r\n");
        baton.log("worker-1").contains("bad_request_line")
    });
    let mut child = baton
        .command(&["logs", "-f", "1"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id() as i32;
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (to, from) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let _ = to.send(line);
        }
    });
    from.recv_timeout(harness::DEADLINE)
        .expect("the end of the log");
    fs::rename(baton.log_file("worker-1"), baton.run_dir().join("old")).unwrap();
    process::signal(baton.status().master_pid, Signal::SIGUSR1);
    eventually("the new file is there", || {
        baton.log_file("worker-1").exists()
    });
    eventually("worker 1 writes into the new file", || {
        http::exchange(baton.public, "BROKEN\r\n\r\n");
        baton.log("worker-1").contains("bad_request_line")
    });
    let start = Instant::now();
    while !from
        .recv_timeout(harness::DEADLINE)
        .expect("a line")
        .contains("bad_request_line")
    {
        assert!(start.elapsed() < harness::DEADLINE);
    }
    process::signal(pid, Signal::SIGTERM);
    child.wait().unwrap();
    reader.join().unwrap();
}

#[test]
fn workers_of_root_are_nobody() {
    let baton = Baton::started();
    // Without root there is nothing to give up.
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return;
    }
    for worker in baton.status().ready() {
        for pid in [worker.guard_pid, worker.pid] {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let field = |name: &str| {
                let line = status.lines().find(|line| line.starts_with(name)).unwrap();
                line.split_whitespace()
                    .skip(1)
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            };
            assert!(field("Uid:").iter().all(|uid| uid == "65534"), "{status}");
            assert!(field("Gid:").iter().all(|gid| gid == "65534"), "{status}");
            assert_eq!(field("NoNewPrivs:"), ["1"]);
            assert_eq!(field("CapEff:"), ["0000000000000000"]);
        }
    }
}

/// Those that serve let others finish their time slice; guards do not wait.
#[test]
fn brains_are_scheduled_as_configured() {
    for (config, expected) in [("", 3), ("scheduling = \"normal\"\n", 0)] {
        let baton = Baton::builder().config(config).start();
        let mut brains = vec![process::brain_of(baton.status().master_pid)];
        let mut guards = vec![baton.status().master_pid];
        for worker in baton.status().workers {
            process::kill(worker.pid);
            baton.wait_for_log(
                "master",
                &format!("guard {} says hello (its 2.)", worker.guard_pid),
            );
            brains.push(process::brain_of(worker.guard_pid));
            guards.push(worker.guard_pid);
        }
        for brain in brains {
            eventually("a brain is scheduled as configured", || {
                process::scheduling_policy(brain) == Some(expected)
            });
        }
        for guard in guards {
            assert_eq!(process::scheduling_policy(guard), Some(0));
        }
    }
}

#[test]
fn json_logs_are_json() {
    let baton = Baton::builder()
        .config("[log]\nformat = \"json\"\n")
        .start();
    http::exchange(baton.public, "BROKEN\r\n\r\n");
    http::exchange(baton.public, "BROKEN\r\n\r\n");
    baton.wait_for_log("worker-1", "bad_request_line");
    for name in ["master", "worker-1", "worker-2"] {
        for line in baton.log(name).lines() {
            let json: serde_json::Value =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            assert!(json.is_object(), "{line}");
        }
    }
}
