//! Another program takes the master's place, under its pid and under traffic of which every byte is
//! checked; or cannot, and everything goes on as before.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness::faults::Faults;
use harness::process::{self, Signal};
use harness::programs::{self, deploy_master};
use harness::status::{Status, Worker};
use harness::temp::TempDir;
use harness::traffic::{Random, Traffic};
use harness::{Baton, DEADLINE, eventually, http};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn built(status: &Status) -> &str {
    status.json["built"].as_str().expect("a text")
}

fn upgrades(status: &Status) -> (u64, u64) {
    let upgrade = &status.json["upgrade"];
    let count = |name: &str| upgrade[name].as_u64().expect("a number");
    (count("attempted"), count("done"))
}

/// Who serves, but for the master's brain.
fn who(status: &Status) -> (i32, Vec<(u64, i32, i32, u64)>) {
    let worker = |w: &Worker| (w.worker, w.guard_pid, w.pid, w.life);
    (
        status.master_pid,
        status.workers.iter().map(worker).collect(),
    )
}

/// One guard and one brain of the master, and of each of the two workers.
#[track_caller]
fn six_processes(baton: &Baton) {
    eventually("nobody is left over", || baton.processes().len() == 6);
}

fn pid_file(baton: &Baton) -> i32 {
    let text = fs::read_to_string(baton.run_dir().join("baton.pid")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

#[test]
fn another_program_takes_over_under_traffic() {
    let programs = programs::copies();
    let baton = Baton::builder().programs(programs.path()).start();
    let traffic = Traffic::start(baton.public);
    traffic.go_on(2);
    let before = baton.status();
    assert_eq!(upgrades(&before), (0, 0));

    let build = deploy_master(programs.path(), 7);
    let said = baton.expect(&["upgrade"], 0);
    assert!(
        said.contains(&build) && said.contains(built(&before)),
        "{said}"
    );
    let after = baton.status();
    assert_eq!(built(&after), build);
    assert_eq!(upgrades(&after), (1, 1));
    assert_eq!(after.json["upgrade"]["last_result"], "ok");
    assert_eq!(who(&after), who(&before));
    assert_ne!(after.master_brain_pid, before.master_brain_pid);
    assert_eq!(after.listen, before.listen);
    assert_eq!(after.json["epoch"], before.json["epoch"]);
    assert_eq!(pid_file(&baton), before.master_pid);
    assert!(process::children(after.master_pid).contains(&after.master_brain_pid));
    traffic.go_on(10);
    traffic.stop();
    six_processes(&baton);
    let log = baton.log("master");
    assert!(
        !log.contains("died") && !log.contains("not been noted, 1"),
        "{log}"
    );
    baton.expect(&["stop"], 0);
    assert_eq!(baton.processes(), [] as [i32; 0]);
    assert!(!baton.run_dir().join("baton.pid").exists());
    assert!(!baton.run_dir().join("baton.sock").exists());
}

#[test]
fn usr2_upgrades() {
    let programs = programs::copies();
    let baton = Baton::builder().programs(programs.path()).start();
    let before = baton.status();
    let build = deploy_master(programs.path(), 8);
    process::signal(before.master_pid, Signal::SIGUSR2);
    let after = baton.status_when("it is upgraded", |status| built(status) == build);
    assert_eq!(who(&after), who(&before));
    baton.wait_for_log(
        "master",
        "upgrade: baton 0.1.0 of 2026-01-01T00:00:00.008Z in place of",
    );

    fs::remove_file(programs.path().join("baton-master")).unwrap();
    process::signal(before.master_pid, Signal::SIGUSR2);
    baton.wait_for_log("master", "upgrade: failed: cannot read");
    // No command can be run from there now.
    deploy_master(programs.path(), 9);
    assert_eq!(who(&baton.status()), who(&before));
}

#[test]
fn many_upgrades_leave_nothing_behind() {
    let programs = programs::copies();
    let baton = Baton::builder().programs(programs.path()).start();
    let traffic = Traffic::start(baton.public);
    let before = baton.status();
    let mut belongings = None;
    for round in 1..=30 {
        let build = deploy_master(programs.path(), round);
        baton.expect(&["upgrade"], 0);
        let status = baton.status();
        assert_eq!((built(&status), who(&status)), (&build[..], who(&before)));
        traffic.go_on(1);
        // The first may settle things.
        if round == 3 {
            belongings = Some(files(&baton));
        }
    }
    traffic.stop();
    six_processes(&baton);
    let belongings = belongings.expect("there were three");
    eventually("as many files are open as after the third", || {
        files(&baton) <= belongings
    });
    assert_eq!(http::get(baton.public, "/whoami").status, 200);
    baton.expect(&["reload"], 0);
}

/// Files that the master's guard and its brain have open, but for sockets: traffic comes and goes.
fn files(baton: &Baton) -> [usize; 2] {
    let status = baton.status();
    [status.master_pid, status.master_brain_pid].map(|pid| {
        let files = process::open_files(pid);
        let others = files.iter().filter(|file| !file.starts_with("socket:"));
        others.count()
    })
}

#[test]
fn what_is_no_master_is_refused_and_everything_goes_on() {
    let programs = programs::copies();
    let baton = Baton::builder().programs(programs.path()).start();
    let traffic = Traffic::start(baton.public);
    let before = baton.status();
    let path = programs.path().join("baton-master");
    let write = |mode: u32, text: &'static str| {
        move |path: &Path| {
            fs::write(path, text).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    let copy = |of: &'static str| move |path: &Path| assert!(fs::copy(of, path).unwrap() > 0);
    type Put = Box<dyn Fn(&Path)>;
    let broken: [(Put, &str); 9] = [
        (Box::new(|_| {}), "No such file"),
        (Box::new(|path| fs::create_dir(path).unwrap()), "not a file"),
        (
            Box::new(|path| mkfifo(path, Mode::S_IRWXU).unwrap()),
            "not a file",
        ),
        (Box::new(write(0o644, "no program")), "not executable"),
        (Box::new(write(0o755, "")), "format error"),
        (Box::new(write(0o755, "exit 0")), "format error"),
        (Box::new(write(0o755, "\x7fELF, not quite")), "format error"),
        (
            Box::new(copy("/bin/true")),
            "this is no baton-master; it said nothing",
        ),
        (Box::new(copy("/bin/ls")), "exit status: 2; it said: "),
    ];
    let count = broken.len() as u64;
    for (put, why) in broken {
        let _ = fs::remove_file(&path);
        put(&path);
        let (code, said) = upgrade(&baton);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(why), "{why}: {said}");
        let _ = fs::remove_dir(&path);
        traffic.go_on(1);
    }
    let build = deploy_master(programs.path(), 1);
    let status = baton.status();
    assert_eq!(who(&status), who(&before));
    assert_eq!(status.master_brain_pid, before.master_brain_pid);
    assert_eq!(upgrades(&status), (count, 0));
    let last = status.json["upgrade"]["last_result"].as_str().unwrap();
    assert!(last.contains("exit status: 2"), "{last}");
    six_processes(&baton);
    // And none of it is in the way of one that can.
    baton.expect(&["upgrade"], 0);
    assert_eq!(built(&baton.status()), build);
    traffic.go_on(1);
    traffic.stop();
}

#[test]
fn what_dies_or_hangs_when_it_is_tried_is_refused() {
    let faults = Faults::new();
    let config = "[timeouts]\nready = \"5s\"\n";
    let baton = faults.builder().config(config).start();
    let traffic = Traffic::start(baton.public);
    let before = baton.status();
    for (how, why) in [
        ("1 segv", "SIGSEGV"),
        ("1 kill", "SIGKILL"),
        ("1 stop", "did not answer in time"),
    ] {
        faults.arm_as("master:try", how);
        let said = baton.expect(&["upgrade"], 1);
        assert!(said.contains(why), "{said}");
        assert!(faults.is_reached("master:try"));
        traffic.go_on(1);
    }
    let after = baton.status();
    assert_eq!(after.master_brain_pid, before.master_brain_pid);
    assert_eq!(who(&after), who(&before));
    six_processes(&baton);
    baton.expect(&["upgrade"], 0);
    traffic.stop();
}

/// Somebody dies, or hangs, at one step of it; then nothing is in the way of another upgrade.
fn dies_at(point: &str, how: &str, is_done: bool) {
    let faults = Faults::new();
    let baton = faults.builder().start();
    let traffic = Traffic::start(baton.public);
    let workers = who(&baton.status()).1;
    for _ in 0..2 {
        let before = baton.status();
        faults.arm_as(point, how);
        baton.expect(&["upgrade"], if is_done { 0 } else { 1 });
        faults.wait_for(point);
        let after = baton.status();
        let (b, a) = (upgrades(&before), upgrades(&after));
        assert_eq!(a, (b.0 + 1, b.1 + u64::from(is_done)));
        assert_eq!(who(&after).1, workers);
        assert_eq!(pid_file(&baton), after.master_pid);
        six_processes(&baton);
        traffic.go_on(2);
        baton.expect(&["upgrade"], 0);
        six_processes(&baton);
        traffic.go_on(1);
    }
    traffic.stop();
}

#[test]
fn the_old_brain_dies_when_it_has_offered() {
    dies_at("master:takeover-offered", "1", false);
}

#[test]
fn the_guard_dies_before_the_exec() {
    dies_at("master:takeover-exec", "1", false);
}

#[test]
fn the_guard_hangs_before_the_exec() {
    dies_at("master:takeover-exec", "1 stop", false);
}

#[test]
fn the_guard_dies_behind_the_exec() {
    dies_at("master:takeover-begun", "1", false);
}

#[test]
fn the_guard_hangs_behind_the_exec() {
    dies_at("master:takeover-begun", "1 stop", false);
}

#[test]
fn the_new_brain_dies_before_it_takes_over() {
    dies_at("master:takeover-takes", "1", true);
}

#[test]
fn the_new_brain_hangs_before_it_takes_over() {
    dies_at("master:takeover-takes", "1 stop", false);
}

#[test]
fn the_new_brain_dies_when_it_has_taken_over() {
    dies_at("master:takeover-taken", "1", true);
}

#[test]
fn the_new_brain_dies_before_it_notes_the_upgrade() {
    dies_at("master:upgrade-settle", "1", true);
}

/// The command, by a program that is not the one that is broken.
fn upgrade(baton: &Baton) -> (Option<i32>, String) {
    let output = Command::new(programs::directory().join("baton-master"))
        .arg("upgrade")
        .arg("--run-dir")
        .arg(baton.run_dir())
        .output()
        .unwrap();
    let said = text(&output.stdout) + &text(&output.stderr);
    (output.status.code(), said)
}

#[test]
fn nothing_is_upgraded_that_does_not_run() {
    let baton = Baton::builder().prepare();
    let said = baton.expect(&["upgrade"], 3);
    assert!(said.contains("not running"), "{said}");
}

#[test]
fn a_deployment_may_change_a_link() {
    let deployments = TempDir::new();
    let releases: Vec<TempDir> = (0..2).map(|_| programs::copies()).collect();
    let current = deployments.path().join("current");
    symlink(releases[0].path(), &current).unwrap();
    let baton = Baton::builder().programs(&current).start();
    let build = deploy_master(releases[1].path(), 5);
    programs::break_worker(releases[1].path());
    fs::remove_file(&current).unwrap();
    symlink(releases[1].path(), &current).unwrap();
    baton.expect(&["upgrade"], 0);
    let status = baton.status();
    assert_eq!(built(&status), build);
    // A reload goes by the same link, also behind an upgrade and the death of a guard.
    for _ in 0..2 {
        baton.expect(&["reload"], 1);
        process::kill(baton.status().master_pid);
        baton.status_when("the brain is the guard", |s| {
            s.master_pid != status.master_pid
        });
    }
}

#[test]
fn workers_come_from_disk_after_an_upgrade() {
    let programs = programs::copies();
    let baton = Baton::builder().programs(programs.path()).start();
    let traffic = Traffic::start(baton.public);
    let before = baton.status();
    for round in 0..3 {
        deploy_master(programs.path(), round);
        baton.expect(&["upgrade"], 0);
        baton.expect(&["reload"], 0);
        baton.expect(&["scale", if round % 2 == 0 { "3" } else { "2" }], 0);
        traffic.go_on(1);
    }
    let after = baton.status();
    assert_eq!(after.master_pid, before.master_pid);
    let lives: Vec<u64> = after.workers.iter().map(|worker| worker.life).collect();
    assert_eq!(lives, [4, 4, 3]);
    traffic.stop();
}

#[test]
fn upgrades_and_other_orders_wait_for_each_other() {
    let programs = programs::copies();
    let baton = Baton::builder().programs(programs.path()).start();
    let traffic = Traffic::start(baton.public);
    let master = baton.status().master_pid;
    for round in 0..4 {
        let build = deploy_master(programs.path(), round);
        let verbs: [&[&str]; 4] = [&["upgrade"], &["reload"], &["upgrade"], &["scale", "3"]];
        std::thread::scope(|scope| {
            for verb in verbs {
                let baton = &baton;
                scope.spawn(move || baton.expect(verb, 0));
            }
        });
        let status = baton.status();
        assert_eq!((built(&status), status.master_pid), (&build[..], master));
        assert_eq!(status.ready().len(), 3);
        baton.expect(&["scale", "2"], 0);
        traffic.go_on(1);
    }
    traffic.stop();
    six_processes(&baton);
}

#[test]
fn a_stop_wins_over_an_upgrade() {
    let seed: u64 = u64::from(std::process::id());
    println!("seed {seed}");
    let mut random = Random::new(seed);
    for _ in 0..5 {
        let programs = programs::copies();
        let baton = Baton::builder().programs(programs.path()).start();
        let master = baton.status().master_pid;
        let mut command = spawn_upgrade(&baton);
        // No condition to wait for: it is to come at any moment of the upgrade.
        std::thread::sleep(Duration::from_millis(random.below(400) as u64));
        process::signal(master, Signal::SIGTERM);
        let code = command.wait().unwrap().code();
        eventually("all are gone", || baton.processes().is_empty());
        assert!(
            code.is_some_and(|code| [0, 1, 3].contains(&code)),
            "{code:?}"
        );
        assert!(!baton.run_dir().join("baton.pid").exists());
        assert!(!baton.log("master").contains("died"));
    }
}

fn spawn_upgrade(baton: &Baton) -> std::process::Child {
    baton
        .command(&["upgrade"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Signals that arrive while nobody can deal with them are not lost.
#[test]
fn signals_count_through_an_upgrade() {
    let programs = programs::copies();
    let baton = Baton::builder()
        .workers(1)
        .programs(programs.path())
        .start();
    let master = baton.status().master_pid;
    for round in 0..5 {
        let log = baton.log_file("master");
        let mut command = spawn_upgrade(&baton);
        // One that is queued behind the upgrade dies with the brain that had it; so these are
        // sent when the brain gives way.
        baton.wait_for_log("master", "giving way");
        process::signal(master, Signal::SIGUSR1);
        fs::rename(&log, log.with_extension(round.to_string())).unwrap();
        process::signal(master, Signal::SIGUSR1);
        assert!(command.wait().unwrap().success());
        eventually("the log is made anew", || log.exists());
    }
}

/// Kills the guard, the old brain or the new one at any moment: never wholly gone, never two
/// masters, and the command says what became of it.
#[test]
fn upgrades_through_kills() {
    let seed = std::env::var("SEED").map_or(u64::from(std::process::id()), |seed| {
        seed.parse().expect("SEED is a number")
    });
    println!("SEED={seed}");
    let mut random = Random::new(seed);
    let programs = programs::copies();
    let baton = Baton::builder().programs(programs.path()).start();
    let traffic = Traffic::start(baton.public);
    let workers = who(&baton.status()).1;
    let (mut done, mut failed) = (0, 0);
    for round in 0..25 {
        let build = deploy_master(programs.path(), round);
        let before = baton.status();
        let mut command = spawn_upgrade(&baton);
        let behind = Duration::from_micros(random.below(6_000) as u64);
        let whom = random.below(3);
        kill_one(&baton, &before, whom, behind);
        let code = command.wait().unwrap().code();
        let after = baton.status_when("it is over", |status| {
            // A brain that has not noticed yet that its guard is dead may answer, too.
            let is_guarded =
                status.master_pid == pid_file(&baton) && process::is_alive(status.master_pid);
            is_guarded && status.json["upgrade"]["running"] == false && status.ready().len() == 2
        });
        let (b, a) = (upgrades(&before), upgrades(&after));
        match code {
            Some(0) => {
                assert_eq!(built(&after), build);
                assert_eq!(a, (b.0 + 1, b.1 + 1));
                done += 1;
            }
            Some(1) => {
                assert_eq!(built(&after), built(&before));
                assert_eq!(a, (b.0 + 1, b.1));
                failed += 1;
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(who(&after).1, workers);
        six_processes(&baton);
        traffic.go_on(1);
    }
    traffic.stop();
    println!("{done} upgrades were done, {failed} were not");
    assert!(done > 2, "kills that all came too early show nothing");
}

/// Kills one process some time after the brain has begun to give way.
fn kill_one(baton: &Baton, before: &Status, whom: usize, behind: Duration) {
    let times = || baton.log("master").matches("giving way").count() as u64;
    let begun = upgrades(before).0;
    let patience = Instant::now() + DEADLINE;
    // It takes a few milliseconds from there on: no pauses.
    while times() <= begun {
        assert!(Instant::now() < patience, "it does not give way");
    }
    let end = Instant::now() + behind;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
    let victim = match whom {
        0 => before.master_pid,
        1 => before.master_brain_pid,
        // The newest, in most cases: the new brain, if it is there, else the old one.
        _ => {
            let children = process::children(before.master_pid);
            children.last().copied().unwrap_or(before.master_pid)
        }
    };
    process::kill(victim);
}
