//! How brains and guards live and end.

use std::io::{Read, Seek};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use super::echo::seeded;
use super::stage::{Stage, nothing, wait_for};

pub fn done() {
    let mut stage = Stage::start("done", &nothing());
    assert_eq!(stage.end().code(), Some(0));
    assert_eq!(stage.page.lives(), 1);
}

pub fn cannot_boot() {
    let mut stage = Stage::start("cannot boot", &nothing());
    assert_eq!(stage.end().code(), Some(7));
    assert_eq!(stage.page.lives(), 1);
}

pub fn sane() {
    let mut stage = Stage::start("sane", &nothing());
    assert_eq!(stage.end().code(), Some(0));
    assert_eq!(stage.page.lives(), 2);
}

pub fn signals() {
    let mut stage = Stage::start("idle", &nothing());
    // Before it is a guard, a signal ends it.
    stage.wait_for_life(0);
    let signals = [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGINT];
    for n in 1..=100u64 {
        if n % 3 == 0 {
            stage.kill_brain();
        }
        for signal in signals {
            // One by one: of a signal that comes while it is pending already the kernel keeps one.
            stage.signal(signal);
            wait_for("the count", || stage.page.pending(signal) == n);
        }
    }
    stage.page.dealt(Signal::SIGHUP, 99);
    assert_eq!(stage.page.pending(Signal::SIGHUP), 1);
    stage.kill_guard();
    assert_eq!(stage.page.pending(Signal::SIGHUP), 1);
    assert_eq!(stage.page.pending(Signal::SIGUSR1), 100);
    stage.signal(Signal::SIGTERM);
    assert_eq!(stage.end().code(), Some(0));
}

/// What a terminal sends goes to brain and guard; it must count once.
pub fn signal_to_a_brain() {
    let mut stage = Stage::start("idle", &nothing());
    stage.wait_for_life(0);
    kill(stage.brain(), Signal::SIGINT).unwrap();
    stage.kill_guard();
    // Signals are taken in the order of their numbers, so SIGINT would have come first.
    stage.signal(Signal::SIGTERM);
    assert_eq!(stage.end().code(), Some(0));
    assert_eq!(stage.page.pending(Signal::SIGINT), 0);
}

pub fn orphans() {
    let (theirs, ours) = UnixStream::pair().unwrap();
    let mut stage = Stage::start("orphans", &theirs);
    drop(theirs);
    stage.wait_for_life(1);
    drop(ours);
    assert_eq!(stage.end().code(), Some(0));
}

pub fn back_off() {
    let start = Instant::now();
    let mut stage = Stage::start("crash", &nothing());
    stage.wait_for_life(5);
    // Three lives at once, then 100, 150 and 225 ms of waiting.
    assert!(start.elapsed() >= Duration::from_millis(475));
    assert!(stage.page.fruitless() >= 5);
    // Signals count meanwhile.
    stage.signal(Signal::SIGHUP);
    wait_for("the count", || stage.page.pending(Signal::SIGHUP) == 1);
    stage.signal(Signal::SIGTERM);
    stage.end();
}

pub fn no_back_off() {
    let stage = Stage::start("beat and crash", &nothing());
    // With a back-off, a fraction of this takes hours.
    stage.wait_for_life(300);
    assert_eq!(stage.page.fruitless(), 0);
}

pub fn terminated() {
    let mut stage = Stage::start("crash", &nothing());
    stage.wait_for_life(2);
    stage.signal(Signal::SIGTERM);
    assert_eq!(stage.end().code(), Some(128 + Signal::SIGTERM as i32));
}

pub fn panics() {
    let file = memfd();
    let mut stage = Stage::start("panics", &file);
    assert_eq!(stage.end().code(), Some(0));
    let lines = messages(file);
    assert_eq!(lines.len(), 5, "{lines:?}");
    assert_eq!(lines[0], "the first");
    assert!(lines[1].contains("roles.rs") && lines[1].contains("no value"));
    assert_eq!(lines[2], "the second life=2");
    assert!(lines[3].contains("roles.rs") && lines[3].contains("in a thread"));
    assert_eq!(lines[4], "the third");
}

pub fn many_orphans() {
    let (theirs, ours) = UnixStream::pair().unwrap();
    let mut stage = Stage::start("many orphans", &theirs);
    drop(theirs);
    stage.wait_for_life(1);
    drop(ours);
    assert_eq!(stage.end().code(), Some(0));
}

pub fn hung() {
    let mut stage = Stage::start("hang", &nothing());
    // The role checks the rest.
    assert_eq!(stage.end().code(), Some(0));
    assert_eq!(stage.page.lives(), 2);
}

/// Each brain logs numbers from where the last one was. A number is noted before it is logged, so
/// that a brain takes one with it at most; the log adds none, loses none and tears none.
pub fn lines_through_kills() {
    let file = memfd();
    let mut stage = Stage::start("numbers", &file);
    let mut random = seeded();
    let end = Instant::now() + Duration::from_millis(1500);
    while Instant::now() < end {
        std::thread::sleep(Duration::from_micros(random.below(3000)));
        stage.kill_brain();
    }
    stage.signal(Signal::SIGTERM);
    assert_eq!(stage.end().code(), Some(0));
    let (mut expected, mut missing, mut lost) = (0, 0, 0);
    for line in messages(file) {
        if let Some((count, _)) = line.split_once(" lines were lost here") {
            // Brains that died before they wrote have filled the ring.
            lost += count.parse::<u64>().unwrap();
            continue;
        }
        let number: u64 = line.parse().expect(&line);
        assert!(number >= expected, "{number} after {expected}");
        missing += number - expected;
        expected = number + 1;
    }
    let lives = stage.page.lives();
    println!("{expected} lines by {lives} brains, {missing} died with theirs");
    assert!(expected > 1000 && lives > 50 && missing < lives + lost);
}

fn memfd() -> std::fs::File {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    memfd_create(c"log", MFdFlags::MFD_CLOEXEC).unwrap().into()
}

/// The lines without time, level and role.
fn messages(mut file: std::fs::File) -> Vec<String> {
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    assert!(text.ends_with('\n'));
    let message = |line: &str| line.split_once(" worker-1 ").expect(line).1.to_owned();
    text.lines().map(message).collect()
}
