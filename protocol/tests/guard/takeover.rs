//! A guard gives way to another program (the same one, here) while its brain stands by.

use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use protocol::guard::Takeover;

use super::echo::{echo_through, seeded, start};
use super::stage::{REFUSED, Stage, is_dead, nothing, wait_for};

fn open_files(pid: Pid) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count()
}

pub fn many() {
    let (mut stage, client) = start("echo");
    stage.wait_for_life(0);
    let guard = stage.guard();
    let echoes = echo_through(&mut stage, client, |stage| {
        let mut before = 0;
        for n in 1..=100 {
            let brain = stage.brain();
            stage.signal(Signal::SIGUSR2);
            wait_for("the takeover", || {
                stage.page.takeover() == Takeover::Taken { number: n }
            });
            stage.wait_until_settled();
            assert_ne!(stage.brain(), brain);
            if n == 1 {
                before = open_files(guard);
            }
        }
        assert_eq!(open_files(guard), before);
        assert_eq!(stage.guard(), guard);
    });
    println!("{echoes:?} echoes exact");
    echoes.unwrap();
    assert_eq!(stage.word(REFUSED), 0);
    assert_eq!(stage.page.lives(), 101);
    assert_eq!(stage.end().code(), Some(0));
}

/// Kills the guard, or what becomes of it, the old brain or the new one, at any moment of a
/// takeover.
pub fn kills() {
    let (mut stage, client) = start("echo");
    stage.wait_for_life(0);
    let mut random = seeded();
    let (mut offers, mut taken, mut killed) = (0, 0, [0; 3]);
    let echoes = echo_through(&mut stage, client, |stage| {
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            stage.wait_until_settled();
            let (guard, brain, last) = (stage.guard(), stage.brain(), stage.page.next_offer());
            let life = stage.page.lives();
            stage.signal(Signal::SIGUSR2);
            // Aimed: before the offer and between its steps there is not much to be hit.
            let range = match random.below(3) {
                0 => 4000,
                1 => {
                    wait_for("the offer", || stage.page.next_offer() > last);
                    4000
                }
                // Between its clone and its taking the offer.
                _ => {
                    let patience = Instant::now() + Duration::from_secs(20);
                    while stage.page.lives() == life {
                        assert!(Instant::now() < patience, "waited in vain for a brain");
                    }
                    400
                }
            };
            let pause = Instant::now() + Duration::from_micros(random.below(range));
            while Instant::now() < pause {
                std::hint::spin_loop();
            }
            let whom = random.below(3) as usize;
            let victim = [guard, brain, stage.brain()][whom];
            // The old brain may be gone, and so may be the place of the new one.
            killed[whom] += u32::from(kill(victim, Signal::SIGKILL).is_ok());
            if victim == guard {
                waitpid(guard, None).unwrap();
            }
            wait_for("the victim's end", || is_dead(victim));
            // Whoever is killed, and whoever wins.
            stage.wait_for_life(life);
            stage.wait_until_settled();
            let is_taken = matches!(stage.page.takeover(), Takeover::Taken { .. });
            // A signal dies with a guard that has not counted it.
            offers += stage.page.next_offer() - last;
            taken += u32::from(stage.page.next_offer() > last && is_taken);
            // Brains and guards that were orphaned are ours.
            for pid in [brain, victim] {
                let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
            }
        }
    });
    let [guards, old, new] = killed;
    println!("{echoes:?} echoes exact; of {offers} offers {taken} were taken");
    println!("killed: {guards} guards, {old} old brains, {new} brains that were there last");
    echoes.unwrap();
    assert!(offers > 50 && taken > 10 && taken < offers);
    assert_eq!(stage.end().code(), Some(0));
}

pub fn no_program() {
    let (mut stage, client) = start("no heir");
    stage.wait_for_life(0);
    let (guard, brain) = (stage.guard(), stage.brain());
    refused(&mut stage, client, |stage| {
        assert_eq!((stage.guard(), stage.brain()), (guard, brain));
        let Takeover::Withdrawn { errno, .. } = stage.page.takeover() else {
            panic!("{:?}", stage.page.takeover());
        };
        assert_eq!(errno, libc::EACCES);
    });
}

pub fn dies() {
    let (stage, client) = start("heir dies");
    becomes_the_guard(stage, client, |status| status.code() == Some(3));
}

pub fn hangs() {
    let (stage, client) = start("heir hangs");
    becomes_the_guard(stage, client, |status| {
        status.signal() == Some(Signal::SIGKILL as i32)
    });
}

/// The old brain becomes the guard, once the heir has ended.
fn becomes_the_guard(
    mut stage: Stage,
    client: TcpStream,
    as_told: fn(std::process::ExitStatus) -> bool,
) {
    stage.wait_for_life(0);
    let (guard, brain) = (stage.guard(), stage.brain());
    refused(&mut stage, client, |stage| {
        assert_eq!(stage.guard(), brain);
        let status = waitpid(guard, None).unwrap();
        let status = match status {
            nix::sys::wait::WaitStatus::Exited(_, code) => code << 8,
            nix::sys::wait::WaitStatus::Signaled(_, signal, _) => signal as i32,
            other => panic!("{other:?}"),
        };
        assert!(as_told(std::process::ExitStatus::from_raw(status)));
    });
}

fn refused(stage: &mut Stage, client: TcpStream, check: impl FnOnce(&mut Stage)) {
    let echoes = echo_through(stage, client, |stage| {
        stage.signal(Signal::SIGUSR2);
        wait_for("the refusal", || stage.word(REFUSED) == 1);
        stage.wait_until_settled();
        check(stage);
        // And can be asked again.
        stage.signal(Signal::SIGUSR2);
        wait_for("the refusal", || stage.word(REFUSED) == 2);
        stage.wait_until_settled();
    });
    echoes.unwrap();
    assert_eq!(stage.end().code(), Some(0));
}

/// What comes while nobody is there to be told is counted all the same.
pub fn signals() {
    let mut stage = Stage::start("idle", &nothing());
    stage.wait_for_life(0);
    for n in 1..=100 {
        stage.signal(Signal::SIGUSR2);
        stage.signal(Signal::SIGHUP);
        wait_for("the count", || stage.page.pending(Signal::SIGHUP) == n);
        wait_for("the takeover", || {
            stage.page.takeover() == Takeover::Taken { number: n as u32 }
        });
    }
    stage.wait_until_settled();
    assert_eq!(stage.page.lives(), 101);
    stage.signal(Signal::SIGTERM);
    assert_eq!(stage.end().code(), Some(0));
}
